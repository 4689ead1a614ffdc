// What seals, in C++: the numeric sums of three grouping sets take most of the time of it in SQL.
// Sums are added up in integers (rollup_fold.h), and added to what is stored by a statement whose
// plan is kept (kept_query.h).
//
// _token_usage_rollup_fold is what a ledger's token_usage_rollup_fold() computes: one kept
// statement takes the deltas and one reads the rows, in one snapshot. What a visit seals in its
// most frequent form (rollup_visit.cpp) is read without a query.
#include <cstdint>
#include <cstring>

#include "guard.h"
#include "kept_query.h"
#include "owned.h"
#include "rollup_fold.h"
#include "rollup_row.h"
#include "rollup_seal.h"

extern "C" {
#include <access/relation.h>
#include <access/xact.h>
#include <utils/rel.h>
#include <utils/snapmgr.h>
}

namespace token_usage {

namespace {

// Which statement of _token_usage_rollup_fold_sql: the shape of a kept query.
struct FoldPart {
  char name[7];
};
constexpr FoldPart kDeltas = {"deltas"};
constexpr FoldPart kRows = {"rows"};
constexpr FoldPart kMerge = {"merge"};
constexpr FoldPart kPlain = {"plain"};

SPIPlanPtr prepare_fold_part(const KeptKey &key, int count, Oid *types) {
  FoldPart part;
  std::memcpy(&part, key.shape, sizeof part);
  Oid of_text[] = {OIDOID, TEXTOID};
  Datum values[] = {ObjectIdGetDatum(key.ledger), CStringGetTextDatum(part.name)};
  return prepare_text(
      ask_for_text(key, "SELECT %s._token_usage_rollup_fold_sql($1, $2)", 2, of_text, values),
      count, types, CURSOR_OPT_GENERIC_PLAN);
}

// Of the rows, and of the deltas: $1 user id as text, $2 and $3 their range.
SPIPlanPtr prepare_range(const KeptKey &key) {
  Oid types[] = {TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID};
  return prepare_fold_part(key, 3, types);
}

// $1 user id as text, $2 and $3 the range, $4 how many rows at most are in it.
SPIPlanPtr prepare_plain(const KeptKey &key) {
  Oid types[] = {TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT4OID};
  return prepare_fold_part(key, 4, types);
}

SPIPlanPtr prepare_merge(const KeptKey &key) {
  Oid types[kRollupColumns + 1] = {TEXTOID};
  for (int i = 0; i < kRollupColumns; ++i) {
    types[i + 1] = get_array_type(kRollupTypes[i]);
  }
  return prepare_fold_part(key, kRollupColumns + 1, types);
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

// Adds the sums to what is stored.
void merge(FunctionCallInfo fcinfo, Oid ledger, Datum user, RollupFold *fold) {
  const auto *const sums = guarded([fold] { return &fold->sums(); });
  if (!sums->empty()) {
    Datum values[kRollupColumns + 1] = {user};
    fill_columns(fold, sums->data(), sums->size(), values);
    execute_kept(kept_key(fcinfo, ledger, kMerge), prepare_merge, values, InvalidSnapshot);
  }
}

// Adds the rows of a scan up; how many there are.
std::int64_t add_rows(const UserScan &scan, const FewLayout &layout, RollupFold *fold) {
  // In the order of kRowTypes.
  constexpr FewColumn columns[kRowColumns] = {kCreated,    kAgent, kProvider, kModel, kPrompt,
                                              kCompletion, kTotal, kUsd,      kRub,   kExecution};
  std::int64_t rows = 0;
  while (index_getnext_slot(scan.scan, ForwardScanDirection, scan.slot)) {
    CHECK_FOR_INTERRUPTS();
    slot_getsomeattrs(scan.slot, layout.last);
    Datum values[kRowColumns];
    bool nulls[kRowColumns];
    for (int i = 0; i < kRowColumns; ++i) {
      const int at = layout.columns[columns[i]] - 1;
      values[i] = scan.slot->tts_values[at];
      nulls[i] = scan.slot->tts_isnull[at];
      if (kRowTypes[i] == INT8OID && !nulls[i]) {
        values[i] = Int64GetDatum(integer_of(layout.types[columns[i]], values[i]));
      }
    }
    add_row(fold, values, nulls, 1);
    ++rows;
  }
  return rows;
}

// The month of the range and what of it is rolled, where the seal of it is plain.
bool find_plain_month(const KeptKey &key, const Datum *values, TimestampTz *month, int *flags) {
  execute_kept(key, prepare_plain, values, GetActiveSnapshot());
  const bool found = SPI_processed == 1;
  if (found) {
    bool null = false;
    *month =
        DatumGetTimestampTz(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null));
    *flags = DatumGetInt16(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &null));
  }
  SPI_freetuptable(SPI_tuptable);
  return found;
}

}  // namespace

bool is_plain(Relation ledger, FewLayout *layout) {
  return is_open(RelationGetRelid(ledger)) && find_user_layout(ledger, layout) &&
         layout->types[kUsd] == NUMERICOID && layout->types[kRub] == NUMERICOID &&
         is_integer(layout->types[kExecution]);
}

std::int64_t seal_rows(FunctionCallInfo fcinfo, Relation ledger, const FewLayout &layout,
                       text *user, TimestampTz from, TimestampTz until, int waiting) {
  Oid const oid = RelationGetRelid(ledger);
  const Datum range[] = {PointerGetDatum(user), TimestampTzGetDatum(from),
                         TimestampTzGetDatum(until), Int32GetDatum(waiting)};
  UserScan scan;
  TimestampTz month = 0;
  int flags = 0;
  // That there is no delta, and which rows there are, is to be seen together.
  CommandCounterIncrement();
  PushActiveSnapshot(GetTransactionSnapshot());
  if (!find_plain_month(kept_key(fcinfo, oid, kPlain), range, &month, &flags) ||
      !open_user_scan(ledger, layout, user, from, until, &scan)) {
    PopActiveSnapshot();
    return kNotPlain;
  }
  auto *const slot = Owned<RollupFold>::create();
  RollupFold *const fold = slot->fill([=] { return new RollupFold(month, flags); });
  const std::int64_t rows = add_rows(scan, layout, fold);
  close_user_scan(&scan);
  PopActiveSnapshot();
  merge(fcinfo, oid, PointerGetDatum(user), fold);
  slot->clear();
  return rows;
}

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
  merge(fcinfo, PG_GETARG_OID(0), PG_GETARG_DATUM(1), fold);
  slot->clear();
  SPI_finish();
  PG_RETURN_VOID();
}

}  // extern "C"

}  // namespace token_usage
