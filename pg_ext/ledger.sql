-- Finds the ledger and tells what its columns are. An adopted table may have other types than ours, so the text of each query
-- depends on them. That text names and qualifies everything, operators too. Nothing here reads the ledger's rows.

-- The type under a domain.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_base_type(type oid)
RETURNS oid LANGUAGE plpgsql STABLE AS $function$
DECLARE
  base oid := type;
BEGIN
  LOOP
    SELECT t.typbasetype INTO base FROM pg_catalog.pg_type AS t WHERE t.oid = type AND t.typtype = 'd';
    EXIT WHEN NOT FOUND;
    type := base;
  END LOOP;
  RETURN type;
END
$function$;

-- How a column is compared and read. By the numbers of the types, which never change: their names would have to be looked up for each
-- column of each report.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_family(type oid)
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT CASE
    WHEN type = 20 OR type = 23 OR type = 21 THEN 'integer'  -- bigint, integer, smallint
    WHEN type = 25 OR type = 1043 THEN 'text'  -- text, varchar
    WHEN type = 1042 THEN 'char'
    WHEN type = 1700 THEN 'numeric'
    WHEN type = 701 THEN 'double'
    WHEN type = 700 THEN 'real'
    WHEN type = 2950 THEN 'uuid'
    WHEN type = 1184 THEN 'timestamptz'
    WHEN type = 1114 THEN 'timestamp'
    WHEN type = 3802 OR type = 114 THEN 'json'  -- jsonb, json
    ELSE 'other'
  END
$function$;

-- The family of a type that may be a domain. What the server brings itself, below 16384, is none.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_family_of(type oid)
RETURNS text LANGUAGE plpgsql STABLE AS $function$
BEGIN
  IF type < 16384 THEN
    RETURN @extschema@._token_usage_family(type);
  END IF;
  RETURN @extschema@._token_usage_family(@extschema@._token_usage_base_type(type));
END
$function$;

-- The columns of the ledger. type and modifier are as format_type() takes them.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_columns(ledger oid)
RETURNS TABLE (name text, family text, not_null boolean, deterministic boolean, type oid, modifier integer)
LANGUAGE sql STABLE AS $function$
  SELECT a.attname::text,
         CASE WHEN a.atttypid < 16384 THEN @extschema@._token_usage_family(a.atttypid)
              ELSE @extschema@._token_usage_family_of(a.atttypid) END,
         a.attnotnull,
         -- The server's own collations are all deterministic.
         a.attcollation < 16384 OR (SELECT c.collisdeterministic FROM pg_catalog.pg_collation AS c
                                     WHERE c.oid = a.attcollation),
         a.atttypid, a.atttypmod
    FROM pg_catalog.pg_attribute AS a
   WHERE a.attrelid = ledger AND a.attnum > 0 AND NOT a.attisdropped
$function$;

-- The family of one column; NULL where there is none.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_column_family(ledger oid, column_name text)
RETURNS text LANGUAGE plpgsql STABLE AS $function$
DECLARE
  type oid;
BEGIN
  SELECT a.atttypid INTO type FROM pg_catalog.pg_attribute AS a
   WHERE a.attrelid = ledger AND a.attname = column_name::name AND NOT a.attisdropped;
  RETURN @extschema@._token_usage_family_of(type);
END
$function$;

-- The name of a table beside the ledger, or of the ledger itself, qualified and quoted.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_table(ledger oid, table_name text)
RETURNS text LANGUAGE plpgsql STABLE AS $function$
BEGIN
  RETURN (SELECT format('%I.%I', n.nspname, table_name)
            FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
           WHERE c.oid = ledger);
END
$function$;

-- Whether the columns of a relation have now the types that this snapshot tells. The catalog is read by the snapshot of the transaction, which
-- may be older than the last ALTER TABLE, and queries are made for what is there now: a column of a name that was there, and of a type
-- with casts of its own, could have come in between. No query runs here that could call one. Immutable as the next one is.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_as_now(relation regclass)
RETURNS boolean LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  same text;
  holds boolean;
BEGIN
  SELECT string_agg(format('pg_typeof(x.%I)::oid = %s', a.attname, a.atttypid), ' AND ') INTO same
    FROM pg_attribute AS a WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped;
  EXECUTE format('SELECT %s FROM (SELECT (NULL::%s).*) AS x', same, relation) INTO holds;
  RETURN holds;
EXCEPTION WHEN undefined_column OR undefined_table OR undefined_object THEN
  RETURN false;  -- one of them is gone
END
$function$;

