// The reports as whole HTTP response bodies.
#pragma once

#include "sqlite.h"

namespace token_usage {

int register_report_json(sqlite3 *db);

}  // namespace token_usage
