// Repricing (section 6 of the contract): token_usage_reprice_preview and token_usage_reprice. Only
// rows that the price book priced or left unpriced are touched, and what was changed stays in table
// token_usage_reprice_log.
#include <algorithm>

#include "arguments.h"
#include "recording.h"

namespace token_usage {
namespace {

struct Repriced {
  std::int64_t rowid = 0;
  std::string id;  // as text
  bool id_is_integer = false;
  Micros created_at = 0;
  std::optional<double> old_usd;
  std::optional<double> new_usd;
  std::optional<double> old_rub;
  std::optional<double> new_rub;
};

std::optional<double> real_or_null(const Statement &row, int column) {
  return row.is_null(column) ? std::nullopt : std::optional<double>(row.real(column));
}

struct Range {
  std::optional<Micros> start;
  std::optional<Micros> end;
};

// The rows whose cost the price book would now change, by time.
std::vector<Repriced> find_repriced(sqlite3 *db, const std::string &schema, sqlite3_value *user,
                                    const Range &range) {
  const Ledger ledger = find_ledger(db, schema);
  require_table(db, schema, "token_usage_price");
  SqlitePriceTables tables(db, schema);
  PriceBook book(tables);
  const ExchangeRates rub(db, schema, "RUB");
  const bool one_user = user != nullptr && sqlite3_value_type(user) != SQLITE_NULL;
  Statement query(db,
                  "SELECT rowid, id, created_at, ai_provider, ai_model, cost_usd, cost_rub, "
                  "prompt_tokens, completion_tokens, " +
                      class_column_list() + " FROM " + ledger.table +
                      " WHERE (cost_source = 'price_book' OR (cost_source IS NULL AND "
                      "cost_usd IS NULL))" +
                      (one_user ? " AND user_id = ?1" : ""));
  if (one_user) {
    query.bind(1, user);
  }
  std::vector<Repriced> out;
  while (query.step()) {
    const std::optional<Micros> at = read_instant(query, 2);
    if (!at || (range.start && *at < *range.start) || (range.end && *at > *range.end)) {
      continue;
    }
    Usage usage;
    usage[Count::prompt] = query.int64(7);
    usage[Count::completion] = query.int64(8);
    for (std::size_t i = 0; i < class_columns.size(); ++i) {
      const int column = 9 + static_cast<int>(i);
      if (!query.is_null(column)) {
        usage[class_columns[i]] = std::max<std::int64_t>(0, query.int64(column));
      }
    }
    std::optional<Decimal> cost;
    try {
      check_usage(usage, "token_usage");
      cost = book.cost(query.text(3), query.text(4), usage, *at);
    } catch (const Error &) {
      continue;  // counts that contradict each other have no price
    }
    if (!cost) {
      continue;
    }
    const std::optional<Decimal> converted_cost = rub.convert(cost, *at);
    Repriced row;
    row.rowid = query.int64(0);
    row.id_is_integer = query.type(1) == SQLITE_INTEGER;
    row.id = query.text(1);
    row.created_at = *at;
    row.old_usd = real_or_null(query, 5);
    row.old_rub = real_or_null(query, 6);
    row.new_usd = cost->to_double();
    if (converted_cost) {
      row.new_rub = converted_cost->to_double();
    }
    if (row.old_usd != row.new_usd || row.old_rub != row.new_rub) {
      out.push_back(std::move(row));
    }
  }
  std::sort(out.begin(), out.end(), [](const Repriced &a, const Repriced &b) {
    return std::tie(a.created_at, a.rowid) < std::tie(b.created_at, b.rowid);
  });
  return out;
}

Range range_arguments(sqlite3_value *start, sqlite3_value *end) {
  return {time_argument("start_date", start), time_argument("end_date", end)};
}

void bind_real(Statement &statement, int parameter, std::optional<double> value) {
  if (value) {
    statement.bind(parameter, *value);
  } else {
    statement.bind_null(parameter);
  }
}

void add_money(Decimal &sum, std::optional<double> value, std::string_view column) {
  const std::optional<Decimal> money = value ? Decimal::from_double(*value) : std::nullopt;
  if (money && !sum.add(*money)) {
    sum_overflow(column);
  }
}

// token_usage_reprice([user_id [, start_date [, end_date [, schema]]]])
void reprice(sqlite3_context *context, int count, sqlite3_value **values) {
  guard(context, [&] {
    sqlite3 *const db = sqlite3_context_db_handle(context);
    const auto given = [&](int i) { return count > i ? values[i] : nullptr; };
    const Range range = range_arguments(given(1), given(2));
    const std::string schema = schema_argument(given(3));
    const Ledger ledger = find_ledger(db, schema);
    require_table(db, schema, "token_usage_reprice_log");
    Decimal old_sum;
    Decimal new_sum;
    std::size_t rows = 0;
    atomically(db, [&] {
      Statement(db, "DELETE FROM " + ledger.table + " WHERE 0").step();
      Statement update(db, "UPDATE " + ledger.table +
                               " SET cost_usd = ?2, cost_rub = ?3, cost_source = 'price_book'"
                               " WHERE rowid = ?1");
      Statement log(db, "INSERT INTO " + qualified(schema, "token_usage_reprice_log") +
                            " (row_id, old_cost_usd, new_cost_usd, old_cost_rub, new_cost_rub)"
                            " VALUES (?1, ?2, ?3, ?4, ?5)");
      for (const Repriced &row : find_repriced(db, schema, given(0), range)) {
        update.bind(1, row.rowid);
        bind_real(update, 2, row.new_usd);
        bind_real(update, 3, row.new_rub);
        update.step();
        update.reset();
        log.bind(1, row.id);
        bind_real(log, 2, row.old_usd);
        bind_real(log, 3, row.new_usd);
        bind_real(log, 4, row.old_rub);
        bind_real(log, 5, row.new_rub);
        log.step();
        log.reset();
        add_money(old_sum, row.old_usd, "cost_usd");
        add_money(new_sum, row.new_usd, "cost_usd");
        ++rows;
      }
    });
    result_json(context, "{\"rows\": " + std::to_string(rows) +
                             ", \"old_cost_usd\": " + old_sum.to_string() +
                             ", \"new_cost_usd\": " + new_sum.to_string() + "}");
  });
}

// ---- token_usage_reprice_preview, a table-valued function.

enum Column { kId, kOldUsd, kNewUsd, kOldRub, kNewRub, kUser, kStart, kEnd, kSchema };
constexpr int kFirstArgument = kUser;
constexpr int kArguments = 4;

struct Table {
  sqlite3_vtab base;
  sqlite3 *db;
};

struct Cursor {
  sqlite3_vtab_cursor base;
  std::vector<Repriced> *rows;
  std::size_t at;
};

int connect(sqlite3 *db, void *, int, const char *const *, sqlite3_vtab **out, char **) {
  const int code = sqlite3_declare_vtab(
      db,
      "CREATE TABLE x(id, old_cost_usd REAL, new_cost_usd REAL, old_cost_rub REAL,"
      " new_cost_rub REAL, user_id HIDDEN, start_date HIDDEN, end_date HIDDEN, schema HIDDEN)");
  if (code != SQLITE_OK) {
    return code;
  }
  auto *const table = static_cast<Table *>(sqlite3_malloc(sizeof(Table)));
  if (table == nullptr) {
    return SQLITE_NOMEM;
  }
  *table = Table{};
  table->db = db;
  *out = &table->base;
  return SQLITE_OK;
}

int disconnect(sqlite3_vtab *table) {
  sqlite3_free(table);
  return SQLITE_OK;
}

int best_index(sqlite3_vtab *, sqlite3_index_info *info) {
  int mask = 0;
  int at[kArguments] = {-1, -1, -1, -1};
  bool unusable = false;
  for (int i = 0; i < info->nConstraint; ++i) {
    const auto &constraint = info->aConstraint[i];
    if (constraint.iColumn < kFirstArgument || constraint.op != SQLITE_INDEX_CONSTRAINT_EQ) {
      continue;
    }
    if (constraint.usable == 0) {
      unusable = true;
      continue;
    }
    mask |= 1 << (constraint.iColumn - kFirstArgument);
    at[constraint.iColumn - kFirstArgument] = i;
  }
  if (unusable) {
    return SQLITE_CONSTRAINT;
  }
  int next = 0;
  for (const int i : at) {
    if (i >= 0) {
      info->aConstraintUsage[i].argvIndex = ++next;
      info->aConstraintUsage[i].omit = 1;
    }
  }
  info->idxNum = mask;
  info->estimatedCost = 1e6;
  info->estimatedRows = 1000;
  return SQLITE_OK;
}

int open(sqlite3_vtab *, sqlite3_vtab_cursor **out) {
  auto *const cursor = static_cast<Cursor *>(sqlite3_malloc(sizeof(Cursor)));
  if (cursor == nullptr) {
    return SQLITE_NOMEM;
  }
  *cursor = Cursor{};
  *out = &cursor->base;
  return SQLITE_OK;
}

int close(sqlite3_vtab_cursor *base) {
  auto *const cursor = reinterpret_cast<Cursor *>(base);
  delete cursor->rows;
  sqlite3_free(cursor);
  return SQLITE_OK;
}

int filter(sqlite3_vtab_cursor *base, int mask, const char *, int, sqlite3_value **values) {
  return guard(base->pVtab, [&] {
    auto *const cursor = reinterpret_cast<Cursor *>(base);
    sqlite3_value *given[kArguments] = {};
    for (int i = 0, next = 0; i < kArguments; ++i) {
      if ((mask >> i & 1) != 0) {
        given[i] = values[next++];
      }
    }
    const Range range = range_arguments(given[1], given[2]);
    const std::string schema = schema_argument(given[3]);
    sqlite3 *const db = reinterpret_cast<Table *>(base->pVtab)->db;
    check_schema(db, schema);
    auto rows = find_repriced(db, schema, given[0], range);
    delete cursor->rows;
    cursor->rows = nullptr;
    cursor->rows = new std::vector<Repriced>(std::move(rows));
    cursor->at = 0;
    return SQLITE_OK;
  });
}

int next(sqlite3_vtab_cursor *base) {
  ++reinterpret_cast<Cursor *>(base)->at;
  return SQLITE_OK;
}

int eof(sqlite3_vtab_cursor *base) {
  const auto *const cursor = reinterpret_cast<Cursor *>(base);
  return cursor->rows == nullptr || cursor->at >= cursor->rows->size() ? 1 : 0;
}

// xColumn reports through the context.
template <typename Body>
int guard_column(sqlite3_context *context, Body body) noexcept {
  guard(context, body);
  return SQLITE_OK;
}

int column(sqlite3_vtab_cursor *base, sqlite3_context *context, int number) {
  const auto *const cursor = reinterpret_cast<Cursor *>(base);
  const Repriced &row = (*cursor->rows)[cursor->at];
  const auto money = [&](const std::optional<double> &value) {
    if (value) {
      sqlite3_result_double(context, *value);
    }
  };
  return guard_column(context, [&] {
    switch (number) {
      case kId:
        if (row.id_is_integer) {
          sqlite3_result_int64(context, static_cast<sqlite3_int64>(*scaled_from_text(row.id, 0)));
        } else {
          result_text(context, row.id);
        }
        break;
      case kOldUsd:
        money(row.old_usd);
        break;
      case kNewUsd:
        money(row.new_usd);
        break;
      case kOldRub:
        money(row.old_rub);
        break;
      case kNewRub:
        money(row.new_rub);
        break;
      default:
        break;
    }
  });
}

int rowid(sqlite3_vtab_cursor *base, sqlite3_int64 *out) {
  *out = static_cast<sqlite3_int64>(reinterpret_cast<Cursor *>(base)->at) + 1;
  return SQLITE_OK;
}

sqlite3_module preview_module() {
  sqlite3_module module{};
  module.xConnect = connect;
  module.xBestIndex = best_index;
  module.xDisconnect = disconnect;
  module.xOpen = open;
  module.xClose = close;
  module.xFilter = filter;
  module.xNext = next;
  module.xEof = eof;
  module.xColumn = column;
  module.xRowid = rowid;
  return module;
}

}  // namespace

int register_reprice(sqlite3 *db) {
  static const sqlite3_module module = preview_module();
  int code = sqlite3_create_module_v2(db, "token_usage_reprice_preview", &module, nullptr, nullptr);
  for (int arguments = 0; code == SQLITE_OK && arguments <= 4; ++arguments) {
    code = sqlite3_create_function_v2(db, "token_usage_reprice", arguments,
                                      SQLITE_UTF8 | SQLITE_DIRECTONLY | kResultSubtype, nullptr,
                                      reprice, nullptr, nullptr, nullptr);
  }
  return code;
}

}  // namespace token_usage
