#include "arguments.h"

#include <charconv>
#include <chrono>
#include <cmath>
#include <cstring>

#include "../core/calendar.h"

namespace token_usage {

namespace {

bool is_null(sqlite3_value *value) {
  return value == nullptr || sqlite3_value_type(value) == SQLITE_NULL;
}

std::optional<std::int64_t> whole_number(sqlite3_value *value) {
  switch (sqlite3_value_type(value)) {
    case SQLITE_INTEGER:
      return sqlite3_value_int64(value);
    case SQLITE_FLOAT: {
      const double real = sqlite3_value_double(value);
      if (std::trunc(real) == real && real >= -0x1p63 && real < 0x1p63) {
        return static_cast<std::int64_t>(real);
      }
      return std::nullopt;
    }
    case SQLITE_TEXT: {
      std::string_view text = value_text(value);
      while (!text.empty() && text.front() == ' ') {
        text.remove_prefix(1);
      }
      while (!text.empty() && text.back() == ' ') {
        text.remove_suffix(1);
      }
      if (text.starts_with('+') && !text.starts_with("+-")) {
        text.remove_prefix(1);
      }
      std::int64_t out = 0;
      const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), out);
      if (error == std::errc() && stop == text.data() + text.size() && !text.empty()) {
        return out;
      }
      return std::nullopt;
    }
    default:
      return std::nullopt;
  }
}

}  // namespace

std::int64_t integer_argument(std::string_view name, sqlite3_value *value, std::int64_t fallback,
                              std::int64_t low, std::int64_t high) {
  if (value == nullptr) {
    return fallback;
  }
  const std::optional<std::int64_t> number = whole_number(value);
  if (!number || *number < low || *number > high) {
    bad_argument(name, rule_range(low, high), value_shown(value));
  }
  return *number;
}

std::optional<Micros> time_argument(std::string_view name, sqlite3_value *value) {
  if (is_null(value)) {
    return std::nullopt;
  }
  std::optional<Micros> time;
  switch (sqlite3_value_type(value)) {
    case SQLITE_INTEGER:
      time = timestamp_from_integer(sqlite3_value_int64(value));
      break;
    case SQLITE_FLOAT:
      time = timestamp_from_real(sqlite3_value_double(value));
      break;
    case SQLITE_TEXT:
      time = parse_timestamp_argument(value_text(value));
      break;
    default:
      break;
  }
  if (!time) {
    bad_argument(name, rule_time, value_shown(value));
  }
  return time;
}

Micros as_of_argument(sqlite3_value *value) {
  const std::optional<Micros> time = time_argument("as_of", value);
  if (!time) {
    using std::chrono::duration_cast;
    using std::chrono::microseconds;
    return duration_cast<microseconds>(std::chrono::system_clock::now().time_since_epoch()).count();
  }
  static const Micros first = days_from_civil(1000, 1, 1) * kMicrosPerDay;
  if (*time < first) {
    bad_argument("as_of", rule_as_of_years, value_shown(value));
  }
  return *time;
}

std::optional<std::string> text_argument(sqlite3_value *value) {
  if (is_null(value)) {
    return std::nullopt;
  }
  return std::string(value_text(value));
}

std::optional<Cursor> cursor_argument(sqlite3_value *value) {
  const std::optional<std::string> text = text_argument(value);
  return text ? std::optional(decode_cursor(*text)) : std::nullopt;
}

std::string schema_argument(sqlite3_value *value) {
  return is_null(value) ? "main" : std::string(value_text(value));
}

void check_user(sqlite3_value *value) {
  if (is_null(value)) {
    bad_argument("user_id", "given", "NULL");
  }
}

void result_text(sqlite3_context *context, const char *text, std::size_t size) {
  if (std::strlen(text) == size) {
    // So SQLite knows that the text ends in a zero byte, and need not copy it once more when the
    // application asks for it.
    sqlite3_result_text(context, text, -1, SQLITE_TRANSIENT);
  } else {
    sqlite3_result_text64(context, text, size, SQLITE_TRANSIENT, SQLITE_UTF8);
  }
}

void result_json(sqlite3_context *context, const std::string &json) {
  result_text(context, json);
  sqlite3_result_subtype(context, 'J');
}

}  // namespace token_usage
