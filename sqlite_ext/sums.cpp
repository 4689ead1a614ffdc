#include "sums.h"

#include <algorithm>

#include "request.h"
#include "rollup.h"

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
void append_key(std::string &bytes, const std::optional<std::string> &key) {
  if (!key) {
    bytes.push_back('N');
    return;
  }
  const std::uint64_t size = key->size();
  bytes.push_back('T');
  bytes.append(reinterpret_cast<const char *>(&size), sizeof size);
  bytes.append(*key);
}

// Where agent_id stands in the SELECT of visit_ledger_rows; ai_provider and ai_model follow.
constexpr int kAgentColumn = 7;

// The first milliseconds value of an integer.
constexpr std::int64_t kFirstMillis = 100'000'000'000;

// `YYYY-MM-DD`, the mark between date and time, and `HH` of a time, followed by `end`.
std::string hour_text(Micros time, char mark, const char *end) {
  const std::string text = format_timestamp(time);
  return text.substr(0, 10) + mark + text.substr(11, 2) + end;
}

// The statements over the forms in which created_at is stored, and what bounds their index ranges
// for rows with created_at in [low, high). A range may hold more: each row's time is compared after
// all.
class Ranges {
 public:
  // `select` ends in the conditions that do not speak of time.
  Ranges(const Ledger &ledger, const std::string &select, Rows rows)
      : all_text_(rows == Rows::all),
        // A column of text affinity holds no numbers, and would compare their bounds as text.
        numbers_(ledger.created_at != Affinity::text) {
    if (all_text_) {
      // Local text may differ from UTC by an offset of less than a day, so the range over text is a
      // day wider at both ends; but there, only text with an offset is looked at.
      sql_ = select +
             " AND created_at >= ?3 AND created_at < ?4"
             " AND (created_at >= ?5 AND created_at < ?6"
             " OR length(created_at) > 21 AND substr(created_at, -6, 1) IN ('+', '-'))";
    } else {
      sql_ = select +
             " AND created_at >= ?3 AND created_at < ?4 AND substr(created_at, 11, 1) = ' '"
             " UNION ALL " +
             select +
             " AND created_at >= ?5 AND created_at < ?6 AND substr(created_at, 11, 1) = 'T'";
    }
    if (numbers_) {
      for (const char *const range : {" AND created_at >= ?7 AND created_at < ?8",
                                      " AND created_at >= ?9 AND created_at < ?10"}) {
        sql_ += " UNION ALL " + select + range;
      }
    }
  }

  [[nodiscard]] const std::string &sql() const { return sql_; }

