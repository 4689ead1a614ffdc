#include "shared_reads.h"

namespace usage_http {

namespace {

// Statement and values as one text, which no other statement and values give: each with its length.
std::string key_of(const Statement &statement, const Values &values) {
  std::string key = statement.name;
  for (const auto &value : values) {
    key += '|';
    if (value) {
      key.append(std::to_string(value->size())).append(":").append(*value);
    }
  }
  return key;
}

}  // namespace

std::string SharedReads::result(const Group &group) {
  if (group.error) {
    std::rethrow_exception(group.error);
  }
  return group.body;
}

std::string SharedReads::run(const Statement &statement, const Values &values) {
  if (statement.writes) {
    return database_->run(statement, values);
  }
  const std::string key = key_of(statement, values);
  const auto group = std::make_shared<Group>();
  std::unique_lock lock(mutex_);
  Question &question = questions_[key];
  if (question.gathering != nullptr) {
    const std::shared_ptr<Group> joined = question.gathering;
    joined->ended.wait(lock, [&] { return joined->done; });
    return result(*joined);
  }
  // The question is forgotten only where nobody asks or gathers, so the reference holds.
  question.gathering = group;
  while (const std::shared_ptr<Group> before = question.asked) {
    before->ended.wait(lock, [&] { return before->done; });
  }
  question.asked = std::move(question.gathering);
  lock.unlock();
  try {
    group->body = database_->run(statement, values);
  } catch (...) {
    group->error = std::current_exception();
  }
  lock.lock();
  group->done = true;
  question.asked = nullptr;
  if (question.gathering == nullptr) {
    questions_.erase(key);
  }
  group->ended.notify_all();
  lock.unlock();
  return result(*group);
}

}  // namespace usage_http
