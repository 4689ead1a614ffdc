"""token_usage_from_response: the bodies of every provider shape that the repository ships, the recorded
bodies where they are at hand, and bad input. The same text of SQL runs in each edition."""
import json
import os
import pathlib
from decimal import Decimal

import pytest

from support import paths
from support.editions import DatabaseError, sql_literal

BODIES = json.loads((pathlib.Path(__file__).parent / "bodies.json").read_text(), parse_float=Decimal)
TOO_MANY = "must be a whole number from 0 to 9223372036854775807, got"


def dump(value):
    """JSON text with decimals as they were written."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)}: {dump(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(dump(v) for v in value) + "]"
    return str(value) if isinstance(value, Decimal) else json.dumps(value)


def from_response(database, provider, response):
    text = response if isinstance(response, str) else dump(response)
    sql = f"SELECT token_usage_from_response({sql_literal(provider)}, {sql_literal(text)})"
    return json.loads(database.query(sql).rows[0][0], parse_float=Decimal)


def error_of(database, provider, response):
    with pytest.raises(DatabaseError) as caught:
        from_response(database, provider, response)
    if database.dialect == "pg":
        assert caught.value.sqlstate in ("22023", "22P02", "22P05", "54001"), caught.value
    return caught.value.message


@pytest.mark.parametrize("body", BODIES, ids=[b["name"] for b in BODIES])
def test_body(database, body):
    found = from_response(database, body["provider"], body["response"])
    warnings = found.pop("warnings")
    assert found == body["expect"]
    assert len(warnings) == body.get("warnings", 0), warnings
    assert found["total_tokens"] == found["prompt_tokens"] + found["completion_tokens"]


def test_warnings(database):
    def warnings(provider, usage):
        return from_response(database, provider, {"usage": usage})["warnings"]
    assert warnings("Acme AI", {"prompt_tokens": 1, "completion_tokens": 1}) == [
        "unknown provider Acme AI: read by the shape of its response"]
    assert warnings("anthropic", {"output_tokens": 3}) == [
        "response.usage.input_tokens is not reported: counted as 0"]
    assert warnings("openai", {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 12}) == [
        "the provider's total 12 is 2 above the parts"]
    assert warnings("openai", {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 8}) == [
        "the provider's total 8 is 2 below the parts"]
    assert warnings("openai", {"prompt_tokens": 5, "completion_tokens": 5,
                               "prompt_tokens_details": {"cached_tokens": 6}}) == [
        "a part is larger than its whole: counted beside it"]
    assert warnings("openai", {"prompt_tokens": 5, "completion_tokens": 5,
                               "prompt_tokens_details": {"audio_tokens": 6}}) == [
        "input_audio_tokens 6 is above prompt_tokens 5: cut to it"]
    assert warnings("openai", {"type": "duration", "seconds": 3}) == [
        "no token counts are reported: left unpriced"]


@pytest.mark.parametrize("usage, message", [
    ({"prompt_tokens": -5}, f"response.usage.prompt_tokens {TOO_MANY} -5"),
    ({"prompt_tokens": Decimal("1.5")}, f"response.usage.prompt_tokens {TOO_MANY} 1.5"),
    ({"prompt_tokens": "12"}, f'response.usage.prompt_tokens {TOO_MANY} "12"'),
    ({"prompt_tokens": True}, f"response.usage.prompt_tokens {TOO_MANY} true"),
    ({"prompt_tokens": [1]}, f"response.usage.prompt_tokens {TOO_MANY} [1]"),
    ({"prompt_tokens": 9223372036854775808}, f"response.usage.prompt_tokens {TOO_MANY} 9223372036854775808"),
    ({"prompt_tokens": 1, "prompt_tokens_details": "x"},
     'response.usage.prompt_tokens_details must be an object, got "x"'),
    ({"prompt_tokens": 1, "prompt_tokens_details": {"cached_tokens": "x"}},
     f'response.usage.prompt_tokens_details.cached_tokens {TOO_MANY} "x"'),
    ({"prompt_tokens": 9223372036854775807, "completion_tokens": 1},
     "response.usage must be counts whose sum is at most 9223372036854775807, got more"),
    ("x", 'response.usage must be an object, got "x"'),
    ({}, 'response must be a response or usage object with token counts, got {"usage": {}}'),
])
def test_bad_counts(database, usage, message):
    assert error_of(database, "openai", {"usage": usage}) == "token_usage: " + message


@pytest.mark.parametrize("response, message", [
    ({"usageMetadata": {"promptTokenCount": 1, "promptTokensDetails": {"modality": "AUDIO"}}},
     'response.usageMetadata.promptTokensDetails must be an array, got {"modality": "AUDIO"}'),
    ({"usageMetadata": {"promptTokenCount": 1, "promptTokensDetails": [1]}},
     "response.usageMetadata.promptTokensDetails[0] must be an object, got 1"),
    ({"usageMetadata": {"promptTokenCount": 1, "promptTokensDetails": [
        {"modality": "TEXT", "tokenCount": 1}, {"modality": "audio", "tokenCount": -1}]}},
     f"response.usageMetadata.promptTokensDetails[1].tokenCount {TOO_MANY} -1"),
    ([{"usage": {"input_tokens": 1}}, 7], "response[1] must be an object, got 7"),
    ([], "response must be a response or usage object with token counts, got []"),
    ("5", "response must be an object, got 5"),
    ("null", "response must be an object, got null"),
    ({"prompt_tokens": None}, 'response must be a response or usage object with token counts, got {"prompt_tokens": null}'),
])
def test_bad_shapes(database, response, message):
    assert error_of(database, "google", response) == "token_usage: " + message


def test_nulls(database):
    for sql, name in (("NULL, '{}'", "ai_provider"), ("'openai', NULL", "response")):
        with pytest.raises(DatabaseError) as caught:
            database.query(f"SELECT token_usage_from_response({sql})")
        assert caught.value.message == f"token_usage: {name} must be given, got NULL"


@pytest.mark.parametrize("text", ["", "{", '{"usage": {"prompt_tokens": 1}', "{'a': 1}", "nul", "{}{}",
                                  "[" * 10000 + "]" * 10000, '{"a": ' * 10000],
                         ids=["empty", "open", "truncated", "quotes", "word", "two", "deep", "deep-open"])
def test_malformed(database, text):
    message = error_of(database, "openai", text)
    if database.dialect == "sqlite":
        assert message.startswith("token_usage: response must be JSON"), message[:100]
        assert len(message) < 500


def test_repeated_key(database):
    text = '{"usage": {"prompt_tokens": 1, "completion_tokens": 2, "prompt_tokens": 3}}'
    if database.dialect == "sqlite":
        assert error_of(database, "openai", text) == (
            "token_usage: response.usage.prompt_tokens must be given once, got it twice")
    else:  # jsonb keeps the last before any function sees it
        assert from_response(database, "openai", text)["prompt_tokens"] == 3


def test_large_body(database):
    body = {"model": "m", "data": "x" * 10_000_000, "usage": {"prompt_tokens": 1, "total_tokens": 1}}
    assert from_response(database, "openai", body)["prompt_tokens"] == 1


def test_long_values_are_cut(database):
    message = error_of(database, "openai", {"usage": {"prompt_tokens": "y" * 1000}})
    assert message.endswith('got "' + "y" * 199 + "...")


# -- the recorded bodies ---------------------------------------------------------------------------

DATA = pathlib.Path(os.environ.get("TOKEN_USAGE_DATA", paths.ROOT.parent / "shared" / "data"))
NAMES = {"input_tokens": "prompt_tokens", "output_tokens": "completion_tokens",
         "cache_read_tokens": "cache_read_tokens", "cache_write_tokens": "cache_write_tokens",
         "cache_write_5m_tokens": "cache_write_5m_tokens", "cache_write_1h_tokens": "cache_write_1h_tokens",
         "output_reasoning_tokens": "reasoning_tokens", "input_audio_tokens": "input_audio_tokens",
         "output_audio_tokens": "output_audio_tokens", "cache_audio_read_tokens": "cache_read_audio_tokens",
         "cache_image_read_tokens": "cache_read_image_tokens", "input_image_tokens": "input_image_tokens",
         "output_image_tokens": "output_image_tokens", "input_tool_tokens": "tool_use_prompt_tokens",
         "web_searches": "web_search_requests"}


def own_provider(body):
    """Who sent a recorded body: told by the test that recorded it, the model and the shape."""
    file, usage = body["file"], body.get("usage", {})
    model = body.get("model", "")
    if "usageMetadata" in body or model.startswith("gemini"):
        return "google"
    if "meta" in body or "billed_units" in usage:
        return "cohere"
    if "inputTokens" in usage or model.startswith("openai."):
        return "aws"
    if "cost" in usage or "openrouter" in file:
        return "openrouter"
    if "queue_time" in usage:
        return "groq"
    if "cache_creation_input_tokens" in usage:
        return "anthropic"
    if "prompt_cache_hit_tokens" in usage:
        return "deepseek"
    for name in ("cerebras", "zai", "huggingface"):
        if name in file:
            return name
    if "llama-4-scout" in model.lower() or "deepseek-ai" in model:
        return "huggingface"
    if "qwen-3-coder-480b" in model:
        return "cerebras"
    return "mistral" if "istral" in model or "pixtral" in model else "openai"


def test_recorded_bodies(edition):
    """Counts and prices as pydantic/genai-prices records them for each body's own provider."""
    if not (DATA / "provider_usage_bodies.json").exists():
        pytest.skip(f"no recorded bodies in {DATA}; test_body reads the repository's own")
    database = edition.database()
    catalogue = (DATA / "genai_prices.json").read_text()
    database.query(f"SELECT token_usage_import_prices({sql_literal(catalogue)})")
    tally = {"counts": [0, 0, []], "prices": [0, 0, []]}
    for entry in json.loads((DATA / "provider_usage_bodies.json").read_text()):
        own = own_provider(entry["body"])
        for extracted in entry["extracted"]:
            wanted = {NAMES[k]: v for k, v in extracted["usage"].items() if k in NAMES}
            for extractor in extracted["extractors"]:
                provider = extractor["provider_id"]
                if not provider.startswith(own):
                    continue
                name = f"{own}/{extractor['api_flavor']}"
                usage = from_response(database, name, entry["body"])
                ours = {k: usage[k] for k in NAMES.values() if usage.get(k)}
                tally["counts"][0] += 1
                if ours == wanted:
                    tally["counts"][1] += 1
                else:
                    # Bedrock's cache writes and their lifetimes, which the recorded extractor leaves out
                    more = {k for k in ours if k not in wanted}
                    tally["counts"][2].append((name, more))
                    assert more <= {"cache_write_tokens", "cache_write_5m_tokens"}, (name, ours, wanted)
                    assert {k: v for k, v in ours.items() if k in wanted} == wanted
                if "input_price" not in extractor:
                    continue
                cost = database.query(
                    f"SELECT token_usage_cost({sql_literal(provider)}, {sql_literal(entry['model'])}, "
                    f"{sql_literal(dump(usage))}, '2025-11-06T12:00:00Z')").rows[0][0]
                price = Decimal(extractor["input_price"]) + Decimal(extractor["output_price"])
                tally["prices"][0] += 1
                if cost is not None and Decimal(str(cost)) == price:
                    tally["prices"][1] += 1
                else:
                    # this version of the catalogue lacks three models and the price of image output
                    tally["prices"][2].append((provider, entry["model"]))
                    assert cost is None or usage.get("output_image_tokens"), (provider, entry, cost)
    database.close()
    for what, (tried, equal, explained) in tally.items():
        print(f"{edition.name}: recorded {what}: tried {tried}, equal {equal}, explained {len(explained)}: "
              f"{sorted(set(map(str, explained)))}")
        assert tried - equal <= 10
    assert tally["counts"][0] > 900 and tally["prices"][0] > 500
