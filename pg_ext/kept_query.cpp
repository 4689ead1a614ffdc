// The cache behind kept_query.h: plans per session, made again after the ledger or a function
// changed.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iterator>

#include "guard.h"
#include "kept_query.h"

namespace token_usage {

namespace {

struct Entry {
  KeptKey key;      // dynahash wants it first
  SPIPlanPtr plan;  // none where there is no such query
  int running;      // calls inside of it: a row-level security policy may itself ask for a report
  int runs;         // up to kSettled
  bool stale;
};

constexpr long kStartSize = 16;
constexpr int kTries = 3;
constexpr int kSettled = 8;  // runs of a plan after which those around it have been made too
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

// Keeps in the process what the executors of a report need. glibc gives the end of the heap back to
// the system whenever more than 128 kB of it are free, which is after each report, and the next
// report takes it again, page fault by page fault: up to a third of its time. What lies below a
// block that stays is kept, so one is left above as much as a report needs.
void reserve_heap() {
  void *parts[12];
  for (void *&part : parts) {
    part = std::malloc(64 * 1024);  // more than that may come from mmap()
  }
  void **const last = std::max_element(std::begin(parts), std::end(parts), std::less<void *>());
  for (void *const part : parts) {
    if (part != *last) {
      std::free(part);
    }
  }
  // Shrunk where it is, and never freed: it is what stays.
  void *volatile stays = *last == nullptr ? nullptr : std::realloc(*last, 64);
  static_cast<void>(stays);
}

void open_cache() {
  HASHCTL control;
  std::memset(&control, 0, sizeof control);
  control.keysize = sizeof(KeptKey);
  control.entrysize = sizeof(Entry);
  control.hcxt = TopMemoryContext;
  plans =
      hash_create("token_usage plans", kStartSize, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
  CacheRegisterRelcacheCallback(relation_changed, Datum{0});
  CacheRegisterSyscacheCallback(PROCOID, function_changed, Datum{0});
}

void forget(Entry *entry) {
  SPIPlanPtr const plan = entry->plan;
  const KeptKey key = entry->key;
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

Entry *find_plan(const KeptKey &key, PrepareKept prepare) {
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
    plan = prepare(key);
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
  entry->runs = 0;
  entry->stale = changed;
  if (plan != nullptr) {
    SPI_keepplan(plan);
  }
  entry->plan = plan;
  return entry;
}

void set_local(const char *name, const char *value) {
  set_config_option(name, value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

// Calls `run` with what the plan of an entry is to be made and run under. What writes looks for
// some rows each time, and does not read whole tables because they were empty when it was planned.
template <typename Run>
void use_plan(Entry *entry, bool without_pages, bool writes, Run run) {
  // None of it is worth compiling for the machine.
  const int level = NewGUCNestLevel();
  set_local("jit", "off");
  if (without_pages) {
    set_local("seq_page_cost", "0");
    set_local("random_page_cost", "0");
  }
  if (writes) {
    set_local("enable_seqscan", "off");
  }
  ++entry->running;
  PG_TRY();
  { run(); }
  PG_FINALLY();
  { --entry->running; }
  PG_END_TRY();
  AtEOXact_GUC(true, level);
}

}  // namespace

char *ask_for_text(const KeptKey &key, const char *call, int count, Oid *types, Datum *values) {
  const char *const schema = quote_identifier(get_namespace_name(get_func_namespace(key.function)));
  if (SPI_execute_with_args(psprintf(call, schema), count, types, values, nullptr, true, 1) !=
          SPI_OK_SELECT ||
      SPI_processed != 1) {
    elog(ERROR, "token_usage: no text of a query");
  }
  return SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
}

SPIPlanPtr prepare_text(const char *text, int count, Oid *types, int options) {
  SPIPlanPtr const plan = SPI_prepare_cursor(text, count, types, options);
  if (plan == nullptr) {
    elog(ERROR, "token_usage: %s", SPI_result_code_string(SPI_result));
  }
  return plan;
}

bool run_kept(const KeptKey &key, PrepareKept prepare, const Datum *values, const char *nulls,
              bool without_pages) {
  Entry *const entry = find_plan(key, prepare);
  if (entry->plan == nullptr) {
    return false;
  }
  if (entry->runs < kSettled && ++entry->runs == kSettled) {
    reserve_heap();
  }
  use_plan(entry, without_pages, false, [=] {
    const int code = SPI_execute_plan(entry->plan, const_cast<Datum *>(values), nulls, true, 0);
    if (code != SPI_OK_SELECT) {
      elog(ERROR, "token_usage: %s", SPI_result_code_string(code));
    }
  });
  return true;
}

void execute_kept(const KeptKey &key, PrepareKept prepare, const Datum *values, Snapshot snapshot) {
  Entry *const entry = find_plan(key, prepare);
  use_plan(entry, true, true, [=] {
    const int code = SPI_execute_snapshot(entry->plan, const_cast<Datum *>(values), nullptr,
                                          snapshot, InvalidSnapshot, false, true, 0);
    if (code < 0) {
      elog(ERROR, "token_usage: %s", SPI_result_code_string(code));
    }
  });
}

Portal open_kept(const KeptKey &key, PrepareKept prepare, const Datum *values) {
  Entry *const entry = find_plan(key, prepare);
  Portal portal = nullptr;
  use_plan(entry, true, false, [=, &portal] {
    portal = SPI_cursor_open(nullptr, entry->plan, const_cast<Datum *>(values), nullptr, true);
    if (portal == nullptr) {
      elog(ERROR, "token_usage: %s", SPI_result_code_string(SPI_result));
    }
  });
  return portal;
}

ResultRows begin_rows(FunctionCallInfo fcinfo) {
  auto *const info = reinterpret_cast<ReturnSetInfo *>(fcinfo->resultinfo);
  if (info == nullptr || !IsA(info, ReturnSetInfo) ||
      (info->allowedModes & SFRM_Materialize) == 0) {
    ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                    errmsg("token_usage: a set of rows is returned where none is accepted")));
  }
  MemoryContext const outer = MemoryContextSwitchTo(info->econtext->ecxt_per_query_memory);
  ResultRows result{info, nullptr, nullptr};
  if (get_call_result_type(fcinfo, nullptr, &result.columns) != TYPEFUNC_COMPOSITE) {
    elog(ERROR, "token_usage: no row type to return");
  }
  result.columns = CreateTupleDescCopy(result.columns);
  result.store =
      tuplestore_begin_heap((info->allowedModes & SFRM_Materialize_Random) != 0, false, work_mem);
  MemoryContextSwitchTo(outer);
  return result;
}

void check_rows(const ResultRows &result) {
  TupleDesc const have = SPI_tuptable->tupdesc;
  bool same = have->natts == result.columns->natts;
  for (int i = 0; same && i < have->natts; ++i) {
    same = TupleDescAttr(have, i)->atttypid == TupleDescAttr(result.columns, i)->atttypid;
  }
  if (!same) {
    elog(ERROR, "token_usage: a query has other columns than the function that returns its rows");
  }
}

void store_rows(const ResultRows &result) {
  check_rows(result);
  for (std::uint64_t row = 0; row < SPI_processed; ++row) {
    tuplestore_puttuple(result.store, SPI_tuptable->vals[row]);
  }
  finish_rows(result);
}

void finish_rows(const ResultRows &result) {
  result.info->returnMode = SFRM_Materialize;
  result.info->setResult = result.store;
  result.info->setDesc = result.columns;
}

}  // namespace token_usage
