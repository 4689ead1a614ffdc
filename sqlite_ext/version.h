// token_usage_version().
#pragma once

#include "sqlite.h"

namespace token_usage {

int register_version(sqlite3 *db);

}  // namespace token_usage
