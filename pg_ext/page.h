// What is computed for each row of a page.
#pragma once

#include "server.h"

namespace token_usage {

// The cursor of a row (core/cursor.h tells its form); its time is finite.
text *cursor_text(TimestampTz created_at, const char *id);

}  // namespace token_usage
