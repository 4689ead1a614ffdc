"""PostgreSQL: rollups and rights. Row security of every kind with the plans of earlier roles in the session, columns, what the
functions with the owner's rights may be led to do, and names that another role took before migrate came."""
import re

import psycopg2
import pytest

from rollup.test_concurrent_pg import insert
from rollup.test_keep_pg import PARTS, Session, clean, fill, used

REPORTS = ("token_usage_summary({u})", "token_usage_history({u}, 90)", "token_usage_by_agent({u}, 90)", "token_usage_by_model({u}, 90)",
           "token_usage_by_provider({u}, 90)", "token_usage_totals({u}, 'all')", "token_usage_totals({u}, 'year', 'agent 1')",
           "token_usage_detailed({u})", "token_usage_summary_json({u})", "token_usage_by_agent_json({u}, 90)", "token_usage_totals_json({u}, 'all')")


@pytest.fixture
def place(pg):
    database = pg.database()
    session = Session(pg.server, database.name)
    fill(session)
    session.pg, session.name = pg, database.name
    session.roles = []
    yield session
    session.close()
    database.close()


def role(place, name, *grants):
    """A session of a new role; {} in grants is its name."""
    name = f"{name}_{place.name}"
    place.pg.superuser(f"CREATE ROLE {name} LOGIN", f"GRANT USAGE ON SCHEMA public TO {name}", *(g.format(name) for g in grants), database=place.name)
    return Session(place.pg.server, place.name, name)


def test_row_security_of_one_user_s_rows(place):
    """A tenant sees the rows of the user whose name his session carries, through each report and whatever was asked before."""
    tenant = role(place, "tenant", "GRANT SELECT ON token_usage TO {}", f"GRANT SELECT ON {PARTS} TO {{}}", "GRANT {} TO app")
    everything = {r: place(f"SELECT * FROM {r.format(u=1)}") for r in REPORTS}
    for report, rows in everything.items():  # plans are made, and kept, before the policy is there
        assert tenant(f"SELECT * FROM {report.format(u=1)}") == rows
    place("CREATE POLICY own ON token_usage FOR SELECT USING (user_id = current_setting('app.who', true)::bigint)")
    place("ALTER TABLE token_usage ENABLE ROW LEVEL SECURITY")
    none = {r: place(f"SELECT * FROM {r.format(u=987654)}") for r in REPORTS}
    name = tenant.connection.info.user
    for own, other in ((1, 2), (2, 1)):
        tenant(f"SET app.who = '{own}'")
        for report in REPORTS:
            assert tenant(f"SELECT * FROM {report.format(u=own)}") == place(f"SELECT * FROM {report.format(u=own)}")
            assert tenant(f"SELECT * FROM {report.format(u=other)}") == none[report], report
            # The owner becomes the tenant and himself again, in one session with its plans.
            place(f"SET app.who = '{own}'")
            place(f"SET ROLE {name}")
            assert place(f"SELECT * FROM {report.format(u=other)}") == none[report], report
            place("RESET ROLE")
            assert place(f"SELECT * FROM {report.format(u=other)}") != none[report]
        assert tenant("SELECT * FROM token_usage_verify()") == []
    tenant.close()


def test_forced_row_security_holds_for_the_owner(place):
    before = place("SELECT * FROM token_usage_by_agent(1, 90)")
    place("CREATE POLICY own ON token_usage USING (agent_id = 'agent 2')")
    place("ALTER TABLE token_usage ENABLE ROW LEVEL SECURITY")
    assert place("SELECT * FROM token_usage_by_agent(1, 90)") == before
    place("ALTER TABLE token_usage FORCE ROW LEVEL SECURITY")
    assert [r[0] for r in place("SELECT * FROM token_usage_by_agent(1, 90)")] == ["agent 2"]
    assert place("SELECT token_usage_compact()") == [(0,)]  # what sees some rows only must not fold
    with pytest.raises(psycopg2.Error, match="row security"):
        place("SELECT token_usage_rebuild()")
    writer = role(place, "writer", "GRANT INSERT, SELECT ON token_usage TO {}")
    place("CREATE POLICY any_write ON token_usage FOR INSERT WITH CHECK (true)")
    for when in ("now()", "now() - i * interval '9 hours'"):
        insert(writer, 30, when)
    place("ALTER TABLE token_usage NO FORCE ROW LEVEL SECURITY")
    place("ALTER TABLE token_usage DISABLE ROW LEVEL SECURITY")
    clean(place)
    writer.close()


