#include "float_text.h"

#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <version>

namespace token_usage {

#ifdef __cpp_lib_to_chars

std::string_view float_digits(double value, int significant, FloatText &buffer) {
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value,
                                 std::chars_format::scientific, significant - 1)
                       .ptr;
  return {buffer, static_cast<std::size_t>(end - buffer)};
}

std::string_view shortest_float(double value, FloatText &buffer) {
  const auto end =
      std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific).ptr;
  return {buffer, static_cast<std::size_t>(end - buffer)};
}

#else

namespace {

// printf's digits in the locale that the host has set.
std::string_view print(double value, int significant, FloatText &buffer) {
  const int size = std::snprintf(buffer, sizeof buffer, "%.*e", significant - 1, value);
  return {buffer, static_cast<std::size_t>(size)};
}

// The locale's decimal point, which may be several bytes, becomes a point.
std::string_view with_point(std::string_view text, FloatText &buffer) {
  std::size_t to = 0;
  for (std::size_t from = 0; from < text.size(); ++from) {
    const char c = text[from];
    if ((c >= '0' && c <= '9') || c == 'e' || c == '+' || c == '-') {
      buffer[to++] = c;
    } else if (to > 0 && buffer[to - 1] != '.') {
      buffer[to++] = '.';
    }
  }
  return {buffer, to};
}

}  // namespace

std::string_view float_digits(double value, int significant, FloatText &buffer) {
  return with_point(print(value, significant, buffer), buffer);
}

std::string_view shortest_float(double value, FloatText &buffer) {
  for (int significant = 1; significant < 17; ++significant) {
    const std::string_view text = print(value, significant, buffer);
    if (std::strtod(buffer, nullptr) == value) {
      return with_point(text, buffer);
    }
  }
  return float_digits(value, 17, buffer);
}

#endif

std::string plain_float(double value) {
  if (!std::isfinite(value)) {
    return std::isnan(value) ? "nan" : value < 0 ? "-inf" : "inf";
  }
  FloatText buffer;
  std::string_view text = shortest_float(value, buffer);
  std::string out;
  if (text.front() == '-') {
    out = "-";
    text.remove_prefix(1);
  }
  const std::size_t mark = text.find('e');
  std::string digits(1, text.front());
  if (mark > 2) {
    digits.append(text.substr(2, mark - 2));
  }
  const std::size_t sign = text[mark + 1] == '+' ? 1 : 0;  // from_chars takes none
  int exponent = 0;
  std::from_chars(text.data() + mark + 1 + sign, text.data() + text.size(), exponent);
  // The digits with their point where the exponent puts it.
  const auto size = static_cast<int>(digits.size());
  std::string fixed;
  if (exponent < 0) {
    fixed.append("0.").append(static_cast<std::size_t>(-exponent) - 1, '0').append(digits);
  } else if (exponent >= size - 1) {
    fixed.append(digits).append(static_cast<std::size_t>(exponent - size + 1), '0');
  } else {
    const auto point = static_cast<std::size_t>(exponent) + 1;
    fixed.append(digits, 0, point).append(1, '.').append(digits, point);
  }
  return out.append(fixed.size() <= text.size() ? std::string_view(fixed) : text);
}

}  // namespace token_usage
