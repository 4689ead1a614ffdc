// Reading rollups: whether they can be used, and which of them a report takes. A report covers its
// stretches with the coarsest rolled buckets that no bound cuts: months, then days, then (for sums
// without groups) hours. What is left over goes back to the caller, to be read from the ledger.
#include "rollup.h"

#include <algorithm>

#include "migration.h"

namespace token_usage {

namespace {

struct Taken {
  Hour bucket;
  std::size_t stretch;
};

Decimal decimal_of(std::int64_t whole, std::int64_t fraction) {
  return Decimal::from_units(static_cast<int128>(whole) * 1'000'000'000'000 + fraction);
}

bool same_text(const std::string &a, std::string_view b) { return a == b; }

// The buckets of one tier that lie in `pieces` before `until`, taken out of them.
class Cover {
 public:
  Cover(SumSet &sums, const Ledger &ledger, const sqlite3_value *stored, Hour until,
        std::vector<Hour> late)
      : sums_(sums), ledger_(ledger), stored_(stored), until_(until), late_(std::move(late)) {}

  void run(Tier tier, Dimension dimension, const std::optional<std::string> &agent,
           std::vector<Piece> &pieces) {
    const bool grouped = key_count(dimension) > 0 || agent;
    std::vector<Taken> taken;
    std::vector<Piece> left;
    std::optional<Statement> totals;
    for (std::size_t first = 0; first < pieces.size();) {
      std::size_t past = first + 1;
      while (past < pieces.size() && pieces[past].low == pieces[past - 1].high) {
        ++past;
      }
      const Hour low = std::max(kFirstRolledHour, hour_of(pieces[first].low));
      const Hour high = std::min(until_, hour_of(pieces[past - 1].high));
      std::size_t at = first;
      Micros from = pieces[at].low;  // what is left of pieces[at] starts here
      if (low < high) {
        if (!totals) {
          totals.emplace(ledger_.db, std::string("SELECT bucket, ") + kRolledColumns + " FROM " +
                                         beside(ledger_, "token_usage_rollup") +
                                         " WHERE user_id = ?1 AND tier = ?2 AND dimension = 0"
                                         " AND bucket >= ?3 AND bucket < ?4 ORDER BY bucket");
          totals->bind(1, stored_).bind(2, static_cast<std::int64_t>(tier));
        } else {
          totals->reset();
        }
        totals->bind(3, low).bind(4, high);
        while (totals->step()) {
          const Hour bucket = totals->int64(0);
          const Hour end = bucket_end(tier, bucket);
          const Micros start_time = bucket * kMicrosPerHour;
          const Micros end_time = end * kMicrosPerHour;
          while (at < past && pieces[at].high <= start_time) {
            keep(left, pieces[at], from, pieces[at].high);
            if (++at < past) {
              from = pieces[at].low;
            }
          }
          if (at == past) {
            break;
          }
          if (start_time < from || end_time > pieces[at].high || end > until_ ||
              has_late(late_, bucket, end) ||
              (grouped && tier == Tier::month && totals->int64(1) < kMonthGroups)) {
            continue;
          }
          keep(left, pieces[at], from, start_time);
          from = end_time;
          if (grouped) {
            taken.push_back({bucket, pieces[at].stretch});
          } else {
            sums_.at(pieces[at].stretch, {}).merge(rolled_measures(*totals, 1));
          }
        }
      }
      for (; at < past; ++at) {
        keep(left, pieces[at], std::max(from, pieces[at].low), pieces[at].high);
      }
      first = past;
    }
    add_groups(tier, dimension, agent, taken);
    pieces = std::move(left);
  }

 private:
  static void keep(std::vector<Piece> &left, const Piece &piece, Micros low, Micros high) {
    if (low < high) {
      left.push_back({low, high, piece.stretch});
    }
  }

