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
  kept pg_catalog.name[];
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

  -- Those that are made for a ledger each are made again at the end.
  SELECT array_agg(p.proname) INTO kept FROM pg_proc AS p
   WHERE p.pronamespace = home::regnamespace AND left(p.proname, 18) = '_token_usage_kept_';

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
-- The portable twin of pg_ext/ledger.cpp.

-- Whether that is a table that can be a ledger. Immutable as _token_usage_plain_tables() is.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_is_ledger(candidate regclass)
RETURNS boolean LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
  RETURN EXISTS (SELECT FROM pg_class AS c WHERE c.oid = candidate AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't');
END
$function$;

-- The ledger: the first schema of the path, the temporary one excluded, that has a table token_usage. Raises the contract's error
-- (42P01) where there is none.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_ledger(path name[])
RETURNS oid LANGUAGE plpgsql STABLE AS $function$
DECLARE
  ledger oid;
BEGIN
  IF quote_ident(path[1]) = '@extschema@' AND to_regclass('@extschema@.token_usage') IS NOT NULL THEN
    IF @extschema@._token_usage_is_ledger('@extschema@.token_usage'::regclass) THEN
      RETURN '@extschema@.token_usage'::regclass;
    END IF;
  END IF;
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

-- The value of a setting, or its default where none was set.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_read_setting(ledger oid, name text)
RETURNS text LANGUAGE plpgsql STABLE AS $function$
DECLARE
  settings text;
  plain boolean;
  value text;
BEGIN
  IF ledger = to_regclass('@extschema@.token_usage') THEN
    IF to_regclass('@extschema@.token_usage_settings') IS NOT NULL THEN
      plain := @extschema@._token_usage_plain_tables(ARRAY['@extschema@.token_usage_settings'::regclass]);
      IF plain THEN
        SELECT s.value INTO value FROM @extschema@.token_usage_settings AS s WHERE s.name = _token_usage_read_setting.name;
      END IF;
    END IF;
  ELSE
    settings := @extschema@._token_usage_table(ledger, 'token_usage_settings'::text);
    IF to_regclass(settings) IS NOT NULL THEN
      plain := @extschema@._token_usage_plain_tables(ARRAY[to_regclass(settings)]);
      IF plain THEN
        EXECUTE format('SELECT s.value FROM %s AS s WHERE s.name = $1', settings) INTO value USING name;
      END IF;
    END IF;
  END IF;
  IF NOT plain THEN
    RAISE EXCEPTION 'token_usage: token_usage_settings is not the table that token_usage_migrate() makes' USING ERRCODE = '42809';
  END IF;
  RETURN coalesce(value, 'UTC');
END
$function$;
$token_usage$, '@extschema@', home);

  EXECUTE replace($token_usage$
-- Finds the ledger and tells what its columns are. An adopted table may have other types than ours, so the text of each query
-- depends on them. That text names and qualifies everything, operators too. Nothing here reads the ledger's rows.

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

-- Whether the columns of a relation have now the types that this snapshot tells. The catalog is read by the snapshot of the transaction, which
-- may be older than the last ALTER TABLE, and queries are made for what is there now: a column of a name that was there, and of a type
-- with casts of its own, could have come in between. No query runs here that could call one. Immutable as the next one is.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_as_now(relation regclass)
RETURNS boolean LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  same text;
  holds boolean;
BEGIN
  SELECT string_agg(format('pg_typeof(x.%I)::oid = %s', a.attname, a.atttypid), ' AND ') INTO same
    FROM pg_attribute AS a WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped;
  EXECUTE format('SELECT %s FROM (SELECT (NULL::%s).*) AS x', same, relation) INTO holds;
  RETURN holds;
EXCEPTION WHEN undefined_column OR undefined_table OR undefined_object THEN
  RETURN false;  -- one of them is gone
END
$function$;

-- Whether these are plain tables, with columns of the server's own types only. A view in the place of one, or a type with casts of its own,
-- would run code of the ledger's owner with the rights of whoever asks for a report.
--
-- The answer depends on nothing but the tables that are named, so this is declared immutable: where their names stand in an expression it
-- is called when that is planned, and that is done again after any change of such a table. So it costs nothing where names are known
-- beforehand, as those of tables in the schema of the functions here are. A name of a table that is gone cannot be planned with, so
-- to_regclass() is to be asked in a statement before.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_plain_tables(tables regclass[])
RETURNS boolean LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $function$
BEGIN
  RETURN cardinality(tables) = (SELECT count(*) FROM pg_class AS c WHERE c.oid = ANY (tables) AND c.relkind = 'r' AND NOT EXISTS (
    SELECT FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0 AND a.atttypid >= 16384)
    -- And is none that a rule has turned into a view since.
    AND pg_relation_filenode(c.oid) IS NOT NULL AND @extschema@._token_usage_as_now(c.oid::regclass));
END
$function$;

-- The family of one column, where the name of the table is known beforehand; NULL where the snapshot is older than the table. Immutable as
-- _token_usage_plain_tables() is.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_known_family(ledger regclass, column_name text)
RETURNS text LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
  RETURN CASE WHEN @extschema@._token_usage_as_now(ledger) THEN @extschema@._token_usage_column_family(ledger::oid, column_name) END;
END
$function$;

-- `user_id` as the ledger's column can compare it; the argument error where its type cannot hold it.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_user(ledger oid, user_id text)
RETURNS text LANGUAGE plpgsql STABLE AS $function$
DECLARE
  family text;
BEGIN
  IF ledger = to_regclass('@extschema@.token_usage') THEN
    family := @extschema@._token_usage_known_family('@extschema@.token_usage'::regclass, 'user_id'::text);
  END IF;
  IF family IS NULL THEN
    family := @extschema@._token_usage_column_family(ledger, 'user_id'::text);
  END IF;
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
  IF NOT @extschema@._token_usage_as_now(ledger::regclass) THEN
    RAISE EXCEPTION USING ERRCODE = '40001',
      MESSAGE = 'token_usage: table token_usage was changed after this transaction began';
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
DECLARE
  day date;
  starts timestamptz[] := '{}';
BEGIN
  IF zone = 'UTC' THEN
    FOREACH day IN ARRAY days LOOP
      starts := array_append(starts, timezone('UTC', day::timestamp));
    END LOOP;
    RETURN starts;
  END IF;
  RETURN @extschema@._token_usage_local_starts(days, zone);
END
$function$;

-- The starts of the days from `first` to `last`, and of the day after it.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_day_bounds(first date, last date, zone text)
RETURNS timestamptz[] LANGUAGE plpgsql STABLE AS $function$
DECLARE
  days date[];
BEGIN
  FOR i IN 0 .. last + 1 - first LOOP
    days := array_append(days, first + i);
  END LOOP;
  RETURN @extschema@._token_usage_starts(days, zone);
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
-- by a dimension. Here they come from the ledger itself; rollup.sql has the statements that read them through the rollups. The text of
-- the query depends on the ledger's column types; it is made here for both editions. The native edition keeps its plan (sums.cpp), the
-- portable one runs it with EXECUTE (sums_portable.sql).

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
$token_usage$, '@extschema@', home);

  EXECUTE replace($token_usage$
-- Rollups: the derived tables beside a ledger, the triggers that keep them exact, and how reports read them.
-- Rules 4, 7 and 10 and section 4 of the contract; docs/rollups.md tells a DBA how it works.
--
-- The one invariant, true in every snapshot: for each user and each month that is rolled,
--   rollup rows + visible deltas before sealed_until = ledger rows before sealed_until.
-- From sealed_until on, and in months that are not rolled, the ledger's own rows are the truth.
--
-- A row older than the guard leaves a signed delta in the writer's transaction. The guard is a sequence, read
-- without a snapshot, so that every isolation level sees its newest value. A newer row leaves nothing: the
-- trigger's WHEN clause says so before any function is called. Sealing goes no further than a guard that every
-- open transaction has seen; a transaction id taken after the guard was raised tells when that is so.

-- How a ledger's column is read, as an expression over row `alias` in the types of the derived tables. It names
-- nothing but pg_catalog, so that it may stand in functions that outlive the extension. NULL: not to be rolled.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_expression(ledger oid, column_name text, alias text)
RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $rollup$
DECLARE
  kind oid;
  digits integer;
  here text := alias || '.' || quote_ident(column_name);
BEGIN
  SELECT CASE WHEN y.typtype = 'd' THEN y.typbasetype ELSE y.oid END,
         CASE WHEN y.oid = 'numeric'::regtype AND a.atttypmod >= 0 THEN (a.atttypmod - 4) & 2047 END
    INTO kind, digits
    FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid
   WHERE a.attrelid = ledger AND a.attname = column_name AND NOT a.attisdropped;
  IF NOT FOUND THEN
    RETURN NULL;
  END IF;
  IF column_name = 'created_at' THEN
    RETURN CASE kind WHEN 'timestamp'::regtype THEN 'timezone(''UTC'', ' || here || ')'
                     WHEN 'timestamptz'::regtype THEN here END;
  ELSIF column_name IN ('agent_id', 'ai_provider', 'ai_model') THEN
    RETURN '(' || here || '::text COLLATE "C")';
  ELSIF kind IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype) THEN
    RETURN here || CASE WHEN column_name LIKE 'cost%' THEN '::numeric' ELSE '::int8' END;
  ELSIF column_name LIKE 'cost%' AND kind IN ('numeric'::regtype, 'float8'::regtype) THEN
    -- The casts also keep the triggers going where a column's type is changed under them. Infinity has no numeric before 14.
    here := CASE kind WHEN 'float8'::regtype
                      THEN format('(CASE WHEN %1$s > ''-Infinity'' AND %1$s < ''Infinity'' THEN %1$s::numeric END)', here)
                      ELSE here || '::numeric' END;
    -- scale() is NULL for NaN and the infinities: unpriced. round() is half away from zero; rule 4 is half-even.
    RETURN replace('(CASE WHEN scale({x}) <= 12 THEN {x} WHEN scale({x}) > 12 THEN round({x}, 12) - CASE WHEN'
                   ' abs({x} - trunc({x}, 12)) = 0.0000000000005 AND mod(trunc({x}, 12), 0.000000000002) = 0'
                   ' THEN sign({x}) * 0.000000000001 ELSE 0 END END)', '{x}', here);
  END IF;
  RETURN NULL;
END
$rollup$;

-- The signed measures of a row, for sums: one list for ledger rows, deltas and rollup rows alike.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_row(ledger oid, alias text)
RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $rollup$
DECLARE
  e text[] := ARRAY(SELECT @extschema@._token_usage_rollup_expression(ledger, c.name, alias)
    FROM unnest('{created_at,agent_id,ai_provider,ai_model,prompt_tokens,completion_tokens,total_tokens,cost_usd,cost_rub,execution_time_ms}'::text[])
      WITH ORDINALITY c (name, place) ORDER BY c.place);
BEGIN
  IF array_position(e, NULL) IS NOT NULL THEN
    RETURN NULL;
  END IF;
  RETURN format('%s AS created_at, %s AS agent, %s AS provider, %s AS model, coalesce(%s, 0) AS prompt, coalesce(%s, 0) AS completion, '
    'coalesce(%s, coalesce(%s, 0) + coalesce(%s, 0), 0) AS total, %s AS usd, %s AS rub, %s AS ms',
    e[1], e[2], e[3], e[4], e[5], e[6], e[7], e[5], e[6], e[8], e[9], e[10]);
END
$rollup$;

-- The same of row t for who does in C what costs time in SQL (rollup_bulk.cpp): NULLs stay, and times and numeric costs are as they are.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_bulk_row(ledger oid)
RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $rollup$
  SELECT string_agg(CASE WHEN a.attname = 'created_at' THEN 't.created_at'
                         WHEN a.attname LIKE 'cost%' AND a.atttypid = 'numeric'::regtype THEN 't.' || a.attname || '::numeric'
                         ELSE @extschema@._token_usage_rollup_expression(ledger, a.attname, 't') END, ', ' ORDER BY w.place)
    FROM unnest('{created_at,agent_id,ai_provider,ai_model,prompt_tokens,completion_tokens,total_tokens,cost_usd,cost_rub,execution_time_ms}'::name[])
           WITH ORDINALITY w (name, place)
    JOIN pg_attribute a ON a.attrelid = ledger AND a.attname = w.name AND NOT a.attisdropped
$rollup$;

-- What of a month is rolled, by its rows and its groups (agents plus models): a sum of 1 month, 2 month by
-- group, 4 day, 8 day by group, 16 half-hour, 32 hour by group. Chosen so that the rollup stays well under a
-- fifth of the ledger with its indexes; a month too thin for that is read through idx_token_usage_user_date.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_flags() RETURNS text LANGUAGE sql IMMUTABLE AS $rollup$
  SELECT '(CASE WHEN c < 64 THEN 0 ELSE 1 + CASE WHEN c >= 5 * g THEN 2 ELSE 0 END + CASE WHEN c >= 250 THEN 4 ELSE 0 END'
         ' + CASE WHEN c >= 2000 AND c >= 200 * g THEN 8 ELSE 0 END + CASE WHEN c >= 7000 THEN 16 ELSE 0 END'
         ' + CASE WHEN c >= 20000 AND c >= 2600 * g THEN 32 ELSE 0 END END)::int2'::text
$rollup$;

-- The common tail of every statement that writes or checks rollup rows: from CTE src(user_id, created_at, agent,
-- provider, model, prompt, completion, total, usd, rub, ms, sign, flags) to CTE rolled, one row per
-- (user_id, kind, bucket, key1, key2, nulls). kind = tier * 10 + dimension (0 all, 1 agent, 2 model).
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_ctes() RETURNS text LANGUAGE sql IMMUTABLE AS $rollup$
  SELECT $sql$
fine AS (
  SELECT user_id, flags, CASE grouping(nb, agent, model) WHEN 3 THEN 0 WHEN 5 THEN 1 ELSE 2 END AS dim,
         CASE grouping(nb) WHEN 0 THEN nb ELSE gb END AS bucket,
         CASE WHEN grouping(agent) = 0 THEN agent WHEN grouping(model) = 0 THEN provider END AS key1,
         CASE WHEN grouping(model) = 0 THEN model END AS key2,
         sum(sign) AS requests, sum(sign * prompt) AS prompt, sum(sign * completion) AS completion, sum(sign * total) AS total,
         coalesce(sum(sign * usd), 0) AS usd, coalesce(sum(sign * rub), 0) AS rub,
         sum(CASE WHEN usd IS NULL THEN sign ELSE 0 END) AS unpriced,
         coalesce(sum(sign * ms), 0) AS ms_sum, sum(CASE WHEN ms IS NULL THEN 0 ELSE sign END) AS ms_count
    FROM (SELECT *, timezone('UTC', CASE WHEN flags & 16 <> 0
                        THEN date_trunc('hour', at) + CASE WHEN extract(minute FROM at) >= 30 THEN interval '30 minutes' ELSE interval '0' END
                        ELSE date_trunc(CASE WHEN flags & 4 <> 0 THEN 'day' ELSE 'month' END, at) END) AS nb,
                 timezone('UTC', date_trunc(CASE WHEN flags & 32 <> 0 THEN 'hour' WHEN flags & 8 <> 0 THEN 'day' ELSE 'month' END, at)) AS gb
            FROM (SELECT *, timezone('UTC', created_at) AS at FROM src) z) x
   GROUP BY GROUPING SETS ((user_id, flags, nb), (user_id, flags, gb, agent), (user_id, flags, gb, provider, model))
), rolled AS (
  SELECT f.user_id, (t.tier * 10 + f.dim)::int2 AS kind,
         CASE t.tier WHEN 1 THEN f.bucket ELSE timezone('UTC', date_trunc(t.unit, timezone('UTC', f.bucket))) END AS bucket,
         coalesce(f.key1, '') AS key1, coalesce(f.key2, '') AS key2,
         (CASE WHEN f.dim > 0 AND f.key1 IS NULL THEN 1 ELSE 0 END + CASE WHEN f.dim = 2 AND f.key2 IS NULL THEN 2 ELSE 0 END)::int2 AS nulls,
         sum(f.requests) AS requests, sum(f.prompt) AS prompt, sum(f.completion) AS completion, sum(f.total) AS total,
         sum(f.usd) AS usd, sum(f.rub) AS rub, sum(f.unpriced) AS unpriced, sum(f.ms_sum) AS ms_sum, sum(f.ms_count) AS ms_count
    FROM fine f
    JOIN (VALUES (3, 'month', 1, 2), (2, 'day', 4, 8), (1, 'hour', 16, 32)) t (tier, unit, bit, group_bit)
      ON f.flags & CASE WHEN f.dim = 0 THEN t.bit ELSE t.group_bit END <> 0
   GROUP BY 1, 2, 3, 4, 5, 6
)$sql$::text
$rollup$;

-- How computed rollup rows are added to those stored: the end of an INSERT INTO {s}.token_usage_rollup AS r.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_merge() RETURNS text LANGUAGE sql IMMUTABLE AS $rollup$
  SELECT $sql$    ON CONFLICT (user_id, kind, bucket, key1, key2, nulls) DO UPDATE
     SET requests = r.requests + excluded.requests, prompt = r.prompt + excluded.prompt, completion = r.completion + excluded.completion,
         total = r.total + excluded.total, usd = r.usd + excluded.usd, rub = r.rub + excluded.rub, unpriced = r.unpriced + excluded.unpriced,
         ms_sum = r.ms_sum + excluded.ms_sum, ms_count = r.ms_count + excluded.ms_count$sql$::text
$rollup$;

-- Whether the caller may read a ledger through its rollups: the derived tables are there, no row security is
-- active for the caller, and the caller may SELECT them all. If not, reports read the ledger itself.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_readable(ledger oid)
RETURNS boolean LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $rollup$
BEGIN
  -- Within a trigger the statement under way may have written rows whose deltas are not there yet.
  IF row_security_active(ledger) OR NOT has_table_privilege(ledger, 'SELECT') OR pg_trigger_depth() > 0 THEN
    RETURN false;
  END IF;
  IF ledger = to_regclass('@extschema@.token_usage') THEN
    IF num_nulls(to_regclass('@extschema@.token_usage_rollup'), to_regclass('@extschema@.token_usage_rollup_month'), to_regclass('@extschema@.token_usage_rollup_user'),
                 to_regclass('@extschema@.token_usage_rollup_epoch'), to_regclass('@extschema@.token_usage_delta')) > 0 THEN
      RETURN false;
    END IF;
    RETURN has_table_privilege('@extschema@.token_usage_rollup'::regclass, 'SELECT') AND has_table_privilege('@extschema@.token_usage_rollup_month'::regclass, 'SELECT')
       AND has_table_privilege('@extschema@.token_usage_rollup_user'::regclass, 'SELECT') AND has_table_privilege('@extschema@.token_usage_rollup_epoch'::regclass, 'SELECT')
       AND has_table_privilege('@extschema@.token_usage_delta'::regclass, 'SELECT') AND @extschema@._token_usage_plain_tables(ARRAY[
             '@extschema@.token_usage_rollup'::regclass, '@extschema@.token_usage_rollup_month'::regclass, '@extschema@.token_usage_rollup_user'::regclass,
             '@extschema@.token_usage_rollup_epoch'::regclass, '@extschema@.token_usage_delta'::regclass]);
  END IF;
  RETURN (SELECT count(*) = 5 AND bool_and(has_table_privilege(c.oid, 'SELECT')) AND @extschema@._token_usage_plain_tables(array_agg(c.oid::regclass))
            FROM pg_class c
           WHERE c.relnamespace = (SELECT l.relnamespace FROM pg_class l WHERE l.oid = ledger)
             AND c.relname = ANY ('{token_usage_rollup,token_usage_rollup_month,token_usage_rollup_user,token_usage_rollup_epoch,token_usage_delta}'::name[]));
END
$rollup$;

-- The statements that read sums through the rollups; all run in the reader's one snapshot. NULL where nothing of the kind is rolled;
-- which of them is asked for first is state, and the others only where that is not NULL.
--   state: of user $1: sealed_until, and the months between the bounds $3 that are rolled and their flags, ascending; no row where nothing is rolled
--   few: how many rows user $1 has between the bounds $3, up to 500; fewest: up to 64
--   rollup, ledger, both: the sums of _token_usage_sums, in its columns and by its parameters ($1 user, $2 agent where by_agent,
--     $3 bounds), from what is named; the pieces are $4 their tiers, $5 and $6 their ends, and $7 is sealed_until.
-- Every index is picked for any value of the parameters, and OFFSET 0 keeps each piece a range of an index.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_read_sql(ledger oid, part text, dimension text, by_agent boolean)
RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $rollup$
DECLARE
  dim integer := CASE WHEN by_agent OR dimension = 'agent' THEN 1 WHEN dimension = 'none' THEN 0 ELSE 2 END;
  rollup_keys text;
  row_keys text;
BEGIN
  IF part = 'state' THEN
    IF NOT @extschema@._token_usage_rollup_possible(ledger) THEN
      RETURN NULL;
    END IF;
    -- No month has more than 744 hours. What lies before the first instant that has 744 hours before it is read from the ledger.
    RETURN @extschema@._token_usage_rollup_text(ledger, replace($sql$
SELECT u.sealed_until::timestamptz, ARRAY(SELECT o.month::timestamptz {months}), ARRAY(SELECT coalesce(o.flags, 0)::int2 {months})
  FROM {s}.token_usage_rollup_user u WHERE u.user_id = $1::{user_type} AND u.epoch = {epoch}$sql$, '{months}',
      $sql$FROM {s}.token_usage_rollup_month o WHERE o.user_id = u.user_id AND o.month < $3[array_upper($3, 1)]
         AND o.month > greatest($3[1], '4713-01-01 00:00:00+00 BC'::timestamptz) - interval '744 hours' ORDER BY o.month$sql$));
  ELSIF part IN ('few', 'fewest') THEN
    RETURN @extschema@._token_usage_rollup_text(ledger, replace($sql$
SELECT count(*)::int4 FROM (SELECT FROM {ledger} t WHERE t.user_id = $1::{user_type} AND t.created_at >= {$3[1]}
  AND t.created_at < {$3[array_upper($3, 1)]} LIMIT {most}) x$sql$, '{most}', CASE part WHEN 'few' THEN '500' ELSE '64' END));
  ELSIF by_agent AND dimension NOT IN ('none', 'agent') THEN
    RETURN NULL;  -- no rollup holds agent and model together
  END IF;
  SELECT CASE dimension WHEN 'none' THEN 'NULL::text AS key1, NULL::text AS key2'
                        WHEN 'agent' THEN 'CASE WHEN r.nulls & 1 = 0 THEN r.key1 END AS key1, NULL::text AS key2'
                        ELSE 'CASE WHEN r.nulls & 1 = 0 THEN r.key1 END AS key1, CASE WHEN r.nulls & 2 = 0 THEN r.key2 END AS key2' END,
         CASE dimension WHEN 'none' THEN 'NULL::text AS key1, NULL::text AS key2'
                        WHEN 'agent' THEN 'x.agent AS key1, NULL::text AS key2'
                        ELSE 'x.provider AS key1, x.model AS key2' END
    INTO rollup_keys, row_keys;
  RETURN @extschema@._token_usage_rollup_text(ledger, replace(replace(replace(replace(replace($sql$
SELECT y.bucket, y.key1, y.key2, sum(y.requests)::int8, sum(y.prompt)::numeric, sum(y.completion)::numeric, sum(y.total)::numeric,
       sum(y.usd), sum(y.rub), sum(y.unpriced)::int8, sum(y.ms_sum)::numeric, sum(y.ms_count)::int8
  FROM ($sql$ || concat_ws(' UNION ALL ', CASE WHEN part <> 'ledger' THEN $sql$
        SELECT width_bucket(r.bucket, $3) AS bucket, {rollup_keys}, r.requests, r.prompt, r.completion, r.total,
               r.usd, r.rub, r.unpriced, r.ms_sum, r.ms_count
          FROM unnest($4::int4[], $5::timestamptz[], $6::timestamptz[]) p (tier, lo, hi)
         CROSS JOIN LATERAL (SELECT * FROM {s}.token_usage_rollup o WHERE o.user_id = $1::{user_type}
                 AND o.kind = (p.tier * 10 + {dim})::int2 AND o.bucket >= p.lo AND o.bucket < p.hi OFFSET 0) r
         WHERE p.tier > 0 {rollup_agent}
        UNION ALL
        SELECT width_bucket(x.created_at, $3), {row_keys}, x.sign, x.sign * x.prompt, x.sign * x.completion, x.sign * x.total,
               x.sign * coalesce(x.usd, 0), x.sign * coalesce(x.rub, 0), CASE WHEN x.usd IS NULL THEN x.sign ELSE 0 END,
               x.sign * coalesce(x.ms, 0), CASE WHEN x.ms IS NULL THEN 0 ELSE x.sign END
          FROM unnest($4::int4[], $5::timestamptz[], $6::timestamptz[]) p (tier, lo, hi)
         CROSS JOIN LATERAL (SELECT * FROM {s}.token_usage_delta d WHERE d.user_id = $1::{user_type}
                 AND d.created_at >= p.lo AND d.created_at < least(p.hi, $7::timestamptz) OFFSET 0) x
         WHERE p.tier > 0 {row_agent}$sql$ END, CASE WHEN part <> 'rollup' THEN $sql$
        SELECT width_bucket(x.created_at, $3) AS bucket, {row_keys}, 1 AS requests, x.prompt, x.completion, x.total,
               coalesce(x.usd, 0) AS usd, coalesce(x.rub, 0) AS rub, CASE WHEN x.usd IS NULL THEN 1 ELSE 0 END AS unpriced,
               coalesce(x.ms, 0) AS ms_sum, CASE WHEN x.ms IS NULL THEN 0 ELSE 1 END AS ms_count
          FROM unnest($4::int4[], $5::timestamptz[], $6::timestamptz[]) p (tier, lo, hi)
         CROSS JOIN LATERAL (SELECT {row} FROM {ledger} t WHERE t.user_id = $1::{user_type}
                 AND t.created_at >= {p.lo} AND t.created_at < {p.hi} AND t.created_at > '-infinity' OFFSET 0) x
         WHERE p.tier = 0 {row_agent}$sql$ END) || $sql$) y
 GROUP BY 1, 2, 3 HAVING sum(y.requests) <> 0$sql$,
    '{rollup_keys}', rollup_keys), '{row_keys}', row_keys), '{dim}', dim::text),
    '{rollup_agent}', CASE WHEN by_agent THEN 'AND r.key1 = $2 AND r.nulls = 0' ELSE '' END),
    '{row_agent}', CASE WHEN by_agent THEN 'AND x.agent = $2' ELSE '' END));
END
$rollup$;

-- Fills a template about one ledger in: {s} its schema, {ledger} its name, {l} the name as a literal, {user_type},
-- {epoch} the epoch in force or NULL, {rollup_columns} and {merge} for INSERT, {row} and {new} and {old} the measures of row t, NEW, OLD, {bulk_row}, {at} and its
-- like the instants, {x.lo} an instant compared with the ledger's own created_at, {flags}, {again} the rows up to which a month is read
-- again, {user_lock} of user usr and {state_lock}, {ctes}.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_text(ledger oid, template text)
RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $rollup$
DECLARE
  space text;
  name text;
  user_type text;
  plain boolean;
  filled text := template;
  word text;
  alias text;
BEGIN
  SELECT quote_ident(n.nspname), quote_ident(n.nspname) || '.' || quote_ident(c.relname)
    INTO space, name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ledger;
  SELECT format_type(CASE WHEN y.typtype = 'd' THEN y.typbasetype ELSE a.atttypid END, NULL)
    INTO user_type FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid
   WHERE a.attrelid = ledger AND a.attname = 'user_id' AND NOT a.attisdropped;
  SELECT a.atttypid = 'timestamp'::regtype INTO plain FROM pg_attribute a
   WHERE a.attrelid = ledger AND a.attname = 'created_at' AND NOT a.attisdropped;
  -- What takes its time is made only where it is asked for: the portable edition makes its texts anew for each report.
  IF strpos(filled, 'ctes}') > 0 THEN
    filled := replace(filled, '{ctes}', @extschema@._token_usage_rollup_ctes());
    -- Where every row counts once: the same without the multiplications.
    filled := replace(filled, '{unsigned_ctes}', replace(replace(replace(replace(@extschema@._token_usage_rollup_ctes(),
      'sign * ', ''), 'sum(sign)', 'count(*)'), 'sum(CASE WHEN usd IS NULL THEN sign ELSE 0 END)', 'count(*) - count(usd)'),
      'sum(CASE WHEN ms IS NULL THEN 0 ELSE sign END)', 'count(ms)'));
  END IF;
  filled := replace(filled, '{again}', '4096');
  -- The parts of the users, 64 of them, and the state: who works on them holds these to the end of his transaction.
  filled := replace(filled, '{user_lock}', 'hashtextextended(''token_usage_rollup_part'', {l}::regclass::oid::bigint) # (hashtextextended(usr::text, 0) & 63)');
  filled := replace(filled, '{state_lock}', 'hashtextextended(''token_usage_rollup_state'', {l}::regclass::oid::bigint)');
  filled := replace(filled, '{flags}', @extschema@._token_usage_rollup_flags());
  filled := replace(filled, '{merge}', @extschema@._token_usage_rollup_merge());
  filled := replace(filled, '{rollup_columns}', 'user_id, kind, bucket, key1, key2, nulls, requests, prompt, completion, total, usd, rub, unpriced, ms_sum, ms_count');
  filled := replace(filled, '{epoch}', '(SELECT e.epoch FROM {s}.token_usage_rollup_epoch e WHERE e.ledger = {l}::regclass'
    ' AND e.filenode = coalesce(pg_relation_filenode({l}::regclass), 0) AND e.stamp = e.xmin::text'
    ' AND NOT EXISTS (SELECT FROM {s}.token_usage_rollup_epoch o WHERE o.ctid <> e.ctid))');
  FOR word, alias IN SELECT * FROM (VALUES ('row', 't'), ('new', 'NEW'), ('old', 'OLD')) v LOOP
    IF strpos(filled, '{' || word || '}') > 0 THEN
      filled := replace(filled, '{' || word || '}', @extschema@._token_usage_rollup_row(ledger, alias));
    END IF;
  END LOOP;
  IF strpos(filled, '{bulk_row}') > 0 THEN
    filled := replace(filled, '{bulk_row}', @extschema@._token_usage_rollup_bulk_row(ledger));
  END IF;
  FOR word, alias IN SELECT * FROM (VALUES ('at', 't'), ('new_at', 'NEW'), ('old_at', 'OLD')) v LOOP
    IF strpos(filled, '{' || word || '}') > 0 THEN
      filled := replace(filled, '{' || word || '}', @extschema@._token_usage_rollup_expression(ledger, 'created_at', alias));
    END IF;
  END LOOP;
  FOREACH word IN ARRAY ARRAY['p.lo', 'p.hi', '$3[1]', '$3[array_upper($3, 1)]', 'from_at', 'to_at', 'month_at', 'month_end', 'sealed', 'until', '$1', '$2', '$3'] LOOP
    filled := replace(filled, '{' || word || '}', CASE WHEN plain THEN 'timezone(''UTC'', ' || word || ')' ELSE word END);
  END LOOP;
  -- The factor as a float8: of another type it would be one more node of the WHEN clauses, which the server parses and plans for each statement.
  filled := replace(filled, '{guard}', 'to_timestamp(pg_sequence_last_value(''{s}.token_usage_rollup_guard''::regclass)::float8 * ''0.000001''::float8)');
  -- Raised to an instant, or left where it is higher; in microseconds, and two more for what a float8 cuts off.
  filled := regexp_replace(filled, '\{raise_guard (\w+)(\(\))?\}', 'setval(''{s}.token_usage_rollup_guard''::regclass,'
    ' greatest(ceil(extract(epoch FROM \1\2) * 1000000)::bigint + 2, pg_sequence_last_value(''{s}.token_usage_rollup_guard''::regclass)))', 'g');
  FOREACH word IN ARRAY '{guard,turn}'::text[] LOOP
    filled := replace(filled, '''{s}.token_usage_rollup_' || word || '''', quote_literal(space || '.token_usage_rollup_' || word));
  END LOOP;
  -- The widest of its family, so that the ledger's own column may be widened under us.
  user_type := CASE WHEN user_type IN ('smallint', 'integer', 'bigint') THEN 'bigint' WHEN user_type = 'uuid' THEN 'uuid' ELSE 'text' END;
  filled := replace(filled, '{user_type}', user_type);
  filled := replace(filled, '{ledger}', name);
  filled := replace(filled, '{l}', quote_literal(name));
  RETURN replace(filled, '{s}', space);
END
$rollup$;

-- Whether a ledger's columns are of types that rollups can add exactly; if not, reports read the ledger.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_possible(ledger oid)
RETURNS boolean LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $rollup$
BEGIN
  RETURN @extschema@._token_usage_rollup_row(ledger, 't') IS NOT NULL
     -- A crash empties an unlogged table, and nothing else.
     AND (SELECT c.relpersistence = 'p' FROM pg_class c WHERE c.oid = ledger)
     AND (SELECT count(*) = 2 FROM pg_attribute a
           WHERE a.attrelid = ledger AND a.attname IN ('user_id', 'created_at') AND NOT a.attisdropped)
     AND @extschema@._token_usage_as_now(ledger::regclass);
END
$rollup$;
$token_usage$, '@extschema@', home);

  EXECUTE replace($token_usage$
-- The derived tables, triggers and functions that token_usage_migrate() puts beside a ledger; rollup.sql says what they mean.

-- Drops a trigger where there is one; DROP TRIGGER IF EXISTS tells every user of a new ledger what is not there.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_drop_trigger(relation regclass, trigger_name text)
RETURNS void LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $rollup$
BEGIN
  IF EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = relation AND t.tgname = trigger_name) THEN
    EXECUTE format('DROP TRIGGER %I ON %s', trigger_name, relation);
  END IF;
END
$rollup$;

-- Sees to it that a trigger of a table is there, word for word and enabled as told; returns whether it was not. `statement` makes it on
-- {table}. Only the server knows how it would spell it, so it is made on a scratch table too; who may make none keeps what is there.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_trigger(relation regclass, trigger_name text, statement text, enabled "char")
RETURNS boolean LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $rollup$
DECLARE
  there record;
  wanted text;
BEGIN
  SELECT pg_get_triggerdef(t.oid) AS spelled, t.tgenabled AS enabled, format('%I.%I', n.nspname, c.relname) AS place INTO there
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_trigger t ON t.tgrelid = c.oid AND t.tgname = trigger_name
   WHERE c.oid = relation;
  IF there.enabled = enabled THEN
    IF NOT has_database_privilege(current_database(), 'TEMPORARY') THEN
      RETURN false;
    END IF;
    EXECUTE format('CREATE TEMPORARY TABLE token_usage_rollup_scratch (LIKE %s)', there.place);
    EXECUTE replace(statement, '{table}', 'pg_temp.token_usage_rollup_scratch');
    -- Which versions name the schema of temporary tables pg_temp, and which by its number, is not ours to know.
    SELECT regexp_replace(pg_get_triggerdef(t.oid), ' ON pg_temp\w*\.token_usage_rollup_scratch ', ' ON @ ') INTO wanted
      FROM pg_trigger t WHERE t.tgrelid = to_regclass('pg_temp.token_usage_rollup_scratch');
    DROP TABLE pg_temp.token_usage_rollup_scratch;
    IF there.spelled = replace(wanted, ' ON @ ', ' ON ' || there.place || ' ') THEN
      RETURN false;
    END IF;
  END IF;
  PERFORM @extschema@._token_usage_drop_trigger(relation, trigger_name);
  EXECUTE replace(statement, '{table}', there.place);
  EXECUTE format('ALTER TABLE %s ENABLE %s TRIGGER %I', there.place, CASE enabled WHEN 'A' THEN 'ALWAYS' ELSE 'REPLICA' END, trigger_name);
  RETURN true;
END
$rollup$;

-- Makes what is missing of a ledger's derived tables, functions and triggers; part of token_usage_migrate().
-- All of it belongs to the ledger's owner and names nothing of the extension, so that it goes on working, and
-- the rollups stay exact, after DROP EXTENSION. Returns steps as migrate does. Run by the ledger's owner.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_migrate(ledger oid)
RETURNS jsonb LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $rollup$
DECLARE
  space text;
  space_oid oid;
  owner oid;
  user_type text;
  steps jsonb := '[]';
  fresh boolean := false;
  part record;
  code record;
  word text;
