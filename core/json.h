// Writing JSON: a thin layer over RapidJSON's writer that adds what the contract needs (decimals
// with all their digits as JSON numbers) and what untrusted text needs (bytes that are no UTF-8
// become U+FFFD).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "decimal.h"
#include "measures.h"

namespace token_usage {

class JsonWriter {
 public:
  JsonWriter();
  ~JsonWriter();
  JsonWriter(const JsonWriter &) = delete;
  JsonWriter &operator=(const JsonWriter &) = delete;

  JsonWriter &begin_object();
  JsonWriter &end_object();
  JsonWriter &begin_array();
  JsonWriter &end_array();
  JsonWriter &key(std::string_view name);

  JsonWriter &null();
  JsonWriter &boolean(bool value);
  JsonWriter &integer(std::int64_t value);
  JsonWriter &decimal(Decimal value);
  JsonWriter &text(std::string_view value);
  JsonWriter &text(const std::string &value) { return text(std::string_view(value)); }
  // Else a literal could be either of the two around it.
  JsonWriter &text(const char *value) { return text(std::string_view(value)); }

  // The same, with null for nothing.
  JsonWriter &integer(std::optional<std::int64_t> value);
  JsonWriter &decimal(std::optional<Decimal> value);
  JsonWriter &text(std::optional<std::string_view> value);

  // The keys that section 3 of the contract calls `m`, into the open object.
  JsonWriter &measures(const Measures &value);

  // The document. It is whole once every object and array is closed.
  [[nodiscard]] std::string str() const;

 private:
  struct State;
  State *state_;
};

// The result of token_usage_stats: the measures in their column order and avg_execution_time_ms.
std::string stats_json(const Measures &value);

}  // namespace token_usage
