// A visit as a commit makes it, in C++: what a ledger's token_usage_rollup_visit() does in its most
// frequent cases, where nothing is to be done yet, or only rows are to be sealed whose month stays
// rolled as it is.
//
// A visit is rare, so whatever code and memory it needs has grown cold, and in a new session each
// of its queries is to be planned; that takes longer than the work. So how far a user is rolled is
// read here without a query, and what waits is counted by the index alone. What is to be decided
// under a lock is left to the functions of the ledger.
#include <cstdint>
#include <cstring>
#include <initializer_list>

#include "plain_table.h"
#include "rollup_seal.h"

extern "C" {
#include <access/genam.h>
#include <access/htup_details.h>
#include <access/relation.h>
#include <access/xact.h>
#include <catalog/pg_am.h>
#include <catalog/pg_index.h>
#include <utils/rel.h>
#include <utils/snapmgr.h>
#include <utils/uuid.h>
}

namespace token_usage {

namespace {

constexpr char kUsers[] = "token_usage_rollup_user";

// By what the ledger's functions decide: numbers of rows, and a time.
struct Limits {
  int most;           // to seal at once
  int pays;           // so many make a seal worth it
  int late;           // so many deltas a fold
  int of_user;        // from so many on a user is rolled
  TimestampTz guard;  // if it is older it is to be raised
};

// How far a user is rolled.
struct Standing {
  bool in_force;  // an epoch
  bool met;       // is there a row about the user
  bool known;     // in this epoch
  bool guard_due;
  pg_uuid_t epoch;
  TimestampTz sealed;
  TimestampTz until;  // as far as he may be sealed
};

// A column that is read here. The user is of one of three types, see each_row_of().
struct Column {
  const char *name;
  Oid type;
};

// A table that is derived from the ledger, if the caller may read it and it is what migrate makes:
// whoever has a ledger may have anything under these names. None else.
Relation open_derived(Relation ledger, const char *name, std::initializer_list<Column> columns) {
  Oid const space = RelationGetNamespace(ledger);
  Oid const oid = get_relname_relid(name, space);
  if (!OidIsValid(oid) || !is_open(oid) || !is_plain_table(oid, name, space)) {
    return nullptr;
  }
  Relation const table = relation_open(oid, NoLock);
  TupleDesc const found = RelationGetDescr(table);
  bool good = !table->rd_rel->relhassubclass;
  for (const Column &column : columns) {
    const AttrNumber number = attribute(found, column.name);
    good = good && number != InvalidAttrNumber &&
           TupleDescAttr(found, number - 1)->atttypid == column.type;
  }
  if (!good) {
    relation_close(table, NoLock);
    return nullptr;
  }
  return table;
}

// An index of all rows that begins with the user; none where there is none.
Oid index_of_user(Relation table) {
  const AttrNumber user = attribute(RelationGetDescr(table), "user_id");
  Oid found = InvalidOid;
  List *const indexes = RelationGetIndexList(table);
  ListCell *cell = nullptr;
  foreach (cell, indexes) {
    Relation const index = index_open(lfirst_oid(cell), AccessShareLock);
    if (!OidIsValid(found) && index->rd_rel->relam == BTREE_AM_OID && index->rd_index->indisvalid &&
        !index->rd_index->indcheckxmin && index->rd_index->indkey.values[0] == user &&
        heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, nullptr)) {
      found = RelationGetRelid(index);
    }
    index_close(index, AccessShareLock);
  }
  list_free(indexes);
  return found;
}

// A column of a row by its name, one of those for which the table was opened.
struct Cell {
  Datum value;
  bool null;
};
Cell cell_of(Relation table, HeapTuple row, const char *name) {
  TupleDesc const columns = RelationGetDescr(table);
  Cell cell = {0, true};
  cell.value = heap_getattr(row, attribute(columns, name), columns, &cell.null);
  return cell;
}

// Calls `take` with each row that the active snapshot sees, until it returns false.
template <typename Take>
void each_row(Relation table, Oid index, int keys, ScanKeyData *key, Take take) {
  SysScanDesc const scan =
      systable_beginscan(table, index, OidIsValid(index), GetActiveSnapshot(), keys, key);
  for (HeapTuple row = systable_getnext(scan); HeapTupleIsValid(row) && take(row);
       row = systable_getnext(scan)) {
    CHECK_FOR_INTERRUPTS();
  }
  systable_endscan(scan);
}

// The same of one user; false where only a query can tell who that is.
template <typename Take>
bool each_row_of(text *user, Relation table, Take take) {
  const AttrNumber column = attribute(RelationGetDescr(table), "user_id");
  Oid const index = index_of_user(table);
  if (column == InvalidAttrNumber || !OidIsValid(index)) {
    return false;
  }
  Form_pg_attribute const form = TupleDescAttr(RelationGetDescr(table), column - 1);
  Datum value = 0;
  if (form->atttypid != INT8OID && form->atttypid != TEXTOID && form->atttypid != UUIDOID) {
    return false;
  }
  if (!user_value(user, form->atttypid, &value)) {
    return false;
  }
  ScanKeyData key;
  user_key(&key, column, form->atttypid, form->attcollation, value);
  each_row(table, index, 1, &key, take);
  return true;
}

// The epoch in force, as {epoch} of _token_usage_rollup_text() says it.
void find_epoch(Relation ledger, Relation epochs, Standing *standing) {
  int rows = 0;
  each_row(epochs, InvalidOid, 0, nullptr, [&](HeapTuple row) {
    ++rows;
    const Cell epoch = cell_of(epochs, row, "epoch");
    const Cell of = cell_of(epochs, row, "ledger");
    const Cell filenode = cell_of(epochs, row, "filenode");
    const Cell stamp = cell_of(epochs, row, "stamp");
    if (!epoch.null && !of.null && !filenode.null && !stamp.null) {
      char *const transaction = psprintf("%u", HeapTupleHeaderGetRawXmin(row->t_data));
      standing->in_force = DatumGetObjectId(of.value) == RelationGetRelid(ledger) &&
                           DatumGetObjectId(filenode.value) == ledger->rd_rel->relfilenode &&
                           std::strcmp(TextDatumGetCString(stamp.value), transaction) == 0;
      standing->epoch = *DatumGetUUIDP(epoch.value);
    }
    return true;
  });
  standing->in_force = standing->in_force && rows == 1;
}

bool same(const pg_uuid_t &a, const Cell &b) {
  return !b.null && std::memcmp(&a, DatumGetUUIDP(b.value), sizeof a) == 0;
}

// The tables of a ledger that tell of it.
struct Derived {
  Relation epochs;
  Relation states;
  Relation users;
  Relation deltas;
};

bool find_standing(Relation ledger, const Derived &derived, text *user, const Limits &limits,
                   Standing *standing) {
  std::memset(standing, 0, sizeof *standing);
  find_epoch(ledger, derived.epochs, standing);
  const bool told = each_row_of(user, derived.users, [&](HeapTuple row) {
    standing->met = true;
    const Cell sealed = cell_of(derived.users, row, "sealed_until");
    standing->known = same(standing->epoch, cell_of(derived.users, row, "epoch")) && !sealed.null;
    standing->sealed = DatumGetTimestampTz(sealed.value);
    return false;
  });
  standing->until = standing->sealed;
  standing->guard_due = true;
  each_row(derived.states, InvalidOid, 0, nullptr, [&](HeapTuple row) {
    if (!same(standing->epoch, cell_of(derived.states, row, "epoch"))) {
      return true;
    }
    const Cell confirmed = cell_of(derived.states, row, "confirmed");
    if (!confirmed.null) {
      const TimestampTz at = DatumGetTimestampTz(confirmed.value);
      standing->guard_due = !cell_of(derived.states, row, "horizon").null || at < limits.guard;
      standing->until = at > standing->sealed ? at : standing->sealed;
    }
    return false;
  });
  return told && standing->in_force;
}

// How many rows of [from, until) there are, up to one more than `most`; rows that are dead may
// count.
int count_rows(Relation ledger, const FewLayout &layout, text *user, TimestampTz from,
               TimestampTz until, int most) {
  UserScan scan;
  if (!open_user_scan(ledger, layout, user, from, until, &scan)) {
    return kNotPlain;
  }
  int rows = 0;
  while (rows <= most && index_getnext_tid(scan.scan, ForwardScanDirection) != nullptr) {
    CHECK_FOR_INTERRUPTS();
    ++rows;
  }
  close_user_scan(&scan);
  return rows;
}

// What a visit asks of the ledger.
struct Request {
  char name[8];  // the shape of a kept query
};
constexpr Request kConfirm = {"confirm"};
constexpr Request kHold = {"hold"};
constexpr Request kSealed = {"sealed"};

SPIPlanPtr prepare_request(const KeptKey &key, const char *text, int count, Oid *types) {
  Oid const space = get_rel_namespace(key.ledger);
  Oid const users = get_relname_relid(kUsers, space);
  return prepare_text(psprintf(text, quote_identifier(get_namespace_name(space)),
                               format_type_be(get_atttype(users, get_attnum(users, "user_id")))),
                      count, types, CURSOR_OPT_GENERIC_PLAN);
}

SPIPlanPtr prepare_confirm(const KeptKey &key) {
  return prepare_request(key, "SELECT %s.token_usage_rollup_confirm()", 0, nullptr);
}

// $1 user id as text, $2 the epoch, $3 how far he is sealed.
SPIPlanPtr prepare_hold(const KeptKey &key) {
  Oid types[] = {TEXTOID, UUIDOID, TIMESTAMPTZOID};
  return prepare_request(key, "SELECT %s.token_usage_rollup_hold($1::%s, $2, $3)", 3, types);
}

// $1 user id as text, $2 how far he is sealed from now on.
SPIPlanPtr prepare_sealed(const KeptKey &key) {
  Oid types[] = {TEXTOID, TIMESTAMPTZOID};
  return prepare_request(
      key, "UPDATE %s.token_usage_rollup_user SET sealed_until = $2 WHERE user_id = $1::%s", 2,
      types);
}

// What a function of the ledger says.
bool ask(FunctionCallInfo fcinfo, Relation ledger, const Request &request, PrepareKept prepare,
         const Datum *values) {
  execute_kept(kept_key(fcinfo, RelationGetRelid(ledger), request), prepare, values,
               InvalidSnapshot);
  bool null = true;
  const bool yes =
      SPI_processed == 1 &&
      DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null)) && !null;
  SPI_freetuptable(SPI_tuptable);
  return yes;
}

