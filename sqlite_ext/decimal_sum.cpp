// token_usage_decimal_sum(x): the exact decimal sum of a column as text with all its digits, which
// a REAL could not hold; an aggregate and a window function. NULL where no value came that is a
// number.

#include "decimal_sum.h"

#include "accumulator.h"
#include "arguments.h"
#include "request.h"

namespace token_usage {

namespace {

struct DecimalSum {
  Decimal sum;
  std::int64_t count = 0;
};

void step(sqlite3_context *context, int, sqlite3_value **values) {
  guard(context, [&] {
    const std::optional<Decimal> value = read_decimal(ValueSource(values[0]));
    if (value) {
      auto &state = accumulator<DecimalSum>(context);
      if (!state.sum.add(*value)) {
        sum_overflow("x");
      }
      ++state.count;
    }
  });
}

void inverse(sqlite3_context *context, int, sqlite3_value **values) {
  guard(context, [&] {
    const std::optional<Decimal> value = read_decimal(ValueSource(values[0]));
    if (value) {
      auto &state = accumulator<DecimalSum>(context);
      if (!state.sum.subtract(*value)) {
        sum_overflow("x");
      }
      --state.count;
    }
  });
}

void value(sqlite3_context *context) {
  guard(context, [&] {
    const DecimalSum *const state = existing_accumulator<DecimalSum>(context);
    if (state != nullptr && state->count > 0) {
      result_text(context, state->sum.to_string());
    }
  });
}

void final(sqlite3_context *context) {
  value(context);
  free_accumulator<DecimalSum>(context);
}

}  // namespace

int register_decimal_sum(sqlite3 *db) {
  return sqlite3_create_window_function(db, "token_usage_decimal_sum", 1,
                                        SQLITE_UTF8 | SQLITE_DETERMINISTIC | SQLITE_INNOCUOUS,
                                        nullptr, step, final, value, inverse, nullptr);
}

}  // namespace token_usage
