// Bytes as lower-case hexadecimal digits, and back.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace token_usage {

std::string to_hex(std::string_view bytes);

// Nothing where the text is anything else.
std::optional<std::string> from_hex(std::string_view text);

}  // namespace token_usage
