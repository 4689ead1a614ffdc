// An aggregate's state as a bytea with a plain struct in it: a real type, so that it travels
// between parallel workers without serialisation functions and distributed planners may ship
// partial results. Inside an aggregate it is changed in place.
//
// A state is a value like any other: SQL can call the transition functions directly, with any
// bytes. So each use checks size and mark, and copies unless it is an aggregate that calls.
#pragma once

#include <cstring>
#include <type_traits>

#include "server.h"

namespace token_usage {

template <typename Content>
class AggregateState {
  static_assert(std::is_trivially_copyable_v<Content>);

  // varlena header, then what the content is; the content itself is not aligned for __int128.
  struct Layout {
    std::int32_t varlena_header;
    std::uint32_t mark;
    char content[sizeof(Content)];
  };
  static constexpr std::uint32_t kMark = 0x54550100U + sizeof(Content) % 256;  // "TU", version 1

 public:
  // The content of argument `index`, a new one where it is NULL.
  static Content read(FunctionCallInfo fcinfo, int index) {
    Content content{};
    if (!fcinfo->args[index].isnull) {
      std::memcpy(static_cast<void *>(&content), checked(fcinfo->args[index].value)->content,
                  sizeof content);
    }
    return content;
  }

  // The state to return for `content`: argument `index` itself where an aggregate calls, else a new
  // bytea.
  static Datum write(FunctionCallInfo fcinfo, int index, const Content &content) {
    Layout *state = nullptr;
    if (!fcinfo->args[index].isnull && AggCheckCallContext(fcinfo, nullptr) != 0) {
      state = checked(fcinfo->args[index].value);
    } else {
      // The executor copies a new state into the aggregate's own memory.
      state = static_cast<Layout *>(palloc(sizeof(Layout)));
      SET_VARSIZE(state, sizeof(Layout));
      state->mark = kMark;
    }
    std::memcpy(state->content, static_cast<const void *>(&content), sizeof content);
    return PointerGetDatum(state);
  }

 private:
  static Layout *checked(Datum value) {
    auto *const state = reinterpret_cast<Layout *>(PG_DETOAST_DATUM(value));
    if (VARSIZE(state) != sizeof(Layout) || state->mark != kMark) {
      ereport(ERROR, (errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
                      errmsg("token_usage: not a state of this aggregate")));
    }
    return state;
  }
};

}  // namespace token_usage
