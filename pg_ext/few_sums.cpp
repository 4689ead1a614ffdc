// What few_sums.h tells.
#include <algorithm>
#include <cstring>

#include "few_call.h"
#include "few_sums.h"

namespace token_usage {

namespace {

FewText copy_of(const FewText &value) {
  if (value.value == nullptr) {
    return value;
  }
  const Size size = VARSIZE_ANY(value.value);
  return {static_cast<text *>(std::memcpy(palloc(size), value.value, size))};
}

constexpr FewText kNoText = {nullptr};

// The line of a row, which may be a new one.
Measures *line_of(FewSums *sums, int bucket, const FewText &key1, const FewText &key2) {
  FewLine *const found = find_few_line(*sums, bucket, key1, key2);
  if (found != nullptr) {
    return &found->measures;
  }
  if (sums->count == sums->room) {
    const int room = sums->room == 0 ? 16 : 2 * sums->room;
    FewLine *const lines = few_room<FewLine>(room);
    std::copy_n(sums->lines, sums->count, lines);
    sums->lines = lines;
    sums->room = room;
  }
  FewLine &line = sums->lines[sums->count++];
  line = {bucket, copy_of(key1), copy_of(key2), {}};
  return &line.measures;
}

}  // namespace

FewLine *find_few_line(const FewSums &sums, int bucket, const FewText &key1, const FewText &key2) {
  for (int i = sums.count - 1; i >= 0; --i) {
    FewLine &line = sums.lines[i];
    if (line.bucket == bucket && line.key1 == key1 && line.key2 == key2) {
      return &line;
    }
  }
  return nullptr;
}

FewTaken add_few_row(void *context, const FewRow &row) {
  auto *const sums = static_cast<FewSums *>(context);
  if (sums->agent != nullptr && row.agent != FewText{sums->agent}) {
    return FewTaken::more;
  }
  const TimestampTz *const behind =
      std::upper_bound(sums->bounds, sums->bounds + sums->buckets, row.at);
  FewText key1 = kNoText;
  FewText key2 = kNoText;
  if (sums->group == FewGroup::agent) {
    key1 = row.agent;
  } else if (sums->group != FewGroup::none) {
    key1 = row.provider;
    key2 = sums->group == FewGroup::model ? row.model : kNoText;
  }
  Measures *const measures = line_of(sums, static_cast<int>(behind - sums->bounds), key1, key2);
  return attempt([measures, &row] { measures->add(row.request); }) ? FewTaken::more
                                                                   : FewTaken::give_up;
}

}  // namespace token_usage
