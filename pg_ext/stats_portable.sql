-- The portable twin of pg_ext/stats.cpp: token_usage_stats, the measures of any rows as one JSON object. The state is
-- {requests, prompt, completion, total, cost_usd, cost_rub, unpriced, execution sum, execution count}.

CREATE OR REPLACE FUNCTION @extschema@._token_usage_stats_final(state numeric[])
RETURNS jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $function$
  SELECT jsonb_build_object('requests_count', state[1]::bigint,
    'prompt_tokens', @extschema@._token_usage_bigint(state[2], 'prompt_tokens'),
    'completion_tokens', @extschema@._token_usage_bigint(state[3], 'completion_tokens'),
    'total_tokens', @extschema@._token_usage_bigint(state[4], 'total_tokens'),
    'cost_usd', trim_scale(state[5]), 'cost_rub', trim_scale(state[6]), 'unpriced_count', state[7]::bigint,
    'avg_execution_time_ms', @extschema@._token_usage_mean(state[8], state[9]))
$function$;

-- What one row adds to the state.
DO $overloads$
DECLARE
  costs text[];
  time_type text;
BEGIN
  FOREACH costs SLICE 1 IN ARRAY ARRAY[
    ['numeric', 'numeric'], ['double precision', 'double precision'], ['real', 'real'],
    ['numeric', 'double precision'], ['double precision', 'numeric']]
  LOOP
    FOREACH time_type IN ARRAY ARRAY['bigint', 'numeric', 'double precision'] LOOP
      EXECUTE pg_catalog.format($statement$
        CREATE OR REPLACE FUNCTION @extschema@._token_usage_stats_add(
          state numeric[], prompt_tokens bigint, completion_tokens bigint, total_tokens bigint, cost_usd %1$s, cost_rub %2$s,
          execution_time_ms %3$s)
        RETURNS numeric[] LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $function$
        DECLARE
          usd numeric := @extschema@._token_usage_decimal(cost_usd);
          ms numeric := @extschema@._token_usage_decimal(execution_time_ms);
        BEGIN
          RETURN ARRAY[state[1] + 1, state[2] + coalesce(prompt_tokens, 0), state[3] + coalesce(completion_tokens, 0),
            state[4] + coalesce(total_tokens, coalesce(prompt_tokens, 0)::numeric + coalesce(completion_tokens, 0)),
            state[5] + coalesce(usd, 0), state[6] + coalesce(@extschema@._token_usage_decimal(cost_rub), 0),
            state[7] + CASE WHEN usd IS NULL THEN 1 ELSE 0 END,
            state[8] + coalesce(ms, 0), state[9] + CASE WHEN ms IS NULL THEN 0 ELSE 1 END];
        END
        $function$;

        CREATE OR REPLACE FUNCTION @extschema@._token_usage_stats_subtract(
          state numeric[], prompt_tokens bigint, completion_tokens bigint, total_tokens bigint, cost_usd %1$s, cost_rub %2$s,
          execution_time_ms %3$s)
        RETURNS numeric[] LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $function$
          SELECT array_agg(x - y ORDER BY i)
            FROM unnest(state, @extschema@._token_usage_stats_add('{0,0,0,0,0,0,0,0,0}', prompt_tokens, completion_tokens,
                   total_tokens, cost_usd, cost_rub, execution_time_ms)) WITH ORDINALITY AS u (x, y, i)
        $function$;

        CREATE OR REPLACE AGGREGATE @extschema@.token_usage_stats(bigint, bigint, bigint, %1$s, %2$s, %3$s) (
          sfunc = @extschema@._token_usage_stats_add,
          stype = pg_catalog.numeric[],
          initcond = '{0,0,0,0,0,0,0,0,0}',
          finalfunc = @extschema@._token_usage_stats_final,
          combinefunc = @extschema@._token_usage_arrays_add,
          msfunc = @extschema@._token_usage_stats_add,
          minvfunc = @extschema@._token_usage_stats_subtract,
          mstype = pg_catalog.numeric[],
          minitcond = '{0,0,0,0,0,0,0,0,0}',
          mfinalfunc = @extschema@._token_usage_stats_final,
          parallel = safe);
      $statement$, costs[1], costs[2], time_type);
    END LOOP;
  END LOOP;
END
$overloads$;
