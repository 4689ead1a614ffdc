"""PostgreSQL: what test_keep_pg.py leaves of dumps and replicas: pg_dumpall, restores with the triggers off or of the ledger
alone, a subscriber of all tables, a standby that is promoted, a copied database."""
import subprocess
import time

import psycopg2
import pytest

from rollup.ledger import shrink
from rollup.test_concurrent_pg import compact, insert
from rollup.test_keep_pg import Session, clean, drop_subscription, made, right, run, used
from support import postgres


@pytest.fixture(scope="module")
def server():
    with postgres.Server(settings="wal_level = logical\nmax_wal_senders = 10\n") as own:
        root = own.connect()
        root.autocommit = True
        root.cursor().execute("CREATE ROLE app LOGIN SUPERUSER")
        root.close()
        yield own


def goes_on(session):
    """Writers and maintenance go on as ever, and bring the rollups back into use."""
    clean(session)
    for _ in range(3):
        insert(session, 20, "now() - i * interval '13 hours'")
        insert(session, 8, "clock_timestamp()")
        compact(session, 2)
        clean(session)
    session("SELECT token_usage_rebuild()")
    clean(session)
    assert used(session)


def test_pg_dumpall(server):
    session = made(server, "whole")
    want = session("SELECT * FROM token_usage_by_model(1, 60)")
    dump = run(server, server.bin / "pg_dumpall").stdout
    with postgres.Server() as other:
        done = subprocess.run([str(other.bin / "psql"), "-X", "-q", "postgres"], input=dump, env=other.environment(), capture_output=True, text=True)
        errors = [line for line in done.stderr.splitlines() if "ERROR" in line]
        assert [e for e in errors if 'role "postgres" already exists' not in e] == []
        copy = Session(other, "whole")
        assert copy("SELECT * FROM token_usage_by_model(1, 60)") == want
        goes_on(copy)
        copy.close()
    session.close()


def test_data_alone_with_the_triggers_off(server):
    """pg_restore --data-only --disable-triggers into a migrated ledger, of everything and of the ledger alone."""
    session = made(server, "data_source")
    out = server.folder / "data.dump"
    run(server, server.bin / "pg_dump", "-Fc", "-f", out, "data_source")
    for name, only in (("data_all", []), ("data_ledger", ["-t", "token_usage"])):
        target = made(server, name, rows=False)
        shrink(target)
        run(server, server.bin / "pg_restore", "--exit-on-error", "--data-only", "--disable-triggers", "-U", "app", *only, "-d", name, out)
        clean(target)
        # ENABLE TRIGGER ALL, which pg_restore sends at the end, makes ours fire as any trigger; migrate makes them fire always again.
        target("SELECT token_usage_migrate()")
        assert target("SELECT DISTINCT tgenabled FROM pg_trigger WHERE tgrelid = 'token_usage'::regclass AND tgname LIKE 'token_usage_rollup%'") == [("A",)]
        if only:  # pg_restore -t leaves the sequence of the ids behind, with us and without
            target("SELECT setval(pg_get_serial_sequence('token_usage', 'id'), (SELECT max(id) FROM token_usage))")
        goes_on(target)
        target.close()
    session.close()


def test_rows_restored_past_the_triggers_are_found(server):
    """The ledger alone, with the triggers off, on top of rows that are rolled: verify tells, rebuild mends."""
    session = made(server, "over_source")
    session("UPDATE token_usage SET id = id + 1000000")
    out = server.folder / "over.dump"
    run(server, server.bin / "pg_dump", "-Fc", "--data-only", "-t", "token_usage", "-f", out, "over_source")
    target = made(server, "over")
    assert used(target)
    run(server, server.bin / "pg_restore", "--exit-on-error", "--data-only", "--disable-triggers", "-U", "app", "-d", "over", out)
    assert target("SELECT * FROM token_usage_verify()") != []
    target("SELECT token_usage_rebuild()")
    goes_on(target)
    target.close()
    session.close()


def wait_until(check, what):
    for _ in range(300):
        if check():
            return
        time.sleep(0.1)
    raise AssertionError(what)


