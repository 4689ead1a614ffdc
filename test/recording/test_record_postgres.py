"""What only PostgreSQL has: concurrent writers, row security, the caller's search path, adopted types. Both
PostgreSQL editions."""
import json
import threading
from decimal import Decimal

import pytest

from support.editions import DatabaseError, sql_literal
from test_record import CATALOGUE, EVENT, batch, call, one, record
from test_responses import dump


@pytest.fixture
def ledger(pg):
    database = pg.database()
    yield database
    database.close()


def at_once(databases, work):
    """Runs work(database, number) in a thread each, started together; gives their results or errors."""
    results = [None] * len(databases)
    barrier = threading.Barrier(len(databases))

    def run(number):
        barrier.wait()
        try:
            results[number] = work(databases[number], number)
        except DatabaseError as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(n,)) for n in range(len(databases))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def test_many_sessions_record_the_same_requests(ledger):
    others = [ledger.another() for _ in range(4)]
    events = [dict(EVENT, request_id=f"r{n}") for n in range(100)]

    def work(database, number):
        turned = events if number % 2 else events[::-1]
        return [r["created"] for r in batch(database, turned)]

    for _ in range(5):
        ledger.query("TRUNCATE token_usage")
        results = at_once(others, work)
        assert all(isinstance(r, list) for r in results), results
        assert sum(sum(r) for r in results) == 100
        assert one(ledger, "SELECT count(*) FROM token_usage") == 100
    for other in others:
        other.close()


def test_without_a_unique_key_sessions_take_turns(pg):
    database = pg.database(migrate=False)
    database.query("CREATE TABLE token_usage (id bigserial PRIMARY KEY, user_id bigint, agent_id text, request_id text,"
                   " ai_provider text, ai_model text, prompt_tokens int, completion_tokens int, total_tokens int,"
                   " cost_usd numeric, cost_rub numeric, execution_time_ms int, created_at timestamptz DEFAULT now())")
    database.query("INSERT INTO token_usage (request_id) VALUES ('old'), ('old')")
    database.query("SELECT token_usage_migrate()")
    others = [database.another() for _ in range(3)]
    events = [dict(EVENT, request_id=f"r{n}") for n in range(20)] + [dict(EVENT, request_id="r3")]
    results = at_once(others, lambda d, n: [r["created"] for r in batch(d, events)])
    assert all(isinstance(r, list) for r in results), results
    assert sum(sum(r) for r in results) == 20
    assert one(database, "SELECT count(*) FROM token_usage WHERE request_id LIKE 'r%'") == 20
    for other in [database, *others]:
        other.close()


def test_serializable_sessions_get_one_row(ledger):
    first, second = ledger.another(), ledger.another()
    for database in (first, second):
        database.query("BEGIN ISOLATION LEVEL SERIALIZABLE")
    assert record(first, request_id="x")["created"]
    first.query("COMMIT")
    try:
        assert not record(second, request_id="x")["created"]
    except DatabaseError as error:
        assert error.sqlstate == "40001"
    second.query("ROLLBACK")
    assert not record(second, request_id="x")["created"]
    for database in (first, second):
        database.close()


def test_triggers_run_with_the_callers_search_path(ledger):
    ledger.query("CREATE TABLE audit (note text)")
    ledger.query("CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS"
                 " $$ BEGIN INSERT INTO audit VALUES (new.ai_model); RETURN new; END $$")
    ledger.query("CREATE TRIGGER note AFTER INSERT OR UPDATE ON token_usage FOR EACH ROW EXECUTE FUNCTION note()")
    record(ledger)
    call(ledger, "token_usage_import_prices", CATALOGUE)
    ledger.query("SELECT token_usage_reprice(42)")
    assert one(ledger, "SELECT count(*) FROM audit") == 2


def test_hostile_objects_on_the_path_are_not_used(ledger):
    """An operator and functions that fit better than PostgreSQL's own, in the schema that is searched."""
    call(ledger, "token_usage_import_prices", CATALOGUE)
    ledger.query("CREATE FUNCTION hurt(anyelement, anyelement) RETURNS boolean LANGUAGE plpgsql AS"
                 " $$ BEGIN RAISE 'used'; END $$")
    ledger.query("CREATE FUNCTION hurt_text(text, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'used'; END $$")
    for name in ("now", "unnest", "count", "jsonb_build_object", "coalesce_text"):
        ledger.query(f"CREATE FUNCTION {name}(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE 'used'; END $$")
    ledger.query("CREATE OPERATOR public.= (LEFTARG = text, RIGHTARG = text, FUNCTION = hurt_text)")
    ledger.query("SET search_path = public, pg_catalog")
    events = [dict(EVENT, request_id=f"r{n % 3}") for n in range(5)]
    assert [r["created"] for r in batch(ledger, events)] == [True] * 3 + [False] * 2
    assert one(ledger, "SELECT token_usage_reprice(42)")


