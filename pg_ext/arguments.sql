-- The errors of token_usage and the checks of arguments (rule 9 of the contract): the same texts as core/arguments.cpp gives.
--
-- How all of pg_ext/*.sql is written (rule 10). @extschema@ stands for the schema that the functions are installed in.
-- A function that users call holds qualified names and no operators, and hands the caller's search path on as data; the function
-- behind it (its name starts with an underscore) runs with search_path = pg_catalog, pg_temp, and so do the functions that it
-- calls. A call of a function of ours passes exactly the declared types and every argument, since someone else may be able to create
-- a function of the same name in the same schema. Text literals hold no backslash, which standard_conforming_strings could change.

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

-- The checks give back what they were called with: PL/pgSQL assigns such a call without a query, which PERFORM is one of.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_check_user(user_id text)
RETURNS text LANGUAGE plpgsql IMMUTABLE AS $function$
BEGIN
  IF user_id IS NULL THEN
    PERFORM @extschema@._token_usage_bad_argument('user_id'::text, 'given'::text, NULL::text);
  END IF;
  RETURN user_id;
END
$function$;

-- Raises the argument error where `value` is NULL or not in [low, high].
CREATE OR REPLACE FUNCTION @extschema@._token_usage_check_range(argument text, value bigint, low bigint, high bigint)
RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $function$
BEGIN
  IF value IS NULL OR value < low OR value > high THEN
    PERFORM @extschema@._token_usage_bad_argument(
      argument, concat('a whole number from ', low, ' to ', high), value::text);
  END IF;
  RETURN value;
END
$function$;

-- A sum of token counts as 64 bits; past them the error that names the column, SQLSTATE 22003 (rule 6). An aggregate calls it
-- under any search_path. In SQL, so that the planner puts it into the queries of reports, which call it for each row; the error takes
-- the value too, since a call with constants only would be made while planning.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_past_bigint(value numeric, measure text)
RETURNS bigint LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $function$
BEGIN
  RAISE EXCEPTION USING ERRCODE = '22003',
    MESSAGE = pg_catalog.concat('token_usage: the sum of ', measure, ' is past 9223372036854775807');
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_bigint(value numeric, measure text)
RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT CASE
    WHEN value OPERATOR(pg_catalog.>) 9223372036854775807::pg_catalog.numeric
      OR value OPERATOR(pg_catalog.<) (-9223372036854775808)::pg_catalog.numeric
      THEN @extschema@._token_usage_past_bigint(value, measure)
    ELSE value::pg_catalog.int8
  END
$function$;

-- The instant that the text of an argument names, by the same strict forms as core/timestamp.cpp: a date alone is its midnight, and
-- what has no zone is UTC. NULL is NULL.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_instant(argument text, value text)
RETURNS timestamptz LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  -- year, month, day, hour, minute, second, fraction, offset
  part text[] := regexp_match(value,
    '^([0-9]{4})-([0-9]{2})-([0-9]{2})'
    '(?:[ T]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:[.]([0-9]+))?)?(?: ?(Z|[+-][0-9]{2}:[0-9]{2}))?)?$');
  instant timestamp;
  east interval;
BEGIN
  IF value IS NULL THEN
    RETURN NULL;
  END IF;
  IF part[1] > '0000' AND part[2] BETWEEN '01' AND '12'
     AND part[3]::integer BETWEEN 1 AND extract(day FROM
           make_date(part[1]::integer, part[2]::integer, 1) + interval '1 month' - interval '1 day')
     AND coalesce(part[4], '00') <= '23' AND coalesce(part[5], '00') <= '59' AND coalesce(part[6], '00') <= '59'
     AND (part[8] IS NULL OR part[8] = 'Z' OR substr(part[8], 2, 2) <= '23' AND substr(part[8], 5, 2) <= '59') THEN
    east := CASE WHEN part[8] <> 'Z' THEN part[8] ELSE '00:00' END::interval;
    instant := make_date(part[1]::integer, part[2]::integer, part[3]::integer)
      + make_interval(hours => coalesce(part[4], '0')::integer, mins => coalesce(part[5], '0')::integer,
                      secs => coalesce(part[6], '0')::integer)
      + substr(rpad(coalesce(part[7], ''), 6, '0'), 1, 6)::integer * interval '1 microsecond' - east;
    IF instant >= '0001-01-01' AND instant < '10000-01-01' THEN
      RETURN timezone('UTC', instant);
    END IF;
  END IF;
  PERFORM @extschema@._token_usage_bad_argument(argument, 'a time such as 2025-10-20T14:30:25Z'::text, value);
END
$function$;
