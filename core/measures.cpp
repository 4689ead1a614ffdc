#include "measures.h"

#include <limits>

#include "arguments.h"

namespace token_usage {

namespace {

void subtract_cost(Decimal &sum, const std::optional<Decimal> &value, const char *column) {
  if (value && !sum.subtract(*value)) {
    sum_overflow(column);
  }
}

template <typename Integer>
void add_wide(Integer &sum, Integer value, const char *column) {
  if (__builtin_add_overflow(sum, value, &sum)) {
    sum_overflow(column);
  }
}

}  // namespace

void Measures::subtract(const Request &request) {
  prompt_tokens -= request.prompt_tokens;
  completion_tokens -= request.completion_tokens;
  total_tokens -= request.total_tokens;
  subtract_cost(cost_usd, request.cost_usd, "cost_usd");
  subtract_cost(cost_rub, request.cost_rub, "cost_rub");
  subtract_cost(execution_ms_sum, request.execution_time_ms, "execution_time_ms");
  requests_count -= 1;
  unpriced_count -= request.cost_usd ? 0 : 1;
  execution_ms_count -= request.execution_time_ms ? 1 : 0;
}

// What is merged may come from outside (an aggregate's state is a value like any other there), so
// no addition is trusted to fit.
void Measures::merge(const Measures &other) {
  add_wide(prompt_tokens, other.prompt_tokens, "prompt_tokens");
  add_wide(completion_tokens, other.completion_tokens, "completion_tokens");
  add_wide(total_tokens, other.total_tokens, "total_tokens");
  add_cost(cost_usd, other.cost_usd, "cost_usd");
  add_cost(cost_rub, other.cost_rub, "cost_rub");
  add_cost(execution_ms_sum, other.execution_ms_sum, "execution_time_ms");
  add_wide(requests_count, other.requests_count, "requests_count");
  add_wide(unpriced_count, other.unpriced_count, "unpriced_count");
  add_wide(execution_ms_count, other.execution_ms_count, "execution_time_ms");
}

std::optional<std::int64_t> Measures::avg_execution_time_ms() const {
  if (execution_ms_count <= 0) {
    return std::nullopt;
  }
  return rounded_mean(execution_ms_sum, execution_ms_count);
}

std::int64_t token_sum(int128 sum, const char *column) {
  if (sum > std::numeric_limits<std::int64_t>::max() ||
      sum < std::numeric_limits<std::int64_t>::min()) {
    sum_overflow(column);
  }
  return static_cast<std::int64_t>(sum);
}

}  // namespace token_usage
