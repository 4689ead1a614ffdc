-- The portable twin of pg_ext/ledger.cpp.

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

-- The value of a setting, or its default where none was set.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_read_setting(ledger oid, name text)
RETURNS text LANGUAGE plpgsql STABLE AS $function$
DECLARE
  settings text := @extschema@._token_usage_table(ledger, 'token_usage_settings'::text);
  value text;
BEGIN
  IF to_regclass(settings) IS NOT NULL THEN
    -- A view in its place, or a type with casts of its own, would run code of the ledger's owner with the caller's rights.
    IF EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.oid = to_regclass(settings) AND c.relkind <> 'r')
       OR EXISTS (SELECT FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = to_regclass(settings) AND a.attnum > 0 AND a.atttypid >= 16384) THEN
      RAISE EXCEPTION 'token_usage: token_usage_settings is not the table that token_usage_migrate() makes' USING ERRCODE = '42809';
    END IF;
    EXECUTE format('SELECT s.value FROM %s AS s WHERE s.name = $1', settings) INTO value USING name;
  END IF;
  RETURN coalesce(value, 'UTC');
END
$function$;
