-- token_usage_record and token_usage_record_batch: one ledger row for each event, once per request_id for ever, all or
-- nothing. Section 5 of the contract.
--
-- In three steps. Reading and pricing run with search_path = pg_catalog, pg_temp. Then rows are inserted with the
-- caller's own search path, because the application's triggers, defaults and row-security policies run inside that
-- statement; its text names everything in full. ON CONFLICT DO NOTHING waits for another session that is
-- recording the same request_id; the row that is there afterwards is read by a statement of its own, which at READ
-- COMMITTED sees it. Rows go in by request_id, so that two batches never wait for each other.

-- The statement that inserts: its parameters are an array for each column of an event, in the order of
-- _token_usage_record_plan(), and one that tells which events to insert (NULL: all).
CREATE OR REPLACE FUNCTION @extschema@._token_usage_record_insert(ledger oid, unique_key boolean) RETURNS text
LANGUAGE plpgsql STABLE AS $function$
DECLARE
  target text := @extschema@._token_usage_table(ledger, 'token_usage'::text);
  col record;
  columns text := '';
  expressions text := '';
  key_type text;
BEGIN
  -- The ledger's own types: an adopted one may have others than ours, and defaults where an event says nothing.
  FOR col IN
    SELECT k.name, k.family, format('%I.%I', n.nspname, y.typname) AS type, pg_get_expr(d.adbin, d.adrelid) AS default_text
      FROM @extschema@._token_usage_columns(ledger) k
      JOIN pg_attribute a ON a.attrelid = ledger AND a.attname = k.name AND a.attnum > 0 AND NOT a.attisdropped
      JOIN pg_type y ON y.oid = a.atttypid JOIN pg_namespace n ON n.oid = y.typnamespace
      LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
     WHERE a.attgenerated = '' AND k.name = ANY (('{user_id,agent_id,ai_provider,ai_model,prompt_tokens,completion_tokens,content_id,workflow_id,'
             'request_id,endpoint,platform,content_type,task_type,execution_time_ms,request_metadata,'
             'response_metadata,created_at,cache_read_tokens,cache_write_tokens,cache_write_1h_tokens,'
             'cache_read_audio_tokens,cache_read_image_tokens,reasoning_tokens,input_audio_tokens,'
             'output_audio_tokens,input_image_tokens,output_image_tokens,web_search_requests,cost_usd,'
             'cost_rub,cost_source}')::text[] || 'total_tokens'::text)
     ORDER BY a.attnum
  LOOP
    columns := concat(columns, ', ', quote_ident(col.name));
    expressions := concat(expressions, ', ', CASE
      WHEN col.name = 'total_tokens' THEN '(r.prompt_tokens OPERATOR(pg_catalog.+) r.completion_tokens)::' || col.type
      WHEN col.name = 'created_at' THEN format('coalesce(%s, %s)',
        CASE col.family WHEN 'timestamp' THEN 'pg_catalog.timezone(''UTC''::pg_catalog.text, r.created_at)'
                        ELSE 'r.created_at' END,
        CASE WHEN col.default_text IS NOT NULL AND col.default_text NOT IN ('now()', 'CURRENT_TIMESTAMP')
             THEN col.default_text
             WHEN col.family = 'timestamp' THEN 'pg_catalog.timezone(''UTC''::pg_catalog.text, pg_catalog.now())'
             ELSE 'pg_catalog.now()' END)
      WHEN col.default_text IS NOT NULL
           AND col.name NOT IN ('prompt_tokens', 'completion_tokens', 'cost_usd', 'cost_rub', 'cost_source')
        THEN format('coalesce(r.%I::%s, %s)', col.name, col.type, col.default_text)
      ELSE format('r.%I::%s', col.name, col.type) END);
    IF col.name = 'request_id' THEN
      key_type := col.type;
    END IF;
  END LOOP;
  RETURN format($text$
    WITH inserted AS (
      INSERT INTO %1$s AS t (%2$s)
      SELECT %3$s
        FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20,
                    $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32)
          WITH ORDINALITY AS r (
             user_id, agent_id, ai_provider, ai_model, prompt_tokens, completion_tokens, content_id,
             workflow_id, request_id, endpoint, platform, content_type, task_type, execution_time_ms,
             request_metadata, response_metadata, created_at, cache_read_tokens, cache_write_tokens,
             cache_write_1h_tokens, cache_read_audio_tokens, cache_read_image_tokens, reasoning_tokens,
             input_audio_tokens, output_audio_tokens, input_image_tokens, output_image_tokens,
             web_search_requests, cost_usd, cost_rub, cost_source, wanted, place)
       WHERE r.wanted IS NOT FALSE%4$s
       ORDER BY r.request_id COLLATE pg_catalog."C" NULLS FIRST, r.place
      %5$s
      RETURNING t.id, t.request_id, t.cost_usd, t.cost_rub)
    SELECT pg_catalog.array_agg(i.id::pg_catalog.text), pg_catalog.array_agg(i.request_id::pg_catalog.text),
           pg_catalog.array_agg(i.cost_usd::pg_catalog.text::pg_catalog.numeric),
           pg_catalog.array_agg(i.cost_rub::pg_catalog.text::pg_catalog.numeric)
      FROM inserted i$text$,
    target, substr(columns, 3), substr(expressions, 3),
    CASE WHEN unique_key THEN '' ELSE format(
      ' AND (r.request_id IS NULL OR NOT EXISTS (SELECT FROM %s o WHERE o.request_id OPERATOR(pg_catalog.=) r.request_id::%s))',
      target, key_type) END,
    CASE WHEN unique_key THEN 'ON CONFLICT (request_id) DO NOTHING' ELSE '' END);
