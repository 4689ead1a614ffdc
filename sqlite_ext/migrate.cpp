// token_usage_migrate([user_id_type [, schema]]): makes what is missing of the ledger and its
// indexes, or adopts a table token_usage that the application has (section 2 of the contract). The
// statements are those of the plain migration file, so that both leave the same schema; here they
// are run one by one, and what plain SQL cannot ask is asked first: which tables and columns exist.
// All or nothing, in a transaction of its own or in the caller's.

#include "migrate.h"

#include <algorithm>
#include <array>
#include <set>

#include "../core/json.h"
#include "arguments.h"
#include "ledger.h"
#include "migration.h"
#include "rollup_build.h"

namespace token_usage {

namespace {

// What an adopted table gets for a column that it lacks. total_tokens and the costs have no
// default: an old row's total is the sum of its parts, and what it cost is not known.
struct AddedColumn {
  const char *name;
  const char *definition;
};

constexpr std::array<AddedColumn, 30> kColumns = {{
    {"content_id", "TEXT"},
    {"workflow_id", "TEXT"},
    {"agent_id", "TEXT"},
    {"request_id", "TEXT"},
    {"endpoint", "TEXT"},
    {"ai_provider", "TEXT"},
    {"ai_model", "TEXT"},
    {"prompt_tokens", "INTEGER NOT NULL DEFAULT 0"},
    {"completion_tokens", "INTEGER NOT NULL DEFAULT 0"},
    {"total_tokens", "INTEGER"},
    {"cost_usd", "REAL"},
    {"cost_rub", "REAL"},
    {"platform", "TEXT"},
    {"content_type", "TEXT"},
    {"task_type", "TEXT"},
    {"execution_time_ms", "INTEGER"},
    {"request_metadata", "TEXT"},
    {"response_metadata", "TEXT"},
    {"cache_read_tokens", "INTEGER"},
    {"cache_write_tokens", "INTEGER"},
    {"cache_write_1h_tokens", "INTEGER"},
    {"cache_read_audio_tokens", "INTEGER"},
    {"cache_read_image_tokens", "INTEGER"},
    {"reasoning_tokens", "INTEGER"},
    {"input_audio_tokens", "INTEGER"},
    {"output_audio_tokens", "INTEGER"},
    {"input_image_tokens", "INTEGER"},
    {"output_image_tokens", "INTEGER"},
    {"web_search_requests", "INTEGER"},
    {"cost_source", "TEXT"},
}};

// SQLite can add neither a key nor a default that is not constant to a table that exists.
constexpr std::array<const char *, 3> kNeeded = {"id", "user_id", "created_at"};

// Where the pragmas table_info and table_xinfo have a column's name, and its place in the key.
constexpr int kTableInfoName = 1;
constexpr int kTableInfoKey = 5;

[[noreturn]] void refuse(const std::string &reason) {
  throw Error(ErrorKind::adoption, "token_usage: cannot adopt table token_usage: " + reason);
}

std::string lower(std::string_view text) {
  std::string out(text);
  for (char &c : out) {
    c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  }
  return out;
}

class Migration {
 public:
  Migration(sqlite3 *db, std::string schema, std::string user_id_type)
      : db_(db),
        schema_(std::move(schema)),
        quoted_(quote_identifier(schema_)),
        user_id_type_(std::move(user_id_type)) {}

  void run() {
    steps_.begin_array();
    refuse_other_kinds();
    const bool had_settings = has_table(db_, schema_, "token_usage_settings");
    const bool had_ledger = has_table(db_, schema_, "token_usage");
    for (const MigrationObject &object : migration_objects()) {
      if (object.is_rollup()) {
        continue;  // those hang together, and come last
      }
      make(object, had_ledger, had_settings);
    }
    const Ledger ledger = find_ledger(db_, schema_);
    const bool made = ensure_rollups(ledger);
    if (can_roll(ledger)) {
      report("rollups", made ? "created" : "kept");
    }
    steps_.end_array();
  }

