// Rollups as they should be: computed from the ledger, for token_usage_rebuild, _compact and
// _verify.
#pragma once

#include <functional>
#include <map>
#include <tuple>

#include "rollup.h"

namespace token_usage {

// Size, bucket, dimension (0 all, 1 by agent, 2 by provider and model), keys.
using RolledKey = std::tuple<Hour, Hour, int, Keys>;

struct Rolled {
  std::map<RolledKey, Measures> rows;
  std::int64_t ledger_rows = 0;
  Hour until = 0;  // every bucket ends at or before it
};

// Where the buckets of a range end: at its end, or before the bucket of its latest row, since more
// rows of that one are likely to come.
enum class Until { end, latest_row };

// The sums of the buckets with `least` rows and more that lie whole in [low, high).
Rolled roll(const Ledger &ledger, sqlite3_value *user, Hour low, Hour high, Until until,
            std::int64_t least);

// Calls `body` for the users that the ledger holds, one after the other, until it returns false.
void for_each_user(const Ledger &ledger, const std::function<bool(sqlite3_value *)> &body);

// Makes what is missing of the rollup tables and triggers, and empties the tables where it had to:
// they may have missed writes. A ledger for which can_roll is false gets no triggers. Returns
// whether something was made. Throws the adoption error where one of the tables is not ours.
bool ensure_rollups(const Ledger &ledger);

// A condition on the columns of the ledger that is true for odd rows.
std::string odd_condition();

// token_usage_rebuild([user_id [, schema]]) and token_usage_compact([max_rows [, schema]]).
int register_rollup(sqlite3 *db);

}  // namespace token_usage
