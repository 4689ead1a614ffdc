-- Finds the ledger and tells what its columns are. An adopted table may have other types than ours, so the text of each query depends
-- on them; nothing here reads the ledger's rows.

-- The ledger: the first schema of the path, the temporary one excluded, that has a table token_usage. Raises the contract's error
-- (42P01) where there is none.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_ledger(path name[])
RETURNS oid LANGUAGE plpgsql STABLE AS $function$
DECLARE
  ledger oid;
BEGIN
  SELECT c.oid INTO ledger
    FROM unnest(path) WITH ORDINALITY AS p (nspname, place)
    JOIN pg_catalog.pg_namespace AS n USING (nspname)
    JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid
   WHERE c.relname = 'token_usage' AND c.relkind IN ('r', 'p') AND n.nspname NOT LIKE 'pg\_temp\_%'
   ORDER BY p.place LIMIT 1;
  IF ledger IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = '42P01',
      MESSAGE = 'token_usage: no token_usage table; run SELECT token_usage_migrate()',
      HINT = 'The table is looked for in the schemas of search_path.';
  END IF;
  RETURN ledger;
END
$function$;

-- The type under a domain, and what remains of its modifier.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_base_type(INOUT type oid, INOUT modifier integer)
LANGUAGE plpgsql STABLE AS $function$
DECLARE
  base record;
BEGIN
  LOOP
    SELECT t.typbasetype, t.typtypmod INTO base FROM pg_catalog.pg_type AS t
     WHERE t.oid = type AND t.typtype = 'd';
    EXIT WHEN NOT FOUND;
    type := base.typbasetype;
    modifier := base.typtypmod;
  END LOOP;
END
$function$;

-- How a column is compared and read: integer, numeric, real, double, text, uuid, timestamp, timestamptz, json; else other.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_family(type oid)
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT CASE type::pg_catalog.regtype::text
    WHEN 'smallint' THEN 'integer' WHEN 'integer' THEN 'integer' WHEN 'bigint' THEN 'integer'
    WHEN 'numeric' THEN 'numeric' WHEN 'real' THEN 'real' WHEN 'double precision' THEN 'double'
    WHEN 'text' THEN 'text' WHEN 'character varying' THEN 'text' WHEN 'character' THEN 'text'
    WHEN 'uuid' THEN 'uuid'
    WHEN 'timestamp without time zone' THEN 'timestamp' WHEN 'timestamp with time zone' THEN 'timestamptz'
    WHEN 'json' THEN 'json' WHEN 'jsonb' THEN 'json'
    ELSE 'other'
  END
$function$;

-- One column of the ledger. `modifier` is that of the base type, -1 where there is none.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_column(
  ledger oid, column_name text, OUT family text, OUT modifier integer, OUT not_null boolean,
  OUT deterministic boolean, OUT type_name text)
LANGUAGE plpgsql STABLE AS $function$
DECLARE
  type oid;
BEGIN
  SELECT a.atttypid, a.atttypmod, a.attnotnull, coalesce(c.collisdeterministic, true)
    INTO type, modifier, not_null, deterministic
    FROM pg_catalog.pg_attribute AS a LEFT JOIN pg_catalog.pg_collation AS c ON c.oid = a.attcollation
   WHERE a.attrelid = ledger AND a.attname = column_name AND a.attnum > 0 AND NOT a.attisdropped;
  IF NOT FOUND THEN
    RETURN;
  END IF;
  type_name := format_type(type, modifier);
  SELECT b.type, b.modifier INTO type, modifier FROM @extschema@._token_usage_base_type(type, modifier) AS b;
  family := @extschema@._token_usage_family(type);
END
$function$;

-- The ledger's name, qualified and quoted.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_table(ledger oid, table_name text DEFAULT 'token_usage')
RETURNS text LANGUAGE sql STABLE AS $function$
  SELECT format('%I.%I', n.nspname, table_name)
    FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
   WHERE c.oid = ledger
$function$;

-- `user_id` as the ledger's column can compare it; the argument error where it is NULL or its type cannot hold it.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_user(ledger oid, user_id text)
RETURNS text LANGUAGE plpgsql STABLE AS $function$
DECLARE
  family text := (@extschema@._token_usage_column(ledger, 'user_id')).family;
BEGIN
  IF family = 'integer' THEN
    IF user_id !~ '^\s*[+-]?[0-9]{1,30}\s*$'
       OR user_id::numeric NOT BETWEEN -9223372036854775808 AND 9223372036854775807 THEN
      PERFORM @extschema@._token_usage_bad_argument('user_id', 'a bigint', user_id);
    END IF;
  ELSIF family = 'uuid' THEN
    IF user_id !~* '^(([0-9a-f]{4}-?){7}[0-9a-f]{4}|\{([0-9a-f]{4}-?){7}[0-9a-f]{4}\})$' THEN
      PERFORM @extschema@._token_usage_bad_argument('user_id', 'a uuid', user_id);
    END IF;
  END IF;
  RETURN user_id;
END
$function$;

-- The type to which a parameter is cast that is compared with a column of that family.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_key_type(family text)
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT CASE family WHEN 'integer' THEN 'bigint' WHEN 'uuid' THEN 'uuid' ELSE 'text' END
$function$;

-- A condition on the ledger's agent_id that is true for the bytes of `parameter` only, and that its indexes can serve.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_agent_condition(ledger oid, parameter text)
RETURNS text LANGUAGE sql STABLE AS $function$
  SELECT ' AND agent_id = ' || parameter ||
    CASE WHEN c.deterministic THEN '' ELSE ' AND agent_id::text COLLATE "C" = ' || parameter || ' COLLATE "C"' END
    FROM @extschema@._token_usage_column(ledger, 'agent_id') AS c
$function$;
