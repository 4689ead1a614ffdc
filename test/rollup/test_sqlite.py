"""Rollups of the SQLite edition: exact after any writes by any client, through restores, and safe where they cannot
be used. The oracle is oracle.py, a second definition over plain rows.

TOKEN_USAGE_ROLLUP_STEPS makes the streams longer or shorter (operations over all configurations, 10,000 by default);
TOKEN_USAGE_SEED repeats a run."""
import os
import pathlib
import random
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from oracle import Ledger  # noqa: E402
from sqlite_stream import Stream, USERS, connect  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIBRARY = pathlib.Path(os.environ.get("TOKEN_USAGE_SQLITE_LIBRARY", ROOT / "build" / "token_usage.so"))
PLAIN = ROOT / "migrations" / "add_token_usage_indexes_sqlite.sql"
SEED = int(os.environ.get("TOKEN_USAGE_SEED", random.SystemRandom().randrange(1 << 32)))
STEPS = int(os.environ.get("TOKEN_USAGE_ROLLUP_STEPS", 10000))


def verified(db, schema="main"):
    return [row for row in db.execute("SELECT * FROM token_usage_verify(NULL, ?)", (schema,))
            if row[3] != "created_at"]


def rolled(db):
    return db.execute("SELECT count(*) FROM token_usage_rollup").fetchone()[0]


def waiting(db):
    return db.execute("SELECT count(*) FROM token_usage_rollup_late").fetchone()[0]


def dense(db, user=1, hours=100, per_hour=20, start=1735689600, agent="writer"):
    db.execute("SAVEPOINT dense")
    db.executemany(
        "INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, prompt_tokens, total_tokens, cost_usd,"
        " created_at) VALUES (?, ?, 'p', 'm', 1, 1, 0.1, ?)",
        [(user, agent, start + hour * 3600 + i) for hour in range(hours) for i in range(per_hour)])
    db.execute("RELEASE dense")


def all_time(db, user=1):
    return db.execute("SELECT requests_count, cost_usd FROM token_usage_totals(?, 'all')", (user,)).fetchone()


@pytest.fixture
def db(tmp_path):
    made = connect(tmp_path / "ledger.db", LIBRARY)
    made.execute("SELECT token_usage_migrate()")
    yield made
    made.close()


