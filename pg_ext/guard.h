// The boundary between C++ and PostgreSQL. An exception that leaves a function called by the server
// aborts the whole server, and an ereport that jumps over a C++ object leaks it or worse. So core/
// is called inside guarded(), which calls no PostgreSQL function, and everything around it holds
// plain structs and palloc'd memory only. Carries the SQLSTATEs of rule 9 of the contract.
#pragma once

#include <algorithm>
#include <cstring>
#include <exception>
#include <new>
#include <string_view>
#include <type_traits>

#include "arguments.h"
#include "server.h"

namespace token_usage {

// What an exception said, in plain memory that a jump may leave behind.
struct Failure {
  int sqlstate = 0;
  char message[1536] = "";

  void set(int state, std::string_view text) noexcept {
    sqlstate = state;
    std::size_t size = std::min(text.size(), sizeof message - 1);
    // Not in the middle of a character.
    while (size < text.size() && size > 0 &&
           (static_cast<unsigned char>(text[size]) & 0xC0U) == 0x80U) {
      --size;
    }
    std::memcpy(message, text.data(), size);
    message[size] = '\0';
  }
};

inline int sqlstate_of(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::argument:
      return ERRCODE_INVALID_PARAMETER_VALUE;
    case ErrorKind::missing_ledger:
      return ERRCODE_UNDEFINED_TABLE;
    case ErrorKind::overflow:
      return ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE;
    case ErrorKind::adoption:
      return ERRCODE_DATATYPE_MISMATCH;
    case ErrorKind::conflict:
      return ERRCODE_UNIQUE_VIOLATION;
  }
  return ERRCODE_INTERNAL_ERROR;
}

// Runs `body`, which uses core/ and no PostgreSQL function, and returns its result, a plain value.
// An exception becomes an ereport once the catch block, and with it the exception object, is gone.
template <typename Body>
auto guarded(Body &&body) -> decltype(body()) {
  using Result = decltype(body());
  static_assert(std::is_void_v<Result> || std::is_trivially_destructible_v<Result>,
                "a result that owns memory would be lost in an ereport");
  static_assert(std::is_trivially_destructible_v<std::remove_reference_t<Body>>);
  Failure failure;
  try {
    return body();
  } catch (const Error &error) {
    failure.set(sqlstate_of(error.kind()), error.what());
  } catch (const std::bad_alloc &) {
    failure.set(ERRCODE_OUT_OF_MEMORY, "out of memory");
  } catch (const std::exception &error) {
    failure.set(ERRCODE_INTERNAL_ERROR, error.what());
  } catch (...) {
    failure.set(ERRCODE_INTERNAL_ERROR, "token_usage: unknown exception");
  }
  ereport(ERROR, (errcode(failure.sqlstate), errmsg_internal("%s", failure.message)));
  pg_unreachable();
}

}  // namespace token_usage
