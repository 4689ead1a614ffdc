// _token_usage_sums: the one spot where reports get their sums, PostgreSQL native edition. The
// queries themselves are SQL, made by _token_usage_sums_sql() and _token_usage_rollup_read_sql()
// for a ledger's column types, the same that the portable edition runs with EXECUTE; here they are
// kept (kept_query.h). What a report through the rollups has to read from the ledger itself is read
// without a query (few_rows.h) and added to what the query over the rollups says: a row takes a
// third of the time then.
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "few_sums.h"
#include "guard.h"
#include "kept_query.h"
#include "money.h"
#include "plain_table.h"
#include "rollup_pieces.h"

extern "C" {
#include <access/htup_details.h>
#include <utils/fmgrprotos.h>
}

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

// What a report is made of: the rows of the last query, where one was asked, and those that were
// read and added up here.
struct Answer {
  FewSums read;
  bool queried;
};

// To add up more rows than these a query is as good, and finds its groups by a hash.
constexpr int kMostRows = 1000;

bool is_grouped(const Shape &shape) {
  return std::strcmp(shape.dimension, "none") != 0;
}

// Reads the pieces that no rollup serves; false where a query is to do that.
bool read_pieces(Oid ledger, const Shape &shape, const Call &call, const Piece *pieces, int count,
                 FewSums *sums) {
  ArrayType *const bounds = DatumGetArrayTypeP(call.values[2]);
  *sums = {};
  sums->group = !is_grouped(shape)                           ? FewGroup::none
                : std::strcmp(shape.dimension, "agent") == 0 ? FewGroup::agent
                                                             : FewGroup::model;
  sums->agent = shape.has_agent == 0 ? nullptr : DatumGetTextPP(call.values[1]);
  sums->bounds = reinterpret_cast<TimestampTz *>(ARR_DATA_PTR(bounds));
  sums->buckets = ARR_DIMS(bounds)[0] - 1;
  int most = kMostRows;
  for (int i = 0; i < count; ++i) {
    const FewQuestion question = {FewKind::sums, ledger, DatumGetTextPP(call.values[0]),
                                  pieces[i].lo, pieces[i].hi};
    if (pieces[i].tier == 0 && !read_rows(question, &most, add_few_row, sums)) {
      return false;
    }
  }
  return true;
}

// Reads the sums through the rollups, if the user has any; false where the ledger is to be read as
// a whole. All that is read is what the calling query's snapshot sees: the queries are read-only.
bool run_rollups(const KeptKey &key, const Shape &shape, Call call, Answer *answer) {
  Shape shared;  // serves every report
  std::memset(&shared, 0, sizeof shared);
  if (!run_sums_part(key, shared, "state", call)) {
    return false;
  }
  ArrayType *const array = DatumGetArrayTypeP(call.values[2]);
  const TimestampTz *const bounds = reinterpret_cast<TimestampTz *>(ARR_DATA_PTR(array));
  const int n = ARR_DIMS(array)[0];
  const Piece all{0, bounds[0], bounds[n - 1]};
  const Piece *pieces = &all;
  int count = 1;
  TimestampTz sealed_until = DT_NOBEGIN;
  const bool known = SPI_processed != 0;
  if (known) {
    HeapTuple const state = SPI_tuptable->vals[0];
    TupleDesc const columns = SPI_tuptable->tupdesc;
    bool null = false;
    sealed_until = DatumGetTimestampTz(SPI_getbinval(state, columns, 1, &null));
    ArrayType *const starts = DatumGetArrayTypeP(SPI_getbinval(state, columns, 2, &null));
    ArrayType *const flags = DatumGetArrayTypeP(SPI_getbinval(state, columns, 3, &null));
    RolledMonths months{reinterpret_cast<TimestampTz *>(ARR_DATA_PTR(starts)),
                        reinterpret_cast<int16 *>(ARR_DATA_PTR(flags)),
                        ARR_NDIM(starts) == 0 ? 0 : ARR_DIMS(starts)[0]};
    Piece *cut = nullptr;
    count = rollup_pieces(bounds, n, sealed_until, months,
                          shape.has_agent != 0 || is_grouped(shape), &cut);
    pieces = cut;
  }
  bool rollup = false;
  bool ledger = count == 0;
  for (int i = 0; i < count; ++i) {
    (pieces[i].tier > 0 ? rollup : ledger) = true;
  }
  call.values[3] = array_of(pieces, count, INT4OID, nullptr);
  call.values[4] = array_of(pieces, count, TIMESTAMPTZOID, &Piece::lo);
  call.values[5] = array_of(pieces, count, TIMESTAMPTZOID, &Piece::hi);
  call.values[6] = TimestampTzGetDatum(sealed_until);
  if (ledger && read_pieces(key.ledger, shape, call, pieces, count, &answer->read)) {
    answer->queried = rollup;
    return !rollup || run_sums_part(key, shape, "rollup", call);
  }
  answer->read = {};
  answer->queried = true;
  if (!known) {
    // Nothing is rolled of most users, since they have few rows: then any plan will do.
    if (!run_sums_part(key, shared, "few", call)) {
      return false;
    }
    bool null = false;
    if (DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null)) >=
        500) {
      return false;
    }
  }
  return run_sums_part(key, shape, rollup && ledger ? "both" : rollup ? "rollup" : "ledger", call);
}

