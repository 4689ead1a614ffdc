\echo Use "CREATE EXTENSION token_usage" to load this file. \quit
-- The start of the extension's script. The script runs with the rights of a superuser (the extension is trusted), so that nothing in it
-- may be looked up in a schema where others can create objects.

SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

-- A database that has the portable edition in the same schema goes on with this one: the portable functions, which carry a comment that
-- marks them, are dropped, and the tables stay. session_user is asked, since the current user is a superuser here.
DO $install$
DECLARE
  portable record;
  routines text;
BEGIN
  IF '@extschema@' ~ '[%$''[.backslash.]]' THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_schema_name',
      MESSAGE = 'token_usage: the name of its schema must be without %, $, quotes and backslashes';
  END IF;
  FOR portable IN
    SELECT p.oid::regprocedure::text AS routine, p.proowner
      FROM pg_proc AS p JOIN pg_description AS d ON d.objoid = p.oid AND d.classoid = 'pg_proc'::regclass
     WHERE p.pronamespace = '@extschema@'::regnamespace AND p.proname ~ '^_?token_usage_'
       AND left(d.description, 29) = 'token_usage, portable edition'
  LOOP
    IF NOT pg_has_role(session_user, portable.proowner, 'MEMBER') THEN
      RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
        MESSAGE = format('token_usage: the portable edition in schema @extschema@ belongs to role %s',
                         portable.proowner::regrole),
        HINT = 'Create the extension as that role, or drop the portable functions first.';
    END IF;
    routines := concat_ws(', ', routines, portable.routine);
  END LOOP;
  -- In one statement, since they depend on each other.
  IF routines IS NOT NULL THEN
    EXECUTE 'DROP ROUTINE ' || routines;
  END IF;
END
$install$;

