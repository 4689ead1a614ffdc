// Rollups (section 4 of the contract): sums of whole UTC hours, days and months of one user, kept in
// ordinary tables beside the ledger. Two rules make them exact. Buckets are computed whole from the
// ledger and never added to. And a bucket counts only while no late write is marked in it: the
// triggers of the migration mark the hour of every row that comes, changes or goes in time that is
// rolled. What does not count, or was never rolled, is read from the ledger.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ledger.h"
#include "sums.h"

namespace token_usage {

enum class Tier { hour, day, month };

// A bucket by its first hour since 1970-01-01 00:00 UTC, and where the next one starts.
using Hour = std::int64_t;
inline constexpr Micros kMicrosPerHour = 3'600 * kMicrosPerSecond;

// The bucket of that tier that holds the hour.
Hour bucket_of(Tier tier, Hour hour);
Hour bucket_end(Tier tier, Hour bucket);

// The hour that holds the time.
Hour hour_of(Micros time);

// From so many rows on a bucket is rolled: below, reading the ledger costs no more. A month has sums
// by agent and by model only from kMonthGroups rows on; a day that is rolled always has them, an
// hour never.
inline constexpr std::int64_t kHourRows = 16;
inline constexpr std::int64_t kDayRows = 64;
inline constexpr std::int64_t kMonthRows = 32;
inline constexpr std::int64_t kMonthGroups = 256;

// No bucket before 1971 is rolled: there the hours of negative numbers would have to be rounded with
// care.
inline constexpr Hour kFirstRolledHour = 8'760;

// True where the tables are there, the triggers are exactly ours, and no unique key but id and
// request_id lets a statement with OR REPLACE remove rows that the triggers do not see.
bool rollups_usable(const Ledger &ledger);

// The same without looking at the triggers: whether migrate should make them.
bool can_roll(const Ledger &ledger);

// Makes what is missing of the rollup tables and triggers, and empties the tables where it had to:
// they may have missed writes. A ledger for which can_roll is false gets no triggers. Returns whether
// something was made. Throws the adoption error where one of the tables is not ours.
bool ensure_rollups(const Ledger &ledger);

// `"schema"."name"`.
std::string beside(const Ledger &ledger, const char *name);

// Rows before this hour may lie in rolled buckets; nothing where the user has none. `stored` is the
// user as the ledger stores it.
std::optional<Hour> rolled_until(const Ledger &ledger, const sqlite3_value *stored);

// The hours that late writes have marked, ascending. One below 0 stands for a time that the triggers
// could not tell: then no bucket of the user counts.
std::vector<Hour> late_hours(const Ledger &ledger, const sqlite3_value *stored);

// True where one of the hours lies in [low, high).
bool has_late(const std::vector<Hour> &late, Hour low, Hour high);

// The user as the ledger stores it, or nothing where the ledger has no row of it.
OwnedValue stored_user(const Ledger &ledger, sqlite3_value *user);

// Adds every rolled bucket that lies whole in a piece, and leaves in `pieces` what has to be read
// from the ledger.
void take_rolled_buckets(SumSet &sums, const Ledger &ledger, sqlite3_value *user,
                         const std::optional<std::string> &agent, Dimension dimension,
                         std::vector<Piece> &pieces);

// The measures of a rollup row, which start at this column.
Measures rolled_measures(const Statement &row, int column);
inline constexpr const char *kRolledColumns =
    "requests_count, prompt_tokens, completion_tokens, total_tokens, usd_whole, usd_fraction,"
    " rub_whole, rub_fraction, unpriced_count, ms_whole, ms_fraction, ms_count";

// A key as a rollup row holds it: text, or a blob without bytes for NULL.
std::optional<std::string> rolled_key(const Statement &row, int column);

// The users that the ledger holds, one after the other: the one behind `last`, or the first.
OwnedValue next_user(const Ledger &ledger, const sqlite3_value *last);

// token_usage_rebuild([user_id [, schema]]) and token_usage_compact([max_rows [, schema]]).
int register_rollup(sqlite3 *db);

}  // namespace token_usage
