// Between PostgreSQL's number types and core's Decimal (rule 4 of the contract). NaN and the
// infinities are no price: they become nothing.
#pragma once

#include <optional>

#include "decimal.h"
#include "server.h"

namespace token_usage {

// A column's value of one of the types below; nothing for NULL, NaN and infinities. Money that is
// too large for Decimal (10^26) is the overflow error that names `column`, never a silent NULL.
//   numeric: exact, half-even to 12 places
//   double precision: 15 significant digits
//   real: the shortest decimal that gives the same real back
//   smallint, integer, bigint: as it is
// Raises PostgreSQL errors, so no C++ object may be alive around it.
std::optional<Decimal> decimal_from_datum(Datum value, Oid type, const char *column);

// The same of numeric and of whole numbers; false where it is too large, and then it says nothing.
bool small_decimal(Datum value, Oid type, std::optional<Decimal> *out);

// numeric without trailing zeros, or with as many as `scale` decimal places (at most 12) take.
Datum decimal_to_numeric(Decimal value, unsigned scale = 0);

// How many decimal places a numeric shows, its trailing zeros included; no matter what where it is
// no number.
unsigned numeric_display_scale(Datum value);

}  // namespace token_usage
