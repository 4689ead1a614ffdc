#include "cursor.h"

#include <charconv>

#include "arguments.h"

namespace token_usage {

namespace {

int hex_value(char c) {
  if (c >= '0' && c <= '9') {
    return c - '0';
  }
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

}  // namespace

std::string encode_cursor(Micros created_at, std::string_view id) {
  constexpr std::string_view digits = "0123456789abcdef";
  const std::string plain = "1|" + std::to_string(created_at) + "|" + std::string(id);
  std::string out;
  out.reserve(plain.size() * 2);
  for (const char c : plain) {
    const auto byte = static_cast<unsigned char>(c);
    out.push_back(digits[byte >> 4U]);
    out.push_back(digits[byte & 15U]);
  }
  return out;
}

Cursor decode_cursor(std::string_view text) {
  std::string plain;
  bool good = text.size() % 2 == 0;
  for (std::size_t i = 0; good && i < text.size(); i += 2) {
    const int high = hex_value(text[i]);
    const int low = hex_value(text[i + 1]);
    good = high >= 0 && low >= 0;
    plain.push_back(static_cast<char>(high * 16 + low));
  }
  const std::size_t bar = plain.find('|', 2);
  if (good && plain.starts_with("1|") && bar != std::string::npos) {
    Cursor out{0, plain.substr(bar + 1)};
    const char *const begin = plain.data() + 2;
    const char *const end = plain.data() + bar;
    const auto [stop, error] = std::from_chars(begin, end, out.created_at);
    // Only the form that encode_cursor writes, so that a cursor has one spelling.
    if (error == std::errc() && stop == end &&
        std::string_view(begin, static_cast<std::size_t>(end - begin)) ==
            std::to_string(out.created_at)) {
      return out;
    }
  }
  bad_argument("after", rule_cursor, text);
}

}  // namespace token_usage
