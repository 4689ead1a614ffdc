"""A new ledger: the table, its indexes, checks and foreign keys, as section 2 of the contract lists
them; running again; two sessions at once; all or nothing; the plain SQLite migration."""
import json
import subprocess
import threading

import pytest

import adoption.schema as s
from support import paths
from support.editions import DatabaseError, SqliteDatabase, scratch_folder

TYPES = {
    "pg": dict(id="bigint", user_id="bigint", prompt_tokens="bigint", completion_tokens="bigint",
               total_tokens="bigint", cost_usd="numeric", cost_rub="numeric",
               execution_time_ms="bigint", request_metadata="jsonb", response_metadata="jsonb",
               created_at="timestamp with time zone"),
    "sqlite": dict(id="INTEGER", user_id="INTEGER", prompt_tokens="INTEGER",
                   completion_tokens="INTEGER", total_tokens="INTEGER", cost_usd="REAL",
                   cost_rub="REAL", execution_time_ms="INTEGER", request_metadata="TEXT",
                   response_metadata="TEXT", created_at="TIMESTAMP"),
}
REQUIRED = {"user_id", "agent_id", "ai_provider", "ai_model", "prompt_tokens", "completion_tokens",
            "total_tokens", "created_at"}


def test_columns(database):
    found = s.columns(database)
    # Later parts of the product may add columns of their own after these.
    assert list(found)[:len(s.COLUMNS)] == s.COLUMNS
    text = "text" if database.dialect == "pg" else "TEXT"
    for name in s.COLUMNS:
        kind, required, default = found[name]
        assert kind == TYPES[database.dialect].get(name, text), name
        if name != "id":
            assert required == (name in REQUIRED), name
        if name.endswith("_tokens") or name.startswith("cost_"):
            assert default == "0", name
    assert found["created_at"][2] in ("now()", "CURRENT_TIMESTAMP")


def test_indexes(database):
    found = s.indexes(database)
    assert set(s.INDEXES) <= set(found)
    for name, wanted in s.INDEXES.items():
        if name == "idx_token_usage_request_id" and database.dialect == "pg":
            assert "UNIQUE" in found[name]
        inside = found[name][found[name].index("(") + 1:found[name].index(")")]
        assert [c.strip() for c in inside.split(",")][:len(wanted)] == list(wanted), name
    assert "WHERE" in found["idx_token_usage_workflow"]
    # The eighth is the key's: the unique one of request_id on SQLite, the primary key here.
    assert len(found) == 8


def test_checks(database):
    for counts in ("-1, 0, -1", "1, 2, 4", "5, -1, 4"):
        with pytest.raises(DatabaseError) as caught:
            database.query("INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, "
                           "prompt_tokens, completion_tokens, total_tokens) VALUES (1, 'a', 'p', "
                           f"'m', {counts})")
        assert "check_to" in caught.value.message
    database.query("INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, request_id) "
                   "VALUES (1, 'a', 'p', 'm', 'r')")
    with pytest.raises(DatabaseError):
        database.query("INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, "
                       "request_id) VALUES (1, 'a', 'p', 'm', 'r')")


def test_steps_and_running_again(edition):
    database = edition.database(migrate=False)
    try:
        steps = s.migrate(database)
        assert steps["table token_usage"] == "created"
        assert steps["table token_usage_settings"] == "created"
        assert {n for n in steps if n.startswith("index idx_token_usage_")} \
            >= {f"index {n}" for n in s.INDEXES}
        assert set(steps.values()) == {"created"}
        database.query("INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model) "
                       "VALUES (42, 'a', 'p', 'm')")
        database.query("SELECT token_usage_set('time_zone', 'Europe/Moscow')")
        before = s.everything(database)
        for argument in ("", "'bigint'", "'text'"):
            steps = s.migrate(database, argument)
            assert set(steps.values()) == {"kept"}
        assert s.everything(database) == before
        assert database.query("SELECT token_usage_setting('time_zone')").rows == [("Europe/Moscow",)]
        assert database.query("SELECT count(*) FROM token_usage").rows == [(1,)]
    finally:
        database.close()


@pytest.mark.parametrize("kind", ["bigint", "text", "uuid"])
def test_user_id_type(edition, kind):
    database = edition.database(migrate=False)
    try:
        s.migrate(database, f"'{kind}'")
        want = kind if edition.dialect == "pg" else ("INTEGER" if kind == "bigint" else "TEXT")
        assert s.columns(database)["user_id"][0] == want
    finally:
        database.close()


PARENTS = {
    "pg": "CREATE TABLE users (id {0} PRIMARY KEY); CREATE TABLE content_pieces (id varchar(36) "
          "PRIMARY KEY)",
    "sqlite": "CREATE TABLE users (id {0} PRIMARY KEY); CREATE TABLE content_pieces (id TEXT "
              "PRIMARY KEY)"}


