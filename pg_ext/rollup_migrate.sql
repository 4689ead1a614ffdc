-- The derived tables, triggers and functions that token_usage_migrate() puts beside a ledger; rollup.sql says what they mean.

-- Drops a trigger where there is one; DROP TRIGGER IF EXISTS tells every user of a new ledger what is not there.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_drop_trigger(relation regclass, trigger_name text)
RETURNS void LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $rollup$
BEGIN
  IF EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = relation AND t.tgname = trigger_name) THEN
    EXECUTE format('DROP TRIGGER %I ON %s', trigger_name, relation);
  END IF;
END
$rollup$;

-- Sees to it that a trigger of a table is there, word for word and enabled as told; returns whether it was not. `statement` makes it on
-- {table}. Only the server knows how it would spell it, so it is made on a scratch table too; who may make none keeps what is there.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_trigger(relation regclass, trigger_name text, statement text, enabled "char")
RETURNS boolean LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $rollup$
DECLARE
  there record;
  wanted text;
BEGIN
  SELECT pg_get_triggerdef(t.oid) AS spelled, t.tgenabled AS enabled, format('%I.%I', n.nspname, c.relname) AS place INTO there
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_trigger t ON t.tgrelid = c.oid AND t.tgname = trigger_name
   WHERE c.oid = relation;
  IF there.enabled = enabled THEN
    IF NOT has_database_privilege(current_database(), 'TEMPORARY') THEN
      RETURN false;
    END IF;
    EXECUTE format('CREATE TEMPORARY TABLE token_usage_rollup_scratch (LIKE %s)', there.place);
    EXECUTE replace(statement, '{table}', 'pg_temp.token_usage_rollup_scratch');
    -- Which versions name the schema of temporary tables pg_temp, and which by its number, is not ours to know.
    SELECT regexp_replace(pg_get_triggerdef(t.oid), ' ON pg_temp\w*\.token_usage_rollup_scratch ', ' ON @ ') INTO wanted
      FROM pg_trigger t WHERE t.tgrelid = to_regclass('pg_temp.token_usage_rollup_scratch');
    DROP TABLE pg_temp.token_usage_rollup_scratch;
    IF there.spelled = replace(wanted, ' ON @ ', ' ON ' || there.place || ' ') THEN
      RETURN false;
    END IF;
  END IF;
  PERFORM @extschema@._token_usage_drop_trigger(relation, trigger_name);
  EXECUTE replace(statement, '{table}', there.place);
  EXECUTE format('ALTER TABLE %s ENABLE %s TRIGGER %I', there.place, CASE enabled WHEN 'A' THEN 'ALWAYS' ELSE 'REPLICA' END, trigger_name);
  RETURN true;
END
$rollup$;

-- Makes what is missing of a ledger's derived tables, functions and triggers; part of token_usage_migrate().
-- All of it belongs to the ledger's owner and names nothing of the extension, so that it goes on working, and
-- the rollups stay exact, after DROP EXTENSION. Returns steps as migrate does. Run by the ledger's owner.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_migrate(ledger oid)
RETURNS jsonb LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $rollup$
DECLARE
  space text;
  space_oid oid;
  owner oid;
  user_type text;
  steps jsonb := '[]';
  fresh boolean := false;
  part record;
  code record;
  word text;
