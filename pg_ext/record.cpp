// Reading events, PostgreSQL native edition: _token_usage_read_events checks one event or a batch
// by core and returns a row for each, ready to be priced and inserted by the statement in
// record.sql, which both editions share.
#include "event.h"

#include "owned.h"

#include "json_text.h"

namespace token_usage {
namespace {

struct ReadEvent {
  std::string argument;
  Event event;
  StatedCost cost;
};
using Events = std::vector<ReadEvent>;

constexpr int kColumns = 23;
constexpr std::int64_t kUnixOfPostgresEpoch = 946'684'800'000'000;

ReadEvent read_one(const Json &json, std::string argument) {
  ReadEvent out;
  out.event = read_event(json, argument);
  out.cost = stated_cost(out.event);
  out.argument = std::move(argument);
  return out;
}

Events *read_all(const char *text, bool batch) {
  auto out = std::make_unique<Events>();
  const JsonDocument document(text, batch ? "events" : "event");
  if (!batch) {
    out->push_back(read_one(document.root(), "event"));
    return out.release();
  }
  if (!document.root().is(Json::Type::array)) {
    bad_argument("events", "an array", json_text(document.root()));
  }
  std::size_t index = 0;
  for (const Json &event : document.root().items()) {
    out->push_back(read_one(event, "events[" + std::to_string(index++) + "]"));
  }
  return out.release();
}

Datum counts_datum(const Usage &usage) {
  Datum values[count_kinds];
  bool nulls[count_kinds];
  for (std::size_t i = 0; i < count_kinds; ++i) {
    nulls[i] = !usage.counts[i].has_value();
    values[i] = nulls[i] ? Datum{0} : Int64GetDatum(*usage.counts[i]);
  }
  int size[] = {static_cast<int>(count_kinds)};
  int first[] = {1};
  return PointerGetDatum(construct_md_array(values, nulls, 1, size, first, INT8OID, sizeof(int64),
                                            FLOAT8PASSBYVAL, 'd'));
}

Datum warnings_datum(const std::vector<std::string> &warnings) {
  const auto size = static_cast<int>(warnings.size());
  auto *const values = static_cast<Datum *>(palloc(sizeof(Datum) * (warnings.size() + 1)));
  for (int i = 0; i < size; ++i) {
    values[i] = text_datum(warnings[static_cast<std::size_t>(i)]);
  }
  return PointerGetDatum(construct_array(values, size, TEXTOID, -1, false, 'i'));
}

// The digits of a cost in plain memory: what the contract's rule 4 keeps of a provider's cost, the
// event's own as it is.
struct Digits {
  char text[64];
};

Datum cost_datum(const std::optional<std::string> &stated, const std::optional<Decimal> &cost) {
  if (stated) {
    return numeric_datum(*stated);
  }
  const std::optional<Decimal> *const value = &cost;
  const Digits digits = guarded([=] {
    Digits out = {};
    (*value)->to_string().copy(out.text, sizeof out.text - 1);
    return out;
  });
  return DirectFunctionCall3(numeric_in, CStringGetDatum(digits.text), ObjectIdGetDatum(InvalidOid),
                             Int32GetDatum(-1));
}

// Fills one row. Everything it reads belongs to an Owned, so that an error loses nothing.
void fill_row(const ReadEvent &read, int place, Datum *values, bool *nulls) {
  const Event &event = read.event;
  int at = 0;
  const auto put = [&](Datum value) {
    nulls[at] = false;
    values[at++] = value;
  };
  const auto put_null = [&] { nulls[at++] = true; };
  const auto put_json = [&](const std::optional<std::string> &json) {
    json ? put(jsonb_datum(*json)) : put_null();
  };
  put(Int32GetDatum(place));
  put(text_datum(read.argument));
  put(text_datum(event.user_id));
  put(text_datum(event.agent_id));
  put(text_datum(event.ai_provider));
  put(text_datum(event.ai_model));
  put(counts_datum(event.usage));
  for (const std::optional<std::string> &text : event.texts) {
    text ? put(text_datum(*text)) : put_null();
  }
  event.execution_time_ms ? put(Int64GetDatum(*event.execution_time_ms)) : put_null();
  put_json(event.request_metadata);
  put_json(event.response_metadata);
  event.created_at ? put(TimestampTzGetDatum(*event.created_at - kUnixOfPostgresEpoch))
                   : put_null();
  read.cost.usd ? put(cost_datum(event.cost_usd, read.cost.usd)) : put_null();
  read.cost.rub ? put(cost_datum(event.cost_rub, read.cost.rub)) : put_null();
  if (read.cost.source.empty()) {
    put_null();
  } else {
    put(PointerGetDatum(cstring_to_text_with_len(read.cost.source.data(),
                                                 static_cast<int>(read.cost.source.size()))));
  }
  put(BoolGetDatum(read.cost.ask_book));
  put(warnings_datum(event.usage.warnings));
}

}  // namespace

extern "C" {

// _token_usage_read_events(events jsonb, batch boolean) returns a set of rows; record.sql names its
// columns.
PG_FUNCTION_INFO_V1(token_usage_read_events);
PGDLLEXPORT Datum token_usage_read_events(PG_FUNCTION_ARGS) {
  auto *const result = reinterpret_cast<ReturnSetInfo *>(fcinfo->resultinfo);
  if (result == nullptr || !IsA(result, ReturnSetInfo) ||
      (result->allowedModes & SFRM_Materialize) == 0) {
    ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                    errmsg("_token_usage_read_events is called where no set of rows is accepted")));
  }
  const char *const text = json_utf8(PG_GETARG_JSONB_P(0));
  const bool batch = PG_GETARG_BOOL(1);

  MemoryContext const outer = MemoryContextSwitchTo(result->econtext->ecxt_per_query_memory);
  TupleDesc row = nullptr;
  if (get_call_result_type(fcinfo, nullptr, &row) != TYPEFUNC_COMPOSITE || row->natts != kColumns) {
    elog(ERROR, "token_usage: _token_usage_read_events has other columns than expected");
  }
  row = CreateTupleDescCopy(row);
  Tuplestorestate *const store =
      tuplestore_begin_heap((result->allowedModes & SFRM_Materialize_Random) != 0, false, work_mem);
  MemoryContextSwitchTo(outer);

  auto *const slot = Owned<Events>::create();
  const Events *const events = slot->fill([=] { return read_all(text, batch); });
  MemoryContext const per_row =
      AllocSetContextCreate(CurrentMemoryContext, "token_usage event", ALLOCSET_DEFAULT_SIZES);
  for (std::size_t i = 0; i < events->size(); ++i) {
    Datum values[kColumns] = {};
    bool nulls[kColumns] = {};
    MemoryContextSwitchTo(per_row);
    fill_row((*events)[i], static_cast<int>(i), values, nulls);
    tuplestore_putvalues(store, row, values, nulls);
    MemoryContextSwitchTo(outer);
    MemoryContextReset(per_row);
    CHECK_FOR_INTERRUPTS();
  }
  slot->clear();
  result->returnMode = SFRM_Materialize;
  result->setResult = store;
  result->setDesc = row;
  PG_RETURN_NULL();
}

}  // extern "C"

}  // namespace token_usage
