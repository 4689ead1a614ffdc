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
