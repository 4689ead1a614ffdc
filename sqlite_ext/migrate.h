// token_usage_migrate([user_id_type [, schema]]).
#pragma once

#include "sqlite.h"

namespace token_usage {

int register_migrate(sqlite3 *db);

}  // namespace token_usage
