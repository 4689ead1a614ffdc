// Users, agents and models by number, for rollup_bulk.h. No PostgreSQL function is called here.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

namespace token_usage {

// A text that may be NULL, owned by somebody else.
struct BulkText {
  const char *data = nullptr;  // nullptr: NULL
  std::size_t size = 0;

  [[nodiscard]] std::string_view view() const {
    return data == nullptr ? std::string_view{} : std::string_view{data, size};
  }
};

// The keys of a rollup row.
struct BulkKeys {
  std::string_view key1;
  std::string_view key2;
  int nulls;

  friend auto operator<=>(const BulkKeys &, const BulkKeys &) = default;
};

// Pairs of texts by number, in the order in which they came.
class BulkDictionary {
 public:
  std::uint32_t number(BulkText first, BulkText second = {}) {
    const std::uint64_t hash =
        mix(mix(0x9E3779B97F4A7C15U, first.view()), second.view()) ^ nulls(first, second);
    for (std::size_t slot = hash & mask_;; slot = (slot + 1) & mask_) {
      if (slots_[slot] == kEmpty) {
        return add(hash, first, second);
      }
      const Entry &entry = entries_[slots_[slot]];
      if (entry.hash == hash && entry.nulls == nulls(first, second) && entry.size1 == first.size &&
          entry.size2 == second.size && same(entry.at, first) &&
          same(entry.at + entry.size1, second)) {
        return slots_[slot];
      }
    }
  }
  [[nodiscard]] std::size_t size() const { return entries_.size(); }
  [[nodiscard]] std::size_t bytes() const {
    return texts_.size() + entries_.size() * sizeof(Entry) + slots_.size() * sizeof slots_[0];
  }
  // Stands until the next number() only.
  [[nodiscard]] BulkKeys keys(std::size_t number) const {
    const Entry &entry = entries_[number];
    const char *const text = texts_.data() + entry.at;
    return {{text, entry.size1}, {text + entry.size1, entry.size2}, static_cast<int>(entry.nulls)};
  }

 private:
  struct Entry {
    std::uint64_t hash;
    std::size_t at;
    std::uint32_t size1;
    std::uint32_t size2;
    std::uint32_t nulls;
  };
  static constexpr std::uint32_t kEmpty = 0xFFFFFFFFU;

  static std::uint32_t nulls(BulkText first, BulkText second) {
    return (first.data == nullptr ? 1U : 0U) + (second.data == nullptr ? 2U : 0U);
  }
  [[nodiscard]] bool same(std::size_t at, BulkText text) const {
    return text.size == 0 || std::memcmp(texts_.data() + at, text.data, text.size) == 0;
  }
  static std::uint64_t mix(std::uint64_t hash, std::string_view text) {
    constexpr std::uint64_t odd = 0xD6E8FEB86659FD93U;
    while (!text.empty()) {
      std::uint64_t word = 0;
      const std::size_t size = std::min(text.size(), sizeof word);
      std::memcpy(&word, text.data(), size);
      hash = (hash ^ word) * odd;
      hash ^= hash >> 32U;
      text.remove_prefix(size);
    }
    return hash * odd ^ hash >> 29U;
  }
  std::uint32_t add(std::uint64_t hash, BulkText first, BulkText second) {
    const auto number = static_cast<std::uint32_t>(entries_.size());
    entries_.push_back({hash, texts_.size(), static_cast<std::uint32_t>(first.size),
                        static_cast<std::uint32_t>(second.size), nulls(first, second)});
    texts_.insert(texts_.end(), first.view().begin(), first.view().end());
    texts_.insert(texts_.end(), second.view().begin(), second.view().end());
    if (entries_.size() * 2 > slots_.size()) {
      slots_.assign(slots_.size() * 2, kEmpty);
      mask_ = slots_.size() - 1;
      for (std::uint32_t i = 0; i <= number; ++i) {
        place(i);
      }
    } else {
      place(number);
    }
    return number;
  }
  void place(std::uint32_t number) {
    std::size_t slot = entries_[number].hash & mask_;
    while (slots_[slot] != kEmpty) {
      slot = (slot + 1) & mask_;
    }
    slots_[slot] = number;
  }

  std::vector<char> texts_;
  std::vector<Entry> entries_;
  std::vector<std::uint32_t> slots_ = std::vector<std::uint32_t>(64, kEmpty);
  std::size_t mask_ = 63;
};

}  // namespace token_usage
