// _token_usage_rollup_bulk: makes the rollup rows of one month of a ledger, for
// token_usage_rebuild(). In SQL, two readings and the numeric sums of three grouping sets take most
// of the time. This function reads the rows once through a portal, adds up in 128-bit integers
// (rollup_bulk.h) and returns what the ledger's own statement would compute, in the order of the
// rollup's primary key.
//
// It runs two queries that its caller gives, as that caller and in the snapshot of the statement
// that calls it, and reaches nothing else. Memory is bounded: past the limit it starts again and
// takes a part of the users at a time.
#include <cstdint>
#include <cstring>

#include "guard.h"
#include "money.h"
#include "owned.h"
#include "rollup_bulk.h"

extern "C" {
#include <tcop/dest.h>
#include <tcop/pquery.h>
#include <utils/timestamp.h>
#include <utils/uuid.h>
}

namespace token_usage {

namespace {

constexpr std::uint32_t kMostParts = 1024;

// What the query for rows returns, after the user.
constexpr Oid kRowTypes[] = {TIMESTAMPTZOID, TEXTOID, TEXTOID,    TEXTOID,    INT8OID,
                             INT8OID,        INT8OID, NUMERICOID, NUMERICOID, INT8OID};
// What this function returns, after the user: kind, bucket, key1, key2, nulls, requests, prompt,
// completion, total, usd, rub, unpriced, ms_sum, ms_count.
constexpr Oid kResultTypes[] = {INT2OID,    TIMESTAMPTZOID, TEXTOID, TEXTOID, INT2OID,
                                INT8OID,    INT8OID,        INT8OID, INT8OID, NUMERICOID,
                                NUMERICOID, INT8OID,        INT8OID, INT8OID};
constexpr int kResults = 15;

template <std::size_t size>
void check_types(TupleDesc have, Oid user_type, const Oid (&rest)[size], const char *what) {
  bool same =
      have->natts == static_cast<int>(size) + 1 && TupleDescAttr(have, 0)->atttypid == user_type;
  for (int i = 1; same && i < have->natts; ++i) {
    same = TupleDescAttr(have, i)->atttypid == rest[i - 1];
  }
  if (!same) {
    ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
                    errmsg("_token_usage_rollup_bulk: other columns than it takes in %s", what)));
  }
}

// Where the executor puts the ledger's rows.
struct Receiver {
  DestReceiver base;  // the server wants it first
  RollupBulk *bulk;
  Oid user_type;
  bool full;
};

// A text or a copy of it that is not toasted.
struct Detoasted {
  struct varlena *value = nullptr;
  bool copied = false;

  BulkText open(TupleTableSlot *slot, int column) {
    if (slot->tts_isnull[column]) {
      return {};
    }
    value = PG_DETOAST_DATUM_PACKED(slot->tts_values[column]);
    copied = reinterpret_cast<Pointer>(value) != DatumGetPointer(slot->tts_values[column]);
    return {VARDATA_ANY(value), static_cast<std::size_t>(VARSIZE_ANY_EXHDR(value))};
  }
  void close() {
    if (copied) {
      pfree(value);
    }
  }
};

BulkCost cost(TupleTableSlot *slot, int column, const char *name) {
  BulkCost out;
  if (slot->tts_isnull[column]) {
    return out;
  }
  const Datum value = slot->tts_values[column];
  if (const auto decimal = decimal_from_datum(value, NUMERICOID, name)) {
    out.units = decimal->units();
    out.scale = static_cast<std::uint8_t>(numeric_display_scale(value));
    out.present = true;
  }
  return out;
}

void start(DestReceiver *self, int, TupleDesc columns) {
  check_types(columns, reinterpret_cast<Receiver *>(self)->user_type, kRowTypes, "the rows");
}

