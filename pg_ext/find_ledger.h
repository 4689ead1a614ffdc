// Finds the ledger that a report is about.
#pragma once

#include "server.h"

namespace token_usage {

// The first schema of a search path (of name[]), the temporary one excluded, that has a table
// token_usage; InvalidOid where there is none.
Oid find_ledger(ArrayType *path);

}  // namespace token_usage
