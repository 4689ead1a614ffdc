// Reading rollups: whether they can be used, and which of them a report takes. A report covers its
// stretches with the largest buckets that no bound cuts and no mark spoils. What is left over goes
// back to the caller, to be read from the ledger.
#include "rollup.h"

#include <algorithm>

#include "migration.h"
#include "request.h"
#include "statement_cache.h"
#include "visit.h"

namespace token_usage {

namespace {

Decimal money(std::int64_t millionths, std::int64_t rest) {
  return Decimal::from_units(static_cast<int128>(millionths) * 1'000'000 + rest);
}

// The measures of a rollup row, whose i-th of kRolledColumns `at` gives.
template <typename Int64At>
Measures measures_at(Int64At at) {
  Measures out;
  out.requests_count = at(0);
  out.prompt_tokens = at(1);
  out.completion_tokens = at(2);
  out.total_tokens = at(3);
  out.cost_usd = money(at(4), at(5));
  out.cost_rub = money(at(6), at(7));
  out.unpriced_count = at(8);
  out.execution_ms_sum = Decimal::from_int(at(9));
  out.execution_ms_count = at(10);
  return out;
}

template <typename Source>
std::optional<std::string> key_of(const Source &source) {
  return source.type() == SQLITE_TEXT ? std::optional(std::string(source.text())) : std::nullopt;
}

// Buckets next to each other, of one stretch.
struct Taken {
  Hour low;
  Hour high;
  std::size_t stretch;
};

// The buckets that lie in `pieces`, taken out of them size by size.
class Cover {
 public:
  Cover(SumSet &sums, const Ledger &ledger, const RolledUser &user, Dimension dimension,
        const std::optional<std::string> &agent)
      : sums_(sums),
        ledger_(ledger),
        user_(user),
        dimension_(dimension),
        agent_(agent),
        grouped_(key_count(dimension) > 0 || agent) {}

  void run(Hour size, std::vector<Piece> &pieces) {
    std::vector<Taken> taken;
    std::vector<Piece> left;
    std::optional<Statement> total;
    for (std::size_t first = 0; first < pieces.size();) {
      std::size_t past = first + 1;
      while (past < pieces.size() && pieces[past].low == pieces[past - 1].high) {
        ++past;
      }
      cut(size, total, pieces, first, past, taken, left);
      first = past;
    }
    add_groups(size, taken);
    pieces = std::move(left);
  }

 private:
  // Read when a bucket could be taken: most reports of a user with few buckets take none.
  bool is_marked(const Mark &mark) {
    if (!marks_known_) {
      marks_ = marks_of(ledger_, user_.stored.get());
      marks_known_ = true;
    }
    return std::binary_search(marks_.begin(), marks_.end(), mark);
  }

  static void keep(std::vector<Piece> &left, const Piece &piece, Micros low, Micros high) {
    if (low < high) {
      left.push_back({low, high, piece.stretch});
    }
  }

  // The pieces [first, past), which touch.
  void cut(Hour size, std::optional<Statement> &total, const std::vector<Piece> &pieces,
           std::size_t first, std::size_t past, std::vector<Taken> &taken,
           std::vector<Piece> &left) {
    const Hour low = std::max<Hour>(0, hour_of(pieces[first].low));
    const Hour high = std::min(user_.until, hour_of(pieces[past - 1].high));
    std::size_t at = first;
    Micros from = pieces[at].low;  // what is left of pieces[at] starts here
    if (low + size <= high) {
      if (total) {
        total->reset();
      } else {
        total.emplace(ledger_.db,
                      std::string("SELECT bucket, ") + kRolledColumns + " FROM " +
                          beside(ledger_, "token_usage_rollup") +
                          " WHERE user_id = ?1 AND size = ?2 AND dimension = 0 AND bucket >= ?3"
                          " AND bucket < ?4 ORDER BY bucket",
                      Keep::yes);
        total->bind(1, user_.stored.get()).bind(2, size);
      }
      total->bind(3, low).bind(4, high);
      while (total->step()) {
        const Hour bucket = total->int64(0);
        const Micros start = bucket * kMicrosPerHour;
        const Micros end = (bucket + size) * kMicrosPerHour;
        while (at < past && pieces[at].high <= start) {
          keep(left, pieces[at], from, pieces[at].high);
          if (++at < past) {
            from = pieces[at].low;
          }
        }
        if (at == past) {
          break;
        }
        if (start < from || end > pieces[at].high || bucket + size > user_.until ||
            is_marked({bucket + size, size})) {
          continue;
        }
        keep(left, pieces[at], from, start);
        from = end;
        if (!grouped_) {
          sums_.at(pieces[at].stretch, {}).merge(rolled_measures(*total, 1));
        } else if (!taken.empty() && taken.back().high == bucket &&
                   taken.back().stretch == pieces[at].stretch) {
          taken.back().high = bucket + size;
        } else {
          taken.push_back({bucket, bucket + size, pieces[at].stretch});
        }
      }
    }
    for (; at < past; ++at) {
      keep(left, pieces[at], std::max(from, pieces[at].low), pieces[at].high);
    }
  }

