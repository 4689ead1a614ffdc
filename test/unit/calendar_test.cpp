// Whole local calendar days (rules 1 to 3), where zones are at their oddest.
#include "calendar.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <random>

#include "arguments.h"

namespace token_usage {
namespace {

Day day(const char *date) {
  return *parse_timestamp_argument(date) / kMicrosPerDay;
}

Micros at(const char *time) {
  return *parse_timestamp_argument(time);
}

std::string start(const char *zone, const char *date) {
  return format_timestamp(TimeZone::load(zone).start_of_day(day(date)));
}

std::string date_of(const char *zone, const char *time) {
  return format_date(TimeZone::load(zone).day_of(at(time)));
}

std::string message(const char *zone, const char *argument = "time_zone") {
  try {
    TimeZone::load(zone, argument);
  } catch (const Error &error) {
    EXPECT_EQ(error.kind(), ErrorKind::argument);
    return error.what();
  }
  return "no error";
}

TEST(Calendar, UtcDays) {
  EXPECT_EQ(start("UTC", "2025-10-20"), "2025-10-20T00:00:00Z");
  EXPECT_EQ(date_of("utc", "2025-10-20T23:59:59.999999Z"), "2025-10-20");
  EXPECT_EQ(date_of("UTC", "1969-12-31T23:59:59.999999Z"), "1969-12-31");
}

TEST(Calendar, DaysOf23And25Hours) {
  EXPECT_EQ(start("America/New_York", "2025-03-09"), "2025-03-09T05:00:00Z");
  EXPECT_EQ(start("America/New_York", "2025-03-10"), "2025-03-10T04:00:00Z");
  EXPECT_EQ(start("Europe/Berlin", "2025-10-26"), "2025-10-25T22:00:00Z");
  EXPECT_EQ(start("Europe/Berlin", "2025-10-27"), "2025-10-26T23:00:00Z");
  // Half an hour of daylight saving.
  EXPECT_EQ(start("Australia/Lord_Howe", "2025-10-05"), "2025-10-04T13:30:00Z");
  EXPECT_EQ(start("Australia/Lord_Howe", "2025-10-06"), "2025-10-05T13:00:00Z");
}

TEST(Calendar, OddOffsets) {
  EXPECT_EQ(start("Asia/Kolkata", "2025-10-20"), "2025-10-19T18:30:00Z");
  EXPECT_EQ(start("Asia/Kathmandu", "2025-10-20"), "2025-10-19T18:15:00Z");
  EXPECT_EQ(start("Pacific/Kiritimati", "2025-10-20"), "2025-10-19T10:00:00Z");
  EXPECT_EQ(start("Etc/GMT+12", "2025-10-20"), "2025-10-20T12:00:00Z");
}

TEST(Calendar, AMidnightThatDoesNotExist) {
  EXPECT_EQ(start("America/Sao_Paulo", "2018-11-04"), "2018-11-04T03:00:00Z");
  EXPECT_EQ(date_of("America/Sao_Paulo", "2018-11-04T02:59:59.999999Z"), "2018-11-03");
  EXPECT_EQ(date_of("America/Sao_Paulo", "2018-11-04T03:00:00Z"), "2018-11-04");
  // Toronto, 1919: from 23:30 to 00:30, so the gap begins in the day before.
  EXPECT_EQ(start("America/Toronto", "1919-03-31"), "1919-03-31T04:30:00Z");
  EXPECT_EQ(date_of("America/Toronto", "1919-03-31T04:29:59Z"), "1919-03-30");
}

TEST(Calendar, AMidnightThatComesTwice) {
  // Havana, 2025-11-02: 01:00 back to 00:00.
  EXPECT_EQ(start("America/Havana", "2025-11-02"), "2025-11-02T04:00:00Z");
  EXPECT_EQ(start("America/Havana", "2025-11-03"), "2025-11-03T05:00:00Z");
  // St. John's until 2011: 00:01 back to 23:01, so the clock shows the day before again for 59
  // minutes of the new day.
  EXPECT_EQ(start("America/St_Johns", "2010-11-07"), "2010-11-07T02:30:00Z");
  EXPECT_EQ(date_of("America/St_Johns", "2010-11-07T02:29:59.999999Z"), "2010-11-06");
  EXPECT_EQ(date_of("America/St_Johns", "2010-11-07T02:30:00Z"), "2010-11-07");
  EXPECT_EQ(date_of("America/St_Johns", "2010-11-07T03:00:00Z"), "2010-11-07");
  EXPECT_EQ(start("America/St_Johns", "2010-11-08"), "2010-11-08T03:30:00Z");
}

TEST(Calendar, ADayThatDoesNotExist) {
  EXPECT_EQ(start("Pacific/Apia", "2011-12-29"), "2011-12-29T10:00:00Z");
  EXPECT_EQ(start("Pacific/Apia", "2011-12-30"), "2011-12-30T10:00:00Z");
  EXPECT_EQ(start("Pacific/Apia", "2011-12-31"), "2011-12-30T10:00:00Z");
  EXPECT_EQ(date_of("Pacific/Apia", "2011-12-30T09:59:59Z"), "2011-12-29");
  EXPECT_EQ(date_of("Pacific/Apia", "2011-12-30T10:00:00Z"), "2011-12-31");
}

TEST(Calendar, RulesGoOnForever) {
  EXPECT_EQ(start("America/New_York", "2090-07-01"), "2090-07-01T04:00:00Z");
  EXPECT_EQ(start("America/New_York", "2090-12-01"), "2090-12-01T05:00:00Z");
  EXPECT_EQ(start("America/New_York", "2790-07-01"), "2790-07-01T04:00:00Z");
  EXPECT_EQ(start("Europe/Berlin", "9999-07-01"), "9999-06-30T22:00:00Z");
}

TEST(Calendar, EveryInstantIsInExactlyOneDay) {
  std::mt19937_64 random(23);
  for (const char *name :
       {"America/St_Johns", "America/Sao_Paulo", "Pacific/Apia", "Asia/Kathmandu", "America/Havana",
        "Australia/Lord_Howe", "Africa/Casablanca", "Asia/Manila", "America/Juneau", "UTC"}) {
    const TimeZone zone = TimeZone::load(name);
    std::uniform_int_distribution<Micros> times(at("1840-01-01"), at("2100-01-01"));
    for (int i = 0; i < 20'000; ++i) {
      const Micros time = times(random);
      const Day found = zone.day_of(time);
      ASSERT_LE(zone.start_of_day(found), time) << name << format_timestamp(time);
      ASSERT_GT(zone.start_of_day(found + 1), time) << name << format_timestamp(time);
    }
  }
}

TEST(Calendar, BoundsAscend) {
  const auto bounds = day_bounds(TimeZone::load("Pacific/Apia"), day("2012-01-01"), 4);
  ASSERT_EQ(bounds.size(), 5U);
  EXPECT_EQ(format_timestamp(bounds[0]), "2011-12-29T10:00:00Z");
  EXPECT_EQ(bounds[1], bounds[2]);
  EXPECT_EQ(format_timestamp(bounds[4]), "2012-01-01T10:00:00Z");
}

TEST(Calendar, StartsOfWeekMonthYear) {
  EXPECT_EQ(format_date(first_of_week(day("2025-10-20"))), "2025-10-20");
  EXPECT_EQ(format_date(first_of_week(day("2025-10-26"))), "2025-10-20");
  EXPECT_EQ(format_date(first_of_week(day("1969-12-31"))), "1969-12-29");
  EXPECT_EQ(format_date(first_of_month(day("2024-02-29"))), "2024-02-01");
  EXPECT_EQ(format_date(first_of_year(day("2024-12-31"))), "2024-01-01");
}

TEST(Calendar, NamesInAnyCase) {
  EXPECT_EQ(start("europe/MOSCOW", "2025-10-20"), "2025-10-19T21:00:00Z");
  EXPECT_EQ(start("america/argentina/buenos_aires", "2025-10-20"), "2025-10-20T03:00:00Z");
  EXPECT_EQ(start("gb", "2025-07-01"), "2025-06-30T23:00:00Z");
}

TEST(Calendar, UnknownZonesAreErrorsThatNameThem) {
  EXPECT_EQ(message("Mars/Base"),
            "token_usage: time_zone must be an IANA time zone, got Mars/Base");
  EXPECT_EQ(message("Mars/Base", "value"),
            "token_usage: value must be an IANA time zone, got Mars/Base");
  for (const char *name : {"",
                           " ",
                           "MSK",
                           "Foo/Bar5",
                           "UTC+3",
                           "+03:00",
                           "EST5",
                           "posix/UTC",
                           "right/Europe/Berlin",
                           "posixrules",
                           "localtime",
                           "Europe",
                           "Europe/",
                           "/UTC",
                           "Europe//Berlin",
                           "Europe/../UTC",
                           "../../etc/passwd",
                           "Europe/Berlin ",
                           "Etc/GMT+13",
                           "Etc/GMT-15",
                           "Etc/GMT+00",
                           "Etc/GMT00",
                           "zone.tab",
                           "Etc/GMT+",
                           "libc:localtime",
                           "Fixed/UTC+05:00:00",
                           "SystemV/EST5"}) {
    EXPECT_EQ(message(name),
              std::string("token_usage: time_zone must be an IANA time zone, got ") + name);
  }
  EXPECT_EQ(message(std::string(1'000'000, 'A').c_str()).size(),
            std::string("token_usage: time_zone must be an IANA time zone, got ...").size() + 200);
}

TEST(Calendar, WithoutZoneDataOnlyUtcWorks) {
  ASSERT_EQ(setenv("TZDIR", "/nonexistent", 1), 0);
  EXPECT_EQ(start("UTC", "2025-10-20"), "2025-10-20T00:00:00Z");
  EXPECT_EQ(
      message("Europe/Paris"),
      "token_usage: time_zone must be UTC (this system has no time zone data), got Europe/Paris");
  EXPECT_EQ(message("MSK"), "token_usage: time_zone must be an IANA time zone, got MSK");
  ASSERT_EQ(unsetenv("TZDIR"), 0);
}

TEST(Calendar, ZoneNameRuleTakesEveryNameOfTheSystem) {
  int names = 0;
  const std::filesystem::path root = "/usr/share/zoneinfo";
  for (const auto &entry : std::filesystem::recursive_directory_iterator(root)) {
    const std::string name = std::filesystem::relative(entry.path(), root).string();
    if (!entry.is_regular_file() || name.starts_with("posix/") || name.starts_with("right/") ||
        name.starts_with("SystemV/") || name.find('.') != std::string::npos ||
        name == "posixrules" || name == "localtime" || name == "Factory" || name == "leapseconds") {
      continue;
    }
    EXPECT_TRUE(is_zone_name(name) || name == "EST5EDT") << name;
    ++names;
  }
  EXPECT_GT(names, 300);
}

}  // namespace
}  // namespace token_usage
