// The sums of one month of a ledger for token_usage_rebuild(): rows go in, in any order, and the
// rollup rows of each user come out, in the order of the rollup's primary key. What is rolled of a
// user is decided in between by the ledger's own SQL, once the number of rows and groups is known;
// so rows are kept as they come, 100 bytes each, and added up when a user's flags are there. No
// PostgreSQL function is called here.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "measures.h"

namespace token_usage {

// A cost as the ledger has it. The scale is how many decimals are shown, as PostgreSQL's sum()
// keeps it.
struct BulkCost {
  int128 units = 0;
  std::uint8_t scale = 0;
  bool present = false;
};

// A text that may be NULL, owned by somebody else.
struct BulkText {
  const char *data = nullptr;  // nullptr: NULL
  std::size_t size = 0;

  [[nodiscard]] std::string_view view() const {
    return data == nullptr ? std::string_view{} : std::string_view{data, size};
  }
};

// A ledger's row; times in microseconds.
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

// The keys of a rollup row.
struct BulkKeys {
  std::string key1;
  std::string key2;
  int nulls = 0;

  friend auto operator<=>(const BulkKeys &, const BulkKeys &) = default;
};

// A rollup row without its user. `group` numbers an agent or a model, by dimension.
struct BulkSums {
  Measures measures;
  std::int64_t bucket = 0;
  std::int64_t prompt = 0;
  std::int64_t completion = 0;
  std::int64_t total = 0;
  std::int64_t ms_sum = 0;
  std::uint32_t group = 0;
  std::uint8_t tier = 0;       // 3 months, 2 days, 1 hours
  std::uint8_t dimension = 0;  // 0 all, 1 agent, 2 model
  std::uint8_t usd_scale = 0;
  std::uint8_t rub_scale = 0;
};

class RollupBulk {
  struct Kept {
    int128 usd;
    int128 rub;
    std::int64_t at;
    std::int64_t prompt;
    std::int64_t completion;
    std::int64_t total;
    std::int64_t ms;
    std::uint32_t user;
    std::uint32_t group[2];  // agent, model
    std::uint8_t usd_scale;
    std::uint8_t rub_scale;
    bool has_usd : 1;
    bool has_rub : 1;
    bool has_ms : 1;
  };

 public:
  // Memory for rows that one month leaves to the next: touching fresh pages costs more than all the
  // additions.
  class Pool {
    friend RollupBulk;
    std::vector<std::unique_ptr<Kept[]>> chunks_;
  };

  // Takes rows of the users of one part of `parts`, up to about `limit` bytes.
  RollupBulk(std::size_t limit, std::uint32_t part, std::uint32_t parts, Pool &pool)
      : limit_(limit), part_(part), parts_(parts), pool_(pool) {
    pool_.chunks_.reserve(limit / (kChunk * sizeof(Kept)) + 2);  // a destructor must not throw
  }
  RollupBulk(const RollupBulk &) = delete;
  RollupBulk &operator=(const RollupBulk &) = delete;
  ~RollupBulk() {
    for (auto &chunk : chunks_) {
      if (pool_.chunks_.size() < pool_.chunks_.capacity()) {
        pool_.chunks_.push_back(std::move(chunk));
      }
    }
  }

  // False where the limit is reached; the row is not taken then.
  bool add(const BulkRow &row) {
    if (parts_ > 1 && std::hash<std::string_view>{}(row.user.view()) % parts_ != part_) {
      return true;
    }
    if (used_ > limit_) {
      return false;
    }
    if (size_ % kChunk == 0) {
      chunks_.emplace_back();
      if (pool_.chunks_.empty()) {
        chunks_.back() = std::make_unique_for_overwrite<Kept[]>(kChunk);
      } else {
        chunks_.back() = std::move(pool_.chunks_.back());
        pool_.chunks_.pop_back();
      }
    }
    Kept &kept = chunks_.back()[size_ % kChunk];
    kept.user = users_.number(row.user.view(), [&] { return std::string(row.user.view()); });
    kept.group[0] = agents_.number(spell(row.agent), [&] {
      return BulkKeys{std::string(row.agent.view()), {}, row.agent.data == nullptr ? 1 : 0};
    });
    kept.group[1] = models_.number(spell(row.provider, row.model), [&] {
      return BulkKeys{std::string(row.provider.view()), std::string(row.model.view()),
                      (row.provider.data == nullptr ? 1 : 0) + (row.model.data == nullptr ? 2 : 0)};
    });
    kept.at = row.at;
    kept.prompt = row.prompt;
    kept.completion = row.completion;
    kept.total = row.total;
    kept.ms = row.ms;
    kept.has_ms = row.has_ms;
    kept.usd = row.usd.units;
    kept.usd_scale = row.usd.scale;
    kept.has_usd = row.usd.present;
    kept.rub = row.rub.units;
    kept.rub_scale = row.rub.scale;
    kept.has_rub = row.rub.present;
    ++size_;
    used_ = size_ * (sizeof(Kept) + sizeof(std::uint32_t)) + users_.bytes() + agents_.bytes() +
            models_.bytes();
    return true;
  }

