// The errors of token_usage and the checks of arguments (rule 9 of the contract): one exception
// type that carries a message in the contract's words, so that every edition says the same. The
// glue of each database turns it into that database's error.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

namespace token_usage {

// What went wrong, for the SQLSTATE that PostgreSQL gives it.
enum class ErrorKind {
  argument,        // 22023
  missing_ledger,  // 42P01
  overflow,        // 22003
  adoption,        // 42804
  conflict,        // 23505
};

class Error : public std::runtime_error {
 public:
  Error(ErrorKind error_kind, const std::string &message)
      : std::runtime_error(message), kind_(error_kind) {}
  [[nodiscard]] ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

// Throws `token_usage: <argument> must be <rule>, got <value>`. `value` is shown as printable
// UTF-8, cut after 200 characters.
[[noreturn]] void bad_argument(std::string_view argument, std::string_view rule,
                               std::string_view value);

// Throws `token_usage: no token_usage table; run SELECT token_usage_migrate()`.
[[noreturn]] void missing_ledger();

// Throws `token_usage: the sum of <column> is past 9223372036854775807`.
[[noreturn]] void sum_overflow(std::string_view column);

// A copy of `text` that is valid UTF-8 without NUL: what is not is replaced by U+FFFD (NUL by
// `\0`), and it is cut after `limit` characters with `...`.
std::string printable(std::string_view text, std::size_t limit);

// The rules that are named in more than one place.
inline constexpr std::string_view rule_time = "a time such as 2025-10-20T14:30:25Z";
inline constexpr std::string_view rule_as_of_years = "a time from year 1000 to 9999";
inline constexpr std::string_view rule_zone = "an IANA time zone";
inline constexpr std::string_view rule_cursor = "a cursor from token_usage_detailed";

// Checks that `value` lies in [low, high] and returns it; else the error
// `token_usage: <argument> must be a whole number from <low> to <high>, got <value>`.
std::int64_t check_range(std::string_view argument, std::int64_t value, std::int64_t low,
                         std::int64_t high);

// `a whole number from <low> to <high>`.
std::string rule_range(std::int64_t low, std::int64_t high);

}  // namespace token_usage
