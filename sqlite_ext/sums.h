// The one place where reports get their sums: the ledger rows of one user, assigned to consecutive
// stretches of time and grouped by a dimension.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "../core/measures.h"
#include "../core/timestamp.h"
#include "ledger.h"

namespace token_usage {

enum class Dimension { none, agent, model };

// Key of a group: agent_id, or ai_provider and ai_model; nothing stands for NULL.
using Keys = std::vector<std::optional<std::string>>;

struct Sum {
  std::size_t stretch;  // bounds[stretch] <= created_at < bounds[stretch + 1]
  Keys keys;
  Measures measures;
};

// From the beginning of time, as a lower bound.
inline constexpr Micros kSinceEver = std::numeric_limits<Micros>::min();

// The sums of the rows of `user` (and of `agent`, where one is given) with a readable created_at,
// one for each stretch and group that has rows. `bounds` ascend; there are at least two.
std::vector<Sum> collect_sums(const Ledger &ledger, sqlite3_value *user,
                              const std::optional<std::string> &agent,
                              const std::vector<Micros> &bounds, Dimension dimension);

// What a ledger row holds for created_at, whatever its stored form; nothing where it is unreadable.
std::optional<Micros> stored_time(const Statement &row, int column);

// Binds a user, as parameter 1, for a comparison with the ledger's column.
void bind_user(Statement &statement, const Ledger &ledger, sqlite3_value *user);

// SELECTs over the rows of one user whose created_at may lie in [low, high), one for each way in
// which it can be stored. A range over text is wider than asked for, by the offsets that text may
// carry, so each row's time must still be compared. Every SELECT of a plan takes the same
// parameters.
class TimeRange {
 public:
  TimeRange(const Ledger &ledger, Micros low, Micros high, bool by_agent);

  // One SELECT per storage form: `SELECT <columns> FROM <ledger> WHERE ...`.
  [[nodiscard]] std::vector<std::string> selects(const std::string &columns) const;

  void bind(Statement &statement, sqlite3_value *user,
            const std::optional<std::string> &agent) const;

 private:
  std::string where_;
  bool by_agent_;
  const Ledger *ledger_;
  std::vector<std::string> forms_;
};

}  // namespace token_usage