def test_columns_and_derived_tables(place):
    """SELECT on the derived tables alone, or on some columns of the ledger, is not enough for any report."""
    for name, grants in (("derived", (f"GRANT SELECT ON {PARTS} TO {{}}",)),
                         ("columns", (f"GRANT SELECT ON {PARTS} TO {{}}", "GRANT SELECT (id, user_id, created_at, agent_id) ON token_usage TO {}")),
                         ("nothing", ())):
        session = role(place, name, *grants)
        for report in REPORTS:
            with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                session(f"SELECT * FROM {report.format(u=1)}")
        for call in ("token_usage_rebuild()", "token_usage_rebuild(1)"):
            with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                session(f"SELECT {call}")
        session.close()
    # All of the columns, one by one, are as good as the table.
    columns = ", ".join(c for (c,) in place("SELECT attname FROM pg_attribute WHERE attrelid = 'token_usage'::regclass AND attnum > 0 AND NOT attisdropped"))
    session = role(place, "every", f"GRANT SELECT ({columns}) ON token_usage TO {{}}")
    for report in REPORTS:
        assert session(f"SELECT * FROM {report.format(u=1)}") == place(f"SELECT * FROM {report.format(u=1)}")
    session.close()


def test_functions_with_the_owner_s_rights(place):
    """None is for others to call, each has its search path pinned, and each belongs to the ledger's owner."""
    found = place("SELECT p.oid::regprocedure::text, array_to_string(p.proconfig, ','), p.proowner = c.relowner, p.oid, p.prosecdef FROM pg_proc p, pg_class c "
                  "WHERE c.oid = 'token_usage'::regclass AND p.pronamespace = c.relnamespace AND (p.prosecdef OR p.proname LIKE 'token\\_usage\\_rollup\\_%')")
    assert len([f for f in found if f[4]]) >= 5
    other = role(place, "other", "GRANT SELECT, INSERT ON token_usage TO {}")
    for signature, config, owned, oid, _ in found:
        assert re.match(r'search_path="?pg_catalog, pg_temp"?(,|$)', config or ""), signature
        assert owned, signature
        assert other(f"SELECT has_function_privilege({oid}::oid, 'EXECUTE')") == [(False,)], signature
    # Only those of derived rows: no other role may write them.
    for table in PARTS.split(", ") + ["token_usage_rollup_state"]:
        for right in ("INSERT", "UPDATE", "DELETE", "TRUNCATE", "TRIGGER"):
            assert other(f"SELECT has_table_privilege('{table}', '{right}')") == [(False,)], table
    for name in ("token_usage_rollup_guard", "token_usage_rollup_turn"):
        assert other(f"SELECT has_sequence_privilege('{name}', 'UPDATE') OR has_sequence_privilege('{name}', 'USAGE')") == [(False,)]
    other.close()


