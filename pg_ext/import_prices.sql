-- token_usage_import_prices: reads the two catalogues that people keep up to date into the price book. Section 6 of
-- the contract. Importing again changes only what changed, and never the past: what differs holds from the day of
-- the import. core/catalogue.cpp is the twin.
--   pydantic/genai-prices (data.json, data_slim.json): https://github.com/pydantic/genai-prices, prices/units.yml
--   LiteLLM (model_prices_and_context_window.json): https://docs.litellm.ai/docs/provider_registration/add_model_pricing

-- The class that a catalogue's field prices, and what turns its number into USD per million.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_price_field(
  catalogue text, field text, OUT class text, OUT factor integer)
LANGUAGE sql IMMUTABLE AS $function$
  SELECT pg_catalog.max(f.class), pg_catalog.max(f.factor)
    FROM (VALUES
      ('genai-prices', 'input_mtok', 'input', 1), ('genai-prices', 'output_mtok', 'output', 1),
      ('genai-prices', 'cache_read_mtok', 'cache_read', 1), ('genai-prices', 'cache_write_mtok', 'cache_write', 1),
      ('genai-prices', 'cache_write_1h_mtok', 'cache_write_1h', 1),
      ('genai-prices', 'cache_audio_read_mtok', 'cache_read_audio', 1),
      ('genai-prices', 'cache_image_read_mtok', 'cache_read_image', 1),
      ('genai-prices', 'output_reasoning_mtok', 'reasoning', 1),
      ('genai-prices', 'input_audio_mtok', 'input_audio', 1), ('genai-prices', 'output_audio_mtok', 'output_audio', 1),
      ('genai-prices', 'input_image_mtok', 'input_image', 1), ('genai-prices', 'output_image_mtok', 'output_image', 1),
      ('genai-prices', 'web_searches_kcount', 'web_search', 1000), ('genai-prices', 'requests_kcount', 'request', 1000),
      ('litellm', 'input_cost_per_token', 'input', 1000000), ('litellm', 'output_cost_per_token', 'output', 1000000),
      ('litellm', 'cache_read_input_token_cost', 'cache_read', 1000000),
      ('litellm', 'cache_creation_input_token_cost', 'cache_write', 1000000),
      ('litellm', 'cache_creation_input_token_cost_above_1hr', 'cache_write_1h', 1000000),
      ('litellm', 'cache_read_input_audio_token_cost', 'cache_read_audio', 1000000),
      ('litellm', 'cache_read_input_token_cost_per_audio_token', 'cache_read_audio', 1000000),
      ('litellm', 'cache_read_input_image_token_cost', 'cache_read_image', 1000000),
      ('litellm', 'output_cost_per_reasoning_token', 'reasoning', 1000000),
      ('litellm', 'input_cost_per_audio_token', 'input_audio', 1000000),
      ('litellm', 'output_cost_per_audio_token', 'output_audio', 1000000),
      ('litellm', 'input_cost_per_image_token', 'input_image', 1000000),
      ('litellm', 'output_cost_per_image_token', 'output_image', 1000000)) AS f (catalogue, field, class, factor)
   WHERE f.catalogue OPERATOR(pg_catalog.=) $1 AND f.field OPERATOR(pg_catalog.=) $2
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_is_regex(pattern text) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE AS $function$
BEGIN
  PERFORM '' ~ pattern;
  RETURN true;
EXCEPTION WHEN invalid_regular_expression THEN
  RETURN false;
END
$function$;

-- Whether a value is a match clause as the catalogues write it: one key, of a known kind.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_is_match(clause jsonb) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE AS $function$
DECLARE
  key text;
  value jsonb;
