"""The service over time: a bounded pool, a database that goes away and comes back, a graceful stop."""
import concurrent.futures
import json
import os
import signal
import subprocess
import threading
import time

import pytest
from service import PREFIXES, Service, error_of, fill

from support import postgres

SUMMARY = PREFIXES[0] + "/usage/tokens/summary"
TOKENS = PREFIXES[0] + "/usage/tokens"
EVENT = {"agent_id": "writer", "ai_provider": "openai", "ai_model": "gpt-4o", "prompt_tokens": 100, "completion_tokens": 20}


class Lock:
    """Holds the ledger so that nobody can read it, from another connection."""

    def __init__(self, database):
        self.connection = database.another()

    def __enter__(self):
        if self.connection.dialect == "pg":
            self.connection.connection.autocommit = False
            self.connection.query("LOCK TABLE token_usage IN ACCESS EXCLUSIVE MODE")
        else:
            self.connection.query("BEGIN EXCLUSIVE")
        return self

    def __exit__(self, *_):
        self.release()
        self.connection.close()

    def release(self):
        if self.connection.dialect == "pg":
            self.connection.connection.rollback()
        elif self.connection.connection.in_transaction:
            self.connection.query("ROLLBACK")


def test_a_statement_may_not_last(fresh):
    with Service(fresh, "--statement-timeout-ms", "300") as running, Lock(fresh) as lock:
        started = time.monotonic()
        for answer in (running.get(SUMMARY), running.record(EVENT)):
            assert answer.status == 503
            assert error_of(answer) in ("the database took too long", "the database is not available")
            assert answer.headers["retry-after"] == "1"
        assert 0.5 < time.monotonic() - started < 8
        lock.release()
        assert running.get(SUMMARY).status == 200
        assert json.loads(running.get(SUMMARY).text)["data"]["all_time"]["requests_count"] == 0


def history(running, days):
    """A question like no other, so that it is asked for itself."""
    return running.get(TOKENS + "/history", days=days)


def test_who_waits_for_a_connection_does_not_wait_for_ever(fresh):
    with Service(fresh, "--pool", "2", "--pool-wait-ms", "300", "--statement-timeout-ms", "20000") as running, Lock(fresh) as lock:
        with concurrent.futures.ThreadPoolExecutor(5) as threads:
            held = [threads.submit(history, running, days) for days in (1, 2)]
            time.sleep(0.3)
            late = [threads.submit(history, running, days) for days in (3, 4, 5)]
            for answer in (future.result() for future in late):
                assert (answer.status, error_of(answer)) == (503, "all connections to the database are in use")
            lock.release()
            assert [future.result().status for future in held] == [200, 200]


@pytest.mark.parametrize("options,statuses", [([], {200}), (["--ask-each"], {200, 503})])
def test_the_same_question_is_asked_once(fresh, options, statuses):
    """Ten who ask the same while a lock is held need one connection; ten who are asked for each do not get by with it."""
    with Service(fresh, "--pool", "1", "--pool-wait-ms", "300", "--statement-timeout-ms", "20000", *options) as running, Lock(fresh) as lock:
        with concurrent.futures.ThreadPoolExecutor(10) as threads:
            asking = [threads.submit(running.get, SUMMARY) for _ in range(10)]
            time.sleep(1)
            lock.release()
            assert {future.result().status for future in asking} == statuses


def test_a_shared_answer_is_no_older_than_its_question(fresh):
    """Whatever was committed before a request was sent is in its answer, also where many ask the same at once."""
    written = []
    with Service(fresh, "--pool", "3", "--statement-timeout-ms", "60000") as running:
        def write_and_read(i):
            for k in range(6):
                assert running.record({**EVENT, "request_id": f"{i}-{k}"}).status == 201
                written.append(1)
                known = len(written)
                counted = json.loads(running.get(SUMMARY).text)["data"]["all_time"]["requests_count"]
                assert counted >= known

        with concurrent.futures.ThreadPoolExecutor(12) as threads:
            list(threads.map(write_and_read, range(12)))
        assert json.loads(running.get(SUMMARY).text)["data"]["all_time"]["requests_count"] == 72