@pytest.mark.parametrize("schema, recursive", [("main", False), ("main", True), ("aux", False), ("aux", True)])
def test_random_writes(tmp_path, schema, recursive):
    first = SEED + 2 * (schema == "aux") + recursive
    # A stream that deletes all rows time and again may leave the triggers nothing to roll up; another one is drawn then.
    for seed in (first, first + 4, first + 8):
        print(f"seed {seed}")
        # Half of the streams live on what the triggers do by themselves.
        stream = Stream(tmp_path / f"{seed}.db", LIBRARY, seed, schema, recursive, 0.1 * (recursive == (schema == "aux")))
        try:
            for step in range(STEPS // 4):
                stream.step()
                stream.check(everything=step % 250 == 249)
        finally:
            stream.close()
        if STEPS < 8000 or stream.rolled * 40 > STEPS // 4:
            break
    # The checks must have met rolled buckets: a tenth to a third of the steps do, as the seed has it.
    if STEPS >= 8000:
        assert stream.rolled * 40 > STEPS // 4


def test_reports_take_from_the_rollups(db):
    """A forged bucket shows in the report: so the report did read it, and verify finds it."""
    dense(db)
    assert db.execute("SELECT token_usage_rebuild()").fetchone()[0] > 0
    before = all_time(db)
    db.execute("UPDATE token_usage_rollup SET requests_count = requests_count + 1 WHERE size = 24 AND dimension = 0")
    assert all_time(db)[0] > before[0]
    assert {row[3] for row in verified(db)} == {"requests_count"}
    db.execute("SELECT token_usage_rebuild(1)")
    assert verified(db) == [] and all_time(db) == before


def test_compact_folds_what_waits(db):
    dense(db)
    db.execute("SELECT token_usage_rebuild()")
    assert db.execute("SELECT token_usage_compact()").fetchone() == (0,)
    db.execute("UPDATE token_usage SET cost_usd = 0.2 WHERE id = 5")
    assert waiting(db) == 2  # its 3 hours and its day; the rest is not over yet
    assert all_time(db) == (2000, 200.1)
    assert db.execute("SELECT token_usage_compact()").fetchone()[0] > 0
    assert waiting(db) == 0
    assert all_time(db) == (2000, 200.1) and verified(db) == []
    db.execute("DELETE FROM token_usage_rollup_user")  # as if nothing had been rolled yet
    assert db.execute("SELECT token_usage_compact()").fetchone()[0] == 2000
    dense(db, hours=50, start=1735689600 + 200 * 3600)
    db.execute("SELECT token_usage_compact()")
    assert all_time(db) == (3000, 300.1) and verified(db) == []


def test_sparse_users_have_no_rollups(db):
    for user in range(50):
        dense(db, user=user, hours=10, per_hour=1)
    assert db.execute("SELECT token_usage_rebuild(), token_usage_compact()").fetchone() == (0, 0)
    assert rolled(db) == 0


@pytest.mark.parametrize("per_day", [2, 300])
def test_users_without_odd_rows(tmp_path, per_day):
    """Rows that SQL can add up are found by narrow ranges of the index, and those of users with few rows a day by wide
    ones, or counted by it: in every stored form, at every edge."""
    seed = SEED + per_day
    print(f"seed {seed}")
    stream = Stream(tmp_path / "ledger.db", LIBRARY, seed, "main", False, 0)
    r = stream.random
    forms = [lambda s: time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(s)),
             lambda s: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(s)),
             lambda s: time.strftime("%Y-%m-%dT%H:%M:%S.25+00:00", time.gmtime(s)),
             lambda s: s, lambda s: s * 1000 + 999, lambda s: s + 0.5]
    start = 1735689600
    try:
        for user, chosen in ((1, forms), (2, forms[:1]), (3, forms[1:2])):
            days = 400 // per_day + 20
            seconds = [start + r.randrange(days) * 86400 + r.choice([0, 86399, r.randrange(86400)])
                       for _ in range(days * per_day)] + [110_000_000, 100_000_000, 99_999_999, 200_000_000]
            made = [stream.row(user_id=user, prompt_tokens=1, completion_tokens=1, total_tokens=2, cost_usd=0.25,
                               cost_rub=None, created_at=r.choice(chosen)(second)) for second in sorted(seconds)]
            for i in range(0, len(made), 500):
                stream.insert(stream.plain, made[i:i + 500])
        assert stream.reader.execute("SELECT count(*) FROM token_usage_rollup_odd").fetchone() == (0,)
        for rebuild in (False, True):
            if rebuild:
                stream.reader.execute("SELECT token_usage_rebuild()")
            for user in (1, 2, 3):
                ledger = Ledger(stream.reader, user)
                for _ in range(40):
                    stream.check_reports(ledger, user, r.choice(["UTC", "Asia/Kolkata", "America/New_York"]))
                for _ in range(20):
                    # Whole days, and not quite.
                    low, high = sorted(start + r.randrange(days + 1) * 86400 for _ in range(2))
                    low -= r.randrange(2)
                    end = time.strftime("%Y-%m-%d %H:%M:%S.999999", time.gmtime(high - 1 - (later := r.randrange(2))))
                    assert stream.reader.execute(
                        "SELECT token_usage_detailed_count(?, NULL, ?, ?)", (user, low, end)).fetchone() == (
                            ledger.count(None, low * 10**6, (high - later) * 10**6 - 1),)
            assert verified(stream.reader) == []
        days_rolled = stream.reader.execute("SELECT count(*) FROM token_usage_rollup WHERE size <= 24").fetchone()[0]
        assert (days_rolled > 0) == (per_day > 64)
    finally:
        stream.close()


def test_arguments(db):
    for call, message in [
            ("token_usage_compact(0)", "token_usage: max_rows must be a whole number from 1 to 9223372036854775807,"
                                       " got 0"),
            ("token_usage_rebuild(1, 'nowhere')", "token_usage: schema must be the name of an attached database,"
                                                  " got nowhere")]:
        with pytest.raises(sqlite3.OperationalError) as error:
            db.execute("SELECT " + call)
        assert str(error.value) == message
    with pytest.raises(sqlite3.OperationalError, match="run SELECT token_usage_migrate"):
        connect(":memory:", LIBRARY).execute("SELECT token_usage_rebuild()")


