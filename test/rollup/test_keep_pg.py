"""PostgreSQL: rollups through crashes, dumps, replicas, other roles, and the ways around the triggers."""
import os
import signal
import subprocess
import time

import pytest

from rollup.ledger import by_hand, by_rollup, shrink
from rollup.test_concurrent_pg import compact, insert
from support import paths, postgres

PARTS = "token_usage_rollup, token_usage_rollup_month, token_usage_rollup_user, token_usage_rollup_epoch, token_usage_delta"


class Session:
    def __init__(self, server, database, user="app"):
        self.connection = server.connect(database, user)
        self.connection.autocommit = True

    def __call__(self, sql, parameters=None):
        with self.connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return cursor.fetchall() if cursor.description else []

    def close(self):
        self.connection.close()


def fill(session):
    """Small thresholds, 300 rows of two users, rolled, with deltas on top and a tail."""
    shrink(session)
    insert(session, 200, "now() - i * interval '5 hours'")
    insert(session, 100, "now() - i * interval '11 hours'", user=2)
    session("SELECT token_usage_rebuild()")
    insert(session, 2, "now() - i * interval '70 hours'")
    session("UPDATE token_usage SET cost_usd = NULL WHERE id = 40")
    insert(session, 2, "now()")


def right(session):
    bounds = session("SELECT array_agg(b ORDER BY b)::text[] FROM (VALUES ('-infinity'::timestamptz), (date_trunc('month', now())), "
                     "(date_trunc('day', now())), (now() + interval '1 hour')) v (b)")[0][0]
    for user in (1, 2):
        for dimension in ("none", "agent", "model"):
            assert by_rollup(session, user, None, bounds, dimension) == by_hand(session, user, None, bounds, dimension)


def clean(session):
    right(session)
    assert session("SELECT * FROM token_usage_verify()") == []


def used(session):
    """Whether rollups serve reports: an epoch is in force and users are sealed in it."""
    return session("SELECT count(*) FROM token_usage_rollup_user u JOIN token_usage_rollup_epoch e USING (epoch) "
                   "WHERE e.ledger = 'token_usage'::regclass AND e.stamp = e.xmin::text AND e.filenode = coalesce(pg_relation_filenode('token_usage'), 0) AND isfinite(u.sealed_until)")[0][0] > 0


@pytest.fixture
def place(pg):
    database = pg.database()
    session = Session(pg.server, database.name)
    fill(session)
    session.pg, session.name = pg, database.name
    yield session
    session.close()
    database.close()


def other(place, user):
    return Session(place.pg.server, place.name, user)


def role(place, name, *grants):
    name = f"{name}_{place.name}"
    place.pg.superuser(f"CREATE ROLE {name} LOGIN", f"GRANT USAGE ON SCHEMA public TO {name}", *(g.format(name) for g in grants),
                       database=place.name)
    return other(place, name)


def test_insert_only(place):
    writer = role(place, "writer", "GRANT INSERT ON token_usage TO {}")
    insert(writer, 40, "now() - i * interval '13 hours'")
    insert(writer, 40, "now()")
    clean(place)
    writer.close()


