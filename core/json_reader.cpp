// See json_reader.h.
#include "json_reader.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

#include <rapidjson/error/en.h>
#include <rapidjson/reader.h>

#include "arguments.h"

namespace token_usage {
namespace {

constexpr unsigned kFlags = rapidjson::kParseIterativeFlag | rapidjson::kParseInsituFlag |
                            rapidjson::kParseNumbersAsStringsFlag |
                            rapidjson::kParseValidateEncodingFlag;

// Builds the list of nodes while RapidJSON reads.
class Builder {
 public:
  using Ch = char;

  Builder(std::vector<Json> &nodes, std::string_view argument)
      : nodes_(nodes), argument_(argument) {}

  bool Null() { return scalar(Json::Type::null, {}); }
  bool Bool(bool b) { return scalar(Json::Type::boolean, b ? "true" : "false"); }
  bool Int(int) { return false; }
  bool Uint(unsigned) { return false; }
  bool Int64(std::int64_t) { return false; }
  bool Uint64(std::uint64_t) { return false; }
  bool Double(double) { return false; }
  bool RawNumber(const char *text, rapidjson::SizeType length, bool) {
    return scalar(Json::Type::number, {text, length});
  }
  bool String(const char *text, rapidjson::SizeType length, bool) {
    return scalar(Json::Type::string, {text, length});
  }
  bool Key(const char *text, rapidjson::SizeType length, bool) {
    key_ = {text, length};
    return true;
  }
  bool StartObject() { return open(Json::Type::object); }
  bool StartArray() { return open(Json::Type::array); }
  bool EndArray(rapidjson::SizeType) { return close(); }
  bool EndObject(rapidjson::SizeType members) {
    const std::string_view repeated = repeated_key(nodes_[open_.back()], members);
    if (repeated.data() != nullptr) {
      bad_argument(path() + "." + std::string(repeated), "given once", "it twice");
    }
    return close();
  }

  [[nodiscard]] bool too_deep() const { return too_deep_; }

 private:
  bool scalar(Json::Type type, std::string_view text) {
    add(type, text);
    return true;
  }

  void add(Json::Type type, std::string_view text) {
    Json node;
    node.key = key_;
    node.text = text;
    node.type = type;
    nodes_.push_back(node);
    key_ = {};
  }

  bool open(Json::Type type) {
    if (open_.size() >= JsonDocument::max_depth) {
      too_deep_ = true;
      return false;
    }
    open_.push_back(static_cast<std::uint32_t>(nodes_.size()));
    add(type, {});
    return true;
  }

  bool close() {
    nodes_[open_.back()].size = static_cast<std::uint32_t>(nodes_.size() - open_.back());
    open_.pop_back();
    return true;
  }

  // A key that this object holds twice; no data where none.
  std::string_view repeated_key(const Json &object, std::size_t members) {
    if (members < 2) {
      return {};
    }
    keys_.clear();
    const Json *const end = nodes_.data() + nodes_.size();
    for (const Json *at = &object + 1; at < end; at += at->size) {
      keys_.push_back(at->key);
    }
    std::sort(keys_.begin(), keys_.end());
    const auto twice = std::adjacent_find(keys_.begin(), keys_.end());
    return twice == keys_.end() ? std::string_view{} : *twice;
  }

  // Where the object that is open now stands: argument.key[3].key.
  [[nodiscard]] std::string path() const {
    std::string out(argument_);
    for (std::size_t level = 1; level < open_.size(); ++level) {
      const Json &parent = nodes_[open_[level - 1]];
      if (parent.is(Json::Type::object)) {
        out.append(1, '.').append(nodes_[open_[level]].key);
      } else {
        std::size_t index = 0;
        for (std::uint32_t at = open_[level - 1] + 1; at < open_[level]; at += nodes_[at].size) {
          ++index;
        }
        out.append(1, '[').append(std::to_string(index)).append(1, ']');
      }
    }
    return out;
  }

