"""What a connection of the SQLite edition knows of a ledger, it knows until the schema changes: by its own statements, by
another connection's, in a transaction that is rolled back, or by another file under the same name. Each test asks once,
so that all is known, before it changes something. What tells of a change is the first statement of a report, which is
another one where the report has to read the ledger's time zone; so the tests run both ways."""
import pathlib
import sqlite3
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from oracle import Ledger  # noqa: E402
from sqlite_stream import connect  # noqa: E402
from test_sqlite import LIBRARY, dense, rolled, verified  # noqa: E402

zone_asked_for = None


@pytest.fixture(autouse=True, params=[None, "UTC"], ids=["zone of the ledger", "zone given"])
def zone(request):
    global zone_asked_for
    zone_asked_for = request.param


def all_time(db, user=1):
    return db.execute("SELECT requests_count, cost_usd FROM token_usage_totals(?, 'all', NULL, ?)",
                      (user, zone_asked_for)).fetchone()


@pytest.fixture
def db(tmp_path):
    made = connect(tmp_path / "ledger.db", LIBRARY)
    made.execute("SELECT token_usage_migrate()")
    dense(made)
    made.execute("SELECT token_usage_rebuild()")
    assert all_time(made) == (2000, 200.0)
    yield made
    made.close()


def forge(db):
    """Makes reports that read the rollups tell themselves from those that read the ledger: by 10 requests a bucket."""
    db.execute("UPDATE token_usage_rollup SET requests_count = requests_count + 10 WHERE dimension = 0")


def reads_rollups(db):
    return all_time(db)[0] > 2000


def test_another_connection_drops_a_trigger(db, tmp_path):
    forge(db)
    assert reads_rollups(db)
    other = connect(tmp_path / "ledger.db")
    sql = other.execute("SELECT sql FROM sqlite_master WHERE name = 'token_usage_rollup_after_delete'").fetchone()[0]
    other.execute("DROP TRIGGER token_usage_rollup_after_delete")
    assert not reads_rollups(db)
    other.execute(sql)
    assert reads_rollups(db)
    other.execute("CREATE UNIQUE INDEX mine ON token_usage (endpoint)")
    assert not reads_rollups(db)
    other.close()


def test_schema_changes_that_are_rolled_back(db):
    """The number of a schema comes again after a rollback, for another schema."""
    forge(db)
    assert reads_rollups(db)
    for begin, back in (("BEGIN", "ROLLBACK"), ("SAVEPOINT s", "ROLLBACK TO s")):
        db.execute(begin)
        db.execute("DROP TRIGGER token_usage_rollup_after_delete")
        assert not reads_rollups(db)
        db.execute(back)
        assert reads_rollups(db)
        db.execute("CREATE INDEX another ON token_usage (endpoint)")
        db.execute("DROP INDEX another")
        assert reads_rollups(db)
        db.execute("DROP TRIGGER token_usage_rollup_work")
        assert not reads_rollups(db)
        if begin == "BEGIN":
            db.execute("SELECT token_usage_migrate(), token_usage_rebuild()")
            forge(db)
            assert reads_rollups(db)
        else:
            db.execute("RELEASE s")


def test_another_file_under_the_same_name(db, tmp_path):
    """With columns of other types, and then without a ledger."""
    other = connect(tmp_path / "other.db")
    other.execute("CREATE TABLE token_usage (id TEXT PRIMARY KEY, user_id TEXT, agent_id TEXT, created_at TEXT)"
                  " WITHOUT ROWID")
    other.execute("INSERT INTO token_usage VALUES ('b', '1', 'x', '2025-01-01 10:00:00')")
    other.close()
    reader = connect(":memory:", LIBRARY)
    ask = "SELECT requests_count FROM token_usage_totals(1, 'all', NULL, 'UTC', NULL, 'aux')"
    page = "SELECT id FROM token_usage_detailed(1, 1, 0, NULL, NULL, NULL, NULL, 'aux')"
    for _ in range(2):
        reader.execute("ATTACH ? AS aux", (str(tmp_path / "ledger.db"),))
        for _ in range(2):
            assert reader.execute(ask).fetchall() == [(2000,)]
            assert reader.execute(page).fetchall() == [(2000,)]
        reader.execute("DETACH aux")
        with pytest.raises(sqlite3.OperationalError, match="token_usage: schema must be the name of an attached"):
            reader.execute(ask)
        reader.execute("ATTACH ? AS aux", (str(tmp_path / "other.db"),))
        reader.execute("SELECT token_usage_migrate('text', 'aux')")
        for _ in range(2):
            assert reader.execute(ask).fetchall() == [(1,)]
            assert reader.execute(page).fetchall() == [("b",)]
        reader.execute("DETACH aux")
        reader.execute("ATTACH ':memory:' AS aux")
        with pytest.raises(sqlite3.OperationalError, match="token_usage: no token_usage table"):
            reader.execute(ask)
        reader.execute("DETACH aux")
    reader.close()


