"""Rule 7: reports see what the reading transaction sees, after any sequence of writes."""
import random

import pytest

import oracle as orc
from harness import Case, load, random_rows, row
from support.editions import DatabaseError

AT = "2025-10-20 10:00:00"
AS_OF = orc.instant("2025-10-20 12:00:00")
INSERT = ("INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, request_id, "
          "total_tokens, prompt_tokens, created_at) VALUES ")


def requests(database):
    return database.query("SELECT requests_count FROM token_usage_totals(42, 'all', NULL, 'UTC', "
                          "'2025-10-20T12:00:00Z')").rows[0][0]


def values(*request_ids):
    return ", ".join(f"(42, 'a', 'p', 'm', '{r}', 3, 3, '2025-10-20 10:00:00')"
                     for r in request_ids)


def test_own_uncommitted_rows_are_seen(database):
    database.query("BEGIN")
    database.query(INSERT + values("r1", "r2"))
    assert requests(database) == 2
    database.query("SAVEPOINT s")
    database.query(INSERT + values("r3"))
    assert requests(database) == 3
    database.query("ROLLBACK TO SAVEPOINT s")
    assert requests(database) == 2
    database.query("ROLLBACK")
    assert requests(database) == 0


def test_rows_of_other_sessions_are_seen_when_committed(edition):
    database = edition.database(file=True)
    other = database.another()
    try:
        if database.dialect == "sqlite":
            database.query("PRAGMA journal_mode=WAL")
        other.query("BEGIN")
        other.query(INSERT + values("r1"))
        assert (requests(database), requests(other)) == (0, 1)
        other.query("COMMIT")
        assert requests(database) == 1
    finally:
        other.close()
        database.close()


def test_a_reading_transaction_keeps_its_snapshot(edition):
    database = edition.database(file=True)
    other = database.another()
    try:
        if database.dialect == "sqlite":
            database.query("PRAGMA journal_mode=WAL")
            database.query("BEGIN")
        else:
            database.query("BEGIN ISOLATION LEVEL REPEATABLE READ")
        assert requests(database) == 0
        other.query(INSERT + values("r1"))
        assert requests(database) == 0
        database.query("COMMIT")
        assert requests(database) == 1
    finally:
        other.close()
        database.close()


def test_a_failed_statement_leaves_no_trace(database):
    database.query(INSERT + values("r1"))
    with pytest.raises(DatabaseError):
        database.query(INSERT + values("r2", "r1"))
    assert requests(database) == 1


def test_random_writes_equal_a_fresh_aggregation(database, seed):
    """INSERT, multi-row INSERT, UPSERT, OR REPLACE/IGNORE, UPDATE of any column, DELETE; after
    each, the reports equal what the ledger's rows add up to."""
    rng = random.Random(f"{seed}/writes")
    base = orc.instant(AT)
    rows = {r.id: r for r in random_rows(rng, 60, base)}
    load(database, list(rows.values()), rng)
    fresh = 1000
    for _ in range(40):
        what = rng.randrange(6)
        if what == 0 or not rows:
            made = [row(fresh + i, base + rng.randrange(-10**11, 10**10), prompt_tokens=i)
                    for i in range(rng.choice((1, 5)))]
            fresh += 10
            load(database, made, rng)
            rows.update((r.id, r) for r in made)
        elif what == 1:
            victim = rng.choice(list(rows))
            database.query(f"DELETE FROM token_usage WHERE id = {victim}")
            del rows[victim]
        elif what == 2:
            victim = rng.choice(list(rows.values()))
            victim.user_id = rng.choice((42, 7))
            victim.agent_id = rng.choice(("moved", "writer"))
            victim.created_at = base + rng.randrange(-10**11, 10**10)
            database.query(f"UPDATE token_usage SET user_id = {victim.user_id}, agent_id = "
                           f"'{victim.agent_id}', created_at = '{orc.iso(victim.created_at)}' "
                           f"WHERE id = {victim.id}")
        elif what == 3:
            victim = rng.choice(list(rows.values()))
            victim.cost_usd = None
            database.query(f"UPDATE token_usage SET cost_usd = NULL WHERE id = {victim.id}")
        elif what == 4:
            victim = rng.choice(list(rows.values()))
            victim.prompt_tokens, victim.completion_tokens, victim.total_tokens = 5, 6, 11
            victim.user_id = 42
            overriding = "OVERRIDING SYSTEM VALUE " if database.dialect == "pg" else ""
            database.query(
                "INSERT INTO token_usage (id, user_id, agent_id, ai_provider, ai_model, "
                f"prompt_tokens, completion_tokens, total_tokens) {overriding}VALUES ({victim.id}, "
                "42, 'a', 'p', 'm', 5, 6, 11) ON CONFLICT (id) DO UPDATE SET user_id = "
                "excluded.user_id, prompt_tokens = excluded.prompt_tokens, completion_tokens = "
                "excluded.completion_tokens, total_tokens = excluded.total_tokens")
        elif database.dialect == "sqlite":
            victim = rng.choice(list(rows))
            made = row(victim, base, user_id=42, request_id=f"again-{fresh}")
            fresh += 1
            database.query(
                "INSERT OR REPLACE INTO token_usage (id, user_id, agent_id, ai_provider, ai_model, "
                "prompt_tokens, completion_tokens, total_tokens, cost_usd, cost_rub, "
                "execution_time_ms, request_id, created_at) VALUES (?, 42, 'writer', 'openai', "
                "'gpt-4o', 10, 5, 15, 0.01, 0.95, 100, ?, '2025-10-20 10:00:00')",
                (victim, made.request_id))
            rows[victim] = made
        case = Case(database, list(rows.values()))
        case.every_report(rng.choice((42, 7)), "Europe/Moscow", AS_OF, days=7,
                          bodies=rng.random() < 0.3)


