#include "server.h"

#include <microhttpd.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <optional>
#include <stdexcept>
#include <thread>

#include "log.h"

namespace usage_http {

// One request, from its first line to the last byte of its answer.
struct Request {
  std::chrono::steady_clock::time_point started = std::chrono::steady_clock::now();
  std::string target;  // as it came, the query included
  std::string path;    // decoded
  std::string method;
  std::string authorization;
  std::string content_type;
  std::string if_none_match;
  std::string origin;
  std::string user;  // once the token was checked
  Query query;
  std::string body;
  std::size_t header_bytes = 0;
  std::size_t authorizations = 0;
  std::size_t framings = 0;  // headers that say where the body ends
  std::size_t dropped = 0;   // bytes of the body past the limit
  int status = 0;
  std::size_t sent = 0;
  bool counted = false;
  std::optional<Answer> early;

  [[nodiscard]] bool is(std::string_view wanted) const { return method == wanted; }
  [[nodiscard]] bool reads() const { return method == "GET" || method == "HEAD"; }
};

namespace {

bool same_name(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](char x, char y) {
    const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
    return lower(x) == lower(y);
  });
}

// What libmicrohttpd keeps of a connection: its request's header, and the header of the answer.
constexpr std::size_t connection_memory = 64 * 1024;

// Of a body past the limit so much is read and thrown away, so that the client reads the answer;
// then the connection is cut.
constexpr std::size_t patience_with_bodies = 1024 * 1024;

MHD_Result add_query(void *cls, MHD_ValueKind, const char *key, size_t key_size, const char *value,
                     size_t value_size) {
  static_cast<Request *>(cls)->query.emplace_back(
      std::string(key, key_size), value == nullptr ? "" : std::string(value, value_size));
  return MHD_YES;
}

MHD_Result add_header(void *cls, MHD_ValueKind, const char *key, size_t key_size, const char *value,
                      size_t value_size) {
  Request &request = *static_cast<Request *>(cls);
  const std::string_view name(key, key_size);
  const std::string_view text(value == nullptr ? "" : value, value_size);
  request.header_bytes += name.size() + text.size() + 4;
  if (same_name(name, "Authorization")) {
    request.authorization = text;
    ++request.authorizations;
  } else if (same_name(name, "Content-Length") || same_name(name, "Transfer-Encoding")) {
    ++request.framings;
  } else if (same_name(name, "Content-Type")) {
    request.content_type = text;
  } else if (same_name(name, "If-None-Match")) {
    request.if_none_match = text;
  } else if (same_name(name, "Origin")) {
    request.origin = text;
  }
  return MHD_YES;
}

bool is_json(std::string_view content_type) {
  return same_name(content_type.substr(0, content_type.find_first_of("; ")), "application/json");
}

[[noreturn]] void not_allowed(std::string_view allow) {
  throw HttpError(405, "this path takes " + std::string(allow), "Allow", std::string(allow));
}

// The path below a prefix of the API; nothing for other paths.
std::optional<std::string_view> below_prefix(std::string_view path) {
  for (const std::string_view prefix : prefixes) {
    if (path.starts_with(prefix)) {
      return path.substr(prefix.size());
    }
  }
  return std::nullopt;
}

}  // namespace

// The functions that libmicrohttpd calls.
struct Callbacks {
  static void *start(void *, const char *target, MHD_Connection *) {
    auto *const request = new (std::nothrow) Request;
    if (request != nullptr) {
      try {
        request->target = target;
      } catch (const std::bad_alloc &) {
        delete request;
        return nullptr;
      }
    }
    return request;
  }

  static MHD_Result access(void *cls, MHD_Connection *connection, const char *path,
                           const char *method, const char *, const char *data, size_t *size,
                           void **state) {
    auto *const request = static_cast<Request *>(*state);
    if (request == nullptr) {
      return MHD_NO;
    }
    try {
      return step(*static_cast<Server *>(cls), connection, *request, path, method, data, size);
    } catch (...) {
      return MHD_NO;  // out of memory: the connection is closed
    }
  }

