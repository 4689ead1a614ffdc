// The normaliser against bodies that this repository ships, one or more per provider shape:
// test/recording/bodies.json, which the SQL suite reads too.
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>
#include <string>

#include "usage.h"

namespace token_usage {
namespace {

std::string read_bodies() {
  std::ifstream file(TOKEN_USAGE_SOURCE_DIR "/test/recording/bodies.json", std::ios::binary);
  std::stringstream out;
  out << file.rdbuf();
  return out.str();
}

TEST(ProviderBodies, Counts) {
  const std::string text = read_bodies();
  const JsonDocument bodies(text, "bodies");
  int tried = 0;
  for (const Json &item : bodies.root().items()) {
    const std::string name(item.find("name")->text);
    const Usage usage =
        usage_from_response(item.find("provider")->text, *item.find("response"), "response");
    const std::string json = usage_to_json(usage);
    const JsonDocument ours(json, "ours");
    const Json *warnings = item.find("warnings");
    EXPECT_EQ(usage.warnings.size(),
              warnings == nullptr ? 0 : static_cast<std::size_t>(warnings->text.front() - '0'))
        << name << " " << json;
    std::size_t keys = 1;  // warnings
    for (const Json &expected : item.find("expect")->items()) {
      const Json *found = ours.root().find(expected.key);
      ASSERT_NE(found, nullptr) << name << ": no " << expected.key << " in " << json;
      if (expected.is(Json::Type::number)) {
        EXPECT_EQ(scaled_from_text(found->text, 12), scaled_from_text(expected.text, 12))
            << name << ": " << expected.key << " in " << json;
      } else {
        EXPECT_EQ(found->text, expected.text) << name;
      }
      ++keys;
    }
    std::size_t ours_keys = 0;
    for ([[maybe_unused]] const Json &found : ours.root().items()) {
      ++ours_keys;
    }
    EXPECT_EQ(ours_keys, keys) << name << ": more than expected in " << json;
    ++tried;
  }
  EXPECT_GT(tried, 40);
}

}  // namespace
}  // namespace token_usage
