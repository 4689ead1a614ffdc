// Making rollups: token_usage_rebuild() computes all buckets of a user, token_usage_compact() those
// that are waiting: what is marked, and the time since the last bucket. Both read the ledger and
// write whole buckets, so doing it twice changes nothing.
#include "rollup_build.h"

#include <algorithm>
#include <chrono>
#include <limits>

#include "arguments.h"

namespace token_usage {

namespace {

// What may be rolled now: the buckets that have ended.
Hour current_hour() {
  using std::chrono::duration_cast;
  using std::chrono::microseconds;
  return bucket_of(
      kSizes[0],
      hour_of(duration_cast<microseconds>(std::chrono::system_clock::now().time_since_epoch())
                  .count()));
}

std::int64_t millionths(Decimal value) {
  return static_cast<std::int64_t>(value.units() / 1'000'000);
}

std::int64_t rest(Decimal value) {
  return static_cast<std::int64_t>(value.units() % 1'000'000);
}

class Builder {
 public:
  explicit Builder(const Ledger &ledger)
      : ledger_(ledger),
        insert_(ledger.db, "INSERT INTO " + beside(ledger, "token_usage_rollup") +
                               " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13,"
                               " ?14, ?15, ?16, ?17)"),
        clear_(ledger.db, "DELETE FROM " + beside(ledger, "token_usage_rollup") +
                              " WHERE user_id = ?1 AND size = ?2 AND dimension IN (0, 1, 2)"
                              " AND bucket >= ?3 AND bucket <= ?4 - ?2"),
        clear_marks_(ledger.db, "DELETE FROM " + beside(ledger, "token_usage_rollup_late") +
                                    " WHERE user_id = ?1 AND until - size >= ?2 AND until <= ?3"),
        move_(ledger.db, "INSERT INTO " + beside(ledger, "token_usage_rollup_user") +
                             " (user_id, rolled_until) VALUES (?1, ?2) ON CONFLICT (user_id)"
                             " DO UPDATE SET rolled_until = excluded.rolled_until") {}

  // Replaces the buckets that lie in [low, high).
  void write(const sqlite3_value *user, const Rolled &rolled, Hour low, Hour high) {
    for (const Hour size : kSizes) {
      clear_.reset();
      clear_.bind(1, user).bind(2, size).bind(3, low).bind(4, high).step();
    }
    clear_marks_.reset();
    clear_marks_.bind(1, user).bind(2, low).bind(3, high).step();
    for (const auto &[key, sum] : rolled.rows) {
      const auto &[size, bucket, dimension, keys] = key;
      insert_.reset();
      insert_.bind(1, user).bind(2, size).bind(3, std::int64_t{dimension}).bind(4, bucket);
      for (std::size_t i = 0; i < 2; ++i) {
        const int parameter = 5 + static_cast<int>(i);
        if (i >= keys.size()) {
          insert_.bind(parameter, std::string_view());
        } else if (keys[i]) {
          insert_.bind(parameter, std::string_view(*keys[i]));
        } else {
          insert_.bind_blob(parameter, {});
        }
      }
      insert_.bind(7, sum.requests_count);
      insert_.bind(8, token_sum(sum.prompt_tokens, "prompt_tokens"));
      insert_.bind(9, token_sum(sum.completion_tokens, "completion_tokens"));
      insert_.bind(10, token_sum(sum.total_tokens, "total_tokens"));
      insert_.bind(11, millionths(sum.cost_usd)).bind(12, rest(sum.cost_usd));
      insert_.bind(13, millionths(sum.cost_rub)).bind(14, rest(sum.cost_rub));
      insert_.bind(15, sum.unpriced_count);
      insert_.bind(16, static_cast<std::int64_t>(sum.execution_ms_sum.units() / 1'000'000'000'000));
      insert_.bind(17, sum.execution_ms_count);
      insert_.step();
      ++written_;
    }
  }

  void move(const sqlite3_value *user, Hour until) {
    move_.reset();
    move_.bind(1, user).bind(2, until).step();
  }

  [[nodiscard]] std::int64_t written() const { return written_; }

