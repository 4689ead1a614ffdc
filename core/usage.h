// Token counts out of a provider's response (section 5 of the contract), by the rules of
// core/usage_rules.json.
//
// The interpreter knows no provider and no field name. It finds the usage object, the shape that it
// has, the counts of that shape, and then decides by arithmetic whether a part (cached, reasoning,
// tool use) stands inside its whole or beside it: the provider's own total tells; where there is
// none, or it fits nothing, the shape's default holds and what remains is reported as unattributed.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "decimal.h"
#include "json_reader.h"

namespace token_usage {

// The counts that a usage object may hold, in the order of its JSON form.
enum class Count : std::uint8_t {
  prompt,
  completion,
  total,
  cache_read,
  cache_write,
  cache_write_5m,
  cache_write_1h,
  cache_read_audio,
  cache_read_image,
  reasoning,
  input_audio,
  output_audio,
  input_image,
  output_image,
  tool_use_prompt,
  web_search_requests,
};
inline constexpr std::size_t count_kinds = 16;

// The JSON key of each count.
inline constexpr std::array<std::string_view, count_kinds> count_keys = {
    "prompt_tokens",         "completion_tokens",       "total_tokens",
    "cache_read_tokens",     "cache_write_tokens",      "cache_write_5m_tokens",
    "cache_write_1h_tokens", "cache_read_audio_tokens", "cache_read_image_tokens",
    "reasoning_tokens",      "input_audio_tokens",      "output_audio_tokens",
    "input_image_tokens",    "output_image_tokens",     "tool_use_prompt_tokens",
    "web_search_requests"};

// USD amounts before they are rounded to money: 128 bits at 10^-24.
inline constexpr int wide_places = 24;

// A usage object: inclusive totals and the classes that were reported. A class that was not is
// absent, not zero.
struct Usage {
  std::array<std::optional<std::int64_t>, count_kinds> counts;
  std::optional<int128> provider_cost;  // USD at 10^-24
  std::string model;
  std::int64_t unattributed = 0;
  bool not_tokens = false;  // billed by seconds, searches ...: no price per token applies
  std::vector<std::string> warnings;

  [[nodiscard]] std::optional<std::int64_t> &operator[](Count kind) {
    return counts[static_cast<std::size_t>(kind)];
  }
  [[nodiscard]] const std::optional<std::int64_t> &operator[](Count kind) const {
    return counts[static_cast<std::size_t>(kind)];
  }
  [[nodiscard]] std::int64_t get(Count kind) const { return (*this)[kind].value_or(0); }
};

// Which provider a name means.
struct ProviderName {
  std::string name;     // lower case, trimmed, without the flavour
  std::string id;       // of the rules; empty where unknown
  std::string flavour;  // `tokens` of `cohere/tokens`; empty where none is named
};

// Reads a provider name by the rules' aliases (`xai`, `X-AI` and `grok` are one).
ProviderName provider_name(std::string_view ai_provider);

// Normalises `response`, a whole response, a bare usage object, or an array of the events of a
// stream. `argument` names it in errors. `raw`, where given, receives the JSON text of the usage
// object that was read. Throws Error where no counts are found or a value is no count, naming its
// path.
Usage usage_from_response(std::string_view ai_provider, const Json &response,
                          std::string_view argument, std::string *raw = nullptr);

// The JSON object that token_usage_from_response returns.
std::string usage_to_json(const Usage &usage);

// Reads a normalised usage object, as usage_to_json writes it. Throws Error for an unknown key or a
// value that is no count.
Usage usage_from_json(const Json &object, std::string_view argument);

// Checks that the classes fit into their wholes (cached into prompt, reasoning into completion
// ...). Throws Error.
void check_usage(const Usage &usage, std::string_view argument);

// A value of JSON that must be a count. Throws Error with `path`.
std::int64_t require_count(const Json &value, std::string_view path);

}  // namespace token_usage
