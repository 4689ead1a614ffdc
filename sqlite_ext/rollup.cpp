// Reading rollups: whether they can be used, and which of them a report takes. A report covers its
// stretches with the largest buckets that no bound cuts and no mark spoils. What is left over goes
// back to the caller, to be read from the ledger.
#include "rollup.h"

#include <algorithm>

#include "migration.h"
#include "request.h"
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
  Cover(SumSet &sums, const Ledger &ledger, const sqlite3_value *user, Hour until,
        Dimension dimension, const std::optional<std::string> &agent)
      : sums_(sums),
        ledger_(ledger),
        user_(user),
        until_(until),
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
      marks_ = marks_of(ledger_, user_);
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
    const Hour high = std::min(until_, hour_of(pieces[past - 1].high));
    std::size_t at = first;
    Micros from = pieces[at].low;  // what is left of pieces[at] starts here
    if (low + size <= high) {
      if (total) {
        total->reset();
      } else {
        total.emplace(ledger_.db, *ledger_.kept, number_of(Text::buckets), [this] {
          return std::string("SELECT bucket, ") + kRolledColumns + " FROM " +
                 beside(ledger_, "token_usage_rollup") +
                 " WHERE user_id = ?1 AND size = ?2 AND dimension = 0 AND bucket >= ?3"
                 " AND bucket < ?4 ORDER BY bucket";
        });
        total->bind(1, user_).bind(2, size);
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
        if (start < from || end > pieces[at].high || bucket + size > until_ ||
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
    Statement row = ledger_.statement(number_of(Text::groups, agent_ ? 1 : 0), [this] {
      return std::string("SELECT ") + kVisit + "(?11, key1, key2, " + kRolledColumns + ") FROM " +
             beside(ledger_, "token_usage_rollup") +
             " WHERE user_id = ?1 AND size = ?2 AND dimension = ?3 AND bucket >= ?4"
             " AND bucket < ?5" +
             (agent_ ? " AND key1 = ?6" : "");
    });
    row.bind(1, user_).bind(2, size);
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
  const sqlite3_value *user_;
  Hour until_;
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
                    ".sqlite_master WHERE name GLOB '*token_usage_rollup*' AND sql IS NOT NULL");
  std::size_t found = 0;
  while (row.step()) {
    const std::string_view name = row.text(0);
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

// True where the value compares with the stored users of the rollups, whose column has no
// affinity, as it compares with those of the ledger.
bool is_stored_as_given(const Ledger &ledger, sqlite3_value *user) {
  switch (sqlite3_value_type(user)) {
    case SQLITE_INTEGER:
      return ledger.user_id != Affinity::text && ledger.user_id != Affinity::real;
    case SQLITE_FLOAT:
      return ledger.user_id != Affinity::text;
    case SQLITE_TEXT:
      return ledger.user_id == Affinity::text || ledger.user_id == Affinity::blob;
    default:
      return false;
  }
}

}  // namespace

Hour hour_of(Micros time) {
  return time / kMicrosPerHour - (time % kMicrosPerHour < 0 ? 1 : 0);
}

Hour longest_of(const std::vector<Piece> &pieces) {
  Hour longest = 0;
  for (const Piece &piece : pieces) {
    longest = std::max(longest, hour_of(piece.high) - hour_of(piece.low));
  }
  return longest;
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
  if (!ledger.rollups_usable) {
    ledger.rollups_usable = has_table(ledger.db, ledger.schema, "token_usage_rollup_user") &&
                            objects_are_ours(ledger) && can_roll(ledger);
  }
  return *ledger.rollups_usable;
}

OwnedValue stored_user(const Ledger &ledger, sqlite3_value *user) {
  Statement row = ledger.statement(number_of(Text::stored_user), [&ledger] {
    return "SELECT user_id FROM " + ledger.table + " WHERE user_id = ?1 LIMIT 1";
  });
  bind_user(row, ledger, user);
  return row.step() ? row.copy(0) : nullptr;
}

std::optional<UserState> user_state(const Ledger &ledger, sqlite3_value *user, SparseReader *sparse,
                                    Snapshot *opening) {
  UserState out{user, nullptr, 0, false, false};
  if (!is_stored_as_given(ledger, user)) {
    out.copy = opening == nullptr ? stored_user(ledger, user) : nullptr;
    if (!out.copy) {
      return std::nullopt;
    }
    out.stored = out.copy.get();
  }
  const unsigned number =
      number_of(Text::user_state, sparse == nullptr ? 0 : 1 + sparse->variant());
  const auto read = [&](Statement &row) {
    row.bind(1, out.stored);
    if (sparse == nullptr) {
      row.step();
    } else {
      row.bind(12, sparse->largest_bucket());
      sparse->run(row);
    }
    out.smallest_bucket = row.int64(0);
    out.has_odd_rows = row.int64(1) != 0;
    out.has_numbers = row.int64(2) != 0;
  };
  if (opening != nullptr) {
    return opening->begin_with(number, read) ? std::optional(std::move(out)) : std::nullopt;
  }
  Statement row = ledger.statement(number, [&] {
    const auto of_user = [&ledger](const char *table) {
      return " FROM " + beside(ledger, table) + " WHERE user_id = ?1";
    };
    // A column of text affinity holds no numbers, and would compare them as text. The LIMIT keeps
    // SQLite from finding out each of the three once more for the CASE.
    return "SELECT smallest, odd, numbers" +
           (sparse == nullptr ? ""
                              : ", CASE WHEN NOT odd AND NOT numbers AND ifnull(smallest > ?12, 1)"
                                " THEN (" +
                                    sparse->select() + ") END") +
           " FROM (SELECT (SELECT size" + of_user("token_usage_rollup") +
           " LIMIT 1) AS smallest, EXISTS (SELECT 1" + of_user("token_usage_rollup_odd") +
           ") AS odd, " +
           (ledger.created_at == Affinity::text
                ? "0"
                : "EXISTS (SELECT 1" + of_user("token_usage") + " AND created_at < '')") +
           " AS numbers LIMIT 1)";
  });
  read(row);
  return out;
}

std::int64_t count_odd_rows(const Ledger &ledger, const sqlite3_value *stored) {
  Statement row = ledger.statement(number_of(Text::user_odd_rows), [&ledger] {
    return "SELECT count(*) FROM (SELECT 1 FROM " + beside(ledger, "token_usage_rollup_odd") +
           " WHERE user_id = ?1 LIMIT " + std::to_string(kMostOddRows + 1) + ")";
  });
  row.bind(1, stored);
  row.step();
  return row.int64(0);
}

UserBuckets user_buckets(const Ledger &ledger, const sqlite3_value *stored) {
  Statement row = ledger.statement(number_of(Text::user_buckets), [&ledger] {
    return "SELECT (SELECT rolled_until FROM " + beside(ledger, "token_usage_rollup_user") +
           " WHERE user_id = ?1), (SELECT size FROM " + beside(ledger, "token_usage_rollup") +
           " WHERE user_id = ?1 ORDER BY size DESC LIMIT 1)";
  });
  row.bind(1, stored);
  row.step();
  return {row.int64(0), row.int64(1)};
}

std::vector<Mark> marks_of(const Ledger &ledger, const sqlite3_value *stored) {
  std::vector<Mark> out;
  Statement row = ledger.statement(number_of(Text::marks), [&ledger] {
    return "SELECT until, size FROM " + beside(ledger, "token_usage_rollup_late") +
           " WHERE user_id = ?1 ORDER BY until, size";
  });
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

void take_rolled_buckets(SumSet &sums, const Ledger &ledger, const UserState &user,
                         const std::optional<std::string> &agent, Dimension dimension,
                         std::vector<Piece> &pieces) {
  if (user.smallest_bucket == 0 || (agent && dimension == Dimension::model) ||
      longest_of(pieces) < user.smallest_bucket) {
    return;
  }
  const UserBuckets buckets = user_buckets(ledger, user.stored);
  Cover cover(sums, ledger, user.stored, buckets.until, dimension, agent);
  for (std::size_t size = kSizes.size(); size-- > 0;) {
    if (kSizes[size] <= buckets.largest && kSizes[size] >= user.smallest_bucket) {
      cover.run(kSizes[size], pieces);
    }
  }
}

}  // namespace token_usage
