-- token_usage_record and token_usage_record_batch: one ledger row for each event, once per request_id for ever, all or
-- nothing. Section 5 of the contract.
--
-- In three steps. Reading and pricing run with search_path = pg_catalog, pg_temp. Then rows are inserted with the
-- caller's own search path, because the application's triggers, defaults and row-security policies run inside that
-- statement; its text names everything in full. ON CONFLICT DO NOTHING waits for another session that is
-- recording the same request_id; the row that is there afterwards is read by a statement of its own, which at READ
-- COMMITTED sees it. Rows go in by request_id, so that two batches never wait for each other.

-- The columns of `rows` below, as a column definition list.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_event_columns() RETURNS text
LANGUAGE sql IMMUTABLE AS $function$
  SELECT 'user_id text, agent_id text, ai_provider text, ai_model text, prompt_tokens numeric, completion_tokens numeric,
    content_id text, workflow_id text, request_id text, endpoint text, platform text, content_type text, task_type text,
    execution_time_ms numeric, request_metadata jsonb, response_metadata jsonb, created_at timestamptz,
    cache_read_tokens numeric, cache_write_tokens numeric, cache_write_1h_tokens numeric,
    cache_read_audio_tokens numeric, cache_read_image_tokens numeric, reasoning_tokens numeric,
    input_audio_tokens numeric, output_audio_tokens numeric, input_image_tokens numeric, output_image_tokens numeric,
    web_search_requests numeric'
$function$;

-- The set of prices, of several in order, that prices a usage with or without prompt and completion tokens.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_pricing_set(sets jsonb[], prompt boolean, completion boolean)
RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $function$
BEGIN
  FOR i IN 1 .. cardinality(sets) LOOP
    IF sets[i] ?| '{input,output,request}'::text[] AND (NOT prompt OR sets[i] ? 'input')
       AND (NOT completion OR sets[i] ? 'output') THEN
      RETURN sets[i];
    END IF;
  END LOOP;
  RETURN NULL;
END
$function$;