-- Whether these are plain tables, with columns of the server's own types only. A view in the place of one, or a type with casts of its own,
-- would run code of the ledger's owner with the rights of whoever asks for a report.
--
-- The answer depends on nothing but the tables that are named, so this is declared immutable: where their names stand in an expression it
-- is called when that is planned, and that is done again after any change of such a table. So it costs nothing where names are known
-- beforehand, as those of tables in the schema of the functions here are. A name of a table that is gone cannot be planned with, so
-- to_regclass() is to be asked in a statement before.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_plain_tables(tables regclass[])
RETURNS boolean LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $function$
BEGIN
  RETURN cardinality(tables) = (SELECT count(*) FROM pg_class AS c WHERE c.oid = ANY (tables) AND c.relkind = 'r' AND NOT EXISTS (
    SELECT FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0 AND a.atttypid >= 16384)
    -- And is none that a rule has turned into a view since.
    AND pg_relation_filenode(c.oid) IS NOT NULL AND @extschema@._token_usage_as_now(c.oid::regclass));
END
$function$;

-- The family of one column, where the name of the table is known beforehand; NULL where the snapshot is older than the table. Immutable as
-- _token_usage_plain_tables() is.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_known_family(ledger regclass, column_name text)
RETURNS text LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
  RETURN CASE WHEN @extschema@._token_usage_as_now(ledger) THEN @extschema@._token_usage_column_family(ledger::oid, column_name) END;
END
$function$;

-- `user_id` as the ledger's column can compare it; the argument error where its type cannot hold it.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_user(ledger oid, user_id text)
RETURNS text LANGUAGE plpgsql STABLE AS $function$
DECLARE
  family text;
BEGIN
  IF ledger = to_regclass('@extschema@.token_usage') THEN
    family := @extschema@._token_usage_known_family('@extschema@.token_usage'::regclass, 'user_id'::text);
  END IF;
  IF family IS NULL THEN
    family := @extschema@._token_usage_column_family(ledger, 'user_id'::text);
  END IF;
  IF family = 'integer' THEN
    IF user_id !~ '^ *[+-]?[0-9]{1,40} *$'
       OR user_id::numeric NOT BETWEEN -9223372036854775808 AND 9223372036854775807 THEN
      PERFORM @extschema@._token_usage_bad_argument('user_id'::text, 'a bigint'::text, user_id);
    END IF;
  ELSIF family = 'uuid' THEN
    IF lower(user_id COLLATE "C") !~ '^(([0-9a-f]{4}-?){7}[0-9a-f]{4}|[{]([0-9a-f]{4}-?){7}[0-9a-f]{4}[}])$' THEN
      PERFORM @extschema@._token_usage_bad_argument('user_id'::text, 'a uuid'::text, user_id);
    END IF;
  END IF;
  RETURN user_id;
END
$function$;

-- The type of a parameter that is compared with a column of that family, so that the column's indexes serve.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_key_type(family text)
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT CASE family WHEN 'integer' THEN 'pg_catalog.int8' WHEN 'uuid' THEN 'pg_catalog.uuid'
                     WHEN 'char' THEN 'pg_catalog.bpchar' ELSE 'pg_catalog.text' END
$function$;

-- The ledger's columns as expressions over its row t, as reports and pages read them (rules 4, 5 and 8):
--   created: the time as timestamptz; bound: a format for a timestamptz that is compared with the column created_at;
--   prompt, completion, total: whole counts; cost_usd, cost_rub, execution: decimals, NULL where unknown;
--   id, id_type: the key, and the type of a parameter that is compared with it; agent, provider, model: text by bytes;
--   of_user: the condition that picks the user in $1; of_agent: the same for the agent in $2.
-- Raises 42703 for a column that is missing and 42804 for a type that reports cannot work with: a table that was not migrated.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_layout(
  ledger oid, OUT created text, OUT bound text, OUT prompt text, OUT completion text, OUT total text, OUT cost_usd text,
  OUT cost_rub text, OUT execution text, OUT id text, OUT id_family text, OUT id_type text, OUT agent text,
  OUT provider text, OUT model text, OUT of_user text, OUT of_agent text)
LANGUAGE plpgsql STABLE AS $function$
DECLARE
  col record;
  here text;
  value text;
  has_total boolean;
  missing text[] := '{id,user_id,agent_id,ai_provider,ai_model,prompt_tokens,completion_tokens,total_tokens,cost_usd,cost_rub,'
    'execution_time_ms,created_at,platform,content_type,task_type,content_id,workflow_id,request_id,endpoint}';
