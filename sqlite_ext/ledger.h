// Finds the ledger of a schema and what its columns are: an adopted table may declare anything, and
// comparisons go by the affinity of a column, not by the value.
#pragma once

#include <string>
#include <string_view>

#include "sqlite.h"

namespace token_usage {

enum class Affinity { blob, text, numeric, integer, real };

// The affinity of a declared type (SQLite documentation, "Datatypes In SQLite", section 3.1).
Affinity affinity_of(std::string_view declared_type);

struct Ledger {
  sqlite3 *db;
  std::string schema;  // as given
  std::string table;   // "schema"."token_usage", quoted
  Affinity user_id;
  Affinity created_at;
  Affinity id;
  bool has_rowid;
  std::string rowid;  // a name by which statements can say rowid; empty where there is none
};

// True where `schema` has an ordinary table of that name.
bool has_table(sqlite3 *db, const std::string &schema, const char *table);

// Throws the argument error for `schema` where no database of that name is attached.
void check_schema(sqlite3 *db, const std::string &schema);

// The ledger of the schema; throws the contract's error where there is none.
Ledger find_ledger(sqlite3 *db, const std::string &schema);

// True where `id` is another name of the rowid (INTEGER PRIMARY KEY), so that every index has it.
bool id_is_rowid(const Ledger &ledger);

// Keeps one read transaction open for its lifetime, so that the statements of a report see one
// state of the database also where the caller has no transaction open.
class Snapshot {
 public:
  Snapshot(sqlite3 *db, const std::string &schema);

 private:
  Statement statement_;
};

}  // namespace token_usage
