// Reads JSON that others wrote: provider responses, events, price catalogues. RapidJSON's iterative
// parser feeds a flat list of nodes, so that depth costs no stack; a number stays the text that it
// was, so that no digit is lost; a repeated key is an error, because which one counts would be a
// guess.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "decimal.h"

namespace token_usage {

// One value of a document. A container is followed by the nodes inside it.
struct Json {
  enum class Type : std::uint8_t { null, boolean, number, string, array, object };

  std::string_view key;    // where the parent is an object
  std::string_view text;   // string: its characters; number: as written; boolean: true or false
  std::uint32_t size = 1;  // nodes of this value, itself included
  Type type = Type::null;

  [[nodiscard]] bool is(Type t) const { return type == t; }
  [[nodiscard]] bool is_null() const { return type == Type::null; }
  [[nodiscard]] bool is_true() const { return type == Type::boolean && text == "true"; }

  // The value of `name` in this object; nullptr where there is none, where it is null, and where
  // this is no object.
  [[nodiscard]] const Json *find(std::string_view name) const;

  // The values inside an array or object, in order: for (const Json &item : node.items()).
  class Iterator {
   public:
    explicit Iterator(const Json *at) : at_(at) {}
    const Json &operator*() const { return *at_; }
    const Json *operator->() const { return at_; }
    Iterator &operator++() {
      at_ += at_->size;
      return *this;
    }
    bool operator!=(const Iterator &other) const { return at_ != other.at_; }

   private:
    const Json *at_;
  };
  struct Items {
    const Json *first;
    const Json *last;
    [[nodiscard]] Iterator begin() const { return Iterator(first); }
    [[nodiscard]] Iterator end() const { return Iterator(last); }
  };
  [[nodiscard]] Items items() const { return {this + 1, this + size}; }
};

// A parsed text and what its nodes point into.
class JsonDocument {
 public:
  static constexpr std::size_t max_depth = 1000;

  // Parses `text`. Throws `token_usage: <argument> must be JSON (...), got <text>` where it is
  // malformed or nested deeper than max_depth, and `token_usage: <path> must be given once, got it
  // twice` for a repeated key.
  JsonDocument(std::string_view text, std::string_view argument);

  [[nodiscard]] const Json &root() const { return nodes_.front(); }

 private:
  std::unique_ptr<char[]> buffer_;
  std::vector<Json> nodes_;
};

// The value as JSON text: one space after `:` and `,`, numbers as they were written.
std::string json_text(const Json &value);
void append_json_text(std::string &out, const Json &value);

// Appends `text` as a JSON string.
void append_json_string(std::string &out, std::string_view text);

// The whole number that a JSON number spells (12, 12.0 and 1.2e1 are 12) when it lies in 0 to
// 2^63-1.
std::optional<std::int64_t> count_from_number(std::string_view number);

// The value of a decimal text (digits, point, exponent, sign) as an integer count of 10^-places,
// rounded half-even. Nothing where it is malformed or does not fit in 127 bits. `exact`, where
// given, becomes false if digits were lost.
std::optional<int128> scaled_from_text(std::string_view text, int places, bool *exact = nullptr);

// `units` * 10^-places as digits without trailing zeros and without exponent.
std::string scaled_to_text(int128 units, int places);

// `units` at 10^-from rounded half-even to 10^-to, from >= to.
int128 rescale_half_even(int128 units, int from, int to);

}  // namespace token_usage
