#include "calendar.h"

#include <cctz/civil_time.h>
#include <cctz/time_zone.h>
#include <dirent.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <system_error>

#include "arguments.h"

namespace token_usage {

struct TimeZone::Rules {
  bool utc = false;
  cctz::time_zone zone;
};

namespace {

using Seconds = std::chrono::time_point<std::chrono::system_clock, cctz::seconds>;

std::filesystem::path zone_directory() {
  // The places that cctz looks in.
  const char *const tzdir = std::getenv("TZDIR");
  return tzdir != nullptr && *tzdir != '\0' ? tzdir : "/usr/share/zoneinfo";
}

bool equal_ignoring_case(std::string_view a, std::string_view b) {
  const auto lower = [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  };
  if (a.size() != b.size()) {
    return false;
  }
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (lower(a[i]) != lower(b[i])) {
      return false;
    }
  }
  return true;
}

struct CloseDirectory {
  void operator()(DIR *directory) const { closedir(directory); }
};

// The entry of `folder` that has this name in some case; the name itself where there is none. Not
// std::filesystem::directory_iterator: libstdc++ ends the process when memory runs out in it.
std::string entry_of(const std::filesystem::path &folder, std::string_view name) {
  const std::unique_ptr<DIR, CloseDirectory> directory(opendir(folder.c_str()));
  while (directory != nullptr) {
    const dirent *const entry = readdir(directory.get());
    if (entry == nullptr) {
      break;
    }
    if (equal_ignoring_case(entry->d_name, name)) {
      return entry->d_name;
    }
  }
  return std::string(name);
}

// The name as the zone directory spells it, or the name as it came where the directory has no such
// entry.
std::string spelled(std::string_view name) {
  std::error_code error;
  std::filesystem::path folder = zone_directory();
  if (std::filesystem::is_regular_file(folder / name, error)) {
    return std::string(name);
  }
  std::string out;
  std::string_view rest = name;
  while (!rest.empty()) {
    const std::size_t slash = rest.find('/');
    const std::string_view part = rest.substr(0, slash);
    rest = slash == std::string_view::npos ? std::string_view() : rest.substr(slash + 1);
    const std::string found = entry_of(folder, part);
    folder /= found;
    out += out.empty() ? found : "/" + found;
  }
  return out;
}

Seconds to_seconds(Micros time) {
  Micros seconds = time / kMicrosPerSecond;
  if (time % kMicrosPerSecond < 0) {
    --seconds;
  }
  return Seconds(cctz::seconds(seconds));
}

Micros to_micros(Seconds time) {
  return time.time_since_epoch().count() * kMicrosPerSecond;
}

Day floor_day(Micros time) {
  const Day day = time / kMicrosPerDay;
  return time % kMicrosPerDay < 0 ? day - 1 : day;
}

}  // namespace

TimeZone::TimeZone(std::shared_ptr<const Rules> rules) : rules_(std::move(rules)) {}
TimeZone::~TimeZone() = default;
TimeZone::TimeZone(const TimeZone &) = default;
TimeZone &TimeZone::operator=(const TimeZone &) = default;

TimeZone TimeZone::load(std::string_view name, std::string_view argument) {
  auto rules = std::make_shared<Rules>();
  if (equal_ignoring_case(name, "UTC")) {
    rules->utc = true;
    return TimeZone(std::move(rules));
  }
  if (!is_zone_name(name)) {
    bad_argument(argument, rule_zone, name);
  }
  // The file is looked for first because cctz keeps an entry for every name it is asked for, known
  // or not.
  std::error_code error;
  const std::string file = spelled(name);
  if (!std::filesystem::is_regular_file(zone_directory() / file, error) ||
      !cctz::load_time_zone(file, &rules->zone)) {
    if (!std::filesystem::is_directory(zone_directory(), error)) {
      bad_argument(argument, "UTC (this system has no time zone data)", name);
    }
    bad_argument(argument, rule_zone, name);
  }
  return TimeZone(std::move(rules));
}

Micros TimeZone::start_of_day(Day day) const {
  return instant_of(day * kMicrosPerDay);
}

Micros TimeZone::instant_of(Micros local) const {
  if (rules_->utc) {
    return local;
  }
  const Micros seconds = to_seconds(local).time_since_epoch().count();
  const auto found = rules_->zone.lookup(cctz::civil_second(1970, 1, 1) + seconds);
  // `pre` reads the time by the offset before a transition: of two instants that is the first.
  return found.kind == cctz::time_zone::civil_lookup::SKIPPED
             ? to_micros(found.trans)
             : to_micros(found.pre) + (local - seconds * kMicrosPerSecond);
}

Day TimeZone::day_of(Micros time) const {
  if (rules_->utc) {
    return floor_day(time);
  }
  const cctz::civil_day local(rules_->zone.lookup(to_seconds(time)).cs);
  Day day = local - cctz::civil_day(1970, 1, 1);
  // Where the clock goes back across midnight, the local date is for a while the one before the day
  // that has begun.
  while (start_of_day(day + 1) <= time) {
    ++day;
  }
  while (start_of_day(day) > time) {
    --day;
  }
  return day;
}

Day first_of_week(Day day) {
  // 1970-01-01 was a Thursday, the fourth day of its week.
  const Day weekday = ((day + 3) % 7 + 7) % 7;
  return day - weekday;
}

Day first_of_month(Day day) {
  return day - (civil_from_days(day).day - 1);
}

Day first_of_year(Day day) {
  return days_from_civil(civil_from_days(day).year, 1, 1);
}

std::vector<Micros> day_bounds(const TimeZone &zone, Day last, std::int64_t days) {
  std::vector<Micros> bounds;
  bounds.reserve(static_cast<std::size_t>(days) + 1);
  for (Day day = last - days + 1; day <= last + 1; ++day) {
    bounds.push_back(zone.start_of_day(day));
  }
  return bounds;
}

}  // namespace token_usage