END
$function$;

-- The statement that finds the rows of some request_ids ($1): one JSON object of rows by request_id.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_record_find(ledger oid) RETURNS text
LANGUAGE sql STABLE AS $function$
  SELECT format($text$
    SELECT pg_catalog.jsonb_object_agg(f.request_id, pg_catalog.to_jsonb(f.*)) FROM (
      SELECT DISTINCT ON (t.request_id) t.request_id::pg_catalog.text AS request_id, t.id,
             t.user_id::pg_catalog.text AS user_id, t.agent_id::pg_catalog.text AS agent_id,
             t.ai_provider::pg_catalog.text AS ai_provider, t.ai_model::pg_catalog.text AS ai_model,
             %1$s::pg_catalog.numeric AS prompt_tokens, %2$s::pg_catalog.numeric AS completion_tokens,
             %3$s::pg_catalog.numeric AS total_tokens, %4$s AS cost_usd, %5$s AS cost_rub
        FROM %6$s t WHERE t.request_id OPERATOR(pg_catalog.=) ANY ($1::%7$s[])
       ORDER BY t.request_id, t.id) f$text$,
    l.prompt, l.completion, l.total, l.cost_usd, l.cost_rub, @extschema@._token_usage_table(ledger, 'token_usage'::text),
    (SELECT @extschema@._token_usage_key_type(c.family)
       FROM @extschema@._token_usage_columns(ledger) c WHERE c.name = 'request_id'))
    FROM @extschema@._token_usage_layout(ledger) l
$function$;

-- Reads and prices events: an array for each column, and the statements that insert and find them.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_record_plan(
  path name[], events jsonb, batch boolean, OUT ledger oid, OUT insert_text text, OUT find_text text,
  OUT warnings jsonb[], OUT wanted boolean[],
  OUT user_id text[], OUT agent_id text[], OUT ai_provider text[], OUT ai_model text[], OUT prompt_tokens
  bigint[], OUT completion_tokens bigint[], OUT content_id text[], OUT workflow_id text[], OUT request_id
  text[], OUT endpoint text[], OUT platform text[], OUT content_type text[], OUT task_type text[], OUT
  execution_time_ms bigint[], OUT request_metadata jsonb[], OUT response_metadata jsonb[], OUT created_at
  timestamptz[], OUT cache_read_tokens bigint[], OUT cache_write_tokens bigint[], OUT cache_write_1h_tokens
  bigint[], OUT cache_read_audio_tokens bigint[], OUT cache_read_image_tokens bigint[], OUT reasoning_tokens
  bigint[], OUT input_audio_tokens bigint[], OUT output_audio_tokens bigint[], OUT input_image_tokens bigint[],
  OUT output_image_tokens bigint[], OUT web_search_requests bigint[], OUT cost_usd numeric[], OUT cost_rub
  numeric[], OUT cost_source text[])
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_variable
DECLARE
  rates text;
  family text;
  unique_key boolean;
  starts timestamptz[];
  rate_of numeric[];
  bad record;