  // The rows by agent or by model of the buckets that were taken.
  void add_groups(Tier tier, Dimension dimension, const std::optional<std::string> &agent,
                  const std::vector<Taken> &taken) {
    if (taken.empty()) {
      return;
    }
    Statement row(ledger_.db, std::string("SELECT bucket, key1, key2, ") + kRolledColumns +
                                  " FROM " + beside(ledger_, "token_usage_rollup") +
                                  " WHERE user_id = ?1 AND tier = ?2 AND dimension = ?3"
                                  " AND bucket >= ?4 AND bucket <= ?5" +
                                  (agent ? " AND key1 = ?6" : "") + " ORDER BY bucket");
    row.bind(1, stored_).bind(2, static_cast<std::int64_t>(tier));
    row.bind(3, static_cast<std::int64_t>(key_count(agent ? Dimension::agent : dimension)));
    row.bind(4, taken.front().bucket).bind(5, taken.back().bucket);
    if (agent) {
      row.bind(6, std::string_view(*agent));
    }
    std::size_t at = 0;
    Keys keys(static_cast<std::size_t>(key_count(dimension)));
    while (row.step()) {
      const Hour bucket = row.int64(0);
      while (at < taken.size() && taken[at].bucket < bucket) {
        ++at;
      }
      if (at == taken.size()) {
        break;
      }
      if (taken[at].bucket != bucket) {
        continue;
      }
      for (std::size_t i = 0; i < keys.size(); ++i) {
        keys[i] = rolled_key(row, 1 + static_cast<int>(i));
      }
      sums_.at(taken[at].stretch, keys).merge(rolled_measures(row, 3));
    }
  }

