"""token_usage_stats and token_usage_decimal_sum: GROUP BY, FILTER, window frames, nothing at all."""
import random
from decimal import Decimal

import pytest

import harness
import oracle as orc
from harness import load, random_rows, row
from support.editions import plain_decimal

STATS = ("token_usage_stats(prompt_tokens, completion_tokens, total_tokens, cost_usd, cost_rub, "
         "execution_time_ms)")
AT = "2025-10-20 10:00:00"


@pytest.fixture(scope="module")
def loaded(edition, seed):
    rng = random.Random(f"{seed}/aggregates")
    rows = random_rows(rng, 300, orc.instant(AT))
    database = edition.database()
    load(database, rows, rng)
    yield database, sorted(rows, key=lambda r: r.id)
    database.close()


def same_stats(database, text, rows):
    got = harness.parse_body(text)
    harness.count(database.edition)
    want = orc.stats(rows)
    assert got == want
    if database.dialect == "sqlite":
        assert list(got) == list(want)


def same_sum(database, value, want):
    """All digits: text on SQLite, numeric on PostgreSQL, without trailing zeros in both."""
    harness.count(database.edition)
    if isinstance(value, Decimal):
        assert format(value, "f") == plain_decimal(want)
    else:
        assert value == (None if want is None else plain_decimal(want))
    assert value is None or isinstance(value, str if database.dialect == "sqlite" else Decimal)


def test_over_everything_and_over_nothing(loaded):
    database, rows = loaded
    same_stats(database, database.query(f"SELECT {STATS} FROM token_usage").rows[0][0], rows)
    same_stats(database, database.query(f"SELECT {STATS} FROM token_usage WHERE id < 0").rows[0][0],
               [])
    got = database.query("SELECT token_usage_decimal_sum(cost_usd), token_usage_decimal_sum(cost_rub) "
                         "FROM token_usage").rows[0]
    same_sum(database, got[0], orc.decimal_sum(r.cost_usd for r in rows))
    same_sum(database, got[1], orc.decimal_sum(r.cost_rub for r in rows))
    same_sum(database, database.query("SELECT token_usage_decimal_sum(cost_usd) FROM token_usage "
                                      "WHERE id < 0").rows[0][0], None)
    same_sum(database, database.query("SELECT token_usage_decimal_sum(cost_usd) FROM token_usage "
                                      "WHERE cost_usd IS NULL").rows[0][0], None)


@pytest.mark.parametrize("column", ["agent_id", "user_id", "ai_model", "platform"])
def test_group_by(loaded, column):
    database, rows = loaded
    got = database.query(f"SELECT {column}, {STATS}, token_usage_decimal_sum(cost_rub) "
                         f"FROM token_usage GROUP BY {column}").rows
    groups = {}
    for r in rows:
        groups.setdefault(getattr(r, column), []).append(r)
    assert {r[0] for r in got} == set(groups)
    for key, text, total in got:
        same_stats(database, text, groups[key])
        same_sum(database, total, orc.decimal_sum(r.cost_rub for r in groups[key]))


def test_filter(loaded):
    database, rows = loaded
    got = database.query(
        f"SELECT user_id, {STATS} FILTER (WHERE total_tokens > 2000), "
        "token_usage_decimal_sum(cost_usd) FILTER (WHERE platform = 'web') "
        "FROM token_usage GROUP BY user_id").rows
    for user, text, total in got:
        mine = [r for r in rows if r.user_id == user]
        same_stats(database, text, [r for r in mine if r.total_tokens > 2000])
        same_sum(database, total, orc.decimal_sum(r.cost_usd for r in mine if r.platform == "web"))


FRAMES = {
    "ROWS BETWEEN 3 PRECEDING AND 2 FOLLOWING": lambda rows, i: rows[max(0, i - 3):i + 3],
    "ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW": lambda rows, i: rows[:i + 1],
    "ROWS BETWEEN 5 PRECEDING AND 3 PRECEDING": lambda rows, i: rows[max(0, i - 5):max(0, i - 2)],
    "ROWS BETWEEN 2 FOLLOWING AND 4 FOLLOWING": lambda rows, i: rows[i + 2:i + 5],
    "ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING": lambda rows, i: rows,
    "ROWS BETWEEN CURRENT ROW AND CURRENT ROW": lambda rows, i: rows[i:i + 1],
}


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("partition", ["", "PARTITION BY user_id "])
def test_window_frames(loaded, frame, partition):
    database, rows = loaded
    got = database.query(
        f"SELECT id, {STATS} OVER w, token_usage_decimal_sum(cost_usd) OVER w FROM token_usage "
        f"WINDOW w AS ({partition}ORDER BY id {frame}) ORDER BY id").rows
    for ident, text, total in got:
        me = rows[ident - 1]
        mine = [r for r in rows if not partition or r.user_id == me.user_id]
        inside = FRAMES[frame](mine, mine.index(me))
        same_stats(database, text, inside)
        same_sum(database, total, orc.decimal_sum(r.cost_usd for r in inside))


def test_exact_over_many_rows(edition):
    """0.1 a hundred thousand times is 10000, and a moving frame does not drift."""
    database = edition.database(migrate=False)
    try:
        numbers = ("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) ")
        got = database.query(numbers + "SELECT token_usage_decimal_sum(0.1) FROM n").rows[0][0]
        same_sum(database, got, Decimal(10000))
        got = database.query(
            numbers + "SELECT max(s) FROM (SELECT CAST(token_usage_decimal_sum(i * 0.1) OVER (ORDER "
            "BY i ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS numeric) - (2 * i - 1) * 0.1 AS s "
            "FROM n) d").rows[0][0]
        assert abs(float(got)) < 1e-9
    finally:
        database.close()


