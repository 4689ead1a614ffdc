// A bounded pool of connections. The one used last is handed out first, so that a quiet service
// holds warm connections and a dead one is met early. A connection is opened where none is idle and
// the bound allows it; who finds neither waits, but not for ever.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "database.h"

namespace usage_http {

// Connection needs usable(), asked before it is handed out, and healthy(), asked when it comes
// back.
template <typename Connection>
class Pool {
 public:
  using Open = std::function<std::unique_ptr<Connection>()>;

  Pool(std::size_t most, std::chrono::milliseconds wait, Open open)
      : most_(most), wait_(wait), open_(std::move(open)) {}
  Pool(const Pool &) = delete;
  Pool &operator=(const Pool &) = delete;

  // A connection on loan; given back, or closed where it is no longer usable.
  class Loan {
   public:
    Loan(Pool &pool, std::unique_ptr<Connection> connection)
        : pool_(pool), connection_(std::move(connection)) {}
    Loan(const Loan &) = delete;
    Loan &operator=(const Loan &) = delete;
    ~Loan() { pool_.take_back(std::move(connection_)); }
    Connection *operator->() const { return connection_.get(); }

   private:
    Pool &pool_;
    std::unique_ptr<Connection> connection_;
  };

  // Throws DatabaseError where all are in use for too long, and what opening one throws.
  Loan borrow() {
    const auto deadline = std::chrono::steady_clock::now() + wait_;
    while (std::unique_ptr<Connection> idle = idle_or_place(deadline)) {
      if (idle->usable()) {
        return Loan(*this, std::move(idle));
      }
      idle.reset();
      give_place_back();
    }
    try {
      return Loan(*this, open_());
    } catch (...) {
      give_place_back();
      throw;
    }
  }

 private:
  // An idle connection, or null: there is a place to open one.
  std::unique_ptr<Connection> idle_or_place(std::chrono::steady_clock::time_point deadline) {
    std::unique_lock lock(mutex_);
    if (!free_.wait_until(lock, deadline, [&] { return !idle_.empty() || taken_ < most_; })) {
      throw DatabaseError(Failure::away, message_busy, "no connection became free in time");
    }
    if (idle_.empty()) {
      ++taken_;
      return nullptr;
    }
    std::unique_ptr<Connection> connection = std::move(idle_.back());
    idle_.pop_back();
    return connection;
  }

  void give_place_back() {
    const std::scoped_lock lock(mutex_);
    --taken_;
    free_.notify_one();
  }

  void take_back(std::unique_ptr<Connection> connection) {
    if (!connection->healthy()) {
      connection.reset();
      give_place_back();
      return;
    }
    const std::scoped_lock lock(mutex_);
    idle_.push_back(std::move(connection));
    free_.notify_one();
  }

  const std::size_t most_;
  const std::chrono::milliseconds wait_;
  const Open open_;
  std::mutex mutex_;
  std::condition_variable free_;
  std::vector<std::unique_ptr<Connection>> idle_;
  std::size_t taken_ = 0;  // open or being opened, idle ones included
};

}  // namespace usage_http
