"""PostgreSQL: statements and transactions of the kinds that a design by triggers may overlook: constraints made immediate,
two-phase commit, savepoints, writers older than the guard, MERGE, rows that move between partitions, triggers of the
application that write or read in the middle of a statement."""
import re
import time

import psycopg2
import pytest

from rollup.ledger import by_hand, by_rollup
from rollup.test_concurrent_pg import compact, insert
from rollup.test_keep_pg import Session, clean, fill, right
from support import postgres


@pytest.fixture
def place(pg):
    """place(): one more session on a ledger with rolled rows of two users."""
    database = pg.database()
    sessions = []

    def more():
        sessions.append(Session(pg.server, database.name))
        return sessions[-1]
    fill(more())
    more.pg, more.name = pg, database.name
    yield more
    for session in sessions:
        session.close()
    database.close()


def settle(session):
    clean(session)
    compact(session)
    clean(session)


def guard_past_the_seal(session):
    """Others write for a while: the guard is then confirmed well past what is sealed of user 1."""
    for _ in range(8):
        time.sleep(0.4)
        insert(session, 8, "clock_timestamp()", user=2)
        ahead = session("SELECT s.confirmed > u.sealed_until + interval '1 second' FROM token_usage_rollup_state s, token_usage_rollup_user u "
                        "WHERE u.user_id = 1")
        if ahead == [(True,)]:
            return
    raise AssertionError("the guard is not confirmed past the seal")


@pytest.mark.parametrize("mode", ["IMMEDIATE", "DEFERRED"])
def test_set_constraints(place, mode):
    """Django and Rails send SET CONSTRAINTS ALL IMMEDIATE. What is deferred to the commit must not seal in the middle of a statement."""
    s = place()
    guard_past_the_seal(place())
    s("BEGIN")
    s(f"SET CONSTRAINTS ALL {mode}")
    insert(s, 200, "now() - interval '1 second' - i * interval '0.005 seconds'")
    right(s)
    s("UPDATE token_usage SET created_at = created_at - interval '1 hour' WHERE user_id = 1 AND id % 3 = 0")
    s("DELETE FROM token_usage WHERE user_id = 1 AND id % 7 = 0")
    s("SET CONSTRAINTS ALL DEFERRED")
    insert(s, 50, "now() - interval '1 second' - i * interval '0.005 seconds'")
    s("SET CONSTRAINTS ALL IMMEDIATE")
    right(s)
    s("COMMIT")
    settle(s)


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
@pytest.mark.parametrize("level", ["READ COMMITTED", "SERIALIZABLE"])
def test_two_phase_commit(place, end, level):
    a, b = place(), place()
    name = f"x_{place.name}"
    guard_past_the_seal(b)
    a(f"BEGIN ISOLATION LEVEL {level}")
    insert(a, 20, "now() - i * interval '9 hours'")
    insert(a, 20, "clock_timestamp()")
    a("DELETE FROM token_usage WHERE user_id = 1 AND id % 9 = 0")
    a(f"PREPARE TRANSACTION '{name}'")
    try:
        b("SET lock_timeout = '2s'")
        for _ in range(4):  # others go on and nobody waits; what was prepared is not sealed past
            insert(b, 20, "clock_timestamp()")
            insert(b, 5, "now() - i * interval '9 hours'")
            compact(b, 2)
            time.sleep(0.3)
        clean(b)
    finally:
        a(f"{end} PREPARED '{name}'")
    settle(b)
    insert(b, 20, "clock_timestamp()")
    settle(b)


def test_savepoints(place):
    s, other = place(), place()
    s("BEGIN")
    for depth in range(1, 40):
        s(f"SAVEPOINT s{depth}")
        insert(s, 3, "now() - i * interval '9 hours'" if depth % 2 else "clock_timestamp()")
        if depth % 3 == 0:
            s(f"ROLLBACK TO s{depth}")
        elif depth % 5 == 0:
            s(f"RELEASE s{depth}")
    right(s)
    insert(other, 20, "clock_timestamp()")
    settle(other)
    s("ROLLBACK TO s22")
    right(s)
    s("COMMIT")
    settle(other)
    # A writer whose rows all come from subtransactions, and who is older than the guard.
    s("BEGIN")
    s("SAVEPOINT a")
    insert(s, 2, "clock_timestamp()")
    s("RELEASE a")
    for _ in range(4):
        insert(other, 10, "clock_timestamp()")
        compact(other, 2)
        time.sleep(0.4)
    right(s)
    s("COMMIT")
    settle(other)


