-- The portable twin of pg_ext/decimal_sum.cpp: token_usage_decimal_sum(x), the exact decimal sum by rule 4 of the contract,
-- as an aggregate and in windows. The state is {sum, how many numbers it holds}. It may run under any search_path,
-- so that all names and operators are qualified.

CREATE OR REPLACE FUNCTION @extschema@._token_usage_decimal_sum_step(state numeric[], value numeric, direction numeric)
RETURNS numeric[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT CASE WHEN value IS NULL THEN state
    ELSE ARRAY[state[1] OPERATOR(pg_catalog.+) (direction OPERATOR(pg_catalog.*) value),
               state[2] OPERATOR(pg_catalog.+) direction] END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_decimal_sum_combine(numeric[], numeric[])
RETURNS numeric[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT ARRAY[$1[1] OPERATOR(pg_catalog.+) $2[1], $1[2] OPERATOR(pg_catalog.+) $2[2]]
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_decimal_sum_final(numeric[])
RETURNS numeric LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT CASE WHEN $1[2] OPERATOR(pg_catalog.>) 0.0 THEN pg_catalog.trim_scale($1[1]) END
$function$;

DO $aggregates$
DECLARE
  argument text;
BEGIN
  FOREACH argument IN ARRAY ARRAY['pg_catalog.numeric', 'pg_catalog.float8', 'pg_catalog.float4',
    'pg_catalog.int8', 'pg_catalog.int4']
  LOOP
    EXECUTE pg_catalog.format($statement$
      CREATE OR REPLACE FUNCTION @extschema@._token_usage_decimal_sum_add(numeric[], %1$s)
      RETURNS numeric[] LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $function$
      BEGIN
        RETURN @extschema@._token_usage_decimal_sum_step($1, @extschema@._token_usage_decimal($2), 1.0);
      END
      $function$;

      CREATE OR REPLACE FUNCTION @extschema@._token_usage_decimal_sum_subtract(numeric[], %1$s)
      RETURNS numeric[] LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $function$
      BEGIN
        RETURN @extschema@._token_usage_decimal_sum_step($1, @extschema@._token_usage_decimal($2), -1.0);
      END
      $function$;

      CREATE OR REPLACE AGGREGATE @extschema@.token_usage_decimal_sum(%1$s) (
        sfunc = @extschema@._token_usage_decimal_sum_add,
        stype = numeric[],
        initcond = '{0,0}',
        finalfunc = @extschema@._token_usage_decimal_sum_final,
        combinefunc = @extschema@._token_usage_decimal_sum_combine,
        msfunc = @extschema@._token_usage_decimal_sum_add,
        minvfunc = @extschema@._token_usage_decimal_sum_subtract,
        mstype = numeric[],
        minitcond = '{0,0}',
        mfinalfunc = @extschema@._token_usage_decimal_sum_final,
        parallel = safe)
    $statement$, argument);
  END LOOP;
END
$aggregates$;
