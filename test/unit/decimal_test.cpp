// Money (rule 4): what a cost's text or float is worth, exact sums, and the way back.
#include "decimal.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>

#include "any_float.h"
#include "arguments.h"

namespace token_usage {
namespace {

std::string text_value(std::string_view text) {
  const auto value = Decimal::from_text(text);
  return value ? value->to_string() : "none";
}

std::string double_value(double number) {
  const auto value = Decimal::from_double(number);
  return value ? value->to_string() : "none";
}

constexpr int128 max_units() {
  return static_cast<int128>(~static_cast<uint128>(0) >> 1);
}

TEST(Decimal, ReadsText) {
  EXPECT_EQ(text_value("0"), "0");
  EXPECT_EQ(text_value("-0"), "0");
  EXPECT_EQ(text_value("0.30"), "0.3");
  EXPECT_EQ(text_value("+1.25"), "1.25");
  EXPECT_EQ(text_value("-1.25"), "-1.25");
  EXPECT_EQ(text_value(".5"), "0.5");
  EXPECT_EQ(text_value("5."), "5");
  EXPECT_EQ(text_value(" \t42\n"), "42");
  EXPECT_EQ(text_value("1e3"), "1000");
  EXPECT_EQ(text_value("1E-12"), "0.000000000001");
  EXPECT_EQ(text_value("12.5e+1"), "125");
  EXPECT_EQ(text_value("000000000000000000000000000000000000000000000000001.5"), "1.5");
  EXPECT_EQ(text_value("0e999999999999999999999"), "0");
  EXPECT_EQ(text_value("1e-999999999999999999999"), "0");
  EXPECT_EQ(text_value("123456789.123456"), "123456789.123456");
  EXPECT_EQ(text_value("999999.99"), "999999.99");
  EXPECT_EQ(text_value("0.000028"), "0.000028");
}

TEST(Decimal, RefusesTextThatIsNoNumber) {
  for (const char *text : {"",      " ",    "+",    "-",   ".",     "e5",  "1e",       "1e+",
                           "1.2.3", "1,5",  "0x10", "NaN", "nan",   "inf", "Infinity", "-Infinity",
                           "1 2",   "1e5x", "--1",  "+-1", "1_000", "$1",  "١"}) {
    EXPECT_EQ(text_value(text), "none") << text;
  }
  EXPECT_EQ(text_value(std::string_view("1\0", 2)), "none");
}

TEST(Decimal, RoundsHalfEvenAtTheThirteenthPlace) {
  EXPECT_EQ(text_value("0.0000000000005"), "0");
  EXPECT_EQ(text_value("0.0000000000015"), "0.000000000002");
  EXPECT_EQ(text_value("0.0000000000025"), "0.000000000002");
  EXPECT_EQ(text_value("-0.0000000000025"), "-0.000000000002");
  EXPECT_EQ(text_value("-0.0000000000035"), "-0.000000000004");
  EXPECT_EQ(text_value("0.00000000000250000000000000000000000000001"), "0.000000000003");
  EXPECT_EQ(text_value("0.0000000000024999999999999999999999999999"), "0.000000000002");
  EXPECT_EQ(text_value("5e-13"), "0");
  EXPECT_EQ(text_value("5.0000001e-13"), "0.000000000001");
  EXPECT_EQ(text_value("9.9999999999995"), "10");
  EXPECT_EQ(text_value("4e-14"), "0");
}

TEST(Decimal, KnowsItsRange) {
  const std::string most = "170141183460469231731687303.715884105727";
  EXPECT_EQ(text_value(most), most);
  EXPECT_EQ(text_value("-" + most), "-" + most);
  EXPECT_EQ(text_value("170141183460469231731687303.715884105728"), "none");
  EXPECT_EQ(text_value("170141183460469231731687303.7158841057274"), most);
  EXPECT_EQ(text_value("170141183460469231731687303.7158841057275"), "none");
  EXPECT_EQ(text_value("1e27"), "none");
  EXPECT_EQ(text_value("1e300"), "none");
  EXPECT_EQ(text_value("1e999999999999"), "none");
  EXPECT_EQ(text_value(std::string(1'000'000, '9')), "none");
  EXPECT_EQ(text_value("0." + std::string(1'000'000, '3')), "0.333333333333");
}

TEST(Decimal, ReadsDoublesByFifteenDigits) {
  EXPECT_EQ(double_value(0.1), "0.1");
  EXPECT_EQ(double_value(0.1 + 0.2), "0.3");
  EXPECT_EQ(double_value(1e-12), "0.000000000001");
  EXPECT_EQ(double_value(0.000028), "0.000028");
  EXPECT_EQ(double_value(999999.99), "999999.99");
  EXPECT_EQ(double_value(123456789.123456), "123456789.123456");
  EXPECT_EQ(double_value(999999999999999.0), "999999999999999");
  EXPECT_EQ(double_value(-0.0), "0");
  EXPECT_EQ(double_value(1.0 / 3), "0.333333333333");
  EXPECT_EQ(double_value(1e26), "100000000000000000000000000");
  EXPECT_EQ(double_value(9007199254740993.0), "9007199254740990");
  EXPECT_EQ(double_value(std::numeric_limits<double>::denorm_min()), "0");
  EXPECT_EQ(double_value(1e27), "none");
  EXPECT_EQ(double_value(std::numeric_limits<double>::max()), "none");
  EXPECT_EQ(double_value(std::numeric_limits<double>::infinity()), "none");
  EXPECT_EQ(double_value(-std::numeric_limits<double>::infinity()), "none");
  EXPECT_EQ(double_value(std::numeric_limits<double>::quiet_NaN()), "none");
}

// The definition, by the C library's digits. from_double has a shorter way for short decimals; both
// must agree for every double.
std::string by_printf(double value) {
  char buffer[64];
  std::snprintf(buffer, sizeof buffer, "%.14e", value);
  return text_value(buffer);
}

TEST(Decimal, TheShortWayEqualsTheDigits) {
  std::mt19937_64 random(20251020);
  std::uniform_int_distribution<int> places(0, 13);
  std::uniform_int_distribution<std::uint64_t> digits;
  std::uniform_int_distribution<int> bits(1, 53);
  for (int i = 0; i < 300'000; ++i) {
    // Any bit pattern, a plain decimal, and a decimal that is one step off.
    const double any = any_double(random());
    if (std::isfinite(any)) {
      ASSERT_EQ(double_value(any), by_printf(any)) << std::hexfloat << any;
    }
    const auto whole = static_cast<double>(digits(random) >> (64 - bits(random)));
    const double plain = whole / std::pow(10.0, places(random));
    for (const double value : {plain, -plain, std::nextafter(plain, 0.0),
                               std::nextafter(plain, std::numeric_limits<double>::max())}) {
      ASSERT_EQ(double_value(value), by_printf(value)) << std::hexfloat << value;
    }
  }
}

TEST(Decimal, GivesBackEveryDecimalOfFifteenDigits) {
  std::mt19937_64 random(7);
  std::uniform_int_distribution<std::int64_t> digits(-999'999'999'999'999, 999'999'999'999'999);
  std::uniform_int_distribution<int> places(0, 12);
  for (int i = 0; i < 200'000; ++i) {
    int128 units = digits(random);
    for (int place = places(random); place < Decimal::places; ++place) {
      units *= 10;
    }
    const Decimal value = Decimal::from_units(units);
    const double stored = std::strtod(value.to_string().c_str(), nullptr);
    ASSERT_EQ(Decimal::from_double(stored), value) << value.to_string();
    ASSERT_EQ(Decimal::from_text(value.to_string()), value);
  }
}

TEST(Decimal, AddsExactly) {
  Decimal sum;
  for (int i = 0; i < 1'000'000; ++i) {
    ASSERT_TRUE(sum.add(*Decimal::from_double(i % 2 == 0 ? 0.1 : 0.2)));
  }
  EXPECT_EQ(sum.to_string(), "150000");
  for (int i = 0; i < 1'000'000; ++i) {
    ASSERT_TRUE(sum.subtract(*Decimal::from_double(i % 2 == 0 ? 0.1 : 0.2)));
  }
  EXPECT_EQ(sum, Decimal());
}

TEST(Decimal, NeverWraps) {
  const Decimal most = Decimal::from_units(max_units());
  const Decimal least = Decimal::from_units(-max_units());
  Decimal sum = most;
  EXPECT_FALSE(sum.add(Decimal::from_units(1)));
  EXPECT_EQ(sum, most);
  EXPECT_FALSE(sum.subtract(Decimal::from_units(-1)));
  EXPECT_EQ(sum, most);
  EXPECT_FALSE(sum.add(most));
  EXPECT_EQ(sum, most);
  EXPECT_TRUE(sum.add(least));
  EXPECT_EQ(sum, Decimal());
  sum = least;
  EXPECT_FALSE(sum.subtract(Decimal::from_units(2)));
  EXPECT_EQ(sum, least);
}

TEST(Decimal, Compares) {
  EXPECT_LT(*Decimal::from_text("-1"), Decimal());
  EXPECT_LT(*Decimal::from_text("0.1"), *Decimal::from_text("0.100000000001"));
  EXPECT_EQ(*Decimal::from_text("1.50"), *Decimal::from_text("15e-1"));
  EXPECT_EQ(Decimal::from_int(3), *Decimal::from_text("3"));
}

TEST(Decimal, GivesTheNearestDouble) {
  EXPECT_EQ(Decimal::from_text("0.3")->to_double(), 0.3);
  EXPECT_EQ(Decimal::from_text("123456789.123456")->to_double(), 123456789.123456);
  EXPECT_EQ(Decimal::from_units(max_units()).to_double(), 170141183460469231731687303.715884105727);
  // Just above the middle between two doubles: rounding twice would lose what lies past the middle.
  EXPECT_EQ(Decimal::from_text("9007199254740993.000000000001")->to_double(), 9007199254740994.0);
  EXPECT_EQ(Decimal::from_text("9007199254740993")->to_double(), 9007199254740992.0);
  std::mt19937_64 random(11);
  for (int i = 0; i < 200'000; ++i) {
    const uint128 wide = (static_cast<uint128>(random()) << 64) | random();
    const auto units = static_cast<int128>(wide >> (1 + random() % 126));
    const Decimal value = Decimal::from_units(random() % 2 == 0 ? units : -units);
    ASSERT_EQ(value.to_double(), std::strtod(value.to_string().c_str(), nullptr))
        << value.to_string();
  }
}

TEST(Decimal, RoundsTheMeanHalfAwayFromZero) {
  EXPECT_EQ(rounded_mean(Decimal::from_int(5), 2), 3);
  EXPECT_EQ(rounded_mean(Decimal::from_int(-5), 2), -3);
  EXPECT_EQ(rounded_mean(Decimal::from_int(4), 3), 1);
  EXPECT_EQ(rounded_mean(*Decimal::from_text("0.499999999999"), 1), 0);
  EXPECT_EQ(rounded_mean(*Decimal::from_text("2.5"), 1), 3);
  EXPECT_EQ(rounded_mean(Decimal::from_int(std::numeric_limits<std::int64_t>::max()), 1),
            std::numeric_limits<std::int64_t>::max());
  EXPECT_THROW(rounded_mean(Decimal::from_units(max_units()), 1), Error);
}

TEST(Decimal, TakesAnyBytes) {
  std::mt19937 random(13);
  constexpr std::string_view alphabet = "0123456789999000..eE+- \t\n\xFF\x80xn";
  for (int i = 0; i < 300'000; ++i) {
    std::string text(random() % 24, '\0');
    for (char &c : text) {
      c = random() % 8 == 0 ? static_cast<char>(random()) : alphabet[random() % alphabet.size()];
    }
    const auto value = Decimal::from_text(text);
    if (value) {
      ASSERT_EQ(Decimal::from_text(value->to_string()), value) << text;
    }
  }
}

}  // namespace
}  // namespace token_usage
