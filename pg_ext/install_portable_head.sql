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
