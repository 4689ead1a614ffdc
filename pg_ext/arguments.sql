-- The errors of token_usage (rule 9 of the contract): one message form for wrong arguments, the same text as in core/arguments.cpp.
--
-- In all of pg_ext/*.sql, @extschema@ stands for the schema that the functions are installed in. A function that users call
-- holds qualified names and no operators, and hands the caller's search path on as data; the function
-- behind it (its name starts with an underscore) runs with search_path = pg_catalog, pg_temp. Functions called from
-- there inherit that setting.

-- `value` as an error shows it: NULL as NULL, no more than 200 characters.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_shown(value text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT CASE
    WHEN value IS NULL THEN 'NULL'
    WHEN pg_catalog.length(value) OPERATOR(pg_catalog.>) 200
      THEN pg_catalog.concat(pg_catalog."left"(value, 200), '...')
    ELSE value
  END
$function$;

-- Raises `token_usage: <argument> must be <rule>, got <value>`, SQLSTATE 22023.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_bad_argument(argument text, rule text, value text)
RETURNS void LANGUAGE plpgsql IMMUTABLE AS $function$
BEGIN
  RAISE EXCEPTION USING ERRCODE = '22023',
    MESSAGE = pg_catalog.concat('token_usage: ', argument, ' must be ', rule, ', got ',
                                @extschema@._token_usage_shown(value));
END
$function$;

-- Raises `token_usage: cannot adopt <reason>`, SQLSTATE 42804.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_refuse(reason text)
RETURNS void LANGUAGE plpgsql IMMUTABLE AS $function$
BEGIN
  RAISE EXCEPTION USING ERRCODE = '42804',
    MESSAGE = pg_catalog.concat('token_usage: cannot adopt ', reason);
END
$function$;

-- `value` where it lies in [low, high]; else the argument error.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_check_range(argument text, value bigint, low bigint, high bigint)
RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $function$
BEGIN
  IF value IS NULL OR value < low OR value > high THEN
    PERFORM @extschema@._token_usage_bad_argument(
      argument, 'a whole number from ' || low || ' to ' || high, value::text);
  END IF;
  RETURN value;
END
$function$;

-- A sum of token counts as 64 bits; past them the error that names the column, SQLSTATE 22003.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_bigint(value numeric, measure text)
RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $function$
BEGIN
  IF value > 9223372036854775807 THEN
    RAISE EXCEPTION USING ERRCODE = '22003',
      MESSAGE = pg_catalog.concat('token_usage: the sum of ', measure, ' is past 9223372036854775807');
  END IF;
  RETURN value::bigint;
END
$function$;

-- The instant that a text names: PostgreSQL's own forms, UTC where there is no zone. NULL is NULL.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_instant(argument text, value text)
RETURNS timestamptz LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO, YMD' AS $function$
BEGIN
  RETURN value::timestamptz;
EXCEPTION WHEN data_exception THEN
  PERFORM @extschema@._token_usage_bad_argument(argument, 'a time such as 2025-10-20T14:30:25Z', value);
END
$function$;
