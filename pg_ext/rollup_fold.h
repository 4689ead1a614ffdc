// What a seal adds to the rollup rows of one month of one user (rollup_fold.cpp): ledger rows and
// deltas go in, in any order, each with its sign, and the sums of the buckets come out. No
// PostgreSQL function is called here.
#pragma once

#include <algorithm>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "arguments.h"
#include "measures.h"
#include "rollup_bulk.h"

namespace token_usage {

class RollupFold {
 public:
  // `month`: where it begins. `flags`: what of it is rolled, as _token_usage_rollup_flags() has it.
  RollupFold(std::int64_t month, int flags) : month_(month), flags_(flags) {}
  RollupFold(const RollupFold &) = delete;
  RollupFold &operator=(const RollupFold &) = delete;

  void add(const BulkRow &row, int sign) {
    const std::int64_t half_hour = (row.at - month_) / kHalfHour;
    if (row.at < month_ || half_hour >= kMostHalfHours) {
      throw Error(ErrorKind::argument, "token_usage: a row of another month");
    }
    const std::uint32_t groups[] = {0, agents_.number(row.agent),
                                    models_.number(row.provider, row.model)};
    for (int tier = 1; tier <= 3; ++tier) {
      for (int dimension = 0; dimension <= 2; ++dimension) {
        if ((flags_ & rollup_bit(tier, dimension)) != 0) {
          add(row, sign, tier, dimension, half_hour, groups[dimension]);
        }
      }
    }
  }

  // What is nothing is left out. Throws where a sum has more than 64 bits.
  const std::vector<BulkSums> &sums() {
    out_.erase(std::remove_if(out_.begin(), out_.end(), is_nothing), out_.end());
    for (const BulkSums &sums : out_) {
      check_sums(sums);
    }
    return out_;
  }
  [[nodiscard]] const BulkDictionary *dictionary(int dimension) const {
    return dimension == 0 ? nullptr : dimension == 1 ? &agents_ : &models_;
  }

 private:
  static constexpr std::int64_t kHalfHour = 1'800'000'000;
  static constexpr std::int64_t kMostHalfHours = 31 * 48;

  static bool is_nothing(const BulkSums &s) {
    return s.requests == 0 && s.prompt == 0 && s.completion == 0 && s.total == 0 && s.usd == 0 &&
           s.rub == 0 && s.unpriced == 0 && s.ms_sum == 0 && s.ms_count == 0;
  }

  void add(const BulkRow &row, int sign, int tier, int dimension, std::int64_t half_hour,
           std::uint32_t group) {
    const std::int64_t bucket =
        tier == 3 ? 0 : half_hour - half_hour % rollup_half_hours(tier, dimension);
    const auto kind = static_cast<std::uint64_t>(tier * 3 + dimension);
    const std::uint64_t key = (kind << 11U | static_cast<std::uint64_t>(bucket)) << 32U | group;
    const auto [place, fresh] = places_.try_emplace(key, out_.size());
    if (fresh) {
      BulkSums &sums = out_.emplace_back();
      sums.bucket = month_ + bucket * kHalfHour;
      sums.group = group;
      sums.tier = static_cast<std::uint8_t>(tier);
      sums.dimension = static_cast<std::uint8_t>(dimension);
    }
    BulkSums &sums = out_[place->second];
    sums.prompt += sign * int128{row.prompt};
    sums.completion += sign * int128{row.completion};
    sums.total += sign * int128{row.total};
    sums.ms_sum += sign * int128{row.ms};
    sums.requests += sign;
    sums.unpriced += row.usd.present ? 0 : sign;
    sums.ms_count += row.has_ms ? sign : 0;
    sums.usd_scale = std::max(sums.usd_scale, row.usd.scale);
    sums.rub_scale = std::max(sums.rub_scale, row.rub.scale);
    if (__builtin_add_overflow(sums.usd, sign * row.usd.units, &sums.usd)) {
      sum_overflow("cost_usd");
    }
    if (__builtin_add_overflow(sums.rub, sign * row.rub.units, &sums.rub)) {
      sum_overflow("cost_rub");
    }
  }

  std::int64_t month_;
  int flags_;
  BulkDictionary agents_;
  BulkDictionary models_;
  std::unordered_map<std::uint64_t, std::size_t> places_;
  std::vector<BulkSums> out_;
};

}  // namespace token_usage
