// PostgreSQL through libpq: one round trip a request, by a statement that each connection prepares
// once.
#include <libpq-fe.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <set>

#include "database.h"
#include "log.h"
#include "pool.h"

namespace usage_http {

namespace {

struct Finish {
  void operator()(PGconn *connection) const { PQfinish(connection); }
  void operator()(PGresult *result) const { PQclear(result); }
  void operator()(PQconninfoOption *options) const { PQconninfoFree(options); }
};
using Connection = std::unique_ptr<PGconn, Finish>;
using Result = std::unique_ptr<PGresult, Finish>;

// The server went away in the middle of a statement.
struct Lost {
  std::string detail;
};

Oid type_oid(Type type) {
  switch (type) {
    case Type::integer:
      return 20;  // int8
    case Type::json:
      return 3802;  // jsonb
    case Type::text:
      break;
  }
  return 25;  // text
}

std::string one_line(const char *message) {
  std::string text = message == nullptr ? "" : message;
  while (!text.empty() && text.back() == '\n') {
    text.pop_back();
  }
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text;
}

[[noreturn]] void throw_failure(const Statement &statement, const PGresult *result) {
  const char *const state_text = PQresultErrorField(result, PG_DIAG_SQLSTATE);
  const std::string state = state_text == nullptr ? "" : state_text;
  const char *const primary = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
  const std::string message = primary == nullptr ? "" : primary;
  const std::string detail = state + " " + message;
  const std::string kind = state.substr(0, 2);
  const bool ours = message.starts_with("token_usage: ");
  if (state == "22023" && ours) {
    throw DatabaseError(Failure::argument, message, detail);
  }
  if (state == "23505" && ours) {
    throw DatabaseError(Failure::conflict, message, detail);
  }
  if (state == "42P01" && ours) {
    throw DatabaseError(Failure::away, message, detail);
  }
  if (statement.writes && (kind == "22" || kind == "23")) {
    throw DatabaseError(Failure::refused, ours ? message : message_refused, detail);
  }
  if (state == "57014") {
    throw DatabaseError(Failure::away, message_slow, detail);
  }
  // No connection, no resources, stopping or starting, system errors, a standby, a deadlock.
  constexpr std::array<std::string_view, 5> passing = {"08", "53", "57", "58", "40"};
  if (std::find(passing.begin(), passing.end(), kind) != passing.end() || state == "25006") {
    throw DatabaseError(Failure::away, message_away, detail);
  }
  throw DatabaseError(Failure::broken, ours ? message : message_broken, detail);
}

class PostgresConnection {
 public:
  explicit PostgresConnection(const DatabaseOptions &options) {
    // A later keyword wins, so what the URL says holds against what stands before it.
    constexpr std::array<const char *, 9> keywords = {"application_name",
                                                      "connect_timeout",
                                                      "keepalives_idle",
                                                      "keepalives_interval",
                                                      "keepalives_count",
                                                      "tcp_user_timeout",
                                                      "dbname",
                                                      "client_encoding",
                                                      nullptr};
    const std::array<const char *, 9> values = {
        "token-usage-http", "3", "10", "5", "3", "15000", options.target.c_str(), "UTF8", nullptr};
    connection_.reset(PQconnectdbParams(keywords.data(), values.data(), 1));
    if (connection_ == nullptr || PQstatus(connection_.get()) != CONNECTION_OK) {
      throw DatabaseError(Failure::away, message_away,
                          "cannot connect: " + one_line(PQerrorMessage(connection_.get())));
    }
    PQsetNoticeProcessor(
        connection_.get(), [](void *, const char *) {}, nullptr);
    // Not as start-up options: poolers refuse those. Statements of milliseconds only lose by being
    // compiled, which costs more than all of the work and which PostgreSQL decides by its
    // estimates.
    const std::string limit = std::to_string(options.statement_timeout.count());
    const char *const parameter = limit.c_str();
    const Result result(PQexecParams(connection_.get(),
                                     "SELECT pg_catalog.set_config('statement_timeout', $1, false),"
                                     " pg_catalog.set_config('jit', 'off', false)",
                                     1, nullptr, &parameter, nullptr, nullptr, 0));
    if (PQresultStatus(result.get()) != PGRES_TUPLES_OK) {
      throw DatabaseError(Failure::away, message_away, one_line(PQerrorMessage(connection_.get())));
    }
  }

