#include "detailed.h"

#include <algorithm>
#include <charconv>
#include <limits>

#include "../core/hex.h"
#include "arguments.h"
#include "connection.h"
#include "place_finder.h"
#include "request.h"
#include "sums.h"
#include "visit.h"

namespace token_usage {

namespace {

// The id that a cursor names, as a column of that affinity holds it.
RowId parse_id(const std::string &text, Affinity affinity) {
  RowId out;
  if (affinity != Affinity::text) {
    const char *const end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, out.number);
    if (error == std::errc() && stop == end) {
      return out;
    }
  }
  out.type = SQLITE_TEXT;
  out.bytes = text;
  // x'...', as RowId::cursor_text writes a blob; a column of any affinity may hold one.
  if (text.size() >= 3 && text.size() % 2 == 1 && text.starts_with("x'") && text.back() == '\'') {
    if (std::optional<std::string> bytes =
            from_hex(std::string_view(text).substr(2, text.size() - 3))) {
      out.type = SQLITE_BLOB;
      out.bytes = std::move(*bytes);
    }
  }
  return out;
}

// Reads the rows of places one by one.
class RowReader {
 public:
  RowReader(const Ledger &ledger, const DetailedFilter &filter)
      : ledger_(ledger), filter_(filter) {}

  DetailedRow read(const Place &place, std::string &texts) {
    if (row_) {
      row_->reset();
    } else {
      prepare();
    }
    if (ledger_.has_rowid) {
      row_->bind(3, place.rowid);
    } else if (place.id.type == SQLITE_INTEGER) {
      row_->bind(3, place.id.number);
    } else if (place.id.type == SQLITE_BLOB) {
      row_->bind_blob(3, place.id.bytes);
    } else {
      row_->bind(3, std::string_view(place.id.bytes));
    }
    DetailedRow out;
    bool found = false;
    RowVisitor([&](RowValues values) {
      read_page_row(values, out, texts);
      found = true;
    }).run(*row_);
    if (!found) {
      throw SqliteError(SQLITE_CORRUPT, "token_usage: an index row has no ledger row");
    }
    return out;
  }

 private:
  void prepare() {
    row_.emplace(ledger_.db, *ledger_.kept, number_of(Text::page_row), [this] {
      return std::string("SELECT ") + kVisit + "(?11, " + kPageColumns + ") FROM " + ledger_.table +
             (ledger_.has_rowid ? " WHERE " + ledger_.rowid + " = ?3"
                                : " WHERE user_id = ?1 AND id = ?3");
    });
    if (!ledger_.has_rowid) {
      // The key of such a table may be (user_id, id), and then `id` alone finds other users' rows.
      bind_user(*row_, ledger_, filter_.user);
    }
  }

  const Ledger &ledger_;
  const DetailedFilter &filter_;
  std::optional<Statement> row_;
};

}  // namespace

std::string RowId::cursor_text() const {
  switch (type) {
    case SQLITE_INTEGER:
      return std::to_string(number);
    case SQLITE_BLOB:
      return "x'" + to_hex(bytes) + '\'';
    default:
      return bytes;
  }
}

void read_page_row(RowValues values, DetailedRow &row, std::string &texts) {
  row.request = read_request([values](int at) { return ValueSource(values[at]); });
  constexpr int first_text = 6;
  RowValues value = values + first_text;
  for (DetailedRow::Span &span : row.spans) {
    if (const std::optional<std::string_view> text = optional_text(*value)) {
      span = {texts.size(), text->size()};
      if (text->empty()) {
        texts.push_back('\0');
      } else {
        texts.append(text->data(), text->size() + 1);
      }
    } else {
      span = {};
    }
    ++value;
  }
}

Page detailed_page(const Ledger &ledger, const DetailedFilter &filter, std::int64_t limit,
                   std::int64_t offset, const std::optional<Cursor> &after) {
  std::optional<Place> from;
  if (after) {
    from = Place{after->created_at, parse_id(after->id, ledger.id), 0, std::nullopt};
    if (from->id.type != SQLITE_INTEGER && id_is_rowid(ledger)) {
      bad_argument("after", rule_cursor, encode_cursor(after->created_at, after->id));
    }
  }
  // One row more than the page tells whether another page follows. An offset past what memory could
  // hold is past any ledger.
  constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max() / 256;
  const auto wanted = static_cast<std::size_t>(std::min(offset, most) + limit + 1);
  // Of a page that lies deep in the list, most places that are met belong to no row of it.
  auto [places, found] = find_places(ledger, filter, wanted, from, offset <= limit);

  Page page;
  const auto skipped = static_cast<std::size_t>(
      std::min<std::int64_t>(offset, static_cast<std::int64_t>(places.size())));
  const std::size_t end = std::min(places.size(), skipped + static_cast<std::size_t>(limit));
  page.has_more = places.size() > end;
  if (skipped == end) {
    return page;
  }
  RowReader reader(ledger, filter);
  // Mostly they came in the order of the list.
  std::size_t same = 0;
  while (skipped == 0 && same < end && places[same].row == same) {
    ++same;
  }
  page.texts = std::move(found.texts);
  if (same == end) {
    page.rows = std::move(found.rows);
    page.rows.resize(end);
  } else {
    page.rows.reserve(end - skipped);
    for (std::size_t i = skipped; i < end; ++i) {
      page.rows.push_back(places[i].row ? std::move(found.rows[*places[i].row])
                                        : reader.read(places[i], page.texts));
    }
  }
  for (std::size_t i = skipped; i < end; ++i) {
    DetailedRow &row = page.rows[i - skipped];
    row.created_at = places[i].created_at;
    row.id = std::move(places[i].id);
  }
  return page;
}

std::int64_t detailed_count(Snapshot &snapshot, const DetailedFilter &filter) {
  const Micros low = low_of(filter);
  const Micros high = past_high_of(filter);
  std::int64_t count = 0;
  if (low >= high) {
    return count;
  }
  for (const Sum &sum :
       collect_sums(snapshot, filter.user, filter.agent, {low, high}, Dimension::count)) {
    count += sum.measures.requests_count;
  }
  return count;
}

int register_detailed_count(sqlite3 *db) {
  const auto call = [](sqlite3_context *context, int count, sqlite3_value **values) {
    guard(context, [&] {
      sqlite3 *const handle = sqlite3_context_db_handle(context);
      connect_a_table(handle);
      const auto given = [&](int i) { return i < count ? values[i] : nullptr; };
      check_user(values[0]);
      const DetailedFilter filter{values[0], text_argument(given(1)),
                                  time_argument("start_date", given(2)),
                                  time_argument("end_date", given(3))};
      const std::string schema = schema_argument(given(4));
      Snapshot snapshot(handle, schema);
      sqlite3_result_int64(context, detailed_count(snapshot, filter));
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
