// The reports on users who have few rows, PostgreSQL native edition: made from the rows themselves
// (few_rows.h), without a query. They stand before the reports of reports.sql and detailed.sql,
// which few.sql renames, and hand every call on that they do not serve: users with many rows, zones
// other than UTC, ledgers of other types, row security, and whatever ends in an error, so that only
// those have to know the texts of errors. What they answer must be the same, by the rules of the
// contract: exact sums (4 to 6), total order (8).
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>

#include "few_call.h"
#include "few_sums.h"

extern "C" {
#include <access/xact.h>
#include <utils/date.h>
}

namespace token_usage {

namespace {

constexpr std::int64_t kMostDays = 36600;

// What a report of days is asked.
struct Scope {
  FewQuestion question;
  DateADT last_day;
};

TimestampTz start_of(DateADT day) {
  return static_cast<TimestampTz>(day) * USECS_PER_DAY;
}

bool is_utc(std::string_view zone) {
  return zone.size() == 3 && pg_strncasecmp(zone.data(), "utc", 3) == 0;
}

// The arguments of a report of days: `time_zone` and `as_of` are at `at` and behind it.
bool open_days(FunctionCallInfo fcinfo, int at, Scope *scope) {
  if (!open_scope(fcinfo, &scope->question)) {
    return false;
  }
  if (PG_ARGISNULL(at)) {
    const std::optional<std::string_view> zone = few_time_zone(scope->question.ledger);
    if (!zone || (!zone->empty() && !is_utc(*zone))) {
      return false;
    }
  } else {
    if (!is_utc(FewText{PG_GETARG_TEXT_PP(at)}.view())) {
      return false;
    }
  }
  TimestampTz now = GetCurrentTransactionStartTimestamp();
  if (!PG_ARGISNULL(at + 1)) {
    now = PG_GETARG_TIMESTAMPTZ(at + 1);
    // The years that as_of may be in.
    if (now < start_of(date2j(1000, 1, 1) - POSTGRES_EPOCH_JDATE) ||
        now >= start_of(date2j(10000, 1, 1) - POSTGRES_EPOCH_JDATE)) {
      return false;
    }
  }
  // Rounded down.
  const std::int64_t day = now / USECS_PER_DAY - (now % USECS_PER_DAY < 0 ? 1 : 0);
  scope->last_day = static_cast<DateADT>(day);
  return true;
}

// The first day of the period of that name; false where there is none that begins.
bool first_day(std::string_view period, DateADT last_day, DateADT *first) {
  int year = 0;
  int month = 0;
  int day = 0;
  j2date(last_day + POSTGRES_EPOCH_JDATE, &year, &month, &day);
  if (period == "day") {
    *first = last_day;
  } else if (period == "week") {
    *first = last_day - (j2day(last_day + POSTGRES_EPOCH_JDATE) + 6) % 7;  // Sunday is 0
  } else if (period == "month") {
    *first = last_day - (day - 1);
  } else if (period == "year") {
    *first = date2j(year, 1, 1) - POSTGRES_EPOCH_JDATE;
  } else {
    return false;
  }
  return true;
}

// Adds up the rows of consecutive buckets.
bool add_up(FewQuestion question, FewSums *sums, const TimestampTz *bounds, int buckets) {
  sums->bounds = bounds;
  sums->buckets = buckets;
  question.kind = FewKind::sums;
  question.from = bounds[0];
  question.until = bounds[buckets];
  return read_few_rows(question, add_few_row, sums);
}

bool summary(FunctionCallInfo fcinfo, FewResult *result) {
  Scope scope;
  DateADT month = 0;
  if (!open_days(fcinfo, 2, &scope) || !first_day("month", scope.last_day, &month)) {
    return false;
  }
  const TimestampTz bounds[] = {DT_NOBEGIN, start_of(month), start_of(scope.last_day),
                                start_of(scope.last_day + 1)};
  FewSums sums = {};
  if (!add_up(scope.question, &sums, bounds, 3)) {
    return false;
  }
  constexpr const char *names[] = {"all_time", "this_month", "today"};
  for (int from = 3; from >= 1; --from) {
    Measures all;
    for (int i = 0; i < sums.count; ++i) {
      if (sums.lines[i].bucket >= from &&
          !attempt([&all, &sums, i] { all.merge(sums.lines[i].measures); })) {
        return false;
      }
    }
    result->cell(CStringGetTextDatum(names[from - 1]));
    if (!result->measure_cells(all, false)) {
      return false;
    }
    result->end_row();
  }
  return true;
}

bool history(FunctionCallInfo fcinfo, FewResult *result) {
  Scope scope;
  if (PG_ARGISNULL(2) || PG_GETARG_INT64(2) < 1 || PG_GETARG_INT64(2) > kMostDays ||
      !open_days(fcinfo, 4, &scope)) {
    return false;
  }
  const int days = static_cast<int>(PG_GETARG_INT64(2));
  const DateADT first = scope.last_day - days + 1;
  auto *const bounds =
      static_cast<TimestampTz *>(palloc(sizeof(TimestampTz) * (static_cast<Size>(days) + 1)));
  for (int i = 0; i <= days; ++i) {
    bounds[i] = start_of(first + i);
  }
  FewSums sums = {};
  sums.agent = PG_ARGISNULL(3) ? nullptr : PG_GETARG_TEXT_PP(3);
  if (!add_up(scope.question, &sums, bounds, days)) {
    return false;
  }
  std::sort(sums.lines, sums.lines + sums.count,
            [](const FewLine &a, const FewLine &b) { return a.bucket < b.bucket; });
  const Measures none;
  const FewLine *line = sums.lines;
  const FewLine *const end = sums.lines + sums.count;
  for (int day = 1; day <= days; ++day) {
    const bool there = line != end && line->bucket == day;
    result->cell(DateADTGetDatum(first + day - 1));
    if (!result->measure_cells(there ? line->measures : none, false)) {
      return false;
    }
    result->end_row();
    line += there ? 1 : 0;
  }
  return true;
}

// By bytes, NULL last.
std::weak_ordering key_order(const FewText &a, const FewText &b) {
  const bool none = a.value == nullptr;
  return none != (b.value == nullptr) ? none <=> !none : a.view() <=> b.view();
}

bool by_cost(const FewLine &a, const FewLine &b) {
  const Measures &m = a.measures;
  const Measures &n = b.measures;
  if (m.cost_rub != n.cost_rub) {
    return m.cost_rub > n.cost_rub;
  }
  if (m.cost_usd != n.cost_usd) {
    return m.cost_usd > n.cost_usd;
  }
  if (m.total_tokens != n.total_tokens) {
    return m.total_tokens > n.total_tokens;
  }
  const auto order = key_order(a.key1, b.key1);
  return order != 0 ? order < 0 : key_order(a.key2, b.key2) < 0;
}

bool by_tokens(const FewLine &a, const FewLine &b) {
  return a.measures.total_tokens != b.measures.total_tokens
             ? a.measures.total_tokens > b.measures.total_tokens
             : key_order(a.key1, b.key1) < 0;
}

// The sums over a named period where there is one, or over so many days.
bool add_up_period(const Scope &scope, FunctionCallInfo fcinfo, int days, int period,
                   FewSums *sums) {
  TimestampTz bounds[] = {DT_NOBEGIN, start_of(scope.last_day + 1)};
  if (period >= 0 && !PG_ARGISNULL(period)) {
    const std::string_view view = FewText{PG_GETARG_TEXT_PP(period)}.view();
    DateADT first = 0;
    if (first_day(view, scope.last_day, &first)) {
      bounds[0] = start_of(first);
    } else if (view != "all") {
      return false;
    }
  } else if (days >= 0 && !PG_ARGISNULL(days) && PG_GETARG_INT64(days) >= 1 &&
             PG_GETARG_INT64(days) <= kMostDays) {
    bounds[0] = start_of(scope.last_day - static_cast<DateADT>(PG_GETARG_INT64(days)) + 1);
  } else {
    return false;
  }
  return add_up(scope.question, sums, bounds, 1);
}

// A row for each group.
bool put_groups(const FewSums &sums, FewResult *result) {
  for (int i = 0; i < sums.count; ++i) {
    const FewLine &line = sums.lines[i];
    result->text_cell(line.key1);
    if (sums.group == FewGroup::model) {
      result->text_cell(line.key2);
    }
    if (!result->measure_cells(line.measures, true)) {
      return false;
    }
    result->end_row();
  }
  return true;
}

bool by_agent(FunctionCallInfo fcinfo, FewResult *result) {
  Scope scope;
  FewSums sums = {};
  sums.group = FewGroup::agent;
  sums.agent = PG_ARGISNULL(2) ? nullptr : PG_GETARG_TEXT_PP(2);
  if (!open_days(fcinfo, 5, &scope) || !add_up_period(scope, fcinfo, 3, 4, &sums)) {
    return false;
  }
  std::sort(sums.lines, sums.lines + sums.count, by_tokens);
  return put_groups(sums, result);
}

bool by_price(FunctionCallInfo fcinfo, FewResult *result, FewGroup group) {
  Scope scope;
  FewSums sums = {};
  sums.group = group;
  if (!open_days(fcinfo, 3, &scope) || !add_up_period(scope, fcinfo, 2, -1, &sums)) {
    return false;
  }
  std::sort(sums.lines, sums.lines + sums.count, by_cost);
  return put_groups(sums, result);
}

bool by_model(FunctionCallInfo fcinfo, FewResult *result) {
  return by_price(fcinfo, result, FewGroup::model);
}

bool by_provider(FunctionCallInfo fcinfo, FewResult *result) {
  return by_price(fcinfo, result, FewGroup::provider);
}

bool totals(FunctionCallInfo fcinfo, FewResult *result) {
  Scope scope;
  FewSums sums = {};
  sums.agent = PG_ARGISNULL(3) ? nullptr : PG_GETARG_TEXT_PP(3);
  if (PG_ARGISNULL(2) || !open_days(fcinfo, 4, &scope) ||
      !add_up_period(scope, fcinfo, -1, 2, &sums)) {
    return false;
  }
  result->cell(PG_GETARG_DATUM(2));
  const Measures none;
  if (!result->measure_cells(sums.count > 0 ? sums.lines[0].measures : none, true)) {
    return false;
  }
  result->end_row();
  return true;
}

FewTaken count_row(void *context, const FewRow &) {
  ++*static_cast<std::int64_t *>(context);
  return FewTaken::more;
}

}  // namespace

extern "C" {

// _token_usage_summary(path name[], user_id text, time_zone text, as_of timestamptz)
PG_FUNCTION_INFO_V1(token_usage_few_summary);
PGDLLEXPORT Datum token_usage_few_summary(PG_FUNCTION_ARGS) {
  return few_report(fcinfo, summary);
}

// _token_usage_history(path, user_id, days bigint, agent text, time_zone, as_of)
PG_FUNCTION_INFO_V1(token_usage_few_history);
PGDLLEXPORT Datum token_usage_few_history(PG_FUNCTION_ARGS) {
  return few_report(fcinfo, history);
}

// _token_usage_by_agent(path, user_id, agent text, period_days bigint, period text, time_zone,
// as_of)
PG_FUNCTION_INFO_V1(token_usage_few_by_agent);
PGDLLEXPORT Datum token_usage_few_by_agent(PG_FUNCTION_ARGS) {
  return few_report(fcinfo, by_agent);
}

// _token_usage_by_model(path, user_id, period_days bigint, time_zone, as_of)
PG_FUNCTION_INFO_V1(token_usage_few_by_model);
PGDLLEXPORT Datum token_usage_few_by_model(PG_FUNCTION_ARGS) {
  return few_report(fcinfo, by_model);
}

// _token_usage_by_provider(path, user_id, period_days bigint, time_zone, as_of)
PG_FUNCTION_INFO_V1(token_usage_few_by_provider);
PGDLLEXPORT Datum token_usage_few_by_provider(PG_FUNCTION_ARGS) {
  return few_report(fcinfo, by_provider);
}

// _token_usage_totals(path, user_id, period_name text, agent text, time_zone, as_of)
PG_FUNCTION_INFO_V1(token_usage_few_totals);
PGDLLEXPORT Datum token_usage_few_totals(PG_FUNCTION_ARGS) {
  return few_report(fcinfo, totals);
}

// _token_usage_detailed_count(path, user_id, agent text, start_date timestamptz, end_date
// timestamptz)
PG_FUNCTION_INFO_V1(token_usage_few_count);
PGDLLEXPORT Datum token_usage_few_count(PG_FUNCTION_ARGS) {
  FewQuestion question;
  // Both dates are in the list; the infinities and what is next to them are left to others.
  constexpr TimestampTz last = DT_NOEND;
  const TimestampTz from = PG_ARGISNULL(3) ? DT_NOBEGIN : PG_GETARG_TIMESTAMPTZ(3);
  const TimestampTz end = PG_ARGISNULL(4) ? last : PG_GETARG_TIMESTAMPTZ(4);
  if ((PG_ARGISNULL(4) || !TIMESTAMP_NOT_FINITE(end)) && open_scope(fcinfo, &question)) {
    const TimestampTz bounds[] = {from, end == last ? last : end + 1};
    if (PG_ARGISNULL(2)) {
      std::int64_t rows = 0;
      question.kind = FewKind::count;
      question.from = bounds[0];
      question.until = bounds[1];
      if (read_few_rows(question, count_row, &rows)) {
        PG_RETURN_INT64(rows);
      }
    } else {
      FewSums sums = {};
      sums.agent = PG_GETARG_TEXT_PP(2);
      if (add_up(question, &sums, bounds, 1)) {
        PG_RETURN_INT64(sums.count > 0 ? sums.lines[0].measures.requests_count : 0);
      }
    }
  }
  return hand_on(fcinfo);
}

}  // extern "C"

}  // namespace token_usage