// What is to be done, seen in one snapshot.
enum class Due { nothing, guard, seal, more };

Due find_due(Relation ledger, const FewLayout &layout, const Derived &derived, text *user,
             const Limits &limits, bool raised, Standing *standing, int *waiting) {
  if (!find_standing(ledger, derived, user, limits, standing)) {
    return Due::more;
  }
  if (!standing->met) {
    const int rows = count_rows(ledger, layout, user, DT_NOBEGIN, DT_NOEND, limits.of_user);
    return rows >= 0 && rows < limits.of_user ? Due::nothing : Due::more;
  }
  if (!standing->known) {
    return Due::more;
  }
  if (standing->guard_due && !raised) {
    return Due::guard;
  }
  int late = 0;
  if (!each_row_of(user, derived.deltas, [&](HeapTuple row) {
        const Cell sign = cell_of(derived.deltas, row, "sign");
        late += !sign.null && DatumGetInt16(sign.value) != 0 ? 1 : 0;
        return late < limits.late;
      })) {
    return Due::more;
  }
  *waiting = standing->until > standing->sealed
                 ? count_rows(ledger, layout, user, standing->sealed, standing->until, limits.most)
                 : 0;
  if (*waiting >= 0 && *waiting < limits.pays && late < limits.late) {
    return Due::nothing;
  }
  return late == 0 && *waiting >= limits.pays && *waiting <= limits.most ? Due::seal : Due::more;
}

