// _token_usage_rollup_bulk: makes the rollup rows of a ledger for token_usage_rebuild(). In SQL,
// two readings and the numeric sums of three grouping sets take most of the time. This function
// reads the rows once (rollup_bulk_read.cpp), in whatever order they lie, adds up in integers
// (rollup_bulk.h), compares with what is stored (rollup_bulk_stored.h), removes what is wrong
// there, and returns what is missing, the same as the ledger's own statement would compute.
//
// It runs the statements that its caller gives, as that caller, and reaches nothing else. Memory is
// bounded: rows beyond the limit wait in temporary files, a file for each partition of the users.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "guard.h"
#include "money.h"
#include "owned.h"
#include "rollup_bulk_stored.h"

namespace token_usage {

namespace {

// The result waits in memory up to this many kilobytes, and in a temporary file beyond.
constexpr int kResultMemory = 65'536;

// Gives the rows of a partition, piece by piece, to `use`.
template <typename Use>
void each_piece(Work *work, std::uint32_t partition, Use use) {
  RollupBulk *const bulk = work->bulk;
  BufFile *const file = work->files[partition];
  BulkKept *const place = bulk->arriving();
  if (file != nullptr && BufFileSeek(file, 0, 0, SEEK_SET) != 0) {
    ereport(ERROR,
            (errcode_for_file_access(), errmsg("token_usage: a temporary file has no beginning")));
  }
  for (std::uint64_t left = work->filed[partition]; left > 0;) {
    CHECK_FOR_INTERRUPTS();
    const std::size_t rows = std::min<std::uint64_t>(left, RollupBulk::kChunk);
    if (BufFileRead(file, place, rows * sizeof *place) != rows * sizeof *place) {
      ereport(ERROR,
              (errcode_for_file_access(), errmsg("token_usage: a temporary file ends too soon")));
    }
    use(RollupBulk::Rows{place, rows});
    left -= rows;
  }
  for (std::size_t i = 0; i < bulk->chunks(partition); ++i) {
    use(bulk->chunk(partition, i));
  }
}

// Removes what is stored of the users of a partition.
void clear_users(Work *work, std::uint32_t partition) {
  const std::size_t count = work->bulk->users();
  auto *const users = static_cast<Datum *>(
      palloc_extended((count / RollupBulk::kPartitions + 1) * sizeof(Datum), MCXT_ALLOC_HUGE));
  std::size_t cleared = 0;
  for (std::size_t u = partition; u < count; u += RollupBulk::kPartitions) {
    users[cleared++] = user_datum(work, static_cast<std::uint32_t>(u));
  }
  Oid types[] = {get_array_type(work->user_type)};
  Datum values[] = {array_of(users, cleared, work->user_type)};
  execute(work, kClear, 1, types, values, false);
}

// What is to be rolled of each month of a user, by the ledger's own rule: asks the query for flags,
// which gets the rows and groups of each and the number of the month before where that counts, or
// 0, and returns numbers from 1 and flags.
void ask_flags(Work *work, BulkUnit *units, std::size_t count) {
  auto *const rows = static_cast<Datum *>(palloc(3 * count * sizeof(Datum)));
  Datum *const groups = rows + count;
  Datum *const before = groups + count;
  for (std::size_t u = 0; u < count; ++u) {
    rows[u] = Int64GetDatum(units[u].rows);
    groups[u] = Int64GetDatum(units[u].groups);
    before[u] = Int64GetDatum(units[u].before + 1);
  }
  Oid const numbers = get_array_type(INT8OID);
  Oid types[] = {numbers, numbers, numbers};
  Datum values[] = {array_of(rows, count, INT8OID), array_of(groups, count, INT8OID),
                    array_of(before, count, INT8OID)};
  execute(work, kFlags, 3, types, values, true);
  if (SPI_tuptable == nullptr) {
    elog(ERROR, "token_usage: the statement for flags returns nothing");
  }
  constexpr Oid kFlags[] = {INT2OID};
  check_types(SPI_tuptable->tupdesc, INT8OID, kFlags, "the flags");
  for (std::uint64_t i = 0; i < SPI_processed; ++i) {
    bool no_number = false;
    bool no_flags = false;
    HeapTuple const tuple = SPI_tuptable->vals[i];
    const std::int64_t u =
        DatumGetInt64(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 1, &no_number)) - 1;
    const int value = DatumGetInt16(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 2, &no_flags));
    if (!no_number && !no_flags && u >= 0 && u < static_cast<std::int64_t>(count)) {
      units[u].flags = value;
    }
  }
  SPI_freetuptable(SPI_tuptable);
}

