"""examples/clients: each program calls an OpenAI-compatible endpoint, here a stub on this machine, and
records the response. Once with the whole response, once with the chunks of a stream."""
import http.server
import json
import os
import shutil
import subprocess
import threading
from decimal import Decimal

import pytest

from support import editions, paths

EXAMPLES = paths.ROOT / "examples" / "clients"
NODE = paths.ROOT / "build" / "node"
USAGE = {"prompt_tokens": 1200, "completion_tokens": 300, "total_tokens": 1500,
         "prompt_tokens_details": {"cached_tokens": 1000}, "completion_tokens_details": {"reasoning_tokens": 0}}
CATALOGUE = [{"id": "openai", "models": [{"id": "gpt-4o", "match": {"starts_with": "gpt-4o"}, "prices": {
    "input_mtok": 2.5, "cache_read_mtok": 1.25, "output_mtok": 10}}]}]


class Stub(http.server.BaseHTTPRequestHandler):
    """Answers every chat completion with the same counts, as a stream where one is asked for."""

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        base = {"id": "chatcmpl-1", "model": "gpt-4o-2024-08-06"}
        if request.get("stream"):
            assert request["stream_options"] == {"include_usage": True}
            chunks = [{**base, "choices": [{"delta": {"content": text}}], "usage": None} for text in ("Hel", "lo")]
            chunks.append({**base, "choices": [], "usage": USAGE})
            body = "".join(f"data: {json.dumps(c)}\n\n" for c in chunks) + "data: [DONE]\n\n"
        else:
            body = json.dumps({**base, "choices": [{"message": {"content": "It's \"hello\""}}], "usage": USAGE})
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def endpoint():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def run(command, endpoint, **more):
    """Runs the program twice: the second time it must find its request."""
    env = dict(os.environ, OPENAI_BASE_URL=endpoint, no_proxy="127.0.0.1", **more)
    cwd = NODE if "node" in str(command[0]) else None
    results = []
    for _ in range(2):
        done = subprocess.run([str(c) for c in command], env=env, capture_output=True, text=True, cwd=cwd, timeout=60)
        assert done.returncode == 0, done.stderr
        results.append(json.loads(done.stdout.strip().splitlines()[-1], parse_float=Decimal))
    assert [r["created"] for r in results] == [True, False]
    return results[0]


def node(module):
    if not (NODE / "node").exists() or not (NODE / "node_modules" / module).exists():
        pytest.skip(f"no {module} in {NODE}; test/clients/node.sh puts it there")
    return NODE / "node"


def check(result):
    assert (result["prompt_tokens"], result["completion_tokens"]) == (1200, 300)
    assert result["cost_usd"] == Decimal("0.00475")


@pytest.mark.parametrize("example", ["sqlite3_python.py", "better_sqlite3.mjs", "sqlite3_shell"])
def test_sqlite(endpoint, tmp_path, sqlite, example):
    path = tmp_path / "usage.db"
    database = editions.SqliteDatabase(str(path))
    database.query("SELECT token_usage_migrate()")
    database.query("SELECT token_usage_import_prices(?)", (json.dumps(CATALOGUE),))
    database.close()
    if example.endswith(".mjs"):
        command = [node("better-sqlite3"), EXAMPLES / example, path, paths.LIBRARY]
    elif example.endswith(".py"):
        command = ["/usr/bin/python3", EXAMPLES / example, path, paths.library_for_load()]
    else:
        if shutil.which("curl") is None:
            pytest.skip("no curl here")
        command = [EXAMPLES / example, path, paths.library_for_load()]
    check(run(command, endpoint))


@pytest.mark.parametrize("example", ["psycopg2_streaming.py", "pg.mjs", "psql_shell"])
def test_postgres(endpoint, pg, example):
    if example == "psql_shell" and shutil.which("curl") is None:
        pytest.skip("no curl here")
    database = pg.database()
    database.query("SELECT token_usage_import_prices('" + json.dumps(CATALOGUE) + "')")
    command = {"psycopg2_streaming.py": ["/usr/bin/python3", EXAMPLES / example],
               "psql_shell": [EXAMPLES / example]}.get(example) or [node("pg"), EXAMPLES / example]
    check(run(command, endpoint, DATABASE_URL=pg.server.url(database.name, pg.OWNER)))
    database.close()