// The columns of a result behind bucket, key1 and key2.
constexpr int kKeys = 3;
constexpr int kCells = 12;

// Adds to the cells of a row.
void add_count(Datum *cell, std::int64_t count) {
  *cell = DirectFunctionCall2(int8pl, *cell, Int64GetDatum(count));
}
void add_number(Datum *cell, Decimal number) {
  *cell = DirectFunctionCall2(numeric_add, *cell, decimal_to_numeric(number));
}
// So few rows of 64 bits do not reach what a Decimal holds.
void add_tokens(Datum *cell, int128 sum) {
  static_assert(kMostRows <= 1'000'000);
  add_number(cell, Decimal::from_units(sum * Decimal::from_int(1).units()));
}

void add_cells(Datum *cells, const Measures &m) {
  Datum *cell = cells + kKeys;
  add_count(cell++, m.requests_count);
  add_tokens(cell++, m.prompt_tokens);
  add_tokens(cell++, m.completion_tokens);
  add_tokens(cell++, m.total_tokens);
  add_number(cell++, m.cost_usd);
  add_number(cell++, m.cost_rub);
  add_count(cell++, m.unpriced_count);
  add_number(cell++, m.execution_ms_sum);
  add_count(cell, m.execution_ms_count);
}

FewText text_of(Datum value, bool null) {
  return {null ? nullptr : DatumGetTextPP(value)};
}

// What has no value counts as 0: in a row of a group that only was read here, and where somebody
// took a value away from a rollup, as a sum in the query does.
void fill_cells(const ResultRows &result, Datum *cells, bool *nulls) {
  for (int i = kKeys; i < kCells; ++i) {
    if (nulls[i]) {
      nulls[i] = false;
      cells[i] = TupleDescAttr(result.columns, i)->atttypid == NUMERICOID
                     ? DirectFunctionCall1(int4_numeric, Int32GetDatum(0))
                     : Int64GetDatum(0);
    }
  }
}

// Puts what was read into the result: into the rows of the query where it has the same, or as rows
// of their own.
void store_answer(const ResultRows &result, const Answer &answer) {
  const FewSums &read = answer.read;
  if (answer.queried && read.count == 0) {
    store_rows(result);
    return;
  }
  if (result.columns->natts != kCells) {
    elog(ERROR, "token_usage: sums have other columns than the function that returns them");
  }
  Datum cells[kCells];
  bool nulls[kCells];
  if (answer.queried) {
    check_rows(result);
    for (std::uint64_t row = 0; row < SPI_processed; ++row) {
      heap_deform_tuple(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, cells, nulls);
      FewLine *const line =
          nulls[0] ? nullptr
                   : find_few_line(read, DatumGetInt32(cells[0]), text_of(cells[1], nulls[1]),
                                   text_of(cells[2], nulls[2]));
      if (line != nullptr) {
        fill_cells(result, cells, nulls);
        add_cells(cells, line->measures);
        line->bucket = 0;  // done with
      }
      tuplestore_putvalues(result.store, result.columns, cells, nulls);
    }
  }
  for (int i = 0; i < read.count; ++i) {
    const FewLine &line = read.lines[i];
    if (line.bucket > 0) {
      std::fill_n(nulls, kCells, true);
      fill_cells(result, cells, nulls);
      add_cells(cells, line.measures);
      cells[0] = Int32GetDatum(line.bucket);
      cells[1] = PointerGetDatum(line.key1.value);
      cells[2] = PointerGetDatum(line.key2.value);
      nulls[0] = false;
      nulls[1] = line.key1.value == nullptr;
      nulls[2] = line.key2.value == nullptr;
      tuplestore_putvalues(result.store, result.columns, cells, nulls);
    }
  }
  finish_rows(result);
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
  ArrayType *const bounds = PG_GETARG_ARRAYTYPE_P(first + 3);
  if (ARR_NDIM(bounds) != 1 || ARR_DIMS(bounds)[0] < 2 || array_contains_nulls(bounds)) {
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    errmsg("the bounds of _token_usage_sums are two instants or more")));
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
             PointerGetDatum(bounds)},
            {' ', missing(2) ? 'n' : ' ', ' ', ' ', ' ', ' ', ' '}};
  Answer answer = {};
  if ((shape.has_agent != 0 && is_grouped(shape) && std::strcmp(shape.dimension, "agent") != 0) ||
      !rollups_readable(key.ledger) || !run_rollups(key, shape, call, &answer)) {
    run_sums_part(key, shape, "", call);
    answer = {{}, true};
  }
  store_answer(result, answer);
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
