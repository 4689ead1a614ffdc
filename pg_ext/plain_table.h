// Whether a relation beside a ledger may be read with the rights of whoever asks for a report.
#pragma once

#include "server.h"

extern "C" {
#include <access/relation.h>
#include <access/transam.h>
#include <utils/rel.h>
}

namespace token_usage {

// Whether `name` of the schema is a table of the server's own types, which stays so until the end
// of the transaction. A view in its place, or a type with casts of its own, would run code of the
// ledger's owner with the caller's rights.
inline bool is_plain_table(Oid table, const char *name, Oid schema) {
  Relation const relation = relation_open(table, AccessShareLock);
  bool plain = relation->rd_rel->relkind == RELKIND_RELATION &&
               get_relname_relid(name, schema) == table;  // it was not locked yet when it was found
  TupleDesc const columns = RelationGetDescr(relation);
  for (int i = 0; plain && i < columns->natts; ++i) {
    plain = TupleDescAttr(columns, i)->atttypid < FirstNormalObjectId;
  }
  relation_close(relation, NoLock);
  return plain;
}

}  // namespace token_usage
