// The extraction rules in memory: core/usage_rules.json, which stands once and is built into the
// library. Its format:
//
//   providers  id, and the names by which it is called (`names`, `starts_with`)
//   roots      where the usage object stands in a response, first found wins
//   models     where the model's name stands
//   shapes     in order; the first one of which a `detect` path is present describes the usage
//   object:
//     flavours         names by which a caller may ask for this shape (`cohere/tokens`)
//     only_by_flavour  never detected
//     not_tokens       the request is billed by something else
//     prompt, completion, total   alternatives, the first present counts
//     parts            counts that may stand inside their whole or beside it: `key` of the result,
//     `of` prompt or
//                      completion, `group` of parts that move together, default `relation`; `only`,
//                      `outside_for` and `extra_for` list providers (extra: beside the whole and
//                      not in the provider's total)
//     details          counts that only split their whole (`of`), summed over the paths in `sum`
//     requests, costs  requests billed one by one; the cost in USD that the provider states
//   A path is keys with dots; `list[field=value].key` sums `key` over the elements whose `field` is
//   `value`.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "usage.h"

namespace token_usage {

struct PathStep {
  std::string key;
  std::string field;  // not empty: an array, and which of its elements
  std::string value;
};
using Path = std::vector<PathStep>;

enum class Relation { inside, outside, extra };

struct Rules {
  struct Provider {
    std::string id;
    std::vector<std::string> names;
    std::vector<std::string> prefixes;
  };
  struct Part {
    std::optional<Count> key;
    bool of_prompt = true;
    std::string group;
    Relation relation = Relation::inside;
    std::vector<Path> paths;
    std::vector<Path> or_sum;
    bool restricted = false;
    std::vector<std::string> only;
    std::vector<std::string> outside_for;
    std::vector<std::string> extra_for;
  };
  struct Detail {
    Count key = Count::prompt;
    Count of = Count::prompt;
    std::vector<Path> sum;
  };
  struct Request {
    Count key = Count::web_search_requests;
    std::vector<Path> paths;
  };
  struct Cost {
    std::vector<std::string> only;
    Path path;
    std::string when;
    int divide_by_10_power = 0;
  };
  struct Shape {
    std::string name;
    std::vector<std::string> flavours;
    bool only_by_flavour = false;
    bool not_tokens = false;
    std::vector<Path> detect;
    std::vector<Path> prompt;
    std::vector<Path> completion;
    std::vector<Path> total;
    std::string prompt_text;  // the first prompt path, for the warning where none is present
    std::vector<Part> parts;
    std::vector<Detail> details;
    std::vector<Request> requests;
    std::vector<Cost> costs;
  };

  std::vector<Provider> providers;
  std::vector<Path> roots;
  std::vector<Path> models;
  std::vector<Shape> shapes;

  [[nodiscard]] bool is_flavour(std::string_view name) const;
};

// The rules, parsed once. Throws std::logic_error where the file is not as described above (a unit
// test parses it).
const Rules &usage_rules();

// The text of core/usage_rules.json.
std::string_view usage_rules_text();

// `text` as lower-case ASCII without blanks around it.
std::string lower_trimmed(std::string_view text);

}  // namespace token_usage
