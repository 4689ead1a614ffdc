// token_usage_verify: what reports would say against a fresh aggregation of the ledger.
#pragma once

#include <string>
#include <vector>

#include "ledger.h"

namespace token_usage {

struct Difference {
  std::string user_id;
  std::string bucket;
  std::string dimension;
  std::string measure;
  std::optional<std::string> ledger;
  std::optional<std::string> rollup;
};

// The differences of one user, or of everyone where `user` is a null pointer or NULL: rollup rows
// that are not what the ledger gives, those that should not be there, and rows of the ledger whose
// created_at is unreadable, which no report counts.
std::vector<Difference> verify(const Ledger &ledger, sqlite3_value *user);

}  // namespace token_usage