def test_row_security(pg, ledger):
    call(ledger, "token_usage_import_prices", CATALOGUE)
    role = f"tenant_{ledger.name}"
    pg.superuser(f"CREATE ROLE {role} LOGIN")
    try:
        ledger.query("ALTER TABLE token_usage ENABLE ROW LEVEL SECURITY")
        ledger.query("CREATE POLICY own ON token_usage USING (user_id = 42)")
        ledger.query(f"GRANT SELECT, INSERT ON token_usage TO {role}")
        record(ledger, user_id=7, request_id="theirs")
        tenant = ledger.another(role)
        assert record(tenant, request_id="mine")["created"]
        assert not record(tenant, request_id="mine")["created"]
        with pytest.raises(DatabaseError) as caught:
            record(tenant, request_id="theirs")
        assert (caught.value.message, caught.value.sqlstate) == (
            "token_usage: event.request_id must be new or repeat the same facts, got theirs with another user_id", "23505")
        with pytest.raises(DatabaseError) as caught:
            record(tenant, user_id=7)
        assert "row-level security" in caught.value.message
        ledger.query(f"REVOKE INSERT ON token_usage FROM {role}")
        with pytest.raises(DatabaseError) as caught:
            record(tenant)
        assert caught.value.sqlstate == "42501"
        with pytest.raises(DatabaseError) as caught:
            tenant.query("SELECT token_usage_set_rate('RUB', 1)")
        assert caught.value.sqlstate == "42501"
        tenant.close()
    finally:
        pg.superuser(f"DROP OWNED BY {role}", f"DROP ROLE {role}", database=ledger.name)


def test_adopted_types(pg):
    database = pg.database(migrate=False)
    database.query(
        "CREATE TABLE token_usage (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, agent_id varchar(20),"
        " request_id uuid UNIQUE, ai_provider varchar(50), ai_model varchar(50), prompt_tokens integer,"
        " completion_tokens integer, total_tokens integer, cost_usd numeric(10,4), cost_rub double precision, platform"
        " varchar(10) DEFAULT 'web', execution_time_ms integer, request_metadata json, response_metadata text,"
        " created_at timestamp DEFAULT (now() AT TIME ZONE 'UTC'))")
    database.query("SELECT token_usage_migrate()")
    call(database, "token_usage_import_prices", CATALOGUE)
    database.query("SELECT token_usage_set_rate('RUB', 0.1, '2025-01-01')")
    user, request = "6f1de1f0-0000-4000-8000-000000000001", "6F1DE1F0-0000-4000-8000-00000000000A"
    event = dict(EVENT, user_id=user, request_id=request, request_metadata={"a": 1}, response_metadata=[2])
    first = call(database, "token_usage_record", event)
    assert first.pop("id") == one(database, "SELECT id FROM token_usage")
    assert first == {"created": True, "prompt_tokens": 1000, "completion_tokens": 10, "total_tokens": 1010,
                     "cost_usd": Decimal("0.0026"), "cost_rub": Decimal("0.00026"), "warnings": []}
    assert not call(database, "token_usage_record", event)["created"]
    row = database.query("SELECT platform, created_at::text, request_metadata::text, response_metadata, cost_source"
                         " FROM token_usage").rows[0]
    assert row == ("web", "2025-10-20 14:30:25", '{"a": 1}', "[2]", "price_book")
    with pytest.raises(DatabaseError) as caught:
        call(database, "token_usage_record", dict(event, user_id="me"))
    assert caught.value.message == "token_usage: event.user_id must be a uuid, got me"
    database.query("UPDATE token_usage_price SET usd_per_million = usd_per_million * 2")
    with pytest.raises(DatabaseError) as caught:
        database.query("SELECT * FROM token_usage_reprice_preview(NULL)")
    assert caught.value.hint == "Call token_usage_reprice_preview_text, which gives them as text."
    assert len(database.query("SELECT * FROM token_usage_reprice_preview_text(NULL)").rows) == 1
    assert json.loads(one(database, "SELECT token_usage_reprice(NULL)"), parse_float=Decimal) == {
        "rows": 1, "old_cost_usd": Decimal("0.0026"), "new_cost_usd": Decimal("0.0052")}
    database.close()


def test_another_schema(ledger):
    """The ledger of the first schema of the path, with its own price book."""
    ledger.query("CREATE SCHEMA tenant")
    ledger.query("SET search_path = tenant")
    ledger.query("SELECT public.token_usage_migrate()")
    ledger.query("SET search_path = tenant, public")
    call(ledger, "token_usage_import_prices", CATALOGUE)
    assert record(ledger)["cost_usd"] == Decimal("0.0026")
    assert one(ledger, "SELECT count(*) FROM tenant.token_usage") == 1
    ledger.query("SET search_path = public")
    assert record(ledger)["cost_usd"] is None


def test_import_waits_for_another(ledger):
    others = [ledger.another() for _ in range(3)]
    results = at_once(others, lambda d, n: json.loads(one(
        d, f"SELECT token_usage_import_prices({sql_literal(dump(CATALOGUE))})"))["prices_added"])
    assert sorted(results, key=str) == [0, 0, 3]
    for other in others:
        other.close()


def test_a_large_batch_in_any_order(ledger):
    """Results come in the order of the events, whatever the request_ids are."""
    call(ledger, "token_usage_import_prices", CATALOGUE)
    events = [dict(EVENT, prompt_tokens=n, request_id=f"r{(n * 7919) % 1000}") if n % 3 else
              dict(EVENT, prompt_tokens=n) for n in range(1000)]
    results = batch(ledger, events)
    assert [r["prompt_tokens"] for r in results] == list(range(1000))
    stored = dict(ledger.query("SELECT id, prompt_tokens FROM token_usage").rows)
    assert all(stored[r["id"]] == r["prompt_tokens"] for r in results)
    again = batch(ledger, [e for e in events if "request_id" in e])
    assert not any(r["created"] for r in again)
    assert [r["id"] for r in again] == [r["id"] for r, e in zip(results, events) if "request_id" in e]
