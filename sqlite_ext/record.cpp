// token_usage_record and token_usage_record_batch (section 5 of the contract): one call per LLM
// response writes one ledger row, priced, and only once per request_id.
#include "../core/event.h"
#include "../core/usage_rules.h"
#include "arguments.h"
#include "recording.h"

namespace token_usage {
namespace {

// Writes events into the ledger of a schema, for the length of one call.
class Recorder {
 public:
  Recorder(sqlite3 *db, const std::string &schema)
      : db_(db),
        ledger_(checked_ledger(db, schema)),
        tables_(db, schema),
        book_(tables_),
        rub_(db, schema, "RUB"),
        now_(now_micros() / kMicrosPerSecond * kMicrosPerSecond),
        find_(db,
              "SELECT id, user_id = ?2, agent_id, ai_provider, ai_model, prompt_tokens,"
              " completion_tokens, total_tokens, cost_usd, cost_rub FROM " +
                  ledger_.table + " WHERE request_id = ?1"),
        skips_conflicts_(has_unique_request_id()),
        id_is_rowid_(has_rowid_key(db, schema)),
        insert_(db,
                insert_sql() + (skips_conflicts_ ? " ON CONFLICT (request_id) DO NOTHING" : "")),
        id_of_(db, "SELECT id FROM " + ledger_.table + " WHERE rowid = ?1") {}

  // Records one event and returns its JSON result.
  std::string record(const Json &json, const std::string &argument) {
    const Event event = read_event(json, argument);
    const bool has_request = event.text(TextColumn::request_id).has_value();
    if (has_request && !skips_conflicts_) {
      if (std::optional<std::string> known = find_same(event, argument)) {
        return *known;
      }
    }
    std::optional<std::string> created = insert(event);
    return created ? *created : find_same(event, argument).value();
  }

 private:
  static Ledger checked_ledger(sqlite3 *db, const std::string &schema) {
    Ledger ledger = find_ledger(db, schema);
    if (sqlite3_table_column_metadata(db, schema.c_str(), "token_usage", "cost_source", nullptr,
                                      nullptr, nullptr, nullptr, nullptr) != SQLITE_OK) {
      throw Error(ErrorKind::missing_ledger,
                  "token_usage: no column token_usage.cost_source; run SELECT "
                  "token_usage_migrate()");
    }
    // A write before the first read: a transaction that begins by reading could not go on to write
    // while others do.
    Statement(db, "DELETE FROM " + ledger.table + " WHERE 0").step();
    return ledger;
  }

  [[nodiscard]] std::string insert_sql() const {
    std::string columns =
        "user_id, agent_id, ai_provider, ai_model, prompt_tokens, "
        "completion_tokens, total_tokens, cost_usd, cost_rub, cost_source, "
        "execution_time_ms, request_metadata, response_metadata, created_at";
    for (const std::string_view column : text_columns) {
      columns += ", ";
      columns += column;
    }
    columns += ", " + class_column_list();
    std::string values = "?1";
    for (std::size_t i = 2; i <= 14 + text_columns.size() + class_columns.size(); ++i) {
      values += ", ?" + std::to_string(i);
    }
    return "INSERT INTO " + ledger_.table + " (" + columns + ") VALUES (" + values + ")";
  }

  // Whether id is INTEGER PRIMARY KEY, another name for the rowid.
  static bool has_rowid_key(sqlite3 *db, const std::string &schema) {
    const char *type = nullptr;
    int is_key = 0;
    return sqlite3_table_column_metadata(db, schema.c_str(), "token_usage", "id", &type, nullptr,
                                         nullptr, &is_key, nullptr) == SQLITE_OK &&
           is_key != 0 && type != nullptr && lower_trimmed(type) == "integer";
  }

  // Whether the ledger holds request_id unique: an adopted one need not. Then the insert itself
  // tells, and no row has to be looked for first.
  [[nodiscard]] bool has_unique_request_id() const {
    try {
      Statement(db_, insert_sql() + " ON CONFLICT (request_id) DO NOTHING");
      return true;
    } catch (const SqliteError &) {
      return false;
    }
  }

