// token-usage-http: the usage endpoints over one database, each of them one SQL statement. Reads
// the options, starts the server, stops it on SIGTERM and SIGINT.
#include <pthread.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>

#include "auth.h"
#include "database.h"
#include "log.h"
#include "openapi.h"
#include "server.h"
#include "shared_reads.h"
#include "static_files.h"

namespace {

using namespace usage_http;

std::string program_folder() {
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  return error ? "." : self.parent_path().string();
}

// The first of the places that is there; the last where none is.
std::string first_existing(std::initializer_list<std::string> places, const std::string &suffix) {
  for (const std::string &place : places) {
    if (std::filesystem::exists(place + suffix)) {
      return place;
    }
  }
  return *(places.end() - 1);
}

struct Settings {
  DatabaseOptions database;
  ServerOptions server;
  AuthOptions auth;
  std::string listen = "127.0.0.1:8080";
  std::string key_file;
  std::string algorithm = "HS256";
  std::string page;
  long leeway = 0;
  long wait_ms = 2000;
  long statement_ms = 5000;
  long stop_ms = 10'000;
  std::string subject;
  long lifetime = 3600;
  bool no_request_log = false;
  bool ask_each = false;
};

std::string read_key(const std::string &file) {
  if (file.empty()) {
    const char *const text = std::getenv("TOKEN_USAGE_JWT_KEY");
    if (text == nullptr || *text == '\0') {
      throw std::runtime_error(
          "no key: give --jwt-key-file, or the key itself in TOKEN_USAGE_JWT_KEY");
    }
    return text;
  }
  std::ifstream in(file, std::ios::binary);
  std::ostringstream content;
  content << in.rdbuf();
  if (!in) {
    throw std::runtime_error("cannot read " + file);
  }
  std::string key = content.str();
  // An editor, or echo, ends a file with a newline that is no part of a secret.
  while (!key.empty() && (key.back() == '\n' || key.back() == '\r')) {
    key.pop_back();
  }
  return key;
}

// host:port, [v6]:port or a port alone.
void read_listen(const std::string &text, ServerOptions &server) {
  const std::size_t colon = text.rfind(':');
  std::string host = colon == std::string::npos ? "127.0.0.1" : text.substr(0, colon);
  const std::string port = colon == std::string::npos ? text : text.substr(colon + 1);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string::npos) {
    throw std::runtime_error("--listen: an IPv6 address stands in brackets: [::1]:8080");
  }
  if (port.empty() || port.size() > 5 ||
      port.find_first_not_of("0123456789") != std::string::npos || std::stoul(port) > 65535 ||
      host.empty()) {
    throw std::runtime_error("--listen must be ADDRESS:PORT, got " + text);
  }
  server.host = host;
  server.port = static_cast<std::uint16_t>(std::stoul(port));
}

void add_key_options(CLI::App &app, Settings &settings) {
  app.add_option(
         "--jwt-key-file", settings.key_file,
         "File with the key: the secret for HS256, the issuer's public key (PEM) for RS256. "
         "Without it the key is read from TOKEN_USAGE_JWT_KEY")
      ->envname("TOKEN_USAGE_JWT_KEY_FILE");
  app.add_option("--jwt-algorithm", settings.algorithm, "HS256 or RS256, the only one accepted")
      ->envname("TOKEN_USAGE_JWT_ALGORITHM")
      ->check(CLI::IsMember({"HS256", "RS256"}))
      ->capture_default_str();
  app.add_option("--jwt-audience", settings.auth.audience, "Audience (aud) a token must be for");
  app.add_option("--jwt-issuer", settings.auth.issuer, "Issuer (iss) a token must be of");
  app.add_option("--jwt-scope", settings.auth.scope, "Scope (scope or scp) a token must have");
}

