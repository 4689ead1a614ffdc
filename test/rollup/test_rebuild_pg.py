"""PostgreSQL native: token_usage_rebuild() adds up in C++ where the ledger's own statement would do it in SQL. The two must make the
same rollups, to the last byte, of awkward rows in every type that a ledger may have; each is forced in turn by a change of the ledger's
function, which is an ordinary function of its owner."""
import random

import pytest

from rollup.ledger import shrink
from rollup.test_keep_pg import Session

COLUMNS = ("agent_id {text}, ai_provider {text}, ai_model {text}, prompt_tokens {count}, completion_tokens {count}, total_tokens {count}, "
           "execution_time_ms {count}")
# name -> user_id's type, and what else a table that was there before us looked like (None: ours)
LEDGERS = {
    "ours": ("bigint", None),
    "text users": ("text", None),
    "uuid users": ("uuid", None),
    "integers, timestamp, floats": ("integer", "cost_usd double precision, cost_rub double precision, created_at timestamp, "
                                    + COLUMNS.format(text="varchar(40)", count="integer")),
    "integers, timestamp, decimals": ("integer", "cost_usd numeric, cost_rub numeric, created_at timestamp, "
                                      + COLUMNS.format(text="varchar(40)", count="integer")),
    "varchar users, narrow decimals": ("varchar(60)", "cost_usd numeric(10,4), cost_rub numeric(10,2), created_at timestamptz, "
                                       + COLUMNS.format(text="text", count="bigint")),
    "smallints, any decimals, NULL everywhere": ("smallint", "cost_usd numeric, cost_rub integer, created_at timestamptz, "
                                                 + COLUMNS.format(text="text", count="smallint")),
}
# Partitions, whose columns lie in another order than the ledger's, and columns that are gone or computed. {at} names the table.
LEDGERS["partitioned, domains, dropped and generated columns"] = ("bigint", """
    gone text, created_at timestamptz NOT NULL, cost_usd price, cost_rub numeric, request_id text, """
                                                                  + COLUMNS.format(text="text", count="bigint") + """,
    twice bigint GENERATED ALWAYS AS (prompt_tokens * 2) STORED) PARTITION BY RANGE (created_at);
  ALTER TABLE token_usage DROP COLUMN gone;
  CREATE TABLE early PARTITION OF token_usage FOR VALUES FROM (MINVALUE) TO ('2020-01-01');
  CREATE TABLE late (created_at timestamptz NOT NULL, user_id bigint, extra int, id bigint NOT NULL, execution_time_ms bigint, cost_rub numeric,
    cost_usd price, request_id text, """ + COLUMNS.format(text="text", count="bigint").rsplit(",", 1)[0] + """,
    twice bigint GENERATED ALWAYS AS (prompt_tokens * 2) STORED);
  ALTER TABLE late DROP COLUMN extra;
  ALTER TABLE token_usage ATTACH PARTITION late FOR VALUES FROM ('2020-01-01') TO (MAXVALUE""")
ROLLUPS = ("SELECT r::text FROM token_usage_rollup r ORDER BY r::text COLLATE \"C\"",
           "SELECT o::text FROM token_usage_rollup_month o ORDER BY o::text COLLATE \"C\"")


def user(kind, n):
    return {"uuid": f"'00000000-0000-0000-0000-00000000000{n}'", "text": f"'u {n}'",
            "varchar(60)": f"'{'ü' * 20}{n}'"}.get(kind, str(n))


