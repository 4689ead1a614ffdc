-- token_usage_from_response in PL/pgSQL: the interpreter of core/usage_rules.json for servers that take no C++.
-- Section 5 of the contract. core/usage.cpp is its twin; both read the same rules, which pg_ext/assemble.mk puts in
-- here, and neither knows a provider's name. jsonb has dropped all but the last of
-- repeated keys before we see them, so unlike the SQLite edition this one cannot refuse them.
--
-- It loops over indexes and never runs a query, because a query costs more than all the rest together.

CREATE OR REPLACE FUNCTION @extschema@._token_usage_rules() RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT $rules$
@usage_rules@
  $rules$::jsonb
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_sum_refused(name text) RETURNS void
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT @extschema@._token_usage_bad_argument(name, 'counts whose sum is at most 9223372036854775807', 'more')
$function$;

-- a + b, both from 0 on; past 2^63-1 it is an error that names the usage object.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_add(a bigint, b bigint, name text) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $function$
BEGIN
  IF a > 9223372036854775807 - b THEN
    PERFORM @extschema@._token_usage_sum_refused(name);
  END IF;
  RETURN a + b;
END
$function$;

-- The value at a dotted path of object `u`, NULL where absent or null. What must be walked through and is no
-- object is an error. A step `list[field=value]` sums the last step's counts over the matching elements.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_walk(u jsonb, name text, path text) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $function$
DECLARE
  steps text[];
  step text;
  place text := name;
  value jsonb := u;
  condition text[];
  element jsonb;
  total bigint;
  i integer;
BEGIN
  IF pg_catalog.strpos(path, '.') = 0 THEN
    value := u -> path;
    RETURN CASE WHEN value <> 'null' THEN value END;
  END IF;
  steps := pg_catalog.string_to_array(path, '.');
  FOREACH step IN ARRAY steps LOOP
    IF pg_catalog.jsonb_typeof(value) <> 'object' THEN
      PERFORM @extschema@._token_usage_bad_argument(place, 'an object', value::text);
    END IF;
    IF pg_catalog.strpos(step, '[') > 0 THEN
      condition := pg_catalog.regexp_match(step, '^(.*)[[](.*)=(.*)[]]$');
      step := condition[1];
    END IF;
    value := value -> step;
    IF value IS NULL OR value = 'null' THEN
      RETURN NULL;
    END IF;
    place := place || '.' || step;
    IF condition IS NOT NULL THEN
      EXIT;
    END IF;
  END LOOP;
  IF condition IS NULL THEN
    RETURN value;
  END IF;
  IF pg_catalog.jsonb_typeof(value) <> 'array' THEN
    PERFORM @extschema@._token_usage_bad_argument(place, 'an array', value::text);
  END IF;
  step := steps[pg_catalog.cardinality(steps)];
  FOR i IN 0 .. pg_catalog.jsonb_array_length(value) - 1 LOOP
    element := value -> i;
    IF pg_catalog.jsonb_typeof(element) <> 'object' THEN
      PERFORM @extschema@._token_usage_bad_argument(pg_catalog.format('%s[%s]', place, i), 'an object', element::text);
    END IF;
    IF pg_catalog.jsonb_typeof(element -> condition[2]) = 'string'
       AND pg_catalog.lower((element ->> condition[2]) COLLATE "C") = pg_catalog.lower(condition[3] COLLATE "C")
       AND element -> step <> 'null' THEN
      total := @extschema@._token_usage_add(coalesce(total, 0), @extschema@._token_usage_count(
        element -> step, pg_catalog.format('%s[%s].%s', place, i, step)), place);
    END IF;
  END LOOP;
  RETURN pg_catalog.to_jsonb(total);
END
$function$;

-- The first count that one of the paths gives; NULL where none does.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_first(u jsonb, name text, paths jsonb) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $function$
DECLARE
  path text;
  value jsonb;
  i integer;
BEGIN
  FOR i IN 0 .. coalesce(pg_catalog.jsonb_array_length(paths), 0) - 1 LOOP
    path := paths ->> i;
    IF u ? pg_catalog.split_part(pg_catalog.split_part(path, '.', 1), '[', 1) THEN
      value := @extschema@._token_usage_walk(u, name, path);
      IF value IS NOT NULL THEN
        RETURN @extschema@._token_usage_count(value, name || '.' || path);
      END IF;
    END IF;
  END LOOP;
  RETURN NULL;
