// SQLite: connections to one file, each with the extension loaded.
#include <sqlite3.h>
#include <sys/stat.h>

#include <map>

#include "database.h"
#include "pool.h"

namespace usage_http {

namespace {

struct Close {
  void operator()(sqlite3 *db) const { sqlite3_close_v2(db); }
  void operator()(sqlite3_stmt *statement) const { sqlite3_finalize(statement); }
};

// Which file a path names: another one may have taken its place, a restored backup for example.
struct FileId {
  dev_t device = 0;
  ino_t inode = 0;
  bool operator==(const FileId &) const = default;
};

bool file_id(const std::string &path, FileId &id) {
  struct stat status {};
  if (stat(path.c_str(), &status) != 0) {
    return false;
  }
  id = {status.st_dev, status.st_ino};
  return true;
}

[[noreturn]] void throw_failure(sqlite3 *db, int code, bool writes) {
  const std::string message = sqlite3_errmsg(db);
  const std::string detail = "sqlite " + std::to_string(code) + " " + message;
  if (message.starts_with("token_usage: ")) {
    // SQLite's functions have one error code, so the words of the contract tell them apart.
    if (message.find(" must be new or repeat the same facts") != std::string::npos) {
      throw DatabaseError(Failure::conflict, message, detail);
    }
    if (message.starts_with("token_usage: no token_usage table")) {
      throw DatabaseError(Failure::away, message, detail);
    }
    if (message.find(" must ") != std::string::npos) {
      throw DatabaseError(Failure::argument, message, detail);
    }
    throw DatabaseError(writes ? Failure::refused : Failure::broken, message, detail);
  }
  switch (code & 0xFF) {
    case SQLITE_INTERRUPT:
      throw DatabaseError(Failure::away, message_slow, detail);
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_CANTOPEN:
    case SQLITE_IOERR:
    case SQLITE_NOMEM:
    case SQLITE_FULL:
    case SQLITE_READONLY:
    case SQLITE_NOTADB:
    case SQLITE_CORRUPT:
    case SQLITE_PROTOCOL:
      throw DatabaseError(Failure::away, message_away, detail);
    case SQLITE_CONSTRAINT:
    case SQLITE_MISMATCH:
    case SQLITE_TOOBIG:
      throw DatabaseError(Failure::refused, message_refused, detail);
    default:
      throw DatabaseError(Failure::broken, message_broken, detail);
  }
}

class SqliteConnection {
 public:
  explicit SqliteConnection(const DatabaseOptions &options)
      : path_(options.target), limit_(options.statement_timeout) {
    if (!file_id(path_, file_)) {
      throw DatabaseError(Failure::away, message_away, "no file " + path_);
    }
    sqlite3 *db = nullptr;
    const int code =
        sqlite3_open_v2(path_.c_str(), &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, nullptr);
    db_.reset(db);
    if (code != SQLITE_OK) {
      throw DatabaseError(Failure::away, message_away,
                          db == nullptr ? "out of memory" : sqlite3_errmsg(db));
    }
    sqlite3_busy_timeout(db, static_cast<int>(limit_.count() > 0 ? limit_.count() : 5000));
    sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1, nullptr);
    char *message = nullptr;
    if (sqlite3_load_extension(db, options.extension.c_str(), nullptr, &message) != SQLITE_OK) {
      const std::string text = message == nullptr ? "" : message;
      sqlite3_free(message);
      throw DatabaseError(Failure::broken, "the SQLite extension cannot be loaded", text);
    }
    sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0, nullptr);
    // What triggers keep aside while they run need not go to a file.
    sqlite3_exec(db, "PRAGMA temp_store = MEMORY", nullptr, nullptr, nullptr);
    if (limit_.count() > 0) {
      sqlite3_progress_handler(
          db, 10'000,
          [](void *self) {
            return std::chrono::steady_clock::now() >
                           static_cast<SqliteConnection *>(self)->deadline_
                       ? 1
                       : 0;
          },
          this);
    }
  }

  [[nodiscard]] bool usable() const {
    FileId now;
    return file_id(path_, now) && now == file_;
  }

  [[nodiscard]] bool healthy() const { return sqlite3_get_autocommit(db_.get()) != 0; }

  std::string run(const Statement &statement, const Values &values) {
    deadline_ = std::chrono::steady_clock::now() + limit_;
    sqlite3_stmt *const prepared = prepare(statement);
    struct Reset {
      sqlite3_stmt *statement;
      ~Reset() {
        sqlite3_reset(statement);
        sqlite3_clear_bindings(statement);
      }
    } const reset{prepared};
    for (std::size_t i = 0; i < values.size(); ++i) {
      const std::string name = "$" + std::to_string(i + 1);
      const int at = sqlite3_bind_parameter_index(prepared, name.c_str());
      const int code = values[i]
                           ? sqlite3_bind_text64(prepared, at, values[i]->data(), values[i]->size(),
                                                 SQLITE_STATIC, SQLITE_UTF8)
                           : sqlite3_bind_null(prepared, at);
      if (code != SQLITE_OK) {
        throw_failure(db_.get(), code, statement.writes);
      }
    }
    const int code = sqlite3_step(prepared);
    if (code != SQLITE_ROW) {
      throw_failure(db_.get(), code, statement.writes);
    }
    const unsigned char *const text = sqlite3_column_text(prepared, 0);
    if (text == nullptr) {
      throw DatabaseError(Failure::broken, message_broken, statement.name + " gave nothing");
    }
    std::string body(reinterpret_cast<const char *>(text),
                     static_cast<std::size_t>(sqlite3_column_bytes(prepared, 0)));
    // A statement that writes is done, and its transaction with it, only at its end.
    const int end = sqlite3_step(prepared);
    if (end != SQLITE_DONE) {
      throw_failure(db_.get(), end, statement.writes);
    }
    return body;
  }

 private:
  sqlite3_stmt *prepare(const Statement &statement) {
    const auto found = prepared_.find(statement.name);
    if (found != prepared_.end()) {
      return found->second.get();
    }
    sqlite3_stmt *prepared = nullptr;
    const int code = sqlite3_prepare_v2(db_.get(), statement.sql.c_str(), -1, &prepared, nullptr);
    if (code != SQLITE_OK) {
      throw_failure(db_.get(), code, statement.writes);
    }
    prepared_[statement.name].reset(prepared);
    return prepared;
  }

  const std::string path_;
  const std::chrono::milliseconds limit_;
  std::chrono::steady_clock::time_point deadline_;
  FileId file_;
  std::unique_ptr<sqlite3, Close> db_;
  std::map<std::string, std::unique_ptr<sqlite3_stmt, Close>, std::less<>> prepared_;
};

class Sqlite : public Database {
 public:
  explicit Sqlite(const DatabaseOptions &options)
      : options_(options), pool_(options.connections, options.wait, [this] {
          return std::make_unique<SqliteConnection>(options_);
        }) {}

  std::string run(const Statement &statement, const Values &values) override {
    return pool_.borrow()->run(statement, values);
  }

  [[nodiscard]] std::string_view kind() const override { return "sqlite"; }

 private:
  const DatabaseOptions options_;
  Pool<SqliteConnection> pool_;
};

}  // namespace

std::unique_ptr<Database> make_sqlite(const DatabaseOptions &options) {
  return std::make_unique<Sqlite>(options);
}

}  // namespace usage_http
