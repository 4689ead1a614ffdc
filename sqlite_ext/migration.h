// The statements of the migration file, one by one.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace token_usage {

struct MigrationObject {
  std::string kind;  // TABLE, INDEX, VIEW, TRIGGER
  std::string name;
  std::string statement;   // CREATE ... without the semicolon
  std::size_t name_at;     // where the name stands in it
  std::string stored_sql;  // as sqlite_master keeps it
};

// All objects in the order of the file.
const std::vector<MigrationObject> &migration_objects();

// Those of the rollups: tables, views and triggers named token_usage_rollup*.
const std::vector<MigrationObject> &rollup_objects();

}  // namespace token_usage
