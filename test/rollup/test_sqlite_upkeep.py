"""A SQLite ledger keeps itself compact: a client that never loaded the extension writes, and what reports have to read
from the ledger stays bounded. And the arithmetic that plain SQL does is the contract's."""
import os
import pathlib
import random
import struct
import sys
import time
from decimal import ROUND_HALF_EVEN, Decimal

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from oracle import Ledger  # noqa: E402
from sqlite_stream import connect  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIBRARY = pathlib.Path(os.environ.get("TOKEN_USAGE_SQLITE_LIBRARY", ROOT / "build" / "token_usage.so"))
PLAIN = (ROOT / "migrations" / "add_token_usage_indexes_sqlite.sql").read_text()
SEED = int(os.environ.get("TOKEN_USAGE_SEED", random.SystemRandom().randrange(1 << 32)))
START = 1735689600  # 2025-01-01
INSERT = ("INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, prompt_tokens, total_tokens, cost_usd,"
          " cost_rub, created_at) VALUES (?, ?, 'p', ?, ?, ?, ?, ?, ?)")


def text(second, form="%Y-%m-%d %H:%M:%S"):
    return time.strftime(form, time.gmtime(second))


@pytest.fixture
def plain(tmp_path):
    db = connect(tmp_path / "ledger.db")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = OFF")
    db.executescript(PLAIN)
    yield db
    db.close()


@pytest.fixture
def reader(plain, tmp_path):
    db = connect(tmp_path / "ledger.db", LIBRARY)
    yield db
    db.close()


def not_rolled(db, user):
    """Rows of the user that lie in no bucket that counts."""
    buckets = [row for row in db.execute(
        "SELECT bucket, bucket + size FROM token_usage_rollup AS r WHERE user_id = ? AND dimension = 0 AND NOT EXISTS"
        " (SELECT 1 FROM token_usage_rollup_late AS l WHERE l.user_id = r.user_id AND l.size = r.size"
        " AND l.until = r.bucket + r.size)", (user,))]
    covered = set()
    for low, high in buckets:
        covered.update(range(low, high))
    return sum(1 for (hour,) in db.execute(
        "SELECT strftime('%s', created_at) / 3600 FROM token_usage WHERE user_id = ?", (user,)) if hour not in covered)


@pytest.mark.parametrize("form", ["%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S.250000+00:00"])
def test_what_waits_stays_bounded(plain, reader, form):
    """Two months of a busy user and of a quiet one, in the order of time, with late rows, updates and deletes."""
    r = random.Random(SEED)
    print("seed", SEED)
    worst = {1: 0, 2: 0}
    second = START
    for i in range(30_000):
        second += 170
        user = 1 if i % 20 else 2  # user 1 has 60 rows in 3 hours, or some more
        if i % 40 == 7:
            second -= 150
        if i % 1000 == 999:
            plain.execute("UPDATE token_usage SET cost_usd = 0.5 WHERE id = ?", (i - 500,))
            plain.execute("DELETE FROM token_usage WHERE id = ?", (i - 700,))
        late = r.randrange(86400) if r.random() < 0.002 else 0
        plain.execute(INSERT, (user, f"a{i % 3}", f"m{i % 5}", i, i, 0.001 * (i % 77), None, text(second - late, form)))
        if i % 500 == 499 and i > 5000:
            for one in worst:
                worst[one] = max(worst[one], not_rolled(reader, one))
    print("not rolled, at most:", worst)
    # The current 3 hours, 512 rows in each of two sizes that are not over yet, what is due, and late rows' hours.
    assert worst[1] < 2000 and worst[2] < 1200
    assert plain.execute("SELECT count(*) FROM token_usage_rollup_late").fetchone()[0] < 60
    assert reader.execute("SELECT count(*) FROM token_usage_rollup WHERE size = 192").fetchone()[0] > 0
    assert reader.execute("SELECT * FROM token_usage_verify()").fetchall() == []
    ledger = Ledger(reader, 1)
    at = second * 10**6
    for got, wanted in (
            ("SELECT * FROM token_usage_summary(1, 'UTC', ?)", ledger.summary("UTC", at)),
            ("SELECT * FROM token_usage_by_agent(1, 30, 'UTC', ?)", ledger.by((1,), 30, "UTC", at)),
            ("SELECT * FROM token_usage_by_model(1, 30, 'UTC', ?)", ledger.by((2, 3), 30, "UTC", at))):
        assert reader.execute(got, (second,)).fetchall() == wanted


def test_every_form_of_number_and_second(plain, reader):
    """Unix seconds and milliseconds are rolled as text is."""
    for user, stored in ((1, lambda s: s), (2, lambda s: s * 1000 + 7), (3, lambda s: s + 0.5)):
        for i in range(3000):
            plain.execute(INSERT, (user, "a", "m", 1, 1, 0.1, 0.2, stored(START + i * 120)))
        assert reader.execute("SELECT count(*) FROM token_usage_rollup WHERE user_id = ? AND size = 24 AND dimension = 0",
                              (user,)).fetchone()[0] >= 2
    assert reader.execute("SELECT count(*) FROM token_usage_rollup_odd").fetchone() == (0,)
    assert reader.execute("SELECT * FROM token_usage_verify()").fetchall() == []


