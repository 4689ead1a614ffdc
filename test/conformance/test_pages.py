"""Pages of detailed: by offset, by cursor, and by cursor while rows are written between pages."""
import random

import pytest

import harness
import oracle as orc
from harness import Case, load, random_rows, row

AT = "2025-10-20 10:00:00"


def page(database, limit, after, offset=0, agent=None):
    arguments = harness.arguments((42, limit, offset, agent, None, None, after))
    rows = database.query(f"SELECT id, cursor FROM token_usage_detailed({arguments})").rows
    harness.count(database.edition)
    return rows


@pytest.mark.parametrize("limit", [1, 3, 7, 50, 500])
def test_pages_by_cursor_and_by_offset_give_every_row_once(database, seed, limit):
    rng = random.Random(f"{seed}/pages/{limit}")
    rows = random_rows(rng, 120 if limit > 1 else 30, orc.instant(AT), users=(42, 7))
    load(database, rows, rng)
    want = [r.id for r in orc.Oracle(rows).listed(42)]
    got, after = [], None
    while True:
        found = page(database, limit, after)
        got += [r[0] for r in found]
        if len(found) < limit:
            break
        after = found[-1][1]
    assert got == want
    got = []
    for offset in range(0, len(want) + limit, limit):
        got += [r[0] for r in page(database, limit, None, offset)]
    assert got == want


@pytest.mark.parametrize("spread", [3, 90_000_000, 5_400_000_000, 200_000_000_000],
                         ids=["microseconds", "seconds", "minutes", "days"])
def test_one_row_a_page_over_mixed_forms(database, seed, spread):
    """Small ledgers whose stored forms sort otherwise than their times: `10:00Z` stands behind
    `10:00:30Z`, `10:00:00Z` behind `10:00:00.5Z`, and an offset moves a row to another day."""
    rng = random.Random(f"{seed}/forms/{spread}")
    for _ in range(60 if database.dialect == "sqlite" else 2):
        database.query("DELETE FROM token_usage")
        rows = [row(i, orc.instant(AT) + rng.randrange(spread)) for i in range(1, rng.randrange(4, 12))]
        load(database, rows, rng)
        got, after = [], None
        while len(got) <= len(rows) and (found := page(database, 1, after)):
            got.append(found[0][0])
            after = found[0][1]
        assert got == [r.id for r in orc.Oracle(rows).listed(42)]


def test_one_row_a_page_where_a_fraction_sorts_before_its_second(database):
    """`10:00:00Z` stands behind `10:00:00.000002 Z` in the index, and is older."""
    if database.dialect != "sqlite":
        return  # the forms are SQLite's
    stored = ["2025-10-20T10:00:00.000001999 Z", "2025-10-20T10:00", "2025-10-20T10:00:00Z",
              "2025-10-20T23:45:00.000002 +13:45", 1760954400.000001, 1760954400.000001,
              "2025-10-20T10:00:00.000002 Z"]
    for at in stored:
        database.query("INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, created_at)"
                       " VALUES (42, 'a', 'p', 'm', ?)", (at,))
    got, after = [], None
    while len(got) <= len(stored) and (found := page(database, 1, after)):
        got.append(found[0][0])
        after = found[0][1]
    assert got == [7, 4, 6, 5, 1, 3, 2]


def test_no_row_is_skipped_or_repeated_when_rows_are_inserted_between_pages(database, seed):
    rng = random.Random(f"{seed}/between")
    rows = [row(i, orc.instant(AT) + rng.randrange(6)) for i in range(1, 91)]
    load(database, rows)
    before = {r.id for r in rows}
    got, after, fresh = [], None, 1000
    while True:
        found = page(database, 7, after)
        got += [r[0] for r in found]
        if len(found) < 7:
            break
        after = found[-1][1]
        late = [row(fresh + i, orc.instant(AT) + rng.randrange(-2, 9)) for i in range(5)]
        fresh += 5
        load(database, late)
        rows += late
    assert len(got) == len(set(got)), "a row came twice"
    assert before <= set(got), "a row was skipped"
    places = {r.id: i for i, r in enumerate(orc.Oracle(rows).listed(42))}
    assert [places[i] for i in got] == sorted(places[i] for i in got)