BEGIN
  IF pg_catalog.jsonb_typeof(clause) IS DISTINCT FROM 'object'
     OR (SELECT pg_catalog.count(*) FROM pg_catalog.jsonb_object_keys(clause)) <> 1 THEN
    RETURN false;
  END IF;
  SELECT e.key, e.value INTO key, value FROM pg_catalog.jsonb_each(clause) e;
  IF key IN ('or', 'and') THEN
    RETURN pg_catalog.jsonb_typeof(value) = 'array' AND (
      SELECT coalesce(pg_catalog.bool_and(@extschema@._token_usage_is_match(i)), true)
        FROM pg_catalog.jsonb_array_elements(value) i);
  END IF;
  RETURN pg_catalog.jsonb_typeof(value) = 'string'
    AND (key IN ('equals', 'starts_with', 'ends_with', 'contains')
         OR (key = 'regex' AND @extschema@._token_usage_is_regex(value #>> '{}')));
END
$function$;

-- A price as USD per million to 18 places; another value is an error that names `path`.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_read_price(value jsonb, factor integer, path text) RETURNS numeric
LANGUAGE plpgsql IMMUTABLE AS $function$
BEGIN
  IF pg_catalog.jsonb_typeof(value) = 'number' AND value::numeric >= 0
     AND value::numeric * factor < 170141183460469231731 THEN
    RETURN @extschema@._token_usage_half_even(value::numeric * factor, 18);
  END IF;
  PERFORM @extschema@._token_usage_bad_argument(path, 'a number from 0', value::text);
END
$function$;

-- The non-empty text at a key of an object.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_read_name(object jsonb, key text, path text) RETURNS text
LANGUAGE plpgsql IMMUTABLE AS $function$
BEGIN
  IF pg_catalog.jsonb_typeof(object) <> 'object' THEN
    PERFORM @extschema@._token_usage_bad_argument(path, 'an object', object::text);
  ELSIF coalesce(pg_catalog.jsonb_typeof(object -> key) <> 'string' OR object -> key = '""', true) THEN
    PERFORM @extschema@._token_usage_bad_argument(path || '.' || key, 'a non-empty text', nullif(object -> key, 'null')::text);
  END IF;
  RETURN object ->> key;
END
$function$;

-- `HH:MM`, `HH:MM:SS`, with or without Z, to 24:00; NULL for another value.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_read_hour(value jsonb) RETURNS time
LANGUAGE sql IMMUTABLE AS $function$
  SELECT CASE WHEN pg_catalog.jsonb_typeof(value) OPERATOR(pg_catalog.=) 'string' AND (value OPERATOR(pg_catalog.#>>) '{}')
                OPERATOR(pg_catalog.~) '^(([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?|24:00(:00)?)Z?$'
              THEN pg_catalog.rtrim(value OPERATOR(pg_catalog.#>>) '{}', 'Z')::time END
$function$;

-- The prices of one entry of genai-prices, and the keys that have no class here (class NULL).
CREATE OR REPLACE FUNCTION @extschema@._token_usage_genai_prices(
  prices jsonb, path text, OUT class text, OUT tier bigint, OUT price numeric, OUT ignored text)
RETURNS SETOF record LANGUAGE plpgsql IMMUTABLE AS $function$
#variable_conflict use_variable
DECLARE
  item record;
  field record;
  step jsonb;
  place text;
BEGIN
  IF pg_catalog.jsonb_typeof(prices) <> 'object' THEN
    PERFORM @extschema@._token_usage_bad_argument(path, 'an object', prices::text);
  END IF;
  FOR item IN SELECT e.key, e.value FROM pg_catalog.jsonb_each(prices) e LOOP
    field := @extschema@._token_usage_price_field('genai-prices', item.key);
    place := path || '.' || item.key;
    class := field.class;
    tier := 0;
    ignored := NULL;
    IF class IS NULL THEN
      ignored := item.key;
      RETURN NEXT;
    ELSIF pg_catalog.jsonb_typeof(item.value) = 'object' THEN
      IF coalesce(item.value -> 'base', 'null') = 'null'
         OR pg_catalog.jsonb_typeof(item.value -> 'tiers') IS DISTINCT FROM 'array' THEN
        PERFORM @extschema@._token_usage_bad_argument(place, 'a number or a base with tiers', item.value::text);
      END IF;
      price := @extschema@._token_usage_read_price(item.value -> 'base', field.factor, place || '.base');
      RETURN NEXT;
      FOR step IN SELECT i FROM pg_catalog.jsonb_array_elements(item.value -> 'tiers') i LOOP
        IF pg_catalog.jsonb_typeof(step) <> 'object' THEN
          PERFORM @extschema@._token_usage_bad_argument(place || '.tiers', 'an object', step::text);
        END IF;
        tier := @extschema@._token_usage_count(nullif(step -> 'start', 'null'), place || '.tiers.start');
        IF tier = 0 OR coalesce(step -> 'price', 'null') = 'null' THEN
          PERFORM @extschema@._token_usage_bad_argument(place || '.tiers', 'a list of start and price', step::text);
        END IF;
        price := @extschema@._token_usage_read_price(step -> 'price', field.factor, place || '.tiers.price');
        RETURN NEXT;
      END LOOP;
    ELSIF item.value <> 'null' THEN
      price := @extschema@._token_usage_read_price(item.value, field.factor, place);
      RETURN NEXT;
    END IF;
  END LOOP;
END
$function$;

-- The price list of a genai-prices model, cut into segments of time. In force is the last entry whose condition
-- holds, or else the first one; an entry for a time of day lies over the whole-day one before it.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_genai_segments(
  prices jsonb, path text, OUT kind text, OUT since timestamptz, OUT class text, OUT tier bigint,
  OUT time_from time, OUT time_to time, OUT price numeric)
RETURNS SETOF record LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
DECLARE
  entry jsonb;
  place text;
  starts timestamptz[] := '{}';
  froms time[] := '{}';
  tos time[] := '{}';
  entries jsonb[] := '{}';
  begun timestamptz;
  hour_from time;
  hour_to time;
  base integer;
  item record;
BEGIN
  IF jsonb_typeof(prices) <> 'array' THEN
    prices := jsonb_build_array(jsonb_build_object('prices', prices));
    path := "left"(path, -7);
  END IF;
  FOR i IN 0 .. jsonb_array_length(prices) - 1 LOOP
    entry := prices -> i;
    place := CASE WHEN path LIKE '%.prices' THEN format('%s[%s]', path, i) ELSE path END;
    IF jsonb_typeof(entry) <> 'object' THEN
      PERFORM @extschema@._token_usage_bad_argument(place, 'an object', entry::text);
    ELSIF coalesce(entry -> 'prices', 'null') = 'null' THEN
      PERFORM @extschema@._token_usage_bad_argument(place || '.prices', 'an object', NULL);
    END IF;
    SELECT coalesce(jsonb_agg(to_jsonb(p)), '[]') INTO entry
      FROM @extschema@._token_usage_genai_prices(entry -> 'prices', place || '.prices') p;
    entries := entries || entry;
    begun := NULL;
    hour_from := NULL;
    hour_to := NULL;
    entry := prices -> i -> 'constraint';
    IF entry <> 'null' THEN
      IF jsonb_typeof(entry -> 'start_date') = 'string' AND length(entry ->> 'start_date') = 10 THEN
        begun := @extschema@._token_usage_json_instant(entry -> 'start_date');
      END IF;
      IF begun IS NULL THEN
        hour_from := @extschema@._token_usage_read_hour(entry -> 'start_time');
        hour_to := @extschema@._token_usage_read_hour(entry -> 'end_time');
        IF hour_from IS NULL OR hour_to IS NULL THEN
          PERFORM @extschema@._token_usage_bad_argument(
            place || '.constraint', 'a start_date or a start_time and end_time', entry::text);
        END IF;
      END IF;
    END IF;
    starts := starts || begun;
    froms := froms || hour_from;
    tos := tos || hour_to;
  END LOOP;
  FOR item IN SELECT DISTINCT coalesce(s, '-infinity') AS since
                FROM unnest(starts || '-infinity'::timestamptz) s ORDER BY 1 LOOP
    kind := 'segment';
    since := item.since;
    class := NULL;
    tier := NULL;
    time_from := NULL;
    time_to := NULL;
    price := NULL;
    RETURN NEXT;
    kind := 'price';
    base := 1;
    FOR i IN 1 .. cardinality(entries) LOOP
      IF froms[i] IS NULL AND (starts[i] IS NULL OR starts[i] <= since) THEN
        base := i;
      END IF;
    END LOOP;
    FOR i IN base .. cardinality(entries) LOOP
      CONTINUE WHEN i > base AND froms[i] IS NULL;
      time_from := CASE WHEN i > base THEN froms[i] ELSE '00:00' END;
      time_to := CASE WHEN i > base THEN tos[i] ELSE '24:00' END;
      FOR class, tier, price IN
        SELECT p.class, p.tier, p.price FROM jsonb_to_recordset(entries[i]) AS p (class text, tier bigint, price numeric)
         WHERE p.class IS NOT NULL LOOP
        RETURN NEXT;
      END LOOP;
    END LOOP;
  END LOOP;
  kind := 'ignored';
  FOR class IN SELECT DISTINCT p.ignored FROM unnest(entries) e, jsonb_to_recordset(e) AS p (ignored text)
                WHERE p.ignored IS NOT NULL LOOP
    RETURN NEXT;
  END LOOP;
END
$function$;

-- What a genai-prices catalogue says, one row per thing: kind provider, model, segment, price or ignored (its class
-- is then the key that has none here).
CREATE OR REPLACE FUNCTION @extschema@._token_usage_read_genai(
  providers jsonb, OUT kind text, OUT ai_provider text, OUT ai_model text, OUT rank integer, OUT match jsonb,
  OUT fallback jsonb, OUT since timestamptz, OUT class text, OUT tier bigint, OUT time_from time, OUT time_to time,
  OUT price numeric)
RETURNS SETOF record LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
DECLARE
  provider record;
  model record;
  path text;
BEGIN
  FOR provider IN SELECT p.value, p.ordinality::integer - 1 AS n
                    FROM jsonb_array_elements(providers) WITH ORDINALITY p LOOP
    ai_provider := @extschema@._token_usage_read_name(provider.value, 'id', format('catalogue[%s]', provider.n));
    path := 'catalogue.' || ai_provider;
    match := nullif(provider.value -> 'provider_match', 'null');
    IF match IS NOT NULL AND NOT @extschema@._token_usage_is_match(match) THEN
      PERFORM @extschema@._token_usage_bad_argument(path || '.provider_match', 'a match clause', match::text);
    END IF;
    fallback := nullif(provider.value -> 'fallback_model_providers', 'null');
    IF jsonb_typeof(fallback) <> 'array' THEN
      PERFORM @extschema@._token_usage_bad_argument(path || '.fallback_model_providers', 'an array', fallback::text);
    ELSIF jsonb_typeof(provider.value -> 'models') IS DISTINCT FROM 'array' THEN
      PERFORM @extschema@._token_usage_bad_argument(path || '.models', 'an array',
                                             nullif(provider.value -> 'models', 'null')::text);
    END IF;
    kind := 'provider';
    ai_model := NULL;
    rank := provider.n;
    RETURN NEXT;
    fallback := NULL;
    FOR model IN SELECT m.value, m.ordinality::integer - 1 AS n
                   FROM jsonb_array_elements(provider.value -> 'models') WITH ORDINALITY m LOOP
      path := format('catalogue.%s.models[%s]', ai_provider, model.n);
      ai_model := @extschema@._token_usage_read_name(model.value, 'id', path);
      path := format('catalogue.%s.%s', ai_provider, ai_model);
      kind := 'model';
      rank := model.n;
      match := nullif(model.value -> 'match', 'null');
      IF NOT @extschema@._token_usage_is_match(match) THEN
        PERFORM @extschema@._token_usage_bad_argument(path || '.match', 'a match clause', match::text);
      ELSIF coalesce(model.value -> 'prices', 'null') = 'null' THEN
        PERFORM @extschema@._token_usage_bad_argument(path || '.prices', 'an object', NULL);
      END IF;
      RETURN NEXT;
      match := NULL;
      FOR kind, since, class, tier, time_from, time_to, price IN
        SELECT s.kind, s.since, s.class, s.tier, s.time_from, s.time_to, s.price
          FROM @extschema@._token_usage_genai_segments(model.value -> 'prices', path || '.prices') s LOOP
        RETURN NEXT;
      END LOOP;
    END LOOP;
  END LOOP;
END
$function$;

-- The prices of a LiteLLM entry or of one of its tiers.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_litellm_prices(
  entry jsonb, path text, from_tier bigint, OUT class text, OUT tier bigint, OUT price numeric)
RETURNS SETOF record LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_variable
DECLARE
  item record;
  field record;
  above text[];
BEGIN
  FOR item IN SELECT e.key, e.value FROM jsonb_each(entry) e WHERE e.value <> 'null' LOOP
    above := NULL;
    field := @extschema@._token_usage_price_field('litellm', item.key);
    IF field.class IS NULL THEN
      above := regexp_match(item.key, '^(.*)_above_([0-9]{1,9})k_tokens$');
      CONTINUE WHEN above IS NULL;
      field := @extschema@._token_usage_price_field('litellm', above[1]);
      CONTINUE WHEN field.class IS NULL;
    END IF;
    class := field.class;
    tier := greatest(from_tier, coalesce(above[2]::bigint * 1000, 0));
    price := @extschema@._token_usage_read_price(item.value, field.factor, path || '.' || item.key);
    RETURN NEXT;
  END LOOP;
END
$function$;

-- What a LiteLLM catalogue says, in the form of _token_usage_read_genai.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_read_litellm(
  catalogue jsonb, OUT kind text, OUT ai_provider text, OUT ai_model text, OUT rank integer, OUT match jsonb,
  OUT fallback jsonb, OUT since timestamptz, OUT class text, OUT tier bigint, OUT time_from time, OUT time_to time,
  OUT price numeric)
RETURNS SETOF record LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
DECLARE
  entry record;
  step jsonb;
  path text;
  name text;
  id record;
  prices jsonb;
  found text[] := '{}';
  n integer := 0;
BEGIN
  -- A whole name goes before one with a prefix taken off; JSON objects promise no order of their own.
  FOR entry IN SELECT e.key, e.value FROM jsonb_each(catalogue) e WHERE e.key <> 'sample_spec'
                ORDER BY octet_length(e.key), e.key COLLATE "C" LOOP
    path := 'catalogue.' || entry.key;
    IF jsonb_typeof(entry.value) <> 'object' THEN
      PERFORM @extschema@._token_usage_bad_argument(path, 'an object', entry.value::text);
    END IF;
    SELECT coalesce(jsonb_agg(to_jsonb(p)), '[]') INTO prices
      FROM @extschema@._token_usage_litellm_prices(entry.value, path, 0) p;
    step := nullif(entry.value -> 'tiered_pricing', 'null');
    IF jsonb_typeof(step) <> 'array' THEN
      PERFORM @extschema@._token_usage_bad_argument(path || '.tiered_pricing', 'an array', step::text);
    END IF;
    FOR step IN SELECT t FROM jsonb_array_elements(step) t LOOP
      IF jsonb_typeof(step) <> 'object' THEN
        PERFORM @extschema@._token_usage_bad_argument(path || '.tiered_pricing', 'an object', step::text);
      ELSIF jsonb_typeof(step -> 'range') IS DISTINCT FROM 'array' OR step -> 'range' = '[]' THEN
        PERFORM @extschema@._token_usage_bad_argument(path || '.tiered_pricing.range', 'an array',
                                               nullif(step -> 'range', 'null')::text);
      END IF;
      SELECT prices || coalesce(jsonb_agg(to_jsonb(p)), '[]') INTO prices
        FROM @extschema@._token_usage_litellm_prices(
          step, path || '.tiered_pricing',
          @extschema@._token_usage_count(step -> 'range' -> 0, path || '.tiered_pricing.range[0]')) p;
    END LOOP;
    step := nullif(entry.value -> 'search_context_cost_per_query' -> 'search_context_size_medium', 'null');
    IF step IS NOT NULL THEN
      prices := prices || jsonb_build_object('class', 'web_search', 'tier', 0, 'price',
        @extschema@._token_usage_read_price(
          step, 1000000, path || '.search_context_cost_per_query.search_context_size_medium'));
    END IF;
    CONTINUE WHEN prices = '[]';  -- priced by image, second or page, or not at all

    name := @extschema@._token_usage_read_name(entry.value, 'litellm_provider', path);
    id := @extschema@._token_usage_provider(name);
    ai_provider := coalesce(nullif(id.id, ''), id.name);
    ai_model := entry.key;
    match := jsonb_build_array(jsonb_build_object('equals', entry.key));
    IF strpos(entry.key, '/') > 0 THEN
      id := @extschema@._token_usage_provider(split_part(entry.key, '/', 1));
      IF id.id = ai_provider OR id.name = ai_provider THEN
        match := match || jsonb_build_object('equals', substr(entry.key, strpos(entry.key, '/') + 1));
      END IF;
    END IF;
    IF jsonb_typeof(entry.value -> 'aliases') = 'array' THEN
      FOR step IN SELECT a FROM jsonb_array_elements(entry.value -> 'aliases') a WHERE jsonb_typeof(a) = 'string' LOOP
        match := match || jsonb_build_object('equals', step);
      END LOOP;
    END IF;
    match := jsonb_build_object('or', match);
    rank := n;
    n := n + 1;
    kind := 'model';
    RETURN NEXT;
    match := NULL;
    kind := 'segment';
    since := '-infinity';
    RETURN NEXT;
    kind := 'price';
    time_from := '00:00';
    time_to := '24:00';
    FOR class, tier, price IN
      SELECT DISTINCT ON (p.class, p.tier) p.class, p.tier, p.price
        FROM jsonb_array_elements(prices) WITH ORDINALITY i (value, n),
             jsonb_to_record(i.value) AS p (class text, tier bigint, price numeric)
       ORDER BY p.class, p.tier, i.n DESC LOOP
      RETURN NEXT;
    END LOOP;
    IF ai_provider <> ALL (found) THEN
      found := found || ai_provider;
    END IF;
  END LOOP;
  kind := 'provider';
  ai_model := NULL;
  since := NULL;
  FOR ai_provider, rank IN
    SELECT f, row_number() OVER (ORDER BY f COLLATE "C") - 1 FROM unnest(found) f ORDER BY 2 LOOP
    RETURN NEXT;
  END LOOP;
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_import_prices(path name[], catalogue jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  ledger oid := @extschema@._token_usage_ledger(path);
  prices text := @extschema@._token_usage_require_beside(ledger, 'token_usage_price');
  providers text := @extschema@._token_usage_require_beside(ledger, 'token_usage_price_provider');
  models text := @extschema@._token_usage_require_beside(ledger, 'token_usage_price_model');
  columns constant text := 'kind text, ai_provider text, ai_model text, rank integer, match jsonb, fallback jsonb,'
    ' since timestamptz, class text, tier bigint, time_from time, time_to time, price numeric';
  source text := 'genai-prices';
  today timestamptz := date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC';
  things jsonb;
  twice record;
  result jsonb;
BEGIN
  IF catalogue IS NULL THEN
    PERFORM @extschema@._token_usage_bad_argument('catalogue', 'given', NULL);
  ELSIF jsonb_typeof(catalogue) = 'array' THEN
    SELECT coalesce(jsonb_agg(to_jsonb(t)), '[]') INTO things FROM @extschema@._token_usage_read_genai(catalogue) t;
  ELSIF jsonb_typeof(catalogue) <> 'object' THEN
    PERFORM @extschema@._token_usage_bad_argument('catalogue', 'a genai-prices or LiteLLM price list', catalogue::text);
  ELSIF jsonb_typeof(catalogue -> 'providers') = 'array' THEN
    SELECT coalesce(jsonb_agg(to_jsonb(t)), '[]') INTO things
      FROM @extschema@._token_usage_read_genai(catalogue -> 'providers') t;
  ELSE
    source := 'litellm';
    SELECT coalesce(jsonb_agg(to_jsonb(t)), '[]') INTO things FROM @extschema@._token_usage_read_litellm(catalogue) t;
  END IF;
  FOR twice IN
    SELECT concat_ws('.', 'catalogue', t.ai_provider, t.ai_model) AS place
      FROM jsonb_to_recordset(things) AS t (kind text, ai_provider text, ai_model text)
     WHERE t.kind IN ('provider', 'model') GROUP BY t.ai_provider, t.ai_model HAVING count(*) > 1 ORDER BY 1
  LOOP
    PERFORM @extschema@._token_usage_bad_argument(twice.place, 'given once', 'it twice');
  END LOOP;

  -- Two imports at once: the second waits for the first; readers wait for neither.
  EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', prices);
  EXECUTE format($query$
    INSERT INTO %s AS p (source, ai_provider, position, match, fallback)
    SELECT $1, t.ai_provider, t.rank, t.match, t.fallback
      FROM jsonb_to_recordset($2) AS t (%s) WHERE t.kind = 'provider'
        ON CONFLICT (source, ai_provider) DO UPDATE
       SET position = EXCLUDED.position, match = EXCLUDED.match, fallback = EXCLUDED.fallback
     WHERE (p.position, p.match, p.fallback) IS DISTINCT FROM (EXCLUDED.position, EXCLUDED.match, EXCLUDED.fallback)
    $query$, providers, columns) USING source, things;
  EXECUTE format($query$
    INSERT INTO %s AS m (source, ai_provider, ai_model, position, match)
    SELECT $1, t.ai_provider, t.ai_model, t.rank, t.match
      FROM jsonb_to_recordset($2) AS t (%s) WHERE t.kind = 'model'
        ON CONFLICT (source, ai_provider, ai_model) DO UPDATE SET position = EXCLUDED.position, match = EXCLUDED.match
     WHERE (m.position, m.match) IS DISTINCT FROM (EXCLUDED.position, EXCLUDED.match)
    $query$, models, columns) USING source, things;
  EXECUTE format($query$
    WITH thing AS MATERIALIZED (SELECT t.* FROM jsonb_to_recordset($2) AS t (%2$s)),
    existing AS MATERIALIZED (
      SELECT p.* FROM %1$s p
       WHERE p.source = $1 AND (p.ai_provider, p.ai_model) IN (SELECT ai_provider, ai_model FROM thing WHERE kind = 'model')),
    known AS MATERIALIZED (SELECT DISTINCT ai_provider, ai_model FROM existing),
    segment AS (SELECT ai_provider, ai_model, since FROM thing WHERE kind = 'segment'),
    said AS (SELECT ai_provider, ai_model, since, class, tier, time_from, time_to, price FROM thing WHERE kind = 'price'),
    -- Where the price of a key changes from one segment of time to the next: absent is NULL.
    change AS (
      SELECT g.* FROM (
        SELECT k.*, s.since, said.price,
               lag(said.price) OVER (PARTITION BY k.ai_provider, k.ai_model, k.class, k.tier, k.time_from, k.time_to
                                         ORDER BY s.since) AS before
          FROM (SELECT DISTINCT ai_provider, ai_model, class, tier, time_from, time_to FROM said) k
          JOIN segment s USING (ai_provider, ai_model)
          LEFT JOIN said USING (ai_provider, ai_model, since, class, tier, time_from, time_to)) g
       WHERE g.price IS DISTINCT FROM g.before),
    -- What the catalogue says today against what the book says today.
    said_now AS (
      SELECT said.* FROM said JOIN (
        SELECT ai_provider, ai_model, max(since) AS since FROM segment WHERE since <= $3 GROUP BY 1, 2) s
        USING (ai_provider, ai_model, since)),
    book_now AS (
      SELECT DISTINCT ON (ai_provider, ai_model, token_class, tier_start, time_from, time_to)
             ai_provider, ai_model, token_class AS class, tier_start AS tier, time_from, time_to, usd_per_million AS price
        FROM existing WHERE valid_from <= $3
       ORDER BY ai_provider, ai_model, token_class, tier_start, time_from, time_to, valid_from DESC),
    wanted AS (
      SELECT ai_provider, ai_model, class, tier, time_from, time_to, since, price
        FROM change LEFT JOIN known k USING (ai_provider, ai_model) WHERE k.ai_model IS NULL OR since > $3
       UNION ALL
      SELECT ai_provider, ai_model, class, tier, time_from, time_to, $3, s.price
        FROM (SELECT * FROM said_now WHERE (ai_provider, ai_model) IN (SELECT ai_provider, ai_model FROM known)) s
        FULL JOIN book_now b USING (ai_provider, ai_model, class, tier, time_from, time_to)
       WHERE s.price IS DISTINCT FROM b.price),
    added AS (
      INSERT INTO %1$s AS p (source, ai_provider, ai_model, token_class, tier_start, time_from, time_to, valid_from,
                             usd_per_million)
      SELECT $1, ai_provider, ai_model, class, tier, time_from, time_to, since, price FROM wanted w
       WHERE NOT EXISTS (
         SELECT FROM existing e
          WHERE (e.ai_provider, e.ai_model, e.token_class, e.tier_start, e.time_from, e.time_to, e.valid_from)
              = (w.ai_provider, w.ai_model, w.class, w.tier, w.time_from, w.time_to, w.since))
       ORDER BY ai_provider, ai_model, class, tier, time_from, time_to, since
      RETURNING 1),
    changed AS (
      UPDATE %1$s p SET usd_per_million = w.price
        FROM wanted w
       WHERE (p.ai_provider, p.ai_model, p.token_class, p.tier_start, p.time_from, p.time_to, p.valid_from)
           = (w.ai_provider, w.ai_model, w.class, w.tier, w.time_from, w.time_to, w.since)
         AND p.source = $1 AND p.usd_per_million IS DISTINCT FROM w.price
      RETURNING 1),
    removed AS (
      DELETE FROM %1$s p
       USING existing e
       WHERE p.id = e.id AND e.valid_from > $3
         AND NOT EXISTS (
           SELECT FROM wanted w
            WHERE (e.ai_provider, e.ai_model, e.token_class, e.tier_start, e.time_from, e.time_to, e.valid_from)
                = (w.ai_provider, w.ai_model, w.class, w.tier, w.time_from, w.time_to, w.since))
      RETURNING 1)
    SELECT jsonb_build_object(
      'source', $1,
      'providers', (SELECT count(*) FROM thing WHERE kind = 'provider'),
      'models', (SELECT count(*) FROM thing WHERE kind = 'model'),
      'prices_added', (SELECT count(*) FROM added),
      'prices_changed', (SELECT count(*) FROM changed),
      'prices_removed', (SELECT count(*) FROM removed),
      'ignored', (SELECT coalesce(jsonb_agg(DISTINCT class COLLATE "C"), '[]') FROM thing WHERE kind = 'ignored'))
    $query$, prices, columns) INTO result USING source, things, today;
  RETURN result;
END
$function$;

-- token_usage_import_prices(catalogue): takes the JSON of a genai-prices or LiteLLM catalogue into the price book and
-- returns {"source", "providers", "models", "prices_added", "prices_changed", "prices_removed", "ignored"}.
-- Errors: 22023, naming the bad entry; nothing is imported then.
CREATE OR REPLACE FUNCTION @extschema@.token_usage_import_prices(catalogue jsonb) RETURNS jsonb
LANGUAGE sql AS $function$
  SELECT @extschema@._token_usage_import_prices(pg_catalog.current_schemas(false), catalogue)
$function$;
