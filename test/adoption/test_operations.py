"""Living with it: who may do what, changing the edition, dumps, hostile surroundings, and the list of
functions that each edition offers."""
import os
import subprocess

import pytest

import adoption.schema as s
import oracle as orc
from harness import Case, load, row
from support import editions, paths
from support.editions import DatabaseError

AT = "2025-10-20 10:00:00"
AS_OF = orc.instant("2025-10-20 12:00:00")
TOTAL = ("SELECT requests_count, total_tokens FROM {0}token_usage_totals(42, 'all', NULL, 'UTC', "
         "'2025-10-20T12:00:00Z')")


def example_rows():
    return [row(1, AT), row(2, "2025-10-19 10:00:00", agent_id="editor"), row(3, AT, user_id=7)]


# -- creating the extension -----------------------------------------------------------------------

def test_trusted_extension_by_a_role_with_create_on_the_database(native):
    database = native.database(install=False)
    try:
        native.superuser("CREATE ROLE creator LOGIN", f"GRANT CREATE ON DATABASE {database.name} TO creator")
        native.superuser("GRANT ALL ON SCHEMA public TO creator", database=database.name)
        creator = database.another("creator")
        try:
            creator.query("CREATE EXTENSION token_usage")
            creator.query("SELECT token_usage_migrate()")
            assert creator.query("SELECT tableowner::text FROM pg_tables WHERE tablename = 'token_usage'"
                                 ).rows == [("creator",)]
            assert creator.query("SELECT count(*) FROM token_usage_summary(42)").rows == [(3,)]
        finally:
            creator.close()
    finally:
        database.close()
        native.superuser(f"DROP DATABASE {database.name} WITH (FORCE)", "DROP ROLE creator")


def test_extension_owns_functions_only_and_leaves_the_tables(native):
    database = native.database()
    try:
        load(database, example_rows())
        kinds = {r[0] for r in database.query(
            "SELECT DISTINCT classid::regclass::text FROM pg_depend WHERE refclassid = "
            "'pg_extension'::regclass AND deptype = 'e' AND refobjid = (SELECT oid FROM pg_extension "
            "WHERE extname = 'token_usage')").rows}
        assert "pg_class" not in kinds
        database.query("DROP EXTENSION token_usage")
        assert database.query("SELECT count(*) FROM token_usage").rows == [(3,)]
        # What keeps the rollups exact belongs to the ledger, not to the extension.
        assert database.query("SELECT count(*) FROM pg_proc WHERE proname LIKE '%token\\_usage%' AND "
                              "proname NOT LIKE 'token\\_usage\\_rollup\\_%' AND "
                              "pronamespace = 'public'::regnamespace").rows == [(0,)]
        database.query("INSERT INTO token_usage (id, user_id, agent_id, ai_provider, ai_model) VALUES "
                       "(100, 42, 'a', 'p', 'm')")
        database.query("CREATE EXTENSION token_usage")
        assert set(s.migrate(database).values()) == {"kept"}
        assert database.query("SELECT count(*) FROM token_usage_detailed(42)").rows == [(3,)]
    finally:
        database.close()


def test_extension_in_a_schema_of_its_own(native):
    database = native.database(install=False)
    try:
        database.query("CREATE SCHEMA billing; CREATE EXTENSION token_usage SCHEMA billing; "
                       "SET search_path = public, billing; SELECT token_usage_migrate()")
        load(database, example_rows())
        Case(database, example_rows()).every_report(42, "UTC", AS_OF, days=2)
        database.query("SET search_path = public")
        assert database.query(TOTAL.format("billing.")).rows == [(2, 30)]
    finally:
        database.close()


def test_the_ledger_is_the_first_of_the_path(pg):
    database = pg.database()
    try:
        load(database, example_rows())
        database.query("CREATE SCHEMA tenant; SET search_path = tenant, public")
        assert database.query(TOTAL.format("")).rows == [(2, 30)]
        database.query("CREATE TABLE tenant.token_usage (LIKE public.token_usage INCLUDING ALL)")
        assert database.query(TOTAL.format("")).rows == [(0, 0)]
        database.query("CREATE TEMP TABLE token_usage (a integer)")
        assert database.query(TOTAL.format("")).rows == [(0, 0)]
        database.query("SET search_path = public")
        assert database.query(TOTAL.format("")).rows == [(2, 30)]
    finally:
        database.close()


