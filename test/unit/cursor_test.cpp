// The cursor of token_usage_detailed: one spelling, the same in every edition.
#include "cursor.h"

#include <gtest/gtest.h>

#include <limits>
#include <random>

#include "arguments.h"

namespace token_usage {
namespace {

std::string hex(std::string_view plain) {
  std::string out;
  for (const char c : plain) {
    char buffer[3];
    std::snprintf(buffer, sizeof buffer, "%02x", static_cast<unsigned char>(c));
    out += buffer;
  }
  return out;
}

TEST(Cursor, IsHexOfItsParts) {
  EXPECT_EQ(encode_cursor(1'760'970'625'000'000, "890"), hex("1|1760970625000000|890"));
}

TEST(Cursor, ComesBack) {
  for (const Micros time :
       {Micros{0}, Micros{-1}, Micros{1'760'970'625'000'001}, std::numeric_limits<Micros>::min(),
        std::numeric_limits<Micros>::max()}) {
    for (const std::string &id :
         {std::string("1"), std::string(), std::string("a|b"), std::string("идентификатор"),
          std::string("a\0b", 3), std::string("\xFF\x80"), std::string(100'000, 'x')}) {
      const Cursor cursor = decode_cursor(encode_cursor(time, id));
      EXPECT_EQ(cursor.created_at, time);
      EXPECT_EQ(cursor.id, id);
    }
  }
}

TEST(Cursor, RefusesWhatItDidNotWrite) {
  for (const std::string &text : {std::string(),
                                  std::string("x"),
                                  std::string("1|0|1"),
                                  std::string("3"),
                                  std::string("zz"),
                                  hex("1"),
                                  hex("1|"),
                                  hex("1|0"),
                                  hex("2|0|1"),
                                  hex("|0|1"),
                                  hex("1||1"),
                                  hex("1|x|1"),
                                  hex("1|0x1|1"),
                                  hex("1| 0|1"),
                                  hex("1|+1|1"),
                                  hex("1|-0|1"),
                                  hex("1|01|1"),
                                  hex("1|9223372036854775808|1"),
                                  hex("1|1.5|1"),
                                  hex("1|0|1") + "0",
                                  std::string("0").append(hex("1|0|1")),
                                  hex("1|0|1") + " ",
                                  std::string("317C307C31"),
                                  std::string(1'000'001, '3')}) {
    try {
      decode_cursor(text);
      ADD_FAILURE() << text;
    } catch (const Error &error) {
      EXPECT_EQ(error.kind(), ErrorKind::argument);
      EXPECT_TRUE(
          std::string(error.what())
              .starts_with("token_usage: after must be a cursor from token_usage_detailed, got "));
    }
  }
}

TEST(Cursor, TakesAnyBytes) {
  std::mt19937 random(29);
  for (int i = 0; i < 100'000; ++i) {
    std::string text = encode_cursor(static_cast<Micros>(random()), "42");
    text[random() % text.size()] = static_cast<char>(random());
    try {
      const Cursor cursor = decode_cursor(text);
      ASSERT_EQ(encode_cursor(cursor.created_at, cursor.id), text);
    } catch (const Error &) {
      // An error is the other right answer.
    }
  }
}

}  // namespace
}  // namespace token_usage
