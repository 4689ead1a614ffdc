// The usage normaliser, PostgreSQL native edition: _token_usage_normalise and _token_usage_provider
// by core's interpreter of the same rules that from_response_portable.sql reads.
#include "json_reader.h"
#include "usage.h"

#include "owned.h"

#include "json_text.h"

namespace token_usage {
namespace {

struct Normalised {
  std::string usage;
  std::string raw;
};

HeapTuple form_row(FunctionCallInfo fcinfo, Datum *values, bool *nulls) {
  TupleDesc row = nullptr;
  if (get_call_result_type(fcinfo, nullptr, &row) != TYPEFUNC_COMPOSITE) {
    elog(ERROR, "token_usage: the function returns no row type");
  }
  return heap_form_tuple(BlessTupleDesc(row), values, nulls);
}

}  // namespace

extern "C" {

// _token_usage_normalise(ai_provider text, response jsonb, argument text, OUT usage jsonb, OUT raw
// jsonb)
PG_FUNCTION_INFO_V1(token_usage_normalise);
PGDLLEXPORT Datum token_usage_normalise(PG_FUNCTION_ARGS) {
  const char *const provider = utf8_of(text_to_cstring(PG_GETARG_TEXT_PP(0)));
  const char *const response = json_utf8(PG_GETARG_JSONB_P(1));
  const char *const argument = utf8_of(text_to_cstring(PG_GETARG_TEXT_PP(2)));
  auto *const slot = Owned<Normalised>::create();
  const Normalised *const out = slot->fill([=]() -> Normalised * {
    auto made = std::make_unique<Normalised>();
    const JsonDocument document(response, argument);
    made->usage =
        usage_to_json(usage_from_response(provider, document.root(), argument, &made->raw));
    return made.release();
  });
  Datum values[] = {jsonb_datum(out->usage), jsonb_datum(out->raw)};
  bool nulls[] = {false, false};
  slot->clear();
  PG_RETURN_DATUM(HeapTupleGetDatum(form_row(fcinfo, values, nulls)));
}

// _token_usage_provider(ai_provider text, OUT name text, OUT flavour text, OUT id text)
PG_FUNCTION_INFO_V1(token_usage_provider);
PGDLLEXPORT Datum token_usage_provider(PG_FUNCTION_ARGS) {
  const char *const provider = utf8_of(text_to_cstring(PG_GETARG_TEXT_PP(0)));
  auto *const slot = Owned<ProviderName>::create();
  const ProviderName *const out =
      slot->fill([=] { return new ProviderName(provider_name(provider)); });
  bool nulls[] = {false, out->flavour.empty(), false};
  Datum values[] = {text_datum(out->name), nulls[1] ? Datum{0} : text_datum(out->flavour),
                    text_datum(out->id)};
  slot->clear();
  PG_RETURN_DATUM(HeapTupleGetDatum(form_row(fcinfo, values, nulls)));
}

}  // extern "C"

}  // namespace token_usage
