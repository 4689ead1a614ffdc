// The sums of a ledger for token_usage_rebuild(): rows go in, in any order, and the rollup rows of
// each user come out, by kind, bucket and keys. What is rolled of a user's month is decided in
// between by the ledger's own SQL, once the number of rows and groups is known; so rows are kept as
// they come, in 56 bytes each, apart by user, and added up when the flags are there. What is more
// than the memory may hold, the caller writes to files and brings back, a partition of the users at
// a time. No PostgreSQL function is called here.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "arguments.h"
#include "decimal.h"
#include "measures.h"
#include "rollup_bulk_keys.h"
#include "timestamp.h"

namespace token_usage {

// A cost as the ledger has it. The scale is how many decimals are shown, as PostgreSQL's sum()
// keeps it.
struct BulkCost {
  int128 units = 0;
  std::uint8_t scale = 0;
  bool present = false;
};

// A ledger's row; times in microseconds since 2000.
struct BulkRow {
  BulkText user;  // the bytes of the value
  BulkText agent;
  BulkText provider;
  BulkText model;
  std::int64_t at = 0;
  std::int64_t prompt = 0;
  std::int64_t completion = 0;
  std::int64_t total = 0;
  std::int64_t ms = 0;
  BulkCost usd;
  BulkCost rub;
  bool has_ms = false;
};

// A row as it is kept. What does not fit, which is rare, follows in a second one, marked `high`,
// that holds the upper halves.
struct BulkKept {
  std::int64_t usd;
  std::int64_t rub;
  std::uint32_t prompt;
  std::uint32_t completion;
  std::uint32_t total;
  std::uint32_t ms;
  std::uint32_t user;
  std::int32_t half_hour;  // since 2000
  std::uint32_t group[2];  // agent, model
  std::uint8_t usd_scale;
  std::uint8_t rub_scale;
  bool has_usd;
  bool has_rub;
  bool has_ms;
  bool high;
};

// A rollup row without its user. `group` numbers an agent or a model, by dimension.
struct BulkSums {
  int128 prompt = 0;
  int128 completion = 0;
  int128 total = 0;
  int128 usd = 0;
  int128 rub = 0;
  int128 ms_sum = 0;
  std::int64_t requests = 0;
  std::int64_t unpriced = 0;
  std::int64_t ms_count = 0;
  std::int64_t bucket = 0;
  std::uint32_t group = 0;
  std::uint8_t tier = 0;       // 3 months, 2 days, 1 hours
  std::uint8_t dimension = 0;  // 0 all, 1 agent, 2 model
  std::uint8_t usd_scale = 0;
  std::uint8_t rub_scale = 0;
};

// Which of the flags of a month stands for rollup rows of a tier and dimension, as
// _token_usage_rollup_flags() has them: 1, 4, 16 for months, days and half-hours; 2, 8, 32 by
// group, with hours.
constexpr int rollup_bit(int tier, int dimension) {
  return (tier == 3 ? 1 : tier == 2 ? 4 : 16) * (dimension == 0 ? 1 : 2);
}
// How many half-hours a bucket of tier 1 or 2 has.
constexpr std::int32_t rollup_half_hours(int tier, int dimension) {
  return tier == 2 ? 48 : dimension == 0 ? 1 : 2;
}
inline void check_sums(const BulkSums &sums) {
  static_cast<void>(token_sum(sums.prompt, "prompt_tokens"));
  static_cast<void>(token_sum(sums.completion, "completion_tokens"));
  static_cast<void>(token_sum(sums.total, "total_tokens"));
  static_cast<void>(token_sum(sums.ms_sum, "execution_time_ms"));
}

// A month of a user.
struct BulkUnit {
  std::size_t begin = 0;  // where its rows are
  std::size_t end = 0;
  std::int64_t rows = 0;
  std::int64_t groups = 0;   // agents and models together
  std::int64_t before = -1;  // the unit of the month before, where its flags count for this one too
  std::uint32_t user = 0;
  std::int32_t month = 0;  // its first half-hour
  int flags = 0;           // the caller's
};

class RollupBulk {
 public:
  static constexpr std::uint32_t kPartitions = 256;
  static constexpr std::size_t kChunk = 256;  // rows
  // How finely a partition that is too large is taken apart, by user and month.
  static constexpr std::uint32_t kShares = 1024;

