"""The price book, exchange rates and repricing. The same text of SQL runs in each edition."""
import json
import os
import pathlib
from decimal import Decimal

import pytest

from support import paths
from support.editions import DatabaseError, sql_literal
from test_record import CATALOGUE, EVENT, call, error_of, money, one, record
from test_responses import dump


def cost(database, provider, model, usage, at="2025-11-06T12:00:00Z"):
    return money(one(database, f"SELECT token_usage_cost({sql_literal(provider)}, {sql_literal(model)}, "
                               f"{sql_literal(dump(usage))}, {sql_literal(at)})"))


def add_price(database, **columns):
    names, values = zip(*columns.items())
    database.execute(f"INSERT INTO token_usage_price ({', '.join(names)}) VALUES "
                     f"({', '.join(sql_literal(v) for v in values)})")


def imported(database, catalogue):
    return call(database, "token_usage_import_prices", catalogue)


def genai(prices, **more):
    return [{"id": "p", "models": [{"id": "m", "match": {"equals": "m"}, "prices": prices, **more}]}]


def test_by_hand(database):
    add_price(database, ai_provider="acme", ai_model="large", token_class="input", usd_per_million=Decimal("0.0375"))
    add_price(database, ai_provider="acme", ai_model="large", token_class="output", usd_per_million=2)
    add_price(database, ai_provider="acme", ai_model="lar*", token_class="input", usd_per_million=9)
    add_price(database, ai_provider="*", ai_model="*", token_class="input", usd_per_million=1)
    assert cost(database, "ACME", "Large", {"prompt_tokens": 1, "completion_tokens": 0}) == Decimal("0.0000000375")
    assert cost(database, "acme", "large", {"prompt_tokens": 7, "completion_tokens": 1}) == Decimal("0.0000022625")
    assert cost(database, "acme", "largest", {"prompt_tokens": 1000000}) == 9
    assert cost(database, "other", "x", {"prompt_tokens": 1000000}) == 1
    assert cost(database, "other", "x", {"prompt_tokens": 1, "completion_tokens": 1}) is None


def test_by_hand_goes_before_a_catalogue(database):
    imported(database, CATALOGUE)
    add_price(database, ai_provider="openai", ai_model="gpt-4o", token_class="input", usd_per_million=1)
    add_price(database, ai_provider="openai", ai_model="gpt-4o", token_class="output", usd_per_million=1)
    assert cost(database, "openai", "gpt-4o", {"prompt_tokens": 10**6}) == 1
    imported(database, CATALOGUE)
    assert cost(database, "openai", "gpt-4o", {"prompt_tokens": 10**6}) == 1


@pytest.mark.parametrize("provider, model, found", [
    ("openai", "gpt-4o", True), ("OpenAI", " GPT-4o ", True), ("openai", "gpt-4o-2024-08-06", True),
    ("openai", "gpt-4o-20250101", True), ("openai", "gpt-4o@20250101", True), ("openai", "gpt-4o-latest", True),
    ("openai", "openai/gpt-4o", True), ("litellm", "openai/gpt-4o", True), ("gateway", "openai/gpt-4o", True),
    ("openai/chat", "gpt-4o", True), ("openai", "gpt-4o-mini", False), ("gateway", "gpt-4o", False),
    ("anthropic", "gpt-4o", False)])
def test_names(database, provider, model, found):
    imported(database, CATALOGUE)
    assert cost(database, provider, model, {"prompt_tokens": 10**6}) == (Decimal("2.5") if found else None)


def test_aliases_and_fallback(database):
    imported(database, [
        {"id": "x-ai", "provider_match": {"equals": "xai"}, "models": [
            {"id": "grok-4", "match": {"regex": "^grok-4(-\\d{4})?$"}, "prices": {"input_mtok": 3}}]},
        {"id": "azure", "fallback_model_providers": ["openai"], "models": []}, *CATALOGUE])
    assert cost(database, "grok", "grok-4-0709", {"prompt_tokens": 10**6}) == 3
    assert cost(database, "xai", "grok-4", {"prompt_tokens": 10**6}) == 3
    assert cost(database, "azure_openai", "gpt-4o", {"prompt_tokens": 10**6}) == Decimal("2.5")


