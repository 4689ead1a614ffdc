// Prices: what is in force, what a usage object costs, which model a name means, what an import
// changes.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "arguments.h"
#include "catalogue.h"
#include "price.h"

namespace token_usage {
namespace {

Micros at(const char *text) {
  return *parse_timestamp_argument(text);
}

PriceRow row(PriceClass price_class, const char *usd, std::int64_t tier = 0,
             Micros from = kFirstInstant) {
  PriceRow out;
  out.price_class = price_class;
  out.tier_start = tier;
  out.valid_from = from;
  static std::int64_t id = 0;
  out.id = ++id;
  if (usd != nullptr) {
    out.usd_per_million = scaled_from_text(usd, price_places);
  }
  return out;
}

Usage usage(std::int64_t prompt, std::int64_t completion) {
  Usage out;
  out[Count::prompt] = prompt;
  out[Count::completion] = completion;
  return out;
}

std::string cost(const std::vector<PriceRow> &rows, const Usage &used, Micros time = 0) {
  const std::optional<Decimal> out = cost_in_order({rows}, used, time);
  return out ? out->to_string() : "unpriced";
}

const std::vector<PriceRow> kPlain = {row(PriceClass::input, "2"), row(PriceClass::output, "10")};

TEST(Price, PlainAndUnpriced) {
  EXPECT_EQ(cost(kPlain, usage(1000, 10)), "0.0021");
  EXPECT_EQ(cost(kPlain, usage(0, 0)), "0");
  EXPECT_EQ(cost({row(PriceClass::input, "2")}, usage(1000, 0)), "0.002");
  EXPECT_EQ(cost({row(PriceClass::input, "2")}, usage(1000, 1)), "unpriced");
  EXPECT_EQ(cost({row(PriceClass::cache_read, "2")}, usage(1000, 1)), "unpriced");
  EXPECT_EQ(cost({}, usage(1, 1)), "unpriced");
  Usage seconds = usage(0, 0);
  seconds.not_tokens = true;
  EXPECT_EQ(cost(kPlain, seconds), "unpriced");
}

TEST(Price, NoDigitIsLost) {
  EXPECT_EQ(cost({row(PriceClass::input, "0.0375")}, usage(1, 0)), "0.0000000375");
  EXPECT_EQ(cost({row(PriceClass::input, "0.0375")}, usage(7, 0)), "0.0000002625");
  // Three classes of which none is whole at 12 places, but their sum is.
  std::vector<PriceRow> rows = {row(PriceClass::input, "0.0000004"),
                                row(PriceClass::output, "0.0000006")};
  EXPECT_EQ(cost(rows, usage(1, 1)), "0.000000000001");
  EXPECT_EQ(cost({row(PriceClass::input, "0.0000005")}, usage(1, 0)), "0");  // half-even
  EXPECT_EQ(cost({row(PriceClass::input, "0.0000015")}, usage(1, 0)), "0.000000000002");
  EXPECT_THROW(cost({row(PriceClass::input, "1000000")}, usage(9223372036854775807, 0)), Error);
}

TEST(Price, CachesAndModalitiesAreTwoAxes) {
  std::vector<PriceRow> rows = kPlain;
  rows.push_back(row(PriceClass::cache_read, "0.2"));
  rows.push_back(row(PriceClass::cache_write, "2.5"));
  Usage used = usage(1'000'000, 0);
  used[Count::cache_read] = 400'000;
  used[Count::cache_write] = 100'000;
  EXPECT_EQ(cost(rows, used), "1.33");  // 500k plain, 400k read, 100k written
  rows.push_back(row(PriceClass::cache_write_1h, "4"));
  used[Count::cache_write_1h] = 100'000;
  EXPECT_EQ(cost(rows, used), "1.48");
  rows.push_back(row(PriceClass::input_audio, "6"));
  used[Count::input_audio] = 100'000;
  EXPECT_EQ(cost(rows, used), "1.88");  // 400k plain, 100k audio
  used[Count::cache_read_audio] = 60'000;
  EXPECT_EQ(cost(rows, used),
            "1.64");  // 40k audio, 460k plain; the cached audio at the cache's price
  rows.push_back(row(PriceClass::cache_read_audio, "1"));
  EXPECT_EQ(cost(rows, used), "1.688");
  // Everything cached, and all of it audio, without saying that they are the same tokens.
  Usage all = usage(1'000'000, 0);
  all[Count::cache_read] = 1'000'000;
  all[Count::input_audio] = 1'000'000;
  EXPECT_EQ(cost(rows, all), "1");
}

TEST(Price, OutputClasses) {
  std::vector<PriceRow> rows = kPlain;
  Usage used = usage(0, 1'000'000);
  used[Count::reasoning] = 400'000;
  used[Count::output_audio] = 100'000;
  EXPECT_EQ(cost(rows, used), "10");
  rows.push_back(row(PriceClass::reasoning, "3"));
  EXPECT_EQ(cost(rows, used), "7.2");
  rows.push_back(row(PriceClass::output_audio, "20"));
  EXPECT_EQ(cost(rows, used), "8.2");
  rows.push_back(row(PriceClass::web_search, "10000"));
  used[Count::web_search_requests] = 3;
  EXPECT_EQ(cost(rows, used), "8.23");
  rows.push_back(row(PriceClass::request, "5000"));
  EXPECT_EQ(cost(rows, used), "8.235");
}

TEST(Price, TierPricesTheWholeRequest) {
  const std::vector<PriceRow> rows = {row(PriceClass::input, "3"),
                                      row(PriceClass::input, "6", 200'000),
                                      row(PriceClass::output, "15")};
  EXPECT_EQ(cost(rows, usage(200'000, 0)), "0.6");
  EXPECT_EQ(cost(rows, usage(200'001, 0)), "1.200006");
}

TEST(Price, InForceByDateAndEnd) {
  const std::vector<PriceRow> rows = {row(PriceClass::input, "3"),
                                      row(PriceClass::input, "5", 0, at("2026-01-01")),
                                      row(PriceClass::input, nullptr, 0, at("2026-06-01"))};
  EXPECT_EQ(cost(rows, usage(1'000'000, 0), at("2025-12-31T23:59:59.999999Z")), "3");
  EXPECT_EQ(cost(rows, usage(1'000'000, 0), at("2026-01-01")), "5");
  EXPECT_EQ(cost(rows, usage(1'000'000, 0), at("2026-06-01")), "unpriced");
}

TEST(Price, TimeOfDay) {
  PriceRow night = row(PriceClass::input, "1");
  night.time_from = *parse_time_of_day("16:30");
  night.time_to = *parse_time_of_day("00:30:00");  // over midnight
  const std::vector<PriceRow> rows = {row(PriceClass::input, "2"), night};
  EXPECT_EQ(cost(rows, usage(1'000'000, 0), at("2025-01-01T16:29:59Z")), "2");
  EXPECT_EQ(cost(rows, usage(1'000'000, 0), at("2025-01-01T16:30:00Z")), "1");
  EXPECT_EQ(cost(rows, usage(1'000'000, 0), at("2025-01-01T00:29:59Z")), "1");
  EXPECT_EQ(cost(rows, usage(1'000'000, 0), at("2025-01-01T00:30:00Z")), "2");
  EXPECT_EQ(cost(rows, usage(1'000'000, 0), at("1969-12-31T23:59:59.5Z")), "1");
  EXPECT_EQ(parse_time_of_day("24:00"), seconds_per_day);
  EXPECT_EQ(parse_time_of_day("24:01"), std::nullopt);
  EXPECT_EQ(parse_time_of_day("7:30"), std::nullopt);
  EXPECT_EQ(format_time_of_day(seconds_per_day), "24:00:00");
}

TEST(Price, Converted) {
  const auto rub = [](const char *usd, const char *rate) {
    return converted(*Decimal::from_text(usd), *Decimal::from_text(rate)).to_string();
  };
  EXPECT_EQ(rub("0.1", "95.5"), "9.55");
  EXPECT_EQ(rub("0.000000000001", "0.5"), "0");  // half-even
  EXPECT_EQ(rub("0.000000000003", "0.5"), "0.000000000002");
  EXPECT_EQ(rub("-2", "95.5"), "-191");
  EXPECT_EQ(rub("1000000000000", "95.5"), "95500000000000");
}

TEST(Price, Matching) {
  const auto match = [](const char *clause, const char *name) {
    const JsonDocument document(clause, "clause");
    EXPECT_TRUE(is_match_clause(document.root())) << clause;
    return matches(document.root(), name);
  };
  EXPECT_TRUE(match(R"({"equals": "GPT-4o"})", "gpt-4o"));
  EXPECT_TRUE(match(R"({"or": [{"equals": "a"}, {"starts_with": "gpt"}]})", "gpt-4o"));
  EXPECT_FALSE(match(R"({"and": [{"contains": "4"}, {"ends_with": "x"}]})", "gpt-4o"));
  EXPECT_TRUE(match(R"({"regex": "^o[134]"})", "o3-mini"));
  EXPECT_TRUE(match(R"({"regex": "(?:mi|dev)stral"})", "devstral-2"));
  for (const char *bad : {"{}", "[]", R"({"equals": 1})", R"({"like": "x"})", R"({"regex": "("})",
                          R"({"or": [{}]})", R"({"equals": "a", "contains": "b"})"}) {
    const JsonDocument document(bad, "clause");
    EXPECT_FALSE(is_match_clause(document.root())) << bad;
  }
  EXPECT_EQ(model_variants(" OpenAI/GPT-4o-2024-08-06 "),
            (std::vector<std::string>{"openai/gpt-4o-2024-08-06", "gpt-4o-2024-08-06",
                                      "openai/gpt-4o", "gpt-4o"}));
  EXPECT_EQ(model_variants("claude-3-5-sonnet@20240620"),
            (std::vector<std::string>{"claude-3-5-sonnet@20240620", "claude-3-5-sonnet"}));
}

const char *const kLitellm = R"({
  "sample_spec": {"input_cost_per_token": "text"},
  "gemini/gemini-x": {"litellm_provider": "gemini", "mode": "chat", "input_cost_per_token": 1.25e-06,
    "input_cost_per_token_above_200k_tokens": 2.5e-06, "output_cost_per_token": 1e-05,
    "cache_read_input_token_cost": 3.75e-8, "input_cost_per_token_priority": 9, "aliases": ["gemini-x-001"]},
  "dall-e-3": {"litellm_provider": "openai", "output_cost_per_image": 0.04},
  "qwen": {"litellm_provider": "dashscope", "tiered_pricing": [
    {"range": [0, 256000], "input_cost_per_token": 5e-8, "output_cost_per_token": 4e-7},
    {"range": [256000, 1000000], "input_cost_per_token": 2.5e-7, "output_cost_per_token": 2e-6}]}
})";

TEST(Catalogue, Litellm) {
  const std::string text = kLitellm;
  const JsonDocument document(text, "catalogue");
  const Catalogue catalogue = read_catalogue(document.root());
  EXPECT_EQ(catalogue.source, "litellm");
  ASSERT_EQ(catalogue.models.size(), 2U);
  EXPECT_EQ(catalogue.models[0].ai_model, "qwen");
  EXPECT_EQ(catalogue.models[0].ai_provider, "dashscope");
  EXPECT_EQ(catalogue.models[1].ai_provider, "google");
  EXPECT_EQ(
      catalogue.models[1].match,
      R"({"or": [{"equals": "gemini/gemini-x"}, {"equals": "gemini-x"}, {"equals": "gemini-x-001"}]})");
  const KeyedPrices &prices = catalogue.models[1].segments.front().prices;
  EXPECT_EQ(
      scaled_to_text(prices.at({PriceClass::cache_read, 0, 0, seconds_per_day}), price_places),
      "0.0375");
  EXPECT_EQ(
      scaled_to_text(prices.at({PriceClass::input, 200000, 0, seconds_per_day}), price_places),
      "2.5");
  EXPECT_EQ(catalogue.models[0].segments.front().prices.count(
                {PriceClass::input, 256000, 0, seconds_per_day}),
            1U);
}

std::string catalogue_error(const std::string &text) {
  try {
    const JsonDocument document(text, "catalogue");
    (void)read_catalogue(document.root());
    return "none";
  } catch (const Error &error) {
    return error.what();
  }
}

TEST(Catalogue, BadEntriesAreNamed) {
  EXPECT_EQ(catalogue_error(R"({"a": {"litellm_provider": "openai", "input_cost_per_token": -1}})"),
            "token_usage: catalogue.a.input_cost_per_token must be a number from 0, got -1");
  EXPECT_EQ(catalogue_error(R"({"a": {"input_cost_per_token": 1}})"),
            "token_usage: catalogue.a.litellm_provider must be a non-empty text, got NULL");
  EXPECT_EQ(catalogue_error(R"({"a": 5})"), "token_usage: catalogue.a must be an object, got 5");
  EXPECT_EQ(catalogue_error(R"([{"id": "p", "models": [{"id": "m", "match": {"equals": "m"},
                "prices": {"input_mtok": "x"}}]}])"),
            "token_usage: catalogue.p.m.prices.input_mtok must be a number from 0, got \"x\"");
  EXPECT_EQ(catalogue_error(
                R"([{"id": "p", "models": [{"id": "m", "match": {"is": "m"}, "prices": {}}]}])"),
            "token_usage: catalogue.p.m.match must be a match clause, got {\"is\": \"m\"}");
  EXPECT_EQ(
      catalogue_error(R"([{"id": "p", "models": [{"match": {"equals": "m"}, "prices": {}}]}])"),
      "token_usage: catalogue.p.models[0].id must be a non-empty text, got NULL");
  EXPECT_EQ(catalogue_error("3"),
            "token_usage: catalogue must be a genai-prices or LiteLLM price list, got 3");
}

PriceSegment segment(Micros from, const char *input, const char *output) {
  PriceSegment out{from, {}};
  out.prices[{PriceClass::input, 0, 0, seconds_per_day}] = *scaled_from_text(input, price_places);
  if (output != nullptr) {
    out.prices[{PriceClass::output, 0, 0, seconds_per_day}] =
        *scaled_from_text(output, price_places);
  }
  return out;
}

// What the rows are after an import.
std::vector<PriceRow> applied(std::vector<PriceRow> rows, const std::vector<PriceChange> &changes) {
  for (const PriceChange &change : changes) {
    const auto old = std::find_if(rows.begin(), rows.end(),
                                  [&](const PriceRow &item) { return item.id == change.id; });
    if (change.action == PriceChange::Action::add) {
      PriceRow added =
          row(change.key.price_class, nullptr, change.key.tier_start, change.valid_from);
      added.time_from = change.key.time_from;
      added.time_to = change.key.time_to;
      added.usd_per_million = change.usd_per_million;
      rows.push_back(added);
    } else if (change.action == PriceChange::Action::change) {
      old->usd_per_million = change.usd_per_million;
    } else {
      rows.erase(old);
    }
  }
  return rows;
}

TEST(Catalogue, ImportAgainNeverChangesThePast) {
  const Micros day = at("2026-02-01");
  const std::vector<PriceSegment> first = {segment(kFirstInstant, "3", "15")};
  std::vector<PriceRow> rows = applied({}, plan_import({}, first, day));
  EXPECT_EQ(rows.size(), 2U);
  EXPECT_TRUE(plan_import(rows, first, day).empty());
  // A new input price, no output price any more.
  const std::vector<PriceSegment> second = {segment(kFirstInstant, "4", nullptr)};
  rows = applied(rows, plan_import(rows, second, day));
  EXPECT_EQ(cost(rows, usage(1'000'000, 1'000'000), day - 1), "18");
  EXPECT_EQ(cost(rows, usage(1'000'000, 0), day), "4");
  EXPECT_EQ(cost(rows, usage(1'000'000, 1), day), "unpriced");
  EXPECT_TRUE(plan_import(rows, second, day + kMicrosPerDay).empty());
  // Corrected on the same day: the day's rows change in place.
  const std::vector<PriceChange> again = plan_import(rows, first, day);
  EXPECT_EQ(again.size(), 2U);
  EXPECT_EQ(again[0].action, PriceChange::Action::change);
  rows = applied(rows, again);
  EXPECT_EQ(cost(rows, usage(1'000'000, 1'000'000), day), "18");
}

TEST(Catalogue, AnnouncedPricesComeAndGo) {
  const Micros day = at("2026-02-01");
  const Micros later = at("2026-03-01");
  std::vector<PriceRow> rows = applied(
      {}, plan_import({}, {segment(kFirstInstant, "3", "15"), segment(later, "5", "15")}, day));
  EXPECT_EQ(rows.size(), 3U);
  EXPECT_EQ(cost(rows, usage(1'000'000, 0), later), "5");
  rows = applied(
      rows, plan_import(rows, {segment(kFirstInstant, "3", "15"), segment(later, "6", "15")}, day));
  EXPECT_EQ(cost(rows, usage(1'000'000, 0), later), "6");
  rows = applied(rows, plan_import(rows, {segment(kFirstInstant, "3", "15")}, day));
  EXPECT_EQ(cost(rows, usage(1'000'000, 0), later), "3");
  EXPECT_EQ(rows.size(), 2U);
}

TEST(Catalogue, ConditionalPrices) {
  const std::string text =
      R"([{"id": "p", "models": [{"id": "m", "match": {"equals": "m"}, "prices": [
      {"prices": {"input_mtok": 10, "strange_mtok": 1}},
      {"constraint": {"start_date": "2026-03-13"}, "prices": {"input_mtok": 3}},
      {"constraint": {"start_time": "00:30:00Z", "end_time": "16:30:00Z"}, "prices": {"input_mtok": {"base": 1, "tiers": [{"start": 500, "price": 2}]}}}
    ]}]}])";
  const JsonDocument document(text, "catalogue");
  const Catalogue catalogue = read_catalogue(document.root());
  EXPECT_EQ(catalogue.ignored.count("strange_mtok"), 1U);
  const std::vector<PriceRow> rows = applied({}, plan_import({}, catalogue.models[0].segments, 0));
  EXPECT_EQ(cost(rows, usage(100, 0), at("2025-01-01T17:00:00Z")), "0.001");
  EXPECT_EQ(cost(rows, usage(100, 0), at("2026-05-01T17:00:00Z")), "0.0003");
  EXPECT_EQ(cost(rows, usage(100, 0), at("2026-05-01T12:00:00Z")), "0.0001");
  EXPECT_EQ(cost(rows, usage(1000, 0), at("2026-05-01T12:00:00Z")), "0.002");
}

}  // namespace
}  // namespace token_usage
