// See event.h.
#include "event.h"

#include <algorithm>
#include <limits>

#include "arguments.h"

namespace token_usage {
namespace {

constexpr int128 kLowest = std::numeric_limits<std::int64_t>::min();
constexpr int128 kHighest = std::numeric_limits<std::int64_t>::max();

std::string_view count_key(Count kind) {
  return count_keys[static_cast<std::size_t>(kind)];
}

// One event while it is read: its values by key, and how errors name them.
class Reader {
 public:
  Reader(const Json &json, std::string_view argument) : json_(json), argument_(argument) {
    if (!json.is(Json::Type::object)) {
      bad_argument(argument, "an object", json_text(json));
    }
  }

  [[nodiscard]] std::string path(std::string_view key) const {
    return argument_ + "." + std::string(key);
  }
  [[nodiscard]] const Json *find(std::string_view key) const { return json_.find(key); }

  [[noreturn]] void missing(std::string_view key) const {
    bad_argument(path(key), "given", "NULL");
  }
  [[noreturn]] void wrong(std::string_view key, std::string_view rule, const Json &value) const {
    bad_argument(path(key), rule, json_text(value));
  }

  void check_keys() const {
    static constexpr std::array<std::string_view, 15> others = {
        "user_id",    "agent_id",          "ai_provider",      "ai_model",          "prompt_tokens",
        "response",   "completion_tokens", "total_tokens",     "cost_usd",          "cost_rub",
        "created_at", "execution_time_ms", "request_metadata", "response_metadata", ""};
    for (const Json &item : json_.items()) {
      const bool known =
          (!item.key.empty() &&
           std::find(others.begin(), others.end(), item.key) != others.end()) ||
          std::find(text_columns.begin(), text_columns.end(), item.key) != text_columns.end() ||
          std::any_of(class_columns.begin(), class_columns.end(),
                      [&](Count kind) { return count_key(kind) == item.key; });
      if (!known) {
        wrong(item.key, "a known key", item);
      }
    }
  }

  [[nodiscard]] std::string required_text(std::string_view key) const {
    const Json *value = find(key);
    if (value == nullptr) {
      missing(key);
    }
    return checked_text(key, *value, true);
  }

  [[nodiscard]] std::optional<std::string> optional_text(std::string_view key,
                                                         bool may_be_empty) const {
    const Json *value = find(key);
    if (value == nullptr) {
      return std::nullopt;
    }
    return checked_text(key, *value, !may_be_empty);
  }

  [[nodiscard]] std::int64_t count(std::string_view key) const {
    const Json *value = find(key);
    if (value == nullptr) {
      missing(key);
    }
    return require_count(*value, path(key));
  }

  [[nodiscard]] std::optional<std::int64_t> optional_count(std::string_view key) const {
    return find(key) == nullptr ? std::nullopt : std::optional(count(key));
  }

  [[nodiscard]] std::optional<std::string> optional_number(std::string_view key) const {
    const Json *value = find(key);
    if (value == nullptr) {
      return std::nullopt;
    }
    if (!value->is(Json::Type::number) || !Decimal::from_text(value->text)) {
      wrong(key, "a number", *value);
    }
    return std::string(value->text);
  }

  [[nodiscard]] std::optional<std::string> optional_json(std::string_view key) const {
    const Json *value = find(key);
    return value == nullptr ? std::nullopt : std::optional(json_text(*value));
  }

 private:
  [[nodiscard]] std::string checked_text(std::string_view key, const Json &value,
                                         bool filled) const {
    if (!value.is(Json::Type::string) || (filled && value.text.empty()) ||
        value.text.find('\0') != std::string_view::npos) {
      wrong(key, filled ? "non-empty text" : "text", value);
    }
    return std::string(value.text);
  }

