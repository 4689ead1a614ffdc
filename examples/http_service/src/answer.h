// What the service sends back, and the one form of its errors.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace usage_http {

struct Answer {
  int status = 200;
  std::string body;
  std::string content_type = "application/json";
  std::vector<std::pair<std::string, std::string>> headers;
  // Where set, the body is this text, which lives as long as the process, and `body` is empty.
  std::string_view lasting_body;

  [[nodiscard]] std::string_view content() const {
    return lasting_body.empty() ? std::string_view(body) : lasting_body;
  }
};

// {"success": false, "error": "..."}
Answer error_answer(int status, std::string_view message);

// An error that a handler ends with.
struct HttpError {
  Answer answer;

  HttpError(int status, std::string_view message) : answer(error_answer(status, message)) {}
  HttpError(int status, std::string_view message, std::string header, std::string value)
      : answer(error_answer(status, message)) {
    answer.headers.emplace_back(std::move(header), std::move(value));
  }
};

}  // namespace usage_http
