// The reports as table-valued functions: eponymous-only virtual tables whose hidden columns are the
// arguments, in the order of the contract, and last `schema`, for an attached database. All reading
// happens in xFilter, inside the statement that called; a cursor holds plain rows and no statement.

#include "report_tables.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <limits>
#include <memory>

#include "arguments.h"
#include "connection.h"
#include "detailed.h"
#include "report_cells.h"
#include "reports.h"
#include "verify.h"

namespace token_usage {

namespace {

// The most that a report takes, with schema. A report with more does not compile: its names would
// not fit into Report::arguments.
constexpr std::size_t kMostArguments = 8;

// The arguments of one call by their place in the contract's list; a null pointer where one is not
// given. The last is schema.
struct Arguments {
  sqlite3 *db;
  std::size_t count;
  std::array<sqlite3_value *, kMostArguments> values;
  sqlite3_value *operator[](std::size_t i) const { return values[i]; }
  [[nodiscard]] std::string schema() const { return schema_argument(values[count - 1]); }
};

struct Report {
  const char *name;
  const char *columns;  // visible ones
  // Hidden ones, without schema; null pointers behind them.
  std::array<const char *, kMostArguments - 1> arguments;
  std::vector<Line> (*lines)(const Arguments &);
  double estimated_rows;
  int keys = 1;
  // In place of `lines`: a page, or rows of cells.
  PageRows (*page)(const Arguments &) = nullptr;
  std::vector<Row> (*rows)(const Arguments &) = nullptr;