def test_reports_work_on_a_read_only_database(edition):
    database = edition.database(file=True)
    try:
        rows = [row(i, AT) for i in range(1, 6)]
        load(database, rows)
        if database.dialect == "sqlite":
            database.query("PRAGMA query_only = ON")
        else:
            database.query("SET default_transaction_read_only = on")
        case = Case(database, rows)
        case.every_report(42, "Europe/Moscow", AS_OF, days=7)
        case.report("detailed", 42)
        case.body("detailed_json", 42)
        assert database.query("SELECT token_usage_setting('time_zone')").rows == [("UTC",)]
    finally:
        database.close()


def test_a_copied_table_and_truncate(pg):
    database = pg.database()
    try:
        load(database, [row(i, AT) for i in range(101, 106)])
        import io
        with database.connection.cursor() as cursor:
            cursor.copy_expert("COPY token_usage (user_id, agent_id, ai_provider, ai_model, "
                               "created_at) FROM STDIN",
                               io.StringIO("42\ta\tp\tm\t2025-10-20 10:00:00\n" * 3))
        assert requests(database) == 8
        database.query("TRUNCATE token_usage")
        assert requests(database) == 0
    finally:
        database.close()


def test_deleting_a_user_takes_the_rows_along(edition):
    database = edition.database(migrate=False)
    try:
        if database.dialect == "sqlite":
            database.query("PRAGMA foreign_keys = ON")
        database.query("CREATE TABLE users (id "
                       + ("bigint" if database.dialect == "pg" else "INTEGER") + " PRIMARY KEY)")
        database.query("SELECT token_usage_migrate()")
        database.query("INSERT INTO users VALUES (42), (7)")
        rows = [row(1, AT), row(2, AT, user_id=7)]
        load(database, rows)
        assert requests(database) == 1
        with pytest.raises(DatabaseError):
            database.query("INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model) "
                           "VALUES (99, 'a', 'p', 'm')")
        database.query("DELETE FROM users WHERE id = 42")
        assert requests(database) == 0
        assert database.query("SELECT count(*) FROM token_usage").rows == [(1,)]
    finally:
        database.close()


def test_attached_databases_on_sqlite(sqlite):
    """The hidden last argument `schema`; a temporary table does not stand in the way."""
    database = sqlite.database(file=True)
    try:
        load(database, [row(1, AT)])
        database.query("ATTACH ':memory:' AS billing")
        database.query("SELECT token_usage_migrate('bigint', 'billing')")
        database.query("INSERT INTO billing.token_usage SELECT * FROM main.token_usage")
        database.query("UPDATE billing.token_usage SET total_tokens = 100, prompt_tokens = 95")
        database.query("CREATE TEMP TABLE token_usage (user_id, total_tokens)")
        at = "'UTC', '2025-10-20T12:00:00Z'"
        for schema, total in (("", 15), (", 'billing'", 100), (", 'main'", 15)):
            assert database.query(
                f"SELECT total_tokens FROM token_usage_totals(42, 'all', NULL, {at}{schema})").rows \
                == [(total,)]
            assert f'"total_tokens":{total},' in database.query(
                f"SELECT token_usage_totals_json(42, 'all', NULL, {at}{schema})"
            ).rows[0][0].replace(" ", "")
        with pytest.raises(DatabaseError):
            database.query(f"SELECT * FROM token_usage_totals(42, 'all', NULL, {at}, 'nowhere')")
    finally:
        database.close()
