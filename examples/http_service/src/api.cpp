#include "api.h"

#include <charconv>
#include <cstdint>
#include <limits>

#include "arguments.h"
#include "calendar.h"
#include "json_reader.h"
#include "log.h"
#include "timestamp.h"
#include "utf8.h"

namespace usage_http {

namespace {

using token_usage::Json;

Parameter text(std::string name, std::string argument, const char *fallback = nullptr) {
  return {std::move(name), std::move(argument), Kind::text, fallback, ""};
}

Parameter integer(std::string name, std::string argument, const char *fallback, std::int64_t low,
                  std::int64_t high) {
  return {std::move(name), std::move(argument), Kind::integer, fallback,
          token_usage::rule_range(low, high)};
}

Report report(std::string name, std::string sql, std::vector<Parameter> parameters) {
  Report made{{std::move(name), std::move(sql), {Type::text}, false}, std::move(parameters)};
  for (const Parameter &parameter : made.parameters) {
    if (parameter.kind != Kind::zone) {
      made.statement.types.push_back(parameter.kind == Kind::integer ? Type::integer : Type::text);
    }
  }
  return made;
}

std::map<std::string, Report, std::less<>> make_reports() {
  const Parameter zone = text("time_zone", "time_zone");
  const Parameter agent = text("agent_id", "agent");
  const Parameter period_days = integer("period_days", "period_days", "30", 1, 36'600);
  std::map<std::string, Report, std::less<>> all;
  all["/usage/tokens"] = report("totals", "SELECT token_usage_totals_json($1, $2, $3, $4)",
                                {text("period", "period", "month"), agent, zone});
  all["/usage/tokens/summary"] =
      report("summary", "SELECT token_usage_summary_json($1, $2)", {zone});
  all["/usage/tokens/history"] =
      report("history", "SELECT token_usage_history_json($1, $2, $3, $4)",
             {integer("days", "days", "30", 1, 36'600), agent, zone});
  all["/usage/tokens/by-agent"] =
      report("by_agent", "SELECT token_usage_by_agent_json($1, $2, $3)", {period_days, zone});
  all["/usage/tokens/by-model"] =
      report("by_model", "SELECT token_usage_by_model_json($1, $2, $3)", {period_days, zone});
  all["/usage/tokens/detailed"] =
      report("detailed", "SELECT token_usage_detailed_json($1, $2, $3, $4, $5, $6, $7)",
             {integer("limit", "page_limit", "100", 1, 500),
              integer("offset", "page_offset", "0", 0, std::numeric_limits<std::int64_t>::max()),
              agent, Parameter{"start_date", "start_date", Kind::instant, nullptr, ""},
              Parameter{"end_date", "end_date", Kind::instant, nullptr, ""}, text("after", "after"),
              Parameter{"time_zone", "time_zone", Kind::zone, nullptr, ""}});
  return all;
}

const Statement record_statement{"record", "SELECT token_usage_record($1)", {Type::json}, true};
const Statement health_statement{"health", "SELECT token_usage_setting($1)", {Type::text}, false};

// Text that both databases can hold: SQLite would take bytes that are no UTF-8, and PostgreSQL
// would see the end of the text in a NUL.
bool well_formed(std::string_view value) {
  while (!value.empty()) {
    const std::size_t length = token_usage::utf8_sequence(value);
    if (length == 0 || value.front() == '\0') {
      return false;
    }
    value.remove_prefix(length);
  }
  return true;
}

// The range is the database's to check; what is no integer at all would be an error of its type
// there and is told in the contract's words here.
void check_integer(const Parameter &parameter, const std::string &value) {
  std::int64_t number = 0;
  const char *const end = value.data() + value.size();
  const auto [stop, error] = std::from_chars(value.data(), end, number);
  if (error != std::errc() || stop != end) {
    token_usage::bad_argument(parameter.argument, parameter.rule, value);
  }
}

// A time as text; one that says no zone is in `zone`. What cannot be read is left for the database
// to refuse.
std::string in_zone(const std::string &value, const token_usage::TimeZone &zone) {
  const auto local = token_usage::parse_timestamp_argument(value);
  const bool date_alone = value.size() == 10;
  if (!local || !(date_alone || token_usage::parse_timestamp(value + "Z"))) {
    return value;
  }
  return token_usage::format_timestamp(zone.instant_of(*local));
}

const Parameter *find_parameter(const Report &report, std::string_view name) {
  for (const Parameter &parameter : report.parameters) {
    if (parameter.name == name) {
      return &parameter;
    }
  }
  return nullptr;
}

// The values of the statement, in its order. Throws token_usage::Error and HttpError.
Values read_query(const Report &report, const std::string &user, const Query &query) {
  std::map<std::string, std::string, std::less<>> given;
  for (const auto &[name, value] : query) {
    const Parameter *const parameter = find_parameter(report, name);
    if (parameter == nullptr) {
      throw HttpError(400, "token_usage: unknown parameter " + token_usage::printable(name, 200));
    }
    if (!well_formed(value)) {
      token_usage::bad_argument(parameter->argument, "UTF-8 text without NUL", value);
    }
    // A form sends the fields that were left empty.
    if (!value.empty() && !given.emplace(name, value).second) {
      token_usage::bad_argument(parameter->argument, "given once", "it twice");
    }
  }
  std::optional<token_usage::TimeZone> zone;
  const Parameter *const zone_parameter = find_parameter(report, "time_zone");
  if (zone_parameter->kind == Kind::zone && given.contains("time_zone")) {
    zone = token_usage::TimeZone::load(given["time_zone"]);
  }
  Values values{user};
  for (const Parameter &parameter : report.parameters) {
    if (parameter.kind == Kind::zone) {
      continue;
    }
    const auto found = given.find(parameter.name);
    std::optional<std::string> value;
    if (found != given.end()) {
      value = found->second;
    } else if (parameter.fallback != nullptr) {
      value = parameter.fallback;
    }
    if (value && parameter.kind == Kind::integer) {
      check_integer(parameter, *value);
    }
    if (value && parameter.kind == Kind::instant && zone) {
      value = in_zone(*value, *zone);
    }
    values.push_back(std::move(value));
  }
  return values;
}

[[noreturn]] void throw_http(const DatabaseError &error, std::string_view statement) {
  switch (error.failure()) {
    case Failure::argument:
      // The user is the token's: nothing that the caller may give would mend it.
      throw HttpError(
          std::string_view(error.what()).starts_with("token_usage: user_id ") ? 403 : 400,
          error.what());
    case Failure::refused:
      log_line("refused " + std::string(statement) + ": " + log_text(error.detail()));
      throw HttpError(400, error.what());
    case Failure::conflict:
      throw HttpError(409, error.what());
    case Failure::away:
      log_line("database away, " + std::string(statement) + ": " + log_text(error.detail()));
      throw HttpError(503, error.what(), "Retry-After", "1");
    case Failure::broken:
      break;
  }
  log_line("database error, " + std::string(statement) + ": " + log_text(error.detail()));
  throw HttpError(500, error.what());
}

std::string run(Database &database, const Statement &statement, const Values &values) {
  try {
    return database.run(statement, values);
  } catch (const DatabaseError &error) {
    throw_http(error, statement.name);
  }
}

// The event with the token's user in it. An event may say who its user is, but not that it is
// somebody else.
std::string event_of_user(const std::string &event, const std::string &user) {
  const token_usage::JsonDocument document(event, "event");
  const Json &root = document.root();
  if (!root.is(Json::Type::object)) {
    token_usage::bad_argument("event", "a JSON object", event);
  }
  for (const Json &member : root.items()) {
    if (member.key != "user_id") {
      continue;
    }
    const bool same = member.is(Json::Type::number)
                          ? token_usage::count_from_number(member.text) &&
                                std::to_string(*token_usage::count_from_number(member.text)) == user
                          : member.is(Json::Type::string) && member.text == user;
    if (!same) {
      throw HttpError(403, "the event is of another user than the token");
    }
    return event;
  }
  std::string out = "{\"user_id\": ";
  token_usage::append_json_string(out, user);
  for (const Json &member : root.items()) {
    out += ", ";
    token_usage::append_json_string(out, member.key);
    out += ": ";
    token_usage::append_json_text(out, member);
  }
  return out + "}";
}

}  // namespace

const std::map<std::string, Report, std::less<>> &reports() {
  static const std::map<std::string, Report, std::less<>> all = make_reports();
  return all;
}

Answer answer_report(Database &database, const Report &report, const std::string &user,
                     const Query &query) {
  try {
    Answer answer;
    answer.body = run(database, report.statement, read_query(report, user, query));
    return answer;
  } catch (const token_usage::Error &error) {
    throw HttpError(400, error.what());
  }
}

Answer answer_record(Database &database, const std::string &user, const std::string &event) {
  try {
    if (!well_formed(event)) {
      token_usage::bad_argument("event", "UTF-8 text without NUL", event);
    }
    Answer answer;
    answer.body = run(database, record_statement, {event_of_user(event, user)});
    const token_usage::JsonDocument document(answer.body, "result");
    const Json *const created = document.root().find("created");
    answer.status = created != nullptr && created->is_true() ? 201 : 200;
    return answer;
  } catch (const token_usage::Error &error) {
    throw HttpError(400, error.what());
  }
}

Answer answer_health(Database &database) {
  const std::string zone = run(database, health_statement, {"time_zone"});
  Answer answer;
  answer.body = R"({"success": true, "database": )";
  token_usage::append_json_string(answer.body, database.kind());
  answer.body += R"(, "time_zone": )";
  token_usage::append_json_string(answer.body, zone);
  answer.body += '}';
  return answer;
}

}  // namespace usage_http
