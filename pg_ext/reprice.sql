-- Repricing: what the price book would now say of rows that it priced or left unpriced, and making it so. Section 6 of
-- the contract. A cost that the application or the provider stated is never touched, and each change is kept in
-- token_usage_reprice_log.

-- What the price book says of requests: {"ai_provider", "ai_model", "created_at", counts by column}, in order.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_book_costs(ledger oid, requests jsonb) RETURNS numeric[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  costs numeric[];
BEGIN
  EXECUTE format($query$
    WITH request AS MATERIALIZED (
      SELECT r.ai_provider, r.ai_model, r.created_at AS at, r.n,
             ARRAY[r.prompt_tokens, r.completion_tokens, NULL, r.cache_read_tokens, r.cache_write_tokens, NULL,
                   r.cache_write_1h_tokens, r.cache_read_audio_tokens, r.cache_read_image_tokens, r.reasoning_tokens,
                   r.input_audio_tokens, r.output_audio_tokens, r.input_image_tokens, r.output_image_tokens, NULL,
                   r.web_search_requests] AS counts
        FROM ROWS FROM (jsonb_to_recordset($2) AS (
               ai_provider text, ai_model text, created_at timestamptz, prompt_tokens bigint, completion_tokens bigint,
               cache_read_tokens bigint, cache_write_tokens bigint, cache_write_1h_tokens bigint,
               cache_read_audio_tokens bigint, cache_read_image_tokens bigint, reasoning_tokens bigint,
               input_audio_tokens bigint, output_audio_tokens bigint, input_image_tokens bigint,
               output_image_tokens bigint, web_search_requests bigint)) WITH ORDINALITY AS r (
               ai_provider, ai_model, created_at, prompt_tokens, completion_tokens, cache_read_tokens, cache_write_tokens,
               cache_write_1h_tokens, cache_read_audio_tokens, cache_read_image_tokens, reasoning_tokens,
               input_audio_tokens, output_audio_tokens, input_image_tokens, output_image_tokens, web_search_requests, n)),
    book AS MATERIALIZED (
      SELECT d.ai_provider, d.ai_model, r.rows, u.*
        FROM (SELECT DISTINCT ai_provider, ai_model FROM request) d
       CROSS JOIN LATERAL (
         SELECT @extschema@._token_usage_price_rows($1, d.ai_provider, d.ai_model) AS rows OFFSET 0) r
       CROSS JOIN LATERAL @extschema@._token_usage_usual_prices(r.rows) u)
    SELECT array_agg(@extschema@._token_usage_half_even(c.cost, 12) ORDER BY c.n)
      FROM (SELECT e.n, %s AS cost
              FROM request e LEFT JOIN book p ON p.ai_provider = e.ai_provider AND p.ai_model = e.ai_model OFFSET 0) c$query$,
    @extschema@._token_usage_cost_expression()) INTO costs USING ledger, requests;
  RETURN costs;
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_has_source(ledger oid) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
  SELECT EXISTS (SELECT FROM @extschema@._token_usage_columns(ledger) c WHERE c.name = 'cost_source')
$function$;

-- The changes: costs as the ledger's own types would hold them.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_reprice_changes(
  path name[], user_id text, start_date timestamptz, end_date timestamptz)
RETURNS TABLE (id text, old_cost_usd numeric, new_cost_usd numeric, old_cost_rub numeric, new_cost_rub numeric)
LANGUAGE plpgsql STABLE ROWS 100 SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
DECLARE
  ledger oid := @extschema@._token_usage_ledger(path);
  prices text := @extschema@._token_usage_require_beside(ledger, 'token_usage_price'::text);
  rates text := @extschema@._token_usage_beside(ledger, 'token_usage_exchange_rate'::text);
  layout record := @extschema@._token_usage_layout(ledger);
  classes constant text[] := '{cache_read_tokens,cache_write_tokens,cache_write_1h_tokens,cache_read_audio_tokens,'
    'cache_read_image_tokens,reasoning_tokens,input_audio_tokens,output_audio_tokens,input_image_tokens,'
    'output_image_tokens,web_search_requests}';
  usd_type text;
  rub_type text;
  counts text;
  chunk record;
  costs numeric[];
