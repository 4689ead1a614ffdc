#include "ledger.h"

namespace token_usage {

namespace {

bool contains(const std::string &text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

// The declared type of a column; throws SQLite's own error where the table has no such column.
Affinity column_affinity(sqlite3 *db, const std::string &schema, const char *column) {
  const char *declared = nullptr;
  const int code = sqlite3_table_column_metadata(db, schema.c_str(), "token_usage", column,
                                                 &declared, nullptr, nullptr, nullptr, nullptr);
  if (code != SQLITE_OK) {
    throw_sqlite(db, code);
  }
  return affinity_of(declared == nullptr ? "" : declared);
}

}  // namespace

Affinity affinity_of(std::string_view declared_type) {
  std::string upper(declared_type);
  for (char &c : upper) {
    c = c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
  }
  if (contains(upper, "INT")) {
    return Affinity::integer;
  }
  if (contains(upper, "CHAR") || contains(upper, "CLOB") || contains(upper, "TEXT")) {
    return Affinity::text;
  }
  if (upper.empty() || contains(upper, "BLOB")) {
    return Affinity::blob;
  }
  if (contains(upper, "REAL") || contains(upper, "FLOA") || contains(upper, "DOUB")) {
    return Affinity::real;
  }
  return Affinity::numeric;
}

bool has_table(sqlite3 *db, const std::string &schema, const char *table) {
  const int code = sqlite3_table_column_metadata(db, schema.c_str(), table, nullptr, nullptr,
                                                 nullptr, nullptr, nullptr, nullptr);
  if (code == SQLITE_OK) {
    return true;
  }
  if (code != SQLITE_ERROR) {
    throw_sqlite(db, code);
  }
  return false;
}

void check_schema(sqlite3 *db, const std::string &schema) {
  if (sqlite3_db_readonly(db, schema.c_str()) < 0) {
    bad_argument("schema", "the name of an attached database", schema);
  }
}

Ledger find_ledger(sqlite3 *db, const std::string &schema) {
  check_schema(db, schema);
  if (!has_table(db, schema, "token_usage")) {
    missing_ledger();
  }
  const bool has_rowid =
      sqlite3_table_column_metadata(db, schema.c_str(), "token_usage", "rowid", nullptr, nullptr,
                                    nullptr, nullptr, nullptr) == SQLITE_OK;
  return {db,
          schema,
          quote_identifier(schema) + ".\"token_usage\"",
          column_affinity(db, schema, "user_id"),
          column_affinity(db, schema, "created_at"),
          column_affinity(db, schema, "id"),
          has_rowid};
}

Snapshot::Snapshot(sqlite3 *db, const std::string &schema)
    : statement_(db, "SELECT 1 FROM " + quote_identifier(schema) + ".sqlite_master LIMIT 1") {
  statement_.step();
}

}  // namespace token_usage
