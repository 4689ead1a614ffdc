-- token_usage_rebuild and token_usage_compact (section 4 of the contract): all of the work at once, which nobody needs for right answers.

-- The functions that a ledger carries, third part; templates for _token_usage_rollup_text(), one row each.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_rebuild_functions(OUT signature text, OUT definition text)
RETURNS SETOF record LANGUAGE sql IMMUTABLE AS $rollup$
VALUES ('{s}.token_usage_rollup_again({user_type})', $sql$
CREATE OR REPLACE FUNCTION {s}.token_usage_rollup_again(usr {user_type}) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_sort = off SET enable_nestloop = off SET work_mem = '1GB' SET jit = off AS $code$
-- Rebuilds the rollups of one user, or of all when usr is NULL, in bulk. Writers go on; visits pass by.
DECLARE
  wrote bigint := 0;
  n bigint;
  st record;
  mine bigint;
  top bigint;
  until timestamptz;
  month_at timestamptz;
  month_end timestamptz;
  from_at timestamptz;
  to_at timestamptz;
  began timestamptz := clock_timestamp();
  bulk text;
  done boolean := false;
  of_user text := CASE WHEN usr IS NULL THEN 'true' ELSE format('t.user_id = %L::{user_type}', usr) END;
  of_month text := CASE WHEN usr IS NULL THEN 'true' ELSE format('o.user_id = %L::{user_type}', usr) END;
  of_delta text := CASE WHEN usr IS NULL THEN 'true' ELSE format('d.user_id = %L::{user_type}', usr) END;
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'token_usage: token_usage_rebuild must be run at READ COMMITTED' USING ERRCODE = '25001';
  END IF;
  IF pg_trigger_depth() > 0 THEN
    RAISE EXCEPTION 'token_usage: token_usage_rebuild must not be called by a trigger' USING ERRCODE = '0A000';
  END IF;
  IF row_security_active({l}::regclass) THEN
    RAISE EXCEPTION 'token_usage: token_usage_rebuild must see every row, and row security is active for the owner of {ledger}'
      USING ERRCODE = '42501';
  END IF;
  LOCK TABLE {ledger} IN ACCESS SHARE MODE;
  PERFORM pg_advisory_xact_lock(hashtextextended('token_usage_rollup_epoch', {l}::regclass::oid::bigint));
  PERFORM pg_advisory_xact_lock(hashtextextended('token_usage_rollup_user', {l}::regclass::oid::bigint));
  IF NOT {s}.token_usage_rollup_begin() THEN
    RETURN 0;
  END IF;
  PERFORM pg_advisory_xact_lock({state_lock});
  SELECT * INTO st FROM {s}.token_usage_rollup_state s WHERE s.epoch = {epoch} FOR UPDATE;
  IF usr IS NULL THEN
    PERFORM pg_advisory_xact_lock(hashtextextended('token_usage_rollup_part', {l}::regclass::oid::bigint) # i) FROM generate_series(0, 63) i;
  ELSE
    PERFORM pg_advisory_xact_lock({user_lock});
  END IF;
  PERFORM FROM {s}.token_usage_rollup_user r WHERE usr IS NULL OR r.user_id = usr ORDER BY r.user_id FOR UPDATE;

  -- Raise the guard, and wait for whoever may have missed it; if that takes too long, stay below the old one.
  until := clock_timestamp();
  PERFORM {raise_guard until};
  BEGIN
    UPDATE {s}.token_usage_rollup_state s SET pending = until WHERE s.epoch = st.epoch;
  EXCEPTION WHEN division_by_zero THEN
    NULL;
  END;
  SELECT t.xmin::text::bigint INTO mine FROM {s}.token_usage_rollup_state t WHERE t.epoch = st.epoch;
  top := pg_snapshot_xmax(pg_current_snapshot())::text::bigint;
  mine := top + ((mine - top) % 4294967296 + 4294967296 + 2147483648) % 4294967296 - 2147483648;
  UPDATE {s}.token_usage_rollup_state s SET horizon = mine WHERE s.epoch = st.epoch;
  LOOP
    -- An aborted subtransaction ends an id later than `mine`, so that snapshots reach past it.
    BEGIN
      UPDATE {s}.token_usage_rollup_state s SET horizon = mine WHERE s.epoch = st.epoch;
      RAISE division_by_zero;
    EXCEPTION WHEN division_by_zero THEN
      NULL;
    END;
    IF {s}.token_usage_rollup_passed(mine) THEN
      UPDATE {s}.token_usage_rollup_state s SET confirmed = until, pending = until, horizon = NULL WHERE s.epoch = st.epoch;
      EXIT;
    END IF;
    IF clock_timestamp() > began + interval '10 seconds' THEN
      until := coalesce(st.confirmed, '-infinity');
      RAISE WARNING 'token_usage: an open transaction keeps rollups from going past %', until;
      EXIT;
    END IF;
    PERFORM pg_sleep(0.02);
  END LOOP;

  DELETE FROM {s}.token_usage_rollup_month o WHERE usr IS NULL OR o.user_id = usr;
  DELETE FROM {s}.token_usage_rollup_user r WHERE usr IS NULL OR r.user_id = usr;
  bulk := {s}.token_usage_rollup_native('_token_usage_rollup_bulk', 'text[], timestamp with time zone, bigint');
  IF bulk IS NOT NULL THEN
    BEGIN
      EXECUTE $bulk$
WITH gone AS (
  DELETE FROM {s}.token_usage_delta d WHERE d.created_at < $2 AND $bulk$ || of_delta || $bulk$
)
INSERT INTO {s}.token_usage_rollup ({rollup_columns})
SELECT * FROM $bulk$ || bulk || $bulk$($1::text[], $2::timestamptz, 400000000::bigint)
    AS m (user_id {user_type}, kind int2, bucket timestamptz, key1 text COLLATE "C", key2 text COLLATE "C", nulls int2, requests int8, prompt int8,
          completion int8, total int8, usd numeric, rub numeric, unpriced int8, ms_sum int8, ms_count int8)
$bulk$  USING ARRAY[
        $bulk$SELECT t.user_id::{user_type}, {bulk_row} FROM {ledger} t WHERE t.created_at < {$1} AND t.created_at > '-infinity' AND $bulk$ || of_user,
        $bulk$WITH month AS MATERIALIZED (SELECT z.i, z.b, {flags} AS flags FROM unnest($1, $2, $3) WITH ORDINALITY z (c, g, b, i))
              SELECT m.i, (m.flags | coalesce(b.flags, 0))::int2 FROM month m LEFT JOIN month b ON b.i = m.b$bulk$,
        $bulk$INSERT INTO {s}.token_usage_rollup_month (user_id, month, flags) SELECT * FROM unnest($1, $2, $3)$bulk$,
        $bulk$SELECT r.user_id, r.kind, r.bucket, r.key1, r.key2, r.nulls, r.requests, r.prompt, r.completion, r.total, r.usd, r.rub, r.unpriced, r.ms_sum,
                     r.ms_count, r.ctid FROM {s}.token_usage_rollup r WHERE r.user_id = $1 ORDER BY r.kind, r.bucket, r.key1, r.key2, r.nulls$bulk$,
        $bulk$DELETE FROM {s}.token_usage_rollup r WHERE r.ctid = ANY ($1)$bulk$,
        $bulk$DELETE FROM {s}.token_usage_rollup r WHERE r.user_id = ANY ($1)$bulk$], until;
      DELETE FROM {s}.token_usage_rollup r
       WHERE (usr IS NULL OR r.user_id = usr) AND NOT EXISTS (SELECT FROM {s}.token_usage_rollup_month o WHERE o.user_id = r.user_id);
      SELECT count(*) INTO wrote FROM {s}.token_usage_rollup r WHERE usr IS NULL OR r.user_id = usr;
      done := true;
    EXCEPTION WHEN numeric_value_out_of_range OR program_limit_exceeded OR out_of_memory THEN
      NULL;  -- more than it adds up: below is the same in SQL
    END;
  END IF;
  IF NOT done THEN
    DELETE FROM {s}.token_usage_rollup r WHERE usr IS NULL OR r.user_id = usr;
  END IF;
  -- No plan made for one statistic of an empty table must serve them all.
  month_at := '-infinity';
  WHILE NOT done LOOP
    IF usr IS NULL THEN
      SELECT min({at}) INTO month_at FROM {ledger} t WHERE t.created_at >= {month_at} AND t.created_at > '-infinity';
    ELSE
      SELECT min({at}) INTO month_at FROM {ledger} t WHERE t.user_id = usr AND t.created_at >= {month_at} AND t.created_at > '-infinity';
    END IF;
    EXIT WHEN month_at IS NULL OR month_at >= until;
    month_at := timezone('UTC', date_trunc('month', timezone('UTC', month_at)));
    month_end := timezone('UTC', timezone('UTC', month_at) + interval '1 month');
    from_at := month_at;
    to_at := least(month_end, until);
    EXECUTE format($bulk$
WITH groups AS (
  SELECT x.user_id, sum(x.n) FILTER (WHERE x.dim = 1) AS c, count(*) AS g
    FROM (SELECT q.user_id, grouping(q.model) AS dim, count(*) AS n
            FROM (SELECT t.user_id, {row} FROM {ledger} t WHERE t.created_at >= $1 AND t.created_at < $2 AND %1$s) q
           GROUP BY GROUPING SETS ((q.user_id, q.agent), (q.user_id, q.provider, q.model))) x
   GROUP BY 1
), chosen AS MATERIALIZED (
  SELECT k.user_id, k.flags FROM (SELECT user_id, {flags} | coalesce(b.flags, 0)::int2 AS flags FROM groups LEFT JOIN (
         SELECT o.user_id AS before_id, o.flags FROM {s}.token_usage_rollup_month o WHERE $3 AND o.month = $4) b ON b.before_id = user_id) k WHERE k.flags <> 0 AND k.user_id IS NOT NULL
), gone AS (
  DELETE FROM {s}.token_usage_delta d WHERE d.created_at >= $5 AND d.created_at < $6 AND %2$s
), src AS (
  SELECT t.user_id, {row}, k.flags FROM {ledger} t JOIN chosen k ON k.user_id = t.user_id
   WHERE t.created_at >= $1 AND t.created_at < $2 AND %1$s
), {unsigned_ctes}, marked AS (
  INSERT INTO {s}.token_usage_rollup_month (user_id, month, flags) SELECT k.user_id, $5, k.flags FROM chosen k
)
INSERT INTO {s}.token_usage_rollup ({rollup_columns})
SELECT * FROM rolled ORDER BY 1, 2, 3, 4, 5, 6
$bulk$, of_user, of_delta)
      USING {from_at}, {to_at}, to_at < month_end,
            timezone('UTC', timezone('UTC', month_at) - interval '1 month'), month_at, to_at;
    GET DIAGNOSTICS n = ROW_COUNT;
    wrote := wrote + n;
    EXIT WHEN month_end >= until;
    month_at := month_end;
  END LOOP;
  -- Also those whose months are all too thin to be rolled: a visit would read all that they have before it found that.
  EXECUTE $bulk$
INSERT INTO {s}.token_usage_rollup_user (user_id, epoch, sealed_until)
SELECT o.user_id, $2, $1 FROM {s}.token_usage_rollup_month o WHERE $bulk$ || of_month || $bulk$
 UNION
SELECT t.user_id::{user_type}, $2, $1 FROM {ledger} t WHERE t.created_at < {$1} AND t.user_id IS NOT NULL AND $bulk$ || of_user || $bulk$
 GROUP BY t.user_id HAVING count(*) >= 256
$bulk$ USING until, st.epoch;
  RETURN wrote;
END
$code$;
$sql$)
$rollup$;

-- The ledger's own function of that name, checked: it must run with the rights of the ledger's owner, whoever
-- calls it, so that nobody is led to run another's code with rights of their own.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_own(ledger oid, function_name text)
RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $rollup$
  SELECT format('%I.%I', n.nspname, f.proname)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_proc f ON f.pronamespace = n.oid
   WHERE c.oid = ledger AND f.proname = function_name AND f.proowner = c.relowner AND f.prosecdef
     AND f.proconfig[1] = 'search_path=pg_catalog, pg_temp'
$rollup$;

-- Rebuilds the rollups of one user or (NULL) of everyone; how many rollup rows were written.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_rebuild(ledger oid, user_id text)
RETURNS bigint LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $rollup$
DECLARE
  again text := @extschema@._token_usage_rollup_own(ledger, 'token_usage_rollup_again');
  wrote bigint;
BEGIN
  IF again IS NULL THEN
    RETURN 0;  -- a ledger without rollups
  END IF;
  EXECUTE @extschema@._token_usage_rollup_text(ledger, format('SELECT %s($1::{user_type})', again)) INTO wrote USING user_id;
  RETURN wrote;
END
$rollup$;

-- Folds what waits to be folded, for every user, until about max_rows rows are folded (NULL: all).
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_compact(ledger oid, max_rows bigint)
RETURNS bigint LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $rollup$
DECLARE
  space text := (SELECT quote_ident(n.nspname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ledger);
  visit text := @extschema@._token_usage_rollup_own(ledger, 'token_usage_rollup_visit');
  sweep text := @extschema@._token_usage_rollup_own(ledger, 'token_usage_rollup_sweep');
  folded bigint := 0;
  n bigint;
  usr text;
  look text;
  seen text;
  before text;
BEGIN
  -- Not from within a trigger, nor from a statement that writes to the ledger itself: rows are there then whose deltas are not yet.
  -- Not as a replica: what such a session writes to the derived tables is taken for the publisher's and left out.
  IF visit IS NULL OR sweep IS NULL OR pg_trigger_depth() > 0 OR current_setting('session_replication_role') = 'replica' OR current_setting('transaction_isolation') <> 'read committed'
     OR EXISTS (SELECT FROM pg_locks k WHERE k.pid = pg_backend_pid() AND k.locktype = 'relation' AND k.mode = 'RowExclusiveLock'
                   AND k.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
                   AND k.relation IN (SELECT ledger UNION ALL SELECT p.relid FROM pg_partition_tree(ledger) p)) THEN
    RETURN 0;
  END IF;
  EXECUTE format('LOCK TABLE %s IN ACCESS SHARE MODE', ledger::regclass);
  EXECUTE format('SELECT %s()', sweep);
  visit := @extschema@._token_usage_rollup_text(ledger, format('SELECT %s($1::{user_type}, $2, 2)', visit));
  look := @extschema@._token_usage_rollup_text(ledger, $sql$
    SELECT concat_ws(' ', x.user_id, r.epoch, r.sealed_until, (SELECT count(*) FROM {s}.token_usage_delta d WHERE d.user_id = x.user_id),
                     CASE WHEN r.epoch <> {epoch} THEN (SELECT count(*) FROM {s}.token_usage_rollup o WHERE o.user_id = x.user_id) END)
      FROM (SELECT $1::{user_type} AS user_id) x LEFT JOIN {s}.token_usage_rollup_user r ON r.user_id = x.user_id$sql$);
  FOR usr IN EXECUTE @extschema@._token_usage_rollup_text(ledger, $sql$
    WITH RECURSIVE person AS (
      (SELECT t.user_id FROM {ledger} t ORDER BY t.user_id LIMIT 1)
      UNION ALL
      SELECT (SELECT t.user_id FROM {ledger} t WHERE t.user_id > p.user_id ORDER BY t.user_id LIMIT 1) FROM person p WHERE p.user_id IS NOT NULL
    ) SELECT p.user_id::text FROM person p WHERE p.user_id IS NOT NULL$sql$) LOOP
    LOOP
      EXECUTE visit INTO n USING usr, least(coalesce(max_rows - folded, 1000000), 1000000)::integer;
      folded := folded + n;
      EXIT WHEN n = 0 OR folded >= max_rows;
      -- A visit that folded has moved something: the seal, or the number of deltas, or of what an epoch that is over left.
      before := seen;
      EXECUTE look INTO seen USING usr;
      EXIT WHEN seen = before;
    END LOOP;
    EXIT WHEN folded >= max_rows;
  END LOOP;
  RETURN folded;
END
$rollup$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_rebuild(path name[], only_user text)
RETURNS bigint LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $rollup$
DECLARE
  ledger_oid oid := @extschema@._token_usage_ledger(path);
BEGIN
  IF only_user IS NOT NULL THEN
    only_user := @extschema@._token_usage_user(ledger_oid, only_user);
  END IF;
  RETURN @extschema@._token_usage_rollup_rebuild(ledger_oid, only_user);
END
$rollup$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_compact(path name[], max_rows bigint)
RETURNS bigint LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $rollup$
BEGIN
  IF max_rows IS NOT NULL THEN
    PERFORM @extschema@._token_usage_check_range('max_rows', max_rows, 1, 9223372036854775807);
  END IF;
  RETURN @extschema@._token_usage_rollup_compact(@extschema@._token_usage_ledger(path), max_rows);
END
$rollup$;

-- Folds what waits to be folded, all of it or about max_rows rows; returns how many. Right answers never need it.
CREATE OR REPLACE FUNCTION @extschema@.token_usage_compact(max_rows bigint DEFAULT NULL)
RETURNS bigint LANGUAGE sql VOLATILE AS $rollup$
  SELECT @extschema@._token_usage_compact(pg_catalog.current_schemas(false), max_rows)
$rollup$;
