// Rollups (section 4 of the contract): sums of whole buckets of 3, 24, 192 and 1536 hours (UTC) of
// one user, kept in ordinary tables beside the ledger. Two rules make them exact. Buckets are
// computed whole, from the ledger or from their eight parts, and never added to. And a bucket
// counts only while no mark of it is in token_usage_rollup_late: the triggers of the migration mark
// the buckets of every row that comes, changes or goes in time that is rolled. What does not count,
// or was never rolled, is read from the ledger. Ledger rows that SQL cannot add up without a doubt
// (costs of a thousand and more, local times ...) are in no bucket; the triggers list their ids.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ledger.h"
#include "sums.h"

namespace token_usage {

// Hours since 1970-01-01 00:00 UTC; a bucket is named by its first one.
using Hour = std::int64_t;
inline constexpr Micros kMicrosPerHour = 3'600 * kMicrosPerSecond;

// The sizes of buckets in hours; a bucket starts at a multiple of its size, and holds eight of the
// size before.
inline constexpr std::array<Hour, 4> kSizes = {3, 24, 192, 1536};

// No bucket lies outside of [1973, 4251]: there a number could be seconds or milliseconds.
inline constexpr Hour kFirstRolled = 30'000;
inline constexpr Hour kPastRolled = 20'000'000;

// From so many rows on a bucket is rolled: below, reading the ledger costs no more.
inline constexpr std::int64_t kBucketRows = 64;

// With more odd rows than this a user's reports read the ledger alone.
inline constexpr std::int64_t kMostOddRows = 2'000;

// The hour that holds the time.
Hour hour_of(Micros time);

// The first hour of the bucket of that size that holds the hour; hours are not negative.
inline Hour bucket_of(Hour size, Hour hour) {
  return hour - hour % size;
}

// True where the tables are there, the triggers are exactly ours, and no unique key but id and
// request_id lets a statement with OR REPLACE remove rows that the triggers do not see.
bool rollups_usable(const Ledger &ledger);

// Whether migrate should make the triggers: they could work.
bool can_roll(const Ledger &ledger);

// `"schema"."name"`.
std::string beside(const Ledger &ledger, const char *name);

// The user as the ledger stores it; a null pointer where the ledger has no row of the user.
OwnedValue stored_user(const Ledger &ledger, sqlite3_value *user);

// What a report has to know of a user before it reads.
struct UserState {
  sqlite3_value *stored;  // the user as the ledger stores it
  OwnedValue copy;        // holds `stored`, where that is not the argument itself
  Hour smallest_bucket;   // the smallest size of which the user has buckets; 0 for none
  bool has_odd_rows;
  bool has_numbers;  // whether a created_at may be a number
};

// The longest of the pieces, in whole hours from the one that holds its start.
Hour longest_of(const std::vector<Piece> &pieces);

// What the statement that finds the state reads besides, where all of it stands in one range of the
// index: the user has no odd rows, no numbers for times, and no bucket that counts for the report.
// Of most users and most periods that is so, and a second statement would cost as much again.
class SparseReader {
 public:
  SparseReader() = default;
  SparseReader(const SparseReader &) = delete;
  SparseReader &operator=(const SparseReader &) = delete;
  virtual ~SparseReader() = default;
  // No bucket of more hours than this counts, nor is one of them a sign of many rows a day.
  [[nodiscard]] virtual Hour largest_bucket() const = 0;
  // True where run() has read all.
  [[nodiscard]] bool has_read(const UserState &state) const {
    return !state.has_odd_rows && !state.has_numbers &&
           (state.smallest_bucket == 0 || state.smallest_bucket > largest_bucket());
  }
  // A select of one row and column, with the user as parameter 1; and what tells it from others.
  [[nodiscard]] virtual std::string select() const = 0;
  [[nodiscard]] virtual unsigned variant() const = 0;
  // Binds the other parameters, and steps. The value stands in kColumn.
  virtual void run(Statement &row) = 0;
  static constexpr int kColumn = 3;
};

// Nothing where the ledger is known to have no row of the user. `opening`: a snapshot that nothing
// has opened yet, and whose remembered ledger this is; nothing also where it is not open
// afterwards.
std::optional<UserState> user_state(const Ledger &ledger, sqlite3_value *user,
                                    SparseReader *sparse = nullptr, Snapshot *opening = nullptr);

// How many odd rows the user has, as far as kMostOddRows and one more.
std::int64_t count_odd_rows(const Ledger &ledger, const sqlite3_value *stored);

// Where the buckets of a user end: each at this hour or before it; and the size of the largest.
struct UserBuckets {
  Hour until;
  Hour largest;
};
UserBuckets user_buckets(const Ledger &ledger, const sqlite3_value *stored);

// A bucket that is marked, by its end: all before it in this order are done before it.
struct Mark {
  Hour until;
  Hour size;
  friend auto operator<=>(const Mark &, const Mark &) = default;
};
std::vector<Mark> marks_of(const Ledger &ledger, const sqlite3_value *stored);

// Adds every bucket that counts and lies whole in a piece, and leaves in `pieces` what has to be
// read from the ledger.
void take_rolled_buckets(SumSet &sums, const Ledger &ledger, const UserState &user,
                         const std::optional<std::string> &agent, Dimension dimension,
                         std::vector<Piece> &pieces);

// The measures of a rollup row, which start at this column.
Measures rolled_measures(const Statement &row, int column);
inline constexpr const char *kRolledColumns =
    "requests_count, prompt_tokens, completion_tokens, total_tokens, usd_millionths, usd_rest,"
    " rub_millionths, rub_rest, unpriced_count, ms_sum, ms_count";

// A key as a rollup row holds it: text, or a blob without bytes for NULL.
std::optional<std::string> rolled_key(const Statement &row, int column);

}  // namespace token_usage
