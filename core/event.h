// Events: the JSON objects that token_usage_record takes (section 5 of the contract). Reads and
// checks one; what a database must decide (whether the ledger's key can hold the user, what the
// price book says) is left to the glue.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "json_reader.h"
#include "timestamp.h"
#include "usage.h"

namespace token_usage {

// The text columns that an event may set and that need no more than being text.
enum class TextColumn : std::uint8_t {
  content_id,
  workflow_id,
  request_id,
  endpoint,
  platform,
  content_type,
  task_type,
};
inline constexpr std::array<std::string_view, 7> text_columns = {
    "content_id", "workflow_id", "request_id", "endpoint", "platform", "content_type", "task_type"};

// The counts that have a ledger column of their own, besides prompt, completion and total.
inline constexpr std::array<Count, 11> class_columns = {
    Count::cache_read,       Count::cache_write,        Count::cache_write_1h,
    Count::cache_read_audio, Count::cache_read_image,   Count::reasoning,
    Count::input_audio,      Count::output_audio,       Count::input_image,
    Count::output_image,     Count::web_search_requests};

struct Event {
  // user_id as JSON gives it: digits of a number, or text.
  std::string user_id;
  bool user_id_is_number = false;
  std::string agent_id;
  std::string ai_provider;
  std::string ai_model;
  Usage usage;
  std::array<std::optional<std::string>, text_columns.size()> texts;
  std::optional<std::int64_t> execution_time_ms;
  std::optional<std::string> cost_usd;  // the number as written
  std::optional<std::string> cost_rub;
  std::optional<std::string> request_metadata;  // JSON
  std::optional<std::string>
      response_metadata;  // JSON; with a response, its usage object in `provider_usage`
  std::optional<Micros> created_at;

  [[nodiscard]] const std::optional<std::string> &text(TextColumn column) const {
    return texts[static_cast<std::size_t>(column)];
  }
};

// Reads an event. `argument` names it in errors (`event`, `events[17]`). Throws Error for an
// unknown key, a missing or ill-typed one, and counts that contradict each other.
Event read_event(const Json &json, std::string_view argument);

// Where a cost came from: column cost_source.
inline constexpr std::string_view cost_from_event = "event";
inline constexpr std::string_view cost_from_provider = "provider";
inline constexpr std::string_view cost_from_book = "price_book";
inline constexpr std::string_view cost_not_by_tokens = "other";

// What an event costs, before the price book and the exchange rate are asked.
struct StatedCost {
  std::optional<Decimal> usd;
  std::optional<Decimal> rub;
  std::string_view source;  // empty: the price book decides
  bool ask_book = false;
};

StatedCost stated_cost(const Event &event);

// The result of token_usage_record for one event: {"id", "created", counts, costs, "warnings"}.
// `id` is JSON.
std::string record_result(std::string_view id, bool created, std::int64_t prompt,
                          std::int64_t completion, std::int64_t total,
                          std::optional<Decimal> cost_usd, std::optional<Decimal> cost_rub,
                          const std::vector<std::string> &warnings);

}  // namespace token_usage
