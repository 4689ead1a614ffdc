// From SQLite's values to checked arguments, and from results to SQLite. Clients bind what their
// language has: a JavaScript number arrives as a REAL, a form field as text; both are taken where
// they are whole numbers, as PostgreSQL takes them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "../core/cursor.h"
#include "../core/timestamp.h"
#include "sqlite.h"

namespace token_usage {

// A whole number in [low, high]; nothing given (a null pointer) is `fallback`, an SQL NULL is an
// error.
std::int64_t integer_argument(std::string_view name, sqlite3_value *value, std::int64_t fallback,
                              std::int64_t low, std::int64_t high);

// A time in any stored form or a date alone; NULL or not given is nothing.
std::optional<Micros> time_argument(std::string_view name, sqlite3_value *value);

// The same for as_of, which must lie in the years 1000 to 9999; nothing is now.
Micros as_of_argument(sqlite3_value *value);

// Text; NULL or not given is nothing.
std::optional<std::string> text_argument(sqlite3_value *value);

// A cursor of token_usage_detailed; NULL or not given is nothing.
std::optional<Cursor> cursor_argument(sqlite3_value *value);

// The schema that holds the ledger; NULL or not given is `main`.
std::string schema_argument(sqlite3_value *value);

// Throws where the user is NULL or not given.
void check_user(sqlite3_value *value);

// Text that a zero byte follows.
void result_text(sqlite3_context *context, const char *text, std::size_t size);
inline void result_text(sqlite3_context *context, const std::string &text) {
  result_text(context, text.c_str(), text.size());
}

// Text that SQLite's JSON functions take as JSON.
void result_json(sqlite3_context *context, const std::string &json);

// The flag that says that a function's result carries a subtype; 0 where SQLite's headers do not
// know it.
#ifdef SQLITE_RESULT_SUBTYPE
inline constexpr int kResultSubtype = SQLITE_RESULT_SUBTYPE;
#else
inline constexpr int kResultSubtype = 0;
#endif

}  // namespace token_usage
