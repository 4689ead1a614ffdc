"""Random ledgers, every report and JSON body, compared with the oracle (rules 1 to 8).

The seed is printed in the header and at the end; TOKEN_USAGE_SEED repeats a run. Set
TOKEN_USAGE_LEDGERS for more ledgers than the default.
"""
import os
import random

import pytest

import harness
import oracle as orc
from harness import Case, load, random_rows

BASES = ("2025-10-28 12:00:00", "2025-04-03 03:30:00", "2018-11-06 10:00:00",
         "2024-03-02 00:00:00", "2011-12-31 12:00:00", "2025-01-01 00:00:00",
         "1999-12-31 23:59:59", "2016-05-10 08:00:00")
LEDGERS = int(os.environ.get("TOKEN_USAGE_LEDGERS", 8))


@pytest.mark.parametrize("number", range(LEDGERS))
def test_random_ledger(edition, seed, number):
    rng = random.Random(f"{seed}/{number}")
    base = orc.instant(BASES[number % len(BASES)])
    rows = random_rows(rng, rng.choice((40, 150, 400)), base)
    setting = rng.choice(harness.ZONES)
    database = edition.database()
    try:
        load(database, rows, rng)
        database.query(f"SELECT token_usage_set('time_zone', '{setting}')")
        case = Case(database, rows, setting)
        for _ in range(14):
            user = rng.choice((42, 42, 7, 10**12, 5))
            zone = rng.choice(harness.ZONES + (None, None))
            as_of = base + rng.randrange(-3, 4) * 86400 * 10**6 + rng.choice(
                (0, 1, -1, rng.randrange(86400 * 10**6)))
            if rng.random() < 0.4:
                as_of = rng.choice(rows).created_at
            case.every_report(user, zone, as_of, days=rng.choice((1, 2, 7, 30, 31, 90, 366)),
                              agent=rng.choice((None, None, "writer", "агент", "nobody")))
        pages(case, rng, rows)
    finally:
        database.close()


def pages(case, rng, rows):
    for _ in range(12):
        user = rng.choice((42, 7, 10**12, 5))
        agent = rng.choice((None, None, "writer", "über"))
        limit, offset = rng.choice((1, 3, 20, 100, 500)), rng.choice((0, 0, 1, 7, 50, 1000))
        start = rng.choice((None, rng.choice(rows).created_at))
        end = rng.choice((None, None, rng.choice(rows).created_at))
        listed = case.oracle.listed(user, agent, start, end)
        after = rng.choice(listed) if listed and rng.random() < 0.5 else None
        words = (user, limit, offset, agent, start if start is None else orc.iso(start),
                 end if end is None else orc.iso(end),
                 after if after is None else orc.cursor(after))
        told = (user, limit, offset, agent, start, end, after)
        case.report("detailed", *words, oracle_args=told)
        case.body("detailed_json", *words, oracle_args=told)
        case.value(f"SELECT token_usage_detailed_count({harness.arguments((user, agent) + words[4:6])})",
                   case.oracle.detailed_count(user, agent, start, end))


@pytest.mark.parametrize("number", range(3))
def test_sums_of_all_dimensions_agree(edition, seed, number):
    """Rule 1: the same user, period and zone give the same sums in every report. The oracle has no
    say here; the bodies carry every digit of the money, so the sums are exact."""
    rng = random.Random(f"{seed}/sums/{number}")
    base = orc.instant(BASES[number])
    database = edition.database()
    try:
        load(database, random_rows(rng, 300, base), rng)
        for _ in range(25):
            user, zone = rng.choice((42, 7)), rng.choice(harness.ZONES)
            days = rng.choice((1, 7, 30, 45, 400))
            as_of = orc.iso(base + rng.randrange(-5, 3) * 86400 * 10**6)

            def items(name, head, *path):
                body = harness.parse_body(database.query(
                    f"SELECT token_usage_{name}_json({head}, '{zone}', '{as_of}')").rows[0][0])
                harness.count(database.edition)
                for key in path:
                    body = body[key]
                return body

            sums = []
            for found in (items("history", f"{user}, {days}, NULL", "data"),
                          items("by_agent", f"{user}, {days}", "data", "agents"),
                          items("by_model", f"{user}, {days}", "data", "by_model")):
                sums.append((sum(i["total_tokens"] for i in found),
                             sum(i["cost_usd"] for i in found), sum(i["cost_rub"] for i in found),
                             sum(i["requests_count"] for i in found)))
            totals = items("by_agent", f"{user}, {days}", "data", "totals")
            providers = items("by_model", f"{user}, {days}", "data", "by_provider")
            names = ("total_tokens", "total_cost_usd", "total_cost_rub", "total_requests")
            sums.append(tuple(totals[n] for n in names))
            sums.append(tuple(sum(p[n] for p in providers) for n in names))
            assert all(s == sums[0] for s in sums), (user, zone, days, as_of, sums)
    finally:
        database.close()
