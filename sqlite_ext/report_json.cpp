// The reports as whole HTTP response bodies (section 3 of the contract, "JSON bodies"). Each takes
// the arguments of its twin, and last, optionally, the schema that holds the ledger.

#include "report_json.h"

#include <limits>

#include "../core/json.h"
#include "arguments.h"
#include "connection.h"
#include "detailed.h"
#include "reports.h"

namespace token_usage {

namespace {

class Arguments {
 public:
  Arguments(sqlite3_context *context, int count, sqlite3_value **values)
      : db(sqlite3_context_db_handle(context)), count_(count), values_(values) {}

  // A null pointer where the argument is not given.
  sqlite3_value *operator[](int i) const { return i < count_ ? values_[i] : nullptr; }

  sqlite3 *db;

 private:
  int count_;
  sqlite3_value **values_;
};

void write_average(JsonWriter &out, const Measures &measures) {
  out.key("avg_execution_time_ms").integer(measures.avg_execution_time_ms().value_or(0));
}

// The totals that several bodies carry beside their lists.
void write_totals(JsonWriter &out, const Measures &sum) {
  out.key("total_tokens").integer(token_sum(sum.total_tokens, "total_tokens"));
  out.key("total_cost_usd").decimal(sum.cost_usd);
  out.key("total_cost_rub").decimal(sum.cost_rub);
  out.key("total_requests").integer(sum.requests_count);
}

Measures sum_of(const std::vector<GroupMeasures> &groups) {
  Measures sum;
  for (const GroupMeasures &group : groups) {
    sum.merge(group.measures);
  }
  return sum;
}

std::string summary_body(const Arguments &in) {
  const Scope scope(in.db, in[0], in[1], in[2], schema_argument(in[3]));
  JsonWriter out;
  out.begin_object().key("success").boolean(true).key("data").begin_object();
  for (const NamedMeasures &line : summary(scope)) {
    out.key(line.name).begin_object().measures(line.measures).end_object();
  }
  return out.end_object().end_object().str();
}

std::string history_body(const Arguments &in) {
  check_user(in[0]);
  const std::int64_t days = integer_argument("days", in[1], 30, 1, 36'600);
  const std::optional<std::string> agent = text_argument(in[2]);
  const Scope scope(in.db, in[0], in[3], in[4], schema_argument(in[5]));
  JsonWriter out;
  out.begin_object().key("success").boolean(true).key("data").begin_array();
  for (const DayMeasures &line : history(scope, days, agent)) {
    out.begin_object().key("date").text(format_date(line.day));
    out.measures(line.measures).end_object();
  }
  out.end_array().key("period").begin_object();
  out.key("days").integer(days).key("agent_id").text(agent);
  return out.end_object().end_object().str();
}

std::string by_agent_body(const Arguments &in) {
  check_user(in[0]);
  const std::int64_t days = integer_argument("period_days", in[1], 30, 1, 36'600);
  const Scope scope(in.db, in[0], in[2], in[3], schema_argument(in[4]));
  const std::vector<GroupMeasures> agents = by_agent(scope, days);
  JsonWriter out;
  out.begin_object().key("success").boolean(true).key("data").begin_object();
  out.key("agents").begin_array();
  for (const GroupMeasures &agent : agents) {
    out.begin_object().key("agent_id").text(agent.keys[0]).measures(agent.measures);
    write_average(out, agent.measures);
    out.end_object();
  }
  out.end_array().key("totals").begin_object();
  write_totals(out, sum_of(agents));
  out.end_object().key("period_days").integer(days);
  return out.end_object().end_object().str();
}

void write_model(JsonWriter &out, const GroupMeasures &model) {
  out.begin_object();
  out.key("ai_provider").text(model.keys[0]).key("ai_model").text(model.keys[1]);
  out.measures(model.measures);
  write_average(out, model.measures);
  out.end_object();
}

std::string by_model_body(const Arguments &in) {
  check_user(in[0]);
  const std::int64_t days = integer_argument("period_days", in[1], 30, 1, 36'600);
  const Scope scope(in.db, in[0], in[2], in[3], schema_argument(in[4]));
  const std::vector<GroupMeasures> models = by_model(scope, days);
  JsonWriter out;
  out.begin_object().key("success").boolean(true).key("data").begin_object();
  out.key("by_model").begin_array();
  for (const GroupMeasures &model : models) {
    write_model(out, model);
  }
  out.end_array().key("by_provider").begin_array();
  for (const GroupMeasures &provider : by_provider(models)) {
    out.begin_object().key("provider").text(provider.keys[0]);
    write_totals(out, provider.measures);
    out.key("models").begin_array();
    for (const GroupMeasures &model : models) {
      if (model.keys[0] == provider.keys[0]) {
        write_model(out, model);
      }
    }
    out.end_array().end_object();
  }
  out.end_array().key("period_days").integer(days);
  return out.end_object().end_object().str();
}

void write_id(JsonWriter &out, const RowId &id) {
  if (id.type == SQLITE_INTEGER) {
    out.integer(id.number);
  } else {
    out.text(id.type == SQLITE_BLOB ? id.cursor_text() : id.bytes);
  }
}

std::string detailed_body(const Arguments &in) {
  check_user(in[0]);
  const std::int64_t limit = integer_argument("page_limit", in[1], 100, 1, 500);
  const std::int64_t offset =
      integer_argument("page_offset", in[2], 0, 0, std::numeric_limits<std::int64_t>::max());
  const DetailedFilter filter{in[0], text_argument(in[3]), time_argument("start_date", in[4]),
                              time_argument("end_date", in[5])};
  const std::optional<Cursor> after = cursor_argument(in[6]);
  const std::string schema = schema_argument(in[7]);
  Snapshot snapshot(in.db, schema);
  const Page page = detailed_page(snapshot.ledger(), filter, limit, offset, after);
  JsonWriter out;
  out.begin_object().key("success").boolean(true).key("data").begin_object();
  out.key("items").begin_array();
  for (const DetailedRow &line : page.rows) {
    out.begin_object().key("id");
    write_id(out, line.id);
    const auto write_text = [&](const char *name, PageText which) {
      out.key(name).text(page.text(line, which));
    };
    write_text("agent_id", PageText::agent_id);
    write_text("ai_provider", PageText::ai_provider);
    write_text("ai_model", PageText::ai_model);
    out.key("total_tokens").integer(line.request.total_tokens);
    out.key("prompt_tokens").integer(line.request.prompt_tokens);
    out.key("completion_tokens").integer(line.request.completion_tokens);
    out.key("cost_usd").decimal(line.request.cost_usd);
    out.key("cost_rub").decimal(line.request.cost_rub);
    out.key("execution_time_ms").decimal(line.request.execution_time_ms);
    out.key("created_at").text(format_timestamp(line.created_at));
    write_text("content_type", PageText::content_type);
    write_text("platform", PageText::platform);
    out.end_object();
  }
  out.end_array();
  out.key("total").integer(detailed_count(snapshot, filter));
  out.key("limit").integer(limit).key("offset").integer(offset);
  out.key("has_more").boolean(page.has_more).key("next_cursor");
  if (page.has_more && !page.rows.empty()) {
    out.text(page.rows.back().cursor());
  } else {
    out.null();
  }
  return out.end_object().end_object().str();
}

std::string totals_body(const Arguments &in) {
  check_user(in[0]);
  const std::string period = period_argument(in[1]);
  const std::optional<std::string> agent = text_argument(in[2]);
  const Scope scope(in.db, in[0], in[3], in[4], schema_argument(in[5]));
  const std::vector<GroupMeasures> agents = totals_by_agent(scope, period, agent);
  const Measures sum = sum_of(agents);
  JsonWriter out;
  out.begin_object().key("period").text(period == "all" ? "all_time" : "current_" + period);
  out.key("total_requests").integer(sum.requests_count);
  out.key("total_tokens").integer(token_sum(sum.total_tokens, "total_tokens"));
  out.key("total_cost_usd").decimal(sum.cost_usd).key("total_cost_rub").decimal(sum.cost_rub);
  out.key("by_agent").begin_array();
  for (const GroupMeasures &group : agents) {
    const Measures &measures = group.measures;
    const std::int64_t tokens = token_sum(measures.total_tokens, "total_tokens");
    out.begin_object();
    out.key("agent_id").text(group.keys[0]).key("agent_name").text(group.keys[0]);
    out.key("requests").integer(measures.requests_count).key("tokens").integer(tokens);
    out.key("cost_usd").decimal(measures.cost_usd).key("cost_rub").decimal(measures.cost_rub);
    out.key("avg_tokens_per_request")
        .integer(rounded_mean(Decimal::from_int(tokens), measures.requests_count));
    out.end_object();
  }
  return out.end_array().end_object().str();
}

struct Body {
  const char *name;
  int most_arguments;
  std::string (*make)(const Arguments &);
};

const Body kBodies[] = {
    {"token_usage_summary_json", 4, summary_body},
    {"token_usage_history_json", 6, history_body},
    {"token_usage_by_agent_json", 5, by_agent_body},
    {"token_usage_by_model_json", 5, by_model_body},
    {"token_usage_detailed_json", 8, detailed_body},
    {"token_usage_totals_json", 6, totals_body},
};

void call(sqlite3_context *context, int count, sqlite3_value **values) {
  guard(context, [&] {
    const auto *const body = static_cast<const Body *>(sqlite3_user_data(context));
    connect_a_table(sqlite3_context_db_handle(context));
    result_json(context, body->make(Arguments(context, count, values)));
  });
}

}  // namespace

int register_report_json(sqlite3 *db) {
  for (const Body &body : kBodies) {
    for (int arguments = 1; arguments <= body.most_arguments; ++arguments) {
      const int code =
          sqlite3_create_function_v2(db, body.name, arguments, SQLITE_UTF8 | kResultSubtype,
                                     const_cast<Body *>(&body), call, nullptr, nullptr, nullptr);
      if (code != SQLITE_OK) {
        return code;
      }
    }
  }
  return SQLITE_OK;
}

}  // namespace token_usage