  [[nodiscard]] std::string steps() const { return steps_.str(); }

 private:
  void report(const std::string &step, const char *action) {
    steps_.begin_object().key("step").text(step).key("action").text(std::string_view(action));
    steps_.end_object();
  }

  // The kind of object that has this name in the schema, or nothing.
  std::string kind_of(std::string_view name, std::string *table = nullptr) {
    Statement row(db_, "SELECT type, lower(tbl_name) FROM " + quoted_ +
                           ".sqlite_master WHERE name = ?1 COLLATE NOCASE");
    row.bind(1, name);
    if (!row.step()) {
      return {};
    }
    if (table != nullptr) {
      *table = row.text(1);
    }
    return std::string(row.text(0));
  }

  void refuse_other_kinds() {
    for (const char *const name : {"token_usage", "token_usage_settings"}) {
      const std::string kind = kind_of(name);
      if (!kind.empty() && kind != "table") {
        throw Error(ErrorKind::adoption, std::string("token_usage: cannot adopt ") + name +
                                             ": it is no table but a " + kind);
      }
    }
  }

  void make(const MigrationObject &object, bool had_ledger, bool had_settings) {
    const std::string &text = object.statement;
    const std::string &name = object.name;
    const std::size_t name_at = object.name_at;
    const bool is_table = object.kind == "TABLE";
    if (is_table && name == "token_usage") {
      if (had_ledger) {
        report("table token_usage", had_settings ? "kept" : "adopted");
        adopt();
      } else {
        execute(db_, qualified(create_ledger(text), name_at));
        report("table token_usage", "created");
      }
    } else if (is_table) {
      const bool kept = has_table(db_, schema_, name.c_str());
      if (!kept) {
        execute(db_, qualified(text, name_at));
      }
      report("table " + name, kept ? "kept" : "created");
    } else {
      index(name, text, name_at, had_ledger);
    }
  }

  // The name in `text` at that place, with the schema before it. SQLite stores the statement
  // without it.
  std::string qualified(std::string text, std::size_t name_at) const {
    return text.insert(name_at, quoted_ + ".");
  }

  // The CREATE TABLE with the wanted type of user_id, and with those foreign keys whose table can
  // be referred to.
  std::string create_ledger(std::string text) {
    constexpr std::string_view user_column = "user_id INTEGER NOT NULL";
    if (user_id_type_ != "bigint") {
      const std::size_t at = text.find(user_column);
      text.replace(at, user_column.size(), "user_id TEXT NOT NULL");
    }
    for (const char *const parent : {"users", "content_pieces"}) {
      if (!has_key_on_id(parent)) {
        const std::size_t reference = text.find(std::string("REFERENCES ") + parent + " (id)");
        const std::size_t line = text.rfind('\n', reference);
        text.erase(line, text.find('\n', reference) - line);
      }
    }
    return text;
  }

  bool has_key_on_id(const std::string &table) {
    if (!has_table(db_, schema_, table.c_str())) {
      return false;
    }
    int keys = 0;
    bool id_is_key = false;
    {
      Statement column = pragma("table_info", table);
      while (column.step()) {
        if (column.int64(kTableInfoKey) > 0) {
          ++keys;
          id_is_key = id_is_key || lower(column.text(kTableInfoName)) == "id";
        }
      }
    }
    return (keys == 1 && id_is_key) || has_unique_index(table, "id");
  }

  // True where a unique index, not a partial one, is on exactly this column.
  bool has_unique_index(const std::string &table, std::string_view column) {
    Statement index = pragma("index_list", table);
    while (index.step()) {
      constexpr int name = 1;
      constexpr int is_unique = 2;
      constexpr int is_partial = 4;
      if (index.int64(is_unique) == 0 || index.int64(is_partial) != 0) {
        continue;
      }
      Statement part = pragma("index_info", std::string(index.text(name)));
      constexpr int part_name = 2;
      if (part.step() && lower(part.text(part_name)) == column && !part.step()) {
        return true;
      }
    }
    return false;
  }