  // Called once with the header, then for each piece of the body, then at its end.
  static MHD_Result step(Server &server, MHD_Connection *connection, Request &request,
                         const char *path, const char *method, const char *data, size_t *size) {
    if (!request.counted) {
      ++server.in_flight_;
      request.counted = true;
      request.path = path;
      request.method = method;
      MHD_get_connection_values_n(connection, MHD_HEADER_KIND, add_header, &request);
      MHD_get_connection_values_n(connection, MHD_GET_ARGUMENT_KIND, add_query, &request);
      try {
        server.begin(request);
      } catch (HttpError &error) {
        // An answer before a body has come ends the connection, so one that has none waits.
        if (request.reads() && request.framings < 2) {
          request.early = std::move(error.answer);
        } else {
          server.send(connection, request, std::move(error.answer));
        }
      }
      return MHD_YES;
    }
    if (*size != 0) {
      const std::size_t room = server.options_.body_limit - request.body.size();
      const std::size_t kept = std::min(*size, room);
      request.body.append(data, kept);
      request.dropped += *size - kept;
      *size = 0;
      return request.dropped > patience_with_bodies ? MHD_NO : MHD_YES;
    }
    if (request.status != 0) {
      return MHD_YES;
    }
    Answer answer;
    try {
      if (request.dropped > 0) {
        throw HttpError(413, "the body is larger than " +
                                 std::to_string(server.options_.body_limit) + " bytes");
      }
      answer = request.early ? std::move(*request.early) : server.route(request);
    } catch (HttpError &error) {
      answer = std::move(error.answer);
    } catch (const std::exception &error) {
      log_line(std::string("internal error: ") + log_text(error.what()));
      answer = error_answer(500, "internal error");
    }
    server.send(connection, request, std::move(answer));
    return MHD_YES;
  }

  static void completed(void *cls, MHD_Connection *, void **state, MHD_RequestTerminationCode) {
    const std::unique_ptr<Request> request(static_cast<Request *>(*state));
    *state = nullptr;
    if (request != nullptr && request->counted) {
      auto &server = *static_cast<Server *>(cls);
      try {
        server.log(*request);
      } catch (const std::bad_alloc &) {
      }
      --server.in_flight_;
    }
  }
};

