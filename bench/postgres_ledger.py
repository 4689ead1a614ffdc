"""What the PostgreSQL benchmarks share: a server, ledgers of a given size, medians of prepared statements, and pgbench in turns.

A ledger is loaded by one INSERT ... SELECT in time order with the secondary indexes and our triggers off, then completed by
token_usage_migrate(). Two ledgers that are to be compared are copies of one database.
"""
import contextlib
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from support import paths, postgres

HEAVY, MEDIAN = 1, 500
OWNER = "app"

# For 2 cores and 24 GB; what a DBA would set. Commits are not waited for, checkpoints do not come in the middle of a turn.
SETTINGS = """
shared_buffers = 4GB
effective_cache_size = 12GB
maintenance_work_mem = 1GB
work_mem = 64MB
random_page_cost = 1.1
max_wal_size = 20GB
checkpoint_timeout = 30min
fsync = on
full_page_writes = on
synchronous_commit = off
autovacuum_naptime = 1min
"""

# i -> a row, always the same. h picks who and what, g the sizes.
LOAD = """
INSERT INTO token_usage (user_id, workflow_id, agent_id, request_id, endpoint, ai_provider, ai_model, prompt_tokens, completion_tokens,
                         total_tokens, cost_usd, cost_rub, platform, content_type, task_type, execution_time_ms, created_at)
SELECT {user}, CASE WHEN g % 10 = 0 THEN 'workflow-' || g % 100000 END, 'agent-' || h / 4995 % 12, 'req-' || to_char(i, 'FM000000000'),
       '/v1/chat/completions', (ARRAY['openai', 'anthropic', 'google'])[m % 3 + 1], 'model-' || m, p, c, p + c,
       CASE WHEN g % 100 > 0 THEN (p * 3 + c * 15) * 0.000001 END, CASE WHEN g % 100 > 0 THEN (p * 3 + c * 15) * 0.000095 END,
       'web', 'chat', 'answer', 100 + g / 7 % 5000, since + (now() - since) * (i::float8 / {rows})
  FROM (SELECT i, h, g, h / 59940 % 15 AS m, 100 + g / 11 % 4000 AS p, 10 + g / 13 % 800 AS c, now() - interval '{years}' AS since
          FROM (SELECT i, hashint8extended(i, 0) & 9223372036854775807 AS h, hashint8extended(i, 1) & 9223372036854775807 AS g
                  FROM generate_series(1, {rows}::bigint) i) x) y
"""

# pgbench: one request of a user drawn as in the ledger.
DRAW = """
\\set pick random(1, 1249)
\\set user case when :pick <= 250 then 1 else :pick - 249 end
\\set agent random(0, 11)
\\set model random(0, 14)
\\set provider mod(:model, 3) + 1
\\set prompt random(100, 4099)
\\set completion random(10, 809)
\\set total :prompt + :completion
\\set cost :prompt * 3 + :completion * 15
\\set ms random(100, 5099)
"""
COLUMNS = ("user_id, agent_id, request_id, endpoint, ai_provider, ai_model, prompt_tokens, completion_tokens, total_tokens, cost_usd,"
           " cost_rub, platform, content_type, task_type, execution_time_ms, created_at")
