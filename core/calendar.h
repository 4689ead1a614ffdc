// Whole local calendar days (rules 1 to 3 of the contract): where a day of an IANA time zone
// starts, which day holds an instant, and where weeks, months and years start. Zone rules come from
// the system's zone data through cctz.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "timestamp.h"

namespace token_usage {

// A local calendar day, as days since 1970-01-01.
using Day = std::int64_t;

class TimeZone {
 public:
  // The zone of that name, in any case. Throws the argument error for `argument` where it is no
  // IANA name or the system does not know it. `UTC` works without zone data.
  static TimeZone load(std::string_view name, std::string_view argument = "time_zone");

  ~TimeZone();
  TimeZone(const TimeZone &);
  TimeZone &operator=(const TimeZone &);

  // The first instant whose local time is at or past 00:00 of `day`: the transition where midnight
  // is skipped, the first midnight where there are two.
  [[nodiscard]] Micros start_of_day(Day day) const;

  // The instant at which clocks show `local` (Unix microseconds as if of UTC): the first of two
  // where clocks were turned back, the transition where they never showed it.
  [[nodiscard]] Micros instant_of(Micros local) const;

  // The day whose [start, next start) holds `time`.
  [[nodiscard]] Day day_of(Micros time) const;

 private:
  struct Rules;
  explicit TimeZone(std::shared_ptr<const Rules> rules);
  std::shared_ptr<const Rules> rules_;
};

Day first_of_week(Day day);  // Monday
Day first_of_month(Day day);
Day first_of_year(Day day);

// The starts of `days` days of which `last` is the last, and the start of the day after it: days +
// 1 ascending bounds.
std::vector<Micros> day_bounds(const TimeZone &zone, Day last, std::int64_t days);

// True for the names that may be IANA zone names by their form; see zone_name.cpp for the rule.
bool is_zone_name(std::string_view name);

}  // namespace token_usage
