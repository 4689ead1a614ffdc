// The rollup rows that are stored already, for rollup_bulk.cpp.
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>

#include "rollup_bulk_work.h"

namespace token_usage {

// The rollup rows that are stored of one user, in the order of the key, beside those that are made:
// what is the same to the last byte stays, all else is removed. So a rebuild of rollups that are
// right writes next to nothing.
struct Stored {
  static constexpr Oid kStoredTypes[] = {INT2OID,    TIMESTAMPTZOID, TEXTOID, TEXTOID, INT2OID,
                                         INT8OID,    INT8OID,        INT8OID, INT8OID, NUMERICOID,
                                         NUMERICOID, INT8OID,        INT8OID, INT8OID, TIDOID};
  static constexpr long kBatch = 256;
  static constexpr std::size_t kRemovals = 4096;

  Work *work;
  SPIPlanPtr plan;
  Portal portal;
  SPITupleTable *batch;
  std::uint64_t at;
  HeapTuple tuple;  // the one that is compared next, or none
  std::size_t removed;
  ItemPointerData places[kRemovals];
  Datum removals[kRemovals];

  void open(Datum user) {
    const SameContext same;
    if (plan == nullptr) {
      plan = SPI_prepare(work->sql[kStored], 1, &work->user_type);
      if (plan == nullptr) {
        check_code(SPI_result);
      }
    }
    portal = SPI_cursor_open(nullptr, plan, &user, nullptr, true);
    same.restore();
    fetch();
    next();
  }

  // Whether `made` is stored; passes by what is stored before it.
  bool has(HeapTuple made, const BulkSums &sums, const BulkKeys &keys) {
    while (tuple != nullptr) {
      if (same(made)) {
        next();
        return true;
      }
      if (!goes_before(sums, keys)) {
        break;
      }
      remove();
    }
    return false;
  }

  void close() {
    while (tuple != nullptr) {
      remove();
    }
    SPI_freetuptable(batch);
    const SameContext same;
    SPI_cursor_close(portal);
    same.restore();
  }

  void flush() {
    if (removed > 0) {
      for (std::size_t i = 0; i < removed; ++i) {
        removals[i] = PointerGetDatum(&places[i]);
      }
      Oid types[] = {get_array_type(TIDOID)};
      Datum values[] = {array_of(removals, removed, TIDOID)};
      execute(work, kRemove, 1, types, values, false);
      removed = 0;
    }
  }

 private:
  void fetch() {
    const SameContext context;
    SPI_cursor_fetch(portal, true, kBatch);
    context.restore();
    batch = SPI_tuptable;
    at = 0;
    if (batch == nullptr) {
      elog(ERROR, "token_usage: the statement for stored rows returns nothing");
    }
    check_types(batch->tupdesc, work->user_type, kStoredTypes, "the stored rows");
  }
  void next() {
    if (at > 0 && at == batch->numvals) {
      SPI_freetuptable(batch);
      fetch();
    }
    tuple = at < batch->numvals ? batch->vals[at++] : nullptr;
    if (tuple != nullptr && HeapTupleHasNulls(tuple)) {
      elog(ERROR, "token_usage: a NULL in the stored rows");
    }
  }
  // Both begin with the same columns, none of which is NULL; behind them a stored one has its
  // place.
  [[nodiscard]] bool same(HeapTuple made) const {
    const std::size_t size = made->t_len - made->t_data->t_hoff;
    return tuple->t_len - tuple->t_data->t_hoff >= size &&
           std::memcmp(reinterpret_cast<char *>(tuple->t_data) + tuple->t_data->t_hoff,
                       reinterpret_cast<char *>(made->t_data) + made->t_data->t_hoff, size) == 0;
  }
  [[nodiscard]] Datum column(int number) const {
    bool null = false;
    return SPI_getbinval(tuple, batch->tupdesc, number, &null);
  }
  [[nodiscard]] std::string_view text_column(int number) const {
    // A copy, if any, goes with the memory of the partition.
    struct varlena *const text = PG_DETOAST_DATUM_PACKED(column(number));
    return {VARDATA_ANY(text), VARSIZE_ANY_EXHDR(text)};
  }
  // Whether the key of what is stored is before that of `sums`, or the same: then it gives way.
  [[nodiscard]] bool goes_before(const BulkSums &sums, const BulkKeys &keys) const {
    const int kind = sums.tier * 10 + sums.dimension;
    if (DatumGetInt16(column(2)) != kind) {
      return DatumGetInt16(column(2)) < kind;
    }
    if (DatumGetTimestampTz(column(3)) != sums.bucket) {
      return DatumGetTimestampTz(column(3)) < sums.bucket;
    }
    const BulkKeys stored = {text_column(4), text_column(5), DatumGetInt16(column(6))};
    return stored <= keys;
  }
  void remove() {
    if (removed == kRemovals) {
      flush();
    }
    places[removed++] = *reinterpret_cast<ItemPointer>(DatumGetPointer(column(kResults + 1)));
    next();
  }
};

}  // namespace token_usage