def test_a_table_made_anew(db):
    """Another id, another affinity of user_id, and no settings."""
    settings = "SELECT requests_count FROM token_usage_totals(1, 'all')"
    assert db.execute(settings).fetchall() == [(2000,)]
    db.execute("SELECT token_usage_set('time_zone', 'Asia/Kolkata')")
    assert db.execute(settings).fetchall() == [(2000,)]
    db.execute("DROP TABLE token_usage_settings")
    assert db.execute(settings).fetchall() == [(2000,)]
    db.execute("DROP TABLE token_usage")
    with pytest.raises(sqlite3.OperationalError, match="token_usage: no token_usage table"):
        db.execute(settings)
    db.execute("CREATE TABLE token_usage (id BLOB PRIMARY KEY, user_id TEXT, agent_id TEXT, created_at TEXT)")
    db.execute("INSERT INTO token_usage VALUES (x'01', '1', 'x', '2025-01-01 10:00:00')")
    db.execute("SELECT token_usage_migrate('text')")
    assert db.execute(settings).fetchall() == [(1,)]
    assert db.execute("SELECT id, agent_id FROM token_usage_detailed(1)").fetchall() == [(b"\x01", "x")]


def test_a_derived_table_goes(db, tmp_path):
    """What the first statement of a report reads is not there any more, and comes back with other contents."""
    other = connect(tmp_path / "ledger.db")
    objects = other.execute("SELECT type, name, sql FROM sqlite_master WHERE name LIKE 'token_usage_rollup%' AND sql IS NOT NULL"
                            " ORDER BY type = 'trigger' DESC").fetchall()
    for _ in range(2):
        assert all_time(db) == (2000, 200.0)
        assert db.execute("SELECT token_usage_detailed_count(1)").fetchone() == (2000,)
        for kind, name, _ in objects:
            other.execute(f"DROP {kind} {name}")
        other.execute("INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, cost_usd, created_at)"
                      " VALUES (1, 'a', 'p', 'm', 5, '2025-01-01 10:00:00')")
        for _ in range(2):
            assert all_time(db) == (2001, 205.0)
            assert db.execute("SELECT token_usage_detailed_count(1)").fetchone() == (2001,)
        other.execute("DELETE FROM token_usage WHERE cost_usd = 5")
        for _, _, sql in reversed(objects):
            other.execute(sql)
    other.close()


def test_a_sum_that_overflows(db):
    """An error of a row is the error of the report, each time, and what is known is as good as before."""
    db.execute("INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, prompt_tokens, total_tokens, created_at)"
               " SELECT 8, 'a', 'p', 'm', 9223372036854775807, 9223372036854775807, '2025-01-01 10:00:00' FROM (VALUES (1), (2))")
    for _ in range(3):
        with pytest.raises(sqlite3.OperationalError, match="prompt_tokens"):
            all_time(db, 8)
        assert all_time(db) == (2000, 200.0)
    db.execute("DELETE FROM token_usage WHERE user_id = 8")
    assert all_time(db, 8)[0] == 0


def test_one_report_within_another(db):
    """Both need the same statements at the same time."""
    rows = db.execute("SELECT d.id, t.requests_count FROM token_usage_detailed(1, 3) AS d,"
                      " token_usage_totals(length(d.agent_id) - 5, 'all') AS t").fetchall()
    assert rows == [(2000, 2000), (1999, 2000), (1998, 2000)]


