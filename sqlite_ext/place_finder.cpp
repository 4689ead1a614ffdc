#include "place_finder.h"

#include <algorithm>
#include <limits>

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

// `YYYY-MM-DD`, the mark between date and time and `HH` of a time, followed by `end`.
std::string hour_text(Micros time, char mark, std::string_view end) {
  const std::string text = format_timestamp(time);
  return text.substr(0, 10) + mark + text.substr(11, 2).append(end);
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
              const std::optional<Place> &after)
      : ledger_(ledger),
        filter_(filter),
        wanted_(wanted),
        after_(after),
        low_(std::max(low_of(filter), kFirstInstant)),
        high_(past_high_of(filter)),
        id_is_rowid_(id_is_rowid(ledger)),
        from_(" FROM " + ledger.table + " WHERE user_id = ?1" +
              (filter.agent ? " AND agent_id = ?2" : "")),
        columns_("created_at, " + (id_is_rowid_ || !ledger.has_rowid ? "id" : ledger.rowid) +
                 (filter.agent ? ", agent_id" : "")) {
    if (after && after->created_at < high_ - 1) {
      high_ = after->created_at + 1;
    }
  }

  std::vector<Place> find() {
    if (low_ < high_) {
      // A column of text affinity holds no numbers, and would compare these bounds as text.
      if (ledger_.created_at != Affinity::text) {
        scan_numbers();
      }
      scan_plain_text();
      scan_text_with_offset();
      std::sort_heap(heap_.begin(), heap_.end(), listed_before);
    }
    return std::move(heap_);
  }

 private:
  // Rows of one stored value that were met, until it is known how many there are.
  struct Run {
    bool open = false;
    std::string text;
    int type = SQLITE_NULL;
    double number = 0;
    std::optional<Micros> time;
    std::vector<std::int64_t> rowids;
  };

  enum class Form { number, plain_text, text_with_offset };

  [[nodiscard]] bool full() const { return heap_.size() == wanted_; }

  // True where no row of that time can be in the list any more.
  [[nodiscard]] bool too_old(Micros time) const {
    return time < low_ || (full() && time < heap_.front().created_at);
  }

  void scan_numbers() {
    constexpr std::int64_t first_millis = 100'000'000'000;
    const auto floor_divide = [](Micros time, Micros step) {
      return time / step - (time % step < 0 ? 1 : 0);
    };
    const std::int64_t seconds_past = floor_divide(high_ - 1, kMicrosPerSecond) + 1;
    scan(Form::number,
         seconds_past > first_millis
             ? " AND (created_at < 100000000000 OR typeof(created_at) = 'real')"
             : "",
         floor_divide(low_, kMicrosPerSecond), seconds_past);
    const std::int64_t millis_past = floor_divide(high_ - 1, 1'000) + 1;
    if (millis_past > first_millis) {
      scan(Form::number, " AND typeof(created_at) = 'integer'",
           std::max(first_millis, floor_divide(low_, 1'000)), millis_past);
    }
  }

  void scan_plain_text() {
    scan(Form::plain_text, "", hour_text(low_, ' ', ""), hour_text(high_ - 1, 'T', "~"));
  }

  void scan_text_with_offset() {
    const Micros low = full() ? std::max(low_, heap_.front().created_at) : low_;
    const Micros first = std::max(low - kMicrosPerDay, kFirstInstant);
    const Micros last = std::min(high_ + kMicrosPerDay, kPastLastInstant) - 1;
    scan(Form::text_with_offset,
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

  // Reads the rows whose stored created_at lies in [low, high) downward.
  template <typename Bound>
  void scan(Form form, const char *condition, const Bound &low, const Bound &high) {
    Statement row(ledger_.db,
                  "SELECT " + columns_ + from_ + " AND created_at < ?3 AND created_at >= ?4" +
                      condition + " ORDER BY created_at DESC",
                  Keep::yes);
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
    while (row.step()) {
      if (!run.open || !is_of(run, row)) {
        flush(run);
        start(run, row);
        if (form == Form::plain_text && has_offset(run.text)) {
          run.time.reset();
        }
        if (too_old(ceiling_of(form, run))) {
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
          const Micros into_minute = (*run.time % minute + minute) % minute;
          if (!spaced && too_old(*run.time - into_minute + minute - 1)) {
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
        offer({*run.time, read_id(row, 1), 0});
      } else if (!id_is_rowid_) {
        offer({*run.time, id_of(row.int64(1)), row.int64(1)});
      } else {
        run.rowids.push_back(row.int64(1));
        if (may_leave && run.rowids.size() > long_run) {
          const OwnedValue value = row.copy(0);
          offer_newest(value.get(), *run.time);
          run.rowids.clear();
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

  static void start(Run &run, const Statement &row) {
    run.open = true;
    run.type = row.type(0);
    run.text = run.type == SQLITE_TEXT ? row.text(0) : std::string_view();
    run.number = run.type == SQLITE_TEXT ? 0 : row.real(0);
    run.time = stored_time(row, 0);
    run.rowids.clear();
  }

  static bool is_of(const Run &run, const Statement &row) {
    return row.type(0) == run.type &&
           (run.type == SQLITE_TEXT ? row.text(0) == run.text : row.real(0) == run.number);
  }

  void flush(Run &run) {
    for (const std::int64_t rowid : run.rowids) {
      offer({*run.time, RowId{SQLITE_INTEGER, rowid, {}}, rowid});
    }
    run.rowids.clear();
  }

  // Among very many rows of one stored value, those with the highest ids, as far as they are
  // wanted.
  void offer_newest(const sqlite3_value *value, Micros time) {
    const bool behind = after_ && after_->created_at == time;
    Statement row(ledger_.db,
                  "SELECT " + columns_ + from_ + " AND created_at = ?3" +
                      (behind ? " AND id < ?4" : "") + " ORDER BY id DESC",
                  Keep::yes);
    bind_filter(row);
    row.bind(3, value);
    if (behind) {
      row.bind(4, after_->id.number);
    }
    while (row.step()) {
      // The column's collation may find more than the value's bytes.
      if (stored_time(row, 0) == time && is_of_agent(row) &&
          !offer({time, RowId{SQLITE_INTEGER, row.int64(1), {}}, row.int64(1)})) {
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
    if ((after_ && !listed_before(*after_, place)) ||
        (full() && !listed_before(place, heap_.front()))) {
      return false;
    }
    if (full()) {
      std::pop_heap(heap_.begin(), heap_.end(), listed_before);
      heap_.pop_back();
    }
    heap_.push_back(std::move(place));
    std::push_heap(heap_.begin(), heap_.end(), listed_before);
    return true;
  }

  const Ledger &ledger_;
  const DetailedFilter &filter_;
  std::size_t wanted_;
  const std::optional<Place> &after_;
  Micros low_;
  Micros high_;
  bool id_is_rowid_;
  std::string from_;
  std::string columns_;
  std::vector<Place> heap_;  // the place that is listed last is on top
  std::optional<Statement> id_row_;
};

}  // namespace

Micros low_of(const DetailedFilter &filter) {
  return filter.start.value_or(kFirstInstant);
}

Micros past_high_of(const DetailedFilter &filter) {
  return filter.end ? std::min(*filter.end, kPastLastInstant - 1) + 1 : kPastLastInstant;
}

std::vector<Place> find_places(const Ledger &ledger, const DetailedFilter &filter,
                               std::size_t wanted, const std::optional<Place> &after) {
  return PlaceFinder(ledger, filter, wanted, after).find();
}

}  // namespace token_usage
