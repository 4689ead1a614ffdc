// See usage.h.
#include "usage.h"

#include <algorithm>
#include <limits>

#include "arguments.h"
#include "usage_rules.h"

namespace token_usage {
namespace {

constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();

bool contains(const std::vector<std::string> &list, std::string_view item) {
  return std::find(list.begin(), list.end(), item) != list.end();
}

bool equal_ignoring_case(std::string_view a, std::string_view b) {
  return a.size() == b.size() && lower_trimmed(a) == lower_trimmed(b);
}

// An object made of the top-level keys of several: what the events of a stream say together.
struct UsageObject {
  std::vector<const Json *> members;  // the value for each key, in order of first appearance
  std::string name;

  [[nodiscard]] const Json *find(std::string_view key) const {
    for (const Json *member : members) {
      if (member->key == key) {
        return member->is_null() ? nullptr : member;
      }
    }
    return nullptr;
  }

  void merge(const Json &object) {
    for (const Json &item : object.items()) {
      const auto at = std::find_if(members.begin(), members.end(),
                                   [&](const Json *known) { return known->key == item.key; });
      if (at == members.end()) {
        members.push_back(&item);
      } else if (!item.is_null()) {
        *at = &item;
      }
    }
  }

  [[nodiscard]] std::string text() const {
    std::string out = "{";
    for (const Json *member : members) {
      out += out.size() > 1 ? ", " : "";
      append_json_string(out, member->key);
      out += ": ";
      append_json_text(out, *member);
    }
    return out + "}";
  }
};

std::int64_t add_counts(std::int64_t a, std::int64_t b, const std::string &name) {
  if (a > kMax - b) {
    bad_argument(name, "counts whose sum is at most 9223372036854775807", "more");
  }
  return a + b;
}

[[noreturn]] void wrong_type(const std::string &path, std::string_view rule, const Json &value) {
  bad_argument(path, rule, json_text(value));
}

// The value at a path, and the name of where it is; for `list[field=value].key` the sum.
struct Found {
  const Json *value = nullptr;
  std::optional<std::int64_t> sum;
  std::string name;
};

std::optional<std::int64_t> sum_of_matches(const Json &list, const PathStep &step,
                                           const std::string &key, const std::string &name) {
  if (!list.is(Json::Type::array)) {
    wrong_type(name, "an array", list);
  }
  std::optional<std::int64_t> sum;
  std::size_t index = 0;
  for (const Json &item : list.items()) {
    const std::string at = name + "[" + std::to_string(index++) + "]";
    if (!item.is(Json::Type::object)) {
      wrong_type(at, "an object", item);
    }
    const Json *field = item.find(step.field);
    const Json *value = item.find(key);
    if (field != nullptr && value != nullptr && field->is(Json::Type::string) &&
        equal_ignoring_case(field->text, step.value)) {
      sum = add_counts(sum.value_or(0), require_count(*value, at + "." + key), name);
    }
  }
  return sum;
}

Found walk(const UsageObject &usage, const Path &path) {
  Found out;
  out.name = usage.name;
  const Json *at = nullptr;
  for (std::size_t i = 0; i < path.size(); ++i) {
    if (i > 0 && !at->is(Json::Type::object)) {
      wrong_type(out.name, "an object", *at);
    }
    at = i == 0 ? usage.find(path[i].key) : at->find(path[i].key);
    if (at == nullptr) {
      return out;
    }
    out.name += "." + path[i].key;
    if (!path[i].field.empty()) {
      out.sum = sum_of_matches(*at, path[i], path.back().key, out.name);
      return out;
    }
  }
  out.value = at;
  return out;
}

std::optional<std::int64_t> count_at(const UsageObject &usage, const Path &path) {
  const Found found = walk(usage, path);
  if (found.value != nullptr) {
    return require_count(*found.value, found.name);
  }
  return found.sum;
}

std::optional<std::int64_t> first_of(const UsageObject &usage, const std::vector<Path> &paths) {
  for (const Path &path : paths) {
    if (const std::optional<std::int64_t> value = count_at(usage, path)) {
      return value;
    }
  }
  return std::nullopt;
}

std::optional<std::int64_t> sum_of(const UsageObject &usage, const std::vector<Path> &paths) {
  std::optional<std::int64_t> sum;
  for (const Path &path : paths) {
    if (const std::optional<std::int64_t> value = count_at(usage, path)) {
      sum = add_counts(sum.value_or(0), *value, usage.name);
    }
  }
  return sum;
}

// The usage object inside one response; nullptr where it has none. `name` grows by the path to it.
const Json *find_root(const Json &response, std::string &name) {
  const Json *wrong = nullptr;
  std::string wrong_name;
  for (const Path &path : usage_rules().roots) {
    const Json *at = &response;
    std::string at_name = name;
    for (const PathStep &step : path) {
      at = at->find(step.key);
      if (at == nullptr) {
        break;
      }
      at_name += "." + step.key;
    }
    if (at != nullptr && at->is(Json::Type::object)) {
      name = at_name;
      return at;
    }
    if (at != nullptr && wrong == nullptr) {
      wrong = at;
      wrong_name = at_name;
    }
  }
  if (wrong != nullptr) {
    wrong_type(wrong_name, "an object", *wrong);
  }
  return nullptr;
}

std::string find_model(const Json &response) {
  for (const Path &path : usage_rules().models) {
    const Json *at = &response;
    for (const PathStep &step : path) {
      at = at == nullptr ? nullptr : at->find(step.key);
    }
    if (at != nullptr && at->is(Json::Type::string) && !at->text.empty()) {
      return std::string(at->text);
    }
  }
  return {};
}

UsageObject find_usage(const Json &response, std::string_view argument, std::string &model) {
  UsageObject out;
  out.name = argument;
  if (response.is(Json::Type::object)) {
    const Json *root = find_root(response, out.name);
    out.merge(root == nullptr ? response : *root);
    model = find_model(response);
    return out;
  }
  if (!response.is(Json::Type::array)) {
    wrong_type(std::string(argument), "an object", response);
  }
  std::size_t index = 0;
  for (const Json &event : response.items()) {
    std::string name = std::string(argument) + "[" + std::to_string(index++) + "]";
    if (!event.is(Json::Type::object)) {
      wrong_type(name, "an object", event);
    }
    if (const Json *root = find_root(event, name)) {
      out.merge(*root);
      out.name = name;
    }
    if (model.empty()) {
      model = find_model(event);
    }
  }
  return out;
}

bool is_present(const UsageObject &usage, const Path &path) {
  const Json *at = usage.find(path.front().key);
  for (std::size_t i = 1; i < path.size() && at != nullptr; ++i) {
    at = at->find(path[i].key);
  }
  return at != nullptr;
}

const Rules::Shape *find_shape(const UsageObject &usage, const std::string &flavour) {
  for (const Rules::Shape &shape : usage_rules().shapes) {
    if (flavour.empty() ? shape.only_by_flavour : !contains(shape.flavours, flavour)) {
      continue;
    }
    if (std::any_of(shape.detect.begin(), shape.detect.end(),
                    [&](const Path &path) { return is_present(usage, path); })) {
      return &shape;
    }
  }
  return nullptr;
}

// Parts that stand inside their whole or beside it together.
struct Group {
  std::string name;
  bool of_prompt;
  Relation relation;
  std::int64_t sum = 0;
};

std::vector<Group> collect_parts(const UsageObject &object, const Rules::Shape &shape,
                                 const std::string &provider, Usage &usage) {
  std::vector<Group> groups;
  for (const Rules::Part &part : shape.parts) {
    if (part.restricted && !contains(part.only, provider)) {
      continue;
    }
    std::optional<std::int64_t> value = first_of(object, part.paths);
    if (!value) {
      value = sum_of(object, part.or_sum);
    }
    if (!value) {
      continue;
    }
    if (part.key) {
      if (usage.get(*part.key) > 0) {
        continue;  // the same count under another name
      }
      usage[*part.key] = value;
    }
    auto group = std::find_if(groups.begin(), groups.end(),
                              [&](const Group &known) { return known.name == part.group; });
    if (group == groups.end()) {
      const Relation relation = contains(part.extra_for, provider)     ? Relation::extra
                                : contains(part.outside_for, provider) ? Relation::outside
                                                                       : part.relation;
      groups.push_back({part.group, part.of_prompt, relation, 0});
      group = groups.end() - 1;
    }
    group->sum = add_counts(group->sum, *value, object.name);
  }
  return groups;
}

// One way to place the groups: which stand beside their whole.
struct Placement {
  int128 prompt;
  int128 completion;
  bool valid;  // nothing that stands inside is larger than its whole
};

Placement place(std::int64_t prompt, std::int64_t completion, const std::vector<Group> &groups,
                unsigned flipped) {
  Placement out{prompt, completion, true};
  int128 in_prompt = 0;
  int128 in_completion = 0;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    const bool outside = (groups[i].relation == Relation::outside) != ((flipped >> i & 1U) != 0);
    int128 &side = groups[i].of_prompt ? (outside ? out.prompt : in_prompt)
                                       : (outside ? out.completion : in_completion);
    side += groups[i].sum;
  }
  out.valid = in_prompt <= prompt && in_completion <= completion;
  return out;
}

// Decides which parts stand beside their whole, and sets prompt, completion and total.
void settle_totals(std::int64_t prompt, std::int64_t completion, std::optional<std::int64_t> total,
                   const std::vector<Group> &all, const std::string &name, Usage &usage) {
  std::vector<Group> groups;
  std::copy_if(all.begin(), all.end(), std::back_inserter(groups), [](const Group &group) {
    return group.relation != Relation::extra && group.sum > 0;
  });
  std::vector<unsigned> masks(std::size_t{1} << groups.size());
  for (unsigned i = 0; i < masks.size(); ++i) {
    masks[i] = i;
  }
  // The fewer defaults are overturned, the likelier.
  std::stable_sort(masks.begin(), masks.end(), [](unsigned a, unsigned b) {
    return __builtin_popcount(a) < __builtin_popcount(b);
  });
  std::optional<Placement> settled;
  for (std::size_t i = 0; total && !settled && i < masks.size(); ++i) {
    const Placement way = place(prompt, completion, groups, masks[i]);
    if (way.valid && way.prompt + way.completion == *total) {
      settled = way;
    }
  }
  if (!settled) {
    for (std::size_t i = 0; !settled && i < masks.size(); ++i) {
      const Placement way = place(prompt, completion, groups, masks[i]);
      if (way.valid) {
        settled = way;
        if (masks[i] != 0) {
          usage.warnings.emplace_back("a part is larger than its whole: counted beside it");
        }
      }
    }
    const int128 counted = settled->prompt + settled->completion;
    if (total && *total > counted) {
      usage.unattributed = static_cast<std::int64_t>(*total - counted);
      usage.warnings.push_back("the provider's total " + std::to_string(*total) + " is " +
                               std::to_string(usage.unattributed) + " above the parts");
    } else if (total && *total < counted) {
      usage.warnings.push_back("the provider's total " + std::to_string(*total) + " is " +
                               scaled_to_text(counted - *total, 0) + " below the parts");
    }
  }
  for (const Group &group : all) {
    if (group.relation == Relation::extra) {
      (group.of_prompt ? settled->prompt : settled->completion) += group.sum;
    }
  }
  if (settled->prompt + settled->completion > kMax) {
    bad_argument(name, "counts whose sum is at most 9223372036854775807", "more");
  }
  usage[Count::prompt] = static_cast<std::int64_t>(settled->prompt);
  usage[Count::completion] = static_cast<std::int64_t>(settled->completion);
  usage[Count::total] = static_cast<std::int64_t>(settled->prompt + settled->completion);
}

void read_details(const UsageObject &object, const Rules::Shape &shape, Usage &usage) {
  for (const Rules::Detail &detail : shape.details) {
    std::optional<std::int64_t> value = sum_of(object, detail.sum);
    if (!value) {
      continue;
    }
    const std::int64_t whole = usage.get(detail.of);
    if (*value > whole) {
      usage.warnings.push_back(std::string(count_keys[static_cast<std::size_t>(detail.key)]) + " " +
                               std::to_string(*value) + " is above " +
                               std::string(count_keys[static_cast<std::size_t>(detail.of)]) + " " +
                               std::to_string(whole) + ": cut to it");
      value = whole;
    }
    usage[detail.key] = value;
  }
}

int128 require_cost(const Json &value, const std::string &path, int divide_by_10_power) {
  std::optional<int128> cost;
  if (value.is(Json::Type::number)) {
    cost = scaled_from_text(value.text, wide_places - divide_by_10_power);
  }
  if (!cost || *cost < 0) {
    wrong_type(path, "a number from 0", value);
  }
  return *cost;
}

void read_cost(const UsageObject &object, const Rules::Shape &shape, const std::string &provider,
               Usage &usage) {
  for (const Rules::Cost &rule : shape.costs) {
    if (!contains(rule.only, provider)) {
      continue;
    }
    if (!rule.when.empty()) {
      const Json *when = object.find(rule.when);
      if (when == nullptr || !when->is_true()) {
        continue;
      }
    }
    const Found found = walk(object, rule.path);
    if (found.value == nullptr) {
      continue;
    }
    int128 sum = usage.provider_cost.value_or(0);
    if (__builtin_add_overflow(sum, require_cost(*found.value, found.name, rule.divide_by_10_power),
                               &sum)) {
      wrong_type(found.name, "a number from 0", *found.value);
    }
    usage.provider_cost = sum;
  }
}

}  // namespace

