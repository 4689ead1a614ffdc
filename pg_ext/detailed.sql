-- token_usage_detailed: the requests of a user, newest first, in pages; and how many there are.

CREATE OR REPLACE FUNCTION @extschema@._token_usage_from_micros(value bigint)
RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT to_timestamp(div(value, 1000000)::double precision) + mod(value, 1000000) * interval '1 microsecond'
$function$;

-- What a cursor says, or the argument error. `family` is that of the ledger's id.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_read_cursor(
  after text, family text, OUT created_at timestamptz, OUT id text)
LANGUAGE plpgsql STABLE AS $function$
DECLARE
  plain text;
  part text[];
  id_form text := CASE family WHEN 'integer' THEN '0|-?[1-9][0-9]{0,18}'
                              WHEN 'uuid' THEN '[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}' ELSE '.*' END;
BEGIN
  IF after ~ '^([0-9a-f]{2})+$' THEN
    BEGIN
      plain := convert_from(decode(after, 'hex'), 'UTF8');
    EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
      plain := NULL;  -- no UTF-8, or a NUL
    END;
    part := regexp_match(plain, concat('^1[|](0|-?[1-9][0-9]{0,18})[|](', id_form, ')$'));
    IF part[1]::numeric BETWEEN -9223372036854775808 AND 9223372036854775807
       AND (family <> 'integer' OR part[2]::numeric BETWEEN -9223372036854775808 AND 9223372036854775807) THEN
      -- PostgreSQL's times start in 4714 BC; nothing is listed behind that.
      created_at := @extschema@._token_usage_from_micros(greatest(part[1]::bigint, -210866803200000000));
      id := part[2];
      RETURN;
    END IF;
  END IF;
  PERFORM @extschema@._token_usage_bad_argument('after'::text, 'a cursor from token_usage_detailed'::text, after);
END
$function$;

-- One page, and the row behind it where there is one: at most page_limit + 1 rows.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_page(
  path name[], ledger oid, user_id text, page_limit bigint, page_offset bigint, agent text, start_date timestamptz, end_date timestamptz,
  after text)
