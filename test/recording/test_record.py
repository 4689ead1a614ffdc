"""token_usage_record and token_usage_record_batch: what is stored, what it costs, and that a request is
recorded once. The same text of SQL runs in each edition."""
import json
import threading
from decimal import Decimal

import pytest

from support.editions import DatabaseError, sql_literal
from test_responses import dump

EVENT = {"user_id": 42, "agent_id": "writer", "ai_provider": "openai", "ai_model": "gpt-4o",
         "prompt_tokens": 1000, "completion_tokens": 10, "created_at": "2025-10-20T14:30:25Z"}
CATALOGUE = [{"id": "openai", "models": [
    {"id": "gpt-4o", "match": {"or": [{"equals": "gpt-4o"}, {"starts_with": "gpt-4o-2024"}]},
     "prices": {"input_mtok": Decimal("2.5"), "cache_read_mtok": Decimal("1.25"), "output_mtok": 10}}]}]


def call(database, function, value):
    sql = f"SELECT {function}({sql_literal(value if isinstance(value, str) else dump(value))})"
    return json.loads(database.query(sql).rows[0][0], parse_float=Decimal)


def record(database, **changes):
    return call(database, "token_usage_record", {k: v for k, v in {**EVENT, **changes}.items() if v != "-"})


def batch(database, events):
    return call(database, "token_usage_record_batch", events)


def error_of(database, function, value):
    with pytest.raises(DatabaseError) as caught:
        call(database, function, value)
    return caught.value


def one(database, sql):
    return database.query(sql).rows[0][0]


def money(value):
    return None if value is None else Decimal(str(value))


@pytest.fixture
def priced(database):
    call(database, "token_usage_import_prices", CATALOGUE)
    database.query("SELECT token_usage_set_rate('RUB', 95.5, '2025-01-01')")
    return database


def test_result_and_row(priced):
    result = record(priced, request_id="r1", cache_read_tokens=500, platform="web", execution_time_ms=1200,
                    request_metadata={"k": [1]})
    assert result.pop("id") == 1
    assert result == {"created": True, "prompt_tokens": 1000, "completion_tokens": 10, "total_tokens": 1010,
                      "cost_usd": Decimal("0.001975"), "cost_rub": Decimal("0.1886125"), "warnings": []}
    row = priced.query("SELECT user_id, agent_id, ai_provider, ai_model, prompt_tokens, completion_tokens, total_tokens,"
                       " cost_usd, cost_rub, platform, execution_time_ms, cache_read_tokens, cache_write_tokens,"
                       " cost_source, workflow_id, request_id FROM token_usage").rows[0]
    assert [money(v) if i in (7, 8) else v for i, v in enumerate(row)] == [
        42, "writer", "openai", "gpt-4o", 1000, 10, 1010, Decimal("0.001975"), Decimal("0.1886125"), "web", 1200,
        500, None, "price_book", None, "r1"]
    body = json.loads(one(priced, "SELECT token_usage_summary_json(42, NULL, '2025-10-20T18:00:00Z')"),
                      parse_float=Decimal)
    assert body["data"]["today"]["cost_usd"] == Decimal("0.001975")


def test_response_is_kept(priced):
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10,
             "prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": {"reasoning_tokens": 2}}
    result = record(priced, prompt_tokens="-", completion_tokens="-", response={"model": "gpt-4o-2024-08-06", "usage": usage},
                    response_metadata={"trace": "t"})
    assert (result["prompt_tokens"], result["completion_tokens"], result["cost_usd"]) == (7, 3, Decimal("0.0000425"))
    text, cached, reasoning = priced.query(
        "SELECT response_metadata, cache_read_tokens, reasoning_tokens FROM token_usage").rows[0]
    assert json.loads(text) == {"trace": "t", "provider_usage": usage}
    assert (cached, reasoning) == (4, 2)