END
$function$;

-- The sum of the counts at all the paths that are present; NULL where none is.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_sum_of(u jsonb, name text, paths jsonb) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $function$
DECLARE
  path text;
  value jsonb;
  total bigint;
  i integer;
BEGIN
  FOR i IN 0 .. coalesce(pg_catalog.jsonb_array_length(paths), 0) - 1 LOOP
    path := paths ->> i;
    IF u ? pg_catalog.split_part(pg_catalog.split_part(path, '.', 1), '[', 1) THEN
      value := @extschema@._token_usage_walk(u, name, path);
      IF value IS NOT NULL THEN
        total := @extschema@._token_usage_add(
          coalesce(total, 0), @extschema@._token_usage_count(value, name || '.' || path), name);
      END IF;
    END IF;
  END LOOP;
  RETURN total;
END
$function$;

-- What a caller's ai_provider says: its own name (lower case, trimmed), the flavour after the last `/` where there
-- is one (`openai/responses`), and the id that the rules know it by ('' where they know none).
CREATE OR REPLACE FUNCTION @extschema@._token_usage_provider(
  ai_provider text, OUT name text, OUT flavour text, OUT id text)
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $function$
DECLARE
  rules jsonb := @extschema@._token_usage_rules();
  last text;
  key text;
BEGIN
  name := pg_catalog.lower(pg_catalog.btrim(ai_provider, E' \t\n\r') COLLATE "C");
  IF pg_catalog.strpos(name, '/') > 0 THEN
    last := pg_catalog.substring(name, '[^/]*$');
    IF pg_catalog.jsonb_path_exists(rules, '$.shapes[*].flavours[*] ? (@ == $flavour)',
                                    pg_catalog.jsonb_build_object('flavour', last)) THEN
      flavour := last;
      name := pg_catalog."left"(name, pg_catalog.length(name) - pg_catalog.length(last) - 1);
    END IF;
  END IF;
  key := pg_catalog.translate(name, '_ ', '--');
  id := pg_catalog.jsonb_path_query_first(rules, '$.providers[*] ? (@.names[*] == $key).id',
                                          pg_catalog.jsonb_build_object('key', key)) #>> '{}';
  IF id IS NULL THEN
    FOR i IN 0 .. coalesce(pg_catalog.jsonb_array_length(rules -> 'providers'), 0) - 1 LOOP
      IF rules -> 'providers' -> i ? 'starts_with' THEN
        FOR j IN 0 .. pg_catalog.jsonb_array_length(rules -> 'providers' -> i -> 'starts_with') - 1 LOOP
          IF pg_catalog.starts_with(key, rules -> 'providers' -> i -> 'starts_with' ->> j) THEN
            id := rules -> 'providers' -> i ->> 'id';
            RETURN;
          END IF;
        END LOOP;
      END IF;
    END LOOP;
    id := '';
  END IF;
END
$function$;

-- The usage object inside one response and the name of its place; NULL where it has none.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_root(response jsonb, name text, OUT usage jsonb, OUT place text)
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $function$
DECLARE
  roots jsonb := @extschema@._token_usage_rules() -> 'roots';
  path text;
  value jsonb;
  wrong jsonb;
  wrong_place text;
BEGIN
  FOR i IN 0 .. pg_catalog.jsonb_array_length(roots) - 1 LOOP
    path := roots ->> i;
    value := response #> pg_catalog.string_to_array(path, '.');
    IF pg_catalog.jsonb_typeof(value) = 'object' THEN
      usage := value;
      place := name || '.' || path;
      RETURN;
    ELSIF wrong IS NULL AND value <> 'null' THEN
      wrong := value;
      wrong_place := name || '.' || path;
    END IF;
  END LOOP;
  IF wrong IS NOT NULL THEN
    PERFORM @extschema@._token_usage_bad_argument(wrong_place, 'an object', wrong::text);
  END IF;
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_response_model(response jsonb) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $function$
DECLARE
  paths jsonb := @extschema@._token_usage_rules() -> 'models';
  value jsonb;
BEGIN
  FOR i IN 0 .. coalesce(pg_catalog.jsonb_array_length(paths), 0) - 1 LOOP
    value := response #> pg_catalog.string_to_array(paths ->> i, '.');
    IF pg_catalog.jsonb_typeof(value) = 'string' AND value <> '""' THEN
      RETURN value #>> '{}';
    END IF;
  END LOOP;
  RETURN NULL;
