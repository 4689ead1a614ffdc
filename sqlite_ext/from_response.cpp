// token_usage_from_response(ai_provider, response): the counts of a provider's response (section 5
// of the contract).
#include "../core/usage.h"
#include "arguments.h"
#include "recording.h"

namespace token_usage {
namespace {

void from_response(sqlite3_context *context, int, sqlite3_value **values) {
  guard(context, [&] {
    const std::string provider(required_text("ai_provider", values[0]));
    const JsonDocument response(required_text("response", values[1]), "response");
    result_json(context, usage_to_json(usage_from_response(provider, response.root(), "response")));
  });
}

}  // namespace

int register_from_response(sqlite3 *db) {
  return sqlite3_create_function_v2(
      db, "token_usage_from_response", 2,
      SQLITE_UTF8 | SQLITE_DETERMINISTIC | SQLITE_INNOCUOUS | kResultSubtype, nullptr,
      from_response, nullptr, nullptr, nullptr);
}

}  // namespace token_usage
