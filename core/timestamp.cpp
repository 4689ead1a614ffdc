#include "timestamp.h"

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "float_text.h"

namespace token_usage {

namespace {

class Scanner {
 public:
  explicit Scanner(std::string_view text) : text_(text) {}

  [[nodiscard]] bool done() const { return text_.empty(); }

  bool take(char c) {
    if (text_.empty() || text_.front() != c) {
      return false;
    }
    text_.remove_prefix(1);
    return true;
  }

  // Two digits.
  bool pair(unsigned &value) {
    if (text_.size() < 2 || !digit(text_[0]) || !digit(text_[1])) {
      return false;
    }
    value = static_cast<unsigned>(text_[0] - '0') * 10 + static_cast<unsigned>(text_[1] - '0');
    text_.remove_prefix(2);
    return true;
  }

  // One or more digits of a fraction of a second, as microseconds; those behind the sixth are cut
  // off.
  bool fraction(unsigned &micros) {
    micros = 0;
    std::size_t digits = 0;
    while (!text_.empty() && digit(text_.front())) {
      if (digits < 6) {
        micros = micros * 10 + static_cast<unsigned>(text_.front() - '0');
      }
      ++digits;
      text_.remove_prefix(1);
    }
    for (std::size_t i = digits; i < 6; ++i) {
      micros *= 10;
    }
    return digits > 0;
  }

 private:
  static bool digit(char c) { return c >= '0' && c <= '9'; }
  std::string_view text_;
};

// Eight characters are looked at together, as every row that a report reads comes by here.

// The first character lowest.
std::uint64_t eight_chars(const char *text) {
  std::uint64_t out = 0;
  std::memcpy(&out, text, sizeof out);
  return std::endian::native == std::endian::big ? __builtin_bswap64(out) : out;
}

// `0` stands for any digit, another character for itself.
struct Pattern {
  constexpr explicit Pattern(const char *text) {
    for (unsigned at = 0; at < 8; ++at) {
      wanted |= std::uint64_t{static_cast<unsigned char>(text[at])} << at * 8;
      spare |= std::uint64_t{text[at] == '0' ? 0x7FU - 9 : 0x7FU} << at * 8;
    }
  }
  std::uint64_t wanted = 0;
  std::uint64_t spare = 0;  // what may be added to the difference without reaching the highest bit
};
constexpr Pattern kYearMonth("0000-00-");
constexpr Pattern kSpaced("00 00:00");
constexpr Pattern kMarked("00T00:00");

class Digits {
 public:
  Digits(const char *text, const Pattern &pattern)
      : difference_(eight_chars(text) ^ pattern.wanted),
        fit_((((difference_ + pattern.spare) | difference_) & 0x8080808080808080) == 0) {}
  [[nodiscard]] bool fit() const { return fit_; }
  // The number that the digits at this place and the next one make.
  [[nodiscard]] unsigned pair(unsigned place) const {
    return static_cast<unsigned char>((difference_ * 10 + (difference_ >> 8)) >> place * 8);
  }