def test_nobody_gets_anothers_answer(fresh):
    """Many users and questions at once, over few connections: each answer is the asker's."""
    with Service(fresh, "--pool", "3", "--statement-timeout-ms", "60000") as running:
        for user in range(1, 7):
            assert running.record({**EVENT, "prompt_tokens": 1000 * user, "completion_tokens": 0}, str(user)).status == 201

        def ask(i):
            user, days = i % 6 + 1, i % 3 + 1
            data = json.loads(running.get(TOKENS + "/history", str(user), days=days).text)["data"]
            assert len(data) == days and data[-1]["total_tokens"] == 1000 * user
            agents = json.loads(running.get(TOKENS + "/by-agent", str(user)).text)["data"]["totals"]
            assert agents["total_tokens"] == 1000 * user

        with concurrent.futures.ThreadPoolExecutor(16) as threads:
            list(threads.map(ask, range(144)))


def test_no_more_connections_than_told(pg):
    database = pg.database()
    with Service(database, "--pool", "3") as running:
        with concurrent.futures.ThreadPoolExecutor(24) as threads:
            statuses = list(threads.map(lambda _: running.get(SUMMARY).status, range(240)))
        assert set(statuses) == {200}
        open_ones = database.query("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'token-usage-http' "
                                   "AND datname = current_database()").rows[0][0]
        assert 1 <= open_ones <= 3
    database.close()


# -- the database goes away -------------------------------------------------------------------------

def control(server, *argv):
    server._run([server.bin / "pg_ctl", "-D", server.data, "-w", *argv])


@pytest.fixture
def own_server():
    """A server that may be stopped, and keeps what was committed, with a migrated ledger."""
    with postgres.Server(settings="synchronous_commit = on\n") as server:
        connection = server.connect()
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("CREATE EXTENSION token_usage")
            cursor.execute("SELECT token_usage_migrate()")
        connection.close()
        yield server


def start_again(server):
    control(server, "-l", server.log, "-o", f"-k {server.folder} -p {server.port} -c listen_addresses=127.0.0.1", "start")


def test_a_restart_of_the_server_is_not_noticed(native, own_server):
    with Service(own_server.url("postgres", "postgres"), "--pool", "4") as running:
        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            assert set(threads.map(lambda _: running.get(SUMMARY).status, range(40))) == {200}
        assert running.record({**EVENT, "request_id": "before"}).status == 201
        for how in ("fast", "immediate"):
            control(own_server, "-m", how, "stop")
            start_again(own_server)
            # Every pooled connection is dead; each request finds that out before it sends.
            assert running.record({**EVENT, "request_id": how}).status == 201
            with concurrent.futures.ThreadPoolExecutor(8) as threads:
                assert set(threads.map(lambda _: running.get(SUMMARY).status, range(40))) == {200}
        assert json.loads(running.get(SUMMARY).text)["data"]["all_time"]["requests_count"] == 3


def test_a_server_that_is_away(native, own_server):
    with Service(own_server.url("postgres", "postgres")) as running:
        assert running.get(SUMMARY).status == 200
        control(own_server, "-m", "fast", "stop")
        for answer in (running.get(SUMMARY), running.get("/healthz", None), running.record(EVENT),
                       running.get(TOKENS + "/detailed")):
            assert (answer.status, error_of(answer)) == (503, "the database is not available")
            assert "retry-after" in answer.headers
        assert running.get(SUMMARY, None).status == 401  # who may not ask hears nothing of the database
        start_again(own_server)
        assert running.get("/healthz", None).status == 200
        assert running.get(SUMMARY).status == 200


def test_restarts_under_load_give_no_wrong_answer(native, own_server):
    """200 with the right figures, or 503; never an empty 200, and no request that hangs."""
    connection = own_server.connect()
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, prompt_tokens, total_tokens) "
                       "SELECT 42, 'a', 'p', 'm', 1, 1 FROM generate_series(1, 500)")
    connection.close()
    with Service(own_server.url("postgres", "postgres"), "--pool", "4") as running:
        over = threading.Event()
        seen = []

        def ask():
            while not over.is_set():
                answer = running.get(SUMMARY)
                if answer.status == 200:
                    assert json.loads(answer.text)["data"]["all_time"]["requests_count"] == 500
                else:
                    assert answer.status == 503, answer
                seen.append(answer.status)

        with concurrent.futures.ThreadPoolExecutor(6) as threads:
            asking = [threads.submit(ask) for _ in range(6)]
            for how in ("fast", "immediate", "fast"):
                time.sleep(0.4)
                control(own_server, "-m", how, "stop")
                start_again(own_server)
            time.sleep(0.4)
            over.set()
            for future in asking:
                future.result(30)
        assert seen.count(200) > 10
        assert running.get(SUMMARY).status == 200