BEGIN
  IF events IS NULL THEN
    PERFORM @extschema@._token_usage_bad_argument(CASE WHEN batch THEN 'events' ELSE 'event' END, 'given'::text, NULL::text);
  ELSIF batch AND jsonb_typeof(events) <> 'array' THEN
    PERFORM @extschema@._token_usage_bad_argument('events'::text, 'an array'::text, events::text);
  END IF;
  ledger := @extschema@._token_usage_ledger(path);
  rates := @extschema@._token_usage_beside(ledger, 'token_usage_exchange_rate'::text);
  IF rates IS NOT NULL THEN
    EXECUTE format('SELECT coalesce(array_agg(r.valid_from ORDER BY r.valid_from), ''{}''),'
                   ' coalesce(array_agg(r.rate ORDER BY r.valid_from), ''{}'') FROM %s r WHERE r.currency = ''RUB''', rates)
      INTO starts, rate_of;
  END IF;
  EXECUTE format($query$
    WITH event AS MATERIALIZED (
      SELECT e.*, coalesce(e.created_at, now()) AS at FROM @extschema@._token_usage_read_events($1, $2) e),
    -- The price book is asked once for each model.
    book AS MATERIALIZED (
      SELECT d.ai_provider, d.ai_model, r.rows, u.*
        FROM (SELECT DISTINCT ai_provider, ai_model FROM event WHERE ask_book) d
       CROSS JOIN LATERAL (
         SELECT @extschema@._token_usage_price_rows($3, d.ai_provider, d.ai_model) AS rows OFFSET 0) r
       CROSS JOIN LATERAL @extschema@._token_usage_usual_prices(r.rows) u)
    SELECT array_agg(to_jsonb(e.warnings)),
           array_agg(e.user_id), array_agg(e.agent_id),
           array_agg(e.ai_provider), array_agg(e.ai_model),
           array_agg(e.counts[1]), array_agg(e.counts[2]),
           array_agg(e.content_id), array_agg(e.workflow_id),
           array_agg(e.request_id), array_agg(e.endpoint),
           array_agg(e.platform), array_agg(e.content_type),
           array_agg(e.task_type), array_agg(e.execution_time_ms),
           array_agg(e.request_metadata), array_agg(e.response_metadata),
           array_agg(e.created_at), array_agg(e.counts[4]),
           array_agg(e.counts[5]), array_agg(e.counts[7]),
           array_agg(e.counts[8]), array_agg(e.counts[9]),
           array_agg(e.counts[10]), array_agg(e.counts[11]),
           array_agg(e.counts[12]), array_agg(e.counts[13]),
           array_agg(e.counts[14]), array_agg(e.counts[16]), array_agg(e.usd
          ), array_agg(e.rub), array_agg(e.source)
      FROM (SELECT e.*, coalesce(e.stated_rub, @extschema@._token_usage_half_even(e.converted, 12)) AS rub,
                   coalesce(e.cost_source, CASE WHEN e.usd IS NOT NULL THEN 'price_book' END) AS source
              FROM (SELECT e.*, CASE WHEN e.stated_rub IS NULL THEN e.usd * %2$s END AS converted
                      FROM (SELECT e.*, CASE WHEN e.ask_book THEN @extschema@._token_usage_half_even(e.cost, 12)
                                             ELSE e.stated_usd END AS usd
                              FROM (SELECT e.*, CASE WHEN e.ask_book THEN %1$s END AS cost
                                      FROM event e LEFT JOIN book p
                                        ON p.ai_provider = e.ai_provider AND p.ai_model = e.ai_model OFFSET 0) e
                            OFFSET 0) e
                    OFFSET 0) e
             ORDER BY e.place) e$query$,
    @extschema@._token_usage_cost_expression(),
    -- A few rates are looked up in an array, which costs less than an index search for each event.
    CASE WHEN rates IS NULL THEN 'NULL::numeric'
         WHEN cardinality(starts) < 200 THEN '($5)[width_bucket(e.at, $4)]'
         ELSE format('(SELECT x.rate FROM %s x WHERE x.currency = ''RUB'' AND x.valid_from <= e.at'
                     ' ORDER BY x.valid_from DESC LIMIT 1)', rates) END)
    INTO warnings,
         user_id, agent_id, ai_provider, ai_model, prompt_tokens, completion_tokens, content_id, workflow_id,
         request_id, endpoint, platform, content_type, task_type, execution_time_ms, request_metadata,
         response_metadata, created_at, cache_read_tokens, cache_write_tokens, cache_write_1h_tokens,
         cache_read_audio_tokens, cache_read_image_tokens, reasoning_tokens, input_audio_tokens,
         output_audio_tokens, input_image_tokens, output_image_tokens, web_search_requests, cost_usd, cost_rub,
         cost_source
    USING events, batch, ledger, starts, rate_of;

  family := (SELECT c.family FROM @extschema@._token_usage_columns(ledger) c WHERE c.name = 'user_id');
  IF family IN ('integer', 'uuid') THEN
    FOR bad IN
      SELECT u.id, u.n FROM unnest(user_id) WITH ORDINALITY u (id, n)
       WHERE CASE family WHEN 'integer' THEN u.id !~ '^ *[+-]?[0-9]{1,18} *$' AND NOT (
                           u.id ~ '^ *[+-]?[0-9]{1,30} *$' AND
                           u.id::numeric BETWEEN -9223372036854775808 AND 9223372036854775807)
             ELSE u.id !~* '^(([0-9a-f]{4}-?){7}[0-9a-f]{4}|[{]([0-9a-f]{4}-?){7}[0-9a-f]{4}[}])$' END
       LIMIT 1
    LOOP
      PERFORM @extschema@._token_usage_bad_argument(
        CASE WHEN batch THEN format('events[%s].user_id', bad.n - 1) ELSE 'event.user_id' END,
        CASE family WHEN 'uuid' THEN 'a uuid' ELSE 'a bigint' END, bad.id);
    END LOOP;
  END IF;
  IF 'uuid' = (SELECT c.family FROM @extschema@._token_usage_columns(ledger) c WHERE c.name = 'request_id') THEN
    request_id := request_id::uuid[]::text[];
  END IF;
  unique_key := EXISTS (
    SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attname = 'request_id'
     WHERE i.indrelid = ledger AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL
       AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum);
  IF NOT unique_key THEN
    -- An adopted table in which an id repeats: sessions that record the same id take turns.
    PERFORM pg_advisory_xact_lock(hashtextextended(k.id, ledger::bigint))
       FROM (SELECT DISTINCT r.id COLLATE "C" AS id FROM unnest(request_id) r (id) WHERE r.id IS NOT NULL ORDER BY 1) k;
    wanted := @extschema@._token_usage_record_left(request_id, '{}'::text[], '{}'::jsonb);
  END IF;
  insert_text := @extschema@._token_usage_record_insert(ledger, unique_key);
  find_text := @extschema@._token_usage_record_find(ledger);