@pytest.mark.parametrize("changes, usd, rub, source", [
    ({}, "0.0026", "0.2483", "price_book"),
    ({"cost_usd": Decimal("0.5")}, "0.5", "47.75", "event"),
    ({"cost_usd": 0}, "0", "0", "event"),
    ({"cost_usd": Decimal("0.5"), "cost_rub": 3}, "0.5", "3", "event"),
    ({"cost_rub": 3}, "0.0026", "3", "event"),
    ({"ai_model": "nothing"}, None, None, None),
    ({"ai_model": "nothing", "created_at": "2024-12-31T23:59:59Z", "cost_usd": 1}, "1", None, "event"),
    ({"ai_provider": "openrouter", "prompt_tokens": "-", "completion_tokens": "-",
      "response": {"usage": {"prompt_tokens": 1, "completion_tokens": 1, "cost": Decimal("4e-05")}}},
     "0.00004", "0.00382", "provider"),
    ({"prompt_tokens": "-", "completion_tokens": "-", "response": {"usage": {"type": "duration", "seconds": 3}}},
     None, None, "other"),
])
def test_costs(priced, changes, usd, rub, source):
    result = record(priced, **changes)
    wanted = [None if v is None else Decimal(v) for v in (usd, rub)]
    assert [money(result["cost_usd"]), money(result["cost_rub"])] == wanted
    row = priced.query("SELECT cost_usd, cost_rub, cost_source FROM token_usage").rows[0]
    assert [money(row[0]), money(row[1]), row[2]] == wanted + [source]


def test_unknown_model_is_unpriced_with_a_warning(priced):
    assert record(priced, ai_model="nothing")["warnings"] == ["no price is known for openai nothing"]
    assert one(priced, "SELECT unpriced_count FROM token_usage_totals(42, 'all')") == 1


def test_without_prices_everything_is_recorded(database):
    result = record(database)
    assert (result["cost_usd"], result["cost_rub"], result["created"]) == (None, None, True)


def test_created_at_defaults_to_now(database):
    record(database, created_at="-")
    assert one(database, "SELECT requests_count FROM token_usage_totals(42, 'day')") == 1


def test_repeated_request(priced):
    first = record(priced, request_id="r1")
    again = record(priced, request_id="r1", platform="other", created_at="2025-11-01T00:00:00Z", cost_usd=7)
    assert again == {**first, "created": False}
    assert one(priced, "SELECT count(*) FROM token_usage") == 1


@pytest.mark.parametrize("field, value", [
    ("user_id", 43), ("agent_id", "reader"), ("ai_provider", "azure"), ("ai_model", "gpt-4"),
    ("prompt_tokens", 1001), ("completion_tokens", 11)])
def test_conflicting_request(database, field, value):
    record(database, request_id="r1")
    error = error_of(database, "token_usage_record", {**EVENT, "request_id": "r1", field: value})
    assert error.message == ("token_usage: event.request_id must be new or repeat the same facts, "
                             f"got r1 with another {field}")
    assert error.sqlstate in (None, "23505")
    assert one(database, "SELECT count(*) FROM token_usage") == 1


def test_batch(priced):
    events = [{**EVENT, "request_id": f"r{i % 3}", "user_id": 7} for i in range(5)]
    results = batch(priced, events)
    assert [r["created"] for r in results] == [True, True, True, False, False]
    assert results[3]["id"] == results[0]["id"]
    assert batch(priced, []) == []
    assert one(priced, "SELECT count(*) FROM token_usage") == 3


def test_one_bad_event_among_a_thousand(database):
    events = [{**EVENT, "request_id": str(i)} for i in range(1000)]
    events[617] = {**EVENT, "agent_id": None}
    error = error_of(database, "token_usage_record_batch", events)
    assert error.message == "token_usage: events[617].agent_id must be given, got NULL"
    assert one(database, "SELECT count(*) FROM token_usage") == 0


def test_batch_conflict_names_the_event(database):
    events = [{**EVENT, "request_id": "a"}, {**EVENT, "request_id": "a", "prompt_tokens": 5}]
    error = error_of(database, "token_usage_record_batch", events)
    assert error.message == ("token_usage: events[1].request_id must be new or repeat the same facts, "
                             "got a with another prompt_tokens")
    assert one(database, "SELECT count(*) FROM token_usage") == 0


