-- The portable twin of pg_ext/money.cpp. Aggregates call these functions under any search_path, so that all names and operators are
-- qualified.

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
