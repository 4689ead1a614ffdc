"""PostgreSQL: the mixed load of load.py for some seconds, with the thresholds of production: reports right in every snapshot,
nobody waits for a lock, no deadlock, no serialization failure, and what waits stays bounded without any call. The long
version is bench/rollups_postgres_load."""
import os

import pytest

from rollup import load
from support import editions, postgres

SECONDS = float(os.environ.get("TOKEN_USAGE_LOAD_SECONDS", "15"))


@pytest.fixture(scope="module", params=[n for n in editions.wanted() if n != "sqlite"][:1])
def place(request):
    with postgres.Server(settings=load.SETTINGS) as server:
        root = server.connect()
        root.autocommit = True
        for statement in ("CREATE ROLE app LOGIN", "CREATE DATABASE ledger OWNER app"):
            root.cursor().execute(statement)
        root.close()
        root = server.connect("ledger")
        root.autocommit = True
        root.cursor().execute("ALTER SCHEMA public OWNER TO app")
        root.close()
        server.edition = request.param
        yield server


def test_load(place):
    from support import paths
    connection = place.connect("ledger", "app")
    connection.autocommit = True

    def query(sql):
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []
    query("CREATE EXTENSION token_usage" if place.edition == "pg-native" else paths.PORTABLE_SQL.read_text())
    query("SELECT token_usage_migrate()")
    load.prepare(query)
    # Half of the rows of this load are late, and nobody calls compact.
    told = load.run(place, "ledger", "app", SECONDS, leave_out=("compact", "serializable"))
    rows = told.samples[-1].rows - told.samples[0].rows
    most, tail = max(s.deltas for s in told.samples), max(s.tail for s in told.samples)
    print(f"\n{place.edition}: {told.transactions} transactions in {told.seconds:.0f} s, {rows} rows, at most {most} deltas and a tail of {tail} rows wait, "
          f"{len(told.logged_waits)} waits logged, {told.deadlocks} deadlocks, {told.serialization} serialization failures")
    assert told.errors == [], told.output[-3000:]
    assert told.logged_waits == [] and told.waits == [], (told.logged_waits + told.waits)[:5]
    assert told.deadlocks == 0 and told.serialization == 0
    assert query("SELECT * FROM token_usage_verify()") == []
    # docs/rollups-postgres.md states the bound; three times its mean leaves room for chance.
    assert most < 3 * 128 * load.USERS
    assert tail < 256 + 3 * 128 * 8 + 5 * rows / told.seconds
    told = load.run(place, "ledger", "app", 4)
    assert told.errors == [], told.output[-3000:]
    assert query("SELECT * FROM token_usage_verify()") == []
    connection.close()
