// The price arithmetic, PostgreSQL native edition: _token_usage_cost_of by core, over the rows that
// _token_usage_price_rows found. The rows of the models that a session prices are kept parsed.
#include <cstring>

#include "json_reader.h"
#include "price.h"

#include "owned.h"

#include "json_text.h"

namespace token_usage {
namespace {

using Sources = std::vector<std::vector<PriceRow>>;

constexpr std::int64_t kUnixOfPostgresEpoch = 946'684'800'000'000;
constexpr int kKept = 16;

// Parsed rows and the jsonb that they came from.
struct Kept {
  Jsonb *rows;
  Owned<Sources> *parsed;
  const Sources *sources;
};
struct Cache {
  MemoryContext context;
  Kept kept[kKept];
  int used;
};

[[noreturn]] void not_a_price(const Json &row) {
  throw Error(ErrorKind::argument,
              "token_usage: token_usage_price holds no price: " + json_text(row));
}

Micros since_of(std::string_view text, const Json &row) {
  // What lies before the year 1 has begun for every row of a ledger.
  if (text == "-infinity" || text.ends_with("BC")) {
    return kFirstInstant;
  }
  if (text == "infinity") {
    return kPastLastInstant;
  }
  const std::optional<Micros> time = parse_timestamp(text);
  if (!time) {
    not_a_price(row);
  }
  return *time;
}

std::string_view text_at(const Json &row, std::string_view key) {
  const Json *value = row.find(key);
  return value == nullptr ? std::string_view{} : value->text;
}

Sources *parse_rows(const char *text) {
  auto out = std::make_unique<Sources>();
  const JsonDocument document(text, "rows");
  for (const Json &item : document.root().items()) {
    const std::optional<std::int64_t> hit = count_from_number(text_at(item, "hit"));
    const std::optional<PriceClass> price_class = price_class_from_name(text_at(item, "class"));
    const std::optional<std::int64_t> tier = count_from_number(text_at(item, "tier"));
    const std::optional<int> from = parse_time_of_day(text_at(item, "from").substr(0, 8));
    const std::optional<int> to = parse_time_of_day(text_at(item, "to").substr(0, 8));
    if (!hit || *hit < 1 || *hit > 1000 || !price_class || !tier || !from || !to) {
      not_a_price(item);
    }
    PriceRow row;
    row.price_class = *price_class;
    row.tier_start = *tier;
    row.time_from = *from;
    row.time_to = *to;
    row.valid_from = since_of(text_at(item, "since"), item);
    row.id = count_from_number(text_at(item, "id")).value_or(0);
    // numeric's NaN comes as text: no price
    if (const Json *price = item.find("price"); price != nullptr && price->is(Json::Type::number)) {
      row.usd_per_million = scaled_from_text(price->text, price_places);
      if (!row.usd_per_million) {
        not_a_price(item);
      }
    }
    if (out->size() < static_cast<std::size_t>(*hit)) {
      out->resize(static_cast<std::size_t>(*hit));
    }
    (*out)[static_cast<std::size_t>(*hit) - 1].push_back(row);
  }
  return out.release();
}

const Sources *sources_of(FunctionCallInfo fcinfo, Jsonb *rows) {
  auto *cache = static_cast<Cache *>(fcinfo->flinfo->fn_extra);
  if (cache == nullptr) {
    MemoryContext const context =
        AllocSetContextCreate(fcinfo->flinfo->fn_mcxt, "token_usage prices", ALLOCSET_SMALL_SIZES);
    cache = static_cast<Cache *>(MemoryContextAllocZero(context, sizeof(Cache)));
    cache->context = context;
    fcinfo->flinfo->fn_extra = cache;
  }
  for (int i = 0; i < cache->used; ++i) {
    const Kept &kept = cache->kept[i];
    if (VARSIZE(kept.rows) == VARSIZE(rows) && std::memcmp(kept.rows, rows, VARSIZE(rows)) == 0) {
      return kept.sources;
    }
  }
  if (cache->used == kKept) {  // begin anew
    fcinfo->flinfo->fn_extra = nullptr;
    MemoryContextDelete(cache->context);
    return sources_of(fcinfo, rows);
  }
  const char *const text = json_utf8(rows);
  MemoryContext const outer = MemoryContextSwitchTo(cache->context);
  Kept &kept = cache->kept[cache->used];
  kept.rows = static_cast<Jsonb *>(palloc(VARSIZE(rows)));
  std::memcpy(kept.rows, rows, VARSIZE(rows));
  kept.parsed = Owned<Sources>::create();
  kept.sources = kept.parsed->fill([=] { return parse_rows(text); });
  MemoryContextSwitchTo(outer);
  ++cache->used;
  return kept.sources;
}

// What a cost is, in plain memory.
struct Cost {
  bool known;
  char digits[64];
};

}  // namespace

extern "C" {

// _token_usage_cost_of(rows jsonb, counts bigint[], at timestamptz) returns numeric
PG_FUNCTION_INFO_V1(token_usage_cost_of);
PGDLLEXPORT Datum token_usage_cost_of(PG_FUNCTION_ARGS) {
  const Sources *const sources = sources_of(fcinfo, PG_GETARG_JSONB_P(0));
  ArrayType *const array = PG_GETARG_ARRAYTYPE_P(1);
  const TimestampTz at = PG_GETARG_TIMESTAMPTZ(2);
  Datum *values = nullptr;
  bool *nulls = nullptr;
  int size = 0;
  deconstruct_array(array, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, 'd', &values, &nulls, &size);
  if (size != static_cast<int>(count_kinds)) {
    elog(ERROR, "token_usage: %d counts where there must be %d", size,
         static_cast<int>(count_kinds));
  }
  // An instant outside of what core's clock can hold is before or after every price.
  const Micros micros = TIMESTAMP_IS_NOBEGIN(at) ? kFirstInstant
                        : TIMESTAMP_IS_NOEND(at) || at > kPastLastInstant - kUnixOfPostgresEpoch
                            ? kPastLastInstant
                            : at + kUnixOfPostgresEpoch;
  const Cost cost = guarded([=] {
    Usage usage;
    for (std::size_t i = 0; i < count_kinds; ++i) {
      if (!nulls[i]) {
        usage.counts[i] = DatumGetInt64(values[i]);
      }
    }
    Cost out = {};
    if (const std::optional<Decimal> price = cost_in_order(*sources, usage, micros)) {
      out.known = true;
      price->to_string().copy(out.digits, sizeof out.digits - 1);
    }
    return out;
  });
  if (!cost.known) {
    PG_RETURN_NULL();
  }
  PG_RETURN_DATUM(DirectFunctionCall3(numeric_in, CStringGetDatum(cost.digits),
                                      ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
}

}  // extern "C"

}  // namespace token_usage
