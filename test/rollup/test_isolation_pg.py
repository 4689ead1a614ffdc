"""PostgreSQL: the interleavings of specs/*.spec, run by PostgreSQL's own isolation tester at each isolation level, in random
orders of the steps; in every order when TOKEN_USAGE_EVERY_ORDER is set (some minutes). After any step no session may wait for
another, no statement may fail, and wrong(), which compares reports with plain SQL over the ledger and counts the rows of
token_usage_verify(), must say 0. On the native edition alone: what writes and folds is the same text in both."""
import os
import pathlib
import random
import re
import subprocess

import pytest

from rollup.ledger import shrink
from support import postgres

HERE = pathlib.Path(__file__).resolve().parent
LEVELS = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")

# One query, so one snapshot: what reports say that the ledger does not, and the other way round.
FUNCTIONS = """
CREATE FUNCTION wrong() RETURNS bigint LANGUAGE sql STABLE AS $$
  WITH said AS (
    SELECT 1 AS u, 'agent' AS what, agent_id AS key, requests_count, total_tokens, cost_usd, unpriced_count FROM token_usage_by_agent(1, 4000)
    UNION ALL SELECT 2, 'agent', agent_id, requests_count, total_tokens, cost_usd, unpriced_count FROM token_usage_by_agent(2, 4000)
    UNION ALL SELECT 1, 'day', date::text, requests_count, total_tokens, cost_usd, unpriced_count FROM token_usage_history(1, 60) WHERE requests_count > 0
    UNION ALL SELECT 1, 'model', ai_model, requests_count, total_tokens, cost_usd, unpriced_count FROM token_usage_by_model(1, 4000, 'Asia/Kolkata')
  ), so AS (
    SELECT user_id AS u, 'agent' AS what, agent_id AS key, count(*) AS requests_count, sum(total_tokens) AS total_tokens,
           coalesce(sum(cost_usd), 0) AS cost_usd, count(*) - count(cost_usd) AS unpriced_count FROM token_usage WHERE user_id IN (1, 2) GROUP BY 1, 2, 3
    UNION ALL SELECT 1, 'day', timezone('UTC', created_at)::date::text, count(*), sum(total_tokens), coalesce(sum(cost_usd), 0), count(*) - count(cost_usd)
      FROM token_usage WHERE user_id = 1 AND created_at >= date_trunc('day', now(), 'UTC') - interval '59 days' GROUP BY 3
    UNION ALL SELECT 1, 'model', ai_model, count(*), sum(total_tokens), coalesce(sum(cost_usd), 0), count(*) - count(cost_usd)
      FROM token_usage WHERE user_id = 1 GROUP BY 3
  )
  SELECT (SELECT count(*) FROM ((TABLE said EXCEPT ALL TABLE so) UNION ALL (TABLE so EXCEPT ALL TABLE said)) d) + (SELECT count(*) FROM token_usage_verify())
$$;
CREATE FUNCTION row_at(who bigint, at timestamptz) RETURNS void LANGUAGE sql AS $$
  INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, prompt_tokens, total_tokens, cost_usd, created_at)
  VALUES (who, 'agent ' || nextval('turns') % 3, 'p', 'm' || currval('turns') % 2, 5, 5, 0.1, at)
$$;
CREATE FUNCTION late_row(who bigint) RETURNS void LANGUAGE sql AS $$ SELECT row_at(who, now() - interval '30 hours') $$;
CREATE FUNCTION new_row(who bigint) RETURNS void LANGUAGE sql AS $$ SELECT row_at(who, clock_timestamp()) $$;
"""


def isolation_tester():
    path = pathlib.Path(postgres.pg_config("--pgxs")).parents[1] / "test" / "isolation" / "isolationtester"
    if not path.exists():
        pytest.skip(f"{postgres.pg_config('--version')} comes without an isolation tester; test_concurrent_pg.py drives such orders itself")
    return path


def orders(text, rng, most=6):
    """The spec with orders of its own, or `most` of all orders: steps of one session stay in their order."""
    if "permutation" in text or os.environ.get("TOKEN_USAGE_EVERY_ORDER"):
        return text
    sessions = [re.findall(r"^step (\w+)", part, re.M) for part in text.split("\nsession ")[1:]]
    drawn = set()
    while len(drawn) < most:
        left = [s for s, steps in enumerate(sessions) for _ in steps]
        rng.shuffle(left)
        following = [iter(steps) for steps in sessions]
        drawn.add(" ".join(next(following[s]) for s in left))
    return text + "".join(f"permutation {order}\n" for order in sorted(drawn))


def run(edition, database, text):
    done = subprocess.run([isolation_tester(), f"host={edition.server.folder} port={edition.server.port} dbname={database.name} user={edition.OWNER}"],
                          input=text, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    return done.stdout


@pytest.fixture
def ledger(native):
    isolation_tester()
    database = native.database()

    def query(sql):
        return database.query(sql).rows
    shrink(query)
    query("CREATE SEQUENCE turns")
    query(FUNCTIONS)
    for user in (1, 2):
        query("INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, prompt_tokens, total_tokens, cost_usd, created_at) "
              f"SELECT {user}, 'agent ' || i % 3, 'p', 'm' || i % 2, i, i, 0.01, now() - i * interval '7 hours' FROM generate_series(1, 150) i")
    query("SELECT token_usage_rebuild()")
    assert query("SELECT wrong()") == [(0,)]
    assert query("SELECT count(*) FROM token_usage_rollup")[0][0] > 0
    yield database
    database.close()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("spec", sorted(p.stem for p in (HERE / "specs").glob("*.spec")))
def test_orders(native, ledger, seed, spec, level):
    text = (HERE / "specs" / f"{spec}.spec").read_text()
    if "@level@" not in text and level != LEVELS[0]:
        return  # nothing in it depends on the level
    told = run(native, ledger, orders(text.replace("@level@", level), random.Random(f"{seed} {spec} {level}")))
    ran = told.count("starting permutation")
    answers = re.findall(r"^wrong\n-+\n +(\d+)\n", told, re.M)
    print(f"\n{native.name} {spec} {level}: {ran} orders, {len(answers)} answers")
    assert "waiting ..." not in told, told
    assert "ERROR" not in told, told[told.index("ERROR") - 600:][:900]
    assert ran >= 6 and len(answers) >= ran and set(answers) == {"0"}, told[-3000:]


def test_a_wrong_answer_would_be_seen(native, ledger):
    """The checks above can fail: rows that reach the ledger past the triggers are told by wrong()."""
    ledger.query("ALTER TABLE token_usage DISABLE TRIGGER token_usage_rollup_insert")
    told = run(native, ledger, 'session w\nstep w_write { SELECT late_row(1); }\nstep w_check { SELECT wrong(); }\npermutation w_write w_check\n')
    assert re.search(r"^wrong\n-+\n +[1-9]", told, re.M), told
