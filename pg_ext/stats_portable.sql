-- The portable twin of pg_ext/stats.cpp: token_usage_stats(prompt_tokens, completion_tokens, total_tokens, cost_usd, cost_rub,
-- execution_time_ms), the measures of any rows of any query as one jsonb. It may run under any search_path, so that all names and
-- operators are qualified.
--
-- The state: {requests, prompt, completion, total, cost_usd, cost_rub, unpriced, sum of times, how many times}.

CREATE OR REPLACE FUNCTION @extschema@._token_usage_stats_step(
  state numeric[], direction numeric, prompt bigint, completion bigint, total bigint, usd numeric, rub numeric, ms numeric)
RETURNS numeric[] LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $function$
BEGIN
  RETURN ARRAY[
    state[1] OPERATOR(pg_catalog.+) direction,
    state[2] OPERATOR(pg_catalog.+) (direction OPERATOR(pg_catalog.*) coalesce(prompt::pg_catalog.numeric, 0.0)),
    state[3] OPERATOR(pg_catalog.+) (direction OPERATOR(pg_catalog.*) coalesce(completion::pg_catalog.numeric, 0.0)),
    -- A total that is not there is the sum of its parts.
    state[4] OPERATOR(pg_catalog.+) (direction OPERATOR(pg_catalog.*) coalesce(total::pg_catalog.numeric,
      coalesce(prompt::pg_catalog.numeric, 0.0) OPERATOR(pg_catalog.+) coalesce(completion::pg_catalog.numeric, 0.0))),
    state[5] OPERATOR(pg_catalog.+) (direction OPERATOR(pg_catalog.*) coalesce(usd, 0.0)),
    state[6] OPERATOR(pg_catalog.+) (direction OPERATOR(pg_catalog.*) coalesce(rub, 0.0)),
    state[7] OPERATOR(pg_catalog.+) CASE WHEN usd IS NULL THEN direction ELSE 0.0 END,
    state[8] OPERATOR(pg_catalog.+) (direction OPERATOR(pg_catalog.*) coalesce(ms, 0.0)),
    state[9] OPERATOR(pg_catalog.+) CASE WHEN ms IS NULL THEN 0.0 ELSE direction END];
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_stats_combine(numeric[], numeric[])
RETURNS numeric[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT ARRAY[
    $1[1] OPERATOR(pg_catalog.+) $2[1], $1[2] OPERATOR(pg_catalog.+) $2[2], $1[3] OPERATOR(pg_catalog.+) $2[3],
    $1[4] OPERATOR(pg_catalog.+) $2[4], $1[5] OPERATOR(pg_catalog.+) $2[5], $1[6] OPERATOR(pg_catalog.+) $2[6],
    $1[7] OPERATOR(pg_catalog.+) $2[7], $1[8] OPERATOR(pg_catalog.+) $2[8], $1[9] OPERATOR(pg_catalog.+) $2[9]]
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_stats_final(state numeric[])
RETURNS jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT pg_catalog.jsonb_build_object(
    'requests_count', pg_catalog.trim_scale(state[1]),
    'prompt_tokens', @extschema@._token_usage_bigint(state[2], 'prompt_tokens'),
    'completion_tokens', @extschema@._token_usage_bigint(state[3], 'completion_tokens'),
    'total_tokens', @extschema@._token_usage_bigint(state[4], 'total_tokens'),
    'cost_usd', pg_catalog.trim_scale(state[5]),
    'cost_rub', pg_catalog.trim_scale(state[6]),
    'unpriced_count', pg_catalog.trim_scale(state[7]),
    'avg_execution_time_ms', @extschema@._token_usage_mean(state[8], state[9]))
$function$;

-- For each combination of cost types that ledgers have and each type of time.
DO $aggregates$
DECLARE
  costs text;
  time_type text;
  arguments text;
BEGIN
  FOREACH costs IN ARRAY ARRAY[
    'pg_catalog.numeric, pg_catalog.numeric',
    'pg_catalog.float8, pg_catalog.float8',
    'pg_catalog.float4, pg_catalog.float4',
    'pg_catalog.numeric, pg_catalog.float8',
    'pg_catalog.float8, pg_catalog.numeric']
  LOOP
    FOREACH time_type IN ARRAY ARRAY['pg_catalog.int8', 'pg_catalog.numeric', 'pg_catalog.float8'] LOOP
      arguments := pg_catalog.concat('pg_catalog.int8, pg_catalog.int8, pg_catalog.int8, ', costs, ', ', time_type);
      EXECUTE pg_catalog.format($statement$
        CREATE OR REPLACE FUNCTION @extschema@._token_usage_stats_add(numeric[], %1$s)
        RETURNS numeric[] LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $function$
        BEGIN
          RETURN @extschema@._token_usage_stats_step($1, 1.0, $2, $3, $4, @extschema@._token_usage_decimal($5),
            @extschema@._token_usage_decimal($6), @extschema@._token_usage_decimal($7));
        END
        $function$;

        CREATE OR REPLACE FUNCTION @extschema@._token_usage_stats_subtract(numeric[], %1$s)
        RETURNS numeric[] LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $function$
        BEGIN
          RETURN @extschema@._token_usage_stats_step($1, -1.0, $2, $3, $4, @extschema@._token_usage_decimal($5),
            @extschema@._token_usage_decimal($6), @extschema@._token_usage_decimal($7));
        END
        $function$;

        CREATE OR REPLACE AGGREGATE @extschema@.token_usage_stats(%1$s) (
          sfunc = @extschema@._token_usage_stats_add,
          stype = numeric[],
          initcond = '{0,0,0,0,0,0,0,0,0}',
          finalfunc = @extschema@._token_usage_stats_final,
          combinefunc = @extschema@._token_usage_stats_combine,
          msfunc = @extschema@._token_usage_stats_add,
          minvfunc = @extschema@._token_usage_stats_subtract,
          mstype = numeric[],
          minitcond = '{0,0,0,0,0,0,0,0,0}',
          mfinalfunc = @extschema@._token_usage_stats_final,
          parallel = safe)
      $statement$, arguments);
    END LOOP;
  END LOOP;
END
$aggregates$;
