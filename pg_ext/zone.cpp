// Whether the server knows a time zone (rule 3 of the contract). Which names are asked for at all
// is decided by the name rule in SQL; see pg_ext/calendar.sql.
#include "server.h"

extern "C" {

// _token_usage_zone_known(name text) returns bool
PG_FUNCTION_INFO_V1(token_usage_zone_known);
PGDLLEXPORT Datum token_usage_zone_known(PG_FUNCTION_ARGS) {
  char *const name = text_to_cstring(PG_GETARG_TEXT_PP(0));
  const pg_tz *const zone = pg_tzset(name);
  // A zone that counts leap seconds is refused by the server, too.
  const bool known = zone != nullptr && pg_tz_acceptable(const_cast<pg_tz *>(zone));
  pfree(name);
  PG_RETURN_BOOL(known);
}

}  // extern "C"