def test_the_first_number(db):
    """What a statement finds out of a user is not remembered: times of text so far, then one that is a number, then one
    that stands in the index far from its time."""
    db.execute("DELETE FROM token_usage")
    row = "INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, created_at) VALUES (7, 'a', 'p', 'm', ?)"
    texts = [f"2025-01-02 10:0{minute}:00" for minute in range(5)]
    for i, at in enumerate(texts + [1735700000, 1735700000000, 1735700000.25, "2025-01-02 08:30:00+00:00",
                                    "2025-01-02 08:30:00-03:00"], 1):
        db.execute(row, (at,))
        newest = Ledger(db, 7).page(2, 0, None, None, None)
        for _ in range(2):
            assert all_time(db, 7)[0] == i
            assert [row[:2] for row in newest] == db.execute(
                "SELECT id, created_at FROM token_usage_detailed(7, 2)").fetchall()
            assert db.execute("SELECT token_usage_detailed_count(7)").fetchone() == (i,)
            assert db.execute("SELECT count(*) FROM token_usage_detailed(7)").fetchone() == (i,)
    assert verified(db) == []


@pytest.mark.parametrize("declared, stored, asked", [
    ("INTEGER", 42, [42, 42.0, "42", " 42"]), ("TEXT", "42", [42, 42.0, "42"]), ("REAL", 42.0, [42, 42.0, "42"]),
    ("NUMERIC", 42, [42, "42.0"]), ("", 42, [42, 42.0]), ("", b"\x2a", [b"\x2a"]), ("TEXT", b"\x2a", [b"\x2a"]),
    ("REAL", 2.0**53, [2**53, str(2**53)])])
def test_users_as_asked_for(tmp_path, declared, stored, asked):
    """A user is found, rollups and odd rows included, by whatever the ledger's column takes for it."""
    db = connect(tmp_path / "users.db", LIBRARY)
    db.execute(f"CREATE TABLE token_usage (id INTEGER PRIMARY KEY, user_id {declared}, agent_id TEXT, created_at TEXT)")
    db.execute("SELECT token_usage_migrate()")
    db.executemany("INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, cost_usd, created_at)"
                   " VALUES (?, 'a', 'p', 'm', 1, ?)",
                   [(stored, f"2025-01-{1 + i // 500:02}T10:{i % 500 // 60:02}:{i % 60:02}" + (
                       "+03:00" if i % 100 == 7 else "Z")) for i in range(1000)])
    db.execute("SELECT token_usage_rebuild()")
    assert rolled(db) > 0
    for user in asked:
        assert all_time(db, user) == (1000, 1000.0), user
        assert db.execute("SELECT requests_count FROM token_usage_history(?, 2, NULL, 'UTC', '2025-01-02 12:00:00')",
                          (user,)).fetchall() == [(500,), (500,)]
        assert len(db.execute("SELECT id FROM token_usage_detailed(?, 500)", (user,)).fetchall()) == 500
    db.close()


def test_hidden_columns_show_the_arguments(db):
    given = (1, 5, 2.5e3, "x" * 40, None, b"\x00\xff")
    assert db.execute("SELECT user_id, page_limit, page_offset, agent, start_date, \"after\" IS NULL, schema"
                      " FROM token_usage_detailed(?, ?, ?, ?, ?) LIMIT 1", given[:5]).fetchall() == []
    assert db.execute("SELECT h.user_id, h.days, typeof(h.days), h.agent, h.schema FROM token_usage_history(?, ?, ?,"
                      " 'UTC', '2025-01-02') AS h LIMIT 1", ("1", 2.0, "writer")).fetchall() == [
                          ("1", 2.0, "real", "writer", None)]
    assert db.execute("SELECT for_user FROM token_usage_verify(?)", (given[5],)).fetchall() == []


def test_text_with_a_zero_byte(db):
    db.execute("UPDATE token_usage SET agent_id = 'a' || char(0) || 'b' WHERE id = 2000")
    assert db.execute("SELECT agent_id, length(CAST(agent_id AS BLOB)) FROM token_usage_detailed(1, 1)").fetchall() == [
        ("a\0b", 3)]
    assert ("a\0b",) in db.execute("SELECT agent_id FROM token_usage_by_agent(1, 36600)").fetchall()
