// Costs between PostgreSQL's number types and core's Decimal, and _token_usage_decimal() for
// reports (rule 4 of the contract). money_portable.sql is the twin.
#include "money.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "guard.h"

namespace token_usage {

namespace {

// What a value turned out to be. std::optional cannot tell "no number" from "too large".
enum class Kind { number, none, too_large };
struct Parsed {
  Kind kind;
  int128 units;
};

constexpr Parsed kNone = {Kind::none, 0};
constexpr Parsed kTooLarge = {Kind::too_large, 0};

// Reads a numeric as it is stored. The format is not in a public header, but it is fixed all the
// same: tables written by 9.1 are read by 18 (pg_upgrade copies them). After the varlena header
// comes
//   short: one uint16: 10, sign (1 bit), display scale (6), sign of weight (1), weight (6)
//   long: one uint16: 00 or 01 for + or -, display scale (14); then an int16 weight
//   special: one uint16 that starts with 11: 0xC000 NaN, 0xD000 Infinity, 0xF000 -Infinity
// and then int16 digits to the base 10000, the first worth 10000^weight. Going through
// numeric_out's text takes ten times as long, for every cost of every row. sql/aggregates.sql
// compares the two ways.
struct Stored {
  const char *data;
  std::size_t size;

  [[nodiscard]] unsigned word(std::size_t at) const {
    std::uint16_t out = 0;  // a short varlena's data is not aligned
    std::memcpy(&out, data + at, sizeof out);
    return out;
  }
};

constexpr unsigned kKindBits = 0xC000;
constexpr unsigned kSpecial = 0xC000;
constexpr unsigned kShort = 0x8000;
constexpr unsigned kNegative = 0x4000;
constexpr unsigned kShortNegative = 0x2000;
constexpr unsigned kShortScaleShift = 7;
constexpr unsigned kShortScale = 0x3F;
constexpr unsigned kShortWeightSign = 0x40;
constexpr unsigned kShortWeight = 0x3F;
constexpr unsigned kScale = 0x3FFF;
constexpr unsigned kBase = 10'000;
constexpr int kFractionDigits = Decimal::places / 4;

Parsed parse_numeric(Stored stored) {
  const auto word = [stored](std::size_t at) { return stored.word(at); };
  const std::size_t size = stored.size;
  const unsigned header = word(0);
  bool negative = false;
  int weight = 0;
  std::size_t start = 2;
  switch (header & kKindBits) {
    case kSpecial:
      return kNone;
    case kShort:
      negative = (header & kShortNegative) != 0;
      weight = static_cast<int>(header & kShortWeight) -
               ((header & kShortWeightSign) != 0 ? static_cast<int>(kShortWeightSign) : 0);
      break;
    default:
      negative = (header & kNegative) != 0;
      weight = static_cast<std::int16_t>(word(2));
      start = 4;
  }
  const auto digits = static_cast<int>((size - start) / 2);
  const auto digit = [&](int i) {
    return i < digits ? word(start + 2 * static_cast<std::size_t>(i)) : 0U;
  };
  // Twelve places are three digits to the base 10000.
  const int kept = weight + 1 + kFractionDigits;
  uint128 units = 0;
  constexpr auto most = static_cast<uint128>(std::numeric_limits<std::int64_t>::max());
  constexpr uint128 limit = (most << 64) | ~static_cast<std::uint64_t>(0);
  for (int i = 0; i < kept; ++i) {
    if (i >= digits && units == 0) {
      break;
    }
    if (__builtin_mul_overflow(units, static_cast<uint128>(kBase), &units) ||
        __builtin_add_overflow(units, static_cast<uint128>(digit(i)), &units) || units > limit) {
      return kTooLarge;
    }
  }
  // What is below the twelfth place: half-even.
  if (kept >= 0 && kept < digits) {
    bool more = false;
    for (int i = kept + 1; i < digits && !more; ++i) {
      more = digit(i) != 0;
    }
    const unsigned next = digit(kept);
    if (next > kBase / 2 || (next == kBase / 2 && (more || (units & 1U) != 0))) {
      if (units == limit) {
        return kTooLarge;
      }
      ++units;
    }
  }
  const auto out = static_cast<int128>(units);
  return {Kind::number, negative ? -out : out};
}

unsigned display_scale(Stored stored) {
  const unsigned header = stored.word(0);
  return (header & kKindBits) == kShort ? header >> kShortScaleShift & kShortScale
                                        : header & kScale;
}

Parsed parsed(const std::optional<Decimal> &value) {
  return value ? Parsed{Kind::number, value->units()} : kTooLarge;
}

Parsed parse_float8(double value) {
  return std::isfinite(value) ? parsed(Decimal::from_double(value)) : kNone;
}

// The server's own shortest digits, as value::text has them in the portable edition.
struct ShortestText {
  char digits[FLOAT_SHORTEST_DECIMAL_LEN];
};
ShortestText shortest_text(float value) {
  ShortestText out;
  float_to_shortest_decimal_buf(value, out.digits);
  return out;
}

Parsed parse_float4(float value) {
  return std::isfinite(value) ? parsed(Decimal::from_text(shortest_text(value).digits)) : kNone;
}

// What `read` makes of the bytes of a numeric.
template <typename Read>
auto read_numeric(Datum value, Read read) {
  struct varlena *const number = PG_DETOAST_DATUM_PACKED(value);
  const auto out = read(Stored{VARDATA_ANY(number), VARSIZE_ANY_EXHDR(number)});
  if (reinterpret_cast<Pointer>(number) != DatumGetPointer(value)) {
    pfree(number);
  }
  return out;
}

Parsed parse_numeric(Datum value) {
  return read_numeric(value, [](Stored stored) { return parse_numeric(stored); });
}

}  // namespace

bool small_decimal(Datum value, Oid type, std::optional<Decimal> *out) {
  if (type != NUMERICOID) {
    *out = decimal_from_datum(value, type, "");
    return true;
  }
  const Parsed parsed = parse_numeric(value);
  if (parsed.kind == Kind::number) {
    *out = Decimal::from_units(parsed.units);
  } else {
    *out = std::nullopt;
  }
  return parsed.kind != Kind::too_large;
}

std::optional<Decimal> decimal_from_datum(Datum value, Oid type, const char *column) {
  Parsed out = kNone;
  switch (type) {
    case NUMERICOID:
      out = parse_numeric(value);
      break;
    case FLOAT8OID: {
      const double number = DatumGetFloat8(value);
      out = guarded([=] { return parse_float8(number); });
      break;
    }
    case FLOAT4OID: {
      const float number = DatumGetFloat4(value);
      out = guarded([=] { return parse_float4(number); });
      break;
    }
    case INT8OID:
      return Decimal::from_int(DatumGetInt64(value));
    case INT4OID:
      return Decimal::from_int(DatumGetInt32(value));
    case INT2OID:
      return Decimal::from_int(DatumGetInt16(value));
    default:
      elog(ERROR, "token_usage: type %u is no number", type);
  }
  if (out.kind == Kind::too_large) {
    guarded([=] { sum_overflow(column); });
  }
  return out.kind == Kind::none ? std::nullopt
                                : std::optional<Decimal>(Decimal::from_units(out.units));
}

unsigned numeric_display_scale(Datum value) {
  return read_numeric(value, display_scale);
}

// Writes the short form of what parse_numeric reads, with no more digits than the value has.
Datum decimal_to_numeric(Decimal value, unsigned scale) {
  constexpr int most = 11;  // digits to the base 10000 in 2^127
  std::uint16_t digits[most];
  const bool negative = value.units() < 0;
  uint128 rest =
      negative ? -static_cast<uint128>(value.units()) : static_cast<uint128>(value.units());
  int size = 0;
  for (; rest != 0; rest /= kBase) {
    digits[size++] = static_cast<std::uint16_t>(rest % kBase);
  }
  int zeros = 0;
  while (zeros < size && digits[zeros] == 0) {
    ++zeros;
  }
  if (zeros < size && zeros < kFractionDigits) {
    unsigned places = static_cast<unsigned>(kFractionDigits - zeros) * 4;
    for (unsigned digit = digits[zeros]; digit % 10 == 0; digit /= 10) {
      --places;
    }
    scale = std::max(scale, places);
  }
  const int weight = size == 0 ? 0 : size - 1 - kFractionDigits;
  const auto header = static_cast<std::uint16_t>(
      kShort | (negative ? kShortNegative : 0U) | (scale << kShortScaleShift) |
      (weight < 0 ? kShortWeightSign : 0U) | (static_cast<unsigned>(weight) & kShortWeight));

  const std::size_t bytes = VARHDRSZ + 2 * (1 + static_cast<std::size_t>(size - zeros));
  auto *const out = static_cast<char *>(palloc(bytes));
  SET_VARSIZE(out, bytes);
  auto *const words = reinterpret_cast<std::uint16_t *>(out + VARHDRSZ);
  words[0] = header;
  for (int i = size - 1; i >= zeros; --i) {
    words[size - i] = digits[i];
  }
  return PointerGetDatum(out);
}

extern "C" {

// _token_usage_decimal(numeric): nearly every cost has at most 12 places and is returned as it is.
PG_FUNCTION_INFO_V1(token_usage_decimal_numeric);
PGDLLEXPORT Datum token_usage_decimal_numeric(PG_FUNCTION_ARGS) {
  struct varlena *const number = PG_GETARG_VARLENA_PP(0);
  const Stored stored = {VARDATA_ANY(number), VARSIZE_ANY_EXHDR(number)};
  const unsigned header = stored.word(0);
  if ((header & kKindBits) == kSpecial) {
    PG_RETURN_NULL();
  }
  if (display_scale(stored) <= Decimal::places) {
    PG_RETURN_POINTER(number);
  }
  const Parsed out = parse_numeric(stored);
  if (out.kind == Kind::too_large) {  // numeric goes on where Decimal ends
    return DirectFunctionCall2(numeric_round, PointerGetDatum(number),
                               Int32GetDatum(Decimal::places));
  }
  return decimal_to_numeric(Decimal::from_units(out.units));
}

PG_FUNCTION_INFO_V1(token_usage_decimal_float8);
PGDLLEXPORT Datum token_usage_decimal_float8(PG_FUNCTION_ARGS) {
  const double value = PG_GETARG_FLOAT8(0);
  const Parsed out = guarded([=] { return parse_float8(value); });
  switch (out.kind) {
    case Kind::number:
      return decimal_to_numeric(Decimal::from_units(out.units));
    case Kind::too_large:
      return DirectFunctionCall1(float8_numeric, Float8GetDatum(value));  // 15 digits, too
    case Kind::none:
      break;
  }
  PG_RETURN_NULL();
}

PG_FUNCTION_INFO_V1(token_usage_decimal_float4);
PGDLLEXPORT Datum token_usage_decimal_float4(PG_FUNCTION_ARGS) {
  const float value = PG_GETARG_FLOAT4(0);
  const Parsed out = guarded([=] { return parse_float4(value); });
  switch (out.kind) {
    case Kind::number:
      return decimal_to_numeric(Decimal::from_units(out.units));
    case Kind::too_large: {
      ShortestText text = shortest_text(value);
      return DirectFunctionCall3(numeric_in, CStringGetDatum(text.digits),
                                 ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
    }
    case Kind::none:
      break;
  }
  PG_RETURN_NULL();
}

}  // extern "C"

}  // namespace token_usage
