// HTTP, by libmicrohttpd: one thread a connection, so that a slow query or a slow client keeps
// nobody else waiting. Finds the handler, reads the body, sends the answer, writes the log.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "answer.h"
#include "api.h"
#include "auth.h"
#include "database.h"
#include "static_files.h"

struct MHD_Daemon;
struct MHD_Connection;

namespace usage_http {

struct ServerOptions {
  std::string host = "127.0.0.1";
  std::uint16_t port = 8080;
  unsigned connections = 256;
  unsigned idle_seconds = 30;
  std::size_t body_limit = 1024 * 1024;
  std::size_t header_limit = 16 * 1024;
  std::string cors_origin;  // empty: no other origin may ask
  bool log_requests = true;
};

struct Request;

class Server {
 public:
  // Starts to serve. What is handed over must outlive the server. Throws std::runtime_error.
  Server(ServerOptions options, Database &database, const Authenticator &authenticator,
         const StaticFiles &files);
  ~Server();
  Server(const Server &) = delete;
  Server &operator=(const Server &) = delete;

  // http://127.0.0.1:8080, with the port that was taken where it was 0.
  [[nodiscard]] std::string url() const;

  // Takes no more connections, waits until the requests that are being answered are done or the
  // time is over, and closes the rest. How many were cut off.
  std::size_t stop(std::chrono::milliseconds patience);

 private:
  friend struct Callbacks;

  void begin(Request &request) const;
  void finish(Request &request) const;
  void send(MHD_Connection *connection, Request &request, Answer answer) const;
  void log(const Request &request) const;
  Answer route(Request &request) const;
  Answer preflight(const Request &request, std::string_view allow) const;

  const ServerOptions options_;
  Database &database_;
  const Authenticator &authenticator_;
  const StaticFiles &files_;
  std::atomic<std::size_t> in_flight_{0};
  std::atomic<bool> stopping_{false};
  MHD_Daemon *daemon_ = nullptr;
};

}  // namespace usage_http
