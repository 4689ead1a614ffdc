#include "place_finder.h"

#include <algorithm>
#include <limits>

#include "request.h"
#include "rollup.h"
#include "sums.h"

namespace token_usage {

namespace {

int compare_ids(const RowId &a, const RowId &b) {
  // SQLite's own order of storage classes: numbers, text, blobs.
  if (a.type != b.type) {
    return a.type < b.type ? -1 : 1;
  }
  if (a.type == SQLITE_INTEGER) {
    return a.number < b.number ? -1 : (a.number > b.number ? 1 : 0);
  }
  return a.bytes.compare(b.bytes);
}

// True where `a` is listed before `b`: newest first, then the higher id.
bool listed_before(const Place &a, const Place &b) {
  if (a.created_at != b.created_at) {
    return a.created_at > b.created_at;
  }
  return compare_ids(a.id, b.id) > 0;
}

RowId read_id(const Statement &row, int column) {
  RowId out;
  out.type = row.type(column);
  switch (out.type) {
    case SQLITE_INTEGER:
      out.number = row.int64(column);
      break;
    case SQLITE_BLOB:
      out.bytes = row.blob(column);
      break;
    default:
      out.type = SQLITE_TEXT;
      out.bytes = row.text(column);
  }
  return out;
}

// True for text of a time that ends in an offset.
bool has_offset(std::string_view text) {
  constexpr std::size_t shortest = std::string_view("2025-10-20 14:30+03:00").size();
  return text.size() >= shortest && (text[text.size() - 6] == '+' || text[text.size() - 6] == '-');
}

// Reads only what an index on
// (user_id, created_at), or on those and agent_id, holds of a row, as long as the row's place can
// be told from it, and of that index a page's worth wherever it is: except for text with an offset,
// which may stand a day away from its time, so that two days of the index are looked through for
// it.
class PlaceFinder {
 public:
  PlaceFinder(const Ledger &ledger, const DetailedFilter &filter, std::size_t wanted,
              const std::optional<Place> &after, bool with_rows)
      : ledger_(ledger),
        filter_(filter),
        wanted_(wanted),
        after_(after),
        low_(std::max(low_of(filter), kFirstInstant)),
        high_(past_high_of(filter)),
        id_is_rowid_(id_is_rowid(ledger)),
        with_rows_(with_rows && id_is_rowid_) {
    if (after && after->created_at < high_ - 1) {
      high_ = after->created_at + 1;
    }
    if (with_rows_) {
      rows_.rows.reserve(wanted + 1);
      constexpr std::size_t usual_texts = 80;
      rows_.texts.reserve(usual_texts * (wanted + 1));
    }
  }

  Places find() {
    if (low_ < high_ && learn_forms()) {
      if (has_numbers_) {
        scan_numbers();
      }
      scan_plain_text();
      if (has_offsets_) {
        scan_text_with_offset();
      }
      if (!in_order_) {
        std::sort_heap(places_.begin(), places_.end(), listed_before);
      }
    }
    return {std::move(places_), std::move(rows_)};
  }

 private:
  struct Met {
    std::int64_t rowid;
    std::optional<std::size_t> row;
  };

  // Rows of one stored value that were met, until it is known how many there are.
  struct Run {
    bool open = false;
    std::string text;
    int type = SQLITE_NULL;
    double number = 0;
    std::optional<Micros> time;
    std::vector<Met> rows;
  };

  enum class Form { number, plain_text, text_with_offset };

  // What the list of odd rows says of the forms in which the user's times may be stored: without
  // any, there is no offset but `+00:00`. False where the user has no rows at all.
  bool learn_forms() {
    // A column of text affinity holds no numbers, and would compare their bounds as text.
    has_numbers_ = ledger_.created_at != Affinity::text;
    if (rollups_usable(ledger_)) {
      const std::optional<UserState> state = user_state(ledger_, filter_.user);
      if (!state) {
        return false;
      }
      has_numbers_ = state->has_numbers;
      has_offsets_ = state->has_odd_rows;
    }
    return true;
  }

  [[nodiscard]] bool full() const { return places_.size() == wanted_; }

  // The place that is listed last; there is one.
  [[nodiscard]] const Place &last() const { return in_order_ ? places_.back() : places_.front(); }