std::int64_t visit(FunctionCallInfo fcinfo, Relation ledger, const FewLayout &layout,
                   const Derived &derived, text *user, const Limits &limits) {
  Oid const oid = RelationGetRelid(ledger);
  Standing standing;
  int waiting = 0;
  Due due = Due::guard;
  for (bool raised = false; due == Due::guard; raised = true) {
    if (raised) {
      ask(fcinfo, ledger, kConfirm, prepare_confirm, nullptr);
    }
    CommandCounterIncrement();
    PushActiveSnapshot(GetTransactionSnapshot());
    due = find_due(ledger, layout, derived, user, limits, raised, &standing, &waiting);
    PopActiveSnapshot();
  }
  if (due != Due::seal) {
    return due == Due::nothing ? 0 : kNotPlain;
  }
  const Datum of_hold[] = {PointerGetDatum(user), UUIDPGetDatum(&standing.epoch),
                           TimestampTzGetDatum(standing.sealed)};
  if (!ask(fcinfo, ledger, kHold, prepare_hold, of_hold)) {
    return 0;
  }
  const std::int64_t rows =
      seal_rows(fcinfo, ledger, layout, user, standing.sealed, standing.until, waiting);
  if (rows != kNotPlain) {
    const Datum of_sealed[] = {PointerGetDatum(user), TimestampTzGetDatum(standing.until)};
    execute_kept(kept_key(fcinfo, oid, kSealed), prepare_sealed, of_sealed, InvalidSnapshot);
  }
  return rows;
}

}  // namespace