void add_options(CLI::App &app, Settings &settings) {
  const std::string folder = program_folder();
  settings.database.extension =
      first_existing({folder + "/../lib/token_usage/token_usage", folder + "/token_usage"}, ".so");
  settings.page = first_existing(
      {folder + "/../share/token-usage-http/page", folder + "/page", TOKEN_USAGE_HTTP_PAGE}, "");
  app.add_option("--database", settings.database.target,
                 "postgresql://..., or the file of a SQLite database")
      ->envname("TOKEN_USAGE_DATABASE");
  app.add_option("--listen", settings.listen, "Address and port; port 0 takes a free one")
      ->envname("TOKEN_USAGE_LISTEN")
      ->capture_default_str();
  add_key_options(app, settings);
  app.add_option("--jwt-leeway", settings.leeway, "Seconds that the issuer's clock may be off")
      ->check(CLI::Range(0, 300))
      ->capture_default_str();
  app.add_option("--sqlite-extension", settings.database.extension,
                 "The SQLite edition's library, without its suffix");
  app.add_option("--pool", settings.database.connections, "Connections to the database")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--pool-wait-ms", settings.wait_ms, "How long a request waits for one of them")
      ->check(CLI::Range(0, 600'000))
      ->capture_default_str();
  app.add_option("--statement-timeout-ms", settings.statement_ms, "Longest statement; 0: no limit")
      ->check(CLI::Range(0, 3'600'000))
      ->capture_default_str();
  app.add_flag("--ask-each", settings.ask_each,
               "Ask the database for each request, also where the same question waits already");
  app.add_option("--page", settings.page, "Folder of the page and of Swagger UI (docs/)");
  app.add_option("--cors-origin", settings.server.cors_origin,
                 "The one other origin whose pages may ask, https://app.example.com");
  app.add_option("--max-connections", settings.server.connections, "HTTP connections at a time")
      ->check(CLI::Range(1, 100'000))
      ->capture_default_str();
  app.add_option("--idle-timeout", settings.server.idle_seconds,
                 "Seconds after which a silent HTTP connection is closed")
      ->check(CLI::Range(1, 3600))
      ->capture_default_str();
  app.add_option("--max-body", settings.server.body_limit, "Largest body of a request, bytes")
      ->check(CLI::Range(1, 64 * 1024 * 1024))
      ->capture_default_str();
  app.add_option("--max-header", settings.server.header_limit, "Largest header of a request, bytes")
      ->check(CLI::Range(256, 1024 * 1024))
      ->capture_default_str();
  app.add_option("--stop-timeout-ms", settings.stop_ms,
                 "How long requests may take to end when the service is stopped")
      ->check(CLI::Range(0, 3'600'000))
      ->capture_default_str();
  app.add_flag("--no-request-log", settings.no_request_log, "No line for each request");
}

int serve(Settings settings, const sigset_t &signals) {
  if (settings.database.target.empty()) {
    throw std::runtime_error(
        "--database is needed: postgresql://..., or the file of a SQLite database");
  }
  read_listen(settings.listen, settings.server);
  settings.server.log_requests = !settings.no_request_log;
  settings.auth.key = read_key(settings.key_file);
  settings.auth.leeway = std::chrono::seconds(settings.leeway);
  settings.database.wait = std::chrono::milliseconds(settings.wait_ms);
  settings.database.statement_timeout = std::chrono::milliseconds(settings.statement_ms);

  const Authenticator authenticator(settings.auth);
  std::unique_ptr<Database> database = make_database(settings.database);
  if (!settings.ask_each) {
    database = std::make_unique<SharedReads>(std::move(database));
  }
  StaticFiles files(settings.page);
  const std::size_t page_files = files.size();
  files.add("/openapi.json", openapi_text);
  try {
    answer_health(*database);
  } catch (const HttpError &error) {
    log_line("starting without the database: " + error.answer.body);
  }
  Server server(settings.server, *database, authenticator, files);
  log_line("listening on " + server.url() + ", " + std::string(database->kind()) + ", " +
           settings.algorithm + ", " +
           (page_files == 0 ? "no page in " + settings.page : "page from " + settings.page));

  int signal = 0;
  sigwait(&signals, &signal);
  log_line(std::string("stopping on ") + (signal == SIGTERM ? "SIGTERM" : "SIGINT"));
  // A second signal does not wait.
  std::signal(SIGTERM, SIG_DFL);
  std::signal(SIGINT, SIG_DFL);
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
  const std::size_t cut = server.stop(std::chrono::milliseconds(settings.stop_ms));
  log_line("stopped" + (cut == 0 ? "" : ", " + std::to_string(cut) + " requests cut off"));
  return cut == 0 ? 0 : 1;
}

int print_token(Settings settings) {
  settings.auth.key = read_key(settings.key_file);
  std::puts(
      make_token(settings.auth, settings.subject, std::chrono::seconds(settings.lifetime)).c_str());
  return 0;
}

}  // namespace

int main(int count, char **arguments) {
  // Blocked before there are threads, so that only sigwait takes them.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::signal(SIGPIPE, SIG_IGN);

  Settings settings;
  CLI::App app{"The usage endpoints of token_usage over PostgreSQL or SQLite."};
  app.set_version_flag("--version", TOKEN_USAGE_HTTP_VERSION);
  CLI::App *const token = app.add_subcommand(
      "token", "Prints a token, for trying the service out; with RS256 the key is the private one");
  token->add_option("--subject", settings.subject, "The user")->required();
  token->add_option("--lifetime", settings.lifetime, "Seconds until it expires")
      ->capture_default_str();
  try {
    add_options(app, settings);
    add_key_options(*token, settings);
    CLI11_PARSE(app, count, arguments);
    settings.auth.algorithm = settings.algorithm == "HS256" ? Algorithm::hs256 : Algorithm::rs256;
    return token->parsed() ? print_token(settings) : serve(settings, signals);
  } catch (const std::exception &error) {
    std::cerr << "token-usage-http: " << error.what() << '\n';
    return 2;
  }
}
