"""Rules 4 and 5 by name: exact decimals, NULL is not zero, averages."""
import random
from decimal import Decimal

import pytest

import harness
import oracle as orc
from harness import Case, load, row

AT = "2025-10-20 10:00:00"
AS_OF = orc.instant("2025-10-20 12:00:00")

COSTS = {
    "one_tenth_and_two_tenths": ["0.1", "0.2"],
    "smallest": ["0.000000000001"] * 7,
    "small_call": ["0.000028"] * 1000,
    "million": ["999999.99", "0.01"],
    "fifteen_digits": ["123456789.123456"] * 11,
    "mixed": ["0.1", "0.000000000001", "0.000028", "999999.99", "123456789.123456"],
    "whole": ["1", "10", "100", "1000"],
    "negative_refund": ["5.25", "-5.25", "-0.1"],
    "halves": ["0.5", "2.5", "1.005", "2.675"],
    "zero": ["0", "0", "0"],
}


@pytest.mark.parametrize("name", COSTS)
def test_costs(database, name):
    rows = [row(i, orc.instant(AT) + i, cost_usd=Decimal(c), cost_rub=Decimal(c) * 3)
            for i, c in enumerate(COSTS[name], 1)]
    load(database, rows)
    case = Case(database, rows)
    case.every_report(42, "UTC", AS_OF, days=1)
    case.report("detailed", 42, 500)
    case.body("detailed_json", 42, 500)


def test_one_tenth_and_two_tenths_is_three_tenths(database):
    load(database, [row(1, AT, cost_usd=Decimal("0.1")), row(2, AT, cost_usd=Decimal("0.2"))])
    got = database.query("SELECT cost_usd FROM token_usage_totals(42, 'day', NULL, 'UTC', "
                         "'2025-10-20T12:00:00Z')").rows[0][0]
    assert str(got) == "0.3"
    body = database.query("SELECT token_usage_summary_json(42, 'UTC', '2025-10-20')").rows[0][0]
    assert harness.parse_body(body)["data"]["today"]["cost_usd"] == Decimal("0.3")


def test_sums_near_the_promised_limit(database):
    """Exact up to 10^15 units of currency, 12 places at once."""
    rows = [row(i, orc.instant(AT) + i, cost_usd=Decimal("99999999999999"), cost_rub=Decimal(c))
            for i, c in enumerate(["0.000000000001"] * 3 + ["400000000000000"] * 2
                                  + ["99999999999999.9"], 1)]
    load(database, rows)
    case = Case(database, rows)
    case.every_report(42, "UTC", AS_OF, days=1)


def test_numeric_costs_with_more_places_round_half_even(pg):
    """Numeric counts as it is up to 12 places; beyond, half-even."""
    database = pg.database()
    try:
        costs = ["0.0000000000005", "0.0000000000015", "0.0000000000025", "1.23456789012345",
                 "-0.0000000000005", "-0.0000000000015", "0.00000000000050000000000000000001",
                 "123456789012345678.1234567890125", "1.10000000000000000"]
        rows = [row(i, orc.instant(AT) + i, cost_usd=Decimal(c), cost_rub=-Decimal(c))
                for i, c in enumerate(costs, 1)]
        load(database, rows)
        case = Case(database, rows)
        case.every_report(42, "UTC", AS_OF, days=1)
        case.report("detailed", 42, 500)
        case.body("detailed_json", 42, 500)
    finally:
        database.close()


def test_numeric_not_a_number_is_unpriced(pg):
    from support import postgres
    database = pg.database()
    try:
        values = ["NaN", "1.5"] + (["Infinity", "-Infinity"] if postgres.server_version() >= 14
                                   else [])
        rows = [row(i, AT, cost_usd=Decimal(v), cost_rub=Decimal(v))
                for i, v in enumerate(values, 1)]
        load(database, rows)
        case = Case(database, rows)
        case.every_report(42, "UTC", AS_OF, days=1)
        case.report("detailed", 42)
        case.body("detailed_json", 42)
    finally:
        database.close()


