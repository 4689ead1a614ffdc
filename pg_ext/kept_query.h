// Queries over a ledger whose plans are kept for the session. The text of such a query depends on
// the ledger's columns and is made by a SQL function, the same that the portable edition runs with
// EXECUTE; asking for it and planning it takes longer than most reports.
//
// Carries rule 7 of the contract (what a report asks is read-only, so it runs in the caller's
// snapshot) and rule 10 (it runs as the caller, through SPI: permissions and row-level security are
// the executor's and the plan cache's own).
#pragma once

#include <cstring>
#include <type_traits>

#include "server.h"

namespace token_usage {

// What a query is kept under. Zeroed as a whole, since the server's own hash table compares bytes.
struct KeptKey {
  Oid function;  // the one that runs it: another one after DROP and CREATE EXTENSION
  Oid ledger;
  Oid role;        // the text may depend on what the caller is allowed to read
  char shape[28];  // which of the queries of `function`
};

// A key of `fcinfo`'s function and the current role. `Shape` has no byte that is not its value.
template <typename Shape>
KeptKey kept_key(FunctionCallInfo fcinfo, Oid ledger, const Shape &shape) {
  static_assert(sizeof(Shape) <= sizeof(KeptKey::shape));
  static_assert(std::has_unique_object_representations_v<Shape>);
  KeptKey key;
  std::memset(&key, 0, sizeof key);
  key.function = fcinfo->flinfo->fn_oid;
  key.ledger = ledger;
  key.role = GetUserId();
  std::memcpy(key.shape, &shape, sizeof shape);
  return key;
}

// Asks for the text of a key and plans it, inside SPI; none where there is no such query.
using PrepareKept = SPIPlanPtr (*)(const KeptKey &key);

// The text that `call` gives, a SELECT of one value with `%s` for the schema of the key's function;
// NULL where that is NULL.
char *ask_for_text(const KeptKey &key, const char *call, int count, Oid *types, Datum *values);

// SPI_prepare_cursor, or an error.
SPIPlanPtr prepare_text(const char *text, int count, Oid *types, int options);

// Runs the query of a key, prepared by `prepare` where it is not kept yet; false where there is
// none. What is planned without regard to pages is planned by the number of rows alone: see
// run_sums_part().
bool run_kept(const KeptKey &key, PrepareKept prepare, const Datum *values, const char *nulls,
              bool without_pages);

// The same for a query whose rows are not all to be in memory: the portal is read by
// PortalRunFetch() and closed by SPI_cursor_close(), in the same call.
Portal open_kept(const KeptKey &key, PrepareKept prepare, const Datum *values);

// The same for a statement that writes, in `snapshot`, or one of its own where that is
// InvalidSnapshot.
void execute_kept(const KeptKey &key, PrepareKept prepare, const Datum *values, Snapshot snapshot);

// The result of a set-returning function in materialize mode.
struct ResultRows {
  ReturnSetInfo *info;
  Tuplestorestate *store;
  TupleDesc columns;
};

ResultRows begin_rows(FunctionCallInfo fcinfo);

// The columns of the last SPI query must be those of the result.
void check_rows(const ResultRows &result);

// Puts the rows of the last SPI query into the result.
void store_rows(const ResultRows &result);

// Hands the result over, where rows were put into it in another way.
void finish_rows(const ResultRows &result);

}  // namespace token_usage