  const Json &json_;
  std::string argument_;
};

void read_user(const Reader &reader, Event &event) {
  const Json *user = reader.find("user_id");
  if (user == nullptr) {
    reader.missing("user_id");
  }
  event.user_id_is_number = user->is(Json::Type::number);
  const bool whole = event.user_id_is_number &&
                     scaled_from_text(user->text, 0) >= kLowest &&
                     scaled_from_text(user->text, 0) <= kHighest &&
                     user->text.find_first_not_of("-0123456789") == std::string_view::npos;
  const bool text = user->is(Json::Type::string) && !user->text.empty() &&
                    user->text.find('\0') == std::string_view::npos;
  if (!whole && !text) {
    reader.wrong("user_id", "a whole number or text", *user);
  }
  event.user_id = user->text;
}

void read_counts(const Reader &reader, std::string_view argument, Event &event) {
  event.usage[Count::prompt] = reader.count(count_key(Count::prompt));
  event.usage[Count::completion] = reader.count(count_key(Count::completion));
  const int128 sum =
      static_cast<int128>(event.usage.get(Count::prompt)) + event.usage.get(Count::completion);
  const std::optional<std::int64_t> total = reader.optional_count(count_key(Count::total));
  if (total && *total != sum) {
    bad_argument(reader.path(count_key(Count::total)), "prompt_tokens + completion_tokens",
                 std::to_string(*total));
  }
  event.usage[Count::total] = count_from_number(scaled_to_text(sum, 0));
  if (!event.usage[Count::total]) {
    bad_argument(argument, "counts whose sum is at most 9223372036854775807", "more");
  }
  for (const Count kind : class_columns) {
    event.usage[kind] = reader.optional_count(count_key(kind));
  }
  check_usage(event.usage, argument);
}

void read_response(const Reader &reader, const Json &response, Event &event) {
  for (const Count kind : {Count::prompt, Count::completion}) {
    if (reader.find(count_key(kind)) != nullptr) {
      bad_argument(reader.path("response"), "left out where counts are given", "both");
    }
  }
  const auto refuse = [&](std::string_view key) {
    if (const Json *value = reader.find(key)) {
      reader.wrong(key, "left out where response is given", *value);
    }
  };
  refuse(count_key(Count::total));
  for (const Count kind : class_columns) {
    refuse(count_key(kind));
  }
  std::string raw;
  event.usage = usage_from_response(event.ai_provider, response, reader.path("response"), &raw);
  std::string metadata = "{\"provider_usage\": " + raw;
  if (const Json *own = reader.find("response_metadata")) {
    if (!own->is(Json::Type::object)) {
      reader.wrong("response_metadata", "an object where response is given", *own);
    }
    for (const Json &item : own->items()) {
      if (item.key != "provider_usage") {
        metadata += ", ";
        append_json_string(metadata, item.key);
        metadata += ": ";
        append_json_text(metadata, item);
      }
    }
  }
  event.response_metadata = metadata + "}";
}

std::optional<Micros> read_time(const Reader &reader) {
  const Json *value = reader.find("created_at");
  if (value == nullptr) {
    return std::nullopt;
  }
  std::optional<Micros> time;
  if (value->is(Json::Type::string)) {
    time = parse_timestamp_argument(value->text);
  } else if (value->is(Json::Type::number)) {
    if (const std::optional<std::int64_t> whole = count_from_number(value->text)) {
      time = timestamp_from_integer(*whole);
    } else if (const std::optional<int128> micros = scaled_from_text(value->text, 6)) {
      // Unix seconds with a fraction; times before 1970 are negative.
      if (*micros >= kFirstInstant && *micros < kPastLastInstant) {
        time = static_cast<Micros>(*micros);
      }
    }
  }
  if (!time) {
    reader.wrong("created_at", rule_time, *value);
  }
  return time;
}

}  // namespace

Event read_event(const Json &json, std::string_view argument) {
  const Reader reader(json, argument);
  reader.check_keys();
  Event event;
  read_user(reader, event);
  event.agent_id = reader.required_text("agent_id");
  event.ai_provider = reader.required_text("ai_provider");
  event.ai_model = reader.required_text("ai_model");
  const Json *response = reader.find("response");
  if (response != nullptr) {
    read_response(reader, *response, event);
  } else if (reader.find(count_key(Count::prompt)) == nullptr &&
             reader.find(count_key(Count::completion)) == nullptr) {
    bad_argument(argument, "counts or a response", "neither");
  } else {
    read_counts(reader, argument, event);
    event.response_metadata = reader.optional_json("response_metadata");
  }
  for (std::size_t i = 0; i < text_columns.size(); ++i) {
    const bool is_request = i == static_cast<std::size_t>(TextColumn::request_id);
    event.texts[i] = reader.optional_text(text_columns[i], !is_request);
  }
  event.cost_usd = reader.optional_number("cost_usd");
  event.cost_rub = reader.optional_number("cost_rub");
  event.execution_time_ms = reader.optional_count("execution_time_ms");
  event.request_metadata = reader.optional_json("request_metadata");
  event.created_at = read_time(reader);
  return event;
}

StatedCost stated_cost(const Event &event) {
  StatedCost out;
  if (event.cost_usd) {
    out.usd = Decimal::from_text(*event.cost_usd);
  }
  if (event.cost_rub) {
    out.rub = Decimal::from_text(*event.cost_rub);
  }
  if (!out.usd && event.usage.provider_cost) {
    out.usd = Decimal::from_units(
        rescale_half_even(*event.usage.provider_cost, wide_places, Decimal::places));
    out.source = cost_from_provider;
  }
  out.ask_book = !out.usd && !event.usage.not_tokens;
  if (event.cost_usd || event.cost_rub) {
    out.source = cost_from_event;
  } else if (!out.usd && event.usage.not_tokens) {
    out.source = cost_not_by_tokens;
  }
  return out;
}

std::string record_result(std::string_view id, bool created, std::int64_t prompt,
                          std::int64_t completion, std::int64_t total,
                          std::optional<Decimal> cost_usd, std::optional<Decimal> cost_rub,
                          const std::vector<std::string> &warnings) {
  std::string out = "{\"id\": ";
  out += id;
  out += created ? ", \"created\": true" : ", \"created\": false";
  out += ", \"prompt_tokens\": " + std::to_string(prompt);
  out += ", \"completion_tokens\": " + std::to_string(completion);
  out += ", \"total_tokens\": " + std::to_string(total);
  out += ", \"cost_usd\": " + (cost_usd ? cost_usd->to_string() : "null");
  out += ", \"cost_rub\": " + (cost_rub ? cost_rub->to_string() : "null");
  out += ", \"warnings\": [";
  for (std::size_t i = 0; i < warnings.size(); ++i) {
    out += i > 0 ? ", " : "";
    append_json_string(out, warnings[i]);
  }
  return out + "]}";
}

}  // namespace token_usage
