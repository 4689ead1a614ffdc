-- The reports as whole HTTP response bodies (section 3 of the contract, "JSON bodies"), made from the rows of their twins.

-- The keys that the contract calls m, from any row that has the measures.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_m(
  total_tokens bigint, prompt_tokens bigint, completion_tokens bigint, cost_usd numeric, cost_rub numeric,
  requests_count bigint, unpriced_count bigint)
RETURNS jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT jsonb_build_object('total_tokens', total_tokens, 'prompt_tokens', prompt_tokens,
    'completion_tokens', completion_tokens, 'cost_usd', cost_usd, 'cost_rub', cost_rub,
    'requests_count', requests_count, 'unpriced_count', unpriced_count)
$function$;

-- The totals that several bodies carry beside their lists.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_json_totals(
  total_tokens numeric, cost_usd numeric, cost_rub numeric, requests_count numeric)
RETURNS jsonb LANGUAGE sql IMMUTABLE AS $function$
  SELECT jsonb_build_object(
    'total_tokens', @extschema@._token_usage_bigint(coalesce(total_tokens, 0), 'total_tokens'::text),
    'total_cost_usd', trim_scale(coalesce(cost_usd, 0)), 'total_cost_rub', trim_scale(coalesce(cost_rub, 0)),
    'total_requests', coalesce(requests_count, 0)::bigint)
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_summary_json(path name[], user_id text, time_zone text, as_of timestamptz)
RETURNS jsonb LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
  RETURN (
    SELECT jsonb_build_object('success', true, 'data', jsonb_object_agg(r.period, @extschema@._token_usage_m(
             r.total_tokens, r.prompt_tokens, r.completion_tokens, r.cost_usd, r.cost_rub, r.requests_count, r.unpriced_count)))
      FROM @extschema@._token_usage_summary(path, user_id, time_zone, as_of) AS r);
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_history_json(
  path name[], user_id text, days bigint, agent text, time_zone text, as_of timestamptz)
RETURNS jsonb LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
  RETURN (
    SELECT jsonb_build_object('success', true,
             'data', jsonb_agg(jsonb_build_object('date', to_char(r.date::timestamp, 'YYYY-MM-DD')) || @extschema@._token_usage_m(
               r.total_tokens, r.prompt_tokens, r.completion_tokens, r.cost_usd, r.cost_rub, r.requests_count,
               r.unpriced_count) ORDER BY r.date),
             'period', jsonb_build_object('days', days, 'agent_id', agent))
      FROM @extschema@._token_usage_history(path, user_id, days, agent, time_zone, as_of) AS r);
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_by_agent_json(
  path name[], user_id text, period_days bigint, time_zone text, as_of timestamptz)
RETURNS jsonb LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
  RETURN (
    SELECT jsonb_build_object('success', true, 'data', jsonb_build_object(
             'agents', coalesce(jsonb_agg(jsonb_build_object('agent_id', r.agent_id,
               'avg_execution_time_ms', coalesce(r.avg_execution_time_ms, 0)) || @extschema@._token_usage_m(
               r.total_tokens, r.prompt_tokens, r.completion_tokens, r.cost_usd, r.cost_rub, r.requests_count,
               r.unpriced_count) ORDER BY r.place), '[]'),
             'totals', @extschema@._token_usage_json_totals(sum(r.total_tokens), sum(r.cost_usd), sum(r.cost_rub),
               sum(r.requests_count)),
             'period_days', period_days))
      FROM @extschema@._token_usage_by_agent(path, user_id, NULL::text, period_days, NULL::text, time_zone, as_of)
           WITH ORDINALITY AS r (
             agent_id, requests_count, prompt_tokens, completion_tokens, total_tokens, cost_usd, cost_rub, unpriced_count,
             avg_execution_time_ms, place));
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_by_model_json(
  path name[], user_id text, period_days bigint, time_zone text, as_of timestamptz)
RETURNS jsonb LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
  RETURN (
    WITH models AS MATERIALIZED (
      SELECT r.*, jsonb_build_object('ai_provider', r.ai_provider, 'ai_model', r.ai_model,
               'avg_execution_time_ms', coalesce(r.avg_execution_time_ms, 0)) || @extschema@._token_usage_m(
               r.total_tokens, r.prompt_tokens, r.completion_tokens, r.cost_usd, r.cost_rub, r.requests_count,
               r.unpriced_count) AS item
        FROM @extschema@._token_usage_by_model(path, user_id, period_days, time_zone, as_of) WITH ORDINALITY AS r (
               ai_provider, ai_model, requests_count, prompt_tokens, completion_tokens, total_tokens, cost_usd, cost_rub,
               unpriced_count, avg_execution_time_ms, place)
    ), providers AS (
      SELECT row_number() OVER (ORDER BY sum(m.cost_rub) DESC, sum(m.cost_usd) DESC, sum(m.total_tokens) DESC,
                                         m.ai_provider COLLATE "C") AS place,
             jsonb_build_object('provider', m.ai_provider, 'models', jsonb_agg(m.item ORDER BY m.place)) ||
             @extschema@._token_usage_json_totals(sum(m.total_tokens), sum(m.cost_usd), sum(m.cost_rub),
               sum(m.requests_count)) AS item
        FROM models AS m GROUP BY m.ai_provider
    )
    SELECT jsonb_build_object('success', true, 'data', jsonb_build_object(
             'by_model', coalesce((SELECT jsonb_agg(m.item ORDER BY m.place) FROM models AS m), '[]'),
             'by_provider', coalesce((SELECT jsonb_agg(p.item ORDER BY p.place) FROM providers AS p), '[]'),
             'period_days', period_days)));
