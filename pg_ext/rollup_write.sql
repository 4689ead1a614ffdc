-- The functions that a ledger carries, first part: what writers run. A trigger leaves a delta for a late write, and at commit one write in
-- 128 maintains (rollup_maintain.sql); nothing is sealed before every open writer has seen the guard, and nobody waits for that.

-- As templates for _token_usage_rollup_text(), one row each.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_write_functions(OUT signature text, OUT definition text)
RETURNS SETOF record LANGUAGE sql IMMUTABLE AS $rollup$
VALUES ('{s}.token_usage_rollup_write()', $sql$
CREATE OR REPLACE FUNCTION {s}.token_usage_rollup_write() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $code$
-- Made by token_usage_migrate(): keeps the rollups of {ledger} exact. See docs/rollups.md.
DECLARE
  guard timestamptz;
  before boolean := false;
  after boolean := false;
BEGIN
  IF TG_OP = 'TRUNCATE' THEN
    DELETE FROM {s}.token_usage_rollup_epoch;
    RETURN NULL;
  END IF;
  guard := {guard};
  IF TG_OP <> 'INSERT' THEN
    before := {old_at} < guard;
  END IF;
  IF TG_OP <> 'DELETE' THEN
    after := {new_at} < guard;
  END IF;
  IF TG_OP = 'UPDATE' AND before AND after
     AND NEW.user_id IS NOT DISTINCT FROM OLD.user_id
     AND (SELECT n FROM (SELECT {new}) n) IS NOT DISTINCT FROM (SELECT o FROM (SELECT {old}) o) THEN
    RETURN NULL;
  END IF;
  IF before THEN
    INSERT INTO {s}.token_usage_delta (user_id, sign, turn, created_at, agent, provider, model, prompt, completion, total, usd, rub, ms)
    SELECT OLD.user_id, -1, nextval('{s}.token_usage_rollup_turn'::regclass), {old};
  END IF;
  IF after THEN
    INSERT INTO {s}.token_usage_delta (user_id, sign, turn, created_at, agent, provider, model, prompt, completion, total, usd, rub, ms)
    SELECT NEW.user_id, 1, nextval('{s}.token_usage_rollup_turn'::regclass), {new};
  ELSIF TG_OP = 'INSERT' AND NEW.user_id IS NOT NULL AND after IS NOT NULL AND current_setting('transaction_isolation') = 'read committed' THEN
    -- It is this user's turn: a row that counts for nothing asks for a visit when the transaction commits.
    INSERT INTO {s}.token_usage_delta (user_id, sign, turn) VALUES (NEW.user_id, 0, nextval('{s}.token_usage_rollup_turn'::regclass) * 128);
  END IF;
  RETURN NULL;
END
$code$;
$sql$), ('{s}.token_usage_rollup_at_commit()', $sql$
CREATE OR REPLACE FUNCTION {s}.token_usage_rollup_at_commit() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off AS $code$
-- Maintains, for one delta in 128. Deferred: while a statement runs, rows that it wrote are there whose deltas are
-- not yet, so nothing may be sealed; and locks that are taken at commit are held for no longer than that.
-- A transaction of very many rows comes here for each 128 of them: a delta that is gone has had its visit.
BEGIN
  IF NEW.sign = 0 THEN
    DELETE FROM {s}.token_usage_delta d WHERE d.user_id = NEW.user_id AND d.created_at IS NULL AND d.sign = 0;
    IF NOT FOUND THEN
      RETURN NULL;
    END IF;
  ELSIF NOT EXISTS (SELECT FROM {s}.token_usage_delta d WHERE d.user_id = NEW.user_id AND d.created_at = NEW.created_at AND d.turn = NEW.turn) THEN
    RETURN NULL;
  END IF;
  -- SET CONSTRAINTS ... IMMEDIATE brings us here in the middle of the statement that writes to the ledger.
  IF pg_trigger_depth() = 1 AND current_setting('transaction_isolation') = 'read committed' THEN
    IF NEW.sign <> 0 THEN
      PERFORM {s}.token_usage_rollup_sweep();
    END IF;
    PERFORM {s}.token_usage_rollup_visit(NEW.user_id, 4096, 0);
  END IF;
  RETURN NULL;
END
$code$;
$sql$), ('{s}.token_usage_rollup_foreign()', $sql$
CREATE OR REPLACE FUNCTION {s}.token_usage_rollup_foreign() RETURNS trigger
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $code$
-- What replication brings of another database's derived rows is left out; those of this one are made here.
BEGIN
  RETURN NULL;
END
$code$;
$sql$), ('{s}.token_usage_rollup_passed(bigint)', $sql$
CREATE OR REPLACE FUNCTION {s}.token_usage_rollup_passed(horizon bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $code$
-- Whether every transaction older than horizon that wrote to the ledger has ended. One that is open but holds no
-- writer's lock on the ledger has not written to it, and will read the new guard if it does.
DECLARE
  snap pg_snapshot := pg_current_snapshot();
  old text[];
BEGIN
  IF pg_snapshot_xmax(snap)::text::bigint <= horizon THEN
    RETURN false;
  END IF;
  SELECT array_agg((x::text::bigint % 4294967296)::text) INTO old FROM pg_snapshot_xip(snap) x WHERE x::text::bigint < horizon;
  RETURN old IS NULL OR NOT EXISTS (
    SELECT FROM pg_locks a JOIN pg_locks b ON b.virtualtransaction = a.virtualtransaction
     WHERE a.locktype = 'transactionid' AND a.granted AND a.transactionid::text = ANY (old)
       AND b.locktype = 'relation' AND b.granted AND b.mode NOT IN ('AccessShareLock', 'RowShareLock')
       AND b.relation IN (SELECT {l}::regclass UNION ALL SELECT relid FROM pg_partition_tree({l}::regclass)));
END
$code$;
$sql$), ('{s}.token_usage_rollup_confirm()', $sql$
CREATE OR REPLACE FUNCTION {s}.token_usage_rollup_confirm() RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $code$
-- Confirms the guard that was raised before, when every transaction that may have missed it has ended, and raises it again, which is
-- confirmed at once where nobody else writes; whether it was confirmed. Holds the row lock of the state; a second caller passes by.
DECLARE
  moved boolean := false;
  st record;
  top bigint;
  mine bigint;
BEGIN
  -- See token_usage_rollup_hold() for why there are two locks.
  IF NOT pg_try_advisory_xact_lock({state_lock}) THEN
    RETURN false;
  END IF;
  SELECT * INTO st FROM {s}.token_usage_rollup_state WHERE epoch = {epoch} FOR UPDATE SKIP LOCKED;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  IF st.horizon IS NOT NULL THEN
    IF {s}.token_usage_rollup_passed(st.horizon) THEN
      st.confirmed := st.pending;
      UPDATE {s}.token_usage_rollup_state SET confirmed = pending, horizon = NULL WHERE epoch = st.epoch;
      moved := true;
    ELSE
      RETURN false;
    END IF;
  END IF;
  IF st.confirmed IS NULL OR st.confirmed < now() - interval '0.1 seconds' THEN
    -- The sequence first, then the transaction id: a transaction that read the old guard has an older id.
    PERFORM {raise_guard now()};
    BEGIN
      UPDATE {s}.token_usage_rollup_state SET pending = now() WHERE epoch = st.epoch;
    EXCEPTION WHEN division_by_zero THEN
      NULL;  -- never: the block is here for the transaction id of its own
    END;
    SELECT t.xmin::text::bigint INTO mine FROM {s}.token_usage_rollup_state t WHERE t.epoch = st.epoch;
    top := pg_snapshot_xmax(pg_current_snapshot())::text::bigint;
    mine := top + ((mine - top) % 4294967296 + 4294967296 + 2147483648) % 4294967296 - 2147483648;
    BEGIN
      UPDATE {s}.token_usage_rollup_state SET horizon = mine WHERE epoch = st.epoch;
      RAISE division_by_zero;
    EXCEPTION WHEN division_by_zero THEN
      NULL;  -- has ended an id later than `mine`, so that snapshots reach past it
    END;
    IF {s}.token_usage_rollup_passed(mine) THEN
      UPDATE {s}.token_usage_rollup_state SET confirmed = pending WHERE epoch = st.epoch;
      moved := true;
    ELSE
      UPDATE {s}.token_usage_rollup_state SET horizon = mine WHERE epoch = st.epoch;
    END IF;
  END IF;
  RETURN moved;
END
$code$;
$sql$), ('{s}.token_usage_rollup_begin()', $sql$
CREATE OR REPLACE FUNCTION {s}.token_usage_rollup_begin() RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $code$
-- Begins an epoch when none is in force: what older ones rolled is void. The stamp is the row's own transaction
-- id, which a copy of the row in another database, or one restored into this one, does not have.
BEGIN
  IF NOT pg_try_advisory_xact_lock(hashtextextended('token_usage_rollup_epoch', {l}::regclass::oid::bigint)) THEN
    RETURN false;
  END IF;
  IF (SELECT c.relpersistence <> 'p' FROM pg_class c WHERE c.oid = {l}::regclass) THEN
    RETURN false;  -- a crash would empty the ledger, and nothing else
  END IF;
  IF {epoch} IS NULL THEN
    DELETE FROM {s}.token_usage_rollup_state;
    DELETE FROM {s}.token_usage_rollup_epoch;
    INSERT INTO {s}.token_usage_rollup_epoch
    VALUES (gen_random_uuid(), {l}::regclass, coalesce(pg_relation_filenode({l}::regclass), 0), '');
    UPDATE {s}.token_usage_rollup_epoch e SET stamp = e.xmin::text;
    INSERT INTO {s}.token_usage_rollup_state SELECT e.epoch FROM {s}.token_usage_rollup_epoch e;
  END IF;
  RETURN true;
END
$code$;
$sql$)
$rollup$;