# -- changing the edition -------------------------------------------------------------------------

def test_portable_to_native_and_back_with_the_data(portable, native):
    database = portable.database()
    try:
        rows = example_rows()
        load(database, rows)
        database.query("SELECT token_usage_set('time_zone', 'Asia/Kolkata')")
        case = Case(database, rows, "Asia/Kolkata")
        before = s.everything(database)

        def right():
            case.every_report(42, None, AS_OF, days=2)
            case.body("detailed_json", 42)
            assert s.everything(database) == before

        def natively():
            return database.query("SELECT count(*) FROM pg_extension WHERE extname = 'token_usage'"
                                  ).rows == [(1,)]

        right()
        for _ in range(2):
            database.query("CREATE EXTENSION token_usage")
            assert natively()
            right()
            assert set(s.migrate(database).values()) == {"kept"}
            database.query(paths.PORTABLE_SQL.read_text())
            assert not natively()
            right()
    finally:
        database.close()


def test_create_extension_does_not_replace_the_functions_of_another_role(portable, native):
    """Only functions that belong to the caller are dropped for it."""
    database = portable.database()
    try:
        portable.superuser("CREATE ROLE intruder LOGIN",
                           f"GRANT CREATE ON DATABASE {database.name} TO intruder")
        portable.superuser("GRANT ALL ON SCHEMA public TO intruder", database=database.name)
        intruder = database.another("intruder")
        try:
            with pytest.raises(DatabaseError):
                intruder.query("CREATE EXTENSION token_usage")
        finally:
            intruder.close()
        assert database.query("SELECT count(*) FROM token_usage_summary(42)").rows == [(3,)]
    finally:
        database.close()
        portable.superuser(f"DROP DATABASE {database.name} WITH (FORCE)", "DROP ROLE intruder")