BEGIN
  user_id := @extschema@._token_usage_user(ledger, user_id);
  counts := (SELECT string_agg(format('t.%I::bigint AS %1$I', c.name), ', ')
               FROM @extschema@._token_usage_columns(ledger) c WHERE c.name = ANY (classes));
  usd_type := (SELECT format_type(a.atttypid, a.atttypmod) FROM pg_attribute a
               WHERE a.attrelid = ledger AND a.attname = 'cost_usd' AND NOT a.attisdropped);
  rub_type := (SELECT format_type(a.atttypid, a.atttypmod) FROM pg_attribute a
               WHERE a.attrelid = ledger AND a.attname = 'cost_rub' AND NOT a.attisdropped);
  -- A thousand rows at a time, so that everyone's rows need not fit in memory.
  FOR chunk IN EXECUTE format($query$
    SELECT jsonb_agg(to_jsonb(r) - '{row_id,usd,rub}'::text[] ORDER BY r.created_at, r.id) AS rows,
           array_agg(r.id::text ORDER BY r.created_at, r.id) AS ids,
           array_agg(r.usd ORDER BY r.created_at, r.id) AS usd, array_agg(r.rub ORDER BY r.created_at, r.id) AS rub,
           array_agg(r.created_at ORDER BY r.created_at, r.id) AS ats
      FROM (SELECT %1$s AS id, %2$s AS created_at, t.ai_provider::text AS ai_provider, t.ai_model::text AS ai_model,
                   %3$s AS prompt_tokens, %4$s AS completion_tokens, %5$s AS usd, %6$s AS rub, %7$s,
                   (row_number() OVER (ORDER BY %2$s, %1$s) - 1) / 1000 AS chunk
              FROM %8$s t
             WHERE (%9$s) AND (%10$s) AND isfinite(t.created_at)
               AND ($3 IS NULL OR t.created_at >= %11$s) AND ($4 IS NULL OR t.created_at <= %12$s)
               AND %3$s >= 0 AND %4$s >= 0) r
     WHERE %13$s
     GROUP BY r.chunk ORDER BY r.chunk$query$,
    layout.id, layout.created, layout.prompt, layout.completion, layout.cost_usd, layout.cost_rub,
    coalesce(counts, 'NULL::bigint AS cache_read_tokens'), @extschema@._token_usage_table(ledger, 'token_usage'::text),
    CASE WHEN user_id IS NULL THEN 'true' ELSE layout.of_user END,
    CASE WHEN @extschema@._token_usage_has_source(ledger) THEN 't.cost_source = ''price_book'' OR (t.cost_source IS NULL AND t.cost_usd IS NULL)'
         ELSE 't.cost_usd IS NULL' END,
    format(layout.bound, '$3'), format(layout.bound, '$4'),
    CASE WHEN cardinality(classes) = (SELECT count(*) FROM @extschema@._token_usage_columns(ledger) c
                                       WHERE c.name = ANY (classes))
         THEN 'coalesce(r.cache_read_tokens, 0)::numeric + coalesce(r.cache_write_tokens, 0) <= r.prompt_tokens'
              ' AND coalesce(r.cache_write_1h_tokens, 0) <= coalesce(r.cache_write_tokens, 0)'
              ' AND coalesce(r.reasoning_tokens, 0) <= r.completion_tokens'
         ELSE 'true' END)
    USING user_id, NULL::text, start_date, end_date
  LOOP
    costs := @extschema@._token_usage_book_costs(ledger, chunk.rows);
    RETURN QUERY EXECUTE format($query$
      SELECT c.id, trim_scale(c.old_usd), trim_scale(@extschema@._token_usage_decimal(c.new_usd)),
             trim_scale(c.old_rub), trim_scale(@extschema@._token_usage_decimal(c.new_rub))
        FROM (SELECT u.id, u.n, u.old_usd, u.usd::%1$s AS new_usd, u.old_rub, x.rub::%2$s AS new_rub
                FROM unnest($1, $2, $3, $4, $5) WITH ORDINALITY u (id, old_usd, old_rub, at, usd, n)
               CROSS JOIN LATERAL (SELECT %3$s AS rub) x
               WHERE u.usd IS NOT NULL) c
       WHERE @extschema@._token_usage_decimal(c.new_usd) IS DISTINCT FROM c.old_usd
          OR @extschema@._token_usage_decimal(c.new_rub) IS DISTINCT FROM c.old_rub
       ORDER BY c.n$query$, usd_type, rub_type,
      CASE WHEN rates IS NULL THEN 'NULL::numeric' ELSE format(
        '(SELECT @extschema@._token_usage_half_even(u.usd * x.rate, 12) FROM %s x WHERE x.currency = ''RUB'''
        ' AND x.valid_from <= u.at ORDER BY x.valid_from DESC LIMIT 1)', rates) END)
      USING chunk.ids, chunk.usd, chunk.rub, chunk.ats, costs;
  END LOOP;
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_reprice_preview(
  path name[], user_id text, start_date timestamptz, end_date timestamptz)
