// The statements of the migration file, one by one.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace token_usage {

struct MigrationObject {
  std::string kind;  // TABLE, INDEX, TRIGGER, INSERT
  std::string name;
  std::string statement;   // without the semicolon
  std::size_t name_at;     // where the name stands in it
  std::string stored_sql;  // as sqlite_master keeps it

  // The rollups hang together: they are made all or none.
  [[nodiscard]] bool is_rollup() const { return name.find("token_usage_rollup") != name.npos; }
};

// All objects in the order of the file.
const std::vector<MigrationObject> &migration_objects();

// The tables, indexes and triggers of the rollups.
const std::vector<MigrationObject> &rollup_objects();

}  // namespace token_usage