  // The rows by agent or by model of the buckets that were taken.
  void add_groups(Hour size, const std::vector<Taken> &taken) {
    if (taken.empty()) {
      return;
    }
    Statement row(ledger_.db,
                  std::string("SELECT ") + kVisit + "(?11, key1, key2, " + kRolledColumns +
                      ") FROM " + beside(ledger_, "token_usage_rollup") +
                      " WHERE user_id = ?1 AND size = ?2 AND dimension = ?3 AND bucket >= ?4"
                      " AND bucket < ?5" +
                      (agent_ ? " AND key1 = ?6" : ""),
                  Keep::yes);
    row.bind(1, user_.stored.get()).bind(2, size);
    row.bind(3, static_cast<std::int64_t>(key_count(agent_ ? Dimension::agent : dimension_)));
    if (agent_) {
      row.bind(6, std::string_view(*agent_));
    }
    Keys keys(static_cast<std::size_t>(key_count(dimension_)));
    for (const Taken &run : taken) {
      row.reset();
      row.bind(4, run.low).bind(5, run.high);
      RowVisitor([&](RowValues values) {
        for (std::size_t i = 0; i < keys.size(); ++i) {
          keys[i] = key_of(ValueSource(values[i]));
        }
        sums_.at(run.stretch, keys).merge(measures_at([values](int i) {
          return sqlite3_value_int64(values[2 + i]);
        }));
      }).run(row);
    }
  }