@pytest.mark.parametrize("kind", ["bigint", "integer"])
def test_foreign_keys_to_tables_that_exist(edition, kind):
    database = edition.database(migrate=False)
    try:
        assert s.migrate(edition.database(migrate=False))  # without the tables: no error
        database.script(PARENTS[edition.dialect].format(kind))
        s.migrate(database)
        assert s.foreign_keys(database) == {"user_id": ("users", "CASCADE"),
                                            "content_id": ("content_pieces", "SET NULL")}
    finally:
        database.close()


@pytest.mark.parametrize("parents", [
    "CREATE TABLE users (id bigint)", "CREATE TABLE users (id bigint, b bigint, PRIMARY KEY (id, b))",
    "CREATE TABLE users (uid bigint PRIMARY KEY)", "CREATE VIEW users AS SELECT 1 AS id"])
def test_no_foreign_key_without_a_matching_key(edition, parents):
    database = edition.database(migrate=False)
    try:
        database.query(parents)
        s.migrate(database)
        assert s.foreign_keys(database) == {}
        if edition.dialect == "sqlite":
            database.query("PRAGMA foreign_keys = ON")
        database.query("INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model) "
                       "VALUES (42, 'a', 'p', 'm')")
    finally:
        database.close()


def test_no_foreign_key_to_another_type(pg):
    database = pg.database(migrate=False)
    try:
        database.query("CREATE TABLE users (id uuid PRIMARY KEY); "
                       "CREATE TABLE content_pieces (id integer PRIMARY KEY)")
        s.migrate(database)
        assert s.foreign_keys(database) == {}
        database.query("DROP TABLE token_usage, token_usage_settings")
        s.migrate(database, "'uuid'")
        assert s.foreign_keys(database) == {"user_id": ("users", "CASCADE")}
    finally:
        database.close()


def test_two_sessions_at_once(edition):
    for _ in range(3):
        database = edition.database(migrate=False, file=True)
        others = [database.another() for _ in range(2)] if edition.dialect == "pg" else None
        results = []

        def run(index):
            try:
                # A connection of sqlite3 belongs to its thread.
                mine = others[index] if others else database.another()
                results.append(set(s.migrate(mine).values()))
                if not others:
                    mine.close()
            except Exception as error:
                results.append(error)

        threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(map(str, results)) == sorted(map(str, [{"created"}, {"kept"}])), results
        for connection in (others or []) + [database]:
            connection.close()


def test_part_of_the_callers_transaction(edition):
    database = edition.database(migrate=False)
    try:
        before = s.everything(database)
        database.query("BEGIN")
        s.migrate(database)
        assert s.table_exists(database)
        database.query("ROLLBACK")
        assert not s.table_exists(database)
        assert s.everything(database) == before
        database.query("BEGIN")
        s.migrate(database)
        database.query("COMMIT")
        assert s.table_exists(database)
    finally:
        database.close()


def test_a_migration_that_fails_leaves_nothing(edition):
    """An index of our name on another table is refused after the table was made: nothing stays."""
    for inside in (False, True):
        database = edition.database(migrate=False)
        try:
            database.query("CREATE TABLE other (a integer)")
            database.query("CREATE INDEX idx_token_usage_created_at ON other (a)")
            before = s.everything(database)
            if inside:
                database.query("BEGIN")
                database.query("SAVEPOINT here")
            with pytest.raises(DatabaseError) as caught:
                s.migrate(database)
            assert caught.value.message == (
                "token_usage: cannot adopt table token_usage: index idx_token_usage_created_at is "
                "on table other")
            if inside:
                database.query("ROLLBACK TO SAVEPOINT here")
                database.query("COMMIT")
            assert s.everything(database) == before
        finally:
            database.close()


def test_something_else_of_that_name_is_refused(edition):
    for made, kind in (("CREATE VIEW token_usage AS SELECT 1 AS id", "view"),
                       ("CREATE TABLE t (a integer); CREATE INDEX token_usage ON t (a)", "index")):
        database = edition.database(migrate=False)
        try:
            database.script(made)
            before = s.everything(database)
            with pytest.raises(DatabaseError) as caught:
                s.migrate(database)
            assert caught.value.message.startswith("token_usage: cannot adopt ")
            assert kind in caught.value.message
            assert s.everything(database) == before
        finally:
            database.close()


# -- the plain SQLite migration -------------------------------------------------------------------

