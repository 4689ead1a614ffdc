// token_usage_version(): the version of this library, as text.

// The version header is made by the build.
#include "token_usage_version.h"

#include "version.h"

namespace token_usage {

int register_version(sqlite3 *db) {
  const auto call = [](sqlite3_context *context, int, sqlite3_value **) {
    sqlite3_result_text(context, TOKEN_USAGE_VERSION, -1, SQLITE_STATIC);
  };
  return sqlite3_create_function_v2(db, "token_usage_version", 0,
                                    SQLITE_UTF8 | SQLITE_DETERMINISTIC | SQLITE_INNOCUOUS, nullptr,
                                    call, nullptr, nullptr, nullptr);
}

}  // namespace token_usage