def fill(session, rng, kind, adopted, rows=900):
    floats = adopted and "double" in adopted
    nullable = adopted is not None
    wide = kind in ("bigint", "text", "uuid")
    parted = adopted and "PARTITION" in adopted
    lines = []
    for _ in range(rows):
        count = [rng.choice((0, 1, 7, 250) + ((2**33 + 5,) if wide else ())) for _ in range(2)]
        usd = rng.choice(("NULL", "0", "0.000", "1.5", "1.50", "0.25", "7", "-0.125", f"{rng.randint(0, 10**6)}.{rng.randint(0, 9999):04}"))
        if not adopted or "any" not in adopted and "(10" not in adopted:
            usd = rng.choice((usd, "'NaN'", "0.0000000000005", "0.0000000000015", "0.0000000000025", "123.12345678901251", "99999999999999"))
        if floats:
            usd = rng.choice((usd, "0.1::float8 + 0.2::float8", "'Infinity'", "1e-13", "1e15"))
        texts = [rng.choice(("'a'", "'a b'", "'é'", "''", "'" + "x" * 40 + "'") + (("NULL",) if nullable else ())) for _ in range(3)]
        total = "NULL" if nullable and rng.random() < 0.2 else sum(count)
        day = rng.choice((0, 0, 0, 1, 2, 40, 41, 400, 9000))
        at = f"date_trunc('day', now()) - interval '{day} days' - interval '{rng.randint(0, 86400 * 10**6) / 10**6:.6f} seconds'"
        if adopted and not parted and rng.random() < 0.02:
            at = rng.choice(("NULL", "'-infinity'", "'infinity'"))
        who = "NULL" if nullable and rng.random() < 0.1 else user(kind, 1 if rng.random() < 0.45 else rng.randint(2, 9))
        lines.append(f"({who}, {', '.join(texts)}, {count[0]}, {count[1]}, {total}, {usd}, {rng.choice(('NULL', '3', '0'))}, "
                     f"{rng.choice(('NULL', '0', '31000') + (('5000000000',) if wide else ()))}, {at})")
    session("INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, prompt_tokens, completion_tokens, total_tokens, cost_usd, "
            "cost_rub, execution_time_ms, created_at) VALUES " + ", ".join(lines))


def change(session, *pairs):
    """Rewrites the ledger's own function; the extension's is not touched."""
    (text,), = session("SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname = 'token_usage_rollup_again'")
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    session(text)


def rebuilt(session, only="NULL"):
    session(f"SELECT token_usage_rebuild({only})")
    assert session("SELECT * FROM token_usage_verify()") == []
    return [session(sql) for sql in ROLLUPS]


@pytest.fixture
def ledger(native, request):
    kind, adopted = LEDGERS[request.param]
    database = native.database(None if adopted or kind == "bigint" else kind, migrate=not adopted)
    session = Session(native.server, database.name)
    if adopted:
        session("CREATE DOMAIN price AS numeric CHECK (VALUE > -1000)")
        key = "id bigserial" if "PARTITION" in adopted else "id bigserial PRIMARY KEY"
        session(f"CREATE TABLE token_usage ({key}, user_id {kind}, {adopted})")
        session("SELECT token_usage_migrate()")
    shrink(session)
    session.kind, session.adopted = kind, adopted
    yield session
    session.close()
    database.close()


@pytest.mark.parametrize("ledger", LEDGERS, indirect=True)
def test_both_ways_make_the_same_rollups(ledger, seed):
    rng = random.Random(seed)
    fill(ledger, rng, ledger.kind, ledger.adopted)
    change(ledger, ("IF NOT done THEN", "IF NOT done THEN RAISE EXCEPTION 'by SQL';"))
    one = f"{user(ledger.kind, 2)}"
    ledger("SET timezone = 'Asia/Kolkata'")
    ledger("SET datestyle = 'German'")
    quick = rebuilt(ledger)
    assert rebuilt(ledger, one) == quick
    assert len(quick[0]) > 500 and len(quick[1]) > 5, "nothing was rolled"
    change(ledger, ("400000000", "90000"))
    limited = rebuilt(ledger)
    assert sorted(limited[0]) == sorted(quick[0]) and limited[1] == quick[1]
    change(ledger, ("IF NOT done THEN RAISE EXCEPTION 'by SQL';", "IF NOT done THEN"), ("IF bulk IS NOT NULL THEN", "IF false THEN"))
    slow = rebuilt(ledger)
    assert slow == quick, f"seed {seed}"
    # Without the extension nothing is missed.
    ledger("DROP EXTENSION token_usage")
    change(ledger, ("IF false THEN", "IF bulk IS NOT NULL THEN"))
    ledger("SELECT token_usage_rollup_again(NULL)")
    assert [ledger(sql) for sql in ROLLUPS] == quick