END
$function$;

-- The legacy endpoint, which has no envelope.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_totals_json(
  path name[], user_id text, period text, agent text, time_zone text, as_of timestamptz)
RETURNS jsonb LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
  user_id := @extschema@._token_usage_check_user(user_id);
  period := @extschema@._token_usage_check_period(period);
  RETURN (
    SELECT jsonb_build_object('period', CASE period WHEN 'all' THEN 'all_time' ELSE 'current_' || period END,
             'by_agent', coalesce(jsonb_agg(jsonb_build_object('agent_id', r.agent_id, 'agent_name', r.agent_id,
               'requests', r.requests_count, 'tokens', r.total_tokens, 'cost_usd', r.cost_usd, 'cost_rub', r.cost_rub,
               'avg_tokens_per_request', @extschema@._token_usage_mean(r.total_tokens::numeric, r.requests_count::numeric)) ORDER BY r.place), '[]'))
           || @extschema@._token_usage_json_totals(sum(r.total_tokens), sum(r.cost_usd), sum(r.cost_rub),
               sum(r.requests_count))
      FROM @extschema@._token_usage_by_agent(path, user_id, agent, NULL::bigint, period, time_zone, as_of)
           WITH ORDINALITY AS r (
             agent_id, requests_count, prompt_tokens, completion_tokens, total_tokens, cost_usd, cost_rub, unpriced_count,
             avg_execution_time_ms, place));
END
$function$;

-- What users call; see reports.sql.
DO $overloads$
DECLARE
  user_type text;
BEGIN
  FOREACH user_type IN ARRAY ARRAY['bigint', 'text', 'uuid'] LOOP
    EXECUTE pg_catalog.format($statement$
      CREATE OR REPLACE FUNCTION @extschema@.token_usage_summary_json(
        user_id %1$s, time_zone text DEFAULT NULL, as_of timestamptz DEFAULT NULL)
      RETURNS jsonb LANGUAGE sql STABLE AS $function$
        SELECT @extschema@._token_usage_summary_json(
          pg_catalog.current_schemas(false), user_id::pg_catalog.text, time_zone, as_of)
      $function$;

      CREATE OR REPLACE FUNCTION @extschema@.token_usage_history_json(
        user_id %1$s, days bigint DEFAULT 30, agent text DEFAULT NULL, time_zone text DEFAULT NULL,
        as_of timestamptz DEFAULT NULL)
      RETURNS jsonb LANGUAGE sql STABLE AS $function$
        SELECT @extschema@._token_usage_history_json(
          pg_catalog.current_schemas(false), user_id::pg_catalog.text, days, agent, time_zone, as_of)
      $function$;

      CREATE OR REPLACE FUNCTION @extschema@.token_usage_by_agent_json(
        user_id %1$s, period_days bigint DEFAULT 30, time_zone text DEFAULT NULL, as_of timestamptz DEFAULT NULL)
      RETURNS jsonb LANGUAGE sql STABLE AS $function$
        SELECT @extschema@._token_usage_by_agent_json(
          pg_catalog.current_schemas(false), user_id::pg_catalog.text, period_days, time_zone, as_of)
      $function$;

      CREATE OR REPLACE FUNCTION @extschema@.token_usage_by_model_json(
        user_id %1$s, period_days bigint DEFAULT 30, time_zone text DEFAULT NULL, as_of timestamptz DEFAULT NULL)
      RETURNS jsonb LANGUAGE sql STABLE AS $function$
        SELECT @extschema@._token_usage_by_model_json(
          pg_catalog.current_schemas(false), user_id::pg_catalog.text, period_days, time_zone, as_of)
      $function$;

      CREATE OR REPLACE FUNCTION @extschema@.token_usage_totals_json(
        user_id %1$s, period text DEFAULT 'month', agent text DEFAULT NULL, time_zone text DEFAULT NULL,
        as_of timestamptz DEFAULT NULL)
      RETURNS jsonb LANGUAGE sql STABLE AS $function$
        SELECT @extschema@._token_usage_totals_json(
          pg_catalog.current_schemas(false), user_id::pg_catalog.text, period, agent, time_zone, as_of)
      $function$;
    $statement$, user_type);
  END LOOP;
END
$overloads$;