  // True where no row of that time can be in the list any more.
  [[nodiscard]] bool too_old(Micros time) const {
    return time < low_ || (full() && time < last().created_at);
  }

  [[nodiscard]] std::string from() const {
    return " FROM " + ledger_.table + " WHERE user_id = ?1" +
           (filter_.agent ? " AND agent_id = ?2" : "");
  }

  [[nodiscard]] std::string columns(bool with_row) const {
    const std::string id = id_is_rowid_ || !ledger_.has_rowid ? "id" : ledger_.rowid;
    return "created_at, " + id + (filter_.agent ? ", agent_id" : "") +
           (with_row ? std::string(", ") + kSee + "(?11, id, " + kPageColumns + ")" : "");
  }

  void scan_numbers() {
    constexpr std::int64_t first_millis = 100'000'000'000;
    const auto floor_divide = [](Micros time, Micros step) {
      return time / step - (time % step < 0 ? 1 : 0);
    };
    const std::int64_t seconds_past = floor_divide(high_ - 1, kMicrosPerSecond) + 1;
    const bool past_seconds = seconds_past > first_millis;
    scan(Form::number, past_seconds ? 1 : 0,
         past_seconds ? " AND (created_at < 100000000000 OR typeof(created_at) = 'real')" : "",
         floor_divide(low_, kMicrosPerSecond), seconds_past);
    const std::int64_t millis_past = floor_divide(high_ - 1, 1'000) + 1;
    if (millis_past > first_millis) {
      scan(Form::number, 2, " AND typeof(created_at) = 'integer'",
           std::max(first_millis, floor_divide(low_, 1'000)), millis_past);
    }
  }

  void scan_plain_text() {
    // The same text as that for numbers.
    scan(Form::plain_text, 0, "", hour_text(low_, ' ', ""), hour_text(high_ - 1, 'T', "~"));
  }

  void scan_text_with_offset() {
    const Micros low = full() ? std::max(low_, last().created_at) : low_;
    const Micros first = std::max(low - kMicrosPerDay, kFirstInstant);
    const Micros last = std::min(high_ + kMicrosPerDay, kPastLastInstant) - 1;
    scan(Form::text_with_offset, 3,
         " AND length(created_at) > 21 AND substr(created_at, -6, 1) IN ('+', '-')",
         first == kFirstInstant ? "0000-" : hour_text(first, ' ', ""),
         last == kPastLastInstant - 1 ? "9999-13" : hour_text(last, 'T', "~"));
  }

  // The latest time that a row may have which its index stores behind this one. Text sorts by its
  // local date, then by its separator (`T` after the space), then by its local time.
  static Micros ceiling_of(Form form, const Run &run) {
    constexpr Micros unknown = std::numeric_limits<Micros>::max();
    if (form == Form::number) {
      return run.time.value_or(unknown);
    }
    const std::string_view text = run.text;
    const std::size_t to_minute = std::string_view("2025-10-20 14:30").size();
    Micros step = 60 * kMicrosPerSecond;
    std::optional<Micros> local;
    if (text.size() >= to_minute && text[10] == ' ') {
      local = parse_timestamp(text.substr(0, to_minute));
    }
    if (!local) {
      local = parse_timestamp_argument(text.substr(0, 10));
      step = kMicrosPerDay;
    }
    if (!local) {
      return unknown;
    }
    return *local + step + (form == Form::text_with_offset ? kMicrosPerDay : 0);
  }

  // Reads the rows whose stored created_at lies in [low, high) downward. `which` stands for the
  // condition.
  template <typename Bound>
  void scan(Form form, unsigned which, const char *condition, const Bound &low, const Bound &high) {
    const unsigned variant = which << 2U | (filter_.agent ? 2U : 0U) | (with_rows_ ? 1U : 0U);
    Statement row = ledger_.statement(number_of(Text::places, variant), [&] {
      return "SELECT " + columns(with_rows_) + from() +
             " AND created_at < ?3 AND created_at >= ?4" + condition + " ORDER BY created_at DESC";
    });
    RowVisitor visitor([this](RowValues values) {
      if (rows_.rows.size() == kept_rows_) {
        rows_.rows.emplace_back();
      }
      rows_.texts.resize(kept_texts_);
      seen_id_ = sqlite3_value_int64(values[0]);
      read_page_row(values + 1, rows_.rows.back(), rows_.texts);
    });
    if (with_rows_) {
      visitor.attach(row);
    }
    bind_filter(row);
    bind(row, 3, high);
    bind(row, 4, low);
    // A run can be left where rows of equal times stand by descending id elsewhere in the index,
    // and where equal stored values are equal times: a column that takes anything may hold the
    // number 10^11 as seconds and as milliseconds.
    const bool may_leave = id_is_rowid_ && ledger_.created_at != Affinity::blob;
    constexpr std::size_t long_run = 64;
    bool skipped_newer = false;
    Run run;
    while (visitor.step(row)) {
      sqlite3_value *const stored = row.value(0);
      if (!run.open || !is_of(run, stored)) {
        flush(run);
        start(run, stored);
        if (form == Form::plain_text && has_offsets_ && has_offset(run.text)) {
          run.time.reset();
        }
        // No row is later than what its ceiling says.
        if ((!run.time || too_old(*run.time)) && too_old(ceiling_of(form, run))) {
          return;
        }
        if (form == Form::plain_text && run.time) {
          // Of one date, times behind `T` come first and those behind a space follow. Where the
          // rest of the first, or the start of the second, cannot be wanted, it is passed over.
          const bool spaced = run.text[10] == ' ';
          if (spaced && *run.time >= high_ && !skipped_newer) {
            skipped_newer = true;
            // Only downward: what stands above in the same hour has been read.
            const std::string below = hour_text(high_ - 1, ' ', "~");
            if (below < run.text) {
              restart(row, below);
              run.open = false;
              continue;
            }
          }
          // Within a minute text does not stand in the order of time: `:25Z` stands above `:25.5Z`.
          constexpr Micros minute = 60 * kMicrosPerSecond;
          const auto end_of_minute = [&run] {
            return *run.time - (*run.time % minute + minute) % minute + minute - 1;
          };
          if (!spaced && too_old(end_of_minute())) {
            restart(row, run.text.substr(0, 11));
            run.open = false;
            continue;
          }
        }
      }
      if (!run.time || *run.time >= high_ || too_old(*run.time) || !is_of_agent(row)) {
        continue;
      }
      if (!ledger_.has_rowid) {
        offer({*run.time, read_id(row, 1), 0, std::nullopt});
      } else if (!id_is_rowid_) {
        offer({*run.time, id_of(row.int64(1)), row.int64(1), std::nullopt});
      } else {
        const std::int64_t rowid = row.int64(1);
        run.rows.push_back({rowid, keep_seen(rowid)});
        if (may_leave && run.rows.size() > long_run) {
          const OwnedValue value = row.copy(0);
          offer_newest(value.get(), *run.time);
          run.rows.clear();
          run.open = false;
          row.reset();
          row.bind(3, value.get());
        }
      }
    }
    flush(run);
  }

  static void bind(Statement &row, int parameter, const std::string &bound) {
    row.bind(parameter, std::string_view(bound));
  }
  static void bind(Statement &row, int parameter, std::int64_t bound) {
    row.bind(parameter, bound);
  }

  void bind_filter(Statement &row) const {
    bind_user(row, ledger_, filter_.user);
    if (filter_.agent) {
      row.bind(2, std::string_view(*filter_.agent));
    }
  }

  static void restart(Statement &row, const std::string &high) {
    row.reset();
    bind(row, 3, high);
  }

  static void start(Run &run, sqlite3_value *stored) {
    run.open = true;
    run.type = sqlite3_value_type(stored);
    run.text = run.type == SQLITE_TEXT ? value_text(stored) : std::string_view();
    run.number = run.type == SQLITE_TEXT ? 0 : sqlite3_value_double(stored);
    run.time = stored_time(ValueSource(stored));
    run.rows.clear();
  }

  static bool is_of(const Run &run, sqlite3_value *stored) {
    return sqlite3_value_type(stored) == run.type &&
           (run.type == SQLITE_TEXT ? value_text(stored) == run.text
                                    : sqlite3_value_double(stored) == run.number);
  }

  void flush(Run &run) {
    // Rows of one time are listed by descending id, and mostly stand by ascending id in the index.
    for (auto met = run.rows.rbegin(); met != run.rows.rend(); ++met) {
      offer({*run.time, RowId{SQLITE_INTEGER, met->rowid, {}}, met->rowid, met->row});
    }
    run.rows.clear();
  }

  // Takes over what was seen of the row. Not where it was seen at another time than the row came,
  // as in a query that sorts, nor from more rows than a page may have use for.
  std::optional<std::size_t> keep_seen(std::int64_t rowid) {
    constexpr std::size_t spare = 64;
    if (rows_.rows.size() == kept_rows_ || seen_id_ != rowid || kept_rows_ >= 2 * wanted_ + spare) {
      return std::nullopt;
    }
    kept_texts_ = rows_.texts.size();
    return kept_rows_++;
  }

  // Among very many rows of one stored value, those with the highest ids, as far as they are
  // wanted.
  void offer_newest(const sqlite3_value *value, Micros time) {
    const bool behind = after_ && after_->created_at == time;
    const unsigned variant = (filter_.agent ? 1U : 0U) | (behind ? 2U : 0U);
    Statement row = ledger_.statement(number_of(Text::newest_of_time, variant), [&] {
      return "SELECT " + columns(false) + from() + " AND created_at = ?3" +
             (behind ? " AND id < ?4" : "") + " ORDER BY id DESC";
    });
    bind_filter(row);
    row.bind(3, value);
    if (behind) {
      row.bind(4, after_->id.number);
    }
    while (row.step()) {
      // The column's collation may find more than the value's bytes.
      if (stored_time(ColumnSource(row, 0)) == time && is_of_agent(row) &&
          !offer({time, RowId{SQLITE_INTEGER, row.int64(1), {}}, row.int64(1), std::nullopt})) {
        return;
      }
    }
  }

  [[nodiscard]] bool is_of_agent(const Statement &row) const {
    return !filter_.agent || row.text(2) == *filter_.agent;
  }

  RowId id_of(std::int64_t rowid) {
    if (!id_row_) {
      id_row_.emplace(ledger_.db,
                      "SELECT id FROM " + ledger_.table + " WHERE " + ledger_.rowid + " = ?1");
    }
    id_row_->reset();
    if (!id_row_->bind(1, rowid).step()) {
      throw SqliteError(SQLITE_CORRUPT, "token_usage: an index row has no ledger row");
    }
    return read_id(*id_row_, 0);
  }

  // Takes the place into the list where it belongs there; false where it does not.
  bool offer(Place place) {
    if (after_ && !listed_before(*after_, place)) {
      return false;
    }
    if (in_order_) {
      if (places_.empty() || listed_before(places_.back(), place)) {
        if (full()) {
          return false;
        }
        places_.push_back(std::move(place));
        return true;
      }
      std::make_heap(places_.begin(), places_.end(), listed_before);
      in_order_ = false;
    }
    if (full()) {
      if (!listed_before(place, places_.front())) {
        return false;
      }
      std::pop_heap(places_.begin(), places_.end(), listed_before);
      places_.pop_back();
    }
    places_.push_back(std::move(place));
    std::push_heap(places_.begin(), places_.end(), listed_before);
    return true;
  }

  const Ledger &ledger_;
  const DetailedFilter &filter_;
  std::size_t wanted_;
  const std::optional<Place> &after_;
  Micros low_;
  Micros high_;
  bool id_is_rowid_;
  bool with_rows_;
  bool has_numbers_ = true;
  bool has_offsets_ = true;
  // In the order of the list as long as they come in it; from then on a heap, with the place that
  // is listed last on top.
  std::vector<Place> places_;
  bool in_order_ = true;
  // Rows that are kept, and behind them the one that was read last, with its id.
  PageRows rows_;
  std::size_t kept_rows_ = 0;
  std::size_t kept_texts_ = 0;
  std::int64_t seen_id_ = 0;
  std::optional<Statement> id_row_;
};

}  // namespace

Micros low_of(const DetailedFilter &filter) {
  return filter.start.value_or(kFirstInstant);
}

Micros past_high_of(const DetailedFilter &filter) {
  return filter.end ? std::min(*filter.end, kPastLastInstant - 1) + 1 : kPastLastInstant;
}

Places find_places(const Ledger &ledger, const DetailedFilter &filter, std::size_t wanted,
                   const std::optional<Place> &after, bool with_rows) {
  return PlaceFinder(ledger, filter, wanted, after, with_rows).find();
}

}  // namespace token_usage
