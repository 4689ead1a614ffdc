#include "sqlite.h"

#include "../core/float_text.h"

namespace token_usage {

void throw_sqlite(sqlite3 *db, int code) {
  if ((code & 0xFF) == SQLITE_NOMEM) {
    throw std::bad_alloc();
  }
  throw SqliteError(code, sqlite3_errmsg(db));
}

std::string quote_identifier(std::string_view name) {
  std::string out = "\"";
  for (const char c : name) {
    out.append(c == '"' ? 2 : 1, c);
  }
  return out + '"';
}

Statement::Statement(sqlite3 *db, const std::string &sql) : db_(db) {
  prepare(sql, 0);
}

Statement::~Statement() {
  if (kept_ == nullptr) {
    sqlite3_finalize(statement_);
  } else {
    kept_->give(number_, statement_);
  }
}

void Statement::prepare(const std::string &sql, unsigned flags) {
  prepared_ = true;
  check(sqlite3_prepare_v3(db_, sql.c_str(), static_cast<int>(sql.size()) + 1, flags, &statement_,
                           nullptr));
}

void Statement::check(int code) const {
  if (code != SQLITE_OK) {
    throw_sqlite(db_, code);
  }
}

Statement &Statement::bind(int parameter, std::int64_t value) {
  check(sqlite3_bind_int64(statement_, parameter, value));
  return *this;
}

Statement &Statement::bind(int parameter, double value) {
  check(sqlite3_bind_double(statement_, parameter, value));
  return *this;
}

Statement &Statement::bind(int parameter, std::string_view text) {
  check(sqlite3_bind_text64(statement_, parameter, text.data() == nullptr ? "" : text.data(),
                            text.size(), SQLITE_TRANSIENT, SQLITE_UTF8));
  return *this;
}

Statement &Statement::bind(int parameter, const sqlite3_value *value) {
  check(sqlite3_bind_value(statement_, parameter, value));
  return *this;
}

Statement &Statement::bind_blob(int parameter, std::string_view bytes) {
  check(sqlite3_bind_blob64(statement_, parameter, bytes.data() == nullptr ? "" : bytes.data(),
                            bytes.size(), SQLITE_TRANSIENT));
  return *this;
}

Statement &Statement::bind_pointer(int parameter, void *pointer, const char *type) {
  check(sqlite3_bind_pointer(statement_, parameter, pointer, type, nullptr));
  return *this;
}

Statement &Statement::bind_null(int parameter) {
  check(sqlite3_bind_null(statement_, parameter));
  return *this;
}

bool Statement::step() {
  const int code = sqlite3_step(statement_);
  if (code == SQLITE_ROW) {
    return true;
  }
  if (code != SQLITE_DONE) {
    throw_sqlite(db_, code);
  }
  return false;
}

void Statement::reset() {
  check(sqlite3_reset(statement_));
}

std::string_view Statement::text(int column) const {
  const auto *const text = reinterpret_cast<const char *>(sqlite3_column_text(statement_, column));
  if (text == nullptr) {
    if (sqlite3_errcode(db_) == SQLITE_NOMEM) {
      throw std::bad_alloc();
    }
    return {};
  }
  return {text, static_cast<std::size_t>(sqlite3_column_bytes(statement_, column))};
}

std::string_view Statement::blob(int column) const {
  const auto *const bytes = static_cast<const char *>(sqlite3_column_blob(statement_, column));
  if (bytes == nullptr) {
    // A blob without bytes, unless it is want of memory.
    if (sqlite3_errcode(db_) == SQLITE_NOMEM) {
      throw std::bad_alloc();
    }
    return {};
  }
  return {bytes, static_cast<std::size_t>(sqlite3_column_bytes(statement_, column))};
}

OwnedValue Statement::copy(int column) const {
  OwnedValue copy(sqlite3_value_dup(sqlite3_column_value(statement_, column)));
  if (!copy) {
    throw std::bad_alloc();
  }
  return copy;
}

void execute(sqlite3 *db, const std::string &sql) {
  const int code = sqlite3_exec(db, sql.c_str(), nullptr, nullptr, nullptr);
  if (code != SQLITE_OK) {
    throw_sqlite(db, code);
  }
}

std::optional<std::string_view> optional_text(sqlite3_value *value) {
  // Asked first: where memory runs out below, SQLite may make a NULL of the value.
  if (sqlite3_value_type(value) == SQLITE_NULL) {
    return std::nullopt;
  }
  const auto *const text = reinterpret_cast<const char *>(sqlite3_value_text(value));
  if (text == nullptr) {
    // A blob without bytes reads as no text at all; anything else is want of memory.
    if (sqlite3_value_type(value) == SQLITE_BLOB && sqlite3_value_bytes(value) == 0) {
      return std::string_view();
    }
    throw std::bad_alloc();
  }
  return std::string_view(text, static_cast<std::size_t>(sqlite3_value_bytes(value)));
}

std::string_view value_text(sqlite3_value *value) {
  return optional_text(value).value_or(std::string_view());
}

std::string value_shown(sqlite3_value *value) {
  switch (sqlite3_value_type(value)) {
    case SQLITE_NULL:
      return "NULL";
    case SQLITE_FLOAT:
      return plain_float(sqlite3_value_double(value));
    default:
      return std::string(value_text(value));
  }
}

int set_message(char **target, const char *message, int code) {
  sqlite3_free(*target);
  *target = sqlite3_mprintf("%s", message);
  return *target == nullptr ? SQLITE_NOMEM : code;
}

}  // namespace token_usage
