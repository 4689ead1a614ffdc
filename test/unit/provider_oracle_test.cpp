// The normaliser and the price arithmetic against recorded responses: counts and prices that
// pydantic/genai-prices (MIT) extracts from 943 bodies. Those bodies are not part of this
// repository; they are looked for in ../shared/data beside it, or in $TOKEN_USAGE_DATA. Without
// them this test says so and reads the repository's own bodies.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "arguments.h"
#include "catalogue.h"
#include "price.h"
#include "usage.h"

namespace token_usage {
namespace {

std::string read_file(const std::string &path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream out;
  out << file.rdbuf();
  return out.str();
}

std::string data_directory() {
  const char *given = std::getenv("TOKEN_USAGE_DATA");
  return given != nullptr ? given : TOKEN_USAGE_SOURCE_DIR "/../shared/data";
}

// The price book of one catalogue, in memory.
class CatalogueTables : public PriceTables {
 public:
  explicit CatalogueTables(Catalogue catalogue) : catalogue_(std::move(catalogue)) {}

  std::vector<std::string> sources() override { return {catalogue_.source}; }
  std::vector<Provider> providers(const std::string &) override {
    std::vector<Provider> out;
    for (const CatalogueProvider &item : catalogue_.providers) {
      out.push_back({item.ai_provider, item.match, item.fallback});
    }
    return out;
  }
  std::vector<Model> models(const std::string &, const std::string &ai_provider) override {
    std::vector<Model> out;
    for (const CatalogueModel &item : catalogue_.models) {
      if (item.ai_provider == ai_provider) {
        out.push_back({item.ai_model, item.match});
      }
    }
    return out;
  }
  std::vector<PriceRow> rows(const std::string &, const std::string &ai_provider,
                             const std::string &ai_model) override {
    std::vector<PriceRow> out;
    for (const CatalogueModel &item : catalogue_.models) {
      if (item.ai_provider == ai_provider && item.ai_model == ai_model) {
        for (const PriceChange &change : plan_import({}, item.segments, 0)) {
          PriceRow row;
          row.price_class = change.key.price_class;
          row.tier_start = change.key.tier_start;
          row.time_from = change.key.time_from;
          row.time_to = change.key.time_to;
          row.usd_per_million = change.usd_per_million;
          row.valid_from = change.valid_from;
          out.push_back(row);
        }
      }
    }
    return out;
  }
  std::vector<std::pair<std::string, std::string>> manual_models() override { return {}; }