def test_sum_of_literals(database):
    query = lambda sql: str(database.query(sql).rows[0][0])
    assert query("SELECT token_usage_decimal_sum(x) FROM (SELECT 0.1 AS x UNION ALL SELECT 0.2) d") \
        == "0.3"
    assert query("SELECT token_usage_decimal_sum(x) FROM (SELECT 5 AS x UNION ALL SELECT -7) d") == "-2"


def test_overloads_on_postgres(pg):
    database = pg.database()
    try:
        query = lambda sql: format(database.query(sql).rows[0][0], "f")
        for kind in ("numeric", "double precision", "real", "bigint", "integer"):
            assert query(f"SELECT token_usage_decimal_sum(x::{kind}) FROM (VALUES (1), (2)) v(x)") \
                == "3"
        assert query("SELECT token_usage_decimal_sum(x) FROM (VALUES (0.1::float8), (0.2)) v(x)") \
            == "0.3"
        assert query("SELECT token_usage_decimal_sum(x) FROM (VALUES (0.1::real), (0.2::real)) v(x)") \
            == "0.3"
        assert query("SELECT token_usage_decimal_sum(x) FROM (VALUES (1e-13::numeric), (5e-13), "
                     "(1.5e-12)) v(x)") == "0.000000000002"
        assert query("SELECT token_usage_decimal_sum(x) FROM (VALUES ('NaN'::float8), (1.5)) v(x)") \
            == "1.5"
        for usd in ("numeric", "double precision", "real"):
            for rub in ("numeric", "double precision", "real"):
                if (usd == "real") != (rub == "real"):
                    continue
                body = harness.parse_body(database.query(
                    f"SELECT token_usage_stats(1, 2, 3, 0.1::{usd}, 0.2::{rub}, 4)").rows[0][0])
                assert (body["cost_usd"], body["cost_rub"]) == (Decimal("0.1"), Decimal("0.2"))
    finally:
        database.close()


def test_parallel_plan_gives_the_same(pg):
    """Partial aggregation: combine and serialisation."""
    database = pg.database()
    try:
        database.query(
            "INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, prompt_tokens, "
            "total_tokens, cost_usd, cost_rub, execution_time_ms) SELECT i % 7, 'a' || i % 3, 'p', "
            "'m', i, i, CASE WHEN i % 11 <> 0 THEN i * 0.000028 END, i * 0.1, "
            "CASE WHEN i % 5 <> 0 THEN i END FROM generate_series(1, 50000) i")
        database.query("ANALYZE token_usage")
        sql = (f"SELECT agent_id, {STATS}::text, token_usage_decimal_sum(cost_usd) FROM token_usage "
               "GROUP BY agent_id ORDER BY agent_id")
        database.query("SET max_parallel_workers_per_gather = 0")
        serial = database.query(sql).rows
        database.query("SET max_parallel_workers_per_gather = 2")
        database.query("SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; "
                       "SET min_parallel_table_scan_size = 0")
        plan = "\n".join(r[0] for r in database.query("EXPLAIN " + sql).rows)
        assert "Partial" in plan and "Gather" in plan, plan
        assert database.query(sql).rows == serial
        total = sum((Decimal(i) * Decimal("0.000028") for i in range(1, 50001) if i % 11),
                    Decimal(0))
        assert sum(r[2] for r in serial) == total
    finally:
        database.close()


def test_partitionwise_aggregation_gives_the_same(pg):
    database = pg.database()
    try:
        database.query("CREATE TABLE parted (k integer, p bigint, c numeric) PARTITION BY LIST (k); "
                       "CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1); "
                       "CREATE TABLE parted_2 PARTITION OF parted FOR VALUES IN (2); "
                       "INSERT INTO parted SELECT 1 + i % 2, i, i * 0.01 FROM "
                       "generate_series(1, 1000) i; SET enable_partitionwise_aggregate = on")
        sql = "SELECT token_usage_stats(p, 0, p, c, c, p)::text FROM parted"
        plan = "\n".join(r[0] for r in database.query("EXPLAIN " + sql).rows)
        assert "Partial Aggregate" in plan, plan
        body = harness.parse_body(database.query(sql).rows[0][0])
        assert (body["requests_count"], body["total_tokens"], body["cost_usd"]) == (
            1000, 500500, Decimal("5005"))
    finally:
        database.close()


def test_stats_body_is_json_for_the_database(database):
    load(database, [row(1, AT, prompt_tokens=7)])
    if database.dialect == "sqlite":
        got = database.query(f"SELECT json_extract({STATS}, '$.prompt_tokens') FROM token_usage").rows
        nested = database.query(f"SELECT json_array({STATS}) FROM token_usage").rows[0][0]
        assert nested.startswith("[{")
    else:
        got = database.query(f"SELECT ({STATS}->>'prompt_tokens')::bigint FROM token_usage").rows
    assert got == [(7,)]


def test_bodies_are_json_for_sqlite(sqlite):
    database = sqlite.database()
    try:
        for name in ("summary", "history", "by_agent", "by_model", "totals", "detailed"):
            nested = database.query(f"SELECT json_array(token_usage_{name}_json(42))").rows[0][0]
            assert nested.startswith("[{"), name
            assert database.query(f"SELECT json_valid(token_usage_{name}_json(42))").rows == [(1,)]
    finally:
        database.close()