END
$function$;

-- The usage object of a response (what its roots hold, else itself), or of the events of a stream (an array):
-- their usage objects laid over one another, a later value that is not null in place of an earlier one.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_object(
  response jsonb, argument text, OUT usage jsonb, OUT place text, OUT model text)
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $function$
DECLARE
  event jsonb;
  found record;
BEGIN
  IF pg_catalog.jsonb_typeof(response) = 'object' THEN
    found := @extschema@._token_usage_root(response, argument);
    usage := coalesce(found.usage, response);
    place := coalesce(found.place, argument);
    model := @extschema@._token_usage_response_model(response);
    RETURN;
  ELSIF pg_catalog.jsonb_typeof(response) <> 'array' THEN
    PERFORM @extschema@._token_usage_bad_argument(argument, 'an object', response::text);
  END IF;
  usage := '{}';
  place := argument;
  FOR i IN 0 .. pg_catalog.jsonb_array_length(response) - 1 LOOP
    event := response -> i;
    IF pg_catalog.jsonb_typeof(event) <> 'object' THEN
      PERFORM @extschema@._token_usage_bad_argument(pg_catalog.format('%s[%s]', argument, i), 'an object', event::text);
    END IF;
    found := @extschema@._token_usage_root(event, pg_catalog.format('%s[%s]', argument, i));
    IF found.usage IS NOT NULL THEN
      usage := found.usage || usage || (
        SELECT coalesce(pg_catalog.jsonb_object_agg(e.key, e.value), '{}')
          FROM pg_catalog.jsonb_each(found.usage) e WHERE e.value <> 'null');
      place := found.place;
    END IF;
    model := coalesce(model, @extschema@._token_usage_response_model(event));
  END LOOP;
END
$function$;

-- Decides which groups of parts stand beside their whole, and gives prompt and completion with those added: first
-- by the provider's own total, then by the defaults. The fewer defaults are overturned, the likelier.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_settle(
  p bigint, c bigint, t bigint, of_prompt boolean[], outside boolean[], sums bigint[],
  OUT prompt numeric, OUT completion numeric, OUT flipped boolean)
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $function$
DECLARE
  n integer := pg_catalog.cardinality(sums);
  in_prompt numeric;
  in_completion numeric;
  first_prompt numeric;
  first_completion numeric;
BEGIN
  FOR bits IN 0 .. n LOOP
    FOR mask IN 0 .. (1 << n) - 1 LOOP
      CONTINUE WHEN pg_catalog.length(pg_catalog.replace(mask::bit(16)::text, '0', '')) <> bits;
      prompt := p;
      completion := c;
      in_prompt := 0;
      in_completion := 0;
      FOR i IN 1 .. n LOOP
        IF outside[i] <> ((mask >> (i - 1)) & 1 = 1) THEN
          IF of_prompt[i] THEN prompt := prompt + sums[i]; ELSE completion := completion + sums[i]; END IF;
        ELSE
          IF of_prompt[i] THEN in_prompt := in_prompt + sums[i]; ELSE in_completion := in_completion + sums[i]; END IF;
        END IF;
      END LOOP;
      IF in_prompt <= p AND in_completion <= c THEN
        IF prompt + completion = t THEN
          flipped := false;
          RETURN;
        ELSIF first_prompt IS NULL THEN
          first_prompt := prompt;
          first_completion := completion;
          flipped := mask <> 0;
          EXIT WHEN t IS NULL;
        END IF;
      END IF;
    END LOOP;
    EXIT WHEN t IS NULL AND first_prompt IS NOT NULL;
  END LOOP;
  prompt := first_prompt;
  completion := first_completion;
END
$function$;

-- The normaliser. `usage` is the result of token_usage_from_response, `raw` the provider's usage object.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_normalise(
  ai_provider text, response jsonb, argument text, OUT usage jsonb, OUT raw jsonb)
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $function$
DECLARE
  rules jsonb := @extschema@._token_usage_rules();
  provider record;
  object record;
  u jsonb;
  name text;
  shape jsonb;
  rule jsonb;
  key text;
  relation text;
  warnings text[] := '{}';
  p bigint;
  c bigint;
  t bigint;
  value bigint;
  whole bigint;
  groups text[] := '{}';
  of_prompt boolean[] := '{}';
  relations text[] := '{}';
  sums bigint[] := '{}';
  at integer;
  settled record;
  prompt numeric;
  completion numeric;
  counted numeric;
  extra_prompt numeric := 0;
  extra_completion numeric := 0;
  cost numeric;
  unit numeric;
  found jsonb;
