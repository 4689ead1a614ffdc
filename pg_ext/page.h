// What is computed for each row of a page.
#pragma once

#include <cstdint>

#include "server.h"

namespace token_usage {

// From 1970 to 2000, where PostgreSQL's times start.
constexpr std::int64_t kUnixEpoch =
    static_cast<std::int64_t>(POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;

// The cursor of a row (core/cursor.h tells its form); its time is finite.
text *cursor_text(TimestampTz created_at, const char *id);

}  // namespace token_usage
