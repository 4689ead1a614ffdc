// Finds the ledger of a schema and what its columns are: an adopted table may declare anything, and
// comparisons go by the affinity of a column, not by the value.
#pragma once

#include <memory>
#include <optional>
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
  bool has_settings;  // whether token_usage_settings stands beside it

  // What takes longer to find out, by whoever asks first.
  mutable std::optional<bool> id_is_rowid = std::nullopt;
  mutable std::optional<bool> rollups_usable = std::nullopt;

  std::shared_ptr<KeptStatements> kept = std::make_shared<KeptStatements>();

  // A statement that is kept with the ledger; `text()` gives its text where it has to be prepared.
  template <typename MakeText>
  [[nodiscard]] Statement statement(unsigned number, MakeText text) const {
    return {db, *kept, number, text};
  }
};

// True where `schema` has an ordinary table of that name.
bool has_table(sqlite3 *db, const std::string &schema, const char *table);

// Throws the argument error for `schema` where no database of that name is attached.
void check_schema(sqlite3 *db, const std::string &schema);

// The ledger of the schema as it is now; throws the contract's error where there is none.
Ledger find_ledger(sqlite3 *db, const std::string &schema);

// True where `id` is another name of the rowid (INTEGER PRIMARY KEY), so that every index has it.
bool id_is_rowid(const Ledger &ledger);

// Keeps one read transaction open for its lifetime, so that the statements of a report see one
// state of the database also where the caller has no transaction open, and has the ledger in that
// state. What is known of a ledger changes with the schema only. Whether that did, SQLite itself
// checks whenever a statement starts, whoever changed it and in whatever transaction, and prepares
// the statement anew: so as long as the one that opens the transaction is still the one under which
// all was found, and that has not befallen it, all holds.
class Snapshot {
 public:
  // Throws the errors of check_schema and find_ledger.
  Snapshot(sqlite3 *db, const std::string &schema);
  [[nodiscard]] const Ledger &ledger() const { return *ledger_; }

 private:
  void open(const std::shared_ptr<KeptStatements> &kept, sqlite3 *db, const std::string &schema);

  std::shared_ptr<const Ledger> ledger_;
  std::shared_ptr<KeptStatements> kept_;
  std::optional<Statement> statement_;
};

}  // namespace token_usage
