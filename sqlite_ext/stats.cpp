// token_usage_stats(prompt_tokens, completion_tokens, total_tokens, cost_usd, cost_rub,
// execution_time_ms): the measures of any rows as one JSON object; an aggregate and a window
// function.

#include "stats.h"

#include "../core/json.h"
#include "accumulator.h"
#include "arguments.h"
#include "request.h"

namespace token_usage {

namespace {

Request request_of(sqlite3_value **values) {
  return read_request([values](int i) { return ValueSource(values[i]); });
}

void step(sqlite3_context *context, int, sqlite3_value **values) {
  guard(context, [&] { accumulator<Measures>(context).add(request_of(values)); });
}

void inverse(sqlite3_context *context, int, sqlite3_value **values) {
  guard(context, [&] { accumulator<Measures>(context).subtract(request_of(values)); });
}

void value(sqlite3_context *context) {
  guard(context, [&] {
    const Measures *const measures = existing_accumulator<Measures>(context);
    result_json(context, stats_json(measures == nullptr ? Measures() : *measures));
  });
}

void final(sqlite3_context *context) {
  value(context);
  free_accumulator<Measures>(context);
}

}  // namespace

int register_stats(sqlite3 *db) {
  return sqlite3_create_window_function(
      db, "token_usage_stats", 6,
      SQLITE_UTF8 | SQLITE_DETERMINISTIC | SQLITE_INNOCUOUS | kResultSubtype, nullptr, step, final,
      value, inverse, nullptr);
}

}  // namespace token_usage