  enum class Added { taken, full, too_much };
  struct Rows {
    BulkKept *data;
    std::size_t size;
  };
  // Those from `from` to before `to`.
  struct Shares {
    std::uint32_t from;
    std::uint32_t to;
  };

  // `limit` bytes: a quarter for keys, a quarter for rows as they come, half for the rows of one
  // partition in order. `until`: the end of what is read; the month that it cuts off is like the
  // one before.
  RollupBulk(std::size_t limit, std::int64_t until)
      : limit_(limit), cut_(month_of(clamped(floor_div(until, kHalfHour)))) {}
  RollupBulk(const RollupBulk &) = delete;
  RollupBulk &operator=(const RollupBulk &) = delete;

  // full: the rows have to go to files first. too_much: this cannot be added up here.
  Added add(const BulkRow &row) {
    const std::int64_t half_hour = floor_div(row.at, kHalfHour);
    if (half_hour != clamped(half_hour) ||
        users_.bytes() + agents_.bytes() + models_.bytes() > limit_ / 4) {
      return Added::too_much;
    }
    if (count_ >= std::max<std::size_t>(limit_ / 4 / sizeof(BulkKept), 1)) {
      return Added::full;
    }
    BulkKept kept = {};
    kept.user = users_.number(row.user);
    kept.group[0] = agents_.number(row.agent);
    kept.group[1] = models_.number(row.provider, row.model);
    kept.half_hour = static_cast<std::int32_t>(half_hour);
    kept.usd = static_cast<std::int64_t>(row.usd.units);
    kept.rub = static_cast<std::int64_t>(row.rub.units);
    kept.prompt = static_cast<std::uint32_t>(row.prompt);
    kept.completion = static_cast<std::uint32_t>(row.completion);
    kept.total = static_cast<std::uint32_t>(row.total);
    kept.ms = static_cast<std::uint32_t>(row.ms);
    kept.usd_scale = row.usd.scale;
    kept.rub_scale = row.rub.scale;
    kept.has_usd = row.usd.present;
    kept.has_rub = row.rub.present;
    kept.has_ms = row.has_ms;
    std::vector<Chunk> &chunks = chunks_[kept.user % kPartitions];
    append(chunks, kept);
    if (kept.usd != row.usd.units || kept.rub != row.rub.units || kept.prompt != row.prompt ||
        kept.completion != row.completion || kept.total != row.total || kept.ms != row.ms) {
      kept.usd = upper(row.usd.units, kept.usd);
      kept.rub = upper(row.rub.units, kept.rub);
      kept.prompt = upper(row.prompt);
      kept.completion = upper(row.completion);
      kept.total = upper(row.total);
      kept.ms = upper(row.ms);
      kept.high = true;
      append(chunks, kept);
    }
    return Added::taken;
  }

  // The rows of a partition that are in memory, to be written to a file, and to be forgotten then.
  [[nodiscard]] std::size_t chunks(std::uint32_t partition) const {
    return chunks_[partition].size();
  }
  [[nodiscard]] Rows chunk(std::uint32_t partition, std::size_t i) {
    Chunk &chunk = chunks_[partition][i];
    return {chunk.rows.get(), chunk.size};
  }
  void forget(std::uint32_t partition) {
    for (Chunk &chunk : chunks_[partition]) {
      count_ -= chunk.size;
      chunk.size = 0;
      spare_.push_back(std::move(chunk));
    }
    chunks_[partition].clear();
  }

  // Where rows from a file may be put, at most kChunk.
  BulkKept *arriving() { return arriving_.data(); }