def test_row_security_and_rights(place):
    seer = role(place, "seer", "GRANT SELECT ON token_usage TO {}", f"GRANT SELECT ON {PARTS} TO {{}}")
    every = seer("SELECT * FROM token_usage_by_agent(1, 60)")
    assert every == place("SELECT * FROM token_usage_by_agent(1, 60)")
    place("ALTER TABLE token_usage ENABLE ROW LEVEL SECURITY")
    assert seer("SELECT * FROM token_usage_by_agent(1, 60)") == []
    place("CREATE POLICY one ON token_usage USING (agent_id = 'agent 1')")
    assert [r[0] for r in seer("SELECT * FROM token_usage_by_agent(1, 60)")] == ["agent 1"]
    assert seer("SELECT token_usage_detailed_count(1)")[0][0] == place("SELECT count(*) FROM token_usage WHERE user_id = 1 AND agent_id = 'agent 1'")[0][0]
    place("ALTER TABLE token_usage FORCE ROW LEVEL SECURITY")
    insert_as = role(place, "root", "ALTER ROLE {} SUPERUSER")
    insert(insert_as, 60, "now() - i * interval '2 hours'")
    place("SELECT token_usage_compact()")
    place("ALTER TABLE token_usage NO FORCE ROW LEVEL SECURITY")
    place("ALTER TABLE token_usage DISABLE ROW LEVEL SECURITY")
    clean(place)
    # Rights taken away hold from the next call on, in the same session.
    place(f"REVOKE SELECT ON token_usage_rollup FROM {seer.connection.info.user}")
    assert seer("SELECT * FROM token_usage_by_agent(1, 60)") == place("SELECT * FROM token_usage_by_agent(1, 60)")
    place(f"REVOKE SELECT ON token_usage FROM {seer.connection.info.user}")
    place(f"GRANT SELECT ON token_usage_rollup TO {seer.connection.info.user}")
    with pytest.raises(Exception, match="permission denied for table token_usage"):
        seer("SELECT * FROM token_usage_by_agent(1, 60)")
    place(f"GRANT SELECT (id, user_id, agent_id) ON token_usage TO {seer.connection.info.user}")
    with pytest.raises(Exception, match="permission denied for table token_usage"):
        seer("SELECT * FROM token_usage_summary(1)")
    with pytest.raises(Exception, match="permission denied"):
        seer("SELECT token_usage_rebuild()")
    for session in (seer, insert_as):
        session.close()


def test_trigger_functions_are_the_owner_s_alone(place):
    thief = role(place, "thief", "GRANT SELECT ON token_usage TO {}", "GRANT CREATE ON SCHEMA public TO {}")
    thief("CREATE TABLE mine (LIKE token_usage)")
    with pytest.raises(Exception, match="permission denied for function"):
        thief("CREATE TRIGGER t AFTER INSERT ON mine FOR EACH ROW EXECUTE FUNCTION token_usage_rollup_write()")
    with pytest.raises(Exception, match="permission denied for function"):
        thief("SELECT token_usage_rollup_visit(1, 10, 2)")
    thief.close()


def test_hostile_path(place):
    foe = role(place, "foe", "GRANT CREATE ON SCHEMA public TO {}")
    foe("CREATE FUNCTION public.width_bucket(timestamptz, timestamptz[]) RETURNS int LANGUAGE sql AS 'SELECT 1/0'")
    foe("CREATE FUNCTION public.bad(smallint, smallint) RETURNS boolean LANGUAGE sql AS 'SELECT (1/0) = 1'")
    foe("CREATE OPERATOR public.= (LEFTARG = smallint, RIGHTARG = smallint, FUNCTION = public.bad)")
    place("SET search_path = public, pg_catalog")
    place("CREATE TEMP TABLE token_usage_rollup (LIKE public.token_usage_rollup)")
    place("CREATE TEMP TABLE token_usage_delta (LIKE public.token_usage_delta)")
    insert(place, 10, "now() - i * interval '13 hours'")
    have = place("SELECT * FROM token_usage_by_agent(1, 60)")
    place("SELECT token_usage_compact()")
    assert place("SELECT * FROM token_usage_by_agent(1, 60)") == have
    assert place("SELECT * FROM token_usage_verify()") == []
    place("DROP TABLE pg_temp.token_usage_rollup, pg_temp.token_usage_delta")
    place("RESET search_path")
    foe("DROP OPERATOR public.= (smallint, smallint)")
    foe("DROP FUNCTION public.width_bucket(timestamptz, timestamptz[]), public.bad(smallint, smallint)")
    clean(place)  # asks the ledger by hand, with whatever functions are there
    foe.close()