BEGIN
  SELECT quote_ident(n.nspname), n.oid, c.relowner INTO space, space_oid, owner
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ledger;
  IF NOT @extschema@._token_usage_rollup_possible(ledger) THEN
    RETURN steps;
  END IF;
  -- What another role made here under our names would be written to, or run, with the rights of the ledger's owner.
  SELECT 'table' AS kind, space || '.' || c.relname AS name INTO part FROM pg_class c
   WHERE c.relnamespace = space_oid AND c.relname ~ '^token_usage_(rollup|rollup_(month|user|epoch|state|guard|turn)|delta)$'
     AND (c.relowner <> owner OR c.relkind <> CASE WHEN c.relname ~ '_(guard|turn)$' THEN 'S' ELSE 'r' END)
  UNION ALL
  SELECT 'function', f.oid::regprocedure::text FROM pg_proc f
   WHERE f.pronamespace = space_oid AND f.proname ~ '^token_usage_rollup_' AND f.proowner <> owner
   LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION 'token_usage: % is not a % of the owner of %', part.name, part.kind, ledger::regclass USING ERRCODE = '42501';
  END IF;
  -- Left beside a ledger of another type of user, which is gone: nothing of it is worth keeping.
  user_type := @extschema@._token_usage_rollup_text(ledger, '{user_type}');
  IF EXISTS (SELECT FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
              WHERE c.relnamespace = space_oid AND c.relname = 'token_usage_delta' AND a.attname = 'user_id'
                AND a.atttypid <> user_type::regtype) THEN
    EXECUTE format('DROP TABLE %1$s.token_usage_rollup_user, %1$s.token_usage_rollup_month, %1$s.token_usage_rollup,'
                   ' %1$s.token_usage_delta', space);
    FOR code IN SELECT f.oid::regprocedure AS signature FROM pg_proc f WHERE f.pronamespace = space_oid
        AND f.proname IN ('token_usage_rollup_visit', 'token_usage_rollup_meet', 'token_usage_rollup_fold', 'token_usage_rollup_again') LOOP
      EXECUTE format('DROP FUNCTION %s', code.signature);
    END LOOP;
  END IF;
  FOR part IN SELECT * FROM (VALUES
      ('token_usage_rollup_epoch', 'epoch uuid NOT NULL, ledger oid NOT NULL, filenode oid NOT NULL, stamp text NOT NULL'),
      ('token_usage_rollup_state', 'epoch uuid NOT NULL PRIMARY KEY, confirmed timestamptz, pending timestamptz, horizon bigint'),
      ('token_usage_rollup_user', 'user_id {user_type} NOT NULL PRIMARY KEY, epoch uuid NOT NULL, sealed_until timestamptz NOT NULL'),
      ('token_usage_rollup_month', 'user_id {user_type} NOT NULL, month timestamptz NOT NULL, flags smallint NOT NULL, PRIMARY KEY (user_id, month)'),
      ('token_usage_rollup', 'user_id {user_type} NOT NULL, bucket timestamptz NOT NULL, requests bigint NOT NULL, prompt bigint NOT NULL,'
       ' completion bigint NOT NULL, total bigint NOT NULL, unpriced bigint NOT NULL, ms_sum bigint NOT NULL, ms_count bigint NOT NULL,'
       ' kind smallint NOT NULL, nulls smallint NOT NULL, key1 text COLLATE "C" NOT NULL, key2 text COLLATE "C" NOT NULL,'
       ' usd numeric NOT NULL, rub numeric NOT NULL, PRIMARY KEY (user_id, kind, bucket, key1, key2, nulls)'),
      ('token_usage_delta', 'user_id {user_type}, created_at timestamptz, prompt bigint, completion bigint, total bigint, ms bigint,'
       ' turn bigint, sign smallint NOT NULL, agent text COLLATE "C", provider text COLLATE "C", model text COLLATE "C", usd numeric, rub numeric'))
      p (name, columns) LOOP
    IF EXISTS (SELECT FROM pg_class c WHERE c.relname = part.name AND c.relnamespace = space_oid) THEN
      steps := steps || jsonb_build_object('step', 'table ' || part.name, 'action', 'kept');
    ELSE
      EXECUTE @extschema@._token_usage_rollup_text(ledger, format('CREATE TABLE {s}.%I (%s)', part.name, part.columns));
      EXECUTE format('ALTER TABLE %s.%I OWNER TO %s', space, part.name, owner::regrole);
      steps := steps || jsonb_build_object('step', 'table ' || part.name, 'action', 'created');
      fresh := true;
    END IF;
    -- To cut off the empty end of a table VACUUM locks out everybody: writers would wait for that, and queries on a standby be cancelled.
    IF NOT EXISTS (SELECT FROM pg_class c WHERE c.relname = part.name AND c.relnamespace = space_oid AND 'vacuum_truncate=false' = ANY (c.reloptions)) THEN
      EXECUTE format('ALTER TABLE %s.%I SET (vacuum_truncate = false)', space, part.name);
    END IF;
  END LOOP;
  IF fresh THEN
    EXECUTE format('CREATE INDEX IF NOT EXISTS idx_token_usage_delta ON %s.token_usage_delta (user_id, created_at)', space);
    EXECUTE format('ALTER TABLE %s.token_usage_delta SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,'
                   ' autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 1000000)', space);
    EXECUTE format('ALTER TABLE %s.token_usage_rollup SET (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.05)', space);
    EXECUTE format('ALTER TABLE %s.token_usage_rollup_user SET (fillfactor = 50)', space);
  END IF;
  FOREACH word IN ARRAY '{token_usage_rollup_guard,token_usage_rollup_turn}'::text[] LOOP
    IF NOT EXISTS (SELECT FROM pg_class c WHERE c.relname = word AND c.relnamespace = space_oid) THEN
      EXECUTE format('CREATE SEQUENCE %s.%I MINVALUE -9223372036854775807 START 0 CYCLE', space, word);
      EXECUTE format('ALTER SEQUENCE %s.%I OWNER TO %s', space, word, owner::regrole);
    END IF;
  END LOOP;
  IF pg_sequence_last_value(to_regclass(space || '.token_usage_rollup_guard')) IS NULL THEN
    -- Year 1, in microseconds. So NULL is what nobody sees but who may not read the guard, and that counts as late.
    PERFORM setval(to_regclass(space || '.token_usage_rollup_guard'), -62135596800000000);
  END IF;
  -- Every writer's trigger reads the guard. It tells an instant and nothing else.
  EXECUTE format('GRANT SELECT ON SEQUENCE %s.token_usage_rollup_guard TO PUBLIC', space);

  FOR code IN SELECT * FROM @extschema@._token_usage_rollup_write_functions()
         UNION ALL SELECT * FROM @extschema@._token_usage_rollup_maintain_functions()
         UNION ALL SELECT * FROM @extschema@._token_usage_rollup_rebuild_functions() LOOP
    EXECUTE @extschema@._token_usage_rollup_text(ledger, code.definition);
    EXECUTE @extschema@._token_usage_rollup_text(ledger, 'ALTER FUNCTION ' || code.signature || ' OWNER TO ' || owner::regrole);
    EXECUTE @extschema@._token_usage_rollup_text(ledger, 'REVOKE ALL ON FUNCTION ' || code.signature || ' FROM PUBLIC');
  END LOOP;

  -- One insert in 128 asks for maintenance. By chance and not by a column, whose type could not be changed then. least() leaves out what is
  -- NULL: such a row is in no sum. The server copies the text of all these clauses at each INSERT, and parses the one that it needs.
  FOR part IN SELECT * FROM (VALUES
      ('token_usage_rollup_insert', 'INSERT', 'FOR EACH ROW WHEN (({new_at} < {guard}) IS NOT FALSE OR random() < ''0.0078125''::float8)'),
      ('token_usage_rollup_update', 'UPDATE', 'FOR EACH ROW WHEN ((least({old_at}, {new_at}) < {guard}) IS NOT FALSE)'),
      ('token_usage_rollup_delete', 'DELETE', 'FOR EACH ROW WHEN (({old_at} < {guard}) IS NOT FALSE)'),
      ('token_usage_rollup_truncate', 'TRUNCATE', 'FOR EACH STATEMENT')) p (name, event, clause) LOOP
    IF @extschema@._token_usage_rollup_trigger(ledger, part.name, @extschema@._token_usage_rollup_text(ledger,
         format('CREATE TRIGGER %I AFTER %s ON {table} %s EXECUTE FUNCTION {s}.token_usage_rollup_write()', part.name, part.event, part.clause)), 'A') THEN
      fresh := true;
    END IF;
  END LOOP;
  -- A publication FOR ALL TABLES has ours too: it asks for an identity of the rows that are deleted, and a subscriber keeps its own.
  EXECUTE format('ALTER TABLE %s.token_usage_delta REPLICA IDENTITY FULL', space);
  EXECUTE format('ALTER TABLE %s.token_usage_rollup_epoch REPLICA IDENTITY FULL', space);
  FOREACH word IN ARRAY '{token_usage_rollup,token_usage_rollup_month,token_usage_rollup_user,token_usage_rollup_epoch,token_usage_rollup_state,token_usage_delta}'::text[] LOOP
    -- The setting is asked for as well: pg_restore --disable-triggers leaves every trigger firing for our own writes too.
    PERFORM @extschema@._token_usage_rollup_trigger((space || '.' || word)::regclass, 'token_usage_rollup_foreign', format(
      'CREATE TRIGGER token_usage_rollup_foreign BEFORE INSERT OR UPDATE OR DELETE ON {table} FOR EACH ROW'
      ' WHEN (pg_trigger_depth() = 0 AND current_setting(''session_replication_role'') = ''replica'')'
      ' EXECUTE FUNCTION %s.token_usage_rollup_foreign()', space), 'R');
  END LOOP;
  PERFORM @extschema@._token_usage_rollup_trigger((space || '.token_usage_delta')::regclass, 'token_usage_rollup_at_commit', format(
    'CREATE CONSTRAINT TRIGGER token_usage_rollup_at_commit AFTER INSERT ON {table} DEFERRABLE INITIALLY DEFERRED'
    ' FOR EACH ROW WHEN (NEW.turn & 127 = 0) EXECUTE FUNCTION %s.token_usage_rollup_at_commit()', space), 'A');
  -- Writes may have passed while a trigger was missing: whatever was rolled is void.
  IF fresh THEN
    EXECUTE format('DELETE FROM %s.token_usage_rollup_epoch', space);
  END IF;
  RETURN steps;