bool receive(TupleTableSlot *slot, DestReceiver *self) {
  auto *const receiver = reinterpret_cast<Receiver *>(self);
  slot_getallattrs(slot);
  if (slot->tts_isnull[0]) {
    return true;  // nobody's
  }
  BulkRow row;
  Detoasted texts[4];
  std::int64_t number = 0;
  switch (receiver->user_type) {
    case INT8OID:
      number = DatumGetInt64(slot->tts_values[0]);
      row.user = {reinterpret_cast<const char *>(&number), sizeof number};
      break;
    case UUIDOID:
      row.user = {DatumGetPointer(slot->tts_values[0]), UUID_LEN};
      break;
    default:
      row.user = texts[0].open(slot, 0);
  }
  row.at = DatumGetTimestampTz(slot->tts_values[1]);
  row.agent = texts[1].open(slot, 2);
  row.provider = texts[2].open(slot, 3);
  row.model = texts[3].open(slot, 4);
  row.prompt = DatumGetInt64(slot->tts_values[5]);
  row.completion = DatumGetInt64(slot->tts_values[6]);
  row.total = DatumGetInt64(slot->tts_values[7]);
  row.usd = cost(slot, 8, "cost_usd");
  row.rub = cost(slot, 9, "cost_rub");
  row.has_ms = !slot->tts_isnull[10];
  row.ms = row.has_ms ? DatumGetInt64(slot->tts_values[10]) : 0;
  RollupBulk *const bulk = receiver->bulk;
  receiver->full = !guarded([bulk, &row] { return bulk->add(row); });
  for (Detoasted &text : texts) {
    text.close();
  }
  return !receiver->full;
}

void nothing(DestReceiver *) {}

// The arguments of _token_usage_rollup_bulk.
struct Order {
  const char *rows;
  const char *flags;
  Datum from_at;
  Datum to_at;
  Datum month;
  Datum before;
  bool has_before;
  std::size_t limit;
};

// Reads the rows of one part of the users. False where they are too many.
bool load(RollupBulk *bulk, Oid user_type, const Order &order) {
  Receiver receiver;
  std::memset(&receiver, 0, sizeof receiver);
  receiver.base.rStartup = start;
  receiver.base.receiveSlot = receive;
  receiver.base.rShutdown = nothing;
  receiver.base.rDestroy = nothing;
  receiver.base.mydest = DestNone;
  receiver.bulk = bulk;
  receiver.user_type = user_type;
  Oid types[] = {TIMESTAMPTZOID, TIMESTAMPTZOID};
  Datum values[] = {order.from_at, order.to_at};
  Portal const portal =
      SPI_cursor_open_with_args(nullptr, order.rows, 2, types, values, nullptr, true, 0);
  if (portal == nullptr) {
    elog(ERROR, "token_usage: %s", SPI_result_code_string(SPI_result));
  }
  PortalRunFetch(portal, FETCH_FORWARD, FETCH_ALL, &receiver.base);
  SPI_cursor_close(portal);
  return !receiver.full;
}

Datum user_datum(RollupBulk *bulk, std::size_t u, Oid type) {
  const char *const bytes = bulk->user(u).data();
  if (type == INT8OID) {
    std::int64_t number = 0;
    std::memcpy(&number, bytes, sizeof number);
    return Int64GetDatum(number);
  }
  if (type == UUIDOID) {
    void *const uuid = palloc(UUID_LEN);
    std::memcpy(uuid, bytes, UUID_LEN);
    return PointerGetDatum(uuid);
  }
  return PointerGetDatum(cstring_to_text_with_len(bytes, static_cast<int>(bulk->user(u).size())));
}

Datum array_of(Datum *values, std::size_t count, Oid type) {
  std::int16_t length = 0;
  bool by_value = false;
  char align = 0;
  get_typlenbyvalalign(type, &length, &by_value, &align);
  return PointerGetDatum(
      construct_array(values, static_cast<int>(count), type, length, by_value, align));
}

// What is to be rolled of each user, by the ledger's own rule: asks the query for flags, which gets
// users, their rows, their groups and the month before, and returns numbers from 1 and flags.
int *ask_flags(RollupBulk *bulk, Datum *users, Oid user_type, const Order &order) {
  const std::size_t count = bulk->users();
  auto *const rows = static_cast<Datum *>(palloc(count * sizeof(Datum)));
  auto *const groups = static_cast<Datum *>(palloc(count * sizeof(Datum)));
  for (std::size_t u = 0; u < count; ++u) {
    rows[u] = Int64GetDatum(bulk->rows(u));
    groups[u] = Int64GetDatum(guarded([=] { return bulk->groups(u); }));
  }
  Oid const numbers = get_array_type(INT8OID);
  Oid types[] = {get_array_type(user_type), numbers, numbers, TIMESTAMPTZOID};
  Datum values[] = {array_of(users, count, user_type), array_of(rows, count, INT8OID),
                    array_of(groups, count, INT8OID), order.before};
  const char nulls[] = {' ', ' ', ' ', order.has_before ? ' ' : 'n'};
  const int code = SPI_execute_with_args(order.flags, 4, types, values, nulls, true, 0);
  if (code != SPI_OK_SELECT) {
    elog(ERROR, "token_usage: %s", SPI_result_code_string(code));
  }
  constexpr Oid kFlags[] = {INT2OID};
  check_types(SPI_tuptable->tupdesc, INT8OID, kFlags, "the flags");
  auto *const flags = static_cast<int *>(palloc0(count * sizeof(int)));
  for (std::uint64_t i = 0; i < SPI_processed; ++i) {
    bool no_number = false;
    bool no_flags = false;
    HeapTuple const tuple = SPI_tuptable->vals[i];
    const std::int64_t u =
        DatumGetInt64(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 1, &no_number)) - 1;
    const int value = DatumGetInt16(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 2, &no_flags));
    if (!no_number && !no_flags && u >= 0 && u < static_cast<std::int64_t>(count)) {
      flags[u] = value;
    }
  }
  SPI_freetuptable(SPI_tuptable);
  return flags;
}