  // A pragma about a table or an index of the schema. As a statement, since a table could take the
  // name of its table-valued twin.
  Statement pragma(const char *name, const std::string &about) {
    return Statement(db_, "PRAGMA " + quoted_ + "." + name + "(" + quote_identifier(about) + ")");
  }

  void adopt() {
    std::set<std::string> present;
    {
      // table_xinfo also lists generated columns.
      Statement column = pragma("table_xinfo", "token_usage");
      while (column.step()) {
        const std::string name = lower(column.text(kTableInfoName));
        constexpr int hidden = 6;
        const bool generated = column.int64(hidden) >= 2;
        if (generated && std::find(kNeeded.begin(), kNeeded.end(), name) != kNeeded.end()) {
          refuse("column " + name + " is generated");
        }
        present.insert(name);
      }
    }
    for (const char *const needed : kNeeded) {
      if (present.count(needed) == 0) {
        refuse(std::string("column ") + needed + " is missing");
      }
    }
    for (const AddedColumn &added : kColumns) {
      if (present.count(added.name) == 0) {
        execute(db_, "ALTER TABLE " + quoted_ + ".token_usage ADD COLUMN " + added.name + " " +
                         added.definition);
        report(std::string("column token_usage.") + added.name, "created");
      }
    }
  }

  void index(const std::string &name, std::string text, std::size_t name_at, bool had_ledger) {
    std::string table;
    if (!kind_of(name, &table).empty()) {
      if (table != "token_usage") {
        refuse("index " + name + " is on table " + table);
      }
      report("index " + name, "kept");
      return;
    }
    // A new ledger has UNIQUE on the column; one that was adopted gets a unique index where its
    // rows allow it.
    if (had_ledger && name == "idx_token_usage_request_id" &&
        !has_unique_index("token_usage", "request_id") && !has_repeated_request_id()) {
      constexpr std::string_view create = "CREATE ";
      text.insert(create.size(), "UNIQUE ");
      name_at += std::string_view("UNIQUE ").size();
    }
    execute(db_, qualified(text, name_at));
    report("index " + name, "created");
  }

  bool has_repeated_request_id() {
    return Statement(db_, "SELECT 1 FROM " + quoted_ +
                              ".token_usage WHERE request_id IS NOT NULL"
                              " GROUP BY request_id HAVING count(*) > 1 LIMIT 1")
        .step();
  }

  sqlite3 *db_;
  std::string schema_;
  std::string quoted_;
  std::string user_id_type_;
  JsonWriter steps_;
};

std::string user_id_type_argument(sqlite3_value *value) {
  if (value == nullptr) {
    return "bigint";
  }
  if (sqlite3_value_type(value) != SQLITE_NULL) {
    std::string text(value_text(value));
    if (text == "bigint" || text == "text" || text == "uuid") {
      return text;
    }
  }
  bad_argument("user_id_type", "one of bigint, text, uuid", value_shown(value));
}

void migrate(sqlite3_context *context, int count, sqlite3_value **values) {
  guard(context, [&] {
    sqlite3 *const db = sqlite3_context_db_handle(context);
    std::string user_id_type = user_id_type_argument(count > 0 ? values[0] : nullptr);
    std::string schema = schema_argument(count > 1 ? values[1] : nullptr);
    check_schema(db, schema);
    Migration migration(db, std::move(schema), std::move(user_id_type));
    atomically(db, [&] {
      migration.run();
      result_json(context, migration.steps());
    });
  });
}

}  // namespace

int register_migrate(sqlite3 *db) {
  for (int arguments = 0; arguments <= 2; ++arguments) {
    const int code = sqlite3_create_function_v2(db, "token_usage_migrate", arguments,
                                                SQLITE_UTF8 | SQLITE_DIRECTONLY | kResultSubtype,
                                                nullptr, migrate, nullptr, nullptr, nullptr);
    if (code != SQLITE_OK) {
      return code;
    }
  }
  return SQLITE_OK;
}

}  // namespace token_usage
