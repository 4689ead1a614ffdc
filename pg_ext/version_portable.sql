-- token_usage_version(): the version of the installed functions, as text.
CREATE OR REPLACE FUNCTION @extschema@.token_usage_version()
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT '@version@'::pg_catalog.text
$function$;
