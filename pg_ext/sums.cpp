// _token_usage_sums: the one spot where reports get their sums, PostgreSQL native edition. The
// queries themselves are SQL, made by _token_usage_sums_sql() and _token_usage_rollup_read_sql()
// for a ledger's column types, the same that the portable edition runs with EXECUTE; here they are
// kept (kept_query.h).
#include <cstdint>
#include <cstring>

#include "guard.h"
#include "kept_query.h"
#include "plain_table.h"
#include "rollup_pieces.h"

namespace token_usage {

namespace {

// Which query of a ledger.
struct Shape {
  char has_agent;
  char dimension[11];  // none, agent or model
  char part[7];        // of _token_usage_rollup_read_sql; empty: the text of _token_usage_sums_sql
};

SPIPlanPtr prepare_sums(const KeptKey &key) {
  Shape shape;
  std::memcpy(&shape, key.shape, sizeof shape);
  const bool rollup = shape.part[0] != '\0';
  Oid call_types[] = {OIDOID, TEXTOID, BOOLOID, TEXTOID};
  Datum call_values[] = {ObjectIdGetDatum(key.ledger), CStringGetTextDatum(shape.dimension),
                         BoolGetDatum(shape.has_agent != 0), CStringGetTextDatum(shape.part)};
  char *const text = ask_for_text(key,
                                  rollup ? "SELECT %s._token_usage_rollup_read_sql($1, $4, $2, $3)"
                                         : "SELECT %s._token_usage_sums_sql($1, $2, $3)",
                                  rollup ? 4 : 3, call_types, call_values);
  if (text == nullptr) {
    return nullptr;
  }
  // $1 user id as text, $2 agent, $3 bounds, $4 to $6 the pieces, $7 sealed_until
  Oid types[] = {TEXTOID,
                 TEXTOID,
                 TIMESTAMPTZARRAYOID,
                 INT4ARRAYOID,
                 TIMESTAMPTZARRAYOID,
                 TIMESTAMPTZARRAYOID,
                 TIMESTAMPTZOID};
  // The ledger's own is planned for the values of each call. A plan for any value must guess how
  // much of the ledger lies between the bounds, and took the index on created_at, which reads
  // everyone's rows to report one user's. What reads rollups is planned once.
  return prepare_text(
      text, rollup ? 7 : 3, types,
      (rollup ? CURSOR_OPT_GENERIC_PLAN : CURSOR_OPT_CUSTOM_PLAN) | CURSOR_OPT_PARALLEL_OK);
}

// Whether the caller may read the derived tables beside the ledger, and row security is not active
// for them: the same question that _token_usage_rollup_readable() answers in the portable edition.
// Asked at every call, since a grant or a setting may have changed without a word to the ledger.
bool rollups_readable(Oid ledger) {
  if (check_enable_rls(ledger, InvalidOid, true) == RLS_ENABLED ||
      pg_class_aclcheck(ledger, GetUserId(), ACL_SELECT) != ACLCHECK_OK ||
      // Within a trigger the statement under way may have written rows whose deltas are not there.
      DatumGetInt32(DirectFunctionCall1(pg_trigger_depth, Datum{0})) > 0) {
    return false;
  }
  Oid const schema = get_rel_namespace(ledger);
  for (const char *const name :
       {"token_usage_rollup", "token_usage_rollup_month", "token_usage_rollup_user",
        "token_usage_rollup_epoch", "token_usage_delta"}) {
    Oid const table = get_relname_relid(name, schema);
    if (!OidIsValid(table) || pg_class_aclcheck(table, GetUserId(), ACL_SELECT) != ACLCHECK_OK ||
        !is_plain_table(table, name, schema)) {
      return false;
    }
  }
  return true;
}

// The values of a call: $1 to $7 of every query, as far as it takes them.
struct Call {
  Datum values[7];
  char nulls[7];
};

// Runs one of the queries; false where it does not exist. What reads rollups is planned for any
// value and by the number of rows alone: by the cost of pages, an index on created_at alone may
// seem as good.
bool run_sums_part(KeptKey key, Shape shape, const char *part, const Call &call) {
  strlcpy(shape.part, part, sizeof shape.part);
  std::memcpy(key.shape, &shape, sizeof shape);
  return run_kept(key, prepare_sums, call.values, call.nulls, part[0] != '\0');
}

Datum array_of(const Piece *pieces, int count, Oid type, TimestampTz Piece::*end) {
  auto *const values = static_cast<Datum *>(palloc(sizeof(Datum) * static_cast<Size>(count)));
  for (int i = 0; i < count; ++i) {
    values[i] =
        type == INT4OID ? Int32GetDatum(pieces[i].tier) : TimestampTzGetDatum(pieces[i].*end);
  }
  return PointerGetDatum(type == INT4OID ? construct_array(values, count, type, 4, true, 'i')
                                         : construct_array(values, count, type, 8, true, 'd'));
}

// Reads the sums through the rollups, if the user has any; false where the ledger is to be read as
// a whole. All queries see the one snapshot of the calling query, since they are read-only.
bool run_rollups(const KeptKey &key, const Shape &shape, Call call) {
  Shape shared;  // serves every report
  std::memset(&shared, 0, sizeof shared);
  if (!run_sums_part(key, shared, "state", call)) {
    return false;
  }
  if (SPI_processed == 0) {
    // Nothing is rolled of most users, since they have few rows: then any plan will do.
    if (!run_sums_part(key, shared, "few", call)) {
      return false;
    }
    bool null = false;
    if (DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null)) >=
        500) {
      return false;
    }
    const TimestampTz *const bounds =
        reinterpret_cast<TimestampTz *>(ARR_DATA_PTR(DatumGetArrayTypeP(call.values[2])));
    const int n = ARR_DIMS(DatumGetArrayTypeP(call.values[2]))[0];
    const Piece all{0, bounds[0], bounds[n - 1]};
    call.values[3] = array_of(&all, 1, INT4OID, nullptr);
    call.values[4] = array_of(&all, 1, TIMESTAMPTZOID, &Piece::lo);
    call.values[5] = array_of(&all, 1, TIMESTAMPTZOID, &Piece::hi);
    call.values[6] = TimestampTzGetDatum(DT_NOBEGIN);
    return run_sums_part(key, shape, "ledger", call);
  }
  HeapTuple const state = SPI_tuptable->vals[0];
  TupleDesc const columns = SPI_tuptable->tupdesc;
  bool null = false;
  const TimestampTz sealed_until = DatumGetTimestampTz(SPI_getbinval(state, columns, 1, &null));
  ArrayType *const starts = DatumGetArrayTypeP(SPI_getbinval(state, columns, 2, &null));
  ArrayType *const flags = DatumGetArrayTypeP(SPI_getbinval(state, columns, 3, &null));
  RolledMonths months{reinterpret_cast<TimestampTz *>(ARR_DATA_PTR(starts)),
                      reinterpret_cast<int16 *>(ARR_DATA_PTR(flags)),
                      ARR_NDIM(starts) == 0 ? 0 : ARR_DIMS(starts)[0]};
  ArrayType *const bounds = DatumGetArrayTypeP(call.values[2]);
  Piece *pieces = nullptr;
  const int count = rollup_pieces(
      reinterpret_cast<TimestampTz *>(ARR_DATA_PTR(bounds)), ARR_DIMS(bounds)[0], sealed_until,
      months, shape.has_agent != 0 || std::strcmp(shape.dimension, "none") != 0, &pieces);
  bool rollup = false;
  bool ledger = count == 0;
  for (int i = 0; i < count; ++i) {
    (pieces[i].tier > 0 ? rollup : ledger) = true;
  }
  call.values[3] = array_of(pieces, count, INT4OID, nullptr);
  call.values[4] = array_of(pieces, count, TIMESTAMPTZOID, &Piece::lo);
  call.values[5] = array_of(pieces, count, TIMESTAMPTZOID, &Piece::hi);
  call.values[6] = TimestampTzGetDatum(sealed_until);
  return run_sums_part(key, shape, rollup && ledger ? "both" : rollup ? "rollup" : "ledger", call);
}