// The keys of agents or models as text values.
struct KeyTexts {
  Datum *key1;
  Datum *key2;

  void make(RollupBulk *bulk, int dimension) {
    const std::size_t count = bulk->keys(dimension);
    key1 = static_cast<Datum *>(palloc((count + 1) * sizeof(Datum)));
    key2 = static_cast<Datum *>(palloc((count + 1) * sizeof(Datum)));
    const auto text = [](const std::string &key) {
      return PointerGetDatum(cstring_to_text_with_len(key.data(), static_cast<int>(key.size())));
    };
    for (std::size_t i = 0; i < count; ++i) {
      key1[i] = text(bulk->keys(dimension, i).key1);
      key2[i] = text(bulk->keys(dimension, i).key2);
    }
  }
};

void store_sums(Tuplestorestate *store, TupleDesc desc, Datum user, RollupBulk *bulk,
                const KeyTexts *keys, const BulkSums &sums) {
  bool nulls[kResults] = {};
  const Measures &measures = sums.measures;
  const bool grouped = sums.dimension > 0;
  const KeyTexts &texts = keys[sums.dimension];
  Datum const usd = decimal_to_numeric(measures.cost_usd, sums.usd_scale);
  Datum const rub = decimal_to_numeric(measures.cost_rub, sums.rub_scale);
  Datum values[kResults] = {
      user,
      Int16GetDatum(static_cast<std::int16_t>(sums.tier * 10 + sums.dimension)),
      TimestampTzGetDatum(sums.bucket),
      texts.key1[sums.group],
      texts.key2[sums.group],
      Int16GetDatum(
          static_cast<std::int16_t>(grouped ? bulk->keys(sums.dimension, sums.group).nulls : 0)),
      Int64GetDatum(measures.requests_count),
      Int64GetDatum(sums.prompt),
      Int64GetDatum(sums.completion),
      Int64GetDatum(sums.total),
      usd,
      rub,
      Int64GetDatum(measures.unpriced_count),
      Int64GetDatum(sums.ms_sum),
      Int64GetDatum(measures.execution_ms_count)};
  tuplestore_putvalues(store, desc, values, nulls);
  pfree(DatumGetPointer(usd));
  pfree(DatumGetPointer(rub));
}

// Rolls up what was read. A row of kind 0 tells what is rolled of a user: its flags stand where
// requests do.
void store_users(Tuplestorestate *store, TupleDesc desc, RollupBulk *bulk, const Order &order) {
  Oid const user_type = TupleDescAttr(desc, 0)->atttypid;
  guarded([bulk] { bulk->finish(); });
  const std::size_t count = bulk->users();
  if (count == 0) {
    return;
  }
  auto *const users = static_cast<Datum *>(palloc(count * sizeof(Datum)));
  for (std::size_t u = 0; u < count; ++u) {
    users[u] = user_datum(bulk, u, user_type);
  }
  const int *const flags = ask_flags(bulk, users, user_type, order);
  Datum empty = PointerGetDatum(cstring_to_text_with_len("", 0));
  KeyTexts keys[3] = {{&empty, &empty}, {nullptr, nullptr}, {nullptr, nullptr}};
  keys[1].make(bulk, 1);
  keys[2].make(bulk, 2);
  const std::int64_t month = DatumGetTimestampTz(order.month);
  for (std::size_t u = 0; u < count; ++u) {
    CHECK_FOR_INTERRUPTS();
    if (flags[u] == 0) {
      continue;
    }
    const int wanted = flags[u];
    BulkSums mark;
    mark.bucket = month;
    mark.measures.requests_count = wanted;
    store_sums(store, desc, users[u], bulk, keys, mark);
    const auto *const rolled = guarded([=] { return &bulk->roll(u, wanted, month); });
    for (const BulkSums &sums : *rolled) {
      store_sums(store, desc, users[u], bulk, keys, sums);
    }
  }
}

