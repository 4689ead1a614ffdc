// _token_usage_sums: the one spot where reports get their sums, PostgreSQL native edition. The
// query itself is SQL, made by _token_usage_sums_sql() for a ledger's column types, the same that
// the portable edition runs with EXECUTE. What this file adds is that the query is kept: its
// text is asked for and parsed once per session, ledger and dimension, and again after the ledger
// or a function changed. Making the text looks at every column and takes longer than most reports.
//
// Carries rule 7 (the query is read-only, so it runs in the caller's snapshot) and rule 10 (it runs
// as the caller, through SPI: permissions and row-level security are the executor's and the plan
// cache's own).
#include <cstdint>
#include <cstring>

#include "guard.h"

namespace token_usage {

namespace {

// The values of `dimension` are few and short; a fixed key lets the server's own hash table hold
// them.
struct Key {
  Oid function;  // of _token_usage_sums: another one after DROP and CREATE EXTENSION
  Oid ledger;
  Oid role;  // the text may depend on what the caller is allowed to read
  bool has_agent;
  bool rollups;  // whether the caller may read the ledger through its rollups, at this moment
  char dimension[11];
};

struct Entry {
  Key key;  // dynahash wants it first
  SPIPlanPtr plan;
  int running;  // calls inside of it: a row-level security policy may itself ask for a report
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

// Asks _token_usage_sums_sql(ledger, dimension, has_agent) for the text and plans it. Inside SPI.
SPIPlanPtr make_plan(const Key &key) {
  const char *const schema = quote_identifier(get_namespace_name(get_func_namespace(key.function)));
  char *const call = psprintf("SELECT %s._token_usage_sums_sql($1, $2, $3)", schema);
  Oid call_types[] = {OIDOID, TEXTOID, BOOLOID};
  Datum call_values[] = {ObjectIdGetDatum(key.ledger), CStringGetTextDatum(key.dimension),
                         BoolGetDatum(key.has_agent)};
  if (SPI_execute_with_args(call, 3, call_types, call_values, nullptr, true, 1) != SPI_OK_SELECT ||
      SPI_processed != 1) {
    elog(ERROR, "token_usage: no text from _token_usage_sums_sql");
  }
  char *const text = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
  if (text == nullptr) {
    elog(ERROR, "token_usage: NULL from _token_usage_sums_sql");
  }
  // $1 user id as text, $2 agent, $3 bounds
  Oid types[] = {TEXTOID, TEXTOID, TIMESTAMPTZARRAYOID};
  // Planned for the values of each call. A plan for any value must guess how much of the ledger
  // lies between the bounds, and took the index on created_at, which reads everyone's rows to
  // report one user's.
  SPIPlanPtr const plan =
      SPI_prepare_cursor(text, 3, types, CURSOR_OPT_CUSTOM_PLAN | CURSOR_OPT_PARALLEL_OK);
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
  SPI_keepplan(plan);
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
// for them: the same question that _token_usage_rollup_readable() answers when the text is made.
// Asked at every call, since a grant or a setting may have changed without a word to the ledger.
bool rollups_readable(Oid ledger) {
  if (check_enable_rls(ledger, InvalidOid, true) == RLS_ENABLED ||
      pg_class_aclcheck(ledger, GetUserId(), ACL_SELECT) != ACLCHECK_OK) {
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
  key.rollups = rollups_readable(key.ledger);
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
  Entry *const entry = find_plan(key);
  Datum values[] = {PG_GETARG_DATUM(1), PG_ARGISNULL(2) ? Datum{0} : PG_GETARG_DATUM(2),
                    PG_GETARG_DATUM(3)};
  const char nulls[] = {' ', PG_ARGISNULL(2) ? 'n' : ' ', ' '};
  ++entry->running;
  PG_TRY();
  {
    const int code = SPI_execute_plan(entry->plan, values, nulls, true, 0);
    if (code != SPI_OK_SELECT) {
      elog(ERROR, "token_usage: %s", SPI_result_code_string(code));
    }
  }
  PG_FINALLY();
  { --entry->running; }
  PG_END_TRY();
  store_rows(result, store, want);
  SPI_finish();
  PG_RETURN_NULL();
}

}  // extern "C"

}  // namespace token_usage