INSERT = f"""
INSERT INTO token_usage ({COLUMNS}) VALUES (:user, 'agent-' || :agent, gen_random_uuid()::text, '/v1/chat/completions',
 (ARRAY['openai', 'anthropic', 'google'])[:provider], 'model-' || :model, :prompt, :completion, :total, :cost::bigint * 0.000001,
 :cost::bigint * 0.000095, 'web', 'chat', 'answer', :ms, AT);
"""
UPSERT = """
INSERT INTO usage_daily AS d VALUES (:user, timezone('UTC', now())::date, 'agent-' || :agent, (ARRAY['openai', 'anthropic', 'google'])[:provider],
 'model-' || :model, 1, :prompt, :completion, :total, :cost::bigint * 0.000001, :cost::bigint * 0.000095, 0)
ON CONFLICT (user_id, day, agent_id, ai_provider, ai_model) DO UPDATE SET requests = d.requests + 1, prompt = d.prompt + excluded.prompt,
 completion = d.completion + excluded.completion, total = d.total + excluded.total, usd = d.usd + excluded.usd, rub = d.rub + excluded.rub;
"""
NOW = INSERT.replace("AT", "now()")
THOUSAND = f"""
\\set seed random(1, 1000000000)
INSERT INTO token_usage ({COLUMNS})
SELECT CASE WHEN h % 5 = 0 THEN 1 ELSE 2 + h / 5 % 999 END, 'agent-' || h / 4995 % 12, gen_random_uuid()::text, '/v1/chat/completions',
       (ARRAY['openai', 'anthropic', 'google'])[h / 59940 % 15 % 3 + 1], 'model-' || h / 59940 % 15, h % 4000, h % 800, h % 4000 + h % 800,
       h % 4000 * 0.000001, h % 4000 * 0.000095, 'web', 'chat', 'answer', h % 5000, now()
  FROM (SELECT hashint8extended(i, :seed) & 9223372036854775807 AS h FROM generate_series(1, 1000) i) x;
"""
# name -> (script, clients, rows a transaction)
SCRIPTS = {
    "one": (DRAW + NOW, 8, 1),
    "sparse": (DRAW + "\\set user random(1, :users)\n" + NOW, 8, 1),
    "one_daily": (DRAW + "BEGIN;" + NOW + UPSERT + "COMMIT;\n", 8, 1),
    "thousand": (THOUSAND, 1, 1000),
    "late": (DRAW + INSERT.replace("AT", "now() - interval '1 day'"), 8, 1),
    "two": (DRAW + "BEGIN;" + NOW + DRAW + NOW + "COMMIT;\n", 8, 2),
    "two_daily": (DRAW + "BEGIN;" + NOW + UPSERT + DRAW + NOW + UPSERT + "COMMIT;\n", 8, 2),
    "slow": (DRAW + "\\set user 1\n\\set agent 1\n\\set model 1\n\\set provider 1\nBEGIN;" + NOW + "\\sleep 5 ms\nCOMMIT;\n", 8, 1),
    "slow_daily": (DRAW + "\\set user 1\n\\set agent 1\n\\set model 1\n\\set provider 1\nBEGIN;" + NOW + UPSERT + "\\sleep 5 ms\nCOMMIT;\n", 8, 1),
}


class Here:
    """The server that the environment names, in place of a private one."""

    def __init__(self):
        self.bin = pathlib.Path(postgres.pg_config("--bindir"))
        self.host, self.port = os.environ.get("PGHOST", "localhost"), os.environ.get("PGPORT", "5432")

    def environment(self):
        return dict(os.environ, PGCLIENTENCODING="UTF8", PGTZ="UTC")

    def connect(self, database="postgres", user="postgres"):
        import psycopg2
        return psycopg2.connect(host=self.host, port=self.port, dbname=database, user=user, options="-c TimeZone=UTC")


@contextlib.contextmanager
def own_server(here):
    postgres.stop_on_sigterm()
    if here:
        yield Here()
    else:
        with postgres.Server(settings=SETTINGS) as server:
            yield server


class Session:
    def __init__(self, connection):
        self.connection = connection
        connection.autocommit = True
        self.prepared = 0

    def query(self, sql):
        with self.connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def timed(self, sql):
        start = time.perf_counter()
        rows = self.query(sql)
        return time.perf_counter() - start, rows

    def prepare(self, sql, user):
        """A prepared statement, as the call that runs it."""
        self.prepared += 1
        self.query(f"PREPARE s{self.prepared} (bigint) AS {sql}")
        return f"EXECUTE s{self.prepared} ({user})"

    def close(self):
        self.connection.close()


