// What the service needs of a database: run one statement with parameters, get one JSON text back.
// An error is sorted into what the client must hear of it; how is the business of postgres.cpp and
// sqlite.cpp.
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace usage_http {

enum class Type { text, integer, json };

// A statement that both databases read. Its parameters are $1, $2 ... in this order.
struct Statement {
  std::string name;
  std::string sql;
  std::vector<Type> types;
  bool writes = false;
};

// Parameters as text; nothing is NULL.
using Values = std::vector<std::optional<std::string>>;

enum class Failure {
  argument,  // the contract's error about an argument
  conflict,  // the same request_id with other facts
  refused,   // the ledger does not take such a row
  away,      // the database cannot be asked now
  broken,    // anything else: a fault of the installation or of ours
};

class DatabaseError : public std::runtime_error {
 public:
  // `message` is for the client, `detail` for the log.
  DatabaseError(Failure failure, const std::string &message, std::string detail)
      : std::runtime_error(message), failure_(failure), detail_(std::move(detail)) {}
  [[nodiscard]] Failure failure() const { return failure_; }
  [[nodiscard]] const std::string &detail() const { return detail_; }

 private:
  Failure failure_;
  std::string detail_;
};

struct DatabaseOptions {
  std::string target;     // postgresql://... or a SQLite file
  std::string extension;  // SQLite: path of the loadable extension
  std::size_t connections = 8;
  std::chrono::milliseconds wait{2000};               // for a free connection
  std::chrono::milliseconds statement_timeout{5000};  // 0: none
};

class Database {
 public:
  virtual ~Database() = default;

  // The first column of the first row. Throws DatabaseError.
  virtual std::string run(const Statement &statement, const Values &values) = 0;

  [[nodiscard]] virtual std::string_view kind() const = 0;
};

// Opens no connection yet: a service may start before its database. Throws std::runtime_error where
// `target` makes no sense.
std::unique_ptr<Database> make_database(const DatabaseOptions &options);
std::unique_ptr<Database> make_postgres(const DatabaseOptions &options);
std::unique_ptr<Database> make_sqlite(const DatabaseOptions &options);

bool is_postgres(std::string_view target);

// What a client hears where the words of the database are not for it.
inline constexpr char message_away[] = "the database is not available";
inline constexpr char message_slow[] = "the database took too long";
inline constexpr char message_busy[] = "all connections to the database are in use";
inline constexpr char message_broken[] = "the database could not answer";
inline constexpr char message_refused[] = "the ledger does not take this event";

}  // namespace usage_http