  static void bind_user(Statement &statement, int parameter, const Event &event) {
    if (event.user_id_is_number) {
      statement.bind(parameter, static_cast<std::int64_t>(*scaled_from_text(event.user_id, 0)));
    } else {
      statement.bind(parameter, event.user_id);
    }
  }

  static void bind_optional(Statement &statement, int parameter,
                            const std::optional<std::string> &text) {
    if (text) {
      statement.bind(parameter, std::string_view(*text));
    } else {
      statement.bind_null(parameter);
    }
  }

  static void bind_optional(Statement &statement, int parameter,
                            std::optional<std::int64_t> value) {
    if (value) {
      statement.bind(parameter, *value);
    } else {
      statement.bind_null(parameter);
    }
  }

  static void bind_optional(Statement &statement, int parameter, std::optional<Decimal> money) {
    if (money) {
      statement.bind(parameter, money->to_double());
    } else {
      statement.bind_null(parameter);
    }
  }

  // A stored cost by rule 4.
  static std::optional<Decimal> stored_cost(const Statement &row, int column) {
    switch (row.type(column)) {
      case SQLITE_INTEGER:
        return Decimal::from_int(row.int64(column));
      case SQLITE_FLOAT:
        return Decimal::from_double(row.real(column));
      case SQLITE_TEXT:
        return Decimal::from_text(row.text(column));
      default:
        return std::nullopt;
    }
  }

  static std::string json_id(const Statement &row, int column) {
    if (row.type(column) == SQLITE_INTEGER) {
      return std::to_string(row.int64(column));
    }
    std::string out;
    if (row.is_null(column)) {
      return "null";
    }
    append_json_string(out, row.text(column));
    return out;
  }

  // The result where a row with this request_id says the same; the error where it says something
  // else.
  std::optional<std::string> find_same(const Event &event, const std::string &argument) {
    const std::string &request_id = *event.text(TextColumn::request_id);
    find_.reset();
    find_.bind(1, request_id);
    bind_user(find_, 2, event);
    if (!find_.step()) {
      return std::nullopt;
    }
    const auto differs = [&](std::string_view field) {
      throw SqliteError(SQLITE_CONSTRAINT,
                        "token_usage: " + argument +
                            ".request_id must be new or repeat the same facts, got " +
                            printable(request_id, 200) + " with another " + std::string(field));
    };
    if (find_.int64(1) != 1) {
      differs("user_id");
    }
    const std::pair<const std::string *, std::string_view> texts[] = {
        {&event.agent_id, "agent_id"},
        {&event.ai_provider, "ai_provider"},
        {&event.ai_model, "ai_model"}};
    for (int i = 0; i < 3; ++i) {
      if (find_.text(2 + i) != *texts[i].first) {
        differs(texts[i].second);
      }
    }
    if (find_.int64(5) != event.usage.get(Count::prompt)) {
      differs("prompt_tokens");
    }
    if (find_.int64(6) != event.usage.get(Count::completion)) {
      differs("completion_tokens");
    }
    return record_result(json_id(find_, 0), false, find_.int64(5), find_.int64(6), find_.int64(7),
                         stored_cost(find_, 8), stored_cost(find_, 9), {});
  }