@pytest.mark.parametrize("who", ["postgres", "app"])
@pytest.mark.parametrize("taken", [
    "CREATE SEQUENCE public.token_usage_rollup_guard", "CREATE SEQUENCE public.token_usage_rollup_turn",
    "CREATE VIEW public.token_usage_rollup_guard AS SELECT 1 AS last_value", "CREATE TABLE public.token_usage_delta (user_id bigint)",
    "CREATE VIEW public.token_usage_rollup AS SELECT 1 AS x", "CREATE TABLE public.token_usage_rollup_epoch (epoch uuid, ledger oid, filenode oid, stamp text)",
    "CREATE FUNCTION public.token_usage_rollup_write() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    "CREATE FUNCTION public.token_usage_rollup_passed(bigint) RETURNS boolean LANGUAGE sql AS 'SELECT true'"])
def test_names_that_another_role_took(pg, who, taken):
    """Whoever runs migrate, a superuser too, is told; nothing of another role's is used."""
    database = pg.database(migrate=False)
    owner = Session(pg.server, database.name)
    foe = f"foe_{database.name}"
    pg.superuser(f"CREATE ROLE {foe} LOGIN", f"GRANT CREATE, USAGE ON SCHEMA public TO {foe}", database=database.name)
    thief = Session(pg.server, database.name, foe)
    leave = owner("SELECT count(*) FROM pg_proc WHERE proname LIKE 'token\\_usage\\_rollup\\_%' AND proowner = 'app'::regrole") if "FUNCTION" in taken else None
    if leave and leave[0][0]:
        for (signature,) in owner("SELECT oid::regprocedure FROM pg_proc WHERE proname LIKE 'token\\_usage\\_rollup\\_%'"):
            owner(f"DROP FUNCTION {signature}")
    for kind, name in owner("SELECT CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, relname FROM pg_class WHERE relname ~ '^token_usage_(rollup|delta)' "
                            "AND relkind IN ('r', 'S')"):
        owner(f"DROP {kind} {name} CASCADE")
    thief(taken)
    session = owner if who == "app" else Session(pg.server, database.name, who)
    with pytest.raises(psycopg2.Error, match="token_usage_(rollup|delta)"):
        session("SELECT token_usage_migrate()")
    for signature in re.findall(r"public\.\w+(?:\(\w*\))?", taken)[:1]:
        kind = re.match(r"CREATE (\w+)", taken).group(1)
        thief(f"DROP {kind} {signature}")
    session("SELECT token_usage_migrate()")
    if who == "app":
        fill(owner)
        clean(owner)
        assert used(owner)
    for s in {id(x): x for x in (owner, thief, session)}.values():
        s.close()
    database.close()


def test_temporary_and_shadowing_objects(place):
    """Objects in pg_temp and in schemas first in the path, for a reader and for a writer who maintains."""
    foe = role(place, "foe", "GRANT SELECT, INSERT, UPDATE, DELETE ON token_usage TO {}", f"GRANT SELECT ON {PARTS} TO {{}}", f"GRANT CREATE ON DATABASE {place.name} TO {{}}")
    foe("CREATE SCHEMA evil")
    for function, result in (("now()", "timestamptz"), ("date_trunc(text, timestamptz)", "timestamptz"), ("sum(bigint)", None),
                             ("hashtextextended(text, bigint)", "bigint"), ("timezone(text, timestamptz)", "timestamp"), ("nextval(regclass)", "bigint")):
        if result:
            foe(f"CREATE FUNCTION evil.{function} RETURNS {result} LANGUAGE sql AS 'SELECT NULL::{result}'")
    foe("CREATE FUNCTION evil.wrong(bigint, bigint) RETURNS boolean LANGUAGE sql AS 'SELECT true'")
    foe("CREATE FUNCTION evil.wrong(timestamptz, timestamptz) RETURNS boolean LANGUAGE sql AS 'SELECT false'")
    for operator in ("=", "<", ">=", "<>"):
        for kind in ("bigint", "timestamptz"):
            foe(f"CREATE OPERATOR evil.{operator} (LEFTARG = {kind}, RIGHTARG = {kind}, FUNCTION = evil.wrong)")
    for table in PARTS.split(", ") + ["token_usage_settings"]:
        foe(f"CREATE TEMP TABLE {table} (LIKE public.{table})")
    want = {r: place(f"SELECT * FROM {r.format(u=1)}") for r in REPORTS}
    foe("SET search_path = public, evil, pg_catalog")
    for path in ("public, evil, pg_catalog", "public, pg_temp, evil, pg_catalog", "public"):
        foe(f"SET search_path = {path}")
        for report in REPORTS:
            assert foe(f"SELECT * FROM {report.format(u=1)}") == want[report], (path, report)
    foe("SET search_path = evil, pg_temp, public, pg_catalog")
    foe("SET check_function_bodies = off")
    foe("INSERT INTO public.token_usage (user_id, agent_id, ai_provider, ai_model, created_at) SELECT 1, 'agent 1', 'p1', 'm1', "
        "pg_catalog.now() - i * '9 hours'::interval FROM generate_series(1, 60) i")
    foe("UPDATE public.token_usage SET cost_usd = 1 WHERE id OPERATOR(pg_catalog.<) 30")
    foe("DELETE FROM public.token_usage WHERE id OPERATOR(pg_catalog.=) 31")
    clean(place)
    foe.close()


def test_another_user_s_views_are_never_read(place):
    """A superuser who asks for a report on somebody's ledger runs nothing of theirs: no view, nor a type with casts of its own, in the place
    of what migrate made."""
    foe, root = role(place, "foe", "CREATE SCHEMA theirs AUTHORIZATION {}"), Session(place.pg.server, place.name, "postgres")
    foe("SET search_path = theirs")
    foe("SELECT public.token_usage_migrate()")
    for session in (foe, root):
        session("SET search_path = theirs, public")
    insert(foe, 300, "now() - i * interval '5 hours'")
    foe("SELECT token_usage_rebuild()")
    want = foe("SELECT * FROM token_usage_by_agent(1, 60)")
    foe("CREATE FUNCTION trap() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$")
    for base in ("smallint", "text"):
        foe(f"CREATE TYPE odd_{base} AS (it {base})")
        foe(f"CREATE FUNCTION spring(odd_{base}) RETURNS {base} LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$")
        foe(f"CREATE CAST (odd_{base} AS {base}) WITH FUNCTION spring(odd_{base}) AS IMPLICIT")
    for table, column, odd in (("token_usage_rollup_month", "flags", "smallint"), ("token_usage_settings", "value", "text")):
        foe("SELECT token_usage_set('time_zone', 'UTC')")
        foe(f"ALTER TABLE {table} RENAME TO kept_{table}")
        columns = ", ".join(f"ROW({name})::odd_{odd} AS {name}" if name == column else name for name, in foe(
            "SELECT attname::text FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 ORDER BY attnum", (f"kept_{table}",)))
        for what in (f"VIEW {table} AS SELECT * FROM kept_{table} WHERE trap()", f"TABLE {table} AS SELECT {columns} FROM kept_{table}"):
            foe(f"CREATE {what}")
            for _ in range(2):
                if column == "flags":
                    assert root("SELECT * FROM token_usage_by_agent(1, 60)") == want
                else:
                    with pytest.raises(psycopg2.errors.WrongObjectType, match="token_usage_settings is not the table"):
                        root("SELECT * FROM token_usage_by_agent(1, 60)")
            foe(f"DROP {what.split(' AS ')[0]}")
        foe(f"ALTER TABLE kept_{table} RENAME TO {table}")
    for session in (root, foe):
        session.close()


@pytest.mark.parametrize("table", ("token_usage_rollup_user", "token_usage_rollup", "token_usage_delta", "token_usage"))
def test_a_table_that_was_changed_after_the_snapshot(place, table):
    """A superuser's snapshot is older than what the ledger's owner made of a table: no code of the owner is run for him."""
    root = Session(place.pg.server, place.name, "postgres")
    root("BEGIN ISOLATION LEVEL REPEATABLE READ")
    root("SELECT 1")
    place("CREATE TYPE trap AS (x bigint)")
    place("CREATE FUNCTION spring(trap) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped as %', current_user; END $$")
    place("CREATE CAST (trap AS bigint) WITH FUNCTION spring(trap) AS IMPLICIT")
    for trigger, in place("SELECT tgname FROM pg_trigger WHERE tgrelid = %s::regclass AND NOT tgisinternal", (table,)):
        place(f"DROP TRIGGER {trigger} ON {table}")
    column = "user_id" if table != "token_usage" else "prompt_tokens"
    place(f"ALTER TABLE {table} RENAME {column} TO before")
    place(f"ALTER TABLE {table} ADD COLUMN {column} trap DEFAULT ROW(1)::trap")
    for report in REPORTS:
        try:
            root(f"SAVEPOINT one; SELECT * FROM {report.format(u=1)}")
        except psycopg2.Error as error:
            assert "trapped" not in str(error), report
        root("ROLLBACK TO SAVEPOINT one")
    root("ROLLBACK")
    root.close()
