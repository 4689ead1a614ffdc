// Rollups as they should be: computed from the ledger, for token_usage_rebuild, _compact and _verify.
#pragma once

#include <map>
#include <tuple>

#include "rollup.h"

namespace token_usage {

// Tier, dimension, bucket, keys: the primary key of a rollup row behind the user.
using RolledKey = std::tuple<Tier, int, Hour, Keys>;

struct Rolled {
  std::map<RolledKey, Measures> rows;
  std::int64_t ledger_rows = 0;
  Hour until = 0;  // every bucket ends at or before it
};

// Where the buckets of a range end: at its end, or at the hour of its latest row, since more rows of
// that hour are likely to come.
enum class Until { end, latest_row };

// What the rollups of `user` should hold for the buckets that lie whole in [low, high): nothing below
// the thresholds, and nothing that the tables cannot hold.
Rolled roll(const Ledger &ledger, sqlite3_value *user, Hour low, Hour high, Until until);

}  // namespace token_usage