def test_a_function_that_catches_its_errors(place):
    s = place()
    s("CREATE FUNCTION put(n int) RETURNS void LANGUAGE plpgsql AS $$ BEGIN FOR i IN 1 .. n LOOP BEGIN INSERT INTO token_usage (user_id, agent_id, "
      "ai_provider, ai_model, prompt_tokens, total_tokens, created_at) VALUES (1, 'agent 1', 'p1', 'm1', i, i, now() - i * interval '5 hours'); "
      "IF i % 3 = 0 THEN RAISE division_by_zero; END IF; EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$")
    for _ in range(4):
        s("SELECT put(30)")
        right(s)
    settle(s)


def test_a_writer_older_than_many_guards(place):
    """Its first rows met a low guard, its last ones a high one; seals must wait, and its answers hold."""
    a, b = place(), place()
    a("BEGIN")
    insert(a, 5, "clock_timestamp()")
    for _ in range(3):
        for _ in range(3):
            insert(b, 10, "clock_timestamp()")
            compact(b, 2)
            time.sleep(0.5)
        insert(a, 3, "clock_timestamp()")
        insert(a, 3, "now()")
        a("UPDATE token_usage SET cost_usd = 9 WHERE id IN (SELECT id FROM token_usage WHERE user_id = 1 ORDER BY id DESC LIMIT 3)")
        right(a)
        clean(b)
    a("COMMIT")
    settle(b)


def test_merge(place):
    if postgres.server_version() < 15:
        pytest.skip("MERGE is there from PostgreSQL 15 on")
    s = place()
    s("CREATE TABLE batch AS SELECT id, i FROM token_usage, generate_series(0, 0) i WHERE id % 2 = 0 UNION ALL SELECT 900000 + i, i FROM generate_series(1, 40) i")
    s("MERGE INTO token_usage t USING batch b ON t.id = b.id WHEN MATCHED AND t.id % 4 = 0 THEN DELETE "
      "WHEN MATCHED THEN UPDATE SET prompt_tokens = t.prompt_tokens + 1, total_tokens = t.total_tokens + 1, created_at = t.created_at - interval '40 hours' "
      "WHEN NOT MATCHED THEN INSERT (user_id, agent_id, ai_provider, ai_model, created_at) VALUES (1, 'agent 9', 'p1', 'm1', now() - b.i * interval '8 hours')")
    right(s)
    settle(s)


def test_rows_that_move_between_partitions(pg):
    database = pg.database(migrate=False)
    s = Session(pg.server, database.name)
    s("CREATE TABLE token_usage (id bigint GENERATED BY DEFAULT AS IDENTITY, user_id bigint NOT NULL, agent_id text, ai_provider text, "
      "ai_model text, prompt_tokens bigint NOT NULL DEFAULT 0, completion_tokens bigint NOT NULL DEFAULT 0, total_tokens bigint NOT NULL "
      "DEFAULT 0, cost_usd numeric, cost_rub numeric, request_id text, created_at timestamptz NOT NULL DEFAULT now()) PARTITION BY LIST (user_id)")
    s("CREATE TABLE one PARTITION OF token_usage FOR VALUES IN (1)")
    s("CREATE TABLE others PARTITION OF token_usage DEFAULT")
    s("SELECT token_usage_migrate()")
    fill(s)
    s("UPDATE token_usage SET user_id = 3 - user_id WHERE id % 5 = 0")
    s("UPDATE others SET user_id = 2, created_at = created_at - interval '3 days' WHERE id % 7 = 0")
    s("DELETE FROM one WHERE id % 11 = 0")
    settle(s)
    insert(s, 30, "now() - i * interval '9 hours'")
    # A partition that comes with rows: verify finds them, rebuild mends it.
    s("CREATE TABLE third (LIKE token_usage INCLUDING DEFAULTS)")
    s("INSERT INTO third (id, user_id, agent_id, ai_provider, ai_model, prompt_tokens, total_tokens, created_at) "
      "SELECT 7000 + i, 3, 'agent 1', 'p1', 'm1', 1, 1, now() - i * interval '9 hours' FROM generate_series(1, 50) i")
    s("ALTER TABLE token_usage ATTACH PARTITION third FOR VALUES IN (3)")
    found = s("SELECT * FROM token_usage_verify()")
    s("SELECT token_usage_rebuild()")
    settle(s)
    assert s("SELECT requests_count FROM token_usage_totals(3, 'all')") == [(50,)]
    assert found == [] or {r[0] for r in found} == {"3"}  # nothing of user 3 was rolled before: then nothing was wrong
    s("INSERT INTO third (id, user_id, agent_id, ai_provider, ai_model, created_at) SELECT 8000 + i, 3, 'agent 2', 'p1', 'm1', now() - i * interval '9 hours' FROM generate_series(1, 9) i")
    settle(s)
    s("ALTER TABLE token_usage DETACH PARTITION third")
    assert {r[0] for r in s("SELECT * FROM token_usage_verify()")} == {"3"}
    s("SELECT token_usage_rebuild()")
    settle(s)
    s.close()
    database.close()


