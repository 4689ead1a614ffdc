#include "cursor.h"

#include <charconv>

#include "arguments.h"
#include "hex.h"

namespace token_usage {

std::string encode_cursor(Micros created_at, std::string_view id) {
  return to_hex("1|" + std::to_string(created_at) + "|" + std::string(id));
}

Cursor decode_cursor(std::string_view text) {
  const std::string plain = from_hex(text).value_or("");
  const std::size_t bar = plain.find('|', 2);
  if (plain.starts_with("1|") && bar != std::string::npos) {
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
