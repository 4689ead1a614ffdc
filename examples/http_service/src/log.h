// The log: one line an event, on standard output, each written by one call so that the lines of
// threads do not mix.
#pragma once

#include <string>
#include <string_view>

namespace usage_http {

// `text` with everything that could break a line or look like another field as \xNN.
std::string log_word(std::string_view text);

// The same, but for spaces, which a message may have.
std::string log_text(std::string_view text);

// `2025-10-20T14:30:25.123Z <line>`.
void log_line(std::string_view line);

}  // namespace usage_http
