// Events: every key that may stand in one, and every way to get one wrong.
#include <gtest/gtest.h>

#include <string>

#include "arguments.h"
#include "event.h"

namespace token_usage {
namespace {

Event read(const std::string &text) {
  const JsonDocument document(text, "event");
  return read_event(document.root(), "event");
}

std::string error_of(const std::string &text) {
  try {
    read(text);
    return "none";
  } catch (const Error &error) {
    return error.what();
  }
}

// The required keys and `more`.
std::string event(const std::string &more) {
  return R"({"user_id": 42, "agent_id": "a", "ai_provider": "openai", "ai_model": "gpt-4o")" +
         (more.empty() ? "" : ", " + more) + "}";
}

const std::string kCounts = R"("prompt_tokens": 10, "completion_tokens": 5)";

TEST(Event, Counts) {
  const Event out = read(
      event(kCounts +
            R"(, "total_tokens": 15, "cache_read_tokens": 4, "request_id": "r", "cost_usd": 0.10,
      "created_at": "2025-10-20T14:30:25Z", "request_metadata": [1], "content_id": null)"));
  EXPECT_EQ(out.user_id, "42");
  EXPECT_TRUE(out.user_id_is_number);
  EXPECT_EQ(out.usage.get(Count::total), 15);
  EXPECT_EQ(out.usage[Count::cache_read], 4);
  EXPECT_FALSE(out.usage[Count::cache_write]);
  EXPECT_EQ(out.text(TextColumn::request_id), "r");
  EXPECT_FALSE(out.text(TextColumn::content_id));
  EXPECT_EQ(out.cost_usd, "0.10");
  EXPECT_EQ(out.request_metadata, "[1]");
  EXPECT_EQ(format_timestamp(*out.created_at), "2025-10-20T14:30:25Z");
}

TEST(Event, Response) {
  const Event out = read(event(
      R"("response": {"usage": {"prompt_tokens": 3, "completion_tokens": 4}}, "response_metadata": {"k": 1})"));
  EXPECT_EQ(out.usage.get(Count::total), 7);
  EXPECT_EQ(out.response_metadata,
            R"({"provider_usage": {"prompt_tokens": 3, "completion_tokens": 4}, "k": 1})");
}

TEST(Event, Times) {
  const auto time = [](const std::string &value) {
    return format_timestamp(*read(event(kCounts + ", \"created_at\": " + value)).created_at);
  };
  EXPECT_EQ(time("1760970625"), "2025-10-20T14:30:25Z");
  EXPECT_EQ(time("1760970625.5"), "2025-10-20T14:30:25.500000Z");
  EXPECT_EQ(time("1760970625500"), "2025-10-20T14:30:25.500000Z");
  EXPECT_EQ(time("\"2025-10-20 17:30:25+03:00\""), "2025-10-20T14:30:25Z");
}

TEST(Event, Costs) {
  const auto source = [](const std::string &more) { return stated_cost(read(event(more))); };
  EXPECT_EQ(source(kCounts).source, "");
  EXPECT_TRUE(source(kCounts).ask_book);
  EXPECT_EQ(source(kCounts + R"(, "cost_rub": 5)").source, "event");
  EXPECT_TRUE(source(kCounts + R"(, "cost_rub": 5)").ask_book);
  EXPECT_FALSE(source(kCounts + R"(, "cost_usd": 0)").ask_book);
  EXPECT_EQ(source(R"("response": {"usage": {"type": "duration", "seconds": 3}})").source, "other");
}

TEST(Event, Errors) {
  EXPECT_EQ(error_of("[]"), "token_usage: event must be an object, got []");
  EXPECT_EQ(error_of(event(kCounts + R"(, "model": 1)")),
            "token_usage: event.model must be a known key, got 1");
  EXPECT_EQ(error_of(event(kCounts + R"(, "id": 1)")),
            "token_usage: event.id must be a known key, got 1");
  EXPECT_EQ(error_of(R"({"agent_id": "a"})"), "token_usage: event.user_id must be given, got NULL");
  EXPECT_EQ(error_of(R"({"user_id": null})"), "token_usage: event.user_id must be given, got NULL");
  EXPECT_EQ(error_of(R"({"user_id": 1.5})"),
            "token_usage: event.user_id must be a whole number or text, got 1.5");
  EXPECT_EQ(error_of(R"({"user_id": true})"),
            "token_usage: event.user_id must be a whole number or text, got true");
  EXPECT_EQ(error_of(R"({"user_id": 9223372036854775808})"),
            "token_usage: event.user_id must be a whole number or text, got 9223372036854775808");
  EXPECT_EQ(error_of(R"({"user_id": 1, "agent_id": 5})"),
            "token_usage: event.agent_id must be non-empty text, got 5");
  EXPECT_EQ(error_of(R"({"user_id": 1, "agent_id": "a\u0000b"})"),
            "token_usage: event.agent_id must be non-empty text, got \"a\\u0000b\"");
  EXPECT_EQ(error_of(event("")), "token_usage: event must be counts or a response, got neither");
  EXPECT_EQ(error_of(event(R"("prompt_tokens": 1)")),
            "token_usage: event.completion_tokens must be given, got NULL");
  EXPECT_EQ(error_of(event(kCounts + R"(, "response": {})")),
            "token_usage: event.response must be left out where counts are given, got both");
  EXPECT_EQ(error_of(event(kCounts + R"(, "total_tokens": 9)")),
            "token_usage: event.total_tokens must be prompt_tokens + completion_tokens, got 9");
  EXPECT_EQ(error_of(event(R"("prompt_tokens": -1, "completion_tokens": 0)")),
            "token_usage: event.prompt_tokens must be a whole number from 0 to "
            "9223372036854775807, got -1");
  EXPECT_EQ(error_of(event(R"("prompt_tokens": "1", "completion_tokens": 0)")),
            "token_usage: event.prompt_tokens must be a whole number from 0 to "
            "9223372036854775807, got \"1\"");
  EXPECT_EQ(error_of(event(R"("prompt_tokens": 9223372036854775807, "completion_tokens": 1)")),
            "token_usage: event must be counts whose sum is at most 9223372036854775807, got more");
  EXPECT_EQ(error_of(event(kCounts + R"(, "cache_read_tokens": 11)")),
            "token_usage: event.cache_read_tokens must be at most prompt_tokens with "
            "cache_write_tokens, got 11");
  EXPECT_EQ(error_of(event(kCounts + R"(, "reasoning_tokens": 6)")),
            "token_usage: event.reasoning_tokens must be at most completion_tokens, got 6");
  EXPECT_EQ(error_of(event(R"("response": {"usage": {"prompt_tokens": 1.5}})")),
            "token_usage: event.response.usage.prompt_tokens must be a whole number from 0 to "
            "9223372036854775807, got 1.5");
  EXPECT_EQ(error_of(event(R"("response": {"usage": "x"})")),
            "token_usage: event.response.usage must be an object, got \"x\"");
  EXPECT_EQ(error_of(event(
                R"("response": {"usage": {"prompt_tokens": 1, "prompt_tokens_details": [1]}})")),
            "token_usage: event.response.usage.prompt_tokens_details must be an object, got [1]");
  EXPECT_EQ(error_of(event(R"("response": {"hello": 1})")),
            "token_usage: event.response must be a response or usage object with token counts, got "
            "{\"hello\": 1}");
  EXPECT_EQ(
      error_of(event(R"("response": {"usage": {"prompt_tokens": 1}}, "cache_read_tokens": 1)")),
      "token_usage: event.cache_read_tokens must be left out where response is given, got 1");
  EXPECT_EQ(
      error_of(event(R"("response": {"usage": {"prompt_tokens": 1}}, "response_metadata": [1])")),
      "token_usage: event.response_metadata must be an object where response is given, got [1]");
  EXPECT_EQ(error_of(event(kCounts + R"(, "cost_usd": "0.1")")),
            "token_usage: event.cost_usd must be a number, got \"0.1\"");
  EXPECT_EQ(error_of(event(kCounts + R"(, "created_at": "yesterday")")),
            "token_usage: event.created_at must be a time such as 2025-10-20T14:30:25Z, got "
            "\"yesterday\"");
  EXPECT_EQ(error_of(event(kCounts + R"(, "request_id": "")")),
            "token_usage: event.request_id must be non-empty text, got \"\"");
  EXPECT_EQ(error_of(event(kCounts + R"(, "execution_time_ms": 1.5)")),
            "token_usage: event.execution_time_ms must be a whole number from 0 to "
            "9223372036854775807, got 1.5");
}

}  // namespace
}  // namespace token_usage
