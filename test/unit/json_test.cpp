// JSON that leaves through any edition: exact decimals, and text that is no UTF-8.
#include "json.h"

#include <gtest/gtest.h>

#include <random>

#include "arguments.h"
#include "utf8.h"

namespace token_usage {
namespace {

std::string json_text(std::string_view text) {
  return JsonWriter().text(text).str();
}

TEST(Json, WritesEveryKind) {
  JsonWriter out;
  out.begin_object();
  out.key("success").boolean(true);
  out.key("n").integer(std::int64_t{-9'223'372'036'854'775'807});
  out.key("cost").decimal(*Decimal::from_text("123456789.123456000001"));
  out.key("small").decimal(*Decimal::from_text("1e-12"));
  out.key("none").null();
  out.key("list").begin_array().integer(std::int64_t{1}).text("a").end_array();
  out.key("agent").text(std::optional<std::string>());
  out.end_object();
  EXPECT_EQ(out.str(), R"({"success":true,"n":-9223372036854775807,"cost":123456789.123456000001,)"
                       R"("small":0.000000000001,"none":null,"list":[1,"a"],"agent":null})");
}

TEST(Json, EscapesText) {
  EXPECT_EQ(json_text("a\"b\\c/\n\t\x01"), R"("a\"b\\c/\n\t\u0001")");
  EXPECT_EQ(json_text(std::string_view("a\0b", 3)), R"("a\u0000b")");
  EXPECT_EQ(json_text("агент 🚀"), "\"агент 🚀\"");
  EXPECT_EQ(json_text(""), "\"\"");
}

TEST(Json, ReplacesWhatIsNoUtf8) {
  EXPECT_EQ(json_text("a\xFF"
                      "b"),
            "\"a\xEF\xBF\xBD"
            "b\"");
  EXPECT_EQ(json_text("\xC0\x80"), "\"\xEF\xBF\xBD\xEF\xBF\xBD\"");                  // overlong
  EXPECT_EQ(json_text("\xED\xA0\x80"), "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\"");  // surrogate
  EXPECT_EQ(json_text("\xF4\x90\x80\x80").size(), 2U + 4 * 3);           // past U+10FFFF
  EXPECT_EQ(json_text("ok\xE2\x82"), "\"ok\xEF\xBF\xBD\xEF\xBF\xBD\"");  // cut off
}

TEST(Json, AnyBytesGiveValidUtf8) {
  std::mt19937 random(31);
  for (int i = 0; i < 100'000; ++i) {
    std::string text(random() % 16, '\0');
    for (char &c : text) {
      c = static_cast<char>(random() % 3 == 0 ? random() : 0xC0 + random() % 0x40);
    }
    const std::string json = json_text(text);
    for (std::size_t at = 0; at < json.size();) {
      const std::size_t length = utf8_sequence(std::string_view(json).substr(at));
      ASSERT_NE(length, 0U);
      at += length;
    }
    ASSERT_EQ(json.find('"', 1), json.find('"') == 0 ? json.find('"', 1) : 0);
  }
}

TEST(Json, WritesMeasures) {
  Measures measures;
  measures.add(
      {1, 2, 3, Decimal::from_text("0.1"), Decimal::from_text("9.5"), Decimal::from_int(5)});
  measures.add({1, 2, 3, std::nullopt, Decimal::from_text("0.5"), Decimal::from_int(6)});
  JsonWriter out;
  out.begin_object().measures(measures).end_object();
  EXPECT_EQ(out.str(),
            R"({"total_tokens":6,"prompt_tokens":2,"completion_tokens":4,"cost_usd":0.1,)"
            R"("cost_rub":10,"requests_count":2,"unpriced_count":1})");
  EXPECT_EQ(stats_json(measures),
            R"({"requests_count":2,"prompt_tokens":2,"completion_tokens":4,"total_tokens":6,)"
            R"("cost_usd":0.1,"cost_rub":10,"unpriced_count":1,"avg_execution_time_ms":6})");
  EXPECT_EQ(stats_json({}),
            R"({"requests_count":0,"prompt_tokens":0,"completion_tokens":0,"total_tokens":0,)"
            R"("cost_usd":0,"cost_rub":0,"unpriced_count":0,"avg_execution_time_ms":null})");
}

TEST(Json, AMisuseThrowsAndDoesNotAbort) {
  JsonWriter out;
  EXPECT_ANY_THROW(out.end_object());
}

}  // namespace
}  // namespace token_usage
