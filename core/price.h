// Prices (section 6 of the contract): which model of the price book a name means, which of its
// prices are in force, and what a usage object costs. Exact from the price to the sum; rounded
// half-even to the 12 places of money once, at the end.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "decimal.h"
#include "json_reader.h"
#include "timestamp.h"
#include "usage.h"

namespace token_usage {

// What has a price of its own, in the words of column token_class.
enum class PriceClass : std::uint8_t {
  input,
  output,
  cache_read,
  cache_write,
  cache_write_1h,
  cache_read_audio,
  cache_read_image,
  reasoning,
  input_audio,
  output_audio,
  input_image,
  output_image,
  web_search,
  request,
};
inline constexpr std::size_t price_classes = 14;
inline constexpr std::array<std::string_view, price_classes> price_class_names = {
    "input",          "output",           "cache_read",       "cache_write",
    "cache_write_1h", "cache_read_audio", "cache_read_image", "reasoning",
    "input_audio",    "output_audio",     "input_image",      "output_image",
    "web_search",     "request"};

// The class that column token_class names; nothing where it names none.
std::optional<PriceClass> price_class_from_name(std::string_view name);

// USD per million at 10^-18, so that a count times a price is USD at 10^-24.
inline constexpr int price_places = 18;

inline constexpr int seconds_per_day = 86'400;

// One row of table token_usage_price.
struct PriceRow {
  PriceClass price_class = PriceClass::input;
  std::int64_t tier_start = 0;
  std::optional<int128> usd_per_million;  // none: no longer priced
  Micros valid_from = 0;
  int time_from = 0;  // seconds of the UTC day
  int time_to = seconds_per_day;
  std::int64_t id = 0;

  [[nodiscard]] bool windowed() const { return time_from != 0 || time_to != seconds_per_day; }
};

// Seconds of the day of `HH:MM` or `HH:MM:SS`, up to 24:00; nothing for another text.
std::optional<int> parse_time_of_day(std::string_view text);
std::string format_time_of_day(int seconds);

using PriceSet = std::array<std::optional<int128>, price_classes>;

// The prices of one model that are in force at an instant, for a request of so many prompt tokens
// (a context tier that is crossed prices the whole request).
PriceSet prices_in_force(const std::vector<PriceRow> &rows, Micros at, std::int64_t prompt_tokens);

// The cost in USD at 10^-24; nothing where the set does not price what was used. `usage` has passed
// check_usage().
std::optional<int128> wide_cost(const PriceSet &prices, const Usage &usage);

// The first of several sources that prices the usage, rounded to money. Throws Error where the sum
// is out of range.
std::optional<Decimal> cost_in_order(const std::vector<std::vector<PriceRow>> &sources,
                                     const Usage &usage, Micros at);

// `usd` times `rate`, both at 10^-12, rounded half-even to 12 places. Throws Error where it is out
// of range.
Decimal converted(Decimal usd, Decimal rate);

// Whether `clause`, as catalogues write it ({"equals": ...}, {"or": [...]} ...), is well-formed.
bool is_match_clause(const Json &clause);

// Whether a lower-case name satisfies a well-formed clause.
bool matches(const Json &clause, const std::string &name);

// The spellings under which a model is looked up, likeliest first: as given, without a path before
// it, and each without the date of a snapshot.
std::vector<std::string> model_variants(std::string_view ai_model);

// What the price book's tables hold, read when it is asked for.
class PriceTables {
 public:
  struct Provider {
    std::string ai_provider;
    std::string match;     // JSON or empty
    std::string fallback;  // JSON array of provider ids or empty
  };
  struct Model {
    std::string ai_model;
    std::string match;
  };

  virtual ~PriceTables() = default;
  // Sources that have prices, `manual` included.
  virtual std::vector<std::string> sources() = 0;
  // In order of position.
  virtual std::vector<Provider> providers(const std::string &source) = 0;
  virtual std::vector<Model> models(const std::string &source, const std::string &ai_provider) = 0;
  virtual std::vector<PriceRow> rows(const std::string &source, const std::string &ai_provider,
                                     const std::string &ai_model) = 0;
  // Distinct (ai_provider, ai_model) of the rows that were entered by hand.
  virtual std::vector<std::pair<std::string, std::string>> manual_models() = 0;
};

// Finds prices by provider and model name, and remembers what it found. For one statement: it does
// not see later changes of the tables.
class PriceBook {
 public:
  explicit PriceBook(PriceTables &tables) : tables_(tables) {}

  // The decimal cost in USD; nothing where no price is known.
  std::optional<Decimal> cost(std::string_view ai_provider, std::string_view ai_model,
                              const Usage &usage, Micros at);

  // The price rows of the model in each source that knows it, in the order in which sources count.
  const std::vector<std::vector<PriceRow>> &find(std::string_view ai_provider,
                                                 std::string_view ai_model);

 private:
  struct Provider {
    std::string id;
    std::unique_ptr<JsonDocument> match;
    std::vector<std::string> fallback;
  };
  struct Model {
    std::string id;
    std::unique_ptr<JsonDocument> match;
  };
  using Found = std::optional<std::pair<std::string, std::string>>;  // ai_provider, ai_model

  const std::vector<Provider> &providers(const std::string &source);
  const std::vector<Model> &models(const std::string &source, const std::string &ai_provider);
  const Provider *find_provider(const std::string &source, std::string_view name);
  Found find_in_catalogue(const std::string &source, std::string_view ai_provider,
                          std::string_view ai_model);
  Found find_manual(std::string_view ai_provider, std::string_view ai_model);

  PriceTables &tables_;
  std::optional<std::vector<std::string>> sources_;
  std::map<std::string, std::vector<Provider>> providers_;
  std::map<std::pair<std::string, std::string>, std::vector<Model>> models_;
  std::map<std::pair<std::string, std::string>, std::vector<std::vector<PriceRow>>, std::less<>>
      found_;
};

}  // namespace token_usage
