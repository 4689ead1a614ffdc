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

// Where agent_id stands in a RowValues; ai_provider and ai_model follow.
constexpr int kAgentColumn = 7;

// The first milliseconds value of an integer.
constexpr std::int64_t kFirstMillis = 100'000'000'000;

// The statements over the forms in which created_at is stored, and what bounds their index ranges
// for rows with created_at in [low, high). A range may hold more: each row's time is compared after
// all.
class Ranges {
 public:
  Ranges(const Ledger &ledger, Rows rows, bool numbers)
      : all_text_(rows == Rows::all),
        one_text_(rows == Rows::sparse),
        // A column of text affinity holds no numbers, and would compare their bounds as text.
        numbers_(numbers && ledger.created_at != Affinity::text) {}

  // What tells the texts of one select apart.
  [[nodiscard]] unsigned variant() const {
    return (all_text_ ? 1U : 0U) | (one_text_ ? 2U : 0U) | (numbers_ ? 4U : 0U);
  }

  // `select` ends in the conditions that do not speak of time.
  [[nodiscard]] std::string sql(const std::string &select) const {
    std::string out;
    if (all_text_) {
      // Local text may differ from UTC by an offset of less than a day, so the range over text is a
      // day wider at both ends; but there, only text with an offset is looked at.
      out = select +
            " AND created_at >= ?3 AND created_at < ?4"
            " AND (created_at >= ?5 AND created_at < ?6"
            " OR length(created_at) > 21 AND substr(created_at, -6, 1) IN ('+', '-'))";
    } else if (one_text_) {
      // Of one date, text with a space stands before text with a `T`, so at both ends some rows of
      // that day may be read for nothing: less than a second range costs, where days are sparse.
      out = select + " AND created_at >= ?3 AND created_at < ?4";
    } else {
      out = select +
            " AND created_at >= ?3 AND created_at < ?4 AND substr(created_at, 11, 1) = ' '"
            " UNION ALL " +
            select +
            " AND created_at >= ?5 AND created_at < ?6 AND substr(created_at, 11, 1) = 'T'";
    }
    if (numbers_) {
      for (const char *const range : {" AND created_at >= ?7 AND created_at < ?8",
                                      " AND created_at >= ?9 AND created_at < ?10"}) {
        out += " UNION ALL " + select + range;
      }
    }
    return out;
  }

