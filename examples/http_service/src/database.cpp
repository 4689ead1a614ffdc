#include "database.h"

namespace usage_http {

bool is_postgres(std::string_view target) {
  return target.starts_with("postgresql://") || target.starts_with("postgres://");
}

std::unique_ptr<Database> make_database(const DatabaseOptions &options) {
  return is_postgres(options.target) ? make_postgres(options) : make_sqlite(options);
}

}  // namespace usage_http
