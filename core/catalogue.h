// Price catalogues (section 6 of the contract): reads pydantic/genai-prices (data.json,
// data_slim.json) and LiteLLM (model_prices_and_context_window.json) into one form, and works out
// which rows of the price book an import adds or changes. The past is never touched: what differs
// holds from the day of the import.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "json_reader.h"
#include "price.h"

namespace token_usage {

// What a price is for, within one model.
struct PriceKey {
  PriceClass price_class = PriceClass::input;
  std::int64_t tier_start = 0;
  int time_from = 0;
  int time_to = seconds_per_day;

  auto operator<=>(const PriceKey &) const = default;
};

using KeyedPrices = std::map<PriceKey, int128>;

// The prices of a model from an instant on.
struct PriceSegment {
  Micros valid_from = kFirstInstant;
  KeyedPrices prices;
};

struct CatalogueModel {
  std::string ai_provider;
  std::string ai_model;
  std::int64_t position = 0;
  std::string match;                   // a match clause, JSON
  std::vector<PriceSegment> segments;  // ascending, the first from kFirstInstant
};

struct CatalogueProvider {
  std::string ai_provider;
  std::int64_t position = 0;
  std::string match;     // JSON or empty
  std::string fallback;  // JSON array or empty
};

struct Catalogue {
  std::string source;  // genai-prices or litellm
  std::vector<CatalogueProvider> providers;
  std::vector<CatalogueModel> models;
  std::set<std::string> ignored;  // price keys that have no class here
};

// Reads either format. Throws Error that names the bad entry.
Catalogue read_catalogue(const Json &root);

// A change to table token_usage_price.
struct PriceChange {
  enum class Action { add, change, remove };
  Action action = Action::add;
  std::int64_t id = 0;  // change, remove
  PriceKey key;
  Micros valid_from = 0;
  std::optional<int128> usd_per_million;
};

// The changes that bring `existing`, the rows of one model and source, to what the catalogue says
// from `day` on. A model without rows gets its whole history.
std::vector<PriceChange> plan_import(const std::vector<PriceRow> &existing,
                                     const std::vector<PriceSegment> &segments, Micros day);

}  // namespace token_usage
