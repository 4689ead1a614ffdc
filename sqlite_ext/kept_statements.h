// Prepared statements that are kept for their next use, each under a number that stands for its
// text, so that nobody has to put the text together to find it.
#pragma once

#include <sqlite3ext.h>
SQLITE_EXTENSION_INIT3

#include <unordered_map>

namespace token_usage {

// The texts over a ledger. Some come in variants.
enum class Text : unsigned {
  snapshot,
  setting,
  stored_user,
  user_state,
  user_buckets,
  user_odd_rows,
  next_user,
  worth_rolling,
  marks,
  buckets,
  groups,
  rows,
  plain_rows,
  odd_rows,
  places,
  newest_of_time,
  page_row,
};

// The number of a text.
constexpr unsigned number_of(Text text, unsigned variant = 0) {
  constexpr unsigned most_variants = 64;
  return static_cast<unsigned>(text) * most_variants + variant;
}

// Used by one thread at a time: SQLite sees to that for everything of a connection.
class KeptStatements {
 public:
  KeptStatements() = default;
  KeptStatements(const KeptStatements &) = delete;
  KeptStatements &operator=(const KeptStatements &) = delete;
  ~KeptStatements();

  // Whether take() would give a statement.
  [[nodiscard]] bool has(unsigned number) const noexcept {
    const auto entry = idle_.find(number);
    return entry != idle_.end() && entry->second != nullptr;
  }
  // The statement of that number, or a null pointer; it is the caller's until it comes back.
  sqlite3_stmt *take(unsigned number) noexcept;
  // Keeps the statement, or finalises it where it cannot be kept.
  void give(unsigned number, sqlite3_stmt *statement) noexcept;

 private:
  std::unordered_map<unsigned, sqlite3_stmt *> idle_;  // a null pointer while it is in use
};

}  // namespace token_usage
