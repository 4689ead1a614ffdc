"""A mixed load on a ledger by pgbench, watched: what test_load_pg.py runs for some seconds and bench/rollups_postgres_load for ten
minutes. Sixteen clients insert (rows of now, late rows, several in a transaction, with savepoints and rollbacks, at each
isolation level), update and delete rows of their own, compact, and compare reports with plain SQL over the ledger in one
snapshot. No two clients write the same row, so whoever waits for a lock waits because of us.
"""
import pathlib
import re
import subprocess
import tempfile
import threading
import time

from support import postgres

USERS = 8  # user 1 takes about a third of the rows

# For the server that the load runs on: a wait of 50 ms for a lock is written to the log.
SETTINGS = "log_lock_waits = on\ndeadlock_timeout = 50ms\nmax_prepared_transactions = 10\n"

# One statement, so one snapshot; an error when a report and the ledger differ.
FUNCTIONS = """
CREATE OR REPLACE FUNCTION report_and_ledger(who bigint) RETURNS text LANGUAGE sql STABLE AS $$
  WITH said AS (
    SELECT 'agent' AS what, agent_id AS key, requests_count, total_tokens, cost_usd, unpriced_count FROM token_usage_by_agent(who, 4000)
    UNION ALL SELECT 'day', date::text, requests_count, total_tokens, cost_usd, unpriced_count FROM token_usage_history(who, 12, NULL, 'Asia/Kolkata') WHERE requests_count > 0
    UNION ALL SELECT 'model', ai_provider || ai_model, requests_count, total_tokens, cost_usd, unpriced_count FROM token_usage_by_model(who, 4000)
  ), so AS (
    SELECT 'agent' AS what, agent_id AS key, count(*) AS requests_count, sum(total_tokens) AS total_tokens,
           coalesce(sum(cost_usd), 0) AS cost_usd, count(*) - count(cost_usd) AS unpriced_count FROM token_usage WHERE user_id = who GROUP BY 2
    UNION ALL SELECT 'day', timezone('Asia/Kolkata', created_at)::date::text, count(*), sum(total_tokens), coalesce(sum(cost_usd), 0), count(*) - count(cost_usd)
      FROM token_usage WHERE user_id = who AND created_at >= date_trunc('day', now(), 'Asia/Kolkata') - interval '11 days' GROUP BY 2
    UNION ALL SELECT 'model', ai_provider || ai_model, count(*), sum(total_tokens), coalesce(sum(cost_usd), 0), count(*) - count(cost_usd)
      FROM token_usage WHERE user_id = who GROUP BY 2
  )
  SELECT string_agg(d::text, '; ') FROM ((SELECT 'report', x.* FROM (TABLE said EXCEPT ALL TABLE so) x) UNION ALL (SELECT 'ledger', x.* FROM (TABLE so EXCEPT ALL TABLE said) x)) d
$$;
CREATE OR REPLACE FUNCTION compare(who bigint) RETURNS void LANGUAGE plpgsql STABLE AS $$
DECLARE d text := report_and_ledger(who); BEGIN IF d IS NOT NULL THEN RAISE EXCEPTION 'MISMATCH of user %: %', who, d; END IF; END $$;
"""

WHO = "\\set who random(1, 12)\n\\set user case when :who <= {users} then :who else 1 end\n\\set n random(1, 1000000)\n".format(users=USERS)
INSERT = ("INSERT INTO token_usage (user_id, workflow_id, agent_id, ai_provider, ai_model, prompt_tokens, total_tokens, cost_usd, execution_time_ms, created_at) "
          "VALUES (:user, :client_id::text, 'agent ' || :n % 7, 'p' || :n % 2, 'm' || :n % 5, :n % 1000, :n % 1000, "
          "CASE WHEN :n % 9 > 0 THEN (:n % 1000) * 0.000001 END, :n % 500, {when});\n")
NOW, LATE = INSERT.format(when="now()"), INSERT.format(when="now() - interval '1 second' * (:n % 800000)")
MINE = ("id IN (SELECT id FROM token_usage WHERE user_id = :user AND workflow_id = :client_id::text AND created_at > now() - interval '40 seconds' "
        "ORDER BY created_at DESC LIMIT {n})")
SCRIPTS = {
    "now": (46, WHO + NOW), "late": (14, WHO + LATE),
    "several": (6, WHO + "BEGIN;\n" + NOW + LATE + "SAVEPOINT a;\n" + LATE + "ROLLBACK TO a;\n" + LATE + "COMMIT;\n"),
    "rolled back": (3, WHO + "BEGIN;\n" + NOW + LATE + "ROLLBACK;\n"),
    "repeatable read": (4, WHO + "BEGIN ISOLATION LEVEL REPEATABLE READ;\n" + NOW + LATE + "SELECT total_tokens FROM token_usage_totals(:user, 'month');\nCOMMIT;\n"),
    "serializable": (2, WHO + "BEGIN ISOLATION LEVEL SERIALIZABLE;\n" + NOW + LATE + "COMMIT;\n"),
    "slow": (1, WHO + "BEGIN;\n" + NOW + "\\sleep 300 ms\n" + LATE + "COMMIT;\n"),
    "update": (9, WHO + "UPDATE token_usage SET agent_id = 'agent ' || :n % 7, cost_usd = CASE WHEN :n % 5 > 0 THEN 2 END, "
               "created_at = created_at - interval '1 minute' * (:n % 3000 * (:n % 3)) WHERE " + MINE.format(n=3) + ";\n"),
    "delete": (5, WHO + "DELETE FROM token_usage WHERE " + MINE.format(n=1) + ";\n"),
    "compare": (3, WHO + "SELECT compare(:user);\n"), "compact": (1, "SELECT token_usage_compact();\n"),
}