WRONG = ("UPDATE token_usage_rollup SET prompt = prompt + 1 WHERE kind % 10 = 1 AND random() < 0.1",
         "UPDATE token_usage_rollup SET usd = usd + 0.00000 WHERE random() < 0.1",
         "UPDATE token_usage_rollup SET key1 = key1 || ctid::text, nulls = 3 WHERE random() < 0.1",
         "DELETE FROM token_usage_rollup WHERE random() < 0.1",
         "UPDATE token_usage_rollup SET user_id = 77 WHERE user_id = 3",
         "UPDATE token_usage_rollup_month SET flags = 0 WHERE random() < 0.2",
         "UPDATE token_usage_rollup SET kind = kind - 10, bucket = bucket + interval '1 second' WHERE random() < 0.1",
         "DELETE FROM token_usage_rollup WHERE user_id = 1",
         "DELETE FROM token_usage_rollup")


@pytest.mark.parametrize("ledger", ["ours", "partitioned, domains, dropped and generated columns"], indirect=True)
def test_it_mends_what_is_wrong_and_leaves_the_rest(ledger, seed):
    where = "SELECT r.ctid, r.xmin, r.user_id FROM token_usage_rollup r"
    fill(ledger, random.Random(seed), ledger.kind, ledger.adopted)
    change(ledger, ("IF NOT done THEN", "IF NOT done THEN RAISE EXCEPTION 'by SQL';"))
    want = rebuilt(ledger)
    ledger("UPDATE token_usage SET prompt_tokens = 3, total_tokens = 3 + completion_tokens WHERE user_id = 4")
    mended = rebuilt(ledger)
    assert mended != want
    before = ledger(where)
    assert rebuilt(ledger) == mended
    assert sorted(ledger(where)) == sorted(before), "rows that were right were written anew"
    for number, wrong in enumerate(WRONG):
        ledger(f"SELECT setseed({number / 100})")
        ledger(wrong)
        assert [ledger(sql) for sql in ROLLUPS] != mended, wrong
        assert rebuilt(ledger) == mended, f"{wrong}, seed {seed}"


