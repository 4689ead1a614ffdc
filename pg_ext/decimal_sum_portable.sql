-- The portable twin of pg_ext/decimal_sum.cpp: token_usage_decimal_sum, the exact decimal sum by rule 4 of the contract. The state is
-- {sum, count}, so that a window can also take values away and knows when none is left.

CREATE OR REPLACE FUNCTION @extschema@._token_usage_decimal(value numeric)
RETURNS numeric LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT CASE WHEN pg_catalog.scale(value) OPERATOR(pg_catalog.<=) 12 THEN value
              WHEN pg_catalog.scale(value) OPERATOR(pg_catalog.>) 12 THEN @extschema@._token_usage_half_even(value) END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_decimal(value double precision)
RETURNS numeric LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT CASE WHEN value OPERATOR(pg_catalog.>) '-Infinity'::pg_catalog.float8
               AND value OPERATOR(pg_catalog.<) 'Infinity'::pg_catalog.float8
         THEN @extschema@._token_usage_decimal(value::pg_catalog.numeric) END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_decimal(value real)
RETURNS numeric LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT @extschema@._token_usage_decimal(@extschema@._token_usage_shortest(value))
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_decimal(value bigint)
RETURNS numeric LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT value::pg_catalog.numeric
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_decimal(value integer)
RETURNS numeric LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT value::pg_catalog.numeric
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_arrays_add(a numeric[], b numeric[])
RETURNS numeric[] LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $function$
  SELECT array_agg(x + y ORDER BY i) FROM unnest(a, b) WITH ORDINALITY AS u (x, y, i)
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_decimal_sum_final(state numeric[])
RETURNS numeric LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $function$
  SELECT CASE WHEN state[2] > 0 THEN trim_scale(state[1]) END
$function$;

DO $overloads$
DECLARE
  argument text;
BEGIN
  FOREACH argument IN ARRAY ARRAY['numeric', 'double precision', 'real', 'bigint', 'integer'] LOOP
    EXECUTE pg_catalog.format($statement$
      CREATE OR REPLACE FUNCTION @extschema@._token_usage_decimal_sum_add(state numeric[], value %1$s)
      RETURNS numeric[] LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $function$
      DECLARE
        term numeric := @extschema@._token_usage_decimal(value);
      BEGIN
        RETURN CASE WHEN term IS NULL THEN state ELSE ARRAY[state[1] + term, state[2] + 1] END;
      END
      $function$;

      CREATE OR REPLACE FUNCTION @extschema@._token_usage_decimal_sum_subtract(state numeric[], value %1$s)
      RETURNS numeric[] LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $function$
      DECLARE
        term numeric := @extschema@._token_usage_decimal(value);
      BEGIN
        RETURN CASE WHEN term IS NULL THEN state ELSE ARRAY[state[1] - term, state[2] - 1] END;
      END
      $function$;

      CREATE OR REPLACE AGGREGATE @extschema@.token_usage_decimal_sum(%1$s) (
        sfunc = @extschema@._token_usage_decimal_sum_add,
        stype = pg_catalog.numeric[],
        initcond = '{0,0}',
        finalfunc = @extschema@._token_usage_decimal_sum_final,
        combinefunc = @extschema@._token_usage_arrays_add,
        msfunc = @extschema@._token_usage_decimal_sum_add,
        minvfunc = @extschema@._token_usage_decimal_sum_subtract,
        mstype = pg_catalog.numeric[],
        minitcond = '{0,0}',
        mfinalfunc = @extschema@._token_usage_decimal_sum_final,
        parallel = safe);
    $statement$, argument);
  END LOOP;
END
$overloads$;
