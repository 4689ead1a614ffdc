// The endpoints: which SQL statement each is, and which parameters it takes. The statement's JSON
// is the body.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "answer.h"
#include "database.h"

namespace usage_http {

enum class Kind {
  text,     // as it is
  integer,  // a whole number
  instant,  // start_date, end_date: in time_zone, where that is given
  zone,     // a time zone that the statement does not take
};

struct Parameter {
  std::string name;      // in the URL
  std::string argument;  // in the contract's errors
  Kind kind = Kind::text;
  const char *fallback = nullptr;  // where the URL does not have it; null: NULL
  std::string rule;                // of an integer, in the contract's words
};

struct Report {
  Statement statement;  // $1 is the user, then come the parameters
  std::vector<Parameter> parameters;
};

// The reports by their path below a prefix.
const std::map<std::string, Report, std::less<>> &reports();

// The prefixes that stand before them.
inline constexpr std::string_view prefixes[] = {"/api/v1/billing", "/api/billing"};

// Where POST records an event.
inline constexpr std::string_view record_path = "/usage/tokens";

using Query = std::vector<std::pair<std::string, std::string>>;

// Both throw HttpError.
Answer answer_report(Database &database, const Report &report, const std::string &user,
                     const Query &query);
Answer answer_record(Database &database, const std::string &user, const std::string &event);

// Whether the database answers and has a ledger.
Answer answer_health(Database &database);

}  // namespace usage_http