def test_the_row_of_the_cursor_may_be_gone(database):
    rows = [row(i, orc.instant(AT) + i) for i in range(1, 11)]
    load(database, rows)
    first = page(database, 4, None)
    database.query(f"DELETE FROM token_usage WHERE id = {first[-1][0]}")
    assert [r[0] for r in page(database, 3, first[-1][1])] == [6, 5, 4]


def test_offset_counts_from_the_cursor(database):
    rows = [row(i, AT, agent_id="ab"[i % 2]) for i in range(1, 31)]
    load(database, rows)
    case = Case(database, rows)
    for agent in (None, "a"):
        listed = case.oracle.listed(42, agent)
        for after in (listed[0], listed[5], listed[-1]):
            words = (42, 4, 3, agent, None, None, orc.cursor(after))
            told = (42, 4, 3, agent, None, None, after)
            case.report("detailed", *words, oracle_args=told)
            case.body("detailed_json", *words, oracle_args=told)


def test_limit_and_offset_of_the_caller(database):
    """An outer LIMIT, OFFSET, ORDER BY and WHERE work on top of the function's own."""
    rows = [row(i, orc.instant(AT) + i) for i in range(1, 31)]
    load(database, rows)
    query = lambda sql: [r[0] for r in database.query(sql).rows]
    assert query("SELECT id FROM token_usage_detailed(42, 20) LIMIT 3") == [30, 29, 28]
    assert query("SELECT id FROM token_usage_detailed(42, 20, 5) LIMIT 3 OFFSET 2") == [23, 22, 21]
    assert query("SELECT id FROM token_usage_detailed(42, 20) ORDER BY id LIMIT 2") == [11, 12]
    assert query("SELECT id FROM token_usage_detailed(42, 20) WHERE id < 13 LIMIT 5") == [12, 11]
    assert query("SELECT a.id FROM token_usage_detailed(42, 3) a JOIN token_usage_detailed(42, 2) b "
                 "ON a.id = b.id ORDER BY a.id") == [29, 30]
    assert query("SELECT count(*) FROM token_usage_history(42, 7) LIMIT 1") == [7]


def test_reports_joined_with_tables(database):
    """A user id that comes from a table (a lateral call)."""
    load(database, [row(i, AT, user_id=u) for i, u in enumerate((1, 1, 2, 42), 1)])
    database.query("CREATE TABLE customers (id integer PRIMARY KEY)")
    database.query("INSERT INTO customers VALUES (1), (2), (3)")
    lateral = "CROSS JOIN LATERAL" if database.dialect == "pg" else "CROSS JOIN"
    got = database.query(f"SELECT c.id, t.requests_count FROM customers c {lateral} "
                         "token_usage_totals(c.id, 'all', NULL, 'UTC', '2025-10-20') t "
                         "ORDER BY c.id").rows
    assert got == [(1, 2), (2, 1), (3, 0)]


def test_small_mixed_ledgers_page_by_page(sqlite, seed):
    """Many small ledgers whose few instants are stored in many forms: text does not sort as time
    does, and a page is read from an index of text."""
    rng = random.Random(f"{seed}/mixed")
    base = orc.instant(AT)
    database = sqlite.database()
    try:
        for _ in range(400):
            spread = rng.choice((2, 3, 2 * 10**6, 90 * 10**6, 3 * 3600 * 10**6, 2 * 86400 * 10**6))
            step = rng.choice((1, 1000, 10**6))
            rows = [row(i, (base + rng.randrange(spread)) // step * step,
                        agent_id=rng.choice(("a", "b"))) for i in range(1, rng.randrange(4, 14))]
            database.query("DELETE FROM token_usage")
            load(database, rows, rng)
            limit, agent = rng.choice((1, 1, 2, 3)), rng.choice((None, None, "a"))
            got, after = [], None
            while True:
                found = page(database, limit, after, 0, agent)
                got += [r[0] for r in found]
                if len(found) < limit or len(got) > len(rows):
                    break
                after = found[-1][1]
            stored = dict(database.query("SELECT id, created_at FROM token_usage").rows)
            assert got == [r.id for r in orc.Oracle(rows).listed(42, agent)], (limit, agent, stored)
    finally:
        database.close()