def test_a_service_may_start_before_its_database(native, own_server):
    control(own_server, "-m", "fast", "stop")
    with Service(own_server.url("postgres", "postgres")) as running:
        running.wait_for_line("starting without the database")
        assert running.get("/healthz", None).status == 503
        start_again(own_server)
        assert running.get("/healthz", None).status == 200


def test_a_ledger_that_is_not_there(edition):
    database = edition.database(migrate=False, file=True)
    if database.dialect == "sqlite":
        database.query("CREATE TABLE other (x)")
    with Service(database) as running:
        answer = running.get(SUMMARY)
        assert (answer.status, error_of(answer)) == (503, "token_usage: no token_usage table; run SELECT token_usage_migrate()")
        assert running.get("/healthz", None).status == 503
        database.query("SELECT token_usage_migrate()")
        assert running.get(SUMMARY).status == 200
        assert running.get("/healthz", None).status == 200
    database.close()


def test_a_sqlite_file_that_is_replaced(sqlite):
    """As a restored backup is: the old file, which open connections still see, is not served on."""
    old, new = sqlite.database(file=True), sqlite.database(file=True)
    fill(old, rows=3)
    fill(new, rows=5)
    old.close()
    new.close()
    with Service(old) as running:
        def count():
            return json.loads(running.get(SUMMARY).text)["data"]["all_time"]["requests_count"]

        assert count() == 3
        os.remove(old.path)
        answer = running.get(SUMMARY)
        assert (answer.status, error_of(answer)) == (503, "the database is not available")
        assert running.get("/healthz", None).status == 503
        os.rename(new.path, old.path)
        assert count() == 5


def test_a_sqlite_file_that_is_none(sqlite):
    database = sqlite.database(file=True)
    path = database.path
    database.close()
    with open(path, "wb") as file:
        file.write(b"no database at all" * 300)
    with Service(path) as running:
        answer = running.get(SUMMARY)
        assert (answer.status, error_of(answer)) == (503, "the database is not available")


# -- the end ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_requests_in_flight_end_before_the_service_does(fresh, number):
    with Service(fresh, "--statement-timeout-ms", "20000") as running, Lock(fresh) as lock:
        idle = running.connection()
        running.request("GET", "/openapi.json", connection=idle)  # kept alive, and no reason to wait
        with concurrent.futures.ThreadPoolExecutor(2) as threads:
            in_flight = threads.submit(running.get, SUMMARY)
            time.sleep(0.5)
            running.stop(number)
            running.wait_for_line("stopping on SIG")
            time.sleep(0.2)
            assert running.process.poll() is None
            with pytest.raises(OSError):
                running.socket()
            lock.release()
            answer = in_flight.result(20)
        assert answer.status == 200
        assert answer.headers["connection"].lower() == "close"
        assert running.process.wait(20) == 0
        running.wait_for_line("stopped")
        idle.close()


def test_a_stop_does_not_wait_for_ever(fresh):
    with Service(fresh, "--statement-timeout-ms", "20000", "--stop-timeout-ms", "300") as running, Lock(fresh) as lock:
        thread = threading.Thread(target=lambda: _ignore(running.get, SUMMARY), daemon=True)
        thread.start()
        time.sleep(0.4)
        running.stop()
        time.sleep(0.8)
        lock.release()
        assert running.process.wait(25) == 1
        running.wait_for_line("1 requests cut off")
        thread.join(20)


def _ignore(function, *arguments):
    try:
        function(*arguments)
    except Exception:
        pass


def test_a_port_in_use(sqlite_service, sqlite):
    from service import PROGRAM, SECRET
    done = subprocess.run([str(PROGRAM), "--database", "x.db", "--listen", sqlite_service.host],
                          env={**os.environ, "TOKEN_USAGE_JWT_KEY": SECRET}, capture_output=True, text=True, timeout=20)
    assert done.returncode == 2 and "cannot listen on" in done.stderr


def test_it_listens_on_loopback_alone(sqlite_service):
    """Unless told otherwise: no other address of the machine answers, and the default says so."""
    from service import PROGRAM
    text = subprocess.run([str(PROGRAM), "--help"], capture_output=True, text=True, check=True).stdout
    assert "=127.0.0.1:8080" in text
    port = int(sqlite_service.host.split(":")[1])
    listening = [line.split()[1] for line in open("/proc/net/tcp") if line.split()[3] == "0A"
                 and line.split()[1].endswith(f":{port:04X}")]
    assert listening == [f"0100007F:{port:04X}"]
