"""POST /usage/tokens: one event of the token's user, once."""
import concurrent.futures
import json
from decimal import Decimal

import pytest
from service import PREFIXES, Service, bearer, error_of, one_value

EVENT = {"agent_id": "writer", "ai_provider": "openai", "ai_model": "gpt-4o", "prompt_tokens": 100, "completion_tokens": 20}
TOKENS = PREFIXES[0] + "/usage/tokens"


@pytest.fixture
def running(fresh):
    with Service(fresh) as started:
        yield started


def rows(database):
    return [tuple(r) for r in database.query(
        "SELECT user_id, agent_id, prompt_tokens, request_id FROM token_usage ORDER BY id").rows]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_an_event_is_recorded_once(running, fresh, prefix):
    event = {**EVENT, "request_id": "r-1"}
    first = running.record(event, path=prefix + "/usage/tokens")
    assert first.status == 201
    body = json.loads(first.text)
    assert (body["created"], body["total_tokens"]) == (True, 120)
    second = running.record(event, path=prefix + "/usage/tokens")
    assert second.status == 200
    assert json.loads(second.text) == {**body, "created": False, "warnings": []}
    assert rows(fresh) == [(42, "writer", 100, "r-1")]


def test_the_response_of_a_provider(running):
    body = json.loads(running.record({
        "agent_id": "writer", "ai_provider": "anthropic", "ai_model": "claude-sonnet-4-5",
        "response": {"usage": {"input_tokens": 16, "cache_read_input_tokens": 13637, "output_tokens": 344}}}).text)
    assert (body["prompt_tokens"], body["completion_tokens"]) == (13653, 344)


def test_the_same_id_with_other_facts(running, fresh):
    running.record({**EVENT, "request_id": "r-1"})
    answer = running.record({**EVENT, "request_id": "r-1", "prompt_tokens": 101})
    assert answer.status == 409
    assert error_of(answer) == ("token_usage: event.request_id must be new or repeat the same facts, "
                                "got r-1 with another prompt_tokens")
    answer = running.record({**EVENT, "request_id": "r-1"}, user="7")
    assert answer.status == 409
    assert len(rows(fresh)) == 1


def test_the_user_is_the_tokens(running, fresh):
    assert running.record({**EVENT, "user_id": 42}).status == 201
    assert running.record({**EVENT, "user_id": "42"}).status == 201
    for other in (43, "43", "042", 42.5, -42, "", " 42", "42 "):
        answer = running.record({**EVENT, "user_id": other})
        assert (answer.status, error_of(answer)) == (403, "the event is of another user than the token"), other
    for other in (None, [42], {"id": 42}, True):
        answer = running.record({**EVENT, "user_id": other})
        assert answer.status in (400, 403), other
    # However the key is written, and however often.
    assert running.record('{"user\\u005fid": 43, ' + json.dumps(EVENT)[1:]).status == 403
    answer = running.record('{"user_id": 42, "user_id": 43, ' + json.dumps(EVENT)[1:])
    assert (answer.status, error_of(answer)) == (400, "token_usage: event.user_id must be given once, got it twice")
    assert running.record(EVENT, user="7").status == 201
    assert [r[0] for r in rows(fresh)] == [42, 42, 7]


def test_digits_are_kept(running, fresh):
    answer = running.record('{"cost_usd": 0.123456789012, "cost_rub": 11.100000000001, ' + json.dumps(EVENT)[1:])
    body = json.loads(answer.text, parse_float=Decimal)
    assert (body["cost_usd"], body["cost_rub"]) == (Decimal("0.123456789012"), Decimal("11.100000000001"))


WRONG = [
    ("", 'token_usage: event must be JSON'),
    ("{", 'token_usage: event must be JSON'),
    ("[]", "token_usage: event must be a JSON object, got []"),
    ("42", "token_usage: event must be a JSON object, got 42"),
    (json.dumps([EVENT]), "token_usage: event must be a JSON object, got [{"),
    (json.dumps({**EVENT, "colour": "red"}), 'token_usage: event.colour must be a known key, got "red"'),
    (json.dumps({k: v for k, v in EVENT.items() if k != "agent_id"}), "token_usage: event.agent_id must be"),
    (json.dumps({**EVENT, "prompt_tokens": -1}), "token_usage: event.prompt_tokens must be"),
    (json.dumps({**EVENT, "created_at": "soon"}), "token_usage: event.created_at must be"),
    (b'{"agent_id": "\xff"}', "token_usage: event must be UTF-8 text without NUL"),
    ("[" * 100_000, "token_usage: event must be JSON"),
]


@pytest.mark.parametrize("event,message", WRONG, ids=range(len(WRONG)))
def test_wrong_event(running, fresh, event, message):
    answer = running.record(event)
    assert answer.status == 400
    assert error_of(answer).startswith(message)
    assert rows(fresh) == []


def test_it_must_be_json(running, fresh):
    for content_type, status in (("text/plain", 415), ("application/x-www-form-urlencoded", 415), (None, 415), ("application/jsonx", 415),
                                 ("application/json", 201), ("Application/JSON; charset=utf-8", 201)):
        headers = dict(bearer("42"))
        if content_type:
            headers["Content-Type"] = content_type
        answer = running.request("POST", TOKENS, json.dumps(EVENT), headers)
        assert answer.status == status, content_type
    assert len(rows(fresh)) == 2
    answer = running.request("POST", TOKENS + "?user_id=7", json.dumps(EVENT), {**bearer("42"), "Content-Type": "application/json"})
    assert answer.status == 400


def test_many_at_once(fresh):
    """Distinct events all arrive; one that many send at once is recorded once."""
    # How long a request may wait is not the question here: a busy machine may take its time.
    with Service(fresh, "--pool", "4", "--pool-wait-ms", "60000", "--statement-timeout-ms", "60000") as running:
        def distinct(i):
            return running.record({**EVENT, "request_id": f"d-{i}"}).status

        def same(_):
            return running.record({**EVENT, "request_id": "same"}).status

        with concurrent.futures.ThreadPoolExecutor(16) as threads:
            assert set(threads.map(distinct, range(100))) == {201}
            assert sorted(threads.map(same, range(32))) == [200] * 31 + [201]
        summary = json.loads(running.get(TOKENS + "/summary").text)["data"]["all_time"]
        assert (summary["requests_count"], summary["total_tokens"]) == (101, 101 * 120)
    assert one_value(fresh, "SELECT count(*) FROM token_usage", []) == 101


def test_a_row_that_the_ledger_does_not_take(pg):
    """A constraint of the application's own: refused without the database's words."""
    database = pg.database()
    database.query("ALTER TABLE token_usage ADD CONSTRAINT only_known CHECK (agent_id <> 'secret-name')")
    with Service(database) as running:
        answer = running.record({**EVENT, "agent_id": "secret-name"})
        assert (answer.status, error_of(answer)) == (400, "the ledger does not take this event")
        running.wait_for_line("only_known")
    database.close()


def test_a_role_that_may_only_read(pg):
    database = pg.database()
    pg.superuser(f"DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'reader') THEN CREATE ROLE reader LOGIN; END IF; END $$")
    database.query("GRANT SELECT ON token_usage TO reader")
    with Service(pg.server.url(database.name, "reader")) as running:
        assert running.get(TOKENS + "/summary").status == 200
        answer = running.record(EVENT)
        assert (answer.status, error_of(answer)) == (500, "the database could not answer")
    database.close()
