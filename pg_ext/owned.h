// C++ objects that live as long as a PostgreSQL memory context. An ereport may leave a function at
// any call of the server's, so an object with a destructor must not stand on its stack; here it
// stands on the heap, and the context's reset, which an error brings about too, destroys it.
#pragma once

#include "guard.h"

namespace token_usage {

template <typename Object>
class Owned {
 public:
  // A slot in the current memory context, empty at first.
  static Owned *create() {
    auto *const slot = static_cast<Owned *>(palloc0(sizeof(Owned)));
    slot->callback_.func = [](void *self) { static_cast<Owned *>(self)->clear(); };
    slot->callback_.arg = slot;
    MemoryContextRegisterResetCallback(CurrentMemoryContext, &slot->callback_);
    return slot;
  }

  // Makes the object by `make`, which returns a pointer from new and may throw: its exception
  // becomes an ereport.
  template <typename Make>
  Object *fill(Make make) {
    object_ = guarded(make);
    return object_;
  }

  void clear() noexcept {
    delete object_;
    object_ = nullptr;
  }

 private:
  MemoryContextCallback callback_;
  Object *object_;
};

}  // namespace token_usage