std::int64_t require_count(const Json &value, std::string_view path) {
  std::optional<std::int64_t> count;
  if (value.is(Json::Type::number)) {
    count = count_from_number(value.text);
  }
  if (!count) {
    bad_argument(path, rule_range(0, kMax), json_text(value));
  }
  return *count;
}

ProviderName provider_name(std::string_view ai_provider) {
  const Rules &rules = usage_rules();
  ProviderName out;
  out.name = lower_trimmed(ai_provider);
  if (const std::size_t slash = out.name.rfind('/');
      slash != std::string::npos &&
      rules.is_flavour(std::string_view(out.name).substr(slash + 1))) {
    out.flavour = out.name.substr(slash + 1);
    out.name.resize(slash);
  }
  std::string key = out.name;
  std::replace_if(
      key.begin(), key.end(), [](char c) { return c == '_' || c == ' '; }, '-');
  for (const Rules::Provider &provider : rules.providers) {
    if (contains(provider.names, key)) {
      out.id = provider.id;
      return out;
    }
  }
  for (const Rules::Provider &provider : rules.providers) {
    for (const std::string &prefix : provider.prefixes) {
      if (key.compare(0, prefix.size(), prefix) == 0) {
        out.id = provider.id;
        return out;
      }
    }
  }
  return out;
}