BEGIN
  FOR col IN SELECT * FROM @extschema@._token_usage_columns(ledger) LOOP
    CONTINUE WHEN col.name <> ALL (missing);
    missing := array_remove(missing, col.name);
    here := 't.' || col.name;
    IF col.name IN ('platform', 'content_type', 'task_type', 'content_id', 'workflow_id', 'request_id', 'endpoint') THEN
      CONTINUE;
    ELSIF col.name = 'created_at' THEN
      -- Without time zone it holds UTC. The bound is converted and not the column, so that its index serves.
      created := CASE col.family WHEN 'timestamptz' THEN here
                   WHEN 'timestamp' THEN format('pg_catalog.timezone(''UTC''::pg_catalog.text, %s)', here) END;
      bound := CASE col.family WHEN 'timestamptz' THEN '%s'
                 WHEN 'timestamp' THEN 'pg_catalog.timezone(''UTC''::pg_catalog.text, %s)' END;
      value := created;
    ELSIF col.name IN ('id', 'user_id', 'agent_id', 'ai_provider', 'ai_model') THEN
      value := CASE WHEN col.family IN ('text', 'char') THEN format('(%s::pg_catalog.text COLLATE pg_catalog."C")', here)
                    WHEN col.name IN ('id', 'user_id') AND col.family IN ('integer', 'uuid') THEN here END;
      CASE col.name
        WHEN 'id' THEN
          id := value;
          id_family := col.family;
          id_type := CASE col.family WHEN 'char' THEN 'pg_catalog.text'
                                     ELSE @extschema@._token_usage_key_type(col.family) END;
        WHEN 'user_id' THEN
          of_user := @extschema@._token_usage_equal(here, '$1'::text, col.family, col.deterministic);
        WHEN 'agent_id' THEN
          agent := value;
          of_agent := @extschema@._token_usage_equal(here, '$2'::text, col.family, col.deterministic);
        WHEN 'ai_provider' THEN provider := value;
        ELSE model := value;
      END CASE;
    ELSIF col.name IN ('prompt_tokens', 'completion_tokens', 'total_tokens') THEN
      -- A count is whole, and one that is no number is none.
      value := CASE col.family
        WHEN 'integer' THEN here || '::pg_catalog.int8'
        ELSE format('pg_catalog.trunc(%s)', @extschema@._token_usage_decimal_sql(here, col.family)) END;
      IF col.name = 'total_tokens' THEN
        total := value;
        has_total := col.not_null AND col.family = 'integer';
      ELSE
        value := CASE WHEN col.not_null AND col.family = 'integer' THEN value ELSE format('coalesce(%s, 0)', value) END;
        IF col.name = 'prompt_tokens' THEN
          prompt := value;
        ELSE
          completion := value;
        END IF;
      END IF;
    ELSE
      value := @extschema@._token_usage_decimal_sql(here, col.family);
      CASE col.name WHEN 'cost_usd' THEN cost_usd := value; WHEN 'cost_rub' THEN cost_rub := value;
                    ELSE execution := value; END CASE;
    END IF;
    IF value IS NULL THEN
      RAISE EXCEPTION USING ERRCODE = '42804',
        MESSAGE = format('token_usage: column %s of table token_usage has type %s', col.name,
                         format_type(col.type, col.modifier)),
        HINT = 'Run SELECT token_usage_migrate(), which tells what type is needed.';
    END IF;
  END LOOP;
  IF missing <> '{}' THEN
    RAISE EXCEPTION USING ERRCODE = '42703',
      MESSAGE = format('token_usage: table token_usage has no column %s; run SELECT token_usage_migrate()', missing[1]);
  END IF;
  IF NOT @extschema@._token_usage_as_now(ledger::regclass) THEN
    RAISE EXCEPTION USING ERRCODE = '40001',
      MESSAGE = 'token_usage: table token_usage was changed after this transaction began';
  END IF;
  -- A total that is not there is the sum of its parts.
  IF NOT has_total THEN
    total := format('coalesce(%s, %s OPERATOR(pg_catalog.+) %s)', total, prompt, completion);
  END IF;
END
$function$;

-- A condition that is true for the bytes of the text parameter only, and that the column's indexes can serve.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_equal(
  column_name text, parameter text, family text, deterministic boolean)
RETURNS text LANGUAGE plpgsql IMMUTABLE AS $function$
DECLARE
  condition text := format('%s OPERATOR(pg_catalog.=) %s::%s', column_name, parameter,
                           @extschema@._token_usage_key_type(family));
BEGIN
  IF NOT deterministic THEN
    condition := format('%s AND (%s::pg_catalog.text COLLATE pg_catalog."C") OPERATOR(pg_catalog.=) %s',
                        condition, column_name, parameter);
  END IF;
  RETURN condition;
END
$function$;
