#include "json.h"

#include <stdexcept>

// A misuse of the writer must not abort the host.
#define RAPIDJSON_ASSERT(condition)                       \
  do {                                                    \
    if (!(condition)) {                                   \
      throw std::logic_error("token_usage: JSON writer"); \
    }                                                     \
  } while (false)
#define RAPIDJSON_NOEXCEPT_ASSERT(condition) static_cast<void>(condition)
#include <rapidjson/stringbuffer.h>
#include <rapidjson/writer.h>

#include <cstdlib>
#include <cstring>
#include <new>

#include "utf8.h"

namespace token_usage {

namespace {

// RapidJSON's own allocators do not look at what malloc returns.
class Allocator {
 public:
  [[maybe_unused]] static constexpr bool kNeedFree = true;
  [[maybe_unused]] static constexpr bool kRefCounted = false;
  void *Malloc(std::size_t size) {
    if (size == 0) {
      return nullptr;
    }
    return ::operator new(size);
  }
  void *Realloc(void *old, std::size_t old_size, std::size_t new_size) {
    if (new_size == 0) {
      ::operator delete(old);
      return nullptr;
    }
    void *const out = ::operator new(new_size);
    if (old != nullptr) {
      std::memcpy(out, old, old_size < new_size ? old_size : new_size);
      ::operator delete(old);
    }
    return out;
  }
  static void Free(void *block) { ::operator delete(block); }
  bool operator==(const Allocator &) const { return true; }
  bool operator!=(const Allocator &) const { return false; }
};

using Buffer = rapidjson::GenericStringBuffer<rapidjson::UTF8<>, Allocator>;
using Writer = rapidjson::Writer<Buffer, rapidjson::UTF8<>, rapidjson::UTF8<>, Allocator>;

std::string valid_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = utf8_sequence(text.substr(at));
    if (length == 0) {
      out += kReplacement;
      ++at;
    } else {
      out.append(text, at, length);
      at += length;
    }
  }
  return out;
}

bool is_valid_utf8(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = utf8_sequence(text.substr(at));
    if (length == 0) {
      return false;
    }
    at += length;
  }
  return true;
}

}  // namespace

struct JsonWriter::State {
  Allocator allocator;
  Buffer buffer{&allocator};
  Writer writer{buffer, &allocator};
};

JsonWriter::JsonWriter() : state_(new State) {}
JsonWriter::~JsonWriter() {
  delete state_;
}

JsonWriter &JsonWriter::begin_object() {
  state_->writer.StartObject();
  return *this;
}

JsonWriter &JsonWriter::end_object() {
  state_->writer.EndObject();
  return *this;
}

JsonWriter &JsonWriter::begin_array() {
  state_->writer.StartArray();
  return *this;
}

JsonWriter &JsonWriter::end_array() {
  state_->writer.EndArray();
  return *this;
}

JsonWriter &JsonWriter::key(std::string_view name) {
  state_->writer.Key(name.data(), static_cast<rapidjson::SizeType>(name.size()));
  return *this;
}

JsonWriter &JsonWriter::null() {
  state_->writer.Null();
  return *this;
}

JsonWriter &JsonWriter::boolean(bool value) {
  state_->writer.Bool(value);
  return *this;
}

JsonWriter &JsonWriter::integer(std::int64_t value) {
  state_->writer.Int64(value);
  return *this;
}

JsonWriter &JsonWriter::decimal(Decimal value) {
  const std::string digits = value.to_string();
  state_->writer.RawValue(digits.data(), digits.size(), rapidjson::kNumberType);
  return *this;
}

JsonWriter &JsonWriter::text(std::string_view value) {
  if (is_valid_utf8(value)) {
    state_->writer.String(value.data(), static_cast<rapidjson::SizeType>(value.size()));
  } else {
    const std::string clean = valid_utf8(value);
    state_->writer.String(clean.data(), static_cast<rapidjson::SizeType>(clean.size()));
  }
  return *this;
}

JsonWriter &JsonWriter::integer(std::optional<std::int64_t> value) {
  return value ? integer(*value) : null();
}

JsonWriter &JsonWriter::decimal(std::optional<Decimal> value) {
  return value ? decimal(*value) : null();
}

JsonWriter &JsonWriter::text(std::optional<std::string_view> value) {
  return value ? text(*value) : null();
}

JsonWriter &JsonWriter::measures(const Measures &value) {
  key("total_tokens").integer(token_sum(value.total_tokens, "total_tokens"));
  key("prompt_tokens").integer(token_sum(value.prompt_tokens, "prompt_tokens"));
  key("completion_tokens").integer(token_sum(value.completion_tokens, "completion_tokens"));
  key("cost_usd").decimal(value.cost_usd);
  key("cost_rub").decimal(value.cost_rub);
  key("requests_count").integer(value.requests_count);
  return key("unpriced_count").integer(value.unpriced_count);
}

std::string JsonWriter::str() const {
  return {state_->buffer.GetString(), state_->buffer.GetSize()};
}

}  // namespace token_usage
