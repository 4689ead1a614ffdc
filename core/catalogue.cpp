// See catalogue.h.
#include "catalogue.h"

#include <algorithm>
#include <array>
#include <limits>

#include "arguments.h"
#include "usage_rules.h"

namespace token_usage {
namespace {

struct Field {
  std::string_view name;
  PriceClass price_class;
  int places;  // decimal places that turn the catalogue's number into USD per million at 10^-18
};

// https://github.com/pydantic/genai-prices, prices/units.yml: USD per million tokens, per thousand
// searches or requests.
constexpr std::array<Field, 14> kGenaiFields = {{
    {"input_mtok", PriceClass::input, 18},
    {"output_mtok", PriceClass::output, 18},
    {"cache_read_mtok", PriceClass::cache_read, 18},
    {"cache_write_mtok", PriceClass::cache_write, 18},
    {"cache_write_1h_mtok", PriceClass::cache_write_1h, 18},
    {"cache_audio_read_mtok", PriceClass::cache_read_audio, 18},
    {"cache_image_read_mtok", PriceClass::cache_read_image, 18},
    {"output_reasoning_mtok", PriceClass::reasoning, 18},
    {"input_audio_mtok", PriceClass::input_audio, 18},
    {"output_audio_mtok", PriceClass::output_audio, 18},
    {"input_image_mtok", PriceClass::input_image, 18},
    {"output_image_mtok", PriceClass::output_image, 18},
    {"web_searches_kcount", PriceClass::web_search, 21},
    {"requests_kcount", PriceClass::request, 21},
}};

// https://docs.litellm.ai/docs/provider_registration/add_model_pricing: USD per token.
constexpr std::array<Field, 13> kLitellmFields = {{
    {"input_cost_per_token", PriceClass::input, 24},
    {"output_cost_per_token", PriceClass::output, 24},
    {"cache_read_input_token_cost", PriceClass::cache_read, 24},
    {"cache_creation_input_token_cost", PriceClass::cache_write, 24},
    {"cache_creation_input_token_cost_above_1hr", PriceClass::cache_write_1h, 24},
    {"cache_read_input_audio_token_cost", PriceClass::cache_read_audio, 24},
    {"cache_read_input_token_cost_per_audio_token", PriceClass::cache_read_audio, 24},
    {"cache_read_input_image_token_cost", PriceClass::cache_read_image, 24},
    {"output_cost_per_reasoning_token", PriceClass::reasoning, 24},
    {"input_cost_per_audio_token", PriceClass::input_audio, 24},
    {"output_cost_per_audio_token", PriceClass::output_audio, 24},
    {"input_cost_per_image_token", PriceClass::input_image, 24},
    {"output_cost_per_image_token", PriceClass::output_image, 24},
}};

template <std::size_t Size>
const Field *find_field(const std::array<Field, Size> &fields, std::string_view name) {
  const auto at = std::find_if(fields.begin(), fields.end(),
                               [&](const Field &field) { return field.name == name; });
  return at == fields.end() ? nullptr : &*at;
}

[[noreturn]] void bad_value(const std::string &path, std::string_view rule, const Json *value) {
  bad_argument(path, rule, value == nullptr ? "NULL" : json_text(*value));
}

int128 read_price(const Json &value, int places, const std::string &path) {
  std::optional<int128> price;
  if (value.is(Json::Type::number)) {
    price = scaled_from_text(value.text, places);
  }
  if (!price || *price < 0) {
    bad_value(path, "a number from 0", &value);
  }
  return *price;
}

std::int64_t read_tier(const Json *value, const std::string &path) {
  std::optional<std::int64_t> start;
  if (value != nullptr && value->is(Json::Type::number)) {
    start = count_from_number(value->text);
  }
  if (!start) {
    bad_value(path, rule_range(0, std::numeric_limits<std::int64_t>::max()), value);
  }
  return *start;
}

// The non-empty text at `key`, or the error that names it.
std::string_view required_text(const Json &object, std::string_view key, const std::string &path) {
  const Json *value = object.find(key);
  if (value == nullptr || !value->is(Json::Type::string) || value->text.empty()) {
    bad_value(path + "." + std::string(key), "a non-empty text", value);
  }
  return value->text;
}

const Json &required_object(const Json &value, const std::string &path) {
  if (!value.is(Json::Type::object)) {
    bad_value(path, "an object", &value);
  }
  return value;
}

// A clause that is absent (empty result) or well-formed.
std::string read_match(const Json *clause, const std::string &path) {
  if (clause == nullptr) {
    return {};
  }
  if (!is_match_clause(*clause)) {
    bad_value(path, "a match clause", clause);
  }
  return json_text(*clause);
}

// ---- genai-prices

KeyedPrices read_genai_prices(const Json &prices, const std::string &path,
                              std::set<std::string> &ignored) {
  KeyedPrices out;
  for (const Json &item : required_object(prices, path).items()) {
    const std::string at = path + "." + std::string(item.key);
    const Field *field = find_field(kGenaiFields, item.key);
    if (field == nullptr) {
      ignored.emplace(item.key);
      continue;
    }
    if (item.is_null()) {
      continue;
    }
    PriceKey key;
    key.price_class = field->price_class;
    if (!item.is(Json::Type::object)) {
      out[key] = read_price(item, field->places, at);
      continue;
    }
    const Json *base = item.find("base");
    const Json *tiers = item.find("tiers");
    if (base == nullptr || tiers == nullptr || !tiers->is(Json::Type::array)) {
      bad_value(at, "a number or a base with tiers", &item);
    }
    out[key] = read_price(*base, field->places, at + ".base");
    for (const Json &tier : tiers->items()) {
      const Json *price = required_object(tier, at + ".tiers").find("price");
      key.tier_start = read_tier(tier.find("start"), at + ".tiers.start");
      if (price == nullptr || key.tier_start == 0) {
        bad_value(at + ".tiers", "a list of start and price", &tier);
      }
      out[key] = read_price(*price, field->places, at + ".tiers.price");
    }
  }
  return out;
}

// One entry of a price list: its prices and when they hold.
struct Conditional {
  KeyedPrices prices;
  std::optional<Micros> start;               // a start date
  std::optional<std::pair<int, int>> hours;  // a time of day
};

std::optional<int> read_hour(const Json *value) {
  if (value == nullptr || !value->is(Json::Type::string)) {
    return std::nullopt;
  }
  std::string_view text = value->text;
  if (!text.empty() && text.back() == 'Z') {
    text.remove_suffix(1);
  }
  return parse_time_of_day(text);
}

void read_constraint(const Json *constraint, const std::string &path, Conditional &out) {
  if (constraint == nullptr) {
    return;
  }
  if (const Json *date = constraint->find("start_date")) {
    if (date->is(Json::Type::string) && date->text.size() == 10) {
      out.start = parse_timestamp_argument(date->text);
    }
    if (out.start) {
      return;
    }
  }
  const std::optional<int> from = read_hour(constraint->find("start_time"));
  const std::optional<int> to = read_hour(constraint->find("end_time"));
  if (!from || !to) {
    bad_value(path, "a start_date or a start_time and end_time", constraint);
  }
  out.hours = std::make_pair(*from, *to);
}

// In force is the last entry whose condition holds, or else the first one.
std::vector<PriceSegment> segments_of(const std::vector<Conditional> &list) {
  std::set<Micros> starts = {kFirstInstant};
  for (const Conditional &entry : list) {
    if (entry.start) {
      starts.insert(*entry.start);
    }
  }
  std::vector<PriceSegment> out;
  for (const Micros start : starts) {
    std::size_t base = 0;
    for (std::size_t i = 0; i < list.size(); ++i) {
      if (!list[i].hours && (!list[i].start || *list[i].start <= start)) {
        base = i;
      }
    }
    PriceSegment segment{start, {}};
    if (!list.empty()) {
      segment.prices = list[base].prices;
    }
    for (std::size_t i = base + 1; i < list.size(); ++i) {
      if (!list[i].hours) {
        continue;
      }
      for (const auto &item : list[i].prices) {
        PriceKey key = item.first;
        key.time_from = list[i].hours->first;
        key.time_to = list[i].hours->second;
        segment.prices[key] = item.second;
      }
    }
    out.push_back(std::move(segment));
  }
  return out;
}

CatalogueModel read_genai_model(const Json &json, const std::string &provider, std::size_t index,
                                std::set<std::string> &ignored) {
  const std::string place = "catalogue." + provider + ".models[" + std::to_string(index) + "]";
  CatalogueModel out;
  out.ai_provider = provider;
  out.ai_model = required_text(required_object(json, place), "id", place);
  out.position = static_cast<std::int64_t>(index);
  const std::string path = "catalogue." + provider + "." + out.ai_model;
  out.match = read_match(json.find("match"), path + ".match");
  if (out.match.empty()) {
    bad_value(path + ".match", "a match clause", nullptr);
  }
  const Json *prices = json.find("prices");
  if (prices == nullptr) {
    bad_value(path + ".prices", "an object", nullptr);
  }
  std::vector<Conditional> list;
  if (prices->is(Json::Type::array)) {
    std::size_t at = 0;
    for (const Json &item : prices->items()) {
      const std::string entry = path + ".prices[" + std::to_string(at++) + "]";
      const Json *inner = required_object(item, entry).find("prices");
      if (inner == nullptr) {
        bad_value(entry + ".prices", "an object", nullptr);
      }
      Conditional conditional;
      conditional.prices = read_genai_prices(*inner, entry + ".prices", ignored);
      read_constraint(item.find("constraint"), entry + ".constraint", conditional);
      list.push_back(std::move(conditional));
    }
  } else {
    list.push_back({read_genai_prices(*prices, path + ".prices", ignored), {}, {}});
  }
  out.segments = segments_of(list);
  return out;
}

Catalogue read_genai(const Json &providers) {
  Catalogue out;
  out.source = "genai-prices";
  std::size_t index = 0;
  for (const Json &item : providers.items()) {
    const std::string place = "catalogue[" + std::to_string(index) + "]";
    CatalogueProvider provider;
    provider.ai_provider = required_text(required_object(item, place), "id", place);
    provider.position = static_cast<std::int64_t>(index++);
    const std::string path = "catalogue." + provider.ai_provider;
    provider.match = read_match(item.find("provider_match"), path + ".provider_match");
    if (const Json *fallback = item.find("fallback_model_providers")) {
      if (!fallback->is(Json::Type::array)) {
        bad_value(path + ".fallback_model_providers", "an array", fallback);
      }
      provider.fallback = json_text(*fallback);
    }
    const Json *models = item.find("models");
    if (models == nullptr || !models->is(Json::Type::array)) {
      bad_value(path + ".models", "an array", models);
    }
    std::size_t at = 0;
    for (const Json &model : models->items()) {
      out.models.push_back(read_genai_model(model, provider.ai_provider, at++, out.ignored));
    }
    out.providers.push_back(std::move(provider));
  }
  return out;
}

// ---- LiteLLM

// `input_cost_per_token_above_200k_tokens`: the field and its threshold.
struct TieredField {
  const Field *field = nullptr;
  std::int64_t tier_start = 0;
};

TieredField litellm_field(std::string_view name) {
  constexpr std::string_view end = "k_tokens";
  constexpr std::string_view above = "_above_";
  if (const Field *field = find_field(kLitellmFields, name)) {
    return {field, 0};
  }
  const std::size_t at = name.rfind(above);
  if (at == std::string_view::npos || name.size() < end.size() ||
      name.substr(name.size() - end.size()) != end) {
    return {};
  }
  const std::string_view digits =
      name.substr(at + above.size(), name.size() - end.size() - at - above.size());
  if (digits.empty() || digits.size() > 9 ||
      digits.find_first_not_of("0123456789") != std::string_view::npos) {
    return {};
  }
  return {find_field(kLitellmFields, name.substr(0, at)),
          count_from_number(digits).value_or(0) * 1000};
}

// The fields of an entry, or of one of its tiers, into `out`.
void read_litellm_fields(const Json &entry, const std::string &path, std::int64_t tier_start,
                         KeyedPrices &out) {
  for (const Json &item : entry.items()) {
    const TieredField found = litellm_field(item.key);
    if (found.field == nullptr || item.is_null()) {
      continue;
    }
    PriceKey key;
    key.price_class = found.field->price_class;
    key.tier_start = std::max(found.tier_start, tier_start);
    out[key] = read_price(item, found.field->places, path + "." + std::string(item.key));
  }
}

KeyedPrices read_litellm_prices(const Json &entry, const std::string &path) {
  KeyedPrices out;
  read_litellm_fields(entry, path, 0, out);
  if (const Json *tiers = entry.find("tiered_pricing")) {
    if (!tiers->is(Json::Type::array)) {
      bad_value(path + ".tiered_pricing", "an array", tiers);
    }
    for (const Json &tier : tiers->items()) {
      const std::string at = path + ".tiered_pricing";
      const Json *range = required_object(tier, at).find("range");
      if (range == nullptr || !range->is(Json::Type::array) || range->size < 2) {
        bad_value(at + ".range", "an array", range);
      }
      read_litellm_fields(tier, at, read_tier(&*range->items().begin(), at + ".range[0]"), out);
    }
  }
  if (const Json *search = entry.find("search_context_cost_per_query")) {
    if (const Json *price = search->find("search_context_size_medium")) {
      PriceKey key;
      key.price_class = PriceClass::web_search;
      out[key] = read_price(*price, 24,
                            path + ".search_context_cost_per_query.search_context_size_medium");
    }
  }
  return out;
}

std::string litellm_match(const Json &entry, const std::string &provider) {
  std::string out = "{\"or\": [{\"equals\": ";
  append_json_string(out, entry.key);
  out += "}";
  const auto also = [&](std::string_view name) {
    out += ", {\"equals\": ";
    append_json_string(out, name);
    out += "}";
  };
  if (const std::size_t slash = entry.key.find('/'); slash != std::string_view::npos) {
    const ProviderName prefix = provider_name(entry.key.substr(0, slash));
    if (prefix.name == provider || prefix.id == provider) {
      also(entry.key.substr(slash + 1));
    }
  }
  if (const Json *aliases = entry.find("aliases");
      aliases != nullptr && aliases->is(Json::Type::array)) {
    for (const Json &alias : aliases->items()) {
      if (alias.is(Json::Type::string)) {
        also(alias.text);
      }
    }
  }
  return out + "]}";
}

Catalogue read_litellm(const Json &root) {
  Catalogue out;
  out.source = "litellm";
  std::set<std::string> providers;
  for (const Json &entry : root.items()) {
    if (entry.key == "sample_spec") {
      continue;
    }
    const std::string path = "catalogue." + std::string(entry.key);
    KeyedPrices prices = read_litellm_prices(required_object(entry, path), path);
    if (prices.empty()) {
      continue;  // priced by image, second or page, or not at all
    }
    const std::string_view named = required_text(entry, "litellm_provider", path);
    const ProviderName provider = provider_name(named);
    CatalogueModel model;
    model.ai_provider = provider.id.empty() ? provider.name : provider.id;
    model.ai_model = entry.key;
    model.match = litellm_match(entry, model.ai_provider);
    model.segments.push_back({kFirstInstant, std::move(prices)});
    providers.insert(model.ai_provider);
    out.models.push_back(std::move(model));
  }
  // A whole name goes before one with a prefix taken off; JSON objects promise no order of their
  // own.
  std::sort(out.models.begin(), out.models.end(),
            [](const CatalogueModel &a, const CatalogueModel &b) {
              return std::make_pair(a.ai_model.size(), std::string_view(a.ai_model)) <
                     std::make_pair(b.ai_model.size(), std::string_view(b.ai_model));
            });
  for (std::size_t i = 0; i < out.models.size(); ++i) {
    out.models[i].position = static_cast<std::int64_t>(i);
  }
  for (const std::string &id : providers) {
    out.providers.push_back({id, static_cast<std::int64_t>(out.providers.size()), {}, {}});
  }
  return out;
}

PriceKey key_of(const PriceRow &row) {
  return {row.price_class, row.tier_start, row.time_from, row.time_to};
}

std::optional<int128> price_in(const KeyedPrices &prices, const PriceKey &key) {
  const auto at = prices.find(key);
  return at == prices.end() ? std::nullopt : std::optional<int128>(at->second);
}

// The rows that turn the prices `before` into those of `segment`.
void add_differences(const KeyedPrices &before, const PriceSegment &segment,
                     std::vector<PriceChange> &out) {
  std::set<PriceKey> keys;
  for (const KeyedPrices *prices : {&before, &segment.prices}) {
    for (const auto &item : *prices) {
      keys.insert(item.first);
    }
  }
  for (const PriceKey &key : keys) {
    const std::optional<int128> price = price_in(segment.prices, key);
    if (price != price_in(before, key)) {
      out.push_back({PriceChange::Action::add, 0, key, segment.valid_from, price});
    }
  }
}

}  // namespace

Catalogue read_catalogue(const Json &root) {
  if (root.is(Json::Type::array)) {
    return read_genai(root);
  }
  if (!root.is(Json::Type::object)) {
    bad_argument("catalogue", "a genai-prices or LiteLLM price list", json_text(root));
  }
  if (const Json *providers = root.find("providers");
      providers != nullptr && providers->is(Json::Type::array)) {
    return read_genai(*providers);
  }
  return read_litellm(root);
}

std::vector<PriceChange> plan_import(const std::vector<PriceRow> &existing,
                                     const std::vector<PriceSegment> &segments, Micros day) {
  std::vector<PriceChange> wanted;
  if (existing.empty()) {
    const KeyedPrices *before = nullptr;
    static const KeyedPrices none;
    for (const PriceSegment &segment : segments) {
      add_differences(before == nullptr ? none : *before, segment, wanted);
      before = &segment.prices;
    }
    return wanted;
  }
  // What the book says on that day, per key, against what the catalogue says.
  std::map<PriceKey, const PriceRow *> newest;
  for (const PriceRow &row : existing) {
    if (row.valid_from <= day) {
      const PriceRow *&at = newest[key_of(row)];
      if (at == nullptr || at->valid_from < row.valid_from) {
        at = &row;
      }
    }
  }
  KeyedPrices book;
  for (const auto &[key, row] : newest) {
    if (row->usd_per_million) {
      book[key] = *row->usd_per_million;
    }
  }
  PriceSegment now{day, {}};
  for (const PriceSegment &segment : segments) {
    if (segment.valid_from <= day) {
      now.prices = segment.prices;
    }
  }
  add_differences(book, now, wanted);
  const KeyedPrices *before = &now.prices;
  for (const PriceSegment &segment : segments) {
    if (segment.valid_from > day) {
      add_differences(*before, segment, wanted);
      before = &segment.prices;
    }
  }
  // Rows that are there already, on that day or announced for later.
  std::vector<PriceChange> out;
  std::set<std::int64_t> kept;
  for (PriceChange &change : wanted) {
    const auto same = std::find_if(existing.begin(), existing.end(), [&](const PriceRow &row) {
      return row.valid_from == change.valid_from && key_of(row) == change.key;
    });
    if (same != existing.end()) {
      kept.insert(same->id);
      if (same->usd_per_million == change.usd_per_million) {
        continue;
      }
      change.action = PriceChange::Action::change;
      change.id = same->id;
    }
    out.push_back(change);
  }
  for (const PriceRow &row : existing) {
    if (row.valid_from > day && kept.count(row.id) == 0) {
      out.push_back(
          {PriceChange::Action::remove, row.id, key_of(row), row.valid_from, row.usd_per_million});
    }
  }
  return out;
}

}  // namespace token_usage
