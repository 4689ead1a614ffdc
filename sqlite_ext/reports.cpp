#include "reports.h"

#include <algorithm>

#include "arguments.h"
#include "settings.h"

namespace token_usage {

namespace {

TimeZone zone_of(Snapshot &snapshot, sqlite3_value *time_zone) {
  const std::optional<std::string> given = text_argument(time_zone);
  return TimeZone::load(given ? *given : read_setting(snapshot, "time_zone"));
}

sqlite3_value *checked_user(sqlite3_value *user) {
  check_user(user);
  return user;
}

// Ascending by bytes, nothing last.
bool keys_before(const Keys &a, const Keys &b) {
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i] == b[i]) {
      continue;
    }
    if (!a[i] || !b[i]) {
      return a[i].has_value();
    }
    return *a[i] < *b[i];
  }
  return false;
}

void order_by_tokens(std::vector<GroupMeasures> &groups) {
  std::sort(groups.begin(), groups.end(), [](const GroupMeasures &a, const GroupMeasures &b) {
    if (a.measures.total_tokens != b.measures.total_tokens) {
      return a.measures.total_tokens > b.measures.total_tokens;
    }
    return keys_before(a.keys, b.keys);
  });
}

void order_by_cost(std::vector<GroupMeasures> &groups) {
  std::sort(groups.begin(), groups.end(), [](const GroupMeasures &a, const GroupMeasures &b) {
    if (a.measures.cost_rub != b.measures.cost_rub) {
      return a.measures.cost_rub > b.measures.cost_rub;
    }
    if (a.measures.cost_usd != b.measures.cost_usd) {
      return a.measures.cost_usd > b.measures.cost_usd;
    }
    if (a.measures.total_tokens != b.measures.total_tokens) {
      return a.measures.total_tokens > b.measures.total_tokens;
    }
    return keys_before(a.keys, b.keys);
  });
}

std::vector<GroupMeasures> groups_of(const Scope &scope, const std::vector<Micros> &bounds,
                                     const std::optional<std::string> &agent, Dimension dimension) {
  std::vector<GroupMeasures> out;
  for (Sum &sum : collect_sums(scope.snapshot, scope.user, agent, bounds, dimension)) {
    out.push_back({std::move(sum.keys), sum.measures});
  }
  return out;
}

}  // namespace

Scope::Scope(sqlite3 *db, sqlite3_value *user_id, sqlite3_value *time_zone, sqlite3_value *as_of,
             const std::string &schema)
    : user(checked_user(user_id)),
      snapshot(db, schema),
      zone(zone_of(snapshot, time_zone)),
      last(zone.day_of(as_of_argument(as_of))) {}

std::vector<Micros> Scope::period(Day first) const {
  return {zone.start_of_day(first), zone.start_of_day(last + 1)};
}

std::vector<NamedMeasures> summary(const Scope &scope) {
  // Three stretches that end where the next one starts: before this month, this month before today,
  // today.
  const std::vector<Micros> bounds = {
      kSinceEver, scope.zone.start_of_day(first_of_month(scope.last)),
      scope.zone.start_of_day(scope.last), scope.zone.start_of_day(scope.last + 1)};
  std::vector<NamedMeasures> out = {{"today", {}}, {"this_month", {}}, {"all_time", {}}};
  for (const Sum &sum :
       collect_sums(scope.snapshot, scope.user, std::nullopt, bounds, Dimension::none)) {
    out[2].measures.merge(sum.measures);
    if (sum.stretch >= 1) {
      out[1].measures.merge(sum.measures);
    }
    if (sum.stretch == 2) {
      out[0].measures.merge(sum.measures);
    }
  }
  return out;
}

std::vector<DayMeasures> history(const Scope &scope, std::int64_t days,
                                 const std::optional<std::string> &agent) {
  std::vector<DayMeasures> out;
  for (Day day = scope.last - days + 1; day <= scope.last; ++day) {
    out.push_back({day, {}});
  }
  const std::vector<Micros> bounds = day_bounds(scope.zone, scope.last, days);
  for (const Sum &sum : collect_sums(scope.snapshot, scope.user, agent, bounds, Dimension::none)) {
    out[sum.stretch].measures = sum.measures;
  }
  return out;
}

std::vector<GroupMeasures> by_agent(const Scope &scope, std::int64_t period_days) {
  std::vector<GroupMeasures> out =
      groups_of(scope, scope.period(scope.last - period_days + 1), std::nullopt, Dimension::agent);
  order_by_tokens(out);
  return out;
}

std::vector<GroupMeasures> by_model(const Scope &scope, std::int64_t period_days) {
  std::vector<GroupMeasures> out =
      groups_of(scope, scope.period(scope.last - period_days + 1), std::nullopt, Dimension::model);
  order_by_cost(out);
  return out;
}

std::vector<GroupMeasures> by_provider(const std::vector<GroupMeasures> &models) {
  std::map<std::optional<std::string>, Measures> providers;
  for (const GroupMeasures &model : models) {
    providers[model.keys[0]].merge(model.measures);
  }
  std::vector<GroupMeasures> out;
  for (const auto &[provider, measures] : providers) {
    out.push_back({{provider}, measures});
  }
  order_by_cost(out);
  return out;
}

std::string period_argument(sqlite3_value *value) {
  if (value == nullptr) {
    return "month";
  }
  const std::optional<std::string> text = text_argument(value);
  for (const char *const known : {"day", "week", "month", "year", "all"}) {
    if (text == known) {
      return *text;
    }
  }
  bad_argument("period", "one of day, week, month, year, all", value_shown(value));
}

std::vector<Micros> named_period(const Scope &scope, const std::string &period) {
  if (period == "all") {
    return {kSinceEver, scope.zone.start_of_day(scope.last + 1)};
  }
  if (period == "week") {
    return scope.period(first_of_week(scope.last));
  }
  if (period == "month") {
    return scope.period(first_of_month(scope.last));
  }
  return scope.period(period == "year" ? first_of_year(scope.last) : scope.last);
}

Measures totals(const Scope &scope, const std::string &period,
                const std::optional<std::string> &agent) {
  Measures out;
  for (const Sum &sum : collect_sums(scope.snapshot, scope.user, agent, named_period(scope, period),
                                     Dimension::none)) {
    out.merge(sum.measures);
  }
  return out;
}

std::vector<GroupMeasures> totals_by_agent(const Scope &scope, const std::string &period,
                                           const std::optional<std::string> &agent) {
  std::vector<GroupMeasures> out =
      groups_of(scope, named_period(scope, period), agent, Dimension::agent);
  order_by_tokens(out);
  return out;
}

}  // namespace token_usage
