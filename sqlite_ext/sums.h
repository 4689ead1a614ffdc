// The one place where reports get their sums: the ledger rows of one user, assigned to consecutive
// stretches of time and grouped by a dimension.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "../core/measures.h"
#include "../core/timestamp.h"
#include "ledger.h"
#include "visit.h"

namespace token_usage {

// `count` is `none` where only requests_count is wanted: then an index tells all.
enum class Dimension { none, agent, model, count };

// How many keys a group has.
constexpr int key_count(Dimension dimension) {
  return dimension == Dimension::agent ? 1 : (dimension == Dimension::model ? 2 : 0);
}

// Key of a group: agent_id, or ai_provider and ai_model; nothing stands for NULL.
using Keys = std::vector<std::optional<std::string>>;

struct Sum {
  std::size_t stretch;  // bounds[stretch] <= created_at < bounds[stretch + 1]
  Keys keys;
  Measures measures;
};

// From the beginning of time, as a lower bound.
inline constexpr Micros kSinceEver = std::numeric_limits<Micros>::min();

// Part of a stretch, in time: [low, high).
struct Piece {
  Micros low;
  Micros high;
  std::size_t stretch;
};

// Sums as they gather, by stretch and keys.
class SumSet {
 public:
  // The measures of a group, new or known.
  Measures &at(std::size_t stretch, const Keys &keys) {
    // Without keys nearly always the one before: rows come in the order of time.
    return keys.empty() && !sums_.empty() && sums_.back().stretch == stretch ? sums_.back().measures
                                                                             : find(stretch, keys);
  }
  std::vector<Sum> take() { return std::move(sums_); }

 private:
  Measures &find(std::size_t stretch, const Keys &keys);

  std::vector<Sum> sums_;
  std::unordered_map<std::string, std::size_t> index_;
  std::string bytes_;
};

// The sums of the rows of `user` (and of `agent`, where one is given) with a readable created_at,
// one for each stretch and group that has rows. `bounds` ascend; there are at least two. Whole
// buckets come from the rollups where those can be used (rollup.h), the rest from the ledger.
std::vector<Sum> collect_sums(Snapshot &snapshot, sqlite3_value *user,
                              const std::optional<std::string> &agent,
                              const std::vector<Micros> &bounds, Dimension dimension);

// Which rows of the ledger are meant: all; those that are not odd, which are read in narrow ranges
// of the index; the same where the user has no odd ones; those of a user who has none and so few
// rows a day that ranges may be wider; or the odd ones, which the rollups list by their ids
// (rollup.h).
enum class Rows { all, plain, only_plain, sparse, odd };

// Calls `visit` for each row of the user with a readable created_at in one of the pieces, which
// ascend. The row is read by ledger_request and ledger_keys, if it is for more than a count.
// `numbers`: whether a created_at may be a number.
using LedgerVisitor = std::function<void(RowValues row, Micros time, const Piece &piece)>;
void visit_ledger_rows(const Ledger &ledger, sqlite3_value *user,
                       const std::optional<std::string> &agent, const std::vector<Piece> &pieces,
                       Dimension dimension, Rows rows, const LedgerVisitor &visit,
                       bool numbers = true);
Request ledger_request(RowValues row);
void ledger_keys(RowValues row, Dimension dimension, Keys &keys);

// What a ledger row holds for created_at, whatever its stored form; nothing where it is unreadable.
// `Source` is one of request.h.
template <typename Source>
std::optional<Micros> stored_time(const Source &source) {
  switch (source.type()) {
    case SQLITE_TEXT:
      return parse_timestamp(source.text());
    case SQLITE_INTEGER:
      return timestamp_from_integer(source.int64());
    case SQLITE_FLOAT:
      return timestamp_from_real(source.real());
    default:
      return std::nullopt;
  }
}

// `YYYY-MM-DD`, the mark between date and time, and `HH` of a time, followed by `end`.
std::string hour_text(Micros time, char mark, std::string_view end);

// Binds a user, as parameter 1, for a comparison with the ledger's column.
void bind_user(Statement &statement, const Ledger &ledger, sqlite3_value *user);

}  // namespace token_usage
