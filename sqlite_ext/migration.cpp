// Takes the migration file apart: token_usage_migrate() runs its statements one by one, and reports
// compare what a database has with what the file says.
#include "migration.h"

#include <stdexcept>

#include "migration_sql.h"
#include "sqlite.h"

namespace token_usage {

namespace {

std::string without_leading_comments(const std::string &statement) {
  std::size_t at = 0;
  while (at < statement.size()) {
    if (statement.compare(at, 2, "--") == 0) {
      at = std::min(statement.find('\n', at), statement.size());
    } else if (std::string_view(" \t\r\n").find(statement[at]) != std::string_view::npos) {
      ++at;
    } else {
      break;
    }
  }
  return statement.substr(at);
}

std::vector<MigrationObject> parse() {
  std::vector<MigrationObject> out;
  const char *rest = kMigrationSql;
  while (*rest != '\0') {
    // Against the schema as it is a statement need not even compile, so its end is found by
    // sqlite3_complete over growing text.
    std::string statement;
    while (*rest != '\0') {
      statement.push_back(*rest++);
      if (statement.back() == ';' && sqlite3_complete(statement.c_str()) != 0) {
        break;
      }
    }
    std::string text = without_leading_comments(statement);
    if (text.empty() || text.starts_with("BEGIN") || text.starts_with("COMMIT") ||
        text.starts_with("DELETE")) {
      continue;  // transactions are the caller's, and ensure_rollups empties what it must
    }
    text.pop_back();
    MigrationObject object;
    for (const char *const kind : {"TABLE", "INDEX", "TRIGGER"}) {
      const std::string head = std::string("CREATE ") + kind + " IF NOT EXISTS ";
      if (text.starts_with(head)) {
        object.kind = kind;
        object.name_at = head.size();
      }
    }
    constexpr std::string_view insert = "INSERT INTO ";
    if (text.starts_with(insert)) {
      object.kind = "INSERT";
      object.name_at = insert.size();
    }
    if (object.kind.empty()) {
      throw std::logic_error("token_usage: unknown statement in the migration: " + text);
    }
    object.name =
        text.substr(object.name_at, text.find_first_of(" (\n", object.name_at) - object.name_at);
    // SQLite stores the statement from the name on behind its own CREATE.
    object.stored_sql = "CREATE " + object.kind + " " + text.substr(object.name_at);
    object.statement = std::move(text);
    out.push_back(std::move(object));
  }
  return out;
}

}  // namespace

const std::vector<MigrationObject> &migration_objects() {
  static const std::vector<MigrationObject> objects = parse();
  return objects;
}

const std::vector<MigrationObject> &rollup_objects() {
  static const std::vector<MigrationObject> objects = [] {
    std::vector<MigrationObject> out;
    for (const MigrationObject &object : migration_objects()) {
      if (object.is_rollup() && object.kind != "INSERT") {
        out.push_back(object);
      }
    }
    return out;
  }();
  return objects;
}

}  // namespace token_usage
