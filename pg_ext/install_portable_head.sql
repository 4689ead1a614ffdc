-- token_usage, portable edition: the ledger and its reports for PostgreSQL 13 and later, in SQL and PL/pgSQL only.
--
--   psql "$DATABASE_URL" -f migrations/add_token_usage_indexes.sql
--
-- It needs no superuser and no library. Functions go into the first schema of search_path, and token_usage_migrate() then makes the ledger
-- there, or adopts the table token_usage that there is. Run it again for a new version. Made by `make` from pg_ext/*.sql: edit those.

BEGIN;

DO $portable$
DECLARE
  home text := pg_catalog.quote_ident(pg_catalog.current_schema());
  path text := pg_catalog.current_setting('search_path');
  steps jsonb;
  portable record;
  routines text;
BEGIN
  -- Whatever else is on the search path, nothing here is looked up there.
  PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  IF home IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_schema_name',
      MESSAGE = 'token_usage: no schema to create functions in', HINT = 'Put a schema on search_path.';
  ELSIF home ~ '[%$''\\]' THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_schema_name',
      MESSAGE = 'token_usage: the name of its schema must be without %, $, quotes and backslashes';
  END IF;

  -- A database that has the native edition goes on with this one; the tables stay.
  FOR portable IN SELECT e.extowner FROM pg_extension AS e WHERE e.extname = 'token_usage' LOOP
    IF NOT pg_has_role(current_user, portable.extowner, 'USAGE') THEN
      RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
        MESSAGE = format('token_usage: the extension token_usage belongs to role %s', portable.extowner::regrole),
        HINT = 'Run this file as that role, or drop the extension first: the tables stay.';
    END IF;
    DROP EXTENSION token_usage;
  END LOOP;