  // The result, or nothing where the ledger has this request_id.
  std::optional<std::string> insert(const Event &event) {
    const Micros at = event.created_at.value_or(now_);
    StatedCost cost = stated_cost(event);
    std::vector<std::string> warnings = event.usage.warnings;
    if (cost.ask_book) {
      cost.usd = book_.cost(event.ai_provider, event.ai_model, event.usage, at);
      if (cost.usd && cost.source.empty()) {
        cost.source = cost_from_book;
      }
      if (!cost.usd) {
        warnings.push_back("no price is known for " + event.ai_provider + " " + event.ai_model);
      }
    }
    if (!cost.rub) {
      cost.rub = rub_.convert(cost.usd, at);
    }
    insert_.reset();
    bind_user(insert_, 1, event);
    insert_.bind(2, event.agent_id)
        .bind(3, event.ai_provider)
        .bind(4, event.ai_model)
        .bind(5, event.usage.get(Count::prompt))
        .bind(6, event.usage.get(Count::completion))
        .bind(7, event.usage.get(Count::total));
    bind_optional(insert_, 8, cost.usd);
    bind_optional(insert_, 9, cost.rub);
    if (cost.source.empty()) {
      insert_.bind_null(10);
    } else {
      insert_.bind(10, cost.source);
    }
    bind_optional(insert_, 11, event.execution_time_ms);
    bind_optional(insert_, 12, event.request_metadata);
    bind_optional(insert_, 13, event.response_metadata);
    insert_.bind(14, stored_timestamp(at));
    int parameter = 15;
    for (const std::optional<std::string> &text : event.texts) {
      bind_optional(insert_, parameter++, text);
    }
    for (const Count kind : class_columns) {
      bind_optional(insert_, parameter++, event.usage[kind]);
    }
    insert_.step();
    if (sqlite3_changes(db_) == 0) {
      return std::nullopt;
    }
    const std::string id = inserted_id();
    // What a REAL column keeps of the cost, which is what reports will say.
    const auto kept = [](std::optional<Decimal> money) {
      return money ? Decimal::from_double(money->to_double()) : std::nullopt;
    };
    return record_result(id, true, event.usage.get(Count::prompt),
                         event.usage.get(Count::completion), event.usage.get(Count::total),
                         kept(cost.usd), kept(cost.rub), warnings);
  }

  [[nodiscard]] std::string inserted_id() {
    const auto rowid = static_cast<std::int64_t>(sqlite3_last_insert_rowid(db_));
    if (id_is_rowid_) {
      return std::to_string(rowid);
    }
    id_of_.reset();
    id_of_.bind(1, rowid);
    return id_of_.step() ? json_id(id_of_, 0) : "null";
  }

  sqlite3 *db_;
  Ledger ledger_;
  SqlitePriceTables tables_;
  PriceBook book_;
  ExchangeRates rub_;
  Micros now_;
  Statement find_;
  bool skips_conflicts_;
  bool id_is_rowid_;
  Statement insert_;
  Statement id_of_;
};

// token_usage_record(event [, schema])
void record(sqlite3_context *context, int count, sqlite3_value **values) {
  guard(context, [&] {
    sqlite3 *const db = sqlite3_context_db_handle(context);
    const JsonDocument document(required_text("event", values[0]), "event");
    const std::string schema = schema_argument(count > 1 ? values[1] : nullptr);
    std::string result;
    atomically(db, [&] { result = Recorder(db, schema).record(document.root(), "event"); });
    result_json(context, result);
  });
}

// token_usage_record_batch(events [, schema])
void record_batch(sqlite3_context *context, int count, sqlite3_value **values) {
  guard(context, [&] {
    sqlite3 *const db = sqlite3_context_db_handle(context);
    const JsonDocument document(required_text("events", values[0]), "events");
    if (!document.root().is(Json::Type::array)) {
      bad_argument("events", "an array", json_text(document.root()));
    }
    const std::string schema = schema_argument(count > 1 ? values[1] : nullptr);
    std::string result = "[";
    atomically(db, [&] {
      Recorder recorder(db, schema);
      std::size_t index = 0;
      for (const Json &event : document.root().items()) {
        result += index > 0 ? ", " : "";
        result += recorder.record(event, "events[" + std::to_string(index) + "]");
        ++index;
      }
    });
    result_json(context, result + "]");
  });
}

}  // namespace

int register_record(sqlite3 *db) {
  int code = SQLITE_OK;
  for (int arguments = 1; code == SQLITE_OK && arguments <= 2; ++arguments) {
    code = sqlite3_create_function_v2(db, "token_usage_record", arguments,
                                      SQLITE_UTF8 | SQLITE_DIRECTONLY | kResultSubtype, nullptr,
                                      record, nullptr, nullptr, nullptr);
    if (code == SQLITE_OK) {
      code = sqlite3_create_function_v2(db, "token_usage_record_batch", arguments,
                                        SQLITE_UTF8 | SQLITE_DIRECTONLY | kResultSubtype, nullptr,
                                        record_batch, nullptr, nullptr, nullptr);
    }
  }
  return code;
}

}  // namespace token_usage