  // After the last row: puts each user's rows together.
  void finish() {
    first_.assign(users() + 1, 0);
    for (std::uint32_t i = 0; i < size_; ++i) {
      ++first_[kept(i).user + 1];
    }
    for (std::size_t u = 0; u < users(); ++u) {
      first_[u + 1] += first_[u];
    }
    std::vector<std::uint32_t> next(first_.begin(), first_.end() - 1);
    order_.resize(size_);
    for (std::uint32_t i = 0; i < size_; ++i) {
      order_[next[kept(i).user]++] = i;
    }
    // Rows that came by the index on created_at are in order.
    const auto earlier = [this](std::uint32_t a, std::uint32_t b) {
      return kept(a).at < kept(b).at;
    };
    for (std::size_t u = 0; u < users(); ++u) {
      const auto begin = order_.begin() + first_[u];
      const auto end = order_.begin() + first_[u + 1];
      if (!std::is_sorted(begin, end, earlier)) {
        std::sort(begin, end, earlier);
      }
    }
    for (int d = 0; d < 2; ++d) {
      const auto &keys = d == 0 ? agents_ : models_;
      std::vector<std::uint32_t> sorted(keys.size());
      for (std::uint32_t i = 0; i < keys.size(); ++i) {
        sorted[i] = i;
      }
      std::sort(sorted.begin(), sorted.end(), [&keys](std::uint32_t a, std::uint32_t b) {
        return keys.value(a) < keys.value(b);
      });
      rank_[d].resize(keys.size());
      for (std::uint32_t i = 0; i < keys.size(); ++i) {
        rank_[d][sorted[i]] = i;
      }
      slot_[d].assign(keys.size(), kNoSlot);
    }
  }

  [[nodiscard]] std::size_t users() const { return users_.size(); }
  [[nodiscard]] const std::string &user(std::size_t u) const { return users_.value(u); }
  [[nodiscard]] std::int64_t rows(std::size_t u) const { return first_[u + 1] - first_[u]; }

  // How many agents and how many models a user has, together.
  [[nodiscard]] std::int64_t groups(std::size_t u) {
    std::int64_t count = 0;
    for (int d = 0; d < 2; ++d) {
      for (std::uint32_t i = first_[u]; i < first_[u + 1]; ++i) {
        const std::uint32_t group = kept(order_[i]).group[d];
        if (slot_[d][group] == kNoSlot) {
          slot_[d][group] = 0;
          touched_.push_back(group);
        }
      }
      count += static_cast<std::int64_t>(touched_.size());
      for (const std::uint32_t group : touched_) {
        slot_[d][group] = kNoSlot;
      }
      touched_.clear();
    }
    return count;
  }

  [[nodiscard]] std::size_t keys(int dimension) const {
    return dimension == 1 ? agents_.size() : models_.size();
  }
  [[nodiscard]] const BulkKeys &keys(int dimension, std::size_t group) const {
    return dimension == 1 ? agents_.value(group) : models_.value(group);
  }

  // The rollup rows of a user, by kind, bucket and keys. `month` is where the month begins; flags
  // are those of _token_usage_rollup_flags(): 1, 4, 16 for months, days and half-hours, 2, 8, 32 by
  // group, with hours.
  const std::vector<BulkSums> &roll(std::size_t u, int flags, std::int64_t month) {
    out_.clear();
    for (int tier = 1; tier <= 3; ++tier) {
      for (int dimension = 0; dimension <= 2; ++dimension) {
        const int bit = (tier == 3 ? 1 : tier == 2 ? 4 : 16) * (dimension == 0 ? 1 : 2);
        if ((flags & bit) != 0) {
          roll(u, tier, dimension, month);
        }
      }
    }
    return out_;
  }

 private:
  // Values by number, in the order in which they came.
  template <typename Value>
  class Dictionary {
   public:
    template <typename Make>
    std::uint32_t number(std::string_view spelled, Make make) {
      const auto found = numbers_.find(spelled);
      if (found != numbers_.end()) {
        return found->second;
      }
      const auto added = static_cast<std::uint32_t>(values_.size());
      values_.push_back(make());
      numbers_.emplace(spelled, added);
      bytes_ += 2 * spelled.size() + kEntryBytes;
      return added;
    }
    [[nodiscard]] std::size_t size() const { return values_.size(); }
    [[nodiscard]] std::size_t bytes() const { return bytes_; }
    [[nodiscard]] const Value &value(std::size_t number) const { return values_[number]; }