ODD = {"cost_usd": [1000.5, 1e300, -5e6, "much", b"x", 1.0000000000005],
       "prompt_tokens": [2**33, 1.5, "7x"],
       "execution_time_ms": [2**40, 0.5, "soon"],
       "created_at": ["2025-01-01T10:00:00+03:00", "2025-01-01 10:00", "2025-02-30 10:00:00", "2025-01-01 24:00:00",
                      "yesterday", "2025-01-01 10:00:00 Z", "2025-01-01T10:00:59.99999Z", 253402300800000, 1e11 + 0.5, b"2025"]}


def test_odd_rows_are_listed_and_read(plain, reader):
    for i in range(1500):
        plain.execute(INSERT, (1, "a", "m", 1, 1, 0.1, 0.2, text(START + i * 60)))
    plain.execute("PRAGMA ignore_check_constraints = ON")
    n = 0
    for column, values in ODD.items():
        for value in values:
            n += 1
            row = {"user_id": 1, "agent_id": "odd", "ai_provider": "p", "ai_model": "m", "created_at": text(START + 300), column: value}
            plain.execute(f"INSERT INTO token_usage ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", list(row.values()))
            assert plain.execute("SELECT id IN (SELECT id FROM token_usage_rollup_odd) FROM token_usage ORDER BY id DESC"
                                 " LIMIT 1").fetchone() == (1,), row
    assert [row for row in reader.execute("SELECT * FROM token_usage_verify()") if row[3] != "created_at"] == []
    readable = sum(isinstance(value, str) and value in ("2025-01-01T10:00:00+03:00", "2025-01-01 10:00",
                                                        "2025-01-01 10:00:00 Z", "2025-01-01T10:00:59.99999Z")
                   for value in ODD["created_at"])
    wanted = 1500 + n - len(ODD["created_at"]) + readable + 1  # and 10^11 as a REAL, which is seconds
    assert reader.execute("SELECT requests_count FROM token_usage_totals(1, 'all', NULL, 'UTC', '9000-01-01')").fetchone() == (wanted,)
    assert reader.execute("SELECT requests_count FROM token_usage_totals(1, 'day', 'odd', 'UTC', '2025-01-01')").fetchone() == (wanted - 1501,)
    # Found again where the list was lost.
    plain.execute("DELETE FROM token_usage_rollup_odd")
    assert {row[3] for row in reader.execute("SELECT * FROM token_usage_verify(1)")} >= {"listed as odd"}
    reader.execute("SELECT token_usage_rebuild()")
    assert reader.execute("SELECT requests_count FROM token_usage_totals(1, 'all', NULL, 'UTC', '9000-01-01')").fetchone() == (wanted,)


def contract(value):
    """A REAL's units of 10^-12 by the contract, with decimals of the standard library."""
    return int(Decimal("%.14e" % value).quantize(Decimal(1).scaleb(-12), rounding=ROUND_HALF_EVEN).scaleb(12))


def hard_costs(r, count):
    for _ in range(count):
        kind = r.randrange(7)
        whole = r.choice([0, 0, 0, r.randrange(10), r.randrange(1000)])
        if kind == 0:
            value = whole + r.randrange(10**12) / 1e12
        elif kind == 1:
            value = (r.randrange(10**r.randrange(1, 15)) + 0.5) * 1e-12  # ties
        elif kind == 2:
            value = r.random() * 10**r.randrange(-13, 4)
        elif kind == 3:
            value = r.randrange(3000) * 0.15e-6 + r.randrange(3000) * 0.6e-6
        elif kind == 4:
            value = round(r.random(), 9) * 92.4712
        elif kind == 5:
            value = struct.unpack("<d", struct.pack("<Q", r.getrandbits(62)))[0]
        else:
            value = struct.unpack("<d", struct.pack("<q", struct.unpack("<q", struct.pack("<d", (r.randrange(10**13) + 0.5) * 1e-12))[0]
                                                    + r.randrange(-3, 4)))[0]
        yield -value if r.random() < 0.2 else value


def test_plain_sql_adds_what_the_contract_says(plain, reader):
    """Whatever SQL does not call odd, it takes for the contract's decimal; the library agrees, and so does this file."""
    r = random.Random(SEED)
    print("seed", SEED)
    easy = rare = 0
    condition = PLAIN[PLAIN.index("CASE WHEN cost_usd IS NULL THEN 1 WHEN +cost_usd BETWEEN"):]
    condition = condition[:condition.index("<= 0.5 END") + len("<= 0.5 END")]
    assert "CAST(round(t.cost_usd * 1e12) AS INTEGER) / 1000000" in PLAIN
    query = (f"SELECT {condition}, CAST(round(cost_usd * 1e12) AS INTEGER),"
             " (SELECT token_usage_decimal_sum(cost_usd)) FROM (SELECT ? AS cost_usd)")
    for value in hard_costs(r, 200_000):
        good, units, total = reader.execute(query, (value,)).fetchone()
        if good:
            easy += 1
            assert units == contract(value), value
            assert Decimal(total).scaleb(12) == units, value
        elif abs(value) < 999:
            rare += 1
    assert easy > 100_000 and rare > 0
    # Costs with many digits are odd by rare chance only.
    costs = [r.random() * 0.2 for _ in range(20_000)]
    assert sum(1 for value in costs if not reader.execute(query, (value,)).fetchone()[0]) < 100