REALS = [0.1, 0.1 + 0.2, 1e-12, 1e-13, 5e-13, 1.5e-12, 2.5e-12, 123456789.123456, 1 / 3, 2 / 3,
         1e14 + 0.5, 0.30000000000000004, 1.1 * 1.1, 4.35 * 100, -0.0, -1e-20, 999999.99,
         5e-324, 1.7976931348623157e-10, 72057594037927936.0]


def test_binary_floats_count_as_their_fifteen_digits(edition):
    """SQLite's REAL, and an adopted double precision."""
    database = edition.database(migrate=edition.dialect == "sqlite")
    try:
        if edition.dialect == "pg":
            database.query("CREATE TABLE token_usage (id bigint PRIMARY KEY, user_id bigint, "
                           "cost_usd double precision, cost_rub double precision)")
            database.query("SELECT token_usage_migrate()")
        rows = [row(i, AT, cost_usd=c, cost_rub=c * 7) for i, c in enumerate(REALS, 1)]
        load(database, rows, money=float)
        case = Case(database, rows)
        case.every_report(42, "UTC", AS_OF, days=1)
        case.report("detailed", 42)
        case.body("detailed_json", 42)
    finally:
        database.close()


def test_random_binary_floats(edition, seed):
    rng = random.Random(f"{seed}/floats")
    database = edition.database(migrate=edition.dialect == "sqlite")
    try:
        if edition.dialect == "pg":
            database.query("CREATE TABLE token_usage (id bigint PRIMARY KEY, user_id bigint, "
                           "cost_usd double precision, cost_rub double precision)")
            database.query("SELECT token_usage_migrate()")
        rows = []
        for i in range(1, 501):
            usd = rng.choice((rng.random(), rng.random() * 10.0 ** rng.randrange(-14, 12),
                              round(rng.random(), 6), -rng.random()))
            rows.append(row(i, orc.instant(AT) + i, cost_usd=usd, cost_rub=usd * 95.123,
                            agent_id=f"agent {i % 50:02d}"))
        load(database, rows, money=float)
        case = Case(database, rows)
        case.every_report(42, "UTC", AS_OF, days=1)
        case.report("detailed", 42, 500)
        case.body("detailed_json", 42, 500)
    finally:
        database.close()


def test_adopted_real_costs(pg):
    """A real counts as the shortest decimal that gives the same real back."""
    import struct
    database = pg.database(migrate=False)
    try:
        database.query("CREATE TABLE token_usage (id bigint PRIMARY KEY, user_id bigint, "
                       "cost_usd real, cost_rub real)")
        database.query("SELECT token_usage_migrate()")
        texts = ["0.1", "0.2", "1.005", "16777216", "0.000028", "3.14159", "999999.99"]
        database.query("SET extra_float_digits = 0")
        rows = []
        for i, text in enumerate(texts, 1):
            single = struct.unpack("f", struct.pack("f", float(text)))[0]
            digits = next(Decimal(f"%.{p}g" % single) for p in range(1, 10)
                          if struct.unpack("f", struct.pack("f", float(f"%.{p}g" % single)))[0]
                          == single)
            rows.append(row(i, AT, cost_usd=digits, cost_rub=digits))
        load(database, rows)
        case = Case(database, rows)
        case.every_report(42, "UTC", AS_OF, days=1)
        case.report("detailed", 42)
    finally:
        database.close()


def test_costs_stored_as_text_or_not_a_number_on_sqlite(sqlite):
    """Text that is a plain decimal counts exactly; what is no number is unpriced. The column is
    declared TEXT here, since a REAL column turns such text into a REAL."""
    database = sqlite.database(migrate=False)
    try:
        database.query("CREATE TABLE token_usage (id INTEGER PRIMARY KEY, user_id INTEGER, "
                       "created_at TIMESTAMP, cost_usd TEXT, cost_rub)")
        database.query("SELECT token_usage_migrate()")
        values = [("0.1", "0.1"), ("123456789012.123456789012", "123456789012.123456789012"),
                  ("0.0000000000005", "0"), ("0.0000000000015", "0.000000000002"),
                  ("-1.50", "-1.5"), ("abc", None), ("", None), (b"\x01", None), ("NaN", None),
                  ("Infinity", None), ("1,5", None), ("0x10", None), ("1.2.3", None)]
        rows, stored = [], {}
        for i, (value, meant) in enumerate(values, 1):
            usd = None if meant is None else Decimal(meant)
            rows.append(row(i, AT, cost_usd=usd, cost_rub=usd))
            stored[i] = value
        sequence = iter([v for r in rows for v in (stored[r.id], stored[r.id])])
        load(database, [row(r.id, AT, cost_usd=1, cost_rub=1) for r in rows],
             money=lambda _: next(sequence))
        case = Case(database, rows)
        case.every_report(42, "UTC", AS_OF, days=1)
        case.report("detailed", 42)
        case.body("detailed_json", 42)
    finally:
        database.close()