   private:
    struct Hash {
      using is_transparent = void;
      std::size_t operator()(std::string_view text) const {
        return std::hash<std::string_view>{}(text);
      }
    };
    static constexpr std::size_t kEntryBytes = 256;  // about what an entry costs besides its text

    std::unordered_map<std::string, std::uint32_t, Hash, std::equal_to<>> numbers_;
    std::vector<Value> values_;
    std::size_t bytes_ = 0;
  };

  static constexpr std::size_t kChunk = 8192;
  static constexpr std::uint32_t kNoSlot = 0xFFFFFFFFU;

  [[nodiscard]] const Kept &kept(std::uint32_t i) const { return chunks_[i / kChunk][i % kChunk]; }

  // Texts as one key of a dictionary, the same only where all of them are.
  std::string_view spell(BulkText first, BulkText second = {}) {
    spelled_.clear();
    spelled_.push_back(
        static_cast<char>((first.data == nullptr ? 1 : 0) + (second.data == nullptr ? 2 : 0)));
    char size[sizeof first.size];
    std::memcpy(size, &first.size, sizeof size);
    spelled_.append(size, sizeof size).append(first.view()).append(second.view());
    return spelled_;
  }

  void roll(std::size_t u, int tier, int dimension, std::int64_t month) {
    constexpr std::int64_t half_hour = 1'800'000'000;
    const std::int64_t width = tier == 2        ? 48 * half_hour
                               : dimension == 0 ? half_hour
                                                : 2 * half_hour;
    std::size_t begin = out_.size();
    bool open = false;
    for (std::uint32_t i = first_[u]; i < first_[u + 1]; ++i) {
      const Kept &row = kept(order_[i]);
      const std::int64_t bucket = tier == 3 ? month : floor_to(row.at, width);
      if (!open || out_[begin].bucket != bucket) {
        close(begin, dimension);
        begin = out_.size();
        open = true;
      }
      std::uint32_t slot = 0;
      const std::uint32_t group = dimension == 0 ? 0 : row.group[dimension - 1];
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
        fresh.bucket = bucket;
        fresh.group = group;
        fresh.tier = static_cast<std::uint8_t>(tier);
        fresh.dimension = static_cast<std::uint8_t>(dimension);
      }
      add(out_[begin + slot], row);
    }
    close(begin, dimension);
  }

  static std::int64_t floor_to(std::int64_t at, std::int64_t width) {
    const std::int64_t over = at % width;
    return at - over - (over < 0 ? width : 0);
  }

  static void add(BulkSums &sums, const Kept &row) {
    Request request;
    request.prompt_tokens = row.prompt;
    request.completion_tokens = row.completion;
    request.total_tokens = row.total;
    if (row.has_usd) {
      request.cost_usd = Decimal::from_units(row.usd);
      sums.usd_scale = std::max(sums.usd_scale, row.usd_scale);
    }
    if (row.has_rub) {
      request.cost_rub = Decimal::from_units(row.rub);
      sums.rub_scale = std::max(sums.rub_scale, row.rub_scale);
    }
    if (row.has_ms) {
      request.execution_time_ms = Decimal::from_int(row.ms);
    }
    sums.measures.add(request);
  }

  // The rows of a bucket are complete: gives them the order of their keys, and their sums 64 bits.
  void close(std::size_t begin, int dimension) {
    const auto first = out_.begin() + static_cast<std::ptrdiff_t>(begin);
    for (auto sums = first; sums != out_.end(); ++sums) {
      sums->prompt = token_sum(sums->measures.prompt_tokens, "prompt_tokens");
      sums->completion = token_sum(sums->measures.completion_tokens, "completion_tokens");
      sums->total = token_sum(sums->measures.total_tokens, "total_tokens");
      sums->ms_sum =
          token_sum(sums->measures.execution_ms_sum.units() / Decimal::from_int(1).units(),
                    "execution_time_ms");
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
  std::uint32_t part_;
  std::uint32_t parts_;
  Pool &pool_;
  std::size_t used_ = 0;
  std::uint32_t size_ = 0;
  std::vector<std::unique_ptr<Kept[]>> chunks_;
  Dictionary<std::string> users_;
  Dictionary<BulkKeys> agents_;
  Dictionary<BulkKeys> models_;
  std::string spelled_;
  std::vector<std::uint32_t> first_;    // where each user's rows begin in order_
  std::vector<std::uint32_t> order_;    // rows by user and time
  std::vector<std::uint32_t> rank_[2];  // of agents and models, in the order of their text
  std::vector<std::uint32_t> slot_[2];  // which of the rows of the bucket under way is a group's
  std::vector<std::uint32_t> touched_;
  std::vector<BulkSums> out_;
};

}  // namespace token_usage
