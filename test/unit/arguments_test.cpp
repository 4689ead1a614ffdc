// The texts of errors (rule 9): the same words in every edition.
#include "arguments.h"

#include <gtest/gtest.h>

namespace token_usage {
namespace {

TEST(Arguments, RangeErrors) {
  EXPECT_EQ(check_range("days", 1, 1, 36'600), 1);
  EXPECT_EQ(check_range("days", 36'600, 1, 36'600), 36'600);
  for (const std::int64_t value : {std::int64_t{0}, std::int64_t{36'601}, std::int64_t{-5}}) {
    try {
      check_range("days", value, 1, 36'600);
      ADD_FAILURE();
    } catch (const Error &error) {
      EXPECT_EQ(error.kind(), ErrorKind::argument);
      EXPECT_EQ(error.what(), "token_usage: days must be a whole number from 1 to 36600, got " +
                                  std::to_string(value));
    }
  }
}

TEST(Arguments, MissingLedger) {
  try {
    missing_ledger();
  } catch (const Error &error) {
    EXPECT_EQ(error.kind(), ErrorKind::missing_ledger);
    EXPECT_STREQ(error.what(),
                 "token_usage: no token_usage table; run SELECT token_usage_migrate()");
  }
}

TEST(Arguments, PrintableTextIsCutByCharacters) {
  EXPECT_EQ(printable("abc", 3), "abc");
  EXPECT_EQ(printable("abcd", 3), "abc...");
  EXPECT_EQ(printable("жжжж", 3), "жжж...");
  EXPECT_EQ(printable(std::string_view("a\0b", 3), 9), "a\\0b");
  EXPECT_EQ(printable("\xFFz", 9), "\xEF\xBF\xBDz");
}

}  // namespace
}  // namespace token_usage