WHOLE = "must be a whole number from 0 to 9223372036854775807, got"


@pytest.mark.parametrize("event, message", [
    ([], "event must be an object, got []"),
    ({**EVENT, "model": "x"}, 'event.model must be a known key, got "x"'),
    ({**EVENT, "id": 5}, "event.id must be a known key, got 5"),
    ({**EVENT, "cost_source": "event"}, 'event.cost_source must be a known key, got "event"'),
    ({k: v for k, v in EVENT.items() if k != "user_id"}, "event.user_id must be given, got NULL"),
    ({**EVENT, "user_id": None}, "event.user_id must be given, got NULL"),
    ({**EVENT, "user_id": True}, "event.user_id must be a whole number or text, got true"),
    ({**EVENT, "user_id": Decimal("1.5")}, "event.user_id must be a whole number or text, got 1.5"),
    ({**EVENT, "agent_id": 5}, "event.agent_id must be non-empty text, got 5"),
    ({**EVENT, "ai_model": ""}, 'event.ai_model must be non-empty text, got ""'),
    ({**EVENT, "prompt_tokens": None, "completion_tokens": None}, "event must be counts or a response, got neither"),
    ({**EVENT, "completion_tokens": None}, "event.completion_tokens must be given, got NULL"),
    ({**EVENT, "response": {}}, "event.response must be left out where counts are given, got both"),
    ({**EVENT, "prompt_tokens": -1}, f"event.prompt_tokens {WHOLE} -1"),
    ({**EVENT, "prompt_tokens": Decimal("0.5")}, f"event.prompt_tokens {WHOLE} 0.5"),
    ({**EVENT, "prompt_tokens": "1"}, f'event.prompt_tokens {WHOLE} "1"'),
    ({**EVENT, "prompt_tokens": 2**63 - 1}, "event must be counts whose sum is at most 9223372036854775807, got more"),
    ({**EVENT, "total_tokens": 9}, "event.total_tokens must be prompt_tokens + completion_tokens, got 9"),
    ({**EVENT, "cache_read_tokens": 900, "cache_write_tokens": 101},
     "event.cache_read_tokens must be at most prompt_tokens with cache_write_tokens, got 900"),
    ({**EVENT, "cache_write_1h_tokens": 1}, "event.cache_write_1h_tokens must be at most cache_write_tokens, got 1"),
    ({**EVENT, "reasoning_tokens": 11}, "event.reasoning_tokens must be at most completion_tokens, got 11"),
    ({**EVENT, "cost_usd": "0.1"}, 'event.cost_usd must be a number, got "0.1"'),
    ({**EVENT, "platform": 1}, "event.platform must be text, got 1"),
    ({**EVENT, "request_id": ""}, 'event.request_id must be non-empty text, got ""'),
    ({**EVENT, "execution_time_ms": Decimal("1.5")}, f"event.execution_time_ms {WHOLE} 1.5"),
    ({**EVENT, "created_at": "yesterday"}, 'event.created_at must be a time such as 2025-10-20T14:30:25Z, got "yesterday"'),
])
def test_bad_event(database, event, message):
    error = error_of(database, "token_usage_record", event)
    assert error.message == "token_usage: " + message
    assert error.sqlstate in (None, "22023")
    assert one(database, "SELECT count(*) FROM token_usage") == 0


@pytest.mark.parametrize("changes, message", [
    ({"response": {"usage": {"prompt_tokens": -1}}}, f"event.response.usage.prompt_tokens {WHOLE} -1"),
    ({"response": "x"}, 'event.response must be an object, got "x"'),
    ({"response": {"usage": {"prompt_tokens": 1}}, "reasoning_tokens": 1},
     "event.reasoning_tokens must be left out where response is given, got 1"),
    ({"response": {"usage": {"prompt_tokens": 1}}, "response_metadata": 1},
     "event.response_metadata must be an object where response is given, got 1"),
])
def test_bad_response(database, changes, message):
    event = {**EVENT, **changes, "prompt_tokens": None, "completion_tokens": None}
    assert error_of(database, "token_usage_record", event).message == "token_usage: " + message


