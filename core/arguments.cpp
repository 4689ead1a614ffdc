#include "arguments.h"

#include "utf8.h"

namespace token_usage {

namespace {
// Long enough to recognise a value by, short enough for a log line.
constexpr std::size_t kShownCharacters = 200;
}  // namespace

std::string printable(std::string_view text, std::size_t limit) {
  std::string out;
  std::size_t characters = 0;
  std::size_t at = 0;
  while (at < text.size()) {
    if (characters == limit) {
      return out + "...";
    }
    const std::size_t length = utf8_sequence(text.substr(at));
    if (length == 0) {
      out += kReplacement;
      at += 1;
    } else if (text[at] == '\0') {
      out += "\\0";
      at += 1;
    } else {
      out.append(text, at, length);
      at += length;
    }
    ++characters;
  }
  return out;
}

void bad_argument(std::string_view argument, std::string_view rule, std::string_view value) {
  std::string message = "token_usage: ";
  message.append(argument).append(" must be ").append(rule).append(", got ");
  message += printable(value, kShownCharacters);
  throw Error(ErrorKind::argument, message);
}

void missing_ledger() {
  throw Error(ErrorKind::missing_ledger,
              "token_usage: no token_usage table; run SELECT token_usage_migrate()");
}

void sum_overflow(std::string_view column) {
  throw Error(ErrorKind::overflow,
              "token_usage: the sum of " + std::string(column) + " is past 9223372036854775807");
}

std::string rule_range(std::int64_t low, std::int64_t high) {
  return "a whole number from " + std::to_string(low) + " to " + std::to_string(high);
}

std::int64_t check_range(std::string_view argument, std::int64_t value, std::int64_t low,
                         std::int64_t high) {
  if (value < low || value > high) {
    bad_argument(argument, rule_range(low, high), std::to_string(value));
  }
  return value;
}

}  // namespace token_usage
