// The same question at the same time is asked once. A request that comes while its like is being
// answered waits for that to end and is then answered together with all that have come meanwhile,
// by one statement that begins after the last of them came: so each sees whatever was committed
// before it was sent, as it would alone. A customer's page in ten tabs, or a client that retries,
// costs the database one statement at a time.
#pragma once

#include <condition_variable>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "database.h"

namespace usage_http {

class SharedReads : public Database {
 public:
  explicit SharedReads(std::unique_ptr<Database> database) : database_(std::move(database)) {}

  std::string run(const Statement &statement, const Values &values) override;

  [[nodiscard]] std::string_view kind() const override { return database_->kind(); }

 private:
  // Requests that get one answer.
  struct Group {
    bool done = false;
    std::string body;
    std::exception_ptr error;
    std::condition_variable ended;
  };
  struct Question {
    std::shared_ptr<Group> asked;      // the statement runs; too late to join
    std::shared_ptr<Group> gathering;  // waits for `asked` to end
  };

  static std::string result(const Group &group);

  const std::unique_ptr<Database> database_;
  std::mutex mutex_;
  std::map<std::string, Question, std::less<>> questions_;
};

}  // namespace usage_http