  std::vector<Json> &nodes_;
  std::string_view argument_;
  std::string_view key_;
  std::vector<std::uint32_t> open_;
  std::vector<std::string_view> keys_;
  bool too_deep_ = false;
};

// Splits a decimal text into its digits and the power of ten of the last one. False where it is
// malformed.
bool split_decimal(std::string_view text, bool &negative, std::string &digits,
                   std::int64_t &power) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) {
    text.remove_prefix(1);
  }
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) {
    text.remove_suffix(1);
  }
  negative = false;
  if (!text.empty() && (text.front() == '-' || text.front() == '+')) {
    negative = text.front() == '-';
    text.remove_prefix(1);
  }
  digits.clear();
  power = 0;
  bool point = false;
  bool any = false;
  std::size_t i = 0;
  for (; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '.' && !point) {
      point = true;
    } else if (c >= '0' && c <= '9') {
      any = true;
      if (!digits.empty() || c != '0') {
        digits += c;
      }
      power -= point ? 1 : 0;
    } else {
      break;
    }
  }
  if (!any) {
    return false;
  }
  if (i < text.size()) {
    if (text[i] != 'e' && text[i] != 'E') {
      return false;
    }
    ++i;
    bool down = false;
    if (i < text.size() && (text[i] == '-' || text[i] == '+')) {
      down = text[i] == '-';
      ++i;
    }
    if (i == text.size()) {
      return false;
    }
    std::int64_t exponent = 0;
    for (; i < text.size(); ++i) {
      if (text[i] < '0' || text[i] > '9') {
        return false;
      }
      // Past this every result is zero or out of range alike.
      exponent = std::min<std::int64_t>(exponent * 10 + (text[i] - '0'), 1'000'000'000);
    }
    power += down ? -exponent : exponent;
  }
  while (!digits.empty() && digits.back() == '0') {
    digits.pop_back();
    ++power;
  }
  return true;
}

constexpr int128 kInt128Max = static_cast<int128>(~static_cast<uint128>(0) >> 1);

}  // namespace

const Json *Json::find(std::string_view name) const {
  if (type != Type::object) {
    return nullptr;
  }
  for (const Json &item : items()) {
    if (item.key == name) {
      return item.is_null() ? nullptr : &item;
    }
  }
  return nullptr;
}

JsonDocument::JsonDocument(std::string_view text, std::string_view argument)
    : buffer_(new char[text.size() + 1]) {
  std::memcpy(buffer_.get(), text.data(), text.size());
  buffer_[text.size()] = '\0';
  // The parser takes a NUL for the end of the text, which would hide what follows it.
  const std::size_t nul = text.find('\0');
  Builder builder(nodes_, argument);
  rapidjson::InsituStringStream stream(buffer_.get());
  rapidjson::Reader reader;
  const rapidjson::ParseResult result =
      nul == std::string_view::npos
          ? reader.Parse<kFlags>(stream, builder)
          : rapidjson::ParseResult(rapidjson::kParseErrorDocumentRootNotSingular, nul);
  if (builder.too_deep()) {
    bad_argument(argument, "JSON of at most " + std::to_string(max_depth) + " levels", text);
  }
  if (result.IsError()) {
    std::string reason = rapidjson::GetParseError_En(result.Code());
    if (!reason.empty() && reason.back() == '.') {
      reason.pop_back();
    }
    bad_argument(argument, "JSON (" + reason + " at byte " + std::to_string(result.Offset()) + ")",
                 text);
  }
}

void append_json_string(std::string &out, std::string_view text) {
  static constexpr char hex[] = "0123456789abcdef";
  out += '"';
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\b':
        out += "\\b";
        break;
      case '\f':
        out += "\\f";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      default:
        if (byte < 0x20) {
          out += "\\u00";
          out += hex[byte >> 4];
          out += hex[byte & 15];
        } else {
          out += c;
        }
    }
  }
  out += '"';
}

void append_json_text(std::string &out, const Json &value) {
  // Iterative, as the parser is: the containers that are open and where each ends.
  std::vector<const Json *> open;
  const Json *const end = &value + value.size;
  for (const Json *at = &value; at < end || !open.empty();) {
    if (!open.empty() && at == open.back() + open.back()->size) {
      out += open.back()->is(Json::Type::object) ? '}' : ']';
      open.pop_back();
      continue;
    }
    if (!open.empty()) {
      if (at != open.back() + 1) {
        out += ", ";
      }
      if (open.back()->is(Json::Type::object)) {
        append_json_string(out, at->key);
        out += ": ";
      }
    }
    switch (at->type) {
      case Json::Type::null:
        out += "null";
        break;
      case Json::Type::string:
        append_json_string(out, at->text);
        break;
      case Json::Type::object:
      case Json::Type::array:
        out += at->is(Json::Type::object) ? '{' : '[';
        open.push_back(at);
        break;
      default:
        out += at->text;
    }
    ++at;
  }
}

