// A ledger's row as the server gives it, for what adds up in C++ (rollup_bulk_read.cpp,
// rollup_fold.cpp): the columns of _token_usage_rollup_bulk_row().
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <string_view>

#include "guard.h"
#include "money.h"
#include "rollup_bulk.h"

extern "C" {
#include <tcop/dest.h>
#include <tcop/pquery.h>
}

namespace token_usage {

constexpr Oid kRowTypes[] = {TIMESTAMPTZOID, TEXTOID, TEXTOID,    TEXTOID,    INT8OID,
                             INT8OID,        INT8OID, NUMERICOID, NUMERICOID, INT8OID};
constexpr int kRowColumns = static_cast<int>(std::size(kRowTypes));

// A ledger may keep its times without a zone, as the same number of microseconds.
inline bool is_row_type(Oid have, Oid wanted) {
  Oid const type = getBaseType(have);
  return type == wanted || (type == TIMESTAMPOID && wanted == TIMESTAMPTZOID);
}

// A text or a copy of it that is not toasted.
struct Detoasted {
  struct varlena *value = nullptr;
  bool copied = false;

  BulkText open(Datum datum, bool null) {
    if (null) {
      return {};
    }
    value = PG_DETOAST_DATUM_PACKED(datum);
    copied = reinterpret_cast<Pointer>(value) != DatumGetPointer(datum);
    return {VARDATA_ANY(value), static_cast<std::size_t>(VARSIZE_ANY_EXHDR(value))};
  }
  void close() {
    if (copied) {
      pfree(value);
    }
  }
};

// The row, without its user, stands until close().
struct LedgerRow {
  BulkRow row;
  Detoasted texts[3];

  void open(const Datum *values, const bool *nulls) {
    row.at = DatumGetTimestampTz(values[0]);
    row.agent = texts[0].open(values[1], nulls[1]);
    row.provider = texts[1].open(values[2], nulls[2]);
    row.model = texts[2].open(values[3], nulls[3]);
    row.prompt = count_of(values[4], nulls[4]);
    row.completion = count_of(values[5], nulls[5]);
    row.total = count_of(values[6], nulls[6]);
    if (nulls[6] && __builtin_add_overflow(row.prompt, row.completion, &row.total)) {
      guarded([] { sum_overflow("total_tokens"); });
    }
    row.usd = cost(values[7], nulls[7], "cost_usd");
    row.rub = cost(values[8], nulls[8], "cost_rub");
    row.has_ms = !nulls[9];
    row.ms = count_of(values[9], nulls[9]);
  }
  void close() {
    for (Detoasted &text : texts) {
      text.close();
    }
  }

 private:
  // A NULL count is none.
  static std::int64_t count_of(Datum value, bool null) { return null ? 0 : DatumGetInt64(value); }

  static BulkCost cost(Datum value, bool null, const char *name) {
    BulkCost out;
    if (null) {
      return out;
    }
    if (const auto decimal = decimal_from_datum(value, NUMERICOID, name)) {
      out.units = decimal->units();
      out.scale = static_cast<std::uint8_t>(
          std::min(numeric_display_scale(value), static_cast<unsigned>(Decimal::places)));
      out.present = true;
    }
    return out;
  }
};

inline Datum array_of(Datum *values, std::size_t count, Oid type) {
  std::int16_t length = 0;
  bool by_value = false;
  char align = 0;
  get_typlenbyvalalign(type, &length, &by_value, &align);
  return PointerGetDatum(
      construct_array(values, static_cast<int>(count), type, length, by_value, align));
}

// Where the executor is to put rows.
inline DestReceiver destination(void (*start)(DestReceiver *, int, TupleDesc),
                                bool (*receive)(TupleTableSlot *, DestReceiver *)) {
  const auto nothing = [](DestReceiver *) {};
  DestReceiver out;
  std::memset(&out, 0, sizeof out);
  out.rStartup = start;
  out.receiveSlot = receive;
  out.rShutdown = nothing;
  out.rDestroy = nothing;
  out.mydest = DestNone;
  return out;
}

// The keys of a dimension as values: none, those of agents, or those of models.
struct KeyTexts {
  BulkKeys *keys;
  Datum *key1;
  Datum *key2;

  // `dictionary`: nullptr for dimension 0.
  void make(int dimension, const BulkDictionary *dictionary) {
    const std::size_t count = dictionary == nullptr ? 1 : dictionary->size();
    keys =
        static_cast<BulkKeys *>(palloc_extended((count + 1) * sizeof(BulkKeys), MCXT_ALLOC_HUGE));
    key1 = static_cast<Datum *>(palloc_extended(2 * (count + 1) * sizeof(Datum), MCXT_ALLOC_HUGE));
    key2 = key1 + count;
    const auto text = [](std::string_view key) {
      return PointerGetDatum(cstring_to_text_with_len(key.data(), static_cast<int>(key.size())));
    };
    for (std::size_t i = 0; i < count; ++i) {
      keys[i] = dictionary == nullptr ? BulkKeys{{}, {}, 0} : dictionary->keys(i);
      if (dimension == 1) {
        keys[i].nulls &= 1;  // an agent has no second key, which is not the same as NULL
      }
      key1[i] = text(keys[i].key1);
      key2[i] = text(keys[i].key2);
    }
  }
};

// The columns of a rollup row, after the user: kind, bucket, key1, key2, nulls, requests, prompt,
// completion, total, usd, rub, unpriced, ms_sum, ms_count.
constexpr Oid kRollupTypes[] = {INT2OID,    TIMESTAMPTZOID, TEXTOID, TEXTOID, INT2OID,
                                INT8OID,    INT8OID,        INT8OID, INT8OID, NUMERICOID,
                                NUMERICOID, INT8OID,        INT8OID, INT8OID};
constexpr int kRollupColumns = static_cast<int>(std::size(kRollupTypes));
constexpr int kRollupUsd = 9;
constexpr int kRollupRub = 10;

// A rollup row's values, in these columns; `keys` are those of its dimension.
inline void fill_rollup_row(const BulkSums &sums, const KeyTexts &keys, Datum *values) {
  const auto number = [](int128 sum) { return Int64GetDatum(static_cast<std::int64_t>(sum)); };
  values[0] = Int16GetDatum(static_cast<std::int16_t>(sums.tier * 10 + sums.dimension));
  values[1] = TimestampTzGetDatum(sums.bucket);
  values[2] = keys.key1[sums.group];
  values[3] = keys.key2[sums.group];
  values[4] = Int16GetDatum(static_cast<std::int16_t>(keys.keys[sums.group].nulls));
  values[5] = Int64GetDatum(sums.requests);
  values[6] = number(sums.prompt);
  values[7] = number(sums.completion);
  values[8] = number(sums.total);
  values[kRollupUsd] = decimal_to_numeric(Decimal::from_units(sums.usd), sums.usd_scale);
  values[kRollupRub] = decimal_to_numeric(Decimal::from_units(sums.rub), sums.rub_scale);
  values[11] = Int64GetDatum(sums.unpriced);
  values[12] = number(sums.ms_sum);
  values[13] = Int64GetDatum(sums.ms_count);
}

}  // namespace token_usage