END
$function$;

-- The request_ids whose rows must be looked for: not inserted just now, or repeated in the batch. NULL: none.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_record_seek(request_ids text[], keys text[]) RETURNS text[]
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
  SELECT CASE WHEN cardinality(request_ids) > cardinality(keys) THEN (
    SELECT array_agg(s.id) FROM (
      SELECT r.id FROM unnest(request_ids) r (id) WHERE r.id IS NOT NULL GROUP BY r.id HAVING count(*) > 1
       UNION
      (SELECT r.id FROM unnest(request_ids) r (id) WHERE r.id IS NOT NULL EXCEPT SELECT k FROM unnest(keys) k)) s) END
$function$;

-- Which events are still to be inserted: the first of each request_id that has no row in `present`. NULL: none.
-- Those without a request_id went in with the first statement; before it, `keys` is empty.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_record_left(request_ids text[], keys text[], present jsonb)
RETURNS boolean[]
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
  SELECT CASE WHEN bool_or(s.wanted) THEN array_agg(s.wanted ORDER BY s.n) END
    FROM (SELECT r.n, CASE WHEN r.id IS NULL THEN present = '{}' AND cardinality(keys) = 0
                           ELSE NOT present ? r.id AND NOT coalesce(r.id = ANY (keys), false)
                                AND row_number() OVER (PARTITION BY r.id ORDER BY r.n) = 1 END AS wanted
            FROM unnest(request_ids) WITH ORDINALITY r (id, n)) s
$function$;

-- A row with this request_id is there and the caller may not see it: another user's.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_record_hidden(request_ids text[], wanted boolean[], batch boolean)
RETURNS void LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  n integer := array_position(wanted, true);
BEGIN
  RAISE EXCEPTION USING ERRCODE = 'unique_violation', MESSAGE = format(
    'token_usage: %s.request_id must be new or repeat the same facts, got %s with another user_id',
    CASE WHEN batch THEN format('events[%s]', n - 1) ELSE 'event' END, @extschema@._token_usage_shown(request_ids[n]));
END
$function$;

