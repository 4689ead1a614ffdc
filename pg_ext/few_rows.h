// A user's rows read straight from the ledger by its index, without a query: the way of reports on
// users who have few (few_reports.cpp), and of what no rollup serves (sums.cpp). To start an
// executor takes longer than to read ten rows.
//
// Carries rules 7 and 10 of the contract: rows are what the caller's snapshot sees, and only a
// caller who may read the whole table, with no row security at work, gets here. Code that anybody
// but a superuser may write is never run: types, operators and the index's are the server's own.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "measures.h"

#include "server.h"

namespace token_usage {

// A text of a row as the server has it, which lasts until the next row. NULL is not the empty text.
struct FewText {
  text *value;  // nullptr for NULL

  [[nodiscard]] std::string_view view() const {
    return value == nullptr ? std::string_view()
                            : std::string_view(VARDATA_ANY(value),
                                               static_cast<std::size_t>(VARSIZE_ANY_EXHDR(value)));
  }
  friend bool operator==(const FewText &a, const FewText &b) {
    return (a.value == nullptr) == (b.value == nullptr) && a.view() == b.view();
  }
};

// The columns of a page that are no measures, as token_usage_detailed has them.
enum FewOther {
  kId,
  kPlatform,
  kContentType,
  kTaskType,
  kContentId,
  kWorkflow,
  kRequest,
  kEndpoint
};
constexpr int kFewOthers = kEndpoint + 1;

struct FewRow {
  TimestampTz at;
  FewText agent;
  FewText provider;
  FewText model;
  Request request;
  // Of a page only.
  std::int64_t id;
  FewText others[kFewOthers];
};

enum class FewKind {
  sums,   // all rows, where they are few
  count,  // the same of which nothing is read
  page    // the newest first, until who takes them has enough; with an id that is a whole number
};

// Whose rows, and of when: from <= created_at < until. -infinity is no time, as in any report.
struct FewQuestion {
  FewKind kind;
  Oid ledger;
  text *user;
  TimestampTz from;
  TimestampTz until;
};

enum class FewTaken { more, enough, give_up };

// Takes a row; without a page they come by their time, from either end.
using TakeFewRow = FewTaken (*)(void *context, const FewRow &row);

// Hands the rows over. False where they are to be read in another way, after some of them may have
// come: where there are many, or where the ledger is not of the plain kind that this reads.
bool read_few_rows(const FewQuestion &question, TakeFewRow take, void *context);

// Hands over all rows of a question about sums; `most` is how many there may be, and then how many
// fewer there were. False as above, and where there are more.
bool read_rows(const FewQuestion &question, int *most, TakeFewRow take, void *context);

// The ledger's setting time_zone: nothing where it has to be read in another way. The text is
// empty where none was set.
std::optional<std::string_view> few_time_zone(Oid ledger);

}  // namespace token_usage
