// A page of token_usage_detailed, PostgreSQL native edition: its query, which is made by
// _token_usage_page_sql() and kept (kept_query.h), and what is computed for each of its rows, the
// cursor (core/cursor.h tells its form) and the time as text. page_portable.sql is the twin.
#include <cstdint>
#include <cstring>

#include "guard.h"
#include "kept_query.h"
#include "page.h"

namespace token_usage {

namespace {

constexpr std::size_t kMostDigits = 20;  // of a whole number of 64 bits, and its sign

// Which query: what it filters by.
struct Shape {
  char agent;
  char start_date;
  char end_date;
  char after;
};

SPIPlanPtr prepare_page(const KeptKey &key) {
  Shape shape;
  std::memcpy(&shape, key.shape, sizeof shape);
  Oid call_types[] = {OIDOID, BOOLOID, BOOLOID, BOOLOID, BOOLOID};
  Datum call_values[] = {ObjectIdGetDatum(key.ledger), BoolGetDatum(shape.agent != 0),
                         BoolGetDatum(shape.start_date != 0), BoolGetDatum(shape.end_date != 0),
                         BoolGetDatum(shape.after != 0)};
  char *const text = ask_for_text(key, "SELECT %s._token_usage_page_sql($1, $2, $3, $4, $5)", 5,
                                  call_types, call_values);
  Oid types[] = {TEXTOID,        TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID,
                 TIMESTAMPTZOID, TEXTOID, INT8OID,        INT8OID};
  // How much lies between two dates has to be known, lest the index on created_at alone be taken.
  // Any other page is the beginning of one stretch of one index, for every user.
  const bool dated = shape.start_date != 0 || shape.end_date != 0;
  return prepare_text(text, 8, types, dated ? CURSOR_OPT_CUSTOM_PLAN : CURSOR_OPT_GENERIC_PLAN);
}

}  // namespace

text *cursor_text(TimestampTz created_at, const char *id) {
  const std::size_t id_size = std::strlen(id);
  auto *const plain = static_cast<char *>(palloc(2 + kMostDigits + 1 + id_size + 1));
  std::memcpy(plain, "1|", 2);
  pg_lltoa(created_at + kUnixEpoch, plain + 2);
  char *const behind = plain + std::strlen(plain);
  *behind = '|';
  std::memcpy(behind + 1, id, id_size + 1);
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
  return result;
}

extern "C" {

// _token_usage_page_rows(ledger oid, user_id text, agent text, start_date timestamptz, end_date
// timestamptz, behind_at timestamptz, behind_id text, row_limit bigint, row_offset bigint)
PG_FUNCTION_INFO_V1(token_usage_page_rows);
PGDLLEXPORT Datum token_usage_page_rows(PG_FUNCTION_ARGS) {
  if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(5) != PG_ARGISNULL(6)) {
    ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
                    errmsg("_token_usage_page_rows needs a ledger and a user")));
  }
  const Shape shape{static_cast<char>(!PG_ARGISNULL(2)), static_cast<char>(!PG_ARGISNULL(3)),
                    static_cast<char>(!PG_ARGISNULL(4)), static_cast<char>(!PG_ARGISNULL(5))};
  const KeptKey key = kept_key(fcinfo, PG_GETARG_OID(0), shape);
  const ResultRows result = begin_rows(fcinfo);
  if (SPI_connect() != SPI_OK_CONNECT) {
    elog(ERROR, "token_usage: SPI_connect failed");
  }
  Datum values[8];
  char nulls[8];
  for (int i = 0; i < 8; ++i) {
    nulls[i] = PG_ARGISNULL(i + 1) ? 'n' : ' ';
    values[i] = PG_ARGISNULL(i + 1) ? Datum{0} : PG_GETARG_DATUM(i + 1);
  }
  // Planned once for any user, it is to take the index that picks the user too.
  run_kept(key, prepare_page, values, nulls, shape.start_date == 0 && shape.end_date == 0);
  store_rows(result);
  SPI_finish();
  PG_RETURN_NULL();
}

// _token_usage_cursor(created_at timestamptz, id text): strict, and created_at is finite
PG_FUNCTION_INFO_V1(token_usage_cursor);
PGDLLEXPORT Datum token_usage_cursor(PG_FUNCTION_ARGS) {
  PG_RETURN_TEXT_P(cursor_text(PG_GETARG_TIMESTAMPTZ(0), text_to_cstring(PG_GETARG_TEXT_PP(1))));
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