def prepare(query):
    """The functions, and 60,000 rows of the last 60 days, rolled."""
    query(FUNCTIONS)
    query("INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, prompt_tokens, total_tokens, cost_usd, created_at) "
          f"SELECT CASE WHEN i % 3 = 0 THEN 1 ELSE 1 + i % {USERS} END, 'agent ' || i % 7, 'p' || i % 2, 'm' || i % 5, i % 1000, i % 1000, 0.000001 * (i % 1000), "
          "now() - interval '60 days' * (1 - i / 60000.0) FROM generate_series(1, 60000) i")
    query("ANALYZE token_usage")
    query("SELECT token_usage_rebuild()")


class Sample:
    """What waits at one moment: deltas, and the longest stretch of a user's rows that is not sealed."""

    def __init__(self, query, began):
        self.at = time.monotonic() - began
        self.deltas = query("SELECT count(*) FROM token_usage_delta")[0][0]
        self.tail = query("SELECT coalesce(max((SELECT count(*) FROM token_usage t WHERE t.user_id = u.user_id AND t.created_at >= u.sealed_until)), 0) "
                          "FROM token_usage_rollup_user u WHERE isfinite(u.sealed_until)")[0][0]
        self.rows = query("SELECT last_value FROM pg_sequences WHERE sequencename = 'token_usage_id_seq'")[0][0] or 0
        start = time.perf_counter()
        query("SELECT * FROM token_usage_by_agent(1, 30)")
        self.report_ms = (time.perf_counter() - start) * 1e3


class Told:
    """The outcome of a load."""

    def __init__(self):
        self.samples, self.waits, self.output, self.errors, self.deadlocks, self.serialization, self.transactions = [], [], "", [], 0, 0, 0


def run(server, database, user, seconds, clients=16, every=1.0, leave_out=()):
    """Runs the load for `seconds`, samples it, and tells. `server` is a postgres.Server with SETTINGS."""
    told = Told()
    connection = server.connect(database, user)
    connection.autocommit = True

    def query(sql):
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []
    watcher = server.connect(database, user)
    watcher.autocommit = True
    log_from = server.log.stat().st_size
    over = threading.Event()

    def watch():
        with watcher.cursor() as cursor:
            while not over.wait(0.02):
                cursor.execute("SELECT a.wait_event, left(a.query, 80) FROM pg_stat_activity a WHERE a.datname = current_database() AND a.wait_event_type = 'Lock' "
                               "AND a.wait_event <> 'extend' AND a.backend_type = 'client backend'")
                told.waits += cursor.fetchall()
    with tempfile.TemporaryDirectory(prefix="token_usage_load_") as folder:
        files = []
        for number, (name, (weight, script)) in enumerate(SCRIPTS.items()):
            if name not in leave_out:
                path = pathlib.Path(folder) / f"{number}.sql"
                path.write_text(script)
                files += ["-f", f"{path}@{weight}"]
        new = postgres.server_version() >= 15
        began = time.monotonic()
        load = subprocess.Popen([str(server.bin / "pgbench"), "-n", "-M", "prepared", "-U", user, "-c", str(clients), "-j", "2", "-T", str(int(seconds)),
                                 *(["--failures-detailed", "--max-tries=1"] if new else []), *files, database],
                                env=server.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        reader = threading.Thread(target=lambda: setattr(told, "output", load.stdout.read()))
        observer = threading.Thread(target=watch)
        reader.start()
        observer.start()
        while load.poll() is None:
            told.samples.append(Sample(query, began))
            time.sleep(every)
        over.set()
        reader.join()
        observer.join()
        told.seconds = time.monotonic() - began
    told.errors = re.findall(r".*(?:aborted|ERROR|MISMATCH).*", told.output)
    told.transactions = int((re.findall(r"number of transactions actually processed: (\d+)", told.output) or ["0"])[-1])
    told.serialization = sum(int(n) for n in re.findall(r"^number of serialization failures: (\d+)", told.output, re.M)[:1])
    told.deadlocks = sum(int(n) for n in re.findall(r"^number of deadlock failures: (\d+)", told.output, re.M)[:1])
    with open(server.log) as log:
        log.seek(log_from)
        text = log.read()
    told.logged_waits = [line for line in re.findall(r".*still waiting for .*", text) if "extension of relation" not in line]
    told.deadlocks = max(told.deadlocks, text.count("deadlock detected"))
    connection.close()
    watcher.close()
    return told
