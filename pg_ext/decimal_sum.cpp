// token_usage_decimal_sum(x): the exact decimal sum by rule 4 of the contract, as an aggregate and
// in windows. NULL over no value; NaN and infinities are no value.
#include <cstdint>
#include <optional>

#include "decimal.h"

#include "guard.h"
#include "money.h"
#include "state.h"

namespace token_usage {

namespace {

struct Sum {
  Decimal total;
  std::int64_t count = 0;  // of the values in it
  std::int64_t padding = 0;
};

using State = AggregateState<Sum>;

// The type of the summed argument, from the SQL function that is called.
Oid value_type(FunctionCallInfo fcinfo) {
  if (fcinfo->flinfo->fn_extra == nullptr) {
    Oid *types = nullptr;
    int count = 0;
    get_func_signature(fcinfo->flinfo->fn_oid, &types, &count);
    if (count != 2) {
      elog(ERROR, "token_usage: token_usage_decimal_sum takes one value, not %d", count - 1);
    }
    auto *const type = static_cast<Oid *>(MemoryContextAlloc(fcinfo->flinfo->fn_mcxt, sizeof(Oid)));
    *type = types[1];
    pfree(types);
    fcinfo->flinfo->fn_extra = type;
  }
  return *static_cast<Oid *>(fcinfo->flinfo->fn_extra);
}

std::optional<Decimal> value(FunctionCallInfo fcinfo) {
  if (fcinfo->args[1].isnull) {
    return std::nullopt;
  }
  return decimal_from_datum(fcinfo->args[1].value, value_type(fcinfo), "x");
}

// `count` is -1 for a value that leaves a window.
Datum advance(FunctionCallInfo fcinfo, const std::optional<Decimal> &step, std::int64_t count) {
  // A state even where there is no value yet: a moving aggregate must not return NULL.
  Sum sum = State::read(fcinfo, 0);
  if (!step) {
    return State::write(fcinfo, 0, sum);
  }
  const bool fits = count > 0 ? sum.total.add(*step) : sum.total.subtract(*step);
  if (!fits || __builtin_add_overflow(sum.count, count, &sum.count)) {
    guarded([] { sum_overflow("x"); });
  }
  return State::write(fcinfo, 0, sum);
}

}  // namespace

extern "C" {

PG_FUNCTION_INFO_V1(token_usage_decimal_sum_add);
PGDLLEXPORT Datum token_usage_decimal_sum_add(PG_FUNCTION_ARGS) {
  return advance(fcinfo, value(fcinfo), 1);
}

PG_FUNCTION_INFO_V1(token_usage_decimal_sum_subtract);
PGDLLEXPORT Datum token_usage_decimal_sum_subtract(PG_FUNCTION_ARGS) {
  return advance(fcinfo, value(fcinfo), -1);
}

PG_FUNCTION_INFO_V1(token_usage_decimal_sum_combine);
PGDLLEXPORT Datum token_usage_decimal_sum_combine(PG_FUNCTION_ARGS) {
  if (fcinfo->args[0].isnull && fcinfo->args[1].isnull) {
    PG_RETURN_NULL();
  }
  Sum sum = State::read(fcinfo, 0);
  const Sum other = State::read(fcinfo, 1);
  if (!sum.total.add(other.total) || __builtin_add_overflow(sum.count, other.count, &sum.count)) {
    guarded([] { sum_overflow("x"); });
  }
  return State::write(fcinfo, 0, sum);
}

PG_FUNCTION_INFO_V1(token_usage_decimal_sum_final);
PGDLLEXPORT Datum token_usage_decimal_sum_final(PG_FUNCTION_ARGS) {
  const Sum sum = State::read(fcinfo, 0);
  if (sum.count == 0) {
    PG_RETURN_NULL();
  }
  return decimal_to_numeric(sum.total);
}

}  // extern "C"

}  // namespace token_usage