 private:
  Catalogue catalogue_;
};

bool has(const std::string &text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

// Who sent a body: told by the test that recorded it, the model and the shape.
std::string own_provider(const Json &body) {
  const std::string file(body.find("file")->text);
  const Json *model_node = body.find("model");
  const std::string model(model_node == nullptr ? "" : model_node->text);
  if (body.find("usageMetadata") != nullptr) {
    return "google";
  }
  if (body.find("meta") != nullptr) {
    return "cohere";
  }
  const Json &usage = *body.find("usage");
  if (usage.find("inputTokens") != nullptr || model.compare(0, 7, "openai.") == 0) {
    return "aws";
  }
  if (usage.find("billed_units") != nullptr) {
    return "cohere";
  }
  if (usage.find("cost") != nullptr || has(file, "openrouter")) {
    return "openrouter";
  }
  if (usage.find("queue_time") != nullptr) {
    return "groq";
  }
  if (usage.find("cache_creation_input_tokens") != nullptr) {
    return "anthropic";
  }
  if (usage.find("prompt_cache_hit_tokens") != nullptr) {
    return "deepseek";
  }
  for (const std::string_view name : {"cerebras", "zai", "huggingface"}) {
    if (has(file, name)) {
      return std::string(name);
    }
  }
  if (has(model, "llama-4-scout") || has(model, "Llama-4-Scout") || has(model, "deepseek-ai")) {
    return "huggingface";
  }
  if (has(model, "qwen-3-coder-480b")) {
    return "cerebras";
  }
  if (has(model, "istral") || has(model, "pixtral")) {
    return "mistral";
  }
  return model.compare(0, 6, "gemini") == 0 ? "google" : "openai";
}

// Their name for a count and ours.
const std::map<std::string, Count, std::less<>> &names() {
  static const std::map<std::string, Count, std::less<>> out = {
      {"input_tokens", Count::prompt},
      {"output_tokens", Count::completion},
      {"cache_read_tokens", Count::cache_read},
      {"cache_write_tokens", Count::cache_write},
      {"cache_write_5m_tokens", Count::cache_write_5m},
      {"cache_write_1h_tokens", Count::cache_write_1h},
      {"cache_audio_read_tokens", Count::cache_read_audio},
      {"cache_image_read_tokens", Count::cache_read_image},
      {"output_reasoning_tokens", Count::reasoning},
      {"input_audio_tokens", Count::input_audio},
      {"output_audio_tokens", Count::output_audio},
      {"input_image_tokens", Count::input_image},
      {"output_image_tokens", Count::output_image},
      {"input_tool_tokens", Count::tool_use_prompt},
      {"web_searches", Count::web_search_requests},
  };
  return out;
}

using Counts = std::map<Count, std::int64_t>;

Counts recorded_counts(const Json &usage) {
  Counts out;
  for (const Json &item : usage.items()) {
    const auto known = names().find(item.key);
    if (known != names().end()) {
      out[known->second] = *count_from_number(item.text);
    }
  }
  return out;
}

// Recorded counts leave zeros out.
Counts our_counts(const Usage &usage) {
  Counts out;
  for (const auto &item : names()) {
    if (usage.get(item.second) != 0) {
      out[item.second] = usage.get(item.second);
    }
  }
  return out;
}

std::string show(const Counts &counts) {
  std::string out;
  for (const auto &[kind, value] : counts) {
    out +=
        std::string(count_keys[static_cast<std::size_t>(kind)]) + "=" + std::to_string(value) + " ";
  }
  return out;
}

// Differences in which we say more than was recorded: the cache-write lifetimes and the writes that
// Bedrock reports and the recorded extractor for it leaves out.
bool only_more_detail(const Counts &recorded, const Counts &ours) {
  for (const auto &[kind, value] : ours) {
    const auto at = recorded.find(kind);
    const bool detail = kind == Count::cache_write_5m || kind == Count::cache_write_1h ||
                        kind == Count::cache_write;
    if (at == recorded.end() ? !detail : at->second != value) {
      return false;
    }
  }
  return std::all_of(recorded.begin(), recorded.end(),
                     [&](const auto &item) { return ours.count(item.first) != 0; });
}

struct Tally {
  int tried = 0;
  int equal = 0;
  int explained = 0;
  std::vector<std::string> different;
};

TEST(ProviderOracle, RecordedCountsAndPrices) {
  const std::string directory = data_directory();
  const std::string bodies_text = read_file(directory + "/provider_usage_bodies.json");
  const std::string catalogue_text = read_file(directory + "/genai_prices.json");
  if (bodies_text.empty() || catalogue_text.empty()) {
    GTEST_SKIP() << "no recorded bodies in " << directory
                 << "; ProviderBodies.* reads the repository's own";
  }
  const JsonDocument bodies(bodies_text, "bodies");
  const JsonDocument catalogue(catalogue_text, "catalogue");
  CatalogueTables tables(read_catalogue(catalogue.root()));
  PriceBook book(tables);
  const Micros at = *parse_timestamp("2025-11-06T12:00:00Z");  // when the prices were recorded
  Tally counts;
  Tally prices;
  Tally plain;
  std::set<std::string> newer;  // models whose price is not in this version of the catalogue
  for (const Json &entry : bodies.root().items()) {
    const Json &body = *entry.find("body");
    const std::string own = own_provider(body);
    const std::string file(body.find("file")->text);
    const Json *model = entry.find("model");
    bool any = false;
    bool met = false;
    for (const Json &extracted : entry.find("extracted")->items()) {
      const Counts wanted = recorded_counts(*extracted.find("usage"));
      for (const Json &extractor : extracted.find("extractors")->items()) {
        const std::string provider(extractor.find("provider_id")->text);
        const std::string flavour(extractor.find("api_flavor")->text);
        if (provider.compare(0, own.size(), own) != 0) {
          continue;
        }
        any = true;
        const Usage usage = usage_from_response(own + "/" + flavour, body, "response");
        const Counts ours = our_counts(usage);
        ++counts.tried;
        if (ours == wanted) {
          ++counts.equal;
        } else if (only_more_detail(wanted, ours)) {
          ++counts.explained;
        } else {
          counts.different.push_back(own + "/" + flavour + " " + file + ": recorded " +
                                     show(wanted) + "ours " + show(ours));
        }
        met =
            met || only_more_detail(wanted, our_counts(usage_from_response(own, body, "response")));
        if (extractor.find("input_price") == nullptr || model == nullptr) {
          continue;
        }
        ++prices.tried;
        const Decimal price =
            Decimal::from_units(Decimal::from_text(extractor.find("input_price")->text)->units() +
                                Decimal::from_text(extractor.find("output_price")->text)->units());
        const std::optional<Decimal> cost = book.cost(provider, model->text, usage, at);
        if (cost == price) {
          ++prices.equal;
        } else if (newer.count(std::string(model->text)) != 0 ||
                   (!cost && book.find(provider, model->text).empty())) {
          newer.insert(std::string(model->text));
          ++prices.explained;
        } else if (usage.get(Count::output_image) > 0) {
          ++prices.explained;  // recorded with image prices, which this version does not have
        } else {
          prices.different.push_back(provider + "/" + flavour + " " + std::string(model->text) +
                                     " " + file + ": recorded " + price.to_string() + " ours " +
                                     (cost ? cost->to_string() : "unpriced") + " " + show(ours));
        }
      }
    }
    if (any) {
      ++plain.tried;
      plain.equal += met ? 1 : 0;
      if (!met) {
        plain.different.push_back(own + " " + file);
      }
    }
  }
  const auto report = [](const char *what, const Tally &tally) {
    std::printf("%s: tried %d, equal %d, explained %d, different %zu\n", what, tally.tried,
                tally.equal, tally.explained, tally.different.size());
    for (const std::string &line : tally.different) {
      std::printf("  %s\n", line.c_str());
    }
  };
  report("counts, own provider and flavour", counts);
  report("counts, provider alone: one of the flavours recorded for it", plain);
  report("prices (input + output), own provider", prices);
  EXPECT_GT(counts.tried, 900);
  EXPECT_TRUE(counts.different.empty());
  EXPECT_TRUE(plain.different.empty());
  EXPECT_GT(prices.tried, 500);
  EXPECT_TRUE(prices.different.empty());
  EXPECT_LE(prices.explained, 10);
}

}  // namespace
}  // namespace token_usage
