#include "kept_statements.h"

#include <exception>

namespace token_usage {

KeptStatements::~KeptStatements() {
  for (const auto &[number, statement] : idle_) {
    sqlite3_finalize(statement);
  }
}

sqlite3_stmt *KeptStatements::take(unsigned number) noexcept {
  const auto entry = idle_.find(number);
  if (entry == idle_.end()) {
    return nullptr;
  }
  sqlite3_stmt *const statement = entry->second;
  entry->second = nullptr;
  return statement;
}

void KeptStatements::give(unsigned number, sqlite3_stmt *statement) noexcept {
  // Bound values are the caller's data, and may be large.
  if (sqlite3_reset(statement) == SQLITE_OK && sqlite3_clear_bindings(statement) == SQLITE_OK) {
    try {
      sqlite3_stmt *&place = idle_[number];
      if (place == nullptr) {
        place = statement;
        return;
      }
    } catch (const std::exception &) {
      // No room to keep it in.
    }
  }
  sqlite3_finalize(statement);
}

}  // namespace token_usage
