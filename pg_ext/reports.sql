-- The reports of the contract (section 3), except token_usage_detailed. Each is computed by a function that starts with an underscore; what users call is
-- made at the end of the file, once for each type that a user_id may have.

-- What every report starts from: the ledger, the user and the zone as checked, and the last day.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_scope(
  path name[], INOUT user_id text, INOUT time_zone text, as_of timestamptz, OUT ledger oid, OUT last_day date)
LANGUAGE plpgsql STABLE AS $function$
BEGIN
  ledger := @extschema@._token_usage_ledger(path);
  user_id := @extschema@._token_usage_user(ledger, user_id);
  time_zone := coalesce(time_zone, @extschema@._token_usage_read_setting(ledger, 'time_zone'::text));
  IF time_zone = 'UTC' AND as_of IS NULL THEN
    last_day := timezone('UTC', now())::date;  -- as the two below would say
  ELSE
    time_zone := @extschema@._token_usage_zone(time_zone, 'time_zone'::text);
    last_day := @extschema@._token_usage_day_of(as_of, time_zone);
  END IF;
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_summary(path name[], user_id text, time_zone text, as_of timestamptz)
RETURNS TABLE (period text, requests_count bigint, prompt_tokens bigint, completion_tokens bigint, total_tokens bigint,
  cost_usd numeric, cost_rub numeric, unpriced_count bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  scope record;
  bounds timestamptz[];
BEGIN
  user_id := @extschema@._token_usage_check_user(user_id);
  scope := @extschema@._token_usage_scope(path, user_id, time_zone, as_of);
  -- Three stretches: before this month, this month before today, today.
  bounds := '-infinity'::timestamptz || @extschema@._token_usage_starts(
    ARRAY[@extschema@._token_usage_first_day('month'::text, scope.last_day), scope.last_day, scope.last_day + 1],
    scope.time_zone);
  RETURN QUERY
    SELECT p.period, coalesce(sum(s.requests_count), 0)::bigint,
           @extschema@._token_usage_bigint(coalesce(sum(s.prompt_tokens), 0), 'prompt_tokens'::text),
           @extschema@._token_usage_bigint(coalesce(sum(s.completion_tokens), 0), 'completion_tokens'::text),
           @extschema@._token_usage_bigint(coalesce(sum(s.total_tokens), 0), 'total_tokens'::text),
           trim_scale(coalesce(sum(s.cost_usd), 0)), trim_scale(coalesce(sum(s.cost_rub), 0)),
           coalesce(sum(s.unpriced_count), 0)::bigint
      FROM (VALUES (1, 'today', 3), (2, 'this_month', 2), (3, 'all_time', 1)) AS p (place, period, first_bucket)
      LEFT JOIN @extschema@._token_usage_ledger_sums(path, scope.ledger, scope.user_id, NULL::text, bounds, 'none'::text) AS s
        ON s.bucket >= p.first_bucket
     GROUP BY p.place, p.period ORDER BY p.place;
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_history(
  path name[], user_id text, days bigint, agent text, time_zone text, as_of timestamptz)
RETURNS TABLE (date date, requests_count bigint, prompt_tokens bigint, completion_tokens bigint, total_tokens bigint,
  cost_usd numeric, cost_rub numeric, unpriced_count bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  scope record;
  first_day date;
  bounds timestamptz[];
BEGIN
  user_id := @extschema@._token_usage_check_user(user_id);
  days := @extschema@._token_usage_check_range('days'::text, days, 1::bigint, 36600::bigint);
  scope := @extschema@._token_usage_scope(path, user_id, time_zone, as_of);
  first_day := scope.last_day - days::integer + 1;
  bounds := @extschema@._token_usage_day_bounds(first_day, scope.last_day, scope.time_zone);
  -- The days come from the bounds: with generate_series(1, days) the server would plan this query anew for each call, since only the
  -- number tells it how few rows there are, and that takes longer than to run it.
  RETURN QUERY
    SELECT first_day + d.bucket::integer - 1, coalesce(s.requests_count, 0),
           @extschema@._token_usage_bigint(coalesce(s.prompt_tokens, 0), 'prompt_tokens'::text),
           @extschema@._token_usage_bigint(coalesce(s.completion_tokens, 0), 'completion_tokens'::text),
           @extschema@._token_usage_bigint(coalesce(s.total_tokens, 0), 'total_tokens'::text),
           trim_scale(coalesce(s.cost_usd, 0)), trim_scale(coalesce(s.cost_rub, 0)), coalesce(s.unpriced_count, 0)
      FROM unnest(bounds) WITH ORDINALITY AS d (start, bucket)
      LEFT JOIN @extschema@._token_usage_ledger_sums(path, scope.ledger, scope.user_id, agent, bounds, 'none'::text) AS s
        ON s.bucket = d.bucket
     WHERE d.bucket <= days ORDER BY d.bucket;
END
$function$;

-- The last `period_days` days, or a named period where there is one: the ledger, the user as checked, and the two bounds.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_span(
  path name[], INOUT user_id text, period_days bigint, period text, time_zone text, as_of timestamptz, OUT ledger oid, OUT bounds timestamptz[])
LANGUAGE plpgsql STABLE AS $function$
DECLARE
  scope record;
BEGIN
  user_id := @extschema@._token_usage_check_user(user_id);
  IF period IS NULL THEN
    period_days := @extschema@._token_usage_check_range('period_days'::text, period_days, 1::bigint, 36600::bigint);
  END IF;
  scope := @extschema@._token_usage_scope(path, user_id, time_zone, as_of);
  user_id := scope.user_id;
  ledger := scope.ledger;
  bounds := @extschema@._token_usage_starts(
    ARRAY[CASE WHEN period IS NULL THEN scope.last_day - period_days::integer + 1
               WHEN period = 'all' THEN scope.last_day
               ELSE @extschema@._token_usage_first_day(period, scope.last_day) END, scope.last_day + 1],
    scope.time_zone);
  IF period = 'all' THEN
    bounds[1] := '-infinity';
  END IF;
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_by_agent(
  path name[], user_id text, agent text, period_days bigint, period text, time_zone text, as_of timestamptz)
RETURNS TABLE (agent_id text, requests_count bigint, prompt_tokens bigint, completion_tokens bigint, total_tokens bigint,
  cost_usd numeric, cost_rub numeric, unpriced_count bigint, avg_execution_time_ms bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  span record;
BEGIN
  span := @extschema@._token_usage_span(path, user_id, period_days, period, time_zone, as_of);
  RETURN QUERY
    SELECT g.key1, g.requests_count, @extschema@._token_usage_bigint(g.prompt_tokens, 'prompt_tokens'::text),
           @extschema@._token_usage_bigint(g.completion_tokens, 'completion_tokens'::text),
           @extschema@._token_usage_bigint(g.total_tokens, 'total_tokens'::text),
           trim_scale(g.cost_usd), trim_scale(g.cost_rub), g.unpriced_count,
           @extschema@._token_usage_mean(g.execution_ms_sum, g.execution_ms_count::numeric)
      FROM @extschema@._token_usage_ledger_sums(path, span.ledger, span.user_id, agent, span.bounds, 'agent'::text) AS g
     ORDER BY g.total_tokens DESC, g.key1 COLLATE "C";
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_by_model(
  path name[], user_id text, period_days bigint, time_zone text, as_of timestamptz)
RETURNS TABLE (ai_provider text, ai_model text, requests_count bigint, prompt_tokens bigint, completion_tokens bigint,
  total_tokens bigint, cost_usd numeric, cost_rub numeric, unpriced_count bigint, avg_execution_time_ms bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  span record;
BEGIN
  span := @extschema@._token_usage_span(path, user_id, period_days, NULL::text, time_zone, as_of);
  RETURN QUERY
    SELECT g.key1, g.key2, g.requests_count, @extschema@._token_usage_bigint(g.prompt_tokens, 'prompt_tokens'::text),
           @extschema@._token_usage_bigint(g.completion_tokens, 'completion_tokens'::text),
           @extschema@._token_usage_bigint(g.total_tokens, 'total_tokens'::text),
           trim_scale(g.cost_usd), trim_scale(g.cost_rub), g.unpriced_count,
           @extschema@._token_usage_mean(g.execution_ms_sum, g.execution_ms_count::numeric)
      FROM @extschema@._token_usage_ledger_sums(path, span.ledger, span.user_id, NULL::text, span.bounds, 'model'::text) AS g
     ORDER BY g.cost_rub DESC, g.cost_usd DESC, g.total_tokens DESC, g.key1 COLLATE "C", g.key2 COLLATE "C";
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_by_provider(
  path name[], user_id text, period_days bigint, time_zone text, as_of timestamptz)
RETURNS TABLE (ai_provider text, requests_count bigint, prompt_tokens bigint, completion_tokens bigint,
  total_tokens bigint, cost_usd numeric, cost_rub numeric, unpriced_count bigint, avg_execution_time_ms bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  span record;
BEGIN
  span := @extschema@._token_usage_span(path, user_id, period_days, NULL::text, time_zone, as_of);
  RETURN QUERY
    SELECT g.key1, sum(g.requests_count)::bigint, @extschema@._token_usage_bigint(sum(g.prompt_tokens), 'prompt_tokens'::text),
           @extschema@._token_usage_bigint(sum(g.completion_tokens), 'completion_tokens'::text),
           @extschema@._token_usage_bigint(sum(g.total_tokens), 'total_tokens'::text),
           trim_scale(sum(g.cost_usd)), trim_scale(sum(g.cost_rub)), sum(g.unpriced_count)::bigint,
           @extschema@._token_usage_mean(sum(g.execution_ms_sum), sum(g.execution_ms_count))
      FROM @extschema@._token_usage_ledger_sums(path, span.ledger, span.user_id, NULL::text, span.bounds, 'model'::text) AS g
     GROUP BY g.key1
     ORDER BY sum(g.cost_rub) DESC, sum(g.cost_usd) DESC, sum(g.total_tokens) DESC, g.key1 COLLATE "C";
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_check_period(period text)
RETURNS text LANGUAGE plpgsql IMMUTABLE AS $function$
BEGIN
  IF period IS NULL OR period NOT IN ('day', 'week', 'month', 'year', 'all') THEN
    PERFORM @extschema@._token_usage_bad_argument('period'::text, 'one of day, week, month, year, all'::text, period);
  END IF;
  RETURN period;
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_totals(
  path name[], user_id text, period_name text, agent text, time_zone text, as_of timestamptz)
RETURNS TABLE (period text, requests_count bigint, prompt_tokens bigint, completion_tokens bigint, total_tokens bigint,
  cost_usd numeric, cost_rub numeric, unpriced_count bigint, avg_execution_time_ms bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  span record;
BEGIN
  user_id := @extschema@._token_usage_check_user(user_id);
  period_name := @extschema@._token_usage_check_period(period_name);
  span := @extschema@._token_usage_span(path, user_id, NULL::bigint, period_name, time_zone, as_of);
  RETURN QUERY
    SELECT period_name, coalesce(sum(g.requests_count), 0)::bigint,
           @extschema@._token_usage_bigint(coalesce(sum(g.prompt_tokens), 0), 'prompt_tokens'::text),
           @extschema@._token_usage_bigint(coalesce(sum(g.completion_tokens), 0), 'completion_tokens'::text),
           @extschema@._token_usage_bigint(coalesce(sum(g.total_tokens), 0), 'total_tokens'::text),
           trim_scale(coalesce(sum(g.cost_usd), 0)), trim_scale(coalesce(sum(g.cost_rub), 0)),
           coalesce(sum(g.unpriced_count), 0)::bigint,
           @extschema@._token_usage_mean(sum(g.execution_ms_sum), sum(g.execution_ms_count))
      FROM @extschema@._token_usage_ledger_sums(path, span.ledger, span.user_id, agent, span.bounds, 'none'::text) AS g;
END
$function$;

-- What users call. The bodies hold only qualified names and no operators, so that they mean the same under any search_path.
DO $overloads$
DECLARE
  user_type text;
  measures constant text := 'requests_count bigint, prompt_tokens bigint, completion_tokens bigint, total_tokens bigint, '
                            'cost_usd numeric, cost_rub numeric, unpriced_count bigint';
  mean constant text := ', avg_execution_time_ms bigint';
BEGIN
  FOREACH user_type IN ARRAY ARRAY['bigint', 'text', 'uuid'] LOOP
    EXECUTE pg_catalog.format($statement$
      CREATE OR REPLACE FUNCTION @extschema@.token_usage_summary(
        user_id %1$s, time_zone text DEFAULT NULL, as_of timestamptz DEFAULT NULL)
      RETURNS TABLE (period text, %2$s) LANGUAGE sql STABLE ROWS 3 AS $function$
        SELECT * FROM @extschema@._token_usage_summary(
          pg_catalog.current_schemas(false), user_id::pg_catalog.text, time_zone, as_of)
      $function$;

      CREATE OR REPLACE FUNCTION @extschema@.token_usage_history(
        user_id %1$s, days bigint DEFAULT 30, agent text DEFAULT NULL, time_zone text DEFAULT NULL,
        as_of timestamptz DEFAULT NULL)
      RETURNS TABLE (date date, %2$s) LANGUAGE sql STABLE ROWS 30 AS $function$
        SELECT * FROM @extschema@._token_usage_history(
          pg_catalog.current_schemas(false), user_id::pg_catalog.text, days, agent, time_zone, as_of)
      $function$;

      CREATE OR REPLACE FUNCTION @extschema@.token_usage_by_agent(
        user_id %1$s, period_days bigint DEFAULT 30, time_zone text DEFAULT NULL, as_of timestamptz DEFAULT NULL)
      RETURNS TABLE (agent_id text, %2$s%3$s) LANGUAGE sql STABLE ROWS 10 AS $function$
        SELECT * FROM @extschema@._token_usage_by_agent(
          pg_catalog.current_schemas(false), user_id::pg_catalog.text, NULL::pg_catalog.text, period_days,
          NULL::pg_catalog.text, time_zone, as_of)
      $function$;

      CREATE OR REPLACE FUNCTION @extschema@.token_usage_by_model(
        user_id %1$s, period_days bigint DEFAULT 30, time_zone text DEFAULT NULL, as_of timestamptz DEFAULT NULL)
      RETURNS TABLE (ai_provider text, ai_model text, %2$s%3$s) LANGUAGE sql STABLE ROWS 15 AS $function$
        SELECT * FROM @extschema@._token_usage_by_model(
          pg_catalog.current_schemas(false), user_id::pg_catalog.text, period_days, time_zone, as_of)
      $function$;

      CREATE OR REPLACE FUNCTION @extschema@.token_usage_by_provider(
        user_id %1$s, period_days bigint DEFAULT 30, time_zone text DEFAULT NULL, as_of timestamptz DEFAULT NULL)
      RETURNS TABLE (ai_provider text, %2$s%3$s) LANGUAGE sql STABLE ROWS 5 AS $function$
        SELECT * FROM @extschema@._token_usage_by_provider(
          pg_catalog.current_schemas(false), user_id::pg_catalog.text, period_days, time_zone, as_of)
      $function$;

      -- The argument cannot be named like the column.
      CREATE OR REPLACE FUNCTION @extschema@.token_usage_totals(
        user_id %1$s, period_name text DEFAULT 'month', agent text DEFAULT NULL, time_zone text DEFAULT NULL,
        as_of timestamptz DEFAULT NULL)
      RETURNS TABLE (period text, %2$s%3$s) LANGUAGE sql STABLE ROWS 1 AS $function$
        SELECT * FROM @extschema@._token_usage_totals(
          pg_catalog.current_schemas(false), user_id::pg_catalog.text, period_name, agent, time_zone, as_of)
      $function$;
    $statement$, user_type, measures, mean);
  END LOOP;
END
$overloads$;
