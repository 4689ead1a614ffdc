// _token_usage_sums: the one spot where reports get their sums, PostgreSQL native edition. The
// queries themselves are SQL, made by _token_usage_sums_sql() and _token_usage_rollup_read_sql()
// for a ledger's column types, the same that the portable edition runs with EXECUTE. What this file
// adds is that they are kept: a text is asked for and parsed once per session, ledger and
// dimension, and again after the ledger or a function changed. Making and planning it takes longer
// than most reports.
//
// Carries rule 7 (the query is read-only, so it runs in the caller's snapshot) and rule 10 (it runs
// as the caller, through SPI: permissions and row-level security are the executor's and the plan
// cache's own).
#include <cstdint>
#include <cstring>

#include "guard.h"
#include "rollup_pieces.h"

namespace token_usage {

namespace {

// The values of `dimension` are few and short; a fixed key lets the server's own hash table hold
// them.
struct Key {
  Oid function;  // of _token_usage_sums: another one after DROP and CREATE EXTENSION
  Oid ledger;
  Oid role;  // the text may depend on what the caller is allowed to read
  bool has_agent;
  char dimension[11];
  char part[7];  // of _token_usage_rollup_read_sql; empty: the text of _token_usage_sums_sql
};

struct Entry {
  Key key;          // dynahash wants it first
  SPIPlanPtr plan;  // none where the ledger has no rollups of that kind
  int running;      // calls inside of it: a row-level security policy may itself ask for a report
  bool stale;
};

constexpr long kStartSize = 16;
constexpr int kTries = 3;
constexpr long kMostEntries = 1024;  // sessions of many roles over many ledgers start afresh here

HTAB *plans = nullptr;
std::uint64_t changes = 0;  // counts invalidations, to notice one that comes while a text is made

void mark_stale(Oid ledger) {
  ++changes;
  HASH_SEQ_STATUS scan;
  hash_seq_init(&scan, plans);
  while (auto *const entry = static_cast<Entry *>(hash_seq_search(&scan))) {
    if (ledger == InvalidOid || entry->key.ledger == ledger) {
      entry->stale = true;
    }
  }
}

// Invalidation may come in the middle of anything, so it only marks.
void relation_changed(Datum, Oid relation) {
  mark_stale(relation);
}
#if PG_VERSION_NUM >= 190000
void function_changed(Datum, SysCacheIdentifier, uint32) {
#else
void function_changed(Datum, int, uint32) {
#endif
  mark_stale(InvalidOid);
}

void open_cache() {
  HASHCTL control;
  std::memset(&control, 0, sizeof control);
  control.keysize = sizeof(Key);
  control.entrysize = sizeof(Entry);
  control.hcxt = TopMemoryContext;
  plans =
      hash_create("token_usage plans", kStartSize, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
  CacheRegisterRelcacheCallback(relation_changed, Datum{0});
  CacheRegisterSyscacheCallback(PROCOID, function_changed, Datum{0});
}

void forget(Entry *entry) {
  SPIPlanPtr const plan = entry->plan;
  const Key key = entry->key;
  if (entry->running > 0) {
    return;
  }
  hash_search(plans, &key, HASH_REMOVE, nullptr);
  if (plan != nullptr) {
    SPI_freeplan(plan);
  }
}

// Drops what is stale, or everything when the cache has grown too large.
void sweep() {
  const bool all = hash_get_num_entries(plans) >= kMostEntries;
  HASH_SEQ_STATUS scan;
  hash_seq_init(&scan, plans);
  while (auto *const entry = static_cast<Entry *>(hash_seq_search(&scan))) {
    if (all || entry->stale) {
      forget(entry);  // dynahash allows removing the element just returned
    }
  }
}

// Asks for the text and plans it. Inside SPI. None where there is no text.
SPIPlanPtr make_plan(const Key &key) {
  const char *const schema = quote_identifier(get_namespace_name(get_func_namespace(key.function)));
  const bool rollup = key.part[0] != '\0';
  char *const call = psprintf(rollup ? "SELECT %s._token_usage_rollup_read_sql($1, $4, $2, $3)"
                                     : "SELECT %s._token_usage_sums_sql($1, $2, $3)",
                              schema);
  Oid call_types[] = {OIDOID, TEXTOID, BOOLOID, TEXTOID};
  Datum call_values[] = {ObjectIdGetDatum(key.ledger), CStringGetTextDatum(key.dimension),
                         BoolGetDatum(key.has_agent), CStringGetTextDatum(key.part)};
  if (SPI_execute_with_args(call, rollup ? 4 : 3, call_types, call_values, nullptr, true, 1) !=
          SPI_OK_SELECT ||
      SPI_processed != 1) {
    elog(ERROR, "token_usage: no text of a query");
  }
  char *const text = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
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
  SPIPlanPtr const plan = SPI_prepare_cursor(
      text, rollup ? 7 : 3, types,
      (rollup ? CURSOR_OPT_GENERIC_PLAN : CURSOR_OPT_CUSTOM_PLAN) | CURSOR_OPT_PARALLEL_OK);
  if (plan == nullptr) {
    elog(ERROR, "token_usage: %s", SPI_result_code_string(SPI_result));
  }
  return plan;
}

Entry *find_plan(const Key &key) {
  if (plans == nullptr) {
    open_cache();
  }
  auto *entry = static_cast<Entry *>(hash_search(plans, &key, HASH_FIND, nullptr));
  // A stale plan that is running further up is used once more: it cannot be freed, and the plan
  // cache itself plans anew what changed under it.
  if (entry != nullptr && (!entry->stale || entry->running > 0)) {
    return entry;
  }
  sweep();
  // The text says what the columns were when it was asked for; planning it locks the ledger. Where
  // something changed in between, the text may be too old, so it is asked for again. What changes
  // all the time is planned for this one call.
  SPIPlanPtr plan = nullptr;
  bool changed = true;
  for (int tries = 0; changed && tries < kTries; ++tries) {
    const std::uint64_t before = changes;
    plan = make_plan(key);
    changed = changes != before;
  }
  bool found = false;
  entry = static_cast<Entry *>(hash_search(plans, &key, HASH_ENTER, &found));
  if (found) {
    // Asking for the text ran a report by way of a policy or the like.
    return entry;
  }
  entry->plan = nullptr;
  entry->running = 0;
  entry->stale = changed;
  if (plan != nullptr) {
    SPI_keepplan(plan);
  }
  entry->plan = plan;
  return entry;
}

// Puts the rows of the last SPI query into the result.
void store_rows(ReturnSetInfo *result, Tuplestorestate *store, TupleDesc want) {
  TupleDesc const have = SPI_tuptable->tupdesc;
  bool same = have->natts == want->natts;
  for (int i = 0; same && i < want->natts; ++i) {
    same = TupleDescAttr(have, i)->atttypid == TupleDescAttr(want, i)->atttypid;
  }
  if (!same) {
    elog(
        ERROR,
        "token_usage: the query of _token_usage_sums_sql has other columns than _token_usage_sums");
  }
  for (std::uint64_t row = 0; row < SPI_processed; ++row) {
    tuplestore_puttuple(store, SPI_tuptable->vals[row]);
  }
  result->returnMode = SFRM_Materialize;
  result->setResult = store;
  result->setDesc = want;
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
    if (!OidIsValid(table) || pg_class_aclcheck(table, GetUserId(), ACL_SELECT) != ACLCHECK_OK) {
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

void set_local(const char *name, const char *value) {
  set_config_option(name, value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

// Runs the plan of a key; false where it has none.
bool run(const Key &key, const Call &call) {
  Entry *const entry = find_plan(key);
  if (entry->plan == nullptr) {
    return false;
  }
  // None of it is worth compiling for the machine. What is planned for any value is planned by the
  // number of rows alone: by the cost of pages, an index on created_at alone may seem as good.
  const int level = NewGUCNestLevel();
  set_local("jit", "off");
  if (key.part[0] != '\0') {
    set_local("seq_page_cost", "0");
    set_local("random_page_cost", "0");
  }
  ++entry->running;
  PG_TRY();
  {
    const int code =
        SPI_execute_plan(entry->plan, const_cast<Datum *>(call.values), call.nulls, true, 0);
    if (code != SPI_OK_SELECT) {
      elog(ERROR, "token_usage: %s", SPI_result_code_string(code));
    }
  }
  PG_FINALLY();
  { --entry->running; }
  PG_END_TRY();
  AtEOXact_GUC(true, level);
  return true;
}

bool run_part(Key key, const char *part, const Call &call) {
  strlcpy(key.part, part, sizeof key.part);
  return run(key, call);
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
bool run_rollups(const Key &key, Call call) {
  Key shared = key;
  std::memset(shared.dimension, 0, sizeof shared.dimension);
  shared.has_agent = false;
  if (!run_part(shared, "state", call)) {
    return false;
  }
  if (SPI_processed == 0) {
    // Nothing is rolled of most users, since they have few rows: then any plan will do.
    if (!run_part(shared, "few", call)) {
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
    return run_part(key, "ledger", call);
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
      months, key.has_agent || std::strcmp(key.dimension, "none") != 0, &pieces);
  bool rollup = false;
  bool ledger = count == 0;
  for (int i = 0; i < count; ++i) {
    (pieces[i].tier > 0 ? rollup : ledger) = true;
  }
  call.values[3] = array_of(pieces, count, INT4OID, nullptr);
  call.values[4] = array_of(pieces, count, TIMESTAMPTZOID, &Piece::lo);
  call.values[5] = array_of(pieces, count, TIMESTAMPTZOID, &Piece::hi);
  call.values[6] = TimestampTzGetDatum(sealed_until);
  return run_part(key, rollup && ledger ? "both" : rollup ? "rollup" : "ledger", call);
}

}  // namespace

extern "C" {

// _token_usage_sums(ledger oid, user_id text, agent text, bounds timestamptz[], dimension text)
PG_FUNCTION_INFO_V1(token_usage_sums);
PGDLLEXPORT Datum token_usage_sums(PG_FUNCTION_ARGS) {
  auto *const result = reinterpret_cast<ReturnSetInfo *>(fcinfo->resultinfo);
  if (result == nullptr || !IsA(result, ReturnSetInfo) ||
      (result->allowedModes & SFRM_Materialize) == 0) {
    ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                    errmsg("_token_usage_sums is called where no set of rows is accepted")));
  }
  if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(3) || PG_ARGISNULL(4)) {
    ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
                    errmsg("only the agent of _token_usage_sums may be NULL")));
  }
  Key key;
  std::memset(&key, 0, sizeof key);
  key.function = fcinfo->flinfo->fn_oid;
  key.ledger = PG_GETARG_OID(0);
  key.role = GetUserId();
  key.has_agent = !PG_ARGISNULL(2);
  text_to_cstring_buffer(PG_GETARG_TEXT_PP(4), key.dimension, sizeof key.dimension);

  MemoryContext const outer = MemoryContextSwitchTo(result->econtext->ecxt_per_query_memory);
  TupleDesc want = nullptr;
  if (get_call_result_type(fcinfo, nullptr, &want) != TYPEFUNC_COMPOSITE) {
    elog(ERROR, "token_usage: _token_usage_sums returns no row type");
  }
  want = CreateTupleDescCopy(want);
  Tuplestorestate *const store =
      tuplestore_begin_heap((result->allowedModes & SFRM_Materialize_Random) != 0, false, work_mem);
  MemoryContextSwitchTo(outer);

  if (SPI_connect() != SPI_OK_CONNECT) {
    elog(ERROR, "token_usage: SPI_connect failed");
  }
  Call call{
      {PG_GETARG_DATUM(1), PG_ARGISNULL(2) ? Datum{0} : PG_GETARG_DATUM(2), PG_GETARG_DATUM(3)},
      {' ', PG_ARGISNULL(2) ? 'n' : ' ', ' ', ' ', ' ', ' ', ' '}};
  const bool grouped = std::strcmp(key.dimension, "none") != 0;
  if ((key.has_agent && grouped && std::strcmp(key.dimension, "agent") != 0) ||
      !rollups_readable(key.ledger) || !run_rollups(key, call)) {
    run(key, call);
  }
  store_rows(result, store, want);
  SPI_finish();
  PG_RETURN_NULL();
}

}  // extern "C"

}  // namespace token_usage
