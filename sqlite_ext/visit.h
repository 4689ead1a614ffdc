// Rows of a statement, seen from inside of SQLite: an aggregate is called for each, which saves the
// way out and back for every row and a lock for every column of it.
#pragma once

#include <exception>
#include <functional>

#include "sqlite.h"

namespace token_usage {

// The columns of a row.
using RowValues = sqlite3_value *const *;

// A statement for it selects `_token_usage_visit(?11, columns ...)`; or, where it may be left
// before its end, `_token_usage_see(?11, columns ...)`, which is a function and called for each row
// as it comes.
inline constexpr const char *kVisit = "_token_usage_visit";
inline constexpr const char *kSee = "_token_usage_see";

class RowVisitor {
 public:
  explicit RowVisitor(std::function<void(RowValues)> visit) : visit_(std::move(visit)) {}

  // Runs the statement to its end. What the visitor throws comes out here.
  void run(Statement &statement);

  // The same step by step: attach() once, then step() as long as it returns true.
  void attach(Statement &statement);
  bool step(Statement &statement);

 private:
  static void call(sqlite3_context *context, int count, sqlite3_value **values) noexcept;
  friend int register_visit(sqlite3 *db);

  std::function<void(RowValues)> visit_;
  std::exception_ptr error_;  // what may not be thrown through SQLite
};

// The aggregate and the function. Their first argument is a pointer that SQL cannot make, so that
// they do nothing for anyone else.
int register_visit(sqlite3 *db);

}  // namespace token_usage
