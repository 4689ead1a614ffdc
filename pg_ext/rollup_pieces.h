// Which part of a report is read from which rollup, and which from the ledger.
// rollup_pieces_portable.sql is the twin.
#pragma once

#include "server.h"

namespace token_usage {

// Tier 3 is whole months, 2 whole days, 1 whole hours, 0 the ledger's own rows.
struct Piece {
  int tier;
  TimestampTz lo;
  TimestampTz hi;
};

// The months of a user that are rolled, ascending, and what of each is: see
// _token_usage_rollup_flags.
struct RolledMonths {
  const TimestampTz *starts;
  const int16 *flags;
  int count;
};

// Cuts [bounds[0], bounds[count - 1]) into pieces; returns how many, in palloc'd memory.
int rollup_pieces(const TimestampTz *bounds, int count, TimestampTz sealed_until,
                  const RolledMonths &months, bool groups, Piece **result);

}  // namespace token_usage