-- Events that repeat a request_id must repeat its facts.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_record_check(
  ledger oid, batch boolean, present jsonb, request_ids text[], users text[], agents text[], providers text[],
  models text[], prompts bigint[], completions bigint[]) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  family text := (SELECT c.family FROM @extschema@._token_usage_columns(ledger) c WHERE c.name = 'user_id');
  different record;
BEGIN
  FOR different IN
    SELECT d.field, r.id, r.n - 1 AS n
      FROM unnest(request_ids, users, agents, providers, models, prompts, completions)
             WITH ORDINALITY AS r (id, user_id, agent, provider, model, prompt, completion, n)
     CROSS JOIN LATERAL (SELECT present -> r.id AS row) f
     CROSS JOIN LATERAL (SELECT CASE
       WHEN f.row ->> 'user_id' IS DISTINCT FROM CASE family
              WHEN 'integer' THEN r.user_id::bigint::text WHEN 'uuid' THEN r.user_id::uuid::text ELSE r.user_id END
         THEN 'user_id'
       WHEN f.row ->> 'agent_id' IS DISTINCT FROM r.agent THEN 'agent_id'
       WHEN f.row ->> 'ai_provider' IS DISTINCT FROM r.provider THEN 'ai_provider'
       WHEN f.row ->> 'ai_model' IS DISTINCT FROM r.model THEN 'ai_model'
       WHEN (f.row -> 'prompt_tokens')::numeric IS DISTINCT FROM r.prompt THEN 'prompt_tokens'
       WHEN (f.row -> 'completion_tokens')::numeric IS DISTINCT FROM r.completion THEN 'completion_tokens'
       END AS field) d
     WHERE f.row IS NOT NULL AND d.field IS NOT NULL
     ORDER BY r.n LIMIT 1
  LOOP
    RAISE EXCEPTION USING ERRCODE = 'unique_violation', MESSAGE = format(
      'token_usage: %s.request_id must be new or repeat the same facts, got %s with another %s',
      CASE WHEN batch THEN format('events[%s]', different.n) ELSE 'event' END,
      @extschema@._token_usage_shown(different.id), different.field);
  END LOOP;
END
$function$;

-- The results, in order. ids, keys, usd and rub are what was inserted, in the order of insertion: those without a
-- request_id in the order of their events. `present`: rows that were there, by request_id; NULL where all was inserted.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_record_results(
  ledger oid, present jsonb, request_ids text[], providers text[], models text[], prompts bigint[], completions bigint[],
  sources text[], warnings jsonb[], ids text[], keys text[], usd numeric[], rub numeric[]) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
  SELECT coalesce(jsonb_agg(CASE
    WHEN i.id IS NULL THEN jsonb_build_object(
      'id', f.row -> 'id', 'created', false, 'prompt_tokens', f.row -> 'prompt_tokens',
      'completion_tokens', f.row -> 'completion_tokens', 'total_tokens', f.row -> 'total_tokens',
      'cost_usd', trim_scale((f.row ->> 'cost_usd')::numeric), 'cost_rub', trim_scale((f.row ->> 'cost_rub')::numeric),
      'warnings', '[]'::jsonb)
    ELSE jsonb_build_object(
      'id', CASE WHEN k.number THEN to_jsonb(i.id::bigint) ELSE to_jsonb(i.id) END, 'created', true,
      'prompt_tokens', r.prompt, 'completion_tokens', r.completion, 'total_tokens', r.prompt + r.completion,
      'cost_usd', @extschema@._token_usage_half_even(i.usd, 12),
      'cost_rub', @extschema@._token_usage_half_even(i.rub, 12),
      'warnings', CASE WHEN i.usd IS NULL AND r.source IS DISTINCT FROM 'other'
                       THEN r.warnings || jsonb_build_array(format('no price is known for %s %s', r.provider, r.model))
                       ELSE r.warnings END) END ORDER BY r.n), '[]')
    FROM (SELECT u.*, CASE WHEN u.id IS NULL THEN u.n - count(u.id) OVER (ORDER BY u.n)
                           WHEN present IS NULL THEN 1
                           ELSE row_number() OVER (PARTITION BY u.id ORDER BY u.n) END AS nth
            FROM unnest(request_ids, providers, models, prompts, completions, sources, warnings)
                   WITH ORDINALITY AS u (id, provider, model, prompt, completion, source, warnings, n)) r
    LEFT JOIN (SELECT u.*, CASE WHEN u.key IS NULL THEN u.n - count(u.key) OVER (ORDER BY u.n) ELSE 1 END AS nth
                 FROM unnest(ids, keys, usd, rub) WITH ORDINALITY AS u (id, key, usd, rub, n)) i
      ON coalesce(i.key, '') = coalesce(r.id, '') AND i.nth = r.nth
   CROSS JOIN LATERAL (SELECT present -> r.id AS row) f
   CROSS JOIN (
     SELECT c.family = 'integer' AS number FROM @extschema@._token_usage_columns(ledger) c WHERE c.name = 'id') k
