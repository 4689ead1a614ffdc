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
