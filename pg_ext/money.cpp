#include "money.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "float_text.h"

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
Parsed parse_numeric(const char *data, std::size_t size) {
  const auto word = [data](std::size_t at) {
    std::uint16_t out = 0;  // a short varlena's data is not aligned
    std::memcpy(&out, data + at, sizeof out);
    return out;
  };
  const unsigned header = word(0);
  bool negative = false;
  int weight = 0;
  std::size_t start = 2;
  switch (header & 0xC000U) {
    case 0xC000U:
      return kNone;
    case 0x8000U:
      negative = (header & 0x2000U) != 0;
      weight = static_cast<int>(header & 0x3FU) - ((header & 0x40U) != 0 ? 0x40 : 0);
      break;
    default:
      negative = (header & 0x4000U) != 0;
      weight = static_cast<std::int16_t>(word(2));
      start = 4;
  }
  const auto digits = static_cast<int>((size - start) / 2);
  const auto digit = [&](int i) {
    return i < digits ? static_cast<unsigned>(word(start + 2 * static_cast<std::size_t>(i))) : 0U;
  };
  // Twelve places are three digits to the base 10000.
  const int kept = weight + 1 + 3;
  uint128 units = 0;
  constexpr auto most = static_cast<uint128>(std::numeric_limits<std::int64_t>::max());
  constexpr uint128 limit = (most << 64) | ~static_cast<std::uint64_t>(0);
  for (int i = 0; i < kept; ++i) {
    if (i >= digits && units == 0) {
      break;
    }
    if (__builtin_mul_overflow(units, static_cast<uint128>(10'000), &units) ||
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
    if (next > 5'000 || (next == 5'000 && (more || (units & 1U) != 0))) {
      if (units == limit) {
        return kTooLarge;
      }
      ++units;
    }
  }
  const auto out = static_cast<int128>(units);
  return {Kind::number, negative ? -out : out};
}

Parsed parsed(const std::optional<Decimal> &value) {
  return value ? Parsed{Kind::number, value->units()} : kTooLarge;
}

Parsed parse_float8(double value) {
  return std::isfinite(value) ? parsed(Decimal::from_double(value)) : kNone;
}

Parsed parse_float4(float value) {
  FloatText digits;
  return std::isfinite(value) ? parsed(Decimal::from_text(shortest_float(value, digits))) : kNone;
}

}  // namespace

std::optional<Decimal> decimal_from_datum(Datum value, Oid type, const char *column) {
  Parsed out = kNone;
  switch (type) {
    case NUMERICOID: {
      struct varlena *const number = PG_DETOAST_DATUM_PACKED(value);
      out = parse_numeric(VARDATA_ANY(number), VARSIZE_ANY_EXHDR(number));
      if (reinterpret_cast<Pointer>(number) != DatumGetPointer(value)) {
        pfree(number);
      }
      break;
    }
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

Datum decimal_to_numeric(Decimal value) {
  struct Text {
    char digits[64];
  };
  Text text = guarded([=] {
    const std::string digits = value.to_string();
    Text out = {};
    digits.copy(out.digits, sizeof out.digits - 1);
    return out;
  });
  return DirectFunctionCall3(numeric_in, CStringGetDatum(text.digits), ObjectIdGetDatum(InvalidOid),
                             Int32GetDatum(-1));
}

}  // namespace token_usage
