// Stored forms of created_at (section 2 of the contract, "Adoption") and what is no such form.
#include "timestamp.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

namespace token_usage {
namespace {

constexpr Micros kAt = 1'760'970'625 * kMicrosPerSecond;  // 2025-10-20T14:30:25Z

std::string shown(std::optional<Micros> time) {
  return time ? format_timestamp(*time) : "none";
}

TEST(Timestamp, ReadsEveryStoredForm) {
  for (const char *text : {
           "2025-10-20 14:30:25",
           "2025-10-20T14:30:25",
           "2025-10-20 14:30:25Z",
           "2025-10-20T14:30:25Z",
           "2025-10-20T14:30:25 Z",
           "2025-10-20 14:30:25+00:00",
           "2025-10-20 14:30:25-00:00",
           "2025-10-20T17:30:25+03:00",
           "2025-10-20 17:30:25 +03:00",
           "2025-10-20 20:15:25+05:45",
           "2025-10-21T04:30:25+14:00",
           "2025-10-20 05:00:25 -09:30",
           "2025-10-21 14:29:25+23:59",
           "2025-10-20 14:30:25.0",
           "2025-10-20 14:30:25.000000",
           "2025-10-20 14:30:25.0000009",
           "2025-10-20T14:30:25.000000999999999999Z",
       }) {
    EXPECT_EQ(parse_timestamp(text), kAt) << text;
  }
  EXPECT_EQ(parse_timestamp("2025-10-20 14:30"), kAt - 25 * kMicrosPerSecond);
  EXPECT_EQ(parse_timestamp("2025-10-20T14:30Z"), kAt - 25 * kMicrosPerSecond);
  EXPECT_EQ(parse_timestamp("2025-10-20T16:30+02:00"), kAt - 25 * kMicrosPerSecond);
  EXPECT_EQ(parse_timestamp("2025-10-20 14:30:25.1"), kAt + 100'000);
  EXPECT_EQ(parse_timestamp("2025-10-20 14:30:25.123456789Z"), kAt + 123'456);
  EXPECT_EQ(parse_timestamp("1969-12-31 23:59:59.999999"), -1);
}

TEST(Timestamp, RefusesOtherText) {
  for (const char *text : {
           "",
           " ",
           "now",
           "2025-10-20",
           "2025-10-20 ",
           "2025-10-20 14",
           "2025-10-20 14:3",
           "2025-10-20 14:30:",
           "2025-10-20 14:30:2",
           "2025-10-20 14:30:25.",
           "2025-10-20 14:30:25.Z",
           "2025-10-20 14:30.5",
           "2025-10-20 14:30:25,5",
           "2025-10-20 14:30:25 ",
           "2025-10-20 14:30:25  Z",
           "2025-10-20 14:30:25z",
           "2025-10-20t14:30:25",
           "2025-10-20  14:30:25",
           " 2025-10-20 14:30:25",
           "2025-10-20 14:30:25ZZ",
           "2025-10-20 14:30:25Z ",
           "2025-10-20 14:30:25+3",
           "2025-10-20 14:30:25+03",
           "2025-10-20 14:30:25+0300",
           "2025-10-20 14:30:25+24:00",
           "2025-10-20 14:30:25+03:60",
           "2025-10-20 14:30:25+03:00:00",
           "2025-10-20 14:30:25 UTC",
           "2025-10-20 14:30:25 PM",
           "2025-10-20 24:00:00",
           "2025-10-20 23:60:00",
           "2025-10-20 23:59:60",
           "2025-00-20 14:30:25",
           "2025-13-20 14:30:25",
           "2025-10-00 14:30:25",
           "2025-10-32 14:30:25",
           "2025-04-31 14:30:25",
           "2025-02-29 14:30:25",
           "1900-02-29 14:30:25",
           "0000-01-01 00:00:00",
           "10000-01-01 00:00:00",
           "-001-01-01 00:00:00",
           "20251020T143025Z",
           "2025-W43-1 14:30:25",
           "2025-10-2O 14:30:25",
           "+025-10-20 14:30:25",
           "１025-10-20 14:30:25",
           "0001-01-01 00:00:00+00:01",
           "9999-12-31 23:59:59-00:01",
       }) {
    EXPECT_EQ(shown(parse_timestamp(text)), "none") << text;
  }
  EXPECT_EQ(shown(parse_timestamp(std::string_view("2025-10-20 14:30:25\0", 20))), "none");
}

TEST(Timestamp, KnowsLeapYearsAndItsLimits) {
  EXPECT_EQ(shown(parse_timestamp("2024-02-29 23:59:59.999999")), "2024-02-29T23:59:59.999999Z");
  EXPECT_EQ(shown(parse_timestamp("2000-02-29 00:00")), "2000-02-29T00:00:00Z");
  EXPECT_EQ(parse_timestamp("0001-01-01 00:00:00"), kFirstInstant);
  EXPECT_EQ(parse_timestamp("9999-12-31T23:59:59.999999Z"), kPastLastInstant - 1);
}

TEST(Timestamp, TakesADateAloneInArgumentsOnly) {
  EXPECT_EQ(shown(parse_timestamp_argument("2025-10-20")), "2025-10-20T00:00:00Z");
  EXPECT_EQ(shown(parse_timestamp_argument("2025-10-20T14:30:25Z")), "2025-10-20T14:30:25Z");
  EXPECT_EQ(shown(parse_timestamp_argument("2025-10-20 ")), "none");
  EXPECT_EQ(shown(parse_timestamp_argument("2025-02-30")), "none");
  EXPECT_EQ(shown(parse_timestamp("2025-10-20")), "none");
}

TEST(Timestamp, ReadsIntegers) {
  EXPECT_EQ(timestamp_from_integer(1'760'970'625), kAt);
  EXPECT_EQ(timestamp_from_integer(1'760'970'625'123), kAt + 123'000);
  EXPECT_EQ(timestamp_from_integer(0), 0);
  EXPECT_EQ(timestamp_from_integer(-1), -kMicrosPerSecond);
  EXPECT_EQ(shown(timestamp_from_integer(99'999'999'999)), "5138-11-16T09:46:39Z");
  EXPECT_EQ(shown(timestamp_from_integer(100'000'000'000)), "1973-03-03T09:46:40Z");
  EXPECT_EQ(timestamp_from_integer(-62'135'596'800), kFirstInstant);
  EXPECT_EQ(shown(timestamp_from_integer(-62'135'596'801)), "none");
  EXPECT_EQ(shown(timestamp_from_integer(253'402'300'799'999)), "9999-12-31T23:59:59.999000Z");
  EXPECT_EQ(shown(timestamp_from_integer(253'402'300'800'000)), "none");
  EXPECT_EQ(shown(timestamp_from_integer(std::numeric_limits<std::int64_t>::max())), "none");
  EXPECT_EQ(shown(timestamp_from_integer(std::numeric_limits<std::int64_t>::min())), "none");
}

TEST(Timestamp, ReadsReals) {
  EXPECT_EQ(timestamp_from_real(1760970625.0), kAt);
  EXPECT_EQ(timestamp_from_real(1760970625.5), kAt + 500'000);
  EXPECT_EQ(timestamp_from_real(1760970625.000001), kAt + 1);
  EXPECT_EQ(timestamp_from_real(1760970625.123456), kAt + 123'456);
  EXPECT_EQ(timestamp_from_real(1760970625.1234567), kAt + 123'456);
  EXPECT_EQ(timestamp_from_real(-0.0), 0);
  EXPECT_EQ(timestamp_from_real(1e-7), 0);
  EXPECT_EQ(timestamp_from_real(-1e-7), -1);
  EXPECT_EQ(timestamp_from_real(-1e-300), -1);
  EXPECT_EQ(timestamp_from_real(-1.5), -1'500'000);
  EXPECT_EQ(timestamp_from_real(-1.0000001), -1'000'001);
  EXPECT_EQ(timestamp_from_real(0.99999999999999), 999'999);
  EXPECT_EQ(timestamp_from_real(-62135596800.0), kFirstInstant);
  EXPECT_EQ(shown(timestamp_from_real(-62135596801.0)), "none");
  EXPECT_EQ(shown(timestamp_from_real(253402300799.0)), "9999-12-31T23:59:59Z");
  EXPECT_EQ(shown(timestamp_from_real(253402300800.0)), "none");
  // Milliseconds are an integer's form: as a REAL this is the year 57774.
  EXPECT_EQ(shown(timestamp_from_real(1760970625123.0)), "none");
  EXPECT_EQ(shown(timestamp_from_real(1e300)), "none");
  EXPECT_EQ(shown(timestamp_from_real(std::numeric_limits<double>::infinity())), "none");
  EXPECT_EQ(shown(timestamp_from_real(std::numeric_limits<double>::quiet_NaN())), "none");
}

TEST(Timestamp, RealsHoldEveryMicrosecondOfToday) {
  std::mt19937_64 random(3);
  for (int i = 0; i < 200'000; ++i) {
    const auto micros = static_cast<Micros>(random() % 4'000'000'000'000'000ULL);
    const auto text = std::to_string(micros / 1'000'000) + "." +
                      std::to_string(1'000'000 + micros % 1'000'000).substr(1);
    ASSERT_EQ(timestamp_from_real(std::stod(text)), micros) << text;
  }
}

TEST(Timestamp, FormatsAndReadsBack) {
  EXPECT_EQ(format_timestamp(kAt), "2025-10-20T14:30:25Z");
  EXPECT_EQ(format_timestamp(kAt + 5), "2025-10-20T14:30:25.000005Z");
  EXPECT_EQ(format_timestamp(-1), "1969-12-31T23:59:59.999999Z");
  EXPECT_EQ(format_timestamp(kFirstInstant), "0001-01-01T00:00:00Z");
  EXPECT_EQ(format_date(0), "1970-01-01");
  EXPECT_EQ(format_date(-1), "1969-12-31");
  std::mt19937_64 random(5);
  std::uniform_int_distribution<Micros> times(kFirstInstant, kPastLastInstant - 1);
  for (int i = 0; i < 200'000; ++i) {
    const Micros time = times(random);
    ASSERT_EQ(parse_timestamp(format_timestamp(time)), time);
  }
}

TEST(Timestamp, CountsDaysLikeTheCalendar) {
  std::int64_t expected = days_from_civil(1, 1, 1);
  EXPECT_EQ(expected * kMicrosPerDay, kFirstInstant);
  for (unsigned year = 1; year <= 9999; ++year) {
    const bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    const unsigned lengths[] = {31, leap ? 29U : 28U, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    for (unsigned month = 1; month <= 12; ++month) {
      ASSERT_EQ(days_from_civil(year, month, 1), expected);
      const CivilDate last = civil_from_days(expected + lengths[month - 1] - 1);
      ASSERT_EQ(last.year, year);
      ASSERT_EQ(last.month, month);
      ASSERT_EQ(last.day, lengths[month - 1]);
      expected += lengths[month - 1];
    }
  }
}

TEST(Timestamp, TakesAnyBytes) {
  std::mt19937 random(17);
  const std::string_view good = "2025-10-20T14:30:25.123456 +05:45";
  for (int i = 0; i < 300'000; ++i) {
    std::string text(good.substr(0, random() % (good.size() + 1)));
    for (std::size_t hits = random() % 4; hits > 0 && !text.empty(); --hits) {
      text[random() % text.size()] =
          random() % 2 == 0 ? static_cast<char>(random()) : "0123456789-: TZ.+"[random() % 17];
    }
    const auto time = parse_timestamp_argument(text);
    if (time) {
      ASSERT_EQ(parse_timestamp(format_timestamp(*time)), time) << text;
    }
  }
}

}  // namespace
}  // namespace token_usage