END
$rollup$;
$token_usage$, '@extschema@', home);

  EXECUTE replace($token_usage$
-- The functions that a ledger carries, first part: what writers run. A trigger leaves a delta for a late write, and at commit one write in
-- 128 maintains (rollup_maintain.sql); nothing is sealed before every open writer has seen the guard, and nobody waits for that.

-- As templates for _token_usage_rollup_text(), one row each.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_write_functions(OUT signature text, OUT definition text)
RETURNS SETOF record LANGUAGE sql IMMUTABLE AS $rollup$
VALUES ('{s}.token_usage_rollup_write()', $sql$
CREATE OR REPLACE FUNCTION {s}.token_usage_rollup_write() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $code$
-- Made by token_usage_migrate(): keeps the rollups of {ledger} exact. See docs/rollups.md.
DECLARE
  guard timestamptz;
  before boolean := false;
  after boolean := false;
BEGIN
  IF TG_OP = 'TRUNCATE' THEN
    DELETE FROM {s}.token_usage_rollup_epoch;
    RETURN NULL;
  END IF;
  guard := {guard};
  IF TG_OP <> 'INSERT' THEN
    before := {old_at} < guard;
  END IF;
  IF TG_OP <> 'DELETE' THEN
    after := {new_at} < guard;
  END IF;
  IF TG_OP = 'UPDATE' AND before AND after
     AND NEW.user_id IS NOT DISTINCT FROM OLD.user_id
     AND (SELECT n FROM (SELECT {new}) n) IS NOT DISTINCT FROM (SELECT o FROM (SELECT {old}) o) THEN
    RETURN NULL;
  END IF;
  IF before THEN
    INSERT INTO {s}.token_usage_delta (user_id, sign, turn, created_at, agent, provider, model, prompt, completion, total, usd, rub, ms)
    SELECT OLD.user_id, -1, nextval('{s}.token_usage_rollup_turn'::regclass), {old};
  END IF;
  IF after THEN
    INSERT INTO {s}.token_usage_delta (user_id, sign, turn, created_at, agent, provider, model, prompt, completion, total, usd, rub, ms)
    SELECT NEW.user_id, 1, nextval('{s}.token_usage_rollup_turn'::regclass), {new};
  ELSIF TG_OP = 'INSERT' AND NEW.user_id IS NOT NULL AND after IS NOT NULL AND current_setting('transaction_isolation') = 'read committed' THEN
    -- It is this user's turn: a row that counts for nothing asks for a visit when the transaction commits.
    INSERT INTO {s}.token_usage_delta (user_id, sign, turn) VALUES (NEW.user_id, 0, nextval('{s}.token_usage_rollup_turn'::regclass) * 128);
  END IF;
  RETURN NULL;
END
$code$;
$sql$), ('{s}.token_usage_rollup_at_commit()', $sql$
CREATE OR REPLACE FUNCTION {s}.token_usage_rollup_at_commit() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off AS $code$
-- Maintains, for one delta in 128. Deferred: while a statement runs, rows that it wrote are there whose deltas are
-- not yet, so nothing may be sealed; and locks that are taken at commit are held for no longer than that.
-- A transaction of very many rows comes here for each 128 of them: a delta that is gone has had its visit.
BEGIN
  IF NEW.sign = 0 THEN
    DELETE FROM {s}.token_usage_delta d WHERE d.user_id = NEW.user_id AND d.created_at IS NULL AND d.sign = 0;
    IF NOT FOUND THEN
      RETURN NULL;
    END IF;
  ELSIF NOT EXISTS (SELECT FROM {s}.token_usage_delta d WHERE d.user_id = NEW.user_id AND d.created_at = NEW.created_at AND d.turn = NEW.turn) THEN
    RETURN NULL;
  END IF;
  -- SET CONSTRAINTS ... IMMEDIATE brings us here in the middle of the statement that writes to the ledger.
  IF pg_trigger_depth() = 1 AND current_setting('transaction_isolation') = 'read committed' THEN
    IF NEW.sign <> 0 THEN
      PERFORM {s}.token_usage_rollup_sweep();
    END IF;
    PERFORM {s}.token_usage_rollup_visit(NEW.user_id, 4096, 0);
  END IF;
  RETURN NULL;
END
$code$;
$sql$), ('{s}.token_usage_rollup_foreign()', $sql$
CREATE OR REPLACE FUNCTION {s}.token_usage_rollup_foreign() RETURNS trigger
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $code$
-- What replication brings of another database's derived rows is left out; those of this one are made here.
BEGIN
  RETURN NULL;
END
$code$;
$sql$), ('{s}.token_usage_rollup_passed(bigint)', $sql$
CREATE OR REPLACE FUNCTION {s}.token_usage_rollup_passed(horizon bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $code$
-- Whether every transaction older than horizon that wrote to the ledger has ended. One that is open but holds no
-- writer's lock on the ledger has not written to it, and will read the new guard if it does.
DECLARE
  snap pg_snapshot := pg_current_snapshot();
  old text[];
BEGIN
  IF pg_snapshot_xmax(snap)::text::bigint <= horizon THEN
    RETURN false;
  END IF;
  SELECT array_agg((x::text::bigint % 4294967296)::text) INTO old FROM pg_snapshot_xip(snap) x WHERE x::text::bigint < horizon;
  RETURN old IS NULL OR NOT EXISTS (
    SELECT FROM pg_locks a JOIN pg_locks b ON b.virtualtransaction = a.virtualtransaction
     WHERE a.locktype = 'transactionid' AND a.granted AND a.transactionid::text = ANY (old)
       AND b.locktype = 'relation' AND b.granted AND b.mode NOT IN ('AccessShareLock', 'RowShareLock')
       AND b.relation IN (SELECT {l}::regclass UNION ALL SELECT relid FROM pg_partition_tree({l}::regclass)));
END
$code$;
$sql$), ('{s}.token_usage_rollup_confirm()', $sql$
CREATE OR REPLACE FUNCTION {s}.token_usage_rollup_confirm() RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $code$
-- Confirms the guard that was raised before, when every transaction that may have missed it has ended, and raises it again, which is
-- confirmed at once where nobody else writes; whether it was confirmed. Holds the row lock of the state; a second caller passes by.
DECLARE
  moved boolean := false;
  st record;
  top bigint;
  mine bigint;
BEGIN
  -- See token_usage_rollup_hold() for why there are two locks.
  IF NOT pg_try_advisory_xact_lock({state_lock}) THEN
    RETURN false;
  END IF;
  SELECT * INTO st FROM {s}.token_usage_rollup_state WHERE epoch = {epoch} FOR UPDATE SKIP LOCKED;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  IF st.horizon IS NOT NULL THEN
    IF {s}.token_usage_rollup_passed(st.horizon) THEN
      st.confirmed := st.pending;
      UPDATE {s}.token_usage_rollup_state SET confirmed = pending, horizon = NULL WHERE epoch = st.epoch;
      moved := true;
    ELSE
      RETURN false;
    END IF;
  END IF;
  IF st.confirmed IS NULL OR st.confirmed < now() - interval '0.1 seconds' THEN
    -- The sequence first, then the transaction id: a transaction that read the old guard has an older id.
    PERFORM {raise_guard now()};
    BEGIN
      UPDATE {s}.token_usage_rollup_state SET pending = now() WHERE epoch = st.epoch;
    EXCEPTION WHEN division_by_zero THEN
      NULL;  -- never: the block is here for the transaction id of its own
    END;
    SELECT t.xmin::text::bigint INTO mine FROM {s}.token_usage_rollup_state t WHERE t.epoch = st.epoch;
    top := pg_snapshot_xmax(pg_current_snapshot())::text::bigint;
    mine := top + ((mine - top) % 4294967296 + 4294967296 + 2147483648) % 4294967296 - 2147483648;
    BEGIN
      UPDATE {s}.token_usage_rollup_state SET horizon = mine WHERE epoch = st.epoch;
      RAISE division_by_zero;
    EXCEPTION WHEN division_by_zero THEN
      NULL;  -- has ended an id later than `mine`, so that snapshots reach past it
    END;
    IF {s}.token_usage_rollup_passed(mine) THEN
      UPDATE {s}.token_usage_rollup_state SET confirmed = pending WHERE epoch = st.epoch;
      moved := true;
    ELSE
      UPDATE {s}.token_usage_rollup_state SET horizon = mine WHERE epoch = st.epoch;
    END IF;
  END IF;
  RETURN moved;
END
$code$;
$sql$), ('{s}.token_usage_rollup_begin()', $sql$
CREATE OR REPLACE FUNCTION {s}.token_usage_rollup_begin() RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $code$
-- Begins an epoch when none is in force: what older ones rolled is void. The stamp is the row's own transaction
-- id, which a copy of the row in another database, or one restored into this one, does not have.
BEGIN
  IF NOT pg_try_advisory_xact_lock(hashtextextended('token_usage_rollup_epoch', {l}::regclass::oid::bigint)) THEN
    RETURN false;
  END IF;
  IF (SELECT c.relpersistence <> 'p' FROM pg_class c WHERE c.oid = {l}::regclass) THEN
    RETURN false;  -- a crash would empty the ledger, and nothing else
  END IF;
  IF {epoch} IS NULL THEN
    DELETE FROM {s}.token_usage_rollup_state;
    DELETE FROM {s}.token_usage_rollup_epoch;
    INSERT INTO {s}.token_usage_rollup_epoch
    VALUES (gen_random_uuid(), {l}::regclass, coalesce(pg_relation_filenode({l}::regclass), 0), '');
    UPDATE {s}.token_usage_rollup_epoch e SET stamp = e.xmin::text;
    INSERT INTO {s}.token_usage_rollup_state SELECT e.epoch FROM {s}.token_usage_rollup_epoch e;
  END IF;
  RETURN true;
END
$code$;
$sql$)
$rollup$;
$token_usage$, '@extschema@', home);

  EXECUTE replace($token_usage$
-- The functions that a ledger carries, second part: sealing and folding, a bounded piece of work for one user, with locks that are free.
-- What they ask is of one user, so they do not read whole tables: a plan that is made while a table is empty is kept. (Where a table has no index,
-- that makes a plan look dear enough to compile.)

-- As templates for _token_usage_rollup_text(), one row each.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_maintain_functions(OUT signature text, OUT definition text)
RETURNS SETOF record LANGUAGE sql IMMUTABLE AS $rollup$
VALUES ('{s}.token_usage_rollup_visit({user_type}, integer, integer)', $sql$
CREATE OR REPLACE FUNCTION {s}.token_usage_rollup_visit(usr {user_type}, max_rows integer, zeal integer) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off AS $code$
-- Seals and folds what waits for one user, at most about max_rows rows; returns how many rows it folded. Never
-- waits for a lock. zeal 0: only when enough waits to pay; 1: deltas however few; 2: everything, at any cost.
DECLARE
  now_epoch uuid;
  known boolean;
  guard_due boolean;
  sealed timestamptz;
  until timestamptz;
  work bigint;
  native text;
BEGIN
  IF usr IS NULL OR current_setting('transaction_isolation') <> 'read committed' THEN
    RETURN 0;
  END IF;
  IF zeal = 0 THEN
    native := {s}.token_usage_rollup_native('_token_usage_rollup_visit', 'oid, text, integer, integer, integer, integer, timestamp with time zone');
    IF native IS NOT NULL THEN
      BEGIN
        EXECUTE 'SELECT ' || native || '($1, $2, $3, $4, $5, $6, $7)' INTO work
          USING {l}::regclass::oid, usr::text, max_rows, 128, 64, 256, now() - interval '0.1 seconds';
      EXCEPTION WHEN numeric_value_out_of_range THEN
        work := NULL;  -- more than it adds up
      END;
      IF work IS NOT NULL THEN
        RETURN work;
      END IF;
    END IF;
  END IF;
  IF row_security_active({l}::regclass) OR NOT has_table_privilege({l}::regclass, 'SELECT') THEN
    RETURN 0;
  END IF;
  SELECT e.epoch, r.user_id IS NOT NULL, r.sealed_until, greatest(s.confirmed, r.sealed_until),
         s.horizon IS NOT NULL OR s.confirmed IS NULL OR s.confirmed < now() - interval '0.1 seconds'
    INTO now_epoch, known, sealed, until, guard_due
    FROM (SELECT {epoch} AS epoch) e
    LEFT JOIN {s}.token_usage_rollup_user r ON r.user_id = usr AND r.epoch = e.epoch
    LEFT JOIN {s}.token_usage_rollup_state s ON s.epoch = e.epoch;
  IF now_epoch IS NULL THEN
    PERFORM {s}.token_usage_rollup_begin();
    RETURN 0;
  END IF;
  IF guard_due AND {s}.token_usage_rollup_confirm() AND known THEN
    RETURN {s}.token_usage_rollup_visit(usr, max_rows, zeal);  -- more waits below the guard now
  END IF;
  IF NOT known THEN
    work := {s}.token_usage_rollup_meet(usr, now_epoch, max_rows);
    RETURN coalesce(work, {s}.token_usage_rollup_visit(usr, max_rows, zeal));
  END IF;
  RETURN {s}.token_usage_rollup_work(usr, now_epoch, sealed, until, max_rows, zeal);
END
$code$;
$sql$), ('{s}.token_usage_rollup_hold({user_type}, uuid, timestamptz)', $sql$
CREATE OR REPLACE FUNCTION {s}.token_usage_rollup_hold(usr {user_type}, now_epoch uuid, sealed timestamptz) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off AS $code$
-- Whether it is for us to work on a user until the transaction ends. Not where somebody else does or, by his seal, has done it meanwhile. Of the
-- row alone SKIP LOCKED would be enough, if it did not itself wait where the row is changed and committed and locked again under its eyes; so there
-- is a lock before it for whose taking nobody ever waits. One for each of 64 parts of the users, as a transaction may have very many users.
BEGIN
  IF NOT pg_try_advisory_xact_lock({user_lock}) THEN
    RETURN false;
  END IF;
  PERFORM FROM {s}.token_usage_rollup_user r WHERE r.user_id = usr AND r.epoch = now_epoch AND r.sealed_until = sealed FOR UPDATE SKIP LOCKED;
  RETURN FOUND;
END
$code$;
$sql$), ('{s}.token_usage_rollup_work({user_type}, uuid, timestamptz, timestamptz, integer, integer)', $sql$
CREATE OR REPLACE FUNCTION {s}.token_usage_rollup_work(usr {user_type}, now_epoch uuid, sealed timestamptz, until timestamptz, max_rows integer, zeal integer)
RETURNS bigint LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off AS $code$
-- What a visit does, in every case, for a user who is sealed up to `sealed` and may be up to `until`.
DECLARE
  till timestamptz;
  waiting bigint;
  late bigint;
  work bigint := 0;
  months timestamptz[];
  tail bigint[];
  incoming bigint[];
  native text;
  month_at timestamptz;
  month_end timestamptz;
  from_at timestamptz;
  to_at timestamptz;
  old_flags integer;
  new_flags integer;
  last_flags integer;
  again boolean;
  c bigint;
  g bigint;
  have bigint;
  n bigint;
BEGIN
  -- What waits: the rows between the seal and the guard, and the deltas, by month. Most of what a visit costs is to come by the pages of the
  -- ledger, since the rows of a user lie apart, so they are counted once. Past the seal a ledger's row counts and a delta does not; but its
  -- month must be folded, lest it stay.
  SELECT coalesce(sum(y.waiting), 0), max(y.till), coalesce(sum(y.late), 0),
         array_agg(y.month_of ORDER BY y.month_of) FILTER (WHERE y.month_of IS NOT NULL),
         array_agg(y.waiting ORDER BY y.month_of) FILTER (WHERE y.month_of IS NOT NULL),
         array_agg(y.n ORDER BY y.month_of) FILTER (WHERE y.month_of IS NOT NULL)
    INTO waiting, till, late, months, tail, incoming
    FROM (SELECT x.month_of, sum(x.waiting)::bigint AS waiting, max(x.till) AS till, sum(x.late)::bigint AS late, sum(x.n)::bigint AS n
            FROM (SELECT timezone('UTC', date_trunc('month', timezone('UTC', w.at))) AS month_of, count(*) AS waiting, max(w.at) AS till, 0 AS late, 0 AS n
                    FROM (SELECT {at} AS at FROM {ledger} t WHERE t.user_id = usr AND t.created_at >= {sealed}
                             AND t.created_at < {until} AND t.created_at > '-infinity' ORDER BY t.created_at LIMIT max_rows + 1) w GROUP BY 1
                  UNION ALL
                  SELECT CASE WHEN d.created_at < until AND isfinite(d.created_at)
                              THEN timezone('UTC', date_trunc('month', timezone('UTC', d.created_at))) END,
                         0, NULL, count(*), sum(CASE WHEN d.created_at < sealed THEN d.sign ELSE 0 END)
                    FROM {s}.token_usage_delta d WHERE d.user_id = usr AND d.sign <> 0 GROUP BY 1) x
           GROUP BY 1) y;
  IF waiting > max_rows THEN
    until := greatest(till, sealed + interval '1 microsecond');
  ELSIF zeal < 2 AND waiting < 128 THEN
    IF late = 0 OR zeal < 1 AND late < 64 THEN
      RETURN 0;
    END IF;
    until := sealed;
  ELSIF until = sealed AND late = 0 THEN
    RETURN 0;
  END IF;
  IF NOT {s}.token_usage_rollup_hold(usr, now_epoch, sealed) THEN
    RETURN 0;
  END IF;

  native := {s}.token_usage_rollup_native('_token_usage_rollup_fold', 'oid, text, timestamp with time zone, timestamp with time zone, timestamp with time zone, smallint');
  LOOP
    BEGIN
      FOR i IN 1 .. coalesce(cardinality(months), 0) LOOP
        month_at := months[i];
        month_end := timezone('UTC', timezone('UTC', month_at) + interval '1 month');
        from_at := least(greatest(sealed, month_at), month_end);
        to_at := greatest(from_at, least(until, month_end));
        n := incoming[i] + CASE WHEN until > sealed THEN tail[i] ELSE 0 END;
        SELECT coalesce((SELECT o.flags FROM {s}.token_usage_rollup_month o WHERE o.user_id = usr AND o.month = month_at), 0),
               coalesce(sum(r.requests) FILTER (WHERE r.kind = 30), 0), count(*) FILTER (WHERE r.kind <> 30)
          INTO old_flags, have, g
          FROM {s}.token_usage_rollup r WHERE r.user_id = usr AND r.kind IN (30::int2, 31::int2, 32::int2) AND r.bucket = month_at;
        IF old_flags = 0 THEN
          SELECT count(*) INTO have
            FROM (SELECT FROM {ledger} t WHERE t.user_id = usr AND t.created_at >= {month_at} AND t.created_at < {from_at}
                   LIMIT CASE WHEN zeal < 2 THEN 8192 END) x;
        END IF;
        c := have + n;
        again := have <= {again} OR zeal = 2;  -- whether the month may be read again, for what it is to be rolled by from now on
        IF old_flags & 2 = 0 AND again THEN
          -- Not by count(DISTINCT), which sorts.
          SELECT count(*) INTO g
            FROM (SELECT FROM (SELECT {row} FROM {ledger} t WHERE t.user_id = usr AND t.created_at >= {month_at} AND t.created_at < {to_at} LIMIT 8192) x
                   GROUP BY GROUPING SETS ((x.agent), (x.provider, x.model))) y;
        END IF;
        new_flags := old_flags | {flags};
        IF old_flags = 0 AND from_at = month_at THEN
          -- A month begins with what the one before it had come to, lest it be read again at each step up, or grow past where it may be.
          SELECT o.flags, coalesce(sum(r.requests) FILTER (WHERE r.kind = 30), 0), count(*) FILTER (WHERE r.kind <> 30) INTO last_flags, c, g
            FROM {s}.token_usage_rollup_month o
            LEFT JOIN {s}.token_usage_rollup r ON r.user_id = usr AND r.kind IN (30::int2, 31::int2, 32::int2) AND r.bucket = o.month
           WHERE o.user_id = usr AND o.month = timezone('UTC', timezone('UTC', month_at) - interval '1 month') GROUP BY o.flags;
          IF last_flags & 2 <> 0 THEN
            last_flags := last_flags | {flags};
          END IF;
          new_flags := new_flags | coalesce(last_flags, 0);
        END IF;
        IF new_flags <> old_flags AND again THEN
          DELETE FROM {s}.token_usage_rollup r WHERE r.user_id = usr AND r.bucket >= month_at AND r.bucket < month_end;
          INSERT INTO {s}.token_usage_rollup_month VALUES (usr, month_at, new_flags)
              ON CONFLICT (user_id, month) DO UPDATE SET flags = excluded.flags;
          from_at := month_at;
        ELSE
          new_flags := old_flags;
        END IF;
        IF native IS NULL OR new_flags = 0 THEN
          PERFORM {s}.token_usage_rollup_fold(usr, month_at, from_at, to_at, new_flags::int2);
        ELSE
          EXECUTE 'SELECT ' || native || '($1, $2, $3, $4, $5, $6)' USING {l}::regclass::oid, usr::text, month_at, from_at, to_at, new_flags::int2;
        END IF;
        work := work + abs(n);
      END LOOP;
      -- From the seal on the ledger speaks for itself.
      WITH gone AS (
        DELETE FROM {s}.token_usage_delta d WHERE d.user_id = usr AND (d.created_at >= until OR NOT isfinite(d.created_at))
      ) UPDATE {s}.token_usage_rollup_user SET sealed_until = until WHERE user_id = usr;
      RETURN work;
    EXCEPTION WHEN numeric_value_out_of_range THEN
      IF native IS NULL THEN
        RETURN 0;  -- a sum past bigint: the user stays as it was, and the report says so from what it reads
      END IF;
      native := NULL;  -- more than it adds up: once more in SQL
      work := 0;
    END;
  END LOOP;
END
$code$;
$sql$), ('{s}.token_usage_rollup_meet({user_type}, uuid, integer)', $sql$
CREATE OR REPLACE FUNCTION {s}.token_usage_rollup_meet(usr {user_type}, now_epoch uuid, max_rows integer) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off AS $code$
-- Takes note of a user of whom nothing is rolled in this epoch, if he has rows enough: NULL then, and a visit may seal. Else what was folded, none.
DECLARE
  old_epoch uuid;
  work bigint := 0;
BEGIN
  IF NOT pg_try_advisory_xact_lock({user_lock}) THEN
    RETURN 0;
  END IF;
  SELECT r.epoch INTO old_epoch FROM {s}.token_usage_rollup_user r WHERE r.user_id = usr FOR UPDATE SKIP LOCKED;
  IF old_epoch <> now_epoch THEN
    -- Left by an epoch that is over: clear it away, some at a time; readers do not look at it.
    DELETE FROM {s}.token_usage_rollup r WHERE r.user_id = usr
       AND r.ctid = ANY (ARRAY(SELECT o.ctid FROM {s}.token_usage_rollup o WHERE o.user_id = usr LIMIT greatest(max_rows, 1)));
    GET DIAGNOSTICS work = ROW_COUNT;
    IF work < greatest(max_rows, 1) THEN
      DELETE FROM {s}.token_usage_rollup_month o WHERE o.user_id = usr;
      UPDATE {s}.token_usage_rollup_user SET epoch = now_epoch, sealed_until = '-infinity' WHERE user_id = usr;
    END IF;
  ELSIF old_epoch IS NULL AND (SELECT count(*) >= 256 FROM (SELECT FROM {ledger} t WHERE t.user_id = usr LIMIT 256) x)
     AND NOT EXISTS (SELECT FROM {s}.token_usage_rollup_user r WHERE r.user_id = usr)
     AND pg_try_advisory_xact_lock(hashtextextended('token_usage_rollup_user', {l}::regclass::oid::bigint)) THEN
    INSERT INTO {s}.token_usage_rollup_user VALUES (usr, now_epoch, '-infinity') ON CONFLICT DO NOTHING;
    work := NULL;
  END IF;
  RETURN work;
END
$code$;
$sql$), ('{s}.token_usage_rollup_native(text, text)', $sql$
CREATE OR REPLACE FUNCTION {s}.token_usage_rollup_native(function_name text, arguments text) RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $code$
-- A function of the native edition that does in C++ what is here in SQL, where there is one. Found anew each time, so that nothing of the
-- ledger names it. It is run with the owner's rights, so it must be code that only a superuser can have put there: C, a member of the extension.
BEGIN
  RETURN (SELECT f.pronamespace::regnamespace || '.' || quote_ident(f.proname)
    FROM pg_proc f
   WHERE f.proname = function_name::name AND oidvectortypes(f.proargtypes) = arguments
     AND f.prolang = 13  -- C, by its number as in pg_language.dat: a session's first visit has to plan this, and each table more takes a millisecond
     -- Not as a join, which without statistics, as in a new database, begins with all that belongs to the extension and takes ten times as long.
     AND (SELECT d.refobjid FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = f.oid AND d.objsubid = 0
             AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e')
         = (SELECT e.oid FROM pg_extension e WHERE e.extname = 'token_usage')
     AND has_schema_privilege(f.pronamespace, 'USAGE') AND has_function_privilege(f.oid, 'EXECUTE'));
END
$code$;
$sql$), ('{s}.token_usage_rollup_sweep()', $sql$
CREATE OR REPLACE FUNCTION {s}.token_usage_rollup_sweep() RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $code$
-- Sees to it that no delta waits for ever: drops those of users of whom nothing is rolled (nobody can begin
-- to roll one while we hold the lock), and folds those of the user whose delta lies first.
BEGIN
  IF {epoch} IS NULL THEN
    PERFORM {s}.token_usage_rollup_begin();
  END IF;
  IF pg_try_advisory_xact_lock(hashtextextended('token_usage_rollup_user', {l}::regclass::oid::bigint)) THEN
    DELETE FROM {s}.token_usage_delta WHERE ctid = ANY (ARRAY(
      SELECT d.ctid FROM (SELECT x.ctid, x.user_id FROM {s}.token_usage_delta x LIMIT 4096) d
       WHERE NOT EXISTS (SELECT FROM {s}.token_usage_rollup_user r WHERE r.user_id = d.user_id)));
  END IF;
  PERFORM {s}.token_usage_rollup_visit(d.user_id, 4096, 1)
     FROM (SELECT x.user_id FROM {s}.token_usage_delta x LIMIT 1) d;
END
$code$;
$sql$), ('{s}.token_usage_rollup_fold({user_type}, timestamptz, timestamptz, timestamptz, smallint)', $sql$
CREATE OR REPLACE FUNCTION {s}.token_usage_rollup_fold(usr {user_type}, month_at timestamptz, from_at timestamptz, to_at timestamptz, month_flags smallint)
RETURNS void LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off AS $code$
-- Folds the ledger's rows of [from_at, to_at) and the deltas of [month_at, to_at), all of one month, in one snapshot.
BEGIN
  IF month_flags = 0 THEN
    DELETE FROM {s}.token_usage_delta d WHERE d.user_id = usr AND d.created_at >= month_at AND d.created_at < to_at;
    RETURN;
  END IF;
  WITH gone AS (
    DELETE FROM {s}.token_usage_delta d WHERE d.user_id = usr AND d.created_at >= month_at AND d.created_at < to_at RETURNING d.*
  ), src AS (
    SELECT usr AS user_id, {row}, 1 AS sign, month_flags AS flags
      FROM {ledger} t WHERE t.user_id = usr AND t.created_at >= {from_at} AND t.created_at < {to_at}
    UNION ALL
    SELECT usr, d.created_at, d.agent, d.provider, d.model, d.prompt, d.completion, d.total, d.usd, d.rub, d.ms, d.sign, month_flags
      FROM gone d WHERE d.created_at < from_at AND d.sign <> 0
  ), {ctes}
  INSERT INTO {s}.token_usage_rollup AS r ({rollup_columns})
  SELECT * FROM rolled
{merge};
END
$code$;
$sql$)
$rollup$;
$token_usage$, '@extschema@', home);

  EXECUTE replace($token_usage$
-- token_usage_rebuild and token_usage_compact (section 4 of the contract): all of the work at once, which nobody needs for right answers.

-- The functions that a ledger carries, third part; templates for _token_usage_rollup_text(), one row each.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_rebuild_functions(OUT signature text, OUT definition text)
RETURNS SETOF record LANGUAGE sql IMMUTABLE AS $rollup$
VALUES ('{s}.token_usage_rollup_again({user_type})', $sql$
CREATE OR REPLACE FUNCTION {s}.token_usage_rollup_again(usr {user_type}) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_sort = off SET enable_nestloop = off SET work_mem = '1GB' SET jit = off AS $code$
-- Rebuilds the rollups of one user, or of all when usr is NULL, in bulk. Writers go on; visits pass by.
DECLARE
  wrote bigint := 0;
  n bigint;
  st record;
  mine bigint;
  top bigint;
  until timestamptz;
  month_at timestamptz;
  month_end timestamptz;
  from_at timestamptz;
  to_at timestamptz;
  began timestamptz := clock_timestamp();
  bulk text;
  done boolean := false;
  of_user text := CASE WHEN usr IS NULL THEN 'true' ELSE format('t.user_id = %L::{user_type}', usr) END;
  of_month text := CASE WHEN usr IS NULL THEN 'true' ELSE format('o.user_id = %L::{user_type}', usr) END;
  of_delta text := CASE WHEN usr IS NULL THEN 'true' ELSE format('d.user_id = %L::{user_type}', usr) END;
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'token_usage: token_usage_rebuild must be run at READ COMMITTED' USING ERRCODE = '25001';
  END IF;
  IF pg_trigger_depth() > 0 THEN
    RAISE EXCEPTION 'token_usage: token_usage_rebuild must not be called by a trigger' USING ERRCODE = '0A000';
  END IF;
  IF row_security_active({l}::regclass) THEN
    RAISE EXCEPTION 'token_usage: token_usage_rebuild must see every row, and row security is active for the owner of {ledger}'
      USING ERRCODE = '42501';
  END IF;
  LOCK TABLE {ledger} IN ACCESS SHARE MODE;
  PERFORM pg_advisory_xact_lock(hashtextextended('token_usage_rollup_epoch', {l}::regclass::oid::bigint));
  PERFORM pg_advisory_xact_lock(hashtextextended('token_usage_rollup_user', {l}::regclass::oid::bigint));
  IF NOT {s}.token_usage_rollup_begin() THEN
    RETURN 0;
  END IF;
  PERFORM pg_advisory_xact_lock({state_lock});
  SELECT * INTO st FROM {s}.token_usage_rollup_state s WHERE s.epoch = {epoch} FOR UPDATE;
  IF usr IS NULL THEN
    PERFORM pg_advisory_xact_lock(hashtextextended('token_usage_rollup_part', {l}::regclass::oid::bigint) # i) FROM generate_series(0, 63) i;
  ELSE
    PERFORM pg_advisory_xact_lock({user_lock});
  END IF;
  PERFORM FROM {s}.token_usage_rollup_user r WHERE usr IS NULL OR r.user_id = usr ORDER BY r.user_id FOR UPDATE;

  -- Raise the guard, and wait for whoever may have missed it; if that takes too long, stay below the old one.
  until := clock_timestamp();
  PERFORM {raise_guard until};
  BEGIN
    UPDATE {s}.token_usage_rollup_state s SET pending = until WHERE s.epoch = st.epoch;
  EXCEPTION WHEN division_by_zero THEN
    NULL;
  END;
  SELECT t.xmin::text::bigint INTO mine FROM {s}.token_usage_rollup_state t WHERE t.epoch = st.epoch;
  top := pg_snapshot_xmax(pg_current_snapshot())::text::bigint;
  mine := top + ((mine - top) % 4294967296 + 4294967296 + 2147483648) % 4294967296 - 2147483648;
  UPDATE {s}.token_usage_rollup_state s SET horizon = mine WHERE s.epoch = st.epoch;
  LOOP
    -- An aborted subtransaction ends an id later than `mine`, so that snapshots reach past it.
    BEGIN
      UPDATE {s}.token_usage_rollup_state s SET horizon = mine WHERE s.epoch = st.epoch;
      RAISE division_by_zero;
    EXCEPTION WHEN division_by_zero THEN
      NULL;
    END;
    IF {s}.token_usage_rollup_passed(mine) THEN
      UPDATE {s}.token_usage_rollup_state s SET confirmed = until, pending = until, horizon = NULL WHERE s.epoch = st.epoch;
      EXIT;
    END IF;
    IF clock_timestamp() > began + interval '10 seconds' THEN
      until := coalesce(st.confirmed, '-infinity');
      RAISE WARNING 'token_usage: an open transaction keeps rollups from going past %', until;
      EXIT;
    END IF;
    PERFORM pg_sleep(0.02);
  END LOOP;

  DELETE FROM {s}.token_usage_rollup_month o WHERE usr IS NULL OR o.user_id = usr;
  DELETE FROM {s}.token_usage_rollup_user r WHERE usr IS NULL OR r.user_id = usr;
  bulk := {s}.token_usage_rollup_native('_token_usage_rollup_bulk', 'text[], timestamp with time zone, bigint');
  IF bulk IS NOT NULL THEN
    BEGIN
      EXECUTE $bulk$
WITH gone AS (
  DELETE FROM {s}.token_usage_delta d WHERE d.created_at < $2 AND $bulk$ || of_delta || $bulk$
)
INSERT INTO {s}.token_usage_rollup ({rollup_columns})
SELECT * FROM $bulk$ || bulk || $bulk$($1::text[], $2::timestamptz, 400000000::bigint)
    AS m (user_id {user_type}, kind int2, bucket timestamptz, key1 text COLLATE "C", key2 text COLLATE "C", nulls int2, requests int8, prompt int8,
          completion int8, total int8, usd numeric, rub numeric, unpriced int8, ms_sum int8, ms_count int8)
$bulk$  USING ARRAY[
        $bulk$SELECT t.user_id::{user_type}, {bulk_row} FROM {ledger} t WHERE t.created_at < {$1} AND t.created_at > '-infinity' AND $bulk$ || of_user,
        $bulk$WITH month AS MATERIALIZED (SELECT z.i, z.b, {flags} AS flags FROM unnest($1, $2, $3) WITH ORDINALITY z (c, g, b, i))
              SELECT m.i, (m.flags | coalesce(b.flags, 0))::int2 FROM month m LEFT JOIN month b ON b.i = m.b$bulk$,
        $bulk$INSERT INTO {s}.token_usage_rollup_month (user_id, month, flags) SELECT * FROM unnest($1, $2, $3)$bulk$,
        $bulk$SELECT r.user_id, r.kind, r.bucket, r.key1, r.key2, r.nulls, r.requests, r.prompt, r.completion, r.total, r.usd, r.rub, r.unpriced, r.ms_sum,
                     r.ms_count, r.ctid FROM {s}.token_usage_rollup r WHERE r.user_id = $1 ORDER BY r.kind, r.bucket, r.key1, r.key2, r.nulls$bulk$,
        $bulk$DELETE FROM {s}.token_usage_rollup r WHERE r.ctid = ANY ($1)$bulk$,
        $bulk$DELETE FROM {s}.token_usage_rollup r WHERE r.user_id = ANY ($1)$bulk$], until;
      DELETE FROM {s}.token_usage_rollup r
       WHERE (usr IS NULL OR r.user_id = usr) AND NOT EXISTS (SELECT FROM {s}.token_usage_rollup_month o WHERE o.user_id = r.user_id);
      SELECT count(*) INTO wrote FROM {s}.token_usage_rollup r WHERE usr IS NULL OR r.user_id = usr;
      done := true;
    EXCEPTION WHEN numeric_value_out_of_range OR program_limit_exceeded OR out_of_memory THEN
      NULL;  -- more than it adds up: below is the same in SQL
    END;
  END IF;
  IF NOT done THEN
    DELETE FROM {s}.token_usage_rollup r WHERE usr IS NULL OR r.user_id = usr;
  END IF;
  -- No plan made for one statistic of an empty table must serve them all.
  month_at := '-infinity';
  WHILE NOT done LOOP
    IF usr IS NULL THEN
      SELECT min({at}) INTO month_at FROM {ledger} t WHERE t.created_at >= {month_at} AND t.created_at > '-infinity';
    ELSE
      SELECT min({at}) INTO month_at FROM {ledger} t WHERE t.user_id = usr AND t.created_at >= {month_at} AND t.created_at > '-infinity';
    END IF;
    EXIT WHEN month_at IS NULL OR month_at >= until;
    month_at := timezone('UTC', date_trunc('month', timezone('UTC', month_at)));
    month_end := timezone('UTC', timezone('UTC', month_at) + interval '1 month');
    from_at := month_at;
    to_at := least(month_end, until);
    EXECUTE format($bulk$
WITH groups AS (
  SELECT x.user_id, sum(x.n) FILTER (WHERE x.dim = 1) AS c, count(*) AS g
    FROM (SELECT q.user_id, grouping(q.model) AS dim, count(*) AS n
            FROM (SELECT t.user_id, {row} FROM {ledger} t WHERE t.created_at >= $1 AND t.created_at < $2 AND %1$s) q
           GROUP BY GROUPING SETS ((q.user_id, q.agent), (q.user_id, q.provider, q.model))) x
   GROUP BY 1
), chosen AS MATERIALIZED (
  SELECT k.user_id, k.flags FROM (SELECT user_id, {flags} | coalesce(b.flags, 0)::int2 AS flags FROM groups LEFT JOIN (
         SELECT o.user_id AS before_id, o.flags FROM {s}.token_usage_rollup_month o WHERE $3 AND o.month = $4) b ON b.before_id = user_id) k WHERE k.flags <> 0 AND k.user_id IS NOT NULL
), gone AS (
  DELETE FROM {s}.token_usage_delta d WHERE d.created_at >= $5 AND d.created_at < $6 AND %2$s
), src AS (
  SELECT t.user_id, {row}, k.flags FROM {ledger} t JOIN chosen k ON k.user_id = t.user_id
   WHERE t.created_at >= $1 AND t.created_at < $2 AND %1$s
), {unsigned_ctes}, marked AS (
  INSERT INTO {s}.token_usage_rollup_month (user_id, month, flags) SELECT k.user_id, $5, k.flags FROM chosen k
)
INSERT INTO {s}.token_usage_rollup ({rollup_columns})
SELECT * FROM rolled ORDER BY 1, 2, 3, 4, 5, 6
$bulk$, of_user, of_delta)
      USING {from_at}, {to_at}, to_at < month_end,
            timezone('UTC', timezone('UTC', month_at) - interval '1 month'), month_at, to_at;
    GET DIAGNOSTICS n = ROW_COUNT;
    wrote := wrote + n;
    EXIT WHEN month_end >= until;
    month_at := month_end;
  END LOOP;
  -- Also those whose months are all too thin to be rolled: a visit would read all that they have before it found that.
  EXECUTE $bulk$
INSERT INTO {s}.token_usage_rollup_user (user_id, epoch, sealed_until)
SELECT o.user_id, $2, $1 FROM {s}.token_usage_rollup_month o WHERE $bulk$ || of_month || $bulk$
 UNION
SELECT t.user_id::{user_type}, $2, $1 FROM {ledger} t WHERE t.created_at < {$1} AND t.user_id IS NOT NULL AND $bulk$ || of_user || $bulk$
 GROUP BY t.user_id HAVING count(*) >= 256
$bulk$ USING until, st.epoch;
  RETURN wrote;
END
$code$;
$sql$)
$rollup$;

-- The ledger's own function of that name, checked: it must run with the rights of the ledger's owner, whoever
-- calls it, so that nobody is led to run another's code with rights of their own.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_own(ledger oid, function_name text)
RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $rollup$
  SELECT format('%I.%I', n.nspname, f.proname)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_proc f ON f.pronamespace = n.oid
   WHERE c.oid = ledger AND f.proname = function_name AND f.proowner = c.relowner AND f.prosecdef
     AND f.proconfig[1] = 'search_path=pg_catalog, pg_temp'
$rollup$;

-- Rebuilds the rollups of one user or (NULL) of everyone; how many rollup rows were written.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_rebuild(ledger oid, user_id text)
RETURNS bigint LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $rollup$
DECLARE
  again text := @extschema@._token_usage_rollup_own(ledger, 'token_usage_rollup_again');
  wrote bigint;
BEGIN
  IF again IS NULL THEN
    RETURN 0;  -- a ledger without rollups
  END IF;
  EXECUTE @extschema@._token_usage_rollup_text(ledger, format('SELECT %s($1::{user_type})', again)) INTO wrote USING user_id;
  RETURN wrote;
END
$rollup$;

-- Folds what waits to be folded, for every user, until about max_rows rows are folded (NULL: all).
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_compact(ledger oid, max_rows bigint)
RETURNS bigint LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $rollup$
DECLARE
  space text := (SELECT quote_ident(n.nspname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ledger);
  visit text := @extschema@._token_usage_rollup_own(ledger, 'token_usage_rollup_visit');
  sweep text := @extschema@._token_usage_rollup_own(ledger, 'token_usage_rollup_sweep');
  folded bigint := 0;
  n bigint;
  usr text;
  look text;
  seen text;
  before text;
BEGIN
  -- Not from within a trigger, nor from a statement that writes to the ledger itself: rows are there then whose deltas are not yet.
  -- Not as a replica: what such a session writes to the derived tables is taken for the publisher's and left out.
  IF visit IS NULL OR sweep IS NULL OR pg_trigger_depth() > 0 OR current_setting('session_replication_role') = 'replica' OR current_setting('transaction_isolation') <> 'read committed'
     OR EXISTS (SELECT FROM pg_locks k WHERE k.pid = pg_backend_pid() AND k.locktype = 'relation' AND k.mode = 'RowExclusiveLock'
                   AND k.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
                   AND k.relation IN (SELECT ledger UNION ALL SELECT p.relid FROM pg_partition_tree(ledger) p)) THEN
    RETURN 0;
  END IF;
  EXECUTE format('LOCK TABLE %s IN ACCESS SHARE MODE', ledger::regclass);
  EXECUTE format('SELECT %s()', sweep);
  visit := @extschema@._token_usage_rollup_text(ledger, format('SELECT %s($1::{user_type}, $2, 2)', visit));
  look := @extschema@._token_usage_rollup_text(ledger, $sql$
    SELECT concat_ws(' ', x.user_id, r.epoch, r.sealed_until, (SELECT count(*) FROM {s}.token_usage_delta d WHERE d.user_id = x.user_id),
                     CASE WHEN r.epoch <> {epoch} THEN (SELECT count(*) FROM {s}.token_usage_rollup o WHERE o.user_id = x.user_id) END)
      FROM (SELECT $1::{user_type} AS user_id) x LEFT JOIN {s}.token_usage_rollup_user r ON r.user_id = x.user_id$sql$);
  FOR usr IN EXECUTE @extschema@._token_usage_rollup_text(ledger, $sql$
    WITH RECURSIVE person AS (
      (SELECT t.user_id FROM {ledger} t ORDER BY t.user_id LIMIT 1)
      UNION ALL
      SELECT (SELECT t.user_id FROM {ledger} t WHERE t.user_id > p.user_id ORDER BY t.user_id LIMIT 1) FROM person p WHERE p.user_id IS NOT NULL
    ) SELECT p.user_id::text FROM person p WHERE p.user_id IS NOT NULL$sql$) LOOP
    LOOP
      EXECUTE visit INTO n USING usr, least(coalesce(max_rows - folded, 1000000), 1000000)::integer;
      folded := folded + n;
      EXIT WHEN n = 0 OR folded >= max_rows;
      -- A visit that folded has moved something: the seal, or the number of deltas, or of what an epoch that is over left.
      before := seen;
      EXECUTE look INTO seen USING usr;
      EXIT WHEN seen = before;
    END LOOP;
    EXIT WHEN folded >= max_rows;
  END LOOP;
  RETURN folded;
END
$rollup$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_rebuild(path name[], only_user text)
RETURNS bigint LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $rollup$
DECLARE
  ledger_oid oid := @extschema@._token_usage_ledger(path);
BEGIN
  IF only_user IS NOT NULL THEN
    only_user := @extschema@._token_usage_user(ledger_oid, only_user);
  END IF;
  RETURN @extschema@._token_usage_rollup_rebuild(ledger_oid, only_user);
END
$rollup$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_compact(path name[], max_rows bigint)
RETURNS bigint LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $rollup$
BEGIN
  IF max_rows IS NOT NULL THEN
    PERFORM @extschema@._token_usage_check_range('max_rows', max_rows, 1, 9223372036854775807);
  END IF;
  RETURN @extschema@._token_usage_rollup_compact(@extschema@._token_usage_ledger(path), max_rows);
END
$rollup$;

-- Folds what waits to be folded, all of it or about max_rows rows; returns how many. Right answers never need it.
CREATE OR REPLACE FUNCTION @extschema@.token_usage_compact(max_rows bigint DEFAULT NULL)
RETURNS bigint LANGUAGE sql VOLATILE AS $rollup$
  SELECT @extschema@._token_usage_compact(pg_catalog.current_schemas(false), max_rows)
$rollup$;
$token_usage$, '@extschema@', home);

  EXECUTE replace($token_usage$
-- token_usage_verify (section 4 of the contract), and what users call of it and of rebuild, once for each type that a user_id may have.

-- Compares what rollups and deltas say with a fresh aggregation of the ledger, for one user or (NULL) for all:
-- one row per difference. The deltas are taken off the fresh side, so that the stored side is what is on disk.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_verify(ledger oid, only_user text)
RETURNS TABLE (user_id text, bucket text, dimension text, measure text, ledger_value text, rollup_value text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $rollup$
BEGIN
  IF NOT @extschema@._token_usage_rollup_readable(ledger) OR NOT @extschema@._token_usage_rollup_possible(ledger) THEN
    RETURN;  -- reports read the ledger itself
  END IF;
  RETURN QUERY EXECUTE @extschema@._token_usage_rollup_text(ledger, $sql$
WITH person AS MATERIALIZED (
  SELECT u.user_id, u.sealed_until FROM {s}.token_usage_rollup_user u WHERE u.epoch = {epoch} AND ($1 IS NULL OR u.user_id = $1::{user_type})
), src AS (
  SELECT x.user_id, x.created_at, x.agent, x.provider, x.model, x.prompt, x.completion, x.total, x.usd, x.rub, x.ms, x.sign, o.flags
    FROM (SELECT t.user_id::{user_type} AS user_id, {row}, 1 AS sign FROM {ledger} t WHERE $1 IS NULL OR t.user_id = $1::{user_type}
          UNION ALL
          SELECT d.user_id, d.created_at, d.agent, d.provider, d.model, d.prompt, d.completion, d.total, d.usd, d.rub, d.ms, -d.sign
            FROM {s}.token_usage_delta d WHERE $1 IS NULL OR d.user_id = $1::{user_type}) x
    JOIN person p ON p.user_id = x.user_id AND x.created_at < p.sealed_until AND isfinite(x.created_at)
    JOIN {s}.token_usage_rollup_month o ON o.user_id = x.user_id AND o.month = timezone('UTC', date_trunc('month', timezone('UTC', x.created_at)))
), {ctes}, stored AS (
  SELECT r.* FROM {s}.token_usage_rollup r JOIN person p ON p.user_id = r.user_id
    JOIN {s}.token_usage_rollup_month o ON o.user_id = r.user_id AND o.month = timezone('UTC', date_trunc('month', timezone('UTC', r.bucket)))
   WHERE o.flags & (CASE r.kind / 10 WHEN 3 THEN 1 WHEN 2 THEN 4 ELSE 16 END * CASE r.kind % 10 WHEN 0 THEN 1 ELSE 2 END) <> 0
     AND ($1 IS NULL OR r.user_id = $1::{user_type})
)
SELECT coalesce(a.user_id, b.user_id)::text,
       to_char(timezone('UTC', coalesce(a.bucket, b.bucket)), CASE coalesce(a.kind, b.kind) / 10 WHEN 3 THEN 'YYYY-MM' WHEN 2 THEN 'YYYY-MM-DD' ELSE 'YYYY-MM-DD"T"HH24:MI' END),
       CASE coalesce(a.kind, b.kind) % 10 WHEN 0 THEN 'none' WHEN 1 THEN 'agent ' ELSE 'model ' END
         || CASE WHEN coalesce(a.kind, b.kind) % 10 > 0 THEN coalesce(a.key1, b.key1) ELSE '' END
         || CASE WHEN coalesce(a.kind, b.kind) % 10 = 2 THEN ' ' || coalesce(a.key2, b.key2) ELSE '' END,
       m.measure, m.ledger_value::text, m.rollup_value::text
  FROM (SELECT * FROM rolled WHERE requests <> 0 OR prompt <> 0 OR completion <> 0 OR total <> 0 OR usd <> 0 OR rub <> 0
                                OR unpriced <> 0 OR ms_sum <> 0 OR ms_count <> 0) a
  FULL JOIN (SELECT * FROM stored WHERE requests <> 0 OR prompt <> 0 OR completion <> 0 OR total <> 0 OR usd <> 0 OR rub <> 0
                                OR unpriced <> 0 OR ms_sum <> 0 OR ms_count <> 0) b
    ON a.user_id = b.user_id AND a.kind = b.kind AND a.bucket = b.bucket AND a.key1 = b.key1 AND a.key2 = b.key2 AND a.nulls = b.nulls
 CROSS JOIN LATERAL (VALUES ('requests_count', coalesce(a.requests, 0)::numeric, coalesce(b.requests, 0)::numeric),
   ('prompt_tokens', coalesce(a.prompt, 0), coalesce(b.prompt, 0)), ('completion_tokens', coalesce(a.completion, 0), coalesce(b.completion, 0)),
   ('total_tokens', coalesce(a.total, 0), coalesce(b.total, 0)), ('cost_usd', coalesce(a.usd, 0), coalesce(b.usd, 0)),
   ('cost_rub', coalesce(a.rub, 0), coalesce(b.rub, 0)), ('unpriced_count', coalesce(a.unpriced, 0), coalesce(b.unpriced, 0)),
   ('execution_time_ms', coalesce(a.ms_sum, 0), coalesce(b.ms_sum, 0)), ('execution_time_count', coalesce(a.ms_count, 0), coalesce(b.ms_count, 0)))
   m (measure, ledger_value, rollup_value)
 WHERE m.ledger_value <> m.rollup_value
 ORDER BY 1, 2, 3, 4$sql$) USING only_user;
END
$rollup$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_verify(path name[], only_user text)
RETURNS TABLE (user_id text, bucket text, dimension text, measure text, ledger text, rollup text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $rollup$
DECLARE
  ledger_oid oid := @extschema@._token_usage_ledger(path);
BEGIN
  IF only_user IS NOT NULL THEN
    only_user := @extschema@._token_usage_user(ledger_oid, only_user);
  END IF;
  RETURN QUERY SELECT * FROM @extschema@._token_usage_rollup_verify(ledger_oid, only_user);
END
$rollup$;

DO $overloads$
DECLARE
  user_type text;
BEGIN
  FOREACH user_type IN ARRAY ARRAY['bigint', 'text', 'uuid'] LOOP
    EXECUTE pg_catalog.format($statement$
      CREATE OR REPLACE FUNCTION @extschema@.token_usage_verify(only_user %1$s%2$s)
      RETURNS TABLE (user_id text, bucket text, dimension text, measure text, ledger text, rollup text) LANGUAGE sql STABLE AS $function$
        SELECT * FROM @extschema@._token_usage_verify(pg_catalog.current_schemas(false), $1::pg_catalog.text)
      $function$;
      CREATE OR REPLACE FUNCTION @extschema@.token_usage_rebuild(user_id %1$s%2$s)
      RETURNS bigint LANGUAGE sql VOLATILE AS $function$
        SELECT @extschema@._token_usage_rebuild(pg_catalog.current_schemas(false), $1::pg_catalog.text)
      $function$;
    $statement$, user_type, CASE user_type WHEN 'text' THEN ' DEFAULT NULL' ELSE '' END);
  END LOOP;
END
$overloads$;
$token_usage$, '@extschema@', home);

  EXECUTE replace($token_usage$
-- The text of a page of token_usage_detailed. It depends on the ledger's column types and is made here for both editions: the native
-- one keeps its plan (page.cpp), the portable one has it in a function or runs it with EXECUTE (page_portable.sql).

-- The condition of a list of requests. Parameters: $1 text, the user; $2 text, the agent; $3 and $4 timestamptz, first and last instant.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_list_condition(
  of_user text, of_agent text, bound text, by_agent boolean, by_start boolean, by_end boolean)
RETURNS text LANGUAGE plpgsql IMMUTABLE AS $function$
BEGIN
  RETURN concat(of_user,
    ' AND t.created_at OPERATOR(pg_catalog.>) ''-infinity'' AND t.created_at OPERATOR(pg_catalog.<) ''infinity''',
    CASE WHEN by_agent THEN ' AND ' || of_agent END,
    CASE WHEN by_start THEN ' AND t.created_at OPERATOR(pg_catalog.>=) ' || format(bound, '$3') END,
    CASE WHEN by_end THEN ' AND t.created_at OPERATOR(pg_catalog.<=) ' || format(bound, '$4') END);
END
$function$;

-- The query of a page. Further parameters: $5 timestamptz and $6 text, the row behind which it starts (where by_cursor); $7 and $8 bigint,
-- limit and offset. A page by cursor is one stretch of an index, however deep it is. The outer query computes what only the rows of the
-- page need.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_page_sql(
  ledger oid, by_agent boolean, by_start boolean, by_end boolean, by_cursor boolean)
RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  l record := @extschema@._token_usage_layout(ledger);
BEGIN
  RETURN format(
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
    @extschema@._token_usage_list_condition(l.of_user, l.of_agent, l.bound, by_agent, by_start, by_end),
    CASE WHEN by_cursor THEN
      format(' AND (t.created_at, %s) OPERATOR(pg_catalog.<) (%s, $6::%s)', l.id, format(l.bound, '$5'), l.id_type) END,
    l.id);
END
$function$;
$token_usage$, '@extschema@', home);

  EXECUTE replace($token_usage$
-- The portable twin of pg_ext/page.cpp.

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

-- The cursor of a row, whose form is told in core/cursor.h: Unix microseconds, exactly (a float holds whole seconds exactly, and the
-- microseconds within one; numeric is slower), and the key. In SQL, so that the planner puts it into the query of a page, which runs
-- under the caller's search_path: all names and operators are qualified.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_cursor(created_at timestamptz, id text)
RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS $function$
  SELECT pg_catalog.encode(pg_catalog.convert_to(pg_catalog.concat('1|',
    pg_catalog.date_part('epoch', pg_catalog.date_trunc('second', pg_catalog.timezone('UTC', created_at)))::pg_catalog.int8
      OPERATOR(pg_catalog.*) 1000000::pg_catalog.int8 OPERATOR(pg_catalog.+)
    pg_catalog.mod(pg_catalog.date_part('microseconds', pg_catalog.timezone('UTC', created_at))::pg_catalog.int8, 1000000::pg_catalog.int8),
    '|', id), 'UTF8'), 'hex')
$function$;

-- _token_usage_page_rows where no function is kept for the ledger, or where it does not fit any more, or where the dates count.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_page_anew(
  ledger oid, user_id text, agent text, start_date timestamptz, end_date timestamptz, behind_at timestamptz, behind_id text,
  row_limit bigint, row_offset bigint)
RETURNS TABLE (id text, created_at timestamptz, agent_id text, ai_provider text, ai_model text, prompt_tokens bigint,
  completion_tokens bigint, total_tokens bigint, cost_usd numeric, cost_rub numeric, execution_time_ms numeric,
  platform text, content_type text, task_type text, content_id text, workflow_id text, request_id text, endpoint text,
  cursor text)
LANGUAGE plpgsql STABLE AS $function$
BEGIN
  RETURN QUERY EXECUTE @extschema@._token_usage_page_sql(
      ledger, agent IS NOT NULL, start_date IS NOT NULL, end_date IS NOT NULL, behind_at IS NOT NULL)
    USING user_id, agent, start_date, end_date, behind_at, behind_id, row_limit, row_offset;
END
$function$;

-- The rows of a page, at most row_limit, as _token_usage_page_sql() selects them.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_page_rows(
  ledger oid, user_id text, agent text, start_date timestamptz, end_date timestamptz, behind_at timestamptz, behind_id text,
  row_limit bigint, row_offset bigint)
RETURNS TABLE (id text, created_at timestamptz, agent_id text, ai_provider text, ai_model text, prompt_tokens bigint,
  completion_tokens bigint, total_tokens bigint, cost_usd numeric, cost_rub numeric, execution_time_ms numeric,
  platform text, content_type text, task_type text, content_id text, workflow_id text, request_id text, endpoint text,
  cursor text)
LANGUAGE plpgsql STABLE AS $function$
DECLARE
  kept text;
BEGIN
  IF start_date IS NULL AND end_date IS NULL AND NOT row_security_active(ledger) THEN
    IF ledger = to_regclass('@extschema@.token_usage') AND has_function_privilege('@extschema@._token_usage_kept_page_home(text, text, timestamptz, timestamptz, '
      'timestamptz, text, bigint, bigint, oid, text[])'::regprocedure, 'EXECUTE') THEN
      RETURN QUERY SELECT p.* FROM @extschema@._token_usage_kept_page_home(user_id, agent, start_date, end_date, behind_at, behind_id, row_limit, row_offset,
        ledger, ARRAY[current_setting('enable_seqscan'), current_setting('seq_page_cost'), current_setting('random_page_cost')]) AS p;
      RETURN;
    END IF;
    kept := @extschema@._token_usage_kept(ledger, 'page'::text);
    IF kept IS NOT NULL THEN
      RETURN QUERY EXECUTE concat('SELECT p.* FROM ', kept, '($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) AS p')
        USING user_id, agent, start_date, end_date, behind_at, behind_id, row_limit, row_offset, ledger,
              ARRAY[current_setting('enable_seqscan'), current_setting('seq_page_cost'), current_setting('random_page_cost')];
      RETURN;
    END IF;
  END IF;
  RETURN QUERY SELECT p.* FROM @extschema@._token_usage_page_anew(
    ledger, user_id, agent, start_date, end_date, behind_at, behind_id, row_limit, row_offset) AS p;
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
-- The portable twin of pg_ext/rollup_pieces.cpp.

-- A range of a report's bounds, cut into pieces: tier 3 whole months, 2 whole days, 1 whole hours (half-hours
-- where the report has no groups, for zones of :30) from the rollup, 0 from the ledger. Bounds and results are instants;
-- buckets are UTC. A rolled bucket that sealed_until cuts holds what lies before it, so it may serve a piece that reaches sealed_until.
-- months: the rolled months in order; flags: what is rolled of each (see _token_usage_rollup_flags).
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_pieces(
  bounds timestamptz[], sealed_until timestamptz, months timestamptz[], flags smallint[], groups boolean,
  OUT tier integer, OUT lo timestamptz, OUT hi timestamptz)
RETURNS SETOF record LANGUAGE plpgsql IMMUTABLE ROWS 4 SET search_path = pg_catalog, pg_temp AS $rollup$
DECLARE
  month_bit integer := CASE WHEN groups THEN 2 ELSE 1 END;
  day_bit integer := CASE WHEN groups THEN 8 ELSE 4 END;
  hour_bit integer := CASE WHEN groups THEN 32 ELSE 16 END;
  n integer := cardinality(bounds);
  last timestamp;
  sealed timestamp;
  pos timestamp;
  stop timestamp;
  bound timestamp;
  limit_ timestamp;
  month timestamp;
  month_end timestamp;
  piece integer;
  have integer;
  have_lo timestamp;
  unit_start timestamp;
  unit_end timestamp;
  half_hour constant interval := '30 minutes';
  f integer;
  i integer := 2;
  m integer;
BEGIN
  IF sealed_until IS NULL OR coalesce(cardinality(months), 0) = 0 OR bounds[1] >= sealed_until OR bounds[n] <= months[1] THEN
    tier := 0;
    lo := bounds[1];
    hi := bounds[n];
    RETURN NEXT;
    RETURN;
  END IF;
  last := timezone('UTC', bounds[n]);
  sealed := timezone('UTC', sealed_until);
  pos := timezone('UTC', bounds[1]);
  have_lo := pos;
  bound := timezone('UTC', bounds[2]);
  m := greatest(width_bucket(bounds[1], months), 1);
  month := timezone('UTC', months[m]);
  month_end := month + interval '1 month';
  f := flags[m];
  WHILE pos < last LOOP
    WHILE bound <= pos LOOP
      i := i + 1;
      bound := timezone('UTC', bounds[i]);
    END LOOP;
    WHILE month IS NOT NULL AND month_end <= pos LOOP
      m := m + 1;
      month := timezone('UTC', months[m]);
      month_end := month + interval '1 month';
      f := flags[m];
    END LOOP;
    piece := 0;
    IF month IS NULL OR pos >= sealed THEN
      stop := last;
    ELSIF pos < month THEN
      stop := least(month, last);
    ELSE
      -- What lies before sealed_until is the whole of its bucket.
      stop := CASE WHEN bound >= sealed THEN sealed ELSE bound END;
      IF f & month_bit <> 0 AND pos = month AND (stop >= month_end OR stop = sealed) THEN
        piece := 3;
        limit_ := stop;
        stop := least(month_end, stop);
        -- Here and below: what follows and is as whole is gone through without looking at everything again.
        WHILE stop = month_end AND stop < limit_ AND flags[m + 1] & month_bit <> 0 AND timezone('UTC', months[m + 1]) = month_end
              AND (limit_ >= month_end + interval '1 month' OR limit_ = sealed) LOOP
          m := m + 1;
          month := month_end;
          month_end := month_end + interval '1 month';
          f := flags[m];
          stop := least(month_end, limit_);
        END LOOP;
      ELSE
        stop := least(month_end, stop);
        IF f & day_bit <> 0 AND pos = date_trunc('day', pos)
           AND (stop = sealed OR date_trunc('day', stop) > pos) THEN
          piece := 2;
          IF stop <> sealed THEN
            stop := date_trunc('day', stop);
          END IF;
          limit_ := least(month_end, sealed, last);
          WHILE stop = bound AND stop < limit_ LOOP
            i := i + 1;
            bound := timezone('UTC', bounds[i]);
            EXIT WHEN date_trunc('day', least(bound, limit_)) <= stop;
            stop := CASE WHEN bound >= limit_ AND limit_ = sealed THEN sealed ELSE date_trunc('day', least(bound, limit_)) END;
          END LOOP;
        ELSE
          IF f & day_bit <> 0 THEN
            stop := least(stop, date_trunc('day', pos) + interval '1 day');
          END IF;
          IF f & hour_bit <> 0 THEN
            unit_start := date_trunc('hour', pos);
            IF NOT groups AND pos >= unit_start + half_hour THEN
              unit_start := unit_start + half_hour;
            END IF;
            unit_end := date_trunc('hour', stop);
            IF NOT groups AND stop >= unit_end + half_hour THEN
              unit_end := unit_end + half_hour;
            END IF;
            IF pos = unit_start AND (stop = sealed OR unit_end > pos) THEN
              piece := 1;
              IF stop <> sealed THEN
                stop := unit_end;
              END IF;
            ELSE
              stop := least(stop, unit_start + CASE WHEN groups THEN interval '1 hour' ELSE half_hour END);
            END IF;
          END IF;
        END IF;
      END IF;
    END IF;
    IF piece IS DISTINCT FROM have THEN
      IF have IS NOT NULL THEN
        tier := have;
        lo := timezone('UTC', have_lo);
        hi := timezone('UTC', pos);
        RETURN NEXT;
      END IF;
      have := piece;
      have_lo := pos;
    END IF;
    pos := stop;
  END LOOP;
  tier := have;
  lo := timezone('UTC', have_lo);
  hi := bounds[n];
  RETURN NEXT;
END
$rollup$;
$token_usage$, '@extschema@', home);

  EXECUTE replace($token_usage$
-- The portable twin of pg_ext/sums.cpp.

-- Runs a query of _token_usage_rollup_read_sql. Planned by the number of rows alone: by the cost of pages, an index on created_at alone
-- may seem as good as one that picks the user too, since the planner does not know the bounds.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_sums(
  query text, user_id text, agent text, bounds timestamptz[], tiers integer[], starts timestamptz[], ends timestamptz[],
  sealed_until timestamptz)
RETURNS TABLE (bucket integer, key1 text, key2 text, requests_count bigint, prompt_tokens numeric,
  completion_tokens numeric, total_tokens numeric, cost_usd numeric, cost_rub numeric, unpriced_count bigint,
  execution_ms_sum numeric, execution_ms_count bigint)
LANGUAGE plpgsql STABLE SET seq_page_cost = 0 SET random_page_cost = 0 AS $function$
BEGIN
  RETURN QUERY EXECUTE query USING user_id, agent, bounds, tiers, starts, ends, sealed_until;
END
$function$;

-- _token_usage_sums where no function is kept for the ledger, or where it does not fit any more.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_sums_anew(
  ledger oid, user_id text, agent text, bounds timestamptz[], dimension text)
RETURNS TABLE (bucket integer, key1 text, key2 text, requests_count bigint, prompt_tokens numeric,
  completion_tokens numeric, total_tokens numeric, cost_usd numeric, cost_rub numeric, unpriced_count bigint,
  execution_ms_sum numeric, execution_ms_count bigint)
LANGUAGE plpgsql STABLE SET jit = off AS $function$
DECLARE
  query text;
  sealed_until timestamptz;
  months timestamptz[];
  flags smallint[];
  tiers integer[];
  starts timestamptz[];
  ends timestamptz[];
BEGIN
  IF (agent IS NULL OR dimension IN ('none', 'agent')) AND @extschema@._token_usage_rollup_readable(ledger) THEN
    query := @extschema@._token_usage_rollup_read_sql(ledger, 'state'::text, dimension, agent IS NOT NULL);
    IF query IS NOT NULL THEN
      EXECUTE query INTO sealed_until, months, flags USING user_id, agent, bounds;
    END IF;
    IF sealed_until IS NOT NULL THEN
      SELECT array_agg(p.tier), array_agg(p.lo), array_agg(p.hi) INTO tiers, starts, ends
        FROM @extschema@._token_usage_rollup_pieces(bounds, sealed_until, months, flags, agent IS NOT NULL OR dimension <> 'none') AS p;
      RETURN QUERY SELECT s.* FROM @extschema@._token_usage_rollup_sums(@extschema@._token_usage_rollup_read_sql(ledger,
        CASE WHEN 0 < ALL (tiers) THEN 'rollup' WHEN 0 = ALL (tiers) THEN 'ledger' ELSE 'both' END, dimension, agent IS NOT NULL),
        user_id, agent, bounds, tiers, starts, ends, sealed_until) AS s;
      RETURN;
    END IF;
  END IF;
  RETURN QUERY EXECUTE @extschema@._token_usage_sums_sql(ledger, dimension, agent IS NOT NULL)
    USING user_id, agent, bounds;
END
$function$;

-- The same where row security is active for the caller: under his search path, from the ledger alone.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_sums_policed(
  path name[], ledger oid, user_id text, agent text, bounds timestamptz[], dimension text)
RETURNS TABLE (bucket integer, key1 text, key2 text, requests_count bigint, prompt_tokens numeric,
  completion_tokens numeric, total_tokens numeric, cost_usd numeric, cost_rub numeric, unpriced_count bigint,
  execution_ms_sum numeric, execution_ms_count bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  query text := @extschema@._token_usage_sums_sql(ledger, dimension, agent IS NOT NULL);
BEGIN
  -- Nothing but the query runs under that path.
  PERFORM @extschema@._token_usage_caller_path(path);
  RETURN QUERY EXECUTE query USING user_id, agent, bounds;
END
$function$;

-- The sums of the ledger rows of `user_id` (as _token_usage_user gives it), and of `agent` where it is not NULL: one row for each
-- stretch bounds[bucket] <= created_at < bounds[bucket + 1] and group that has rows. dimension is none, agent or model. It is what
-- reports call, under the path that their declarations set.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_ledger_sums(
  path name[], ledger oid, user_id text, agent text, bounds timestamptz[], dimension text)
RETURNS TABLE (bucket integer, key1 text, key2 text, requests_count bigint, prompt_tokens numeric,
  completion_tokens numeric, total_tokens numeric, cost_usd numeric, cost_rub numeric, unpriced_count bigint,
  execution_ms_sum numeric, execution_ms_count bigint)
LANGUAGE plpgsql STABLE ROWS 100 AS $function$
DECLARE
  kept text;
BEGIN
  IF row_security_active(ledger) THEN
    RETURN QUERY SELECT s.* FROM @extschema@._token_usage_sums_policed(path, ledger, user_id, agent, bounds, dimension) AS s;
    RETURN;
  END IF;
  IF agent IS NULL OR dimension IN ('none', 'agent') THEN
    -- Written out, since what EXECUTE runs is planned for each call.
    IF ledger = to_regclass('@extschema@.token_usage') AND has_function_privilege('@extschema@._token_usage_kept_sums_home(text, text, timestamptz[], integer[], '
      'timestamptz[], timestamptz[], timestamptz, text, oid, text[])'::regprocedure, 'EXECUTE') THEN
      RETURN QUERY SELECT s.* FROM @extschema@._token_usage_kept_sums_home(user_id, agent, bounds, NULL::integer[], NULL::timestamptz[],
        NULL::timestamptz[], NULL::timestamptz, dimension, ledger,
        ARRAY[current_setting('enable_seqscan'), current_setting('seq_page_cost'), current_setting('random_page_cost')]) AS s;
      RETURN;
    END IF;
    kept := @extschema@._token_usage_kept(ledger, 'sums'::text);
    IF kept IS NOT NULL THEN
      RETURN QUERY EXECUTE concat('SELECT s.* FROM ', kept, '($1, $2, $3, NULL::pg_catalog.int4[], NULL::pg_catalog.timestamptz[], '
        'NULL::pg_catalog.timestamptz[], NULL::pg_catalog.timestamptz, $4, $5, $6) AS s')
        USING user_id, agent, bounds, dimension, ledger,
              ARRAY[current_setting('enable_seqscan'), current_setting('seq_page_cost'), current_setting('random_page_cost')];
      RETURN;
    END IF;
  END IF;
  RETURN QUERY SELECT s.* FROM @extschema@._token_usage_sums_anew(ledger, user_id, agent, bounds, dimension) AS s;
END
$function$;

-- The same for who asks without a path of a caller.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_sums(
  ledger oid, user_id text, agent text, bounds timestamptz[], dimension text)
RETURNS TABLE (bucket integer, key1 text, key2 text, requests_count bigint, prompt_tokens numeric,
  completion_tokens numeric, total_tokens numeric, cost_usd numeric, cost_rub numeric, unpriced_count bigint,
  execution_ms_sum numeric, execution_ms_count bigint)
LANGUAGE sql STABLE ROWS 100 AS $function$
  SELECT s.* FROM @extschema@._token_usage_ledger_sums(pg_catalog.current_schemas(false), ledger, user_id, agent, bounds, dimension) AS s
$function$;
$token_usage$, '@extschema@', home);

  EXECUTE replace($token_usage$
-- The portable twin of pg_ext/kept_query.cpp: functions whose text is made for one ledger, so that PL/pgSQL keeps the plans of their
-- queries for the session. What reports run with EXECUTE is parsed and planned for each call, which takes longer than to run it.
--
-- token_usage_migrate() makes them beside the functions here and not beside the ledger, and a report calls one only where it belongs to
-- the owner of the functions here: reports run with the caller's rights, and who owns a ledger must not get his code run by others.
-- Those of a ledger that stands in the schema of the functions here have names that are known, and are there from the installation on, so
-- that nobody else can have made them and they are called like any other. The names of the others tell the ledger's schema. Their comment
-- tells the columns that the text was made for, and they compare it themselves, so that no query reads a column whose type is another by
-- now, which could call any function by a cast. Names and comments mean the same after a restore. Where none fits, reports make their
-- queries themselves, as they do where row security is active for the caller.

-- One for each kind and ledger: sums or page.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_kept_name(kind text, schema_name name)
RETURNS name LANGUAGE sql STABLE AS $function$
  SELECT pg_catalog.concat('_token_usage_kept_', kind, '_', CASE
    WHEN pg_catalog.quote_ident(schema_name::pg_catalog.text) OPERATOR(pg_catalog.=) '@extschema@' THEN 'home'
    ELSE pg_catalog."left"(pg_catalog.encode(pg_catalog.sha256(
      pg_catalog.convert_to(schema_name::pg_catalog.text, 'UTF8')), 'hex'), 32) END)::pg_catalog.name
$function$;

-- What the text of a function was made for. NULL where a column has a type or a collation that the server did not bring itself: only the
-- numbers of its own mean the same in every database, and nobody but a superuser can give those types other casts.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_kept_comment(ledger oid, schema_name name, persistence "char")
RETURNS text LANGUAGE plpgsql STABLE AS $function$
BEGIN
  RETURN (
    SELECT concat('token_usage, portable edition 1.0.0, for ', schema_name, ' ', persistence, ': ',
                  string_agg(a.attname || CASE WHEN a.attnotnull THEN '! ' ELSE ' ' END || a.atttypid, ', ' ORDER BY a.attnum))
      FROM pg_attribute AS a
     WHERE a.attrelid = ledger AND a.attnum > 0 AND NOT a.attisdropped
       AND a.attname = ANY ('{id,user_id,agent_id,ai_provider,ai_model,prompt_tokens,completion_tokens,total_tokens,cost_usd,'
         'cost_rub,execution_time_ms,created_at,platform,content_type,task_type,content_id,workflow_id,request_id,endpoint}'::name[])
    HAVING max(a.atttypid) < 16384 AND max(a.attcollation) < 16384);
END
$function$;

-- Whether the ledger's columns are those that a function was made for. Immutable as _token_usage_plain_tables() is.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_kept_fits(ledger regclass, comment text)
RETURNS boolean LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
  -- This is asked once in a session. glibc gives the end of the heap back to the system whenever more than 128 kB of it are free, in some
  -- sessions after each report, and takes it again for the next, page fault by page fault; until a larger block is freed, from when on
  -- twice the size of that stays.
  PERFORM length(repeat(' ', 524288));
  RETURN comment = (SELECT @extschema@._token_usage_kept_comment(c.oid, n.nspname, c.relpersistence)
                      FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = ledger)
     AND @extschema@._token_usage_as_now(ledger);
END
$function$;

-- Whether the planner knows by now that the ledger has rows. Immutable as _token_usage_plain_tables() is: after each VACUUM and ANALYZE of the
-- ledger it is asked again, and the queries are planned anew.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_kept_counted(ledger regclass)
RETURNS boolean LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
  RETURN (SELECT c.reltuples >= 1000 FROM pg_class AS c WHERE c.oid = ledger);
END
$function$;

-- The function that may be called in place of a query on a ledger in another schema, as it is written in one; NULL where there is none.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_kept(ledger oid, kind text)
RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
  RETURN (
    SELECT '@extschema@.' || p.proname
      FROM pg_class AS c
      JOIN pg_namespace AS n ON n.oid = c.relnamespace
      JOIN pg_proc AS o ON o.oid = '@extschema@._token_usage_kept(oid, text)'::regprocedure
      JOIN pg_proc AS p ON p.proname = @extschema@._token_usage_kept_name(kind, n.nspname)
       AND p.pronamespace = o.pronamespace AND p.proowner = o.proowner
     WHERE c.oid = ledger AND has_function_privilege(p.oid, 'EXECUTE') LIMIT 1);
END
$function$;

-- How the body of such a function begins: where it does not fit it goes back to the caller's settings and makes its query `anew`.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_kept_head(ledger oid, anew text)
RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
  RETURN (
    SELECT format('BEGIN
  IF (@extschema@._token_usage_kept_fits(%L::regclass, %L)) IS NOT TRUE THEN
    PERFORM @extschema@._token_usage_kept_settings(settings);
    RETURN QUERY SELECT a.* FROM @extschema@._token_usage_%s AS a;
    RETURN;
  END IF;
', @extschema@._token_usage_table(ledger, 'token_usage'::text), @extschema@._token_usage_kept_comment(c.oid, s.nspname, c.relpersistence), anew)
      FROM pg_class AS c JOIN pg_namespace AS s ON s.oid = c.relnamespace WHERE c.oid = ledger);
END
$function$;

-- What goes back to the caller's settings, for a query that is to be planned as any other.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_kept_settings(settings text[])
RETURNS void LANGUAGE plpgsql STABLE AS $function$
BEGIN
  -- PostgreSQL 13 plans what RETURN QUERY EXECUTE runs by plan_cache_mode too, and without the bounds an index is its choice.
  PERFORM set_config('enable_seqscan', settings[1], true), set_config('seq_page_cost', settings[2], true),
          set_config('random_page_cost', settings[3], true), set_config('plan_cache_mode', 'auto', true);
END
$function$;

-- The body of the function that sums, as _token_usage_rollup_read_sql() tells it. $1 to $7 are the parameters of the queries there; of
-- them $4 to $7 are computed here.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_kept_sums(ledger oid, anew text)
RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  body text;
  shape record;
BEGIN
  IF NOT @extschema@._token_usage_rollup_possible(ledger) THEN
    RETURN NULL;
  END IF;
  body := concat('
#variable_conflict use_column
DECLARE
  months timestamptz[];
  flags smallint[];
  few integer := 64;
', @extschema@._token_usage_kept_head(ledger, anew), format('  -- Most users have few rows, which are read by the index as fast as it is told what is rolled of them. Not in a ledger that seems to be
  -- empty: its plan could be one that reads the rows of everybody between the bounds, and would stay while the ledger grows.
  IF @extschema@._token_usage_kept_counted(%L::regclass) THEN
', @extschema@._token_usage_table(ledger, 'token_usage'::text)), @extschema@._token_usage_rollup_read_sql(ledger, 'fewest'::text, 'none'::text, false), ' INTO few;
  END IF;
  IF few >= 64 THEN
    IF NOT @extschema@._token_usage_rollup_readable(ledger) THEN
      PERFORM @extschema@._token_usage_kept_settings(settings);
      RETURN QUERY SELECT a.* FROM @extschema@._token_usage_', anew, ' AS a;
      RETURN;
    END IF;
', @extschema@._token_usage_rollup_read_sql(ledger, 'state'::text, 'none'::text, false), ' INTO sealed_until, months, flags;
    IF sealed_until IS NOT NULL THEN
      SELECT array_agg(p.tier), array_agg(p.lo), array_agg(p.hi) INTO tiers, starts, ends
        FROM @extschema@._token_usage_rollup_pieces(bounds, sealed_until, months, flags, agent IS NOT NULL OR dimension <> ''none'') AS p;
    ELSE
', @extschema@._token_usage_rollup_read_sql(ledger, 'few'::text, 'none'::text, false), ' INTO few;
      IF few >= 500 THEN
        -- Nothing is rolled of a user with many rows: how they are read best depends on the bounds, and on the planner''s settings.
        PERFORM @extschema@._token_usage_kept_settings(settings);
        RETURN QUERY EXECUTE @extschema@._token_usage_sums_sql(ledger, dimension, agent IS NOT NULL) USING user_id, agent, bounds;
        RETURN;
      END IF;
    END IF;
  END IF;
');
  FOR shape IN SELECT * FROM (VALUES ('none', false), ('none', true), ('agent', false), ('agent', true), ('model', false))
                 AS v (dimension, by_agent) LOOP
    body := concat(body, format('  IF dimension = %L AND agent IS %s NULL THEN
    IF tiers IS NULL THEN
      RETURN QUERY %s;
    ELSE
      RETURN QUERY %s;
    END IF;
    RETURN;
  END IF;
', shape.dimension, CASE WHEN shape.by_agent THEN 'NOT' END, @extschema@._token_usage_sums_sql(ledger, shape.dimension, shape.by_agent),
      @extschema@._token_usage_rollup_read_sql(ledger, 'both'::text, shape.dimension, shape.by_agent)));
  END LOOP;
  RETURN body || 'END';
END
$function$;

-- The body of the function that lists a page. $1 to $8 are the parameters of _token_usage_page_sql(); $3 and $4 are of no use here, since
-- how a page between two dates is read best depends on the dates.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_kept_page(ledger oid, anew text)
RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  body text := concat('
#variable_conflict use_column
', @extschema@._token_usage_kept_head(ledger, anew));
  shape record;
BEGIN
  FOR shape IN SELECT * FROM (VALUES (false, false), (false, true), (true, false), (true, true)) AS v (by_agent, by_cursor) LOOP
    body := concat(body, format('  IF agent IS %s NULL AND behind_at IS %s NULL THEN
    RETURN QUERY ', CASE WHEN shape.by_agent THEN 'NOT' END, CASE WHEN shape.by_cursor THEN 'NOT' END),
      @extschema@._token_usage_page_sql(ledger, shape.by_agent, false, false, shape.by_cursor), ';
    RETURN;
  END IF;
');
  END LOOP;
  RETURN body || 'END';
END
$function$;

-- What there is of a kind: how it is called, what it returns, and what does the same for any ledger.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_kept_kinds(OUT kind text, OUT arguments text, OUT result text, OUT anew text)
RETURNS SETOF record LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
  RETURN QUERY
    SELECT v.kind, v.arguments || ', ledger oid, settings text[]', pg_get_function_result(v.twin), v.anew
      FROM (VALUES
        ('sums', 'user_id text, agent text, bounds timestamptz[], tiers integer[], starts timestamptz[], ends timestamptz[], sealed_until timestamptz, '
           'dimension text',
         '@extschema@._token_usage_sums(oid, text, text, timestamptz[], text)'::regprocedure,
         'sums_anew(ledger, user_id, agent, bounds, dimension)'),
        ('page', 'user_id text, agent text, start_date timestamptz, end_date timestamptz, behind_at timestamptz, behind_id text, '
           'row_limit bigint, row_offset bigint',
         '@extschema@._token_usage_page_rows(oid, text, text, timestamptz, timestamptz, timestamptz, text, bigint, bigint)'::regprocedure,
         'page_anew(ledger, user_id, agent, start_date, end_date, behind_at, behind_id, row_limit, row_offset)'))
        AS v (kind, arguments, twin, anew);
END
$function$;

-- The body of a function that is not made for a ledger yet.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_kept_stub(anew text)
RETURNS text LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
  SELECT format('BEGIN RETURN QUERY SELECT a.* FROM @extschema@._token_usage_%s AS a; END', anew)
$function$;

-- Planned for any values, and by the number of rows alone: by the cost of pages the index on created_at may seem as good as one that picks
-- the user too, since the planner does not know the bounds.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_kept_make(name name, arguments text, result text, body text, comment text)
RETURNS void LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
  EXECUTE format('CREATE OR REPLACE FUNCTION @extschema@.%I(%s) RETURNS %s LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off '
    'SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET seq_page_cost = 0 SET random_page_cost = 0 AS %L',
    name, arguments, result, body);
  EXECUTE format('COMMENT ON FUNCTION @extschema@.%I IS %L', name, comment);
END
$function$;

-- Makes the functions of a ledger, and drops what is stale; part of token_usage_migrate(). Does nothing where the current role may not make
-- them in the name of the owner of the functions here.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_keep(ledger oid)
RETURNS void LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  keeper oid := (SELECT o.proowner FROM pg_proc AS o WHERE o.oid = '@extschema@._token_usage_kept(oid, text)'::regprocedure);
  body text;
  part record;
  there record;
BEGIN
  IF NOT has_schema_privilege('@extschema@', 'CREATE')
     OR NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = current_user AND (r.oid = keeper OR r.rolsuper)) THEN
    RETURN;
  END IF;
  FOR part IN
    SELECT k.*, @extschema@._token_usage_kept_name(k.kind, n.nspname) AS name,
           @extschema@._token_usage_kept_comment(ledger, n.nspname, c.relpersistence) AS comment
      FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace CROSS JOIN @extschema@._token_usage_kept_kinds() AS k
     WHERE c.oid = ledger
  LOOP
    body := NULL;
    IF part.comment IS NOT NULL THEN
      BEGIN
        body := CASE part.kind WHEN 'sums' THEN @extschema@._token_usage_kept_sums(ledger, part.anew)
                               ELSE @extschema@._token_usage_kept_page(ledger, part.anew) END;
      EXCEPTION WHEN undefined_column OR datatype_mismatch THEN
        body := NULL;  -- no ledger that reports can read
      END;
    END IF;
    IF body IS NULL AND part.name = concat('_token_usage_kept_', part.kind, '_home') THEN
      body := @extschema@._token_usage_kept_stub(part.anew);
      part.comment := 'token_usage, portable edition 1.0.0';
    END IF;
    SELECT p.oid::regprocedure AS routine, p.proowner = keeper AS ours, p.prosrc = body AND d.description = part.comment AS is_right INTO there
      FROM pg_proc AS p LEFT JOIN pg_description AS d ON d.objoid = p.oid AND d.classoid = 'pg_proc'::regclass AND d.objsubid = 0
     WHERE p.proname = part.name AND p.pronamespace = '@extschema@'::regnamespace ORDER BY p.proowner = keeper LIMIT 1;
    -- What another role made under this name is never called.
    CONTINUE WHEN NOT there.ours OR there.is_right;
    IF body IS NOT NULL THEN
      PERFORM @extschema@._token_usage_kept_make(part.name, part.arguments, part.result, body, part.comment);
      EXECUTE format('ALTER FUNCTION @extschema@.%I OWNER TO %s', part.name, keeper::regrole);
    ELSIF there.ours THEN
      EXECUTE 'DROP FUNCTION ' || there.routine;
    END IF;
  END LOOP;
  -- Those of ledgers that are gone.
  FOR there IN
    SELECT p.oid::regprocedure AS routine FROM pg_proc AS p
     WHERE p.pronamespace = '@extschema@'::regnamespace AND p.proowner = keeper AND p.proname ~ '^_token_usage_kept_(sums|page)_[0-9a-f]{32}$'
       AND NOT EXISTS (SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                        WHERE c.relname = 'token_usage' AND c.relkind IN ('r', 'p')
                          AND p.proname = @extschema@._token_usage_kept_name(substr(p.proname, 19, 4), n.nspname))
  LOOP
    EXECUTE 'DROP FUNCTION ' || there.routine;
  END LOOP;
END
$function$;

-- Those of the ledger that stands here, if there ever is one, which nobody else can make any more.
DO $home$
BEGIN
  PERFORM @extschema@._token_usage_kept_make(pg_catalog.concat('_token_usage_kept_', k.kind, '_home')::pg_catalog.name, k.arguments, k.result,
    @extschema@._token_usage_kept_stub(k.anew),
                                             'token_usage, portable edition 1.0.0'::text)
     FROM @extschema@._token_usage_kept_kinds() AS k;
END
$home$;
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
  time_zone := coalesce(time_zone, @extschema@._token_usage_read_setting(ledger, 'time_zone'::text));
  IF time_zone = 'UTC' AND as_of IS NULL THEN
    last_day := timezone('UTC', now())::date;  -- as the two below would say
  ELSE
    time_zone := @extschema@._token_usage_zone(time_zone, 'time_zone'::text);
    last_day := @extschema@._token_usage_day_of(as_of, time_zone);
  END IF;
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
  user_id := @extschema@._token_usage_check_user(user_id);
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
  bounds timestamptz[];
BEGIN
  user_id := @extschema@._token_usage_check_user(user_id);
  days := @extschema@._token_usage_check_range('days'::text, days, 1::bigint, 36600::bigint);
  scope := @extschema@._token_usage_scope(path, user_id, time_zone, as_of);
  first_day := scope.last_day - days::integer + 1;
  bounds := @extschema@._token_usage_day_bounds(first_day, scope.last_day, scope.time_zone);
  -- The days come from the bounds: with generate_series(1, days) the server would plan this query anew for each call, since only the
  -- number tells it how few rows there are, and that takes longer than to run it.
  RETURN QUERY
    SELECT first_day + d.bucket::integer - 1, coalesce(s.requests_count, 0),
           @extschema@._token_usage_bigint(coalesce(s.prompt_tokens, 0), 'prompt_tokens'::text),
           @extschema@._token_usage_bigint(coalesce(s.completion_tokens, 0), 'completion_tokens'::text),
           @extschema@._token_usage_bigint(coalesce(s.total_tokens, 0), 'total_tokens'::text),
           trim_scale(coalesce(s.cost_usd, 0)), trim_scale(coalesce(s.cost_rub, 0)), coalesce(s.unpriced_count, 0)
      FROM unnest(bounds) WITH ORDINALITY AS d (start, bucket)
      LEFT JOIN @extschema@._token_usage_ledger_sums(path, scope.ledger, scope.user_id, agent, bounds, 'none'::text) AS s
        ON s.bucket = d.bucket
     WHERE d.bucket <= days ORDER BY d.bucket;
END
$function$;

-- The last `period_days` days, or a named period where there is one: the ledger, the user as checked, and the two bounds.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_span(
  path name[], INOUT user_id text, period_days bigint, period text, time_zone text, as_of timestamptz, OUT ledger oid, OUT bounds timestamptz[])
LANGUAGE plpgsql STABLE AS $function$
DECLARE
  scope record;
BEGIN
  user_id := @extschema@._token_usage_check_user(user_id);
  IF period IS NULL THEN
    period_days := @extschema@._token_usage_check_range('period_days'::text, period_days, 1::bigint, 36600::bigint);
  END IF;
  scope := @extschema@._token_usage_scope(path, user_id, time_zone, as_of);
  user_id := scope.user_id;
  ledger := scope.ledger;
  bounds := @extschema@._token_usage_starts(
    ARRAY[CASE WHEN period IS NULL THEN scope.last_day - period_days::integer + 1
               WHEN period = 'all' THEN scope.last_day
               ELSE @extschema@._token_usage_first_day(period, scope.last_day) END, scope.last_day + 1],
    scope.time_zone);
  IF period = 'all' THEN
    bounds[1] := '-infinity';
  END IF;
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_by_agent(
  path name[], user_id text, agent text, period_days bigint, period text, time_zone text, as_of timestamptz)
RETURNS TABLE (agent_id text, requests_count bigint, prompt_tokens bigint, completion_tokens bigint, total_tokens bigint,
  cost_usd numeric, cost_rub numeric, unpriced_count bigint, avg_execution_time_ms bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  span record;
BEGIN
  span := @extschema@._token_usage_span(path, user_id, period_days, period, time_zone, as_of);
  RETURN QUERY
    SELECT g.key1, g.requests_count, @extschema@._token_usage_bigint(g.prompt_tokens, 'prompt_tokens'::text),
           @extschema@._token_usage_bigint(g.completion_tokens, 'completion_tokens'::text),
           @extschema@._token_usage_bigint(g.total_tokens, 'total_tokens'::text),
           trim_scale(g.cost_usd), trim_scale(g.cost_rub), g.unpriced_count,
           @extschema@._token_usage_mean(g.execution_ms_sum, g.execution_ms_count::numeric)
      FROM @extschema@._token_usage_ledger_sums(path, span.ledger, span.user_id, agent, span.bounds, 'agent'::text) AS g
     ORDER BY g.total_tokens DESC, g.key1 COLLATE "C";
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_by_model(
  path name[], user_id text, period_days bigint, time_zone text, as_of timestamptz)
RETURNS TABLE (ai_provider text, ai_model text, requests_count bigint, prompt_tokens bigint, completion_tokens bigint,
  total_tokens bigint, cost_usd numeric, cost_rub numeric, unpriced_count bigint, avg_execution_time_ms bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  span record;
BEGIN
  span := @extschema@._token_usage_span(path, user_id, period_days, NULL::text, time_zone, as_of);
  RETURN QUERY
    SELECT g.key1, g.key2, g.requests_count, @extschema@._token_usage_bigint(g.prompt_tokens, 'prompt_tokens'::text),
           @extschema@._token_usage_bigint(g.completion_tokens, 'completion_tokens'::text),
           @extschema@._token_usage_bigint(g.total_tokens, 'total_tokens'::text),
           trim_scale(g.cost_usd), trim_scale(g.cost_rub), g.unpriced_count,
           @extschema@._token_usage_mean(g.execution_ms_sum, g.execution_ms_count::numeric)
      FROM @extschema@._token_usage_ledger_sums(path, span.ledger, span.user_id, NULL::text, span.bounds, 'model'::text) AS g
     ORDER BY g.cost_rub DESC, g.cost_usd DESC, g.total_tokens DESC, g.key1 COLLATE "C", g.key2 COLLATE "C";
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_by_provider(
  path name[], user_id text, period_days bigint, time_zone text, as_of timestamptz)
RETURNS TABLE (ai_provider text, requests_count bigint, prompt_tokens bigint, completion_tokens bigint,
  total_tokens bigint, cost_usd numeric, cost_rub numeric, unpriced_count bigint, avg_execution_time_ms bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  span record;
BEGIN
  span := @extschema@._token_usage_span(path, user_id, period_days, NULL::text, time_zone, as_of);
  RETURN QUERY
    SELECT g.key1, sum(g.requests_count)::bigint, @extschema@._token_usage_bigint(sum(g.prompt_tokens), 'prompt_tokens'::text),
           @extschema@._token_usage_bigint(sum(g.completion_tokens), 'completion_tokens'::text),
           @extschema@._token_usage_bigint(sum(g.total_tokens), 'total_tokens'::text),
           trim_scale(sum(g.cost_usd)), trim_scale(sum(g.cost_rub)), sum(g.unpriced_count)::bigint,
           @extschema@._token_usage_mean(sum(g.execution_ms_sum), sum(g.execution_ms_count))
      FROM @extschema@._token_usage_ledger_sums(path, span.ledger, span.user_id, NULL::text, span.bounds, 'model'::text) AS g
     GROUP BY g.key1
     ORDER BY sum(g.cost_rub) DESC, sum(g.cost_usd) DESC, sum(g.total_tokens) DESC, g.key1 COLLATE "C";
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_check_period(period text)
RETURNS text LANGUAGE plpgsql IMMUTABLE AS $function$
BEGIN
  IF period IS NULL OR period NOT IN ('day', 'week', 'month', 'year', 'all') THEN
    PERFORM @extschema@._token_usage_bad_argument('period'::text, 'one of day, week, month, year, all'::text, period);
  END IF;
  RETURN period;
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_totals(
  path name[], user_id text, period_name text, agent text, time_zone text, as_of timestamptz)
RETURNS TABLE (period text, requests_count bigint, prompt_tokens bigint, completion_tokens bigint, total_tokens bigint,
  cost_usd numeric, cost_rub numeric, unpriced_count bigint, avg_execution_time_ms bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  span record;
BEGIN
  user_id := @extschema@._token_usage_check_user(user_id);
  period_name := @extschema@._token_usage_check_period(period_name);
  span := @extschema@._token_usage_span(path, user_id, NULL::bigint, period_name, time_zone, as_of);
  RETURN QUERY
    SELECT period_name, coalesce(sum(g.requests_count), 0)::bigint,
           @extschema@._token_usage_bigint(coalesce(sum(g.prompt_tokens), 0), 'prompt_tokens'::text),
           @extschema@._token_usage_bigint(coalesce(sum(g.completion_tokens), 0), 'completion_tokens'::text),
           @extschema@._token_usage_bigint(coalesce(sum(g.total_tokens), 0), 'total_tokens'::text),
           trim_scale(coalesce(sum(g.cost_usd), 0)), trim_scale(coalesce(sum(g.cost_rub), 0)),
           coalesce(sum(g.unpriced_count), 0)::bigint,
           @extschema@._token_usage_mean(sum(g.execution_ms_sum), sum(g.execution_ms_count))
      FROM @extschema@._token_usage_ledger_sums(path, span.ledger, span.user_id, agent, span.bounds, 'none'::text) AS g;
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

CREATE OR REPLACE FUNCTION @extschema@._token_usage_from_micros(value bigint)
RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT to_timestamp(div(value, 1000000)::double precision) + mod(value, 1000000) * interval '1 microsecond'
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

-- One page, and the row behind it where there is one: at most page_limit + 1 rows.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_page(
  path name[], ledger oid, user_id text, page_limit bigint, page_offset bigint, agent text, start_date timestamptz, end_date timestamptz,
  after text)
RETURNS TABLE (id text, created_at timestamptz, agent_id text, ai_provider text, ai_model text, prompt_tokens bigint,
  completion_tokens bigint, total_tokens bigint, cost_usd numeric, cost_rub numeric, execution_time_ms numeric,
  platform text, content_type text, task_type text, content_id text, workflow_id text, request_id text, endpoint text,
  cursor text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  behind_at timestamptz;
  behind_id text;
BEGIN
  IF after IS NOT NULL THEN
    SELECT c.created_at, c.id INTO behind_at, behind_id
      FROM @extschema@._token_usage_read_cursor(after, @extschema@._token_usage_column_family(ledger, 'id'::text)) AS c;
  END IF;
  page_limit := page_limit + 1;
  IF row_security_active(ledger) THEN
    PERFORM @extschema@._token_usage_caller_path(path);
  END IF;
  RETURN QUERY SELECT p.* FROM @extschema@._token_usage_page_rows(
    ledger, user_id, agent, start_date, end_date, behind_at, behind_id, page_limit, page_offset) AS p;
END
$function$;

-- Checks what token_usage_detailed and its twins are called with.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_check_page(user_id text, page_limit bigint, page_offset bigint)
RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $function$
BEGIN
  user_id := @extschema@._token_usage_check_user(user_id);
  page_limit := @extschema@._token_usage_check_range('page_limit'::text, page_limit, 1::bigint, 500::bigint);
  page_offset := @extschema@._token_usage_check_range('page_offset'::text, page_offset, 0::bigint, 9223372036854775807::bigint);
  RETURN page_limit;
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
  page_limit := @extschema@._token_usage_check_page(user_id, page_limit, page_offset);
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
  page_limit := @extschema@._token_usage_check_page(user_id, page_limit, page_offset);
  ledger := @extschema@._token_usage_ledger(path);
  IF @extschema@._token_usage_column_family(ledger, 'id'::text) <> 'integer' THEN
    SELECT c.* INTO key FROM @extschema@._token_usage_columns(ledger) AS c WHERE c.name = 'id';
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
  l record;
  query text;
  rows bigint;
  bounds timestamptz[] := ARRAY[coalesce(start_date, '-infinity'), coalesce(end_date + interval '1 microsecond', 'infinity')];
BEGIN
  IF bounds[1] < bounds[2] AND @extschema@._token_usage_rollup_readable(ledger) THEN
    RETURN (SELECT coalesce(sum(s.requests_count), 0)
              FROM @extschema@._token_usage_sums(ledger, user_id, agent, bounds, 'none'::text) AS s);
  END IF;
  l := @extschema@._token_usage_layout(ledger);
  query := format('SELECT pg_catalog.count(*) FROM %s AS t WHERE %s',
    @extschema@._token_usage_table(ledger, 'token_usage'::text),
    @extschema@._token_usage_list_condition(
      l.of_user, l.of_agent, l.bound, agent IS NOT NULL, start_date IS NOT NULL, end_date IS NOT NULL));
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
  user_id := @extschema@._token_usage_check_user(user_id);
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
  page_limit := @extschema@._token_usage_check_page(user_id, page_limit, page_offset);
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
      'timestamp with time zone or timestamp without time zone'),
    -- What prices need to tell apart, and where a cost came from. NULL: not reported, or written without us.
    (22, 'cache_read_tokens', 'bigint', 'bigint', NULL, '{integer,numeric,real,double}', 'a numeric type'),
    (23, 'cache_write_tokens', 'bigint', 'bigint', NULL, '{integer,numeric,real,double}', 'a numeric type'),
    (24, 'cache_write_1h_tokens', 'bigint', 'bigint', NULL, '{integer,numeric,real,double}', 'a numeric type'),
    (25, 'cache_read_audio_tokens', 'bigint', 'bigint', NULL, '{integer,numeric,real,double}', 'a numeric type'),
    (26, 'cache_read_image_tokens', 'bigint', 'bigint', NULL, '{integer,numeric,real,double}', 'a numeric type'),
    (27, 'reasoning_tokens', 'bigint', 'bigint', NULL, '{integer,numeric,real,double}', 'a numeric type'),
    (28, 'input_audio_tokens', 'bigint', 'bigint', NULL, '{integer,numeric,real,double}', 'a numeric type'),
    (29, 'output_audio_tokens', 'bigint', 'bigint', NULL, '{integer,numeric,real,double}', 'a numeric type'),
    (30, 'input_image_tokens', 'bigint', 'bigint', NULL, '{integer,numeric,real,double}', 'a numeric type'),
    (31, 'output_image_tokens', 'bigint', 'bigint', NULL, '{integer,numeric,real,double}', 'a numeric type'),
    (32, 'web_search_requests', 'bigint', 'bigint', NULL, '{integer,numeric,real,double}', 'a numeric type'),
    (33, 'cost_source', 'text', 'text', NULL, '{text}', 'text')
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
  steps := steps || @extschema@._token_usage_migrate_recording(ledger) || @extschema@._token_usage_rollup_migrate(ledger);
  PERFORM @extschema@._token_usage_keep(ledger);
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

  EXECUTE replace($token_usage$
-- token_usage_from_response in PL/pgSQL: the interpreter of core/usage_rules.json for servers that take no C++.
-- Section 5 of the contract. core/usage.cpp is its twin; both read the same rules, which pg_ext/assemble.mk puts in
-- here, and neither knows a provider's name. jsonb has dropped all but the last of
-- repeated keys before we see them, so unlike the SQLite edition this one cannot refuse them.
--
-- It loops over indexes and never runs a query, because a query costs more than all the rest together.

CREATE OR REPLACE FUNCTION @extschema@._token_usage_rules() RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT $rules$
{
  "version": 1,
  "providers": [
    {
      "id": "openai",
      "names": ["openai", "openai-chat", "openai-responses", "text-completion-openai", "chatgpt"]
    },
    {
      "id": "azure",
      "names": [
        "azure", "azure-openai", "azure-ai", "azure-ai-foundry", "microsoft", "microsoft-azure",
        "azure-text"
      ]
    },
    {"id": "anthropic", "names": ["anthropic", "claude"]},
    {
      "id": "google",
      "names": [
        "google", "gemini", "vertex", "vertex-ai", "vertexai", "google-vertex", "google-vertex-ai",
        "google-gla", "google-genai", "google-ai", "google-ai-studio", "google-gemini", "palm"
      ],
      "starts_with": ["vertex-ai-"]
    },
    {
      "id": "aws",
      "names": [
        "aws", "bedrock", "aws-bedrock", "amazon", "amazon-bedrock", "bedrock-converse",
        "bedrock-mantle"
      ]
    },
    {"id": "mistral", "names": ["mistral", "mistralai", "mistral-ai", "codestral"]},
    {"id": "cohere", "names": ["cohere", "cohere-chat", "cohere-v2"]},
    {"id": "ollama", "names": ["ollama", "ollama-chat"]},
    {"id": "deepseek", "names": ["deepseek", "deep-seek"]},
    {"id": "x-ai", "names": ["x-ai", "xai", "grok"]},
    {"id": "openrouter", "names": ["openrouter", "open-router"]},
    {"id": "groq", "names": ["groq"]},
    {"id": "together", "names": ["together", "together-ai", "togetherai"]},
    {"id": "fireworks", "names": ["fireworks", "fireworks-ai"]},
    {"id": "perplexity", "names": ["perplexity", "pplx"]},
    {"id": "cerebras", "names": ["cerebras"]},
    {"id": "moonshotai", "names": ["moonshotai", "moonshot", "kimi"]},
    {"id": "minimax", "names": ["minimax"]},
    {"id": "zai", "names": ["zai", "z-ai"]},
    {"id": "zhipuai", "names": ["zhipuai", "zhipu", "bigmodel"]},
    {"id": "voyageai", "names": ["voyageai", "voyage", "voyage-ai"]},
    {
      "id": "huggingface",
      "names": ["huggingface", "hugging-face", "hf"],
      "starts_with": ["huggingface-", "huggingface/"]
    },
    {"id": "novita", "names": ["novita", "novita-ai"]},
    {"id": "ovhcloud", "names": ["ovhcloud", "ovh"]},
    {"id": "doubleword", "names": ["doubleword"]},
    {"id": "modal", "names": ["modal"]},
    {"id": "avian", "names": ["avian"]},
    {"id": "nvidia", "names": ["nvidia", "nvidia-nim", "nim"]},
    {"id": "sambanova", "names": ["sambanova"]},
    {"id": "deepinfra", "names": ["deepinfra"]},
    {"id": "replicate", "names": ["replicate"]},
    {"id": "vllm", "names": ["vllm", "hosted-vllm"]},
    {"id": "litellm", "names": ["litellm", "litellm-proxy"]}
  ],
  "roots": [
    "usage", "usageMetadata", "usage_metadata", "message.usage", "response.usage",
    "response.usageMetadata", "metadata.usage", "x_groq.usage", "meta",
    "amazon-bedrock-invocationMetrics", "metrics"
  ],
  "models": [
    "model", "modelVersion", "model_version", "message.model", "response.model",
    "response.modelVersion"
  ],
  "shapes": [
    {
      "name": "gemini",
      "flavours": ["default"],
      "detect": [
        "promptTokenCount", "candidatesTokenCount", "totalTokenCount", "thoughtsTokenCount",
        "prompt_token_count", "candidates_token_count", "total_token_count"
      ],
      "prompt": ["promptTokenCount", "prompt_token_count"],
      "completion": [
        "candidatesTokenCount", "responseTokenCount", "candidates_token_count",
        "response_token_count", "generation_token_count"
      ],
      "total": ["totalTokenCount", "total_token_count"],
      "parts": [
        {
          "key": "cache_read_tokens",
          "of": "prompt",
          "group": "cache",
          "relation": "inside",
          "paths": ["cachedContentTokenCount", "cached_content_token_count"]
        },
        {
          "key": "tool_use_prompt_tokens",
          "of": "prompt",
          "group": "tool",
          "relation": "outside",
          "paths": ["toolUsePromptTokenCount", "tool_use_prompt_token_count"]
        },
        {
          "key": "reasoning_tokens",
          "of": "completion",
          "group": "reasoning",
          "relation": "outside",
          "paths": ["thoughtsTokenCount", "thoughts_token_count"]
        }
      ],
      "details": [
        {
          "key": "input_audio_tokens",
          "of": "prompt_tokens",
          "sum": [
            "promptTokensDetails[modality=AUDIO].tokenCount",
            "prompt_tokens_details[modality=AUDIO].token_count",
            "toolUsePromptTokensDetails[modality=AUDIO].tokenCount",
            "tool_use_prompt_tokens_details[modality=AUDIO].token_count"
          ]
        },
        {
          "key": "input_image_tokens",
          "of": "prompt_tokens",
          "sum": [
            "promptTokensDetails[modality=IMAGE].tokenCount",
            "prompt_tokens_details[modality=IMAGE].token_count",
            "promptTokensDetails[modality=DOCUMENT].tokenCount",
            "prompt_tokens_details[modality=DOCUMENT].token_count",
            "toolUsePromptTokensDetails[modality=IMAGE].tokenCount",
            "tool_use_prompt_tokens_details[modality=IMAGE].token_count"
          ]
        },
        {
          "key": "cache_read_audio_tokens",
          "of": "cache_read_tokens",
          "sum": [
            "cacheTokensDetails[modality=AUDIO].tokenCount",
            "cache_tokens_details[modality=AUDIO].token_count"
          ]
        },
        {
          "key": "cache_read_image_tokens",
          "of": "cache_read_tokens",
          "sum": [
            "cacheTokensDetails[modality=IMAGE].tokenCount",
            "cache_tokens_details[modality=IMAGE].token_count",
            "cacheTokensDetails[modality=DOCUMENT].tokenCount",
            "cache_tokens_details[modality=DOCUMENT].token_count"
          ]
        },
        {
          "key": "output_audio_tokens",
          "of": "completion_tokens",
          "sum": [
            "candidatesTokensDetails[modality=AUDIO].tokenCount",
            "responseTokensDetails[modality=AUDIO].tokenCount",
            "candidates_tokens_details[modality=AUDIO].token_count",
            "response_tokens_details[modality=AUDIO].token_count"
          ]
        },
        {
          "key": "output_image_tokens",
          "of": "completion_tokens",
          "sum": [
            "candidatesTokensDetails[modality=IMAGE].tokenCount",
            "responseTokensDetails[modality=IMAGE].tokenCount",
            "candidates_tokens_details[modality=IMAGE].token_count",
            "response_tokens_details[modality=IMAGE].token_count"
          ]
        }
      ]
    },
    {
      "name": "bedrock",
      "flavours": ["default"],
      "detect": ["inputTokens", "outputTokens", "inputTokenCount", "outputTokenCount"],
      "prompt": ["inputTokens", "inputTokenCount"],
      "completion": ["outputTokens", "outputTokenCount"],
      "total": ["totalTokens"],
      "parts": [
        {
          "key": "cache_read_tokens",
          "of": "prompt",
          "group": "cache",
          "relation": "outside",
          "paths": ["cacheReadInputTokens", "cacheReadInputTokenCount"]
        },
        {
          "key": "cache_write_tokens",
          "of": "prompt",
          "group": "cache",
          "relation": "outside",
          "paths": ["cacheWriteInputTokens", "cacheWriteInputTokenCount"],
          "or_sum": ["cacheDetails[ttl=5m].inputTokens", "cacheDetails[ttl=1h].inputTokens"]
        },
        {
          "key": "cache_read_tokens",
          "of": "prompt",
          "group": "sdk_cache",
          "relation": "inside",
          "paths": ["cachedInputTokens", "inputTokenDetails.cacheReadTokens"]
        },
        {
          "key": "reasoning_tokens",
          "of": "completion",
          "group": "reasoning",
          "relation": "inside",
          "paths": ["reasoningTokens", "outputTokenDetails.reasoningTokens"]
        }
      ],
      "details": [
        {
          "key": "cache_write_5m_tokens",
          "of": "cache_write_tokens",
          "sum": ["cacheDetails[ttl=5m].inputTokens"]
        },
        {
          "key": "cache_write_1h_tokens",
          "of": "cache_write_tokens",
          "sum": ["cacheDetails[ttl=1h].inputTokens"]
        }
      ]
    },
    {
      "name": "cohere_billed",
      "flavours": ["default", "embeddings"],
      "detect": ["billed_units.input_tokens", "billed_units.output_tokens"],
      "prompt": ["billed_units.input_tokens"],
      "completion": ["billed_units.output_tokens"]
    },
    {
      "name": "cohere_tokens",
      "flavours": ["tokens"],
      "detect": ["tokens.input_tokens", "tokens.output_tokens"],
      "prompt": ["tokens.input_tokens"],
      "completion": ["tokens.output_tokens"],
      "parts": [
        {
          "key": "cache_read_tokens",
          "of": "prompt",
          "group": "cache",
          "relation": "inside",
          "paths": ["cached_tokens"]
        }
      ]
    },
    {
      "name": "input_output",
      "flavours": ["default", "anthropic", "responses", "realtime", "images", "transcription"],
      "detect": ["input_tokens", "output_tokens"],
      "prompt": ["input_tokens"],
      "completion": ["output_tokens"],
      "total": ["total_tokens"],
      "parts": [
        {
          "key": "cache_read_tokens",
          "of": "prompt",
          "group": "cache",
          "relation": "outside",
          "paths": ["cache_read_input_tokens"]
        },
        {
          "key": "cache_write_tokens",
          "of": "prompt",
          "group": "cache",
          "relation": "outside",
          "paths": ["cache_creation_input_tokens"],
          "or_sum": ["cache_creation.ephemeral_5m_input_tokens", "cache_creation.ephemeral_1h_input_tokens"]
        },
        {
          "key": "cache_read_tokens",
          "of": "prompt",
          "group": "cached",
          "relation": "inside",
          "paths": [
            "input_tokens_details.cached_tokens", "input_token_details.cached_tokens",
            "input_token_details.cache_read"
          ]
        },
        {
          "key": "cache_write_tokens",
          "of": "prompt",
          "group": "cached",
          "relation": "inside",
          "paths": [
            "input_tokens_details.cache_write_tokens", "input_token_details.cache_write_tokens",
            "input_token_details.cache_creation"
          ]
        },
        {
          "key": "reasoning_tokens",
          "of": "completion",
          "group": "reasoning",
          "relation": "inside",
          "paths": [
            "output_tokens_details.reasoning_tokens", "output_tokens_details.thinking_tokens",
            "output_token_details.reasoning_tokens", "output_token_details.reasoning"
          ]
        }
      ],
      "details": [
        {
          "key": "cache_write_5m_tokens",
          "of": "cache_write_tokens",
          "sum": ["cache_creation.ephemeral_5m_input_tokens"]
        },
        {
          "key": "cache_write_1h_tokens",
          "of": "cache_write_tokens",
          "sum": ["cache_creation.ephemeral_1h_input_tokens"]
        },
        {
          "key": "input_audio_tokens",
          "of": "prompt_tokens",
          "sum": [
            "input_tokens_details.audio_tokens", "input_token_details.audio_tokens",
            "input_token_details.audio"
          ]
        },
        {
          "key": "input_image_tokens",
          "of": "prompt_tokens",
          "sum": ["input_tokens_details.image_tokens", "input_token_details.image_tokens"]
        },
        {
          "key": "cache_read_audio_tokens",
          "of": "cache_read_tokens",
          "sum": [
            "input_tokens_details.cached_tokens_details.audio_tokens",
            "input_token_details.cached_tokens_details.audio_tokens"
          ]
        },
        {
          "key": "cache_read_image_tokens",
          "of": "cache_read_tokens",
          "sum": [
            "input_tokens_details.cached_tokens_details.image_tokens",
            "input_token_details.cached_tokens_details.image_tokens"
          ]
        },
        {
          "key": "output_audio_tokens",
          "of": "completion_tokens",
          "sum": [
            "output_tokens_details.audio_tokens", "output_token_details.audio_tokens",
            "output_token_details.audio"
          ]
        },
        {
          "key": "output_image_tokens",
          "of": "completion_tokens",
          "sum": ["output_tokens_details.image_tokens", "output_token_details.image_tokens"]
        }
      ],
      "requests": [{"key": "web_search_requests", "paths": ["server_tool_use.web_search_requests"]}],
      "costs": [
        {"only": ["openrouter"], "path": "cost"},
        {"only": ["openrouter"], "path": "cost_details.upstream_inference_cost", "when": "is_byok"},
        {"only": ["x-ai"], "path": "cost_in_usd_ticks", "divide_by_10_power": 10}
      ]
    },
    {
      "name": "chat",
      "flavours": ["default", "chat"],
      "detect": ["prompt_tokens", "completion_tokens"],
      "prompt": ["prompt_tokens"],
      "completion": ["completion_tokens"],
      "total": ["total_tokens"],
      "parts": [
        {
          "key": "cache_read_tokens",
          "of": "prompt",
          "group": "cache",
          "relation": "inside",
          "paths": [
            "prompt_tokens_details.cached_tokens", "prompt_cache_hit_tokens",
            "cached_prompt_text_tokens"
          ]
        },
        {
          "key": "cache_read_tokens",
          "of": "prompt",
          "group": "cache",
          "relation": "inside",
          "only": ["moonshotai", "anthropic", "zai", "zhipuai", "vllm", ""],
          "paths": ["cached_tokens"]
        },
        {
          "key": "cache_write_tokens",
          "of": "prompt",
          "group": "cache",
          "relation": "inside",
          "paths": [
            "prompt_tokens_details.cache_write_tokens",
            "prompt_tokens_details.cache_creation_tokens"
          ]
        },
        {
          "key": "cache_read_tokens",
          "of": "prompt",
          "group": "cache_flat",
          "relation": "inside",
          "paths": ["cache_read_input_tokens"]
        },
        {
          "key": "cache_write_tokens",
          "of": "prompt",
          "group": "cache_flat",
          "relation": "inside",
          "paths": ["cache_creation_input_tokens"]
        },
        {
          "key": "reasoning_tokens",
          "of": "completion",
          "group": "reasoning",
          "relation": "inside",
          "outside_for": ["x-ai"],
          "extra_for": ["perplexity"],
          "paths": ["completion_tokens_details.reasoning_tokens", "reasoning_tokens"]
        },
        {
          "key": "",
          "of": "completion",
          "group": "citation",
          "relation": "inside",
          "extra_for": ["perplexity"],
          "paths": ["citation_tokens"]
        }
      ],
      "details": [
        {
          "key": "input_audio_tokens",
          "of": "prompt_tokens",
          "sum": ["prompt_tokens_details.audio_tokens"]
        },
        {
          "key": "input_image_tokens",
          "of": "prompt_tokens",
          "sum": ["prompt_tokens_details.image_tokens"]
        },
        {
          "key": "output_audio_tokens",
          "of": "completion_tokens",
          "sum": ["completion_tokens_details.audio_tokens"]
        },
        {
          "key": "output_image_tokens",
          "of": "completion_tokens",
          "sum": ["completion_tokens_details.image_tokens"]
        }
      ],
      "requests": [
        {
          "key": "web_search_requests",
          "paths": [
            "server_tool_use.web_search_requests", "server_tool_use_details.web_search_requests",
            "num_search_queries"
          ]
        }
      ],
      "costs": [
        {"only": ["openrouter"], "path": "cost"},
        {"only": ["openrouter"], "path": "cost_details.upstream_inference_cost", "when": "is_byok"},
        {"only": ["perplexity"], "path": "cost.total_cost"},
        {"only": ["x-ai"], "path": "cost_in_usd_ticks", "divide_by_10_power": 10}
      ]
    },
    {
      "name": "embeddings",
      "flavours": ["embeddings"],
      "only_by_flavour": true,
      "detect": ["prompt_tokens"],
      "prompt": ["prompt_tokens"],
      "total": ["total_tokens"]
    },
    {
      "name": "ollama",
      "flavours": ["default"],
      "detect": ["prompt_eval_count", "eval_count"],
      "prompt": ["prompt_eval_count"],
      "completion": ["eval_count"]
    },
    {
      "name": "token_metrics",
      "flavours": ["default"],
      "detect": ["input_token_count", "output_token_count"],
      "prompt": ["input_token_count"],
      "completion": ["output_token_count"]
    },
    {
      "name": "total_only",
      "flavours": ["default", "embeddings"],
      "detect": ["total_tokens"],
      "prompt": ["total_tokens"]
    },
    {
      "name": "not_tokens",
      "flavours": ["default"],
      "detect": [
        "seconds", "billed_units.search_units", "billed_units.classifications",
        "billed_units.images"
      ],
      "not_tokens": true
    }
  ]
}
  $rules$::jsonb
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_sum_refused(name text) RETURNS void
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT @extschema@._token_usage_bad_argument(name, 'counts whose sum is at most 9223372036854775807', 'more')
$function$;

-- a + b, both from 0 on; past 2^63-1 it is an error that names the usage object.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_add(a bigint, b bigint, name text) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $function$
BEGIN
  IF a > 9223372036854775807 - b THEN
    PERFORM @extschema@._token_usage_sum_refused(name);
  END IF;
  RETURN a + b;
END
$function$;

-- The value at a dotted path of object `u`, NULL where absent or null. What must be walked through and is no
-- object is an error. A step `list[field=value]` sums the last step's counts over the matching elements.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_walk(u jsonb, name text, path text) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $function$
DECLARE
  steps text[];
  step text;
  place text := name;
  value jsonb := u;
  condition text[];
  element jsonb;
  total bigint;
  i integer;
BEGIN
  IF pg_catalog.strpos(path, '.') = 0 THEN
    value := u -> path;
    RETURN CASE WHEN value <> 'null' THEN value END;
  END IF;
  steps := pg_catalog.string_to_array(path, '.');
  FOREACH step IN ARRAY steps LOOP
    IF pg_catalog.jsonb_typeof(value) <> 'object' THEN
      PERFORM @extschema@._token_usage_bad_argument(place, 'an object', value::text);
    END IF;
    IF pg_catalog.strpos(step, '[') > 0 THEN
      condition := pg_catalog.regexp_match(step, '^(.*)[[](.*)=(.*)[]]$');
      step := condition[1];
    END IF;
    value := value -> step;
    IF value IS NULL OR value = 'null' THEN
      RETURN NULL;
    END IF;
    place := place || '.' || step;
    IF condition IS NOT NULL THEN
      EXIT;
    END IF;
  END LOOP;
  IF condition IS NULL THEN
    RETURN value;
  END IF;
  IF pg_catalog.jsonb_typeof(value) <> 'array' THEN
    PERFORM @extschema@._token_usage_bad_argument(place, 'an array', value::text);
  END IF;
  step := steps[pg_catalog.cardinality(steps)];
  FOR i IN 0 .. pg_catalog.jsonb_array_length(value) - 1 LOOP
    element := value -> i;
    IF pg_catalog.jsonb_typeof(element) <> 'object' THEN
      PERFORM @extschema@._token_usage_bad_argument(pg_catalog.format('%s[%s]', place, i), 'an object', element::text);
    END IF;
    IF pg_catalog.jsonb_typeof(element -> condition[2]) = 'string'
       AND pg_catalog.lower((element ->> condition[2]) COLLATE "C") = pg_catalog.lower(condition[3] COLLATE "C")
       AND element -> step <> 'null' THEN
      total := @extschema@._token_usage_add(coalesce(total, 0), @extschema@._token_usage_count(
        element -> step, pg_catalog.format('%s[%s].%s', place, i, step)), place);
    END IF;
  END LOOP;
  RETURN pg_catalog.to_jsonb(total);
END
$function$;

-- The first count that one of the paths gives; NULL where none does.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_first(u jsonb, name text, paths jsonb) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $function$
DECLARE
  path text;
  value jsonb;
  i integer;
BEGIN
  FOR i IN 0 .. coalesce(pg_catalog.jsonb_array_length(paths), 0) - 1 LOOP
    path := paths ->> i;
    IF u ? pg_catalog.split_part(pg_catalog.split_part(path, '.', 1), '[', 1) THEN
      value := @extschema@._token_usage_walk(u, name, path);
      IF value IS NOT NULL THEN
        RETURN @extschema@._token_usage_count(value, name || '.' || path);
      END IF;
    END IF;
  END LOOP;
  RETURN NULL;
END
$function$;

-- The sum of the counts at all the paths that are present; NULL where none is.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_sum_of(u jsonb, name text, paths jsonb) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $function$
DECLARE
  path text;
  value jsonb;
  total bigint;
  i integer;
BEGIN
  FOR i IN 0 .. coalesce(pg_catalog.jsonb_array_length(paths), 0) - 1 LOOP
    path := paths ->> i;
    IF u ? pg_catalog.split_part(pg_catalog.split_part(path, '.', 1), '[', 1) THEN
      value := @extschema@._token_usage_walk(u, name, path);
      IF value IS NOT NULL THEN
        total := @extschema@._token_usage_add(
          coalesce(total, 0), @extschema@._token_usage_count(value, name || '.' || path), name);
      END IF;
    END IF;
  END LOOP;
  RETURN total;
END
$function$;

-- What a caller's ai_provider says: its own name (lower case, trimmed), the flavour after the last `/` where there
-- is one (`openai/responses`), and the id that the rules know it by ('' where they know none).
CREATE OR REPLACE FUNCTION @extschema@._token_usage_provider(
  ai_provider text, OUT name text, OUT flavour text, OUT id text)
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $function$
DECLARE
  rules jsonb := @extschema@._token_usage_rules();
  last text;
  key text;
BEGIN
  name := pg_catalog.lower(pg_catalog.btrim(ai_provider, E' \t\n\r') COLLATE "C");
  IF pg_catalog.strpos(name, '/') > 0 THEN
    last := pg_catalog.substring(name, '[^/]*$');
    IF pg_catalog.jsonb_path_exists(rules, '$.shapes[*].flavours[*] ? (@ == $flavour)',
                                    pg_catalog.jsonb_build_object('flavour', last)) THEN
      flavour := last;
      name := pg_catalog."left"(name, pg_catalog.length(name) - pg_catalog.length(last) - 1);
    END IF;
  END IF;
  key := pg_catalog.translate(name, '_ ', '--');
  id := pg_catalog.jsonb_path_query_first(rules, '$.providers[*] ? (@.names[*] == $key).id',
                                          pg_catalog.jsonb_build_object('key', key)) #>> '{}';
  IF id IS NULL THEN
    FOR i IN 0 .. coalesce(pg_catalog.jsonb_array_length(rules -> 'providers'), 0) - 1 LOOP
      IF rules -> 'providers' -> i ? 'starts_with' THEN
        FOR j IN 0 .. pg_catalog.jsonb_array_length(rules -> 'providers' -> i -> 'starts_with') - 1 LOOP
          IF pg_catalog.starts_with(key, rules -> 'providers' -> i -> 'starts_with' ->> j) THEN
            id := rules -> 'providers' -> i ->> 'id';
            RETURN;
          END IF;
        END LOOP;
      END IF;
    END LOOP;
    id := '';
  END IF;
END
$function$;

-- The usage object inside one response and the name of its place; NULL where it has none.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_root(response jsonb, name text, OUT usage jsonb, OUT place text)
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $function$
DECLARE
  roots jsonb := @extschema@._token_usage_rules() -> 'roots';
  path text;
  value jsonb;
  wrong jsonb;
  wrong_place text;
BEGIN
  FOR i IN 0 .. pg_catalog.jsonb_array_length(roots) - 1 LOOP
    path := roots ->> i;
    value := response #> pg_catalog.string_to_array(path, '.');
    IF pg_catalog.jsonb_typeof(value) = 'object' THEN
      usage := value;
      place := name || '.' || path;
      RETURN;
    ELSIF wrong IS NULL AND value <> 'null' THEN
      wrong := value;
      wrong_place := name || '.' || path;
    END IF;
  END LOOP;
  IF wrong IS NOT NULL THEN
    PERFORM @extschema@._token_usage_bad_argument(wrong_place, 'an object', wrong::text);
  END IF;
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_response_model(response jsonb) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $function$
DECLARE
  paths jsonb := @extschema@._token_usage_rules() -> 'models';
  value jsonb;
BEGIN
  FOR i IN 0 .. coalesce(pg_catalog.jsonb_array_length(paths), 0) - 1 LOOP
    value := response #> pg_catalog.string_to_array(paths ->> i, '.');
    IF pg_catalog.jsonb_typeof(value) = 'string' AND value <> '""' THEN
      RETURN value #>> '{}';
    END IF;
  END LOOP;
  RETURN NULL;
END
$function$;

-- The usage object of a response (what its roots hold, else itself), or of the events of a stream (an array):
-- their usage objects laid over one another, a later value that is not null in place of an earlier one.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_object(
  response jsonb, argument text, OUT usage jsonb, OUT place text, OUT model text)
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $function$
DECLARE
  event jsonb;
  found record;
BEGIN
  IF pg_catalog.jsonb_typeof(response) = 'object' THEN
    found := @extschema@._token_usage_root(response, argument);
    usage := coalesce(found.usage, response);
    place := coalesce(found.place, argument);
    model := @extschema@._token_usage_response_model(response);
    RETURN;
  ELSIF pg_catalog.jsonb_typeof(response) <> 'array' THEN
    PERFORM @extschema@._token_usage_bad_argument(argument, 'an object', response::text);
  END IF;
  usage := '{}';
  place := argument;
  FOR i IN 0 .. pg_catalog.jsonb_array_length(response) - 1 LOOP
    event := response -> i;
    IF pg_catalog.jsonb_typeof(event) <> 'object' THEN
      PERFORM @extschema@._token_usage_bad_argument(pg_catalog.format('%s[%s]', argument, i), 'an object', event::text);
    END IF;
    found := @extschema@._token_usage_root(event, pg_catalog.format('%s[%s]', argument, i));
    IF found.usage IS NOT NULL THEN
      usage := found.usage || usage || (
        SELECT coalesce(pg_catalog.jsonb_object_agg(e.key, e.value), '{}')
          FROM pg_catalog.jsonb_each(found.usage) e WHERE e.value <> 'null');
      place := found.place;
    END IF;
    model := coalesce(model, @extschema@._token_usage_response_model(event));
  END LOOP;
END
$function$;

-- Decides which groups of parts stand beside their whole, and gives prompt and completion with those added: first
-- by the provider's own total, then by the defaults. The fewer defaults are overturned, the likelier.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_settle(
  p bigint, c bigint, t bigint, of_prompt boolean[], outside boolean[], sums bigint[],
  OUT prompt numeric, OUT completion numeric, OUT flipped boolean)
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $function$
DECLARE
  n integer := pg_catalog.cardinality(sums);
  in_prompt numeric;
  in_completion numeric;
  first_prompt numeric;
  first_completion numeric;
BEGIN
  FOR bits IN 0 .. n LOOP
    FOR mask IN 0 .. (1 << n) - 1 LOOP
      CONTINUE WHEN pg_catalog.length(pg_catalog.replace(mask::bit(16)::text, '0', '')) <> bits;
      prompt := p;
      completion := c;
      in_prompt := 0;
      in_completion := 0;
      FOR i IN 1 .. n LOOP
        IF outside[i] <> ((mask >> (i - 1)) & 1 = 1) THEN
          IF of_prompt[i] THEN prompt := prompt + sums[i]; ELSE completion := completion + sums[i]; END IF;
        ELSE
          IF of_prompt[i] THEN in_prompt := in_prompt + sums[i]; ELSE in_completion := in_completion + sums[i]; END IF;
        END IF;
      END LOOP;
      IF in_prompt <= p AND in_completion <= c THEN
        IF prompt + completion = t THEN
          flipped := false;
          RETURN;
        ELSIF first_prompt IS NULL THEN
          first_prompt := prompt;
          first_completion := completion;
          flipped := mask <> 0;
          EXIT WHEN t IS NULL;
        END IF;
      END IF;
    END LOOP;
    EXIT WHEN t IS NULL AND first_prompt IS NOT NULL;
  END LOOP;
  prompt := first_prompt;
  completion := first_completion;
END
$function$;

-- The normaliser. `usage` is the result of token_usage_from_response, `raw` the provider's usage object.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_normalise(
  ai_provider text, response jsonb, argument text, OUT usage jsonb, OUT raw jsonb)
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $function$
DECLARE
  rules jsonb := @extschema@._token_usage_rules();
  provider record;
  object record;
  u jsonb;
  name text;
  shape jsonb;
  rule jsonb;
  key text;
  relation text;
  warnings text[] := '{}';
  p bigint;
  c bigint;
  t bigint;
  value bigint;
  whole bigint;
  groups text[] := '{}';
  of_prompt boolean[] := '{}';
  relations text[] := '{}';
  sums bigint[] := '{}';
  at integer;
  settled record;
  prompt numeric;
  completion numeric;
  counted numeric;
  extra_prompt numeric := 0;
  extra_completion numeric := 0;
  cost numeric;
  unit numeric;
  found jsonb;
BEGIN
  provider := @extschema@._token_usage_provider(ai_provider);
  IF provider.id = '' THEN
    warnings := warnings || pg_catalog.format('unknown provider %s: read by the shape of its response',
      CASE WHEN pg_catalog.length(ai_provider) > 200 THEN pg_catalog."left"(ai_provider, 200) || '...'
           ELSE ai_provider END);
  END IF;
  object := @extschema@._token_usage_object(response, argument);
  u := object.usage;
  name := object.place;
  <<shapes>>
  FOR i IN 0 .. coalesce(pg_catalog.jsonb_array_length(rules -> 'shapes'), 0) - 1 LOOP
    rule := rules -> 'shapes' -> i;
    CONTINUE WHEN CASE WHEN provider.flavour IS NULL THEN rule ? 'only_by_flavour'
                       ELSE NOT rule -> 'flavours' ? provider.flavour END;
    FOR j IN 0 .. pg_catalog.jsonb_array_length(rule -> 'detect') - 1 LOOP
      IF u #> pg_catalog.string_to_array(rule -> 'detect' ->> j, '.') <> 'null' THEN
        shape := rule;
        EXIT shapes;
      END IF;
    END LOOP;
  END LOOP;
  IF shape IS NULL THEN
    PERFORM @extschema@._token_usage_bad_argument(argument, 'a response or usage object with token counts', response::text);
  END IF;
  raw := u;
  usage := '{}';
  IF shape ? 'not_tokens' THEN
    usage := pg_catalog.jsonb_build_object(
      'prompt_tokens', 0, 'completion_tokens', 0, 'total_tokens', 0, 'not_tokens', true,
      'warnings', warnings || 'no token counts are reported: left unpriced'::text);
    IF object.model IS NOT NULL THEN
      usage := usage || pg_catalog.jsonb_build_object('model', object.model);
    END IF;
    RETURN;
  END IF;
  p := @extschema@._token_usage_first(u, name, shape -> 'prompt');
  c := @extschema@._token_usage_first(u, name, shape -> 'completion');
  t := @extschema@._token_usage_first(u, name, shape -> 'total');
  IF p IS NULL THEN
    warnings := warnings || pg_catalog.format('%s.%s is not reported: counted as 0', name, shape -> 'prompt' ->> 0);
    p := 0;
  END IF;
  c := coalesce(c, 0);

  FOR i IN 0 .. coalesce(pg_catalog.jsonb_array_length(shape -> 'parts'), 0) - 1 LOOP
    rule := shape -> 'parts' -> i;
    CONTINUE WHEN rule ? 'only' AND NOT rule -> 'only' ? provider.id;
    value := @extschema@._token_usage_first(u, name, rule -> 'paths');
    IF value IS NULL AND rule ? 'or_sum' THEN
      value := @extschema@._token_usage_sum_of(u, name, rule -> 'or_sum');
    END IF;
    CONTINUE WHEN value IS NULL;
    key := rule ->> 'key';
    IF key <> '' THEN
      CONTINUE WHEN (usage -> key)::bigint > 0;
      usage := pg_catalog.jsonb_set(usage, ARRAY[key], pg_catalog.to_jsonb(value));
    END IF;
    at := pg_catalog.array_position(groups, rule ->> 'group');
    IF at IS NULL THEN
      relation := CASE WHEN rule -> 'extra_for' ? provider.id THEN 'extra'
                       WHEN rule -> 'outside_for' ? provider.id THEN 'outside'
                       ELSE rule ->> 'relation' END;
      groups := groups || (rule ->> 'group');
      of_prompt := of_prompt || (rule ->> 'of' = 'prompt');
      relations := relations || relation;
      sums := sums || value;
    ELSE
      sums[at] := @extschema@._token_usage_add(sums[at], value, name);
    END IF;
  END LOOP;

  -- Extra parts are no part of the provider's total; groups of nothing stand nowhere.
  IF pg_catalog.cardinality(sums) = 0 THEN
    prompt := p;
    completion := c;
  ELSE
    DECLARE
      g_prompt boolean[] := '{}';
      g_outside boolean[] := '{}';
      g_sums bigint[] := '{}';
    BEGIN
      FOR i IN 1 .. pg_catalog.cardinality(sums) LOOP
        IF relations[i] = 'extra' THEN
          IF of_prompt[i] THEN
            extra_prompt := extra_prompt + sums[i];
          ELSE
            extra_completion := extra_completion + sums[i];
          END IF;
        ELSIF sums[i] > 0 THEN
          g_prompt := g_prompt || of_prompt[i];
          g_outside := g_outside || (relations[i] = 'outside');
          g_sums := g_sums || sums[i];
        END IF;
      END LOOP;
      settled := @extschema@._token_usage_settle(p, c, t, g_prompt, g_outside, g_sums);
      prompt := settled.prompt;
      completion := settled.completion;
      IF settled.flipped THEN
        warnings := warnings || 'a part is larger than its whole: counted beside it'::text;
      END IF;
    END;
  END IF;
  counted := prompt + completion;
  IF t > counted THEN
    warnings := warnings || pg_catalog.format('the provider''s total %s is %s above the parts', t, t - counted);
  ELSIF t < counted THEN
    warnings := warnings || pg_catalog.format('the provider''s total %s is %s below the parts', t, counted - t);
  END IF;
  IF counted + extra_prompt + extra_completion > 9223372036854775807 THEN
    PERFORM @extschema@._token_usage_sum_refused(name);
  END IF;
  usage := usage || pg_catalog.jsonb_build_object(
    'prompt_tokens', prompt + extra_prompt, 'completion_tokens', completion + extra_completion,
    'total_tokens', counted + extra_prompt + extra_completion);
  IF t > counted THEN
    usage := usage || pg_catalog.jsonb_build_object('unattributed_tokens', t - counted);
  END IF;

  FOR i IN 0 .. coalesce(pg_catalog.jsonb_array_length(shape -> 'details'), 0) - 1 LOOP
    rule := shape -> 'details' -> i;
    value := @extschema@._token_usage_sum_of(u, name, rule -> 'sum');
    CONTINUE WHEN value IS NULL;
    whole := coalesce((usage -> (rule ->> 'of'))::bigint, 0);
    IF value > whole THEN
      warnings := warnings || pg_catalog.format('%s %s is above %s %s: cut to it',
                                                rule ->> 'key', value, rule ->> 'of', whole);
      value := whole;
    END IF;
    usage := pg_catalog.jsonb_set(usage, ARRAY[rule ->> 'key'], pg_catalog.to_jsonb(value));
  END LOOP;
  FOR i IN 0 .. coalesce(pg_catalog.jsonb_array_length(shape -> 'requests'), 0) - 1 LOOP
    rule := shape -> 'requests' -> i;
    value := @extschema@._token_usage_first(u, name, rule -> 'paths');
    IF value IS NOT NULL THEN
      usage := pg_catalog.jsonb_set(usage, ARRAY[rule ->> 'key'], pg_catalog.to_jsonb(value));
    END IF;
  END LOOP;
  FOR i IN 0 .. coalesce(pg_catalog.jsonb_array_length(shape -> 'costs'), 0) - 1 LOOP
    rule := shape -> 'costs' -> i;
    CONTINUE WHEN NOT rule -> 'only' ? provider.id
               OR (rule ? 'when' AND coalesce(u -> (rule ->> 'when') <> 'true', true));
    found := @extschema@._token_usage_walk(u, name, rule ->> 'path');
    CONTINUE WHEN found IS NULL;
    unit := ('1e-' || coalesce(rule ->> 'divide_by_10_power', '0'))::numeric;
    IF pg_catalog.jsonb_typeof(found) = 'number' AND found::numeric >= 0
       AND coalesce(cost, 0) + found::numeric * unit < 170141183460469 THEN
      cost := coalesce(cost, 0) + @extschema@._token_usage_half_even(found::numeric * unit, 24);
    ELSE
      PERFORM @extschema@._token_usage_bad_argument(name || '.' || (rule ->> 'path'), 'a number from 0', found::text);
    END IF;
  END LOOP;
  IF cost IS NOT NULL THEN
    usage := usage || pg_catalog.jsonb_build_object('provider_cost_usd', pg_catalog.trim_scale(cost));
  END IF;
  IF object.model IS NOT NULL THEN
    usage := usage || pg_catalog.jsonb_build_object('model', object.model);
  END IF;
  usage := usage || pg_catalog.jsonb_build_object('warnings', warnings);
END
$function$;
$token_usage$, '@extschema@', home);

  EXECUTE replace($token_usage$
-- Events: the JSON objects that token_usage_record takes. Section 5 of the contract. core/event.cpp is the twin.
-- Reading one gives the event itself, with what is derived from a response in place of the response: its counts, and
-- warnings, provider_cost_usd and not_tokens, as token_usage_from_response gives them.

-- The keys of an event.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_event_keys() RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT '{user_id,agent_id,ai_provider,ai_model,prompt_tokens,completion_tokens,total_tokens,response,content_id,
    workflow_id,request_id,endpoint,platform,content_type,task_type,cost_usd,cost_rub,execution_time_ms,
    request_metadata,response_metadata,created_at,cache_read_tokens,cache_write_tokens,cache_write_1h_tokens,
    cache_read_audio_tokens,cache_read_image_tokens,reasoning_tokens,input_audio_tokens,output_audio_tokens,
    input_image_tokens,output_image_tokens,web_search_requests}'::text[]
$function$;

-- True for an event that needs nothing read, as most do: plain counts, every value of its type. A false says nothing;
-- _token_usage_read_event() then finds what is wrong, if anything is.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_event_is_plain(e jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT jsonb_typeof(e) = 'object'
     AND NOT e ?| '{response,total_tokens,cache_read_tokens,cache_write_tokens,cache_write_1h_tokens,reasoning_tokens,
       cache_read_audio_tokens,cache_read_image_tokens,input_audio_tokens,output_audio_tokens,input_image_tokens,
       output_image_tokens,web_search_requests,cost_rub}'::text[]
     AND e - '{user_id,agent_id,ai_provider,ai_model,prompt_tokens,completion_tokens,workflow_id,request_id,cost_usd,
       execution_time_ms,request_metadata,response_metadata,created_at,content_id,endpoint,platform,content_type,
       task_type}'::text[] = '{}'
     AND e ->> 'user_id' ~ '^(0|-?[1-9][0-9]{0,17})$'
     AND jsonb_typeof(e -> 'agent_id') = 'string' AND e -> 'agent_id' <> '""'
     AND jsonb_typeof(e -> 'ai_provider') = 'string' AND e -> 'ai_provider' <> '""'
     AND jsonb_typeof(e -> 'ai_model') = 'string' AND e -> 'ai_model' <> '""'
     AND jsonb_typeof(e -> 'prompt_tokens') = 'number' AND e ->> 'prompt_tokens' ~ '^[0-9]{1,18}$'
     AND jsonb_typeof(e -> 'completion_tokens') = 'number' AND e ->> 'completion_tokens' ~ '^[0-9]{1,18}$'
     AND coalesce(jsonb_typeof(e -> 'content_id') = 'string', true)
     AND coalesce(jsonb_typeof(e -> 'workflow_id') = 'string', true)
     AND coalesce(jsonb_typeof(e -> 'endpoint') = 'string', true)
     AND coalesce(jsonb_typeof(e -> 'platform') = 'string', true)
     AND coalesce(jsonb_typeof(e -> 'content_type') = 'string', true)
     AND coalesce(jsonb_typeof(e -> 'task_type') = 'string', true)
     AND coalesce(jsonb_typeof(e -> 'request_id') = 'string' AND e -> 'request_id' <> '""', true)
     AND coalesce(jsonb_typeof(e -> 'cost_usd') = 'number' AND length(e ->> 'cost_usd') < 25, true)
     AND coalesce(jsonb_typeof(e -> 'execution_time_ms') = 'number' AND e ->> 'execution_time_ms' ~ '^[0-9]{1,18}$', true)
     AND coalesce(jsonb_typeof(e -> 'request_metadata') <> 'null', true)
     AND coalesce(jsonb_typeof(e -> 'response_metadata') <> 'null', true)
     AND coalesce(e ->> 'created_at' ~ ('^[12][0-9]{3}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])[ T]([01][0-9]|2[0-3])'
                                        ':[0-5][0-9]:[0-5][0-9]([.][0-9]{1,6})?(Z|[+]00:00)?$'), NOT e ? 'created_at')
$function$;

-- A text of the event: NULL where absent; `filled`: not empty.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_event_text(e jsonb, key text, argument text, filled boolean)
RETURNS text LANGUAGE plpgsql IMMUTABLE AS $function$
BEGIN
  IF e -> key <> 'null' AND (jsonb_typeof(e -> key) <> 'string' OR (filled AND e -> key = '""')) THEN
    PERFORM @extschema@._token_usage_bad_argument(
      concat(argument, '.', key), CASE WHEN filled THEN 'non-empty text' ELSE 'text' END, (e -> key)::text);
  END IF;
  RETURN e ->> key;
END
$function$;

-- Reads an event; `argument` names it in errors (`event`, `events[17]`). An unknown key, a missing or ill-typed value,
-- and counts that contradict each other are errors.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_read_event(event jsonb, argument text) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE AS $function$
DECLARE
  e jsonb;
  key text;
  found record;
  total numeric;
  at timestamptz;
  classes constant text[] := '{cache_read_tokens,cache_write_tokens,cache_write_1h_tokens,cache_read_audio_tokens,
    cache_read_image_tokens,reasoning_tokens,input_audio_tokens,output_audio_tokens,input_image_tokens,
    output_image_tokens,web_search_requests}';
BEGIN
  IF jsonb_typeof(event) IS DISTINCT FROM 'object' THEN
    PERFORM @extschema@._token_usage_bad_argument(argument, 'an object', event::text);
  END IF;
  IF event - @extschema@._token_usage_event_keys() <> '{}' THEN
    SELECT k.key INTO key FROM jsonb_each(event - @extschema@._token_usage_event_keys()) k LIMIT 1;
    PERFORM @extschema@._token_usage_bad_argument(concat(argument, '.', key), 'a known key', (event -> key)::text);
  END IF;
  -- A null says what an absent key says.
  e := (SELECT coalesce(jsonb_object_agg(k.key, k.value), '{}') FROM jsonb_each(event) k WHERE k.value <> 'null');

  IF NOT e ? 'user_id' THEN
    PERFORM @extschema@._token_usage_bad_argument(argument || '.user_id', 'given', NULL);
  ELSIF NOT (CASE jsonb_typeof(e -> 'user_id') WHEN 'string' THEN e -> 'user_id' <> '""'
                                               WHEN 'number' THEN e ->> 'user_id' ~ '^-?[0-9]+$' ELSE false END) THEN
    PERFORM @extschema@._token_usage_bad_argument(
      argument || '.user_id', 'a whole number or text', (e -> 'user_id')::text);
  END IF;
  FOREACH key IN ARRAY '{agent_id,ai_provider,ai_model}'::text[] LOOP
    IF NOT e ? key THEN
      PERFORM @extschema@._token_usage_bad_argument(concat(argument, '.', key), 'given', NULL);
    END IF;
    PERFORM @extschema@._token_usage_event_text(e, key, argument, true);
  END LOOP;

  IF e ? 'response' THEN
    IF e ?| '{prompt_tokens,completion_tokens}' THEN
      PERFORM @extschema@._token_usage_bad_argument(
        argument || '.response', 'left out where counts are given', 'both');
    END IF;
    FOREACH key IN ARRAY 'total_tokens'::text || classes LOOP
      IF e ? key THEN
        PERFORM @extschema@._token_usage_bad_argument(
          concat(argument, '.', key), 'left out where response is given', (e -> key)::text);
      END IF;
    END LOOP;
    found := @extschema@._token_usage_normalise(e ->> 'ai_provider', e -> 'response', argument || '.response');
    IF jsonb_typeof(e -> 'response_metadata') <> 'object' THEN
      PERFORM @extschema@._token_usage_bad_argument(
        argument || '.response_metadata', 'an object where response is given', (e -> 'response_metadata')::text);
    END IF;
    e := e - 'response'
      || (found.usage - '{model,unattributed_tokens,cache_write_5m_tokens,tool_use_prompt_tokens,total_tokens}'::text[])
      || jsonb_build_object('response_metadata', coalesce(e -> 'response_metadata', '{}')
                                                 || jsonb_build_object('provider_usage', found.raw));
  ELSIF NOT e ?| '{prompt_tokens,completion_tokens}' THEN
    PERFORM @extschema@._token_usage_bad_argument(argument, 'counts or a response', 'neither');
  ELSE
    FOREACH key IN ARRAY '{prompt_tokens,completion_tokens}'::text[] LOOP
      IF NOT e ? key THEN
        PERFORM @extschema@._token_usage_bad_argument(concat(argument, '.', key), 'given', NULL);
      END IF;
      PERFORM @extschema@._token_usage_count(e -> key, concat(argument, '.', key));
    END LOOP;
    total := (e -> 'prompt_tokens')::numeric + (e -> 'completion_tokens')::numeric;
    IF e ? 'total_tokens'
       AND @extschema@._token_usage_count(e -> 'total_tokens', argument || '.total_tokens') <> total THEN
      PERFORM @extschema@._token_usage_bad_argument(
        argument || '.total_tokens', 'prompt_tokens + completion_tokens', (e -> 'total_tokens')::bigint::text);
    ELSIF total > 9223372036854775807 THEN
      PERFORM @extschema@._token_usage_sum_refused(argument);
    END IF;
    FOREACH key IN ARRAY classes LOOP
      IF e ? key THEN
        PERFORM @extschema@._token_usage_count(e -> key, concat(argument, '.', key));
      END IF;
    END LOOP;
    PERFORM @extschema@._token_usage_check_usage(e, argument);
  END IF;

  FOREACH key IN ARRAY '{content_id,workflow_id,request_id,endpoint,platform,content_type,task_type}'::text[] LOOP
    PERFORM @extschema@._token_usage_event_text(e, key, argument, key = 'request_id');
  END LOOP;
  FOREACH key IN ARRAY '{cost_usd,cost_rub}'::text[] LOOP
    IF jsonb_typeof(e -> key) <> 'number' OR abs((e -> key)::numeric) >= 170141183460469231731687303 THEN
      PERFORM @extschema@._token_usage_bad_argument(concat(argument, '.', key), 'a number', (e -> key)::text);
    END IF;
  END LOOP;
  IF e ? 'execution_time_ms' THEN
    PERFORM @extschema@._token_usage_count(e -> 'execution_time_ms', argument || '.execution_time_ms');
  END IF;
  IF e ? 'created_at' THEN
    at := @extschema@._token_usage_json_instant(e -> 'created_at');
    IF at IS NULL THEN
      PERFORM @extschema@._token_usage_bad_argument(
        argument || '.created_at', 'a time such as 2025-10-20T14:30:25Z', (e -> 'created_at')::text);
    END IF;
    e := jsonb_set(e, '{created_at}', to_jsonb(at));
  END IF;
  RETURN e;
END
$function$;

-- Reads all events, in order: the one that is `events` itself where `batch` is false. counts as in prices_portable.sql;
-- stated_usd: what the event or else the provider says; ask_book: the price book is to say it.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_read_events(events jsonb, batch boolean)
RETURNS TABLE (place integer, argument text, user_id text, agent_id text, ai_provider text, ai_model text,
  counts bigint[], content_id text, workflow_id text, request_id text, endpoint text, platform text, content_type text,
  task_type text, execution_time_ms bigint, request_metadata jsonb, response_metadata jsonb, created_at timestamptz,
  stated_usd numeric, stated_rub numeric, cost_source text, ask_book boolean, warnings text[])
LANGUAGE plpgsql STABLE ROWS 1000 SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $function$
#variable_conflict use_column
DECLARE
  read jsonb;
BEGIN
  IF NOT batch THEN
    events := jsonb_build_array(events);
  ELSIF jsonb_typeof(events) <> 'array' THEN
    PERFORM @extschema@._token_usage_bad_argument('events'::text, 'an array'::text, events::text);
  END IF;
  read := (SELECT coalesce(jsonb_agg(
             CASE WHEN @extschema@._token_usage_event_is_plain(e.value) THEN e.value
                  ELSE @extschema@._token_usage_read_event(
                         e.value, CASE WHEN batch THEN format('events[%s]', e.ordinality - 1) ELSE 'event' END) END), '[]')
             FROM jsonb_array_elements(events) WITH ORDINALITY e);
  RETURN QUERY
    SELECT (r.n - 1)::integer, CASE WHEN batch THEN format('events[%s]', r.n - 1) ELSE 'event' END, r.user_id, r.agent_id,
           r.ai_provider, r.ai_model,
           ARRAY[r.prompt_tokens::bigint, r.completion_tokens::bigint, (r.prompt_tokens + r.completion_tokens)::bigint,
                 r.cache_read_tokens::bigint, r.cache_write_tokens::bigint, NULL, r.cache_write_1h_tokens::bigint,
                 r.cache_read_audio_tokens::bigint, r.cache_read_image_tokens::bigint, r.reasoning_tokens::bigint,
                 r.input_audio_tokens::bigint, r.output_audio_tokens::bigint, r.input_image_tokens::bigint,
                 r.output_image_tokens::bigint, NULL, r.web_search_requests::bigint],
           r.content_id, r.workflow_id, r.request_id, r.endpoint, r.platform, r.content_type, r.task_type,
           r.execution_time_ms::bigint, r.request_metadata, r.response_metadata, r.created_at,
           coalesce(r.cost_usd, @extschema@._token_usage_half_even(r.provider_cost_usd, 12)), r.cost_rub,
           CASE WHEN r.cost_usd IS NOT NULL OR r.cost_rub IS NOT NULL THEN 'event'
                WHEN r.provider_cost_usd IS NOT NULL THEN 'provider' WHEN r.not_tokens THEN 'other' END,
           r.cost_usd IS NULL AND r.provider_cost_usd IS NULL AND r.not_tokens IS NOT TRUE,
           CASE WHEN r.warnings IS NULL THEN '{}' ELSE ARRAY(SELECT jsonb_array_elements_text(r.warnings)) END
      FROM ROWS FROM (jsonb_to_recordset(read) AS (
             user_id text, agent_id text, ai_provider text, ai_model text, prompt_tokens numeric,
             completion_tokens numeric, cache_read_tokens numeric, cache_write_tokens numeric,
             cache_write_1h_tokens numeric, cache_read_audio_tokens numeric, cache_read_image_tokens numeric,
             reasoning_tokens numeric, input_audio_tokens numeric, output_audio_tokens numeric,
             input_image_tokens numeric, output_image_tokens numeric, web_search_requests numeric, content_id text,
             workflow_id text, request_id text, endpoint text, platform text, content_type text, task_type text,
             execution_time_ms numeric, request_metadata jsonb, response_metadata jsonb, created_at timestamptz,
             cost_usd numeric, cost_rub numeric, provider_cost_usd numeric, not_tokens boolean, warnings jsonb))
           WITH ORDINALITY AS r (user_id, agent_id, ai_provider, ai_model, prompt_tokens, completion_tokens,
             cache_read_tokens, cache_write_tokens, cache_write_1h_tokens, cache_read_audio_tokens,
             cache_read_image_tokens, reasoning_tokens, input_audio_tokens, output_audio_tokens, input_image_tokens,
             output_image_tokens, web_search_requests, content_id, workflow_id, request_id, endpoint, platform,
             content_type, task_type, execution_time_ms, request_metadata, response_metadata, created_at, cost_usd,
             cost_rub, provider_cost_usd, not_tokens, warnings, n)
     ORDER BY r.n;
END
$function$;
$token_usage$, '@extschema@', home);

  EXECUTE replace($token_usage$
-- The arithmetic of a price in PL/pgSQL, for servers that take no C++. Section 6 of the contract. core/price.cpp is the
-- twin. Counts are an array in the order prompt, completion, total, cache_read, cache_write, cache_write_5m,
-- cache_write_1h, cache_read_audio, cache_read_image, reasoning, input_audio, output_audio, input_image, output_image,
-- tool_use_prompt, web_search_requests; NULL is not reported.

-- The prices of each model found that are in force at an instant, for a request of so many prompt tokens, as one
-- JSON object of price by class for each, in order. A context tier that is crossed prices the whole request; a
-- price for this time of day goes before one for the whole day.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_prices_in_force(rows jsonb, at timestamptz, prompt bigint)
RETURNS jsonb[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
  WITH newest AS (
    SELECT DISTINCT ON (r.hit, r.class, r.tier, r."from", r."to")
           r.hit, r.class, r.tier, r.price, r.since, r."from", r."to", r.id,
           r."from" <> '00:00' OR r."to" <> '24:00' AS windowed
      FROM jsonb_to_recordset(rows) AS r (hit integer, class text, tier bigint, price numeric, since timestamptz,
                                          "from" time, "to" time, id bigint)
     WHERE r.since <= at
       AND CASE WHEN r."from" <= r."to"
                THEN (at AT TIME ZONE 'UTC')::time >= r."from" AND (at AT TIME ZONE 'UTC')::time < r."to"
                ELSE (at AT TIME ZONE 'UTC')::time >= r."from" OR (at AT TIME ZONE 'UTC')::time < r."to" END
     ORDER BY r.hit, r.class, r.tier, r."from", r."to", r.since DESC, r.id DESC),
  -- Of the windows that hold, the newest; none of them: the whole day.
  window_of AS (
    SELECT DISTINCT ON (hit, class) hit, class, "from", "to"
      FROM newest WHERE price IS NOT NULL ORDER BY hit, class, windowed DESC, since DESC, id DESC),
  chosen AS (
    SELECT DISTINCT ON (n.hit, n.class) n.hit, n.class, n.price
      FROM newest n JOIN window_of w USING (hit, class, "from", "to")
     WHERE n.price IS NOT NULL AND (n.tier = 0 OR prompt > n.tier)
     ORDER BY n.hit, n.class, n.tier DESC)
  SELECT coalesce(array_agg(s.prices ORDER BY s.hit), '{}')
    FROM (SELECT hit, jsonb_object_agg(class, price) AS prices FROM chosen GROUP BY hit) s
$function$;

-- What counts cost by one set of prices, in USD at full length; NULL where the set does not price it. Kinds
-- (cached, written to cache) and modalities (audio, image) are two axes; a token on both is counted once, as cached.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_cost_by(prices jsonb, counts bigint[]) RETURNS numeric
LANGUAGE plpgsql IMMUTABLE AS $function$
DECLARE
  n numeric := coalesce(counts[1]::numeric, 0);
  c numeric := coalesce(counts[2]::numeric, 0);
  r numeric := CASE WHEN prices ? 'cache_read' THEN coalesce(counts[4]::numeric, 0) ELSE 0 END;
  w1 numeric := CASE WHEN prices ? 'cache_write_1h'
                     THEN coalesce(counts[7]::numeric, 0) ELSE 0 END;
  w numeric := CASE WHEN prices ? 'cache_write' THEN coalesce(counts[5]::numeric, 0) ELSE w1 END;
  a numeric := CASE WHEN prices ? 'input_audio' THEN least(coalesce(counts[11]::numeric, 0), n)
                    ELSE 0 END;
  i numeric := CASE WHEN prices ? 'input_image'
                    THEN least(coalesce(counts[13]::numeric, 0), n - a) ELSE 0 END;
  ao numeric := CASE WHEN prices ? 'output_audio'
                     THEN least(coalesce(counts[12]::numeric, 0), c) ELSE 0 END;
  io numeric := CASE WHEN prices ? 'output_image'
                     THEN least(coalesce(counts[14]::numeric, 0), c - ao) ELSE 0 END;
  q numeric := CASE WHEN prices ? 'reasoning'
                    THEN least(coalesce(counts[10]::numeric, 0), c - ao - io) ELSE 0 END;
  ra numeric := 0;
  ri numeric := 0;
  e numeric;
  x numeric;
  total numeric;
BEGIN
  IF NOT (prices ?| '{input,output,request}'::text[]) OR (n > 0 AND NOT prices ? 'input')
     OR (c > 0 AND NOT prices ? 'output') THEN
    RETURN NULL;
  END IF;
  w1 := least(w1, w);
  IF r > 0 AND a > 0 THEN
    ra := least(coalesce(counts[8]::numeric, 0), r, a);
  END IF;
  IF r > 0 AND i > 0 THEN
    ri := least(coalesce(counts[9]::numeric, 0), r - ra, i);
  END IF;
  -- What lies on both axes without being reported shows as more parts than there are tokens.
  e := r + w + a + i - ra - ri - n;
  IF e > 0 THEN
    x := least(e, a - ra, r - ra - ri);
    ra := ra + x;
    e := e - x;
    x := least(e, i - ri, r - ra - ri);
    ri := ri + x;
    e := e - x;
    x := least(e, a - ra);
    a := a - x;
    e := e - x;
    x := least(e, i - ri);
    i := i - x;
    e := e - x;
  END IF;
  total := greatest(-e, 0) * coalesce((prices -> 'input')::numeric, 0)
    + (c - q - ao - io) * coalesce((prices -> 'output')::numeric, 0)
    + coalesce(counts[16]::numeric, 0) * coalesce((prices -> 'web_search')::numeric, 0)
    + coalesce((prices -> 'request')::numeric, 0);
  IF r + w + a + i > 0 THEN
    total := total + (r - ra - ri) * coalesce((prices -> 'cache_read')::numeric, 0)
      + ra * coalesce((prices -> 'cache_read_audio')::numeric, (prices -> 'cache_read')::numeric, 0)
      + ri * coalesce((prices -> 'cache_read_image')::numeric, (prices -> 'cache_read')::numeric, 0)
      + (w - w1) * coalesce((prices -> 'cache_write')::numeric, 0)
      + w1 * coalesce((prices -> 'cache_write_1h')::numeric, 0)
      + (a - ra) * coalesce((prices -> 'input_audio')::numeric, 0)
      + (i - ri) * coalesce((prices -> 'input_image')::numeric, 0);
  END IF;
  IF q + ao + io > 0 THEN
    total := total + q * coalesce((prices -> 'reasoning')::numeric, 0)
      + ao * coalesce((prices -> 'output_audio')::numeric, 0) + io * coalesce((prices -> 'output_image')::numeric, 0);
  END IF;
  IF total > 1e20 THEN
    RAISE EXCEPTION USING ERRCODE = 'numeric_value_out_of_range',
      MESSAGE = 'token_usage: the cost is past 100000000000000';
  END IF;
  RETURN total * 0.000001;
END
$function$;

-- The cost by the first of the models that `rows` has prices of and that prices the counts, rounded to money.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_cost_of(rows jsonb, counts bigint[], at timestamptz) RETURNS numeric
LANGUAGE plpgsql STABLE AS $function$
DECLARE
  sets jsonb[] := @extschema@._token_usage_prices_in_force(rows, at, coalesce(counts[1], 0));
  cost numeric;
BEGIN
  FOR i IN 1 .. pg_catalog.cardinality(sets) LOOP
    cost := @extschema@._token_usage_cost_by(sets[i], counts);
    IF cost IS NOT NULL THEN
      RETURN @extschema@._token_usage_half_even(cost, 12);
    END IF;
  END LOOP;
  RETURN NULL;
END
$function$;
$token_usage$, '@extschema@', home);

  EXECUTE replace($token_usage$
-- token_usage_from_response, and how recording reads numbers and times from JSON. Section 5 of the contract. The
-- normaliser itself is C++ in the native edition (from_response.cpp) and from_response_portable.sql in the portable one.

-- A value rounded half-even to `places`, without trailing zeros. round() is half away from zero. It is inlined where it
-- is given a column and no long expression; STRICT would keep it from that.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_half_even(value numeric, places integer) RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT pg_catalog.trim_scale(CASE
    WHEN pg_catalog.scale(value) <= places THEN value
    WHEN pg_catalog.abs(value - pg_catalog.trunc(value, places)) = ('5e-' || (places + 1)::text)::numeric
         AND pg_catalog.trunc(value, places) % ('2e-' || places::text)::numeric = 0
      THEN pg_catalog.trunc(value, places)
    ELSE pg_catalog.round(value, places) END)
$function$;

-- The count in a JSON number: whole, from 0 to 2^63-1 (12.0 is 12); another value is an error that names `path`.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_count(value jsonb, path text) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $function$
DECLARE
  number numeric;
BEGIN
  IF pg_catalog.jsonb_typeof(value) = 'number' THEN
    number := value::numeric;
    IF number >= 0 AND number <= 9223372036854775807 AND number = pg_catalog.trunc(number) THEN
      RETURN number;
    END IF;
  END IF;
  PERFORM @extschema@._token_usage_bad_argument(path, 'a whole number from 0 to 9223372036854775807', value::text);
END
$function$;

-- The instant in a JSON value: text in a form of section 2 of the contract (a date alone is its midnight in UTC), or
-- a number of Unix seconds (milliseconds from 10^11 on). NULL where it is none of these. Time is kept to the
-- microsecond; further digits are cut off.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_json_instant(value jsonb) RETURNS timestamptz
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  part text[];
  number numeric;
  year integer;
  month integer;
  day integer;
  seconds numeric;
  instant timestamptz;
BEGIN
  IF jsonb_typeof(value) = 'number' THEN
    number := value::numeric;
    IF number = trunc(number) AND number >= 100000000000 THEN
      number := number / 1000;
    END IF;
    IF number < -62135596800 OR number >= 253402300800 THEN
      RETURN NULL;
    END IF;
    number := floor(number * 1000000);
    RETURN '1970-01-01T00:00:00Z'::timestamptz + div(number, 1000000)::bigint * interval '1 second'
           + mod(number, 1000000)::bigint * interval '1 microsecond';
  ELSIF jsonb_typeof(value) IS DISTINCT FROM 'string' THEN
    RETURN NULL;
  END IF;
  part := regexp_match(value #>> '{}',
    '^([0-9]{4})-([0-9]{2})-([0-9]{2})(?:[ T]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:[.]([0-9]+))?)?'
    '(?: ?(Z|[+-][0-9]{2}:[0-9]{2}))?)?$');
  IF part IS NULL THEN
    RETURN NULL;
  END IF;
  year := part[1]::integer;
  month := part[2]::integer;
  day := part[3]::integer;
  IF year < 1 OR month NOT BETWEEN 1 AND 12 THEN
    RETURN NULL;
  ELSIF day < 1 OR day > date_part('day', make_date(year, month, 1) + interval '1 month - 1 day')
     OR coalesce(part[4], '0')::integer > 23 OR coalesce(part[5], '0')::integer > 59
     OR coalesce(part[6], '0')::integer > 59
     OR (part[8] <> 'Z' AND ("substring"(part[8], 2, 2)::integer > 23 OR "substring"(part[8], 5, 2)::integer > 59)) THEN
    RETURN NULL;
  END IF;
  instant := make_timestamptz(year, month, day, coalesce(part[4], '0')::integer, coalesce(part[5], '0')::integer,
                              coalesce(part[6], '0')::integer, 'UTC')
             + rpad("left"(coalesce(part[7], '0'), 6), 6, '0')::integer * interval '1 microsecond';
  IF part[8] <> 'Z' THEN
    instant := instant - ("left"(part[8], 1) || '1')::integer
      * ("substring"(part[8], 2, 2)::integer * 60 + "substring"(part[8], 5, 2)::integer) * interval '1 minute';
  END IF;
  IF instant < '0001-01-01T00:00:00Z'::timestamptz OR instant >= '10000-01-01T00:00:00Z'::timestamptz THEN
    RETURN NULL;
  END IF;
  RETURN instant;
END
$function$;

-- token_usage_from_response(ai_provider, response): the normalised usage object of a provider's response, of its
-- bare usage object or of the events of a stream (an array). Errors: 22023, naming the path of a bad count.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_from_response(ai_provider text, response jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  result record;
BEGIN
  IF ai_provider IS NULL THEN
    PERFORM @extschema@._token_usage_bad_argument('ai_provider', 'given', NULL);
  ELSIF response IS NULL THEN
    PERFORM @extschema@._token_usage_bad_argument('response', 'given', NULL);
  END IF;
  result := @extschema@._token_usage_normalise(ai_provider, response, 'response');
  RETURN result.usage;
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@.token_usage_from_response(ai_provider text, response jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT @extschema@._token_usage_from_response(ai_provider, response)
$function$;
$token_usage$, '@extschema@', home);

  EXECUTE replace($token_usage$
-- Exchange rates: token_usage_set_rate, and the rate in force at an instant. Section 6 of the contract.

CREATE OR REPLACE FUNCTION @extschema@._token_usage_set_rate(
  path name[], wanted_currency text, rate numeric, from_instant timestamptz) RETURNS numeric
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  rates text := @extschema@._token_usage_require_beside(
    @extschema@._token_usage_ledger(path), 'token_usage_exchange_rate');
  code text := upper(btrim(wanted_currency) COLLATE "C");
BEGIN
  IF code IS NULL OR code !~ '^[A-Z]{3}$' THEN
    PERFORM @extschema@._token_usage_bad_argument('currency', 'a currency code such as RUB', wanted_currency);
  ELSIF rate IS NULL OR rate = 'NaN' OR rate <= 0 OR rate::text = 'Infinity' THEN
    PERFORM @extschema@._token_usage_bad_argument('rate', 'a number above 0', rate::text);
  ELSIF NOT isfinite(from_instant) OR from_instant NOT BETWEEN '0001-01-01T00:00:00Z' AND '9999-12-31T23:59:59.999999Z' THEN
    PERFORM @extschema@._token_usage_bad_argument('from_instant', 'a time such as 2025-10-20T14:30:25Z', from_instant::text);
  END IF;
  EXECUTE format('INSERT INTO %s (currency, rate, valid_from) VALUES ($1, $2, $3)'
                 ' ON CONFLICT (currency, valid_from) DO UPDATE SET rate = EXCLUDED.rate', rates)
    USING code, rate, coalesce(from_instant, now());
  RETURN trim_scale(rate);
END
$function$;

-- token_usage_set_rate(currency, rate, from_instant): units of a currency per USD from an instant on (NULL: now).
-- Setting the same instant again replaces its rate. Returns the rate.
CREATE OR REPLACE FUNCTION @extschema@.token_usage_set_rate(
  currency text, rate numeric, from_instant timestamptz DEFAULT NULL) RETURNS numeric
LANGUAGE sql AS $function$
  SELECT @extschema@._token_usage_set_rate(pg_catalog.current_schemas(false), currency, rate, from_instant)
$function$;
$token_usage$, '@extschema@', home);

  EXECUTE replace($token_usage$
-- The price book: its tables, which of its models a name means, which prices are in force, and token_usage_cost.
-- Section 6 of the contract. Prices and counts are multiplied and added as exact decimals; a cost is rounded
-- half-even to the 12 places of money once, at the end. core/price.cpp and core/price_book.cpp are the twins.

-- The qualified name of a table beside a ledger; NULL where there is none.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_beside(ledger oid, table_name text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
  SELECT t FROM @extschema@._token_usage_table(ledger, table_name) AS t WHERE to_regclass(t) IS NOT NULL
$function$;

-- As above; a missing table is the error that names it and its remedy (42P01).
CREATE OR REPLACE FUNCTION @extschema@._token_usage_require_beside(ledger oid, table_name text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  found text := @extschema@._token_usage_beside(ledger, table_name);
BEGIN
  IF found IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'undefined_table',
      MESSAGE = format('token_usage: no %s table; run SELECT token_usage_migrate()', table_name);
  END IF;
  RETURN found;
END
$function$;

-- The part of token_usage_migrate() that recording needs beside the ledger: the tables of prices, rates and
-- repricing. Returns the steps. They belong to the caller, who may fill them by hand with plain INSERTs.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_migrate_recording(ledger oid) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  steps jsonb := '[]';
  item record;
  target text;
BEGIN
  FOR item IN
    SELECT t.name, t.definition, t.indexes, @extschema@._token_usage_beside(ledger, t.name) IS NULL AS missing
      FROM (VALUES
        ('token_usage_price', $table$
           id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
           source text NOT NULL DEFAULT 'manual',
           ai_provider text NOT NULL,
           ai_model text NOT NULL,
           token_class text NOT NULL,
           tier_start bigint NOT NULL DEFAULT 0,
           usd_per_million numeric,
           valid_from timestamptz NOT NULL DEFAULT '-infinity',
           time_from time NOT NULL DEFAULT '00:00',
           time_to time NOT NULL DEFAULT '24:00',
           CONSTRAINT check_token_usage_price_class CHECK (token_class IN (
             'input', 'output', 'cache_read', 'cache_write', 'cache_write_1h', 'cache_read_audio', 'cache_read_image',
             'reasoning', 'input_audio', 'output_audio', 'input_image', 'output_image', 'web_search', 'request')),
           CONSTRAINT check_token_usage_price_positive CHECK (usd_per_million >= 0 AND usd_per_million <> 'NaN'),
           CONSTRAINT check_token_usage_price_tier CHECK (tier_start >= 0)$table$,
         ARRAY['CREATE UNIQUE INDEX idx_token_usage_price_key ON %s (ai_provider, ai_model, source, token_class, '
               'tier_start, valid_from, time_from, time_to)',
               'CREATE INDEX idx_token_usage_price_manual ON %s (ai_provider, ai_model) WHERE source = ''manual''']),
        ('token_usage_price_provider', $table$
           source text NOT NULL,
           ai_provider text NOT NULL,
           position integer NOT NULL,
           match jsonb,
           fallback jsonb,
           PRIMARY KEY (source, ai_provider)$table$, ARRAY[]::text[]),
        ('token_usage_price_model', $table$
           source text NOT NULL,
           ai_provider text NOT NULL,
           ai_model text NOT NULL,
           position integer NOT NULL,
           match jsonb NOT NULL,
           PRIMARY KEY (source, ai_provider, ai_model)$table$, ARRAY[]::text[]),
        ('token_usage_exchange_rate', $table$
           currency text NOT NULL,
           rate numeric NOT NULL CHECK (rate > 0 AND rate <> 'NaN'),
           valid_from timestamptz NOT NULL,
           PRIMARY KEY (currency, valid_from)$table$, ARRAY[]::text[]),
        ('token_usage_reprice_log', $table$
           id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
           repriced_at timestamptz NOT NULL DEFAULT now(),
           row_id text NOT NULL,
           old_cost_usd numeric,
           new_cost_usd numeric,
           old_cost_rub numeric,
           new_cost_rub numeric$table$, ARRAY[]::text[])) AS t (name, definition, indexes)
  LOOP
    IF item.missing THEN
      target := @extschema@._token_usage_table(ledger, item.name);
      EXECUTE format('CREATE TABLE %s (%s)', target, item.definition);
      FOR i IN 1 .. cardinality(item.indexes) LOOP
        EXECUTE format(item.indexes[i], target);
      END LOOP;
      IF item.name <> 'token_usage_reprice_log' THEN
        EXECUTE format('GRANT SELECT ON %s TO PUBLIC', target);
      END IF;
    END IF;
    steps := steps || @extschema@._token_usage_step(
      'table ' || item.name, CASE WHEN item.missing THEN 'created' ELSE 'kept' END);
  END LOOP;
  RETURN steps;
END
$function$;

-- Whether a lower-case name contains what a catalogue's pattern describes. A pattern that is no regular expression
-- matches nothing: import refuses one, and a row changed by hand must not stop recording.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_regex_found(pattern text, name text) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
  RETURN name ~ pattern;
EXCEPTION WHEN invalid_regular_expression THEN
  RETURN false;
END
$function$;

-- Whether a lower-case name satisfies a match clause of any kind.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_satisfies(clause jsonb, name text) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE AS $function$
DECLARE
  item jsonb;
BEGIN
  IF pg_catalog.jsonb_typeof(clause) IS DISTINCT FROM 'object' THEN
    RETURN false;
  ELSIF clause ? 'equals' THEN
    RETURN name = pg_catalog.lower(pg_catalog.btrim(clause ->> 'equals') COLLATE "C");
  ELSIF clause ? 'starts_with' THEN
    RETURN pg_catalog.starts_with(name, pg_catalog.lower(pg_catalog.btrim(clause ->> 'starts_with') COLLATE "C"));
  ELSIF clause ? 'contains' THEN
    RETURN pg_catalog.strpos(name, pg_catalog.lower(pg_catalog.btrim(clause ->> 'contains') COLLATE "C")) > 0;
  ELSIF clause ? 'ends_with' THEN
    RETURN pg_catalog.starts_with(
      pg_catalog.reverse(name),
      pg_catalog.reverse(pg_catalog.lower(pg_catalog.btrim(clause ->> 'ends_with') COLLATE "C")));
  ELSIF clause ? 'regex' THEN
    RETURN @extschema@._token_usage_regex_found(clause ->> 'regex', name);
  ELSIF clause ? 'or' OR clause ? 'and' THEN
    item := coalesce(clause -> 'or', clause -> 'and');
    FOR i IN 0 .. CASE WHEN pg_catalog.jsonb_typeof(item) = 'array'
                       THEN pg_catalog.jsonb_array_length(item) ELSE 0 END - 1 LOOP
      IF @extschema@._token_usage_satisfies(item -> i, name) = (clause ? 'or') THEN
        RETURN clause ? 'or';
      END IF;
    END LOOP;
    RETURN NOT clause ? 'or';
  END IF;
  RETURN false;
END
$function$;

-- The same, inlined into queries: the frequent kinds without a call.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_matches(clause jsonb, name text) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $function$
  SELECT CASE
    WHEN clause IS NULL OR pg_catalog.length(name) > 300 THEN false
    WHEN clause OPERATOR(pg_catalog.->>) 'equals' OPERATOR(pg_catalog.=) name THEN true
    WHEN clause OPERATOR(pg_catalog.?) 'starts_with' THEN pg_catalog.starts_with(
      name, pg_catalog.lower(pg_catalog.btrim(clause OPERATOR(pg_catalog.->>) 'starts_with') COLLATE "C"))
    ELSE @extschema@._token_usage_satisfies(clause, name) END
$function$;

-- The spellings under which a model is looked up, likeliest first: as given, without a path before it, and each
-- without the date of a snapshot.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_model_variants(ai_model text) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE AS $function$
DECLARE
  variants text[] := ARRAY[pg_catalog.lower(pg_catalog.btrim(ai_model, E' \t\n\r') COLLATE "C")];
  variant text := pg_catalog.substring(variants[1], '[^/]*$');
BEGIN
  IF variant <> '' AND variant <> ALL (variants) THEN
    variants := variants || variant;
  END IF;
  FOR i IN 1 .. pg_catalog.cardinality(variants) LOOP
    variant := pg_catalog.regexp_replace(
      variants[i], '(.)(-[0-9]{4}-[0-9]{2}-[0-9]{2}|-[0-9]{8}|@[0-9]{8}|-latest)$', E'\\1');
    IF variant <> ALL (variants) THEN
      variants := variants || variant;
    END IF;
  END LOOP;
  RETURN variants;
END
$function$;

-- A provider of one catalogue, by its id, by ours, or by the catalogue's match clause.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_price_provider(
  providers text, source text, name text, OUT id text, OUT fallback text[])
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  wanted record := @extschema@._token_usage_provider(name);
BEGIN
  EXECUTE format(
    'SELECT p.ai_provider, ARRAY(SELECT jsonb_array_elements_text(p.fallback)) FROM %s p'
    ' WHERE p.source = $1 AND (p.ai_provider = $2 OR (p.ai_provider = $3 AND $3 <> '''')'
    ' OR @extschema@._token_usage_matches(p.match, $2))'
    ' ORDER BY p.ai_provider = $2 DESC, (p.ai_provider = $3 AND $3 <> '''') DESC, p.position LIMIT 1', providers)
    INTO id, fallback USING source, wanted.name, wanted.id;
END
$function$;

-- The models of the price book that a name means, one in each source that knows it, in the order in which sources
-- count: entered by hand, then the catalogues by name.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_find_prices(
  ledger oid, ai_provider text, ai_model text, OUT source text, OUT provider text, OUT model text)
RETURNS SETOF record
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
DECLARE
  prices text := @extschema@._token_usage_beside(ledger, 'token_usage_price');
  providers text := @extschema@._token_usage_beside(ledger, 'token_usage_price_provider');
  models text := @extschema@._token_usage_beside(ledger, 'token_usage_price_model');
  wanted record := @extschema@._token_usage_provider(ai_provider);
  variants text[];
  sources text[];
  owner record;
  name text;
BEGIN
  IF prices IS NULL THEN
    RETURN;
  END IF;
  variants := @extschema@._token_usage_model_variants(ai_model);
  source := 'manual';
  EXECUTE format($query$
    SELECT p.ai_provider, p.ai_model
      FROM (SELECT DISTINCT ai_provider, ai_model FROM %s WHERE source = 'manual') p
     CROSS JOIN LATERAL (SELECT lower(btrim(p.ai_provider) COLLATE "C") AS provider,
                                lower(btrim(p.ai_model) COLLATE "C") AS model) l
     WHERE (l.provider IN ($1, '*') OR (l.provider = $2 AND $2 <> ''))
       AND (l.model = ANY ($3) OR ("right"(l.model, 1) = '*' AND starts_with($3[1], "left"(l.model, -1))))
     ORDER BY l.provider = '*', array_position($3, l.model) NULLS LAST, length(l.model) DESC,
              p.ai_provider COLLATE "C", p.ai_model COLLATE "C"
     LIMIT 1$query$, prices) INTO provider, model USING wanted.name, wanted.id, variants;
  IF model IS NOT NULL THEN
    RETURN NEXT;
  END IF;
  IF providers IS NULL OR models IS NULL THEN
    RETURN;
  END IF;
  EXECUTE format('SELECT ARRAY(SELECT DISTINCT source COLLATE "C" FROM %s WHERE source <> ''manual'' ORDER BY 1)',
                 providers) INTO sources;
  FOREACH source IN ARRAY sources LOOP
    variants := @extschema@._token_usage_model_variants(ai_model);
    owner := @extschema@._token_usage_price_provider(providers, source, ai_provider);
    IF owner.id IS NULL THEN
      -- A gateway's name for it: openai/gpt-4o.
      CONTINUE WHEN strpos(ai_model, '/') = 0;
      owner := @extschema@._token_usage_price_provider(providers, source, split_part(ai_model, '/', 1));
      CONTINUE WHEN owner.id IS NULL;
      variants := @extschema@._token_usage_model_variants(substr(ai_model, strpos(ai_model, '/') + 1));
    END IF;
    model := NULL;
    FOREACH name IN ARRAY variants LOOP
      EXECUTE format(
        'SELECT m.ai_provider, m.ai_model FROM %s m WHERE m.source = $1 AND m.ai_provider = ANY ($2)'
        ' AND @extschema@._token_usage_matches(m.match, $3)'
        ' ORDER BY array_position($2, m.ai_provider), m.position LIMIT 1', models)
        INTO provider, model USING source, owner.id || owner.fallback, name;
      EXIT WHEN model IS NOT NULL;
    END LOOP;
    IF model IS NOT NULL THEN
      RETURN NEXT;
    END IF;
  END LOOP;
END
$function$;

-- The price rows of what a name means, as a JSON array: {"hit": which of the models found, "class", "tier", "price",
-- "since", "from", "to", "id"}. Empty where nothing is known.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_price_rows(ledger oid, ai_provider text, ai_model text)
RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  prices text := @extschema@._token_usage_beside(ledger, 'token_usage_price');
  hit record;
  hits integer := 0;
  part jsonb;
  found jsonb := '[]';
BEGIN
  FOR hit IN SELECT * FROM @extschema@._token_usage_find_prices(ledger, ai_provider, ai_model) LOOP
    hits := hits + 1;
    EXECUTE format($query$
      SELECT jsonb_agg(jsonb_build_object(
               'hit', $4, 'class', token_class, 'tier', tier_start, 'price', usd_per_million, 'since', valid_from,
               'from', time_from, 'to', time_to, 'id', id))
        FROM %s WHERE source = $1 AND ai_provider = $2 AND ai_model = $3$query$, prices)
      INTO part USING hit.source, hit.provider, hit.model, hits;
    found := found || coalesce(part, '[]');
  END LOOP;
  RETURN found;
END
$function$;

-- The prices of the first model found, where they hold for most requests: from an instant on, for prompts up to a
-- context tier, at all hours, with input and output both priced. NULL where the hour counts. What they cannot price is left
-- to _token_usage_cost_of().
CREATE OR REPLACE FUNCTION @extschema@._token_usage_usual_prices(
  rows jsonb, OUT since timestamptz, OUT prompt_to bigint, OUT input numeric, OUT output numeric, OUT cache_read numeric,
  OUT cache_write numeric, OUT reasoning numeric, OUT request numeric)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
  SELECT max(r.since), coalesce(min(r.tier) FILTER (WHERE r.tier > 0), 9223372036854775807),
         min(r.price) FILTER (WHERE r.newest AND r.class = 'input'),
         min(r.price) FILTER (WHERE r.newest AND r.class = 'output'),
         coalesce(min(r.price) FILTER (WHERE r.newest AND r.class = 'cache_read'),
                  min(r.price) FILTER (WHERE r.newest AND r.class = 'input')),
         coalesce(min(r.price) FILTER (WHERE r.newest AND r.class = 'cache_write'),
                  min(r.price) FILTER (WHERE r.newest AND r.class = 'input')),
         min(r.price) FILTER (WHERE r.newest AND r.class = 'reasoning'),
         coalesce(min(r.price) FILTER (WHERE r.newest AND r.class = 'request'), 0)
    FROM (SELECT p.*, row_number() OVER (PARTITION BY p.class, p.tier ORDER BY p.since DESC, p.id DESC) = 1
                      AND p.tier = 0 AS newest
            FROM jsonb_to_recordset(rows) AS p (hit integer, class text, tier bigint, price numeric, since timestamptz,
                                                "from" time, "to" time, id bigint)
           WHERE p.hit = 1) r
   GROUP BY r.hit
  HAVING bool_and(r."from" = '00:00' AND r."to" = '24:00')
     AND bool_or(r.newest AND r.class = 'input' AND r.price IS NOT NULL)
     AND bool_or(r.newest AND r.class = 'output' AND r.price IS NOT NULL)
   UNION ALL
  SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
   LIMIT 1
$function$;

-- The cost of a request e (its counts and instant) by a model's rows and usual prices p, as an expression; to be
-- rounded to 12 places. Counts are in
-- the order that prices_portable.sql tells; 4 and 5 are tokens read from and written to a cache.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_cost_expression() RETURNS text
LANGUAGE sql IMMUTABLE AS $function$
  SELECT 'CASE WHEN e.at >= p.since AND e.counts[1] <= p.prompt_to AND e.counts[1] < 1000000000000000'
         '      AND e.counts[2] < 1000000000000000'
         '      AND coalesce(e.counts[4], 0) + coalesce(e.counts[5], 0) <= e.counts[1]'
         '      AND (p.reasoning IS NULL OR coalesce(e.counts[10], 0) = 0)'
         '      AND coalesce(nullif(e.counts[7], 0), nullif(e.counts[11], 0), nullif(e.counts[12], 0),'
         '                   nullif(e.counts[13], 0), nullif(e.counts[14], 0), nullif(e.counts[16], 0)) IS NULL'
         '     THEN ((e.counts[1] - coalesce(e.counts[4], 0) - coalesce(e.counts[5], 0)) * p.input'
         '           + coalesce(e.counts[4] * p.cache_read, 0) + coalesce(e.counts[5] * p.cache_write, 0)'
         '           + e.counts[2] * p.output + p.request) * 0.000001'
         '     WHEN p.rows <> ''[]'' THEN @extschema@._token_usage_cost_of(p.rows, e.counts, e.at) END'
$function$;

-- Classes that contradict each other are an error that names the key under `argument`.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_check_usage(usage jsonb, argument text) RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $function$
BEGIN
  IF coalesce((usage ->> 'cache_read_tokens')::numeric, 0) + coalesce((usage ->> 'cache_write_tokens')::numeric, 0)
     > coalesce((usage ->> 'prompt_tokens')::numeric, 0) THEN
    PERFORM @extschema@._token_usage_bad_argument(
      argument || '.cache_read_tokens', 'at most prompt_tokens with cache_write_tokens',
      coalesce(usage ->> 'cache_read_tokens', '0')::numeric::bigint::text);
  ELSIF coalesce((usage ->> 'cache_write_1h_tokens')::numeric, 0)
        > coalesce((usage ->> 'cache_write_tokens')::numeric, 0) THEN
    PERFORM @extschema@._token_usage_bad_argument(
      argument || '.cache_write_1h_tokens', 'at most cache_write_tokens',
      (usage ->> 'cache_write_1h_tokens')::numeric::bigint::text);
  ELSIF coalesce((usage ->> 'reasoning_tokens')::numeric, 0)
        > coalesce((usage ->> 'completion_tokens')::numeric, 0) THEN
    PERFORM @extschema@._token_usage_bad_argument(
      argument || '.reasoning_tokens', 'at most completion_tokens', (usage ->> 'reasoning_tokens')::numeric::bigint::text);
  END IF;
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_cost(
  path name[], ai_provider text, ai_model text, usage jsonb, at timestamptz) RETURNS numeric
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  keys constant text[] := '{prompt_tokens,completion_tokens,total_tokens,cache_read_tokens,cache_write_tokens,'
    'cache_write_5m_tokens,cache_write_1h_tokens,cache_read_audio_tokens,cache_read_image_tokens,reasoning_tokens,'
    'input_audio_tokens,output_audio_tokens,input_image_tokens,output_image_tokens,tool_use_prompt_tokens,'
    'web_search_requests}';
  key text;
BEGIN
  IF ai_provider IS NULL THEN
    PERFORM @extschema@._token_usage_bad_argument('ai_provider', 'given', NULL);
  ELSIF ai_model IS NULL THEN
    PERFORM @extschema@._token_usage_bad_argument('ai_model', 'given', NULL);
  ELSIF usage IS NULL THEN
    PERFORM @extschema@._token_usage_bad_argument('usage', 'given', NULL);
  ELSIF jsonb_typeof(usage) <> 'object' THEN
    PERFORM @extschema@._token_usage_bad_argument('usage', 'an object', usage::text);
  END IF;
  FOR key IN SELECT jsonb_object_keys(usage) LOOP
    IF key = ANY (keys) THEN
      IF usage -> key <> 'null' THEN
        PERFORM @extschema@._token_usage_count(usage -> key, 'usage.' || key);
      ELSE
        usage := usage - key;
      END IF;
    ELSIF key NOT IN ('not_tokens', 'provider_cost_usd', 'model', 'unattributed_tokens', 'warnings') THEN
      PERFORM @extschema@._token_usage_bad_argument(
        'usage.' || key, 'one of the keys of token_usage_from_response', (usage -> key)::text);
    END IF;
  END LOOP;
  PERFORM @extschema@._token_usage_check_usage(usage, 'usage');
  IF usage -> 'not_tokens' = 'true' THEN
    RETURN NULL;
  END IF;
  RETURN @extschema@._token_usage_cost_of(
    @extschema@._token_usage_price_rows(@extschema@._token_usage_ledger(path), ai_provider, ai_model),
    ARRAY(SELECT CASE WHEN k.n <= 2 THEN coalesce((usage -> k.key)::bigint, 0) ELSE (usage -> k.key)::bigint END
            FROM unnest(keys) WITH ORDINALITY AS k (key, n) ORDER BY k.n),
    coalesce(at, now()));
END
$function$;

-- token_usage_cost(ai_provider, ai_model, usage, at): the decimal cost in USD of a normalised usage object by the
-- prices in force at `at` (NULL: now); NULL where no price is known.
CREATE OR REPLACE FUNCTION @extschema@.token_usage_cost(
  ai_provider text, ai_model text, usage jsonb, at timestamptz DEFAULT NULL) RETURNS numeric
LANGUAGE sql STABLE AS $function$
  SELECT @extschema@._token_usage_cost(pg_catalog.current_schemas(false), ai_provider, ai_model, usage, at)
$function$;
$token_usage$, '@extschema@', home);

  EXECUTE replace($token_usage$
-- token_usage_import_prices: reads the two catalogues that people keep up to date into the price book. Section 6 of
-- the contract. Importing again changes only what changed, and never the past: what differs holds from the day of
-- the import. core/catalogue.cpp is the twin.
--   pydantic/genai-prices (data.json, data_slim.json): https://github.com/pydantic/genai-prices, prices/units.yml
--   LiteLLM (model_prices_and_context_window.json): https://docs.litellm.ai/docs/provider_registration/add_model_pricing

-- The class that a catalogue's field prices, and what turns its number into USD per million.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_price_field(
  catalogue text, field text, OUT class text, OUT factor integer)
LANGUAGE sql IMMUTABLE AS $function$
  SELECT pg_catalog.max(f.class), pg_catalog.max(f.factor)
    FROM (VALUES
      ('genai-prices', 'input_mtok', 'input', 1), ('genai-prices', 'output_mtok', 'output', 1),
      ('genai-prices', 'cache_read_mtok', 'cache_read', 1), ('genai-prices', 'cache_write_mtok', 'cache_write', 1),
      ('genai-prices', 'cache_write_1h_mtok', 'cache_write_1h', 1),
      ('genai-prices', 'cache_audio_read_mtok', 'cache_read_audio', 1),
      ('genai-prices', 'cache_image_read_mtok', 'cache_read_image', 1),
      ('genai-prices', 'output_reasoning_mtok', 'reasoning', 1),
      ('genai-prices', 'input_audio_mtok', 'input_audio', 1), ('genai-prices', 'output_audio_mtok', 'output_audio', 1),
      ('genai-prices', 'input_image_mtok', 'input_image', 1), ('genai-prices', 'output_image_mtok', 'output_image', 1),
      ('genai-prices', 'web_searches_kcount', 'web_search', 1000), ('genai-prices', 'requests_kcount', 'request', 1000),
      ('litellm', 'input_cost_per_token', 'input', 1000000), ('litellm', 'output_cost_per_token', 'output', 1000000),
      ('litellm', 'cache_read_input_token_cost', 'cache_read', 1000000),
      ('litellm', 'cache_creation_input_token_cost', 'cache_write', 1000000),
      ('litellm', 'cache_creation_input_token_cost_above_1hr', 'cache_write_1h', 1000000),
      ('litellm', 'cache_read_input_audio_token_cost', 'cache_read_audio', 1000000),
      ('litellm', 'cache_read_input_token_cost_per_audio_token', 'cache_read_audio', 1000000),
      ('litellm', 'cache_read_input_image_token_cost', 'cache_read_image', 1000000),
      ('litellm', 'output_cost_per_reasoning_token', 'reasoning', 1000000),
      ('litellm', 'input_cost_per_audio_token', 'input_audio', 1000000),
      ('litellm', 'output_cost_per_audio_token', 'output_audio', 1000000),
      ('litellm', 'input_cost_per_image_token', 'input_image', 1000000),
      ('litellm', 'output_cost_per_image_token', 'output_image', 1000000)) AS f (catalogue, field, class, factor)
   WHERE f.catalogue OPERATOR(pg_catalog.=) $1 AND f.field OPERATOR(pg_catalog.=) $2
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_is_regex(pattern text) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE AS $function$
BEGIN
  PERFORM '' ~ pattern;
  RETURN true;
EXCEPTION WHEN invalid_regular_expression THEN
  RETURN false;
END
$function$;

-- Whether a value is a match clause as the catalogues write it: one key, of a known kind.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_is_match(clause jsonb) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE AS $function$
DECLARE
  key text;
  value jsonb;
BEGIN
  IF pg_catalog.jsonb_typeof(clause) IS DISTINCT FROM 'object'
     OR (SELECT pg_catalog.count(*) FROM pg_catalog.jsonb_object_keys(clause)) <> 1 THEN
    RETURN false;
  END IF;
  SELECT e.key, e.value INTO key, value FROM pg_catalog.jsonb_each(clause) e;
  IF key IN ('or', 'and') THEN
    RETURN pg_catalog.jsonb_typeof(value) = 'array' AND (
      SELECT coalesce(pg_catalog.bool_and(@extschema@._token_usage_is_match(i)), true)
        FROM pg_catalog.jsonb_array_elements(value) i);
  END IF;
  RETURN pg_catalog.jsonb_typeof(value) = 'string'
    AND (key IN ('equals', 'starts_with', 'ends_with', 'contains')
         OR (key = 'regex' AND @extschema@._token_usage_is_regex(value #>> '{}')));
END
$function$;

-- A price as USD per million to 18 places; another value is an error that names `path`.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_read_price(value jsonb, factor integer, path text) RETURNS numeric
LANGUAGE plpgsql IMMUTABLE AS $function$
BEGIN
  IF pg_catalog.jsonb_typeof(value) = 'number' AND value::numeric >= 0
     AND value::numeric * factor < 170141183460469231731 THEN
    RETURN @extschema@._token_usage_half_even(value::numeric * factor, 18);
  END IF;
  PERFORM @extschema@._token_usage_bad_argument(path, 'a number from 0', value::text);
END
$function$;

-- The non-empty text at a key of an object.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_read_name(object jsonb, key text, path text) RETURNS text
LANGUAGE plpgsql IMMUTABLE AS $function$
BEGIN
  IF pg_catalog.jsonb_typeof(object) <> 'object' THEN
    PERFORM @extschema@._token_usage_bad_argument(path, 'an object', object::text);
  ELSIF coalesce(pg_catalog.jsonb_typeof(object -> key) <> 'string' OR object -> key = '""', true) THEN
    PERFORM @extschema@._token_usage_bad_argument(path || '.' || key, 'a non-empty text', nullif(object -> key, 'null')::text);
  END IF;
  RETURN object ->> key;
END
$function$;

-- `HH:MM`, `HH:MM:SS`, with or without Z, to 24:00; NULL for another value.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_read_hour(value jsonb) RETURNS time
LANGUAGE sql IMMUTABLE AS $function$
  SELECT CASE WHEN pg_catalog.jsonb_typeof(value) OPERATOR(pg_catalog.=) 'string' AND (value OPERATOR(pg_catalog.#>>) '{}')
                OPERATOR(pg_catalog.~) '^(([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?|24:00(:00)?)Z?$'
              THEN pg_catalog.rtrim(value OPERATOR(pg_catalog.#>>) '{}', 'Z')::time END
$function$;

-- The prices of one entry of genai-prices, and the keys that have no class here (class NULL).
CREATE OR REPLACE FUNCTION @extschema@._token_usage_genai_prices(
  prices jsonb, path text, OUT class text, OUT tier bigint, OUT price numeric, OUT ignored text)
RETURNS SETOF record LANGUAGE plpgsql IMMUTABLE AS $function$
#variable_conflict use_variable
DECLARE
  item record;
  field record;
  step jsonb;
  place text;
BEGIN
  IF pg_catalog.jsonb_typeof(prices) <> 'object' THEN
    PERFORM @extschema@._token_usage_bad_argument(path, 'an object', prices::text);
  END IF;
  FOR item IN SELECT e.key, e.value FROM pg_catalog.jsonb_each(prices) e LOOP
    field := @extschema@._token_usage_price_field('genai-prices', item.key);
    place := path || '.' || item.key;
    class := field.class;
    tier := 0;
    ignored := NULL;
    IF class IS NULL THEN
      ignored := item.key;
      RETURN NEXT;
    ELSIF pg_catalog.jsonb_typeof(item.value) = 'object' THEN
      IF coalesce(item.value -> 'base', 'null') = 'null'
         OR pg_catalog.jsonb_typeof(item.value -> 'tiers') IS DISTINCT FROM 'array' THEN
        PERFORM @extschema@._token_usage_bad_argument(place, 'a number or a base with tiers', item.value::text);
      END IF;
      price := @extschema@._token_usage_read_price(item.value -> 'base', field.factor, place || '.base');
      RETURN NEXT;
      FOR step IN SELECT i FROM pg_catalog.jsonb_array_elements(item.value -> 'tiers') i LOOP
        IF pg_catalog.jsonb_typeof(step) <> 'object' THEN
          PERFORM @extschema@._token_usage_bad_argument(place || '.tiers', 'an object', step::text);
        END IF;
        tier := @extschema@._token_usage_count(nullif(step -> 'start', 'null'), place || '.tiers.start');
        IF tier = 0 OR coalesce(step -> 'price', 'null') = 'null' THEN
          PERFORM @extschema@._token_usage_bad_argument(place || '.tiers', 'a list of start and price', step::text);
        END IF;
        price := @extschema@._token_usage_read_price(step -> 'price', field.factor, place || '.tiers.price');
        RETURN NEXT;
      END LOOP;
    ELSIF item.value <> 'null' THEN
      price := @extschema@._token_usage_read_price(item.value, field.factor, place);
      RETURN NEXT;
    END IF;
  END LOOP;
END
$function$;

-- The price list of a genai-prices model, cut into segments of time. In force is the last entry whose condition
-- holds, or else the first one; an entry for a time of day lies over the whole-day one before it.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_genai_segments(
  prices jsonb, path text, OUT kind text, OUT since timestamptz, OUT class text, OUT tier bigint,
  OUT time_from time, OUT time_to time, OUT price numeric)
RETURNS SETOF record LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
DECLARE
  entry jsonb;
  place text;
  starts timestamptz[] := '{}';
  froms time[] := '{}';
  tos time[] := '{}';
  entries jsonb[] := '{}';
  begun timestamptz;
  hour_from time;
  hour_to time;
  base integer;
  item record;
BEGIN
  IF jsonb_typeof(prices) <> 'array' THEN
    prices := jsonb_build_array(jsonb_build_object('prices', prices));
    path := "left"(path, -7);
  END IF;
  FOR i IN 0 .. jsonb_array_length(prices) - 1 LOOP
    entry := prices -> i;
    place := CASE WHEN path LIKE '%.prices' THEN format('%s[%s]', path, i) ELSE path END;
    IF jsonb_typeof(entry) <> 'object' THEN
      PERFORM @extschema@._token_usage_bad_argument(place, 'an object', entry::text);
    ELSIF coalesce(entry -> 'prices', 'null') = 'null' THEN
      PERFORM @extschema@._token_usage_bad_argument(place || '.prices', 'an object', NULL);
    END IF;
    SELECT coalesce(jsonb_agg(to_jsonb(p)), '[]') INTO entry
      FROM @extschema@._token_usage_genai_prices(entry -> 'prices', place || '.prices') p;
    entries := entries || entry;
    begun := NULL;
    hour_from := NULL;
    hour_to := NULL;
    entry := prices -> i -> 'constraint';
    IF entry <> 'null' THEN
      IF jsonb_typeof(entry -> 'start_date') = 'string' AND length(entry ->> 'start_date') = 10 THEN
        begun := @extschema@._token_usage_json_instant(entry -> 'start_date');
      END IF;
      IF begun IS NULL THEN
        hour_from := @extschema@._token_usage_read_hour(entry -> 'start_time');
        hour_to := @extschema@._token_usage_read_hour(entry -> 'end_time');
        IF hour_from IS NULL OR hour_to IS NULL THEN
          PERFORM @extschema@._token_usage_bad_argument(
            place || '.constraint', 'a start_date or a start_time and end_time', entry::text);
        END IF;
      END IF;
    END IF;
    starts := starts || begun;
    froms := froms || hour_from;
    tos := tos || hour_to;
  END LOOP;
  FOR item IN SELECT DISTINCT coalesce(s, '-infinity') AS since
                FROM unnest(starts || '-infinity'::timestamptz) s ORDER BY 1 LOOP
    kind := 'segment';
    since := item.since;
    class := NULL;
    tier := NULL;
    time_from := NULL;
    time_to := NULL;
    price := NULL;
    RETURN NEXT;
    kind := 'price';
    base := 1;
    FOR i IN 1 .. cardinality(entries) LOOP
      IF froms[i] IS NULL AND (starts[i] IS NULL OR starts[i] <= since) THEN
        base := i;
      END IF;
    END LOOP;
    FOR i IN base .. cardinality(entries) LOOP
      CONTINUE WHEN i > base AND froms[i] IS NULL;
      time_from := CASE WHEN i > base THEN froms[i] ELSE '00:00' END;
      time_to := CASE WHEN i > base THEN tos[i] ELSE '24:00' END;
      FOR class, tier, price IN
        SELECT p.class, p.tier, p.price FROM jsonb_to_recordset(entries[i]) AS p (class text, tier bigint, price numeric)
         WHERE p.class IS NOT NULL LOOP
        RETURN NEXT;
      END LOOP;
    END LOOP;
  END LOOP;
  kind := 'ignored';
  FOR class IN SELECT DISTINCT p.ignored FROM unnest(entries) e, jsonb_to_recordset(e) AS p (ignored text)
                WHERE p.ignored IS NOT NULL LOOP
    RETURN NEXT;
  END LOOP;
END
$function$;

-- What a genai-prices catalogue says, one row per thing: kind provider, model, segment, price or ignored (its class
-- is then the key that has none here).
CREATE OR REPLACE FUNCTION @extschema@._token_usage_read_genai(
  providers jsonb, OUT kind text, OUT ai_provider text, OUT ai_model text, OUT rank integer, OUT match jsonb,
  OUT fallback jsonb, OUT since timestamptz, OUT class text, OUT tier bigint, OUT time_from time, OUT time_to time,
  OUT price numeric)
RETURNS SETOF record LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
DECLARE
  provider record;
  model record;
  path text;
BEGIN
  FOR provider IN SELECT p.value, p.ordinality::integer - 1 AS n
                    FROM jsonb_array_elements(providers) WITH ORDINALITY p LOOP
    ai_provider := @extschema@._token_usage_read_name(provider.value, 'id', format('catalogue[%s]', provider.n));
    path := 'catalogue.' || ai_provider;
    match := nullif(provider.value -> 'provider_match', 'null');
    IF match IS NOT NULL AND NOT @extschema@._token_usage_is_match(match) THEN
      PERFORM @extschema@._token_usage_bad_argument(path || '.provider_match', 'a match clause', match::text);
    END IF;
    fallback := nullif(provider.value -> 'fallback_model_providers', 'null');
    IF jsonb_typeof(fallback) <> 'array' THEN
      PERFORM @extschema@._token_usage_bad_argument(path || '.fallback_model_providers', 'an array', fallback::text);
    ELSIF jsonb_typeof(provider.value -> 'models') IS DISTINCT FROM 'array' THEN
      PERFORM @extschema@._token_usage_bad_argument(path || '.models', 'an array',
                                             nullif(provider.value -> 'models', 'null')::text);
    END IF;
    kind := 'provider';
    ai_model := NULL;
    rank := provider.n;
    RETURN NEXT;
    fallback := NULL;
    FOR model IN SELECT m.value, m.ordinality::integer - 1 AS n
                   FROM jsonb_array_elements(provider.value -> 'models') WITH ORDINALITY m LOOP
      path := format('catalogue.%s.models[%s]', ai_provider, model.n);
      ai_model := @extschema@._token_usage_read_name(model.value, 'id', path);
      path := format('catalogue.%s.%s', ai_provider, ai_model);
      kind := 'model';
      rank := model.n;
      match := nullif(model.value -> 'match', 'null');
      IF NOT @extschema@._token_usage_is_match(match) THEN
        PERFORM @extschema@._token_usage_bad_argument(path || '.match', 'a match clause', match::text);
      ELSIF coalesce(model.value -> 'prices', 'null') = 'null' THEN
        PERFORM @extschema@._token_usage_bad_argument(path || '.prices', 'an object', NULL);
      END IF;
      RETURN NEXT;
      match := NULL;
      FOR kind, since, class, tier, time_from, time_to, price IN
        SELECT s.kind, s.since, s.class, s.tier, s.time_from, s.time_to, s.price
          FROM @extschema@._token_usage_genai_segments(model.value -> 'prices', path || '.prices') s LOOP
        RETURN NEXT;
      END LOOP;
    END LOOP;
  END LOOP;
END
$function$;

-- The prices of a LiteLLM entry or of one of its tiers.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_litellm_prices(
  entry jsonb, path text, from_tier bigint, OUT class text, OUT tier bigint, OUT price numeric)
RETURNS SETOF record LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_variable
DECLARE
  item record;
  field record;
  above text[];
BEGIN
  FOR item IN SELECT e.key, e.value FROM jsonb_each(entry) e WHERE e.value <> 'null' LOOP
    above := NULL;
    field := @extschema@._token_usage_price_field('litellm', item.key);
    IF field.class IS NULL THEN
      above := regexp_match(item.key, '^(.*)_above_([0-9]{1,9})k_tokens$');
      CONTINUE WHEN above IS NULL;
      field := @extschema@._token_usage_price_field('litellm', above[1]);
      CONTINUE WHEN field.class IS NULL;
    END IF;
    class := field.class;
    tier := greatest(from_tier, coalesce(above[2]::bigint * 1000, 0));
    price := @extschema@._token_usage_read_price(item.value, field.factor, path || '.' || item.key);
    RETURN NEXT;
  END LOOP;
END
$function$;

-- What a LiteLLM catalogue says, in the form of _token_usage_read_genai.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_read_litellm(
  catalogue jsonb, OUT kind text, OUT ai_provider text, OUT ai_model text, OUT rank integer, OUT match jsonb,
  OUT fallback jsonb, OUT since timestamptz, OUT class text, OUT tier bigint, OUT time_from time, OUT time_to time,
  OUT price numeric)
RETURNS SETOF record LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
DECLARE
  entry record;
  step jsonb;
  path text;
  name text;
  id record;
  prices jsonb;
  found text[] := '{}';
  n integer := 0;
BEGIN
  -- A whole name goes before one with a prefix taken off; JSON objects promise no order of their own.
  FOR entry IN SELECT e.key, e.value FROM jsonb_each(catalogue) e WHERE e.key <> 'sample_spec'
                ORDER BY octet_length(e.key), e.key COLLATE "C" LOOP
    path := 'catalogue.' || entry.key;
    IF jsonb_typeof(entry.value) <> 'object' THEN
      PERFORM @extschema@._token_usage_bad_argument(path, 'an object', entry.value::text);
    END IF;
    SELECT coalesce(jsonb_agg(to_jsonb(p)), '[]') INTO prices
      FROM @extschema@._token_usage_litellm_prices(entry.value, path, 0) p;
    step := nullif(entry.value -> 'tiered_pricing', 'null');
    IF jsonb_typeof(step) <> 'array' THEN
      PERFORM @extschema@._token_usage_bad_argument(path || '.tiered_pricing', 'an array', step::text);
    END IF;
    FOR step IN SELECT t FROM jsonb_array_elements(step) t LOOP
      IF jsonb_typeof(step) <> 'object' THEN
        PERFORM @extschema@._token_usage_bad_argument(path || '.tiered_pricing', 'an object', step::text);
      ELSIF jsonb_typeof(step -> 'range') IS DISTINCT FROM 'array' OR step -> 'range' = '[]' THEN
        PERFORM @extschema@._token_usage_bad_argument(path || '.tiered_pricing.range', 'an array',
                                               nullif(step -> 'range', 'null')::text);
      END IF;
      SELECT prices || coalesce(jsonb_agg(to_jsonb(p)), '[]') INTO prices
        FROM @extschema@._token_usage_litellm_prices(
          step, path || '.tiered_pricing',
          @extschema@._token_usage_count(step -> 'range' -> 0, path || '.tiered_pricing.range[0]')) p;
    END LOOP;
    step := nullif(entry.value -> 'search_context_cost_per_query' -> 'search_context_size_medium', 'null');
    IF step IS NOT NULL THEN
      prices := prices || jsonb_build_object('class', 'web_search', 'tier', 0, 'price',
        @extschema@._token_usage_read_price(
          step, 1000000, path || '.search_context_cost_per_query.search_context_size_medium'));
    END IF;
    CONTINUE WHEN prices = '[]';  -- priced by image, second or page, or not at all

    name := @extschema@._token_usage_read_name(entry.value, 'litellm_provider', path);
    id := @extschema@._token_usage_provider(name);
    ai_provider := coalesce(nullif(id.id, ''), id.name);
    ai_model := entry.key;
    match := jsonb_build_array(jsonb_build_object('equals', entry.key));
    IF strpos(entry.key, '/') > 0 THEN
      id := @extschema@._token_usage_provider(split_part(entry.key, '/', 1));
      IF id.id = ai_provider OR id.name = ai_provider THEN
        match := match || jsonb_build_object('equals', substr(entry.key, strpos(entry.key, '/') + 1));
      END IF;
    END IF;
    IF jsonb_typeof(entry.value -> 'aliases') = 'array' THEN
      FOR step IN SELECT a FROM jsonb_array_elements(entry.value -> 'aliases') a WHERE jsonb_typeof(a) = 'string' LOOP
        match := match || jsonb_build_object('equals', step);
      END LOOP;
    END IF;
    match := jsonb_build_object('or', match);
    rank := n;
    n := n + 1;
    kind := 'model';
    RETURN NEXT;
    match := NULL;
    kind := 'segment';
    since := '-infinity';
    RETURN NEXT;
    kind := 'price';
    time_from := '00:00';
    time_to := '24:00';
    FOR class, tier, price IN
      SELECT DISTINCT ON (p.class, p.tier) p.class, p.tier, p.price
        FROM jsonb_array_elements(prices) WITH ORDINALITY i (value, n),
             jsonb_to_record(i.value) AS p (class text, tier bigint, price numeric)
       ORDER BY p.class, p.tier, i.n DESC LOOP
      RETURN NEXT;
    END LOOP;
    IF ai_provider <> ALL (found) THEN
      found := found || ai_provider;
    END IF;
  END LOOP;
  kind := 'provider';
  ai_model := NULL;
  since := NULL;
  FOR ai_provider, rank IN
    SELECT f, row_number() OVER (ORDER BY f COLLATE "C") - 1 FROM unnest(found) f ORDER BY 2 LOOP
    RETURN NEXT;
  END LOOP;
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_import_prices(path name[], catalogue jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  ledger oid := @extschema@._token_usage_ledger(path);
  prices text := @extschema@._token_usage_require_beside(ledger, 'token_usage_price');
  providers text := @extschema@._token_usage_require_beside(ledger, 'token_usage_price_provider');
  models text := @extschema@._token_usage_require_beside(ledger, 'token_usage_price_model');
  columns constant text := 'kind text, ai_provider text, ai_model text, rank integer, match jsonb, fallback jsonb,'
    ' since timestamptz, class text, tier bigint, time_from time, time_to time, price numeric';
  source text := 'genai-prices';
  today timestamptz := date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC';
  things jsonb;
  twice record;
  result jsonb;
BEGIN
  IF catalogue IS NULL THEN
    PERFORM @extschema@._token_usage_bad_argument('catalogue', 'given', NULL);
  ELSIF jsonb_typeof(catalogue) = 'array' THEN
    SELECT coalesce(jsonb_agg(to_jsonb(t)), '[]') INTO things FROM @extschema@._token_usage_read_genai(catalogue) t;
  ELSIF jsonb_typeof(catalogue) <> 'object' THEN
    PERFORM @extschema@._token_usage_bad_argument('catalogue', 'a genai-prices or LiteLLM price list', catalogue::text);
  ELSIF jsonb_typeof(catalogue -> 'providers') = 'array' THEN
    SELECT coalesce(jsonb_agg(to_jsonb(t)), '[]') INTO things
      FROM @extschema@._token_usage_read_genai(catalogue -> 'providers') t;
  ELSE
    source := 'litellm';
    SELECT coalesce(jsonb_agg(to_jsonb(t)), '[]') INTO things FROM @extschema@._token_usage_read_litellm(catalogue) t;
  END IF;
  FOR twice IN
    SELECT concat_ws('.', 'catalogue', t.ai_provider, t.ai_model) AS place
      FROM jsonb_to_recordset(things) AS t (kind text, ai_provider text, ai_model text)
     WHERE t.kind IN ('provider', 'model') GROUP BY t.ai_provider, t.ai_model HAVING count(*) > 1 ORDER BY 1
  LOOP
    PERFORM @extschema@._token_usage_bad_argument(twice.place, 'given once', 'it twice');
  END LOOP;

  -- Two imports at once: the second waits for the first; readers wait for neither.
  EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', prices);
  EXECUTE format($query$
    INSERT INTO %s AS p (source, ai_provider, position, match, fallback)
    SELECT $1, t.ai_provider, t.rank, t.match, t.fallback
      FROM jsonb_to_recordset($2) AS t (%s) WHERE t.kind = 'provider'
        ON CONFLICT (source, ai_provider) DO UPDATE
       SET position = EXCLUDED.position, match = EXCLUDED.match, fallback = EXCLUDED.fallback
     WHERE (p.position, p.match, p.fallback) IS DISTINCT FROM (EXCLUDED.position, EXCLUDED.match, EXCLUDED.fallback)
    $query$, providers, columns) USING source, things;
  EXECUTE format($query$
    INSERT INTO %s AS m (source, ai_provider, ai_model, position, match)
    SELECT $1, t.ai_provider, t.ai_model, t.rank, t.match
      FROM jsonb_to_recordset($2) AS t (%s) WHERE t.kind = 'model'
        ON CONFLICT (source, ai_provider, ai_model) DO UPDATE SET position = EXCLUDED.position, match = EXCLUDED.match
     WHERE (m.position, m.match) IS DISTINCT FROM (EXCLUDED.position, EXCLUDED.match)
    $query$, models, columns) USING source, things;
  EXECUTE format($query$
    WITH thing AS MATERIALIZED (SELECT t.* FROM jsonb_to_recordset($2) AS t (%2$s)),
    existing AS MATERIALIZED (
      SELECT p.* FROM %1$s p
       WHERE p.source = $1 AND (p.ai_provider, p.ai_model) IN (SELECT ai_provider, ai_model FROM thing WHERE kind = 'model')),
    known AS MATERIALIZED (SELECT DISTINCT ai_provider, ai_model FROM existing),
    segment AS (SELECT ai_provider, ai_model, since FROM thing WHERE kind = 'segment'),
    said AS (SELECT ai_provider, ai_model, since, class, tier, time_from, time_to, price FROM thing WHERE kind = 'price'),
    -- Where the price of a key changes from one segment of time to the next: absent is NULL.
    change AS (
      SELECT g.* FROM (
        SELECT k.*, s.since, said.price,
               lag(said.price) OVER (PARTITION BY k.ai_provider, k.ai_model, k.class, k.tier, k.time_from, k.time_to
                                         ORDER BY s.since) AS before
          FROM (SELECT DISTINCT ai_provider, ai_model, class, tier, time_from, time_to FROM said) k
          JOIN segment s USING (ai_provider, ai_model)
          LEFT JOIN said USING (ai_provider, ai_model, since, class, tier, time_from, time_to)) g
       WHERE g.price IS DISTINCT FROM g.before),
    -- What the catalogue says today against what the book says today.
    said_now AS (
      SELECT said.* FROM said JOIN (
        SELECT ai_provider, ai_model, max(since) AS since FROM segment WHERE since <= $3 GROUP BY 1, 2) s
        USING (ai_provider, ai_model, since)),
    book_now AS (
      SELECT DISTINCT ON (ai_provider, ai_model, token_class, tier_start, time_from, time_to)
             ai_provider, ai_model, token_class AS class, tier_start AS tier, time_from, time_to, usd_per_million AS price
        FROM existing WHERE valid_from <= $3
       ORDER BY ai_provider, ai_model, token_class, tier_start, time_from, time_to, valid_from DESC),
    wanted AS (
      SELECT ai_provider, ai_model, class, tier, time_from, time_to, since, price
        FROM change LEFT JOIN known k USING (ai_provider, ai_model) WHERE k.ai_model IS NULL OR since > $3
       UNION ALL
      SELECT ai_provider, ai_model, class, tier, time_from, time_to, $3, s.price
        FROM (SELECT * FROM said_now WHERE (ai_provider, ai_model) IN (SELECT ai_provider, ai_model FROM known)) s
        FULL JOIN book_now b USING (ai_provider, ai_model, class, tier, time_from, time_to)
       WHERE s.price IS DISTINCT FROM b.price),
    added AS (
      INSERT INTO %1$s AS p (source, ai_provider, ai_model, token_class, tier_start, time_from, time_to, valid_from,
                             usd_per_million)
      SELECT $1, ai_provider, ai_model, class, tier, time_from, time_to, since, price FROM wanted w
       WHERE NOT EXISTS (
         SELECT FROM existing e
          WHERE (e.ai_provider, e.ai_model, e.token_class, e.tier_start, e.time_from, e.time_to, e.valid_from)
              = (w.ai_provider, w.ai_model, w.class, w.tier, w.time_from, w.time_to, w.since))
       ORDER BY ai_provider, ai_model, class, tier, time_from, time_to, since
      RETURNING 1),
    changed AS (
      UPDATE %1$s p SET usd_per_million = w.price
        FROM wanted w
       WHERE (p.ai_provider, p.ai_model, p.token_class, p.tier_start, p.time_from, p.time_to, p.valid_from)
           = (w.ai_provider, w.ai_model, w.class, w.tier, w.time_from, w.time_to, w.since)
         AND p.source = $1 AND p.usd_per_million IS DISTINCT FROM w.price
      RETURNING 1),
    removed AS (
      DELETE FROM %1$s p
       USING existing e
       WHERE p.id = e.id AND e.valid_from > $3
         AND NOT EXISTS (
           SELECT FROM wanted w
            WHERE (e.ai_provider, e.ai_model, e.token_class, e.tier_start, e.time_from, e.time_to, e.valid_from)
                = (w.ai_provider, w.ai_model, w.class, w.tier, w.time_from, w.time_to, w.since))
      RETURNING 1)
    SELECT jsonb_build_object(
      'source', $1,
      'providers', (SELECT count(*) FROM thing WHERE kind = 'provider'),
      'models', (SELECT count(*) FROM thing WHERE kind = 'model'),
      'prices_added', (SELECT count(*) FROM added),
      'prices_changed', (SELECT count(*) FROM changed),
      'prices_removed', (SELECT count(*) FROM removed),
      'ignored', (SELECT coalesce(jsonb_agg(DISTINCT class COLLATE "C"), '[]') FROM thing WHERE kind = 'ignored'))
    $query$, prices, columns) INTO result USING source, things, today;
  RETURN result;
END
$function$;

-- token_usage_import_prices(catalogue): takes the JSON of a genai-prices or LiteLLM catalogue into the price book and
-- returns {"source", "providers", "models", "prices_added", "prices_changed", "prices_removed", "ignored"}.
-- Errors: 22023, naming the bad entry; nothing is imported then.
CREATE OR REPLACE FUNCTION @extschema@.token_usage_import_prices(catalogue jsonb) RETURNS jsonb
LANGUAGE sql AS $function$
  SELECT @extschema@._token_usage_import_prices(pg_catalog.current_schemas(false), catalogue)
$function$;
$token_usage$, '@extschema@', home);

  EXECUTE replace($token_usage$
-- token_usage_record and token_usage_record_batch: one ledger row for each event, once per request_id for ever, all or
-- nothing. Section 5 of the contract.
--
-- In three steps. Reading and pricing run with search_path = pg_catalog, pg_temp. Then rows are inserted with the
-- caller's own search path, because the application's triggers, defaults and row-security policies run inside that
-- statement; its text names everything in full. ON CONFLICT DO NOTHING waits for another session that is
-- recording the same request_id; the row that is there afterwards is read by a statement of its own, which at READ
-- COMMITTED sees it. Rows go in by request_id, so that two batches never wait for each other.

-- The statement that inserts: its parameters are an array for each column of an event, in the order of
-- _token_usage_record_plan(), and one that tells which events to insert (NULL: all).
CREATE OR REPLACE FUNCTION @extschema@._token_usage_record_insert(ledger oid, unique_key boolean) RETURNS text
LANGUAGE plpgsql STABLE AS $function$
DECLARE
  target text := @extschema@._token_usage_table(ledger, 'token_usage'::text);
  col record;
  columns text := '';
  expressions text := '';
  key_type text;
BEGIN
  -- The ledger's own types: an adopted one may have others than ours, and defaults where an event says nothing.
  FOR col IN
    SELECT k.name, k.family, format('%I.%I', n.nspname, y.typname) AS type, pg_get_expr(d.adbin, d.adrelid) AS default_text
      FROM @extschema@._token_usage_columns(ledger) k
      JOIN pg_attribute a ON a.attrelid = ledger AND a.attname = k.name AND a.attnum > 0 AND NOT a.attisdropped
      JOIN pg_type y ON y.oid = a.atttypid JOIN pg_namespace n ON n.oid = y.typnamespace
      LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
     WHERE a.attgenerated = '' AND k.name = ANY (('{user_id,agent_id,ai_provider,ai_model,prompt_tokens,completion_tokens,content_id,workflow_id,'
             'request_id,endpoint,platform,content_type,task_type,execution_time_ms,request_metadata,'
             'response_metadata,created_at,cache_read_tokens,cache_write_tokens,cache_write_1h_tokens,'
             'cache_read_audio_tokens,cache_read_image_tokens,reasoning_tokens,input_audio_tokens,'
             'output_audio_tokens,input_image_tokens,output_image_tokens,web_search_requests,cost_usd,'
             'cost_rub,cost_source}')::text[] || 'total_tokens'::text)
     ORDER BY a.attnum
  LOOP
    columns := concat(columns, ', ', quote_ident(col.name));
    expressions := concat(expressions, ', ', CASE
      WHEN col.name = 'total_tokens' THEN '(r.prompt_tokens OPERATOR(pg_catalog.+) r.completion_tokens)::' || col.type
      WHEN col.name = 'created_at' THEN format('coalesce(%s, %s)',
        CASE col.family WHEN 'timestamp' THEN 'pg_catalog.timezone(''UTC''::pg_catalog.text, r.created_at)'
                        ELSE 'r.created_at' END,
        CASE WHEN col.default_text IS NOT NULL AND col.default_text NOT IN ('now()', 'CURRENT_TIMESTAMP')
             THEN col.default_text
             WHEN col.family = 'timestamp' THEN 'pg_catalog.timezone(''UTC''::pg_catalog.text, pg_catalog.now())'
             ELSE 'pg_catalog.now()' END)
      WHEN col.default_text IS NOT NULL
           AND col.name NOT IN ('prompt_tokens', 'completion_tokens', 'cost_usd', 'cost_rub', 'cost_source')
        THEN format('coalesce(r.%I::%s, %s)', col.name, col.type, col.default_text)
      ELSE format('r.%I::%s', col.name, col.type) END);
    IF col.name = 'request_id' THEN
      key_type := col.type;
    END IF;
  END LOOP;
  RETURN format($text$
    WITH inserted AS (
      INSERT INTO %1$s AS t (%2$s)
      SELECT %3$s
        FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20,
                    $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32)
          WITH ORDINALITY AS r (
             user_id, agent_id, ai_provider, ai_model, prompt_tokens, completion_tokens, content_id,
             workflow_id, request_id, endpoint, platform, content_type, task_type, execution_time_ms,
             request_metadata, response_metadata, created_at, cache_read_tokens, cache_write_tokens,
             cache_write_1h_tokens, cache_read_audio_tokens, cache_read_image_tokens, reasoning_tokens,
             input_audio_tokens, output_audio_tokens, input_image_tokens, output_image_tokens,
             web_search_requests, cost_usd, cost_rub, cost_source, wanted, place)
       WHERE r.wanted IS NOT FALSE%4$s
       ORDER BY r.request_id COLLATE pg_catalog."C" NULLS FIRST, r.place
      %5$s
      RETURNING t.id, t.request_id, t.cost_usd, t.cost_rub)
    SELECT pg_catalog.array_agg(i.id::pg_catalog.text), pg_catalog.array_agg(i.request_id::pg_catalog.text),
           pg_catalog.array_agg(i.cost_usd::pg_catalog.text::pg_catalog.numeric),
           pg_catalog.array_agg(i.cost_rub::pg_catalog.text::pg_catalog.numeric)
      FROM inserted i$text$,
    target, substr(columns, 3), substr(expressions, 3),
    CASE WHEN unique_key THEN '' ELSE format(
      ' AND (r.request_id IS NULL OR NOT EXISTS (SELECT FROM %s o WHERE o.request_id OPERATOR(pg_catalog.=) r.request_id::%s))',
      target, key_type) END,
    CASE WHEN unique_key THEN 'ON CONFLICT (request_id) DO NOTHING' ELSE '' END);
END
$function$;

-- The statement that finds the rows of some request_ids ($1): one JSON object of rows by request_id.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_record_find(ledger oid) RETURNS text
LANGUAGE sql STABLE AS $function$
  SELECT format($text$
    SELECT pg_catalog.jsonb_object_agg(f.request_id, pg_catalog.to_jsonb(f.*)) FROM (
      SELECT DISTINCT ON (t.request_id) t.request_id::pg_catalog.text AS request_id, t.id,
             t.user_id::pg_catalog.text AS user_id, t.agent_id::pg_catalog.text AS agent_id,
             t.ai_provider::pg_catalog.text AS ai_provider, t.ai_model::pg_catalog.text AS ai_model,
             %1$s::pg_catalog.numeric AS prompt_tokens, %2$s::pg_catalog.numeric AS completion_tokens,
             %3$s::pg_catalog.numeric AS total_tokens, %4$s AS cost_usd, %5$s AS cost_rub
        FROM %6$s t WHERE t.request_id OPERATOR(pg_catalog.=) ANY ($1::%7$s[])
       ORDER BY t.request_id, t.id) f$text$,
    l.prompt, l.completion, l.total, l.cost_usd, l.cost_rub, @extschema@._token_usage_table(ledger, 'token_usage'::text),
    (SELECT @extschema@._token_usage_key_type(c.family)
       FROM @extschema@._token_usage_columns(ledger) c WHERE c.name = 'request_id'))
    FROM @extschema@._token_usage_layout(ledger) l
$function$;

-- Reads and prices events: an array for each column, and the statements that insert and find them.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_record_plan(
  path name[], events jsonb, batch boolean, OUT ledger oid, OUT insert_text text, OUT find_text text,
  OUT warnings jsonb[], OUT wanted boolean[],
  OUT user_id text[], OUT agent_id text[], OUT ai_provider text[], OUT ai_model text[], OUT prompt_tokens
  bigint[], OUT completion_tokens bigint[], OUT content_id text[], OUT workflow_id text[], OUT request_id
  text[], OUT endpoint text[], OUT platform text[], OUT content_type text[], OUT task_type text[], OUT
  execution_time_ms bigint[], OUT request_metadata jsonb[], OUT response_metadata jsonb[], OUT created_at
  timestamptz[], OUT cache_read_tokens bigint[], OUT cache_write_tokens bigint[], OUT cache_write_1h_tokens
  bigint[], OUT cache_read_audio_tokens bigint[], OUT cache_read_image_tokens bigint[], OUT reasoning_tokens
  bigint[], OUT input_audio_tokens bigint[], OUT output_audio_tokens bigint[], OUT input_image_tokens bigint[],
  OUT output_image_tokens bigint[], OUT web_search_requests bigint[], OUT cost_usd numeric[], OUT cost_rub
  numeric[], OUT cost_source text[])
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_variable
DECLARE
  rates text;
  family text;
  unique_key boolean;
  starts timestamptz[];
  rate_of numeric[];
  bad record;
BEGIN
  IF events IS NULL THEN
    PERFORM @extschema@._token_usage_bad_argument(CASE WHEN batch THEN 'events' ELSE 'event' END, 'given'::text, NULL::text);
  ELSIF batch AND jsonb_typeof(events) <> 'array' THEN
    PERFORM @extschema@._token_usage_bad_argument('events'::text, 'an array'::text, events::text);
  END IF;
  ledger := @extschema@._token_usage_ledger(path);
  rates := @extschema@._token_usage_beside(ledger, 'token_usage_exchange_rate'::text);
  IF rates IS NOT NULL THEN
    EXECUTE format('SELECT coalesce(array_agg(r.valid_from ORDER BY r.valid_from), ''{}''),'
                   ' coalesce(array_agg(r.rate ORDER BY r.valid_from), ''{}'') FROM %s r WHERE r.currency = ''RUB''', rates)
      INTO starts, rate_of;
  END IF;
  EXECUTE format($query$
    WITH event AS MATERIALIZED (
      SELECT e.*, coalesce(e.created_at, now()) AS at FROM @extschema@._token_usage_read_events($1, $2) e),
    -- The price book is asked once for each model.
    book AS MATERIALIZED (
      SELECT d.ai_provider, d.ai_model, r.rows, u.*
        FROM (SELECT DISTINCT ai_provider, ai_model FROM event WHERE ask_book) d
       CROSS JOIN LATERAL (
         SELECT @extschema@._token_usage_price_rows($3, d.ai_provider, d.ai_model) AS rows OFFSET 0) r
       CROSS JOIN LATERAL @extschema@._token_usage_usual_prices(r.rows) u)
    SELECT array_agg(to_jsonb(e.warnings)),
           array_agg(e.user_id), array_agg(e.agent_id),
           array_agg(e.ai_provider), array_agg(e.ai_model),
           array_agg(e.counts[1]), array_agg(e.counts[2]),
           array_agg(e.content_id), array_agg(e.workflow_id),
           array_agg(e.request_id), array_agg(e.endpoint),
           array_agg(e.platform), array_agg(e.content_type),
           array_agg(e.task_type), array_agg(e.execution_time_ms),
           array_agg(e.request_metadata), array_agg(e.response_metadata),
           array_agg(e.created_at), array_agg(e.counts[4]),
           array_agg(e.counts[5]), array_agg(e.counts[7]),
           array_agg(e.counts[8]), array_agg(e.counts[9]),
           array_agg(e.counts[10]), array_agg(e.counts[11]),
           array_agg(e.counts[12]), array_agg(e.counts[13]),
           array_agg(e.counts[14]), array_agg(e.counts[16]), array_agg(e.usd
          ), array_agg(e.rub), array_agg(e.source)
      FROM (SELECT e.*, coalesce(e.stated_rub, @extschema@._token_usage_half_even(e.converted, 12)) AS rub,
                   coalesce(e.cost_source, CASE WHEN e.usd IS NOT NULL THEN 'price_book' END) AS source
              FROM (SELECT e.*, CASE WHEN e.stated_rub IS NULL THEN e.usd * %2$s END AS converted
                      FROM (SELECT e.*, CASE WHEN e.ask_book THEN @extschema@._token_usage_half_even(e.cost, 12)
                                             ELSE e.stated_usd END AS usd
                              FROM (SELECT e.*, CASE WHEN e.ask_book THEN %1$s END AS cost
                                      FROM event e LEFT JOIN book p
                                        ON p.ai_provider = e.ai_provider AND p.ai_model = e.ai_model OFFSET 0) e
                            OFFSET 0) e
                    OFFSET 0) e
             ORDER BY e.place) e$query$,
    @extschema@._token_usage_cost_expression(),
    -- A few rates are looked up in an array, which costs less than an index search for each event.
    CASE WHEN rates IS NULL THEN 'NULL::numeric'
         WHEN cardinality(starts) < 200 THEN '($5)[width_bucket(e.at, $4)]'
         ELSE format('(SELECT x.rate FROM %s x WHERE x.currency = ''RUB'' AND x.valid_from <= e.at'
                     ' ORDER BY x.valid_from DESC LIMIT 1)', rates) END)
    INTO warnings,
         user_id, agent_id, ai_provider, ai_model, prompt_tokens, completion_tokens, content_id, workflow_id,
         request_id, endpoint, platform, content_type, task_type, execution_time_ms, request_metadata,
         response_metadata, created_at, cache_read_tokens, cache_write_tokens, cache_write_1h_tokens,
         cache_read_audio_tokens, cache_read_image_tokens, reasoning_tokens, input_audio_tokens,
         output_audio_tokens, input_image_tokens, output_image_tokens, web_search_requests, cost_usd, cost_rub,
         cost_source
    USING events, batch, ledger, starts, rate_of;

  family := (SELECT c.family FROM @extschema@._token_usage_columns(ledger) c WHERE c.name = 'user_id');
  IF family IN ('integer', 'uuid') THEN
    FOR bad IN
      SELECT u.id, u.n FROM unnest(user_id) WITH ORDINALITY u (id, n)
       WHERE CASE family WHEN 'integer' THEN u.id !~ '^ *[+-]?[0-9]{1,18} *$' AND NOT (
                           u.id ~ '^ *[+-]?[0-9]{1,30} *$' AND
                           u.id::numeric BETWEEN -9223372036854775808 AND 9223372036854775807)
             ELSE u.id !~* '^(([0-9a-f]{4}-?){7}[0-9a-f]{4}|[{]([0-9a-f]{4}-?){7}[0-9a-f]{4}[}])$' END
       LIMIT 1
    LOOP
      PERFORM @extschema@._token_usage_bad_argument(
        CASE WHEN batch THEN format('events[%s].user_id', bad.n - 1) ELSE 'event.user_id' END,
        CASE family WHEN 'uuid' THEN 'a uuid' ELSE 'a bigint' END, bad.id);
    END LOOP;
  END IF;
  IF 'uuid' = (SELECT c.family FROM @extschema@._token_usage_columns(ledger) c WHERE c.name = 'request_id') THEN
    request_id := request_id::uuid[]::text[];
  END IF;
  unique_key := EXISTS (
    SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attname = 'request_id'
     WHERE i.indrelid = ledger AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL
       AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum);
  IF NOT unique_key THEN
    -- An adopted table in which an id repeats: sessions that record the same id take turns.
    PERFORM pg_advisory_xact_lock(hashtextextended(k.id, ledger::bigint))
       FROM (SELECT DISTINCT r.id COLLATE "C" AS id FROM unnest(request_id) r (id) WHERE r.id IS NOT NULL ORDER BY 1) k;
    wanted := @extschema@._token_usage_record_left(request_id, '{}'::text[], '{}'::jsonb);
  END IF;
  insert_text := @extschema@._token_usage_record_insert(ledger, unique_key);
  find_text := @extschema@._token_usage_record_find(ledger);
END
$function$;

-- The request_ids whose rows must be looked for: not inserted just now, or repeated in the batch. NULL: none.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_record_seek(request_ids text[], keys text[]) RETURNS text[]
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
  SELECT CASE WHEN cardinality(request_ids) > cardinality(keys) THEN (
    SELECT array_agg(s.id) FROM (
      SELECT r.id FROM unnest(request_ids) r (id) WHERE r.id IS NOT NULL GROUP BY r.id HAVING count(*) > 1
       UNION
      (SELECT r.id FROM unnest(request_ids) r (id) WHERE r.id IS NOT NULL EXCEPT SELECT k FROM unnest(keys) k)) s) END
$function$;

-- Which events are still to be inserted: the first of each request_id that has no row in `present`. NULL: none.
-- Those without a request_id went in with the first statement; before it, `keys` is empty.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_record_left(request_ids text[], keys text[], present jsonb)
RETURNS boolean[]
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
  SELECT CASE WHEN bool_or(s.wanted) THEN array_agg(s.wanted ORDER BY s.n) END
    FROM (SELECT r.n, CASE WHEN r.id IS NULL THEN present = '{}' AND cardinality(keys) = 0
                           ELSE NOT present ? r.id AND NOT coalesce(r.id = ANY (keys), false)
                                AND row_number() OVER (PARTITION BY r.id ORDER BY r.n) = 1 END AS wanted
            FROM unnest(request_ids) WITH ORDINALITY r (id, n)) s
$function$;

-- A row with this request_id is there and the caller may not see it: another user's.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_record_hidden(request_ids text[], wanted boolean[], batch boolean)
RETURNS void LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  n integer := array_position(wanted, true);
BEGIN
  RAISE EXCEPTION USING ERRCODE = 'unique_violation', MESSAGE = format(
    'token_usage: %s.request_id must be new or repeat the same facts, got %s with another user_id',
    CASE WHEN batch THEN format('events[%s]', n - 1) ELSE 'event' END, @extschema@._token_usage_shown(request_ids[n]));
END
$function$;

-- Events that repeat a request_id must repeat its facts.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_record_check(
  ledger oid, batch boolean, present jsonb, request_ids text[], users text[], agents text[], providers text[],
  models text[], prompts bigint[], completions bigint[]) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  family text := (SELECT c.family FROM @extschema@._token_usage_columns(ledger) c WHERE c.name = 'user_id');
  different record;
BEGIN
  FOR different IN
    SELECT d.field, r.id, r.n - 1 AS n
      FROM unnest(request_ids, users, agents, providers, models, prompts, completions)
             WITH ORDINALITY AS r (id, user_id, agent, provider, model, prompt, completion, n)
     CROSS JOIN LATERAL (SELECT present -> r.id AS row) f
     CROSS JOIN LATERAL (SELECT CASE
       WHEN f.row ->> 'user_id' IS DISTINCT FROM CASE family
              WHEN 'integer' THEN r.user_id::bigint::text WHEN 'uuid' THEN r.user_id::uuid::text ELSE r.user_id END
         THEN 'user_id'
       WHEN f.row ->> 'agent_id' IS DISTINCT FROM r.agent THEN 'agent_id'
       WHEN f.row ->> 'ai_provider' IS DISTINCT FROM r.provider THEN 'ai_provider'
       WHEN f.row ->> 'ai_model' IS DISTINCT FROM r.model THEN 'ai_model'
       WHEN (f.row -> 'prompt_tokens')::numeric IS DISTINCT FROM r.prompt THEN 'prompt_tokens'
       WHEN (f.row -> 'completion_tokens')::numeric IS DISTINCT FROM r.completion THEN 'completion_tokens'
       END AS field) d
     WHERE f.row IS NOT NULL AND d.field IS NOT NULL
     ORDER BY r.n LIMIT 1
  LOOP
    RAISE EXCEPTION USING ERRCODE = 'unique_violation', MESSAGE = format(
      'token_usage: %s.request_id must be new or repeat the same facts, got %s with another %s',
      CASE WHEN batch THEN format('events[%s]', different.n) ELSE 'event' END,
      @extschema@._token_usage_shown(different.id), different.field);
  END LOOP;
END
$function$;

-- The results, in order. ids, keys, usd and rub are what was inserted, in the order of insertion: those without a
-- request_id in the order of their events. `present`: rows that were there, by request_id; NULL where all was inserted.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_record_results(
  ledger oid, present jsonb, request_ids text[], providers text[], models text[], prompts bigint[], completions bigint[],
  sources text[], warnings jsonb[], ids text[], keys text[], usd numeric[], rub numeric[]) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
  SELECT coalesce(jsonb_agg(CASE
    WHEN i.id IS NULL THEN jsonb_build_object(
      'id', f.row -> 'id', 'created', false, 'prompt_tokens', f.row -> 'prompt_tokens',
      'completion_tokens', f.row -> 'completion_tokens', 'total_tokens', f.row -> 'total_tokens',
      'cost_usd', trim_scale((f.row ->> 'cost_usd')::numeric), 'cost_rub', trim_scale((f.row ->> 'cost_rub')::numeric),
      'warnings', '[]'::jsonb)
    ELSE jsonb_build_object(
      'id', CASE WHEN k.number THEN to_jsonb(i.id::bigint) ELSE to_jsonb(i.id) END, 'created', true,
      'prompt_tokens', r.prompt, 'completion_tokens', r.completion, 'total_tokens', r.prompt + r.completion,
      'cost_usd', @extschema@._token_usage_half_even(i.usd, 12),
      'cost_rub', @extschema@._token_usage_half_even(i.rub, 12),
      'warnings', CASE WHEN i.usd IS NULL AND r.source IS DISTINCT FROM 'other'
                       THEN r.warnings || jsonb_build_array(format('no price is known for %s %s', r.provider, r.model))
                       ELSE r.warnings END) END ORDER BY r.n), '[]')
    FROM (SELECT u.*, CASE WHEN u.id IS NULL THEN u.n - count(u.id) OVER (ORDER BY u.n)
                           WHEN present IS NULL THEN 1
                           ELSE row_number() OVER (PARTITION BY u.id ORDER BY u.n) END AS nth
            FROM unnest(request_ids, providers, models, prompts, completions, sources, warnings)
                   WITH ORDINALITY AS u (id, provider, model, prompt, completion, source, warnings, n)) r
    LEFT JOIN (SELECT u.*, CASE WHEN u.key IS NULL THEN u.n - count(u.key) OVER (ORDER BY u.n) ELSE 1 END AS nth
                 FROM unnest(ids, keys, usd, rub) WITH ORDINALITY AS u (id, key, usd, rub, n)) i
      ON coalesce(i.key, '') = coalesce(r.id, '') AND i.nth = r.nth
   CROSS JOIN LATERAL (SELECT present -> r.id AS row) f
   CROSS JOIN (
     SELECT c.family = 'integer' AS number FROM @extschema@._token_usage_columns(ledger) c WHERE c.name = 'id') k
$function$;

-- This one has no search_path of its own and so uses no operators.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_record(path name[], events jsonb, batch boolean) RETURNS jsonb
LANGUAGE plpgsql AS $function$
DECLARE
  plan record := @extschema@._token_usage_record_plan(path, events, batch);
  wanted boolean[] := plan.wanted;
  ids text[] := '{}';
  keys text[] := '{}';
  usd numeric[] := '{}';
  rub numeric[] := '{}';
  new_ids text[];
  new_keys text[];
  new_usd numeric[];
  new_rub numeric[];
  sought text[];
  present jsonb;
BEGIN
  -- More than once only where a row that was in the way is deleted in the same moment.
  FOR attempt IN 1 .. 5 LOOP
    EXECUTE plan.insert_text INTO new_ids, new_keys, new_usd, new_rub
      USING plan.user_id, plan.agent_id, plan.ai_provider, plan.ai_model, plan.prompt_tokens,
              plan.completion_tokens, plan.content_id, plan.workflow_id, plan.request_id, plan.endpoint,
              plan.platform, plan.content_type, plan.task_type, plan.execution_time_ms, plan.request_metadata,
              plan.response_metadata, plan.created_at, plan.cache_read_tokens, plan.cache_write_tokens,
              plan.cache_write_1h_tokens, plan.cache_read_audio_tokens, plan.cache_read_image_tokens,
              plan.reasoning_tokens, plan.input_audio_tokens, plan.output_audio_tokens, plan.input_image_tokens,
              plan.output_image_tokens, plan.web_search_requests, plan.cost_usd, plan.cost_rub, plan.cost_source, wanted;
    ids := pg_catalog.array_cat(ids, new_ids);
    keys := pg_catalog.array_cat(keys, new_keys);
    usd := pg_catalog.array_cat(usd, new_usd);
    rub := pg_catalog.array_cat(rub, new_rub);
    sought := @extschema@._token_usage_record_seek(plan.request_id, keys);
    EXIT WHEN sought IS NULL;
    EXECUTE plan.find_text INTO present USING sought;
    present := coalesce(present, '{}'::pg_catalog.jsonb);
    PERFORM @extschema@._token_usage_record_check(
      plan.ledger, batch, present, plan.request_id, plan.user_id, plan.agent_id, plan.ai_provider, plan.ai_model,
      plan.prompt_tokens, plan.completion_tokens);
    wanted := @extschema@._token_usage_record_left(plan.request_id, pg_catalog.array_append(keys, NULL), present);
    EXIT WHEN wanted IS NULL;
  END LOOP;
  IF sought IS NOT NULL AND wanted IS NOT NULL THEN
    PERFORM @extschema@._token_usage_record_hidden(plan.request_id, wanted, batch);
  END IF;
  RETURN @extschema@._token_usage_record_results(
    plan.ledger, present, plan.request_id, plan.ai_provider, plan.ai_model, plan.prompt_tokens, plan.completion_tokens,
    plan.cost_source, plan.warnings, ids, keys, usd, rub);
END
$function$;

-- token_usage_record(event): inserts the ledger row of one event and returns {"id", "created", "prompt_tokens",
-- "completion_tokens", "total_tokens", "cost_usd", "cost_rub", "warnings"}. An event with a request_id that is there
-- with the same facts changes nothing. Errors: 22023 naming the key; 23505 for the same request_id with other facts.
CREATE OR REPLACE FUNCTION @extschema@.token_usage_record(event jsonb) RETURNS jsonb
LANGUAGE sql AS $function$
  SELECT pg_catalog.jsonb_array_element(
    @extschema@._token_usage_record(pg_catalog.current_schemas(false), event, false), 0)
$function$;

-- token_usage_record_batch(events): an array of events, all or nothing; errors name the event (`events[17].user_id`).
-- Returns the array of their results, in order.
CREATE OR REPLACE FUNCTION @extschema@.token_usage_record_batch(events jsonb) RETURNS jsonb
LANGUAGE sql AS $function$
  SELECT @extschema@._token_usage_record(pg_catalog.current_schemas(false), events, true)
$function$;
$token_usage$, '@extschema@', home);

  EXECUTE replace($token_usage$
-- Repricing: what the price book would now say of rows that it priced or left unpriced, and making it so. Section 6 of
-- the contract. A cost that the application or the provider stated is never touched, and each change is kept in
-- token_usage_reprice_log.

-- What the price book says of requests: {"ai_provider", "ai_model", "created_at", counts by column}, in order.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_book_costs(ledger oid, requests jsonb) RETURNS numeric[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  costs numeric[];
BEGIN
  EXECUTE format($query$
    WITH request AS MATERIALIZED (
      SELECT r.ai_provider, r.ai_model, r.created_at AS at, r.n,
             ARRAY[r.prompt_tokens, r.completion_tokens, NULL, r.cache_read_tokens, r.cache_write_tokens, NULL,
                   r.cache_write_1h_tokens, r.cache_read_audio_tokens, r.cache_read_image_tokens, r.reasoning_tokens,
                   r.input_audio_tokens, r.output_audio_tokens, r.input_image_tokens, r.output_image_tokens, NULL,
                   r.web_search_requests] AS counts
        FROM ROWS FROM (jsonb_to_recordset($2) AS (
               ai_provider text, ai_model text, created_at timestamptz, prompt_tokens bigint, completion_tokens bigint,
               cache_read_tokens bigint, cache_write_tokens bigint, cache_write_1h_tokens bigint,
               cache_read_audio_tokens bigint, cache_read_image_tokens bigint, reasoning_tokens bigint,
               input_audio_tokens bigint, output_audio_tokens bigint, input_image_tokens bigint,
               output_image_tokens bigint, web_search_requests bigint)) WITH ORDINALITY AS r (
               ai_provider, ai_model, created_at, prompt_tokens, completion_tokens, cache_read_tokens, cache_write_tokens,
               cache_write_1h_tokens, cache_read_audio_tokens, cache_read_image_tokens, reasoning_tokens,
               input_audio_tokens, output_audio_tokens, input_image_tokens, output_image_tokens, web_search_requests, n)),
    book AS MATERIALIZED (
      SELECT d.ai_provider, d.ai_model, r.rows, u.*
        FROM (SELECT DISTINCT ai_provider, ai_model FROM request) d
       CROSS JOIN LATERAL (
         SELECT @extschema@._token_usage_price_rows($1, d.ai_provider, d.ai_model) AS rows OFFSET 0) r
       CROSS JOIN LATERAL @extschema@._token_usage_usual_prices(r.rows) u)
    SELECT array_agg(@extschema@._token_usage_half_even(c.cost, 12) ORDER BY c.n)
      FROM (SELECT e.n, %s AS cost
              FROM request e LEFT JOIN book p ON p.ai_provider = e.ai_provider AND p.ai_model = e.ai_model OFFSET 0) c$query$,
    @extschema@._token_usage_cost_expression()) INTO costs USING ledger, requests;
  RETURN costs;
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_has_source(ledger oid) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
  SELECT EXISTS (SELECT FROM @extschema@._token_usage_columns(ledger) c WHERE c.name = 'cost_source')
$function$;

-- The changes: costs as the ledger's own types would hold them.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_reprice_changes(
  path name[], user_id text, start_date timestamptz, end_date timestamptz)
RETURNS TABLE (id text, old_cost_usd numeric, new_cost_usd numeric, old_cost_rub numeric, new_cost_rub numeric)
LANGUAGE plpgsql STABLE ROWS 100 SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
DECLARE
  ledger oid := @extschema@._token_usage_ledger(path);
  prices text := @extschema@._token_usage_require_beside(ledger, 'token_usage_price'::text);
  rates text := @extschema@._token_usage_beside(ledger, 'token_usage_exchange_rate'::text);
  layout record := @extschema@._token_usage_layout(ledger);
  classes constant text[] := '{cache_read_tokens,cache_write_tokens,cache_write_1h_tokens,cache_read_audio_tokens,'
    'cache_read_image_tokens,reasoning_tokens,input_audio_tokens,output_audio_tokens,input_image_tokens,'
    'output_image_tokens,web_search_requests}';
  usd_type text;
  rub_type text;
  counts text;
  chunk record;
  costs numeric[];
BEGIN
  user_id := @extschema@._token_usage_user(ledger, user_id);
  counts := (SELECT string_agg(format('t.%I::bigint AS %1$I', c.name), ', ')
               FROM @extschema@._token_usage_columns(ledger) c WHERE c.name = ANY (classes));
  usd_type := (SELECT format_type(a.atttypid, a.atttypmod) FROM pg_attribute a
               WHERE a.attrelid = ledger AND a.attname = 'cost_usd' AND NOT a.attisdropped);
  rub_type := (SELECT format_type(a.atttypid, a.atttypmod) FROM pg_attribute a
               WHERE a.attrelid = ledger AND a.attname = 'cost_rub' AND NOT a.attisdropped);
  -- A thousand rows at a time, so that everyone's rows need not fit in memory.
  FOR chunk IN EXECUTE format($query$
    SELECT jsonb_agg(to_jsonb(r) - '{row_id,usd,rub}'::text[] ORDER BY r.created_at, r.id) AS rows,
           array_agg(r.id::text ORDER BY r.created_at, r.id) AS ids,
           array_agg(r.usd ORDER BY r.created_at, r.id) AS usd, array_agg(r.rub ORDER BY r.created_at, r.id) AS rub,
           array_agg(r.created_at ORDER BY r.created_at, r.id) AS ats
      FROM (SELECT %1$s AS id, %2$s AS created_at, t.ai_provider::text AS ai_provider, t.ai_model::text AS ai_model,
                   %3$s AS prompt_tokens, %4$s AS completion_tokens, %5$s AS usd, %6$s AS rub, %7$s,
                   (row_number() OVER (ORDER BY %2$s, %1$s) - 1) / 1000 AS chunk
              FROM %8$s t
             WHERE (%9$s) AND (%10$s) AND isfinite(t.created_at)
               AND ($3 IS NULL OR t.created_at >= %11$s) AND ($4 IS NULL OR t.created_at <= %12$s)
               AND %3$s >= 0 AND %4$s >= 0) r
     WHERE %13$s
     GROUP BY r.chunk ORDER BY r.chunk$query$,
    layout.id, layout.created, layout.prompt, layout.completion, layout.cost_usd, layout.cost_rub,
    coalesce(counts, 'NULL::bigint AS cache_read_tokens'), @extschema@._token_usage_table(ledger, 'token_usage'::text),
    CASE WHEN user_id IS NULL THEN 'true' ELSE layout.of_user END,
    CASE WHEN @extschema@._token_usage_has_source(ledger) THEN 't.cost_source = ''price_book'' OR (t.cost_source IS NULL AND t.cost_usd IS NULL)'
         ELSE 't.cost_usd IS NULL' END,
    format(layout.bound, '$3'), format(layout.bound, '$4'),
    CASE WHEN cardinality(classes) = (SELECT count(*) FROM @extschema@._token_usage_columns(ledger) c
                                       WHERE c.name = ANY (classes))
         THEN 'coalesce(r.cache_read_tokens, 0)::numeric + coalesce(r.cache_write_tokens, 0) <= r.prompt_tokens'
              ' AND coalesce(r.cache_write_1h_tokens, 0) <= coalesce(r.cache_write_tokens, 0)'
              ' AND coalesce(r.reasoning_tokens, 0) <= r.completion_tokens'
         ELSE 'true' END)
    USING user_id, NULL::text, start_date, end_date
  LOOP
    costs := @extschema@._token_usage_book_costs(ledger, chunk.rows);
    RETURN QUERY EXECUTE format($query$
      SELECT c.id, trim_scale(c.old_usd), trim_scale(@extschema@._token_usage_decimal(c.new_usd)),
             trim_scale(c.old_rub), trim_scale(@extschema@._token_usage_decimal(c.new_rub))
        FROM (SELECT u.id, u.n, u.old_usd, u.usd::%1$s AS new_usd, u.old_rub, x.rub::%2$s AS new_rub
                FROM unnest($1, $2, $3, $4, $5) WITH ORDINALITY u (id, old_usd, old_rub, at, usd, n)
               CROSS JOIN LATERAL (SELECT %3$s AS rub) x
               WHERE u.usd IS NOT NULL) c
       WHERE @extschema@._token_usage_decimal(c.new_usd) IS DISTINCT FROM c.old_usd
          OR @extschema@._token_usage_decimal(c.new_rub) IS DISTINCT FROM c.old_rub
       ORDER BY c.n$query$, usd_type, rub_type,
      CASE WHEN rates IS NULL THEN 'NULL::numeric' ELSE format(
        '(SELECT @extschema@._token_usage_half_even(u.usd * x.rate, 12) FROM %s x WHERE x.currency = ''RUB'''
        ' AND x.valid_from <= u.at ORDER BY x.valid_from DESC LIMIT 1)', rates) END)
      USING chunk.ids, chunk.usd, chunk.rub, chunk.ats, costs;
  END LOOP;
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_reprice_preview(
  path name[], user_id text, start_date timestamptz, end_date timestamptz)
RETURNS TABLE (id bigint, old_cost_usd numeric, new_cost_usd numeric, old_cost_rub numeric, new_cost_rub numeric)
LANGUAGE plpgsql STABLE ROWS 100 SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
BEGIN
  IF (SELECT l.id_family FROM @extschema@._token_usage_layout(@extschema@._token_usage_ledger(path)) l) <> 'integer' THEN
    RAISE EXCEPTION USING ERRCODE = '42804',
      MESSAGE = 'token_usage: the ids of this ledger are no integers',
      HINT = 'Call token_usage_reprice_preview_text, which gives them as text.';
  END IF;
  RETURN QUERY SELECT c.id::bigint, c.old_cost_usd, c.new_cost_usd, c.old_cost_rub, c.new_cost_rub
                 FROM @extschema@._token_usage_reprice_changes(path, user_id, start_date, end_date) c;
END
$function$;

-- The statement that makes the changes, and what it is told. A row that was changed meanwhile is left alone.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_reprice_plan(
  path name[], user_id text, start_date timestamptz, end_date timestamptz,
  OUT statement text, OUT ids text[], OUT old_usd numeric[], OUT new_usd numeric[], OUT old_rub numeric[],
  OUT new_rub numeric[])
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  ledger oid := @extschema@._token_usage_ledger(path);
  log text := @extschema@._token_usage_require_beside(ledger, 'token_usage_reprice_log'::text);
  layout record := @extschema@._token_usage_layout(ledger);
BEGIN
  SELECT array_agg(c.id), array_agg(c.old_cost_usd), array_agg(c.new_cost_usd), array_agg(c.old_cost_rub),
         array_agg(c.new_cost_rub)
    INTO ids, old_usd, new_usd, old_rub, new_rub
    FROM @extschema@._token_usage_reprice_changes(path, user_id, start_date, end_date) c;
  statement := format($text$
    WITH changed AS (
      UPDATE %1$s t SET cost_usd = c.new_usd, cost_rub = c.new_rub%2$s
        FROM unnest($1::pg_catalog.text[], $2::pg_catalog.numeric[], $3::pg_catalog.numeric[],
                    $4::pg_catalog.numeric[], $5::pg_catalog.numeric[]) c (id, old_usd, new_usd, old_rub, new_rub)
       WHERE t.id OPERATOR(pg_catalog.=) c.id::%3$s
         AND (%4$s IS NULL AND c.old_usd IS NULL OR %4$s OPERATOR(pg_catalog.=) c.old_usd)
         AND (%5$s IS NULL AND c.old_rub IS NULL OR %5$s OPERATOR(pg_catalog.=) c.old_rub)%6$s
      RETURNING c.*),
    logged AS (
      INSERT INTO %7$s (row_id, old_cost_usd, new_cost_usd, old_cost_rub, new_cost_rub)
      SELECT l.id, l.old_usd, l.new_usd, l.old_rub, l.new_rub FROM changed l)
    SELECT pg_catalog.jsonb_build_object(
             'rows', pg_catalog.count(*),
             'old_cost_usd', pg_catalog.trim_scale(coalesce(pg_catalog.sum(s.old_usd), 0)),
             'new_cost_usd', pg_catalog.trim_scale(coalesce(pg_catalog.sum(s.new_usd), 0)))
      FROM changed s$text$,
    @extschema@._token_usage_table(ledger, 'token_usage'::text),
    CASE WHEN @extschema@._token_usage_has_source(ledger) THEN ', cost_source = ''price_book''' ELSE '' END,
    layout.id_type, layout.cost_usd, layout.cost_rub,
    CASE WHEN @extschema@._token_usage_has_source(ledger) THEN
      ' AND (t.cost_source IS NULL OR t.cost_source OPERATOR(pg_catalog.=) ''price_book'')' ELSE '' END, log);
END
$function$;

-- The UPDATE runs with the caller's search path, as the application's own statements do; so no operators here.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_reprice(
  path name[], user_id text, start_date timestamptz, end_date timestamptz) RETURNS jsonb
LANGUAGE plpgsql AS $function$
DECLARE
  plan record := @extschema@._token_usage_reprice_plan(path, user_id, start_date, end_date);
  result jsonb;
BEGIN
  EXECUTE plan.statement INTO result USING plan.ids, plan.old_usd, plan.new_usd, plan.old_rub, plan.new_rub;
  RETURN result;
END
$function$;

-- token_usage_reprice_preview(user_id, start_date, end_date): rows (id, old_cost_usd, new_cost_usd, old_cost_rub,
-- new_cost_rub) that the price book would now price otherwise; NULL user_id is everyone, both dates are inclusive.
-- token_usage_reprice(user_id, start_date, end_date): makes those changes; {"rows", "old_cost_usd", "new_cost_usd"}.
DO $overloads$
DECLARE
  user_type text;
  instant record;
BEGIN
  FOREACH user_type IN ARRAY ARRAY['bigint', 'text', 'uuid'] LOOP
    FOR instant IN
      SELECT * FROM (VALUES
        ('text', '@extschema@._token_usage_instant(''%1$s''::pg_catalog.text, %1$s)', ' DEFAULT NULL'),
        ('timestamp with time zone', '%1$s', ''),
        ('timestamp without time zone', 'pg_catalog.timezone(''UTC''::pg_catalog.text, %1$s)', ''),
        ('date', 'pg_catalog.timezone(''UTC''::pg_catalog.text, %1$s::pg_catalog.timestamp)', ''))
        AS v (type, expression, default_null)
    LOOP
      EXECUTE pg_catalog.format($statement$
        CREATE OR REPLACE FUNCTION @extschema@.token_usage_reprice_preview(
          user_id %1$s, start_date %2$s%3$s, end_date %2$s DEFAULT NULL)
        RETURNS TABLE (id bigint, old_cost_usd numeric, new_cost_usd numeric, old_cost_rub numeric, new_cost_rub numeric)
        LANGUAGE sql STABLE ROWS 100 AS $function$
          SELECT * FROM @extschema@._token_usage_reprice_preview(
            pg_catalog.current_schemas(false), user_id::pg_catalog.text, %4$s, %5$s)
        $function$;

        CREATE OR REPLACE FUNCTION @extschema@.token_usage_reprice_preview_text(
          user_id %1$s, start_date %2$s%3$s, end_date %2$s DEFAULT NULL)
        RETURNS TABLE (id text, old_cost_usd numeric, new_cost_usd numeric, old_cost_rub numeric, new_cost_rub numeric)
        LANGUAGE sql STABLE ROWS 100 AS $function$
          SELECT * FROM @extschema@._token_usage_reprice_changes(
            pg_catalog.current_schemas(false), user_id::pg_catalog.text, %4$s, %5$s)
        $function$;

        CREATE OR REPLACE FUNCTION @extschema@.token_usage_reprice(
          user_id %1$s, start_date %2$s%3$s, end_date %2$s DEFAULT NULL) RETURNS jsonb
        LANGUAGE sql AS $function$
          SELECT @extschema@._token_usage_reprice(
            pg_catalog.current_schemas(false), user_id::pg_catalog.text, %4$s, %5$s)
        $function$;
      $statement$, user_type, instant.type, instant.default_null,
        pg_catalog.format(instant.expression, 'start_date'), pg_catalog.format(instant.expression, 'end_date'));
    END LOOP;
  END LOOP;
END
$overloads$;
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

  -- For the other ledgers that had them; the one of the search path gets them from token_usage_migrate().
  EXECUTE format('SELECT %1$s._token_usage_keep(c.oid) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relname = ''token_usage'' AND c.relkind IN (''r'', ''p'') AND %1$s._token_usage_kept_name(''page'', n.nspname) = ANY ($1)', home)
    USING kept;

  PERFORM pg_catalog.set_config('search_path', path, true);
  EXECUTE pg_catalog.format('SELECT %s.token_usage_migrate()', home) INTO steps;
  RAISE NOTICE 'token_usage_migrate: %', steps;
END
$portable$;

COMMIT;
