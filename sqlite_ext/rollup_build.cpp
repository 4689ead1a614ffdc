// Making rollups: token_usage_rebuild() computes all buckets of a user, token_usage_compact() those
// that are waiting: what late writes have marked, and the time since the last bucket.
// Both read the ledger and write whole buckets, so doing it twice changes nothing.
#include "rollup_build.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <set>

#include "arguments.h"
#include "migration.h"

namespace token_usage {

namespace {

// What may be rolled now: the hours that have ended.
Hour current_hour() {
  using std::chrono::duration_cast;
  using std::chrono::microseconds;
  return hour_of(
      duration_cast<microseconds>(std::chrono::system_clock::now().time_since_epoch()).count());
}

bool fits(int128 value) {
  return value <= std::numeric_limits<std::int64_t>::max() &&
         value >= std::numeric_limits<std::int64_t>::min();
}

bool fits(Decimal value) { return fits(value.units() / 1'000'000'000'000); }

// True where the sums fit the columns of the table.
bool can_hold(const Measures &sum) {
  return fits(sum.prompt_tokens) && fits(sum.completion_tokens) && fits(sum.total_tokens) &&
         fits(sum.cost_usd) && fits(sum.cost_rub) && fits(sum.execution_ms_sum);
}

std::int64_t whole_part(Decimal value) {
  return static_cast<std::int64_t>(value.units() / 1'000'000'000'000);
}

std::int64_t fraction_part(Decimal value) {
  return static_cast<std::int64_t>(value.units() % 1'000'000'000'000);
}

class Builder {
 public:
  explicit Builder(const Ledger &ledger)
      : ledger_(ledger),
        insert_(ledger.db, "INSERT OR REPLACE INTO " + beside(ledger, "token_usage_rollup") +
                               " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13,"
                               " ?14, ?15, ?16, ?17, ?18)"),
        clear_(ledger.db, "DELETE FROM " + beside(ledger, "token_usage_rollup") +
                              " WHERE user_id = ?1 AND tier IN (0, 1, 2)"
                              " AND dimension IN (0, 1, 2) AND bucket >= ?2 AND bucket < ?3"),
        clear_late_(ledger.db, "DELETE FROM " + beside(ledger, "token_usage_rollup_late") +
                                   " WHERE user_id = ?1 AND hour >= ?2 AND hour < ?3"),
        mark_(ledger.db, "INSERT INTO " + beside(ledger, "token_usage_rollup_user") +
                             " VALUES (?1, ?2) ON CONFLICT (user_id) DO UPDATE"
                             " SET rolled_until = max(rolled_until, excluded.rolled_until)") {}

  // Replaces the buckets of [low, high).
  void write(const sqlite3_value *user, const Rolled &rolled, Hour low, Hour high) {
    for (Statement *const statement : {&clear_, &clear_late_}) {
      statement->reset();
      statement->bind(1, user).bind(2, low).bind(3, high).step();
    }
    for (const auto &[key, sum] : rolled.rows) {
      const auto &[tier, dimension, bucket, keys] = key;
      insert_.reset();
      insert_.bind(1, user);
      insert_.bind(2, static_cast<std::int64_t>(tier)).bind(3, std::int64_t{dimension});
      insert_.bind(4, bucket);
      for (std::size_t i = 0; i < 2; ++i) {
        const int parameter = 5 + static_cast<int>(i);
        if (i < keys.size() && keys[i]) {
          insert_.bind(parameter, std::string_view(*keys[i]));
        } else {
          insert_.bind_blob(parameter, {});
        }
      }
      insert_.bind(7, sum.requests_count);
      insert_.bind(8, static_cast<std::int64_t>(sum.prompt_tokens));
      insert_.bind(9, static_cast<std::int64_t>(sum.completion_tokens));
      insert_.bind(10, static_cast<std::int64_t>(sum.total_tokens));
      insert_.bind(11, whole_part(sum.cost_usd)).bind(12, fraction_part(sum.cost_usd));
      insert_.bind(13, whole_part(sum.cost_rub)).bind(14, fraction_part(sum.cost_rub));
      insert_.bind(15, sum.unpriced_count);
      insert_.bind(16, whole_part(sum.execution_ms_sum));
      insert_.bind(17, fraction_part(sum.execution_ms_sum));
      insert_.bind(18, sum.execution_ms_count);
      insert_.step();
      ++written_;
    }
  }

