// Floats as digits, against the standard library where it can print them.
#include "float_text.h"

#include <gtest/gtest.h>

#include <charconv>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <version>

#include "any_float.h"

namespace token_usage {
namespace {

TEST(FloatText, PrintsDigits) {
  FloatText buffer;
  EXPECT_EQ(float_digits(0.1, 15, buffer), "1.00000000000000e-01");
  EXPECT_EQ(float_digits(-123456.789, 3, buffer), "-1.23e+05");
  EXPECT_EQ(float_digits(1e300, 1, buffer), "1e+300");
  EXPECT_EQ(shortest_float(0.1, buffer), "1e-01");
  EXPECT_EQ(shortest_float(1760970625.123456, buffer), "1.760970625123456e+09");
  EXPECT_EQ(shortest_float(0.0, buffer), "0e+00");
}

TEST(FloatText, PrintsPlainly) {
  EXPECT_EQ(plain_float(0), "0");
  EXPECT_EQ(plain_float(-0.0), "-0");
  EXPECT_EQ(plain_float(1.5), "1.5");
  EXPECT_EQ(plain_float(0.001), "0.001");
  EXPECT_EQ(plain_float(100), "100");
  EXPECT_EQ(plain_float(1e300), "1e+300");
  EXPECT_EQ(plain_float(-std::numeric_limits<double>::infinity()), "-inf");
  EXPECT_EQ(plain_float(std::numeric_limits<double>::quiet_NaN()), "nan");
}

TEST(FloatText, ShortestTextGivesTheFloatBack) {
  std::mt19937_64 random(41);
  for (int i = 0; i < 100'000; ++i) {
    const double wide = any_double(random());
    FloatText buffer;
    if (std::isfinite(wide)) {
      ASSERT_EQ(std::strtod(std::string(shortest_float(wide, buffer)).c_str(), nullptr), wide);
      ASSERT_EQ(std::strtod(plain_float(wide).c_str(), nullptr), wide);
    }
  }
}

#ifdef __cpp_lib_to_chars
TEST(FloatText, PlainTextEqualsTheStandardLibrarys) {
  std::mt19937_64 random(43);
  for (int i = 0; i < 100'000; ++i) {
    const double any = any_double(random());
    const double plain =
        static_cast<double>(random() % 100'000'000) / std::pow(10.0, random() % 12);
    for (const double value : {any, plain, std::round(plain) * 1000}) {
      // Where the fixed form has more digits than the double is exact to, the library prints the
      // digits of the exact value and this prints zeros; both are the same length.
      if (std::isfinite(value) && std::fabs(value) < 1e15) {
        char buffer[64];
        const auto end = std::to_chars(buffer, buffer + sizeof buffer, value).ptr;
        ASSERT_EQ(plain_float(value), std::string(buffer, end));
      }
    }
  }
}
#endif

}  // namespace
}  // namespace token_usage
