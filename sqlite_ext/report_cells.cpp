#include "report_cells.h"

#include "arguments.h"

namespace token_usage {

namespace {

// The columns of a page are functions of their own, so that the one that chooses among them, which
// is called some two thousand times a page, has next to nothing to set up.
[[gnu::noinline]] void result_id(sqlite3_context *context, const RowId &id) {
  if (id.type == SQLITE_INTEGER) {
    sqlite3_result_int64(context, id.number);
  } else if (id.type == SQLITE_BLOB) {
    sqlite3_result_blob64(context, id.bytes.data(), id.bytes.size(), SQLITE_TRANSIENT);
  } else {
    result_text(context, id.bytes);
  }
}

[[gnu::noinline]] void result_time(sqlite3_context *context, Micros time) {
  TimeText buffer;
  // No zero byte is in it, so SQLite finds its end.
  sqlite3_result_text(context, format_timestamp(time, buffer).data(), -1, SQLITE_TRANSIENT);
}

[[gnu::noinline]] void result_span(sqlite3_context *context, const PageRows &page,
                                   DetailedRow::Span span) {
  if (span.at != DetailedRow::Span::nowhere) {
    result_text(context, page.texts.data() + span.at, span.size);
  }
}

void result_optional(sqlite3_context *context, const std::optional<std::string> &text) {
  if (text) {
    result_text(context, *text);
  }
}

[[gnu::noinline]] void result_optional(sqlite3_context *context,
                                       const std::optional<Decimal> &cost) {
  if (cost) {
    sqlite3_result_double(context, cost->to_double());
  }
}

// Milliseconds are whole unless an adopted column holds fractions.
[[gnu::noinline]] void result_milliseconds(sqlite3_context *context,
                                           const std::optional<Decimal> &value) {
  if (!value) {
    return;
  }
  constexpr std::int64_t one = 1'000'000'000'000;
  const int128 units = value->units();
  const auto narrow = static_cast<std::int64_t>(units);  // of nearly all, and divided much faster
  const bool is_narrow = narrow == units;
  if (is_narrow ? narrow % one == 0 : units % one == 0) {
    sqlite3_result_int64(context,
                         is_narrow ? narrow / one : static_cast<std::int64_t>(units / one));
  } else {
    sqlite3_result_double(context, value->to_double());
  }
}

}  // namespace

Cell value_cell(sqlite3_value *value) {
  switch (value == nullptr ? SQLITE_NULL : sqlite3_value_type(value)) {
    case SQLITE_INTEGER:
      return sqlite3_value_int64(value);
    case SQLITE_FLOAT:
      return sqlite3_value_double(value);
    case SQLITE_TEXT:
      return std::string(value_text(value));
    case SQLITE_BLOB: {
      const auto *const bytes = static_cast<const char *>(sqlite3_value_blob(value));
      const auto size = static_cast<std::size_t>(sqlite3_value_bytes(value));
      if (bytes == nullptr && size > 0) {
        throw std::bad_alloc();
      }
      return Blob{std::string(bytes == nullptr ? "" : bytes, size)};
    }
    default:
      return {};
  }
}

void result_cell(sqlite3_context *context, const Cell &cell) {
  if (const auto *const integer = std::get_if<std::int64_t>(&cell)) {
    sqlite3_result_int64(context, *integer);
  } else if (const auto *const real = std::get_if<double>(&cell)) {
    sqlite3_result_double(context, *real);
  } else if (const auto *const text = std::get_if<std::string>(&cell)) {
    result_text(context, *text);
  } else if (const auto *const blob = std::get_if<Blob>(&cell)) {
    sqlite3_result_blob64(context, blob->bytes.data(), blob->bytes.size(), SQLITE_TRANSIENT);
  }
}

Cell text_cell(const std::optional<std::string> &text) {
  return text ? Cell(*text) : Cell();
}

Line line_of(std::optional<std::string> key, const Measures &measures) {
  token_sum(measures.prompt_tokens, "prompt_tokens");
  token_sum(measures.completion_tokens, "completion_tokens");
  token_sum(measures.total_tokens, "total_tokens");
  return {{std::move(key), std::nullopt}, measures};
}

void result_line(sqlite3_context *context, const Line &line, int keys, int index) {
  const Measures &measures = line.measures;
  if (index < keys) {
    return result_optional(context, line.keys[static_cast<std::size_t>(index)]);
  }
  switch (index - keys) {
    case 0:
      return sqlite3_result_int64(context, measures.requests_count);
    case 1:
      return sqlite3_result_int64(context, static_cast<std::int64_t>(measures.prompt_tokens));
    case 2:
      return sqlite3_result_int64(context, static_cast<std::int64_t>(measures.completion_tokens));
    case 3:
      return sqlite3_result_int64(context, static_cast<std::int64_t>(measures.total_tokens));
    case 4:
      return sqlite3_result_double(context, measures.cost_usd.to_double());
    case 5:
      return sqlite3_result_double(context, measures.cost_rub.to_double());
    case 6:
      return sqlite3_result_int64(context, measures.unpriced_count);
    default:
      if (const std::optional<std::int64_t> average = measures.avg_execution_time_ms()) {
        sqlite3_result_int64(context, *average);
      }
  }
}

void result_detailed(sqlite3_context *context, const PageRows &page, const DetailedRow &row,
                     int index) {
  const Request &request = row.request;
  const auto text = [&](PageText which) {
    result_span(context, page, row.spans[static_cast<std::size_t>(which)]);
  };
  switch (index) {
    case 0:
      return result_id(context, row.id);
    case 1:
      return result_time(context, row.created_at);
    case 2:
      return text(PageText::agent_id);
    case 3:
      return text(PageText::ai_provider);
    case 4:
      return text(PageText::ai_model);
    case 5:
      return sqlite3_result_int64(context, request.prompt_tokens);
    case 6:
      return sqlite3_result_int64(context, request.completion_tokens);
    case 7:
      return sqlite3_result_int64(context, request.total_tokens);
    case 8:
      return result_optional(context, request.cost_usd);
    case 9:
      return result_optional(context, request.cost_rub);
    case 10:
      return result_milliseconds(context, request.execution_time_ms);
    case 11:
      return text(PageText::platform);
    case 12:
      return text(PageText::content_type);
    case 13:
      return text(PageText::task_type);
    case 14:
      return text(PageText::content_id);
    case 15:
      return text(PageText::workflow_id);
    case 16:
      return text(PageText::request_id);
    case 17:
      return text(PageText::endpoint);
    default:
      return result_text(context, row.cursor());
  }
}

}  // namespace token_usage