def test_triggers_of_the_application_that_write(place):
    """One that writes more rows, one that changes and one that swallows what comes in."""
    s = place()
    s("CREATE FUNCTION more() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.agent_id <> 'copy' THEN INSERT INTO token_usage (user_id, agent_id, ai_provider, "
      "ai_model, prompt_tokens, total_tokens, created_at) VALUES (NEW.user_id, 'copy', NEW.ai_provider, NEW.ai_model, 1, 1, NEW.created_at - interval '2 hours'); "
      "UPDATE token_usage SET cost_rub = 1 WHERE id = NEW.id; END IF; RETURN NULL; END $$")
    s("CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.prompt_tokens = 3 THEN RETURN NULL; END IF; "
      "NEW.created_at := NEW.created_at - interval '1 hour'; RETURN NEW; END $$")
    s("CREATE TRIGGER m AFTER INSERT ON token_usage FOR EACH ROW EXECUTE FUNCTION more()")
    s("CREATE TRIGGER z_more AFTER INSERT ON token_usage FOR EACH ROW EXECUTE FUNCTION more()")
    s("CREATE TRIGGER b BEFORE INSERT ON token_usage FOR EACH ROW EXECUTE FUNCTION change()")
    for when in ("now()", "now() - i * interval '9 hours'", "now() - i * interval '0.2 seconds'"):
        insert(s, 20, when)
        right(s)
    settle(s)


@pytest.mark.parametrize("rows, when", [(1, "now() - interval '30 hours'"), (4, "now()"), (4, "now() - i * interval '30 hours'")])
def test_a_report_inside_a_statement(place, rows, when):
    """A trigger of the application, as one that holds a user to a budget, asks for a report after each row."""
    s = place()
    s("CREATE TABLE seen (report bigint, ledger bigint)")
    s("CREATE FUNCTION budget() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO seen SELECT (SELECT total_tokens FROM token_usage_totals(1, 'all')), "
      "(SELECT sum(total_tokens) FROM token_usage WHERE user_id = 1 AND created_at < date_trunc('day', now(), 'UTC') + interval '1 day'); RETURN NULL; END $$")
    s("CREATE TRIGGER a_budget AFTER INSERT ON token_usage FOR EACH ROW EXECUTE FUNCTION budget()")
    s("CREATE TRIGGER z_budget AFTER INSERT ON token_usage FOR EACH ROW EXECUTE FUNCTION budget()")
    insert(s, rows, when)
    seen = s("SELECT report, ledger FROM seen")
    assert len(seen) == 2 * rows
    assert all(report == ledger for report, ledger in seen), seen
    settle(s)


def test_nobody_waits_at_commit(place):
    """Sixteen transactions that all maintain at their commit, all open at once: none waits for another's locks."""
    sessions = [place() for _ in range(16)]
    for s in sessions:
        s("SET lock_timeout = '1s'")
        s("BEGIN")
        insert(s, 40, "now() - i * interval '9 hours'")
        insert(s, 40, "clock_timestamp()")
        s("SET CONSTRAINTS ALL IMMEDIATE")  # maintains now, and keeps its locks until it ends
    watcher = place()
    assert watcher("SELECT count(*) FROM pg_locks WHERE NOT granted")[0][0] == 0
    for number, s in enumerate(sessions):
        s("COMMIT" if number % 3 else "ROLLBACK")
    settle(watcher)


