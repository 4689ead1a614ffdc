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
