#include "ledger.h"

#include "connection.h"

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

// A name of the rowid that no column of the table takes. Where none does, SQLite describes the
// rowid as an INTEGER key.
std::string rowid_name(sqlite3 *db, const std::string &schema) {
  for (const char *const name : {"rowid", "_rowid_", "oid"}) {
    const char *declared = nullptr;
    int is_key = 0;
    const int code = sqlite3_table_column_metadata(db, schema.c_str(), "token_usage", name,
                                                   &declared, nullptr, nullptr, &is_key, nullptr);
    if ((code & 0xFF) == SQLITE_NOMEM) {
      throw std::bad_alloc();
    }
    if (code == SQLITE_OK && is_key != 0 && declared != nullptr &&
        sqlite3_stricmp(declared, "INTEGER") == 0) {
      return name;
    }
  }
  return {};
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
  // The temporary database is always there, but has no file to ask about before its first table.
  if (sqlite3_db_readonly(db, schema.c_str()) < 0 && sqlite3_stricmp(schema.c_str(), "temp") != 0) {
    bad_argument("schema", "the name of an attached database", schema);
  }
}

Ledger find_ledger(sqlite3 *db, const std::string &schema) {
  check_schema(db, schema);
  if (!has_table(db, schema, "token_usage")) {
    missing_ledger();
  }
  std::string rowid = rowid_name(db, schema);
  return {db,
          schema,
          quote_identifier(schema) + ".\"token_usage\"",
          column_affinity(db, schema, "user_id"),
          column_affinity(db, schema, "created_at"),
          column_affinity(db, schema, "id"),
          !rowid.empty(),
          rowid,
          has_table(db, schema, "token_usage_settings")};
}

bool id_is_rowid(const Ledger &ledger) {
  if (ledger.id_is_rowid) {
    return *ledger.id_is_rowid;
  }
  int is_key = 0;
  const int code = sqlite3_table_column_metadata(ledger.db, ledger.schema.c_str(), "token_usage",
                                                 "id", nullptr, nullptr, nullptr, &is_key, nullptr);
  if (code != SQLITE_OK) {
    throw_sqlite(ledger.db, code);
  }
  bool same = ledger.has_rowid && is_key != 0;
  if (same) {
    // A primary key that is not the rowid has an index of its own.
    Statement index(ledger.db,
                    "PRAGMA " + quote_identifier(ledger.schema) + ".index_list('token_usage')");
    constexpr int origin = 3;
    while (same && index.step()) {
      same = index.text(origin) != "pk";
    }
  }
  ledger.id_is_rowid = same;
  return same;
}

Snapshot::Snapshot(sqlite3 *db, const std::string &schema)
    : db_(db), schema_(schema), ledger_(known_ledger(db, schema)) {
  if (!ledger_) {
    open();
  }
}

const Ledger &Snapshot::ledger() {
  if (!is_open_) {
    open();
  }
  return *ledger_;
}

void Snapshot::open() {
  if (ledger_) {
    try {
      step(ledger_->kept);
      is_open_ = statement_->is_as_kept();
    } catch (const SqliteError &error) {
      // A schema of that name may be gone, which find_ledger says better.
      if (!may_be_another_schema(error)) {
        throw;
      }
    }
    if (is_open_) {
      return;
    }
    statement_.reset();
  }
  check_schema(db_, schema_);
  step(std::make_shared<KeptStatements>());
  Ledger found = find_ledger(db_, schema_);
  found.kept = kept_;
  ledger_ = std::make_shared<const Ledger>(std::move(found));
  remember_ledger(ledger_);
  is_open_ = true;
}

void Snapshot::step(const std::shared_ptr<KeptStatements> &kept) {
  kept_ = kept;
  statement_.emplace(db_, *kept, number_of(Text::snapshot), [this] {
    return "SELECT 1 FROM " + quote_identifier(schema_) + ".sqlite_master LIMIT 1";
  });
  statement_->step();
}

}  // namespace token_usage