RETURNS TABLE (id bigint, old_cost_usd numeric, new_cost_usd numeric, old_cost_rub numeric, new_cost_rub numeric)
LANGUAGE plpgsql STABLE ROWS 100 SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
BEGIN
  IF (SELECT l.id_family FROM @extschema@._token_usage_layout(@extschema@._token_usage_ledger(path)) l) <> 'integer' THEN
    RAISE EXCEPTION USING ERRCODE = '42804',
      MESSAGE = 'token_usage: the ids of this ledger are no integers',
      HINT = 'Call token_usage_reprice_preview_text, which gives them as text.';
  END IF;
  RETURN QUERY SELECT c.id::bigint, c.old_cost_usd, c.new_cost_usd, c.old_cost_rub, c.new_cost_rub
                 FROM @extschema@._token_usage_reprice_changes(path, user_id, start_date, end_date) c;
END
$function$;

-- The statement that makes the changes, and what it is told. A row that was changed meanwhile is left alone.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_reprice_plan(
  path name[], user_id text, start_date timestamptz, end_date timestamptz,
  OUT statement text, OUT ids text[], OUT old_usd numeric[], OUT new_usd numeric[], OUT old_rub numeric[],
  OUT new_rub numeric[])
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  ledger oid := @extschema@._token_usage_ledger(path);
  log text := @extschema@._token_usage_require_beside(ledger, 'token_usage_reprice_log'::text);
  layout record := @extschema@._token_usage_layout(ledger);
BEGIN
  SELECT array_agg(c.id), array_agg(c.old_cost_usd), array_agg(c.new_cost_usd), array_agg(c.old_cost_rub),
         array_agg(c.new_cost_rub)
    INTO ids, old_usd, new_usd, old_rub, new_rub
    FROM @extschema@._token_usage_reprice_changes(path, user_id, start_date, end_date) c;
  statement := format($text$
    WITH changed AS (
      UPDATE %1$s t SET cost_usd = c.new_usd, cost_rub = c.new_rub%2$s
        FROM unnest($1::pg_catalog.text[], $2::pg_catalog.numeric[], $3::pg_catalog.numeric[],
                    $4::pg_catalog.numeric[], $5::pg_catalog.numeric[]) c (id, old_usd, new_usd, old_rub, new_rub)
       WHERE t.id OPERATOR(pg_catalog.=) c.id::%3$s
         AND (%4$s IS NULL AND c.old_usd IS NULL OR %4$s OPERATOR(pg_catalog.=) c.old_usd)
         AND (%5$s IS NULL AND c.old_rub IS NULL OR %5$s OPERATOR(pg_catalog.=) c.old_rub)%6$s
      RETURNING c.*),
    logged AS (
      INSERT INTO %7$s (row_id, old_cost_usd, new_cost_usd, old_cost_rub, new_cost_rub)
      SELECT l.id, l.old_usd, l.new_usd, l.old_rub, l.new_rub FROM changed l)
    SELECT pg_catalog.jsonb_build_object(
             'rows', pg_catalog.count(*),
             'old_cost_usd', pg_catalog.trim_scale(coalesce(pg_catalog.sum(s.old_usd), 0)),
             'new_cost_usd', pg_catalog.trim_scale(coalesce(pg_catalog.sum(s.new_usd), 0)))
      FROM changed s$text$,
    @extschema@._token_usage_table(ledger, 'token_usage'::text),
    CASE WHEN @extschema@._token_usage_has_source(ledger) THEN ', cost_source = ''price_book''' ELSE '' END,
    layout.id_type, layout.cost_usd, layout.cost_rub,
    CASE WHEN @extschema@._token_usage_has_source(ledger) THEN
      ' AND (t.cost_source IS NULL OR t.cost_source OPERATOR(pg_catalog.=) ''price_book'')' ELSE '' END, log);
