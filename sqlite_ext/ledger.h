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
// the statement anew: so as long as the one that opens the transaction is still one that was kept
// with the ledger, and that has not befallen it, all holds.
class Snapshot {
 public:
  // Throws the errors of check_schema and find_ledger, unless a ledger is remembered.
  Snapshot(sqlite3 *db, const std::string &schema);

  // The ledger; opens the transaction if nothing has, and throws the same errors.
  const Ledger &ledger();

  // Where nothing has opened the transaction yet, the ledger as it is remembered, for begin_with.
  [[nodiscard]] const Ledger *remembered() const { return is_open_ ? nullptr : ledger_.get(); }
  [[nodiscard]] bool is_open() const { return is_open_; }

  // Lets the first statement that a report needs open the transaction, which saves one that does
  // nothing else. `run(statement)` binds the remembered ledger's statement of that number and steps
  // it to its one row. False where it is not kept, or what is remembered holds no more: then
  // nothing is open, and what `run` has read is void.
  template <typename Run>
  bool begin_with(unsigned number, Run run) {
    if (!ledger_->kept->has(number)) {
      return false;
    }
    statement_.emplace(ledger_->db, *ledger_->kept, number, [] { return std::string(); });
    try {
      run(*statement_);
      is_open_ = statement_->is_as_kept();
    } catch (const SqliteError &error) {
      // What the statement reads may be gone.
      if (!may_be_another_schema(error)) {
        throw;
      }
    } catch (const std::bad_alloc &) {
      throw;
    } catch (const std::exception &) {
      // Of a row that cannot be added up, if it is one of this ledger.
      if (statement_->is_as_kept()) {
        throw;
      }
    }
    if (!is_open_) {
      statement_.reset();
    }
    return is_open_;
  }

 private:
  static bool may_be_another_schema(const SqliteError &error) {
    return (error.code() & 0xFF) == SQLITE_ERROR;
  }
  void open();
  void step(const std::shared_ptr<KeptStatements> &kept);

  sqlite3 *db_;
  std::string schema_;
  bool is_open_ = false;
  std::shared_ptr<const Ledger> ledger_;
  std::shared_ptr<KeptStatements> kept_;
  std::optional<Statement> statement_;  // holds the transaction
};

}  // namespace token_usage
