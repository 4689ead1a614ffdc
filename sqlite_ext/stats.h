// The aggregate token_usage_stats.
#pragma once

#include "sqlite.h"

namespace token_usage {

int register_stats(sqlite3 *db);

}  // namespace token_usage
