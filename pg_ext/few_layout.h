// How a ledger is read without a query (few_rows.cpp): its columns, and the index of users.
#pragma once

#include <iterator>

#include "few_rows.h"

namespace token_usage {

// The columns that reports read.
enum FewColumn {
  kUser,
  kCreated,
  kAgent,
  kProvider,
  kModel,
  kPrompt,
  kCompletion,
  kTotal,
  kUsd,
  kRub,
  kExecution,
  kColumns
};

constexpr const char *kFewNames[] = {"user_id",           "created_at",       "agent_id",
                                     "ai_provider",       "ai_model",         "prompt_tokens",
                                     "completion_tokens", "total_tokens",     "cost_usd",
                                     "cost_rub",          "execution_time_ms"};
static_assert(std::size(kFewNames) == kColumns);

// In the order of FewOther. A ledger without one of them is to be migrated, which reports say.
constexpr const char *kFewOtherNames[] = {"id",         "platform",    "content_type", "task_type",
                                          "content_id", "workflow_id", "request_id",   "endpoint"};
static_assert(std::size(kFewOtherNames) == kFewOthers);

// How a ledger is read.
struct FewLayout {
  Oid ledger;  // dynahash wants it first
  Oid index;
  AttrNumber columns[kColumns];
  AttrNumber last;  // of them
  Oid types[kColumns];
  AttrNumber others[kFewOthers];
  Oid id_type;
  bool usable;
  bool pages;   // whether for pages too
  bool newest;  // whether the index has the newest first
  bool fresh;
};

// The layout of a ledger that is locked, so that what is found stays so, and what changed before is
// known. It is found out once and kept until the ledger changes.
FewLayout few_layout(Relation ledger);

// The attribute of that name; InvalidAttrNumber where there is none.
AttrNumber attribute(TupleDesc columns, const char *name);

inline bool is_integer(Oid type) {
  return type == INT8OID || type == INT4OID || type == INT2OID;
}

// A value of such a type.
inline std::int64_t integer_of(Oid type, Datum value) {
  switch (type) {
    case INT8OID:
      return DatumGetInt64(value);
    case INT4OID:
      return DatumGetInt32(value);
    default:
      return DatumGetInt16(value);
  }
}

inline bool is_text(Oid type) {
  return type == TEXTOID || type == VARCHAROID;
}

}  // namespace token_usage
