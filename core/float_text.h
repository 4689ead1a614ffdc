// Binary floats as decimal digits. The standard library has this from GCC 11 on; what PostgreSQL 13
// and SQLite 3.34 came with has GCC 10, so there the C library prints the digits.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace token_usage {

// Room for every float in either form below.
using FloatText = char[64];

// `d.ddde+XX` with `significant` digits, correctly rounded. `value` is finite; the text stands in
// `buffer`.
std::string_view float_digits(double value, int significant, FloatText &buffer);

// The fewest digits that give the same float back, as `d.ddde+XX`.
std::string_view shortest_float(double value, FloatText &buffer);

// The fewest digits that give the same double back, with an exponent only where that is shorter:
// `0.1`, `1e+300`, `inf`, `nan`. For messages.
std::string plain_float(double value);

}  // namespace token_usage