def test_subscriber_of_all_tables(server):
    """A publication FOR ALL TABLES, as for a move to a new server, holds our derived tables too. Writers of the publisher go on
    (deletes need an identity), and the subscriber keeps the rollups of its own."""
    source = made(server, "all_source")
    source("CREATE PUBLICATION everything FOR ALL TABLES")
    insert(source, 60, "now() - i * interval '13 hours'")
    source("DELETE FROM token_usage WHERE id % 13 = 0")
    compact(source)
    clean(source)
    source("SELECT pg_create_logical_replication_slot('everything', 'pgoutput')")
    copy = made(server, "all_copy", rows=False)
    shrink(copy)
    copy(f"CREATE SUBSCRIPTION everything CONNECTION 'host={server.folder} port={server.port} dbname=all_source user=postgres' "
         "PUBLICATION everything WITH (create_slot = false, slot_name = 'everything', copy_data = true)")

    def same():
        ask = "SELECT count(*), sum(prompt_tokens) FROM token_usage"
        return source(ask) == copy(ask)
    wait_until(same, "the subscriber does not catch up")
    clean(copy)
    for step in range(6):
        insert(source, 6, "clock_timestamp()")
        insert(source, 6, "now() - i * interval '13 hours'")
        source("DELETE FROM token_usage WHERE id IN (SELECT id FROM token_usage ORDER BY random() LIMIT 3)")
        compact(source, 1)
        if step == 2:
            copy("SELECT token_usage_rebuild()")
        if step == 4:
            source("SELECT token_usage_rebuild()")
        wait_until(same, "the subscriber does not catch up")
        clean(copy)
    assert used(copy)
    compact(copy)
    clean(copy)
    clean(source)
    drop_subscription(source, copy, "everything")
    # The move is done, and the subscriber is written to. Replication leaves the sequence of the ids behind, with us and without.
    copy("SELECT setval(pg_get_serial_sequence('token_usage', 'id'), (SELECT max(id) FROM token_usage))")
    goes_on(copy)
    copy.close()
    source.close()


def test_promoted_standby(server):
    session = made(server, "promoted")
    folder = server.folder / "promoted_standby"
    server._run([server.bin / "pg_basebackup", "-h", server.folder, "-p", server.port, "-U", "postgres", "-D", folder, "-R", "-c", "fast", "--no-sync"])
    port = postgres._free_port()
    server._run([server.bin / "pg_ctl", "-D", folder, "-l", server.folder / "promoted.log", "-w", "-o",
                 f"-k {server.folder} -p {port} -c listen_addresses=", "start"])
    try:
        insert(session, 20, "now() - i * interval '13 hours'")
        # A writer who is open when the primary is lost.
        lost = Session(server, "promoted")
        lost("BEGIN")
        insert(lost, 7, "now() - i * interval '13 hours'")
        insert(lost, 7, "clock_timestamp()")
        lsn = session("SELECT pg_current_wal_insert_lsn()")[0][0]
        standby = Session.__new__(Session)
        standby.connection = psycopg2.connect(host=str(server.folder), port=port, dbname="promoted", user="app")
        standby.connection.autocommit = True
        session("SELECT pg_switch_wal()")
        wait_until(lambda: standby("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", (lsn,))[0][0], "the standby does not catch up")
        clean(standby)
        assert used(standby)
        want = session("SELECT * FROM token_usage_by_agent(1, 60)")
        assert standby("SELECT * FROM token_usage_by_agent(1, 60)") == want
        for call in ("SELECT token_usage_compact()", "SELECT token_usage_rebuild()"):
            with pytest.raises(psycopg2.Error, match="recovery|read-only"):
                standby(call)
        standby("SELECT pg_promote()")
        wait_until(lambda: standby("SELECT NOT pg_is_in_recovery()")[0][0], "the standby is not promoted")
        assert standby("SELECT * FROM token_usage_by_agent(1, 60)") == want, "the open writer's rows are lost with it"
        goes_on(standby)
        standby.close()
        lost("ROLLBACK")
        lost.close()
    finally:
        server._run([server.bin / "pg_ctl", "-D", folder, "-m", "immediate", "-w", "stop"])
    session.close()


def test_a_copied_database(server):
    """CREATE DATABASE ... TEMPLATE copies the files, row ids and all: the copy's rollups are as good as the original's."""
    session = made(server, "original")
    session.close()
    root = Session(server, "postgres", "postgres")
    root("CREATE DATABASE copied TEMPLATE original OWNER app")
    root.close()
    copy = Session(server, "copied")
    right(copy)
    goes_on(copy)
    copy.close()
    original = Session(server, "original")
    clean(original)
    original.close()