END
$function$;

-- The UPDATE runs with the caller's search path, as the application's own statements do; so no operators here.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_reprice(
  path name[], user_id text, start_date timestamptz, end_date timestamptz) RETURNS jsonb
LANGUAGE plpgsql AS $function$
DECLARE
  plan record := @extschema@._token_usage_reprice_plan(path, user_id, start_date, end_date);
  result jsonb;
BEGIN
  EXECUTE plan.statement INTO result USING plan.ids, plan.old_usd, plan.new_usd, plan.old_rub, plan.new_rub;
  RETURN result;
END
$function$;

-- token_usage_reprice_preview(user_id, start_date, end_date): rows (id, old_cost_usd, new_cost_usd, old_cost_rub,
-- new_cost_rub) that the price book would now price otherwise; NULL user_id is everyone, both dates are inclusive.
-- token_usage_reprice(user_id, start_date, end_date): makes those changes; {"rows", "old_cost_usd", "new_cost_usd"}.
DO $overloads$
DECLARE
  user_type text;
  instant record;
BEGIN
  FOREACH user_type IN ARRAY ARRAY['bigint', 'text', 'uuid'] LOOP
    FOR instant IN
      SELECT * FROM (VALUES
        ('text', '@extschema@._token_usage_instant(''%1$s''::pg_catalog.text, %1$s)', ' DEFAULT NULL'),
        ('timestamp with time zone', '%1$s', ''),
        ('timestamp without time zone', 'pg_catalog.timezone(''UTC''::pg_catalog.text, %1$s)', ''),
        ('date', 'pg_catalog.timezone(''UTC''::pg_catalog.text, %1$s::pg_catalog.timestamp)', ''))
        AS v (type, expression, default_null)
    LOOP
      EXECUTE pg_catalog.format($statement$
        CREATE OR REPLACE FUNCTION @extschema@.token_usage_reprice_preview(
          user_id %1$s, start_date %2$s%3$s, end_date %2$s DEFAULT NULL)
        RETURNS TABLE (id bigint, old_cost_usd numeric, new_cost_usd numeric, old_cost_rub numeric, new_cost_rub numeric)
        LANGUAGE sql STABLE ROWS 100 AS $function$
          SELECT * FROM @extschema@._token_usage_reprice_preview(
            pg_catalog.current_schemas(false), user_id::pg_catalog.text, %4$s, %5$s)
        $function$;

        CREATE OR REPLACE FUNCTION @extschema@.token_usage_reprice_preview_text(
          user_id %1$s, start_date %2$s%3$s, end_date %2$s DEFAULT NULL)
        RETURNS TABLE (id text, old_cost_usd numeric, new_cost_usd numeric, old_cost_rub numeric, new_cost_rub numeric)
        LANGUAGE sql STABLE ROWS 100 AS $function$
          SELECT * FROM @extschema@._token_usage_reprice_changes(
            pg_catalog.current_schemas(false), user_id::pg_catalog.text, %4$s, %5$s)
        $function$;

        CREATE OR REPLACE FUNCTION @extschema@.token_usage_reprice(
          user_id %1$s, start_date %2$s%3$s, end_date %2$s DEFAULT NULL) RETURNS jsonb
        LANGUAGE sql AS $function$
          SELECT @extschema@._token_usage_reprice(
            pg_catalog.current_schemas(false), user_id::pg_catalog.text, %4$s, %5$s)
        $function$;
      $statement$, user_type, instant.type, instant.default_null,
        pg_catalog.format(instant.expression, 'start_date'), pg_catalog.format(instant.expression, 'end_date'));
    END LOOP;
  END LOOP;
END
$overloads$;
