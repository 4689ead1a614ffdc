"""PostgreSQL native: a seal adds up in C++ (rollup_fold.cpp) where the ledger's own statement would do it in SQL. Awkward rows in every type that
a ledger may have are sealed, changed and folded; token_usage_verify() compares what is stored with the ledger."""
import random
import time

import pytest

from rollup.test_keep_pg import Session
from rollup.test_rebuild_pg import LEDGERS, ROLLUPS, fill, ledger, user  # noqa: F401

IN_C = ("IF native IS NULL OR new_flags = 0 THEN", "IF new_flags = 0 THEN")
ONCE = ("native := NULL;", "RAISE EXCEPTION 'by SQL';")


def change(session, *pairs):
    """Rewrites the ledger's own function."""
    (text,), = session("SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname = 'token_usage_rollup_work'")
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    session(text)


def sealed(session, call="SELECT token_usage_compact()"):
    for _ in range(4):
        session(call)
        session("SELECT txid_current()")
    assert session("SELECT * FROM token_usage_verify()") == []
    return [session(sql) for sql in ROLLUPS]


@pytest.mark.parametrize("ledger", LEDGERS, indirect=True)
def test_it_folds_every_kind_of_row(ledger, seed):  # noqa: F811
    rng = random.Random(seed)
    change(ledger, IN_C, ONCE)
    ledger("SET timezone = 'Asia/Kolkata'")
    ledger("SET datestyle = 'German'")
    ledger("ALTER TABLE token_usage_delta DISABLE TRIGGER token_usage_rollup_at_commit")  # by chance one of these would maintain
    fill(ledger, rng, ledger.kind, ledger.adopted)
    rollups, months = sealed(ledger)
    assert len(rollups) > 300 and len(months) > 5, "nothing was rolled"
    # Late rows, changes of what is sealed, and rows that cancel out.
    fill(ledger, rng, ledger.kind, ledger.adopted, rows=200)
    ledger("UPDATE token_usage SET cost_usd = cost_usd + 0.5, agent_id = 'a' WHERE id % 5 = 0 AND cost_usd < 1000")
    ledger(f"UPDATE token_usage SET user_id = {user(ledger.kind, 2)} WHERE id % 11 = 0")
    ledger("DELETE FROM token_usage WHERE id % 3 = 0")
    assert ledger("SELECT count(*) > 100 FROM token_usage_delta") == [(True,)]
    assert sealed(ledger) != [rollups, months]
    assert ledger("SELECT * FROM token_usage_delta WHERE sign <> 0 AND user_id IS NOT NULL") == []
    # All of a group gone: what is left of it counts for nothing.
    ledger("DELETE FROM token_usage WHERE agent_id = 'a'")
    sealed(ledger)
    assert ledger("SELECT count(*) FROM token_usage_rollup WHERE key1 = 'a' AND kind = 31 AND requests <> 0") == [(0,)]


@pytest.mark.parametrize("ledger", ["ours"], indirect=True)
def test_past_what_it_adds_up_sql_does(ledger, seed):  # noqa: F811
    fill(ledger, random.Random(seed), "bigint", None, rows=300)
    ledger("UPDATE token_usage SET cost_usd = 1e30 WHERE id % 20 = 0")
    sealed(ledger)
    assert ledger("SELECT count(*) > 1 FROM token_usage_rollup_user WHERE isfinite(sealed_until)") == [(True,)]
    assert ledger("SELECT count(*) > 0 FROM token_usage_rollup WHERE usd > 1e29") == [(True,)]
    ledger("UPDATE token_usage_rollup_user SET sealed_until = '-infinity'")
    ledger("DELETE FROM token_usage_rollup; DELETE FROM token_usage_rollup_month; DELETE FROM token_usage_delta")
    change(ledger, ONCE)
    with pytest.raises(Exception, match="by SQL"):
        ledger("SELECT token_usage_compact()")


@pytest.mark.parametrize("ledger", ["ours"], indirect=True)
def test_nobody_else_s_function_is_run(ledger, seed):  # noqa: F811
    """The ledger's function runs with its owner's rights, so the name alone must not decide what it calls."""
    ledger("DROP EXTENSION token_usage")
    for schema in ("public", "pg_temp"):
        ledger(f"CREATE FUNCTION {schema}._token_usage_rollup_fold(oid, text, timestamptz, timestamptz, timestamptz, smallint) RETURNS void "
               "LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''trapped''; END'")
    fill(ledger, random.Random(seed), "bigint", None, rows=300)
    for _ in range(4):
        ledger("SELECT token_usage_rollup_visit(n, 4096, 2) FROM generate_series(1, 9) n")
    assert ledger("SELECT count(*) > 100 FROM token_usage_rollup") == [(True,)]
    ledger("DROP FUNCTION public._token_usage_rollup_fold(oid, text, timestamptz, timestamptz, timestamptz, smallint)")
    ledger("CREATE EXTENSION token_usage")
    assert ledger("SELECT * FROM token_usage_verify()") == []