RETURNS TABLE (id text, created_at timestamptz, agent_id text, ai_provider text, ai_model text, prompt_tokens bigint,
  completion_tokens bigint, total_tokens bigint, cost_usd numeric, cost_rub numeric, execution_time_ms numeric,
  platform text, content_type text, task_type text, content_id text, workflow_id text, request_id text, endpoint text,
  cursor text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  behind_at timestamptz;
  behind_id text;
BEGIN
  IF after IS NOT NULL THEN
    SELECT c.created_at, c.id INTO behind_at, behind_id
      FROM @extschema@._token_usage_read_cursor(after, @extschema@._token_usage_column_family(ledger, 'id'::text)) AS c;
  END IF;
  page_limit := page_limit + 1;
  IF row_security_active(ledger) THEN
    PERFORM @extschema@._token_usage_caller_path(path);
  END IF;
  RETURN QUERY SELECT p.* FROM @extschema@._token_usage_page_rows(
    ledger, user_id, agent, start_date, end_date, behind_at, behind_id, page_limit, page_offset) AS p;
END
$function$;

-- Checks what token_usage_detailed and its twins are called with.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_check_page(user_id text, page_limit bigint, page_offset bigint)
RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $function$
BEGIN
  user_id := @extschema@._token_usage_check_user(user_id);
  page_limit := @extschema@._token_usage_check_range('page_limit'::text, page_limit, 1::bigint, 500::bigint);
  page_offset := @extschema@._token_usage_check_range('page_offset'::text, page_offset, 0::bigint, 9223372036854775807::bigint);
  RETURN page_limit;
END
$function$;

-- token_usage_detailed with the id as text, which serves keys of every type.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_detailed_text(
  path name[], user_id text, page_limit bigint, page_offset bigint, agent text, start_date timestamptz, end_date timestamptz,
  after text)
RETURNS TABLE (id text, created_at timestamptz, agent_id text, ai_provider text, ai_model text, prompt_tokens bigint,
  completion_tokens bigint, total_tokens bigint, cost_usd numeric, cost_rub numeric, execution_time_ms bigint,
  platform text, content_type text, task_type text, content_id text, workflow_id text, request_id text, endpoint text,
  cursor text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  ledger oid;
BEGIN
  page_limit := @extschema@._token_usage_check_page(user_id, page_limit, page_offset);
  ledger := @extschema@._token_usage_ledger(path);
  RETURN QUERY
    SELECT p.id, p.created_at, p.agent_id, p.ai_provider, p.ai_model, p.prompt_tokens, p.completion_tokens,
           p.total_tokens, p.cost_usd, p.cost_rub, round(p.execution_time_ms)::bigint, p.platform, p.content_type, p.task_type,
           p.content_id, p.workflow_id, p.request_id, p.endpoint, p.cursor
      FROM @extschema@._token_usage_page(
        path, ledger, @extschema@._token_usage_user(ledger, user_id), page_limit, page_offset, agent, start_date, end_date,
        after) AS p LIMIT page_limit;
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_detailed(
  path name[], user_id text, page_limit bigint, page_offset bigint, agent text, start_date timestamptz, end_date timestamptz,
  after text)
RETURNS TABLE (id bigint, created_at timestamptz, agent_id text, ai_provider text, ai_model text, prompt_tokens bigint,
  completion_tokens bigint, total_tokens bigint, cost_usd numeric, cost_rub numeric, execution_time_ms bigint,
  platform text, content_type text, task_type text, content_id text, workflow_id text, request_id text, endpoint text,
  cursor text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  ledger oid;
  key record;
BEGIN
  page_limit := @extschema@._token_usage_check_page(user_id, page_limit, page_offset);
  ledger := @extschema@._token_usage_ledger(path);
  IF @extschema@._token_usage_column_family(ledger, 'id'::text) <> 'integer' THEN
    SELECT c.* INTO key FROM @extschema@._token_usage_columns(ledger) AS c WHERE c.name = 'id';
    RAISE EXCEPTION USING ERRCODE = '42804',
      MESSAGE = format('token_usage: column id has type %s, token_usage_detailed needs an integer type',
                       format_type(key.type, key.modifier)),
      HINT = 'token_usage_detailed_text gives the same rows with id as text; token_usage_detailed_json works as it is.';
  END IF;
  RETURN QUERY
    SELECT p.id::bigint, p.created_at, p.agent_id, p.ai_provider, p.ai_model, p.prompt_tokens, p.completion_tokens,
           p.total_tokens, p.cost_usd, p.cost_rub, round(p.execution_time_ms)::bigint, p.platform, p.content_type, p.task_type,
           p.content_id, p.workflow_id, p.request_id, p.endpoint, p.cursor
      FROM @extschema@._token_usage_page(
        path, ledger, @extschema@._token_usage_user(ledger, user_id), page_limit, page_offset, agent, start_date, end_date,
        after) AS p LIMIT page_limit;
END
$function$;

-- How many rows all pages hold.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_count(
  path name[], ledger oid, user_id text, agent text, start_date timestamptz, end_date timestamptz)
RETURNS bigint LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  l record;
  query text;
  rows bigint;
  bounds timestamptz[] := ARRAY[coalesce(start_date, '-infinity'), coalesce(end_date + interval '1 microsecond', 'infinity')];
BEGIN
  IF bounds[1] < bounds[2] AND @extschema@._token_usage_rollup_readable(ledger) THEN
    RETURN (SELECT coalesce(sum(s.requests_count), 0)
              FROM @extschema@._token_usage_sums(ledger, user_id, agent, bounds, 'none'::text) AS s);
  END IF;
  l := @extschema@._token_usage_layout(ledger);
  query := format('SELECT pg_catalog.count(*) FROM %s AS t WHERE %s',
    @extschema@._token_usage_table(ledger, 'token_usage'::text),
    @extschema@._token_usage_list_condition(
      l.of_user, l.of_agent, l.bound, agent IS NOT NULL, start_date IS NOT NULL, end_date IS NOT NULL));
  PERFORM @extschema@._token_usage_caller_path(path);
  EXECUTE query INTO rows USING user_id, agent, start_date, end_date;
  RETURN rows;
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_detailed_count(
  path name[], user_id text, agent text, start_date timestamptz, end_date timestamptz)
RETURNS bigint LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  ledger oid;
BEGIN
  user_id := @extschema@._token_usage_check_user(user_id);
  ledger := @extschema@._token_usage_ledger(path);
  RETURN @extschema@._token_usage_count(
    path, ledger, @extschema@._token_usage_user(ledger, user_id), agent, start_date, end_date);
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_detailed_json(
  path name[], user_id text, page_limit bigint, page_offset bigint, agent text, start_date timestamptz, end_date timestamptz,
  after text)
RETURNS jsonb LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  ledger oid;
  family text;
  body jsonb;
BEGIN
  page_limit := @extschema@._token_usage_check_page(user_id, page_limit, page_offset);
  ledger := @extschema@._token_usage_ledger(path);
  user_id := @extschema@._token_usage_user(ledger, user_id);
  family := @extschema@._token_usage_column_family(ledger, 'id'::text);
  SELECT jsonb_build_object('success', true, 'data', jsonb_build_object(
           'items', coalesce(jsonb_agg(jsonb_build_object(
              'id', CASE family WHEN 'integer' THEN to_jsonb(p.id::bigint) ELSE to_jsonb(p.id) END,
              'agent_id', p.agent_id, 'ai_provider', p.ai_provider, 'ai_model', p.ai_model,
              'total_tokens', p.total_tokens, 'prompt_tokens', p.prompt_tokens, 'completion_tokens', p.completion_tokens,
              'cost_usd', p.cost_usd, 'cost_rub', p.cost_rub, 'execution_time_ms', p.execution_time_ms,
              'created_at', @extschema@._token_usage_time_text(p.created_at),
              'content_type', p.content_type, 'platform', p.platform)
              ORDER BY p.place) FILTER (WHERE p.place <= page_limit), '[]'),
           'total', @extschema@._token_usage_count(path, ledger, user_id, agent, start_date, end_date),
           'limit', page_limit, 'offset', page_offset, 'has_more', count(*) > page_limit,
           'next_cursor', CASE WHEN count(*) > page_limit THEN max(p.cursor) FILTER (WHERE p.place = page_limit) END))
    INTO body
    FROM @extschema@._token_usage_page(path, ledger, user_id, page_limit, page_offset, agent, start_date, end_date, after)
         WITH ORDINALITY AS p (id, created_at, agent_id, ai_provider, ai_model, prompt_tokens, completion_tokens,
           total_tokens, cost_usd, cost_rub, execution_time_ms, platform, content_type, task_type, content_id, workflow_id,
           request_id, endpoint, cursor, place);
  RETURN body;
END
$function$;

-- What users call. A literal or bind parameter without a type goes to the functions that take start_date and end_date as text,
-- where a value without zone is UTC; a timestamptz column or parameter to those that take one; a timestamp or date is UTC as well.
DO $overloads$
DECLARE
  user_type text;
  instant record;
  columns constant text := 'created_at timestamptz, agent_id text, ai_provider text, ai_model text, prompt_tokens bigint, '
    'completion_tokens bigint, total_tokens bigint, cost_usd numeric, cost_rub numeric, execution_time_ms bigint, '
    'platform text, content_type text, task_type text, content_id text, workflow_id text, request_id text, endpoint text, '
    'cursor text';
BEGIN
  FOREACH user_type IN ARRAY ARRAY['bigint', 'text', 'uuid'] LOOP
    FOR instant IN
      SELECT * FROM (VALUES
        ('text', '@extschema@._token_usage_instant(''%1$s''::pg_catalog.text, %1$s)', ' DEFAULT 100', ' DEFAULT 0', ' DEFAULT NULL'),
        ('timestamp with time zone', '%1$s', '', '', ''),
        ('timestamp without time zone', 'pg_catalog.timezone(''UTC''::pg_catalog.text, %1$s)', '', '', ''),
        ('date', 'pg_catalog.timezone(''UTC''::pg_catalog.text, %1$s::pg_catalog.timestamp)', '', '', ''))
        AS v (type, expression, default_limit, default_offset, default_null)
    LOOP
      EXECUTE pg_catalog.format($statement$
        CREATE OR REPLACE FUNCTION @extschema@.token_usage_detailed(
          user_id %1$s, page_limit bigint%2$s, page_offset bigint%3$s, agent text%4$s, start_date %5$s%4$s,
          end_date %5$s DEFAULT NULL, after text DEFAULT NULL)
        RETURNS TABLE (id bigint, %6$s) LANGUAGE sql STABLE ROWS 100 AS $function$
          SELECT * FROM @extschema@._token_usage_detailed(
            pg_catalog.current_schemas(false), user_id::pg_catalog.text, page_limit, page_offset, agent, %7$s, %8$s, after)
        $function$;

        CREATE OR REPLACE FUNCTION @extschema@.token_usage_detailed_text(
          user_id %1$s, page_limit bigint%2$s, page_offset bigint%3$s, agent text%4$s, start_date %5$s%4$s,
          end_date %5$s DEFAULT NULL, after text DEFAULT NULL)
        RETURNS TABLE (id text, %6$s) LANGUAGE sql STABLE ROWS 100 AS $function$
          SELECT * FROM @extschema@._token_usage_detailed_text(
            pg_catalog.current_schemas(false), user_id::pg_catalog.text, page_limit, page_offset, agent, %7$s, %8$s, after)
        $function$;

        CREATE OR REPLACE FUNCTION @extschema@.token_usage_detailed_json(
          user_id %1$s, page_limit bigint%2$s, page_offset bigint%3$s, agent text%4$s, start_date %5$s%4$s,
          end_date %5$s DEFAULT NULL, after text DEFAULT NULL)
        RETURNS jsonb LANGUAGE sql STABLE AS $function$
          SELECT @extschema@._token_usage_detailed_json(
            pg_catalog.current_schemas(false), user_id::pg_catalog.text, page_limit, page_offset, agent, %7$s, %8$s, after)
        $function$;

        CREATE OR REPLACE FUNCTION @extschema@.token_usage_detailed_count(
          user_id %1$s, agent text%4$s, start_date %5$s%4$s, end_date %5$s DEFAULT NULL)
        RETURNS bigint LANGUAGE sql STABLE AS $function$
          SELECT @extschema@._token_usage_detailed_count(
            pg_catalog.current_schemas(false), user_id::pg_catalog.text, agent, %7$s, %8$s)
        $function$;
      $statement$, user_type, instant.default_limit, instant.default_offset, instant.default_null, instant.type, columns,
        pg_catalog.format(instant.expression, 'start_date'), pg_catalog.format(instant.expression, 'end_date'));
    END LOOP;
  END LOOP;
END
$overloads$;