std::string json_text(const Json &value) {
  std::string out;
  append_json_text(out, value);
  return out;
}

std::optional<std::int64_t> count_from_number(std::string_view number) {
  // The common case, plain digits, without the general reading.
  if (!number.empty() && number.size() <= 18) {
    std::int64_t value = 0;
    std::size_t i = 0;
    while (i < number.size() && number[i] >= '0' && number[i] <= '9') {
      value = value * 10 + (number[i] - '0');
      ++i;
    }
    if (i == number.size()) {
      return value;
    }
  }
  bool exact = true;
  const std::optional<int128> value = scaled_from_text(number, 0, &exact);
  if (!value || !exact || *value < 0 || *value > std::numeric_limits<std::int64_t>::max()) {
    return std::nullopt;
  }
  return static_cast<std::int64_t>(*value);
}

std::optional<int128> scaled_from_text(std::string_view text, int places, bool *exact) {
  bool negative = false;
  std::string digits;
  std::int64_t power = 0;
  if (exact != nullptr) {
    *exact = true;
  }
  if (!split_decimal(text, negative, digits, power)) {
    return std::nullopt;
  }
  std::int64_t shift = digits.empty() ? 0 : power + places;
  const auto length = static_cast<std::int64_t>(digits.size());
  if (shift > 0 && length + shift > 39) {
    return std::nullopt;
  }
  // What is cut off on the right: round half-even on it.
  int round = 0;  // -1 below half, 0 nothing, 1 half, 2 above half
  if (shift < 0) {
    const std::int64_t keep = length + shift;
    if (exact != nullptr) {
      *exact = false;
    }
    if (keep < 0) {
      round = -1;
      digits.clear();
    } else {
      const std::string_view cut = std::string_view(digits).substr(static_cast<std::size_t>(keep));
      round = cut.front() > '5' || (cut.front() == '5' && cut.size() > 1) ? 2
              : cut.front() == '5'                                        ? 1
                                                                          : -1;
      digits.resize(static_cast<std::size_t>(keep));
    }
    shift = 0;
  }
  if (digits.size() + static_cast<std::size_t>(shift) > 39) {
    return std::nullopt;
  }
  uint128 value = 0;
  for (std::size_t i = 0; i < digits.size() + static_cast<std::size_t>(shift); ++i) {
    const auto digit = static_cast<unsigned>(i < digits.size() ? digits[i] - '0' : 0);
    if (value > (static_cast<uint128>(kInt128Max) - digit) / 10) {
      return std::nullopt;
    }
    value = value * 10 + digit;
  }
  if (round == 2 || (round == 1 && (value & 1) != 0)) {
    ++value;
  }
  if (value > static_cast<uint128>(kInt128Max)) {
    return std::nullopt;
  }
  return negative ? -static_cast<int128>(value) : static_cast<int128>(value);
}

std::string scaled_to_text(int128 units, int places) {
  uint128 value = units < 0 ? -static_cast<uint128>(units) : static_cast<uint128>(units);
  std::array<char, 48> buffer{};
  std::size_t at = buffer.size();
  int written = 0;
  bool seen = false;
  while (value != 0 || written <= places) {
    const auto digit = static_cast<unsigned>(value % 10);
    value /= 10;
    if (written == places && places > 0 && seen) {
      buffer[--at] = '.';
    }
    if (digit != 0 || seen || written >= places) {
      buffer[--at] = static_cast<char>('0' + digit);
      seen = true;
    }
    ++written;
  }
  if (units < 0) {
    buffer[--at] = '-';
  }
  return {&buffer[at], buffer.size() - at};
}

int128 rescale_half_even(int128 units, int from, int to) {
  uint128 divisor = 1;
  for (int i = to; i < from; ++i) {
    divisor *= 10;
  }
  const uint128 value = units < 0 ? -static_cast<uint128>(units) : static_cast<uint128>(units);
  uint128 quotient = value / divisor;
  const uint128 rest = value % divisor;
  if (rest * 2 > divisor || (rest * 2 == divisor && (quotient & 1) != 0)) {
    ++quotient;
  }
  return units < 0 ? -static_cast<int128>(quotient) : static_cast<int128>(quotient);
}

}  // namespace token_usage