 private:
  std::uint64_t difference_;
  bool fit_;
};

unsigned days_in_month(unsigned year, unsigned month) {
  constexpr unsigned days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
  const bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
  return month == 2 && leap ? 29 : days[month - 1];
}

bool in_range(Micros time) {
  return time >= kFirstInstant && time < kPastLastInstant;
}

std::optional<Micros> parse(std::string_view text, bool date_alone) {
  // Date and minute stand at fixed places.
  constexpr std::size_t date_size = std::string_view("YYYY-MM-DD").size();
  constexpr std::size_t minute_size = std::string_view("YYYY-MM-DD HH:MM").size();
  std::array<char, minute_size> at_midnight = {'Y', 'Y', 'Y', 'Y', '-', 'M', 'M', '-',
                                               'D', 'D', ' ', '0', '0', ':', '0', '0'};
  if (text.size() == date_size && date_alone) {
    std::copy(text.begin(), text.end(), at_midnight.begin());
    text = {at_midnight.data(), at_midnight.size()};
  }
  if (text.size() < minute_size) {
    return std::nullopt;
  }
  const Digits date(text.data(), kYearMonth);
  const Digits time_of_day(text.data() + 8, text[date_size] == 'T' ? kMarked : kSpaced);
  if (!date.fit() || !time_of_day.fit()) {
    return std::nullopt;
  }
  const unsigned year = date.pair(0) * 100 + date.pair(2);
  const unsigned month = date.pair(5);
  const unsigned day = time_of_day.pair(0);
  const unsigned hour = time_of_day.pair(3);
  const unsigned minute = time_of_day.pair(6);
  if (year < 1 || month < 1 || month > 12 || day < 1 ||
      (day > 28 && day > days_in_month(year, month)) || hour > 23 || minute > 59) {
    return std::nullopt;
  }
  Scanner in(text.substr(minute_size));
  unsigned second = 0;
  unsigned micros = 0;
  if (in.take(':')) {
    if (!in.pair(second) || second > 59 || (in.take('.') && !in.fraction(micros))) {
      return std::nullopt;
    }
  }
  Micros offset = 0;
  if (!in.done()) {
    in.take(' ');
    if (!in.take('Z')) {
      const bool west = in.take('-');
      unsigned offset_hour = 0;
      unsigned offset_minute = 0;
      if ((!west && !in.take('+')) || !in.pair(offset_hour) || !in.take(':') ||
          !in.pair(offset_minute) || offset_hour > 23 || offset_minute > 59) {
        return std::nullopt;
      }
      offset = (offset_hour * 3600 + offset_minute * 60) * kMicrosPerSecond;
      offset = west ? -offset : offset;
    }
    if (!in.done()) {
      return std::nullopt;
    }
  }
  const Micros time = days_from_civil(year, month, day) * kMicrosPerDay +
                      (hour * 3600 + minute * 60 + second) * kMicrosPerSecond + micros - offset;
  return in_range(time) ? std::optional<Micros>(time) : std::nullopt;
}

// Writes `value` with leading zeros, and returns where it ends. Pages of rows are formatted, so
// this does without snprintf.
char *put_digits(char *out, unsigned value, std::size_t width) {
  for (std::size_t at = width; at > 0; value /= 10) {
    out[--at] = static_cast<char>('0' + value % 10);
  }
  return out + width;
}

char *put_mark(char *out, char mark) {
  *out = mark;
  return out + 1;
}

char *put_date(char *out, std::int64_t days) {
  const CivilDate date = civil_from_days(days);
  if (date.year < 0 || date.year > 9999) {
    return out + std::snprintf(out, sizeof(TimeText) / 2, "%04lld-%02u-%02u",
                               static_cast<long long>(date.year), date.month, date.day);
  }
  out = put_digits(out, static_cast<unsigned>(date.year), 4);
  out = put_digits(put_mark(out, '-'), date.month, 2);
  return put_digits(put_mark(out, '-'), date.day, 2);
}

}  // namespace

// Both directions count from 0000-03-01, so that the leap day is the last of its year and months
// follow a linear rule (153 days in five months from March on).
std::int64_t days_from_civil(std::int64_t year, unsigned month, unsigned day) {
  const std::int64_t y = month <= 2 ? year - 1 : year;
  const std::int64_t era = (y >= 0 ? y : y - 399) / 400;
  const std::int64_t year_of_era = y - era * 400;
  const std::int64_t shifted_month = month > 2 ? month - 3 : month + 9;
  const std::int64_t day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
  const std::int64_t day_of_era =
      year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
  return era * 146'097 + day_of_era - 719'468;
}

CivilDate civil_from_days(std::int64_t days) {
  const std::int64_t z = days + 719'468;
  const std::int64_t era = (z >= 0 ? z : z - 146'096) / 146'097;
  const std::int64_t day_of_era = z - era * 146'097;
  const std::int64_t year_of_era =
      (day_of_era - day_of_era / 1'460 + day_of_era / 36'524 - day_of_era / 146'096) / 365;
  const std::int64_t day_of_year =
      day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
  const std::int64_t shifted_month = (5 * day_of_year + 2) / 153;
  const auto day = static_cast<unsigned>(day_of_year - (153 * shifted_month + 2) / 5 + 1);
  const auto month =
      static_cast<unsigned>(shifted_month < 10 ? shifted_month + 3 : shifted_month - 9);
  return {year_of_era + era * 400 + (month <= 2 ? 1 : 0), month, day};
}

std::optional<Micros> parse_timestamp(std::string_view text) {
  return parse(text, false);
}

std::optional<Micros> parse_timestamp_argument(std::string_view text) {
  return parse(text, true);
}

std::optional<Micros> timestamp_from_integer(std::int64_t value) {
  Micros time = 0;
  const Micros scale = value >= 100'000'000'000 ? 1'000 : kMicrosPerSecond;
  if (__builtin_mul_overflow(value, scale, &time) || !in_range(time)) {
    return std::nullopt;
  }
  return time;
}

std::optional<Micros> timestamp_from_real(double value) {
  if (!(value >= -1e12 && value <= 1e12)) {
    return std::nullopt;
  }
  // The decimal that a person wrote, not the binary value just below it: 1760970625.000001 is not
  // ...000000.99. `d.ddde-XX` holds all its digits, so cutting them cuts the decimal.
  FloatText buffer;
  std::string_view text = shortest_float(value, buffer);
  const char *const end = text.data() + text.size();
  const bool negative = text.front() == '-';
  text.remove_prefix(negative ? 1 : 0);
  const std::size_t mark = text.find('e');
  const char *exponent_text = text.data() + mark + 1;
  exponent_text += *exponent_text == '+' ? 1 : 0;
  int exponent = 0;
  std::from_chars(exponent_text, end, exponent);
  // The first exponent + 1 digits are whole seconds, six more are microseconds.
  int kept = exponent + 7;
  Micros micros = 0;
  bool rest = false;
  for (const char c : text.substr(0, mark)) {
    if (c == '.') {
      continue;
    }
    if (kept > 0) {
      micros = micros * 10 + (c - '0');
      --kept;
    } else {
      rest = rest || c != '0';
    }
  }
  for (; kept > 0; --kept) {
    micros *= 10;
  }
  const Micros time = negative ? -micros - (rest ? 1 : 0) : micros;
  return in_range(time) ? std::optional<Micros>(time) : std::nullopt;
}

std::string format_date(std::int64_t days) {
  TimeText text;
  return {text, put_date(text, days)};
}

std::string format_timestamp(Micros time) {
  TimeText buffer;
  return std::string(format_timestamp(time, buffer));
}

std::string_view format_timestamp(Micros time, TimeText &buffer) {
  std::int64_t days = time / kMicrosPerDay;
  Micros rest = time % kMicrosPerDay;
  if (rest < 0) {
    rest += kMicrosPerDay;
    --days;
  }
  const auto seconds = static_cast<unsigned>(rest / kMicrosPerSecond);
  const auto micros = static_cast<unsigned>(rest % kMicrosPerSecond);
  char *end = put_date(buffer, days);
  end = put_digits(put_mark(end, 'T'), seconds / 3600, 2);
  end = put_digits(put_mark(end, ':'), seconds / 60 % 60, 2);
  end = put_digits(put_mark(end, ':'), seconds % 60, 2);
  if (micros != 0) {
    end = put_digits(put_mark(end, '.'), micros, 6);
  }
  end = put_mark(end, 'Z');
  *end = '\0';
  return {buffer, static_cast<std::size_t>(end - buffer)};
}

}  // namespace token_usage
