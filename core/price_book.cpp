// See price.h. Which model of the price book a name means: the catalogue's match clauses, provider
// aliases, `provider/model` names, dated snapshots, prices entered by hand.
#include "price.h"

#include <algorithm>
#include <regex>

#include "usage_rules.h"

namespace token_usage {
namespace {

// A name longer than this is no model's; it keeps a regular expression of a catalogue from running
// away.
constexpr std::size_t kMaxName = 300;

bool regex_found(std::string_view pattern, const std::string &name) {
  try {
    const std::regex regex{std::string(pattern), std::regex::ECMAScript};
    return std::regex_search(name, regex);
  } catch (const std::regex_error &) {
    return false;  // import refuses such a pattern; a row changed by hand matches nothing
  }
}

bool is_regex(std::string_view pattern) {
  try {
    const std::regex regex{std::string(pattern), std::regex::ECMAScript};
    return true;
  } catch (const std::regex_error &) {
    return false;
  }
}

bool starts_with(std::string_view text, std::string_view prefix) {
  return text.size() >= prefix.size() && text.substr(0, prefix.size()) == prefix;
}

bool ends_with(std::string_view text, std::string_view suffix) {
  return text.size() >= suffix.size() && text.substr(text.size() - suffix.size()) == suffix;
}

// Whether `text` ends with `form`, where 9 stands for a digit and else a character for itself.
bool ends_with_form(std::string_view text, std::string_view form) {
  if (text.size() <= form.size()) {
    return false;
  }
  const std::string_view end = text.substr(text.size() - form.size());
  for (std::size_t i = 0; i < form.size(); ++i) {
    if (form[i] == '9' ? end[i] < '0' || end[i] > '9' : end[i] != form[i]) {
      return false;
    }
  }
  return true;
}

std::unique_ptr<JsonDocument> parse_stored(const std::string &text) {
  if (text.empty()) {
    return nullptr;
  }
  return std::make_unique<JsonDocument>(text, "match");
}

// manual first, then the catalogues by name: genai-prices before litellm.
std::vector<std::string> in_order(std::vector<std::string> sources) {
  std::sort(sources.begin(), sources.end(), [](const std::string &a, const std::string &b) {
    return std::make_pair(a != "manual", a) < std::make_pair(b != "manual", b);
  });
  return sources;
}

}  // namespace

bool is_match_clause(const Json &clause) {
  if (!clause.is(Json::Type::object) || clause.size < 2) {
    return false;
  }
  const Json &value = *(&clause + 1);
  if (1 + value.size != clause.size) {
    return false;  // one key only
  }
  if (value.key == "or" || value.key == "and") {
    if (!value.is(Json::Type::array)) {
      return false;
    }
    for (const Json &item : value.items()) {
      if (!is_match_clause(item)) {
        return false;
      }
    }
    return true;
  }
  if (!value.is(Json::Type::string)) {
    return false;
  }
  return value.key == "equals" || value.key == "starts_with" || value.key == "ends_with" ||
         value.key == "contains" || (value.key == "regex" && is_regex(value.text));
}

bool matches(const Json &clause, const std::string &name) {
  if (!clause.is(Json::Type::object) || clause.size < 2 || name.size() > kMaxName) {
    return false;
  }
  const Json &value = *(&clause + 1);
  if (value.key == "or" || value.key == "and") {
    const bool any = value.key == "or";
    for (const Json &item : value.items()) {
      if (matches(item, name) == any) {
        return any;
      }
    }
    return !any;
  }
  if (value.key == "regex") {
    return regex_found(value.text, name);
  }
  const std::string wanted = lower_trimmed(value.text);
  if (value.key == "equals") {
    return name == wanted;
  }
  if (value.key == "starts_with") {
    return starts_with(name, wanted);
  }
  if (value.key == "ends_with") {
    return ends_with(name, wanted);
  }
  return value.key == "contains" && name.find(wanted) != std::string::npos;
}

std::vector<std::string> model_variants(std::string_view ai_model) {
  std::vector<std::string> out;
  const auto add = [&](std::string name) {
    if (!name.empty() && std::find(out.begin(), out.end(), name) == out.end()) {
      out.push_back(std::move(name));
    }
  };
  const std::string name = lower_trimmed(ai_model);
  add(name);
  const std::size_t slash = name.rfind('/');
  if (slash != std::string::npos) {
    add(name.substr(slash + 1));
  }
  const std::vector<std::string> whole = out;
  for (const std::string &variant : whole) {
    for (const std::string_view form : {"-9999-99-99", "-99999999", "@99999999", "-latest"}) {
      if (ends_with_form(variant, form)) {
        add(variant.substr(0, variant.size() - form.size()));
        break;
      }
    }
  }
  return out;
}

const std::vector<PriceBook::Provider> &PriceBook::providers(const std::string &source) {
  const auto known = providers_.find(source);
  if (known != providers_.end()) {
    return known->second;
  }
  std::vector<Provider> out;
  for (const PriceTables::Provider &row : tables_.providers(source)) {
    Provider provider{row.ai_provider, parse_stored(row.match), {}};
    if (const std::unique_ptr<JsonDocument> fallback = parse_stored(row.fallback)) {
      for (const Json &item : fallback->root().items()) {
        provider.fallback.emplace_back(item.text);
      }
    }
    out.push_back(std::move(provider));
  }
  return providers_.emplace(source, std::move(out)).first->second;
}

const std::vector<PriceBook::Model> &PriceBook::models(const std::string &source,
                                                       const std::string &ai_provider) {
  const auto key = std::make_pair(source, ai_provider);
  const auto known = models_.find(key);
  if (known != models_.end()) {
    return known->second;
  }
  std::vector<Model> out;
  for (const PriceTables::Model &row : tables_.models(source, ai_provider)) {
    out.push_back({row.ai_model, parse_stored(row.match)});
  }
  return models_.emplace(key, std::move(out)).first->second;
}

const PriceBook::Provider *PriceBook::find_provider(const std::string &source,
                                                    std::string_view name) {
  const ProviderName wanted = provider_name(name);
  const std::vector<Provider> &all = providers(source);
  for (const std::string &id : {wanted.name, wanted.id}) {
    const auto at = std::find_if(all.begin(), all.end(), [&](const Provider &provider) {
      return !id.empty() && provider.id == id;
    });
    if (at != all.end()) {
      return &*at;
    }
  }
  const auto at = std::find_if(all.begin(), all.end(), [&](const Provider &provider) {
    return provider.match != nullptr && matches(provider.match->root(), wanted.name);
  });
  return at == all.end() ? nullptr : &*at;
}

PriceBook::Found PriceBook::find_in_catalogue(const std::string &source,
                                              std::string_view ai_provider,
                                              std::string_view ai_model) {
  const Provider *provider = find_provider(source, ai_provider);
  if (provider == nullptr) {
    // A gateway's name for it: openai/gpt-4o.
    const std::size_t slash = ai_model.find('/');
    if (slash == std::string_view::npos) {
      return std::nullopt;
    }
    provider = find_provider(source, ai_model.substr(0, slash));
    if (provider == nullptr) {
      return std::nullopt;
    }
    ai_model.remove_prefix(slash + 1);
  }
  const auto among = [&](const std::string &id, const std::string &name) -> Found {
    for (const Model &model : models(source, id)) {
      if (model.match != nullptr && matches(model.match->root(), name)) {
        return std::make_pair(id, model.id);
      }
    }
    return std::nullopt;
  };
  for (const std::string &name : model_variants(ai_model)) {
    if (Found found = among(provider->id, name)) {
      return found;
    }
    for (const std::string &other : provider->fallback) {
      if (Found found = among(other, name)) {
        return found;
      }
    }
  }
  return std::nullopt;
}

PriceBook::Found PriceBook::find_manual(std::string_view ai_provider, std::string_view ai_model) {
  const ProviderName wanted = provider_name(ai_provider);
  const std::vector<std::pair<std::string, std::string>> all = tables_.manual_models();
  const std::vector<std::string> variants = model_variants(ai_model);
  for (const bool any_provider : {false, true}) {
    const auto of_provider = [&](const std::string &provider) {
      const std::string name = lower_trimmed(provider);
      return any_provider ? name == "*"
                          : name == wanted.name || (!wanted.id.empty() && name == wanted.id);
    };
    for (const std::string &variant : variants) {
      for (const auto &[provider, model] : all) {
        if (of_provider(provider) && lower_trimmed(model) == variant) {
          return std::make_pair(provider, model);
        }
      }
    }
    Found longest;
    for (const auto &[provider, model] : all) {
      const std::string pattern = lower_trimmed(model);
      if (of_provider(provider) && ends_with(pattern, "*") && !variants.empty() &&
          starts_with(variants.front(), std::string_view(pattern).substr(0, pattern.size() - 1)) &&
          (!longest || model.size() > longest->second.size())) {
        longest = std::make_pair(provider, model);
      }
    }
    if (longest) {
      return longest;
    }
  }
  return std::nullopt;
}

const std::vector<std::vector<PriceRow>> &PriceBook::find(std::string_view ai_provider,
                                                          std::string_view ai_model) {
  const auto key = std::make_pair(std::string(ai_provider), std::string(ai_model));
  const auto known = found_.find(key);
  if (known != found_.end()) {
    return known->second;
  }
  if (!sources_) {
    sources_ = in_order(tables_.sources());
  }
  std::vector<std::vector<PriceRow>> out;
  for (const std::string &source : *sources_) {
    const Found found = source == "manual" ? find_manual(ai_provider, ai_model)
                                           : find_in_catalogue(source, ai_provider, ai_model);
    if (found) {
      out.push_back(tables_.rows(source, found->first, found->second));
    }
  }
  return found_.emplace(key, std::move(out)).first->second;
}

std::optional<Decimal> PriceBook::cost(std::string_view ai_provider, std::string_view ai_model,
                                       const Usage &usage, Micros at) {
  return cost_in_order(find(ai_provider, ai_model), usage, at);
}

}  // namespace token_usage