Usage usage_from_response(std::string_view ai_provider, const Json &response,
                          std::string_view argument, std::string *raw) {
  Usage usage;
  const ProviderName provider = provider_name(ai_provider);
  if (provider.id.empty()) {
    usage.warnings.push_back("unknown provider " + printable(ai_provider, 200) +
                             ": read by the shape of its response");
  }
  const UsageObject object = find_usage(response, argument, usage.model);
  const Rules::Shape *shape = find_shape(object, provider.flavour);
  if (shape == nullptr) {
    bad_argument(argument, "a response or usage object with token counts", json_text(response));
  }
  if (raw != nullptr) {
    *raw = object.text();
  }
  if (shape->not_tokens) {
    usage[Count::prompt] = usage[Count::completion] = usage[Count::total] = 0;
    usage.not_tokens = true;
    usage.warnings.emplace_back("no token counts are reported: left unpriced");
    return usage;
  }
  const std::optional<std::int64_t> prompt = first_of(object, shape->prompt);
  const std::optional<std::int64_t> completion = first_of(object, shape->completion);
  const std::optional<std::int64_t> total = first_of(object, shape->total);
  if (!prompt) {
    usage.warnings.push_back(object.name + "." + shape->prompt_text +
                             " is not reported: counted as 0");
  }
  const std::vector<Group> groups = collect_parts(object, *shape, provider.id, usage);
  settle_totals(prompt.value_or(0), completion.value_or(0), total, groups, object.name, usage);
  read_details(object, *shape, usage);
  for (const Rules::Request &request : shape->requests) {
    if (const std::optional<std::int64_t> value = first_of(object, request.paths)) {
      usage[request.key] = value;
    }
  }
  read_cost(object, *shape, provider.id, usage);
  return usage;
}