def test_vacuum_shuts_nobody_out(place):
    """To cut off the empty end of a table VACUUM takes a lock that every writer would wait for: not of ours, new or from before."""
    session = place()
    session("ALTER TABLE token_usage_delta RESET (vacuum_truncate)")
    session("SELECT token_usage_migrate()")
    assert session("SELECT relname FROM pg_class WHERE relname ~ '^token_usage_(rollup|delta)' AND relkind = 'r'"
                   " AND NOT coalesce(reloptions @> '{vacuum_truncate=false}', false)") == []
    insert(session, 2000, "now() - i * interval '1 minute'")
    settle(session)
    pages = session("SELECT pg_relation_size('token_usage_delta') / 8192")[0][0]
    session("VACUUM token_usage_delta")
    assert pages > 5 and session("SELECT pg_relation_size('token_usage_delta') / 8192") == [(pages,)]


def test_a_row_that_goes_before_it_is_sealed(place):
    """A row left no delta when it came, the guard passed it, and its deletion left one. Sealing that stretch of time, which has no
    other row of the month, must not keep the delta: nothing that is rolled holds the row."""
    session = place()
    settle(session)
    session("ALTER TABLE token_usage_delta DISABLE TRIGGER token_usage_rollup_at_commit")  # by chance one of these would maintain
    insert(session, 1, "now()")
    for _ in range(5):
        session("SELECT token_usage_rollup_confirm()")
        session("SELECT txid_current()")
    insert(session, 1, "now() - interval '9 days'", user=2)  # so that the other user is swept
    session("DELETE FROM token_usage WHERE user_id = 1 AND created_at = (SELECT max(created_at) FROM token_usage)")
    assert session("SELECT user_id, sign FROM token_usage_delta WHERE sign <> 0") == [(2, 1), (1, -1)]
    settle(session)
    assert session("SELECT * FROM token_usage_delta WHERE sign <> 0") == []


def test_a_month_begins_as_the_one_before_it_ended(place):
    """A month that outgrew what a visit reads again has fewer kinds of sums than its rows would pay for; the next one begins with all of them."""
    session = place()
    session("INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, prompt_tokens, total_tokens, created_at) SELECT 9, 'agent', 'p', 'm', i, i, "
            "date_trunc('month', now(), 'UTC') - interval '1 month' + i * interval '1 hour' FROM generate_series(1, 300) i")
    session("SELECT token_usage_rebuild()")
    month = "month = date_trunc('month', now(), 'UTC')"
    # As visits leave it.
    session("DELETE FROM token_usage_rollup WHERE user_id = 9 AND kind < 30")
    session("UPDATE token_usage_rollup_month SET flags = 3 WHERE user_id = 9")
    session("UPDATE token_usage_rollup_user SET sealed_until = date_trunc('month', now(), 'UTC') WHERE user_id = 9")
    assert session(f"SELECT * FROM token_usage_rollup_month WHERE user_id = 9 AND {month}") == []
    insert(session, 5, "now()", user=9)
    settle(session)
    assert session(f"SELECT flags FROM token_usage_rollup_month WHERE user_id = 9 AND {month}") == [(63,)]
    bounds = session("SELECT array_agg(b ORDER BY b)::text[] FROM (VALUES ('-infinity'::timestamptz), (date_trunc('month', now(), 'UTC')), (now() + interval '1 hour')) v (b)")[0][0]
    for dimension in ("none", "agent", "model"):
        assert by_rollup(session, 9, None, bounds, dimension) == by_hand(session, 9, None, bounds, dimension)


def test_errors_name_what_is_wrong(place):
    """Of maintenance nothing reaches the application: a sum past bigint leaves the user as he was and the write goes through."""
    s = place()
    for _ in range(3):
        s("INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, prompt_tokens, total_tokens, created_at) "
          "SELECT 1, 'agent 1', 'p1', 'm1', 4611686018427387904, 4611686018427387904, now() - i * interval '9 hours' FROM generate_series(1, 5) i")
    compact(s)
    with pytest.raises(psycopg2.Error, match=re.escape("token_usage")):
        s("SELECT * FROM token_usage_totals(1, 'all')")
    assert s("SELECT requests_count > 0 FROM token_usage_totals(2, 'all')") == [(True,)]
    s("DELETE FROM token_usage WHERE prompt_tokens > 1000000000")
    settle(s)