def test_ways_around(place):
    root = role(place, "root", "ALTER ROLE {} SUPERUSER")
    root("SET session_replication_role = replica")  # closed: the triggers fire always
    insert(root, 10, "now() - i * interval '13 hours'")
    root("RESET session_replication_role")
    clean(place)
    before = place("SELECT count(*) FROM token_usage_rollup")[0][0]
    place("VACUUM FULL token_usage")  # closed: a rewritten ledger is read itself until it is rolled again
    clean(place)
    place("ALTER TABLE token_usage ALTER COLUMN cost_usd TYPE numeric USING cost_usd * 2")
    clean(place)
    assert not used(place)
    assert place("SELECT token_usage_rebuild()")[0][0] > 0 < before
    clean(place)
    assert used(place)
    # Open: a trigger switched off, and a child by inheritance. verify finds, rebuild mends.
    place("ALTER TABLE token_usage DISABLE TRIGGER token_usage_rollup_insert")
    insert(place, 3, "now() - i * interval '300 hours'")
    place("ALTER TABLE token_usage ENABLE ALWAYS TRIGGER token_usage_rollup_insert")
    assert place("SELECT * FROM token_usage_verify()") != []
    assert place("SELECT * FROM token_usage_verify(2)") == []
    place("SELECT token_usage_rebuild(1)")
    clean(place)
    place("CREATE TABLE child () INHERITS (token_usage)")
    place("INSERT INTO child (id, user_id, agent_id, ai_provider, ai_model, created_at) VALUES (-5, 1, 'agent 1', 'p1', 'm1', now() - interval '9 days')")
    assert place("SELECT * FROM token_usage_verify()") != []
    place("SELECT token_usage_rebuild()")
    clean(place)
    # A disk's or a DBA's error in the derived rows themselves.
    place("UPDATE token_usage_rollup SET prompt = prompt + 1 WHERE kind = 30")
    bad = place("SELECT DISTINCT measure FROM token_usage_verify()")
    assert bad == [("prompt_tokens",)]
    place("SELECT token_usage_rebuild()")
    clean(place)
    root.close()


def test_partitions(pg):
    database = pg.database(migrate=False)
    session = Session(pg.server, database.name)
    session("CREATE TABLE token_usage (id bigint GENERATED BY DEFAULT AS IDENTITY, user_id bigint NOT NULL, agent_id text, ai_provider text, "
            "ai_model text, prompt_tokens bigint NOT NULL DEFAULT 0, completion_tokens bigint NOT NULL DEFAULT 0, total_tokens bigint NOT NULL "
            "DEFAULT 0, cost_usd numeric, cost_rub numeric, request_id text, created_at timestamptz NOT NULL DEFAULT now()) PARTITION BY RANGE (created_at)")
    session("CREATE TABLE old_rows PARTITION OF token_usage FOR VALUES FROM (MINVALUE) TO ('2020-01-01')")
    session("CREATE TABLE new_rows PARTITION OF token_usage FOR VALUES FROM ('2020-01-01') TO (MAXVALUE)")
    session("SELECT token_usage_migrate()")
    fill(session)
    clean(session)
    assert used(session)
    insert_into = ("INSERT INTO new_rows (id, user_id, agent_id, ai_provider, ai_model, prompt_tokens, created_at) "
                   "VALUES (-5, 1, 'agent 1', 'p1', 'm1', 5, now() - interval '9 days')")
    session(insert_into)  # closed: the row triggers are the partition's too
    clean(session)
    session("ALTER TABLE token_usage DETACH PARTITION new_rows")
    assert session("SELECT * FROM token_usage_verify()") != []
    session("ALTER TABLE token_usage ATTACH PARTITION new_rows FOR VALUES FROM ('2020-01-01') TO (MAXVALUE)")
    clean(session)
    session("TRUNCATE new_rows")
    assert session("SELECT * FROM token_usage_verify()") != []
    session("SELECT token_usage_rebuild()")
    clean(session)
    session.close()
    database.close()


def test_cascade_and_other_key_types(pg):
    for key, values in (("text", ("'u1'", "'u2'")), ("uuid", ("'00000000-0000-0000-0000-000000000001'",) * 2)):
        database = pg.database(migrate=False)
        session = Session(pg.server, database.name)
        session(f"CREATE TABLE users (id {key} PRIMARY KEY)")
        session(f"INSERT INTO users SELECT DISTINCT v::{key} FROM unnest(ARRAY[{', '.join(values)}]) v")
        session(f"SELECT token_usage_migrate('{key}')")
        shrink(session)
        insert(session, 100, "now() - i * interval '11 hours'", user=values[0])
        session("SELECT token_usage_rebuild()")
        insert(session, 10, "now() - i * interval '13 hours'", user=values[1])
        assert session("SELECT * FROM token_usage_verify()") == []
        assert used(session)
        have = session(f"SELECT requests_count FROM token_usage_totals({values[0]}, 'all')")
        assert have == session(f"SELECT count(*) FROM token_usage WHERE user_id = {values[0]}")
        session(f"DELETE FROM users WHERE id = {values[0]}")
        assert session(f"SELECT requests_count FROM token_usage_totals({values[0]}, 'all')") == [(0,)]
        assert session("SELECT * FROM token_usage_verify()") == []
        session.close()
        database.close()


