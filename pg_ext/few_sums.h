// Rows of a ledger that were read without a query (few_rows.h), added up by bucket and group.
#pragma once

#include "few_rows.h"

namespace token_usage {

enum class FewGroup { none, agent, provider, model };

// The sums of a group of rows.
struct FewLine {
  int bucket;
  FewText key1;
  FewText key2;
  Measures measures;
};

// The rows of a report as they are added up.
struct FewSums {
  FewGroup group;
  text *agent;  // of which rows only, if any
  const TimestampTz
      *bounds;  // ascending; a row is in bucket i from bounds[i - 1] on, before bounds[i]
  int buckets;
  FewLine *lines;
  int count;
  int room;
};

// The line of a bucket and group; nullptr where there is none.
FewLine *find_few_line(const FewSums &sums, int bucket, const FewText &key1, const FewText &key2);

// Adds a row to the FewSums that `context` is: a TakeFewRow. It gives up where a sum is past what
// the contract promises.
FewTaken add_few_row(void *context, const FewRow &row);

}  // namespace token_usage
