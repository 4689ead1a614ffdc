// The measures of the contract (section 3): what a report says of a set of requests. Every part can
// be added and taken away exactly, so that windows can slide and sums can be combined.
#pragma once

#include <cstdint>
#include <optional>

#include "arguments.h"
#include "decimal.h"

namespace token_usage {

// One request as the measures see it. NULL counts are 0 before they get here, except a NULL total,
// which is prompt + completion.
struct Request {
  std::int64_t prompt_tokens = 0;
  std::int64_t completion_tokens = 0;
  std::int64_t total_tokens = 0;
  std::optional<Decimal> cost_usd;
  std::optional<Decimal> cost_rub;
  std::optional<Decimal> execution_time_ms;
};

// A plain struct without pointers: PostgreSQL keeps it inside a bytea while an aggregate runs, and
// ships it between processes.
struct Measures {
  // Token sums are wider than 64 bits, so that only the result has to fit and not each step on the
  // way.
  int128 prompt_tokens = 0;
  int128 completion_tokens = 0;
  int128 total_tokens = 0;
  Decimal cost_usd;
  Decimal cost_rub;
  Decimal execution_ms_sum;
  std::int64_t requests_count = 0;
  std::int64_t unpriced_count = 0;
  std::int64_t execution_ms_count = 0;
  std::int64_t padding = 0;

  // Adds one request. Throws an overflow error past what the contract promises.
  void add(const Request &request) {
    prompt_tokens += request.prompt_tokens;
    completion_tokens += request.completion_tokens;
    total_tokens += request.total_tokens;
    add_cost(cost_usd, request.cost_usd, "cost_usd");
    add_cost(cost_rub, request.cost_rub, "cost_rub");
    add_cost(execution_ms_sum, request.execution_time_ms, "execution_time_ms");
    requests_count += 1;
    unpriced_count += request.cost_usd ? 0 : 1;
    execution_ms_count += request.execution_time_ms ? 1 : 0;
  }
  // Takes one request away that was added before.
  void subtract(const Request &request);
  // Adds what another set of requests holds.
  void merge(const Measures &other);

  // The mean over the requests that have a time, half away from zero; nothing where none has one.
  [[nodiscard]] std::optional<std::int64_t> avg_execution_time_ms() const;

 private:
  static void add_cost(Decimal &sum, const std::optional<Decimal> &value, const char *column) {
    if (value && !sum.add(*value)) {
      sum_overflow(column);
    }
  }
};

// The sum as 64 bits, or the overflow error that names the column.
std::int64_t token_sum(int128 sum, const char *column);

}  // namespace token_usage
