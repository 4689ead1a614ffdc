"""PostgreSQL: a server with rolled ledgers goes through pg_upgrade. Where one version only is installed, into a new cluster of
the same version, which takes the same way."""
import pytest

from rollup.test_concurrent_pg import insert
from rollup.test_keep_pg import Session, clean, fill, made, used
from support import paths, postgres


@pytest.fixture
def server():
    with postgres.Server() as own:
        root = own.connect()
        root.autocommit = True
        root.cursor().execute("CREATE ROLE app LOGIN SUPERUSER")
        root.close()
        if not (own.bin / "pg_upgrade").exists():
            pytest.skip("pg_upgrade is not installed")
        yield own


def upgrade(server, link):
    """Moves the server's databases into a cluster that initdb has just made, and starts that in place of the old one."""
    server._run([server.bin / "pg_ctl", "-D", server.data, "-m", "fast", "-w", "stop"])
    new = server.folder / "new"
    server._run([server.bin / "initdb", "-D", new, "-U", "postgres", "-A", "trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"])
    with open(new / "postgresql.conf", "a") as conf:
        conf.write(postgres.SETTINGS)
    server._run([server.bin / "pg_upgrade", "-b", server.bin, "-B", server.bin, "-d", server.data, "-D", new, "-U", "postgres", "-s", server.folder,
                 "-p", postgres._free_port(), "-P", postgres._free_port(), *(["--link"] if link else [])])
    server.data = new
    server._run([server.bin / "pg_ctl", "-D", new, "-l", server.log, "-w", "-o",
                 f"-k {server.folder} -p {server.port} -c listen_addresses=127.0.0.1", "start"])


def reports(session, as_of):
    at = f"'UTC', '{as_of}'"
    return [session(f"SELECT * FROM token_usage_{call}") for user in (1, 2) for call in (
        f"summary({user}, {at})", f"history({user}, 60, NULL, {at})", f"by_agent({user}, 60, {at})", f"by_model({user}, 60, {at})",
        f"totals({user}, 'all', NULL, {at})", f"detailed({user}, 500)")]


@pytest.mark.parametrize("link", [False, True], ids=["copy", "link"])
def test_pg_upgrade(server, link):
    sessions = {"native": made(server, "native"), "portable": made(server, "portable", migrate=False, rows=False)}
    sessions["portable"]((paths.ROOT / "migrations" / "add_token_usage_indexes.sql").read_text())
    fill(sessions["portable"])
    as_of = sessions["native"]("SELECT now()::text")[0][0]
    want = {}
    for name, session in sessions.items():
        clean(session)
        assert used(session)
        want[name] = reports(session, as_of)
        session.close()
    upgrade(server, link)
    for name in want:
        session = Session(server, name)
        assert reports(session, as_of) == want[name]
        clean(session)
        assert used(session)
        for _ in range(3):
            insert(session, 20, "now() - i * interval '13 hours'")
            insert(session, 8, "clock_timestamp()", user=2)
            session("UPDATE token_usage SET prompt_tokens = prompt_tokens + 2, total_tokens = total_tokens + 2 WHERE id % 5 = 0")
            session("DELETE FROM token_usage WHERE id % 11 = 0")
            clean(session)
        session("SELECT token_usage_compact()")
        clean(session)
        session("SELECT token_usage_rebuild()")
        clean(session)
        assert used(session)
        session.close()
