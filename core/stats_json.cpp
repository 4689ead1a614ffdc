// The result of token_usage_stats as JSON. It stands apart from json.cpp, and writes its digits
// itself, so that the PostgreSQL library needs no JSON library: every value here is a number.
#include "json.h"

namespace token_usage {

std::string stats_json(const Measures &value) {
  std::string out;
  const auto put = [&out](std::string_view name, const std::string &digits) {
    out += out.empty() ? "{\"" : ",\"";
    out.append(name).append("\":").append(digits);
  };
  put("requests_count", std::to_string(value.requests_count));
  put("prompt_tokens", std::to_string(token_sum(value.prompt_tokens, "prompt_tokens")));
  put("completion_tokens", std::to_string(token_sum(value.completion_tokens, "completion_tokens")));
  put("total_tokens", std::to_string(token_sum(value.total_tokens, "total_tokens")));
  put("cost_usd", value.cost_usd.to_string());
  put("cost_rub", value.cost_rub.to_string());
  put("unpriced_count", std::to_string(value.unpriced_count));
  const std::optional<std::int64_t> average = value.avg_execution_time_ms();
  put("avg_execution_time_ms", average ? std::to_string(*average) : "null");
  return out + '}';
}

}  // namespace token_usage
