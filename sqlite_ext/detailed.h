// token_usage_detailed: the requests of a user, newest first, in pages. The stored forms of
// created_at do not compare as times, so a page is found by reading the index of each form
// downward, as far as a row of the page may lie, and keeping the newest rows.
#pragma once

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

struct DetailedRow {
  RowId id;
  Micros created_at = 0;
  std::optional<std::string> agent_id;
  std::optional<std::string> ai_provider;
  std::optional<std::string> ai_model;
  Request request;
  std::optional<std::string> platform;
  std::optional<std::string> content_type;
  std::optional<std::string> task_type;
  std::optional<std::string> content_id;
  std::optional<std::string> workflow_id;
  std::optional<std::string> request_id;
  std::optional<std::string> endpoint;

  [[nodiscard]] std::string cursor() const { return encode_cursor(created_at, id.cursor_text()); }
};

// The columns of a row but id and created_at, and how they are read.
inline constexpr const char *kPageColumns =
    "prompt_tokens, completion_tokens, total_tokens, cost_usd, cost_rub, execution_time_ms,"
    " agent_id, ai_provider, ai_model, platform, content_type, task_type, content_id, workflow_id,"
    " request_id, endpoint";
void read_page_row(RowValues values, DetailedRow &row);

// Which rows a page is taken from.
struct DetailedFilter {
  sqlite3_value *user;
  std::optional<std::string> agent;
  std::optional<Micros> start;  // inclusive
  std::optional<Micros> end;    // inclusive
};

struct Page {
  std::vector<DetailedRow> rows;
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