PLAIN = [name for name in LEDGERS if not any(word in name for word in ("floats", "smallints", "domains"))]
# A little later than the last row, so that it is newer than the guard and leaves no delta.
NEW = "(clock_timestamp() + interval '1 microsecond')"


def by_visits(session, kind):
    """Seals all rows of user 1 by visits as writers make them, which must find them plain: what else they would do is an error here."""
    session("CREATE OR REPLACE FUNCTION token_usage_rollup_work(usr {0}, now_epoch uuid, sealed timestamptz, until timestamptz, max_rows integer, "
            "zeal integer) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS "
            "$$BEGIN RAISE EXCEPTION 'not plain'; END$$".format({"integer": "bigint", "varchar(60)": "text"}.get(kind, kind)))
    for _ in range(100):
        time.sleep(0.01)  # the guard is raised five times a second
        session(f"SELECT token_usage_rollup_visit({user(kind, 1)}, 4096, 0)")
        if session(f"SELECT every(t.created_at < timezone('UTC', r.sealed_until)) FROM token_usage t JOIN token_usage_rollup_user r "
                   f"ON r.user_id = t.user_id WHERE t.user_id = {user(kind, 1)} AND isfinite(t.created_at)") == [(True,)]:
            return
    raise AssertionError("the rows were not sealed")


@pytest.mark.parametrize("ledger", PLAIN, indirect=True)
def test_rows_alone_are_sealed_by_the_index(ledger, seed):  # noqa: F811
    ledger("SET timezone = 'UTC'")
    fill(ledger, random.Random(seed), ledger.kind, ledger.adopted, rows=90)
    columns = "agent_id, ai_provider, ai_model, prompt_tokens, completion_tokens, total_tokens, cost_usd, cost_rub, execution_time_ms"
    ledger(f"CREATE TEMPORARY TABLE more AS SELECT id, {columns} FROM token_usage ORDER BY id LIMIT 30")
    ledger("DELETE FROM token_usage WHERE id IN (SELECT id FROM more)")
    ledger(f"UPDATE token_usage SET user_id = {user(ledger.kind, 1)}, created_at = greatest(date_trunc('month', now()), now() - interval '1 hour')")
    ledger("SELECT token_usage_rebuild()")
    assert ledger("SELECT flags & 63 FROM token_usage_rollup_month") == [(63,)]
    assert ledger("SELECT count(*) FROM token_usage_delta") == [(0,)]
    before = ledger(ROLLUPS[0])
    ledger(f"INSERT INTO token_usage (user_id, created_at, {columns}) SELECT {user(ledger.kind, 1)}, {NEW}, {columns} FROM more")
    by_visits(ledger, ledger.kind)
    made = ledger(ROLLUPS[0])
    assert made != before
    assert ledger("SELECT * FROM token_usage_verify()") == []
    ledger("SELECT token_usage_rebuild()")
    assert ledger(ROLLUPS[0]) == made


@pytest.mark.parametrize("ledger", PLAIN, indirect=True)
def test_writers_alone_roll_a_user(ledger):  # noqa: F811
    """Nothing but new rows, one by one: they are met, rolled and sealed, and no row falls between two seals."""
    ledger("SET timezone = 'UTC'")
    row = (f"INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, prompt_tokens, completion_tokens, total_tokens, created_at) "
           f"VALUES ({user(ledger.kind, 1)}, 'a', 'p', 'm', 1, 0, 1, clock_timestamp())")
    sealed_times = set()
    for _ in range(400):
        ledger(row)
        sealed_times.update(ledger("SELECT sealed_until FROM token_usage_rollup_user WHERE isfinite(sealed_until)"))
        assert ledger(f"SELECT requests_count FROM token_usage_totals({user(ledger.kind, 1)}, 'all')") == \
            ledger("SELECT count(*) FROM token_usage")
    assert len(sealed_times) > 5
    assert ledger("SELECT sum(requests) > 200 FROM token_usage_rollup WHERE kind = 30") == [(True,)]
    assert ledger("SELECT * FROM token_usage_verify()") == []


@pytest.mark.parametrize("ledger", ["ours"], indirect=True)
def test_what_the_index_cannot_add_up_fails_no_writer(ledger):  # noqa: F811
    ledger("SET timezone = 'UTC'")
    row = "INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, prompt_tokens, total_tokens, created_at) SELECT 1, 'a', 'p', 'm', {0}, {0}, {1}"
    ledger(row.format(1, "greatest(date_trunc('month', now()), now() - interval '1 hour') FROM generate_series(1, 60)"))
    ledger("SELECT token_usage_rebuild()")
    for _ in range(40):
        ledger(row.format(2**61, NEW))
    for _ in range(20):
        ledger("SELECT token_usage_rollup_visit(1, 4096, 0)")
    with pytest.raises(Exception, match="prompt_tokens"):
        ledger("SELECT * FROM token_usage_totals(1, 'all')")
    ledger("DELETE FROM token_usage WHERE prompt_tokens > 1")
    assert ledger("SELECT requests_count FROM token_usage_totals(1, 'all')") == [(60,)]
    sealed(ledger)


