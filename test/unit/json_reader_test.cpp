// JSON that others wrote: malformed, deep, repeated keys, exact numbers.
#include <gtest/gtest.h>

#include <string>

#include "arguments.h"
#include "json_reader.h"

namespace token_usage {
namespace {

std::string error_of(const std::string &text) {
  try {
    const JsonDocument document(text, "response");
    return "none";
  } catch (const Error &error) {
    return error.what();
  }
}

TEST(JsonReader, RoundTripKeepsNumbersAsWritten) {
  const std::string text =
      R"({"a": [1, 2.50, 1e300, -0.0, {"b": null}], "c": "\u00e9\"\\\n", "d": true, "e": {}, "f": []})";
  const JsonDocument document(text, "x");
  EXPECT_EQ(json_text(document.root()),
            "{\"a\": [1, 2.50, 1e300, -0.0, {\"b\": null}], \"c\": \"\xC3\xA9\\\"\\\\\\n\", "
            "\"d\": true, \"e\": {}, \"f\": []}");
  EXPECT_EQ(document.root().find("a")->size, 7U);
  EXPECT_EQ(document.root().find("zz"), nullptr);
}

TEST(JsonReader, Malformed) {
  EXPECT_EQ(error_of(""),
            "token_usage: response must be JSON (The document is empty at byte 0), got ");
  EXPECT_NE(error_of(R"({"a": 1)").find("must be JSON ("), std::string::npos);
  EXPECT_NE(error_of("{} x").find("must be JSON ("), std::string::npos);
  EXPECT_NE(error_of("[01]").find("must be JSON ("), std::string::npos);
  EXPECT_NE(error_of("\"\xff\"").find("must be JSON ("), std::string::npos);
  EXPECT_NE(error_of(std::string("{}\0{}", 5)).find("must be JSON ("), std::string::npos);
}

TEST(JsonReader, RepeatedKeys) {
  EXPECT_EQ(error_of(R"({"usage": {"a": 1, "b": 2, "a": 3}})"),
            "token_usage: response.usage.a must be given once, got it twice");
  EXPECT_EQ(error_of(R"({"list": [1, {"x": {}}, {"k": 0, "k": 0}]})"),
            "token_usage: response.list[2].k must be given once, got it twice");
  EXPECT_EQ(error_of(R"({"a": {"k": 1}, "b": {"k": 1}})"), "none");
}

TEST(JsonReader, Depth) {
  const auto nested = [](std::size_t levels) {
    return std::string(levels, '[') + std::string(levels, ']');
  };
  EXPECT_EQ(error_of(nested(JsonDocument::max_depth)), "none");
  EXPECT_EQ(error_of(nested(10000)).substr(0, 60),
            "token_usage: response must be JSON of at most 1000 levels, g");
}

TEST(JsonReader, TenMegabytes) {
  const std::string text = "{\"a\": \"" + std::string(10'000'000, 'x') + "\", \"b\": [" +
                           std::string(2'000'000, ' ') + "1]}";
  const JsonDocument document(text, "x");
  EXPECT_EQ(document.root().find("a")->text.size(), 10'000'000U);
}

TEST(JsonReader, Counts) {
  EXPECT_EQ(count_from_number("12"), 12);
  EXPECT_EQ(count_from_number("12.0"), 12);
  EXPECT_EQ(count_from_number("1.2e1"), 12);
  EXPECT_EQ(count_from_number("1200e-2"), 12);
  EXPECT_EQ(count_from_number("-0.0"), 0);
  EXPECT_EQ(count_from_number("9223372036854775807"), 9223372036854775807);
  EXPECT_EQ(count_from_number("9223372036854775808"), std::nullopt);
  EXPECT_EQ(count_from_number("1.5"), std::nullopt);
  EXPECT_EQ(count_from_number("-1"), std::nullopt);
  EXPECT_EQ(count_from_number("1e999999999999"), std::nullopt);
  EXPECT_EQ(count_from_number("1e-999999999999"), std::nullopt);
  EXPECT_EQ(count_from_number("0e999999999999"), 0);
}

TEST(JsonReader, Scaled) {
  const auto text = [](std::string_view number, int places) {
    const std::optional<int128> value = scaled_from_text(number, places);
    return value ? scaled_to_text(*value, places) : "none";
  };
  EXPECT_EQ(text("0.0000000375", 24), "0.0000000375");
  EXPECT_EQ(text("3.75e-8", 24), "0.0000000375");
  EXPECT_EQ(text("-1.250", 2), "-1.25");
  EXPECT_EQ(text("0.125", 2), "0.12");  // half-even
  EXPECT_EQ(text("0.135", 2), "0.14");
  EXPECT_EQ(text("0.1251", 2), "0.13");
  EXPECT_EQ(text("0.995", 2), "1");
  EXPECT_EQ(text("1e30", 24), "none");
  EXPECT_EQ(text("x", 2), "none");
  EXPECT_EQ(text("1e", 2), "none");
  EXPECT_EQ(text(".", 2), "none");
  EXPECT_EQ(scaled_to_text(0, 12), "0");
  EXPECT_EQ(scaled_to_text(5, 12), "0.000000000005");
  EXPECT_EQ(rescale_half_even(25, 1, 0), 2);
  EXPECT_EQ(rescale_half_even(35, 1, 0), 4);
  EXPECT_EQ(rescale_half_even(-35, 1, 0), -4);
  EXPECT_EQ(rescale_half_even(-36, 1, 0), -4);
}

}  // namespace
}  // namespace token_usage