// Gives the months that are rolled to the query for months: users, months, flags.
void tell_months(Work *work, const BulkUnit *units, std::size_t count) {
  auto *const users = static_cast<Datum *>(palloc(3 * count * sizeof(Datum)));
  Datum *const months = users + count;
  Datum *const flags = months + count;
  std::size_t rolled = 0;
  for (std::size_t u = 0; u < count; ++u) {
    if (units[u].flags != 0) {
      users[rolled] = user_datum(work, units[u].user);
      months[rolled] = TimestampTzGetDatum(RollupBulk::micros(units[u].month));
      flags[rolled] = Int16GetDatum(static_cast<std::int16_t>(units[u].flags));
      ++rolled;
    }
  }
  Oid types[] = {get_array_type(work->user_type), get_array_type(TIMESTAMPTZOID),
                 get_array_type(INT2OID)};
  Datum values[] = {array_of(users, rolled, work->user_type),
                    array_of(months, rolled, TIMESTAMPTZOID), array_of(flags, rolled, INT2OID)};
  execute(work, kMonths, 3, types, values, false);
}

// Makes rollup rows of what is in memory.
struct Maker {
  Work *work;
  Stored *stored;  // nullptr: what was stored is removed already
  KeyTexts texts[3];

  void store(Datum user, const BulkSums &sums) {
    const KeyTexts &keys = texts[sums.dimension];
    bool nulls[kResults] = {};
    Datum values[kResults] = {user};
    fill_rollup_row(sums, keys, values + 1);
    HeapTuple const made = heap_form_tuple(work->desc, values, nulls);
    if (stored == nullptr || !stored->has(made, sums, keys.keys[sums.group])) {
      tuplestore_puttuple(work->store, made);
    }
    heap_freetuple(made);
    pfree(DatumGetPointer(values[1 + kRollupUsd]));
    pfree(DatumGetPointer(values[1 + kRollupRub]));
  }

  // The rollup rows of the months [begin, end) of one user, in the order of the rollup's key.
  void store_user(const BulkUnit *begin, const BulkUnit *end) {
    RollupBulk *const bulk = work->bulk;
    Datum const user = user_datum(work, begin->user);
    if (stored != nullptr) {
      stored->open(user);
    }
    for (int tier = 1; tier <= 3; ++tier) {
      for (int dimension = 0; dimension <= 2; ++dimension) {
        const int bit = rollup_bit(tier, dimension);
        for (const BulkUnit *unit = begin; unit != end; ++unit) {
          if ((unit->flags & bit) == 0) {
            continue;
          }
          CHECK_FOR_INTERRUPTS();
          const auto *const rolled = guarded([=] { return &bulk->roll(*unit, tier, dimension); });
          for (const BulkSums &sums : *rolled) {
            store(user, sums);
          }
        }
      }
    }
    if (stored != nullptr) {
      stored->close();
    }
  }

  // Some shares of a partition.
  void make(std::uint32_t partition, RollupBulk::Shares shares) {
    RollupBulk *const bulk = work->bulk;
    guarded([=] { bulk->start(); });
    each_piece(work, partition, [=](RollupBulk::Rows rows) { bulk->count(rows, shares); });
    guarded([=] { bulk->make_room(); });
    each_piece(work, partition, [=](RollupBulk::Rows rows) { bulk->place(rows, shares); });
    auto *const arranged = guarded([=] { return &bulk->arrange(); });
    BulkUnit *const units = arranged->data();
    const std::size_t count = arranged->size();
    if (count == 0) {
      return;
    }
    ask_flags(work, units, count);
    tell_months(work, units, count);
    for (std::size_t begin = 0; begin < count;) {
      std::size_t end = begin;
      int flags = 0;
      for (; end < count && units[end].user == units[begin].user; ++end) {
        flags |= units[end].flags;
      }
      if (flags != 0) {
        store_user(units + begin, units + end);
      }
      begin = end;
    }
  }

  // A partition that is more than memory holds, some shares of its months at a time.
  void make_in_shares(std::uint32_t partition) {
    RollupBulk *const bulk = work->bulk;
    auto *const counts =
        static_cast<std::uint64_t *>(palloc0(RollupBulk::kShares * sizeof(std::uint64_t)));
    each_piece(work, partition, [=](RollupBulk::Rows rows) { bulk->count_shares(rows, counts); });
    clear_users(work, partition);
    Stored *const kept = stored;
    stored = nullptr;
    for (std::uint32_t from = 0; from < RollupBulk::kShares;) {
      std::uint32_t to = from;
      for (std::uint64_t rows = 0; to < RollupBulk::kShares; ++to) {
        rows += counts[to];
        if (!bulk->fits(rows)) {
          break;
        }
      }
      if (from == to) {
        too_much();
      }
      make(partition, {from, to});
      from = to;
    }
    stored = kept;
  }

