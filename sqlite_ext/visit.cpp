// The aggregate behind RowVisitor.
#include "visit.h"

namespace token_usage {

namespace {

constexpr int kParameter = 11;

void finish(sqlite3_context *) noexcept {}

}  // namespace

void RowVisitor::step(sqlite3_context *context, int count, sqlite3_value **values) noexcept {
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

void RowVisitor::run(Statement &statement) {
  statement.bind_pointer(kParameter, this, kVisit);
  try {
    while (statement.step()) {
    }
  } catch (const SqliteError &) {
    if (error_) {
      std::rethrow_exception(error_);
    }
    throw;
  }
}

int register_visit(sqlite3 *db) {
  return sqlite3_create_function_v2(db, kVisit, -1, SQLITE_UTF8 | SQLITE_DIRECTONLY, nullptr,
                                    nullptr, RowVisitor::step, finish, nullptr);
}

}  // namespace token_usage