def test_unreadable_times_are_verified(db):
    db.execute("INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, created_at)"
               " VALUES (7, 'a', 'p', 'm', 'yesterday')")
    assert db.execute("SELECT * FROM token_usage_verify()").fetchall() == [
        ("7", "row 1", "total", "created_at", "yesterday", None)]
    assert db.execute("SELECT count(*) FROM token_usage_verify(8)").fetchone() == (0,)


def test_rolled_back_maintenance(db):
    dense(db)
    db.execute("DELETE FROM token_usage_rollup")
    db.execute("BEGIN")
    db.execute("SELECT token_usage_rebuild()")
    assert rolled(db) > 0
    db.execute("ROLLBACK")
    assert rolled(db) == 0 and all_time(db) == (2000, 200.0)


# Databases that were copied

def test_dump_vacuum_and_backup(db, tmp_path):
    dense(db)
    db.execute("SELECT token_usage_rebuild()")
    db.execute("UPDATE token_usage SET cost_usd = 0.3 WHERE id = 9")
    text = subprocess.run(["sqlite3", tmp_path / "ledger.db", ".dump"], check=True, capture_output=True).stdout
    subprocess.run(["sqlite3", tmp_path / "dumped.db"], input=text, check=True)
    subprocess.run(["sqlite3", tmp_path / "ledger.db", f"VACUUM INTO '{tmp_path}/vacuumed.db'"], check=True)
    subprocess.run(["sqlite3", tmp_path / "ledger.db", f".backup {tmp_path}/backup.db"], check=True)
    for name in ("dumped", "vacuumed", "backup"):
        copy = connect(tmp_path / f"{name}.db", LIBRARY)
        assert rolled(copy) == rolled(db) > 0 and verified(copy) == []
        assert all_time(copy) == all_time(db) == (2000, 200.2)
        # The copy's triggers work, and it is really its rollups that are read.
        copy.execute("UPDATE token_usage SET cost_usd = NULL WHERE id < 9")
        assert all_time(copy) == (2000, 199.4) and verified(copy) == []
        copy.execute("UPDATE token_usage_rollup SET requests_count = 0 WHERE size = 24")
        assert verified(copy) != []
        copy.close()


def test_only_the_ledger_of_a_dump(db, tmp_path):
    """Rows loaded into a database that has rollups already pass through the triggers."""
    dense(db)
    db.execute("SELECT token_usage_rebuild()")
    text = subprocess.run(["sqlite3", tmp_path / "ledger.db", ".dump --data-only token_usage"], check=True,
                          capture_output=True).stdout.decode()
    copy = connect(tmp_path / "copy.db", LIBRARY)
    copy.execute("SELECT token_usage_migrate()")
    dense(copy, start=1735689600 + 3600)
    copy.execute("SELECT token_usage_rebuild()")
    copy.executescript("BEGIN;" + text.replace("INSERT INTO token_usage ", "INSERT OR REPLACE INTO token_usage ")
                       .replace("INSERT INTO token_usage(", "INSERT OR REPLACE INTO token_usage(") + "COMMIT;")
    assert verified(copy) == []
    assert all_time(copy) == (copy.execute("SELECT count(*) FROM token_usage").fetchone()[0], 200.0)