  void make(std::uint32_t partition) {
    RollupBulk *const bulk = work->bulk;
    std::uint64_t rows = work->filed[partition];
    for (std::size_t i = 0; i < bulk->chunks(partition); ++i) {
      rows += bulk->chunk(partition, i).size;
    }
    if (rows > 0 && bulk->fits(rows)) {
      make(partition, {0, RollupBulk::kShares});
    } else if (rows > 0) {
      make_in_shares(partition);
    }
    guarded([=] { bulk->forget(partition); });
    if (work->files[partition] != nullptr) {
      BufFileClose(work->files[partition]);
      work->files[partition] = nullptr;
    }
  }
};

}  // namespace

extern "C" {

// _token_usage_rollup_bulk(statements text[], until timestamptz, memory bigint)
PG_FUNCTION_INFO_V1(token_usage_rollup_bulk);
PGDLLEXPORT Datum token_usage_rollup_bulk(PG_FUNCTION_ARGS) {
  auto *const result = reinterpret_cast<ReturnSetInfo *>(fcinfo->resultinfo);
  if (result == nullptr || !IsA(result, ReturnSetInfo) || result->expectedDesc == nullptr ||
      (result->allowedModes & SFRM_Materialize) == 0) {
    ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                    errmsg("_token_usage_rollup_bulk is called where no set of rows is accepted")));
  }
  MemoryContext const outer = MemoryContextSwitchTo(result->econtext->ecxt_per_query_memory);
  auto *const work = static_cast<Work *>(palloc0(sizeof(Work)));
  Datum *statements = nullptr;
  bool *nulls = nullptr;
  int count = 0;
  deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), TEXTOID, -1, false, TYPALIGN_INT, &statements, &nulls,
                    &count);
  for (int i = 0; i < kStatements; ++i) {
    if (count != kStatements || nulls[i]) {
      ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                      errmsg("_token_usage_rollup_bulk takes %d statements", kStatements)));
    }
    work->sql[i] = TextDatumGetCString(statements[i]);
  }
  work->until = PG_GETARG_DATUM(1);
  work->limit = static_cast<std::size_t>(std::max<std::int64_t>(PG_GETARG_INT64(2), 0));
  work->desc = CreateTupleDescCopy(result->expectedDesc);
  work->user_type = work->desc->natts > 0 ? TupleDescAttr(work->desc, 0)->atttypid : InvalidOid;
  if (work->user_type != INT8OID && work->user_type != UUIDOID && work->user_type != TEXTOID) {
    ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
                    errmsg("_token_usage_rollup_bulk: a user is bigint, text or uuid")));
  }
  check_types(work->desc, work->user_type, kRollupTypes, "the result");
  work->store = tuplestore_begin_heap((result->allowedModes & SFRM_Materialize_Random) != 0, false,
                                      kResultMemory);
  MemoryContextSwitchTo(outer);

  if (SPI_connect() != SPI_OK_CONNECT) {
    elog(ERROR, "token_usage: SPI_connect failed");
  }
  work->context = CurrentMemoryContext;
  work->owner = CurrentResourceOwner;
  auto *const slot = Owned<RollupBulk>::create();
  RollupBulk *const bulk =
      slot->fill([=] { return new RollupBulk(work->limit, DatumGetTimestampTz(work->until)); });
  work->bulk = bulk;
  read_ledger(work);
  guarded([=] { bulk->seal(); });

  auto *const stored = static_cast<Stored *>(palloc0(sizeof(Stored)));
  stored->work = work;
  Maker maker = {work, stored, {}};
  for (int dimension = 0; dimension <= 2; ++dimension) {
    maker.texts[dimension].make(dimension, dimension == 0 ? nullptr : &bulk->dictionary(dimension));
  }
  MemoryContext const scratch =
      AllocSetContextCreate(CurrentMemoryContext, "token_usage rollup", ALLOCSET_DEFAULT_SIZES);
  MemoryContext const before = MemoryContextSwitchTo(scratch);
  for (std::uint32_t partition = 0; partition < RollupBulk::kPartitions; ++partition) {
    maker.make(partition);
    MemoryContextReset(scratch);
  }
  stored->flush();
  MemoryContextSwitchTo(before);
  slot->clear();
  result->returnMode = SFRM_Materialize;
  result->setResult = work->store;
  result->setDesc = work->desc;
  SPI_finish();
  PG_RETURN_NULL();
}

}  // extern "C"

}  // namespace token_usage
