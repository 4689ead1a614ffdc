// What few_layout.h tells.
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "few_layout.h"

extern "C" {
#include <access/genam.h>
#include <access/htup_details.h>
#include <catalog/pg_am.h>
#include <catalog/pg_opfamily.h>
#include <utils/rel.h>
}

namespace token_usage {

namespace {

// The server's own families of operators of which its headers give no name.
constexpr Oid kUuidFamily = 2968;     // uuid_ops
constexpr Oid kDatetimeFamily = 434;  // datetime_ops

HTAB *layouts = nullptr;
std::uint64_t changes = 0;

// Invalidation may come in the middle of anything, so it only marks.
void relation_changed(Datum, Oid relation) {
  ++changes;
  HASH_SEQ_STATUS scan;
  hash_seq_init(&scan, layouts);
  while (auto *const layout = static_cast<FewLayout *>(hash_seq_search(&scan))) {
    if (relation == InvalidOid || relation == layout->ledger) {
      layout->fresh = false;
    }
  }
}

bool fits(FewColumn column, Oid type) {
  switch (column) {
    case kUser:
      return type == INT8OID || type == INT4OID || type == UUIDOID || is_text(type);
    case kCreated:
      return type == TIMESTAMPTZOID || type == TIMESTAMPOID;
    case kAgent:
    case kProvider:
    case kModel:
      return is_text(type);
    case kPrompt:
    case kCompletion:
    case kTotal:
      return is_integer(type);
    default:
      return is_integer(type) || type == NUMERICOID;
  }
}

// The family of the operators by which a user of that type is found.
Oid family_of(Oid type) {
  return type == UUIDOID ? kUuidFamily : is_text(type) ? TEXT_BTREE_FAM_OID : INTEGER_BTREE_FAM_OID;
}

// Whether an index begins with the user and the time, and compares them as the server's own
// operators do.
bool serves(Relation index, const FewLayout &layout) {
  Form_pg_index const form = index->rd_index;
  Oid const type = layout.types[kUser];
  return index->rd_rel->relam == BTREE_AM_OID && form->indisvalid && form->indisready &&
         form->indnkeyatts >= 2 && form->indkey.values[0] == layout.columns[kUser] &&
         form->indkey.values[1] == layout.columns[kCreated] &&
         index->rd_opfamily[0] == family_of(type) && index->rd_opfamily[1] == kDatetimeFamily &&
         (!is_text(type) || (OidIsValid(index->rd_indcollation[0]) &&
                             get_collation_isdeterministic(index->rd_indcollation[0]))) &&
         heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, nullptr);
}

void find_index(Relation ledger, FewLayout *layout) {
  List *const indexes = RelationGetIndexList(ledger);
  ListCell *cell = nullptr;
  foreach (cell, indexes) {
    Relation const index = index_open(lfirst_oid(cell), AccessShareLock);
    if (!OidIsValid(layout->index) && serves(index, *layout)) {
      layout->index = RelationGetRelid(index);
      layout->newest = (index->rd_indoption[1] & INDOPTION_DESC) != 0;
    }
    index_close(index, AccessShareLock);
  }
  list_free(indexes);
  layout->usable = OidIsValid(layout->index);
}

void find_layout(FewLayout *layout, Relation ledger) {
  TupleDesc const columns = RelationGetDescr(ledger);
  layout->usable = ledger->rd_rel->relkind == RELKIND_RELATION;
  layout->last = 0;
  for (int i = 0; i < kColumns; ++i) {
    const AttrNumber number = attribute(columns, kFewNames[i]);
    layout->columns[i] = number;
    layout->last = std::max(layout->last, number);
    if (number == InvalidAttrNumber) {
      layout->usable = false;
      continue;
    }
    layout->types[i] = TupleDescAttr(columns, number - 1)->atttypid;
    layout->usable = layout->usable && fits(static_cast<FewColumn>(i), layout->types[i]);
  }
  layout->pages = is_integer(layout->types[kExecution]);
  for (int i = 0; i < kFewOthers; ++i) {
    const AttrNumber number = attribute(columns, kFewOtherNames[i]);
    layout->others[i] = number;
    if (number == InvalidAttrNumber) {
      layout->usable = false;
      continue;
    }
    Oid const type = TupleDescAttr(columns, number - 1)->atttypid;
    layout->pages = layout->pages && (i == kId ? is_integer(type) : is_text(type));
    layout->id_type = i == kId ? type : layout->id_type;
  }
  if (layout->usable) {
    find_index(ledger, layout);
  }
}

}  // namespace

AttrNumber attribute(TupleDesc columns, const char *name) {
  for (int i = 0; i < columns->natts; ++i) {
    Form_pg_attribute const column = TupleDescAttr(columns, i);
    if (!column->attisdropped && std::strcmp(NameStr(column->attname), name) == 0) {
      return column->attnum;
    }
  }
  return InvalidAttrNumber;
}

FewLayout few_layout(Relation ledger) {
  if (layouts == nullptr) {
    HASHCTL control;
    std::memset(&control, 0, sizeof control);
    control.keysize = sizeof(Oid);
    control.entrysize = sizeof(FewLayout);
    control.hcxt = TopMemoryContext;
    layouts =
        hash_create("token_usage ledgers", 16, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
    CacheRegisterRelcacheCallback(relation_changed, Datum{0});
  }
  Oid const oid = RelationGetRelid(ledger);
  auto *const kept = static_cast<FewLayout *>(hash_search(layouts, &oid, HASH_FIND, nullptr));
  if (kept != nullptr && kept->fresh) {
    return *kept;
  }
  const std::uint64_t before = changes;
  FewLayout layout;
  std::memset(&layout, 0, sizeof layout);
  layout.ledger = oid;
  find_layout(&layout, ledger);
  layout.fresh = changes == before;
  *static_cast<FewLayout *>(hash_search(layouts, &oid, HASH_ENTER, nullptr)) = layout;
  return layout;
}

}  // namespace token_usage