$function$;

-- This one has no search_path of its own and so uses no operators.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_record(path name[], events jsonb, batch boolean) RETURNS jsonb
LANGUAGE plpgsql AS $function$
DECLARE
  plan record := @extschema@._token_usage_record_plan(path, events, batch);
  wanted boolean[] := plan.wanted;
  ids text[] := '{}';
  keys text[] := '{}';
  usd numeric[] := '{}';
  rub numeric[] := '{}';
  new_ids text[];
  new_keys text[];
  new_usd numeric[];
  new_rub numeric[];
  sought text[];
  present jsonb;
BEGIN
  -- More than once only where a row that was in the way is deleted in the same moment.
  FOR attempt IN 1 .. 5 LOOP
    EXECUTE plan.insert_text INTO new_ids, new_keys, new_usd, new_rub
      USING plan.user_id, plan.agent_id, plan.ai_provider, plan.ai_model, plan.prompt_tokens,
              plan.completion_tokens, plan.content_id, plan.workflow_id, plan.request_id, plan.endpoint,
              plan.platform, plan.content_type, plan.task_type, plan.execution_time_ms, plan.request_metadata,
              plan.response_metadata, plan.created_at, plan.cache_read_tokens, plan.cache_write_tokens,
              plan.cache_write_1h_tokens, plan.cache_read_audio_tokens, plan.cache_read_image_tokens,
              plan.reasoning_tokens, plan.input_audio_tokens, plan.output_audio_tokens, plan.input_image_tokens,
              plan.output_image_tokens, plan.web_search_requests, plan.cost_usd, plan.cost_rub, plan.cost_source, wanted;
    ids := pg_catalog.array_cat(ids, new_ids);
    keys := pg_catalog.array_cat(keys, new_keys);
    usd := pg_catalog.array_cat(usd, new_usd);
    rub := pg_catalog.array_cat(rub, new_rub);
    sought := @extschema@._token_usage_record_seek(plan.request_id, keys);
    EXIT WHEN sought IS NULL;
    EXECUTE plan.find_text INTO present USING sought;
    present := coalesce(present, '{}'::pg_catalog.jsonb);
    PERFORM @extschema@._token_usage_record_check(
      plan.ledger, batch, present, plan.request_id, plan.user_id, plan.agent_id, plan.ai_provider, plan.ai_model,
      plan.prompt_tokens, plan.completion_tokens);
    wanted := @extschema@._token_usage_record_left(plan.request_id, pg_catalog.array_append(keys, NULL), present);
    EXIT WHEN wanted IS NULL;
  END LOOP;
  IF sought IS NOT NULL AND wanted IS NOT NULL THEN
    PERFORM @extschema@._token_usage_record_hidden(plan.request_id, wanted, batch);
  END IF;
  RETURN @extschema@._token_usage_record_results(
    plan.ledger, present, plan.request_id, plan.ai_provider, plan.ai_model, plan.prompt_tokens, plan.completion_tokens,
    plan.cost_source, plan.warnings, ids, keys, usd, rub);
END
$function$;

-- token_usage_record(event): inserts the ledger row of one event and returns {"id", "created", "prompt_tokens",
-- "completion_tokens", "total_tokens", "cost_usd", "cost_rub", "warnings"}. An event with a request_id that is there
-- with the same facts changes nothing. Errors: 22023 naming the key; 23505 for the same request_id with other facts.
CREATE OR REPLACE FUNCTION @extschema@.token_usage_record(event jsonb) RETURNS jsonb
LANGUAGE sql AS $function$
  SELECT pg_catalog.jsonb_array_element(
    @extschema@._token_usage_record(pg_catalog.current_schemas(false), event, false), 0)
$function$;

-- token_usage_record_batch(events): an array of events, all or nothing; errors name the event (`events[17].user_id`).
-- Returns the array of their results, in order.
CREATE OR REPLACE FUNCTION @extschema@.token_usage_record_batch(events jsonb) RETURNS jsonb
LANGUAGE sql AS $function$
  SELECT @extschema@._token_usage_record(pg_catalog.current_schemas(false), events, true)
$function$;
