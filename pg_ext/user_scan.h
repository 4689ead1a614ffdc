// The rows of one user read straight from the ledger by its index, without a query: to start an
// executor takes longer than to read ten rows, and to count some hundreds of them in it takes ten
// times as long as by the index alone.
//
// Carries rule 10 of the contract: who opens a scan has asked is_open() first.
#pragma once

#include "few_layout.h"

extern "C" {
#include <access/genam.h>
#include <access/relscan.h>
#include <executor/tuptable.h>
}

namespace token_usage {

struct UserScan {
  Relation index;
  IndexScanDesc scan;
  TupleTableSlot *slot;
  ScanKeyData keys[3];
};

// Whether the caller may read the whole table, with no row security. Where something has its own
// say in what a query may read, or keeps a record of it, a query has to ask.
bool is_open(Oid table);

// The user as a value of that type; false where only the server can tell.
bool user_value(text *user, Oid type, Datum *value);

// The key of a scan for such a value.
void user_key(ScanKeyData *key, AttrNumber column, Oid type, Oid collation, Datum value);

// How a ledger that is locked is read; false where it takes a query. What inherits from it is read
// too by one.
bool find_user_layout(Relation ledger, FewLayout *layout);

// Begins to read the rows of `user` with from <= created_at < until that the active snapshot sees,
// in the order of the index; -infinity is no time. False where only a query can tell.
bool open_user_scan(Relation ledger, const FewLayout &layout, text *user, TimestampTz from,
                    TimestampTz until, UserScan *out);

// From the start again.
void rewind_user_scan(UserScan *scan);

void close_user_scan(UserScan *scan);

}  // namespace token_usage