// Goes back to the caller's search path, until the nest level ends that is returned; row-level
// security policies of the ledger may call functions that expect it, as they would in any query of
// the caller. Only where one is at work: what reads the rollups is written for our own path.
int enter_caller_path(ArrayType *path) {
  Datum *names = nullptr;
  bool *nulls = nullptr;
  int count = 0;
  deconstruct_array(path, NAMEOID, NAMEDATALEN, false, 'c', &names, &nulls, &count);
  StringInfoData text;
  initStringInfo(&text);
  for (int i = 0; i < count; ++i) {
    if (!nulls[i]) {
      appendStringInfo(&text, "%s%s", text.len > 0 ? ", " : "",
                       quote_identifier(NameStr(*DatumGetName(names[i]))));
    }
  }
  const int level = NewGUCNestLevel();
  set_config_option("search_path", text.data, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0,
                    false);
  return level;
}

// The result of a function whose arguments from `first` on are those of _token_usage_sums.
Datum report_sums(FunctionCallInfo fcinfo, int first) {
  const auto missing = [=](int i) { return PG_ARGISNULL(first + i); };
  if (missing(0) || missing(1) || missing(3) || missing(4)) {
    ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
                    errmsg("only the agent of _token_usage_sums may be NULL")));
  }
  Shape shape;
  std::memset(&shape, 0, sizeof shape);
  shape.has_agent = missing(2) ? 0 : 1;
  text_to_cstring_buffer(PG_GETARG_TEXT_PP(first + 4), shape.dimension, sizeof shape.dimension);
  const KeptKey key = kept_key(fcinfo, PG_GETARG_OID(first), shape);
  const ResultRows result = begin_rows(fcinfo);

  if (SPI_connect() != SPI_OK_CONNECT) {
    elog(ERROR, "token_usage: SPI_connect failed");
  }
  Call call{{PG_GETARG_DATUM(first + 1), missing(2) ? Datum{0} : PG_GETARG_DATUM(first + 2),
             PG_GETARG_DATUM(first + 3)},
            {' ', missing(2) ? 'n' : ' ', ' ', ' ', ' ', ' ', ' '}};
  const bool grouped = std::strcmp(shape.dimension, "none") != 0;
  if ((shape.has_agent != 0 && grouped && std::strcmp(shape.dimension, "agent") != 0) ||
      !rollups_readable(key.ledger) || !run_rollups(key, shape, call)) {
    run_sums_part(key, shape, "", call);
  }
  store_rows(result);
  SPI_finish();
  PG_RETURN_NULL();
}

}  // namespace

extern "C" {

// _token_usage_sums(ledger oid, user_id text, agent text, bounds timestamptz[], dimension text)
PG_FUNCTION_INFO_V1(token_usage_sums);
PGDLLEXPORT Datum token_usage_sums(PG_FUNCTION_ARGS) {
  return report_sums(fcinfo, 0);
}

// _token_usage_ledger_sums(path name[], and the arguments of _token_usage_sums)
PG_FUNCTION_INFO_V1(token_usage_ledger_sums);
PGDLLEXPORT Datum token_usage_ledger_sums(PG_FUNCTION_ARGS) {
  if (PG_ARGISNULL(0) || PG_ARGISNULL(1) ||
      check_enable_rls(PG_GETARG_OID(1), InvalidOid, true) != RLS_ENABLED) {
    return report_sums(fcinfo, 1);
  }
  const int level = enter_caller_path(PG_GETARG_ARRAYTYPE_P(0));
  Datum const none = report_sums(fcinfo, 1);
  AtEOXact_GUC(true, level);
  return none;
}

}  // extern "C"

}  // namespace token_usage
