-- The functions that a ledger carries, second part: sealing and folding, a bounded piece of work for one user, with locks that are free.
-- What they ask is of one user, so they do not read whole tables: a plan that is made while a table is empty is kept. (Where a table has no index,
-- that makes a plan look dear enough to compile.)

-- As templates for _token_usage_rollup_text(), one row each.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_maintain_functions(OUT signature text, OUT definition text)
RETURNS SETOF record LANGUAGE sql IMMUTABLE AS $rollup$
VALUES ('{s}.token_usage_rollup_visit({user_type}, integer, integer)', $sql$
CREATE OR REPLACE FUNCTION {s}.token_usage_rollup_visit(usr {user_type}, max_rows integer, zeal integer) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off AS $code$
-- Seals and folds what waits for one user, at most about max_rows rows; returns how many rows it folded. Never
-- waits for a lock. zeal 0: only when enough waits to pay; 1: deltas however few; 2: everything, at any cost.
DECLARE
  now_epoch uuid;
  known boolean;
  guard_due boolean;
  sealed timestamptz;
  until timestamptz;
  work bigint;
  native text;
BEGIN
  IF usr IS NULL OR current_setting('transaction_isolation') <> 'read committed' THEN
    RETURN 0;
  END IF;
  IF zeal = 0 THEN
    native := {s}.token_usage_rollup_native('_token_usage_rollup_visit', 'oid, text, integer, integer, integer, integer, timestamp with time zone');
    IF native IS NOT NULL THEN
      BEGIN
        EXECUTE 'SELECT ' || native || '($1, $2, $3, $4, $5, $6, $7)' INTO work
          USING {l}::regclass::oid, usr::text, max_rows, 128, 64, 256, now() - interval '0.1 seconds';
      EXCEPTION WHEN numeric_value_out_of_range THEN
        work := NULL;  -- more than it adds up
      END;
      IF work IS NOT NULL THEN
        RETURN work;
      END IF;
    END IF;
  END IF;
  IF row_security_active({l}::regclass) OR NOT has_table_privilege({l}::regclass, 'SELECT') THEN
    RETURN 0;
  END IF;
  SELECT e.epoch, r.user_id IS NOT NULL, r.sealed_until, greatest(s.confirmed, r.sealed_until),
         s.horizon IS NOT NULL OR s.confirmed IS NULL OR s.confirmed < now() - interval '0.1 seconds'
    INTO now_epoch, known, sealed, until, guard_due
    FROM (SELECT {epoch} AS epoch) e
    LEFT JOIN {s}.token_usage_rollup_user r ON r.user_id = usr AND r.epoch = e.epoch
    LEFT JOIN {s}.token_usage_rollup_state s ON s.epoch = e.epoch;
  IF now_epoch IS NULL THEN
    PERFORM {s}.token_usage_rollup_begin();
    RETURN 0;
  END IF;
  IF guard_due AND {s}.token_usage_rollup_confirm() AND known THEN
    RETURN {s}.token_usage_rollup_visit(usr, max_rows, zeal);  -- more waits below the guard now
  END IF;
  IF NOT known THEN
    work := {s}.token_usage_rollup_meet(usr, now_epoch, max_rows);
    RETURN coalesce(work, {s}.token_usage_rollup_visit(usr, max_rows, zeal));
  END IF;
  RETURN {s}.token_usage_rollup_work(usr, now_epoch, sealed, until, max_rows, zeal);
END
$code$;
$sql$), ('{s}.token_usage_rollup_hold({user_type}, uuid, timestamptz)', $sql$
CREATE OR REPLACE FUNCTION {s}.token_usage_rollup_hold(usr {user_type}, now_epoch uuid, sealed timestamptz) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off AS $code$
-- Whether it is for us to work on a user until the transaction ends. Not where somebody else does or, by his seal, has done it meanwhile. Of the
-- row alone SKIP LOCKED would be enough, if it did not itself wait where the row is changed and committed and locked again under its eyes; so there
-- is a lock before it for whose taking nobody ever waits. One for each of 64 parts of the users, as a transaction may have very many users.
BEGIN
  IF NOT pg_try_advisory_xact_lock({user_lock}) THEN
    RETURN false;
  END IF;
  PERFORM FROM {s}.token_usage_rollup_user r WHERE r.user_id = usr AND r.epoch = now_epoch AND r.sealed_until = sealed FOR UPDATE SKIP LOCKED;
  RETURN FOUND;
END
$code$;
$sql$), ('{s}.token_usage_rollup_work({user_type}, uuid, timestamptz, timestamptz, integer, integer)', $sql$
CREATE OR REPLACE FUNCTION {s}.token_usage_rollup_work(usr {user_type}, now_epoch uuid, sealed timestamptz, until timestamptz, max_rows integer, zeal integer)
RETURNS bigint LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off AS $code$
-- What a visit does, in every case, for a user who is sealed up to `sealed` and may be up to `until`.
DECLARE
  till timestamptz;
  waiting bigint;
  late bigint;
  work bigint := 0;
  months timestamptz[];
  tail bigint[];
  incoming bigint[];
  native text;
  month_at timestamptz;
  month_end timestamptz;
  from_at timestamptz;
  to_at timestamptz;
  old_flags integer;
  new_flags integer;
  last_flags integer;
  again boolean;
  c bigint;
  g bigint;
  have bigint;
  n bigint;
BEGIN
  -- What waits: the rows between the seal and the guard, and the deltas, by month. Most of what a visit costs is to come by the pages of the
  -- ledger, since the rows of a user lie apart, so they are counted once. Past the seal a ledger's row counts and a delta does not; but its
  -- month must be folded, lest it stay.
  SELECT coalesce(sum(y.waiting), 0), max(y.till), coalesce(sum(y.late), 0),
         array_agg(y.month_of ORDER BY y.month_of) FILTER (WHERE y.month_of IS NOT NULL),
         array_agg(y.waiting ORDER BY y.month_of) FILTER (WHERE y.month_of IS NOT NULL),
         array_agg(y.n ORDER BY y.month_of) FILTER (WHERE y.month_of IS NOT NULL)
    INTO waiting, till, late, months, tail, incoming
    FROM (SELECT x.month_of, sum(x.waiting)::bigint AS waiting, max(x.till) AS till, sum(x.late)::bigint AS late, sum(x.n)::bigint AS n
            FROM (SELECT timezone('UTC', date_trunc('month', timezone('UTC', w.at))) AS month_of, count(*) AS waiting, max(w.at) AS till, 0 AS late, 0 AS n
                    FROM (SELECT {at} AS at FROM {ledger} t WHERE t.user_id = usr AND t.created_at >= {sealed}
                             AND t.created_at < {until} AND t.created_at > '-infinity' ORDER BY t.created_at LIMIT max_rows + 1) w GROUP BY 1
                  UNION ALL
                  SELECT CASE WHEN d.created_at < until AND isfinite(d.created_at)
                              THEN timezone('UTC', date_trunc('month', timezone('UTC', d.created_at))) END,
                         0, NULL, count(*), sum(CASE WHEN d.created_at < sealed THEN d.sign ELSE 0 END)
                    FROM {s}.token_usage_delta d WHERE d.user_id = usr AND d.sign <> 0 GROUP BY 1) x
           GROUP BY 1) y;
  IF waiting > max_rows THEN
    until := greatest(till, sealed + interval '1 microsecond');
  ELSIF zeal < 2 AND waiting < 128 THEN
    IF late = 0 OR zeal < 1 AND late < 64 THEN
      RETURN 0;
    END IF;
    until := sealed;
  ELSIF until = sealed AND late = 0 THEN
    RETURN 0;
  END IF;
  IF NOT {s}.token_usage_rollup_hold(usr, now_epoch, sealed) THEN
    RETURN 0;
  END IF;

  native := {s}.token_usage_rollup_native('_token_usage_rollup_fold', 'oid, text, timestamp with time zone, timestamp with time zone, timestamp with time zone, smallint');
  LOOP
    BEGIN
      FOR i IN 1 .. coalesce(cardinality(months), 0) LOOP
        month_at := months[i];
        month_end := timezone('UTC', timezone('UTC', month_at) + interval '1 month');
        from_at := least(greatest(sealed, month_at), month_end);
        to_at := greatest(from_at, least(until, month_end));
        n := incoming[i] + CASE WHEN until > sealed THEN tail[i] ELSE 0 END;
        SELECT coalesce((SELECT o.flags FROM {s}.token_usage_rollup_month o WHERE o.user_id = usr AND o.month = month_at), 0),
               coalesce(sum(r.requests) FILTER (WHERE r.kind = 30), 0), count(*) FILTER (WHERE r.kind <> 30)
          INTO old_flags, have, g
          FROM {s}.token_usage_rollup r WHERE r.user_id = usr AND r.kind IN (30::int2, 31::int2, 32::int2) AND r.bucket = month_at;
        IF old_flags = 0 THEN
          SELECT count(*) INTO have
            FROM (SELECT FROM {ledger} t WHERE t.user_id = usr AND t.created_at >= {month_at} AND t.created_at < {from_at}
                   LIMIT CASE WHEN zeal < 2 THEN 8192 END) x;
        END IF;
        c := have + n;
        again := have <= {again} OR zeal = 2;  -- whether the month may be read again, for what it is to be rolled by from now on
        IF old_flags & 2 = 0 AND again THEN
          -- Not by count(DISTINCT), which sorts.
          SELECT count(*) INTO g
            FROM (SELECT FROM (SELECT {row} FROM {ledger} t WHERE t.user_id = usr AND t.created_at >= {month_at} AND t.created_at < {to_at} LIMIT 8192) x
                   GROUP BY GROUPING SETS ((x.agent), (x.provider, x.model))) y;
        END IF;
        new_flags := old_flags | {flags};
        IF old_flags = 0 AND from_at = month_at THEN
          -- A month begins with what the one before it had come to, lest it be read again at each step up, or grow past where it may be.
          SELECT o.flags, coalesce(sum(r.requests) FILTER (WHERE r.kind = 30), 0), count(*) FILTER (WHERE r.kind <> 30) INTO last_flags, c, g
            FROM {s}.token_usage_rollup_month o
            LEFT JOIN {s}.token_usage_rollup r ON r.user_id = usr AND r.kind IN (30::int2, 31::int2, 32::int2) AND r.bucket = o.month
           WHERE o.user_id = usr AND o.month = timezone('UTC', timezone('UTC', month_at) - interval '1 month') GROUP BY o.flags;
          IF last_flags & 2 <> 0 THEN
            last_flags := last_flags | {flags};
          END IF;
          new_flags := new_flags | coalesce(last_flags, 0);
        END IF;
        IF new_flags <> old_flags AND again THEN
          DELETE FROM {s}.token_usage_rollup r WHERE r.user_id = usr AND r.bucket >= month_at AND r.bucket < month_end;
          INSERT INTO {s}.token_usage_rollup_month VALUES (usr, month_at, new_flags)
              ON CONFLICT (user_id, month) DO UPDATE SET flags = excluded.flags;
          from_at := month_at;
        ELSE
          new_flags := old_flags;
        END IF;
        IF native IS NULL OR new_flags = 0 THEN
          PERFORM {s}.token_usage_rollup_fold(usr, month_at, from_at, to_at, new_flags::int2);
        ELSE
          EXECUTE 'SELECT ' || native || '($1, $2, $3, $4, $5, $6)' USING {l}::regclass::oid, usr::text, month_at, from_at, to_at, new_flags::int2;
        END IF;
        work := work + abs(n);
      END LOOP;
      -- From the seal on the ledger speaks for itself.
      WITH gone AS (
        DELETE FROM {s}.token_usage_delta d WHERE d.user_id = usr AND (d.created_at >= until OR NOT isfinite(d.created_at))
      ) UPDATE {s}.token_usage_rollup_user SET sealed_until = until WHERE user_id = usr;
      RETURN work;
    EXCEPTION WHEN numeric_value_out_of_range THEN
      IF native IS NULL THEN
        RETURN 0;  -- a sum past bigint: the user stays as it was, and the report says so from what it reads
      END IF;
      native := NULL;  -- more than it adds up: once more in SQL
      work := 0;
    END;
  END LOOP;
END
$code$;
$sql$), ('{s}.token_usage_rollup_meet({user_type}, uuid, integer)', $sql$
CREATE OR REPLACE FUNCTION {s}.token_usage_rollup_meet(usr {user_type}, now_epoch uuid, max_rows integer) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off AS $code$
-- Takes note of a user of whom nothing is rolled in this epoch, if he has rows enough: NULL then, and a visit may seal. Else what was folded, none.
DECLARE
  old_epoch uuid;
  work bigint := 0;
BEGIN
  IF NOT pg_try_advisory_xact_lock({user_lock}) THEN
    RETURN 0;
  END IF;
  SELECT r.epoch INTO old_epoch FROM {s}.token_usage_rollup_user r WHERE r.user_id = usr FOR UPDATE SKIP LOCKED;
  IF old_epoch <> now_epoch THEN
    -- Left by an epoch that is over: clear it away, some at a time; readers do not look at it.
    DELETE FROM {s}.token_usage_rollup r WHERE r.user_id = usr
       AND r.ctid = ANY (ARRAY(SELECT o.ctid FROM {s}.token_usage_rollup o WHERE o.user_id = usr LIMIT greatest(max_rows, 1)));
    GET DIAGNOSTICS work = ROW_COUNT;
    IF work < greatest(max_rows, 1) THEN
      DELETE FROM {s}.token_usage_rollup_month o WHERE o.user_id = usr;
      UPDATE {s}.token_usage_rollup_user SET epoch = now_epoch, sealed_until = '-infinity' WHERE user_id = usr;
    END IF;
  ELSIF old_epoch IS NULL AND (SELECT count(*) >= 256 FROM (SELECT FROM {ledger} t WHERE t.user_id = usr LIMIT 256) x)
     AND NOT EXISTS (SELECT FROM {s}.token_usage_rollup_user r WHERE r.user_id = usr)
     AND pg_try_advisory_xact_lock(hashtextextended('token_usage_rollup_user', {l}::regclass::oid::bigint)) THEN
    INSERT INTO {s}.token_usage_rollup_user VALUES (usr, now_epoch, '-infinity') ON CONFLICT DO NOTHING;
    work := NULL;
  END IF;
  RETURN work;
END
$code$;
$sql$), ('{s}.token_usage_rollup_native(text, text)', $sql$
CREATE OR REPLACE FUNCTION {s}.token_usage_rollup_native(function_name text, arguments text) RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $code$
-- A function of the native edition that does in C++ what is here in SQL, where there is one. Found anew each time, so that nothing of the
-- ledger names it. It is run with the owner's rights, so it must be code that only a superuser can have put there: C, a member of the extension.
BEGIN
  RETURN (SELECT f.pronamespace::regnamespace || '.' || quote_ident(f.proname)
    FROM pg_proc f
   WHERE f.proname = function_name::name AND oidvectortypes(f.proargtypes) = arguments
     AND f.prolang = 13  -- C, by its number as in pg_language.dat: a session's first visit has to plan this, and each table more takes a millisecond
     -- Not as a join, which without statistics, as in a new database, begins with all that belongs to the extension and takes ten times as long.
     AND (SELECT d.refobjid FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = f.oid AND d.objsubid = 0
             AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e')
         = (SELECT e.oid FROM pg_extension e WHERE e.extname = 'token_usage')
     AND has_schema_privilege(f.pronamespace, 'USAGE') AND has_function_privilege(f.oid, 'EXECUTE'));
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
RETURNS void LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off AS $code$
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
  INSERT INTO {s}.token_usage_rollup AS r ({rollup_columns})
  SELECT * FROM rolled
{merge};
END
$code$;
$sql$)
$rollup$;