  [[nodiscard]] std::ptrdiff_t argument_count() const {
    return std::find(arguments.begin(), arguments.end(), nullptr) - arguments.begin();
  }
};

#define TOKEN_USAGE_MEASURES                                                                \
  "requests_count INTEGER, prompt_tokens INTEGER, completion_tokens INTEGER, total_tokens " \
  "INTEGER, cost_usd REAL, cost_rub REAL, unpriced_count INTEGER"

constexpr const char *kDetailedColumns =
    "id, created_at TEXT, agent_id TEXT, ai_provider TEXT, ai_model TEXT, prompt_tokens INTEGER, "
    "completion_tokens INTEGER, total_tokens INTEGER, cost_usd REAL, cost_rub REAL, "
    "execution_time_ms INTEGER, platform TEXT, content_type TEXT, task_type TEXT, content_id TEXT, "
    "workflow_id TEXT, request_id TEXT, endpoint TEXT, cursor TEXT";

std::vector<Line> group_lines(std::vector<GroupMeasures> groups) {
  std::vector<Line> out;
  out.reserve(groups.size());
  for (GroupMeasures &group : groups) {
    Line &line = out.emplace_back(line_of(std::move(group.keys[0]), group.measures));
    if (group.keys.size() > 1) {
      line.keys[1] = std::move(group.keys[1]);
    }
  }
  return out;
}

std::int64_t days_argument(const Arguments &in, const char *name) {
  return integer_argument(name, in[1], 30, 1, 36'600);
}

std::vector<Line> summary_lines(const Arguments &in) {
  std::vector<Line> out;
  for (const NamedMeasures &each : summary(Scope(in.db, in[0], in[1], in[2], in.schema()))) {
    out.push_back(line_of(each.name, each.measures));
  }
  return out;
}

std::vector<Line> history_lines(const Arguments &in) {
  check_user(in[0]);
  const std::int64_t days = days_argument(in, "days");
  std::vector<Line> out;
  out.reserve(static_cast<std::size_t>(days));
  for (const DayMeasures &each :
       history(Scope(in.db, in[0], in[3], in[4], in.schema()), days, text_argument(in[2]))) {
    out.push_back(line_of(format_date(each.day), each.measures));
  }
  return out;
}

std::vector<Line> by_agent_lines(const Arguments &in) {
  check_user(in[0]);
  const std::int64_t days = days_argument(in, "period_days");
  return group_lines(by_agent(Scope(in.db, in[0], in[2], in[3], in.schema()), days));
}

std::vector<Line> by_model_lines(const Arguments &in) {
  check_user(in[0]);
  const std::int64_t days = days_argument(in, "period_days");
  return group_lines(by_model(Scope(in.db, in[0], in[2], in[3], in.schema()), days));
}

std::vector<Line> by_provider_lines(const Arguments &in) {
  check_user(in[0]);
  const std::int64_t days = days_argument(in, "period_days");
  return group_lines(by_provider(by_model(Scope(in.db, in[0], in[2], in[3], in.schema()), days)));
}

std::vector<Line> totals_lines(const Arguments &in) {
  check_user(in[0]);
  const std::string period = period_argument(in[1]);
  const Measures sum =
      totals(Scope(in.db, in[0], in[3], in[4], in.schema()), period, text_argument(in[2]));
  return {line_of(period, sum)};
}

PageRows detailed_rows(const Arguments &in) {
  check_user(in[0]);
  const std::int64_t limit = integer_argument("page_limit", in[1], 100, 1, 500);
  const std::int64_t offset =
      integer_argument("page_offset", in[2], 0, 0, std::numeric_limits<std::int64_t>::max());
  const DetailedFilter filter{in[0], text_argument(in[3]), time_argument("start_date", in[4]),
                              time_argument("end_date", in[5])};
  const std::optional<Cursor> after = cursor_argument(in[6]);
  const std::string schema = in.schema();
  Snapshot snapshot(in.db, schema);
  return detailed_page(snapshot.ledger(), filter, limit, offset, after);
}

std::vector<Row> verify_rows(const Arguments &in) {
  const std::string schema = in.schema();
  Snapshot snapshot(in.db, schema);
  std::vector<Row> out;
  for (const Difference &line : verify(snapshot.ledger(), in[0])) {
    out.push_back({line.user_id, line.bucket, line.dimension, line.measure, text_cell(line.ledger),
                   text_cell(line.rollup)});
  }
  return out;
}

constexpr Report kReports[] = {
    {"token_usage_summary",
     "period TEXT, " TOKEN_USAGE_MEASURES,
     {"user_id", "time_zone", "as_of"},
     summary_lines,
     3},
    {"token_usage_history",
     "date TEXT, " TOKEN_USAGE_MEASURES,
     {"user_id", "days", "agent", "time_zone", "as_of"},
     history_lines,
     30},
    {"token_usage_by_agent",
     "agent_id TEXT, " TOKEN_USAGE_MEASURES ", avg_execution_time_ms INTEGER",
     {"user_id", "period_days", "time_zone", "as_of"},
     by_agent_lines,
     10},
    {"token_usage_by_model",
     "ai_provider TEXT, ai_model TEXT, " TOKEN_USAGE_MEASURES ", avg_execution_time_ms INTEGER",
     {"user_id", "period_days", "time_zone", "as_of"},
     by_model_lines,
     15,
     2},
    {"token_usage_by_provider",
     "ai_provider TEXT, " TOKEN_USAGE_MEASURES ", avg_execution_time_ms INTEGER",
     {"user_id", "period_days", "time_zone", "as_of"},
     by_provider_lines,
     5},
    {"token_usage_totals",
     "period TEXT, " TOKEN_USAGE_MEASURES ", avg_execution_time_ms INTEGER",
     // The hidden column cannot be named like the visible one; positional calls do not notice.
     {"user_id", "period_name", "agent", "time_zone", "as_of"},
     totals_lines,
     1},
    {"token_usage_detailed",
     kDetailedColumns,
     {"user_id", "page_limit", "page_offset", "agent", "start_date", "end_date", "after"},
     nullptr,
     100,
     0,
     detailed_rows},
    {"token_usage_verify",
     "user_id TEXT, bucket TEXT, dimension TEXT, measure TEXT, ledger TEXT, rollup TEXT",
     {"for_user"},
     nullptr,
     10,
     0,
     nullptr,
     verify_rows},
};

struct Table : sqlite3_vtab {
  sqlite3 *db;
  const Report *report;
  int visible;
  int hidden;
};

struct ReportCursor : sqlite3_vtab_cursor {
  std::vector<Line> lines;
  PageRows page;          // in place of `lines`
  std::vector<Row> rows;  // the same
  std::size_t at = 0;
  std::size_t past = 0;  // how many of them there are
  // What the hidden columns show: the arguments of the call.
  std::array<Cell, kMostArguments> arguments;
};

int connect(sqlite3 *db, void *data, int, const char *const *, sqlite3_vtab **out,
            char **message) noexcept {
  try {
    const auto *const report = static_cast<const Report *>(data);
    std::string declaration = std::string("CREATE TABLE x(") + report->columns;
    for (std::ptrdiff_t i = 0; i < report->argument_count(); ++i) {
      declaration +=
          std::string(", \"") + report->arguments[static_cast<std::size_t>(i)] + "\" HIDDEN";
    }
    declaration += ", \"schema\" HIDDEN)";
    const int code = sqlite3_declare_vtab(db, declaration.c_str());
    if (code != SQLITE_OK) {
      return code;
    }
    const std::string columns = report->columns;
    auto table = std::make_unique<Table>();
    table->db = db;
    table->report = report;
    table->visible = 1 + static_cast<int>(std::count(columns.begin(), columns.end(), ','));
    table->hidden = static_cast<int>(report->argument_count()) + 1;
    table_connected(db);
    *out = table.release();
    return SQLITE_OK;
  } catch (const std::bad_alloc &) {
    return SQLITE_NOMEM;
  } catch (const std::exception &error) {
    return set_message(message, error.what(), SQLITE_ERROR);
  }
}

int disconnect(sqlite3_vtab *base) noexcept {
  const auto *const table = static_cast<Table *>(base);
  table_disconnected(table->db);
  delete table;
  return SQLITE_OK;
}

int best_index(sqlite3_vtab *base, sqlite3_index_info *info) noexcept {
  const auto *const table = static_cast<Table *>(base);
  return guard(base, [&] {
    // One equality for each argument; idxNum tells xFilter which of them are given.
    std::vector<int> chosen(static_cast<std::size_t>(table->hidden), -1);
    std::vector<bool> unusable(static_cast<std::size_t>(table->hidden), false);
    for (int i = 0; i < info->nConstraint; ++i) {
      const auto &constraint = info->aConstraint[i];
      const int argument = constraint.iColumn - table->visible;
      if (argument < 0 || constraint.op != SQLITE_INDEX_CONSTRAINT_EQ) {
        continue;
      }
      const auto slot = static_cast<std::size_t>(argument);
      if (constraint.usable == 0) {
        unusable[slot] = true;
      } else if (chosen[slot] < 0) {
        chosen[slot] = i;
      }
    }
    int next = 1;
    for (std::size_t slot = 0; slot < chosen.size(); ++slot) {
      if (chosen[slot] >= 0) {
        auto &usage = info->aConstraintUsage[chosen[slot]];
        usage.argvIndex = next++;
        usage.omit = 1;
        info->idxNum |= 1 << slot;
      } else if (unusable[slot]) {
        // Another order of the tables in the join will have the value.
        return SQLITE_CONSTRAINT;
      }
    }
    if (chosen[0] < 0 && table->report->rows == nullptr) {
      bad_argument("user_id", "given", "NULL");
    }
    info->estimatedCost = 1000;
    info->estimatedRows = static_cast<sqlite3_int64>(table->report->estimated_rows);
    return SQLITE_OK;
  });
}

int open(sqlite3_vtab *table, sqlite3_vtab_cursor **out) noexcept {
  return guard(table, [&] {
    *out = new ReportCursor();
    return SQLITE_OK;
  });
}

int close(sqlite3_vtab_cursor *cursor) noexcept {
  delete static_cast<ReportCursor *>(cursor);
  return SQLITE_OK;
}

int filter(sqlite3_vtab_cursor *base, int which, const char *, int,
           sqlite3_value **values) noexcept {
  auto *const cursor = static_cast<ReportCursor *>(base);
  auto *const table = static_cast<Table *>(base->pVtab);
  return guard(table, [&] {
    cursor->lines.clear();
    cursor->page = {};
    cursor->rows.clear();
    cursor->at = 0;
    cursor->past = 0;
    const auto count = static_cast<std::size_t>(table->hidden);
    Arguments arguments{table->db, count, {}};
    int next = 0;
    for (std::size_t slot = 0; slot < count; ++slot) {
      sqlite3_value *const value = ((which >> slot) & 1) != 0 ? values[next++] : nullptr;
      arguments.values[slot] = value;
      cursor->arguments[slot] = value_cell(value);
    }
    const Report &report = *table->report;
    if (report.page != nullptr) {
      cursor->page = report.page(arguments);
      cursor->past = cursor->page.rows.size();
    } else if (report.rows != nullptr) {
      cursor->rows = report.rows(arguments);
      cursor->past = cursor->rows.size();
    } else {
      cursor->lines = report.lines(arguments);
      cursor->past = cursor->lines.size();
    }
    return SQLITE_OK;
  });
}

int next(sqlite3_vtab_cursor *cursor) noexcept {
  ++static_cast<ReportCursor *>(cursor)->at;
  return SQLITE_OK;
}

int eof(sqlite3_vtab_cursor *base) noexcept {
  const auto *const cursor = static_cast<ReportCursor *>(base);
  return cursor->at >= cursor->past ? 1 : 0;
}

int column(sqlite3_vtab_cursor *base, sqlite3_context *context, int index) noexcept {
  const auto *const cursor = static_cast<ReportCursor *>(base);
  const auto *const table = static_cast<Table *>(base->pVtab);
  guard(context, [&] {
    const auto at = static_cast<std::size_t>(index);
    if (index >= table->visible) {
      result_cell(context, cursor->arguments[at - static_cast<std::size_t>(table->visible)]);
    } else if (table->report->page != nullptr) {
      result_detailed(context, cursor->page, cursor->page.rows[cursor->at], index);
    } else if (table->report->rows != nullptr) {
      result_cell(context, cursor->rows[cursor->at][at]);
    } else {
      result_line(context, cursor->lines[cursor->at], table->report->keys, index);
    }
  });
  return SQLITE_OK;
}

int rowid(sqlite3_vtab_cursor *cursor, sqlite3_int64 *out) noexcept {
  *out = static_cast<sqlite3_int64>(static_cast<ReportCursor *>(cursor)->at);
  return SQLITE_OK;
}

// No xCreate: the tables exist by themselves in every connection and cannot be created.
const sqlite3_module kModule = {
    0,       nullptr, connect, best_index, disconnect, nullptr, open,    close,
    filter,  next,    eof,     column,     rowid,      nullptr, nullptr, nullptr,
    nullptr, nullptr, nullptr, nullptr,    nullptr,    nullptr, nullptr, nullptr,
#if SQLITE_VERSION_NUMBER >= 3044000
    nullptr,
#endif
};

}  // namespace

int register_report_tables(sqlite3 *db) {
  for (const Report &report : kReports) {
    const int code =
        sqlite3_create_module_v2(db, report.name, &kModule, const_cast<Report *>(&report), nullptr);
    if (code != SQLITE_OK) {
      return code;
    }
  }
  return SQLITE_OK;
}

}  // namespace token_usage
