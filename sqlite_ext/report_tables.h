// The reports as table-valued functions.
#pragma once

#include "sqlite.h"

namespace token_usage {

int register_report_tables(sqlite3 *db);

}  // namespace token_usage
