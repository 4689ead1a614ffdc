// What a connection keeps for the next report: what was found out about its ledgers, and with each
// the prepared statements over it. Finding and preparing them anew costs more than reading.
//
// A statement must not outlive what sqlite3_close allows: it refuses while one is left. But before
// it looks, it disconnects the virtual tables of the connection. So ledgers are kept only while a
// table of ours is connected, and go with the last one.
#pragma once

#include <memory>
#include <string_view>

#include "ledger.h"

namespace token_usage {

// A table of ours was connected, or disconnected.
void table_connected(sqlite3 *db);
void table_disconnected(sqlite3 *db) noexcept;

// Makes sure that a table is connected, where SQLite lets it.
void connect_a_table(sqlite3 *db);

// The ledger of that schema as it was remembered, or a null pointer. Whether it is still so, only
// class Snapshot can tell.
std::shared_ptr<const Ledger> known_ledger(sqlite3 *db, std::string_view schema);
void remember_ledger(const std::shared_ptr<const Ledger> &ledger);

}  // namespace token_usage
