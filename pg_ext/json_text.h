// jsonb as the UTF-8 text that core reads, and back. These call the server: no C++ object with a
// destructor may be alive around them, except inside an Owned.
#pragma once

#include <string>
#include <string_view>

#include "server.h"

extern "C" {
#include <mb/pg_wchar.h>
#include <utils/array.h>
#include <utils/jsonb.h>
#include <utils/timestamp.h>
}

namespace token_usage {

// A text in the server's encoding as UTF-8, palloc'd or the same pointer.
inline char *utf8_of(char *text) {
  return pg_server_to_any(text, static_cast<int>(strlen(text)), PG_UTF8);
}

inline char *json_utf8(Jsonb *value) {
  return utf8_of(JsonbToCString(nullptr, &value->root, static_cast<int>(VARSIZE(value))));
}

// UTF-8 without NUL as a C string in the server's encoding.
inline char *server_text(const std::string &text) {
  return pg_any_to_server(pstrdup(text.c_str()), static_cast<int>(text.size()), PG_UTF8);
}

inline Datum text_datum(const std::string &text) {
  return CStringGetTextDatum(server_text(text));
}

inline Datum jsonb_datum(const std::string &text) {
  return DirectFunctionCall1(jsonb_in, CStringGetDatum(server_text(text)));
}

inline Datum numeric_datum(const std::string &text) {
  return DirectFunctionCall3(numeric_in, CStringGetDatum(text.c_str()),
                             ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
}

}  // namespace token_usage
