#include "connection.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <vector>

namespace token_usage {

namespace {

struct Connection {
  int tables = 0;
  std::vector<std::shared_ptr<const Ledger>> ledgers;
};

// One for each attached database that is asked about, and for each way to spell its name.
constexpr std::size_t kMostLedgers = 16;

std::mutex mutex;
std::map<sqlite3 *, Connection> connections;

}  // namespace

void table_connected(sqlite3 *db) {
  const std::lock_guard lock(mutex);
  ++connections[db].tables;
}

void table_disconnected(sqlite3 *db) noexcept {
  std::vector<std::shared_ptr<const Ledger>> ledgers;  // gone when the mutex is free again
  const std::lock_guard lock(mutex);
  const auto entry = connections.find(db);
  if (entry != connections.end() && --entry->second.tables == 0) {
    ledgers.swap(entry->second.ledgers);
    connections.erase(entry);
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

std::shared_ptr<const Ledger> known_ledger(sqlite3 *db, std::string_view schema) {
  const std::lock_guard lock(mutex);
  const auto entry = connections.find(db);
  if (entry != connections.end()) {
    for (const std::shared_ptr<const Ledger> &ledger : entry->second.ledgers) {
      if (ledger->schema == schema) {
        return ledger;
      }
    }
  }
  return nullptr;
}

void remember_ledger(const std::shared_ptr<const Ledger> &ledger) {
  std::vector<std::shared_ptr<const Ledger>> ledgers;  // gone when the mutex is free again
  const std::lock_guard lock(mutex);
  const auto entry = connections.find(ledger->db);
  if (entry == connections.end()) {
    return;
  }
  for (const std::shared_ptr<const Ledger> &known : entry->second.ledgers) {
    if (known->schema != ledger->schema && ledgers.size() + 1 < kMostLedgers) {
      ledgers.push_back(known);
    }
  }
  ledgers.push_back(ledger);
  ledgers.swap(entry->second.ledgers);
}

}  // namespace token_usage
