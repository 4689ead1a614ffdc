// What a visit (rollup_visit.cpp) takes from what seals (rollup_fold.cpp): the rows of a user read
// by the index, without a query, and added to the rollups; and the statements of a ledger.
#pragma once

#include <cstdint>

#include "kept_query.h"
#include "user_scan.h"

namespace token_usage {

// That there is more to do than what was asked for, or that only a query can tell.
constexpr std::int64_t kNotPlain = -1;

// The layout of a ledger whose rows are those of kRowTypes, or of integers that become so; false
// where it is none, or the caller may not read it all.
bool is_plain(Relation ledger, FewLayout *layout);

// Adds the rows of [from, until), of which there are `waiting` at most, to the rollups of a user;
// how many there were. kNotPlain where that is not all that there is to do, and then nothing is
// done. Inside SPI.
std::int64_t seal_rows(FunctionCallInfo fcinfo, Relation ledger, const FewLayout &layout,
                       text *user, TimestampTz from, TimestampTz until, int waiting);

}  // namespace token_usage
