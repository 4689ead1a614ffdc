// Points in time as Unix microseconds in UTC, and the forms in which a SQLite ledger may hold them
// (section 2 of the contract, "Adoption"). Time is kept to the microsecond; further digits are cut
// off.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace token_usage {

using Micros = std::int64_t;

inline constexpr Micros kMicrosPerSecond = 1'000'000;
inline constexpr Micros kMicrosPerDay = 86'400 * kMicrosPerSecond;

// 0001-01-01 00:00 and 10000-01-01 00:00, UTC: what four digits of year can say.
inline constexpr Micros kFirstInstant = -62'135'596'800 * kMicrosPerSecond;
inline constexpr Micros kPastLastInstant = 253'402'300'800 * kMicrosPerSecond;

// Days since 1970-01-01 of a proleptic Gregorian date; the date is valid.
std::int64_t days_from_civil(std::int64_t year, unsigned month, unsigned day);

struct CivilDate {
  std::int64_t year;
  unsigned month;
  unsigned day;
};

// The date of a day count since 1970-01-01.
CivilDate civil_from_days(std::int64_t days);

// Text: `YYYY-MM-DD HH:MM[:SS[.fraction]]`, with `T` for the space, followed or not (a space
// between allowed) by `Z` or an offset `+HH:MM`/`-HH:MM`; without one it is UTC. Nothing for any
// other text.
std::optional<Micros> parse_timestamp(std::string_view text);

// The same, and a date alone, `YYYY-MM-DD`, which is its midnight in UTC: the forms that an
// argument may have.
std::optional<Micros> parse_timestamp_argument(std::string_view text);

// An integer: Unix milliseconds from 10^11 on, else Unix seconds. Nothing outside the years 1 to
// 9999.
std::optional<Micros> timestamp_from_integer(std::int64_t value);

// A REAL: Unix seconds, cut to microseconds downward in its decimal value. Nothing outside the
// years 1 to 9999.
std::optional<Micros> timestamp_from_real(double value);

// `YYYY-MM-DDTHH:MM:SS[.ffffff]Z`, the fraction only where there is one.
std::string format_timestamp(Micros time);

// The same in a buffer, where many are formatted; a zero byte follows the text.
using TimeText = char[64];
std::string_view format_timestamp(Micros time, TimeText &buffer);

// `YYYY-MM-DD` of a day count since 1970-01-01.
std::string format_date(std::int64_t days);

}  // namespace token_usage
