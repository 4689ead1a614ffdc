#include "detailed.h"

#include <algorithm>
#include <charconv>
#include <limits>

#include "arguments.h"
#include "request.h"
#include "sums.h"

namespace token_usage {

namespace {

// Where a row stands in the list.
struct Place {
  Micros created_at = 0;
  RowId id;
  std::int64_t rowid = 0;
};

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

int from_hex(char c) {
  if (c >= '0' && c <= '9') {
    return c - '0';
  }
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

// The id that a cursor names, as a column of that affinity holds it.
RowId parse_id(const std::string &text, Affinity affinity) {
  RowId out;
  if (affinity != Affinity::text) {
    const char *const end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, out.number);
    if (error == std::errc() && stop == end) {
      return out;
    }
    // x'...', as RowId::cursor_text writes a blob.
    if (text.size() >= 3 && text.size() % 2 == 1 && text.starts_with("x'") && text.back() == '\'') {
      out.type = SQLITE_BLOB;
      for (std::size_t i = 2; i + 2 < text.size(); i += 2) {
        const int high = from_hex(text[i]);
        const int low = from_hex(text[i + 1]);
        if (high < 0 || low < 0) {
          break;
        }
        out.bytes.push_back(static_cast<char>(high * 16 + low));
      }
      return out;
    }
  }
  out.type = SQLITE_TEXT;
  out.bytes = text;
  return out;
}

// The latest time that this row, or one that is stored before it in its index, can have. Numbers
// sort as times. Text sorts by its local date first, and the offset behind it may move it by less
// than a day.
Micros ceiling_of(const Statement &row, Micros time, int column) {
  if (row.type(column) != SQLITE_TEXT) {
    return time;
  }
  const std::optional<Micros> midnight = parse_timestamp_argument(row.text(column).substr(0, 10));
  return midnight ? *midnight + 2 * kMicrosPerDay : std::numeric_limits<Micros>::max();
}

Micros low_of(const DetailedFilter &filter) {
  return filter.start.value_or(kFirstInstant);
}

Micros past_high_of(const DetailedFilter &filter) {
  return filter.end ? std::min(*filter.end, kPastLastInstant - 1) + 1 : kPastLastInstant;
}

// The first `wanted` places of the list behind `after`.
std::vector<Place> first_places(const Ledger &ledger, const DetailedFilter &filter,
                                std::size_t wanted, const std::optional<Place> &after) {
  const Micros low = low_of(filter);
  Micros high = past_high_of(filter);
  if (after && after->created_at < high - 1) {
    high = after->created_at + 1;
  }
  std::vector<Place> heap;  // the last place listed is on top
  if (low >= high) {
    return heap;
  }
  const TimeRange range(ledger, low, high, filter.agent.has_value());
  const std::string columns =
      std::string("created_at, id, ") + (ledger.has_rowid ? "rowid" : "NULL") + ", agent_id";
  for (const std::string &select : range.selects(columns)) {
    Statement row(ledger.db, select + " ORDER BY created_at DESC");
    range.bind(row, filter.user, filter.agent);
    while (row.step()) {
      const std::optional<Micros> time = stored_time(row, 0);
      if (!time) {
        continue;
      }
      if (heap.size() == wanted && ceiling_of(row, *time, 0) < heap.front().created_at) {
        break;
      }
      if (*time < low || *time >= high || (filter.agent && row.text(3) != *filter.agent)) {
        continue;
      }
      if (heap.size() == wanted && *time < heap.front().created_at) {
        continue;
      }
      Place place{*time, read_id(row, 1), row.int64(2)};
      if (after && !listed_before(*after, place)) {
        continue;
      }
      if (heap.size() < wanted) {
        heap.push_back(std::move(place));
        std::push_heap(heap.begin(), heap.end(), listed_before);
      } else if (listed_before(place, heap.front())) {
        std::pop_heap(heap.begin(), heap.end(), listed_before);
        heap.back() = std::move(place);
        std::push_heap(heap.begin(), heap.end(), listed_before);
      }
    }
  }
  std::sort_heap(heap.begin(), heap.end(), listed_before);
  return heap;
}

std::optional<std::string> optional_text(const Statement &row, int column) {
  return row.is_null(column) ? std::nullopt : std::optional(std::string(row.text(column)));
}

}  // namespace

std::string RowId::cursor_text() const {
  switch (type) {
    case SQLITE_INTEGER:
      return std::to_string(number);
    case SQLITE_BLOB: {
      constexpr std::string_view digits = "0123456789abcdef";
      std::string out = "x'";
      for (const char c : bytes) {
        const auto byte = static_cast<unsigned char>(c);
        out.push_back(digits[byte >> 4U]);
        out.push_back(digits[byte & 15U]);
      }
      return out + '\'';
    }
    default:
      return bytes;
  }
}

Page detailed_page(const Ledger &ledger, const DetailedFilter &filter, std::int64_t limit,
                   std::int64_t offset, const std::optional<Cursor> &after) {
  std::optional<Place> from;
  if (after) {
    from = Place{after->created_at, parse_id(after->id, ledger.id), 0};
  }
  // One row more than the page tells whether another page follows. An offset past what memory could
  // hold is past any ledger.
  constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max() / 256;
  const std::vector<Place> places = first_places(
      ledger, filter, static_cast<std::size_t>(std::min(offset, most) + limit + 1), from);

  Page page;
  const auto skipped = static_cast<std::size_t>(
      std::min<std::int64_t>(offset, static_cast<std::int64_t>(places.size())));
  const std::size_t end = std::min(places.size(), skipped + static_cast<std::size_t>(limit));
  page.has_more = places.size() > end;
  if (skipped == end) {
    return page;
  }
  Statement row(ledger.db,
                "SELECT prompt_tokens, completion_tokens, total_tokens, cost_usd, cost_rub,"
                " execution_time_ms, agent_id, ai_provider, ai_model, platform, content_type,"
                " task_type, content_id, workflow_id, request_id, endpoint FROM " +
                    ledger.table + (ledger.has_rowid ? " WHERE rowid = ?1" : " WHERE id = ?1"));
  for (std::size_t i = skipped; i < end; ++i) {
    const Place &place = places[i];
    row.reset();
    if (ledger.has_rowid) {
      row.bind(1, place.rowid);
    } else if (place.id.type == SQLITE_INTEGER) {
      row.bind(1, place.id.number);
    } else if (place.id.type == SQLITE_BLOB) {
      row.bind_blob(1, place.id.bytes);
    } else {
      row.bind(1, std::string_view(place.id.bytes));
    }
    if (!row.step()) {
      throw SqliteError(SQLITE_CORRUPT, "token_usage: an index row has no ledger row");
    }
    page.rows.push_back({place.id, place.created_at, optional_text(row, 6), optional_text(row, 7),
                         optional_text(row, 8),
                         read_request([&row](int column) { return ColumnSource(row, column); }),
                         optional_text(row, 9), optional_text(row, 10), optional_text(row, 11),
                         optional_text(row, 12), optional_text(row, 13), optional_text(row, 14),
                         optional_text(row, 15)});
  }
  return page;
}

std::int64_t detailed_count(const Ledger &ledger, const DetailedFilter &filter) {
  const Micros low = low_of(filter);
  const Micros high = past_high_of(filter);
  std::int64_t count = 0;
  if (low >= high) {
    return count;
  }
  const TimeRange range(ledger, low, high, filter.agent.has_value());
  for (const std::string &select : range.selects("created_at, agent_id")) {
    Statement row(ledger.db, select);
    range.bind(row, filter.user, filter.agent);
    while (row.step()) {
      const std::optional<Micros> time = stored_time(row, 0);
      if (time && *time >= low && *time < high && (!filter.agent || row.text(1) == *filter.agent)) {
        ++count;
      }
    }
  }
  return count;
}

int register_detailed_count(sqlite3 *db) {
  const auto call = [](sqlite3_context *context, int count, sqlite3_value **values) {
    guard(context, [&] {
      sqlite3 *const handle = sqlite3_context_db_handle(context);
      const auto given = [&](int i) { return i < count ? values[i] : nullptr; };
      check_user(values[0]);
      const DetailedFilter filter{values[0], text_argument(given(1)),
                                  time_argument("start_date", given(2)),
                                  time_argument("end_date", given(3))};
      const std::string schema = schema_argument(given(4));
      check_schema(handle, schema);
      const Snapshot snapshot(handle, schema);
      sqlite3_result_int64(context, detailed_count(find_ledger(handle, schema), filter));
    });
  };
  int code = SQLITE_OK;
  for (int arguments = 1; code == SQLITE_OK && arguments <= 5; ++arguments) {
    code = sqlite3_create_function_v2(db, "token_usage_detailed_count", arguments, SQLITE_UTF8,
                                      nullptr, call, nullptr, nullptr, nullptr);
  }
  return code;
}

}  // namespace token_usage
