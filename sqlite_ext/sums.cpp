#include "sums.h"

#include <algorithm>
#include <array>

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

// The ways in which created_at is stored: text, seconds, milliseconds.
constexpr std::size_t kFormCount = 3;

// The first milliseconds value of an integer.
constexpr std::int64_t kFirstMillis = 100'000'000'000;

// `YYYY-MM-DD`, the mark between date and time, and `HH` of a time, followed by `end`.
std::string hour_text(Micros time, char mark, const char *end) {
  const std::string text = format_timestamp(time);
  return text.substr(0, 10) + mark + text.substr(11, 2) + end;
}

// What an index range over rows with created_at in [low, high) is bounded by, for each stored form.
// The range may hold more: each row's time is compared after all.
class FormBounds {
 public:
  FormBounds(const Ledger &ledger, Micros low, Micros high)
      // Local text may differ from UTC by an offset of less than a day, so the range over text is a
      // day wider at both ends; but there, only text with an offset is looked at.
      : text_{date_bound(low, -1, "9999-13"), date_bound(high, 2, "9999-13"),
              hour_text(low, ' ', ""), hour_text(high - 1, 'T', "~")} {
    // A column of text affinity holds no numbers, and would compare these bounds as text.
    if (ledger.created_at != Affinity::text) {
      seconds_[0] = floor_divide(low, kMicrosPerSecond);
      seconds_[1] = floor_divide(high - 1, kMicrosPerSecond) + 1;
      // REALs of 10^11 and more are seconds too; the range of seconds may reach there.
      millis_[0] = std::max({kFirstMillis, floor_divide(low, 1'000), seconds_[1]});
      millis_[1] = floor_divide(high - 1, 1'000) + 1;
    }
  }

  [[nodiscard]] bool has(std::size_t form) const {
    return form == 0 || (form == 1 ? seconds_[0] < seconds_[1] : millis_[0] < millis_[1]);
  }

  static const char *condition(std::size_t form) {
    return form == 0 ? " AND created_at >= ?3 AND created_at < ?4"
                       " AND (created_at >= ?5 AND created_at < ?6"
                       " OR length(created_at) > 21 AND substr(created_at, -6, 1) IN ('+', '-'))"
                     : " AND created_at >= ?3 AND created_at < ?4";
  }

  void bind(std::size_t form, Statement &row) const {
    if (form == 0) {
      for (int i = 0; i < 4; ++i) {
        row.bind(3 + i, std::string_view(text_[static_cast<std::size_t>(i)]));
      }
    } else {
      const auto &range = form == 1 ? seconds_ : millis_;
      row.bind(3, range[0]).bind(4, range[1]);
    }
  }

 private:
  std::array<std::string, 4> text_;
  std::array<std::int64_t, 2> seconds_ = {0, 0};
  std::array<std::int64_t, 2> millis_ = {0, 0};
};

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
                       Dimension dimension, const LedgerVisitor &visit) {
  std::string select = "SELECT created_at, ";
  select += dimension == Dimension::count
                ? "0, 0, 0, NULL, NULL, NULL"
                : "prompt_tokens, completion_tokens, total_tokens, cost_usd, cost_rub,"
                  " execution_time_ms";
  select += agent || key_count(dimension) > 0 ? ", agent_id" : ", NULL";
  select += dimension == Dimension::model ? ", ai_provider, ai_model FROM " : " FROM ";
  select += ledger.table + " WHERE user_id = ?1" + (agent ? " AND agent_id = ?2" : "");

  // The statements stay the same from run to run; only the bounds are bound anew.
  std::array<std::optional<Statement>, kFormCount> statements;
  for (std::size_t first = 0; first < pieces.size();) {
    // Pieces that touch are read in one go.
    std::size_t past = first + 1;
    while (past < pieces.size() && pieces[past].low == pieces[past - 1].high) {
      ++past;
    }
    const FormBounds bounds(ledger, pieces[first].low, pieces[past - 1].high);
    for (std::size_t form = 0; form < kFormCount; ++form) {
      if (!bounds.has(form)) {
        continue;
      }
      std::optional<Statement> &row = statements[form];
      if (row) {
        row->reset();
      } else {
        row.emplace(ledger.db, select + FormBounds::condition(form));
        bind_user(*row, ledger, user);
        if (agent) {
          row->bind(2, std::string_view(*agent));
        }
      }
      bounds.bind(form, *row);
      std::size_t near = first;
      while (row->step()) {
        const std::optional<Micros> time = stored_time(*row, 0);
        if (!time || *time < pieces[first].low || *time >= pieces[past - 1].high) {
          continue;
        }
        // The column's collation may find more than the agent's bytes.
        if (agent && row->text(kAgentColumn) != *agent) {
          continue;
        }
        // Rows come nearly in the order of time, so the piece is mostly that of the row before.
        if (*time < pieces[near].low || *time >= pieces[near].high) {
          const auto above = std::upper_bound(
              pieces.begin() + static_cast<std::ptrdiff_t>(first),
              pieces.begin() + static_cast<std::ptrdiff_t>(past), *time,
              [](Micros value, const Piece &piece) { return value < piece.low; });
          near = static_cast<std::size_t>(above - pieces.begin()) - 1;
        }
        visit(*row, *time, pieces[near]);
      }
    }
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

void add_ledger_rows(SumSet &sums, const Ledger &ledger, sqlite3_value *user,
                     const std::optional<std::string> &agent, const std::vector<Piece> &pieces,
                     Dimension dimension) {
  Keys keys;
  visit_ledger_rows(ledger, user, agent, pieces, dimension,
                    [&](const Statement &row, Micros, const Piece &piece) {
                      ledger_keys(row, dimension, keys);
                      sums.at(piece.stretch, keys).add(ledger_request(row));
                    });
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
  take_rolled_buckets(sums, ledger, user, agent, dimension, pieces);
  add_ledger_rows(sums, ledger, user, agent, pieces, dimension);
  return sums.take();
}

}  // namespace token_usage