def test_a_visit_reads_what_the_caller_may_read(native):
    """It reads without a query, so it asks for the rights that one would need, of the ledger and of what is derived from it."""
    database = native.database()
    owner = Session(native.server, database.name)
    name = f"nobody_{database.name}"
    native.superuser(f"CREATE ROLE {name} LOGIN")
    nobody = Session(native.server, database.name, name)
    row = "INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model) SELECT 1, 'a', 'p', 'm' FROM generate_series(1, {})"
    owner(row.format(100))
    owner("SELECT token_usage_rollup_begin()")
    call = "SELECT _token_usage_rollup_visit('token_usage'::regclass, '1', 4096, 128, 64, 256, now() - interval '0.1 seconds')"
    assert owner(call) == [(0,)]
    assert nobody(call) == [(None,)]
    owner(f"GRANT SELECT ON token_usage TO {name}")
    assert nobody(call) == [(None,)]
    derived = ("token_usage_rollup_epoch", "token_usage_rollup_state", "token_usage_rollup_user", "token_usage_delta")
    for table in derived[1:]:
        owner(f"GRANT SELECT ON {table} TO {name}")
    assert nobody(call) == [(None,)]
    owner(f"GRANT SELECT ON {derived[0]} TO {name}")
    assert nobody(call) == [(0,)]
    owner("ALTER TABLE token_usage ENABLE ROW LEVEL SECURITY")
    assert nobody(call) == [(None,)]
    owner("ALTER TABLE token_usage DISABLE ROW LEVEL SECURITY")
    # There is something to do, which is not for everybody to do.
    owner("SELECT token_usage_rebuild()")
    owner(row.format(200))
    time.sleep(0.3)
    with pytest.raises(Exception, match="permission denied for function token_usage_rollup_(confirm|hold)"):
        nobody(call)
    nobody("BEGIN ISOLATION LEVEL REPEATABLE READ")
    assert nobody(call) == [(None,)]
    nobody("ROLLBACK")
    nobody.close()
    owner.close()
    database.close()


@pytest.mark.parametrize("ledger", ["ours"], indirect=True)
def test_a_visit_leaves_tables_of_other_types_to_queries(ledger):  # noqa: F811
    """Whoever makes tables of these names has them read as what they are: anybody may call the function for a ledger of his own."""
    ledger("INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model) SELECT 1, 'a', 'p', 'm' FROM generate_series(1, 300)")
    ledger("SELECT token_usage_rebuild()")
    ledger("INSERT INTO token_usage_delta (user_id, sign, turn) VALUES (1, 0, 1)")
    call = "SELECT _token_usage_rollup_visit('token_usage'::regclass, '1', 4096, 128, 64, 256, now() - interval '1 day')"
    assert ledger(call) == [(0,)]
    for table, column, type in (("rollup_epoch", "epoch", "bigint"), ("rollup_epoch", "ledger", "text"), ("rollup_epoch", "stamp", "bigint"),
                                ("rollup_state", "epoch", "bigint"), ("rollup_state", "confirmed", "text"), ("rollup_user", "epoch", "bigint"),
                                ("rollup_user", "sealed_until", "text"), ("rollup_user", "user_id", "numeric"), ("delta", "user_id", "numeric"),
                                ("delta", "sign", "text")):
        ledger("BEGIN")
        ledger(f"ALTER TABLE token_usage_{table} ALTER {column} TYPE {type} USING '1'")
        assert ledger(call) == [(None,)], (table, column)
        ledger("ROLLBACK")
    for change in ("CREATE TABLE child () INHERITS (token_usage_delta)", "ALTER TABLE token_usage_rollup_state DROP horizon",
                   "ALTER TABLE token_usage_rollup_user ALTER sealed_until DROP NOT NULL; UPDATE token_usage_rollup_user SET sealed_until = NULL"):
        ledger("BEGIN")
        ledger(change)
        assert ledger(call) == [(None,)], change
        ledger("ROLLBACK")
    assert ledger(call) == [(0,)]


def test_it_runs_with_the_caller_s_rights(native):
    database = native.database()
    name = f"nobody_{database.name}"
    native.superuser(f"CREATE ROLE {name} LOGIN")
    nobody = Session(native.server, database.name, name)
    with pytest.raises(Exception, match="permission denied for table token_usage"):
        nobody("SELECT _token_usage_rollup_fold('token_usage'::regclass, '1', '2026-01-01Z', '2026-01-01Z', '2026-02-01Z', 1::int2)")
    nobody.close()
    database.close()
