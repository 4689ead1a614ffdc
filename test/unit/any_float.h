// Floats of any bit pattern for tests. std::bit_cast would do, but GCC 10 has none.
#pragma once

#include <cstdint>
#include <cstring>

namespace token_usage {

inline double any_double(std::uint64_t bits) {
  double out = 0;
  std::memcpy(&out, &bits, sizeof out);
  return out;
}

}  // namespace token_usage