def test_wrong_user_for_the_ledger(pg):
    database = pg.database()
    error = error_of(database, "token_usage_record", {**EVENT, "user_id": "abc"})
    assert error.message == "token_usage: event.user_id must be a bigint, got abc"
    assert record(database, user_id="42")["created"] is True
    database.close()


def test_text_users(edition):
    database = edition.database(user_id_type="text")
    record(database, user_id="alice", request_id="r")
    assert record(database, user_id="alice", request_id="r")["created"] is False
    assert one(database, "SELECT requests_count FROM token_usage_totals('alice', 'all')") == 1
    database.close()


def test_events_must_be_an_array(database):
    assert error_of(database, "token_usage_record_batch", EVENT).message.startswith(
        "token_usage: events must be an array, got {")


def test_part_of_the_callers_transaction(database):
    database.execute("BEGIN")
    record(database)
    database.execute("ROLLBACK")
    assert one(database, "SELECT count(*) FROM token_usage") == 0


def test_a_failed_call_leaves_the_callers_transaction(edition):
    database = edition.database()
    database.execute("BEGIN")
    record(database, request_id="kept")
    if database.dialect == "pg":
        database.execute("SAVEPOINT s")
    error_of(database, "token_usage_record_batch", [{**EVENT, "request_id": "lost"}, {}])
    if database.dialect == "pg":
        database.execute("ROLLBACK TO s")
    database.execute("COMMIT")
    assert database.query("SELECT request_id FROM token_usage").rows == [("kept",)]
    database.close()


def test_two_sessions_record_one_request(edition):
    """One creates, the other is told that it was there."""
    database = edition.database(file=True)
    sessions = [database.another() for _ in range(2)] if edition.dialect == "pg" else None
    for round_number in range(20):
        barrier, results = threading.Barrier(2), []

        def run(index):
            session = sessions[index] if sessions else database.another()
            barrier.wait()
            results.append(record(session, request_id=f"r{round_number}"))
            if not sessions:
                session.close()
        threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(r["created"] for r in results) == [False, True]
        assert len({r["id"] for r in results}) == 1
    assert one(database, "SELECT count(*) FROM token_usage") == 20
    for session in sessions or []:
        session.close()
    database.close()


def test_not_migrated(edition):
    database = edition.database(migrate=False)
    error = error_of(database, "token_usage_record", EVENT)
    assert error.message == "token_usage: no token_usage table; run SELECT token_usage_migrate()"
    assert error.sqlstate in (None, "42P01")
    database.close()


def test_adopted_ledger(edition):
    """A table of the application's own, without our columns: after migrate it records."""
    database = edition.database(migrate=False)
    database.execute("CREATE TABLE token_usage (id INTEGER PRIMARY KEY" +
                     (" GENERATED BY DEFAULT AS IDENTITY" if database.dialect == "pg" else "") +
                     ", user_id INTEGER, agent_id VARCHAR(50), ai_provider VARCHAR(50), ai_model VARCHAR(50),"
                     " prompt_tokens INTEGER, completion_tokens INTEGER, total_tokens INTEGER,"
                     " cost_usd DECIMAL(10,4), cost_rub DECIMAL(10,2), created_at TIMESTAMP, request_id VARCHAR(50))")
    database.execute("INSERT INTO token_usage (id, user_id, agent_id, ai_provider, ai_model, request_id, created_at)"
                     " VALUES (1001, 1, 'a', 'p', 'm', 'same', '2025-01-01 00:00:00'),"
                     " (1002, 1, 'a', 'p', 'm', 'same', '2025-01-01 00:00:00')")
    database.query("SELECT token_usage_migrate()")
    first = record(database, request_id="new")
    assert first["created"] is True
    assert record(database, request_id="new") == {**first, "created": False, "warnings": []}
    assert one(database, "SELECT requests_count FROM token_usage_totals(42, 'all')") == 1
    database.close()
