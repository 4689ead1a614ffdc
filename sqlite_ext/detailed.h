// token_usage_detailed: the requests of a user, newest first, in pages. The stored forms of
// created_at do not compare as times, so a page is found by reading the index of each form
// downward, as far as a row of the page may lie, and keeping the newest rows.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "../core/cursor.h"
#include "../core/measures.h"
#include "ledger.h"
#include "visit.h"

namespace token_usage {

// The value of `id`, which an adopted ledger may declare as anything.
struct RowId {
  int type = SQLITE_INTEGER;
  std::int64_t number = 0;
  std::string bytes;

  // As a cursor carries it.
  [[nodiscard]] std::string cursor_text() const;
};

// The texts of a row, in the order of kPageColumns.
enum class PageText : std::size_t {
  agent_id,
  ai_provider,
  ai_model,
  platform,
  content_type,
  task_type,
  content_id,
  workflow_id,
  request_id,
  endpoint,
  count,
};

struct DetailedRow {
  // Where a text stands in PageRows::texts; NULL is one without a place.
  struct Span {
    static constexpr std::size_t nowhere = std::string::npos;
    std::size_t at = nowhere;
    std::size_t size = 0;
  };

  RowId id;
  Micros created_at = 0;
  Request request;
  std::array<Span, static_cast<std::size_t>(PageText::count)> spans;

  [[nodiscard]] std::string cursor() const { return encode_cursor(created_at, id.cursor_text()); }
};

// Rows whose texts stand one behind the other in one piece of memory, a zero byte after each: a
// page has a thousand of them, mostly short or NULL.
struct PageRows {
  std::vector<DetailedRow> rows;
  std::string texts;

  [[nodiscard]] std::optional<std::string_view> text(const DetailedRow &row, PageText which) const {
    const DetailedRow::Span &span = row.spans[static_cast<std::size_t>(which)];
    return span.at == DetailedRow::Span::nowhere
               ? std::nullopt
               : std::optional(std::string_view(texts.data() + span.at, span.size));
  }
};

// The columns of a row but id and created_at, and how they are read.
inline constexpr const char *kPageColumns =
    "prompt_tokens, completion_tokens, total_tokens, cost_usd, cost_rub, execution_time_ms,"
    " agent_id, ai_provider, ai_model, platform, content_type, task_type, content_id, workflow_id,"
    " request_id, endpoint";
void read_page_row(RowValues values, DetailedRow &row, std::string &texts);

// Which rows a page is taken from.
struct DetailedFilter {
  sqlite3_value *user;
  std::optional<std::string> agent;
  std::optional<Micros> start;  // inclusive
  std::optional<Micros> end;    // inclusive
};

struct Page : PageRows {
  bool has_more = false;
};

// The rows behind `after` (where one is given) from `offset` on, at most `limit`, and whether one
// more follows.
Page detailed_page(const Ledger &ledger, const DetailedFilter &filter, std::int64_t limit,
                   std::int64_t offset, const std::optional<Cursor> &after);

// How many rows all pages hold.
std::int64_t detailed_count(Snapshot &snapshot, const DetailedFilter &filter);

// The SQL functions token_usage_detailed_count(user_id [, agent, start_date, end_date, schema]).
int register_detailed_count(sqlite3 *db);

}  // namespace token_usage
