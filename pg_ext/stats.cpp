// token_usage_stats (section 3 of the contract, "Aggregates"): the measures of any rows of any
// query as one jsonb. Carries rules 4 to 6: exact money, NULL is not zero, no wrapped sums.
// pg_ext/native.sql declares an aggregate for each combination of cost types; all share these
// functions.
#include <cstdint>
#include <optional>

#include "json.h"
#include "measures.h"

#include "guard.h"
#include "money.h"
#include "state.h"

namespace token_usage {

namespace {

using State = AggregateState<Measures>;

// Where the arguments stand: the state is the first.
enum Argument { kState, kPrompt, kCompletion, kTotal, kCostUsd, kCostRub, kTime, kArguments };

// The argument types of the SQL function that is called, looked up once per call site. The
// expression tree would tell too, but not every caller gives one.
struct ArgumentTypes {
  Oid types[kArguments];
};

const ArgumentTypes &argument_types(FunctionCallInfo fcinfo) {
  if (fcinfo->flinfo->fn_extra == nullptr) {
    Oid *types = nullptr;
    int count = 0;
    get_func_signature(fcinfo->flinfo->fn_oid, &types, &count);
    if (count != kArguments) {
      elog(ERROR, "token_usage: token_usage_stats takes %d values, not %d", kArguments - 1,
           count - 1);
    }
    auto *const out = static_cast<ArgumentTypes *>(
        MemoryContextAlloc(fcinfo->flinfo->fn_mcxt, sizeof(ArgumentTypes)));
    std::memcpy(out->types, types, sizeof out->types);
    pfree(types);
    fcinfo->flinfo->fn_extra = out;
  }
  return *static_cast<ArgumentTypes *>(fcinfo->flinfo->fn_extra);
}

std::int64_t tokens(FunctionCallInfo fcinfo, int index) {
  return fcinfo->args[index].isnull ? 0 : DatumGetInt64(fcinfo->args[index].value);
}

std::optional<Decimal> decimal(FunctionCallInfo fcinfo, int index, const char *column) {
  if (fcinfo->args[index].isnull) {
    return std::nullopt;
  }
  return decimal_from_datum(fcinfo->args[index].value, argument_types(fcinfo).types[index], column);
}

Request request(FunctionCallInfo fcinfo) {
  Request out;
  out.prompt_tokens = tokens(fcinfo, kPrompt);
  out.completion_tokens = tokens(fcinfo, kCompletion);
  out.total_tokens = tokens(fcinfo, kTotal);
  if (fcinfo->args[kTotal].isnull &&
      __builtin_add_overflow(out.prompt_tokens, out.completion_tokens, &out.total_tokens)) {
    guarded([] { sum_overflow("total_tokens"); });
  }
  out.cost_usd = decimal(fcinfo, kCostUsd, "cost_usd");
  out.cost_rub = decimal(fcinfo, kCostRub, "cost_rub");
  out.execution_time_ms = decimal(fcinfo, kTime, "execution_time_ms");
  return out;
}

}  // namespace

extern "C" {

PG_FUNCTION_INFO_V1(token_usage_stats_add);
PGDLLEXPORT Datum token_usage_stats_add(PG_FUNCTION_ARGS) {
  const Request row = request(fcinfo);
  Measures measures = State::read(fcinfo, kState);
  guarded([&] { measures.add(row); });
  return State::write(fcinfo, kState, measures);
}

// The inverse, for windows whose start moves.
PG_FUNCTION_INFO_V1(token_usage_stats_subtract);
PGDLLEXPORT Datum token_usage_stats_subtract(PG_FUNCTION_ARGS) {
  const Request row = request(fcinfo);
  Measures measures = State::read(fcinfo, kState);
  guarded([&] { measures.subtract(row); });
  return State::write(fcinfo, kState, measures);
}

PG_FUNCTION_INFO_V1(token_usage_stats_combine);
PGDLLEXPORT Datum token_usage_stats_combine(PG_FUNCTION_ARGS) {
  Measures measures = State::read(fcinfo, 0);
  const Measures other = State::read(fcinfo, 1);
  guarded([&] { measures.merge(other); });
  return State::write(fcinfo, 0, measures);
}

PG_FUNCTION_INFO_V1(token_usage_stats_final);
PGDLLEXPORT Datum token_usage_stats_final(PG_FUNCTION_ARGS) {
  struct Text {
    char json[768];  // eight numbers of at most 41 characters, and their keys
  };
  const Measures measures = State::read(fcinfo, 0);
  Text text = guarded([&] {
    const std::string json = stats_json(measures);
    Text out = {};
    json.copy(out.json, sizeof out.json - 1);
    return out;
  });
  return DirectFunctionCall1(jsonb_in, CStringGetDatum(text.json));
}

}  // extern "C"

}  // namespace token_usage
