// What one call of _token_usage_rollup_bulk works with.
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>

#include "guard.h"
#include "rollup_bulk.h"
#include "rollup_row.h"

extern "C" {
#include <storage/buffile.h>
#include <utils/resowner.h>
#include <utils/uuid.h>
}

namespace token_usage {

constexpr int kResults = kRollupColumns + 1;

// The statements that _token_usage_rollup_bulk is given, in this order; rollup_bulk.sql tells what
// they get and return.
enum Statement { kRows, kFlags, kMonths, kStored, kRemove, kClear, kStatements };

// What one call works with. Files are made when rows first go there, and belong to the call.
struct Work {
  const char *sql[kStatements];
  Datum until;
  std::size_t limit;
  RollupBulk *bulk;
  Oid user_type;
  Tuplestorestate *store;
  TupleDesc desc;
  MemoryContext context;
  ResourceOwner owner;
  BufFile *files[RollupBulk::kPartitions];
  std::uint64_t filed[RollupBulk::kPartitions];  // rows
};

template <std::size_t size>
void check_types(TupleDesc have, Oid user_type, const Oid (&rest)[size], const char *what) {
  bool same =
      have->natts == static_cast<int>(size) + 1 && TupleDescAttr(have, 0)->atttypid == user_type;
  for (int i = 1; same && i < have->natts; ++i) {
    same = is_row_type(TupleDescAttr(have, i)->atttypid, rest[i - 1]);
  }
  if (!same) {
    ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
                    errmsg("_token_usage_rollup_bulk: other columns than it takes in %s", what)));
  }
}

[[noreturn]] inline void too_much() {
  ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
                  errmsg("token_usage: more than can be added up in the memory allowed")));
  pg_unreachable();
}

inline void check_code(int code) {
  if (code < 0) {
    elog(ERROR, "token_usage: %s", SPI_result_code_string(code));
  }
}

// SPI leaves its own memory context behind as the current one; this is to stay.
struct SameContext {
  MemoryContext context = CurrentMemoryContext;
  void restore() const { MemoryContextSwitchTo(context); }
};

inline void execute(Work *work, Statement statement, int count, Oid *types, Datum *values,
                    bool read_only) {
  const SameContext same;
  check_code(
      SPI_execute_with_args(work->sql[statement], count, types, values, nullptr, read_only, 0));
  same.restore();
}

inline Datum user_datum(Work *work, std::uint32_t number) {
  RollupBulk *const bulk = work->bulk;
  const std::string_view bytes = bulk->user(number);
  if (work->user_type == INT8OID) {
    std::int64_t value = 0;
    std::memcpy(&value, bytes.data(), sizeof value);
    return Int64GetDatum(value);
  }
  if (work->user_type == UUIDOID) {
    void *const uuid = palloc(UUID_LEN);
    std::memcpy(uuid, bytes.data(), UUID_LEN);
    return PointerGetDatum(uuid);
  }
  return PointerGetDatum(cstring_to_text_with_len(bytes.data(), static_cast<int>(bytes.size())));
}

// Reads the ledger's rows into work->bulk, and into files where they are more than memory may hold.
void read_ledger(Work *work);

}  // namespace token_usage
