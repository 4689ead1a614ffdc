"""A stream of random writes to a SQLite ledger, and the check that follows each of them. Rows are dense in few hours,
so that many buckets are rolled, and are stored in every form that created_at may have."""
import datetime
import random
import sqlite3
import struct

from oracle import EPOCH, Ledger

ZONES = ["UTC", "Europe/Moscow", "America/New_York", "Asia/Kolkata"]
AGENTS = ["writer", "editor", "researcher", "Пример", ""]
MODELS = [("openai", "gpt-4o"), ("openai", "gpt-4o-mini"), ("anthropic", "claude"), ("mistral", "large")]
START = 1735689600  # 2025-01-01
COLUMNS = ["user_id", "agent_id", "request_id", "ai_provider", "ai_model", "prompt_tokens", "completion_tokens",
           "total_tokens", "cost_usd", "cost_rub", "execution_time_ms", "created_at"]
USERS = [1, 2, 3]


def connect(path, library=None):
    db = sqlite3.connect(path, isolation_level=None, timeout=30)
    if library:
        db.enable_load_extension(True)
        db.load_extension(str(library))
    return db


class Stream:
    def __init__(self, path, library, seed, schema="main", recursive=False, compacts=0.1):
        self.random = random.Random(seed)
        self.compacts = compacts  # how often a step ends with a call of token_usage_compact(), if ever
        self.schema = schema
        target = ":memory:" if schema != "main" else path
        self.reader = connect(target, library)
        self.plain = connect(target)
        for db in (self.reader, self.plain):
            if schema != "main":
                db.execute(f"ATTACH ? AS {schema}", (str(path),))
            db.execute(f"PRAGMA recursive_triggers = {int(recursive)}")
            db.execute("PRAGMA foreign_keys = ON")
            db.execute(f"PRAGMA {schema}.journal_mode = WAL")
            db.execute(f"PRAGMA {schema}.synchronous = OFF")
        self.reader.execute(f"CREATE TABLE {schema}.users (id INTEGER PRIMARY KEY)")
        self.reader.executemany(f"INSERT INTO {schema}.users VALUES (?)", [(user,) for user in USERS])
        self.reader.execute("SELECT token_usage_migrate('bigint', ?)", (schema,))
        self.table = f"{schema}.token_usage"
        self.requests = 0
        self.rolled = 0
        self.clock = START + 120 * 86400

    def close(self):
        self.reader.close()
        self.plain.close()

    # Values

    def second(self):
        """Mostly few days with few hours each, so that buckets fill; sometimes anywhere, the future included."""
        r = self.random
        if r.random() < 0.03:
            return START + r.randrange(-400 * 86400, 4000 * 86400)
        if r.random() < 0.3:
            return self.clock - r.randrange(20 * 86400)
        month = r.choice([0, 31, 59, 90])
        day = month + r.choice([0, 0, 1, 5, 27])
        return START + day * 86400 + r.choice([0, 1, 2, 11, 20, 21, 23]) * 3600 + r.choice(
            [0, 3599, r.randrange(3600), r.randrange(3600)])

    def stored(self, second):
        r = self.random
        form = r.randrange(12)
        moment = EPOCH + datetime.timedelta(seconds=second)
        fraction = r.choice([".1", ".999999", ".9999999", ".000001"])
        if form < 4:
            return moment.strftime("%Y-%m-%d %H:%M:%S")
        if form == 4:
            return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
        if form == 5:
            return moment.strftime("%Y-%m-%dT%H:%M:%S") + fraction + r.choice(["", "Z", " Z"])
        if form == 6:
            return moment.strftime("%Y-%m-%d %H:%M")
        if form == 7:
            hours, minutes, sign = r.choice([(3, 0, 1), (5, 30, 1), (4, 0, -1), (23, 59, 1), (18, 45, -1)])
            local = moment + sign * datetime.timedelta(hours=hours, minutes=minutes)
            return local.strftime("%Y-%m-%dT%H:%M:%S") + r.choice(["", fraction]) + r.choice(["", " "]) + (
                "+" if sign > 0 else "-") + f"{hours:02}:{minutes:02}"
        if form == 8:
            return second
        if form == 9:
            return second * 1000 + r.randrange(1000)
        if form == 10:
            return second + r.choice([0.0, 0.5, 0.25, 0.999999])
        if r.random() < 0.1:
            return r.choice(["yesterday", "2025-02-30 10:00:00", "2025-01-01", "2025-01-01 24:00:00",
                             "2025-01-01 10:00:60", "2025-01-01T10:00:00z", "2025-01-01 10:00:00 +03",
                             "now", "2460000.5", "2025-01-01 10:00:00.", "2025-01-01 10:00:00+24:00"])
        return moment.strftime("%Y-%m-%d %H:%M:%S")

    def cost(self):
        r = self.random
        kind = r.randrange(10)
        if kind == 0:
            return None
        if kind < 6:
            return r.randrange(10**6) / 10**r.choice([3, 5, 6, 7, 9])
        if kind == 6:
            return r.randrange(2000) * 0.15 / 1e6 + r.randrange(999) * 0.6 / 1e6
        if kind == 7:
            return r.random() * 10**r.randrange(-9, 5)
        if kind == 8:
            return (2 * r.randrange(10**6) + 1) / 2 * 1e-12  # a tie at the last place, or close to one
        if r.random() < 0.03:
            return struct.unpack("<d", struct.pack("<Q", r.randrange(1 << 62)))[0] % 1e9
        return float(r.randrange(100))

    def row(self, **given):
        r = self.random
        provider, model = r.choice(MODELS)
        prompt, completion = r.randrange(5000), r.randrange(2000)
        if r.random() < 0.002:
            prompt = 2**33 + r.randrange(100)
        self.requests += 1
        row = {"user_id": r.choice([1, 1, 1, 2, 3]), "agent_id": r.choice(AGENTS),
               "request_id": None if r.random() < 0.3 else f"r{self.requests}", "ai_provider": provider,
               "ai_model": model, "prompt_tokens": prompt, "completion_tokens": completion,
               "total_tokens": prompt + completion, "cost_usd": self.cost(), "cost_rub": self.cost(),
               "execution_time_ms": r.choice([None, r.randrange(9000)]), "created_at": self.stored(self.second())}
        row.update(given)
        return row

    def some_id(self):
        row = self.reader.execute(
            f"SELECT id FROM {self.table} WHERE id >= abs(random()) % (SELECT max(id) + 1 FROM {self.table})"
            " LIMIT 1").fetchone()
        return row[0] if row else 1

    def some_request(self):
        row = self.reader.execute(f"SELECT request_id FROM {self.table} WHERE id >= ? AND request_id IS NOT NULL"
                                  " LIMIT 1", (self.some_id(),)).fetchone()
        return row[0] if row else "none"

    # Writes

    def insert(self, db, rows, head="INSERT", tail=""):
        columns = list(rows[0])
        marks = "(" + ",".join("?" * len(columns)) + ")"
        db.execute(f"{head} INTO {self.table} ({','.join(columns)}) VALUES {','.join([marks] * len(rows))} {tail}",
                   [row[column] for row in rows for column in columns])

    def traffic(self, db):
        """What an application does all day: rows in the order of time, mostly in one form."""
        r = self.random
        for _ in range(r.randrange(1, 4)):
            rows = []
            for _ in range(r.randrange(20, 60)):
                self.clock += r.choice([1, 10, 30, 60]) + (r.random() < 0.02) * 7200
                moment = EPOCH + datetime.timedelta(seconds=self.clock)
                form = "%Y-%m-%d %H:%M:%S" if r.random() < 0.9 else "%Y-%m-%dT%H:%M:%S.5+00:00"
                rows.append(self.row(user_id=r.choice([1, 1, 1, 2]), created_at=moment.strftime(form)))
            self.insert(db, rows)

    def write(self, db, depth=0):
        r = self.random
        op = r.randrange(32)
        if depth == 0 and r.random() < 0.08:
            self.traffic(db)
            if db.execute(f"SELECT count(*) FROM {self.table}").fetchone()[0] > 1500:
                db.execute(f"DELETE FROM {self.table} WHERE id % 3 = 0")
        t = self.table
        if op < 6:
            self.insert(db, [self.row()])
        elif op < 9:
            self.insert(db, [self.row() for _ in range(r.randrange(2, 30))])
        elif op == 9:
            db.execute(f"INSERT INTO {t} (user_id, agent_id, ai_provider, ai_model, prompt_tokens,"
                       " completion_tokens, total_tokens, cost_usd, cost_rub, execution_time_ms, created_at)"
                       f" SELECT user_id, agent_id, ai_provider, ai_model, prompt_tokens, completion_tokens,"
                       f" total_tokens, cost_usd, cost_rub, execution_time_ms, created_at FROM {t}"
                       " WHERE id >= ? ORDER BY id LIMIT 20", (self.some_id(),))
        elif op == 10:
            self.insert(db, [self.row(request_id=self.some_request()), self.row()],
                        tail="ON CONFLICT (request_id) DO UPDATE SET cost_usd = excluded.cost_usd,"
                             " created_at = excluded.created_at, agent_id = excluded.agent_id")
        elif op == 11:
            self.insert(db, [self.row(request_id=self.some_request())], tail="ON CONFLICT DO NOTHING")
        elif op == 12:
            self.insert(db, [self.row(id=self.some_id())], head=r.choice(["INSERT OR REPLACE", "REPLACE"]))
        elif op == 13:
            self.insert(db, [self.row(request_id=self.some_request())], head="INSERT OR REPLACE")
        elif op == 14:
            self.insert(db, [self.row(id=self.some_id(), request_id=self.some_request()),
                             self.row(id=self.some_id(), request_id=self.some_request())],
                        head="INSERT OR REPLACE")
        elif op == 15:
            self.insert(db, [self.row(request_id=self.some_request()), self.row(id=self.some_id()), self.row(),
                             self.row(agent_id=None)], head="INSERT OR IGNORE")
        elif op == 16:
            db.execute(f"UPDATE OR REPLACE {t} SET request_id = ? WHERE id = ?",
                       (self.some_request(), self.some_id()))
        elif op == 17:
            db.execute(f"UPDATE OR REPLACE {t} SET {r.choice(['id', 'rowid', '_rowid_'])} = ? WHERE id = ?",
                       (self.some_id(), self.some_id()))
        elif op == 18:
            db.execute(f"UPDATE OR IGNORE {t} SET id = ?, request_id = ? WHERE id = ?",
                       (self.some_id() + r.randrange(2), self.some_request(), self.some_id()))
        elif op in (19, 20):
            row = self.row()
            column = r.choice([c for c in COLUMNS if c not in ("request_id", "total_tokens")])
            extra = ""
            if column in ("prompt_tokens", "completion_tokens"):
                other = "completion_tokens" if column == "prompt_tokens" else "prompt_tokens"
                extra = f", total_tokens = ?1 + {other}"
            db.execute(f"UPDATE {t} SET {column} = ?1{extra} WHERE id BETWEEN ?2 AND ?3",
                       (row[column], (first := self.some_id()), first + r.choice([0, 0, 3, 30])))
        elif op == 21:
            db.execute(f"UPDATE {t} SET created_at = ? WHERE id = ?", (self.stored(self.second()), self.some_id()))
        elif op == 22:
            db.execute(f"UPDATE {t} SET id = id + ? WHERE id = ?", (10**6 + self.requests, self.some_id()))
        elif op == 23:
            db.execute(f"DELETE FROM {t} WHERE id = ?", (self.some_id(),))
        elif op == 24:
            first = self.some_id()
            db.execute(f"DELETE FROM {t} WHERE id BETWEEN ? AND ?", (first, first + 25))
        elif op == 25 and r.random() < 0.08:
            db.execute(f"DELETE FROM {t}")
        elif op == 26 and r.random() < 0.2:
            user = r.choice(USERS)
            db.execute(f"DELETE FROM {self.schema}.users WHERE id = ?", (user,))
            db.execute(f"INSERT INTO {self.schema}.users VALUES (?)", (user,))
        elif op == 27:
            self.insert(db, [self.row(id=r.choice([-5, 1, 10**9]) + r.randrange(50))], head="INSERT OR REPLACE")
        elif op == 28:
            self.insert(db, [self.row(created_at=None)], head="INSERT OR REPLACE")  # the default steps in
        elif op in (29, 30) and depth < 2:
            name = f"s{depth}"
            db.execute(f"SAVEPOINT {name}")
            for _ in range(r.randrange(1, 4)):
                self.attempt(db, depth + 1)
            if r.random() < 0.5:
                db.execute(f"ROLLBACK TO {name}")
            db.execute(f"RELEASE {name}")
        else:
            self.insert(db, [self.row() for _ in range(r.randrange(1, 60))])

    def attempt(self, db, depth=0):
        try:
            self.write(db, depth)
        except sqlite3.IntegrityError:
            pass  # a constraint of the ledger; what was done before it in the statement is undone or stays

    def step(self):
        r = self.random
        db = self.plain if r.random() < 0.7 else self.reader
        if r.random() < 0.2:
            db.execute("BEGIN")
            for _ in range(r.randrange(1, 4)):
                self.attempt(db)
            if db is self.reader:
                self.check()  # its own uncommitted rows are seen
            db.execute(r.choice(["COMMIT", "COMMIT", "ROLLBACK"]))
        else:
            self.attempt(db)
        if r.random() < self.compacts:
            self.reader.execute("SELECT token_usage_compact(NULL, ?)", (self.schema,))
        if r.random() < 0.1 * self.compacts:
            self.reader.execute("SELECT token_usage_rebuild(?, ?)", (r.choice([None, 1]), self.schema))

    # Checks

    def check(self, everything=False):
        r = self.random
        differences = [row for row in self.reader.execute(
            "SELECT * FROM token_usage_verify(?, ?)", (None if everything else r.choice(USERS), self.schema))
            if row[3] != "created_at"]
        assert differences == [], differences[:5]
        self.rolled += self.reader.execute(
            f"SELECT EXISTS (SELECT 1 FROM {self.schema}.token_usage_rollup)").fetchone()[0]
        for user in USERS if everything else [r.choice(USERS)]:
            ledger = Ledger(self.reader, user, self.schema)
            for zone in ZONES if everything else [r.choice(ZONES)]:
                self.check_reports(ledger, user, zone)

    def check_reports(self, ledger, user, zone):
        r = self.random
        as_of = self.second() + r.choice([0, 86400, 86400 * 40])
        at = as_of * 10**6
        agent = r.choice([None, r.choice(AGENTS)])
        days = r.choice([1, 2, 7, 30, 92])
        period = r.choice(["day", "week", "month", "year", "all"])
        start, end = r.choice([None, self.second()]), r.choice([None, self.second()])
        s = self.schema

        def same(sql, arguments, wanted):
            got = self.reader.execute(sql, arguments).fetchall()
            assert got == wanted, (sql, arguments, got, wanted)

        same("SELECT * FROM token_usage_summary(?, ?, ?, ?)", (user, zone, as_of, s), ledger.summary(zone, at))
        same("SELECT * FROM token_usage_history(?, ?, ?, ?, ?, ?)", (user, days, agent, zone, as_of, s),
             ledger.history(days, agent, zone, at))
        same("SELECT * FROM token_usage_by_agent(?, ?, ?, ?, ?)", (user, days, zone, as_of, s),
             ledger.by((1,), days, zone, at))
        same("SELECT * FROM token_usage_by_model(?, ?, ?, ?, ?)", (user, days, zone, as_of, s),
             ledger.by((2, 3), days, zone, at))
        same("SELECT * FROM token_usage_by_provider(?, ?, ?, ?, ?)", (user, days, zone, as_of, s),
             ledger.by((2,), days, zone, at))
        same("SELECT * FROM token_usage_totals(?, ?, ?, ?, ?, ?)", (user, period, agent, zone, as_of, s),
             ledger.totals(period, agent, zone, at))
        same("SELECT token_usage_detailed_count(?, ?, ?, ?, ?)", (user, agent, start, end, s),
             [(ledger.count(agent, start and start * 10**6, end and end * 10**6),)])
        self.check_page(ledger, user, agent, start, end)

    def check_page(self, ledger, user, agent, start, end):
        """A page anywhere in the list, and the one behind it, which its last row's cursor finds."""
        r = self.random
        limit = r.choice([1, 5, 20, 100])
        offset = r.choice([0, 0, r.randrange(10), r.randrange(200)])
        sql = ("SELECT id, created_at, agent_id, ai_provider, ai_model, prompt_tokens, completion_tokens, total_tokens,"
               " cost_usd, cost_rub, execution_time_ms, request_id, cursor"
               " FROM token_usage_detailed(?, ?, ?, ?, ?, ?, ?, ?)")
        cursor = None
        for place in (offset, offset + limit):
            got = self.reader.execute(
                sql, (user, limit, 0 if cursor else place, agent, start, end, cursor, self.schema)).fetchall()
            wanted = ledger.page(limit, place, agent, start and start * 10**6, end and end * 10**6)
            assert [row[:-1] for row in got] == wanted, (user, limit, place, agent, start, end, cursor, got, wanted)
            if len(got) < limit:
                return
            cursor = got[-1][-1]