def run(edition, *argv):
    env = dict(edition.server.environment(), PGUSER=edition.OWNER)
    done = subprocess.run([str(a) for a in argv], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def dump_and_restore(edition, database, target, *options):
    dump = os.path.join(editions.scratch_folder(), "dump.sql")
    run(edition, edition.server.bin / "pg_dump", "--no-password", *options, "-f", dump, database.name)
    run(edition, "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", target.name, "-f", dump)


def test_dump_and_restore(pg):
    database = pg.database()
    target = pg.database(install=False)
    try:
        rows = example_rows()
        load(database, rows)
        database.query("ALTER TABLE token_usage ADD COLUMN tenant text")
        database.query("SELECT token_usage_set('time_zone', 'Asia/Kolkata')")
        dump_and_restore(pg, database, target)
        case = Case(target, rows, "Asia/Kolkata")
        case.every_report(42, None, AS_OF, days=2)
        assert set(s.migrate(target).values()) == {"kept"}
        target.query("INSERT INTO token_usage (id, user_id, agent_id, ai_provider, ai_model) VALUES "
                     "(100, 1, 'a', 'p', 'm')")
    finally:
        target.close()
        database.close()


@pytest.mark.parametrize("way", ["into a migrated database", "with the tables, without the triggers"])
def test_restore_of_the_tables_into_the_other_edition(pg, native, portable, way):
    """The two ways in docs/operations.md: a dump of single tables holds no functions, so no triggers that call them."""
    other = portable if pg.name == "pg-native" else native
    database = pg.database()
    target = other.database(install=way == "into a migrated database")
    tables = ("-t", "token_usage", "-t", "token_usage_settings")
    try:
        rows = example_rows()
        load(database, rows)
        if way == "into a migrated database":
            dump_and_restore(pg, database, target, "--data-only", *tables)
        else:
            folder = editions.scratch_folder()
            dump, parts = os.path.join(folder, "tables.dump"), os.path.join(folder, "parts")
            run(pg, pg.server.bin / "pg_dump", "-Fc", *tables, "-f", dump, database.name)
            listed = run(pg, pg.server.bin / "pg_restore", "-l", dump)
            with open(parts, "w") as file:
                file.writelines(line + "\n" for line in listed.splitlines() if " TRIGGER " not in line)
            run(other, other.server.bin / "pg_restore", "--exit-on-error", "-L", parts, "-d", target.name, dump)
            other.install(target.name)
        Case(target, rows).every_report(42, "UTC", AS_OF, days=2)
        target.query("UPDATE token_usage SET prompt_tokens = 5, total_tokens = completion_tokens + 5")
        assert target.query("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'token\\_usage\\_rollup%' "
                            "AND tgrelid = 'token_usage'::regclass").rows == [(4,)]
        assert target.query("SELECT token_usage_rebuild()").rows == [(0,)]
        assert target.query("SELECT * FROM token_usage_verify()").rows == []
    finally:
        target.close()
        database.close()


def test_sqlite_dump_and_backup(sqlite):
    database = sqlite.database()
    copy, clone = sqlite.database(migrate=False), sqlite.database(migrate=False)
    try:
        rows = example_rows()
        load(database, rows)
        clone.script("\n".join(line for line in database.connection.iterdump()
                               if "sqlite_sequence" not in line))
        database.connection.backup(copy.connection)
        for restored in (copy, clone):
            Case(restored, rows).every_report(42, "UTC", AS_OF, days=2)
            assert set(s.migrate(restored).values()) == {"kept"}
    finally:
        for d in (database, copy, clone):
            d.close()


# -- least privilege ------------------------------------------------------------------------------

CALLS = (
    "SELECT * FROM token_usage_summary(42)", "SELECT * FROM token_usage_history(42)",
    "SELECT * FROM token_usage_by_agent(42)", "SELECT * FROM token_usage_by_model(42)",
    "SELECT * FROM token_usage_by_provider(42)", "SELECT * FROM token_usage_totals(42, 'all')",
    "SELECT * FROM token_usage_detailed(42)", "SELECT token_usage_detailed_count(42)",
    "SELECT token_usage_summary_json(42)", "SELECT token_usage_history_json(42)",
    "SELECT token_usage_by_agent_json(42)", "SELECT token_usage_by_model_json(42)",
    "SELECT token_usage_detailed_json(42)", "SELECT token_usage_totals_json(42, 'all')")


@pytest.fixture
def roles(pg):
    pg.superuser("CREATE ROLE reader LOGIN")
    yield
    databases = []
    connection = pg.server.connect()
    with connection.cursor() as cursor:
        cursor.execute("SELECT datname FROM pg_database WHERE datname LIKE 't%\\_%' AND datname NOT LIKE "
                       "'temp%'")
        databases = [r[0] for r in cursor.fetchall()]
    connection.close()
    for name in databases:
        pg.superuser("DROP OWNED BY reader", database=name)
    pg.superuser("DROP ROLE reader")


def test_a_role_without_select_is_denied(pg, roles):
    database = pg.database()
    reader = database.another("reader")
    try:
        load(database, example_rows())
        for sql in CALLS:
            with pytest.raises(DatabaseError) as caught:
                reader.query(sql)
            assert (caught.value.sqlstate, caught.value.message) == (
                "42501", "permission denied for table token_usage"), sql
        for sql in ("SELECT token_usage_set('time_zone', 'UTC')",):
            with pytest.raises(DatabaseError) as caught:
                reader.query(sql)
            assert caught.value.sqlstate == "42501", sql
        assert reader.query("SELECT token_usage_setting('time_zone')").rows == [("UTC",)]
        database.query("GRANT SELECT ON token_usage TO reader")
        for sql in CALLS:
            reader.query(sql)
        assert reader.query(TOTAL.format("")).rows == [(2, 30)]
    finally:
        reader.close()
        database.close()


def test_row_security_holds_for_every_report(pg, roles):
    database = pg.database()
    reader = database.another("reader")
    try:
        load(database, example_rows())
        database.query("GRANT SELECT ON token_usage TO reader; "
                       "ALTER TABLE token_usage ENABLE ROW LEVEL SECURITY; "
                       "CREATE POLICY mine ON token_usage FOR SELECT TO reader USING (agent_id = 'editor')")
        rows = [r for r in example_rows() if r.agent_id == "editor"]
        case = Case(reader, rows)
        # Twice: a plan that is kept must not carry rights over.
        for _ in range(2):
            case.every_report(42, "UTC", AS_OF, days=2)
            case.report("detailed", 42)
            case.body("detailed_json", 42)
            case.value("SELECT token_usage_detailed_count(42)", 1)
        Case(database, example_rows()).every_report(42, "UTC", AS_OF, days=2)
        # In one session, as two roles: the native edition keeps plans.
        admin = editions.PostgresDatabase(pg, database.name, "postgres")
        try:
            for _ in range(2):
                admin.query("SET ROLE reader")
                assert admin.query(TOTAL.format("")).rows == [(1, 15)]
                admin.query("RESET ROLE")
                assert admin.query(TOTAL.format("")).rows == [(2, 30)]
        finally:
            admin.close()
    finally:
        reader.close()
        database.close()


def test_a_policy_that_reads_the_callers_path_and_settings(pg, roles):
    database = pg.database()
    reader = database.another("reader")
    try:
        load(database, example_rows())
        database.query("CREATE TABLE allowed (agent text); INSERT INTO allowed VALUES ('editor'); "
                       "GRANT SELECT ON token_usage, allowed TO reader; "
                       "ALTER TABLE token_usage ENABLE ROW LEVEL SECURITY; "
                       # A body in PL/pgSQL is only read when it runs.
                       "CREATE FUNCTION is_allowed(who text) RETURNS boolean LANGUAGE plpgsql STABLE AS "
                       "'BEGIN RETURN who IN (SELECT agent FROM allowed); END'; "
                       "CREATE POLICY mine ON token_usage FOR SELECT TO reader USING (is_allowed(agent_id) AND "
                       "user_id::text = current_setting('app.tenant', true))")
        reader.query("SET app.tenant = '42'")
        assert reader.query(TOTAL.format("")).rows == [(1, 15)]
        reader.query("SET app.tenant = '7'")
        assert reader.query(TOTAL.format("")).rows == [(0, 0)]
        reader.query("SET app.tenant = '42'")
        assert [row[-1] for row in reader.query("SELECT agent_id FROM token_usage_detailed(42)").rows] == ["editor"]
        assert reader.query("SHOW search_path").rows == reader.query("RESET search_path; SHOW search_path").rows
    finally:
        reader.close()
        database.close()


def test_hostile_objects_on_the_path_are_not_called(pg):
    """Functions, operators, types, aggregates and tables that shadow the database's own, in front of
    pg_catalog and in the temporary schema."""
    database = pg.database()
    try:
        rows = example_rows()
        load(database, rows)
        database.query("""
CREATE SCHEMA evil;
CREATE TABLE evil.caught (what text);
CREATE FUNCTION evil.trap(what text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped: %', what; END $$;
CREATE FUNCTION evil.sum(numeric) RETURNS numeric LANGUAGE sql AS $$ SELECT evil.trap('sum'); SELECT 0::numeric $$;
CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT evil.trap('now'); SELECT NULL::timestamptz $$;
CREATE FUNCTION evil.coalesce(anyelement, anyelement) RETURNS anyelement LANGUAGE sql AS $$ SELECT $2 $$;
CREATE FUNCTION evil.format(text, VARIADIC text[]) RETURNS text LANGUAGE sql AS $$ SELECT evil.trap('format'); SELECT '' $$;
CREATE FUNCTION evil.round(numeric, integer) RETURNS numeric LANGUAGE sql AS $$ SELECT evil.trap('round'); SELECT 0::numeric $$;
CREATE FUNCTION evil.trim_scale(numeric) RETURNS numeric LANGUAGE sql AS $$ SELECT evil.trap('trim_scale'); SELECT 0::numeric $$;
CREATE FUNCTION evil.scale(numeric) RETURNS integer LANGUAGE sql AS $$ SELECT evil.trap('scale'); SELECT 0 $$;
CREATE FUNCTION evil.width_bucket(timestamptz, timestamptz[]) RETURNS integer LANGUAGE sql AS $$ SELECT evil.trap('width_bucket'); SELECT 0 $$;
CREATE FUNCTION evil.timezone(text, timestamptz) RETURNS timestamp LANGUAGE sql AS $$ SELECT evil.trap('timezone'); SELECT NULL::timestamp $$;
CREATE FUNCTION evil.timezone(text, timestamp) RETURNS timestamptz LANGUAGE sql AS $$ SELECT evil.trap('timezone'); SELECT NULL::timestamptz $$;
CREATE FUNCTION evil.date_trunc(text, timestamp) RETURNS timestamp LANGUAGE sql AS $$ SELECT evil.trap('date_trunc'); SELECT NULL::timestamp $$;
CREATE FUNCTION evil.jsonb_build_object(VARIADIC text[]) RETURNS jsonb LANGUAGE sql AS $$ SELECT evil.trap('jsonb_build_object'); SELECT NULL::jsonb $$;
CREATE FUNCTION evil.current_schemas(boolean) RETURNS name[] LANGUAGE sql AS $$ SELECT evil.trap('current_schemas'); SELECT NULL::name[] $$;
CREATE FUNCTION evil.lower(text) RETURNS text LANGUAGE sql AS $$ SELECT evil.trap('lower'); SELECT NULL::text $$;
CREATE FUNCTION evil.eq(text, text) RETURNS boolean LANGUAGE sql AS $$ SELECT evil.trap('text ='); SELECT true $$;
CREATE OPERATOR evil.= (leftarg = text, rightarg = text, function = evil.eq);
CREATE FUNCTION evil.eq8(bigint, bigint) RETURNS boolean LANGUAGE sql AS $$ SELECT evil.trap('bigint ='); SELECT true $$;
CREATE OPERATOR evil.= (leftarg = bigint, rightarg = bigint, function = evil.eq8);
CREATE FUNCTION evil.lt(timestamptz, timestamptz) RETURNS boolean LANGUAGE sql AS $$ SELECT evil.trap('timestamptz <'); SELECT true $$;
CREATE OPERATOR evil.< (leftarg = timestamptz, rightarg = timestamptz, function = evil.lt);
CREATE FUNCTION evil.plus(numeric, numeric) RETURNS numeric LANGUAGE sql AS $$ SELECT evil.trap('numeric +'); SELECT 0::numeric $$;
CREATE OPERATOR evil.+ (leftarg = numeric, rightarg = numeric, function = evil.plus);
CREATE FUNCTION evil.minus(date, integer) RETURNS date LANGUAGE sql AS $$ SELECT evil.trap('date -'); SELECT NULL::date $$;
CREATE OPERATOR evil.- (leftarg = date, rightarg = integer, function = evil.minus);
CREATE DOMAIN evil.numeric AS pg_catalog.text;
CREATE DOMAIN evil.bigint AS pg_catalog.text;
CREATE DOMAIN evil.timestamptz AS pg_catalog.text;
CREATE TABLE evil.pg_class (a integer);
CREATE TABLE evil.pg_namespace (a integer);
CREATE TABLE evil.pg_timezone_names (a integer);
CREATE TEMP TABLE pg_attribute (a integer);
CREATE TEMP TABLE token_usage_settings (name text, value text);
INSERT INTO pg_temp.token_usage_settings VALUES ('time_zone', 'trapped');
CREATE FUNCTION evil._token_usage_sums(VARIADIC text[]) RETURNS integer LANGUAGE sql AS $$ SELECT evil.trap('sums'); SELECT 0 $$;
SET search_path = pg_temp, evil, pg_catalog, public;
""")
        at = "'UTC', '2025-10-20T12:00:00Z'"
        query = database.query
        assert query(TOTAL.format("public.")).rows == [(2, 30)]
        assert query(f"SELECT pg_catalog.count(*) FROM public.token_usage_history(42, 2, NULL, {at})").rows \
            == [(2,)]
        for name, head in (("summary", ""), ("history", ", 2, NULL"), ("by_agent", ", 2"),
                           ("by_model", ", 2"), ("by_provider", ", 2"), ("totals", ", 'month', NULL")):
            assert query(f"SELECT * FROM public.token_usage_{name}(42{head}, {at})").rows
            if name != "by_provider":
                assert query(f"SELECT public.token_usage_{name}_json(42{head}, {at})").rows
        assert len(query("SELECT * FROM public.token_usage_detailed(42)").rows) == 2
        assert len(query("SELECT * FROM public.token_usage_detailed(42, 1, 1, 'writer', '2025-10-01', "
                         "'2025-10-31')").rows) == 0
        assert query("SELECT public.token_usage_detailed_count(42)").rows == [(2,)]
        assert query("SELECT public.token_usage_detailed_json(42)").rows
        assert query("SELECT public.token_usage_setting('time_zone')").rows == [("UTC",)]
        assert query("SELECT public.token_usage_set('time_zone', 'Europe/Moscow')").rows == [
            ("Europe/Moscow",)]
        assert query("SELECT public.token_usage_decimal_sum(cost_usd)::text FROM public.token_usage").rows \
            == [("0.03",)]
        assert query("SELECT public.token_usage_stats(prompt_tokens, completion_tokens, total_tokens, cost_usd, "
                     "cost_rub, execution_time_ms)::text FROM public.token_usage").rows
        # Migration writes: it creates in the first schema of the path that is not temporary.
        query("SET search_path = pg_catalog, public")
        assert query("SELECT public.token_usage_migrate()").rows
    finally:
        database.close()


def test_functions_run_with_the_callers_rights(pg):
    """None is SECURITY DEFINER but the ledger's own, which keep its rollups and which nobody but its owner may call."""
    database = pg.database()
    try:
        assert database.query("SELECT proname::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace "
                              "AND prosecdef AND NOT (proname LIKE 'token\\_usage\\_rollup\\_%' "
                              "AND NOT has_function_privilege('public', oid, 'EXECUTE') "
                              "AND proconfig[1] = 'search_path=pg_catalog, pg_temp')").rows == []
    finally:
        database.close()


# -- the list of functions ------------------------------------------------------------------------

PUBLIC = {
    "token_usage_migrate", "token_usage_setting", "token_usage_set", "token_usage_version",
    "token_usage_summary", "token_usage_history", "token_usage_by_agent", "token_usage_by_model",
    "token_usage_by_provider", "token_usage_detailed", "token_usage_detailed_count", "token_usage_totals",
    "token_usage_summary_json", "token_usage_history_json", "token_usage_by_agent_json",
    "token_usage_by_model_json", "token_usage_detailed_json", "token_usage_totals_json",
    "token_usage_stats", "token_usage_decimal_sum",
    "token_usage_from_response", "token_usage_record", "token_usage_record_batch", "token_usage_cost",
    "token_usage_import_prices", "token_usage_set_rate", "token_usage_reprice", "token_usage_reprice_preview",
    "token_usage_verify", "token_usage_rebuild", "token_usage_compact"}
POSTGRES_ONLY = {"token_usage_detailed_text", "token_usage_reprice_preview_text"}
TABLE_VALUED = {"token_usage_summary", "token_usage_history", "token_usage_by_agent", "token_usage_by_model",
                "token_usage_by_provider", "token_usage_detailed", "token_usage_totals",
                "token_usage_reprice_preview", "token_usage_verify"}


def test_public_functions_of_sqlite(sqlite):
    """A change of the surface is planned, and made here too."""
    database = sqlite.database()
    try:
        functions = {r[0] for r in database.query(
            "SELECT DISTINCT name FROM pragma_function_list WHERE name LIKE '%token%usage%'").rows
            if not r[0].startswith("_token_usage_")}
        modules = {r[0] for r in database.query(
            "SELECT name FROM pragma_module_list WHERE name LIKE '%token%usage%'").rows}
        assert modules == TABLE_VALUED
        assert functions == PUBLIC - TABLE_VALUED
    finally:
        database.close()


def test_public_functions_of_postgres(pg):
    database = pg.database()
    try:
        names = {r[0] for r in database.query(
            "SELECT DISTINCT proname::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace").rows}
        assert {n for n in names if not n.startswith(("_token_usage_", "token_usage_rollup_"))} == PUBLIC | POSTGRES_ONLY
    finally:
        database.close()


def test_named_arguments_of_postgres(pg):
    """The names of the contract, so that calls may name them."""
    database = pg.database()
    try:
        for name, arguments in {
                "summary": "user_id, time_zone, as_of",
                "history": "user_id, days, agent, time_zone, as_of",
                "by_agent": "user_id, period_days, time_zone, as_of",
                "by_model": "user_id, period_days, time_zone, as_of",
                "by_provider": "user_id, period_days, time_zone, as_of",
                "totals": "user_id, period, agent, time_zone, as_of",
                "detailed": "user_id, page_limit, page_offset, agent, start_date, end_date, after",
                "detailed_count": "user_id, agent, start_date, end_date"}.items():
            twins = [name] if name in ("by_provider", "detailed_count") else [name, name + "_json"]
            for twin in twins:
                # A column and an argument of one function cannot share a name, and the table form of
                # totals has a column `period`.
                wanted = arguments.replace("period,", "period_name,") if twin == "totals" else arguments
                found = database.query(
                    "SELECT DISTINCT proargnames[:pronargs]::text[] FROM pg_proc WHERE pronamespace = "
                    f"'public'::regnamespace AND proname = 'token_usage_{twin}'").rows
                assert found == [(wanted.split(", "),)], twin
                kinds = {r[0] for r in database.query(
                    "SELECT DISTINCT proargtypes[0]::regtype::text FROM pg_proc WHERE pronamespace = "
                    f"'public'::regnamespace AND proname = 'token_usage_{twin}'").rows}
                assert kinds == {"bigint", "text", "uuid"}, twin
    finally:
        database.close()


def test_volatility_and_parallel_safety(pg):
    """Reports are STABLE: one snapshot. Aggregates are immutable and parallel safe, with a combine
    function and moving-aggregate support."""
    database = pg.database()
    try:
        rows = database.query(
            "SELECT proname::text, provolatile::text, proparallel::text FROM pg_proc WHERE pronamespace = "
            "'public'::regnamespace AND proname ~ '^token_usage_(summary|history|by_|totals|detailed)'").rows
        assert rows and all(r[1] == "s" for r in rows), [r for r in rows if r[1] != "s"]
        rows = database.query(
            "SELECT p.proname::text, p.provolatile::text, p.proparallel::text, a.aggcombinefn <> 0, "
            "a.aggmtransfn <> 0, a.aggtranstype <> 'internal'::regtype FROM pg_aggregate a JOIN pg_proc p ON "
            "p.oid = a.aggfnoid WHERE p.pronamespace = 'public'::regnamespace").rows
        assert {r[0] for r in rows} == {"token_usage_stats", "token_usage_decimal_sum"}
        assert all(r[1:] == ("i", "s", True, True, True) for r in rows), rows
    finally:
        database.close()


def test_version_is_the_same_everywhere(edition, database):
    import re
    want = re.search(r"project\(token_usage VERSION ([\d.]+)", (paths.ROOT / "CMakeLists.txt").read_text())[1]
    assert database.query("SELECT token_usage_version()").rows == [(want,)]
    if edition.name == "pg-native":
        assert database.query("SELECT extversion::text FROM pg_extension WHERE extname = 'token_usage'"
                              ).rows == [(want,)]
