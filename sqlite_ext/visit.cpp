// The aggregate and the function behind RowVisitor.
#include "visit.h"

namespace token_usage {

namespace {

constexpr int kParameter = 11;

void finish(sqlite3_context *) noexcept {}

}  // namespace

void RowVisitor::call(sqlite3_context *context, int count, sqlite3_value **values) noexcept {
  auto *const visitor =
      static_cast<RowVisitor *>(count == 0 ? nullptr : sqlite3_value_pointer(values[0], kVisit));
  if (visitor == nullptr) {
    return;
  }
  try {
    visitor->visit_(values + 1);
  } catch (...) {
    visitor->error_ = std::current_exception();
    sqlite3_result_error(context, "token_usage: a row could not be read", -1);
  }
}

void RowVisitor::attach(Statement &statement) {
  statement.bind_pointer(kParameter, this, kVisit);
}

bool RowVisitor::step(Statement &statement) {
  try {
    return statement.step();
  } catch (const SqliteError &) {
    if (error_) {
      std::rethrow_exception(error_);
    }
    throw;
  }
}

void RowVisitor::run(Statement &statement) {
  attach(statement);
  while (step(statement)) {
  }
}

int register_visit(sqlite3 *db) {
  constexpr int flags = SQLITE_UTF8 | SQLITE_DIRECTONLY;
  const int code = sqlite3_create_function_v2(db, kVisit, -1, flags, nullptr, nullptr,
                                              RowVisitor::call, finish, nullptr);
  return code != SQLITE_OK
             ? code
             : sqlite3_create_function_v2(db, kSee, -1, flags, nullptr, RowVisitor::call, nullptr,
                                          nullptr, nullptr);
}

}  // namespace token_usage