def test_tiers_price_the_whole_request(database):
    imported(database, genai({"input_mtok": {"base": 3, "tiers": [{"start": 200000, "price": 6}]}, "output_mtok": 1}))
    assert cost(database, "p", "m", {"prompt_tokens": 200000}) == Decimal("0.6")
    assert cost(database, "p", "m", {"prompt_tokens": 200001}) == Decimal("1.200006")


def test_dates_and_times_of_day(database):
    imported(database, genai([
        {"prices": {"input_mtok": 10}},
        {"constraint": {"start_date": "2026-03-13"}, "prices": {"input_mtok": 3}},
        {"constraint": {"start_time": "00:30:00Z", "end_time": "16:30:00Z"}, "prices": {"input_mtok": 1}}]))
    for at, price in (("2025-01-01T17:00:00Z", 10), ("2026-05-01T17:00:00Z", 3), ("2026-05-01T16:30:00Z", 3),
                      ("2026-05-01T00:30:00Z", 1), ("2025-05-01T12:00:00Z", 1), ("2026-03-12T23:59:59.9Z", 10)):
        assert cost(database, "p", "m", {"prompt_tokens": 10**6}, at) == price, at


def test_every_class_once(database):
    imported(database, genai({
        "input_mtok": 2, "output_mtok": 10, "cache_read_mtok": Decimal("0.2"), "cache_write_mtok": Decimal("2.5"),
        "cache_write_1h_mtok": 4, "input_audio_mtok": 6, "cache_audio_read_mtok": 1, "output_audio_mtok": 20,
        "output_reasoning_mtok": 3, "web_searches_kcount": 10, "requests_kcount": 5}))
    usage = {"prompt_tokens": 10**6, "cache_read_tokens": 400000, "cache_write_tokens": 100000,
             "cache_write_1h_tokens": 100000, "input_audio_tokens": 100000, "cache_read_audio_tokens": 60000}
    assert cost(database, "p", "m", usage) == Decimal("1.688") + Decimal("0.005")
    usage = {"completion_tokens": 10**6, "reasoning_tokens": 400000, "output_audio_tokens": 100000,
             "web_search_requests": 3}
    assert cost(database, "p", "m", usage) == Decimal("8.23") + Decimal("0.005")
    # all of it cached, and all of it audio: counted once, as cached
    usage = {"prompt_tokens": 10**6, "cache_read_tokens": 10**6, "input_audio_tokens": 10**6}
    assert cost(database, "p", "m", usage) == 1 + Decimal("0.005")
    assert cost(database, "p", "m", {"not_tokens": True}) is None


def test_rounding_once_at_the_end(database):
    imported(database, genai({"input_mtok": Decimal("0.0000004"), "output_mtok": Decimal("0.0000006")}))
    assert cost(database, "p", "m", {"prompt_tokens": 1, "completion_tokens": 1}) == Decimal("0.000000000001")


@pytest.mark.parametrize("usage, message", [
    ({"prompt_tokens": -1}, "usage.prompt_tokens must be a whole number from 0 to 9223372036854775807, got -1"),
    ({"cached_tokens": 1}, "usage.cached_tokens must be one of the keys of token_usage_from_response, got 1"),
    ({"prompt_tokens": 1, "cache_read_tokens": 2},
     "usage.cache_read_tokens must be at most prompt_tokens with cache_write_tokens, got 2"),
    ([], "usage must be an object, got []"),
])
def test_bad_usage(database, usage, message):
    with pytest.raises(DatabaseError) as caught:
        cost(database, "p", "m", usage)
    assert caught.value.message == "token_usage: " + message