def median_of(session, calls, sql, hand, user):
    """Medians in ms of `calls` calls of `sql` and, by turns with them, of `hand`: as many calls, but no more than 6 seconds of them."""
    ours, theirs = session.prepare(sql, user), hand and session.prepare(hand, user)
    pair = ([], [])
    turns = 1
    for _ in range(6):  # warm, and past the plans that PostgreSQL makes anew for the first five calls
        session.query(ours)
    if theirs:
        session.query(theirs)
        turns = max(3, min(calls, int(6 / session.timed(theirs)[0])))
    for turn in range(turns):
        for _ in range(calls * (turn + 1) // turns - calls * turn // turns):
            pair[0].append(session.timed(ours)[0])
        if theirs:
            pair[1].append(session.timed(theirs)[0])
    return statistics.median(pair[0]) * 1e3, statistics.median(pair[1]) * 1e3 if theirs else None


class Ledgers:
    def __init__(self, server, rows, sparse_users):
        self.server, self.rows, self.sparse_users = server, rows, sparse_users
        self.ready = set()  # (database, edition) seen to in this run, and (database, edition, "live")
        root = self.root()
        if not root.query(f"SELECT 1 FROM pg_roles WHERE rolname = '{OWNER}'"):
            root.query(f"CREATE ROLE {OWNER} LOGIN")
        root.close()

    def root(self, database="postgres"):
        return Session(self.server.connect(database))

    def open(self, database):
        return Session(self.server.connect(database, OWNER))

    def plain(self, database, sql):
        session = self.open(database)
        rows = session.query(sql)
        session.close()
        return rows

    def setting(self, name):
        return self.plain("postgres", f"SHOW {name}")[0][0]

    def version(self):
        return "PostgreSQL " + self.setting("server_version")

    def processor(self):
        names = re.findall(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
        return f"{len(names)} x {names[0] if names else 'processor'}"

    def create(self, database, template="template0"):
        root = self.root()
        copied = " STRATEGY FILE_COPY" if postgres.server_version() >= 15 else ""
        root.query(f"CREATE DATABASE {database} OWNER {OWNER} TEMPLATE {template}{copied}")
        root.close()
        root = self.root(database)
        root.query(f"ALTER SCHEMA public OWNER TO {OWNER}")
        root.close()

    def drop(self, database):
        root = self.root()
        root.query(f"DROP DATABASE {database}")
        root.close()

    def exists(self, database):
        return bool(self.plain("postgres", f"SELECT 1 FROM pg_database WHERE datname = '{database}'"))

    def want(self, name, edition):
        """The ledger `name`, made if it is not there, served by `edition`."""
        if (name, edition) in self.ready:
            return
        new = not self.exists(name)
        if new:
            self.create(name)
        session = self.open(name)
        session.query("SET client_min_messages = warning")
        native = session.query("SELECT 1 FROM pg_extension WHERE extname = 'token_usage'")
        if native:
            session.query("DROP EXTENSION token_usage")
        session.query("CREATE EXTENSION token_usage" if edition == "pg-native" else paths.PORTABLE_SQL.read_text())
        session.query("SELECT token_usage_migrate()")
        if new:
            self.load(session, name)
        session.close()
        self.ready = {r for r in self.ready if r[0] != name} | {(name, edition)}

    def load(self, session, name):
        start = time.perf_counter()
        for (index,) in session.query("SELECT i.indexrelid::regclass FROM pg_index i LEFT JOIN pg_constraint c ON c.conindid = i.indexrelid"
                                      " WHERE i.indrelid = 'token_usage'::regclass AND c.oid IS NULL"):
            session.query(f"DROP INDEX {index}")
        for (trigger,) in session.query("SELECT tgname FROM pg_trigger WHERE tgrelid = 'token_usage'::regclass AND tgname LIKE 'token_usage_rollup%'"):
            session.query(f"DROP TRIGGER {trigger} ON token_usage")
        if name == "bench_sparse":
            rows, user, years = self.sparse_users * 10, f"1 + i * 7919 % {self.sparse_users}", "1 year"
        else:
            rows = self.rows if name == "bench_full" else self.rows // 10
            user, years = "CASE WHEN h % 5 = 0 THEN 1 ELSE 2 + h / 5 % 999 END", "2 years"
        session.query(LOAD.format(rows=rows, user=user, years=years))
        session.query("SET maintenance_work_mem = '1GB'")
        session.query("SELECT token_usage_migrate()")
        session.query("VACUUM (ANALYZE) token_usage")
        session.query("SELECT token_usage_rebuild()")
        print(f"{name}: {rows:,} rows loaded in {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)

    def live(self, name, edition):
        """10,000 rows one by one, of 8 clients, so that the ledger has the tail that writers leave."""
        self.want(name, edition)
        self.pgbench(name, "one", "-t", "1250")
        self.plain(name, "VACUUM (ANALYZE) token_usage")
        self.ready.add((name, edition, "live"))

    def session(self, name, edition):
        self.want(name, edition)
        return self.open(name)

    def insert_pair(self, base, edition):
        """Two copies of a ledger: with us, and without our triggers and tables."""
        self.want(base, edition)
        names = f"{base}_with", f"{base}_without"
        for name in names:
            if self.exists(name):
                self.drop(name)
            self.create(name, base)
        session = self.open(names[1])
        for (trigger,) in session.query("SELECT tgname FROM pg_trigger WHERE tgrelid = 'token_usage'::regclass AND tgname LIKE 'token_usage_rollup%'"):
            session.query(f"DROP TRIGGER {trigger} ON token_usage")
        for (table,) in session.query("SELECT oid::regclass FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
                                      " AND (relname LIKE 'token\\_usage\\_rollup%' OR relname = 'token_usage_delta')"):
            session.query(f"DROP TABLE {table} CASCADE")
        session.close()
        for name in names:
            self.plain(name, "VACUUM (ANALYZE) token_usage")
        return names

    def make_daily(self, name):
        self.plain(name, """
          CREATE TABLE usage_daily (user_id bigint, day date, agent_id text, ai_provider text, ai_model text, requests bigint NOT NULL,
            prompt bigint NOT NULL, completion bigint NOT NULL, total bigint NOT NULL, usd numeric NOT NULL, rub numeric NOT NULL,
            unpriced bigint NOT NULL, PRIMARY KEY (user_id, day, agent_id, ai_provider, ai_model)) WITH (fillfactor = 70);
          INSERT INTO usage_daily SELECT user_id, timezone('UTC', created_at)::date, agent_id, ai_provider, ai_model, count(*), sum(prompt_tokens),
            sum(completion_tokens), sum(total_tokens), coalesce(sum(cost_usd), 0), coalesce(sum(cost_rub), 0), count(*) - count(cost_usd)
            FROM token_usage GROUP BY 1, 2, 3, 4, 5""")
        self.plain(name, "VACUUM (ANALYZE) usage_daily")

    def deadlocks(self, name):
        time.sleep(1)  # counts reach the view with a delay
        return self.plain("postgres", f"SELECT deadlocks FROM pg_stat_database WHERE datname = '{name}'")[0][0]

    def start(self, database, kind, out, *options):
        """pgbench on a script, its output to `out`."""
        script, clients, _ = SCRIPTS[kind]
        tries = ["--max-tries=1000"] if postgres.server_version() >= 15 else []
        process = subprocess.Popen([str(self.server.bin / "pgbench"), "-n", "-M", "prepared", "-U", OWNER, "-c", str(clients), "-j", "2",
                                    "-D", f"users={self.sparse_users}", *tries, *options, "-f", "-", database], env=self.server.environment(),
                                   stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT, text=True)
        process.stdin.write(script)
        process.stdin.close()
        return process

    def pgbench(self, database, kind, *options):
        """Runs a script to its end."""
        with tempfile.TemporaryFile("w+") as out:
            process = self.start(database, kind, out, *options)
            code = process.wait()
            out.seek(0)
            if code != 0:
                raise RuntimeError(out.read())

    def alternate(self, sides, rounds, seconds, warm):
        """pgbench on each (database, script) in turn, the order turned round each time; the rates of each side, rows a second, and those of
        its sessions while they were new.

        The sessions of a side stay connected, as those of an application's pool do, and its pgbench is stopped while it is not its turn:
        a new session pays for its first touch of each page of the shared memory, for a minute and more, and more than for what it does. So
        before the first turn each side works until that is over, for `warm` seconds at most. Rows are counted by the ledger's sequence.
        """
        rates, new = [[] for _ in sides], []
        root = self.root()
        root.query("CHECKPOINT")
        counters = [self.open(database) for database, _ in sides]
        with contextlib.ExitStack() as stack:
            runs = []
            for database, kind in sides:
                out = stack.enter_context(tempfile.TemporaryFile("w+"))
                runs.append(self.start(database, kind, out, "-T", "86400"))
                runs[-1].out = out
                stack.callback(self.finish, runs[-1], database)
                new.append(self.settle(runs[-1], counters[len(runs) - 1], warm))
            for number in range(rounds):
                order = range(len(sides))
                for at in order if number % 2 == 0 else reversed(order):
                    rates[at].append(self.turn(runs[at], counters[at], seconds))
        for session in (root, *counters):
            session.close()
        return rates, new

    def settle(self, process, counter, warm):
        """Lets a stopped pgbench work until two windows of 15 s have passed that were not 3 % faster than the fastest before; the rate of the first."""
        window, rates, calm = max(1, min(15, warm)), [], 0
        while not rates or calm < 2 and (len(rates) + 1) * window <= warm:
            rate = self.turn(process, counter, window)
            calm = calm + 1 if rates and rate < max(rates) * 1.03 else 0
            rates.append(rate)
        return rates[0]

    @staticmethod
    def turn(process, counter, seconds):
        """Lets a stopped pgbench work for a while; rows a second."""
        def rows():
            return counter.query("SELECT last_value FROM token_usage_id_seq")[0][0]
        process.send_signal(signal.SIGCONT)
        time.sleep(0.2)
        before, start = rows(), time.perf_counter()
        time.sleep(seconds)
        after, end = rows(), time.perf_counter()
        if process.poll() is not None:
            process.out.seek(0)
            raise RuntimeError("pgbench has ended: " + process.out.read())
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.3)  # what its sessions have begun, they end
        return (after - before) / (end - start)

    def finish(self, process, database):
        process.kill()
        process.wait()
        while self.plain("postgres", f"SELECT 1 FROM pg_stat_activity WHERE datname = '{database}' AND application_name = 'pgbench'"):
            time.sleep(0.1)
