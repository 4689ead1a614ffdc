"""PostgreSQL: rollups under concurrency. Explicit interleavings of two and three sessions at each isolation level,
then a soak of 16 clients. After each, token_usage_verify() must return no row, and no session may have waited for a
lock of ours: every session runs with a short lock_timeout, which turns such a wait into an error."""
import os
import random
import threading
import time

import pytest

from rollup.ledger import Writes, by_hand, by_rollup, shrink

SECONDS = float(os.environ.get("TOKEN_USAGE_SOAK_SECONDS", "8"))
LEVELS = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")


class Session:
    def __init__(self, server, database):
        self.connection = server.connect(database, "app")
        self.connection.autocommit = True
        self("SET lock_timeout = '3s'")

    def __call__(self, sql, parameters=None):
        with self.connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return cursor.fetchall() if cursor.description else []


@pytest.fixture
def place(pg):
    """A ledger with small thresholds and 200 rolled rows of user 1; place(): one more session on it."""
    database = pg.database()
    sessions = []

    def more():
        sessions.append(Session(pg.server, database.name))
        return sessions[-1]
    first = more()
    shrink(first)
    insert(first, 200, "now() - i * interval '5 hours'")
    first("SELECT token_usage_rebuild()")
    assert first("SELECT count(*) FROM token_usage_rollup")[0][0] > 0
    more.pg, more.name = pg, database.name
    yield more
    for session in sessions:
        session.connection.close()
    database.close()


def insert(session, n, when, user=1):
    session("INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, prompt_tokens, total_tokens, cost_usd, created_at) "
            f"SELECT {user}, 'agent ' || i % 3 + 1, 'p1', 'm1', i, i, 0.01, {when} FROM generate_series(1, {n}) i")


def right(session):
    bounds = session("SELECT array_agg(b ORDER BY b)::text[] FROM (VALUES ('-infinity'::timestamptz), (date_trunc('month', now())), "
                     "(date_trunc('day', now())), (now() + interval '1 hour')) v (b)")[0][0]
    for dimension in ("none", "agent", "model"):
        assert by_rollup(session, 1, None, bounds, dimension) == by_hand(session, 1, None, bounds, dimension), dimension


def clean(session):
    right(session)
    assert session("SELECT * FROM token_usage_verify()") == []


def compact(session, times=4):
    for _ in range(times):
        session("SELECT token_usage_compact()")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("when", ["now()", "now() - interval '30 hours'"])
@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_writers_and_compactor(place, level, when, end):
    a, b, c = place(), place(), place()
    for writer in (a, b):
        writer(f"BEGIN ISOLATION LEVEL {level}")
        insert(writer, 5, when)
        # Two that each read what the other writes cannot both be serialised, with us or without.
        if writer is a or level != "SERIALIZABLE":
            right(writer)
    compact(c)
    clean(c)
    insert(a, 5, when)
    a(f"UPDATE token_usage SET prompt_tokens = 7, total_tokens = 7 WHERE created_at < now() - interval '900 hours'")
    right(a)
    if level != "SERIALIZABLE":
        right(b)
    compact(c)
    a(end)
    clean(c)
    compact(c)
    b("COMMIT")
    clean(c)
    compact(c)
    clean(c)


@pytest.mark.parametrize("level", LEVELS)
def test_writer_that_began_before_the_guard(place, level):
    """Its row left no delta, since no guard stood above it then; sealing must wait for it."""
    a, c = place(), place()
    a(f"BEGIN ISOLATION LEVEL {level}")
    insert(a, 1, "clock_timestamp()")
    for _ in range(5):
        insert(c, 6, "clock_timestamp()")
        compact(c, 2)
    before = c("SELECT max(sealed_until) FROM token_usage_rollup_user")
    right(a)
    a("COMMIT")
    clean(c)
    compact(c, 6)
    clean(c)
    assert c("SELECT max(sealed_until) FROM token_usage_rollup_user") > before, "sealing goes on"


def test_a_transaction_elsewhere_does_not_hold_up_sealing(place):
    a, c = place(), place()
    a("CREATE TABLE elsewhere (x int)")
    a("BEGIN")
    a("INSERT INTO elsewhere VALUES (1)")
    before = c("SELECT max(sealed_until) FROM token_usage_rollup_user")
    for _ in range(4):
        insert(c, 6, "clock_timestamp()")
        compact(c, 2)
    assert c("SELECT max(sealed_until) FROM token_usage_rollup_user") > before
    clean(c)
    a("COMMIT")


@pytest.mark.parametrize("work", ["compact", "rebuild", "truncate"])
def test_reader_keeps_its_snapshot(place, work):
    reader, c = place(), place()
    reader("BEGIN ISOLATION LEVEL REPEATABLE READ")
    before = reader("SELECT * FROM token_usage_by_agent(1, 60)")
    right(reader)
    insert(c, 20, "now() - i * interval '3 hours'")
    compact(c)
    if work == "rebuild":
        c("SELECT token_usage_rebuild()")
    right(reader)
    assert reader("SELECT * FROM token_usage_by_agent(1, 60)") == before
    if work == "truncate":
        reader("COMMIT")
        reader("BEGIN ISOLATION LEVEL REPEATABLE READ")
        reader("SELECT 1 FROM pg_class LIMIT 1")  # the snapshot, and no lock that TRUNCATE would wait for
        other = place()
        other("TRUNCATE token_usage")
        right(reader)
    reader("COMMIT")
    clean(c)