def test_editions_change_places(pg):
    """A database moves between the editions with rollups in place, and is written to in between."""
    database = pg.database()
    session = Session(pg.server, database.name)
    fill(session)
    if pg.name == "pg-native":
        session("DROP EXTENSION token_usage")
        insert(session, 20, "now() - i * interval '13 hours'")
        insert(session, 300, "now()")
        session(paths.PORTABLE_SQL.read_text())
    else:
        session("CREATE EXTENSION token_usage")
        session("SELECT token_usage_migrate()")
    clean(session)
    insert(session, 20, "now() - i * interval '13 hours'")
    compact(session)
    clean(session)
    assert used(session)
    session.close()
    database.close()


@pytest.fixture(scope="module")
def server():
    """A server of its own, that may be killed, with logical decoding."""
    with postgres.Server() as made:
        session = made.connect()
        session.autocommit = True
        session.cursor().execute("CREATE ROLE app LOGIN SUPERUSER")
        session.cursor().execute("ALTER SYSTEM SET wal_level = logical")
        session.close()
        restart(made, "fast")
        yield made


def restart(server, mode):
    if mode == "kill":
        pid = int((server.data / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGKILL)
        time.sleep(1)
    else:
        server._run([server.bin / "pg_ctl", "-D", server.data, "-m", mode, "-w", "stop"])
    for attempt in range(20):
        try:
            server._run([server.bin / "pg_ctl", "-D", server.data, "-l", server.log, "-w", "-o",
                         f"-k {server.folder} -p {server.port} -c listen_addresses=127.0.0.1", "start"])
            return
        except RuntimeError:
            if attempt == 19:
                raise
            time.sleep(0.5)


def made(server, name, migrate=True, rows=True):
    root = Session(server, "postgres", "postgres")
    root(f"CREATE DATABASE {name} OWNER app")
    root.close()
    session = Session(server, name)
    if migrate:
        session("CREATE EXTENSION token_usage")
        session("SELECT token_usage_migrate()")
    if rows:
        fill(session)
    return session


def test_kill_9_under_load(server):
    session = made(server, "crash")
    script = server.folder / "load.sql"
    script.write_text("INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, prompt_tokens, total_tokens, created_at) "
                      "SELECT 1 + i % 2, 'agent 1', 'p1', 'm1', 1, 1, now() - (random() * random() * random() * 100) * interval '1 hour' "
                      "FROM generate_series(1, 3) i;\nDELETE FROM token_usage WHERE id = (SELECT id FROM token_usage ORDER BY id DESC OFFSET 5 LIMIT 1);\n")
    os.chmod(script, 0o644)
    for _ in range(2):
        load = subprocess.Popen([str(server.bin / "pgbench"), "-n", "-c", "4", "-T", "30", "-f", str(script), "crash"],
                                env=server.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(3)
        restart(server, "kill")
        load.wait()
        session = Session(server, "crash")
        clean(session)
        assert used(session)
        session.close()


def run(server, *argv):
    return subprocess.run([str(a) for a in argv], env=server.environment(), check=True, capture_output=True, text=True)


@pytest.mark.parametrize("how", ["plain", "custom", "parallel", "data-only"])
def test_dump_and_restore(server, how):
    name, copy = f"from_{how.replace('-', '_')}", f"to_{how.replace('-', '_')}"
    session = made(server, name)
    want = session("SELECT * FROM token_usage_by_agent(1, 60)")
    target = made(server, copy, migrate=how == "data-only", rows=False)
    out = server.folder / f"dump_{how}"
    option = {"plain": [], "custom": ["-Fc"], "parallel": ["-Fd", "-j2"], "data-only": ["-Fc", "--data-only"]}[how]
    run(server, server.bin / "pg_dump", *option, "-f", out, name)
    if how == "plain":
        run(server, server.bin / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", out, copy)
    else:
        run(server, server.bin / "pg_restore", "--exit-on-error", *(["-j2"] if how == "parallel" else []),
            *(["--data-only"] if how == "data-only" else []), "-d", copy, out)
    assert target("SELECT * FROM token_usage_by_agent(1, 60)") == want
    clean(target)
    insert(target, 20, "now() - i * interval '13 hours'")
    compact(target)
    clean(target)
    target("SELECT token_usage_rebuild()")
    clean(target)
    assert used(target)
    session.close()
    target.close()


def drop_subscription(source, copy, name):
    """Without its slot: of one server, old versions wait for themselves there."""
    copy(f"ALTER SUBSCRIPTION {name} DISABLE")
    copy(f"ALTER SUBSCRIPTION {name} SET (slot_name = NONE)")
    copy(f"DROP SUBSCRIPTION {name}")
    for _ in range(100):
        if source("SELECT 1 FROM pg_replication_slots WHERE slot_name = %s AND NOT active", (name,)):
            break
        time.sleep(0.1)
    source("SELECT pg_drop_replication_slot(%s)", (name,))


def test_logical_replication(server):
    session = made(server, "source")
    session("CREATE PUBLICATION ledger FOR TABLE token_usage")
    session("SELECT pg_create_logical_replication_slot('ledger', 'pgoutput')")
    replica = made(server, "replica", rows=False)
    shrink(replica)
    replica(f"CREATE SUBSCRIPTION ledger CONNECTION 'host={server.folder} port={server.port} dbname=source user=postgres' "
            "PUBLICATION ledger WITH (create_slot = false, slot_name = 'ledger', copy_data = true)")

    def caught_up():
        want = session("SELECT count(*), sum(prompt_tokens) FROM token_usage")
        for _ in range(300):
            if replica("SELECT count(*), sum(prompt_tokens) FROM token_usage") == want:
                return
            time.sleep(0.1)
        raise AssertionError("the subscriber does not catch up")
    caught_up()
    clean(replica)
    replica("SELECT token_usage_rebuild()")
    assert used(replica)
    insert(session, 30, "now() - i * interval '13 hours'")
    session("UPDATE token_usage SET prompt_tokens = prompt_tokens + 2, total_tokens = total_tokens + 2 WHERE id % 3 = 0")
    session("DELETE FROM token_usage WHERE id % 7 = 0")
    caught_up()
    # Without the subscriber's triggers, the changes of rows that are rolled would show here.
    clean(replica)
    compact(replica)
    clean(replica)
    drop_subscription(session, replica, "ledger")
    replica.close()
    session.close()


def test_standby(server):
    session = made(server, "primary_db")
    folder = server.folder / "standby"
    server._run([server.bin / "pg_basebackup", "-h", server.folder, "-p", server.port, "-U", "postgres", "-D", folder, "-R",
                 "-c", "fast", "--no-sync"])
    port = postgres._free_port()
    server._run([server.bin / "pg_ctl", "-D", folder, "-l", server.folder / "standby.log", "-w", "-o",
                 f"-k {server.folder} -p {port} -c listen_addresses=", "start"])
    try:
        import psycopg2
        insert(session, 20, "now() - i * interval '13 hours'")
        lsn = session("SELECT pg_current_wal_insert_lsn()")[0][0]
        standby = Session.__new__(Session)
        standby.connection = psycopg2.connect(host=str(server.folder), port=port, dbname="primary_db", user="app")
        standby.connection.autocommit = True
        for _ in range(200):
            if standby("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", (lsn,))[0][0]:
                break
            time.sleep(0.1)
        clean(standby)
        assert used(standby)
        assert standby("SELECT * FROM token_usage_by_agent(1, 60)") == session("SELECT * FROM token_usage_by_agent(1, 60)")
        standby.close()
    finally:
        server._run([server.bin / "pg_ctl", "-D", folder, "-m", "immediate", "-w", "stop"])
    session.close()