  SumSet &sums_;
  const Ledger &ledger_;
  const sqlite3_value *stored_;
  Hour until_;
  std::vector<Hour> late_;
};

// True where every unique key of the ledger is one that the triggers look at.
bool keys_are_known(const Ledger &ledger) {
  Statement key(ledger.db,
                "SELECT l.name, l.origin, (SELECT count(*) FROM pragma_index_info(l.name, ?1)),"
                " (SELECT lower(x.name) FROM pragma_index_xinfo(l.name, ?1) AS x WHERE x.seqno = 0"
                " AND x.coll = 'BINARY' COLLATE NOCASE)"
                " FROM pragma_index_list('token_usage', ?1) AS l WHERE l.\"unique\"");
  key.bind(1, std::string_view(ledger.schema));
  while (key.step()) {
    const std::string column(key.text(3));
    if (key.int64(2) != 1 || (column != "id" && column != "request_id")) {
      return false;
    }
  }
  return true;
}

}  // namespace

Hour hour_of(Micros time) { return time / kMicrosPerHour - (time % kMicrosPerHour < 0 ? 1 : 0); }

Hour bucket_of(Tier tier, Hour hour) {
  if (tier == Tier::hour) {
    return hour;
  }
  const std::int64_t day = hour / 24 - (hour % 24 < 0 ? 1 : 0);
  if (tier == Tier::day) {
    return day * 24;
  }
  const CivilDate date = civil_from_days(day);
  return days_from_civil(date.year, date.month, 1) * 24;
}

Hour bucket_end(Tier tier, Hour bucket) {
  switch (tier) {
    case Tier::hour:
      return bucket + 1;
    case Tier::day:
      return bucket + 24;
    default:
      // No month is longer than 31 days, and 32 days on is in the next one.
      return bucket_of(Tier::month, bucket + 32 * 24);
  }
}

std::string beside(const Ledger &ledger, const char *name) {
  return quote_identifier(ledger.schema) + ".\"" + name + '"';
}

bool can_roll(const Ledger &ledger) {
  // Where id is not the rowid itself, OR REPLACE may also replace by the hidden rowid.
  const char *collation = nullptr;
  int is_key = 0;
  if (sqlite3_table_column_metadata(ledger.db, ledger.schema.c_str(), "token_usage", "user_id",
                                    nullptr, &collation, nullptr, nullptr, nullptr) != SQLITE_OK ||
      sqlite3_stricmp(collation, "BINARY") != 0) {
    return false;
  }
  if (sqlite3_table_column_metadata(ledger.db, ledger.schema.c_str(), "token_usage", "id",
                                    nullptr, nullptr, nullptr, &is_key, nullptr) != SQLITE_OK ||
      is_key == 0) {
    return false;
  }
  if (ledger.has_rowid && !id_is_rowid(ledger)) {
    return false;
  }
  return keys_are_known(ledger);
}

bool rollups_usable(const Ledger &ledger) {
  // Whatever stands beside the ledger under our names must be word for word what migrate makes.
  const std::vector<MigrationObject> &wanted = rollup_objects();
  Statement row(ledger.db, "SELECT name, sql FROM " + quote_identifier(ledger.schema) +
                               ".sqlite_master WHERE name GLOB 'token_usage_rollup*'"
                               " AND sql IS NOT NULL");
  std::size_t found = 0;
  while (row.step()) {
    const std::string name(row.text(0));
    const auto object =
        std::find_if(wanted.begin(), wanted.end(),
                     [&name](const MigrationObject &each) { return same_text(each.name, name); });
    if (object == wanted.end()) {
      continue;
    }
    if (row.text(1) != object->stored_sql) {
      return false;
    }
    ++found;
  }
  return found == wanted.size() && can_roll(ledger);
}

OwnedValue stored_user(const Ledger &ledger, sqlite3_value *user) {
  Statement row(ledger.db, "SELECT user_id FROM " + ledger.table + " WHERE user_id = ?1 LIMIT 1");
  bind_user(row, ledger, user);
  return row.step() ? row.copy(0) : nullptr;
}

std::optional<Hour> rolled_until(const Ledger &ledger, const sqlite3_value *stored) {
  Statement row(ledger.db, "SELECT rolled_until FROM " + beside(ledger, "token_usage_rollup_user") +
                               " WHERE user_id = ?1");
  row.bind(1, stored);
  return row.step() ? std::optional(row.int64(0)) : std::nullopt;
}

std::vector<Hour> late_hours(const Ledger &ledger, const sqlite3_value *stored) {
  std::vector<Hour> out;
  Statement row(ledger.db, "SELECT hour FROM " + beside(ledger, "token_usage_rollup_late") +
                               " WHERE user_id = ?1 ORDER BY hour");
  row.bind(1, stored);
  while (row.step()) {
    out.push_back(row.int64(0));
  }
  return out;
}

bool has_late(const std::vector<Hour> &late, Hour low, Hour high) {
  const auto first = std::lower_bound(late.begin(), late.end(), low);
  return first != late.end() && *first < high;
}

Measures rolled_measures(const Statement &row, int column) {
  Measures out;
  out.requests_count = row.int64(column);
  out.prompt_tokens = row.int64(column + 1);
  out.completion_tokens = row.int64(column + 2);
  out.total_tokens = row.int64(column + 3);
  out.cost_usd = decimal_of(row.int64(column + 4), row.int64(column + 5));
  out.cost_rub = decimal_of(row.int64(column + 6), row.int64(column + 7));
  out.unpriced_count = row.int64(column + 8);
  out.execution_ms_sum = decimal_of(row.int64(column + 9), row.int64(column + 10));
  out.execution_ms_count = row.int64(column + 11);
  return out;
}

std::optional<std::string> rolled_key(const Statement &row, int column) {
  if (row.type(column) != SQLITE_TEXT) {
    return std::nullopt;
  }
  return std::string(row.text(column));
}

void take_rolled_buckets(SumSet &sums, const Ledger &ledger, sqlite3_value *user,
                         const std::optional<std::string> &agent, Dimension dimension,
                         std::vector<Piece> &pieces) {
  if (pieces.empty() || (agent && dimension == Dimension::model) ||
      !has_table(ledger.db, ledger.schema, "token_usage_rollup_user")) {
    return;
  }
  const OwnedValue stored = stored_user(ledger, user);
  if (!stored) {
    return;
  }
  const std::optional<Hour> until = rolled_until(ledger, stored.get());
  if (!until || !rollups_usable(ledger)) {
    return;
  }
  std::vector<Hour> late = late_hours(ledger, stored.get());
  if (!late.empty() && late.front() < 0) {
    return;
  }
  Cover cover(sums, ledger, stored.get(), *until, std::move(late));
  cover.run(Tier::month, dimension, agent, pieces);
  cover.run(Tier::day, dimension, agent, pieces);
  if (key_count(dimension) == 0 && !agent) {
    cover.run(Tier::hour, dimension, agent, pieces);
  }
}

}  // namespace token_usage
