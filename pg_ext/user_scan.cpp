// What user_scan.h tells.
#include <cstdint>
#include <string_view>

#include "user_scan.h"

extern "C" {
#include <access/htup_details.h>
#include <access/tableam.h>
#include <utils/fmgroids.h>
#include <utils/snapmgr.h>
}

namespace token_usage {

namespace {

constexpr int kKeys = 3;

RegProcedure equals(Oid type) {
  return type == UUIDOID   ? F_UUID_EQ
         : is_text(type)   ? F_TEXTEQ
         : type == INT4OID ? F_INT4EQ
                           : F_INT8EQ;
}

// A time without zone is UTC: the same number, compared by the same functions.
void time_keys(ScanKeyData *keys, TimestampTz from, TimestampTz until) {
  const bool open = from == DT_NOBEGIN;
  ScanKeyInit(&keys[0], 2, open ? BTGreaterStrategyNumber : BTGreaterEqualStrategyNumber,
              open ? F_TIMESTAMP_GT : F_TIMESTAMP_GE, TimestampTzGetDatum(from));
  ScanKeyInit(&keys[1], 2, BTLessStrategyNumber, F_TIMESTAMP_LT, TimestampTzGetDatum(until));
}

}  // namespace

bool user_value(text *user, Oid type, Datum *value) {
  const char *const data = VARDATA_ANY(user);
  const auto size = static_cast<std::size_t>(VARSIZE_ANY_EXHDR(user));
  if (is_text(type)) {
    *value = PointerGetDatum(user);
    return true;
  }
  if (type == UUIDOID) {
    // As the server writes one; other forms that it takes are rare.
    constexpr std::string_view form = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
    for (std::size_t i = 0; i < size; ++i) {
      const bool hex = (data[i] >= '0' && data[i] <= '9') || (data[i] >= 'a' && data[i] <= 'f');
      if (size != form.size() || (form[i] == 'x' ? !hex : data[i] != '-')) {
        return false;
      }
    }
    if (size == 0) {
      return false;
    }
    *value = DirectFunctionCall1(uuid_in, CStringGetDatum(text_to_cstring(user)));
    return true;
  }
  std::size_t at = size > 0 && data[0] == '-' ? 1 : 0;
  if (at == size || size > 18) {
    return false;
  }
  std::int64_t number = 0;
  for (; at < size; ++at) {
    if (data[at] < '0' || data[at] > '9') {
      return false;
    }
    number = number * 10 + (data[at] - '0');
  }
  number = data[0] == '-' ? -number : number;
  if (type == INT4OID) {
    *value = Int32GetDatum(static_cast<std::int32_t>(number));
    return number == static_cast<std::int32_t>(number);
  }
  *value = Int64GetDatum(number);
  return true;
}

void user_key(ScanKeyData *key, AttrNumber column, Oid type, Oid collation, Datum value) {
  ScanKeyEntryInitialize(key, 0, column, BTEqualStrategyNumber, InvalidOid,
                         is_text(type) ? collation : InvalidOid, equals(type), value);
}

bool is_open(Oid table) {
  return ExecutorCheckPerms_hook == nullptr &&
         check_enable_rls(table, InvalidOid, true) != RLS_ENABLED &&
         pg_class_aclcheck(table, GetUserId(), ACL_SELECT) == ACLCHECK_OK;
}

bool find_user_layout(Relation ledger, FewLayout *layout) {
  if (ledger->rd_rel->relhassubclass) {
    return false;
  }
  *layout = few_layout(ledger);
  return layout->usable;
}

bool open_user_scan(Relation ledger, const FewLayout &layout, text *user, TimestampTz from,
                    TimestampTz until, UserScan *out) {
  Datum value = 0;
  if (!user_value(user, layout.types[kUser], &value)) {
    return false;
  }
  Relation const index = index_open(layout.index, AccessShareLock);
  // As the planner asks of an index whose rows had changed under way when it was made.
  if (!index->rd_index->indisvalid ||
      (index->rd_index->indcheckxmin &&
       !TransactionIdPrecedes(HeapTupleHeaderGetXmin(index->rd_indextuple->t_data),
                              TransactionXmin))) {
    index_close(index, AccessShareLock);
    return false;
  }
  out->index = index;
  user_key(&out->keys[0], 1, layout.types[kUser], index->rd_indcollation[0], value);
  time_keys(&out->keys[1], from, until);
  out->scan = index_beginscan(ledger, index, GetActiveSnapshot(),
#if PG_VERSION_NUM >= 180000
                              nullptr,
#endif
                              kKeys, 0);
  out->slot = table_slot_create(ledger, nullptr);
  rewind_user_scan(out);
  return true;
}

void rewind_user_scan(UserScan *scan) {
  index_rescan(scan->scan, scan->keys, kKeys, nullptr, 0);
}

void close_user_scan(UserScan *scan) {
  index_endscan(scan->scan);
  ExecDropSingleTupleTableSlot(scan->slot);
  index_close(scan->index, AccessShareLock);
}

}  // namespace token_usage
