// What few_call.h tells.
#include <cstdint>
#include <cstring>
#include <optional>

#include "few_call.h"
#include "find_ledger.h"
#include "money.h"

extern "C" {
#include <access/htup_details.h>
#include <catalog/pg_proc.h>
}

namespace token_usage {

bool open_scope(FunctionCallInfo fcinfo, FewQuestion *question) {
  if (PG_ARGISNULL(0) || PG_ARGISNULL(1)) {
    return false;
  }
  question->ledger = find_ledger(PG_GETARG_ARRAYTYPE_P(0));
  question->user = PG_GETARG_TEXT_PP(1);
  return OidIsValid(question->ledger);
}

bool FewResult::measure_cells(const Measures &m, bool mean) {
  struct Counts {
    std::int64_t prompt;
    std::int64_t completion;
    std::int64_t total;
    std::optional<std::int64_t> mean;
  } counts = {};
  if (!attempt([&counts, &m, mean] {
        counts.prompt = token_sum(m.prompt_tokens, "prompt_tokens");
        counts.completion = token_sum(m.completion_tokens, "completion_tokens");
        counts.total = token_sum(m.total_tokens, "total_tokens");
        if (mean) {
          counts.mean = m.avg_execution_time_ms();
        }
      })) {
    return false;
  }
  cell(Int64GetDatum(m.requests_count));
  cell(Int64GetDatum(counts.prompt));
  cell(Int64GetDatum(counts.completion));
  cell(Int64GetDatum(counts.total));
  cell(decimal_to_numeric(m.cost_usd));
  cell(decimal_to_numeric(m.cost_rub));
  cell(Int64GetDatum(m.unpriced_count));
  if (counts.mean) {
    cell(Int64GetDatum(*counts.mean));
  } else if (mean) {
    null_cell();
  }
  return true;
}

Datum hand_on(FunctionCallInfo fcinfo) {
  auto *any = static_cast<FmgrInfo *>(fcinfo->flinfo->fn_extra);
  if (any == nullptr) {
    HeapTuple const self = SearchSysCache1(PROCOID, ObjectIdGetDatum(fcinfo->flinfo->fn_oid));
    if (!HeapTupleIsValid(self)) {
      elog(ERROR, "token_usage: a function is gone");
    }
    auto *const form = reinterpret_cast<Form_pg_proc>(GETSTRUCT(self));
    const char *const name = psprintf("%s_any", NameStr(form->proname));
    Oid const function =
        GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid, CStringGetDatum(name),
                        PointerGetDatum(&form->proargtypes), ObjectIdGetDatum(form->pronamespace));
    ReleaseSysCache(self);
    if (!OidIsValid(function)) {
      elog(ERROR, "token_usage: there is no function %s", name);
    }
    any = static_cast<FmgrInfo *>(MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt, sizeof *any));
    fmgr_info_cxt(function, any, fcinfo->flinfo->fn_mcxt);
    any->fn_expr = fcinfo->flinfo->fn_expr;
    fcinfo->flinfo->fn_extra = any;
  }
  // A call of its own: should it end in an error, the caller's is as it was.
  LOCAL_FCINFO(call, FUNC_MAX_ARGS);
  std::memcpy(call, fcinfo, SizeForFunctionCallInfo(fcinfo->nargs));
  call->flinfo = any;
  Datum const result = FunctionCallInvoke(call);
  fcinfo->isnull = call->isnull;
  return result;
}

Datum few_report(FunctionCallInfo fcinfo, bool (*make)(FunctionCallInfo, FewResult *)) {
  FewResult result(fcinfo);
  if (result.is_wanted() && make(fcinfo, &result)) {
    result.finish();
    PG_RETURN_NULL();
  }
  result.discard();
  return hand_on(fcinfo);
}

}  // namespace token_usage
