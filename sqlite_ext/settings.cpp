#include "settings.h"

#include "../core/calendar.h"
#include "arguments.h"

namespace token_usage {

namespace {

constexpr std::string_view kDefaultZone = "UTC";

void check_name(sqlite3_value *name) {
  if (sqlite3_value_type(name) == SQLITE_NULL || value_text(name) != "time_zone") {
    bad_argument("name", "one of time_zone", value_shown(name));
  }
}

std::string settings_table(const std::string &schema) {
  return quote_identifier(schema) + ".\"token_usage_settings\"";
}

std::string select_value(const std::string &schema) {
  return "SELECT (SELECT value FROM " + settings_table(schema) + " WHERE name = ?1)";
}

// Runs select_value.
std::string value_in(Statement &row, std::string_view name) {
  row.bind(1, name).step();
  return std::string(row.is_null(0) ? kDefaultZone : row.text(0));
}

std::string current_value(sqlite3 *db, const std::string &schema, std::string_view name) {
  if (!has_table(db, schema, "token_usage_settings")) {
    return std::string(kDefaultZone);
  }
  Statement row(db, select_value(schema));
  return value_in(row, name);
}

void setting(sqlite3_context *context, int count, sqlite3_value **values) {
  guard(context, [&] {
    sqlite3 *const db = sqlite3_context_db_handle(context);
    check_name(values[0]);
    const std::string schema = schema_argument(count > 1 ? values[1] : nullptr);
    check_schema(db, schema);
    if (!has_table(db, schema, "token_usage")) {
      missing_ledger();
    }
    result_text(context, current_value(db, schema, value_text(values[0])));
  });
}

void set(sqlite3_context *context, int count, sqlite3_value **values) {
  guard(context, [&] {
    sqlite3 *const db = sqlite3_context_db_handle(context);
    check_name(values[0]);
    const std::string schema = schema_argument(count > 2 ? values[2] : nullptr);
    check_schema(db, schema);
    const bool reset = sqlite3_value_type(values[1]) == SQLITE_NULL;
    if (!reset) {
      TimeZone::load(value_text(values[1]), "value");
    }
    if (!has_table(db, schema, "token_usage")) {
      missing_ledger();
    }
    if (!has_table(db, schema, "token_usage_settings")) {
      throw Error(ErrorKind::missing_ledger,
                  "token_usage: no token_usage_settings table; run SELECT token_usage_migrate()");
    }
    if (reset) {
      Statement(db, "DELETE FROM " + settings_table(schema) + " WHERE name = ?1")
          .bind(1, value_text(values[0]))
          .step();
    } else {
      Statement(db, "INSERT INTO " + settings_table(schema) +
                        " (name, value) VALUES (?1, ?2)"
                        " ON CONFLICT (name) DO UPDATE SET value = excluded.value")
          .bind(1, value_text(values[0]))
          .bind(2, value_text(values[1]))
          .step();
    }
    result_text(context, current_value(db, schema, value_text(values[0])));
  });
}

}  // namespace

std::string read_setting(Snapshot &snapshot, std::string_view name) {
  std::string value;
  const unsigned number = number_of(Text::setting);
  const auto read = [&](Statement &row) { value = value_in(row, name); };
  const Ledger *const remembered = snapshot.remembered();
  if (remembered != nullptr && remembered->has_settings && snapshot.begin_with(number, read)) {
    return value;
  }
  const Ledger &ledger = snapshot.ledger();
  if (!ledger.has_settings) {
    return std::string(kDefaultZone);
  }
  Statement row = ledger.statement(number, [&ledger] { return select_value(ledger.schema); });
  read(row);
  return value;
}

int register_settings(sqlite3 *db) {
  int code = SQLITE_OK;
  for (int arguments = 1; code == SQLITE_OK && arguments <= 2; ++arguments) {
    code = sqlite3_create_function_v2(db, "token_usage_setting", arguments, SQLITE_UTF8, nullptr,
                                      setting, nullptr, nullptr, nullptr);
  }
  for (int arguments = 2; code == SQLITE_OK && arguments <= 3; ++arguments) {
    code = sqlite3_create_function_v2(db, "token_usage_set", arguments,
                                      SQLITE_UTF8 | SQLITE_DIRECTONLY, nullptr, set, nullptr,
                                      nullptr, nullptr);
  }
  return code;
}

}  // namespace token_usage
