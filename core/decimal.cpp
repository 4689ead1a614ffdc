#include "decimal.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "arguments.h"
#include "float_text.h"

namespace token_usage {

namespace {

constexpr int128 kMax = static_cast<int128>(~static_cast<uint128>(0) >> 1);

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

// Digits as a decimal point would be placed behind the first `point` of them. The two may be far
// apart
// (`1e300`, `0.000...1`), so nothing is multiplied out before it is known to fit.
std::optional<int128> scale_to_units(std::string_view digits, std::int64_t point) {
  const std::int64_t kept = point + Decimal::places;
  uint128 value = 0;
  const auto push = [&value](unsigned digit) {
    uint128 next = 0;
    if (__builtin_mul_overflow(value, static_cast<uint128>(10), &next) ||
        __builtin_add_overflow(next, static_cast<uint128>(digit), &next) ||
        next > static_cast<uint128>(kMax)) {
      return false;
    }
    value = next;
    return true;
  };
  const auto size = static_cast<std::int64_t>(digits.size());
  for (std::int64_t i = 0; i < kept; ++i) {
    if (i >= size && value == 0) {
      break;  // zero, whatever the exponent
    }
    if (!push(i < size ? static_cast<unsigned>(digits[static_cast<std::size_t>(i)] - '0') : 0U)) {
      return std::nullopt;
    }
  }
  if (kept >= 0 && kept < size) {
    const char next = digits[static_cast<std::size_t>(kept)];
    const bool more =
        digits.find_first_not_of('0', static_cast<std::size_t>(kept) + 1) != std::string_view::npos;
    const bool odd = (value & 1U) != 0;
    if (next > '5' || (next == '5' && (more || odd))) {
      if (value == static_cast<uint128>(kMax)) {
        return std::nullopt;
      }
      ++value;
    }
  }
  return static_cast<int128>(value);
}

// A decimal of at most 15 digits and a few places is by far the usual cost. If m / scale is the
// double itself, then the decimal m / scale has at most 15 digits and this double is the nearest to
// it, so its 15-digit value is that decimal: no digits need to be printed to find it.
bool short_decimal(double value, double scale, std::int64_t units_per_step, int128 &units) {
  const double steps = std::nearbyint(value * scale);
  if (std::fabs(steps) >= 1e15 || steps / scale != value) {
    return false;
  }
  units = static_cast<int128>(static_cast<std::int64_t>(steps)) * units_per_step;
  return true;
}

}  // namespace

std::optional<Decimal> Decimal::from_text(std::string_view text) {
  const auto space = [](char c) { return c == ' ' || (c >= '\t' && c <= '\r'); };
  while (!text.empty() && space(text.front())) {
    text.remove_prefix(1);
  }
  while (!text.empty() && space(text.back())) {
    text.remove_suffix(1);
  }
  bool negative = false;
  if (!text.empty() && (text.front() == '+' || text.front() == '-')) {
    negative = text.front() == '-';
    text.remove_prefix(1);
  }
  std::string digits;
  std::int64_t point = 0;
  std::size_t at = 0;
  for (; at < text.size() && is_digit(text[at]); ++at) {
    digits.push_back(text[at]);
  }
  point = static_cast<std::int64_t>(digits.size());
  if (at < text.size() && text[at] == '.') {
    for (++at; at < text.size() && is_digit(text[at]); ++at) {
      digits.push_back(text[at]);
    }
  }
  if (digits.empty()) {
    return std::nullopt;
  }
  if (at < text.size() && (text[at] == 'e' || text[at] == 'E')) {
    ++at;
    bool negative_exponent = false;
    if (at < text.size() && (text[at] == '+' || text[at] == '-')) {
      negative_exponent = text[at] == '-';
      ++at;
    }
    if (at == text.size()) {
      return std::nullopt;
    }
    // An exponent past this bound means zero or out of range whatever the digits are.
    constexpr std::int64_t bound = 1'000'000'000;
    std::int64_t exponent = 0;
    for (; at < text.size() && is_digit(text[at]); ++at) {
      exponent = std::min(bound, exponent * 10 + (text[at] - '0'));
    }
    point += negative_exponent ? -exponent : exponent;
  }
  if (at != text.size()) {
    return std::nullopt;
  }
  const std::size_t zeros = std::min(digits.find_first_not_of('0'), digits.size());
  digits.erase(0, zeros);
  point -= static_cast<std::int64_t>(zeros);
  const std::optional<int128> units = scale_to_units(digits, point);
  if (!units) {
    return std::nullopt;
  }
  return from_units(negative ? -*units : *units);
}

std::optional<Decimal> Decimal::from_double(double value) {
  if (!std::isfinite(value)) {
    return std::nullopt;
  }
  int128 units = 0;
  if (short_decimal(value, 1e6, 1'000'000, units) || short_decimal(value, 1e9, 1'000, units)) {
    return from_units(units);
  }
  FloatText buffer;
  return from_text(float_digits(value, 15, buffer));
}

std::string Decimal::to_string() const {
  const bool negative = units_ < 0;
  uint128 rest = negative ? -static_cast<uint128>(units_) : static_cast<uint128>(units_);
  char buffer[48];
  char *const end = buffer + sizeof buffer;
  char *at = end;
  bool fraction = false;
  for (int place = 0; place < places; ++place, rest /= 10) {
    const auto digit = static_cast<char>(rest % 10);
    if (digit != 0 || fraction) {
      fraction = true;
      *--at = static_cast<char>('0' + digit);
    }
  }
  if (fraction) {
    *--at = '.';
  }
  do {
    *--at = static_cast<char>('0' + static_cast<char>(rest % 10));
    rest /= 10;
  } while (rest != 0);
  if (negative) {
    *--at = '-';
  }
  return {at, static_cast<std::size_t>(end - at)};
}

double Decimal::to_double() const {
  // Both operands are exact doubles, so the quotient is rounded once.
  constexpr std::int64_t exact = std::int64_t{1} << std::numeric_limits<double>::digits;
  if (units_ <= exact && units_ >= -exact) {
    return static_cast<double>(static_cast<std::int64_t>(units_)) / 1e12;
  }
  // 10^12 is 5^12 * 2^12. The quotient by 5^12 has at least 56 bits here, more than the 53 that are
  // kept, so whether it left a remainder only matters as a last bit, and the conversion rounds
  // once.
  constexpr uint128 divisor = 244'140'625;
  const bool negative = units_ < 0;
  uint128 rest = negative ? -static_cast<uint128>(units_) : static_cast<uint128>(units_);
  int shift = 0;
  while (rest >> 126U == 0) {
    rest <<= 1U;
    ++shift;
  }
  const uint128 quotient = rest / divisor | (rest % divisor != 0 ? 1U : 0U);
  const double out = std::ldexp(static_cast<double>(quotient), -places - shift);
  return negative ? -out : out;
}

std::int64_t rounded_mean(Decimal sum, std::int64_t count) {
  const bool negative = sum.units() < 0;
  const uint128 magnitude =
      negative ? -static_cast<uint128>(sum.units()) : static_cast<uint128>(sum.units());
  const uint128 divisor = static_cast<uint128>(count) * 1'000'000'000'000U;
  uint128 mean = magnitude / divisor;
  const uint128 rest = magnitude % divisor;
  if (rest >= divisor - rest) {
    ++mean;
  }
  if (mean > static_cast<uint128>(std::numeric_limits<std::int64_t>::max())) {
    sum_overflow("execution_time_ms");
  }
  return negative ? -static_cast<std::int64_t>(mean) : static_cast<std::int64_t>(mean);
}

}  // namespace token_usage