@pytest.mark.parametrize("ledger", ["ours"], indirect=True)
def test_a_user_larger_than_memory_is_done_in_parts(ledger, seed):
    fill(ledger, random.Random(seed), "bigint", None)
    want = rebuilt(ledger)
    change(ledger, ("IF NOT done THEN", "IF NOT done THEN RAISE EXCEPTION 'by SQL';"))
    # A row takes 56 bytes, or twice that; the last two months stay together. Half of the memory is for what is in order.
    kept = "sum(CASE WHEN prompt_tokens > 2^32 OR completion_tokens > 2^32 OR execution_time_ms > 2^32 OR cost_usd > 9e6 THEN 2 ELSE 1 END)"
    (all_of_it, recent), = ledger(f"SELECT {kept}, {kept} FILTER (WHERE created_at >= date_trunc('month', now()) - interval '1 month') FROM token_usage "
                                  "WHERE user_id = 1")
    change(ledger, ("400000000", str((all_of_it + recent) // 2 * 56 * 2)))
    rows = "SELECT r.xmin FROM token_usage_rollup r WHERE r.user_id = {}"
    before = [ledger(rows.format(user)) for user in (1, 2)]
    assert rebuilt(ledger) == want
    after = [ledger(rows.format(user)) for user in (1, 2)]
    assert before[0] != after[0] and sorted(before[1]) == sorted(after[1]), "user 1 was not done in parts"


@pytest.mark.parametrize("ledger", ["ours"], indirect=True)
def test_past_what_it_adds_up_sql_does(ledger, seed):
    fill(ledger, random.Random(seed), "bigint", None, rows=300)
    ledger("UPDATE token_usage SET cost_usd = 1e30 WHERE id % 50 = 0")
    by_sql = rebuilt(ledger)
    change(ledger, ("IF bulk IS NOT NULL THEN", "IF false THEN"))
    assert rebuilt(ledger) == by_sql
    change(ledger, ("IF false THEN", "IF bulk IS NOT NULL THEN"), ("IF NOT done THEN", "IF NOT done THEN RAISE EXCEPTION 'by SQL';"))
    with pytest.raises(Exception, match="by SQL"):
        ledger("SELECT token_usage_rebuild()")
    ledger("UPDATE token_usage SET cost_usd = 1")
    rebuilt(ledger)
    # One user's month is more than the memory it may have.
    change(ledger, ("400000000", "3000"))
    with pytest.raises(Exception, match="by SQL"):
        ledger("SELECT token_usage_rebuild()")


@pytest.mark.parametrize("ledger", ["ours"], indirect=True)
def test_nobody_else_s_function_is_run(ledger, native, seed):
    """The ledger's function runs with its owner's rights, so the name alone must not decide what it calls."""
    fill(ledger, random.Random(seed), "bigint", None, rows=300)
    want = rebuilt(ledger)
    types = "text[], timestamptz, bigint"
    ledger("DROP EXTENSION token_usage")
    for schema in ("public", "pg_temp"):
        ledger(f"CREATE FUNCTION {schema}._token_usage_rollup_bulk({types}) RETURNS SETOF record LANGUAGE plpgsql AS "
               "'BEGIN RAISE EXCEPTION ''trapped''; END'")
    ledger("SELECT token_usage_rollup_again(NULL)")
    assert [ledger(sql) for sql in ROLLUPS] == want


def test_it_runs_with_the_caller_s_rights(native):
    database = native.database()
    name = f"nobody_{database.name}"
    native.superuser(f"CREATE ROLE {name} LOGIN")
    nobody, owner = Session(native.server, database.name, name), Session(native.server, database.name)
    statements = ("SELECT user_id, created_at, agent_id, ai_provider, ai_model, prompt_tokens, completion_tokens, total_tokens, cost_usd, cost_rub, "
                  "execution_time_ms FROM token_usage WHERE created_at < $1",
                  "SELECT z.i, 1::int2 FROM unnest($1, $2, $3) WITH ORDINALITY z (c, g, b, i)", "SELECT $1, $2, $3",
                  "SELECT r.user_id, r.kind, r.bucket, r.key1, r.key2, r.nulls, r.requests, r.prompt, r.completion, r.total, r.usd, r.rub, "
                  "r.unpriced, r.ms_sum, r.ms_count, r.ctid FROM token_usage_rollup r WHERE r.user_id = $1", "SELECT $1", "SELECT $1")
    call = (f"SELECT * FROM _token_usage_rollup_bulk(ARRAY[{', '.join(f'$s${s}$s$' for s in statements)}], '2020-02-01Z', 1000000) AS m (u {{0}}, "
            "kind int2, bucket timestamptz, key1 text, key2 text, nulls int2, requests int8, prompt int8, completion int8, total int8, usd numeric, "
            "rub numeric, unpriced int8, ms_sum int8, ms_count int8)")
    owner("INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, created_at) SELECT 5, 'a', 'p', 'm', '2020-01-03Z' FROM generate_series(1, 3)")
    assert [(r[0], r[1], r[6]) for r in owner(call.format("bigint"))] == [(5, 30, 3)]
    with pytest.raises(Exception, match="permission denied for table token_usage"):
        nobody(call.format("bigint"))
    for wrong in ("text", "integer"):
        with pytest.raises(Exception, match="_token_usage_rollup_bulk: "):
            owner(call.format(wrong))
    for session in (nobody, owner):
        session.close()
    database.close()
