// What the functions of few_reports.cpp and few_page.cpp share: what they are called with, the rows
// that they return, and how they hand a call on.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <string_view>

#include "few_rows.h"
#include "guard.h"

namespace token_usage {

// Calls `body`, which uses core/ and no PostgreSQL function; false where it threw.
template <typename Body>
bool attempt(Body body) noexcept {
  try {
    body();
    return true;
  } catch (...) {
    return false;
  }
}

// Room for so many. The server's memory is aligned for 8 bytes, which 128-bit sums are not.
template <typename Object>
Object *few_room(int count) {
  const std::size_t size = sizeof(Object) * static_cast<std::size_t>(count);
  std::size_t room = size + alignof(Object);
  void *memory = palloc(room);
  return static_cast<Object *>(std::align(alignof(Object), size, memory, room));
}

// The arguments `path` and `user_id`, which are the first of every report; false where one is not
// given or there is no ledger.
bool open_scope(FunctionCallInfo fcinfo, FewQuestion *question);

// The rows of a report, which are made as they go and belong to nobody until finish().
class FewResult {
 public:
  explicit FewResult(FunctionCallInfo fcinfo)
      : info_(reinterpret_cast<ReturnSetInfo *>(fcinfo->resultinfo)) {}

  // Whether the caller takes a set of rows.
  [[nodiscard]] bool is_wanted() const {
    return info_ != nullptr && IsA(info_, ReturnSetInfo) &&
           (info_->allowedModes & SFRM_Materialize) != 0 && info_->expectedDesc != nullptr &&
           info_->expectedDesc->natts <= kMostCells;
  }

  void cell(Datum value) {
    nulls_[at_] = false;
    cells_[at_++] = value;
  }
  void null_cell() {
    nulls_[at_] = true;
    cells_[at_++] = 0;
  }
  void text_cell(const FewText &value) {
    if (value.value == nullptr) {
      null_cell();
    } else {
      cell(PointerGetDatum(value.value));
    }
  }

  // The columns of the contract's measures, and the mean where it stands behind them; false where a
  // sum is past 64 bits.
  bool measure_cells(const Measures &m, bool mean);

  void end_row() {
    open();
    if (at_ != columns_->natts) {
      elog(ERROR, "token_usage: a report has other columns than its function");
    }
    tuplestore_putvalues(store_, columns_, cells_, nulls_);
    at_ = 0;
  }

  void finish() {
    open();
    info_->returnMode = SFRM_Materialize;
    info_->setResult = store_;
    info_->setDesc = columns_;
  }
  // Where another function is to answer.
  void discard() {
    if (store_ != nullptr) {
      tuplestore_end(store_);
    }
  }

 private:
  void open() {
    if (store_ == nullptr) {
      MemoryContext const outer = MemoryContextSwitchTo(info_->econtext->ecxt_per_query_memory);
      columns_ = CreateTupleDescCopy(info_->expectedDesc);
      store_ = tuplestore_begin_heap((info_->allowedModes & SFRM_Materialize_Random) != 0, false,
                                     work_mem);
      MemoryContextSwitchTo(outer);
    }
  }

  static constexpr int kMostCells = 19;

  ReturnSetInfo *info_;
  TupleDesc columns_ = nullptr;
  Tuplestorestate *store_ = nullptr;
  Datum cells_[kMostCells] = {};
  bool nulls_[kMostCells] = {};
  int at_ = 0;
};

// Makes a report by `make`, or hands the call on: to the function of the same arguments whose name
// has _any behind it.
Datum few_report(FunctionCallInfo fcinfo, bool (*make)(FunctionCallInfo, FewResult *));
Datum hand_on(FunctionCallInfo fcinfo);

}  // namespace token_usage
