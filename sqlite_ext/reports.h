// The reports of the contract (section 3) as plain rows, computed once for the table-valued
// functions and for their JSON twins.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "../core/calendar.h"
#include "../core/measures.h"
#include "sums.h"

namespace token_usage {

// What every report starts from: the ledger, one state of the database, the zone and the last day.
struct Scope {
  // `zone` and `as_of` may be null pointers: not given.
  Scope(sqlite3 *db, sqlite3_value *user_id, sqlite3_value *time_zone, sqlite3_value *as_of,
        const std::string &schema);

  sqlite3_value *user;
  mutable Snapshot snapshot;
  TimeZone zone;
  Day last;

  // [first day 00:00, day after the last day 00:00)
  [[nodiscard]] std::vector<Micros> period(Day first) const;
};

struct NamedMeasures {
  std::string name;
  Measures measures;
};

struct DayMeasures {
  Day day;
  Measures measures;
};

struct GroupMeasures {
  Keys keys;
  Measures measures;
};

// today, this_month, all_time.
std::vector<NamedMeasures> summary(const Scope &scope);

std::vector<DayMeasures> history(const Scope &scope, std::int64_t days,
                                 const std::optional<std::string> &agent);

// total_tokens descending, agent_id.
std::vector<GroupMeasures> by_agent(const Scope &scope, std::int64_t period_days);

// cost_rub, cost_usd, total_tokens descending, then the keys.
std::vector<GroupMeasures> by_model(const Scope &scope, std::int64_t period_days);

// The same for the providers of `models`.
std::vector<GroupMeasures> by_provider(const std::vector<GroupMeasures> &models);

// The period that `day`, `week`, `month`, `year` or `all` names, to date, as bounds of one stretch.
// Throws the argument error for another name; `shown` is what that error shows.
std::vector<Micros> named_period(const Scope &scope, const std::string &period);

// A period by name; a null pointer is the default, `month`.
std::string period_argument(sqlite3_value *value);

// One sum over a named period, and its parts by agent.
Measures totals(const Scope &scope, const std::string &period,
                const std::optional<std::string> &agent);
std::vector<GroupMeasures> totals_by_agent(const Scope &scope, const std::string &period,
                                           const std::optional<std::string> &agent);

}  // namespace token_usage
