"""Every function takes every argument on PostgreSQL, those that only we call too: anybody may call them. An answer or an
error, and never the end of the session; from a function of the contract never an internal error (XX000).
The functions and their types come from the catalog, so a new one is called without a word here."""
import random
import re

import psycopg2
import pytest

CALLS = 3000

NUMBERS = ["0", "1", "-1", "2", "7", "30", "63", "128", "500", "501"]
EDGES = {"smallint": 2**15, "integer": 2**31, "bigint": 2**63}
VALUES = {
    "text": ["", "1", "42", "-1", "none", "agent", "model", "month", "all", "rollup", "state", "both", "few", "UTC", "Europe/Moscow", "openai", "token_usage",
             "time_zone", "é", "'", "{}", "[]", "null", "9223372036854775807", "99999999999999999999", "00000000-0000-0000-0000-000000000000", "infinity",
             "2025-01-01", "SELECT 1", "SELECT now()", "x" * 3000],
    "name": ["", "public", "pg_catalog", "none such", "x" * 63],
    "numeric": ["0", "1", "-1", "0.1", "NaN", "1e30", "1e-30", "123456789012345678.123456789012", "9e37"],
    "timestamp with time zone": ["now", "infinity", "-infinity", "epoch", "2025-01-01", "2025-02-01", "4713-01-01 BC", "294276-12-31"],
    "date": ["today", "infinity", "-infinity", "2025-01-01", "4713-01-01 BC", "5874897-01-01"],
    "interval": ["1 day", "-1 year", "0", "178000000 years"],
    "jsonb": ["{}", "[]", "null", "1", "[[]]", "[1, 2]", '{"user_id": 1}', '{"user_id": 1, "agent_id": "a", "ai_provider": "openai", "ai_model": "m", "prompt_tokens": 1}',
              '{"usage": {"prompt_tokens": 1e400}}', '{"usage": {"prompt_tokens": -5, "completion_tokens": 9223372036854775808}}', '[{"token_class": 1}]',
              '[{"token_class": "input", "usd_per_million": "1"}]', '{"a": {"b": [1, null]}}'],
    "uuid": ["00000000-0000-0000-0000-000000000000", "123e4567-e89b-12d3-a456-426614174000"],
    "boolean": ["true", "false"],
}
VALUES["real"] = VALUES["double precision"] = VALUES["numeric"][:-2] + ["Infinity", "1e38"]
VALUES["character varying"], VALUES["json"] = VALUES["text"], VALUES["jsonb"]
VALUES["timestamp without time zone"] = VALUES["timestamp with time zone"]
RELATIONS = ["token_usage", "token_usage_rollup", "token_usage_rollup_user", "token_usage_rollup_guard", "idx_token_usage_user_date", "token_usage_settings",
             "a_view", "a_composite", "a_parent", "pg_class"]


class Arguments:
    def __init__(self, seed):
        self.random = random.Random(seed)

    def __call__(self, kind):
        """SQL of any value of a type."""
        r = self.random
        if r.random() < 0.15:
            return f"NULL::{kind}"
        if kind.endswith("[]"):
            return self.array(kind[:-2])
        if kind in EDGES:
            return f"'{r.choice(NUMBERS + [EDGES[kind] - 1, -EDGES[kind]])}'::{kind}"
        if kind in ("oid", "regclass"):
            return f"{r.choice(['0', '1', '4294967295'] + [repr(name) + '::regclass' for name in RELATIONS])}::oid::{kind}"
        if kind == "bytea":  # states of aggregates
            size = r.choice([0, 1, 3, 8, r.randrange(320)])
            return f"'\\x{(r.randbytes(size) if r.random() < 0.7 else bytes(size)).hex()}'::bytea"
        if kind not in VALUES:
            return f"NULL::{kind}"
        text = r.choice(VALUES[kind]).replace("'", "''")
        return f"'{text}'::{kind}"

    def array(self, element):
        r = self.random
        way = r.random()
        if way < 0.15:
            return f"'{{}}'::{element}[]"
        if way < 0.3:
            return f"ARRAY[[{self(element)}, {self(element)}], [{self(element)}, {self(element)}]]"
        if way < 0.4:
            return f"array_fill({self(element)}, ARRAY[2], ARRAY[{r.choice([-3, 0, 5])}])"
        if way < 0.7 and "time" in element:
            return f"'{{2025-01-01, 2025-02-01, 2025-03-01}}'::{element}[]"
        return f"ARRAY[{', '.join(self(element) for _ in range(r.choice([1, 2, 3, 5, 16])))}]"


@pytest.fixture
def ledger(pg):
    made = pg.database()
    made.query("CREATE VIEW a_view AS SELECT * FROM token_usage; CREATE TYPE a_composite AS (a int, b text);"
               " CREATE TABLE a_parent (user_id bigint, created_at timestamptz) PARTITION BY RANGE (created_at);"
               " INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, prompt_tokens, total_tokens, created_at)"
               " SELECT i % 3, 'a-' || i % 3, 'openai', 'm-' || i % 4, i, i, '2025-01-01'::timestamptz + i * interval '1 hour'"
               " FROM generate_series(1, 1000) i; SELECT token_usage_rebuild(); SET statement_timeout = '5s'; SET client_min_messages = error")
    yield made
    made.close()


def test_any_argument(ledger, seed):
    functions = ledger.query(
        "SELECT p.oid::regproc::text, ARRAY(SELECT format_type(a.type, NULL) FROM unnest(p.proargtypes) WITH ORDINALITY a (type, n) ORDER BY n), p.prokind"
        " FROM pg_proc p WHERE p.proname ~ '^_?token_usage_' AND p.prorettype <> 'trigger'::regtype AND NOT 'internal'::regtype = ANY (p.proargtypes)"
        " AND p.pronamespace = 'public'::regnamespace ORDER BY p.oid").rows
    arguments = Arguments(seed)
    cursor = ledger.connection.cursor()
    answers, internal = 0, []
    for number in range(CALLS):
        name, kinds, what = functions[number % len(functions)]
        call = f"{name}({', '.join(map(arguments, kinds))})"
        sql = f"SELECT {call}" if what == "a" else f"SELECT x::text FROM (SELECT * FROM {call}) x"
        cursor.execute("BEGIN")
        try:
            cursor.execute(sql)
            answers += 1
        except psycopg2.Error as error:
            if ledger.connection.closed or error.pgcode is None:
                pytest.fail(f"{ledger.edition}, seed {seed}: {sql}\nended the session: {error}", pytrace=False)
            if error.pgcode == "XX000" and re.fullmatch("token_usage_(?!rollup_).*", name):
                internal.append(f"{sql}\n{error}")
        cursor.execute("ROLLBACK")
    assert internal == [], "\n".join(internal[:5])
    assert answers > CALLS / 10
    assert ledger.query("SELECT * FROM token_usage_verify()").rows == []