  void mark(const sqlite3_value *user, Hour until) {
    mark_.reset();
    mark_.bind(1, user).bind(2, until).step();
  }

  [[nodiscard]] std::int64_t written() const { return written_; }

 private:
  const Ledger &ledger_;
  Statement insert_;
  Statement clear_;
  Statement clear_late_;
  Statement mark_;
  std::int64_t written_ = 0;
};

void forget(const Ledger &ledger, const sqlite3_value *user) {
  for (const char *const table :
       {"token_usage_rollup", "token_usage_rollup_late", "token_usage_rollup_user"}) {
    Statement row(ledger.db, "DELETE FROM " + beside(ledger, table) + " WHERE user_id = ?1");
    row.bind(1, user).step();
  }
}

void forget_all(const Ledger &ledger) {
  for (const char *const table :
       {"token_usage_rollup", "token_usage_rollup_late", "token_usage_rollup_user"}) {
    execute(ledger.db, "DELETE FROM " + beside(ledger, table));
  }
}

// A user with fewer rows than a month needs has no bucket.
bool worth_rolling(const Ledger &ledger, sqlite3_value *user) {
  Statement row(ledger.db, "SELECT count(*) FROM (SELECT 1 FROM " + ledger.table +
                               " WHERE user_id = ?1 LIMIT " + std::to_string(kHourRows) + ")");
  bind_user(row, ledger, user);
  row.step();
  return row.int64(0) >= kHourRows;
}

// Returns how many ledger rows it read.
std::int64_t rebuild_user(const Ledger &ledger, Builder &builder, sqlite3_value *user) {
  forget(ledger, user);
  if (!worth_rolling(ledger, user)) {
    return 0;
  }
  const Rolled rolled = roll(ledger, user, kFirstRolledHour, current_hour(), Until::latest_row);
  if (!rolled.rows.empty()) {
    builder.write(user, rolled, kFirstRolledHour, rolled.until);
    builder.mark(user, rolled.until);
  }
  return rolled.ledger_rows;
}

struct HourRange {
  Hour low;
  Hour high;
};

// What late writes touched: the month of each where that is over, else the day.
std::vector<HourRange> waiting_ranges(const std::vector<Hour> &late, Hour until) {
  std::vector<HourRange> out;
  for (const Hour hour : late) {
    if (hour < kFirstRolledHour || hour >= until || (!out.empty() && hour < out.back().high)) {
      continue;
    }
    const Hour month = bucket_of(Tier::month, hour);
    const Hour month_end = bucket_end(Tier::month, month);
    if (month_end <= until) {
      out.push_back({month, month_end});
    } else {
      const Hour day = bucket_of(Tier::day, hour);
      out.push_back({day, std::min(day + 24, until)});
    }
  }
  return out;
}

// Returns how many ledger rows were read to do it.
std::int64_t compact_user(const Ledger &ledger, Builder &builder, sqlite3_value *user) {
  std::int64_t folded = 0;
  const std::optional<Hour> known = rolled_until(ledger, user);
  if (!known && !worth_rolling(ledger, user)) {
    return folded;
  }
  const Hour until = known.value_or(kFirstRolledHour);
  if (known) {
    const std::vector<Hour> late = late_hours(ledger, user);
    if (!late.empty() && late.front() < 0) {
      return rebuild_user(ledger, builder, user);
    }
    for (const HourRange &range : waiting_ranges(late, until)) {
      Rolled rolled = roll(ledger, user, range.low, range.high, Until::end);
      builder.write(user, rolled, range.low, range.high);
      folded += rolled.ledger_rows;
    }
    // Marks outside every bucket.
    if (!late.empty()) {
      builder.write(user, Rolled(), 0, kFirstRolledHour);
    }
  } else {
    forget(ledger, user);
  }
  // The time since then: first what has come, and if a day or a month is over now, the whole of it.
  Rolled fresh = roll(ledger, user, until, current_hour(), Until::latest_row);
  if (fresh.until <= until) {
    return folded;
  }
  Hour low = until;
  if (known) {
    for (const Tier tier : {Tier::day, Tier::month}) {
      const Hour bucket = bucket_of(tier, until);
      if (bucket_end(tier, bucket) <= fresh.until) {
        low = std::min(low, std::max(kFirstRolledHour, bucket));
      }
    }
  }
  const Hour high = fresh.until;
  if (low < until) {
    fresh = roll(ledger, user, low, high, Until::end);
  }
  if (known || !fresh.rows.empty()) {
    builder.write(user, fresh, low, high);
    builder.mark(user, high);
    folded += fresh.ledger_rows;
  }
  return folded;
}

template <typename Each>
void for_users(const Ledger &ledger, sqlite3_value *one, Each each) {
  if (one != nullptr && sqlite3_value_type(one) != SQLITE_NULL) {
    const OwnedValue user = stored_user(ledger, one);
    if (user) {
      each(user.get());
    } else {
      forget(ledger, one);
    }
    return;
  }
  for (OwnedValue user = next_user(ledger, nullptr); user; user = next_user(ledger, user.get())) {
    if (!each(user.get())) {
      return;
    }
  }
}

void rebuild(sqlite3_context *context, int count, sqlite3_value **values) {
  guard(context, [&] {
    sqlite3 *const db = sqlite3_context_db_handle(context);
    sqlite3_value *const user = count > 0 ? values[0] : nullptr;
    const std::string schema = schema_argument(count > 1 ? values[1] : nullptr);
    std::int64_t written = 0;
    const bool everyone = user == nullptr || sqlite3_value_type(user) == SQLITE_NULL;
    check_schema(db, schema);
    atomically(db, [&] {
      const Ledger ledger = find_ledger(db, schema);
      ensure_rollups(ledger);
      if (everyone) {
        forget_all(ledger);
      }
      if (!can_roll(ledger)) {
        return;
      }
      Builder builder(ledger);
      for_users(ledger, user, [&](sqlite3_value *each) {
        rebuild_user(ledger, builder, each);
        return true;
      });
      written = builder.written();
    });
    sqlite3_result_int64(context, written);
  });
}

void compact(sqlite3_context *context, int count, sqlite3_value **values) {
  guard(context, [&] {
    sqlite3 *const db = sqlite3_context_db_handle(context);
    constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
    const bool all = count == 0 || sqlite3_value_type(values[0]) == SQLITE_NULL;
    const std::int64_t max_rows =
        all ? most : integer_argument("max_rows", values[0], most, 1, most);
    const std::string schema = schema_argument(count > 1 ? values[1] : nullptr);
    std::int64_t folded = 0;
    check_schema(db, schema);
    atomically(db, [&] {
      const Ledger ledger = find_ledger(db, schema);
      ensure_rollups(ledger);
      if (!can_roll(ledger)) {
        return;
      }
      Builder builder(ledger);
      for_users(ledger, nullptr, [&](sqlite3_value *each) {
        folded += compact_user(ledger, builder, each);
        return folded < max_rows;
      });
    });
    sqlite3_result_int64(context, folded);
  });
}

}  // namespace

Rolled roll(const Ledger &ledger, sqlite3_value *user, Hour low, Hour high, Until until) {
  Rolled out;
  if (low >= high) {
    return out;
  }
  std::map<RolledKey, Measures> hours;
  SumSet agents;
  SumSet models;
  Keys keys;
  std::set<Hour> broken;  // days with a row that cannot be summed
  Hour last = until == Until::end ? high : low;
  const std::vector<Piece> pieces = {{low * kMicrosPerHour, high * kMicrosPerHour, 0}};
  visit_ledger_rows(
      ledger, user, std::nullopt, pieces, Dimension::model,
      [&](const Statement &row, Micros time, const Piece &) {
        const Hour hour = hour_of(time);
        const Hour day = bucket_of(Tier::day, hour);
        last = std::max(last, hour);
        ++out.ledger_rows;
        try {
          const Request request = ledger_request(row);
          hours[{Tier::hour, 0, hour, {}}].add(request);
          ledger_keys(row, Dimension::agent, keys);
          agents.at(static_cast<std::size_t>(day), keys).add(request);
          ledger_keys(row, Dimension::model, keys);
          models.at(static_cast<std::size_t>(day), keys).add(request);
        } catch (const Error &) {
          // Its report is an error, and must stay one: nothing of that day is rolled.
          broken.insert(day);
        }
      });
  out.until = last;

  // Days from hours, months from days. Sums too large to be added up break the bucket.
  std::map<RolledKey, Measures> sums;
  const auto merge = [&](const RolledKey &key, const Measures &sum) {
    try {
      sums[key].merge(sum);
    } catch (const Error &) {
      broken.insert(bucket_of(Tier::day, std::get<2>(key)));
    }
  };
  std::set<Hour> broken_months;
  for (const auto &[key, sum] : hours) {
    const Hour hour = std::get<2>(key);
    merge({Tier::day, 0, bucket_of(Tier::day, hour), {}}, sum);
    merge({Tier::month, 0, bucket_of(Tier::month, hour), {}}, sum);
    sums.emplace(key, sum);
  }
  for (const Dimension dimension : {Dimension::agent, Dimension::model}) {
    const int number = dimension == Dimension::agent ? 1 : 2;
    for (const Sum &sum : (dimension == Dimension::agent ? agents : models).take()) {
      const auto day = static_cast<Hour>(sum.stretch);
      merge({Tier::day, number, day, sum.keys}, sum.measures);
      merge({Tier::month, number, bucket_of(Tier::month, day), sum.keys}, sum.measures);
    }
  }
  for (const Hour day : broken) {
    broken_months.insert(bucket_of(Tier::month, day));
  }
  // A bucket whose rows do not all fit the table is left out whole.
  std::set<std::pair<Tier, Hour>> left_out;
  for (const auto &[key, sum] : sums) {
    const auto &[tier, dimension, bucket, group] = key;
    if (!can_hold(sum) || broken_months.count(bucket_of(Tier::month, bucket)) != 0) {
      left_out.insert({tier, bucket});
    }
  }
  for (const auto &[key, sum] : sums) {
    const auto &[tier, dimension, bucket, group] = key;
    if (bucket < low || bucket_end(tier, bucket) > last || left_out.count({tier, bucket}) != 0) {
      continue;
    }
    const std::int64_t rows = sums.at({tier, 0, bucket, {}}).requests_count;
    const std::int64_t wanted =
        tier == Tier::hour ? kHourRows
                           : (tier == Tier::day ? kDayRows
                                                : (dimension == 0 ? kMonthRows : kMonthGroups));
    if (rows >= wanted) {
      out.rows.emplace(key, sum);
    }
  }
  return out;
}

OwnedValue next_user(const Ledger &ledger, const sqlite3_value *last) {
  Statement row(ledger.db, "SELECT user_id FROM " + ledger.table +
                               (last == nullptr ? " WHERE user_id IS NOT NULL"
                                                : " WHERE user_id > ?1") +
                               " ORDER BY user_id LIMIT 1");
  if (last != nullptr) {
    row.bind(1, last);
  }
  return row.step() ? row.copy(0) : nullptr;
}

bool ensure_rollups(const Ledger &ledger) {
  const std::string schema = quote_identifier(ledger.schema);
  const bool wanted = can_roll(ledger);
  bool made = false;
  for (const MigrationObject &object : rollup_objects()) {
    std::string kind;
    std::string sql;
    {
      Statement row(ledger.db, "SELECT type, sql FROM " + schema +
                                   ".sqlite_master WHERE name = ?1 COLLATE NOCASE");
      row.bind(1, std::string_view(object.name));
      if (row.step()) {
        kind = row.text(0);
        sql = row.text(1);
      }
    }
    const bool same = sql == object.stored_sql;
    if (!kind.empty() && (!same || (!wanted && object.kind == "TRIGGER"))) {
      if (kind == "table" || object.kind == "TABLE") {
        throw Error(ErrorKind::adoption, "token_usage: cannot make table " + object.name +
                                             ": another one of that name is there");
      }
      execute(ledger.db, "DROP " + kind + " " + schema + ".\"" + object.name + '"');
      kind.clear();
    }
    if (kind.empty() && (wanted || object.kind != "TRIGGER")) {
      std::string statement = object.statement;
      statement.insert(object.name_at, schema + ".");
      execute(ledger.db, statement);
      made = true;
    }
  }
  if (made || !wanted) {
    forget_all(ledger);
  }
  return made;
}

int register_rollup(sqlite3 *db) {
  int code = SQLITE_OK;
  for (int arguments = 0; code == SQLITE_OK && arguments <= 2; ++arguments) {
    code = sqlite3_create_function_v2(db, "token_usage_rebuild", arguments,
                                      SQLITE_UTF8 | SQLITE_DIRECTONLY, nullptr, rebuild, nullptr,
                                      nullptr, nullptr);
    if (code == SQLITE_OK) {
      code = sqlite3_create_function_v2(db, "token_usage_compact", arguments,
                                        SQLITE_UTF8 | SQLITE_DIRECTONLY, nullptr, compact, nullptr,
                                        nullptr, nullptr);
    }
  }
  return code;
}

}  // namespace token_usage
