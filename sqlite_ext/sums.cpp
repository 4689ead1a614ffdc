#include "sums.h"

#include <algorithm>
#include <unordered_map>

#include "request.h"

namespace token_usage {

namespace {

// created_at as text of `YYYY-MM-DD`, for a range over stored text. Local text may differ from UTC
// by an offset of less than a day, so the ends lie a day further out.
std::string date_bound(Micros time, std::int64_t slack_days, const char *beyond) {
  std::int64_t day = time / kMicrosPerDay - (time % kMicrosPerDay < 0 ? 1 : 0);
  day += slack_days;
  if (day < kFirstInstant / kMicrosPerDay) {
    return "0000-";  // not "0000": that is a number, and would be compared as one
  }
  return day >= kPastLastInstant / kMicrosPerDay ? beyond : format_date(day);
}

std::int64_t floor_divide(Micros time, Micros step) {
  return time / step - (time % step < 0 ? 1 : 0);
}

// Appends a key part so that no two lists of parts give the same bytes.
void append_key(std::string &bytes, const Statement &row, int column) {
  if (row.is_null(column)) {
    bytes.push_back('N');
    return;
  }
  const std::string_view text = row.text(column);
  const std::uint64_t size = text.size();
  bytes.push_back('T');
  bytes.append(reinterpret_cast<const char *>(&size), sizeof size);
  bytes.append(text);
}

std::optional<std::string> key_at(const Statement &row, int column) {
  return row.is_null(column) ? std::nullopt : std::optional(std::string(row.text(column)));
}

}  // namespace

std::optional<Micros> stored_time(const Statement &row, int column) {
  switch (row.type(column)) {
    case SQLITE_TEXT:
      return parse_timestamp(row.text(column));
    case SQLITE_INTEGER:
      return timestamp_from_integer(row.int64(column));
    case SQLITE_FLOAT:
      return timestamp_from_real(row.real(column));
    default:
      return std::nullopt;
  }
}

TimeRange::TimeRange(const Ledger &ledger, Micros low, Micros high, bool by_agent)
    : where_(" FROM " + ledger.table + " WHERE user_id = ?1"),
      by_agent_(by_agent),
      ledger_(&ledger) {
  if (by_agent) {
    where_ += " AND agent_id = ?2";
  }
  low = std::max(low, kFirstInstant);
  high = std::min(high, kPastLastInstant);
  forms_.push_back(" AND created_at >= '" + date_bound(low, -1, "9999-13") +
                   "' AND created_at < '" + date_bound(high, 2, "9999-13") + "'");
  // A column of text affinity holds no numbers, and would compare these bounds as text.
  if (ledger.created_at != Affinity::text) {
    constexpr std::int64_t first_millisecond_value = 100'000'000'000;
    const std::int64_t seconds_low = floor_divide(low, kMicrosPerSecond);
    const std::int64_t seconds_high = floor_divide(high - 1, kMicrosPerSecond) + 1;
    forms_.push_back(" AND created_at >= " + std::to_string(seconds_low) + " AND created_at < " +
                     std::to_string(seconds_high));
    // REALs of 10^11 and more are seconds too, but those years are past 9999 only from about 2.5 *
    // 10^11 on.
    const std::int64_t millis_low = std::max(first_millisecond_value, floor_divide(low, 1'000));
    const std::int64_t millis_high = floor_divide(high - 1, 1'000) + 1;
    if (millis_low < millis_high) {
      const std::int64_t from = std::max(millis_low, seconds_high);
      if (from < millis_high) {
        forms_.push_back(" AND created_at >= " + std::to_string(from) + " AND created_at < " +
                         std::to_string(millis_high));
      }
    }
  }
}

std::vector<std::string> TimeRange::selects(const std::string &columns) const {
  std::vector<std::string> out;
  out.reserve(forms_.size());
  for (const std::string &form : forms_) {
    out.push_back("SELECT " + columns + where_ + form);
  }
  return out;
}

void TimeRange::bind(Statement &statement, sqlite3_value *user,
                     const std::optional<std::string> &agent) const {
  bind_user(statement, *ledger_, user);
  if (by_agent_) {
    statement.bind(2, std::string_view(*agent));
  }
}

void bind_user(Statement &statement, const Ledger &ledger, sqlite3_value *user) {
  const double real = sqlite3_value_type(user) == SQLITE_FLOAT ? sqlite3_value_double(user) : 0.5;
  if (ledger.user_id == Affinity::text && real >= -0x1p53 && real <= 0x1p53 &&
      real == static_cast<double>(static_cast<std::int64_t>(real))) {
    // A client without integers means 42, not the text '42.0' that the column's affinity would make
    // of it.
    statement.bind(1, static_cast<std::int64_t>(real));
  } else {
    statement.bind(1, user);
  }
}

std::vector<Sum> collect_sums(const Ledger &ledger, sqlite3_value *user,
                              const std::optional<std::string> &agent,
                              const std::vector<Micros> &bounds, Dimension dimension) {
  const TimeRange range(ledger, bounds.front(), bounds.back(), agent.has_value());
  std::string columns =
      "created_at, prompt_tokens, completion_tokens, total_tokens, cost_usd, cost_rub,"
      " execution_time_ms, agent_id";
  if (dimension == Dimension::model) {
    columns += ", ai_provider, ai_model";
  }
  const int first_key = dimension == Dimension::agent ? 7 : 8;
  const int key_count = dimension == Dimension::none ? 0 : (dimension == Dimension::agent ? 1 : 2);

  std::vector<Sum> sums;
  std::unordered_map<std::string, std::size_t> index;
  std::string bytes;
  for (const std::string &select : range.selects(columns)) {
    Statement row(ledger.db, select);
    range.bind(row, user, agent);
    while (row.step()) {
      const std::optional<Micros> time = stored_time(row, 0);
      if (!time || *time < bounds.front() || *time >= bounds.back()) {
        continue;
      }
      // The column's collation may find more than the agent's bytes.
      if (agent && row.text(7) != *agent) {
        continue;
      }
      const auto above = std::upper_bound(bounds.begin(), bounds.end(), *time);
      const auto stretch = static_cast<std::size_t>(above - bounds.begin()) - 1;
      bytes.assign(reinterpret_cast<const char *>(&stretch), sizeof stretch);
      for (int i = 0; i < key_count; ++i) {
        append_key(bytes, row, first_key + i);
      }
      const auto [entry, is_new] = index.try_emplace(bytes, sums.size());
      if (is_new) {
        Sum sum{stretch, {}, {}};
        for (int i = 0; i < key_count; ++i) {
          sum.keys.push_back(key_at(row, first_key + i));
        }
        sums.push_back(std::move(sum));
      }
      sums[entry->second].measures.add(
          read_request([&row](int i) { return ColumnSource(row, i + 1); }));
    }
  }
  return sums;
}

}  // namespace token_usage