extern "C" {

// _token_usage_rollup_visit(ledger oid, user_id text, max_rows integer, rows_that_pay integer,
// late_rows_that_pay integer, rows_of_user integer, raise_guard_before timestamptz) returns bigint:
// seals the rows of a user that wait, if there are enough to pay; how many it sealed. NULL where
// there is more to do than that, and then only the guard may have been raised.
PG_FUNCTION_INFO_V1(token_usage_rollup_visit);
PGDLLEXPORT Datum token_usage_rollup_visit(PG_FUNCTION_ARGS) {
  if (IsolationUsesXactSnapshot()) {
    PG_RETURN_NULL();
  }
  text *const user = PG_GETARG_TEXT_PP(1);
  if (SPI_connect() != SPI_OK_CONNECT) {
    elog(ERROR, "token_usage: SPI_connect failed");
  }
  Relation const ledger = relation_open(PG_GETARG_OID(0), AccessShareLock);
  FewLayout layout;
  std::int64_t rows = kNotPlain;
  if (is_plain(ledger, &layout)) {
    const Derived derived = {
        open_derived(
            ledger, "token_usage_rollup_epoch",
            {{"epoch", UUIDOID}, {"ledger", OIDOID}, {"filenode", OIDOID}, {"stamp", TEXTOID}}),
        open_derived(ledger, "token_usage_rollup_state",
                     {{"epoch", UUIDOID}, {"confirmed", TIMESTAMPTZOID}, {"horizon", INT8OID}}),
        open_derived(ledger, kUsers, {{"epoch", UUIDOID}, {"sealed_until", TIMESTAMPTZOID}}),
        open_derived(ledger, "token_usage_delta", {{"sign", INT2OID}})};
    Relation const tables[] = {derived.epochs, derived.states, derived.users, derived.deltas};
    bool all = true;
    for (Relation const table : tables) {
      all = all && table != nullptr;
    }
    if (all) {
      const Limits limits = {PG_GETARG_INT32(2), PG_GETARG_INT32(3), PG_GETARG_INT32(4),
                             PG_GETARG_INT32(5), PG_GETARG_TIMESTAMPTZ(6)};
      rows = visit(fcinfo, ledger, layout, derived, user, limits);
    }
    for (Relation const table : tables) {
      if (table != nullptr) {
        relation_close(table, NoLock);
      }
    }
  }
  relation_close(ledger, NoLock);
  SPI_finish();
  if (rows == kNotPlain) {
    PG_RETURN_NULL();
  }
  PG_RETURN_INT64(rows);
}

}  // extern "C"

}  // namespace token_usage
