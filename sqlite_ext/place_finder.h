// Finds the rows of a page of token_usage_detailed: which they are and in what order, from as
// little as an index holds of them.
#pragma once

#include <optional>
#include <vector>

#include "detailed.h"

namespace token_usage {

// Where a row stands in the list.
struct Place {
  Micros created_at = 0;
  RowId id;
  std::int64_t rowid = 0;
  std::optional<std::size_t> row;  // where the whole row stands among Places::rows, if it does
};

struct Places {
  std::vector<Place> list;
  PageRows rows;
};

// What the filter asks for, as [low, past high).
Micros low_of(const DetailedFilter &filter);
Micros past_high_of(const DetailedFilter &filter);

// The first `wanted` places of the list behind `after`; `with_rows`: and the rows themselves, as
// far as they come to hand.
Places find_places(const Ledger &ledger, const DetailedFilter &filter, std::size_t wanted,
                   const std::optional<Place> &after, bool with_rows);

}  // namespace token_usage