def test_import_again_changes_only_what_changed_and_never_the_past(database):
    first = imported(database, genai({"input_mtok": 3, "output_mtok": 15, "odd_mtok": 1}))
    assert first == {"source": "genai-prices", "providers": 1, "models": 1, "prices_added": 2, "prices_changed": 0,
                     "prices_removed": 0, "ignored": ["odd_mtok"]}
    again = imported(database, genai({"input_mtok": 3, "output_mtok": 15}))
    assert (again["prices_added"], again["prices_changed"], again["prices_removed"]) == (0, 0, 0)
    changed = imported(database, genai({"input_mtok": 4}))
    assert (changed["prices_added"], changed["prices_changed"]) == (2, 0)
    assert cost(database, "p", "m", {"prompt_tokens": 10**6, "completion_tokens": 10**6}) == 18
    assert cost(database, "p", "m", {"prompt_tokens": 10**6}, "2999-01-01T00:00:00Z") == 4
    assert cost(database, "p", "m", {"prompt_tokens": 1, "completion_tokens": 1}, "2999-01-01T00:00:00Z") is None
    back = imported(database, genai({"input_mtok": 3, "output_mtok": 15}))
    assert (back["prices_added"], back["prices_changed"]) == (0, 2)
    assert cost(database, "p", "m", {"prompt_tokens": 10**6, "completion_tokens": 10**6}, "2999-01-01T00:00:00Z") == 18


def test_announced_prices(database):
    def later(price):
        return genai([{"prices": {"input_mtok": 3}},
                      {"constraint": {"start_date": "2999-01-01"}, "prices": {"input_mtok": price}}])
    imported(database, later(5))
    assert imported(database, later(5))["prices_added"] == 0
    assert imported(database, later(6))["prices_changed"] == 1
    assert cost(database, "p", "m", {"prompt_tokens": 10**6}, "2999-01-01T00:00:00Z") == 6
    assert imported(database, genai({"input_mtok": 3}))["prices_removed"] == 1
    assert cost(database, "p", "m", {"prompt_tokens": 10**6}, "2999-01-01T00:00:00Z") == 3


def test_models_that_leave_the_catalogue_keep_their_prices(database):
    imported(database, genai({"input_mtok": 3}))
    imported(database, CATALOGUE)
    assert cost(database, "p", "m", {"prompt_tokens": 10**6}) == 3


LITELLM = {
    "sample_spec": {"input_cost_per_token": "text"},
    "gemini/gemini-x": {"litellm_provider": "gemini", "input_cost_per_token": Decimal("1.25e-06"),
                        "input_cost_per_token_above_200k_tokens": Decimal("2.5e-06"),
                        "output_cost_per_token": Decimal("1e-05"),
                        "cache_read_input_token_cost": Decimal("3.75e-8"),
                        "cache_creation_input_token_cost": Decimal("1e-6"),
                        "cache_creation_input_token_cost_above_1hr": Decimal("2e-6"),
                        "output_cost_per_reasoning_token": Decimal("5e-6"),
                        "input_cost_per_token_priority": 9, "aliases": ["gemini-x-001"]},
    "dall-e-3": {"litellm_provider": "openai", "output_cost_per_image": Decimal("0.04")},
    "qwen": {"litellm_provider": "dashscope", "tiered_pricing": [
        {"range": [0, 256000], "input_cost_per_token": Decimal("5e-8")},
        {"range": [256000, 1000000], "input_cost_per_token": Decimal("2.5e-7")}]}}


def test_litellm(database):
    result = imported(database, LITELLM)
    assert (result["source"], result["providers"], result["models"]) == ("litellm", 2, 2)
    for model in ("gemini-x", "gemini/gemini-x", "gemini-x-001", "gemini-x-2025-01-01"):
        assert cost(database, "vertex_ai", model, {"prompt_tokens": 1}) == Decimal("0.00000125")
    usage = {"prompt_tokens": 1000, "cache_read_tokens": 1, "cache_write_tokens": 5, "cache_write_1h_tokens": 2,
             "completion_tokens": 10, "reasoning_tokens": 4}
    assert cost(database, "google", "gemini-x", usage) == (
        994 * Decimal("1.25e-06") + Decimal("3.75e-8") + 3 * Decimal("1e-6") + 2 * Decimal("2e-6")
        + 6 * Decimal("1e-05") + 4 * Decimal("5e-6"))
    assert cost(database, "google", "gemini-x", {"prompt_tokens": 200001}) == Decimal("0.5000025")
    assert cost(database, "dashscope", "qwen", {"prompt_tokens": 256001}) == Decimal("0.06400025")
    assert cost(database, "openai", "dall-e-3", {"prompt_tokens": 1}) is None
    assert imported(database, LITELLM)["prices_added"] == 0