  // When all rows have come.
  void seal() {
    for (int d = 0; d < 2; ++d) {
      const BulkDictionary &keys = dictionary(d + 1);
      std::vector<std::uint32_t> sorted(keys.size());
      for (std::uint32_t i = 0; i < keys.size(); ++i) {
        sorted[i] = i;
      }
      std::sort(sorted.begin(), sorted.end(),
                [&keys](std::uint32_t a, std::uint32_t b) { return keys.keys(a) < keys.keys(b); });
      rank_[d].resize(keys.size());
      for (std::uint32_t i = 0; i < keys.size(); ++i) {
        rank_[d][sorted[i]] = i;
      }
      slot_[d].assign(keys.size(), kNoSlot);
    }
  }

  [[nodiscard]] std::string_view user(std::uint32_t number) const {
    return users_.keys(number).key1;
  }
  [[nodiscard]] std::size_t users() const { return users_.size(); }
  [[nodiscard]] const BulkDictionary &dictionary(int dimension) const {
    return dimension == 1 ? agents_ : models_;
  }

  // A partition, or some shares of it, is put in order in four steps: all its rows are counted,
  // then all are placed; between them is make_room(), and arrange() at the end.
  [[nodiscard]] bool fits(std::uint64_t rows) const {
    return rows <= std::max<std::size_t>(limit_ / 2 / sizeof(BulkKept), 1);
  }
  void count_shares(Rows rows, std::uint64_t *counts) const {
    for (std::size_t i = 0; i < rows.size; ++i) {
      ++counts[share(rows.data[i])];
    }
  }
  void start() { first_.assign(users_.size() / kPartitions + 2, 0); }
  void count(Rows rows, Shares shares) {
    for (std::size_t i = 0; i < rows.size; ++i) {
      if (in(shares, rows.data[i])) {
        ++first_[rows.data[i].user / kPartitions + 1];
      }
    }
  }
  void make_room() {
    for (std::size_t u = 1; u < first_.size(); ++u) {
      first_[u] += first_[u - 1];
    }
    if (rows_size_ < first_.back()) {
      rows_.reset();
      rows_ = std::unique_ptr<BulkKept[]>(new BulkKept[first_.back()]);
      rows_size_ = first_.back();
    }
    next_.assign(first_.begin(), first_.end() - 1);
  }
  void place(Rows rows, Shares shares) {
    for (std::size_t i = 0; i < rows.size; ++i) {
      if (in(shares, rows.data[i])) {
        rows_[next_[rows.data[i].user / kPartitions]++] = rows.data[i];
      }
    }
  }
  // The months of the users, by user and time.
  std::vector<BulkUnit> &arrange() {
    const auto earlier = [](const BulkKept &a, const BulkKept &b) {
      return a.half_hour < b.half_hour;
    };
    units_.clear();
    for (std::size_t u = 0; u + 1 < first_.size(); ++u) {
      BulkKept *const begin = rows_.get() + first_[u];
      BulkKept *const end = rows_.get() + first_[u + 1];
      // Most ledgers are written in the order of time.
      if (!std::is_sorted(begin, end, earlier)) {
        std::sort(begin, end, earlier);
      }
      divide(first_[u], first_[u + 1]);
    }
    return units_;
  }

  // The rollup rows of one kind and month, by bucket and keys.
  const std::vector<BulkSums> &roll(const BulkUnit &unit, int tier, int dimension) {
    out_.clear();
    const std::int32_t width = rollup_half_hours(tier, dimension);
    std::size_t begin = 0;
    std::int32_t bucket_end = std::numeric_limits<std::int32_t>::min();
    for (std::size_t i = unit.begin; i < unit.end; ++i) {
      const BulkKept &row = rows_[i];
      if (i == unit.begin || (tier < 3 && row.half_hour >= bucket_end)) {
        close(begin, dimension);
        begin = out_.size();
        bucket_end = tier == 3 ? unit.month : floor_to(row.half_hour, width) + width;
      }
      const std::uint32_t group = dimension == 0 ? 0 : row.group[dimension - 1];
      std::uint32_t slot = 0;
      if (dimension > 0) {
        slot = slot_[dimension - 1][group];
      } else if (begin == out_.size()) {
        slot = kNoSlot;
      }
      if (slot == kNoSlot) {
        slot = static_cast<std::uint32_t>(out_.size() - begin);
        if (dimension > 0) {
          slot_[dimension - 1][group] = slot;
        }
        BulkSums &fresh = out_.emplace_back();
        fresh.bucket = micros(tier == 3 ? unit.month : bucket_end - width);
        fresh.group = group;
        fresh.tier = static_cast<std::uint8_t>(tier);
        fresh.dimension = static_cast<std::uint8_t>(dimension);
      }
      add(out_[begin + slot], row);
    }
    close(begin, dimension);
    return out_;
  }

