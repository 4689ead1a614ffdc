// token_usage_verify (section 4 of the contract). Each bucket that has a rollup row is computed
// again from the ledger, by every dimension that it has, and compared measure by measure.
#include "verify.h"

#include <algorithm>

#include "request.h"
#include "rollup_build.h"

namespace token_usage {

namespace {

std::string text_of(const sqlite3_value *value) {
  const OwnedValue copy(sqlite3_value_dup(value));
  if (!copy) {
    throw std::bad_alloc();
  }
  return value_shown(copy.get());
}

std::string integer_text(int128 value) {
  return Decimal::from_units(value * 1'000'000'000'000).to_string();
}

std::string bucket_text(Hour size, Hour bucket) {
  return std::to_string(size) + " hours from " + format_timestamp(bucket * kMicrosPerHour);
}

std::string group_text(int dimension, const Keys &keys) {
  std::string out = dimension == 0 ? "total" : (dimension == 1 ? "agent" : "model");
  for (std::size_t i = 0; i < static_cast<std::size_t>(dimension); ++i) {
    out += (i == 0 ? ' ' : '/');
    out += i < keys.size() && keys[i] ? *keys[i] : "NULL";
  }
  return out;
}

class Verifier {
 public:
  explicit Verifier(const Ledger &ledger) : ledger_(ledger), usable_(rollups_usable(ledger)) {}

  std::vector<Difference> take() { return std::move(out_); }

  void check_user(sqlite3_value *user) {
    check_times(user);
    if (usable_) {
      check_odd_rows(user);
      check_rollups(user);
    }
  }

  // Users of which there are rollups but no rows.
  void check_absent_users() {
    if (!usable_) {
      return;
    }
    std::vector<OwnedValue> absent;
    {
      Statement row(ledger_.db, "SELECT DISTINCT user_id FROM " +
                                    beside(ledger_, "token_usage_rollup") +
                                    " AS r WHERE NOT EXISTS (SELECT 1 FROM " + ledger_.table +
                                    " AS t WHERE t.user_id = +r.user_id)");
      while (row.step()) {
        absent.push_back(row.copy(0));
      }
    }
    for (const OwnedValue &user : absent) {
      check_rollups(user.get());
    }
  }

 private:
  void add(sqlite3_value *user, const std::string &bucket, const std::string &dimension,
           const char *measure, std::optional<std::string> ledger,
           std::optional<std::string> rollup) {
    out_.push_back(
        {text_of(user), bucket, dimension, measure, std::move(ledger), std::move(rollup)});
  }

  void check_times(sqlite3_value *user) {
    Statement row(ledger_.db,
                  "SELECT created_at, id FROM " + ledger_.table + " WHERE user_id = ?1");
    bind_user(row, ledger_, user);
    while (row.step()) {
      if (!stored_time(ColumnSource(row, 0))) {
        const OwnedValue time = row.copy(0);
        const OwnedValue id = row.copy(1);
        add(user, "row " + text_of(id.get()), "total", "created_at", text_of(time.get()),
            std::nullopt);
      }
    }
  }

  // Reports would miss an odd row that is not listed.
  void check_odd_rows(sqlite3_value *user) {
    Statement row(ledger_.db, "SELECT id FROM " + ledger_.table + " WHERE user_id = ?1 AND " +
                                  odd_condition() + " AND id NOT IN (SELECT id FROM " +
                                  beside(ledger_, "token_usage_rollup_odd") +
                                  " WHERE user_id = ?2)");
    bind_user(row, ledger_, user);
    row.bind(2, user);
    while (row.step()) {
      const OwnedValue id = row.copy(0);
      add(user, "row " + text_of(id.get()), "total", "listed as odd", "1", "0");
    }
  }