  void bind(Statement &row, Micros low, Micros high) const {
    if (all_text_) {
      row.bind(3, std::string_view(date_bound(low, -1, "9999-13")));
      row.bind(4, std::string_view(date_bound(high, 2, "9999-13")));
      row.bind(5, std::string_view(hour_text(low, ' ', "")));
      row.bind(6, std::string_view(hour_text(high - 1, 'T', "~")));
    } else if (one_text_) {
      row.bind(3, std::string_view(hour_text(low, ' ', "")));
      row.bind(4, std::string_view(hour_text(high - 1, 'T', "~")));
    } else {
      std::string from = hour_text(low, ' ', "");
      std::string to = hour_text(high - 1, ' ', "~");
      row.bind(3, std::string_view(from)).bind(4, std::string_view(to));
      constexpr std::size_t mark_at = 10;
      from[mark_at] = to[mark_at] = 'T';
      row.bind(5, std::string_view(from)).bind(6, std::string_view(to));
    }
    if (numbers_) {
      // REALs of 10^11 and more are seconds too, and odd; the range of seconds may reach there.
      const std::int64_t seconds = floor_divide(high - 1, kMicrosPerSecond) + 1;
      const std::int64_t past = all_text_ ? seconds : std::min(seconds, kFirstMillis);
      row.bind(7, floor_divide(low, kMicrosPerSecond)).bind(8, past);
      row.bind(9, std::max({kFirstMillis, floor_divide(low, 1'000), past}));
      row.bind(10, floor_divide(high - 1, 1'000) + 1);
    }
  }

 private:
  bool all_text_;
  bool one_text_;
  bool numbers_;
};

// Hands over what is read of a ledger row, as ledger_request and ledger_keys expect it.
std::string visit_call(bool agent, Dimension dimension) {
  std::string out = std::string(kVisit) + "(?11, t.created_at";
  if (dimension != Dimension::count) {
    out +=
        ", t.prompt_tokens, t.completion_tokens, t.total_tokens, t.cost_usd, t.cost_rub,"
        " t.execution_time_ms";
  } else if (agent) {
    out += ", 0, 0, 0, 0, 0, 0";
  }
  out += agent || key_count(dimension) > 0 ? ", t.agent_id" : "";
  return out + (dimension == Dimension::model ? ", t.ai_provider, t.ai_model)" : ")");
}

// What tells the texts of visit_call apart.
unsigned call_variant(bool agent, Dimension dimension) {
  return (agent ? 1U : 0U) | static_cast<unsigned>(dimension) << 1U;
}

// What visit_ledger_rows was asked for, and where it is.
struct Visit {
  const std::optional<std::string> &agent;
  const std::vector<Piece> &pieces;
  std::size_t first;
  std::size_t past;
  std::size_t near;
  const LedgerVisitor &visit;
};

// Calls the visitor where the row is in one of the pieces [first, past). Rows come nearly in the
// order of time, so the piece is mostly `near`, that of the row before.
void visit_if_in(RowValues row, Visit &given) {
  const std::vector<Piece> &pieces = given.pieces;
  const std::optional<Micros> time = stored_time(ValueSource(row[0]));
  if (!time || *time < pieces[given.first].low || *time >= pieces[given.past - 1].high) {
    return;
  }
  // The column's collation may find more than the agent's bytes.
  if (given.agent && value_text(row[kAgentColumn]) != *given.agent) {
    return;
  }
  if (*time < pieces[given.near].low || *time >= pieces[given.near].high) {
    const auto above =
        std::upper_bound(pieces.begin() + static_cast<std::ptrdiff_t>(given.first),
                         pieces.begin() + static_cast<std::ptrdiff_t>(given.past), *time,
                         [](Micros value, const Piece &piece) { return value < piece.low; });
    given.near = static_cast<std::size_t>(above - pieces.begin()) - 1;
    if (*time >= pieces[given.near].high) {
      return;
    }
  }
  given.visit(row, *time, pieces[given.near]);
}

void run(Statement &statement, Visit visit) {
  RowVisitor([&visit](RowValues row) { visit_if_in(row, visit); }).run(statement);
}

void visit_odd_rows(const Ledger &ledger, sqlite3_value *user,
                    const std::optional<std::string> &agent, const std::vector<Piece> &pieces,
                    Dimension dimension, const LedgerVisitor &visit) {
  const unsigned variant = call_variant(agent.has_value(), dimension);
  Statement row = ledger.statement(number_of(Text::odd_rows, variant), [&] {
    return "SELECT " + visit_call(agent.has_value(), dimension) + " FROM " +
           beside(ledger, "token_usage_rollup_odd") + " AS o CROSS JOIN " + ledger.table +
           " AS t WHERE o.user_id = (SELECT user_id FROM " + ledger.table +
           " WHERE user_id = ?1 LIMIT 1) AND t.id = o.id AND t.user_id = ?1";
  });
  bind_user(row, ledger, user);
  run(row, {agent, pieces, 0, pieces.size(), 0, visit});
}

// Who has no bucket of a day has few rows a day.
constexpr Hour kDenseBucket = kSizes[1];

// The rows of a user of few rows a day, from the first piece to the last, which touch: read by the
// same statement that tells that the user is one. Where rows of whole days are to be counted, the
// index itself does.
class SparseRows final : public SparseReader {
 public:
  SparseRows(const Ledger &ledger, const std::optional<std::string> &agent,
             const std::vector<Piece> &pieces, Dimension dimension, const LedgerVisitor &visit)
      : ledger_(ledger),
        agent_(agent),
        low_(pieces.front().low),
        high_(pieces.back().high),
        dimension_(dimension),
        largest_bucket_(std::max(kDenseBucket, longest_of(pieces))),
        counts_(dimension == Dimension::count && !agent && pieces.size() == 1 &&
                low_ % kMicrosPerDay == 0 && high_ % kMicrosPerDay == 0),
        visit_{agent, pieces, 0, pieces.size(), 0, visit},
        visitor_([this](RowValues row) { visit_if_in(row, visit_); }) {}

  [[nodiscard]] Hour largest_bucket() const override { return largest_bucket_; }

  [[nodiscard]] unsigned variant() const override {
    return counts_ ? 0 : 1 + call_variant(agent_.has_value(), dimension_);
  }

  [[nodiscard]] std::string select() const override {
    return Ranges(ledger_, Rows::sparse, false)
        .sql("SELECT " + (counts_ ? "count(*)" : visit_call(agent_.has_value(), dimension_)) +
             " FROM " + ledger_.table + " AS t WHERE user_id = ?1" +
             (agent_ ? " AND agent_id = ?2" : ""));
  }

  void run(Statement &row) override {
    if (agent_) {
      row.bind(2, std::string_view(*agent_));
    }
    Ranges(ledger_, Rows::sparse, false).bind(row, low_, high_);
    if (counts_) {
      row.step();
    } else {
      visitor_.attach(row);
      visitor_.step(row);
    }
    count_ = counts_ ? row.int64(kColumn) : 0;
  }

  // What was counted, if that was the way.
  [[nodiscard]] std::int64_t count() const { return count_; }

 private:
  const Ledger &ledger_;
  const std::optional<std::string> &agent_;
  Micros low_;
  Micros high_;
  Dimension dimension_;
  Hour largest_bucket_;
  bool counts_;
  Visit visit_;
  RowVisitor visitor_;
  std::int64_t count_ = 0;
};

// Reads the sums of one report.
class SumReader {
 public:
  SumReader(const Ledger &ledger, sqlite3_value *user, const std::optional<std::string> &agent,
            Dimension dimension)
      : ledger_(ledger), user_(user), agent_(agent), dimension_(dimension) {}

  // `opening` as in user_state: nothing where it is not open afterwards.
  std::optional<std::vector<Sum>> read(std::vector<Piece> pieces, Snapshot *opening) {
    const LedgerVisitor add = std::ref(*this);
    Rows rest = Rows::all;
    bool numbers = true;
    if (opening != nullptr || rollups_usable(ledger_)) {
      SparseRows sparse(ledger_, agent_, pieces, dimension_, add);
      const std::optional<UserState> state = user_state(ledger_, user_, &sparse, opening);
      if (!state) {
        return opening == nullptr ? std::optional(sums_.take()) : std::nullopt;
      }
      if (sparse.has_read(*state)) {
        if (sparse.count() > 0) {
          sums_.at(pieces[0].stretch, keys_).requests_count += sparse.count();
        }
        return sums_.take();
      }
      numbers = state->has_numbers;
      if (!state->has_odd_rows || count_odd_rows(ledger_, state->stored) <= kMostOddRows) {
        const bool dense = state->smallest_bucket != 0 && state->smallest_bucket <= kDenseBucket;
        rest = state->has_odd_rows ? Rows::plain : (dense ? Rows::only_plain : Rows::sparse);
        if (rest == Rows::plain) {
          visit_ledger_rows(ledger_, user_, agent_, pieces, dimension_, Rows::odd, add);
        }
        take_rolled_buckets(sums_, ledger_, *state, agent_, dimension_, pieces);
      }
    }
    visit_ledger_rows(ledger_, user_, agent_, pieces, dimension_, rest, add, numbers);
    return sums_.take();
  }

  void operator()(RowValues row, Micros, const Piece &piece) {
    if (dimension_ == Dimension::count) {
      ++sums_.at(piece.stretch, keys_).requests_count;
      return;
    }
    if (key_count(dimension_) > 0) {
      ledger_keys(row, dimension_, keys_);
    }
    sums_.at(piece.stretch, keys_).add(ledger_request(row));
  }

 private:
  const Ledger &ledger_;
  sqlite3_value *user_;
  const std::optional<std::string> &agent_;
  Dimension dimension_;
  SumSet sums_;
  Keys keys_;
};

}  // namespace

std::string hour_text(Micros time, char mark, std::string_view end) {
  const std::int64_t day = floor_divide(time, kMicrosPerDay);
  const auto hour = static_cast<int>((time - day * kMicrosPerDay) / kMicrosPerHour);
  std::string out = format_date(day);
  out.push_back(mark);
  out.push_back(static_cast<char>('0' + hour / 10));
  out.push_back(static_cast<char>('0' + hour % 10));
  return out.append(end);
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

Measures &SumSet::find(std::size_t stretch, const Keys &keys) {
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
                       Dimension dimension, Rows rows, const LedgerVisitor &visit, bool numbers) {
  if (pieces.empty()) {
    return;
  }
  if (rows == Rows::odd) {
    visit_odd_rows(ledger, user, agent, pieces, dimension, visit);
    return;
  }
  const Ranges ranges(ledger, rows, numbers);
  const auto select = [&] {
    std::string out = "SELECT " + visit_call(agent.has_value(), dimension) + " FROM " +
                      ledger.table + " AS t WHERE user_id = ?1" +
                      (agent ? " AND agent_id = ?2" : "");
    if (rows == Rows::plain) {
      out += " AND t.id NOT IN (SELECT id FROM " + beside(ledger, "token_usage_rollup_odd") +
             " WHERE user_id = (SELECT user_id FROM " + ledger.table +
             " WHERE user_id = ?1 LIMIT 1))";
    }
    return out;
  };
  const unsigned variant = call_variant(agent.has_value(), dimension) << 3U | ranges.variant();
  Statement row =
      ledger.statement(number_of(rows == Rows::plain ? Text::plain_rows : Text::rows, variant),
                       [&] { return ranges.sql(select()); });
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
    run(row, {agent, pieces, first, past, first, visit});
    row.reset();
    first = past;
  }
}

Request ledger_request(RowValues row) {
  return read_request([row](int i) { return ValueSource(row[i + 1]); });
}

void ledger_keys(RowValues row, Dimension dimension, Keys &keys) {
  const int count = key_count(dimension);
  const int first = dimension == Dimension::agent ? kAgentColumn : kAgentColumn + 1;
  keys.resize(static_cast<std::size_t>(count));
  for (int i = 0; i < count; ++i) {
    std::optional<std::string> &key = keys[static_cast<std::size_t>(i)];
    if (const std::optional<std::string_view> text = optional_text(row[first + i])) {
      key = *text;
    } else {
      key.reset();
    }
  }
}

std::vector<Sum> collect_sums(Snapshot &snapshot, sqlite3_value *user,
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
  if (pieces.empty()) {
    snapshot.ledger();
    return {};
  }
  const Ledger *const remembered = snapshot.remembered();
  if (remembered != nullptr && remembered->rollups_usable.value_or(false)) {
    std::optional<std::vector<Sum>> sums =
        SumReader(*remembered, user, agent, dimension).read(pieces, &snapshot);
    if (sums) {
      return std::move(*sums);
    }
  }
  return *SumReader(snapshot.ledger(), user, agent, dimension).read(pieces, nullptr);
}

}  // namespace token_usage
