// The aggregate token_usage_decimal_sum.
#pragma once

#include "sqlite.h"

namespace token_usage {

int register_decimal_sum(sqlite3 *db);

}  // namespace token_usage
