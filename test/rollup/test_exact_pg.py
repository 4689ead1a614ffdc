"""PostgreSQL: rollups are exact after any writes. A random stream from a printed seed; after each step a
report's sums through the rollups are compared with plain SQL over the ledger, inside open transactions too,
and from time to time every report with the same report read from the ledger (by a role that may not read the
rollups), and token_usage_verify() must return no row."""
import os
import random

import pytest

from rollup.ledger import Writes, by_hand, by_rollup, shrink

STEPS = int(os.environ.get("TOKEN_USAGE_ROLLUP_STEPS", "10000"))

REPORTS = [f"SELECT * FROM token_usage_{r}" for r in (
    "summary({u}, {z})", "history({u}, 45, NULL, {z})", "history({u}, 30, 'agent 1', {z})", "by_agent({u}, 100, {z})",
    "by_model({u}, 30, {z})", "by_provider({u}, 400, {z})", "totals({u}, 'month', NULL, {z})", "totals({u}, 'all', 'agent 2', {z})",
    "totals({u}, 'year', NULL, {z})", "totals_json({u}, 'year', 'agent 1', {z})", "detailed_count({u})",
    "detailed_count({u}, NULL, now() - interval '40 days', now())")]


class Session:
    def __init__(self, connection):
        self.connection = connection
        connection.autocommit = True

    def query(self, sql, parameters=None):
        with self.connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return cursor.fetchall() if cursor.description else []


def compare(session, writes, rng, where):
    bounds = session.query(writes.bounds())[0][0]
    if not bounds or len(bounds) < 2:
        return 0
    user = writes.user()
    dimension = rng.choice(("none", "none", "agent", "model"))
    agent = f"agent {rng.randint(1, 3)}" if rng.random() < 0.3 else None
    want = by_hand(session.query, user, agent, bounds, dimension)
    have = by_rollup(session.query, user, agent, bounds, dimension)
    assert have == want, f"{where}: user {user}, agent {agent}, {dimension}, {bounds}:\nhave {have}\nwant {want}"
    return 1


def run_stream(session, seed, steps, other_role):
    import psycopg2
    rng = random.Random(seed)
    writes = Writes(rng, cascade=True)
    shrink(session.query)
    session.query("SELECT setseed(%s)", (rng.random(),))  # which write maintains, and which rows a write picks
    step = compared = reports = served = 0
    while step < steps:
        inside = rng.random() < 0.25
        if inside:
            level = rng.choice(("READ COMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"))
            session.query(f"BEGIN ISOLATION LEVEL {level}")
        depth = 0
        for _ in range(rng.randint(2, 12) if inside else 1):
            sql = writes.write()
            if inside and rng.random() < 0.3:
                if depth and rng.random() < 0.6:
                    session.query(rng.choice(("ROLLBACK TO", "RELEASE")) + f" s{depth}")
                    depth -= 1
                else:
                    depth += 1
                    session.query(f"SAVEPOINT s{depth}")
            session.query("SAVEPOINT op" if inside else "SELECT")
            try:
                if sql.startswith("TRUNCATE") and rng.random() < 0.5:
                    copy_rows(session, writes)
                else:
                    session.query(sql)
                    if rng.random() < 0.02:
                        copy_rows(session, writes)
            except psycopg2.errors.UniqueViolation:
                if inside:
                    session.query("ROLLBACK TO op")
            step += 1
            compared += compare(session, writes, rng, f"seed {seed}, step {step}, after {sql}")
        if inside:
            session.query(rng.choice(("COMMIT", "COMMIT", "ROLLBACK")))
        if rng.random() < 0.02:
            session.query(rng.choice(("SELECT token_usage_compact()", "SELECT token_usage_compact(10)", "SELECT token_usage_rebuild()",
                                      "SELECT token_usage_rebuild(1)", "VACUUM token_usage_delta")))
        if rng.random() < 0.02:
            session.query(f"INSERT INTO token_usage ({Writes.COLUMNS}) SELECT 1, 'agent ' || i % 3 + 1, 'p1', 'm' || i % 3 + 1, i, 1, i + 1, "
                          "0.001, 1, i, now() - i * interval '7 hours' FROM generate_series(1, 60) i")
        if step % 100 < 3:
            bad = session.query("SELECT * FROM token_usage_verify()")
            assert bad == [], f"seed {seed}, step {step}: {bad[:5]}"
            served += session.query("SELECT count(*) FROM token_usage_rollup")[0][0] > 0
        if rng.random() < 0.03:
            zone = rng.choice(("NULL", "'Europe/Moscow'", "'America/New_York'", "'Asia/Kolkata'"))
            for text in REPORTS:
                text = text.format(u=writes.user(), z=zone)
                have = session.query(text)
                session.query(f"SET ROLE {other_role}")
                want = session.query(text)
                session.query("RESET ROLE")
                assert have == want, f"seed {seed}, step {step}: {text}\nhave {have}\nwant {want}"
                reports += 1
    return dict(steps=step, comparisons=compared, reports=reports, verified_with_rollups=served)


def copy_rows(session, writes):
    import io
    lines = []
    for _ in range(writes.rng.randint(1, 20)):
        user, prompt = writes.user(), writes.rng.randint(0, 9)
        when = session.query(f"SELECT ({writes.time()})::text")[0][0]
        lines.append(f"{user}\tagent {writes.rng.randint(1, 3)}\tp1\tm1\t{prompt}\t1\t{prompt + 1}\t0.25\t\\N\t5\t{when}\n")
    with session.connection.cursor() as cursor:
        cursor.copy_expert(f"COPY token_usage ({Writes.COLUMNS}) FROM STDIN", io.StringIO("".join(lines)))


@pytest.mark.parametrize("steps", [STEPS])
def test_random_stream(pg, seed, steps):
    database = pg.database(migrate=False)
    try:
        database.query("CREATE TABLE users (id bigint PRIMARY KEY)")
        database.query("INSERT INTO users SELECT generate_series(1, 4)")
        database.query("SELECT token_usage_migrate()")
        name = f"reader_{database.name}"
        pg.superuser(f"CREATE ROLE {name}", f"GRANT {name} TO app")
        session = Session(pg.server.connect(database.name, "app"))
        session.query(f"GRANT SELECT ON token_usage TO {name}")
        session.query(f"GRANT USAGE ON SCHEMA public TO {name}")
        told = run_stream(session, seed, steps, name)
        print(f"\n{pg.name}: seed {seed}: {told}")
        assert told["verified_with_rollups"] > steps / 4000
        session.connection.close()
    finally:
        database.close()