std::string usage_to_json(const Usage &usage) {
  std::string out = "{";
  const auto key = [&](std::string_view name) {
    out += out.size() > 1 ? ", \"" : "\"";
    out += name;
    out += "\": ";
  };
  for (std::size_t i = 0; i < count_kinds; ++i) {
    if (usage.counts[i]) {
      key(count_keys[i]);
      out += std::to_string(*usage.counts[i]);
    }
  }
  if (usage.not_tokens) {
    key("not_tokens");
    out += "true";
  }
  if (usage.provider_cost) {
    key("provider_cost_usd");
    out += scaled_to_text(*usage.provider_cost, wide_places);
  }
  if (!usage.model.empty()) {
    key("model");
    append_json_string(out, usage.model);
  }
  if (usage.unattributed > 0) {
    key("unattributed_tokens");
    out += std::to_string(usage.unattributed);
  }
  key("warnings");
  out += '[';
  for (std::size_t i = 0; i < usage.warnings.size(); ++i) {
    out += i > 0 ? ", " : "";
    append_json_string(out, usage.warnings[i]);
  }
  return out + "]}";
}

Usage usage_from_json(const Json &object, std::string_view argument) {
  if (!object.is(Json::Type::object)) {
    bad_argument(argument, "an object", json_text(object));
  }
  Usage usage;
  for (const Json &item : object.items()) {
    const std::string path = std::string(argument) + "." + std::string(item.key);
    const auto *known = std::find(count_keys.begin(), count_keys.end(), item.key);
    if (known != count_keys.end()) {
      if (!item.is_null()) {
        usage.counts[static_cast<std::size_t>(known - count_keys.begin())] =
            require_count(item, path);
      }
    } else if (item.key == "not_tokens") {
      usage.not_tokens = item.is_true();
    } else if (item.key != "provider_cost_usd" && item.key != "model" &&
               item.key != "unattributed_tokens" && item.key != "warnings") {
      bad_argument(path, "one of the keys of token_usage_from_response", json_text(item));
    }
  }
  return usage;
}

void check_usage(const Usage &usage, std::string_view argument) {
  const auto refuse = [&](Count kind, std::string_view rule) {
    bad_argument(
        std::string(argument) + "." + std::string(count_keys[static_cast<std::size_t>(kind)]), rule,
        std::to_string(usage.get(kind)));
  };
  const int128 cached =
      static_cast<int128>(usage.get(Count::cache_read)) + usage.get(Count::cache_write);
  if (cached > usage.get(Count::prompt)) {
    refuse(Count::cache_read, "at most prompt_tokens with cache_write_tokens");
  }
  if (usage.get(Count::cache_write_1h) > usage.get(Count::cache_write)) {
    refuse(Count::cache_write_1h, "at most cache_write_tokens");
  }
  if (usage.get(Count::reasoning) > usage.get(Count::completion)) {
    refuse(Count::reasoning, "at most completion_tokens");
  }
}

}  // namespace token_usage