  static std::int64_t micros(std::int32_t half_hour) { return half_hour * kHalfHour; }

 private:
  struct Chunk {
    std::unique_ptr<BulkKept[]> rows;
    std::size_t size = 0;
  };

  static constexpr std::int64_t kHalfHour = 1'800'000'000;
  static constexpr std::int32_t kDay = 48;
  static constexpr std::int64_t kDays1970To2000 = 10'957;
  static constexpr std::uint32_t kNoSlot = 0xFFFFFFFFU;

  [[nodiscard]] bool in(Shares shares, const BulkKept &row) const {
    if (shares.from == 0 && shares.to == kShares) {
      return true;
    }
    const std::uint32_t its = share(row);
    return its >= shares.from && its < shares.to;
  }

  void append(std::vector<Chunk> &chunks, const BulkKept &kept) {
    if (chunks.empty() || chunks.back().size == kChunk) {
      if (spare_.empty()) {
        chunks.push_back({std::unique_ptr<BulkKept[]>(new BulkKept[kChunk]), 0});
      } else {
        chunks.push_back(std::move(spare_.back()));
        spare_.pop_back();
      }
    }
    chunks.back().rows[chunks.back().size++] = kept;
    ++count_;
  }

  static std::uint32_t upper(std::int64_t value) { return static_cast<std::uint32_t>(value >> 32); }
  static std::int64_t upper(int128 value, std::int64_t lower) {
    return static_cast<std::int64_t>((value - lower) >> 64);
  }

  static std::int64_t floor_div(std::int64_t at, std::int64_t width) {
    return at / width - (at % width < 0 ? 1 : 0);
  }
  static std::int32_t floor_to(std::int32_t at, std::int32_t width) {
    return static_cast<std::int32_t>(floor_div(at, width) * width);
  }
  // With room on either side for a month.
  static std::int32_t clamped(std::int64_t half_hour) {
    constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max() - 32 * kDay;
    return static_cast<std::int32_t>(std::clamp(half_hour, -most, most));
  }

  // The first half-hour of the month that `half_hour` lies in, or of the one `ahead` of it.
  static std::int32_t month_of(std::int32_t half_hour, unsigned ahead = 0) {
    const CivilDate date = civil_from_days(floor_div(half_hour, kDay) + kDays1970To2000);
    const unsigned month = date.month + ahead;
    const std::int64_t day = month > 12 ? days_from_civil(date.year + 1, month - 12, 1)
                                        : days_from_civil(date.year, month, 1);
    return static_cast<std::int32_t>((day - kDays1970To2000) * kDay);
  }

  // Of the kShares. The month that is cut off takes flags of the one before, so they stay together.
  [[nodiscard]] std::uint32_t share(const BulkKept &row) const {
    std::int32_t month = month_of(row.half_hour);
    if (month == cut_) {
      month = month_of(month - 1);
    }
    std::uint64_t hash =
        static_cast<std::uint64_t>(row.user) << 32U | static_cast<std::uint32_t>(month);
    hash *= 0x9E3779B97F4A7C15U;
    return static_cast<std::uint32_t>(hash >> 54U);
  }

