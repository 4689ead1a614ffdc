// What a page of token_usage_detailed computes for each of its rows, PostgreSQL native edition: the
// cursor (core/cursor.h tells its form) and the time as text. page_portable.sql is the twin.
#include <cstdint>

#include "guard.h"

namespace token_usage {

namespace {

// From 1970 to 2000, where PostgreSQL's times start.
constexpr std::int64_t kEpoch =
    static_cast<std::int64_t>(POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;

}  // namespace

extern "C" {

// _token_usage_cursor(created_at timestamptz, id text): strict, and created_at is finite
PG_FUNCTION_INFO_V1(token_usage_cursor);
PGDLLEXPORT Datum token_usage_cursor(PG_FUNCTION_ARGS) {
  char *const id = text_to_cstring(PG_GETARG_TEXT_PP(1));
  char *const plain =
      psprintf("1|%lld|%s", static_cast<long long>(PG_GETARG_TIMESTAMPTZ(0) + kEpoch), id);
  const char *const utf8 = pg_server_to_any(plain, static_cast<int>(std::strlen(plain)), PG_UTF8);
  const std::size_t size = std::strlen(utf8);
  auto *const result = static_cast<text *>(palloc(VARHDRSZ + 2 * size));
  SET_VARSIZE(result, VARHDRSZ + 2 * size);
  char *at = VARDATA(result);
  for (std::size_t i = 0; i < size; ++i) {
    const auto byte = static_cast<unsigned char>(utf8[i]);
    *at++ = "0123456789abcdef"[byte >> 4U];
    *at++ = "0123456789abcdef"[byte & 0xFU];
  }
  PG_RETURN_TEXT_P(result);
}

// _token_usage_time_text(value timestamptz): strict; as the contract writes a time, the fraction
// only where there is one
PG_FUNCTION_INFO_V1(token_usage_time_text);
PGDLLEXPORT Datum token_usage_time_text(PG_FUNCTION_ARGS) {
  const TimestampTz value = PG_GETARG_TIMESTAMPTZ(0);
  if (TIMESTAMP_NOT_FINITE(value)) {
    PG_RETURN_TEXT_P(cstring_to_text(TIMESTAMP_IS_NOBEGIN(value) ? "-infinity" : "infinity"));
  }
  struct pg_tm parts;
  fsec_t fraction = 0;
  if (timestamp2tm(value, nullptr, &parts, &fraction, nullptr, nullptr) != 0) {
    ereport(ERROR,
            (errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE), errmsg("timestamp out of range")));
  }
  char digits[8] = "";
  if (fraction != 0) {
    snprintf(digits, sizeof digits, ".%06d", static_cast<int>(fraction));
  }
  const bool before_christ = parts.tm_year <= 0;
  PG_RETURN_TEXT_P(cstring_to_text(
      psprintf("%04d-%02d-%02dT%02d:%02d:%02d%s%sZ",
               before_christ ? 1 - parts.tm_year : parts.tm_year, parts.tm_mon, parts.tm_mday,
               parts.tm_hour, parts.tm_min, parts.tm_sec, digits, before_christ ? " BC" : "")));
}

}  // extern "C"

}  // namespace token_usage
