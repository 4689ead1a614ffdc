// Reads the measures of a request from SQLite's dynamically typed values: the same rules for the
// columns of the ledger and for the arguments of an aggregate.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>

#include "../core/measures.h"
#include "sqlite.h"

namespace token_usage {

// A column of a statement's current row.
class ColumnSource {
 public:
  ColumnSource(const Statement &statement, int column) : statement_(&statement), column_(column) {}
  [[nodiscard]] int type() const { return statement_->type(column_); }
  [[nodiscard]] std::int64_t int64() const { return statement_->int64(column_); }
  [[nodiscard]] double real() const { return statement_->real(column_); }
  [[nodiscard]] std::string_view text() const { return statement_->text(column_); }

 private:
  const Statement *statement_;
  int column_;
};

// An argument of a function.
class ValueSource {
 public:
  explicit ValueSource(sqlite3_value *value) : value_(value) {}
  [[nodiscard]] int type() const { return sqlite3_value_type(value_); }
  [[nodiscard]] std::int64_t int64() const { return sqlite3_value_int64(value_); }
  [[nodiscard]] double real() const { return sqlite3_value_double(value_); }
  [[nodiscard]] std::string_view text() const { return value_text(value_); }

 private:
  sqlite3_value *value_;
};

// Decimal::from_double, by one multiplication where that is sure to give the same: the condition by
// which the triggers of the rollups tell rows that SQL can add up.
inline std::optional<Decimal> real_decimal(double value) {
  if (value >= -999 && value <= 999) {
    const double units = value * 1e12;
    const double whole = std::nearbyint(units);
    if (std::abs(units - whole) + std::min(0.25, std::abs(value * 0.006)) <= 0.5) {
      return Decimal::from_units(static_cast<std::int64_t>(whole));
    }
  }
  return Decimal::from_double(value);
}

// The decimal value (rule 4 of the contract); nothing for NULL and for what is no number.
template <typename Source>
std::optional<Decimal> read_decimal(const Source &source) {
  switch (source.type()) {
    case SQLITE_FLOAT:
      return real_decimal(source.real());
    case SQLITE_INTEGER:
      return Decimal::from_int(source.int64());
    case SQLITE_TEXT:
      return Decimal::from_text(source.text());
    default:
      return std::nullopt;
  }
}

// Six values in the order of token_usage_stats: prompt, completion and total tokens, cost_usd,
// cost_rub, execution time.
template <typename SourceAt>
Request read_request(SourceAt source_at) {
  const std::int64_t prompt = source_at(0).int64();
  const std::int64_t completion = source_at(1).int64();
  const auto total_source = source_at(2);
  std::int64_t total = 0;
  if (total_source.type() != SQLITE_NULL) {
    total = total_source.int64();
  } else if (__builtin_add_overflow(prompt, completion, &total)) {
    sum_overflow("total_tokens");
  }
  // Made where it stands in the end: this is done for every row that is read.
  return {prompt,
          completion,
          total,
          read_decimal(source_at(3)),
          read_decimal(source_at(4)),
          read_decimal(source_at(5))};
}

}  // namespace token_usage
