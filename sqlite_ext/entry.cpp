// The entry point of the SQLite edition, the library's only exported symbol. SQLite derives its
// name from the file's:
// `.load ./token_usage` looks for sqlite3_tokenusage_init.

#include <sqlite3ext.h>
SQLITE_EXTENSION_INIT1

#include "decimal_sum.h"
#include "detailed.h"
#include "migrate.h"
#include "recording.h"
#include "report_json.h"
#include "report_tables.h"
#include "rollup_build.h"
#include "settings.h"
#include "stats.h"
#include "version.h"
#include "visit.h"

#if defined(_WIN32)
#define TOKEN_USAGE_EXPORT extern "C" __declspec(dllexport)
#else
#define TOKEN_USAGE_EXPORT extern "C" __attribute__((visibility("default")))
#endif

// Upsert, window functions, generated columns and sqlite3_create_window_function are all older;
// ALTER TABLE and the pragma functions behave as the migration needs from here on.
static constexpr int kOldestSqlite = 3034000;

TOKEN_USAGE_EXPORT int sqlite3_tokenusage_init(sqlite3 *db, char **message,
                                               const sqlite3_api_routines *api) {
  SQLITE_EXTENSION_INIT2(api)
  if (sqlite3_libversion_number() < kOldestSqlite) {
    *message =
        sqlite3_mprintf("token_usage: SQLite must be 3.34 or later, got %s", sqlite3_libversion());
    return SQLITE_ERROR;
  }
  using Register = int (*)(sqlite3 *);
  constexpr Register all[] = {
      token_usage::register_version,     token_usage::register_settings,
      token_usage::register_migrate,     token_usage::register_report_tables,
      token_usage::register_report_json, token_usage::register_detailed_count,
      token_usage::register_stats,       token_usage::register_decimal_sum,
      token_usage::register_recording,   token_usage::register_rollup,
      token_usage::register_visit,
  };
  for (const Register each : all) {
    const int code = each(db);
    if (code != SQLITE_OK) {
      *message = sqlite3_mprintf("%s", sqlite3_errmsg(db));
      return code;
    }
  }
  return SQLITE_OK;
}
