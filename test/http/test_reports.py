"""The reports over HTTP: the body is what the SQL function returns, byte by byte; parameters reach
it; a wrong one is the contract's error."""
import json
import re
import urllib.parse

import pytest
from service import PREFIXES, error_of, one_value

TOKENS = "/usage/tokens"
REPORTS = [
    ("", "token_usage_totals_json(?, 'month')", {}, []),
    ("", "token_usage_totals_json(?, ?, ?, ?)", {"period": "week", "agent_id": "writer", "time_zone": "Europe/Moscow"},
     ["week", "writer", "Europe/Moscow"]),
    ("", "token_usage_totals_json(?, ?, NULL, ?)", {"period": "all", "time_zone": "asia/kolkata"}, ["all", "asia/kolkata"]),
    ("/summary", "token_usage_summary_json(?)", {}, []),
    ("/summary", "token_usage_summary_json(?, ?)", {"time_zone": "Pacific/Auckland"}, ["Pacific/Auckland"]),
    ("/history", "token_usage_history_json(?)", {}, []),
    ("/history", "token_usage_history_json(?, 7, ?, ?)", {"days": 7, "agent_id": "Перевод", "time_zone": "America/Los_Angeles"},
     ["Перевод", "America/Los_Angeles"]),
    ("/by-agent", "token_usage_by_agent_json(?)", {}, []),
    ("/by-agent", "token_usage_by_agent_json(?, 3, ?)", {"period_days": 3, "time_zone": "Asia/Tokyo"}, ["Asia/Tokyo"]),
    ("/by-model", "token_usage_by_model_json(?)", {}, []),
    ("/by-model", "token_usage_by_model_json(?, 36600, ?)", {"period_days": 36600, "time_zone": "UTC"}, ["UTC"]),
    ("/detailed", "token_usage_detailed_json(?)", {}, []),
    ("/detailed", "token_usage_detailed_json(?, 5, 10, ?)", {"limit": 5, "offset": 10, "agent_id": "researcher"}, ["researcher"]),
    ("/detailed", "token_usage_detailed_json(?, 500, 0, NULL, ?, ?)",
     {"limit": 500, "start_date": "2020-01-01", "end_date": "2100-01-01T00:00:00+03:00"}, ["2020-01-01", "2100-01-01T00:00:00+03:00"]),
]


@pytest.mark.parametrize("path,call,query,values", REPORTS, ids=lambda v: str(v) if isinstance(v, str) else "")
@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("user", ["42", "7", "999"])
def test_body_is_that_of_the_function(service, ledger, prefix, path, call, query, values, user):
    def from_sql():
        return one_value(ledger, f"SELECT {call}", [int(user), *values])

    before = from_sql()
    answer = service.get(prefix + TOKENS + path, user, **query)
    after = from_sql()
    assert answer.status == 200
    assert answer.text in (before, after)  # midnight may pass between the two
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_pages_by_cursor_reach_every_row_once(service):
    seen, after = [], ""
    while after is not None:
        data = json.loads(service.get(PREFIXES[0] + TOKENS + "/detailed", limit=7, after=after).text)["data"]
        seen += [item["id"] for item in data["items"]]
        after = data["next_cursor"]
        assert data["has_more"] == (after is not None)
    assert len(seen) == len(set(seen)) == data["total"] == 60


def test_head_is_get_without_a_body(service):
    got = service.get(PREFIXES[0] + TOKENS + "/summary")
    head = service.request("HEAD", PREFIXES[0] + TOKENS + "/summary",
                           headers={"Authorization": "Bearer " + _token()})
    assert (head.status, head.text) == (200, "")
    assert head.headers["content-length"] == got.headers["content-length"]


def _token():
    from service import user_token
    return user_token("42")


def test_empty_parameters_count_as_not_given(service):
    plain = service.get(PREFIXES[0] + TOKENS + "/history")
    assert service.get(PREFIXES[0] + TOKENS + "/history?days=&agent_id=&time_zone=").text == plain.text