def test_integer_costs_on_sqlite(sqlite):
    database = sqlite.database(migrate=False)
    try:
        database.query("CREATE TABLE token_usage (id INTEGER PRIMARY KEY, user_id INTEGER, "
                       "created_at TIMESTAMP, cost_usd NUMERIC, cost_rub INTEGER)")
        database.query("SELECT token_usage_migrate()")
        rows = [row(i, AT, cost_usd=Decimal(c), cost_rub=Decimal(c))
                for i, c in enumerate((0, 1, 7, 10**12), 1)]
        load(database, rows, money=int)
        case = Case(database, rows)
        case.every_report(42, "UTC", AS_OF, days=1)
        case.report("detailed", 42)
    finally:
        database.close()


def test_null_cost_is_unpriced(database):
    """Rule 5. unpriced_count looks at cost_usd only."""
    rows = [row(1, AT, cost_usd=None, cost_rub=None), row(2, AT, cost_usd=None),
            row(3, AT, cost_rub=None), row(4, AT, cost_usd=Decimal(0), cost_rub=Decimal(0)),
            row(5, AT, agent_id="unpriced", cost_usd=None, cost_rub=None)]
    load(database, rows)
    case = Case(database, rows)
    case.every_report(42, "UTC", AS_OF, days=1)
    case.report("detailed", 42)
    case.body("detailed_json", 42)
    assert database.query("SELECT unpriced_count FROM token_usage_totals(42, 'day', NULL, 'UTC', "
                          "'2025-10-20')").rows == [(3,)]


@pytest.mark.parametrize("times,average", [
    ([1, 2], 2), ([0, 1], 1), ([1, 1, 2], 1), ([None, None], None), ([None, 0], 0), ([1, 2, 2], 2),
    ([10**15, 10**15 + 1], 10**15 + 1), ([2**62, 2**62, 2**62], 2**62)], ids=str)
def test_average_rounds_half_away(database, times, average):
    rows = [row(i, AT, execution_time_ms=t) for i, t in enumerate(times, 1)]
    load(database, rows)
    Case(database, rows).every_report(42, "UTC", AS_OF, days=1)
    assert database.query("SELECT avg_execution_time_ms FROM token_usage_by_agent(42, 1, 'UTC', "
                          "'2025-10-20')").rows == [(average,)]


def test_average_tokens_per_request_rounds_half_away(database):
    rows = [row(1, AT, prompt_tokens=1, completion_tokens=0),
            row(2, AT, prompt_tokens=2, completion_tokens=0),
            row(3, AT, agent_id="b", prompt_tokens=1, completion_tokens=0),
            row(4, AT, agent_id="b", prompt_tokens=1, completion_tokens=0),
            row(5, AT, agent_id="b", prompt_tokens=2, completion_tokens=0)]
    load(database, rows)
    body = harness.parse_body(database.query(
        "SELECT token_usage_totals_json(42, 'day', NULL, 'UTC', '2025-10-20')").rows[0][0])
    assert [(a["agent_id"], a["avg_tokens_per_request"]) for a in body["by_agent"]] == [
        ("b", 1), ("writer", 2)]


def test_counts_beyond_fifty_three_bits_are_exact(database):
    rows = [row(1, AT, prompt_tokens=2**53 + 1, completion_tokens=0),
            row(2, AT, prompt_tokens=2**60 + 3, completion_tokens=2**60 + 5)]
    load(database, rows)
    case = Case(database, rows)
    case.every_report(42, "UTC", AS_OF, days=1)
    case.body("detailed_json", 42)
