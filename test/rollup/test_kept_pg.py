"""PostgreSQL portable: the functions that are made for a ledger so that their plans are kept (pg_ext/kept_portable.sql).

Which way a report goes is seen by a trap: the owner puts an error in place of the function's queries. Whoever is to run them meets
the error, whoever is not to gets an answer, and that must be the ledger's."""
import contextlib
import subprocess

import pytest

from rollup.ledger import by_hand, by_rollup
from rollup.test_concurrent_pg import insert
from rollup.test_keep_pg import PARTS, Session, fill, other, place, right, role  # noqa: F401 (place is a fixture)
from support import editions, paths

KINDS = {"sums": "SELECT * FROM token_usage_by_agent(1, 60)", "page": "SELECT * FROM token_usage_detailed(1, 5)"}

READ = "SELECT sum(idx_tup_fetch) + sum(seq_tup_read) FROM pg_stat_xact_user_tables WHERE relname = 'token_usage'"


@pytest.fixture
def pg(portable):
    return portable


def kept(session, schema="public"):
    """kind -> function, as the comment of each tells its ledger."""
    return {name.split("_")[4]: name for name, in session(
        "SELECT p.proname::text FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace AND p.proname ~ '_kept_[a-z]+_([0-9a-f]{32}|home)$' "
        "AND strpos(obj_description(p.oid, 'pg_proc'), %s) > 0", (f", for {schema} ",))}


def trap(session, name, schema="public", at_once=False):
    """Puts the error behind what the function begins with, which is to see whether it still fits; or before that."""
    (text,), = session("SELECT pg_get_functiondef(p.oid) FROM pg_proc p WHERE p.proname = %s AND p.pronamespace = %s::regnamespace",
                       (name, schema))
    here = text.index("BEGIN") + len("BEGIN")
    if not at_once:
        here = text.index("END IF;", text.index("IS NOT TRUE THEN")) + len("END IF;")
    session(f"{text[:here]} RAISE EXCEPTION 'trapped'; {text[here:]}")


def called(session, sql):
    """Whether a report ran into a trap."""
    import psycopg2
    try:
        session(sql)
        return False
    except psycopg2.errors.RaiseException as error:
        assert "trapped" in str(error)
        return True


def migrate(session, schema):
    """Makes a ledger in a schema other than that of the functions, and puts it first in the session's path."""
    session(f"SET search_path = {schema}")
    session("SELECT public.token_usage_migrate()")
    session(f"SET search_path = {schema}, public")


@contextlib.contextmanager
def trapped(session, schema="public"):
    """With traps in the ledger's functions, which migrate takes away again."""
    functions = kept(session, schema)
    assert set(functions) == set(KINDS)
    for name in functions.values():
        trap(session, name)
    yield
    session("SELECT token_usage_migrate()")


def pages(session):
    """The pages of a user, by size, by cursor and by agent, against the ledger."""
    for agent in (None, "agent 1"):
        want = session("SELECT id FROM token_usage WHERE user_id = 1 AND (%s::text IS NULL OR agent_id = %s) ORDER BY created_at DESC, id DESC",
                       (agent, agent))
        have, cursor = [], None
        while cursor is not None or not have:
            page = session("SELECT id, cursor FROM token_usage_detailed(1, 70, 0, %s, NULL, NULL, %s)", (agent, cursor))
            have += [(r[0],) for r in page]
            cursor = page[-1][1] if page else None
        assert have == want


def test_reports_use_them(place):
    right(place)
    pages(place)
    with trapped(place):
        for sql in KINDS.values():
            assert called(place, sql)
        assert called(place, "SELECT * FROM token_usage_summary(1)") and called(place, "SELECT token_usage_detailed_count(1)")
        # What depends on the dates is planned for each call.
        assert place("SELECT count(*) FROM token_usage_detailed(1, 5, 0, NULL, now() - interval '1 year')") == [(5,)]
    right(place)
    pages(place)


@pytest.mark.parametrize("change", (
    "ALTER COLUMN cost_usd TYPE double precision", "ALTER COLUMN prompt_tokens TYPE integer", "ALTER COLUMN prompt_tokens DROP NOT NULL",
    "ALTER COLUMN cost_rub TYPE real", "ALTER COLUMN agent_id TYPE varchar(40)", "ALTER COLUMN platform TYPE whole",
    "ALTER COLUMN agent_id TYPE text COLLATE same", "ADD COLUMN note text, DROP COLUMN endpoint", "SET UNLOGGED"))
def test_a_changed_column(place, change):
    """From the next call on, in the same session, no text is used that was made for other columns."""
    import psycopg2
    place("CREATE DOMAIN whole AS text")
    place("CREATE COLLATION same (provider = icu, locale = 'und', deterministic = false)")
    right(place)
    with trapped(place):
        assert called(place, KINDS["sums"])
        place(f"ALTER TABLE token_usage {change}")
        if "endpoint" in change:
            with pytest.raises(psycopg2.errors.UndefinedColumn, match="has no column endpoint"):
                place(KINDS["page"])
        else:
            right(place)
            pages(place)
    right(place)
    pages(place)
    # Made anew where the server's own types allow it; and not at all for sums that cannot be rolled.
    made = set() if "whole" in change or "same" in change else {"page"} if "real" in change or "UNLOGGED" in change else {"sums", "page"}
    assert set(kept(place)) == made