def shell(path, sql):
    done = subprocess.run(["sqlite3", "-bail", path], input=sql, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
    return done.stdout.split("\n")[:-1]


def test_plain_migration_in_a_stock_shell(sqlite):
    """Issue 2, item 5, as written; and again, which changes nothing."""
    path = scratch_folder() + "/content_curator.db"
    for _ in range(2):
        shell(path, paths.SQLITE_SQL.read_text())
        assert shell(path, "SELECT name FROM sqlite_master WHERE type='table' AND name='token_usage';"
                     ) == ["token_usage"]
        assert len(shell(path, "SELECT name FROM sqlite_master WHERE type='index' AND "
                         "tbl_name='token_usage';")) == 8
        assert shell(path, "SELECT COUNT(*) FROM token_usage;") == ["0"]


def test_plain_migration_and_migrate_give_the_same_schema(sqlite):
    plain = SqliteDatabase(extension=False)
    made = sqlite.database(migrate=False)
    try:
        for database in (plain, made):
            database.script(PARENTS["sqlite"].format("INTEGER"))
        plain.script(paths.SQLITE_SQL.read_text())
        s.migrate(made)
        assert s.everything(plain) == s.everything(made)
        assert s.columns(plain) == s.columns(made)
    finally:
        plain.close()
        made.close()


def test_migrate_keeps_what_the_plain_migration_made(sqlite):
    path = scratch_folder() + "/x.db"
    plain = SqliteDatabase(path, extension=False)
    plain.script(paths.SQLITE_SQL.read_text())
    plain.query("INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model) "
                "VALUES (42, 'a', 'p', 'm')")
    before = s.everything(plain)
    plain.close()
    database = SqliteDatabase(path)
    try:
        assert set(s.migrate(database).values()) == {"kept"}
        assert s.everything(database) == before
        assert database.query("SELECT requests_count FROM token_usage_totals(42, 'all')").rows == [(1,)]
    finally:
        database.close()


def test_plain_migration_keeps_a_client_without_the_library_working(sqlite):
    path = scratch_folder() + "/x.db"
    out = shell(path, paths.SQLITE_SQL.read_text() + """
INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, request_id) VALUES (1,'a','p','m','r');
INSERT OR REPLACE INTO token_usage (user_id, agent_id, ai_provider, ai_model, request_id) VALUES (2,'a','p','m','r');
INSERT OR IGNORE INTO token_usage (user_id, agent_id, ai_provider, ai_model, request_id) VALUES (3,'a','p','m','r');
UPDATE token_usage SET user_id = 9;
VACUUM;
PRAGMA integrity_check;
SELECT user_id FROM token_usage;
""")
    assert out == ["ok", "9"]


# -- the portable file ----------------------------------------------------------------------------

def test_the_portable_file_is_up_to_date_with_its_source(portable):
    """make writes it from pg_ext/*.sql; it is committed."""
    from support import postgres
    committed = paths.PORTABLE_SQL.read_bytes()
    name = str(paths.PORTABLE_SQL.relative_to(paths.ROOT))
    import shutil
    import os
    import pathlib
    folder = pathlib.Path(scratch_folder()) / "tree"
    folder.mkdir()
    for part in ("Makefile", "CMakeLists.txt", "pg_ext", "core", "migrations"):
        source = paths.ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("*.o", "*.bc", "*.so"))
        else:
            shutil.copy(source, folder / part)
    os.remove(folder / name)
    done = subprocess.run(["make", "-s", name, f"PG_CONFIG={postgres.pg_config_path()}",
                           "with_llvm=no"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / name).read_bytes() == committed


def test_the_portable_file_runs_again_and_again(portable):
    database = portable.database()
    try:
        database.query("INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model) "
                       "VALUES (42, 'a', 'p', 'm')")
        before = s.everything(database)
        for _ in range(3):
            database.query(paths.PORTABLE_SQL.read_text())
        assert s.everything(database) == before
        assert database.query("SELECT requests_count FROM token_usage_totals(42, 'all')").rows == [(1,)]
    finally:
        database.close()


def test_the_portable_file_in_psql_by_a_role_without_rights(portable):
    database = portable.database(install=False)
    try:
        env = portable.server.environment()
        for _ in range(2):
            done = subprocess.run(["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1",
                                   portable.server.url(database.name, portable.OWNER),
                                   "-f", str(paths.PORTABLE_SQL)], env=env, capture_output=True, text=True)
            assert done.returncode == 0 and "ERROR" not in done.stderr, done.stderr
        assert database.query("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").rows == [
            (False,)]
        assert database.query("SELECT count(*) FROM token_usage_summary(42)").rows == [(3,)]
        assert database.query("SELECT count(*) FROM pg_extension WHERE extname <> 'plpgsql'").rows == [
            (0,)]
        assert database.query("SELECT count(*) FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang "
                              "WHERE l.lanname = 'c' AND p.pronamespace = 'public'::regnamespace"
                              ).rows == [(0,)]
    finally:
        database.close()


def test_the_portable_file_is_one_transaction(portable):
    """A failure in its last step, the migration, leaves no function behind."""
    database = portable.database(install=False)
    try:
        database.query("CREATE VIEW token_usage AS SELECT 1 AS id")
        with pytest.raises(DatabaseError):
            database.query(paths.PORTABLE_SQL.read_text())
        database.query("ROLLBACK")
        assert database.query("SELECT count(*) FROM pg_proc WHERE pronamespace = "
                              "'public'::regnamespace").rows == [(0,)]
    finally:
        database.close()


def test_settings_are_readable_by_everyone(pg):
    database = pg.database()
    try:
        assert database.query("SELECT has_table_privilege('public', 'token_usage_settings', "
                              "'SELECT'), has_table_privilege('public', 'token_usage', 'SELECT')"
                              ).rows == [(True, False)]
    finally:
        database.close()