Server::Server(ServerOptions options, Database &database, const Authenticator &authenticator,
               const StaticFiles &files)
    : options_(std::move(options)),
      database_(database),
      authenticator_(authenticator),
      files_(files) {
  addrinfo hints{};
  hints.ai_flags = AI_NUMERICSERV | AI_PASSIVE;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo *found = nullptr;
  const std::string port = std::to_string(options_.port);
  const int code = getaddrinfo(options_.host.c_str(), port.c_str(), &hints, &found);
  if (code != 0) {
    throw std::runtime_error("--listen: " + options_.host + ": " + gai_strerror(code));
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> address(found, freeaddrinfo);
  const unsigned flags = MHD_USE_THREAD_PER_CONNECTION | MHD_USE_INTERNAL_POLLING_THREAD |
                         MHD_USE_POLL | MHD_USE_ITC |
                         (address->ai_family == AF_INET6 ? unsigned{MHD_USE_IPv6} : 0U);
  daemon_ = MHD_start_daemon(flags, 0, nullptr, nullptr, &Callbacks::access, this,      //
                             MHD_OPTION_SOCK_ADDR, address->ai_addr,                    //
                             MHD_OPTION_URI_LOG_CALLBACK, &Callbacks::start, nullptr,   //
                             MHD_OPTION_NOTIFY_COMPLETED, &Callbacks::completed, this,  //
                             MHD_OPTION_CONNECTION_LIMIT, options_.connections,         //
                             MHD_OPTION_CONNECTION_TIMEOUT, options_.idle_seconds,      //
                             MHD_OPTION_CONNECTION_MEMORY_LIMIT,
                             connection_memory + options_.header_limit,  //
                             MHD_OPTION_STRICT_FOR_CLIENT, 1,            //
                             MHD_OPTION_END);
  if (daemon_ == nullptr) {
    throw std::runtime_error("cannot listen on " + options_.host + ":" + port);
  }
}

Server::~Server() {
  if (daemon_ != nullptr) {
    MHD_stop_daemon(daemon_);
  }
}

std::string Server::url() const {
  const MHD_DaemonInfo *const info = MHD_get_daemon_info(daemon_, MHD_DAEMON_INFO_BIND_PORT);
  std::string host = options_.host;
  if (host.find(':') != std::string::npos) {
    host.insert(0, 1, '[').push_back(']');
  }
  return "http://" + host + ":" + std::to_string(info == nullptr ? options_.port : info->port);
}

std::size_t Server::stop(std::chrono::milliseconds patience) {
  stopping_ = true;
  const MHD_socket socket = MHD_quiesce_daemon(daemon_);
  if (socket != MHD_INVALID_SOCKET) {
    close(socket);
  }
  const auto deadline = std::chrono::steady_clock::now() + patience;
  while (in_flight_ > 0 && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  const std::size_t cut = in_flight_;
  MHD_stop_daemon(daemon_);
  daemon_ = nullptr;
  return cut;
}

// What can be said before the body comes: who may not ask is not listened to.
void Server::begin(Request &request) const {
  // Two that differ would let a proxy and us disagree on where the next request begins.
  if (request.framings > 1) {
    throw HttpError(400, "the length of the body must be given once", "Connection", "close");
  }
  if (request.header_bytes + request.target.size() > options_.header_limit) {
    throw HttpError(
        431, "the header is larger than " + std::to_string(options_.header_limit) + " bytes");
  }
  // A path is compared as text; a NUL would end it early.
  if (request.target.substr(0, request.target.find('?')).find("%00") != std::string::npos) {
    throw HttpError(404, "no such path");
  }
  const auto inside = below_prefix(request.path);
  if (!inside) {
    return;
  }
  const bool records = *inside == record_path;
  if (!records && !reports().contains(*inside)) {
    throw HttpError(404, "no such path");
  }
  const bool asks_cors = request.is("OPTIONS") && !options_.cors_origin.empty();
  if (!request.reads() && !(records && request.is("POST")) && !asks_cors) {
    not_allowed(records ? "GET, HEAD, POST" : "GET, HEAD");
  }
  if (asks_cors) {
    return;
  }
  if (request.authorizations > 1) {
    throw HttpError(400, "the Authorization header must be given once");
  }
  request.user = authenticator_.user(request.authorization);
}

Answer Server::preflight(const Request &request, std::string_view allow) const {
  Answer answer;
  answer.status = 204;
  answer.content_type.clear();
  if (request.origin == options_.cors_origin) {
    answer.headers.emplace_back("Access-Control-Allow-Methods", allow);
    answer.headers.emplace_back("Access-Control-Allow-Headers", "Authorization, Content-Type");
    answer.headers.emplace_back("Access-Control-Max-Age", "600");
  }
  return answer;
}

Answer Server::route(Request &request) const {
  if (const auto inside = below_prefix(request.path)) {
    if (request.is("OPTIONS")) {
      return preflight(request, *inside == record_path ? "GET, HEAD, POST" : "GET, HEAD");
    }
    Answer answer;
    if (request.is("POST")) {
      if (!is_json(request.content_type)) {
        throw HttpError(415, "the event must come as application/json");
      }
      if (!request.query.empty()) {
        throw HttpError(400, "token_usage: an event takes no parameters");
      }
      answer = answer_record(database_, request.user, request.body);
    } else {
      answer =
          answer_report(database_, reports().find(*inside)->second, request.user, request.query);
    }
    return answer;
  }
  if (request.path == "/healthz") {
    if (!request.reads()) {
      not_allowed("GET, HEAD");
    }
    return answer_health(database_);
  }
  if (files_.has(request.path)) {
    if (!request.reads()) {
      not_allowed("GET, HEAD");
    }
    return files_.get(request.path, request.if_none_match);
  }
  throw HttpError(404, "no such path");
}

void Server::send(MHD_Connection *connection, Request &request, Answer answer) const {
  request.status = answer.status;
  const std::string_view content = answer.content();
  request.sent = request.is("HEAD") ? 0 : content.size();
  const bool lasting = !answer.lasting_body.empty();
  MHD_Response *const response =
      MHD_create_response_from_buffer(content.size(), const_cast<char *>(content.data()),
                                      lasting ? MHD_RESPMEM_PERSISTENT : MHD_RESPMEM_MUST_COPY);
  if (response == nullptr) {
    throw std::bad_alloc();
  }
  const std::unique_ptr<MHD_Response, decltype(&MHD_destroy_response)> owner(response,
                                                                             MHD_destroy_response);
  const auto add = [&](const char *name, const std::string &value) {
    MHD_add_response_header(response, name, value.c_str());
  };
  bool has_policy = false;
  bool has_caching = false;
  for (const auto &[name, value] : answer.headers) {
    add(name.c_str(), value);
    has_policy = has_policy || name == "Content-Security-Policy";
    has_caching = has_caching || name == "Cache-Control";
  }
  if (!answer.content_type.empty() && answer.status != 304) {
    add("Content-Type", answer.content_type);
  }
  add("X-Content-Type-Options", "nosniff");
  add("Referrer-Policy", "no-referrer");
  if (!has_policy) {
    add("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'");
  }
  if (!has_caching) {
    add("Cache-Control", "no-store");
  }
  if (!options_.cors_origin.empty()) {
    add("Vary", "Origin");
    if (request.origin == options_.cors_origin) {
      add("Access-Control-Allow-Origin", options_.cors_origin);
    }
  }
  if (stopping_) {
    add("Connection", "close");
  }
  MHD_queue_response(connection, static_cast<unsigned>(answer.status), response);
}

void Server::log(const Request &request) const {
  if (!options_.log_requests) {
    return;
  }
  const auto took =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - request.started);
  char numbers[96];
  std::snprintf(numbers, sizeof numbers, "%d %.1fms %zuB", request.status, took.count(),
                request.sent);
  const std::string_view target = request.target;
  log_line(log_word(request.method) + " " + log_word(target.substr(0, target.find('?'))) + " " +
           numbers + " user=" + (request.user.empty() ? "-" : log_word(request.user)));
}

}  // namespace usage_http