def test_another_users_functions_are_never_called(place):
    """A superuser asks for a report on the ledger of a role that would have him run its code."""
    foe = role(place, "foe", "GRANT CREATE ON SCHEMA public TO {0}; CREATE SCHEMA theirs AUTHORIZATION {0}")
    root = other(place, "postgres")
    migrate(foe, "theirs")
    root("SET search_path = theirs, public")
    insert(foe, 200, "now() - i * interval '5 hours'")
    foe("SELECT token_usage_rebuild()")
    # The functions here are app's. Who may not make more in app's name makes none, and has his reports all the same.
    assert kept(foe, "theirs") == {}
    right(foe)
    pages(foe)
    names = {kind: foe(f"SELECT _token_usage_kept_name('{kind}', 'theirs')::text")[0][0] for kind in KINDS}
    (comment,), = foe("SELECT _token_usage_kept_comment('theirs.token_usage'::regclass, 'theirs', 'p')")
    for schema in ("public", "theirs"):
        for kind, name in names.items():
            (text,), = foe("SELECT pg_get_functiondef(%s::regproc)", (f"public.{kept(place)[kind]}",))
            text = text.replace(kept(place)[kind], name).replace("FUNCTION public.", f"FUNCTION {schema}.")
            foe(text)
            foe(f"DO $$ BEGIN EXECUTE format('COMMENT ON FUNCTION {schema}.{name} IS %L', $c${comment}$c$); END $$")
            trap(foe, name, schema, at_once=True)
    want = foe("SELECT * FROM token_usage_summary(1)")
    for session in (root, foe):
        assert session("SELECT * FROM token_usage_summary(1)") == want
        right(session)
        pages(session)
    # Nor is one replaced, or in the way of a migration.
    root("SELECT token_usage_migrate()")
    right(root)
    for kind, name in names.items():
        foe(f"DROP FUNCTION public.{name}")
    root("SELECT token_usage_migrate()")
    assert kept(root, "theirs") == names
    assert root("SELECT DISTINCT proowner::regrole::text FROM pg_proc WHERE proname = ANY (%s) AND pronamespace = 'public'::regnamespace",
                (list(names.values()),)) == [("app",)]
    right(root)
    pages(root)
    for name in names.values():
        trap(root, name)
    for session in (root, foe):
        assert called(session, KINDS["sums"]) and called(session, KINDS["page"])
    for session in (foe, root):
        session.close()


def test_two_ledgers(place):
    """Each has its own; a new version of the file makes both anew, and migrate drops those of a ledger that is gone."""
    place("CREATE SCHEMA second")
    migrate(place, "second")
    insert(place, 30, "now() - i * interval '5 hours'")
    first = other(place, "app")
    for _ in range(2):
        right(place)
        right(first)
        pages(place)
        pages(first)
        assert place("SELECT token_usage_detailed_count(1)") == [(30,)]
        assert first("SELECT token_usage_detailed_count(1)") == first("SELECT count(*) FROM public.token_usage WHERE user_id = 1")
        assert set(kept(place, "second")) == set(kept(place)) == set(KINDS)
        first(paths.PORTABLE_SQL.read_text())
    with trapped(place, "second"):
        assert called(place, KINDS["sums"]) and not called(first, KINDS["sums"])
    place("DROP SCHEMA second CASCADE")
    first("SELECT token_usage_migrate()")
    assert kept(first, "second") == {} and set(kept(first)) == set(KINDS)
    first.close()


