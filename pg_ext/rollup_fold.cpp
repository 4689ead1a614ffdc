// _token_usage_rollup_fold: what a ledger's token_usage_rollup_fold() computes, added up in
// integers (rollup_fold.h), by statements whose plans are kept (kept_query.h): one takes the deltas
// and one reads the rows, in one snapshot; one adds the sums to what is stored. In SQL, the numeric
// sums of three grouping sets take most of the time that a seal costs.
#include <cstdint>
#include <cstring>

#include "guard.h"
#include "kept_query.h"
#include "owned.h"
#include "rollup_fold.h"
#include "rollup_row.h"

extern "C" {
#include <access/xact.h>
#include <utils/snapmgr.h>
}

namespace token_usage {

namespace {

// Which statement of a ledger.
struct Shape {
  char part[7];  // of _token_usage_rollup_fold_sql
};
constexpr Shape kDeltas = {"deltas"};
constexpr Shape kRows = {"rows"};
constexpr Shape kMerge = {"merge"};

char *text_of(const KeptKey &key) {
  Shape shape;
  std::memcpy(&shape, key.shape, sizeof shape);
  Oid types[] = {OIDOID, TEXTOID};
  Datum values[] = {ObjectIdGetDatum(key.ledger), CStringGetTextDatum(shape.part)};
  return ask_for_text(key, "SELECT %s._token_usage_rollup_fold_sql($1, $2)", 2, types, values);
}

// Of the rows, and of the deltas: $1 user id as text, $2 and $3 their range.
SPIPlanPtr prepare_range(const KeptKey &key) {
  Oid types[] = {TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID};
  return prepare_text(text_of(key), 3, types, CURSOR_OPT_GENERIC_PLAN);
}

SPIPlanPtr prepare_merge(const KeptKey &key) {
  Oid types[kRollupColumns + 1] = {TEXTOID};
  for (int i = 0; i < kRollupColumns; ++i) {
    types[i + 1] = get_array_type(kRollupTypes[i]);
  }
  return prepare_text(text_of(key), kRollupColumns + 1, types, CURSOR_OPT_GENERIC_PLAN);
}

// Whether these are the columns of rows, or with a sign behind them those of deltas.
void check_columns(TupleDesc columns, int more) {
  bool same = columns->natts == kRowColumns + more;
  for (int i = 0; same && i < kRowColumns; ++i) {
    same = is_row_type(TupleDescAttr(columns, i)->atttypid, kRowTypes[i]);
  }
  if (!same || (more > 0 && TupleDescAttr(columns, kRowColumns)->atttypid != INT2OID)) {
    elog(ERROR, "token_usage: the rows of a seal have other columns");
  }
}

void add_row(RollupFold *fold, const Datum *values, const bool *nulls, int sign) {
  LedgerRow ledger_row;
  ledger_row.open(values, nulls);
  guarded([fold, sign, &ledger_row] { fold->add(ledger_row.row, sign); });
  ledger_row.close();
}

// Where the executor puts the ledger's rows.
struct Receiver {
  DestReceiver base;  // the server wants it first
  RollupFold *fold;
};

void start(DestReceiver *, int, TupleDesc columns) {
  check_columns(columns, 0);
}

bool receive(TupleTableSlot *slot, DestReceiver *self) {
  slot_getallattrs(slot);
  add_row(reinterpret_cast<Receiver *>(self)->fold, slot->tts_values, slot->tts_isnull, 1);
  return true;
}

void read_rows(const KeptKey &key, const Datum *values, RollupFold *fold) {
  Portal const portal = open_kept(key, prepare_range, values);
  Receiver receiver = {destination(start, receive), fold};
  PortalRunFetch(portal, FETCH_FORWARD, FETCH_ALL, &receiver.base);
  SPI_cursor_close(portal);
}

// Takes the deltas of the month and adds those that are older than the rows.
void take_deltas(const KeptKey &key, const Datum *values, TimestampTz from, RollupFold *fold) {
  execute_kept(key, prepare_range, values, GetActiveSnapshot());
  TupleDesc const columns = SPI_tuptable->tupdesc;
  check_columns(columns, 1);
  Datum cells[kRowColumns + 1];
  bool nulls[kRowColumns + 1];
  for (std::uint64_t i = 0; i < SPI_processed; ++i) {
    heap_deform_tuple(SPI_tuptable->vals[i], columns, cells, nulls);
    if (DatumGetTimestampTz(cells[0]) < from) {
      add_row(fold, cells, nulls, DatumGetInt16(cells[kRowColumns]));
    }
  }
  SPI_freetuptable(SPI_tuptable);
}

// The sums as the arrays that the statement takes, from values[1] on.
void fill_columns(RollupFold *fold, const BulkSums *sums, std::size_t count, Datum *values) {
  KeyTexts texts[3];
  for (int dimension = 0; dimension <= 2; ++dimension) {
    texts[dimension].make(dimension, fold->dictionary(dimension));
  }
  auto *const cells = static_cast<Datum *>(
      palloc_extended(kRollupColumns * count * sizeof(Datum), MCXT_ALLOC_HUGE));
  for (std::size_t i = 0; i < count; ++i) {
    Datum columns[kRollupColumns];
    fill_rollup_row(sums[i], texts[sums[i].dimension], columns);
    for (int column = 0; column < kRollupColumns; ++column) {
      cells[static_cast<std::size_t>(column) * count + i] = columns[column];
    }
  }
  for (int column = 0; column < kRollupColumns; ++column) {
    values[column + 1] =
        array_of(cells + static_cast<std::size_t>(column) * count, count, kRollupTypes[column]);
  }
}

}  // namespace

extern "C" {

// _token_usage_rollup_fold(ledger oid, user_id text, month timestamptz, from_at timestamptz, to_at
// timestamptz, flags smallint)
PG_FUNCTION_INFO_V1(token_usage_rollup_fold);
PGDLLEXPORT Datum token_usage_rollup_fold(PG_FUNCTION_ARGS) {
  const std::int64_t month = PG_GETARG_TIMESTAMPTZ(2);
  const int flags = PG_GETARG_INT16(5);
  if (SPI_connect() != SPI_OK_CONNECT) {
    elog(ERROR, "token_usage: SPI_connect failed");
  }
  auto *const slot = Owned<RollupFold>::create();
  RollupFold *const fold = slot->fill([=] { return new RollupFold(month, flags); });
  const KeptKey key = kept_key(fcinfo, PG_GETARG_OID(0), kMerge);
  // A row and the deltas of its changes are seen together or not at all.
  CommandCounterIncrement();
  PushActiveSnapshot(GetTransactionSnapshot());
  const Datum of_deltas[] = {PG_GETARG_DATUM(1), PG_GETARG_DATUM(2), PG_GETARG_DATUM(4)};
  take_deltas(kept_key(fcinfo, PG_GETARG_OID(0), kDeltas), of_deltas, PG_GETARG_TIMESTAMPTZ(3),
              fold);
  const Datum of_rows[] = {PG_GETARG_DATUM(1), PG_GETARG_DATUM(3), PG_GETARG_DATUM(4)};
  if (PG_GETARG_TIMESTAMPTZ(3) < PG_GETARG_TIMESTAMPTZ(4)) {
    read_rows(kept_key(fcinfo, PG_GETARG_OID(0), kRows), of_rows, fold);
  }
  PopActiveSnapshot();
  const auto *const sums = guarded([fold] { return &fold->sums(); });
  if (!sums->empty()) {
    Datum values[kRollupColumns + 1] = {PG_GETARG_DATUM(1)};
    fill_columns(fold, sums->data(), sums->size(), values);
    execute_kept(key, prepare_merge, values, InvalidSnapshot);
  }
  slot->clear();
  SPI_finish();
  PG_RETURN_VOID();
}

}  // extern "C"

}  // namespace token_usage