  void bind(Statement &row, Micros low, Micros high) const {
    if (all_text_) {
      row.bind(3, std::string_view(date_bound(low, -1, "9999-13")));
      row.bind(4, std::string_view(date_bound(high, 2, "9999-13")));
      row.bind(5, std::string_view(hour_text(low, ' ', "")));
      row.bind(6, std::string_view(hour_text(high - 1, 'T', "~")));
    } else {
      std::string from = hour_text(low, ' ', "");
      std::string to = hour_text(high - 1, ' ', "~");
      row.bind(3, std::string_view(from)).bind(4, std::string_view(to));
      constexpr std::size_t mark_at = 10;
      from[mark_at] = to[mark_at] = 'T';
      row.bind(5, std::string_view(from)).bind(6, std::string_view(to));
    }
    if (numbers_) {
      const std::int64_t past = floor_divide(high - 1, kMicrosPerSecond) + 1;
      row.bind(7, floor_divide(low, kMicrosPerSecond)).bind(8, past);
      // REALs of 10^11 and more are seconds too; the range of seconds may reach there.
      row.bind(9, std::max({kFirstMillis, floor_divide(low, 1'000), past}));
      row.bind(10, floor_divide(high - 1, 1'000) + 1);
    }
  }

 private:
  bool all_text_;
  bool numbers_;
  std::string sql_;
};

// What is read of a ledger row, as ledger_request and ledger_keys expect it.
std::string row_columns(bool agent, Dimension dimension) {
  std::string out = "t.created_at, ";
  out += dimension == Dimension::count ? "0, 0, 0, NULL, NULL, NULL"
                                       : "t.prompt_tokens, t.completion_tokens, t.total_tokens,"
                                         " t.cost_usd, t.cost_rub, t.execution_time_ms";
  out += agent || key_count(dimension) > 0 ? ", t.agent_id" : ", NULL";
  return out + (dimension == Dimension::model ? ", t.ai_provider, t.ai_model" : "");
}

// Calls `visit` where the row is in one of the pieces [first, past). Rows come nearly in the order
// of time, so the piece is mostly `near`, that of the row before.
void visit_if_in(const Statement &row, const std::optional<std::string> &agent,
                 const std::vector<Piece> &pieces, std::size_t first, std::size_t past,
                 std::size_t &near, const LedgerVisitor &visit) {
  const std::optional<Micros> time = stored_time(row, 0);
  if (!time || *time < pieces[first].low || *time >= pieces[past - 1].high) {
    return;
  }
  // The column's collation may find more than the agent's bytes.
  if (agent && row.text(kAgentColumn) != *agent) {
    return;
  }
  if (*time < pieces[near].low || *time >= pieces[near].high) {
    const auto above =
        std::upper_bound(pieces.begin() + static_cast<std::ptrdiff_t>(first),
                         pieces.begin() + static_cast<std::ptrdiff_t>(past), *time,
                         [](Micros value, const Piece &piece) { return value < piece.low; });
    near = static_cast<std::size_t>(above - pieces.begin()) - 1;
    if (*time >= pieces[near].high) {
      return;
    }
  }
  visit(row, *time, pieces[near]);
}

void visit_odd_rows(const Ledger &ledger, sqlite3_value *user,
                    const std::optional<std::string> &agent, const std::vector<Piece> &pieces,
                    Dimension dimension, const LedgerVisitor &visit) {
  Statement row(ledger.db,
                "SELECT " + row_columns(agent.has_value(), dimension) + " FROM " +
                    beside(ledger, "token_usage_rollup_odd") + " AS o CROSS JOIN " + ledger.table +
                    " AS t WHERE o.user_id = (SELECT user_id FROM " + ledger.table +
                    " WHERE user_id = ?1 LIMIT 1) AND t.id = o.id AND t.user_id = ?1",
                Keep::yes);
  bind_user(row, ledger, user);
  std::size_t near = 0;
  while (row.step()) {
    visit_if_in(row, agent, pieces, 0, pieces.size(), near, visit);
  }
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

Measures &SumSet::at(std::size_t stretch, const Keys &keys) {
  bytes_.assign(reinterpret_cast<const char *>(&stretch), sizeof stretch);
  for (const std::optional<std::string> &key : keys) {
    append_key(bytes_, key);
  }
  const auto [entry, is_new] = index_.try_emplace(bytes_, sums_.size());
  if (is_new) {
    sums_.push_back({stretch, keys, {}});
  }
  return sums_[entry->second].measures;
}

void visit_ledger_rows(const Ledger &ledger, sqlite3_value *user,
                       const std::optional<std::string> &agent, const std::vector<Piece> &pieces,
                       Dimension dimension, Rows rows, const LedgerVisitor &visit) {
  if (pieces.empty()) {
    return;
  }
  if (rows == Rows::odd) {
    visit_odd_rows(ledger, user, agent, pieces, dimension, visit);
    return;
  }
  std::string select = "SELECT " + row_columns(agent.has_value(), dimension) + " FROM " +
                       ledger.table + " AS t WHERE user_id = ?1" +
                       (agent ? " AND agent_id = ?2" : "");
  if (rows == Rows::plain) {
    select += " AND t.id NOT IN (SELECT id FROM " + beside(ledger, "token_usage_rollup_odd") +
              " WHERE user_id = (SELECT user_id FROM " + ledger.table +
              " WHERE user_id = ?1 LIMIT 1))";
  }
  const Ranges ranges(ledger, select, rows);
  Statement row(ledger.db, ranges.sql(), Keep::yes);
  bind_user(row, ledger, user);
  if (agent) {
    row.bind(2, std::string_view(*agent));
  }
  for (std::size_t first = 0; first < pieces.size();) {
    // Pieces that touch are read in one go.
    std::size_t past = first + 1;
    while (past < pieces.size() && pieces[past].low == pieces[past - 1].high) {
      ++past;
    }
    ranges.bind(row, pieces[first].low, pieces[past - 1].high);
    std::size_t near = first;
    while (row.step()) {
      visit_if_in(row, agent, pieces, first, past, near, visit);
    }
    row.reset();
    first = past;
  }
}

Request ledger_request(const Statement &row) {
  return read_request([&row](int i) { return ColumnSource(row, i + 1); });
}

void ledger_keys(const Statement &row, Dimension dimension, Keys &keys) {
  const int count = key_count(dimension);
  const int first = dimension == Dimension::agent ? kAgentColumn : kAgentColumn + 1;
  keys.resize(static_cast<std::size_t>(count));
  for (int i = 0; i < count; ++i) {
    std::optional<std::string> &key = keys[static_cast<std::size_t>(i)];
    if (row.is_null(first + i)) {
      key.reset();
    } else {
      key = row.text(first + i);
    }
  }
}

std::vector<Sum> collect_sums(const Ledger &ledger, sqlite3_value *user,
                              const std::optional<std::string> &agent,
                              const std::vector<Micros> &bounds, Dimension dimension) {
  std::vector<Piece> pieces;
  pieces.reserve(bounds.size() - 1);
  for (std::size_t i = 0; i + 1 < bounds.size(); ++i) {
    const Micros low = std::max(bounds[i], kFirstInstant);
    const Micros high = std::min(bounds[i + 1], kPastLastInstant);
    if (low < high) {
      pieces.push_back({low, high, i});
    }
  }
  SumSet sums;
  Keys keys;
  const LedgerVisitor add = [&](const Statement &row, Micros, const Piece &piece) {
    ledger_keys(row, dimension, keys);
    sums.at(piece.stretch, keys).add(ledger_request(row));
  };
  Rows rest = Rows::all;
  if (rollups_usable(ledger)) {
    const std::optional<RolledUser> rolled = rolled_user(ledger, user);
    if (!rolled) {
      return {};
    }
    if (rolled->odd_rows <= kMostOddRows) {
      rest = rolled->odd_rows == 0 ? Rows::only_plain : Rows::plain;
      if (rest == Rows::plain) {
        visit_ledger_rows(ledger, user, agent, pieces, dimension, Rows::odd, add);
      }
      take_rolled_buckets(sums, ledger, *rolled, agent, dimension, pieces);
    }
  }
  visit_ledger_rows(ledger, user, agent, pieces, dimension, rest, add);
  return sums.take();
}

}  // namespace token_usage