BEGIN
  SELECT quote_ident(n.nspname), n.oid, c.relowner INTO space, space_oid, owner
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ledger;
  IF NOT @extschema@._token_usage_rollup_possible(ledger) THEN
    RETURN steps;
  END IF;
  -- What another role made here under our names would be written to, or run, with the rights of the ledger's owner.
  SELECT 'table' AS kind, space || '.' || c.relname AS name INTO part FROM pg_class c
   WHERE c.relnamespace = space_oid AND c.relname ~ '^token_usage_(rollup|rollup_(month|user|epoch|state|guard|turn)|delta)$'
     AND (c.relowner <> owner OR c.relkind <> CASE WHEN c.relname ~ '_(guard|turn)$' THEN 'S' ELSE 'r' END)
  UNION ALL
  SELECT 'function', f.oid::regprocedure::text FROM pg_proc f
   WHERE f.pronamespace = space_oid AND f.proname ~ '^token_usage_rollup_' AND f.proowner <> owner
   LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION 'token_usage: % is not a % of the owner of %', part.name, part.kind, ledger::regclass USING ERRCODE = '42501';
  END IF;
  -- Left beside a ledger of another type of user, which is gone: nothing of it is worth keeping.
  user_type := @extschema@._token_usage_rollup_text(ledger, '{user_type}');
  IF EXISTS (SELECT FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
              WHERE c.relnamespace = space_oid AND c.relname = 'token_usage_delta' AND a.attname = 'user_id'
                AND a.atttypid <> user_type::regtype) THEN
    EXECUTE format('DROP TABLE %1$s.token_usage_rollup_user, %1$s.token_usage_rollup_month, %1$s.token_usage_rollup,'
                   ' %1$s.token_usage_delta', space);
    FOR code IN SELECT f.oid::regprocedure AS signature FROM pg_proc f WHERE f.pronamespace = space_oid
        AND f.proname IN ('token_usage_rollup_visit', 'token_usage_rollup_meet', 'token_usage_rollup_fold', 'token_usage_rollup_again') LOOP
      EXECUTE format('DROP FUNCTION %s', code.signature);
    END LOOP;
  END IF;
  FOR part IN SELECT * FROM (VALUES
      ('token_usage_rollup_epoch', 'epoch uuid NOT NULL, ledger oid NOT NULL, filenode oid NOT NULL, stamp text NOT NULL'),
      ('token_usage_rollup_state', 'epoch uuid NOT NULL PRIMARY KEY, confirmed timestamptz, pending timestamptz, horizon bigint'),
      ('token_usage_rollup_user', 'user_id {user_type} NOT NULL PRIMARY KEY, epoch uuid NOT NULL, sealed_until timestamptz NOT NULL'),
      ('token_usage_rollup_month', 'user_id {user_type} NOT NULL, month timestamptz NOT NULL, flags smallint NOT NULL, PRIMARY KEY (user_id, month)'),
      ('token_usage_rollup', 'user_id {user_type} NOT NULL, bucket timestamptz NOT NULL, requests bigint NOT NULL, prompt bigint NOT NULL,'
       ' completion bigint NOT NULL, total bigint NOT NULL, unpriced bigint NOT NULL, ms_sum bigint NOT NULL, ms_count bigint NOT NULL,'
       ' kind smallint NOT NULL, nulls smallint NOT NULL, key1 text COLLATE "C" NOT NULL, key2 text COLLATE "C" NOT NULL,'
       ' usd numeric NOT NULL, rub numeric NOT NULL, PRIMARY KEY (user_id, kind, bucket, key1, key2, nulls)'),
      ('token_usage_delta', 'user_id {user_type}, created_at timestamptz, prompt bigint, completion bigint, total bigint, ms bigint,'
       ' turn bigint, sign smallint NOT NULL, agent text COLLATE "C", provider text COLLATE "C", model text COLLATE "C", usd numeric, rub numeric'))
      p (name, columns) LOOP
    IF EXISTS (SELECT FROM pg_class c WHERE c.relname = part.name AND c.relnamespace = space_oid) THEN
      steps := steps || jsonb_build_object('step', 'table ' || part.name, 'action', 'kept');
    ELSE
      EXECUTE @extschema@._token_usage_rollup_text(ledger, format('CREATE TABLE {s}.%I (%s)', part.name, part.columns));
      EXECUTE format('ALTER TABLE %s.%I OWNER TO %s', space, part.name, owner::regrole);
      steps := steps || jsonb_build_object('step', 'table ' || part.name, 'action', 'created');
      fresh := true;
    END IF;
    -- To cut off the empty end of a table VACUUM locks out everybody: writers would wait for that, and queries on a standby be cancelled.
    IF NOT EXISTS (SELECT FROM pg_class c WHERE c.relname = part.name AND c.relnamespace = space_oid AND 'vacuum_truncate=false' = ANY (c.reloptions)) THEN
      EXECUTE format('ALTER TABLE %s.%I SET (vacuum_truncate = false)', space, part.name);
    END IF;
  END LOOP;
  IF fresh THEN
    EXECUTE format('CREATE INDEX IF NOT EXISTS idx_token_usage_delta ON %s.token_usage_delta (user_id, created_at)', space);
    EXECUTE format('ALTER TABLE %s.token_usage_delta SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,'
                   ' autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 1000000)', space);
    EXECUTE format('ALTER TABLE %s.token_usage_rollup SET (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.05)', space);
    EXECUTE format('ALTER TABLE %s.token_usage_rollup_user SET (fillfactor = 50)', space);
  END IF;
  FOREACH word IN ARRAY '{token_usage_rollup_guard,token_usage_rollup_turn}'::text[] LOOP
    IF NOT EXISTS (SELECT FROM pg_class c WHERE c.relname = word AND c.relnamespace = space_oid) THEN
      EXECUTE format('CREATE SEQUENCE %s.%I MINVALUE -9223372036854775807 START 0 CYCLE', space, word);
      EXECUTE format('ALTER SEQUENCE %s.%I OWNER TO %s', space, word, owner::regrole);
    END IF;
  END LOOP;
  IF pg_sequence_last_value(to_regclass(space || '.token_usage_rollup_guard')) IS NULL THEN
    -- Year 1, in microseconds. So NULL is what nobody sees but who may not read the guard, and that counts as late.
    PERFORM setval(to_regclass(space || '.token_usage_rollup_guard'), -62135596800000000);
  END IF;
  -- Every writer's trigger reads the guard. It tells an instant and nothing else.
  EXECUTE format('GRANT SELECT ON SEQUENCE %s.token_usage_rollup_guard TO PUBLIC', space);

  FOR code IN SELECT * FROM @extschema@._token_usage_rollup_write_functions()
         UNION ALL SELECT * FROM @extschema@._token_usage_rollup_maintain_functions()
         UNION ALL SELECT * FROM @extschema@._token_usage_rollup_rebuild_functions() LOOP
    EXECUTE @extschema@._token_usage_rollup_text(ledger, code.definition);
    EXECUTE @extschema@._token_usage_rollup_text(ledger, 'ALTER FUNCTION ' || code.signature || ' OWNER TO ' || owner::regrole);
    EXECUTE @extschema@._token_usage_rollup_text(ledger, 'REVOKE ALL ON FUNCTION ' || code.signature || ' FROM PUBLIC');
  END LOOP;

  -- One insert in 128 asks for maintenance. By chance and not by a column, whose type could not be changed then. least() leaves out what is
  -- NULL: such a row is in no sum. The server copies the text of all these clauses at each INSERT, and parses the one that it needs.
  FOR part IN SELECT * FROM (VALUES
      ('token_usage_rollup_insert', 'INSERT', 'FOR EACH ROW WHEN (({new_at} < {guard}) IS NOT FALSE OR random() < ''0.0078125''::float8)'),
      ('token_usage_rollup_update', 'UPDATE', 'FOR EACH ROW WHEN ((least({old_at}, {new_at}) < {guard}) IS NOT FALSE)'),
      ('token_usage_rollup_delete', 'DELETE', 'FOR EACH ROW WHEN (({old_at} < {guard}) IS NOT FALSE)'),
      ('token_usage_rollup_truncate', 'TRUNCATE', 'FOR EACH STATEMENT')) p (name, event, clause) LOOP
    IF @extschema@._token_usage_rollup_trigger(ledger, part.name, @extschema@._token_usage_rollup_text(ledger,
         format('CREATE TRIGGER %I AFTER %s ON {table} %s EXECUTE FUNCTION {s}.token_usage_rollup_write()', part.name, part.event, part.clause)), 'A') THEN
      fresh := true;
    END IF;
  END LOOP;
  -- A publication FOR ALL TABLES has ours too: it asks for an identity of the rows that are deleted, and a subscriber keeps its own.
  EXECUTE format('ALTER TABLE %s.token_usage_delta REPLICA IDENTITY FULL', space);
  EXECUTE format('ALTER TABLE %s.token_usage_rollup_epoch REPLICA IDENTITY FULL', space);
  FOREACH word IN ARRAY '{token_usage_rollup,token_usage_rollup_month,token_usage_rollup_user,token_usage_rollup_epoch,token_usage_rollup_state,token_usage_delta}'::text[] LOOP
    -- The setting is asked for as well: pg_restore --disable-triggers leaves every trigger firing for our own writes too.
    PERFORM @extschema@._token_usage_rollup_trigger((space || '.' || word)::regclass, 'token_usage_rollup_foreign', format(
      'CREATE TRIGGER token_usage_rollup_foreign BEFORE INSERT OR UPDATE OR DELETE ON {table} FOR EACH ROW'
      ' WHEN (pg_trigger_depth() = 0 AND current_setting(''session_replication_role'') = ''replica'')'
      ' EXECUTE FUNCTION %s.token_usage_rollup_foreign()', space), 'R');
  END LOOP;
  PERFORM @extschema@._token_usage_rollup_trigger((space || '.token_usage_delta')::regclass, 'token_usage_rollup_at_commit', format(
    'CREATE CONSTRAINT TRIGGER token_usage_rollup_at_commit AFTER INSERT ON {table} DEFERRABLE INITIALLY DEFERRED'
    ' FOR EACH ROW WHEN (NEW.turn & 127 = 0) EXECUTE FUNCTION %s.token_usage_rollup_at_commit()', space), 'A');
  -- Writes may have passed while a trigger was missing: whatever was rolled is void.
  IF fresh THEN
    EXECUTE format('DELETE FROM %s.token_usage_rollup_epoch', space);
  END IF;
  RETURN steps;
END
$rollup$;