-- What each event costs by the price book; NULL where no price is known, and for events whose cost is stated.
-- Prices are looked up once per provider and model, and chosen once per stretch of time, hours and context tier.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_book_costs(ledger oid, rows jsonb) RETURNS numeric[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $function$
DECLARE
  pair record;
  part record;
  book jsonb;
  books jsonb := '{}';
  pairs jsonb := '[]';
  sets jsonb := '{}';
  costs numeric[];
BEGIN
  FOR pair IN
    SELECT DISTINCT r.ai_provider, r.ai_model
      FROM jsonb_to_recordset(rows) AS r (ai_provider text, ai_model text, cost_usd numeric, provider_cost_usd numeric,
                                          not_tokens boolean)
     WHERE r.cost_usd IS NULL AND r.provider_cost_usd IS NULL AND r.not_tokens IS NOT TRUE
  LOOP
    book := @extschema@._token_usage_price_rows(ledger, pair.ai_provider, pair.ai_model);
    CONTINUE WHEN book = '[]';
    books := books || jsonb_build_object(jsonb_array_length(pairs)::text, book);
    pairs := pairs || (
      SELECT jsonb_build_object(
        'n', jsonb_array_length(pairs), 'ai_provider', pair.ai_provider, 'ai_model', pair.ai_model,
        'starts', jsonb_agg(DISTINCT b.since ORDER BY b.since),
        'times', (SELECT jsonb_agg(DISTINCT t ORDER BY t) FROM jsonb_to_recordset(book) AS h ("from" time, "to" time),
                         unnest(ARRAY[h."from", h."to"]) t),
        'tiers', jsonb_agg(DISTINCT b.tier ORDER BY b.tier))
        FROM jsonb_to_recordset(book) AS b (since timestamptz, tier bigint));
  END LOOP;
  IF pairs = '[]' THEN
    RETURN NULL;
  END IF;
  FOR part IN
    SELECT DISTINCT ON (key) p.n, k.key, coalesce(r.created_at, now()) AS at, r.prompt_tokens AS prompt,
           r.completion_tokens AS completion
      FROM jsonb_to_recordset(rows) AS r (ai_provider text, ai_model text, prompt_tokens bigint, completion_tokens bigint,
                                          created_at timestamptz, cost_usd numeric, provider_cost_usd numeric)
      JOIN jsonb_to_recordset(pairs) AS p (n integer, ai_provider text, ai_model text, starts timestamptz[],
                                           times time[], tiers bigint[])
     USING (ai_provider, ai_model)
     CROSS JOIN LATERAL (SELECT concat_ws(' ', p.n, width_bucket(coalesce(r.created_at, now()), p.starts),
       width_bucket(coalesce(r.created_at, now())::time, p.times), width_bucket(r.prompt_tokens - 1, p.tiers),
       r.prompt_tokens > 0, r.completion_tokens > 0) AS key) k
     WHERE r.cost_usd IS NULL AND r.provider_cost_usd IS NULL
  LOOP
    sets := sets || jsonb_build_object(part.key, @extschema@._token_usage_pricing_set(
      @extschema@._token_usage_prices_in_force(books -> part.n::text, part.at, part.prompt),
      part.prompt > 0, part.completion > 0));
  END LOOP;
  SELECT array_agg(@extschema@._token_usage_half_even(
           CASE WHEN coalesce(r.set, 'null') = 'null' THEN NULL
                WHEN coalesce(r.cache_read_tokens, r.cache_write_tokens, r.cache_write_1h_tokens, r.reasoning_tokens,
                              r.input_audio_tokens, r.output_audio_tokens, r.input_image_tokens, r.output_image_tokens,
                              r.web_search_requests) IS NULL AND r.prompt_tokens + r.completion_tokens < 1e15
                THEN (CASE WHEN r.prompt_tokens > 0 THEN r.prompt_tokens * (r.set -> 'input')::numeric ELSE 0 END
                      + CASE WHEN r.completion_tokens > 0 THEN r.completion_tokens * (r.set -> 'output')::numeric ELSE 0 END
                      + coalesce((r.set -> 'request')::numeric, 0)) * 0.000001
                ELSE @extschema@._token_usage_cost_by(r.set, to_jsonb(r) - 'set') END, 12) ORDER BY r.ordinality)
    INTO costs
    FROM (
      SELECT r.*, CASE WHEN r.cost_usd IS NULL AND r.provider_cost_usd IS NULL AND r.not_tokens IS NOT TRUE THEN
                    sets -> concat_ws(' ', p.n, width_bucket(coalesce(r.created_at, now()), p.starts),
                      width_bucket(coalesce(r.created_at, now())::time, p.times),
                      width_bucket(r.prompt_tokens - 1, p.tiers), r.prompt_tokens > 0, r.completion_tokens > 0)
                  END AS set
        FROM ROWS FROM (jsonb_to_recordset(rows) AS (
               ai_provider text, ai_model text, prompt_tokens bigint, completion_tokens bigint, created_at timestamptz,
               cost_usd numeric, provider_cost_usd numeric, not_tokens boolean, cache_read_tokens numeric,
               cache_write_tokens numeric, cache_write_1h_tokens numeric, cache_read_audio_tokens numeric,
               cache_read_image_tokens numeric, reasoning_tokens numeric, input_audio_tokens numeric,
               output_audio_tokens numeric, input_image_tokens numeric, output_image_tokens numeric,
               web_search_requests numeric)) WITH ORDINALITY AS r
        LEFT JOIN jsonb_to_recordset(pairs) AS p (n integer, ai_provider text, ai_model text, starts timestamptz[],
                                                  times time[], tiers bigint[])
       USING (ai_provider, ai_model)) r;
  RETURN costs;
END
$function$;

-- Reads and prices events: the rows to insert, what they cost and why, and the statements that insert and find them.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_record_plan(
  path name[], events jsonb, argument text, OUT ledger oid, OUT rows jsonb, OUT usd numeric[], OUT rub numeric[],
  OUT sources text[], OUT insert_text text, OUT find_text text, OUT request_ids text[])
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $function$
#variable_conflict use_variable
DECLARE
  rates text;
  book numeric[];
  family text;
  bad record;
  col record;
  columns text := '';
  expressions text := '';
  unique_key boolean;
  key_type text;
BEGIN
  IF events IS NULL THEN
    PERFORM @extschema@._token_usage_bad_argument(CASE argument WHEN 'event' THEN 'event' ELSE 'events' END, 'given', NULL);
  ELSIF jsonb_typeof(events) <> 'array' THEN
    PERFORM @extschema@._token_usage_bad_argument('events', 'an array', events::text);
  END IF;
  ledger := @extschema@._token_usage_ledger(path);
  SELECT coalesce(jsonb_agg(CASE WHEN @extschema@._token_usage_event_is_plain(e.value) THEN e.value
                                 ELSE @extschema@._token_usage_read_event(
                                   e.value, CASE argument WHEN 'event' THEN 'event'
                                                          ELSE format('events[%s]', e.ordinality - 1) END) END), '[]')
    INTO rows FROM jsonb_array_elements(events) WITH ORDINALITY e;

  family := (SELECT c.family FROM @extschema@._token_usage_columns(ledger) c WHERE c.name = 'user_id');
  IF family <> 'text' THEN
    FOR bad IN
      SELECT r.user_id, r.ordinality - 1 AS n
        FROM ROWS FROM (jsonb_to_recordset(rows) AS (user_id text)) WITH ORDINALITY AS r
       WHERE CASE family WHEN 'integer' THEN r.user_id !~ '^ *[+-]?[0-9]{1,18} *$' AND NOT (
                           r.user_id ~ '^ *[+-]?[0-9]{1,30} *$' AND
                           r.user_id::numeric BETWEEN -9223372036854775808 AND 9223372036854775807)
             WHEN 'uuid' THEN
               r.user_id !~* '^(([0-9a-f]{4}-?){7}[0-9a-f]{4}|[{]([0-9a-f]{4}-?){7}[0-9a-f]{4}[}])$' END
       LIMIT 1
    LOOP
      PERFORM @extschema@._token_usage_bad_argument(
        CASE argument WHEN 'event' THEN 'event.user_id' ELSE format('events[%s].user_id', bad.n) END,
        CASE family WHEN 'uuid' THEN 'a uuid' ELSE 'a bigint' END, bad.user_id);
    END LOOP;
  END IF;

  book := @extschema@._token_usage_book_costs(ledger, rows);
  rates := @extschema@._token_usage_beside(ledger, 'token_usage_exchange_rate');
  EXECUTE format($query$
    SELECT array_agg(s.usd ORDER BY s.ordinality),
           array_agg(coalesce(s.rub, %s) ORDER BY s.ordinality),
           array_agg(CASE WHEN s.stated THEN 'event' WHEN s.provider_cost_usd IS NOT NULL THEN 'provider'
                          WHEN s.not_tokens THEN 'other' WHEN s.usd IS NOT NULL THEN 'price_book' END
                     ORDER BY s.ordinality),
           array_agg(s.request_id ORDER BY s.ordinality)
      FROM (SELECT r.ordinality, r.request_id, r.cost_usd IS NOT NULL OR r.cost_rub IS NOT NULL AS stated, r.provider_cost_usd,
                   r.not_tokens, coalesce(r.created_at, now()) AS at, r.cost_rub AS rub,
                   CASE WHEN r.cost_usd IS NOT NULL THEN r.cost_usd
                        WHEN r.provider_cost_usd IS NOT NULL
                        THEN @extschema@._token_usage_half_even(r.provider_cost_usd, 12)
                        ELSE $2[r.ordinality] END AS usd
              FROM ROWS FROM (jsonb_to_recordset($1) AS (
                     cost_usd numeric, cost_rub numeric, provider_cost_usd numeric, not_tokens boolean,
                     created_at timestamptz, request_id text)) WITH ORDINALITY AS r OFFSET 0) s$query$,
    CASE WHEN rates IS NULL THEN 'NULL' ELSE format(
      '(SELECT @extschema@._token_usage_half_even(s.usd * x.rate, 12) FROM %s x WHERE x.currency = ''RUB'''
      ' AND x.valid_from <= s.at ORDER BY x.valid_from DESC LIMIT 1)', rates) END)
    INTO usd, rub, sources, request_ids USING rows, book;

  -- The ledger's own types: an adopted one may have others than ours, and defaults where an event says nothing.
  FOR col IN
    SELECT a.attname AS name, format('%I.%I', n.nspname, y.typname) AS type, pg_get_expr(d.adbin, d.adrelid) AS default_text,
           k.family
      FROM @extschema@._token_usage_columns(ledger) k JOIN pg_attribute a ON a.attrelid = ledger AND a.attname = k.name
      JOIN pg_type y ON y.oid = a.atttypid JOIN pg_namespace n ON n.oid = y.typnamespace
      LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
     WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
       AND a.attname = ANY (@extschema@._token_usage_event_keys() || '{cost_source}')
     ORDER BY a.attnum
  LOOP
    columns := columns || format(', %I', col.name);
    expressions := expressions || ', ' || CASE
      WHEN col.name = 'total_tokens' THEN '(r.prompt_tokens OPERATOR(pg_catalog.+) r.completion_tokens)::' || col.type
      WHEN col.name = 'cost_usd' THEN 'r.usd::' || col.type
      WHEN col.name = 'cost_rub' THEN 'r.rub::' || col.type
      WHEN col.name = 'cost_source' THEN 'r.source::' || col.type
      WHEN col.name = 'created_at' THEN format('coalesce(%s, %s)',
        CASE col.family WHEN 'timestamp' THEN 'pg_catalog.timezone(''UTC'', r.created_at)' ELSE 'r.created_at' END,
        CASE WHEN col.default_text IS NOT NULL AND col.default_text NOT IN ('now()', 'CURRENT_TIMESTAMP') THEN col.default_text
             WHEN col.family = 'timestamp' THEN 'pg_catalog.timezone(''UTC'', pg_catalog.now())'
             ELSE 'pg_catalog.now()' END)
      WHEN col.default_text IS NOT NULL AND col.name NOT IN ('prompt_tokens', 'completion_tokens')
        THEN format('coalesce(r.%I::%s, %s)', col.name, col.type, col.default_text)
      ELSE format('r.%I::%s', col.name, col.type) END;
    IF col.name = 'request_id' THEN
      key_type := CASE col.family WHEN 'uuid' THEN 'uuid' ELSE 'text' END;
    END IF;
  END LOOP;
  IF key_type = 'uuid' THEN
    rows := (SELECT jsonb_agg(CASE WHEN r.value ? 'request_id' THEN jsonb_set(
               r.value, '{request_id}', to_jsonb((r.value ->> 'request_id')::uuid)) ELSE r.value END ORDER BY r.ordinality)
               FROM jsonb_array_elements(rows) WITH ORDINALITY r);
    request_ids := request_ids::uuid[]::text[];
  END IF;
  unique_key := EXISTS (
    SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attname = 'request_id'
     WHERE i.indrelid = ledger AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL
       AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum);
  IF NOT unique_key THEN
    -- An adopted table in which an id repeats: sessions that record the same id take turns.
    PERFORM pg_advisory_xact_lock(hashtextextended(k.id, ledger::bigint))
       FROM (SELECT DISTINCT id COLLATE "C" AS id FROM unnest(request_ids) id WHERE id IS NOT NULL ORDER BY 1) k;
  END IF;
  insert_text := format($text$
    WITH inserted AS (
      INSERT INTO %1$s AS t (%2$s)
      SELECT %3$s
        FROM ROWS FROM (
          pg_catalog.jsonb_to_recordset($1) AS (%4$s), pg_catalog.unnest($2::pg_catalog.numeric[]),
          pg_catalog.unnest($3::pg_catalog.numeric[]), pg_catalog.unnest($4::pg_catalog.text[]))
          WITH ORDINALITY AS r (%5$s, usd, rub, source, ordinality)
       WHERE r.ordinality OPERATOR(pg_catalog.=) ANY ($5::pg_catalog.int8[])%6$s
       ORDER BY r.request_id COLLATE pg_catalog."C" NULLS FIRST, r.ordinality
      %7$s
      RETURNING t.id, t.request_id, t.cost_usd, t.cost_rub)
    SELECT pg_catalog.array_agg(i.id::pg_catalog.text), pg_catalog.array_agg(i.request_id::pg_catalog.text),
           pg_catalog.array_agg(i.cost_usd::pg_catalog.text::pg_catalog.numeric),
           pg_catalog.array_agg(i.cost_rub::pg_catalog.text::pg_catalog.numeric)
      FROM inserted i$text$,
    @extschema@._token_usage_table(ledger, 'token_usage'::text), substr(columns, 3), substr(expressions, 3),
    regexp_replace(@extschema@._token_usage_event_columns(), ' (text|numeric|jsonb|timestamptz)', E' pg_catalog.\\1', 'g'),
    regexp_replace(@extschema@._token_usage_event_columns(), ' (text|numeric|jsonb|timestamptz)', '', 'g'),
    CASE WHEN unique_key THEN '' ELSE format(
      ' AND (r.request_id IS NULL OR NOT EXISTS'
      ' (SELECT FROM %s o WHERE o.request_id OPERATOR(pg_catalog.=) r.request_id::pg_catalog.%s))',
      @extschema@._token_usage_table(ledger, 'token_usage'::text), key_type) END,
    CASE WHEN unique_key THEN 'ON CONFLICT (request_id) DO NOTHING' ELSE '' END);
  find_text := format($text$
    SELECT pg_catalog.jsonb_object_agg(f.request_id, pg_catalog.to_jsonb(f.*)) FROM (
      SELECT DISTINCT ON (t.request_id) t.request_id::pg_catalog.text AS request_id, t.id,
             t.user_id::pg_catalog.text AS user_id, t.agent_id::pg_catalog.text AS agent_id,
             t.ai_provider::pg_catalog.text AS ai_provider, t.ai_model::pg_catalog.text AS ai_model,
             coalesce(t.prompt_tokens, 0)::pg_catalog.text::pg_catalog.numeric AS prompt_tokens,
             coalesce(t.completion_tokens, 0)::pg_catalog.text::pg_catalog.numeric AS completion_tokens,
             t.total_tokens::pg_catalog.text::pg_catalog.numeric AS total_tokens,
             t.cost_usd::pg_catalog.text::pg_catalog.numeric AS cost_usd,
             t.cost_rub::pg_catalog.text::pg_catalog.numeric AS cost_rub
        FROM %s t WHERE t.request_id OPERATOR(pg_catalog.=) ANY ($1::pg_catalog.%s[])
       ORDER BY t.request_id, t.id) f$text$, @extschema@._token_usage_table(ledger, 'token_usage'::text), key_type);
END
$function$;

-- The request_ids whose rows must be looked for: not inserted just now, or repeated in the batch. NULL: none.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_record_seek(request_ids text[], keys text[]) RETURNS text[]
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
  SELECT array_agg(s.id) FROM (
    SELECT r.id FROM unnest(request_ids) r (id) WHERE r.id IS NOT NULL GROUP BY r.id HAVING count(*) > 1
     UNION
    (SELECT r.id FROM unnest(request_ids) r (id) WHERE r.id IS NOT NULL EXCEPT SELECT k FROM unnest(keys) k)) s
$function$;

-- The events to insert: at first (`found` is NULL) each without a request_id and the first of each request_id, later
-- those whose request_id has no row. NULL: none.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_record_left(request_ids text[], keys text[], found jsonb) RETURNS bigint[]
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
  SELECT array_agg(s.n) FROM (
    SELECT r.n FROM unnest(request_ids) WITH ORDINALITY r (id, n) WHERE r.id IS NULL AND found IS NULL
     UNION ALL
    SELECT min(r.n) FROM unnest(request_ids) WITH ORDINALITY r (id, n)
     WHERE r.id IS NOT NULL AND NOT coalesce(found ? r.id, false)
       AND NOT EXISTS (SELECT FROM unnest(keys) k WHERE k = r.id) GROUP BY r.id) s
$function$;

-- A row with this request_id is there and the caller may not see it: another user's.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_record_hidden(request_ids text[], n bigint, argument text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
  RAISE EXCEPTION USING ERRCODE = 'unique_violation', MESSAGE = format(
    'token_usage: %s.request_id must be new or repeat the same facts, got %s with another user_id',
    CASE argument WHEN 'event' THEN 'event' ELSE format('events[%s]', n - 1) END,
    @extschema@._token_usage_shown(request_ids[n]));
END
$function$;

-- The results, in order. `ids` ... are what was inserted, in the order of insertion; `present` the rows that were there.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_record_results(
  ledger oid, rows jsonb, request_ids text[], argument text, ids text[], keys text[], usd numeric[], rub numeric[],
  present jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_variable
DECLARE
  number boolean := (SELECT c.family = 'integer' FROM @extschema@._token_usage_columns(ledger) c WHERE c.name = 'id');
  user_family text := (SELECT c.family FROM @extschema@._token_usage_columns(ledger) c WHERE c.name = 'user_id');
  different record;
  results jsonb;
BEGIN
  IF present IS NOT NULL THEN
    FOR different IN
      SELECT d.field, r.request_id, r.ordinality - 1 AS n
        FROM ROWS FROM (jsonb_to_recordset(rows) AS (
               user_id text, agent_id text, ai_provider text, ai_model text, prompt_tokens numeric,
               completion_tokens numeric, request_id text)) WITH ORDINALITY AS r
       CROSS JOIN LATERAL (SELECT present -> r.request_id AS row) f
       CROSS JOIN LATERAL (SELECT CASE
         WHEN f.row ->> 'user_id' IS DISTINCT FROM CASE user_family
                WHEN 'integer' THEN r.user_id::bigint::text WHEN 'uuid' THEN r.user_id::uuid::text ELSE r.user_id END
           THEN 'user_id'
         WHEN f.row ->> 'agent_id' IS DISTINCT FROM r.agent_id THEN 'agent_id'
         WHEN f.row ->> 'ai_provider' IS DISTINCT FROM r.ai_provider THEN 'ai_provider'
         WHEN f.row ->> 'ai_model' IS DISTINCT FROM r.ai_model THEN 'ai_model'
         WHEN (f.row -> 'prompt_tokens')::numeric IS DISTINCT FROM r.prompt_tokens THEN 'prompt_tokens'
         WHEN (f.row -> 'completion_tokens')::numeric IS DISTINCT FROM r.completion_tokens THEN 'completion_tokens'
         END AS field) d
       WHERE f.row IS NOT NULL AND d.field IS NOT NULL
       ORDER BY r.ordinality LIMIT 1
    LOOP
      RAISE EXCEPTION USING ERRCODE = 'unique_violation', MESSAGE = format(
        'token_usage: %s.request_id must be new or repeat the same facts, got %s with another %s',
        CASE argument WHEN 'event' THEN 'event' ELSE format('events[%s]', different.n) END,
        @extschema@._token_usage_shown(different.request_id), different.field);
    END LOOP;
  END IF;
  SELECT coalesce(jsonb_agg(CASE
    WHEN f.row IS NOT NULL AND i.id IS NULL THEN jsonb_build_object(
      'id', f.row -> 'id', 'created', false, 'prompt_tokens', f.row -> 'prompt_tokens',
      'completion_tokens', f.row -> 'completion_tokens',
      'total_tokens', coalesce(nullif(f.row -> 'total_tokens', 'null'), to_jsonb(r.prompt_tokens + r.completion_tokens)),
      'cost_usd', to_jsonb(@extschema@._token_usage_half_even((f.row ->> 'cost_usd')::numeric, 12)),
      'cost_rub', to_jsonb(@extschema@._token_usage_half_even((f.row ->> 'cost_rub')::numeric, 12)),
      'warnings', '[]'::jsonb)
    ELSE jsonb_build_object(
      'id', CASE WHEN number THEN to_jsonb(i.id::bigint) ELSE to_jsonb(i.id) END, 'created', true,
      'prompt_tokens', r.prompt_tokens::bigint, 'completion_tokens', r.completion_tokens::bigint,
      'total_tokens', (r.prompt_tokens + r.completion_tokens)::bigint,
      'cost_usd', @extschema@._token_usage_half_even(i.usd, 12), 'cost_rub', @extschema@._token_usage_half_even(i.rub, 12),
      'warnings', coalesce(r.warnings, '[]') || CASE WHEN i.usd IS NULL AND r.not_tokens IS NOT TRUE
        THEN jsonb_build_array(format('no price is known for %s %s', r.ai_provider, r.ai_model)) ELSE '[]' END)
    END ORDER BY r.ordinality), '[]')
    INTO results
    FROM (SELECT r.*, row_number() OVER (PARTITION BY request_id ORDER BY ordinality) AS nth
            FROM ROWS FROM (jsonb_to_recordset(rows) AS (
              ai_provider text, ai_model text, prompt_tokens numeric, completion_tokens numeric, warnings jsonb,
              not_tokens boolean, request_id text)) WITH ORDINALITY AS r) r
    -- Inserted rows without a request_id come in the order of their events.
    LEFT JOIN (SELECT n.*, row_number() OVER (PARTITION BY n.key ORDER BY n.n) AS nth
                 FROM unnest(ids, keys, usd, rub) WITH ORDINALITY n (id, key, usd, rub, n)) i
      ON i.key IS NOT DISTINCT FROM r.request_id AND i.nth = r.nth
   CROSS JOIN LATERAL (SELECT present -> r.request_id AS row) f;
  RETURN results;
END
$function$;

-- This one has no search_path of its own and so uses no operators.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_record(path name[], events jsonb, argument text) RETURNS jsonb
LANGUAGE plpgsql AS $function$
DECLARE
  plan record := @extschema@._token_usage_record_plan(path, events, argument);
  wanted bigint[] := @extschema@._token_usage_record_left(plan.request_ids, NULL, NULL);
  ids text[] := '{}';
  keys text[] := '{}';
  usd numeric[] := '{}';
  rub numeric[] := '{}';
  new_ids text[];
  new_keys text[];
  new_usd numeric[];
  new_rub numeric[];
  sought text[];
  found jsonb;
BEGIN
  -- More than once only where a row that was in the way is deleted in the same moment.
  FOR attempt IN 1 .. 5 LOOP
    IF wanted IS NOT NULL THEN
      EXECUTE plan.insert_text INTO new_ids, new_keys, new_usd, new_rub
        USING plan.rows, plan.usd, plan.rub, plan.sources, wanted;
      ids := pg_catalog.array_cat(ids, new_ids);
      keys := pg_catalog.array_cat(keys, new_keys);
      usd := pg_catalog.array_cat(usd, new_usd);
      rub := pg_catalog.array_cat(rub, new_rub);
    END IF;
    sought := @extschema@._token_usage_record_seek(plan.request_ids, keys);
    EXIT WHEN sought IS NULL;
    EXECUTE plan.find_text INTO found USING sought;
    found := coalesce(found, '{}');
    wanted := @extschema@._token_usage_record_left(plan.request_ids, keys, found);
    EXIT WHEN wanted IS NULL;
  END LOOP;
  IF wanted IS NOT NULL AND sought IS NOT NULL THEN
    PERFORM @extschema@._token_usage_record_hidden(plan.request_ids, wanted[1], argument);
  END IF;
  RETURN @extschema@._token_usage_record_results(
    plan.ledger, plan.rows, plan.request_ids, argument, ids, keys, usd, rub, found);
END
$function$;

-- token_usage_record(event): inserts the ledger row of one event and returns {"id", "created", "prompt_tokens",
-- "completion_tokens", "total_tokens", "cost_usd", "cost_rub", "warnings"}. An event with a request_id that is there
-- with the same facts changes nothing. Errors: 22023 naming the key; 23505 for the same request_id with other facts.
CREATE OR REPLACE FUNCTION @extschema@.token_usage_record(event jsonb) RETURNS jsonb
LANGUAGE sql AS $function$
  SELECT pg_catalog.jsonb_array_element(@extschema@._token_usage_record(
    pg_catalog.current_schemas(false),
    CASE WHEN event IS NOT NULL THEN pg_catalog.jsonb_build_array(event) END, 'event'), 0)
$function$;

-- token_usage_record_batch(events): an array of events, all or nothing; errors name the event (`events[17].user_id`).
-- Returns the array of their results, in order.
CREATE OR REPLACE FUNCTION @extschema@.token_usage_record_batch(events jsonb) RETURNS jsonb
LANGUAGE sql AS $function$
  SELECT @extschema@._token_usage_record(pg_catalog.current_schemas(false), events, 'events')
$function$;