BEGIN
  provider := @extschema@._token_usage_provider(ai_provider);
  IF provider.id = '' THEN
    warnings := warnings || pg_catalog.format('unknown provider %s: read by the shape of its response',
      CASE WHEN pg_catalog.length(ai_provider) > 200 THEN pg_catalog."left"(ai_provider, 200) || '...'
           ELSE ai_provider END);
  END IF;
  object := @extschema@._token_usage_object(response, argument);
  u := object.usage;
  name := object.place;
  <<shapes>>
  FOR i IN 0 .. coalesce(pg_catalog.jsonb_array_length(rules -> 'shapes'), 0) - 1 LOOP
    rule := rules -> 'shapes' -> i;
    CONTINUE WHEN CASE WHEN provider.flavour IS NULL THEN rule ? 'only_by_flavour'
                       ELSE NOT rule -> 'flavours' ? provider.flavour END;
    FOR j IN 0 .. pg_catalog.jsonb_array_length(rule -> 'detect') - 1 LOOP
      IF u #> pg_catalog.string_to_array(rule -> 'detect' ->> j, '.') <> 'null' THEN
        shape := rule;
        EXIT shapes;
      END IF;
    END LOOP;
  END LOOP;
  IF shape IS NULL THEN
    PERFORM @extschema@._token_usage_bad_argument(argument, 'a response or usage object with token counts', response::text);
  END IF;
  raw := u;
  usage := '{}';
  IF shape ? 'not_tokens' THEN
    usage := pg_catalog.jsonb_build_object(
      'prompt_tokens', 0, 'completion_tokens', 0, 'total_tokens', 0, 'not_tokens', true,
      'warnings', warnings || 'no token counts are reported: left unpriced'::text);
    IF object.model IS NOT NULL THEN
      usage := usage || pg_catalog.jsonb_build_object('model', object.model);
    END IF;
    RETURN;
  END IF;
  p := @extschema@._token_usage_first(u, name, shape -> 'prompt');
  c := @extschema@._token_usage_first(u, name, shape -> 'completion');
  t := @extschema@._token_usage_first(u, name, shape -> 'total');
  IF p IS NULL THEN
    warnings := warnings || pg_catalog.format('%s.%s is not reported: counted as 0', name, shape -> 'prompt' ->> 0);
    p := 0;
  END IF;
  c := coalesce(c, 0);

  FOR i IN 0 .. coalesce(pg_catalog.jsonb_array_length(shape -> 'parts'), 0) - 1 LOOP
    rule := shape -> 'parts' -> i;
    CONTINUE WHEN rule ? 'only' AND NOT rule -> 'only' ? provider.id;
    value := @extschema@._token_usage_first(u, name, rule -> 'paths');
    IF value IS NULL AND rule ? 'or_sum' THEN
      value := @extschema@._token_usage_sum_of(u, name, rule -> 'or_sum');
    END IF;
    CONTINUE WHEN value IS NULL;
    key := rule ->> 'key';
    IF key <> '' THEN
      CONTINUE WHEN (usage -> key)::bigint > 0;
      usage := pg_catalog.jsonb_set(usage, ARRAY[key], pg_catalog.to_jsonb(value));
    END IF;
    at := pg_catalog.array_position(groups, rule ->> 'group');
    IF at IS NULL THEN
      relation := CASE WHEN rule -> 'extra_for' ? provider.id THEN 'extra'
                       WHEN rule -> 'outside_for' ? provider.id THEN 'outside'
                       ELSE rule ->> 'relation' END;
      groups := groups || (rule ->> 'group');
      of_prompt := of_prompt || (rule ->> 'of' = 'prompt');
      relations := relations || relation;
      sums := sums || value;
    ELSE
      sums[at] := @extschema@._token_usage_add(sums[at], value, name);
    END IF;
  END LOOP;

  -- Extra parts are no part of the provider's total; groups of nothing stand nowhere.
  IF pg_catalog.cardinality(sums) = 0 THEN
    prompt := p;
    completion := c;
  ELSE
    DECLARE
      g_prompt boolean[] := '{}';
      g_outside boolean[] := '{}';
      g_sums bigint[] := '{}';
    BEGIN
      FOR i IN 1 .. pg_catalog.cardinality(sums) LOOP
        IF relations[i] = 'extra' THEN
          IF of_prompt[i] THEN
            extra_prompt := extra_prompt + sums[i];
          ELSE
            extra_completion := extra_completion + sums[i];
          END IF;
        ELSIF sums[i] > 0 THEN
          g_prompt := g_prompt || of_prompt[i];
          g_outside := g_outside || (relations[i] = 'outside');
          g_sums := g_sums || sums[i];
        END IF;
      END LOOP;
      settled := @extschema@._token_usage_settle(p, c, t, g_prompt, g_outside, g_sums);
      prompt := settled.prompt;
      completion := settled.completion;
      IF settled.flipped THEN
        warnings := warnings || 'a part is larger than its whole: counted beside it'::text;
      END IF;
    END;
  END IF;
  counted := prompt + completion;
  IF t > counted THEN
    warnings := warnings || pg_catalog.format('the provider''s total %s is %s above the parts', t, t - counted);
  ELSIF t < counted THEN
    warnings := warnings || pg_catalog.format('the provider''s total %s is %s below the parts', t, counted - t);
  END IF;
  IF counted + extra_prompt + extra_completion > 9223372036854775807 THEN
    PERFORM @extschema@._token_usage_sum_refused(name);
  END IF;
  usage := usage || pg_catalog.jsonb_build_object(
    'prompt_tokens', prompt + extra_prompt, 'completion_tokens', completion + extra_completion,
    'total_tokens', counted + extra_prompt + extra_completion);
  IF t > counted THEN
    usage := usage || pg_catalog.jsonb_build_object('unattributed_tokens', t - counted);
  END IF;

  FOR i IN 0 .. coalesce(pg_catalog.jsonb_array_length(shape -> 'details'), 0) - 1 LOOP
    rule := shape -> 'details' -> i;
    value := @extschema@._token_usage_sum_of(u, name, rule -> 'sum');
    CONTINUE WHEN value IS NULL;
    whole := coalesce((usage -> (rule ->> 'of'))::bigint, 0);
    IF value > whole THEN
      warnings := warnings || pg_catalog.format('%s %s is above %s %s: cut to it',
                                                rule ->> 'key', value, rule ->> 'of', whole);
      value := whole;
    END IF;
    usage := pg_catalog.jsonb_set(usage, ARRAY[rule ->> 'key'], pg_catalog.to_jsonb(value));
  END LOOP;
  FOR i IN 0 .. coalesce(pg_catalog.jsonb_array_length(shape -> 'requests'), 0) - 1 LOOP
    rule := shape -> 'requests' -> i;
    value := @extschema@._token_usage_first(u, name, rule -> 'paths');
    IF value IS NOT NULL THEN
      usage := pg_catalog.jsonb_set(usage, ARRAY[rule ->> 'key'], pg_catalog.to_jsonb(value));
    END IF;
  END LOOP;
  FOR i IN 0 .. coalesce(pg_catalog.jsonb_array_length(shape -> 'costs'), 0) - 1 LOOP
    rule := shape -> 'costs' -> i;
    CONTINUE WHEN NOT rule -> 'only' ? provider.id
               OR (rule ? 'when' AND coalesce(u -> (rule ->> 'when') <> 'true', true));
    found := @extschema@._token_usage_walk(u, name, rule ->> 'path');
    CONTINUE WHEN found IS NULL;
    unit := ('1e-' || coalesce(rule ->> 'divide_by_10_power', '0'))::numeric;
    IF pg_catalog.jsonb_typeof(found) = 'number' AND found::numeric >= 0
       AND coalesce(cost, 0) + found::numeric * unit < 170141183460469 THEN
      cost := coalesce(cost, 0) + @extschema@._token_usage_half_even(found::numeric * unit, 24);
    ELSE
      PERFORM @extschema@._token_usage_bad_argument(name || '.' || (rule ->> 'path'), 'a number from 0', found::text);
    END IF;
  END LOOP;
  IF cost IS NOT NULL THEN
    usage := usage || pg_catalog.jsonb_build_object('provider_cost_usd', pg_catalog.trim_scale(cost));
  END IF;
  IF object.model IS NOT NULL THEN
    usage := usage || pg_catalog.jsonb_build_object('model', object.model);
  END IF;
  usage := usage || pg_catalog.jsonb_build_object('warnings', warnings);
END
$function$;
