"""The SQLite library as clients meet it: the stock shell, Debian's Python, two clients of Node; and
what the file itself promises (one exported symbol, no libsqlite3 linked)."""
import json
import os
import pathlib
import re
import shutil
import subprocess

import pytest

from support import paths

NODE = pathlib.Path(os.environ.get("TOKEN_USAGE_NODE", paths.ROOT / "build" / "node"))
LOAD = ("SELECT token_usage_migrate();\n" + (paths.ROOT / "examples" / "sample_ledger.sql").read_text())
CALL = "SELECT token_usage_summary_json(42, 'Europe/Moscow', '2025-10-20T18:00:00Z')"
WANT = {"requests_count": 4, "total_tokens": 11250, "cost_usd": 0.019385, "unpriced_count": 1}


@pytest.fixture(autouse=True)
def _only_with_sqlite():
    from support import editions
    if "sqlite" not in editions.wanted():
        pytest.skip("TOKEN_USAGE_EDITIONS leaves out sqlite")


def right(body):
    today = json.loads(body)["data"]["today"]
    return {k: today[k] for k in WANT} == WANT


def run(argv, **more):
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, **more)
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
    return done.stdout


def test_stock_shell(tmp_path):
    """`.load ./token_usage`, from the folder that holds the library."""
    out = run(["sqlite3", "-bail", tmp_path / "x.db"], cwd=paths.LIBRARY.parent,
              input=f".load ./{paths.LIBRARY.stem}\n.mode list\n{LOAD}\n{CALL};\n")
    assert right(out.splitlines()[-1])


def test_stock_shell_without_the_library_writes_to_a_migrated_file(tmp_path):
    """Nothing stored in the file calls a function of ours."""
    path = tmp_path / "x.db"
    run(["sqlite3", "-bail", path], input=f".load {paths.library_for_load()}\n{LOAD}")
    out = run(["sqlite3", "-bail", path], input=(
        "INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model) VALUES (1, 'a', 'p', 'm');\n"
        "UPDATE token_usage SET agent_id = 'b' WHERE user_id = 1;\nDELETE FROM token_usage WHERE "
        "user_id = 1;\nVACUUM;\nPRAGMA integrity_check;\nSELECT count(*) FROM token_usage;\n"))
    assert out.split() == ["ok", "14"]


def test_python(tmp_path):
    out = run(["/usr/bin/python3", "-c", f"""
import sqlite3
db = sqlite3.connect({str(tmp_path / 'x.db')!r})
db.enable_load_extension(True)
db.load_extension({paths.library_for_load()!r})
db.executescript({LOAD!r})
print(db.execute({CALL!r}).fetchone()[0])
"""])
    assert right(out)


def node_client(script, module):
    if not (NODE / "node").exists():
        pytest.skip(f"no Node in {NODE}; test/clients/node.sh puts it there")
    if module and not (NODE / "node_modules" / module / "build" / "Release").exists():
        pytest.skip(f"no compiled {module} in {NODE}; test/clients/node.sh puts it there")
    return run([NODE / "node", "--no-warnings", "-e", script], cwd=NODE)


REPORTS = """
for (const sql of ["SELECT * FROM token_usage_history(?, ?, NULL, 'UTC', '2025-10-20T18:00:00Z')",
                   "SELECT * FROM token_usage_by_agent(?, ?, 'UTC', '2025-10-20T18:00:00Z')",
                   "SELECT * FROM token_usage_detailed(?, ?)"]) {
  const rows = db.prepare(sql).all(42, 3);
  if (rows.length !== 3) throw new Error(`${sql}: ${rows.length} rows`);
}
let message;
try { db.prepare("SELECT * FROM token_usage_history(?, ?)").all(42, 0); } catch (e) { message = e.message; }
if (message !== "token_usage: days must be a whole number from 1 to 36600, got 0") throw new Error(message);
"""


def test_node_sqlite():
    """node:sqlite, part of Node 22 and later."""
    out = node_client(f"""
const {{ DatabaseSync }} = require('node:sqlite');
const db = new DatabaseSync(':memory:', {{ allowExtension: true }});
db.loadExtension({json.dumps(str(paths.LIBRARY))});
db.exec({json.dumps(LOAD)});
{REPORTS}
console.log(Object.values(db.prepare({json.dumps(CALL)}).get())[0]);
""", None)
    assert right(out)


def test_better_sqlite3():
    """It binds every number of JavaScript as REAL."""
    out = node_client(f"""
const db = new (require('better-sqlite3'))(':memory:');
db.loadExtension({json.dumps(paths.library_for_load())});
db.exec({json.dumps(LOAD)});
{REPORTS}
console.log(db.prepare({json.dumps(CALL)}).pluck().get());
""", "better-sqlite3")
    assert right(out)


def test_one_exported_symbol():
    out = run(["nm", "-D", "--defined-only", paths.LIBRARY])
    names = [line.split()[-1] for line in out.splitlines()]
    if "asan" in run(["ldd", paths.LIBRARY]):
        pytest.skip("a sanitized build exports what the sanitizers need")
    assert names == ["sqlite3_tokenusage_init"]


def test_no_libsqlite3_is_linked():
    assert not re.search("sqlite", run(["ldd", paths.LIBRARY]))


def test_the_library_stays_after_the_last_connection():
    """Loaded, closed and loaded again, many times: no crash, no growth of open files."""
    run(["/usr/bin/python3", "-c", f"""
import os, sqlite3
def once():
    db = sqlite3.connect(":memory:")
    db.enable_load_extension(True)
    db.load_extension({paths.library_for_load()!r})
    db.execute("SELECT token_usage_migrate()")
    db.execute("SELECT * FROM token_usage_history(42, 30, NULL, 'Asia/Kathmandu')").fetchall()
    db.close()
once()
before = len(os.listdir("/proc/self/fd"))
for _ in range(50):
    once()
assert len(os.listdir("/proc/self/fd")) == before
"""])


def test_without_time_zone_data(tmp_path):
    """UTC works; another zone is a clear error."""
    if not shutil.which("sqlite3"):
        pytest.skip("no sqlite3 shell")
    out = subprocess.run(
        ["sqlite3", ":memory:"], capture_output=True, text=True,
        env=dict(os.environ, TZDIR=str(tmp_path / "none")),
        input=f".load {paths.library_for_load()}\n{LOAD}\n.mode list\n"
        "SELECT requests_count FROM token_usage_totals(42, 'day', NULL, 'UTC', '2025-10-20T18:00:00Z');\n"
        "SELECT * FROM token_usage_totals(42, 'day', NULL, 'Europe/Moscow', '2025-10-20');\n")
    assert out.stdout.split()[-1] == "4"
    assert ("token_usage: time_zone must be UTC (this system has no time zone data), "
            "got Europe/Moscow") in out.stderr
