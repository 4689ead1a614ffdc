// The tables and triggers of the rollups: made from the statements of the migration file, all of
// them or none, since a trigger that was missing for a while has missed writes.
#include "migration.h"
#include "rollup_build.h"

namespace token_usage {

namespace {

// The statement of the migration that lists odd rows, as far as its condition.
constexpr std::string_view kListOdd = "INSERT INTO token_usage_rollup_odd\n";

void list_all_odd_rows(const Ledger &ledger) {
  execute(ledger.db, "INSERT INTO " + beside(ledger, "token_usage_rollup_odd") +
                         " SELECT id, user_id FROM " + ledger.table + " WHERE " + odd_condition() +
                         " ON CONFLICT (id) DO UPDATE SET user_id = excluded.user_id");
}

// What stands under that name in the schema, if anything.
struct Standing {
  std::string kind;
  std::string sql;
};

Standing standing(const std::string &schema, sqlite3 *db, const std::string &name) {
  Statement row(db, "SELECT type, sql FROM " + schema +
                        ".sqlite_master WHERE name = ?1"
                        " COLLATE NOCASE");
  row.bind(1, std::string_view(name));
  if (!row.step()) {
    return {};
  }
  return {std::string(row.text(0)), std::string(row.text(1))};
}

}  // namespace

std::string odd_condition() {
  static const std::string condition = [] {
    for (const MigrationObject &object : migration_objects()) {
      if (object.statement.starts_with(kListOdd)) {
        constexpr std::string_view start = "WHERE ";
        constexpr std::string_view end = "IS NOT 1";
        const std::size_t from = object.statement.find(start) + start.size();
        return object.statement.substr(from, object.statement.find(end) + end.size() - from);
      }
    }
    throw std::logic_error("token_usage: the migration does not say which rows are odd");
  }();
  return condition;
}

bool ensure_rollups(const Ledger &ledger) {
  const std::string schema = quote_identifier(ledger.schema);
  const bool wanted = can_roll(ledger);
  bool made = false;
  for (const MigrationObject &object : rollup_objects()) {
    Standing now = standing(schema, ledger.db, object.name);
    const bool is_trigger = object.kind == "TRIGGER";
    const bool same = now.sql == object.stored_sql;
    if (!now.kind.empty() && (!same || (!wanted && is_trigger))) {
      if (now.kind == "table" || object.kind == "TABLE") {
        throw Error(ErrorKind::adoption, "token_usage: cannot make table " + object.name +
                                             ": another one of that name is there");
      }
      execute(ledger.db, "DROP " + now.kind + " " + schema + ".\"" + object.name + '"');
      now.kind.clear();
    }
    if (now.kind.empty() && (wanted || !is_trigger)) {
      std::string statement = object.statement;
      statement.insert(object.name_at, schema + ".");
      execute(ledger.db, statement);
      made = true;
    }
  }
  if (!made && wanted) {
    return false;
  }
  for (const char *const table : {"token_usage_rollup", "token_usage_rollup_late",
                                  "token_usage_rollup_user", "token_usage_rollup_odd"}) {
    execute(ledger.db, "DELETE FROM " + beside(ledger, table));
  }
  for (const MigrationObject &object : migration_objects()) {
    if (object.kind == "INSERT" && !object.statement.starts_with(kListOdd)) {
      std::string statement = object.statement;
      execute(ledger.db, statement.insert(object.name_at, schema + "."));
    }
  }
  if (wanted) {
    list_all_odd_rows(ledger);
  }
  return made;
}

}  // namespace token_usage