def test_rows_that_gain_or_lose_their_time(place):
    """An application's table may allow rows without a time. They are in no sum, and an UPDATE that gives or takes a rolled time is late."""
    s = place()
    s("ALTER TABLE token_usage ALTER created_at DROP NOT NULL")
    guard_past_the_seal(place())
    times = {"late": "now() - interval '40 hours'", "new": "clock_timestamp()", "none": "NULL"}
    for before, old in times.items():
        for after, new in times.items():
            insert(s, 6, old)
            rows = "user_id = 1 AND id IN (SELECT id FROM token_usage WHERE user_id = 1 ORDER BY id DESC LIMIT 6)"
            s(f"UPDATE token_usage SET created_at = {new} WHERE {rows}")
            right(s)
            settle(s)
            assert s(f"SELECT count(*) FROM token_usage WHERE {rows} AND created_at IS NULL") == [(6 if after == "none" else 0,)], (before, after)


@pytest.mark.parametrize("rows", [3, 1000, 1001])
def test_rows_that_wait_are_added_to_what_is_rolled(place, rows):
    """Of the groups that are rolled and of others; more of them, or a cost beyond what the library adds up, by a query. Not sealed, since at
    this level nothing is maintained."""
    s = place()
    insert(s, 300, "now() - i * interval '5 hours'", user=7)
    s("SELECT token_usage_rebuild()")
    s("BEGIN ISOLATION LEVEL REPEATABLE READ")
    insert(s, rows - 2, "clock_timestamp()", user=7)
    s("INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, prompt_tokens, total_tokens, cost_usd, cost_rub, execution_time_ms, created_at) "
      "VALUES (7, 'agent 9', 'p9', 'm9', 5, 5, 0.0000000000015, NULL, 3, clock_timestamp()), "
      "(7, 'agent 1', 'p1', 'm1', 9223372036854775807, 9223372036854775807, NULL, 2.5, NULL, clock_timestamp())")
    for more in ("SELECT 1", "UPDATE token_usage SET cost_usd = 10::numeric ^ 29 WHERE user_id = 7 AND agent_id = 'agent 9'"):
        s(more)
        for bounds in (["-infinity", "2100-01-01"], ["-infinity", "2020-01-01 00:10", "2100-01-01"]):
            bounds[1:1] = [s("SELECT (date_trunc('day', now()) - interval '3 days')::text")[0][0]] if len(bounds) == 2 else []
            for agent in (None, "agent 1", "agent 9"):
                for dimension in ("none", "agent") if agent else ("none", "agent", "model"):
                    assert by_rollup(s, 7, agent, bounds, dimension) == by_hand(s, 7, agent, bounds, dimension), (more, agent, dimension)
    s("COMMIT")
    settle(s)


def test_a_rollup_without_its_values(place):
    """Whoever owns the derived tables may take values away: that is a wrong answer, which verify finds, and never a crash."""
    s = place()
    for column in ("usd", "rub", "prompt", "requests", "ms_sum", "unpriced"):
        s(f"ALTER TABLE token_usage_rollup ALTER {column} DROP NOT NULL")
        insert(s, 3, "now()")
        for value in ("NULL", "1"):
            s("BEGIN")
            s(f"UPDATE token_usage_rollup SET {column} = {value} WHERE user_id = 1")
            # In a zone of its own, since users with few rows are read without the rollups else.
            for sql in ("totals(1, 'all', NULL", "by_agent(1, 60", "by_model(1, 60", "history(1, 60, NULL"):
                assert s(f"SELECT * FROM token_usage_{sql}, 'Europe/Moscow')") != []
            assert value == "NULL" or s("SELECT count(*) > 0 FROM token_usage_verify(1)") == [(True,)], column
            s("ROLLBACK")
    s("SET TimeZone = 'UTC'")
    for change in ("month ALTER month TYPE date", "month ALTER flags TYPE integer", "user ALTER sealed_until TYPE timestamp"):
        s("BEGIN")
        s(f"ALTER TABLE token_usage_rollup_{change}")
        right(s)
        s("ROLLBACK")
    clean(s)