 private:
  const Ledger &ledger_;
  Statement insert_;
  Statement clear_;
  Statement clear_marks_;
  Statement move_;
  std::int64_t written_ = 0;
};

constexpr std::array<const char *, 4> kTables = {"token_usage_rollup", "token_usage_rollup_late",
                                                 "token_usage_rollup_user",
                                                 "token_usage_rollup_odd"};

void forget(const Ledger &ledger, const sqlite3_value *user) {
  for (const char *const table : kTables) {
    Statement row(ledger.db, "DELETE FROM " + beside(ledger, table) + " WHERE user_id = ?1");
    row.bind(1, user).step();
  }
}

// Lists the odd rows of one user, or of all where none is given.
void list_odd(const Ledger &ledger, const sqlite3_value *user) {
  Statement row(ledger.db, "INSERT INTO " + beside(ledger, "token_usage_rollup_odd") +
                               " SELECT id, user_id FROM " + ledger.table + " WHERE " +
                               (user == nullptr ? "" : "user_id = ?1 AND ") + odd_condition() +
                               " ON CONFLICT (id) DO UPDATE SET user_id = excluded.user_id");
  if (user != nullptr) {
    row.bind(1, user);
  }
  row.step();
}

// A user with fewer rows than a bucket needs has none.
bool worth_rolling(const Ledger &ledger, sqlite3_value *user) {
  Statement row = ledger.statement(number_of(Text::worth_rolling), [&ledger] {
    return "SELECT count(*) FROM (SELECT 1 FROM " + ledger.table + " WHERE user_id = ?1 LIMIT " +
           std::to_string(kBucketRows) + ")";
  });
  bind_user(row, ledger, user);
  row.step();
  return row.int64(0) >= kBucketRows;
}

// Rolls the time from `known` on, and of what is over then the larger buckets whole. Returns how
// many ledger rows it read.
std::int64_t advance(const Ledger &ledger, Builder &builder, sqlite3_value *user, Hour known) {
  Rolled fresh = roll(ledger, user, known, current_hour(), Until::latest_row, kBucketRows);
  const Hour until = fresh.until;
  if (until <= known) {
    return 0;
  }
  Hour low = known;
  for (const Hour size : kSizes) {
    if (bucket_of(size, known) + size <= until) {
      low = std::min(low, bucket_of(size, known));
    }
  }
  if (low < known) {
    fresh = roll(ledger, user, low, until, Until::end, kBucketRows);
  }
  builder.write(user, fresh, low, until);
  builder.move(user, until);
  return fresh.ledger_rows;
}

std::int64_t rebuild_user(const Ledger &ledger, Builder &builder, sqlite3_value *user) {
  return worth_rolling(ledger, user) ? advance(ledger, builder, user, 0) : 0;
}

// Returns how many ledger rows were read to do it.
std::int64_t compact_user(const Ledger &ledger, Builder &builder, sqlite3_value *user) {
  if (!worth_rolling(ledger, user)) {
    return 0;
  }
  const Hour known = user_buckets(ledger, user).until;
  std::int64_t folded = 0;
  // Marked buckets next to each other, and those inside of others, are read in one go.
  const std::vector<Mark> marks = marks_of(ledger, user);
  std::vector<std::pair<Hour, Hour>> ranges;
  for (const Mark &mark : marks) {
    ranges.emplace_back(mark.until - mark.size, mark.until);
  }
  std::sort(ranges.begin(), ranges.end());
  for (std::size_t i = 0; i < ranges.size();) {
    auto [low, high] = ranges[i];
    for (++i; i < ranges.size() && ranges[i].first < high; ++i) {
      high = std::max(high, ranges[i].second);
    }
    high = std::min(high, known);
    if (low >= 0 && low < high) {
      const Rolled fresh = roll(ledger, user, low, high, Until::end, kBucketRows);
      builder.write(user, fresh, low, high);
      folded += fresh.ledger_rows;
    }
  }
  if (!marks.empty()) {
    // Marks of what cannot be rolled.
    Statement row(ledger.db, "DELETE FROM " + beside(ledger, "token_usage_rollup_late") +
                                 " WHERE user_id = ?1");
    row.bind(1, user).step();
  }
  return folded + advance(ledger, builder, user, known);
}

// The user behind `last`, or the first.
OwnedValue next_user(const Ledger &ledger, const sqlite3_value *last) {
  Statement row = ledger.statement(number_of(Text::next_user, last == nullptr ? 0 : 1), [&] {
    return "SELECT user_id FROM " + ledger.table +
           (last == nullptr ? " WHERE user_id IS NOT NULL" : " WHERE user_id > ?1") +
           " ORDER BY user_id LIMIT 1";
  });
  if (last != nullptr) {
    row.bind(1, last);
  }
  return row.step() ? row.copy(0) : nullptr;
}

// Calls `body` with a builder, in one transaction; not at all where the ledger cannot be rolled.
template <typename Body>
void build(sqlite3 *db, sqlite3_value *schema_value, Body body) {
  const std::string schema = schema_argument(schema_value);
  check_schema(db, schema);
  atomically(db, [&] {
    const Ledger ledger = find_ledger(db, schema);
    ensure_rollups(ledger);
    if (can_roll(ledger)) {
      Builder builder(ledger);
      body(ledger, builder);
    }
  });
}

void rebuild(sqlite3_context *context, int count, sqlite3_value **values) {
  guard(context, [&] {
    sqlite3 *const db = sqlite3_context_db_handle(context);
    sqlite3_value *const one = count > 0 ? values[0] : nullptr;
    std::int64_t written = 0;
    build(db, count > 1 ? values[1] : nullptr, [&](const Ledger &ledger, Builder &builder) {
      if (one != nullptr && sqlite3_value_type(one) != SQLITE_NULL) {
        const OwnedValue stored = stored_user(ledger, one);
        if (!stored) {
          forget(ledger, one);
          return;
        }
        sqlite3_value *const user = stored.get();
        forget(ledger, user);
        list_odd(ledger, user);
        rebuild_user(ledger, builder, user);
      } else {
        for (const char *const table : kTables) {
          execute(db, "DELETE FROM " + beside(ledger, table));
        }
        list_odd(ledger, nullptr);
        for_each_user(ledger, [&](sqlite3_value *user) {
          rebuild_user(ledger, builder, user);
          return true;
        });
      }
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
    std::int64_t folded = 0;
    build(db, count > 1 ? values[1] : nullptr, [&](const Ledger &ledger, Builder &builder) {
      for_each_user(ledger, [&](sqlite3_value *user) {
        folded += compact_user(ledger, builder, user);
        return folded < max_rows;
      });
    });
    sqlite3_result_int64(context, folded);
  });
}

}  // namespace

Rolled roll(const Ledger &ledger, sqlite3_value *user, Hour low, Hour high, Until until,
            std::int64_t least) {
  Rolled out;
  low = std::max(low, kFirstRolled);
  high = std::min(high, kPastRolled);
  out.until = until == Until::end ? high : low;
  if (low >= high) {
    return out;
  }
  // The smallest buckets from the ledger, the others from the ones before.
  std::array<SumSet, 3> first;  // by dimension
  Keys keys;
  const std::vector<Piece> pieces = {{low * kMicrosPerHour, high * kMicrosPerHour, 0}};
  visit_ledger_rows(ledger, user, std::nullopt, pieces, Dimension::model, Rows::plain,
                    [&](RowValues row, Micros time, const Piece &) {
                      const Hour bucket = bucket_of(kSizes[0], hour_of(time));
                      out.until = std::max(out.until, bucket);
                      ++out.ledger_rows;
                      const Request request = ledger_request(row);
                      const auto stretch = static_cast<std::size_t>(bucket);
                      first[0].at(stretch, {}).add(request);
                      ledger_keys(row, Dimension::agent, keys);
                      first[1].at(stretch, keys).add(request);
                      ledger_keys(row, Dimension::model, keys);
                      first[2].at(stretch, keys).add(request);
                    });
  std::map<RolledKey, Measures> sums;
  for (int dimension = 0; dimension < 3; ++dimension) {
    for (Sum &sum : first[static_cast<std::size_t>(dimension)].take()) {
      sums.emplace(
          RolledKey{kSizes[0], static_cast<Hour>(sum.stretch), dimension, std::move(sum.keys)},
          sum.measures);
    }
  }
  for (std::size_t i = 0; i + 1 < kSizes.size(); ++i) {
    std::map<RolledKey, Measures> larger;
    for (auto entry = sums.lower_bound({kSizes[i], 0, 0, {}}); entry != sums.end(); ++entry) {
      const auto &[size, bucket, dimension, group] = entry->first;
      larger[{kSizes[i + 1], bucket_of(kSizes[i + 1], bucket), dimension, group}].merge(
          entry->second);
    }
    sums.merge(larger);
  }
  for (auto &[key, sum] : sums) {
    const auto &[size, bucket, dimension, group] = key;
    if (bucket >= low && bucket + size <= out.until &&
        sums.at({size, bucket, 0, {}}).requests_count >= least) {
      out.rows.emplace(key, sum);
    }
  }
  return out;
}

void for_each_user(const Ledger &ledger, const std::function<bool(sqlite3_value *)> &body) {
  OwnedValue user = next_user(ledger, nullptr);
  while (user && body(user.get())) {
    user = next_user(ledger, user.get());
  }
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