  void check_rollups(sqlite3_value *user) {
    std::map<RolledKey, Measures> stored;
    {
      Statement row(ledger_.db, std::string("SELECT size, bucket, dimension, key1, key2, ") +
                                    kRolledColumns + " FROM " +
                                    beside(ledger_, "token_usage_rollup") + " WHERE user_id = ?1");
      row.bind(1, user);
      while (row.step()) {
        const int dimension = static_cast<int>(row.int64(2));
        Keys keys;
        for (int i = 0; i < dimension && i < 2; ++i) {
          keys.push_back(rolled_key(row, 3 + i));
        }
        stored.emplace(RolledKey{row.int64(0), row.int64(1), dimension, keys},
                       rolled_measures(row, 5));
      }
    }
    const Hour until = user_buckets(ledger_, user).until;
    const std::vector<Mark> marks = marks_of(ledger_, user);
    Hour last = 0;
    for (auto row = stored.begin(); row != stored.end();) {
      const auto &[size, bucket, dimension, keys] = row->first;
      const Hour end = bucket + size;
      // What is marked does not count, and may differ.
      if (std::binary_search(marks.begin(), marks.end(), Mark{end, size})) {
        row = stored.erase(row);
        continue;
      }
      if (end > until) {
        // No late write would find it.
        add(user, bucket_text(size, bucket), group_text(dimension, keys), "rolled_until",
            std::nullopt, integer_text(until));
      }
      last = std::max(last, end);
      ++row;
    }
    const Rolled fresh = roll(ledger_, user, 0, last, Until::end, 1);
    for (const auto &[key, sum] : stored) {
      const auto entry = fresh.rows.find(key);
      compare(user, key, entry == fresh.rows.end() ? nullptr : &entry->second, &sum);
    }
    for (const auto &[key, sum] : fresh.rows) {
      // What has no row at all is read from the ledger; a bucket with a total must be complete.
      const auto &[size, bucket, dimension, keys] = key;
      if (stored.count(key) == 0 && stored.count({size, bucket, 0, {}}) != 0) {
        compare(user, key, &sum, nullptr);
      }
    }
  }

  void compare(sqlite3_value *user, const RolledKey &key, const Measures *ledger,
               const Measures *rollup) {
    const auto &[size, bucket, dimension, keys] = key;
    const std::string bucket_name = bucket_text(size, bucket);
    const std::string group = group_text(dimension, keys);
    const auto one = [&](const char *measure, auto value) {
      const std::optional<std::string> of_ledger =
          ledger == nullptr ? std::nullopt : std::optional(value(*ledger));
      const std::optional<std::string> of_rollup =
          rollup == nullptr ? std::nullopt : std::optional(value(*rollup));
      if (of_ledger != of_rollup) {
        add(user, bucket_name, group, measure, of_ledger, of_rollup);
      }
    };
    one("requests_count", [](const Measures &sum) { return integer_text(sum.requests_count); });
    one("prompt_tokens", [](const Measures &sum) { return integer_text(sum.prompt_tokens); });
    one("completion_tokens",
        [](const Measures &sum) { return integer_text(sum.completion_tokens); });
    one("total_tokens", [](const Measures &sum) { return integer_text(sum.total_tokens); });
    one("cost_usd", [](const Measures &sum) { return sum.cost_usd.to_string(); });
    one("cost_rub", [](const Measures &sum) { return sum.cost_rub.to_string(); });
    one("unpriced_count", [](const Measures &sum) { return integer_text(sum.unpriced_count); });
    one("execution_time_ms", [](const Measures &sum) { return sum.execution_ms_sum.to_string(); });
    one("execution_time_ms_count",
        [](const Measures &sum) { return integer_text(sum.execution_ms_count); });
  }

  const Ledger &ledger_;
  bool usable_;
  std::vector<Difference> out_;
};

}  // namespace

std::vector<Difference> verify(const Ledger &ledger, sqlite3_value *user) {
  Verifier verifier(ledger);
  if (user != nullptr && sqlite3_value_type(user) != SQLITE_NULL) {
    const OwnedValue stored = stored_user(ledger, user);
    verifier.check_user(stored ? stored.get() : user);
    return verifier.take();
  }
  for_each_user(ledger, [&](sqlite3_value *each) {
    verifier.check_user(each);
    return true;
  });
  verifier.check_absent_users();
  return verifier.take();
}

}  // namespace token_usage
