// The state of an aggregate. SQLite's aggregate context is aligned to 8 bytes, too little for a
// 128-bit integer, so it holds a pointer to the state.
#pragma once

#include "sqlite.h"

namespace token_usage {

// The state of the running aggregate, made on first use.
template <typename State>
State &accumulator(sqlite3_context *context) {
  auto *const slot = static_cast<State **>(sqlite3_aggregate_context(context, sizeof(State *)));
  if (slot == nullptr) {
    throw std::bad_alloc();
  }
  if (*slot == nullptr) {
    *slot = new State();
  }
  return **slot;
}

// The state, or a null pointer where no row has come.
template <typename State>
State *existing_accumulator(sqlite3_context *context) {
  auto *const slot = static_cast<State **>(sqlite3_aggregate_context(context, 0));
  return slot == nullptr ? nullptr : *slot;
}

template <typename State>
void free_accumulator(sqlite3_context *context) noexcept {
  auto *const slot = static_cast<State **>(sqlite3_aggregate_context(context, 0));
  if (slot != nullptr) {
    delete *slot;
    *slot = nullptr;
  }
}

}  // namespace token_usage
