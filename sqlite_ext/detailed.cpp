#include "detailed.h"

#include <algorithm>
#include <charconv>
#include <limits>

#include "../core/hex.h"
#include "arguments.h"
#include "place_finder.h"
#include "request.h"
#include "statement_cache.h"
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

std::optional<std::string> optional_text(sqlite3_value *value) {
  return sqlite3_value_type(value) == SQLITE_NULL ? std::nullopt
                                                  : std::optional(std::string(value_text(value)));
}

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

Page detailed_page(const Ledger &ledger, const DetailedFilter &filter, std::int64_t limit,
                   std::int64_t offset, const std::optional<Cursor> &after) {
  std::optional<Place> from;
  if (after) {
    from = Place{after->created_at, parse_id(after->id, ledger.id), 0};
    if (from->id.type != SQLITE_INTEGER && id_is_rowid(ledger)) {
      bad_argument("after", rule_cursor, encode_cursor(after->created_at, after->id));
    }
  }
  // One row more than the page tells whether another page follows. An offset past what memory could
  // hold is past any ledger.
  constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max() / 256;
  const auto wanted = static_cast<std::size_t>(std::min(offset, most) + limit + 1);
  const std::vector<Place> places = find_places(ledger, filter, wanted, from);

  Page page;
  const auto skipped = static_cast<std::size_t>(
      std::min<std::int64_t>(offset, static_cast<std::int64_t>(places.size())));
  const std::size_t end = std::min(places.size(), skipped + static_cast<std::size_t>(limit));
  page.has_more = places.size() > end;
  if (skipped == end) {
    return page;
  }
  Statement row(ledger.db,
                std::string("SELECT ") + kVisit +
                    "(?11, prompt_tokens, completion_tokens, total_tokens, cost_usd, cost_rub,"
                    " execution_time_ms, agent_id, ai_provider, ai_model, platform, content_type,"
                    " task_type, content_id, workflow_id, request_id, endpoint) FROM " +
                    ledger.table +
                    (ledger.has_rowid ? " WHERE " + ledger.rowid + " = ?3"
                                      : " WHERE user_id = ?1 AND id = ?3"),
                Keep::yes);
  if (!ledger.has_rowid) {
    // The key of such a table may be (user_id, id), and then `id` alone finds other users' rows.
    bind_user(row, ledger, filter.user);
  }
  page.rows.reserve(end - skipped);
  for (std::size_t i = skipped; i < end; ++i) {
    const Place &place = places[i];
    row.reset();
    if (ledger.has_rowid) {
      row.bind(3, place.rowid);
    } else if (place.id.type == SQLITE_INTEGER) {
      row.bind(3, place.id.number);
    } else if (place.id.type == SQLITE_BLOB) {
      row.bind_blob(3, place.id.bytes);
    } else {
      row.bind(3, std::string_view(place.id.bytes));
    }
    RowVisitor([&](RowValues value) {
      page.rows.push_back({place.id, place.created_at, optional_text(value[6]),
                           optional_text(value[7]), optional_text(value[8]),
                           read_request([value](int at) { return ValueSource(value[at]); }),
                           optional_text(value[9]), optional_text(value[10]),
                           optional_text(value[11]), optional_text(value[12]),
                           optional_text(value[13]), optional_text(value[14]),
                           optional_text(value[15])});
    }).run(row);
    if (page.rows.size() != i - skipped + 1) {
      throw SqliteError(SQLITE_CORRUPT, "token_usage: an index row has no ledger row");
    }
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
  for (const Sum &sum :
       collect_sums(ledger, filter.user, filter.agent, {low, high}, Dimension::count)) {
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
