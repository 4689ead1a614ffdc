-- The functions that a ledger carries, second part: sealing and folding, a bounded piece of work for one user, with locks that are free.

-- As templates for _token_usage_rollup_text(), one row each.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_maintain_functions(OUT signature text, OUT definition text)
RETURNS SETOF record LANGUAGE sql IMMUTABLE AS $rollup$
VALUES ('{s}.token_usage_rollup_visit({user_type}, integer, integer)', $sql$
CREATE OR REPLACE FUNCTION {s}.token_usage_rollup_visit(usr {user_type}, max_rows integer, zeal integer) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $code$
-- Seals and folds what waits for one user, at most about max_rows rows; returns how many rows it folded. Never
-- waits for a lock. zeal 0: only when enough waits to pay; 1: deltas however few; 2: everything, at any cost.
DECLARE
  now_epoch uuid;
  idle boolean;
  u record;
  sealed timestamptz;
  until timestamptz;
  till timestamptz;
  waiting bigint;
  late bigint;
  work bigint := 0;
  months timestamptz[];
  incoming bigint[];
  month_at timestamptz;
  month_end timestamptz;
  from_at timestamptz;
  to_at timestamptz;
  old_flags integer;
  new_flags integer;
  c bigint;
  g bigint;
  have bigint;
  i integer;
BEGIN
  IF usr IS NULL OR current_setting('transaction_isolation') <> 'read committed' OR row_security_active({l}::regclass)
     OR NOT has_table_privilege({l}::regclass, 'SELECT') THEN
    RETURN 0;
  END IF;
  -- Most visits come when too little waits: they only look, by one statement, since a session plans each statement that it comes to.
  SELECT e.epoch, zeal = 0 AND r.user_id IS NOT NULL
         AND (SELECT count(*) < 256 FROM (SELECT FROM {ledger} t WHERE t.user_id = usr AND t.created_at >= {r.sealed_until} LIMIT 256) x)
         AND (SELECT count(*) < 64 FROM (SELECT FROM {s}.token_usage_delta d WHERE d.user_id = usr LIMIT 64) x)
    INTO now_epoch, idle
    FROM (SELECT {epoch} AS epoch) e LEFT JOIN {s}.token_usage_rollup_user r ON r.user_id = usr AND r.epoch = e.epoch;
  IF now_epoch IS NULL THEN
    PERFORM {s}.token_usage_rollup_begin();
    RETURN 0;
  ELSIF idle THEN
    RETURN 0;
  END IF;
  PERFORM {s}.token_usage_rollup_guard_up();
  SELECT * INTO u FROM {s}.token_usage_rollup_user r WHERE r.user_id = usr FOR UPDATE SKIP LOCKED;
  IF NOT FOUND THEN
    SELECT count(*) INTO waiting FROM (SELECT FROM {ledger} t WHERE t.user_id = usr LIMIT 256) x;
    IF waiting >= 256 AND NOT EXISTS (SELECT FROM {s}.token_usage_rollup_user r WHERE r.user_id = usr)
       AND pg_try_advisory_xact_lock(hashtextextended('token_usage_rollup_user', {l}::regclass::oid::bigint)) THEN
      INSERT INTO {s}.token_usage_rollup_user VALUES (usr, now_epoch, '-infinity') ON CONFLICT DO NOTHING;
      SELECT * INTO u FROM {s}.token_usage_rollup_user r WHERE r.user_id = usr FOR UPDATE SKIP LOCKED;
    END IF;
    IF u.user_id IS NULL THEN
      RETURN 0;
    END IF;
  END IF;
  IF u.epoch <> now_epoch THEN
    -- Left by an epoch that is over: clear it away, some at a time; readers do not look at it.
    DELETE FROM {s}.token_usage_rollup r WHERE r.user_id = usr
       AND r.ctid = ANY (ARRAY(SELECT o.ctid FROM {s}.token_usage_rollup o WHERE o.user_id = usr LIMIT greatest(max_rows, 1)));
    GET DIAGNOSTICS work = ROW_COUNT;
    IF work < greatest(max_rows, 1) THEN
      DELETE FROM {s}.token_usage_rollup_month o WHERE o.user_id = usr;
      UPDATE {s}.token_usage_rollup_user SET epoch = now_epoch, sealed_until = '-infinity' WHERE user_id = usr;
    END IF;
    RETURN work;
  END IF;

  sealed := u.sealed_until;
  SELECT greatest(s.confirmed, sealed) INTO until FROM {s}.token_usage_rollup_state s WHERE s.epoch = now_epoch;
  to_at := until;
  SELECT count(*), max(x.at) INTO waiting, till
    FROM (SELECT {at} AS at FROM {ledger} t WHERE t.user_id = usr AND t.created_at >= {sealed} AND t.created_at < {to_at}
             AND t.created_at > '-infinity' ORDER BY t.created_at LIMIT max_rows + 1) x;
  SELECT count(*) INTO late FROM (SELECT FROM {s}.token_usage_delta d WHERE d.user_id = usr LIMIT 64) x;
  IF waiting > max_rows THEN
    until := greatest(till, sealed + interval '1 microsecond');
  ELSIF zeal < 2 AND waiting < 256 THEN
    IF late = 0 OR zeal < 1 AND late < 64 THEN
      RETURN 0;
    END IF;
    until := sealed;
  ELSIF until = sealed AND late = 0 THEN
    RETURN 0;
  END IF;
  to_at := until;

  BEGIN
    SELECT array_agg(y.month_of ORDER BY y.month_of), array_agg(y.n ORDER BY y.month_of) INTO months, incoming
      FROM (SELECT x.month_of, sum(x.n)::bigint AS n
              FROM (SELECT timezone('UTC', date_trunc('month', timezone('UTC', {at}))) AS month_of, count(*) AS n
                      FROM {ledger} t WHERE t.user_id = usr AND t.created_at >= {sealed} AND t.created_at < {to_at}
                       AND t.created_at > '-infinity' GROUP BY 1
                    UNION ALL
                    -- Past the old seal the ledger's row counts and a delta does not; but its month must be folded, lest it stay.
                    SELECT timezone('UTC', date_trunc('month', timezone('UTC', d.created_at))), sum(CASE WHEN d.created_at < sealed THEN d.sign ELSE 0 END)
                      FROM {s}.token_usage_delta d WHERE d.user_id = usr AND d.created_at < to_at AND isfinite(d.created_at) GROUP BY 1) x
             GROUP BY 1) y;
    FOR i IN 1 .. coalesce(cardinality(months), 0) LOOP
      month_at := months[i];
      month_end := timezone('UTC', timezone('UTC', month_at) + interval '1 month');
      from_at := least(greatest(sealed, month_at), month_end);
      to_at := least(until, month_end);
      SELECT o.flags INTO old_flags FROM {s}.token_usage_rollup_month o WHERE o.user_id = usr AND o.month = month_at;
      old_flags := coalesce(old_flags, 0);
      IF old_flags & 1 <> 0 THEN
        SELECT coalesce(sum(r.requests), 0) INTO have FROM {s}.token_usage_rollup r WHERE r.user_id = usr AND r.kind = 30::int2 AND r.bucket = month_at;
        SELECT count(*) INTO g FROM {s}.token_usage_rollup r WHERE r.user_id = usr AND r.kind IN (31::int2, 32::int2) AND r.bucket = month_at;
      ELSE
        SELECT count(*) INTO have FROM {ledger} t WHERE t.user_id = usr AND t.created_at >= {month_at} AND t.created_at < {from_at};
      END IF;
      c := have + incoming[i];
      IF old_flags & 2 = 0 THEN
        SELECT count(DISTINCT x.agent) + count(DISTINCT (x.provider, x.model)) INTO g
          FROM (SELECT {row} FROM {ledger} t WHERE t.user_id = usr AND t.created_at >= {month_at}
                   AND t.created_at < {to_at} LIMIT 8192) x;
      END IF;
      new_flags := old_flags | {flags};
      IF old_flags = 0 AND from_at = month_at THEN
        -- A month begins as the one before it was, lest it be read again at each step up.
        new_flags := new_flags | coalesce((SELECT o.flags FROM {s}.token_usage_rollup_month o
          WHERE o.user_id = usr AND o.month = timezone('UTC', timezone('UTC', month_at) - interval '1 month')), 0);
      END IF;
      IF new_flags <> old_flags AND (have <= 8192 OR zeal = 2) THEN
        DELETE FROM {s}.token_usage_rollup r WHERE r.user_id = usr AND r.bucket >= month_at AND r.bucket < month_end;
        PERFORM {s}.token_usage_rollup_fold(usr, month_at, month_at, greatest(from_at, to_at), new_flags::int2);
        INSERT INTO {s}.token_usage_rollup_month VALUES (usr, month_at, new_flags)
            ON CONFLICT (user_id, month) DO UPDATE SET flags = excluded.flags;
      ELSE
        PERFORM {s}.token_usage_rollup_fold(usr, month_at, from_at, greatest(from_at, to_at), old_flags::int2);
      END IF;
      work := work + abs(incoming[i]);
    END LOOP;
    -- From the seal on the ledger speaks for itself.
    DELETE FROM {s}.token_usage_delta d WHERE d.user_id = usr AND (d.created_at >= until OR NOT isfinite(d.created_at));
    UPDATE {s}.token_usage_rollup_user SET sealed_until = until WHERE user_id = usr;
  EXCEPTION WHEN numeric_value_out_of_range THEN
    RETURN 0;  -- a sum past bigint: the user stays as it was, and the report says so from what it reads
  END;
  RETURN work;
END
$code$;
$sql$), ('{s}.token_usage_rollup_sweep()', $sql$
CREATE OR REPLACE FUNCTION {s}.token_usage_rollup_sweep() RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $code$
-- Sees to it that no delta waits for ever: drops those of users of whom nothing is rolled (nobody can begin
-- to roll one while we hold the lock), and folds those of the user whose delta lies first.
BEGIN
  IF {epoch} IS NULL THEN
    PERFORM {s}.token_usage_rollup_begin();
  END IF;
  IF pg_try_advisory_xact_lock(hashtextextended('token_usage_rollup_user', {l}::regclass::oid::bigint)) THEN
    DELETE FROM {s}.token_usage_delta WHERE ctid = ANY (ARRAY(
      SELECT d.ctid FROM (SELECT x.ctid, x.user_id FROM {s}.token_usage_delta x LIMIT 4096) d
       WHERE NOT EXISTS (SELECT FROM {s}.token_usage_rollup_user r WHERE r.user_id = d.user_id)));
  END IF;
  PERFORM {s}.token_usage_rollup_visit(d.user_id, 4096, 1)
     FROM (SELECT x.user_id FROM {s}.token_usage_delta x LIMIT 1) d;
END
$code$;
$sql$), ('{s}.token_usage_rollup_fold({user_type}, timestamptz, timestamptz, timestamptz, smallint)', $sql$
CREATE OR REPLACE FUNCTION {s}.token_usage_rollup_fold(usr {user_type}, month_at timestamptz, from_at timestamptz, to_at timestamptz, month_flags smallint)
RETURNS void LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $code$
-- Folds the ledger's rows of [from_at, to_at) and the deltas of [month_at, to_at), all of one month, in one snapshot.
BEGIN
  IF month_flags = 0 THEN
    DELETE FROM {s}.token_usage_delta d WHERE d.user_id = usr AND d.created_at >= month_at AND d.created_at < to_at;
    RETURN;
  END IF;
  WITH gone AS (
    DELETE FROM {s}.token_usage_delta d WHERE d.user_id = usr AND d.created_at >= month_at AND d.created_at < to_at RETURNING d.*
  ), src AS (
    SELECT usr AS user_id, {row}, 1 AS sign, month_flags AS flags
      FROM {ledger} t WHERE t.user_id = usr AND t.created_at >= {from_at} AND t.created_at < {to_at}
    UNION ALL
    SELECT usr, d.created_at, d.agent, d.provider, d.model, d.prompt, d.completion, d.total, d.usd, d.rub, d.ms, d.sign, month_flags
      FROM gone d WHERE d.created_at < from_at AND d.sign <> 0
  ), {ctes}
  INSERT INTO {s}.token_usage_rollup AS r (user_id, kind, bucket, key1, key2, nulls, requests, prompt, completion, total, usd, rub, unpriced, ms_sum, ms_count)
  SELECT * FROM rolled
      ON CONFLICT (user_id, kind, bucket, key1, key2, nulls) DO UPDATE
     SET requests = r.requests + excluded.requests, prompt = r.prompt + excluded.prompt, completion = r.completion + excluded.completion,
         total = r.total + excluded.total, usd = r.usd + excluded.usd, rub = r.rub + excluded.rub, unpriced = r.unpriced + excluded.unpriced,
         ms_sum = r.ms_sum + excluded.ms_sum, ms_count = r.ms_count + excluded.ms_count;
END
$code$;
$sql$)
$rollup$;
