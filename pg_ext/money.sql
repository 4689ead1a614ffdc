-- Money is decimal (rule 4 of the contract): what a stored cost counts as. core/decimal.cpp is the twin. Aggregates call
-- these functions under any search_path, so that all names and operators are qualified.

-- `value` with more than 12 places, rounded half-even to 12; NULL for NaN and infinities, whose scale() is NULL. round() takes ties
-- away from zero; where that was a tie and the digit before it is even, it is to stay.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_half_even(value numeric)
RETURNS numeric LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT CASE
    WHEN pg_catalog.scale(value) IS NULL THEN NULL
    WHEN pg_catalog.abs(value OPERATOR(pg_catalog.-) pg_catalog.trunc(value, 12)) OPERATOR(pg_catalog.=) 0.0000000000005
     AND pg_catalog.mod(pg_catalog.trunc(value, 12), 0.000000000002) OPERATOR(pg_catalog.=) 0.0
      THEN pg_catalog.trunc(value, 12)
    ELSE pg_catalog.round(value, 12)
  END
$function$;

-- The decimal that a number counts as; NULL for NULL, NaN and infinities.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_decimal(value numeric)
RETURNS numeric LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT CASE WHEN pg_catalog.scale(value) OPERATOR(pg_catalog.<=) 12 THEN value
              ELSE @extschema@._token_usage_half_even(value) END
$function$;

-- The cast gives 15 significant digits. It comes behind the test, since infinity has no numeric before PostgreSQL 14.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_decimal(value double precision)
RETURNS numeric LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT CASE
    WHEN value OPERATOR(pg_catalog.>) pg_catalog.float8 '-Infinity'
     AND value OPERATOR(pg_catalog.<) pg_catalog.float8 'Infinity'
      THEN @extschema@._token_usage_decimal(value::pg_catalog.numeric)
  END
$function$;

-- A real counts as the shortest decimal that gives the same real back. That is how the server prints it, unless
-- extra_float_digits says otherwise.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_decimal(value real)
RETURNS numeric LANGUAGE sql IMMUTABLE PARALLEL SAFE SET extra_float_digits = 1 AS $function$
  SELECT CASE
    WHEN value OPERATOR(pg_catalog.>) pg_catalog.float4 '-Infinity'
     AND value OPERATOR(pg_catalog.<) pg_catalog.float4 'Infinity'
      THEN @extschema@._token_usage_decimal(value::pg_catalog.text::pg_catalog.numeric)
  END
$function$;

-- Integers are decimals already.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_decimal(value bigint)
RETURNS numeric LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT value::pg_catalog.numeric
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_decimal(value integer)
RETURNS numeric LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT value::pg_catalog.numeric
$function$;

-- The mean of `n` numbers whose sum is `total`, half away from zero to a whole number; NULL over none. div() is exact where `/`
-- would have rounded once before.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_mean(total numeric, n numeric)
RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT CASE WHEN n OPERATOR(pg_catalog.>) 0.0 THEN
    (pg_catalog.sign(total) OPERATOR(pg_catalog.*)
     pg_catalog.div(2.0 OPERATOR(pg_catalog.*) pg_catalog.abs(total) OPERATOR(pg_catalog.+) n,
                    2.0 OPERATOR(pg_catalog.*) n))::pg_catalog.int8
  END
$function$;
