#include "statement_cache.h"

#include <map>
#include <mutex>

namespace token_usage {

namespace {

struct Kept {
  int tables = 0;
  std::map<std::string, sqlite3_stmt *> idle;
  std::int64_t schema_version = 0;
  std::optional<bool> usable;
};

// The texts differ by schema and kind of report; there are some dozens in all.
constexpr std::size_t kMost = 100;

std::mutex mutex;
std::map<sqlite3 *, Kept> connections;

}  // namespace

void keep_statements(sqlite3 *db) {
  const std::lock_guard lock(mutex);
  ++connections[db].tables;
}

void drop_statements(sqlite3 *db) noexcept {
  std::map<std::string, sqlite3_stmt *> idle;
  {
    const std::lock_guard lock(mutex);
    const auto entry = connections.find(db);
    if (entry == connections.end() || --entry->second.tables > 0) {
      return;
    }
    idle.swap(entry->second.idle);
    connections.erase(entry);
  }
  for (const auto &[sql, statement] : idle) {
    sqlite3_finalize(statement);
  }
}

void connect_a_table(sqlite3 *db) {
  {
    const std::lock_guard lock(mutex);
    if (connections.count(db) != 0) {
      return;
    }
  }
  sqlite3_stmt *statement = nullptr;
  if (sqlite3_prepare_v2(db, "SELECT period FROM token_usage_summary(NULL)", -1, &statement,
                         nullptr) == SQLITE_NOMEM) {
    throw std::bad_alloc();
  }
  sqlite3_finalize(statement);
}

sqlite3_stmt *take_statement(sqlite3 *db, const std::string &sql) {
  const std::lock_guard lock(mutex);
  const auto connection = connections.find(db);
  if (connection == connections.end()) {
    return nullptr;
  }
  const auto entry = connection->second.idle.find(sql);
  if (entry == connection->second.idle.end()) {
    return nullptr;
  }
  sqlite3_stmt *const statement = entry->second;
  connection->second.idle.erase(entry);
  return statement;
}

void give_statement(sqlite3 *db, const std::string &sql, sqlite3_stmt *statement) noexcept {
  // Bound values are the caller's data, and may be large.
  if (sqlite3_reset(statement) == SQLITE_OK && sqlite3_clear_bindings(statement) == SQLITE_OK) {
    try {
      const std::lock_guard lock(mutex);
      const auto connection = connections.find(db);
      if (connection != connections.end() && connection->second.idle.size() < kMost &&
          connection->second.idle.emplace(sql, statement).second) {
        return;
      }
    } catch (const std::exception &) {
      // No room to keep it in.
    }
  }
  sqlite3_finalize(statement);
}

std::optional<bool> known_usable(sqlite3 *db, std::int64_t schema_version) {
  const std::lock_guard lock(mutex);
  const auto connection = connections.find(db);
  if (connection == connections.end() || connection->second.schema_version != schema_version) {
    return std::nullopt;
  }
  return connection->second.usable;
}

void remember_usable(sqlite3 *db, std::int64_t schema_version, bool usable) {
  const std::lock_guard lock(mutex);
  const auto connection = connections.find(db);
  if (connection != connections.end()) {
    connection->second.schema_version = schema_version;
    connection->second.usable = usable;
  }
}

}  // namespace token_usage