@pytest.mark.parametrize("catalogue, message", [
    (5, "catalogue must be a genai-prices or LiteLLM price list, got 5"),
    ({"a": 5}, "catalogue.a must be an object, got 5"),
    ({**LITELLM, "bad": {"litellm_provider": "openai", "input_cost_per_token": -1}},
     "catalogue.bad.input_cost_per_token must be a number from 0, got -1"),
    ({**LITELLM, "bad": {"input_cost_per_token": 1}}, "catalogue.bad.litellm_provider must be a non-empty text, got NULL"),
    (CATALOGUE + genai({"input_mtok": "x"}), 'catalogue.p.m.prices.input_mtok must be a number from 0, got "x"'),
    (CATALOGUE + [{"id": "p", "models": [{"id": "m", "match": {"is": "m"}, "prices": {}}]}],
     'catalogue.p.m.match must be a match clause, got {"is": "m"}'),
    (CATALOGUE + [{"models": []}], "catalogue[1].id must be a non-empty text, got NULL"),
    (CATALOGUE + genai([{"prices": {}, "constraint": {"start_date": "soon"}}]),
     'catalogue.p.m.prices[0].constraint must be a start_date or a start_time and end_time, got {"start_date": "soon"}'),
])
def test_bad_catalogue_changes_nothing(database, catalogue, message):
    error = error_of(database, "token_usage_import_prices", catalogue)
    assert error.message == "token_usage: " + message
    assert one(database, "SELECT count(*) FROM token_usage_price") == 0
    assert one(database, "SELECT count(*) FROM token_usage_price_model") == 0


def test_whole_catalogue(database):
    data = pathlib.Path(os.environ.get("TOKEN_USAGE_DATA", paths.ROOT.parent / "shared" / "data"))
    if not (data / "genai_prices.json").exists():
        pytest.skip(f"no catalogue in {data}")
    text = (data / "genai_prices.json").read_text()
    assert imported(database, text)["models"] > 1000
    assert imported(database, text)["prices_added"] == 0
    assert cost(database, "openai", "gpt-4o-2024-08-06", {"prompt_tokens": 1000}) == Decimal("0.0025")


# -- exchange rates -------------------------------------------------------------------------------

def test_rate_in_force(database):
    imported(database, CATALOGUE)
    for rate, start in ((80, "2025-01-01"), (95.5, "2025-10-20T14:30:25Z"), (100, "2026-01-01T00:00:00Z")):
        assert money(one(database, f"SELECT token_usage_set_rate('rub', {rate}, '{start}')")) == Decimal(str(rate))
    for at, rate in (("2024-12-31T23:59:59Z", None), ("2025-10-20T14:30:24Z", 80), ("2025-10-20T14:30:25Z", "95.5"),
                     ("2027-01-01T00:00:00Z", 100)):
        result = record(database, created_at=at, cost_usd=2)
        assert money(result["cost_rub"]) == (None if rate is None else 2 * Decimal(rate)), at
    database.query("SELECT token_usage_set_rate('RUB', 81, '2025-01-01T03:00:00+03:00')")
    assert one(database, "SELECT count(*) FROM token_usage_exchange_rate") == 3


@pytest.mark.parametrize("sql, message", [
    ("'RUBLE', 1", "currency must be a currency code such as RUB, got RUBLE"),
    ("NULL, 1", "currency must be a currency code such as RUB, got NULL"),
    ("'RUB', 0", "rate must be a number above 0, got 0"),
    ("'RUB', -1", "rate must be a number above 0, got -1"),
    ("'RUB', NULL", "rate must be a number above 0, got NULL"),
])
def test_bad_rate(database, sql, message):
    with pytest.raises(DatabaseError) as caught:
        database.query(f"SELECT token_usage_set_rate({sql})")
    assert caught.value.message == "token_usage: " + message


# -- repricing ------------------------------------------------------------------------------------