def test_two_compactors_and_rebuild_beside_writers(place):
    a, b, c = place(), place(), place()
    insert(a, 20, "now() - i * interval '9 hours'")
    a("BEGIN")
    a("SELECT token_usage_compact()")
    b("SELECT token_usage_compact()")
    insert(b, 20, "now() - i * interval '9 hours'")
    clean(b)
    a("COMMIT")
    clean(b)
    c("BEGIN")
    c("SELECT token_usage_rebuild()")
    insert(b, 20, "now() - i * interval '7 hours'")
    insert(b, 5, "now()")
    b("DELETE FROM token_usage WHERE id % 5 = 0")
    clean(b)
    clean(c)
    c("COMMIT")
    clean(b)
    compact(b)
    clean(b)


@pytest.mark.parametrize("table, lock", [
    ("user", "hashtextextended('token_usage_rollup_part', 'token_usage'::regclass::oid::bigint) # (hashtextextended('1', 0) & 63)"),
    ("state", "hashtextextended('token_usage_rollup_state', 'token_usage'::regclass::oid::bigint)")], ids=["user", "state"])
def test_who_finds_a_lock_taken_does_not_come_to_the_row(place, table, lock):
    """SKIP LOCKED itself waits where a row is changed, committed and locked again under its eyes, so an advisory lock stands before each row lock."""
    holder, writer = place(), place()
    rows = f"SELECT r::text, r.ctid::text, r.xmin::text, r.xmax::text FROM token_usage_rollup_{table} r"
    holder("BEGIN")
    holder(f"SELECT pg_advisory_xact_lock({lock})")
    before = writer(rows)
    for _ in range(5):
        insert(writer, 12, "clock_timestamp() + interval '1 microsecond'")
        insert(writer, 12, "now() - interval '30 hours'")
        compact(writer)
    assert writer(rows) == before
    right(writer)
    holder("COMMIT")
    compact(writer)
    assert writer(rows) != before
    clean(writer)


def test_soak(place, seed):
    import psycopg2
    until = time.monotonic() + SECONDS
    found, waits, counts, lock = [], [], dict(writes=0, reads=0, compactions=0), threading.Lock()

    def count(what):
        with lock:
            counts[what] += 1

    def writer(number):
        rng = random.Random(f"{seed} {number}")
        writes, session = Writes(rng), place()
        while time.monotonic() < until and not found:
            level = rng.choice(LEVELS[:1] * 4 + LEVELS[1:2])
            session(f"BEGIN ISOLATION LEVEL {level}")
            for _ in range(rng.randint(1, 6)):
                kind = rng.random()
                if kind < 0.6:
                    session(f"INSERT INTO token_usage (workflow_id, {writes.COLUMNS}) VALUES ('{number}', {writes.values()})")
                else:
                    # Rows of its own only, so that nobody waits but for us.
                    some = (f"workflow_id = '{number}' AND id IN (SELECT id FROM token_usage WHERE workflow_id = '{number}' "
                            f"ORDER BY id DESC LIMIT {rng.randint(1, 3)} OFFSET {rng.randint(0, 20)})")
                    session(f"UPDATE token_usage SET agent_id = 'agent 1', cost_usd = 2, created_at = {writes.time()} WHERE {some}"
                            if kind < 0.85 else f"DELETE FROM token_usage WHERE {some}")
                if rng.random() < 0.05:
                    time.sleep(rng.random() * 0.2)
                count("writes")
            session(rng.choice(("COMMIT",) * 5 + ("ROLLBACK",)))

    def reader(number):
        rng = random.Random(f"{seed} reader {number}")
        writes, session = Writes(rng), place()
        while time.monotonic() < until and not found:
            session("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            for _ in range(3):
                bounds, user, dimension = session(writes.bounds())[0][0], writes.user(), rng.choice(("none", "agent", "model"))
                if bounds and len(bounds) > 1:
                    have, want = (f(session, user, None, bounds, dimension) for f in (by_rollup, by_hand))
                    if have != want:
                        found.append(f"user {user} {dimension} {bounds}:\n{have}\n{want}")
                    count("reads")
            session("COMMIT")

    def compactor(number):
        rng, session = random.Random(f"{seed} compactor {number}"), place()
        while time.monotonic() < until and not found:
            session(rng.choice(("SELECT token_usage_compact()", "SELECT token_usage_compact(20)")))
            count("compactions")
            time.sleep(0.01)

    def watcher(_):
        session = place()
        while time.monotonic() < until and not found:
            waits.extend(session("SELECT l.locktype, l.mode, l.relation::regclass::text, a.backend_type, a.query, b.query FROM pg_locks l"
                                 " JOIN pg_stat_activity a USING (pid) LEFT JOIN pg_stat_activity b ON b.pid = ANY (pg_blocking_pids(l.pid))"
                                 " WHERE NOT l.granted AND l.locktype <> 'extend'"))
            time.sleep(0.02)

    def guarded(work, number):
        try:
            work(number)
        except psycopg2.Error as error:
            found.append(f"{work.__name__} {number}: {error.pgcode} {error}")

    threads = [threading.Thread(target=guarded, args=(work, i)) for work, n in ((writer, 11), (reader, 3), (compactor, 2), (watcher, 1))
               for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    session = place()
    print(f"\n{place.pg.name}: seed {seed}: {counts}, pending deltas "
          f"{session('SELECT count(*) FROM token_usage_delta')[0][0]} of {session('SELECT count(*) FROM token_usage')[0][0]} rows")
    assert not found, found[0]
    assert waits == []
    clean(session)
    compact(session)
    clean(session)
