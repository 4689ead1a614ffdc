#include "answer.h"

#include "json_reader.h"

namespace usage_http {

Answer error_answer(int status, std::string_view message) {
  Answer answer;
  answer.status = status;
  answer.body = R"({"success": false, "error": )";
  token_usage::append_json_string(answer.body, message);
  answer.body += '}';
  return answer;
}

}  // namespace usage_http
