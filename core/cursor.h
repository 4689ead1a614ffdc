// The cursor of token_usage_detailed: where a page starts, as opaque text that is the same in every
// edition. It is the lower-case hexadecimal form of the UTF-8 text `1|<created_at, Unix
// microseconds>|<id>`; 1 is the version of the format.
#pragma once

#include <string>
#include <string_view>

#include "timestamp.h"

namespace token_usage {

struct Cursor {
  Micros created_at;
  std::string id;
};

std::string encode_cursor(Micros created_at, std::string_view id);

// Throws the argument error for `after` where the text is no cursor.
Cursor decode_cursor(std::string_view text);

}  // namespace token_usage