  // The rows [begin, end) of one user into months.
  void divide(std::size_t begin, std::size_t end) {
    const std::size_t user_begin = units_.size();
    std::int32_t month_end = std::numeric_limits<std::int32_t>::min();
    for (std::size_t i = begin; i < end; ++i) {
      const BulkKept &row = rows_[i];
      if (i == begin || row.half_hour >= month_end) {
        count_groups(user_begin);
        BulkUnit &unit = units_.emplace_back();
        unit.begin = i;
        unit.user = row.user;
        unit.month = month_of(row.half_hour);
        month_end = month_of(row.half_hour, 1);
        if (unit.month == cut_ && units_.size() > user_begin + 1 &&
            units_[units_.size() - 2].month == month_of(cut_ - 1)) {
          unit.before = static_cast<std::int64_t>(units_.size()) - 2;
        }
      }
      BulkUnit &unit = units_.back();
      unit.end = i + 1;
      unit.rows += row.high ? 0 : 1;
      for (int d = 0; d < 2; ++d) {
        if (slot_[d][row.group[d]] == kNoSlot) {
          slot_[d][row.group[d]] = 0;
          touched_[d].push_back(row.group[d]);
        }
      }
    }
    count_groups(user_begin);
  }

  // The unit that `touched_` was gathered for is complete.
  void count_groups(std::size_t user_begin) {
    for (int d = 0; d < 2; ++d) {
      if (units_.size() > user_begin) {
        units_.back().groups += static_cast<std::int64_t>(touched_[d].size());
      }
      for (const std::uint32_t group : touched_[d]) {
        slot_[d][group] = kNoSlot;
      }
      touched_[d].clear();
    }
  }

  static void add(BulkSums &sums, const BulkKept &row) {
    int128 usd = row.usd;
    int128 rub = row.rub;
    if (row.high) {
      const auto upper = [](std::uint32_t half) {
        return static_cast<int128>(static_cast<std::int32_t>(half)) * (int128{1} << 32);
      };
      sums.prompt += upper(row.prompt);
      sums.completion += upper(row.completion);
      sums.total += upper(row.total);
      sums.ms_sum += upper(row.ms);
      usd *= int128{1} << 64;
      rub *= int128{1} << 64;
    } else {
      sums.prompt += row.prompt;
      sums.completion += row.completion;
      sums.total += row.total;
      sums.ms_sum += row.ms;
      sums.requests += 1;
      sums.unpriced += row.has_usd ? 0 : 1;
      sums.ms_count += row.has_ms ? 1 : 0;
      sums.usd_scale = std::max(sums.usd_scale, row.usd_scale);
      sums.rub_scale = std::max(sums.rub_scale, row.rub_scale);
    }
    if (__builtin_add_overflow(sums.usd, usd, &sums.usd)) {
      sum_overflow("cost_usd");
    }
    if (__builtin_add_overflow(sums.rub, rub, &sums.rub)) {
      sum_overflow("cost_rub");
    }
  }

  // The rows of a bucket are complete: checks that their sums have 64 bits, and gives them the
  // order of their keys.
  void close(std::size_t begin, int dimension) {
    const auto first = out_.begin() + static_cast<std::ptrdiff_t>(begin);
    for (auto sums = first; sums != out_.end(); ++sums) {
      check_sums(*sums);
      if (dimension > 0) {
        slot_[dimension - 1][sums->group] = kNoSlot;
      }
    }
    if (dimension > 0) {
      const auto &rank = rank_[dimension - 1];
      std::sort(first, out_.end(), [&rank](const BulkSums &a, const BulkSums &b) {
        return rank[a.group] < rank[b.group];
      });
    }
  }

  std::size_t limit_;
  std::int32_t cut_;
  std::size_t count_ = 0;  // rows in chunks_
  std::array<std::vector<Chunk>, kPartitions> chunks_;
  std::vector<Chunk> spare_;
  std::array<BulkKept, kChunk> arriving_;
  BulkDictionary users_;
  BulkDictionary agents_;
  BulkDictionary models_;
  std::vector<std::size_t> first_;    // where the rows of each user of the partition begin
  std::vector<std::size_t> next_;     // where the next one goes
  std::unique_ptr<BulkKept[]> rows_;  // by user and time
  std::size_t rows_size_ = 0;
  std::vector<BulkUnit> units_;
  std::vector<std::uint32_t> rank_[2];  // of agents and models, in the order of their text
  std::vector<std::uint32_t> slot_[2];  // which of the rows of the bucket under way is a group's
  std::vector<std::uint32_t> touched_[2];
  std::vector<BulkSums> out_;
};

}  // namespace token_usage