  // An idle connection has nothing to say; one that has was closed by the server.
  [[nodiscard]] bool usable() const {
    pollfd ready{PQsocket(connection_.get()), POLLIN, 0};
    return poll(&ready, 1, 0) == 0;
  }

  [[nodiscard]] bool healthy() const {
    return PQstatus(connection_.get()) == CONNECTION_OK &&
           PQtransactionStatus(connection_.get()) == PQTRANS_IDLE;
  }

  std::string run(const Statement &statement, const Values &values) {
    prepare(statement);
    std::vector<const char *> parameters(values.size());
    for (std::size_t i = 0; i < values.size(); ++i) {
      parameters[i] = values[i] ? values[i]->c_str() : nullptr;
    }
    const Result result(PQexecPrepared(connection_.get(), statement.name.c_str(),
                                       static_cast<int>(parameters.size()), parameters.data(),
                                       nullptr, nullptr, 0));
    check(statement, result.get(), PGRES_TUPLES_OK);
    if (PQntuples(result.get()) < 1 || PQgetisnull(result.get(), 0, 0)) {
      throw DatabaseError(Failure::broken, message_broken, statement.name + " gave nothing");
    }
    return {PQgetvalue(result.get(), 0, 0),
            static_cast<std::size_t>(PQgetlength(result.get(), 0, 0))};
  }

 private:
  void prepare(const Statement &statement) {
    if (prepared_.contains(statement.name)) {
      return;
    }
    std::vector<Oid> types;
    for (const Type type : statement.types) {
      types.push_back(type_oid(type));
    }
    const Result result(PQprepare(connection_.get(), statement.name.c_str(), statement.sql.c_str(),
                                  static_cast<int>(types.size()), types.data()));
    check(statement, result.get(), PGRES_COMMAND_OK);
    prepared_.insert(statement.name);
  }

  void check(const Statement &statement, const PGresult *result, ExecStatusType wanted) {
    if (result != nullptr && PQresultStatus(result) == wanted) {
      return;
    }
    if (PQstatus(connection_.get()) != CONNECTION_OK) {
      throw Lost{one_line(PQerrorMessage(connection_.get()))};
    }
    throw_failure(statement, result);
  }

  Connection connection_;
  std::set<std::string, std::less<>> prepared_;
};

class Postgres : public Database {
 public:
  explicit Postgres(const DatabaseOptions &options)
      : options_(options), pool_(options.connections, options.wait, [this] {
          return std::make_unique<PostgresConnection>(options_);
        }) {}

  std::string run(const Statement &statement, const Values &values) override {
    // What only reads may be asked twice, so that a restart of the server between two requests is
    // not seen. What writes may not: the row may be there.
    for (bool again = !statement.writes;; again = false) {
      try {
        return pool_.borrow()->run(statement, values);
      } catch (const Lost &lost) {
        if (!again) {
          throw DatabaseError(Failure::away, message_away, lost.detail);
        }
        log_line("database connection lost, asking again: " + log_text(lost.detail));
      }
    }
  }

  [[nodiscard]] std::string_view kind() const override { return "postgresql"; }

 private:
  const DatabaseOptions options_;
  Pool<PostgresConnection> pool_;
};

}  // namespace

std::unique_ptr<Database> make_postgres(const DatabaseOptions &options) {
  char *message = nullptr;
  const std::unique_ptr<PQconninfoOption, Finish> parsed(
      PQconninfoParse(options.target.c_str(), &message));
  if (parsed == nullptr) {
    const std::string text = one_line(message);
    PQfreemem(message);
    throw std::runtime_error("--database: " + text);
  }
  return std::make_unique<Postgres>(options);
}

}  // namespace usage_http
