// Prepared statements that a connection keeps for the next report: preparing a dozen of them anew
// costs more than running them.
//
// A statement must not outlive what sqlite3_close allows: it refuses while one is left. But before
// it looks, it disconnects the virtual tables of the connection. So statements are kept only while
// a table of ours is connected, and finalised when the last one goes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "sqlite.h"

namespace token_usage {

// A table of ours was connected, or disconnected.
void keep_statements(sqlite3 *db);
void drop_statements(sqlite3 *db) noexcept;

// Makes sure that a table is connected, where SQLite lets it.
void connect_a_table(sqlite3 *db);

// A kept statement with that text, or a null pointer; it is the caller's until it comes back.
sqlite3_stmt *take_statement(sqlite3 *db, const std::string &sql);

// Keeps the statement, or finalises it where it cannot be kept.
void give_statement(sqlite3 *db, const std::string &sql, sqlite3_stmt *statement) noexcept;

// What was found out about the main database at that version of its schema, if it is known. Only
// what was found outside of a write transaction may be remembered: the version of one that is
// rolled back comes again, for another schema.
std::optional<bool> known_usable(sqlite3 *db, std::int64_t schema_version);
void remember_usable(sqlite3 *db, std::int64_t schema_version, bool usable);

}  // namespace token_usage