  SumSet &sums_;
  const Ledger &ledger_;
  const RolledUser &user_;
  bool marks_known_ = false;
  std::vector<Mark> marks_;
  Dimension dimension_;
  const std::optional<std::string> &agent_;
  bool grouped_;
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

// Whatever stands beside the ledger under our names must be word for word what migrate makes.
bool objects_are_ours(const Ledger &ledger) {
  const std::vector<MigrationObject> &wanted = rollup_objects();
  Statement row(ledger.db,
                "SELECT name, sql FROM " + quote_identifier(ledger.schema) +
                    ".sqlite_master WHERE name GLOB '*token_usage_rollup*' AND sql IS NOT NULL",
                Keep::yes);
  std::size_t found = 0;
  while (row.step()) {
    const std::string name(row.text(0));
    const auto object =
        std::find_if(wanted.begin(), wanted.end(),
                     [&name](const MigrationObject &each) { return each.name == name; });
    if (object == wanted.end()) {
      continue;
    }
    if (row.text(1) != object->stored_sql) {
      return false;
    }
    ++found;
  }
  return found == wanted.size();
}

}  // namespace

Hour hour_of(Micros time) {
  return time / kMicrosPerHour - (time % kMicrosPerHour < 0 ? 1 : 0);
}

std::string beside(const Ledger &ledger, const char *name) {
  return quote_identifier(ledger.schema) + ".\"" + name + '"';
}

bool can_roll(const Ledger &ledger) {
  // Where id is not the rowid itself, OR REPLACE may also replace by the hidden rowid. A column of
  // no affinity would not compare a number with the text of one.
  const char *collation = nullptr;
  int is_key = 0;
  if (sqlite3_table_column_metadata(ledger.db, ledger.schema.c_str(), "token_usage", "user_id",
                                    nullptr, &collation, nullptr, nullptr, nullptr) != SQLITE_OK ||
      sqlite3_stricmp(collation, "BINARY") != 0) {
    return false;
  }
  if (sqlite3_table_column_metadata(ledger.db, ledger.schema.c_str(), "token_usage", "created_at",
                                    nullptr, &collation, nullptr, nullptr, nullptr) != SQLITE_OK ||
      sqlite3_stricmp(collation, "BINARY") != 0 || ledger.created_at == Affinity::blob) {
    return false;
  }
  if (sqlite3_table_column_metadata(ledger.db, ledger.schema.c_str(), "token_usage", "id", nullptr,
                                    nullptr, nullptr, &is_key, nullptr) != SQLITE_OK ||
      is_key == 0) {
    return false;
  }
  if (ledger.has_rowid && !id_is_rowid(ledger)) {
    return false;
  }
  return keys_are_known(ledger);
}

bool rollups_usable(const Ledger &ledger) {
  if (!has_table(ledger.db, ledger.schema, "token_usage_rollup_user")) {
    return false;
  }
  // The answer changes with the schema only. Another database may be attached by the same name, so
  // it is remembered for `main` alone.
  const bool is_main = sqlite3_stricmp(ledger.schema.c_str(), "main") == 0;
  std::int64_t version = 0;
  if (is_main) {
    Statement row(ledger.db, "PRAGMA main.schema_version", Keep::yes);
    version = row.step() ? row.int64(0) : 0;
    const std::optional<bool> known = known_usable(ledger.db, version);
    if (known) {
      return *known;
    }
  }
  const bool usable = objects_are_ours(ledger) && can_roll(ledger);
  if (is_main && sqlite3_txn_state(ledger.db, "main") != SQLITE_TXN_WRITE) {
    remember_usable(ledger.db, version, usable);
  }
  return usable;
}

std::optional<RolledUser> rolled_user(const Ledger &ledger, sqlite3_value *user) {
  std::string sizes = "0";
  for (std::size_t i = 0; i < kSizes.size(); ++i) {
    sizes += " + " + std::to_string(1 << i) + " * EXISTS (SELECT 1 FROM " +
             beside(ledger, "token_usage_rollup") +
             " WHERE user_id = +t.user_id AND size = " + std::to_string(kSizes[i]) + ')';
  }
  Statement row(ledger.db,
                "SELECT user_id, (SELECT rolled_until FROM " +
                    beside(ledger, "token_usage_rollup_user") +
                    " WHERE user_id = +t.user_id), (SELECT count(*) FROM (SELECT 1 FROM " +
                    beside(ledger, "token_usage_rollup_odd") +
                    " WHERE user_id = +t.user_id LIMIT " + std::to_string(kMostOddRows + 1) +
                    ")), " + sizes + " FROM " + ledger.table + " AS t WHERE user_id = ?1 LIMIT 1",
                Keep::yes);
  bind_user(row, ledger, user);
  if (!row.step()) {
    return std::nullopt;
  }
  return RolledUser{row.copy(0), row.int64(1), row.int64(2), row.int64(3)};
}

std::vector<Mark> marks_of(const Ledger &ledger, const sqlite3_value *stored) {
  std::vector<Mark> out;
  Statement row(ledger.db,
                "SELECT until, size FROM " + beside(ledger, "token_usage_rollup_late") +
                    " WHERE user_id = ?1 ORDER BY until, size",
                Keep::yes);
  row.bind(1, stored);
  while (row.step()) {
    out.push_back({row.int64(0), row.int64(1)});
  }
  return out;
}

Measures rolled_measures(const Statement &row, int column) {
  return measures_at([&row, column](int i) { return row.int64(column + i); });
}

std::optional<std::string> rolled_key(const Statement &row, int column) {
  return key_of(ColumnSource(row, column));
}

void take_rolled_buckets(SumSet &sums, const Ledger &ledger, const RolledUser &user,
                         const std::optional<std::string> &agent, Dimension dimension,
                         std::vector<Piece> &pieces) {
  if (pieces.empty() || user.sizes == 0 || (agent && dimension == Dimension::model)) {
    return;
  }
  Cover cover(sums, ledger, user, dimension, agent);
  for (std::size_t size = kSizes.size(); size-- > 0;) {
    if (user.has_buckets(size)) {
      cover.run(kSizes[size], pieces);
    }
  }
}

}  // namespace token_usage
