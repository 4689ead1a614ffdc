-- The portable twin of pg_ext/page.cpp.

-- A time as text, in UTC, with a fraction only where there is one: 2025-10-20T14:30:25Z.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_time_text(value timestamptz)
RETURNS text LANGUAGE plpgsql IMMUTABLE AS $function$
DECLARE
  utc timestamp := timezone('UTC', value);
BEGIN
  IF NOT isfinite(utc) THEN
    RETURN utc::text;
  END IF;
  RETURN concat(to_char(utc, 'YYYY-MM-DD"T"HH24:MI:SS'),
                CASE to_char(utc, 'US') WHEN '000000' THEN '' ELSE to_char(utc, '.US') END,
                CASE WHEN utc < '0001-01-01' THEN ' BC' END, 'Z');
END
$function$;

-- The cursor of a row, whose form is told in core/cursor.h: Unix microseconds, exactly (a float holds whole seconds exactly, and the
-- microseconds within one; numeric is slower), and the key. In SQL, so that the planner puts it into the query of a page, which runs
-- under the caller's search_path: all names and operators are qualified.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_cursor(created_at timestamptz, id text)
RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS $function$
  SELECT pg_catalog.encode(pg_catalog.convert_to(pg_catalog.concat('1|',
    pg_catalog.date_part('epoch', pg_catalog.date_trunc('second', pg_catalog.timezone('UTC', created_at)))::pg_catalog.int8
      OPERATOR(pg_catalog.*) 1000000::pg_catalog.int8 OPERATOR(pg_catalog.+)
    pg_catalog.mod(pg_catalog.date_part('microseconds', pg_catalog.timezone('UTC', created_at))::pg_catalog.int8, 1000000::pg_catalog.int8),
    '|', id), 'UTF8'), 'hex')
$function$;

-- _token_usage_page_rows where no function is kept for the ledger, or where it does not fit any more, or where the dates count.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_page_anew(
  ledger oid, user_id text, agent text, start_date timestamptz, end_date timestamptz, behind_at timestamptz, behind_id text,
  row_limit bigint, row_offset bigint)
RETURNS TABLE (id text, created_at timestamptz, agent_id text, ai_provider text, ai_model text, prompt_tokens bigint,
  completion_tokens bigint, total_tokens bigint, cost_usd numeric, cost_rub numeric, execution_time_ms numeric,
  platform text, content_type text, task_type text, content_id text, workflow_id text, request_id text, endpoint text,
  cursor text)
LANGUAGE plpgsql STABLE AS $function$
BEGIN
  RETURN QUERY EXECUTE @extschema@._token_usage_page_sql(
      ledger, agent IS NOT NULL, start_date IS NOT NULL, end_date IS NOT NULL, behind_at IS NOT NULL)
    USING user_id, agent, start_date, end_date, behind_at, behind_id, row_limit, row_offset;
END
$function$;

-- The rows of a page, at most row_limit, as _token_usage_page_sql() selects them.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_page_rows(
  ledger oid, user_id text, agent text, start_date timestamptz, end_date timestamptz, behind_at timestamptz, behind_id text,
  row_limit bigint, row_offset bigint)
RETURNS TABLE (id text, created_at timestamptz, agent_id text, ai_provider text, ai_model text, prompt_tokens bigint,
  completion_tokens bigint, total_tokens bigint, cost_usd numeric, cost_rub numeric, execution_time_ms numeric,
  platform text, content_type text, task_type text, content_id text, workflow_id text, request_id text, endpoint text,
  cursor text)
LANGUAGE plpgsql STABLE AS $function$
DECLARE
  kept text;
BEGIN
  IF start_date IS NULL AND end_date IS NULL AND NOT row_security_active(ledger) THEN
    IF ledger = to_regclass('@extschema@.token_usage') AND has_function_privilege('@extschema@._token_usage_kept_page_home(text, text, timestamptz, timestamptz, '
      'timestamptz, text, bigint, bigint, oid, text[])'::regprocedure, 'EXECUTE') THEN
      RETURN QUERY SELECT p.* FROM @extschema@._token_usage_kept_page_home(user_id, agent, start_date, end_date, behind_at, behind_id, row_limit, row_offset,
        ledger, ARRAY[current_setting('enable_seqscan'), current_setting('seq_page_cost'), current_setting('random_page_cost')]) AS p;
      RETURN;
    END IF;
    kept := @extschema@._token_usage_kept(ledger, 'page'::text);
    IF kept IS NOT NULL THEN
      RETURN QUERY EXECUTE concat('SELECT p.* FROM ', kept, '($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) AS p')
        USING user_id, agent, start_date, end_date, behind_at, behind_id, row_limit, row_offset, ledger,
              ARRAY[current_setting('enable_seqscan'), current_setting('seq_page_cost'), current_setting('random_page_cost')];
      RETURN;
    END IF;
  END IF;
  RETURN QUERY SELECT p.* FROM @extschema@._token_usage_page_anew(
    ledger, user_id, agent, start_date, end_date, behind_at, behind_id, row_limit, row_offset) AS p;
END
$function$;
