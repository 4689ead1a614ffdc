// Money (rule 4 of the contract): a decimal with 12 places in a 128-bit integer. Sums are exact up
// to 1.7 * 10^26 units of currency, far past the 10^15 that the contract promises; past that an
// operation throws and never wraps.
#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace token_usage {

__extension__ typedef __int128 int128;
__extension__ typedef unsigned __int128 uint128;

class Decimal {
 public:
  // Decimal places that are kept.
  static constexpr int places = 12;

  constexpr Decimal() = default;

  // The value `units` * 10^-12.
  static constexpr Decimal from_units(int128 units) {
    Decimal out;
    out.units_ = units;
    return out;
  }

  // A whole number.
  static constexpr Decimal from_int(std::int64_t value) {
    return from_units(static_cast<int128>(value) * 1'000'000'000'000);
  }

  // The decimal that `text` spells: sign, digits with or without a point, exponent; spaces around
  // it allowed. Exact, then rounded half-even to 12 places. Nothing where the text is no such
  // number or the value is out of range.
  static std::optional<Decimal> from_text(std::string_view text);

  // The value of a binary float in 15 significant digits, which gives back every decimal of up to
  // 15 digits, rounded half-even to 12 places. Nothing where it is not finite or out of range.
  static std::optional<Decimal> from_double(double value);

  // The value as an integer count of 10^-12.
  [[nodiscard]] constexpr int128 units() const { return units_; }

  // `0`, `0.3`, `-1.25`: all digits, no trailing zeros, no exponent.
  [[nodiscard]] std::string to_string() const;

  // The double nearest to the value.
  [[nodiscard]] double to_double() const;

  // Adds or subtracts in place. False, and unchanged, where the result is out of range.
  [[nodiscard]] bool add(Decimal other) {
    return !__builtin_add_overflow(units_, other.units_, &units_) || undo(other.units_, true);
  }
  [[nodiscard]] bool subtract(Decimal other) {
    return !__builtin_sub_overflow(units_, other.units_, &units_) || undo(other.units_, false);
  }

  friend constexpr bool operator==(Decimal a, Decimal b) { return a.units_ == b.units_; }
  friend constexpr std::strong_ordering operator<=>(Decimal a, Decimal b) {
    return a.units_ <=> b.units_;
  }

 private:
  // The builtins store the wrapped result; taking the step back wraps to where it was.
  bool undo(int128 other, bool was_addition) {
    const auto wrapped = static_cast<uint128>(units_);
    const auto step = static_cast<uint128>(other);
    units_ = static_cast<int128>(was_addition ? wrapped - step : wrapped + step);
    return false;
  }

  int128 units_ = 0;
};

// The whole number nearest to `sum` / `count`, half away from zero. `count` is above 0.
std::int64_t rounded_mean(Decimal sum, std::int64_t count);

}  // namespace token_usage