// The memory that months of one rebuild share: it lives until the transaction ends.
RollupBulk::Pool *shared_pool() {
  static RollupBulk::Pool *pool = nullptr;
  if (pool == nullptr) {
    MemoryContext const outer = MemoryContextSwitchTo(TopTransactionContext);
    auto *const slot = Owned<RollupBulk::Pool>::create();
    auto *const end = static_cast<MemoryContextCallback *>(palloc0(sizeof(MemoryContextCallback)));
    end->func = [](void *) { pool = nullptr; };
    MemoryContextRegisterResetCallback(TopTransactionContext, end);
    MemoryContextSwitchTo(outer);
    pool = slot->fill([] { return new RollupBulk::Pool; });
  }
  return pool;
}

}  // namespace

extern "C" {

// _token_usage_rollup_bulk(rows text, flags text, from_at, to_at, month, before timestamptz, memory
// bigint)
PG_FUNCTION_INFO_V1(token_usage_rollup_bulk);
PGDLLEXPORT Datum token_usage_rollup_bulk(PG_FUNCTION_ARGS) {
  auto *const result = reinterpret_cast<ReturnSetInfo *>(fcinfo->resultinfo);
  if (result == nullptr || !IsA(result, ReturnSetInfo) || result->expectedDesc == nullptr ||
      (result->allowedModes & SFRM_Materialize) == 0) {
    ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                    errmsg("_token_usage_rollup_bulk is called where no set of rows is accepted")));
  }
  for (int i = 0; i < 7; ++i) {
    if (PG_ARGISNULL(i) && i != 5) {
      ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
                      errmsg("only `before` of _token_usage_rollup_bulk may be NULL")));
    }
  }
  Order order;
  order.rows = text_to_cstring(PG_GETARG_TEXT_PP(0));
  order.flags = text_to_cstring(PG_GETARG_TEXT_PP(1));
  order.from_at = PG_GETARG_DATUM(2);
  order.to_at = PG_GETARG_DATUM(3);
  order.month = PG_GETARG_DATUM(4);
  order.has_before = !PG_ARGISNULL(5);
  order.before = order.has_before ? PG_GETARG_DATUM(5) : Datum{0};
  order.limit = static_cast<std::size_t>(PG_GETARG_INT64(6));

  MemoryContext const outer = MemoryContextSwitchTo(result->econtext->ecxt_per_query_memory);
  TupleDesc const desc = CreateTupleDescCopy(result->expectedDesc);
  Oid const user_type = desc->natts > 0 ? TupleDescAttr(desc, 0)->atttypid : InvalidOid;
  if (user_type != INT8OID && user_type != UUIDOID && user_type != TEXTOID) {
    ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
                    errmsg("_token_usage_rollup_bulk: a user is bigint, text or uuid")));
  }
  check_types(desc, user_type, kResultTypes, "the result");
  Tuplestorestate *const store =
      tuplestore_begin_heap((result->allowedModes & SFRM_Materialize_Random) != 0, false, work_mem);
  MemoryContextSwitchTo(outer);

  if (SPI_connect() != SPI_OK_CONNECT) {
    elog(ERROR, "token_usage: SPI_connect failed");
  }
  RollupBulk::Pool *const pool = shared_pool();
  auto *const slot = Owned<RollupBulk>::create();
  MemoryContext const scratch =
      AllocSetContextCreate(CurrentMemoryContext, "token_usage rollup", ALLOCSET_DEFAULT_SIZES);
  std::uint32_t parts = 1;
  for (std::uint32_t part = 0; part < parts;) {
    slot->clear();
    const std::size_t limit = order.limit;
    RollupBulk *const bulk = slot->fill([=] { return new RollupBulk(limit, part, parts, *pool); });
    if (!load(bulk, user_type, order)) {
      if (parts >= kMostParts) {
        ereport(ERROR,
                (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
                 errmsg("token_usage: a month of one user is too large to be added up in memory")));
      }
      parts *= 4;
      part = 0;
      tuplestore_clear(store);
      continue;
    }
    MemoryContext const before = MemoryContextSwitchTo(scratch);
    store_users(store, desc, bulk, order);
    MemoryContextSwitchTo(before);
    MemoryContextReset(scratch);
    ++part;
  }
  slot->clear();
  result->returnMode = SFRM_Materialize;
  result->setResult = store;
  result->setDesc = desc;
  SPI_finish();
  PG_RETURN_NULL();
}

}  // extern "C"

}  // namespace token_usage
