-- The portable twin of pg_ext/zone.cpp.

-- True where the server knows a zone of that name.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_zone_known(zone text)
RETURNS boolean LANGUAGE plpgsql STABLE AS $function$
BEGIN
  PERFORM pg_catalog.timezone(zone, pg_catalog.now());
  RETURN true;
EXCEPTION WHEN invalid_parameter_value THEN
  RETURN false;
END
$function$;