RANGE = "a whole number from 1 to 36600"
WRONG = [
    ("?period=fortnight", "period must be one of day, week, month, year, all, got fortnight"),
    ("?time_zone=Mars/Olympus", "time_zone must be an IANA time zone, got Mars/Olympus"),
    ("?time_zone=MSK%2B3", "time_zone must be an IANA time zone, got MSK+3"),
    ("/summary?time_zone=nowhere", "time_zone must be an IANA time zone, got nowhere"),
    ("/history?days=0", f"days must be {RANGE}, got 0"),
    ("/history?days=36601", f"days must be {RANGE}, got 36601"),
    ("/history?days=-5", f"days must be {RANGE}, got -5"),
    ("/history?days=ten", f"days must be {RANGE}, got ten"),
    ("/history?days=7.5", f"days must be {RANGE}, got 7.5"),
    ("/history?days=1e1", f"days must be {RANGE}, got 1e1"),
    ("/history?days=%207", f"days must be {RANGE}, got  7"),
    ("/history?days=9223372036854775808", f"days must be {RANGE}, got 9223372036854775808"),
    ("/history?days=1&days=2", "days must be given once, got it twice"),
    ("/by-agent?period_days=0", f"period_days must be {RANGE}, got 0"),
    ("/by-model?period_days=x", f"period_days must be {RANGE}, got x"),
    ("/detailed?limit=501", "page_limit must be a whole number from 1 to 500, got 501"),
    ("/detailed?limit=x", "page_limit must be a whole number from 1 to 500, got x"),
    ("/detailed?offset=-1", "page_offset must be a whole number from 0 to 9223372036854775807, got -1"),
    ("/detailed?start_date=yesterday", "start_date must be a time such as 2025-10-20T14:30:25Z, got yesterday"),
    ("/detailed?start_date=yesterday&time_zone=UTC", "start_date must be a time such as 2025-10-20T14:30:25Z, got yesterday"),
    ("/detailed?end_date=2025-13-01", "end_date must be a time such as 2025-10-20T14:30:25Z, got 2025-13-01"),
    ("/detailed?after=abc", "after must be a cursor from token_usage_detailed, got abc"),
    ("/detailed?time_zone=nowhere", "time_zone must be an IANA time zone, got nowhere"),
    ("/summary?user_id=7", "unknown parameter user_id"),
    ("/history?agent=writer", "unknown parameter agent"),
    ("/history?agent_id=a%00b", "agent must be UTF-8 text without NUL, got a\\0b"),
    ("/history?agent_id=%ff", "agent must be UTF-8 text without NUL, got \N{REPLACEMENT CHARACTER}"),
]


@pytest.mark.parametrize("path,message", WRONG)
def test_wrong_parameter_is_the_contracts_error(service, path, message):
    answer = service.get(PREFIXES[0] + TOKENS + path)
    assert (answer.status, error_of(answer)) == (400, "token_usage: " + message)


def test_the_message_is_the_databases_own(service, ledger):
    """Not only the same as in the list above: the same as the function raises."""
    from support.editions import DatabaseError
    with pytest.raises(DatabaseError) as raised:
        one_value(ledger, "SELECT token_usage_history_json(42, 36601)", [])
    answer = service.get(PREFIXES[0] + TOKENS + "/history", days=36601)
    assert error_of(answer) == raised.value.message


def test_input_never_becomes_sql(service, ledger):
    hostile = "x'); DROP TABLE token_usage; --"
    for path, names in (("", ["period", "agent_id", "time_zone"]), ("/history", ["days", "agent_id", "time_zone"]),
                        ("/by-agent", ["period_days", "time_zone"]), ("/by-model", ["period_days", "time_zone"]),
                        ("/detailed", ["limit", "offset", "agent_id", "start_date", "end_date", "after", "time_zone"])):
        for name in names:
            answer = service.get(PREFIXES[0] + TOKENS + path, **{name: hostile})
            assert answer.status == (200 if name == "agent_id" else 400), (path, name, answer.text)
    assert one_value(ledger, "SELECT count(*) FROM token_usage WHERE user_id IN (42, 7)", []) == 65


def test_dates_without_an_offset_are_in_the_zone(edition, fresh):
    from service import Service
    fresh.insert("token_usage", ("user_id", "agent_id", "ai_provider", "ai_model", "created_at"), [
        (42, "a", "p", "m", "2025-10-19T20:59:59.999999Z"),  # 19 October in Moscow, by a microsecond
        (42, "b", "p", "m", "2025-10-19T21:00:00Z"),
        (42, "c", "p", "m", "2025-10-20T20:59:59.999999Z"),
        (42, "d", "p", "m", "2025-10-20T21:00:00Z")])
    with Service(fresh) as running:
        def agents(**query):
            answer = running.get(PREFIXES[0] + TOKENS + "/detailed", **query)
            assert answer.status == 200, answer.text
            return "".join(item["agent_id"] for item in json.loads(answer.text)["data"]["items"])

        day = {"start_date": "2025-10-20", "end_date": "2025-10-20T23:59:59.999999"}
        assert agents(**day) == "dc"  # UTC, as the contract says
        assert agents(**day, time_zone="Europe/Moscow") == "cb"
        # An offset says more than the zone.
        assert agents(start_date="2025-10-20T21:00:00Z", time_zone="Europe/Moscow") == "d"
        assert agents(end_date="2025-10-20 00:00:00+03:00", time_zone="Asia/Tokyo") == "ba"
        # Clocks in Apia went from 29 December 2011 to the 31st: the 30th begins when the 31st does.
        assert agents(start_date="2011-12-30", end_date="2011-12-31", time_zone="Pacific/Apia") == ""