def test_killed_while_writing(tmp_path):
    path = tmp_path / "ledger.db"
    first = connect(path, LIBRARY)
    first.execute("PRAGMA journal_mode = WAL")
    first.execute("SELECT token_usage_migrate()")
    first.close()
    writer = """
import sys
sys.path.insert(0, sys.argv[1])
from sqlite_stream import Stream
import random, sqlite3
import sqlite_stream
stream = Stream.__new__(Stream)
stream.random, stream.schema, stream.table = random.Random(int(sys.argv[4])), "main", "token_usage"
stream.compacts, stream.clock = 0, sqlite_stream.START + 120 * 86400
stream.requests, stream.rolled = int(sys.argv[4]) % 1000 * 10**6, 0
stream.reader = stream.plain = sqlite_stream.connect(sys.argv[2], sys.argv[3])
stream.reader.execute("CREATE TABLE IF NOT EXISTS users (id INTEGER PRIMARY KEY)")
print("ready", flush=True)
while True:
    stream.step()
"""
    for kill in range(5):
        process = subprocess.Popen([sys.executable, "-c", writer, str(pathlib.Path(__file__).parent), str(path),
                                    str(LIBRARY), str(SEED + kill)], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(0.7)
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        db = connect(path, LIBRARY)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert verified(db) == []
        for user in USERS:
            assert db.execute("SELECT * FROM token_usage_history(?, 120, NULL, 'UTC', 1745000000)",
                              (user,)).fetchall() == Ledger(db, user).history(120, None, "UTC", 1745000000 * 10**6)
        db.close()


def test_plain_migration_is_the_same(tmp_path):
    """The plain file and token_usage_migrate() leave the same objects, and a file that was made without the
    extension has rollups as soon as someone asks for them."""
    subprocess.run(["sqlite3", "-bail", tmp_path / "plain.db", f".read {PLAIN}"], check=True)
    plain = connect(tmp_path / "plain.db", LIBRARY)
    made = connect(":memory:", LIBRARY)
    made.execute("SELECT token_usage_migrate()")
    names = "SELECT type, name, sql FROM sqlite_master WHERE name GLOB 'token_usage_rollup*' ORDER BY 2"
    assert plain.execute(names).fetchall() == made.execute(names).fetchall()
    dense(plain)
    plain.execute("SELECT token_usage_rebuild()")
    assert rolled(plain) > 0 and verified(plain) == []
    count = rolled(plain)
    plain.close()
    subprocess.run(["sqlite3", "-bail", tmp_path / "plain.db", f".read {PLAIN}"], check=True)
    plain = connect(tmp_path / "plain.db", LIBRARY)
    assert rolled(plain) == count  # running it again changes nothing
    plain.close()


# Ways around the triggers

def test_dropped_trigger(db):
    """Without one of the triggers reports read the ledger; migrate starts afresh."""
    dense(db)
    db.execute("SELECT token_usage_rebuild()")
    db.execute("DROP TRIGGER token_usage_rollup_after_delete")
    db.execute("DELETE FROM token_usage WHERE id <= 100")
    assert all_time(db) == (1900, 190.0) and verified(db) == []
    assert '{"step":"rollups","action":"created"}' in db.execute("SELECT token_usage_migrate()").fetchone()[0]
    assert rolled(db) == 0 and all_time(db) == (1900, 190.0)
    db.execute("SELECT token_usage_rebuild()")
    assert rolled(db) > 0 and verified(db) == [] and all_time(db) == (1900, 190.0)


def test_rebuilt_table(db, tmp_path):
    """The way in which SQLite's documentation changes a table takes the triggers with it."""
    dense(db)
    db.execute("SELECT token_usage_rebuild()")
    sql = db.execute("SELECT sql FROM sqlite_master WHERE name = 'token_usage'").fetchone()[0]
    db.execute(sql.replace("CREATE TABLE token_usage", "CREATE TABLE new_ledger", 1))
    db.execute("INSERT INTO new_ledger SELECT * FROM token_usage WHERE id > 500")
    db.execute("DROP TABLE token_usage")
    db.execute("ALTER TABLE new_ledger RENAME TO token_usage")
    assert all_time(db) == (1500, 150.0)
    db.execute("SELECT token_usage_migrate()")
    assert all_time(db) == (1500, 150.0)
    db.execute("SELECT token_usage_rebuild()")
    assert all_time(db) == (1500, 150.0) and rolled(db) > 0 and verified(db) == []


def test_unknown_unique_key(db):
    """OR REPLACE by a key that the triggers do not know could take rows away unseen: then the ledger is read."""
    dense(db)
    db.execute("SELECT token_usage_rebuild()")
    db.execute("UPDATE token_usage SET workflow_id = id")
    db.execute("CREATE UNIQUE INDEX mine ON token_usage (workflow_id)")
    db.execute("INSERT OR REPLACE INTO token_usage (user_id, agent_id, ai_provider, ai_model, workflow_id, created_at)"
               " VALUES (1, 'a', 'p', 'm', '7', '2025-01-09 00:00:00')")
    assert all_time(db) == (2000, 199.9) and verified(db) == []
    assert db.execute("SELECT token_usage_rebuild()").fetchone() == (0,)
    db.execute("DROP INDEX mine")
    db.execute("SELECT token_usage_rebuild()")
    assert rolled(db) > 0 and verified(db) == [] and all_time(db) == (2000, 199.9)


def test_triggers_switched_off(db, tmp_path):
    """A connection that switches triggers off gets past them: verify finds it, rebuild mends it."""
    dense(db)
    db.execute("SELECT token_usage_rebuild()")
    subprocess.run(["sqlite3", tmp_path / "ledger.db"], input=b".dbconfig enable_trigger off\n"
                   b"DELETE FROM token_usage WHERE id = 3;\n", check=True, capture_output=True)
    assert verified(db) != []
    db.execute("SELECT token_usage_rebuild()")
    assert verified(db) == [] and all_time(db) == (1999, 199.9)


def test_adopted_ledgers(tmp_path):
    """Rolled with a key that the triggers know; left unrolled, with reports from the ledger, otherwise."""
    head = "CREATE TABLE token_usage (id {id}, user_id {user}, created_at TEXT{more}"
    for values, works in [
            (dict(id="INTEGER PRIMARY KEY", user="TEXT", more=")"), True),
            (dict(id="TEXT PRIMARY KEY", user="TEXT", more=") WITHOUT ROWID"), True),
            (dict(id="TEXT PRIMARY KEY", user="TEXT", more=")"), False),
            (dict(id="INTEGER PRIMARY KEY", user="TEXT COLLATE NOCASE", more=")"), False),
            (dict(id="INTEGER PRIMARY KEY", user="INTEGER", more=", UNIQUE (user_id, created_at))"), False)]:
        db = connect(":memory:", LIBRARY)
        db.execute(head.format(**values))
        db.execute("SELECT token_usage_migrate()")
        db.executemany("INSERT INTO token_usage (id, user_id, agent_id, cost_usd, created_at) VALUES (?, '1', 'a', 1, ?)",
                       [(i, f"2025-01-{1 + i // 500:02} 10:{i % 500 // 60:02}:{i % 60:02}") for i in range(1000)])
        db.execute("SELECT token_usage_rebuild()")
        assert (rolled(db) > 0) == works, values
        triggers = db.execute("SELECT count(*) FROM sqlite_master WHERE type = 'trigger'").fetchone()[0]
        assert triggers == (10 if works else 0)
        db.execute("INSERT OR REPLACE INTO token_usage (id, user_id, agent_id, cost_usd, created_at)"
                   " VALUES (700, '1', 'a', 5, '2025-03-01')")
        db.execute("DELETE FROM token_usage WHERE id = 3")
        assert all_time(db) == (998, 998.0) and verified(db) == []
        db.close()


def test_application_tables_of_our_names(db):
    other = connect(":memory:", LIBRARY)
    other.execute("CREATE TABLE token_usage_rollup (mine)")
    other.execute("INSERT INTO token_usage_rollup VALUES (1)")
    with pytest.raises(sqlite3.OperationalError, match="another one of that name is there"):
        other.execute("SELECT token_usage_migrate()")
    assert other.execute("SELECT * FROM token_usage_rollup").fetchall() == [(1,)]


def test_a_temporary_table_shadows_nothing(db):
    dense(db)
    db.execute("SELECT token_usage_rebuild()")
    for name in ("token_usage", "token_usage_rollup", "token_usage_rollup_user", "token_usage_rollup_late"):
        db.execute(f"CREATE TEMP TABLE {name} AS SELECT * FROM main.{name} WHERE 0")
    db.execute("UPDATE main.token_usage SET cost_usd = 1 WHERE id = 1")
    assert all_time(db) == (2000, 200.9) and verified(db) == []
    assert db.execute("SELECT count(*) FROM main.token_usage_rollup_late").fetchone() == (2,)