def preview(database, arguments="NULL"):
    rows = database.query("SELECT id, old_cost_usd, new_cost_usd, old_cost_rub, new_cost_rub"
                          f" FROM token_usage_reprice_preview({arguments})").rows
    return [(row[0], *map(money, row[1:])) for row in rows]


@pytest.fixture
def ledger(database):
    """1 unpriced, 2 stated by the application, 3 by the provider, 4 by seconds, 5 of another user."""
    record(database)
    record(database, cost_usd=5)
    record(database, ai_provider="openrouter", prompt_tokens=None, completion_tokens=None,
           response={"usage": {"prompt_tokens": 1, "completion_tokens": 1, "cost": Decimal("0.5")}})
    record(database, prompt_tokens=None, completion_tokens=None, response={"usage": {"type": "duration", "seconds": 3}})
    record(database, user_id=7, created_at="2025-12-01T00:00:00Z", cache_read_tokens=1000)
    assert preview(database) == []
    imported(database, CATALOGUE)
    database.query("SELECT token_usage_set_rate('RUB', 100, '2025-11-01')")
    return database


def test_preview(ledger):
    first = (1, None, Decimal("0.0026"), None, None)
    fifth = (5, None, Decimal("0.00135"), None, Decimal("0.135"))
    assert preview(ledger) == [first, fifth]
    assert preview(ledger, "7") == [fifth]
    assert preview(ledger, "NULL, '2025-10-20T14:30:26Z'") == [fifth]
    assert preview(ledger, "NULL, '2025-10-20T14:30:25Z', '2025-10-20T14:30:25Z'") == [first]
    assert preview(ledger, "8") == []


def test_reprice(ledger):
    result = call_reprice(ledger, "NULL, NULL, NULL")
    assert result == {"rows": 2, "old_cost_usd": 0, "new_cost_usd": Decimal("0.00395")}
    assert preview(ledger) == []
    rows = ledger.query("SELECT id, cost_usd, cost_rub, cost_source FROM token_usage ORDER BY id").rows
    assert [(r[0], money(r[1]), money(r[2]), r[3]) for r in rows] == [
        (1, Decimal("0.0026"), None, "price_book"), (2, Decimal(5), None, "event"),
        (3, Decimal("0.5"), None, "provider"), (4, None, None, "other"),
        (5, Decimal("0.00135"), Decimal("0.135"), "price_book")]
    log = ledger.query("SELECT row_id, old_cost_usd, new_cost_usd FROM token_usage_reprice_log ORDER BY row_id").rows
    assert [(r[0], money(r[1]), money(r[2])) for r in log] == [
        ("1", None, Decimal("0.0026")), ("5", None, Decimal("0.00135"))]
    assert call_reprice(ledger, "NULL, NULL, NULL")["rows"] == 0


def call_reprice(database, arguments):
    return json.loads(one(database, f"SELECT token_usage_reprice({arguments})"), parse_float=Decimal)


def test_reprice_by_a_later_price(ledger):
    call_reprice(ledger, "42, NULL, NULL")
    add_price(ledger, ai_provider="openai", ai_model="gpt-4o", token_class="input", usd_per_million=1)
    add_price(ledger, ai_provider="openai", ai_model="gpt-4o", token_class="output", usd_per_million=1)
    assert preview(ledger, "42") == [(1, Decimal("0.0026"), Decimal("0.00101"), None, None)]
    assert call_reprice(ledger, "42, NULL, NULL") == {
        "rows": 1, "old_cost_usd": Decimal("0.0026"), "new_cost_usd": Decimal("0.00101")}


def test_rows_of_other_writers(database):
    """A plain INSERT that states a cost keeps it; one without a cost is unpriced."""
    database.execute("INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, prompt_tokens, total_tokens,"
                     " cost_usd) VALUES (1, 'a', 'openai', 'gpt-4o', 1000, 1000, 7), (1, 'a', 'openai', 'gpt-4o',"
                     " 1000, 1000, NULL)")
    imported(database, CATALOGUE)
    assert [row[0] for row in preview(database)] == [2]


def test_bad_range(database):
    with pytest.raises(DatabaseError) as caught:
        preview(database, "NULL, 'soon'")
    assert "soon" in caught.value.message
