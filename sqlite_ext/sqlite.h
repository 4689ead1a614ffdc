// What the SQLite edition needs of SQLite's C API, with C++'s rules of ownership: statements that
// finalise themselves, errors as exceptions, and one guard at the boundary where SQLite calls us,
// the only place where exceptions end.
#pragma once

#include <sqlite3ext.h>
SQLITE_EXTENSION_INIT3

#include <cstdint>
#include <exception>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

#include "../core/arguments.h"
#include "kept_statements.h"

namespace token_usage {

// An error that SQLite reported, with its own message.
class SqliteError : public std::runtime_error {
 public:
  SqliteError(int result_code, const std::string &message)
      : std::runtime_error(message), code_(result_code) {}
  [[nodiscard]] int code() const { return code_; }

 private:
  int code_;
};

// Throws what `code` stands for: bad_alloc for SQLITE_NOMEM, else SqliteError with the connection's
// message.
[[noreturn]] void throw_sqlite(sqlite3 *db, int code);

// `"name"` with quotes doubled.
std::string quote_identifier(std::string_view name);

struct ValueDeleter {
  void operator()(sqlite3_value *value) const { sqlite3_value_free(value); }
};
using OwnedValue = std::unique_ptr<sqlite3_value, ValueDeleter>;

class Statement {
 public:
  Statement(sqlite3 *db, const std::string &sql);
  // The statement that is kept under that number, or a new one with the text that `text()` gives,
  // to be kept there afterwards.
  template <typename MakeText>
  Statement(sqlite3 *db, KeptStatements &kept, unsigned number, MakeText text)
      : db_(db), kept_(&kept), number_(number), statement_(kept.take(number)) {
    if (statement_ == nullptr) {
      prepare(text(), SQLITE_PREPARE_PERSISTENT);
    }
  }
  ~Statement();
  Statement(const Statement &) = delete;
  Statement &operator=(const Statement &) = delete;

  Statement &bind(int parameter, std::int64_t value);
  Statement &bind(int parameter, double value);
  Statement &bind(int parameter, std::string_view text);
  Statement &bind(int parameter, const sqlite3_value *value);
  Statement &bind_null(int parameter);
  Statement &bind_blob(int parameter, std::string_view bytes);
  // For sqlite3_value_pointer in a function; `type` must live for ever.
  Statement &bind_pointer(int parameter, void *pointer, const char *type);

  // True while there is a row.
  bool step();
  // One step whose failure is of no interest.
  void step_regardless() noexcept { sqlite3_step(statement_); }
  // Ready to be bound and stepped once more.
  void reset();
  // True for a statement that was kept, and which SQLite has not had to prepare once more since it
  // was made, because of another schema.
  [[nodiscard]] bool is_as_kept() const {
    return !prepared_ && sqlite3_stmt_status(statement_, SQLITE_STMTSTATUS_REPREPARE, 0) == 0;
  }

  [[nodiscard]] int type(int column) const { return sqlite3_column_type(statement_, column); }
  [[nodiscard]] bool is_null(int column) const { return type(column) == SQLITE_NULL; }
  [[nodiscard]] std::int64_t int64(int column) const {
    return sqlite3_column_int64(statement_, column);
  }
  [[nodiscard]] double real(int column) const { return sqlite3_column_double(statement_, column); }
  // UTF-8 text (or the bytes of a blob); valid until the next step. Throws bad_alloc where it
  // cannot be had.
  [[nodiscard]] std::string_view text(int column) const;
  [[nodiscard]] std::string_view blob(int column) const;
  // For sqlite3_value_dup and bind; valid until the next step.
  [[nodiscard]] sqlite3_value *value(int column) const {
    return sqlite3_column_value(statement_, column);
  }
  // A copy of the value, type and all.
  [[nodiscard]] OwnedValue copy(int column) const;

 private:
  void prepare(const std::string &sql, unsigned flags);
  void check(int code) const;
  sqlite3 *db_;
  KeptStatements *kept_ = nullptr;  // where the statement is to be kept
  unsigned number_ = 0;
  sqlite3_stmt *statement_ = nullptr;
  bool prepared_ = false;  // by this object, and not taken from where it was kept
};

// Runs statements that give no rows.
void execute(sqlite3 *db, const std::string &sql);

// One transaction around the body: the caller's, through a savepoint, or one of our own, which
// takes the write lock at once so that two of them at the same time wait for each other.
//
// It is left in one piece also when memory runs out. Once an allocation of its own has failed,
// SQLite runs no statement any more until the one that called us is through, so no ROLLBACK
// either; but when a reading statement ends in that state, SQLite rolls back by itself (the
// caller's transaction as a whole). So one is kept open for that. While it is, no table or index
// can be dropped.
template <typename Body>
void atomically(sqlite3 *db, Body body) {
  const bool own = sqlite3_get_autocommit(db) != 0;
  Statement begin(db, own ? "BEGIN IMMEDIATE" : "SAVEPOINT token_usage");
  Statement end(db, own ? "COMMIT" : "RELEASE token_usage");
  Statement undo(db, own ? "ROLLBACK" : "ROLLBACK TO token_usage");
  std::optional<Statement> reader(std::in_place, db, "SELECT count(*) FROM sqlite_master");
  begin.step();
  try {
    reader->step();
    body();
    end.step();
  } catch (...) {
    // Where SQLite has rolled back by itself, there is nothing left to undo, and this fails. Where
    // it fails for want of memory, the end of the reader makes good for it.
    undo.step_regardless();
    if (!own) {
      end.step_regardless();
    }
    reader.reset();
    throw;
  }
}

// The UTF-8 text of a value; nothing for NULL. A zero byte follows it, unless it is empty.
std::optional<std::string_view> optional_text(sqlite3_value *value);

// The same; empty for NULL.
std::string_view value_text(sqlite3_value *value);

// A value as an error message shows it: NULL as `NULL`, a REAL in its shortest form.
std::string value_shown(sqlite3_value *value);

// The code to return with an error message left in `target`: SQLITE_NOMEM where it found no room.
int set_message(char **target, const char *message, int code);

// Calls `body`, which may throw, for a function that SQLite called; what it throws becomes the
// function's error.
template <typename Body>
void guard(sqlite3_context *context, Body body) noexcept {
  try {
    body();
  } catch (const std::bad_alloc &) {
    sqlite3_result_error_nomem(context);
  } catch (const SqliteError &error) {
    sqlite3_result_error(context, error.what(), -1);
    sqlite3_result_error_code(context, error.code());
  } catch (const std::exception &error) {
    sqlite3_result_error(context, error.what(), -1);
  } catch (...) {
    sqlite3_result_error(context, "token_usage: unknown error", -1);
  }
}

// The same for a method of a virtual table, which returns a result code and leaves its message in
// the table.
template <typename Body>
int guard(sqlite3_vtab *table, Body body) noexcept {
  try {
    return body();
  } catch (const std::bad_alloc &) {
    return SQLITE_NOMEM;
  } catch (const SqliteError &error) {
    return set_message(&table->zErrMsg, error.what(), error.code());
  } catch (const std::exception &error) {
    return set_message(&table->zErrMsg, error.what(), SQLITE_ERROR);
  } catch (...) {
    return SQLITE_INTERNAL;
  }
}

}  // namespace token_usage