@pytest.mark.parametrize("kind,users", [("text", ["alice", "Борис", "o'neil; --"]), ("uuid", ["11111111-2222-3333-4444-555555555555"])])
def test_other_types_of_user(edition, kind, users):
    from service import Service
    database = edition.database(user_id_type=kind, file=True)
    columns = ("user_id", "agent_id", "ai_provider", "ai_model", "prompt_tokens", "total_tokens")
    for i, user in enumerate(users):
        database.insert("token_usage", columns, [(user, "a", "p", "m", 1000 + i, 1000 + i)])
    with Service(database) as running:
        for i, user in enumerate(users):
            answer = running.get(PREFIXES[0] + TOKENS + "/summary", user)
            assert json.loads(answer.text)["data"]["all_time"]["total_tokens"] == 1000 + i
            event = {"agent_id": "a", "ai_provider": "p", "ai_model": "m", "prompt_tokens": 5, "completion_tokens": 0}
            assert running.record(event, user).status == 201
            assert running.record({**event, "user_id": user}, user).status == 201
            answer = running.get(PREFIXES[0] + TOKENS + "/summary", user)
            assert json.loads(answer.text)["data"]["all_time"]["total_tokens"] == 1010 + i
    database.close()


def test_a_subject_that_the_ledger_cannot_hold(pg, request):
    """A ledger of numbered users, a token of a named one: nothing that the caller may change."""
    from service import Service
    database = pg.database()
    with Service(database) as running:
        answer = running.get(PREFIXES[0] + TOKENS + "/summary", "alice")
        assert (answer.status, error_of(answer)) == (403, "token_usage: user_id must be a bigint, got alice")
    database.close()


def test_paths_and_methods(service):
    for path in ("/nothing", "/api", "/api/v1/billing", "/api/v1/billing/usage", "/api/v1/billing/usage/tokens/",
                 "/api/v2/billing/usage/tokens", "/api/v1/billing/usage/tokens/summary/x", "/api/billing/usage/tokens%00",
                 "/API/v1/billing/usage/tokens", "/../etc/passwd", "/%2e%2e/etc/passwd"):
        answer = service.get(path)
        assert (answer.status, error_of(answer)) == (404, "no such path"), path
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"):
        for prefix in PREFIXES:
            answer = service.request(method, prefix + TOKENS, headers={"Authorization": "Bearer " + _token()})
            assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, POST"), method
            assert error_of(answer) == "this path takes GET, HEAD, POST"
        answer = service.request(method, "/healthz")
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
    for path in ("/summary", "/history", "/by-agent", "/by-model", "/detailed"):
        answer = service.record({}, path=PREFIXES[0] + TOKENS + path)
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD"), path


def test_percent_encoding_of_a_path_is_decoded(service):
    assert service.get("/api/v1/billing/usage/tokens/by%2dagent").status == 200


def test_log_has_one_line_a_request(service):
    service.get(PREFIXES[0] + TOKENS + "/history", days=3, agent_id="log-me")
    line = service.wait_for_line(" GET /api/v1/billing/usage/tokens/history 200 ")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z GET /api/v1/billing/usage/tokens/history 200 "
                        r"\d+\.\dms \d+B user=42", line)
    assert not any("log-me" in line for line in service.lines)
    service.request("GET", "/" + urllib.parse.quote("a\nb c") + "%0d%0aforged")
    service.wait_for_line(" GET /a%0Ab%20c%0d%0aforged 404 ")


def test_health(service, ledger):
    answer = service.get("/healthz", None)
    kind = "sqlite" if ledger.dialect == "sqlite" else "postgresql"
    assert (answer.status, json.loads(answer.text)) == (200, {"success": True, "database": kind, "time_zone": "UTC"})