def test_dump_and_restore(place):
    target = place.pg.database(install=False)
    want = place(KINDS["sums"]), place(KINDS["page"])
    server, url = place.pg.server, place.pg.server.url
    dump = f"{editions.scratch_folder()}/dump.sql"
    for argv in ([server.bin / "pg_dump", "-f", dump, "-d", url(place.name, "app")],
                 ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", url(target.name, "app"), "-f", dump]):
        done = subprocess.run([str(a) for a in argv], env=server.environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    session = Session(server, target.name)
    assert kept(session) == kept(place)
    assert (session(KINDS["sums"]), session(KINDS["page"])) == want
    right(session)
    pages(session)
    with trapped(session):
        assert called(session, KINDS["sums"]) and called(session, KINDS["page"])
    session("CREATE EXTENSION token_usage")
    assert kept(session) == {}
    right(session)
    pages(session)
    session.close()
    target.close()


def test_rights(place):
    """What a caller may not read, or run, holds from the next call on, also for a plan that is kept."""
    reader = role(place, "reader", "GRANT SELECT ON token_usage TO {}", f"GRANT SELECT ON {PARTS} TO {{}}")
    name = reader.connection.info.user
    want = {kind: reader(sql) for kind, sql in KINDS.items()}
    assert len(want["page"]) == 5
    place("ALTER TABLE token_usage ENABLE ROW LEVEL SECURITY")
    assert [reader(sql) for sql in KINDS.values()] == [[], []]
    # A policy may look for what it needs on the caller's path.
    place("CREATE TABLE permits AS SELECT 'agent 1'::text AS agent")
    place(f"GRANT SELECT ON permits TO {name}")
    place("CREATE FUNCTION permitted(text) RETURNS boolean LANGUAGE plpgsql STABLE AS 'BEGIN RETURN EXISTS (SELECT FROM permits WHERE agent = $1); END'")
    place(f"CREATE POLICY theirs ON token_usage TO {name} USING (permitted(agent_id))")
    assert {r[0] for r in reader(KINDS["sums"])} == {"agent 1"} == {r[2] for r in reader(KINDS["page"])}
    assert {kind: place(sql) for kind, sql in KINDS.items()} == want
    place("ALTER TABLE token_usage DISABLE ROW LEVEL SECURITY")
    assert {kind: reader(sql) for kind, sql in KINDS.items()} == want
    with trapped(place):
        assert called(reader, KINDS["sums"]) and called(reader, KINDS["page"])
        for function in kept(place).values():
            place(f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC")
        assert {kind: reader(sql) for kind, sql in KINDS.items()} == want
    place(f"REVOKE SELECT ON token_usage FROM {name}")
    for sql in KINDS.values():
        with pytest.raises(Exception, match="permission denied for table token_usage"):
            reader(sql)
    place(f"GRANT SELECT ON token_usage TO {name}")
    assert {kind: reader(sql) for kind, sql in KINDS.items()} == want
    reader.close()


def test_an_unused_ledger_that_grows(place):
    """The plan of an empty ledger goes on being good when it is filled, and a page by cursor reads no rows of other users."""
    place("ALTER TABLE token_usage SET (autovacuum_enabled = false)")  # it might count the rows while they come, and find none
    place("TRUNCATE token_usage")
    place("VACUUM ANALYZE token_usage")
    for sql in KINDS.values():
        assert place(sql) == []
    insert(place, 40000, "now() - i * interval '1 minute'", user="i % 400")
    cursor = place("SELECT cursor FROM token_usage_detailed(1, 1, 20)")[0][0]
    for analyzed in (False, True):
        if analyzed:
            place("ANALYZE token_usage")
        for sql in ("SELECT count(*) FROM token_usage_detailed(1, 10)", f"SELECT count(*) FROM token_usage_detailed(1, 10, 0, NULL, NULL, NULL, '{cursor}')",
                    "SELECT requests_count FROM token_usage_totals(1, 'all')"):
            place("BEGIN")
            before = place(READ)[0][0]
            (rows,), = place(sql)
            read = place(READ)[0][0] - before
            place("COMMIT")
            assert rows in (10, 100) and read <= 2 * rows + 2, (sql, analyzed, rows, read)


def test_few_rows_are_read_without_the_rollups(place):
    """Below 64 rows between the bounds nobody asks what is rolled, so who may not read that has the same plans; from 64 on it is asked."""
    reader = role(place, "reader", "GRANT SELECT ON token_usage TO {}")
    asked = "SELECT seq_scan, idx_scan FROM pg_stat_xact_all_tables WHERE relname = 'token_usage_rollup_user'"
    place("ALTER TABLE token_usage SET (autovacuum_enabled = false)")
    place("TRUNCATE token_usage")
    insert(place, 63, "now() - i * interval '1 hour'")
    insert(place, 1000, "now() - i * interval '1 minute'", user=2)
    assert place("SELECT token_usage_rebuild()")[0][0] > 0
    for analyzed, more, asks in ((False, 0, True), (True, 0, False), (True, 1, True)):
        insert(place, more, "now() - i * interval '1 hour'")
        if analyzed:  # in an autovacuum's time; a ledger that nobody has counted may be empty
            place("ANALYZE token_usage")
        for session, counts in ((place, asks), (reader, False)):
            for sql in ("SELECT sum(requests_count) FROM token_usage_by_agent(1, 60)", "SELECT requests_count FROM token_usage_totals(1, 'all')",
                        "SELECT token_usage_detailed_count(1)"):
                session("BEGIN")
                before = session(asked)
                assert session(sql) == [(63 + more,)]
                assert (session(asked) != before) == counts, (sql, analyzed, more)
                session("COMMIT")
        right(place)
    reader.close()


def test_many_rows_of_whom_nothing_is_rolled(place):
    """They are read as the planner thinks best, with the caller's own settings."""
    place("TRUNCATE token_usage")
    insert(place, 600, "now() - i * interval '1 minute'")
    place("DELETE FROM token_usage_rollup_epoch")
    place("ANALYZE token_usage")
    for setting, whole in (("on", True), ("off", False)):
        place(f"SET enable_seqscan = {setting}")
        place("BEGIN")
        before = place("SELECT seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = 'token_usage'")[0][0]
        assert place("SELECT requests_count FROM token_usage_totals(1, 'all')") == [(600,)]
        assert (place("SELECT seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = 'token_usage'")[0][0] > before) == whole
        place("COMMIT")
