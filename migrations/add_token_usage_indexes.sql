-- token_usage, portable edition: the ledger and its reports for PostgreSQL 13 and later, in SQL and PL/pgSQL only.
--
--   psql "$DATABASE_URL" -f migrations/add_token_usage_indexes.sql
--
-- It needs no superuser and no library. Functions go into the first schema of search_path, and token_usage_migrate() then makes the ledger
-- there, or adopts the table token_usage that there is. Run it again for a new version. Made by `make` from pg_ext/*.sql: edit those.

BEGIN;

DO $portable$
DECLARE
  home pg_catalog.text := pg_catalog.quote_ident(pg_catalog.current_schema());
  path pg_catalog.text := pg_catalog.current_setting('search_path');
  steps pg_catalog.jsonb;
  portable record;
  routines pg_catalog.text;
BEGIN
  -- Whatever else is on the search path, nothing here is looked up there.
  PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  IF home IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_schema_name',
      MESSAGE = 'token_usage: no schema to create functions in', HINT = 'Put a schema on search_path.';
  ELSIF home ~ '[%$''[.backslash.]]' THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_schema_name',
      MESSAGE = 'token_usage: the name of its schema must be without %, $, quotes and backslashes';
  END IF;

  -- Two runs at the same time wait for each other, by the lock of token_usage_migrate().
  PERFORM pg_advisory_xact_lock(8390044641146926451);

  -- A database that has the native edition goes on with this one; the tables stay.
  FOR portable IN SELECT e.extowner FROM pg_extension AS e WHERE e.extname = 'token_usage' LOOP
    IF NOT pg_has_role(current_user, portable.extowner, 'USAGE') THEN
      RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
        MESSAGE = format('token_usage: the extension token_usage belongs to role %s', portable.extowner::regrole),
        HINT = 'Run this file as that role, or drop the extension first: the tables stay.';
    END IF;
    DROP EXTENSION token_usage;
  END LOOP;

  -- Internal functions of an older version go first, since a function cannot be replaced by one with other columns. Those that something
  -- is made of (aggregates, triggers) stay, and so does everything that views may use.
  SELECT string_agg(p.oid::regprocedure::text, ', ') INTO routines
    FROM pg_proc AS p
    JOIN pg_description AS d ON d.objoid = p.oid AND d.classoid = 'pg_proc'::regclass
   WHERE p.pronamespace = home::regnamespace AND left(p.proname, 13) = '_token_usage_'
     AND left(d.description, 29) = 'token_usage, portable edition'
     AND NOT EXISTS (SELECT FROM pg_depend AS u WHERE u.refclassid = 'pg_proc'::regclass AND u.refobjid = p.oid);
  IF routines IS NOT NULL THEN
    EXECUTE 'DROP ROUTINE ' || routines;
    routines := NULL;
  END IF;

  EXECUTE replace($token_usage$
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

CREATE OR REPLACE FUNCTION @extschema@._token_usage_check_user(user_id text)
RETURNS void LANGUAGE plpgsql IMMUTABLE AS $function$
BEGIN
  IF user_id IS NULL THEN
    PERFORM @extschema@._token_usage_bad_argument('user_id'::text, 'given'::text, NULL::text);
  END IF;
END
$function$;

-- Raises the argument error where `value` is NULL or not in [low, high].
CREATE OR REPLACE FUNCTION @extschema@._token_usage_check_range(argument text, value bigint, low bigint, high bigint)
RETURNS void LANGUAGE plpgsql IMMUTABLE AS $function$
BEGIN
  IF value IS NULL OR value < low OR value > high THEN
    PERFORM @extschema@._token_usage_bad_argument(
      argument, concat('a whole number from ', low, ' to ', high), value::text);
  END IF;
END
$function$;

-- A sum of token counts as 64 bits; past them the error that names the column, SQLSTATE 22003 (rule 6). An aggregate calls it
-- under any search_path.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_bigint(value numeric, measure text)
RETURNS bigint LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $function$
BEGIN
  IF value OPERATOR(pg_catalog.>) 9223372036854775807::pg_catalog.numeric
     OR value OPERATOR(pg_catalog.<) (-9223372036854775808)::pg_catalog.numeric THEN
    RAISE EXCEPTION USING ERRCODE = '22003',
      MESSAGE = pg_catalog.concat('token_usage: the sum of ', measure, ' is past 9223372036854775807');
  END IF;
  RETURN value::pg_catalog.int8;
END
$function$;

-- A time as text, in UTC, with a fraction only where there is one: 2025-10-20T14:30:25Z.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_time_text(value timestamptz)
RETURNS text LANGUAGE plpgsql IMMUTABLE AS $function$
DECLARE
  utc timestamp := timezone('UTC', value);
BEGIN
  IF NOT isfinite(utc) THEN
    RETURN utc::text;
  END IF;
  RETURN concat(to_char(utc, 'YYYY-MM-DD"T"HH24:MI:SS'),
                CASE to_char(utc, 'US') WHEN '000000' THEN '' ELSE to_char(utc, '.US') END,
                CASE WHEN utc < '0001-01-01' THEN ' BC' END, 'Z');
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
$token_usage$, '@extschema@', home);

  EXECUTE replace($token_usage$
-- Money is decimal (rule 4 of the contract): what a stored cost counts as. core/decimal.cpp is the twin. Aggregates call
-- these functions under any search_path, so that all names and operators are qualified. money.cpp and money_portable.sql hold the rest.

-- `value` with more than 12 places, rounded half-even to 12; NULL for NaN and infinities, whose scale() is NULL. round() takes ties
-- away from zero; where that was a tie and the digit before it is even, it is to stay.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_half_even(value numeric)
RETURNS numeric LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $function$
BEGIN
  RETURN CASE
    WHEN pg_catalog.scale(value) IS NULL THEN NULL
    WHEN pg_catalog.abs(value OPERATOR(pg_catalog.-) pg_catalog.trunc(value, 12)) OPERATOR(pg_catalog.=) 0.0000000000005
     AND pg_catalog.mod(pg_catalog.trunc(value, 12), 0.000000000002) OPERATOR(pg_catalog.=) 0.0
      THEN pg_catalog.trunc(value, 12)
    ELSE pg_catalog.round(value, 12)
  END;
END
$function$;

-- The text of an expression that gives the decimal of a column of that family (rule 4); NULL for one that is no number. For numeric it is
-- written out, since to inline a function of SQL takes longer than to read a user's few rows.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_decimal_sql(column_name text, family text)
RETURNS text LANGUAGE plpgsql IMMUTABLE AS $function$
BEGIN
  RETURN CASE family
    WHEN 'integer' THEN column_name || '::pg_catalog.numeric'
    WHEN 'numeric' THEN
      format('CASE WHEN pg_catalog.scale(%s) OPERATOR(pg_catalog.<=) 12 THEN %s ELSE @extschema@._token_usage_half_even(%s) END',
             column_name, column_name, column_name)
    WHEN 'double' THEN format('@extschema@._token_usage_decimal(%s::pg_catalog.float8)', column_name)
    WHEN 'real' THEN format('@extschema@._token_usage_decimal(%s::pg_catalog.float4)', column_name)
  END;
END
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
$token_usage$, '@extschema@', home);

  EXECUTE replace($token_usage$
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
$token_usage$, '@extschema@', home);

  EXECUTE replace($token_usage$
-- Finds the ledger and tells what its columns are. An adopted table may have other types than ours, so the text of each query
-- depends on them. That text names and qualifies everything, operators too. Nothing here reads the ledger's rows.

-- The ledger: the first schema of the path, the temporary one excluded, that has a table token_usage. Raises the contract's error
-- (42P01) where there is none.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_ledger(path name[])
RETURNS oid LANGUAGE plpgsql STABLE AS $function$
DECLARE
  ledger oid;
BEGIN
  SELECT c.oid INTO ledger
    FROM unnest(path) WITH ORDINALITY AS p (nspname, place)
    JOIN pg_catalog.pg_namespace AS n ON n.nspname = p.nspname
    JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid
   WHERE c.relname = 'token_usage' AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
   ORDER BY p.place LIMIT 1;
  IF ledger IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = '42P01',
      MESSAGE = 'token_usage: no token_usage table; run SELECT token_usage_migrate()',
      HINT = 'The table is looked for in the schemas of search_path.';
  END IF;
  RETURN ledger;
END
$function$;

-- The type under a domain.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_base_type(type oid)
RETURNS oid LANGUAGE plpgsql STABLE AS $function$
DECLARE
  base oid := type;
BEGIN
  LOOP
    SELECT t.typbasetype INTO base FROM pg_catalog.pg_type AS t WHERE t.oid = type AND t.typtype = 'd';
    EXIT WHEN NOT FOUND;
    type := base;
  END LOOP;
  RETURN type;
END
$function$;

-- How a column is compared and read. By the numbers of the types, which never change: their names would have to be looked up for each
-- column of each report.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_family(type oid)
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT CASE
    WHEN type = 20 OR type = 23 OR type = 21 THEN 'integer'  -- bigint, integer, smallint
    WHEN type = 25 OR type = 1043 THEN 'text'  -- text, varchar
    WHEN type = 1042 THEN 'char'
    WHEN type = 1700 THEN 'numeric'
    WHEN type = 701 THEN 'double'
    WHEN type = 700 THEN 'real'
    WHEN type = 2950 THEN 'uuid'
    WHEN type = 1184 THEN 'timestamptz'
    WHEN type = 1114 THEN 'timestamp'
    WHEN type = 3802 OR type = 114 THEN 'json'  -- jsonb, json
    ELSE 'other'
  END
$function$;

-- The family of a type that may be a domain. What the server brings itself, below 16384, is none.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_family_of(type oid)
RETURNS text LANGUAGE plpgsql STABLE AS $function$
BEGIN
  IF type < 16384 THEN
    RETURN @extschema@._token_usage_family(type);
  END IF;
  RETURN @extschema@._token_usage_family(@extschema@._token_usage_base_type(type));
END
$function$;

-- The columns of the ledger. type and modifier are as format_type() takes them.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_columns(ledger oid)
RETURNS TABLE (name text, family text, not_null boolean, deterministic boolean, type oid, modifier integer)
LANGUAGE sql STABLE AS $function$
  SELECT a.attname::text,
         CASE WHEN a.atttypid < 16384 THEN @extschema@._token_usage_family(a.atttypid)
              ELSE @extschema@._token_usage_family_of(a.atttypid) END,
         a.attnotnull,
         -- The server's own collations are all deterministic.
         a.attcollation < 16384 OR (SELECT c.collisdeterministic FROM pg_catalog.pg_collation AS c
                                     WHERE c.oid = a.attcollation),
         a.atttypid, a.atttypmod
    FROM pg_catalog.pg_attribute AS a
   WHERE a.attrelid = ledger AND a.attnum > 0 AND NOT a.attisdropped
$function$;

-- The family of one column; NULL where there is none.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_column_family(ledger oid, column_name text)
RETURNS text LANGUAGE plpgsql STABLE AS $function$
DECLARE
  type oid;
BEGIN
  SELECT a.atttypid INTO type FROM pg_catalog.pg_attribute AS a
   WHERE a.attrelid = ledger AND a.attname = column_name::name AND NOT a.attisdropped;
  RETURN @extschema@._token_usage_family_of(type);
END
$function$;

-- The name of a table beside the ledger, or of the ledger itself, qualified and quoted.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_table(ledger oid, table_name text)
RETURNS text LANGUAGE plpgsql STABLE AS $function$
BEGIN
  RETURN (SELECT format('%I.%I', n.nspname, table_name)
            FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
           WHERE c.oid = ledger);
END
$function$;

-- `user_id` as the ledger's column can compare it; the argument error where its type cannot hold it.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_user(ledger oid, user_id text)
RETURNS text LANGUAGE plpgsql STABLE AS $function$
DECLARE
  family text := @extschema@._token_usage_column_family(ledger, 'user_id'::text);
BEGIN
  IF family = 'integer' THEN
    IF user_id !~ '^ *[+-]?[0-9]{1,40} *$'
       OR user_id::numeric NOT BETWEEN -9223372036854775808 AND 9223372036854775807 THEN
      PERFORM @extschema@._token_usage_bad_argument('user_id'::text, 'a bigint'::text, user_id);
    END IF;
  ELSIF family = 'uuid' THEN
    IF lower(user_id COLLATE "C") !~ '^(([0-9a-f]{4}-?){7}[0-9a-f]{4}|[{]([0-9a-f]{4}-?){7}[0-9a-f]{4}[}])$' THEN
      PERFORM @extschema@._token_usage_bad_argument('user_id'::text, 'a uuid'::text, user_id);
    END IF;
  END IF;
  RETURN user_id;
END
$function$;

-- The type of a parameter that is compared with a column of that family, so that the column's indexes serve.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_key_type(family text)
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT CASE family WHEN 'integer' THEN 'pg_catalog.int8' WHEN 'uuid' THEN 'pg_catalog.uuid'
                     WHEN 'char' THEN 'pg_catalog.bpchar' ELSE 'pg_catalog.text' END
$function$;

-- The ledger's columns as expressions over its row t, as reports and pages read them (rules 4, 5 and 8):
--   created: the time as timestamptz; bound: a format for a timestamptz that is compared with the column created_at;
--   prompt, completion, total: whole counts; cost_usd, cost_rub, execution: decimals, NULL where unknown;
--   id, id_type: the key, and the type of a parameter that is compared with it; agent, provider, model: text by bytes;
--   of_user: the condition that picks the user in $1; of_agent: the same for the agent in $2.
-- Raises 42703 for a column that is missing and 42804 for a type that reports cannot work with: a table that was not migrated.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_layout(
  ledger oid, OUT created text, OUT bound text, OUT prompt text, OUT completion text, OUT total text, OUT cost_usd text,
  OUT cost_rub text, OUT execution text, OUT id text, OUT id_family text, OUT id_type text, OUT agent text,
  OUT provider text, OUT model text, OUT of_user text, OUT of_agent text)
LANGUAGE plpgsql STABLE AS $function$
DECLARE
  col record;
  here text;
  value text;
  has_total boolean;
  missing text[] := '{id,user_id,agent_id,ai_provider,ai_model,prompt_tokens,completion_tokens,total_tokens,cost_usd,cost_rub,'
    'execution_time_ms,created_at,platform,content_type,task_type,content_id,workflow_id,request_id,endpoint}';
BEGIN
  FOR col IN SELECT * FROM @extschema@._token_usage_columns(ledger) LOOP
    CONTINUE WHEN col.name <> ALL (missing);
    missing := array_remove(missing, col.name);
    here := 't.' || col.name;
    IF col.name IN ('platform', 'content_type', 'task_type', 'content_id', 'workflow_id', 'request_id', 'endpoint') THEN
      CONTINUE;
    ELSIF col.name = 'created_at' THEN
      -- Without time zone it holds UTC. The bound is converted and not the column, so that its index serves.
      created := CASE col.family WHEN 'timestamptz' THEN here
                   WHEN 'timestamp' THEN format('pg_catalog.timezone(''UTC''::pg_catalog.text, %s)', here) END;
      bound := CASE col.family WHEN 'timestamptz' THEN '%s'
                 WHEN 'timestamp' THEN 'pg_catalog.timezone(''UTC''::pg_catalog.text, %s)' END;
      value := created;
    ELSIF col.name IN ('id', 'user_id', 'agent_id', 'ai_provider', 'ai_model') THEN
      value := CASE WHEN col.family IN ('text', 'char') THEN format('(%s::pg_catalog.text COLLATE pg_catalog."C")', here)
                    WHEN col.name IN ('id', 'user_id') AND col.family IN ('integer', 'uuid') THEN here END;
      CASE col.name
        WHEN 'id' THEN
          id := value;
          id_family := col.family;
          id_type := CASE col.family WHEN 'char' THEN 'pg_catalog.text'
                                     ELSE @extschema@._token_usage_key_type(col.family) END;
        WHEN 'user_id' THEN
          of_user := @extschema@._token_usage_equal(here, '$1'::text, col.family, col.deterministic);
        WHEN 'agent_id' THEN
          agent := value;
          of_agent := @extschema@._token_usage_equal(here, '$2'::text, col.family, col.deterministic);
        WHEN 'ai_provider' THEN provider := value;
        ELSE model := value;
      END CASE;
    ELSIF col.name IN ('prompt_tokens', 'completion_tokens', 'total_tokens') THEN
      -- A count is whole, and one that is no number is none.
      value := CASE col.family
        WHEN 'integer' THEN here || '::pg_catalog.int8'
        ELSE format('pg_catalog.trunc(%s)', @extschema@._token_usage_decimal_sql(here, col.family)) END;
      IF col.name = 'total_tokens' THEN
        total := value;
        has_total := col.not_null AND col.family = 'integer';
      ELSE
        value := CASE WHEN col.not_null AND col.family = 'integer' THEN value ELSE format('coalesce(%s, 0)', value) END;
        IF col.name = 'prompt_tokens' THEN
          prompt := value;
        ELSE
          completion := value;
        END IF;
      END IF;
    ELSE
      value := @extschema@._token_usage_decimal_sql(here, col.family);
      CASE col.name WHEN 'cost_usd' THEN cost_usd := value; WHEN 'cost_rub' THEN cost_rub := value;
                    ELSE execution := value; END CASE;
    END IF;
    IF value IS NULL THEN
      RAISE EXCEPTION USING ERRCODE = '42804',
        MESSAGE = format('token_usage: column %s of table token_usage has type %s', col.name,
                         format_type(col.type, col.modifier)),
        HINT = 'Run SELECT token_usage_migrate(), which tells what type is needed.';
    END IF;
  END LOOP;
  IF missing <> '{}' THEN
    RAISE EXCEPTION USING ERRCODE = '42703',
      MESSAGE = format('token_usage: table token_usage has no column %s; run SELECT token_usage_migrate()', missing[1]);
  END IF;
  -- A total that is not there is the sum of its parts.
  IF NOT has_total THEN
    total := format('coalesce(%s, %s OPERATOR(pg_catalog.+) %s)', total, prompt, completion);
  END IF;
END
$function$;

-- A condition that is true for the bytes of the text parameter only, and that the column's indexes can serve.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_equal(
  column_name text, parameter text, family text, deterministic boolean)
RETURNS text LANGUAGE plpgsql IMMUTABLE AS $function$
DECLARE
  condition text := format('%s OPERATOR(pg_catalog.=) %s::%s', column_name, parameter,
                           @extschema@._token_usage_key_type(family));
BEGIN
  IF NOT deterministic THEN
    condition := format('%s AND (%s::pg_catalog.text COLLATE pg_catalog."C") OPERATOR(pg_catalog.=) %s',
                        condition, column_name, parameter);
  END IF;
  RETURN condition;
END
$function$;
$token_usage$, '@extschema@', home);

  EXECUTE replace($token_usage$
-- The ledger's settings: a name and a value each, in the table token_usage_settings beside the ledger.

CREATE OR REPLACE FUNCTION @extschema@._token_usage_check_setting(name text)
RETURNS void LANGUAGE plpgsql IMMUTABLE AS $function$
BEGIN
  IF name IS DISTINCT FROM 'time_zone' THEN
    PERFORM @extschema@._token_usage_bad_argument('name'::text, 'one of time_zone'::text, name);
  END IF;
END
$function$;

-- The value of a setting, or its default where none was set.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_read_setting(ledger oid, name text)
RETURNS text LANGUAGE plpgsql STABLE AS $function$
DECLARE
  settings text := @extschema@._token_usage_table(ledger, 'token_usage_settings'::text);
  value text;
BEGIN
  IF to_regclass(settings) IS NOT NULL THEN
    EXECUTE format('SELECT s.value FROM %s AS s WHERE s.name = $1', settings) INTO value USING name;
  END IF;
  RETURN coalesce(value, 'UTC');
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_setting(path name[], name text)
RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
  PERFORM @extschema@._token_usage_check_setting(name);
  RETURN @extschema@._token_usage_read_setting(@extschema@._token_usage_ledger(path), name);
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_set(path name[], name text, value text)
RETURNS text LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  ledger oid;
  settings text;
BEGIN
  PERFORM @extschema@._token_usage_check_setting(name);
  IF value IS NOT NULL THEN
    PERFORM @extschema@._token_usage_zone(value, 'value'::text);
  END IF;
  ledger := @extschema@._token_usage_ledger(path);
  settings := @extschema@._token_usage_table(ledger, 'token_usage_settings'::text);
  IF to_regclass(settings) IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = '42P01',
      MESSAGE = 'token_usage: no token_usage_settings table; run SELECT token_usage_migrate()';
  END IF;
  IF value IS NULL THEN
    EXECUTE format('DELETE FROM %s AS s WHERE s.name = $1', settings) USING name;
  ELSE
    EXECUTE format('INSERT INTO %s AS s (name, value) VALUES ($1, $2)
                    ON CONFLICT (name) DO UPDATE SET value = excluded.value', settings) USING name, value;
  END IF;
  RETURN @extschema@._token_usage_read_setting(ledger, name);
END
$function$;

-- Reads a setting of the ledger. Raises for a name that is none, and where there is no ledger.
CREATE OR REPLACE FUNCTION @extschema@.token_usage_setting(name text)
RETURNS text LANGUAGE sql STABLE AS $function$
  SELECT @extschema@._token_usage_setting(pg_catalog.current_schemas(false), name)
$function$;

-- Writes a setting and returns the value that now holds; NULL goes back to the default.
CREATE OR REPLACE FUNCTION @extschema@.token_usage_set(name text, value text)
RETURNS text LANGUAGE sql VOLATILE AS $function$
  SELECT @extschema@._token_usage_set(pg_catalog.current_schemas(false), name, value)
$function$;
$token_usage$, '@extschema@', home);

  EXECUTE replace($token_usage$
-- Whole local calendar days (rules 1 to 3 of the contract) on PostgreSQL's own time zones. core/calendar.cpp is the twin for
-- SQLite; the conformance suite compares the two.
--
-- Local times are computed by casts under the setting TimeZone and not with AT TIME ZONE, because that takes some names of
-- zones (CET, EST) for abbreviations, which have no daylight-saving time. A function that sets TimeZone says so in its declaration,
-- which gives the caller his own back.

-- Raises the argument error where `zone` is no IANA name or the server does not know it. PostgreSQL would also take
-- abbreviations (MSK) and POSIX strings (Foo/Bar5); the form is that of core/zone_name.cpp. Returns the zone.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_zone(zone text, argument text)
RETURNS text LANGUAGE plpgsql STABLE AS $function$
DECLARE
  low text := lower(zone COLLATE "C");
BEGIN
  IF low = 'utc' THEN
    RETURN 'UTC';
  END IF;
  IF length(zone) > 64 OR NOT (
       low ~ ('^(cet|cst6cdt|cuba|eet|est|est5edt|egypt|eire|gb|gb-eire|gmt|gmt[+]0|gmt-0|gmt0|greenwich|hst|'
              'hongkong|iceland|iran|israel|jamaica|japan|kwajalein|libya|met|mst|mst7mdt|nz|nz-chat|navajo|prc|'
              'pst8pdt|poland|portugal|roc|rok|singapore|turkey|uct|universal|w-su|wet|zulu)$')
       OR low ~ '^etc/gmt(0|[+]([0-9]|1[0-2])|-([0-9]|1[0-4]))?$'
       OR (low ~ '^[a-z][a-z_-]*(/[a-z][a-z_-]*){1,2}$' AND low !~ '^(posix|right|systemv)/'))
     OR NOT @extschema@._token_usage_zone_known(zone) THEN
    PERFORM @extschema@._token_usage_bad_argument(argument, 'an IANA time zone'::text, zone);
  END IF;
  RETURN zone;
END
$function$;

-- The first instant whose local time, by the setting TimeZone, is at or past `midnight`, where that is not simply the cast: a
-- midnight that is skipped gives the transition itself, and of two midnights the first is taken.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_odd_midnight(midnight timestamp)
RETURNS timestamptz LANGUAGE plpgsql STABLE AS $function$
DECLARE
  start timestamptz := midnight;
  before timestamptz;
  middle timestamptz;
BEGIN
  IF start::timestamp = midnight THEN
    -- Read with the offset of the day before it may come earlier, and then there are two.
    before := start - interval '24 hours';
    before := start - (before::timestamp + interval '24 hours' - midnight);
    RETURN CASE WHEN before < start AND before::timestamp = midnight THEN before ELSE start END;
  END IF;
  -- No such local time. The clock is short of it at one end and past it at the other; transitions are at whole seconds.
  before := start - interval '26 hours';
  start := start + interval '26 hours';
  WHILE start - before > interval '1 second' LOOP
    middle := before + make_interval(secs => floor(extract(epoch FROM start - before) / 2));
    IF middle::timestamp >= midnight THEN
      start := middle;
    ELSE
      before := middle;
    END IF;
  END LOOP;
  RETURN start;
END
$function$;

-- The starts of these days, in their order.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_local_starts(days date[], zone text)
RETURNS timestamptz[] LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $function$
BEGIN
  PERFORM set_config('TimeZone', zone, true);
  RETURN ARRAY(
    SELECT CASE
        -- A midnight that exists, and whose clock has gone evenly for a day, is the only one of its date.
        WHEN m.midnight::timestamptz::timestamp = m.midnight
         AND (m.midnight::timestamptz - interval '24 hours')::timestamp = m.midnight - interval '24 hours'
          THEN m.midnight::timestamptz
        ELSE @extschema@._token_usage_odd_midnight(m.midnight)
      END
      FROM (SELECT d.day::timestamp AS midnight, d.place
              FROM unnest(days) WITH ORDINALITY AS d (day, place)) AS m
     ORDER BY m.place);
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_starts(days date[], zone text)
RETURNS timestamptz[] LANGUAGE plpgsql STABLE AS $function$
BEGIN
  IF zone = 'UTC' THEN
    RETURN ARRAY(SELECT timezone('UTC', d.day::timestamp)
                   FROM unnest(days) WITH ORDINALITY AS d (day, place) ORDER BY d.place);
  END IF;
  RETURN @extschema@._token_usage_local_starts(days, zone);
END
$function$;

-- The starts of the days from `first` to `last`, and of the day after it.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_day_bounds(first date, last date, zone text)
RETURNS timestamptz[] LANGUAGE plpgsql STABLE AS $function$
BEGIN
  RETURN @extschema@._token_usage_starts(
    ARRAY(SELECT first + i FROM generate_series(0, last + 1 - first) AS i ORDER BY i), zone);
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_local_day(as_of timestamptz, zone text)
RETURNS date LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $function$
DECLARE
  day date;
BEGIN
  PERFORM set_config('TimeZone', zone, true);
  day := as_of::timestamp::date;
  -- Where the clock goes back across midnight, the local date is for a while the one before the day that has begun.
  WHILE @extschema@._token_usage_odd_midnight((day + 1)::timestamp) <= as_of LOOP
    day := day + 1;
  END LOOP;
  RETURN day;
END
$function$;

-- The local day that holds `as_of`; NULL is now. Raises where as_of is outside the years 1000 to 9999.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_day_of(as_of timestamptz, zone text)
RETURNS date LANGUAGE plpgsql STABLE AS $function$
BEGIN
  IF as_of IS NULL THEN
    as_of := now();
  ELSIF as_of < '1000-01-01 00:00:00+00' OR as_of >= '10000-01-01 00:00:00+00' THEN
    PERFORM @extschema@._token_usage_bad_argument('as_of'::text, 'a time from year 1000 to 9999'::text,
      @extschema@._token_usage_time_text(as_of));
  END IF;
  IF zone = 'UTC' THEN
    RETURN timezone('UTC', as_of)::date;
  END IF;
  RETURN @extschema@._token_usage_local_day(as_of, zone);
END
$function$;

-- The first day of the period that `day`, `week` (from Monday), `month` or `year` names.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_first_day(period text, last_day date)
RETURNS date LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT pg_catalog.date_trunc(period, last_day::timestamp without time zone)::date
$function$;
$token_usage$, '@extschema@', home);

  EXECUTE replace($token_usage$
-- The one place where reports get their sums: the ledger rows of one user, assigned to consecutive stretches of time and grouped
-- by a dimension. The text of the query depends on the ledger's column types; it is made here for both editions. The portable
-- edition runs it with EXECUTE (sums_portable.sql), the native one keeps its plan (sums.cpp).

-- The SELECT that _token_usage_sums runs. Parameters: $1 text, the user; $2 text, the agent (where has_agent); $3 timestamptz[],
-- the bounds, ascending, at least two. dimension is none, agent or model. Rows are assigned by their instants, never by a local
-- date, so that every report of a period adds up the same rows (rule 1); -infinity is no time.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_sums_sql(ledger oid, dimension text, has_agent boolean)
RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  l record := @extschema@._token_usage_layout(ledger);
BEGIN
  RETURN format(
    'SELECT pg_catalog.width_bucket(%s, $3), %s, %s, pg_catalog.count(*),
            pg_catalog.sum(%s)::pg_catalog.numeric, pg_catalog.sum(%s)::pg_catalog.numeric,
            pg_catalog.sum(%s)::pg_catalog.numeric, coalesce(pg_catalog.sum(%s), 0), coalesce(pg_catalog.sum(%s), 0),
            pg_catalog.count(*) OPERATOR(pg_catalog.-) pg_catalog.count(%s), coalesce(pg_catalog.sum(%s), 0),
            pg_catalog.count(%s)
       FROM %s AS t
      WHERE %s%s AND t.created_at OPERATOR(pg_catalog.>) ''-infinity''
        AND t.created_at OPERATOR(pg_catalog.>=) %s AND t.created_at OPERATOR(pg_catalog.<) %s
      GROUP BY 1, 2, 3',
    l.created,
    CASE dimension WHEN 'agent' THEN l.agent WHEN 'model' THEN l.provider ELSE 'NULL::pg_catalog.text' END,
    CASE dimension WHEN 'model' THEN l.model ELSE 'NULL::pg_catalog.text' END,
    l.prompt, l.completion, l.total, l.cost_usd, l.cost_rub, l.cost_usd, l.execution, l.execution,
    @extschema@._token_usage_table(ledger, 'token_usage'::text), l.of_user,
    CASE WHEN has_agent THEN ' AND ' || l.of_agent ELSE '' END,
    format(l.bound, '$3[1]'), format(l.bound, '$3[pg_catalog.array_upper($3, 1)]'));
END
$function$;

-- Goes back to the caller's search path, until the function ends that calls this and that sets search_path in its declaration. Row-level
-- security policies of the ledger may call functions that expect it, as they would in any query of the caller.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_caller_path(path name[])
RETURNS void LANGUAGE plpgsql STABLE AS $function$
BEGIN
  PERFORM set_config('search_path', coalesce(
    (SELECT string_agg(quote_ident(p.nspname), ', ' ORDER BY p.place)
       FROM unnest(path) WITH ORDINALITY AS p (nspname, place)), ''), true);
END
$function$;

-- _token_usage_sums under the caller's search path; it is what reports call.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_ledger_sums(
  path name[], ledger oid, user_id text, agent text, bounds timestamptz[], dimension text)
RETURNS TABLE (bucket integer, key1 text, key2 text, requests_count bigint, prompt_tokens numeric,
  completion_tokens numeric, total_tokens numeric, cost_usd numeric, cost_rub numeric, unpriced_count bigint,
  execution_ms_sum numeric, execution_ms_count bigint)
LANGUAGE plpgsql STABLE ROWS 100 SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
  PERFORM @extschema@._token_usage_caller_path(path);
  RETURN QUERY SELECT s.* FROM @extschema@._token_usage_sums(ledger, user_id, agent, bounds, dimension) AS s;
END
$function$;
$token_usage$, '@extschema@', home);

  EXECUTE replace($token_usage$
-- token_usage_version(): the version of the installed functions, as text.
CREATE OR REPLACE FUNCTION @extschema@.token_usage_version()
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT '1.0.0'::pg_catalog.text
$function$;
$token_usage$, '@extschema@', home);

  EXECUTE replace($token_usage$
-- The portable twin of pg_ext/zone.cpp.

-- True where the server knows a zone of that name; not so for abbreviations.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_zone_known(zone text)
RETURNS boolean LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $function$
BEGIN
  PERFORM set_config('TimeZone', zone, true);
  RETURN true;
EXCEPTION WHEN invalid_parameter_value THEN
  RETURN false;
END
$function$;
$token_usage$, '@extschema@', home);

  EXECUTE replace($token_usage$
-- The portable twin of pg_ext/sums.cpp.

-- The sums of the ledger rows of `user_id` (as _token_usage_user gives it), and of `agent` where it is not NULL: one row for each
-- stretch bounds[bucket] <= created_at < bounds[bucket + 1] and group that has rows. dimension is none, agent or model.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_sums(
  ledger oid, user_id text, agent text, bounds timestamptz[], dimension text)
RETURNS TABLE (bucket integer, key1 text, key2 text, requests_count bigint, prompt_tokens numeric,
  completion_tokens numeric, total_tokens numeric, cost_usd numeric, cost_rub numeric, unpriced_count bigint,
  execution_ms_sum numeric, execution_ms_count bigint)
LANGUAGE plpgsql STABLE AS $function$
BEGIN
  RETURN QUERY EXECUTE @extschema@._token_usage_sums_sql(ledger, dimension, agent IS NOT NULL)
    USING user_id, agent, bounds;
END
$function$;
$token_usage$, '@extschema@', home);

  EXECUTE replace($token_usage$
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
$token_usage$, '@extschema@', home);

  EXECUTE replace($token_usage$
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
$token_usage$, '@extschema@', home);

  EXECUTE replace($token_usage$
-- The reports of the contract (section 3), except token_usage_detailed. Each is computed by a function that starts with an underscore; what users call is
-- made at the end of the file, once for each type that a user_id may have.

-- What every report starts from: the ledger, the user and the zone as checked, and the last day.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_scope(
  path name[], INOUT user_id text, INOUT time_zone text, as_of timestamptz, OUT ledger oid, OUT last_day date)
LANGUAGE plpgsql STABLE AS $function$
BEGIN
  ledger := @extschema@._token_usage_ledger(path);
  user_id := @extschema@._token_usage_user(ledger, user_id);
  time_zone := @extschema@._token_usage_zone(
    coalesce(time_zone, @extschema@._token_usage_read_setting(ledger, 'time_zone'::text)), 'time_zone'::text);
  last_day := @extschema@._token_usage_day_of(as_of, time_zone);
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
  PERFORM @extschema@._token_usage_check_user(user_id);
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
BEGIN
  PERFORM @extschema@._token_usage_check_user(user_id);
  PERFORM @extschema@._token_usage_check_range('days'::text, days, 1::bigint, 36600::bigint);
  scope := @extschema@._token_usage_scope(path, user_id, time_zone, as_of);
  first_day := scope.last_day - days::integer + 1;
  RETURN QUERY
    SELECT first_day + d.bucket - 1, coalesce(s.requests_count, 0),
           @extschema@._token_usage_bigint(coalesce(s.prompt_tokens, 0), 'prompt_tokens'::text),
           @extschema@._token_usage_bigint(coalesce(s.completion_tokens, 0), 'completion_tokens'::text),
           @extschema@._token_usage_bigint(coalesce(s.total_tokens, 0), 'total_tokens'::text),
           trim_scale(coalesce(s.cost_usd, 0)), trim_scale(coalesce(s.cost_rub, 0)), coalesce(s.unpriced_count, 0)
      FROM generate_series(1, days::integer) AS d (bucket)
      LEFT JOIN @extschema@._token_usage_ledger_sums(path, scope.ledger, scope.user_id, agent,
             @extschema@._token_usage_day_bounds(first_day, scope.last_day, scope.time_zone), 'none'::text) AS s ON s.bucket = d.bucket
     ORDER BY d.bucket;
END
$function$;

-- The sums by a dimension over the last `period_days` days, or over a named period where there is one; in no order.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_groups(
  path name[], user_id text, agent text, period_days bigint, period text, time_zone text, as_of timestamptz, dimension text)
RETURNS TABLE (key1 text, key2 text, requests_count bigint, prompt_tokens numeric, completion_tokens numeric,
  total_tokens numeric, cost_usd numeric, cost_rub numeric, unpriced_count bigint, execution_ms_sum numeric,
  execution_ms_count bigint)
LANGUAGE plpgsql STABLE AS $function$
DECLARE
  scope record;
  bounds timestamptz[];
BEGIN
  PERFORM @extschema@._token_usage_check_user(user_id);
  IF period IS NULL THEN
    PERFORM @extschema@._token_usage_check_range('period_days'::text, period_days, 1::bigint, 36600::bigint);
  END IF;
  scope := @extschema@._token_usage_scope(path, user_id, time_zone, as_of);
  bounds := @extschema@._token_usage_starts(
    ARRAY[CASE WHEN period IS NULL THEN scope.last_day - period_days::integer + 1
               WHEN period = 'all' THEN scope.last_day
               ELSE @extschema@._token_usage_first_day(period, scope.last_day) END, scope.last_day + 1],
    scope.time_zone);
  IF period = 'all' THEN
    bounds[1] := '-infinity';
  END IF;
  RETURN QUERY
    SELECT s.key1, s.key2, s.requests_count, s.prompt_tokens, s.completion_tokens, s.total_tokens,
           s.cost_usd, s.cost_rub, s.unpriced_count, s.execution_ms_sum, s.execution_ms_count
      FROM @extschema@._token_usage_ledger_sums(path, scope.ledger, scope.user_id, agent, bounds, dimension) AS s;
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_by_agent(
  path name[], user_id text, agent text, period_days bigint, period text, time_zone text, as_of timestamptz)
RETURNS TABLE (agent_id text, requests_count bigint, prompt_tokens bigint, completion_tokens bigint, total_tokens bigint,
  cost_usd numeric, cost_rub numeric, unpriced_count bigint, avg_execution_time_ms bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
  RETURN QUERY
    SELECT g.key1, g.requests_count, @extschema@._token_usage_bigint(g.prompt_tokens, 'prompt_tokens'::text),
           @extschema@._token_usage_bigint(g.completion_tokens, 'completion_tokens'::text),
           @extschema@._token_usage_bigint(g.total_tokens, 'total_tokens'::text),
           trim_scale(g.cost_usd), trim_scale(g.cost_rub), g.unpriced_count,
           @extschema@._token_usage_mean(g.execution_ms_sum, g.execution_ms_count::numeric)
      FROM @extschema@._token_usage_groups(path, user_id, agent, period_days, period, time_zone, as_of,
             'agent'::text) AS g
     ORDER BY g.total_tokens DESC, g.key1 COLLATE "C";
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_by_model(
  path name[], user_id text, period_days bigint, time_zone text, as_of timestamptz)
RETURNS TABLE (ai_provider text, ai_model text, requests_count bigint, prompt_tokens bigint, completion_tokens bigint,
  total_tokens bigint, cost_usd numeric, cost_rub numeric, unpriced_count bigint, avg_execution_time_ms bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
  RETURN QUERY
    SELECT g.key1, g.key2, g.requests_count, @extschema@._token_usage_bigint(g.prompt_tokens, 'prompt_tokens'::text),
           @extschema@._token_usage_bigint(g.completion_tokens, 'completion_tokens'::text),
           @extschema@._token_usage_bigint(g.total_tokens, 'total_tokens'::text),
           trim_scale(g.cost_usd), trim_scale(g.cost_rub), g.unpriced_count,
           @extschema@._token_usage_mean(g.execution_ms_sum, g.execution_ms_count::numeric)
      FROM @extschema@._token_usage_groups(path, user_id, NULL::text, period_days, NULL::text,
             time_zone, as_of, 'model'::text) AS g
     ORDER BY g.cost_rub DESC, g.cost_usd DESC, g.total_tokens DESC, g.key1 COLLATE "C", g.key2 COLLATE "C";
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_by_provider(
  path name[], user_id text, period_days bigint, time_zone text, as_of timestamptz)
RETURNS TABLE (ai_provider text, requests_count bigint, prompt_tokens bigint, completion_tokens bigint,
  total_tokens bigint, cost_usd numeric, cost_rub numeric, unpriced_count bigint, avg_execution_time_ms bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
  RETURN QUERY
    SELECT g.key1, sum(g.requests_count)::bigint, @extschema@._token_usage_bigint(sum(g.prompt_tokens), 'prompt_tokens'::text),
           @extschema@._token_usage_bigint(sum(g.completion_tokens), 'completion_tokens'::text),
           @extschema@._token_usage_bigint(sum(g.total_tokens), 'total_tokens'::text),
           trim_scale(sum(g.cost_usd)), trim_scale(sum(g.cost_rub)), sum(g.unpriced_count)::bigint,
           @extschema@._token_usage_mean(sum(g.execution_ms_sum), sum(g.execution_ms_count))
      FROM @extschema@._token_usage_groups(path, user_id, NULL::text, period_days, NULL::text,
             time_zone, as_of, 'model'::text) AS g
     GROUP BY g.key1
     ORDER BY sum(g.cost_rub) DESC, sum(g.cost_usd) DESC, sum(g.total_tokens) DESC, g.key1 COLLATE "C";
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_check_period(period text)
RETURNS void LANGUAGE plpgsql IMMUTABLE AS $function$
BEGIN
  IF period IS NULL OR period NOT IN ('day', 'week', 'month', 'year', 'all') THEN
    PERFORM @extschema@._token_usage_bad_argument('period'::text, 'one of day, week, month, year, all'::text, period);
  END IF;
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_totals(
  path name[], user_id text, period_name text, agent text, time_zone text, as_of timestamptz)
RETURNS TABLE (period text, requests_count bigint, prompt_tokens bigint, completion_tokens bigint, total_tokens bigint,
  cost_usd numeric, cost_rub numeric, unpriced_count bigint, avg_execution_time_ms bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
  PERFORM @extschema@._token_usage_check_user(user_id);
  PERFORM @extschema@._token_usage_check_period(period_name);
  RETURN QUERY
    SELECT period_name, coalesce(sum(g.requests_count), 0)::bigint,
           @extschema@._token_usage_bigint(coalesce(sum(g.prompt_tokens), 0), 'prompt_tokens'::text),
           @extschema@._token_usage_bigint(coalesce(sum(g.completion_tokens), 0), 'completion_tokens'::text),
           @extschema@._token_usage_bigint(coalesce(sum(g.total_tokens), 0), 'total_tokens'::text),
           trim_scale(coalesce(sum(g.cost_usd), 0)), trim_scale(coalesce(sum(g.cost_rub), 0)),
           coalesce(sum(g.unpriced_count), 0)::bigint,
           @extschema@._token_usage_mean(sum(g.execution_ms_sum), sum(g.execution_ms_count))
      FROM @extschema@._token_usage_groups(path, user_id, agent, NULL::bigint, period_name,
             time_zone, as_of, 'none'::text) AS g;
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
$token_usage$, '@extschema@', home);

  EXECUTE replace($token_usage$
-- token_usage_detailed: the requests of a user, newest first, in pages; and how many there are.

-- Unix microseconds of a time, exactly (extract(epoch ...) alone is a float before PostgreSQL 14). This and the cursor are computed
-- in the query of a page, which runs under the caller's search_path: all names and operators are qualified.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_micros(value timestamptz)
RETURNS bigint LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $function$
DECLARE
  utc pg_catalog.timestamp := pg_catalog.timezone('UTC', value);
BEGIN
  RETURN (extract(epoch FROM pg_catalog.date_trunc('second', utc))::pg_catalog.int8 OPERATOR(pg_catalog.*) 1000000::pg_catalog.int8)
    OPERATOR(pg_catalog.+)
    pg_catalog.mod(extract(microseconds FROM utc)::pg_catalog.int8, 1000000::pg_catalog.int8);
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_from_micros(value bigint)
RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT to_timestamp(div(value, 1000000)::double precision) + mod(value, 1000000) * interval '1 microsecond'
$function$;

-- The cursor of a row: the form is told in core/cursor.h.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_cursor(created_at timestamptz, id text)
RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $function$
BEGIN
  RETURN pg_catalog.encode(pg_catalog.convert_to(
    pg_catalog.concat('1|', @extschema@._token_usage_micros(created_at), '|', id), 'UTF8'), 'hex');
END
$function$;

-- What a cursor says, or the argument error. `family` is that of the ledger's id.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_read_cursor(
  after text, family text, OUT created_at timestamptz, OUT id text)
LANGUAGE plpgsql STABLE AS $function$
DECLARE
  plain text;
  part text[];
  id_form text := CASE family WHEN 'integer' THEN '0|-?[1-9][0-9]{0,18}'
                              WHEN 'uuid' THEN '[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}' ELSE '.*' END;
BEGIN
  IF after ~ '^([0-9a-f]{2})+$' THEN
    BEGIN
      plain := convert_from(decode(after, 'hex'), 'UTF8');
    EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
      plain := NULL;  -- no UTF-8, or a NUL
    END;
    part := regexp_match(plain, concat('^1[|](0|-?[1-9][0-9]{0,18})[|](', id_form, ')$'));
    IF part[1]::numeric BETWEEN -9223372036854775808 AND 9223372036854775807
       AND (family <> 'integer' OR part[2]::numeric BETWEEN -9223372036854775808 AND 9223372036854775807) THEN
      -- PostgreSQL's times start in 4714 BC; nothing is listed behind that.
      created_at := @extschema@._token_usage_from_micros(greatest(part[1]::bigint, -210866803200000000));
      id := part[2];
      RETURN;
    END IF;
  END IF;
  PERFORM @extschema@._token_usage_bad_argument('after'::text, 'a cursor from token_usage_detailed'::text, after);
END
$function$;

-- The condition of a list of requests. Parameters: $1 text, the user; $2 text, the agent; $3 and $4 timestamptz, first and last instant.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_list_condition(
  of_user text, of_agent text, bound text, agent text, start_date timestamptz, end_date timestamptz)
RETURNS text LANGUAGE plpgsql IMMUTABLE AS $function$
BEGIN
  RETURN concat(of_user,
    ' AND t.created_at OPERATOR(pg_catalog.>) ''-infinity'' AND t.created_at OPERATOR(pg_catalog.<) ''infinity''',
    CASE WHEN agent IS NOT NULL THEN ' AND ' || of_agent END,
    CASE WHEN start_date IS NOT NULL THEN ' AND t.created_at OPERATOR(pg_catalog.>=) ' || format(bound, '$3') END,
    CASE WHEN end_date IS NOT NULL THEN ' AND t.created_at OPERATOR(pg_catalog.<=) ' || format(bound, '$4') END);
END
$function$;

-- One page, and the row behind it where there is one: at most page_limit + 1 rows. A page by cursor is one stretch of an index, however
-- deep it is. The outer query computes what only the rows of the page need.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_page(
  path name[], ledger oid, user_id text, page_limit bigint, page_offset bigint, agent text, start_date timestamptz, end_date timestamptz,
  after text)
RETURNS TABLE (id text, created_at timestamptz, agent_id text, ai_provider text, ai_model text, prompt_tokens bigint,
  completion_tokens bigint, total_tokens bigint, cost_usd numeric, cost_rub numeric, execution_time_ms numeric,
  platform text, content_type text, task_type text, content_id text, workflow_id text, request_id text, endpoint text,
  cursor text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  l record := @extschema@._token_usage_layout(ledger);
  behind record;
  query text;
BEGIN
  IF after IS NULL THEN
    SELECT NULL::timestamptz AS created_at, NULL::text AS id INTO behind;
  ELSE
    behind := @extschema@._token_usage_read_cursor(after, l.id_family);
  END IF;
  query := format(
    'SELECT p.id, p.at, p.agent, p.provider, p.model, p.prompt::pg_catalog.int8, p.completion::pg_catalog.int8,
            p.total::pg_catalog.int8, pg_catalog.trim_scale(p.usd), pg_catalog.trim_scale(p.rub),
            pg_catalog.trim_scale(p.execution), p.platform, p.content_type, p.task_type, p.content_id, p.workflow_id,
            p.request_id, p.endpoint, @extschema@._token_usage_cursor(p.at, p.id)
       FROM (SELECT t.id::pg_catalog.text AS id, %s AS at, t.agent_id::pg_catalog.text AS agent,
                    t.ai_provider::pg_catalog.text AS provider, t.ai_model::pg_catalog.text AS model, %s AS prompt,
                    %s AS completion, %s AS total, %s AS usd, %s AS rub, %s AS execution,
                    t.platform::pg_catalog.text AS platform, t.content_type::pg_catalog.text AS content_type,
                    t.task_type::pg_catalog.text AS task_type, t.content_id::pg_catalog.text AS content_id,
                    t.workflow_id::pg_catalog.text AS workflow_id, t.request_id::pg_catalog.text AS request_id,
                    t.endpoint::pg_catalog.text AS endpoint
               FROM %s AS t
              WHERE %s%s
              ORDER BY t.created_at DESC, %s DESC
              LIMIT $7 OFFSET $8) AS p',
    l.created, l.prompt, l.completion, l.total, l.cost_usd, l.cost_rub, l.execution,
    @extschema@._token_usage_table(ledger, 'token_usage'::text),
    @extschema@._token_usage_list_condition(l.of_user, l.of_agent, l.bound, agent, start_date, end_date),
    CASE WHEN after IS NOT NULL THEN
      format(' AND (t.created_at, %s) OPERATOR(pg_catalog.<) (%s, $6::%s)', l.id, format(l.bound, '$5'), l.id_type) END,
    l.id);
  page_limit := page_limit + 1;
  PERFORM @extschema@._token_usage_caller_path(path);
  RETURN QUERY EXECUTE query
    USING user_id, agent, start_date, end_date, behind.created_at, behind.id, page_limit, page_offset;
END
$function$;

-- Checks what token_usage_detailed and its twins are called with.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_check_page(user_id text, page_limit bigint, page_offset bigint)
RETURNS void LANGUAGE plpgsql IMMUTABLE AS $function$
BEGIN
  PERFORM @extschema@._token_usage_check_user(user_id);
  PERFORM @extschema@._token_usage_check_range('page_limit'::text, page_limit, 1::bigint, 500::bigint);
  PERFORM @extschema@._token_usage_check_range('page_offset'::text, page_offset, 0::bigint, 9223372036854775807::bigint);
END
$function$;

-- token_usage_detailed with the id as text, which serves keys of every type.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_detailed_text(
  path name[], user_id text, page_limit bigint, page_offset bigint, agent text, start_date timestamptz, end_date timestamptz,
  after text)
RETURNS TABLE (id text, created_at timestamptz, agent_id text, ai_provider text, ai_model text, prompt_tokens bigint,
  completion_tokens bigint, total_tokens bigint, cost_usd numeric, cost_rub numeric, execution_time_ms bigint,
  platform text, content_type text, task_type text, content_id text, workflow_id text, request_id text, endpoint text,
  cursor text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  ledger oid;
BEGIN
  PERFORM @extschema@._token_usage_check_page(user_id, page_limit, page_offset);
  ledger := @extschema@._token_usage_ledger(path);
  RETURN QUERY
    SELECT p.id, p.created_at, p.agent_id, p.ai_provider, p.ai_model, p.prompt_tokens, p.completion_tokens,
           p.total_tokens, p.cost_usd, p.cost_rub, round(p.execution_time_ms)::bigint, p.platform, p.content_type, p.task_type,
           p.content_id, p.workflow_id, p.request_id, p.endpoint, p.cursor
      FROM @extschema@._token_usage_page(
        path, ledger, @extschema@._token_usage_user(ledger, user_id), page_limit, page_offset, agent, start_date, end_date,
        after) AS p LIMIT page_limit;
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_detailed(
  path name[], user_id text, page_limit bigint, page_offset bigint, agent text, start_date timestamptz, end_date timestamptz,
  after text)
RETURNS TABLE (id bigint, created_at timestamptz, agent_id text, ai_provider text, ai_model text, prompt_tokens bigint,
  completion_tokens bigint, total_tokens bigint, cost_usd numeric, cost_rub numeric, execution_time_ms bigint,
  platform text, content_type text, task_type text, content_id text, workflow_id text, request_id text, endpoint text,
  cursor text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  ledger oid;
  key record;
BEGIN
  PERFORM @extschema@._token_usage_check_page(user_id, page_limit, page_offset);
  ledger := @extschema@._token_usage_ledger(path);
  SELECT c.* INTO key FROM @extschema@._token_usage_columns(ledger) AS c WHERE c.name = 'id';
  IF key.family <> 'integer' THEN
    RAISE EXCEPTION USING ERRCODE = '42804',
      MESSAGE = format('token_usage: column id has type %s, token_usage_detailed needs an integer type',
                       format_type(key.type, key.modifier)),
      HINT = 'token_usage_detailed_text gives the same rows with id as text; token_usage_detailed_json works as it is.';
  END IF;
  RETURN QUERY
    SELECT p.id::bigint, p.created_at, p.agent_id, p.ai_provider, p.ai_model, p.prompt_tokens, p.completion_tokens,
           p.total_tokens, p.cost_usd, p.cost_rub, round(p.execution_time_ms)::bigint, p.platform, p.content_type, p.task_type,
           p.content_id, p.workflow_id, p.request_id, p.endpoint, p.cursor
      FROM @extschema@._token_usage_page(
        path, ledger, @extschema@._token_usage_user(ledger, user_id), page_limit, page_offset, agent, start_date, end_date,
        after) AS p LIMIT page_limit;
END
$function$;

-- How many rows all pages hold.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_count(
  path name[], ledger oid, user_id text, agent text, start_date timestamptz, end_date timestamptz)
RETURNS bigint LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  l record := @extschema@._token_usage_layout(ledger);
  query text;
  rows bigint;
BEGIN
  query := format('SELECT pg_catalog.count(*) FROM %s AS t WHERE %s',
    @extschema@._token_usage_table(ledger, 'token_usage'::text),
    @extschema@._token_usage_list_condition(l.of_user, l.of_agent, l.bound, agent, start_date, end_date));
  PERFORM @extschema@._token_usage_caller_path(path);
  EXECUTE query INTO rows USING user_id, agent, start_date, end_date;
  RETURN rows;
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_detailed_count(
  path name[], user_id text, agent text, start_date timestamptz, end_date timestamptz)
RETURNS bigint LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  ledger oid;
BEGIN
  PERFORM @extschema@._token_usage_check_user(user_id);
  ledger := @extschema@._token_usage_ledger(path);
  RETURN @extschema@._token_usage_count(
    path, ledger, @extschema@._token_usage_user(ledger, user_id), agent, start_date, end_date);
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_detailed_json(
  path name[], user_id text, page_limit bigint, page_offset bigint, agent text, start_date timestamptz, end_date timestamptz,
  after text)
RETURNS jsonb LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  ledger oid;
  family text;
  body jsonb;
BEGIN
  PERFORM @extschema@._token_usage_check_page(user_id, page_limit, page_offset);
  ledger := @extschema@._token_usage_ledger(path);
  user_id := @extschema@._token_usage_user(ledger, user_id);
  family := @extschema@._token_usage_column_family(ledger, 'id'::text);
  SELECT jsonb_build_object('success', true, 'data', jsonb_build_object(
           'items', coalesce(jsonb_agg(jsonb_build_object(
              'id', CASE family WHEN 'integer' THEN to_jsonb(p.id::bigint) ELSE to_jsonb(p.id) END,
              'agent_id', p.agent_id, 'ai_provider', p.ai_provider, 'ai_model', p.ai_model,
              'total_tokens', p.total_tokens, 'prompt_tokens', p.prompt_tokens, 'completion_tokens', p.completion_tokens,
              'cost_usd', p.cost_usd, 'cost_rub', p.cost_rub, 'execution_time_ms', p.execution_time_ms,
              'created_at', @extschema@._token_usage_time_text(p.created_at),
              'content_type', p.content_type, 'platform', p.platform)
              ORDER BY p.place) FILTER (WHERE p.place <= page_limit), '[]'),
           'total', @extschema@._token_usage_count(path, ledger, user_id, agent, start_date, end_date),
           'limit', page_limit, 'offset', page_offset, 'has_more', count(*) > page_limit,
           'next_cursor', CASE WHEN count(*) > page_limit THEN max(p.cursor) FILTER (WHERE p.place = page_limit) END))
    INTO body
    FROM @extschema@._token_usage_page(path, ledger, user_id, page_limit, page_offset, agent, start_date, end_date, after)
         WITH ORDINALITY AS p (id, created_at, agent_id, ai_provider, ai_model, prompt_tokens, completion_tokens,
           total_tokens, cost_usd, cost_rub, execution_time_ms, platform, content_type, task_type, content_id, workflow_id,
           request_id, endpoint, cursor, place);
  RETURN body;
END
$function$;

-- What users call. A literal or bind parameter without a type goes to the functions that take start_date and end_date as text,
-- where a value without zone is UTC; a timestamptz column or parameter to those that take one; a timestamp or date is UTC as well.
DO $overloads$
DECLARE
  user_type text;
  instant record;
  columns constant text := 'created_at timestamptz, agent_id text, ai_provider text, ai_model text, prompt_tokens bigint, '
    'completion_tokens bigint, total_tokens bigint, cost_usd numeric, cost_rub numeric, execution_time_ms bigint, '
    'platform text, content_type text, task_type text, content_id text, workflow_id text, request_id text, endpoint text, '
    'cursor text';
BEGIN
  FOREACH user_type IN ARRAY ARRAY['bigint', 'text', 'uuid'] LOOP
    FOR instant IN
      SELECT * FROM (VALUES
        ('text', '@extschema@._token_usage_instant(''%1$s''::pg_catalog.text, %1$s)', ' DEFAULT 100', ' DEFAULT 0', ' DEFAULT NULL'),
        ('timestamp with time zone', '%1$s', '', '', ''),
        ('timestamp without time zone', 'pg_catalog.timezone(''UTC''::pg_catalog.text, %1$s)', '', '', ''),
        ('date', 'pg_catalog.timezone(''UTC''::pg_catalog.text, %1$s::pg_catalog.timestamp)', '', '', ''))
        AS v (type, expression, default_limit, default_offset, default_null)
    LOOP
      EXECUTE pg_catalog.format($statement$
        CREATE OR REPLACE FUNCTION @extschema@.token_usage_detailed(
          user_id %1$s, page_limit bigint%2$s, page_offset bigint%3$s, agent text%4$s, start_date %5$s%4$s,
          end_date %5$s DEFAULT NULL, after text DEFAULT NULL)
        RETURNS TABLE (id bigint, %6$s) LANGUAGE sql STABLE ROWS 100 AS $function$
          SELECT * FROM @extschema@._token_usage_detailed(
            pg_catalog.current_schemas(false), user_id::pg_catalog.text, page_limit, page_offset, agent, %7$s, %8$s, after)
        $function$;

        CREATE OR REPLACE FUNCTION @extschema@.token_usage_detailed_text(
          user_id %1$s, page_limit bigint%2$s, page_offset bigint%3$s, agent text%4$s, start_date %5$s%4$s,
          end_date %5$s DEFAULT NULL, after text DEFAULT NULL)
        RETURNS TABLE (id text, %6$s) LANGUAGE sql STABLE ROWS 100 AS $function$
          SELECT * FROM @extschema@._token_usage_detailed_text(
            pg_catalog.current_schemas(false), user_id::pg_catalog.text, page_limit, page_offset, agent, %7$s, %8$s, after)
        $function$;

        CREATE OR REPLACE FUNCTION @extschema@.token_usage_detailed_json(
          user_id %1$s, page_limit bigint%2$s, page_offset bigint%3$s, agent text%4$s, start_date %5$s%4$s,
          end_date %5$s DEFAULT NULL, after text DEFAULT NULL)
        RETURNS jsonb LANGUAGE sql STABLE AS $function$
          SELECT @extschema@._token_usage_detailed_json(
            pg_catalog.current_schemas(false), user_id::pg_catalog.text, page_limit, page_offset, agent, %7$s, %8$s, after)
        $function$;

        CREATE OR REPLACE FUNCTION @extschema@.token_usage_detailed_count(
          user_id %1$s, agent text%4$s, start_date %5$s%4$s, end_date %5$s DEFAULT NULL)
        RETURNS bigint LANGUAGE sql STABLE AS $function$
          SELECT @extschema@._token_usage_detailed_count(
            pg_catalog.current_schemas(false), user_id::pg_catalog.text, agent, %7$s, %8$s)
        $function$;
      $statement$, user_type, instant.default_limit, instant.default_offset, instant.default_null, instant.type, columns,
        pg_catalog.format(instant.expression, 'start_date'), pg_catalog.format(instant.expression, 'end_date'));
    END LOOP;
  END LOOP;
END
$overloads$;
$token_usage$, '@extschema@', home);

  EXECUTE replace($token_usage$
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
  PERFORM @extschema@._token_usage_check_user(user_id);
  PERFORM @extschema@._token_usage_check_period(period);
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
$token_usage$, '@extschema@', home);

  EXECUTE replace($token_usage$
-- token_usage_migrate: makes what is missing of the ledger and its indexes, or adopts a table token_usage that the application has
-- (section 2 of the contract). The tables belong to the caller, not to the extension.

-- The columns of the ledger: what a new table declares, what an adopted one gets where it lacks the column, which families of types are
-- accepted there, and the default that later rows of an adopted table get. A missing total or cost has no value in old
-- rows: the total is then the sum of its parts, and what the request cost is not known.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_wanted_columns(user_id_type text)
RETURNS TABLE (place integer, name text, declared text, added text, later_default text, families text[], needs text)
LANGUAGE sql IMMUTABLE AS $function$
  SELECT * FROM (VALUES
    (1, 'id', 'bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY', 'bigint GENERATED BY DEFAULT AS IDENTITY', NULL,
      '{integer,uuid,text,char}'::text[], 'an integer type, uuid or text'),
    (2, 'user_id', user_id_type || ' NOT NULL', NULL, NULL, '{integer,uuid,text,char}', 'an integer type, uuid or text'),
    (3, 'content_id', 'text', 'text', NULL, '{text,char,uuid,integer}', 'text'),
    (4, 'workflow_id', 'text', 'text', NULL, '{text,char,uuid,integer}', 'text'),
    (5, 'agent_id', 'text NOT NULL', 'text', NULL, '{text,char}', 'text'),
    (6, 'request_id', 'text CONSTRAINT idx_token_usage_request_id UNIQUE', 'text', NULL, '{text,char,uuid}', 'text'),
    (7, 'endpoint', 'text', 'text', NULL, '{text,char}', 'text'),
    (8, 'ai_provider', 'text NOT NULL', 'text', NULL, '{text,char}', 'text'),
    (9, 'ai_model', 'text NOT NULL', 'text', NULL, '{text,char}', 'text'),
    (10, 'prompt_tokens', 'bigint NOT NULL DEFAULT 0', 'bigint NOT NULL DEFAULT 0', NULL,
      '{integer,numeric,real,double}', 'a numeric type'),
    (11, 'completion_tokens', 'bigint NOT NULL DEFAULT 0', 'bigint NOT NULL DEFAULT 0', NULL,
      '{integer,numeric,real,double}', 'a numeric type'),
    (12, 'total_tokens', 'bigint NOT NULL DEFAULT 0', 'bigint', NULL, '{integer,numeric,real,double}', 'a numeric type'),
    (13, 'cost_usd', 'numeric DEFAULT 0', 'numeric', '0', '{numeric,real,double,integer}', 'a numeric type'),
    (14, 'cost_rub', 'numeric DEFAULT 0', 'numeric', '0', '{numeric,real,double,integer}', 'a numeric type'),
    (15, 'platform', 'text', 'text', NULL, '{text,char}', 'text'),
    (16, 'content_type', 'text', 'text', NULL, '{text,char}', 'text'),
    (17, 'task_type', 'text', 'text', NULL, '{text,char}', 'text'),
    (18, 'execution_time_ms', 'bigint', 'bigint', NULL, '{integer,numeric,real,double}', 'a numeric type'),
    (19, 'request_metadata', 'jsonb', 'jsonb', NULL, '{json,text,char}', 'jsonb, json or text'),
    (20, 'response_metadata', 'jsonb', 'jsonb', NULL, '{json,text,char}', 'jsonb, json or text'),
    (21, 'created_at', 'timestamptz NOT NULL DEFAULT now()', 'timestamptz', 'now()', '{timestamptz,timestamp}',
      'timestamp with time zone or timestamp without time zone')
  ) AS c (place, name, declared, added, later_default, families, needs)
$function$;

-- The seven indexes. The unique constraint of a new table's request_id is itself one of them.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_indexes()
RETURNS TABLE (place integer, name text, columns text)
LANGUAGE sql IMMUTABLE AS $function$
  SELECT * FROM (VALUES
    -- With id at its end a page by cursor costs one page also where many rows share a time.
    (1, 'idx_token_usage_user_date', '(user_id, created_at DESC, id DESC)'),
    (2, 'idx_token_usage_user_agent', '(user_id, agent_id)'),
    (3, 'idx_token_usage_user_provider_model', '(user_id, ai_provider, ai_model)'),
    (4, 'idx_token_usage_workflow', '(workflow_id) WHERE workflow_id IS NOT NULL'),
    (5, 'idx_token_usage_detailed', '(user_id, agent_id, created_at DESC, id DESC)'),
    (6, 'idx_token_usage_request_id', '(request_id)'),
    (7, 'idx_token_usage_created_at', '(created_at DESC)')
  ) AS i (place, name, columns)
$function$;

-- The foreign key of a column of a new table where the parent table stands in the same schema and has a unique key on exactly (id)
-- of a type that can be compared with the column's; else an empty text.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_reference(
  schema_name name, column_name text, column_family text, parent text, on_delete text)
RETURNS text LANGUAGE sql STABLE AS $function$
  SELECT coalesce((
    SELECT format(', FOREIGN KEY (%I) REFERENCES %I.%I (id) ON DELETE %s', column_name, schema_name, parent, on_delete)
      FROM pg_catalog.pg_class AS c
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
      JOIN pg_catalog.pg_index AS i ON i.indrelid = c.oid
      JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'id' AND NOT a.attisdropped
     WHERE n.nspname = schema_name AND c.relname = parent AND c.relkind IN ('r', 'p')
       AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
       AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum
       AND @extschema@._token_usage_family(@extschema@._token_usage_base_type(a.atttypid)) = column_family
     LIMIT 1), '')
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_step(step text, action text)
RETURNS jsonb LANGUAGE sql IMMUTABLE AS $function$
  SELECT jsonb_build_array(jsonb_build_object('step', step, 'action', action))
$function$;

-- Checks the types of an existing ledger and adds the columns that it lacks; returns the steps taken.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_adopt(ledger oid)
RETURNS jsonb LANGUAGE plpgsql VOLATILE AS $function$
DECLARE
  target text := @extschema@._token_usage_table(ledger, 'token_usage'::text);
  steps jsonb := '[]';
  wanted record;
  found_column record;
BEGIN
  -- Refuse before the first change, so that the error names what is wrong and not what came after it.
  FOR wanted IN SELECT * FROM @extschema@._token_usage_wanted_columns('bigint'::text) ORDER BY place LOOP
    SELECT c.* INTO found_column FROM @extschema@._token_usage_columns(ledger) AS c WHERE c.name = wanted.name;
    IF NOT FOUND THEN
      IF wanted.added IS NULL THEN
        PERFORM @extschema@._token_usage_refuse(format('table token_usage: column %s is missing', wanted.name));
      END IF;
    ELSIF found_column.family <> ALL (wanted.families) THEN
      PERFORM @extschema@._token_usage_refuse(format('table token_usage: column %s has type %s, needs %s',
        wanted.name, format_type(found_column.type, found_column.modifier), wanted.needs));
    END IF;
  END LOOP;
  FOR wanted IN SELECT * FROM @extschema@._token_usage_wanted_columns('bigint'::text) ORDER BY place LOOP
    CONTINUE WHEN EXISTS (SELECT FROM @extschema@._token_usage_columns(ledger) AS c WHERE c.name = wanted.name);
    EXECUTE format('ALTER TABLE %s ADD COLUMN %I %s', target, wanted.name, wanted.added);
    IF wanted.later_default IS NOT NULL THEN
      EXECUTE format('ALTER TABLE %s ALTER COLUMN %I SET DEFAULT %s', target, wanted.name, wanted.later_default);
    END IF;
    IF wanted.name = 'id' THEN
      EXECUTE format('ALTER TABLE %s ADD UNIQUE (id)', target);
    END IF;
    steps := steps || @extschema@._token_usage_step('column token_usage.' || wanted.name, 'created');
  END LOOP;
  RETURN steps;
END
$function$;

-- True where rows could get a unique index on request_id: no unique key of that kind exists, and no value repeats. A partitioned table
-- cannot have one without its partition key.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_can_be_unique(ledger oid)
RETURNS boolean LANGUAGE plpgsql VOLATILE AS $function$
DECLARE
  repeated boolean;
BEGIN
  IF EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.oid = ledger AND c.relkind = 'p')
     OR EXISTS (SELECT FROM pg_catalog.pg_index AS i
                  JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attname = 'request_id'
                 WHERE i.indrelid = ledger AND i.indisunique AND i.indpred IS NULL AND i.indnkeyatts = 1
                   AND i.indkey[0] = a.attnum) THEN
    RETURN false;
  END IF;
  EXECUTE format('SELECT EXISTS (SELECT FROM %s WHERE request_id IS NOT NULL GROUP BY request_id HAVING count(*) > 1)',
                 @extschema@._token_usage_table(ledger, 'token_usage'::text)) INTO repeated;
  RETURN NOT repeated;
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_migrate(path name[], user_id_type text)
RETURNS jsonb LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  schema_name name;
  target text;
  settings text;
  ledger oid;
  is_new boolean := false;
  steps jsonb := '[]';
  other record;
  wanted record;
BEGIN
  IF user_id_type IS NULL OR user_id_type NOT IN ('bigint', 'text', 'uuid') THEN
    PERFORM @extschema@._token_usage_bad_argument('user_id_type', 'one of bigint, text, uuid', user_id_type);
  END IF;
  -- Two migrations at the same time wait for each other; the number is arbitrary but ours ("token_us" in ASCII).
  PERFORM pg_advisory_xact_lock(8390044641146926451);

  SELECT n.nspname INTO schema_name
    FROM unnest(path) WITH ORDINALITY AS p (nspname, place)
    JOIN pg_catalog.pg_namespace AS n USING (nspname)
    LEFT JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = 'token_usage' AND c.relkind IN ('r', 'p')
   WHERE left(n.nspname, 3) <> 'pg_'
   ORDER BY c.oid IS NULL, p.place LIMIT 1;
  IF schema_name IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = '3F000',
      MESSAGE = 'token_usage: no schema to create token_usage in',
      HINT = 'Put a schema on search_path.';
  END IF;
  target := format('%I.token_usage', schema_name);
  settings := format('%I.token_usage_settings', schema_name);

  SELECT c.relkind, c.oid INTO other FROM pg_catalog.pg_class AS c WHERE c.oid = to_regclass(target);
  IF FOUND AND other.relkind NOT IN ('r', 'p') THEN
    PERFORM @extschema@._token_usage_refuse('token_usage: it is no table but a ' || CASE other.relkind
      WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table' WHEN 'S' THEN 'sequence'
      WHEN 'c' THEN 'type' ELSE 'index' END);
  END IF;
  ledger := other.oid;

  IF ledger IS NULL THEN
    is_new := true;
    EXECUTE format('CREATE TABLE %s (%s,
        CONSTRAINT check_tokens_positive CHECK (prompt_tokens >= 0 AND completion_tokens >= 0 AND total_tokens >= 0),
        CONSTRAINT check_total_tokens_sum CHECK (total_tokens = prompt_tokens + completion_tokens)%s%s)',
      target,
      (SELECT string_agg(format('%I %s', c.name, c.declared), ', ' ORDER BY c.place)
         FROM @extschema@._token_usage_wanted_columns(user_id_type) AS c),
      @extschema@._token_usage_reference(schema_name, 'user_id',
        CASE user_id_type WHEN 'bigint' THEN 'integer' ELSE user_id_type END, 'users', 'CASCADE'),
      @extschema@._token_usage_reference(schema_name, 'content_id', 'text', 'content_pieces', 'SET NULL'));
    ledger := to_regclass(target);
    steps := steps || @extschema@._token_usage_step('table token_usage', 'created');
  ELSE
    steps := steps || @extschema@._token_usage_step('table token_usage',
      CASE WHEN to_regclass(settings) IS NULL THEN 'adopted' ELSE 'kept' END);
    steps := steps || @extschema@._token_usage_adopt(ledger);
  END IF;

  FOR wanted IN SELECT * FROM @extschema@._token_usage_indexes() ORDER BY place LOOP
    SELECT i.indrelid, i.indrelid::regclass::text AS table_name INTO other
      FROM pg_catalog.pg_class AS c
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
      LEFT JOIN pg_catalog.pg_index AS i ON i.indexrelid = c.oid
     WHERE n.nspname = schema_name AND c.relname = wanted.name;
    IF FOUND THEN
      IF other.indrelid IS DISTINCT FROM ledger THEN
        PERFORM @extschema@._token_usage_refuse(format('table token_usage: index %s is on table %s', wanted.name,
          coalesce((SELECT c.relname::text FROM pg_catalog.pg_class AS c WHERE c.oid = other.indrelid), 'none')));
      END IF;
      steps := steps || @extschema@._token_usage_step('index ' || wanted.name,
        CASE WHEN is_new THEN 'created' ELSE 'kept' END);
    ELSE
      EXECUTE format('CREATE %s INDEX %I ON %s %s',
        CASE WHEN wanted.name = 'idx_token_usage_request_id' AND @extschema@._token_usage_can_be_unique(ledger)
             THEN 'UNIQUE' ELSE '' END, wanted.name, target, wanted.columns);
      steps := steps || @extschema@._token_usage_step('index ' || wanted.name, 'created');
    END IF;
  END LOOP;

  IF to_regclass(settings) IS NULL THEN
    EXECUTE format('CREATE TABLE %s (name text PRIMARY KEY, value text NOT NULL)', settings);
    -- Every report needs the time zone; nothing here is about a user.
    EXECUTE format('GRANT SELECT ON %s TO PUBLIC', settings);
    steps := steps || @extschema@._token_usage_step('table token_usage_settings', 'created');
  ELSE
    steps := steps || @extschema@._token_usage_step('table token_usage_settings', 'kept');
  END IF;
  RETURN steps;
END
$function$;

-- Makes or adopts the ledger in one transaction and returns one JSON array with an object per step. user_id_type (bigint, text or uuid) counts
-- only where the table is new. Raises 22023 for another type, 42804 for a table that it cannot work with.
CREATE OR REPLACE FUNCTION @extschema@.token_usage_migrate(user_id_type text DEFAULT 'bigint')
RETURNS jsonb LANGUAGE sql VOLATILE AS $function$
  SELECT @extschema@._token_usage_migrate(pg_catalog.current_schemas(false), user_id_type)
$function$;
$token_usage$, '@extschema@', home);

  -- What this run has made is marked, so that CREATE EXTENSION can take over from it; what an older version has left is dropped.
  FOR portable IN
    SELECT p.oid::regprocedure AS routine, d.description IS NOT NULL AS is_ours,
           p.xmin::text = (mod(pg_current_xact_id()::text::numeric, 4294967296))::text AS is_new
      FROM pg_proc AS p
      LEFT JOIN pg_description AS d ON d.objoid = p.oid AND d.classoid = 'pg_proc'::regclass
           AND left(d.description, 29) = 'token_usage, portable edition'
     WHERE p.pronamespace = home::regnamespace AND p.proname ~ '^_?token_usage_'
  LOOP
    IF portable.is_new THEN
      EXECUTE format('COMMENT ON ROUTINE %s IS %L', portable.routine, 'token_usage, portable edition 1.0.0');
    ELSIF portable.is_ours THEN
      routines := concat_ws(', ', routines, portable.routine::text);
    END IF;
  END LOOP;
  IF routines IS NOT NULL THEN
    EXECUTE 'DROP ROUTINE ' || routines;
  END IF;

  PERFORM pg_catalog.set_config('search_path', path, true);
  EXECUTE pg_catalog.format('SELECT %s.token_usage_migrate()', home) INTO steps;
  RAISE NOTICE 'token_usage_migrate: %', steps;
END
$portable$;

COMMIT;
