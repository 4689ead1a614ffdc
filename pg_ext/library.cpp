// The library itself: the magic block that the server looks for, and token_usage_version().
#include "server.h"

extern "C" {

#if PG_VERSION_NUM >= 180000
PG_MODULE_MAGIC_EXT(.name = "token_usage", .version = TOKEN_USAGE_VERSION);
#else
PG_MODULE_MAGIC;
#endif

// token_usage_version() returns text: the version of this library, which is also the extension's
// unless an update is half done.
PG_FUNCTION_INFO_V1(token_usage_version);
PGDLLEXPORT Datum token_usage_version(PG_FUNCTION_ARGS) {
  (void)fcinfo;
  PG_RETURN_TEXT_P(cstring_to_text(TOKEN_USAGE_VERSION));
}

}  // extern "C"
