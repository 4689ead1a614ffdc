// The ledger's settings: a name and a value each, in the table token_usage_settings beside the
// ledger.
#pragma once

#include <string>
#include <string_view>

#include "ledger.h"

namespace token_usage {

// The value of a setting, or its default where none was set.
std::string read_setting(Snapshot &snapshot, std::string_view name);

// token_usage_setting(name [, schema]) and token_usage_set(name, value [, schema]).
int register_settings(sqlite3 *db);

}  // namespace token_usage
