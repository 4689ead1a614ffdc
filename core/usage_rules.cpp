// See usage_rules.h.
#include "usage_rules.h"

#include <algorithm>
#include <stdexcept>

namespace token_usage {
namespace {

// The build writes this file from core/usage_rules.json: the JSON text in raw string literals.
constexpr char kText[] =
#include "usage_rules.inc"
    ;

[[noreturn]] void broken(const std::string &what) {
  throw std::logic_error("usage_rules.json: " + what);
}

std::string text_of(const Json &object, std::string_view key, bool required = true) {
  const Json *value = object.find(key);
  if (value == nullptr && !required) {
    return {};
  }
  if (value == nullptr || !value->is(Json::Type::string)) {
    broken("text expected in " + std::string(key));
  }
  return std::string(value->text);
}

std::vector<std::string> texts_of(const Json &object, std::string_view key) {
  std::vector<std::string> out;
  if (const Json *list = object.find(key)) {
    for (const Json &item : list->items()) {
      if (!item.is(Json::Type::string)) {
        broken("texts expected in " + std::string(key));
      }
      out.emplace_back(item.text);
    }
  }
  return out;
}

Path parse_path(std::string_view text) {
  Path out;
  while (!text.empty()) {
    const std::size_t dot = text.find('.');
    std::string_view step = text.substr(0, dot);
    text = dot == std::string_view::npos ? std::string_view{} : text.substr(dot + 1);
    PathStep parsed;
    if (const std::size_t bracket = step.find('['); bracket != std::string_view::npos) {
      const std::size_t equals = step.find('=', bracket);
      if (equals == std::string_view::npos || step.back() != ']') {
        broken("bad path step " + std::string(step));
      }
      parsed.field = step.substr(bracket + 1, equals - bracket - 1);
      parsed.value = step.substr(equals + 1, step.size() - equals - 2);
      step = step.substr(0, bracket);
    }
    parsed.key = step;
    out.push_back(std::move(parsed));
  }
  return out;
}

std::vector<Path> paths_of(const Json &object, std::string_view key) {
  std::vector<Path> out;
  for (const std::string &text : texts_of(object, key)) {
    out.push_back(parse_path(text));
  }
  return out;
}

Count count_of(const std::string &key) {
  const auto *at = std::find(count_keys.begin(), count_keys.end(), key);
  if (at == count_keys.end()) {
    broken("unknown count " + key);
  }
  return static_cast<Count>(at - count_keys.begin());
}

bool flag_of(const Json &object, std::string_view key) {
  const Json *value = object.find(key);
  return value != nullptr && value->is_true();
}

Rules::Part parse_part(const Json &json) {
  Rules::Part out;
  if (const std::string key = text_of(json, "key"); !key.empty()) {
    out.key = count_of(key);
  }
  const std::string of = text_of(json, "of");
  const std::string relation = text_of(json, "relation");
  if ((of != "prompt" && of != "completion") || (relation != "inside" && relation != "outside")) {
    broken("bad part of " + of + ", " + relation);
  }
  out.of_prompt = of == "prompt";
  out.relation = relation == "inside" ? Relation::inside : Relation::outside;
  out.group = text_of(json, "group");
  out.paths = paths_of(json, "paths");
  out.or_sum = paths_of(json, "or_sum");
  out.restricted = json.find("only") != nullptr;
  out.only = texts_of(json, "only");
  out.outside_for = texts_of(json, "outside_for");
  out.extra_for = texts_of(json, "extra_for");
  return out;
}

template <typename Item, typename Parse>
std::vector<Item> list_of(const Json &object, std::string_view key, Parse parse) {
  std::vector<Item> out;
  if (const Json *list = object.find(key)) {
    for (const Json &item : list->items()) {
      out.push_back(parse(item));
    }
  }
  return out;
}

Rules::Shape parse_shape(const Json &json) {
  Rules::Shape out;
  out.name = text_of(json, "name");
  out.flavours = texts_of(json, "flavours");
  out.only_by_flavour = flag_of(json, "only_by_flavour");
  out.not_tokens = flag_of(json, "not_tokens");
  out.detect = paths_of(json, "detect");
  out.prompt = paths_of(json, "prompt");
  out.completion = paths_of(json, "completion");
  out.total = paths_of(json, "total");
  const std::vector<std::string> prompt = texts_of(json, "prompt");
  out.prompt_text = prompt.empty() ? std::string() : prompt.front();
  out.parts = list_of<Rules::Part>(json, "parts", parse_part);
  out.details = list_of<Rules::Detail>(json, "details", [](const Json &item) {
    return Rules::Detail{count_of(text_of(item, "key")), count_of(text_of(item, "of")),
                         paths_of(item, "sum")};
  });
  out.requests = list_of<Rules::Request>(json, "requests", [](const Json &item) {
    return Rules::Request{count_of(text_of(item, "key")), paths_of(item, "paths")};
  });
  out.costs = list_of<Rules::Cost>(json, "costs", [](const Json &item) {
    Rules::Cost cost{texts_of(item, "only"), parse_path(text_of(item, "path")),
                     text_of(item, "when", false), 0};
    if (const Json *power = item.find("divide_by_10_power")) {
      cost.divide_by_10_power = static_cast<int>(count_from_number(power->text).value_or(0));
    }
    return cost;
  });
  return out;
}

Rules parse_rules() {
  const JsonDocument document(usage_rules_text(), "usage_rules.json");
  const Json &root = document.root();
  Rules out;
  out.providers = list_of<Rules::Provider>(root, "providers", [](const Json &item) {
    return Rules::Provider{text_of(item, "id"), texts_of(item, "names"),
                           texts_of(item, "starts_with")};
  });
  out.roots = paths_of(root, "roots");
  out.models = paths_of(root, "models");
  out.shapes = list_of<Rules::Shape>(root, "shapes", parse_shape);
  return out;
}

}  // namespace

bool Rules::is_flavour(std::string_view name) const {
  return std::any_of(shapes.begin(), shapes.end(), [&](const Shape &shape) {
    return std::find(shape.flavours.begin(), shape.flavours.end(), name) != shape.flavours.end();
  });
}

const Rules &usage_rules() {
  static const Rules rules = parse_rules();
  return rules;
}

std::string_view usage_rules_text() {
  return {kText, sizeof(kText) - 1};
}

std::string lower_trimmed(std::string_view text) {
  const auto blank = [](char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; };
  while (!text.empty() && blank(text.front())) {
    text.remove_prefix(1);
  }
  while (!text.empty() && blank(text.back())) {
    text.remove_suffix(1);
  }
  std::string out(text);
  for (char &c : out) {
    if (c >= 'A' && c <= 'Z') {
      c = static_cast<char>(c - 'A' + 'a');
    }
  }
  return out;
}

}  // namespace token_usage
