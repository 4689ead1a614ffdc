// Measures can be added, taken away and merged exactly, and never wrap.
#include "measures.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "arguments.h"

namespace token_usage {
namespace {

constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();

std::vector<Request> random_requests(std::size_t count) {
  std::mt19937_64 random(37);
  std::vector<Request> out(count);
  for (Request &request : out) {
    request.prompt_tokens = static_cast<std::int64_t>(random() % 100'000);
    request.completion_tokens = static_cast<std::int64_t>(random() % 100'000);
    request.total_tokens = request.prompt_tokens + request.completion_tokens;
    if (random() % 4 != 0) {
      request.cost_usd = Decimal::from_units(static_cast<std::int64_t>(random()));
    }
    if (random() % 4 != 0) {
      request.cost_rub = Decimal::from_units(static_cast<std::int64_t>(random()));
    }
    if (random() % 4 != 0) {
      request.execution_time_ms = Decimal::from_int(static_cast<std::int64_t>(random() % 10'000));
    }
  }
  return out;
}

bool same(const Measures &a, const Measures &b) {
  return std::memcmp(&a, &b, sizeof a) == 0;
}

TEST(Measures, SubtractIsTheInverseOfAdd) {
  const auto requests = random_requests(1'000);
  Measures window;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    window.add(requests[i]);
    if (i >= 10) {
      window.subtract(requests[i - 10]);
    }
    Measures fresh;
    for (std::size_t j = i >= 10 ? i - 9 : 0; j <= i; ++j) {
      fresh.add(requests[j]);
    }
    ASSERT_TRUE(same(window, fresh));
  }
}

TEST(Measures, MergeEqualsOneRun) {
  const auto requests = random_requests(1'000);
  Measures whole;
  Measures parts[4];
  for (std::size_t i = 0; i < requests.size(); ++i) {
    whole.add(requests[i]);
    parts[i % 4].add(requests[i]);
  }
  Measures merged;
  for (const Measures &part : parts) {
    merged.merge(part);
  }
  EXPECT_TRUE(same(whole, merged));
}

TEST(Measures, CountsWhatHasNoPriceOrTime) {
  Measures measures;
  measures.add({1, 1, 2, std::nullopt, Decimal::from_int(1), std::nullopt});
  measures.add({1, 1, 2, Decimal::from_int(1), std::nullopt, Decimal::from_int(3)});
  EXPECT_EQ(measures.requests_count, 2);
  EXPECT_EQ(measures.unpriced_count, 1);
  EXPECT_EQ(measures.avg_execution_time_ms(), 3);
  EXPECT_EQ(Measures().avg_execution_time_ms(), std::nullopt);
}

TEST(Measures, OnlyTheResultHasToFit) {
  Measures measures;
  measures.add({kMost, 0, 0, std::nullopt, std::nullopt, std::nullopt});
  EXPECT_EQ(token_sum(measures.prompt_tokens, "prompt_tokens"), kMost);
  measures.add({1, 0, 0, std::nullopt, std::nullopt, std::nullopt});
  try {
    token_sum(measures.prompt_tokens, "prompt_tokens");
    ADD_FAILURE();
  } catch (const Error &error) {
    EXPECT_EQ(error.kind(), ErrorKind::overflow);
    EXPECT_STREQ(error.what(), "token_usage: the sum of prompt_tokens is past 9223372036854775807");
  }
  measures.subtract({1, 0, 0, std::nullopt, std::nullopt, std::nullopt});
  EXPECT_EQ(token_sum(measures.prompt_tokens, "prompt_tokens"), kMost);
}

TEST(Measures, MoneyPastItsRangeIsAnError) {
  Measures measures;
  const Request big{0, 0, 0, Decimal::from_text("1e26"), std::nullopt, std::nullopt};
  measures.add(big);
  EXPECT_THROW(measures.add(big), Error);
}

TEST(Measures, AForeignStateCannotWrapASum) {
  Measures hostile;
  hostile.total_tokens = static_cast<int128>(~static_cast<uint128>(0) >> 1);
  Measures measures = hostile;
  EXPECT_THROW(measures.merge(hostile), Error);
  hostile = {};
  hostile.requests_count = kMost;
  measures = hostile;
  EXPECT_THROW(measures.merge(hostile), Error);
}

}  // namespace
}  // namespace token_usage
