// What few_rows.h tells.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "guard.h"
#include "money.h"
#include "plain_table.h"
#include "user_scan.h"

extern "C" {
#include <access/tableam.h>
#include <executor/executor.h>
#include <storage/bufmgr.h>
#include <utils/snapmgr.h>
}

namespace token_usage {

namespace {

// To read more rows than these takes as long as to read what is rolled of them.
constexpr int kMostRows = 1000;

// A row of the ledger, as the layout tells its columns.
class Reader {
 public:
  Reader(const FewLayout &layout, TupleTableSlot *slot) : layout_(layout), slot_(slot) {}

  [[nodiscard]] TimestampTz at() const {
    bool null = false;
    return DatumGetTimestampTz(slot_getattr(slot_, layout_.columns[kCreated], &null));
  }

  // What only a page shows; read() comes before.
  void read_others(FewRow *row) const {
    for (int i = 0; i < kFewOthers; ++i) {
      bool null = false;
      Datum const value = slot_getattr(slot_, layout_.others[i], &null);
      if (i == kId) {
        row->id = null ? 0 : integer_of(layout_.id_type, value);
      } else {
        row->others[i] = text_of(value, null);
      }
    }
  }

  // False where a value needs the server's own arithmetic.
  bool read(FewRow *row) const {
    slot_getsomeattrs(slot_, layout_.last);
    row->at = DatumGetTimestampTz(value(kCreated));
    row->agent = text_of(kAgent);
    row->provider = text_of(kProvider);
    row->model = text_of(kModel);
    Request &request = row->request;
    request.prompt_tokens = count_of(kPrompt);
    request.completion_tokens = count_of(kCompletion);
    request.total_tokens = count_of(kTotal);
    if (null(kTotal) && __builtin_add_overflow(request.prompt_tokens, request.completion_tokens,
                                               &request.total_tokens)) {
      return false;
    }
    return decimal_of(kUsd, &request.cost_usd) && decimal_of(kRub, &request.cost_rub) &&
           decimal_of(kExecution, &request.execution_time_ms);
  }

 private:
  [[nodiscard]] bool null(FewColumn column) const {
    return slot_->tts_isnull[layout_.columns[column] - 1];
  }
  [[nodiscard]] Datum value(FewColumn column) const {
    return slot_->tts_values[layout_.columns[column] - 1];
  }
  [[nodiscard]] std::int64_t count_of(FewColumn column) const {
    return null(column) ? 0 : integer_of(layout_.types[column], value(column));
  }
  [[nodiscard]] static FewText text_of(Datum value, bool null) {
    return {null ? nullptr : DatumGetTextPP(value)};
  }
  [[nodiscard]] FewText text_of(FewColumn column) const {
    return text_of(value(column), null(column));
  }
  bool decimal_of(FewColumn column, std::optional<Decimal> *out) const {
    *out = std::nullopt;
    return null(column) || small_decimal(value(column), layout_.types[column], out);
  }

  const FewLayout &layout_;
  TupleTableSlot *slot_;
};

// Goes through the rows of a scan.
class Walk {
 public:
  Walk(IndexScanDesc scan, TupleTableSlot *slot, const FewLayout &layout,
       const FewQuestion &question)
      : scan_(scan),
        slot_(slot),
        reader_(layout, slot),
        kind_(question.kind),
        from_(question.from),
        until_(question.until),
        direction_(layout.newest || question.kind != FewKind::page ? ForwardScanDirection
                                                                   : BackwardScanDirection) {}

  // The first rows are read at once. How many more there are is guessed from how close they lie,
  // and then told by the index alone, in a tenth of the time; what is dead counts too there.
  FewTaken first(TakeFewRow take, void *context) {
    TimestampTz start = 0;
    for (int rows = 0; kind_ == FewKind::page || rows < kFirst; ++rows) {
      const FewTaken taken = next(take, context);
      if (taken != FewTaken::more) {
        return taken;
      }
      start = rows == 0 ? reader_.at() : start;
    }
    if (are_close(start, reader_.at())) {
      return FewTaken::give_up;
    }
    for (int rows = kFirst; rows <= kMostRows; ++rows) {
      if (index_getnext_tid(scan_, direction_) == nullptr) {
        return FewTaken::more;
      }
    }
    return FewTaken::give_up;
  }
  // Those behind them, from the start of the scan on.
  FewTaken rest(TakeFewRow take, void *context) {
    for (int rows = 0; rows < kFirst; ++rows) {
      index_getnext_slot(scan_, direction_, slot_);
    }
    FewTaken taken = FewTaken::more;
    while (taken == FewTaken::more) {
      taken = next(take, context);
    }
    return taken;
  }
  // All of them, if they are no more than that.
  FewTaken all(int *most, TakeFewRow take, void *context) {
    FewTaken taken = FewTaken::more;
    for (; taken == FewTaken::more && *most >= 0; --*most) {
      taken = next(take, context);
    }
    ++*most;  // the end of the scan is no row
    return taken == FewTaken::more ? FewTaken::give_up : taken;
  }

 private:
  static constexpr int kFirst = 12;

  // Whether, if all rows lay as close as the first ones, there were by far too many. A stretch
  // without a start is taken for a year.
  [[nodiscard]] bool are_close(TimestampTz first, TimestampTz last) const {
    constexpr double year = 365.0 * USECS_PER_DAY;
    const double stretch = TIMESTAMP_NOT_FINITE(from_) || TIMESTAMP_NOT_FINITE(until_)
                               ? year
                               : static_cast<double>(until_) - static_cast<double>(from_);
    const double span = std::abs(static_cast<double>(first) - static_cast<double>(last));
    return stretch * kFirst > span * 2 * kMostRows;
  }

  FewTaken next(TakeFewRow take, void *context) {
    CHECK_FOR_INTERRUPTS();
    if (!index_getnext_slot(scan_, direction_, slot_)) {
      return FewTaken::enough;
    }
    FewRow row;
    if (kind_ != FewKind::count && !reader_.read(&row)) {
      return FewTaken::give_up;
    }
    if (kind_ == FewKind::page) {
      reader_.read_others(&row);
    }
    return take(context, row);
  }

  IndexScanDesc scan_;
  TupleTableSlot *slot_;
  Reader reader_;
  FewKind kind_;
  TimestampTz from_;
  TimestampTz until_;
  ScanDirection direction_;
};

// Calls `read` with a walk through the rows.
template <typename Read>
bool scan_rows(Relation ledger, const FewLayout &layout, const FewQuestion &question, Read read) {
  UserScan scan;
  if (!open_user_scan(ledger, layout, question.user, question.from, question.until, &scan)) {
    return false;
  }
  Walk walk(scan.scan, scan.slot, layout, question);
  const FewTaken taken = read(&walk, &scan);
  close_user_scan(&scan);
  return taken == FewTaken::enough;
}

template <typename Read>
bool open_rows(const FewQuestion &question, Read read) {
  if (!is_open(question.ledger)) {
    return false;
  }
  Relation const ledger = relation_open(question.ledger, AccessShareLock);
  FewLayout layout;
  const bool good = find_user_layout(ledger, &layout) &&
                    (layout.pages || question.kind != FewKind::page) &&
                    scan_rows(ledger, layout, question, read);
  relation_close(ledger, NoLock);
  return good;
}

}  // namespace

bool read_few_rows(const FewQuestion &question, TakeFewRow take, void *context) {
  return open_rows(question, [=](Walk *walk, UserScan *scan) {
    FewTaken taken = walk->first(take, context);
    if (taken == FewTaken::more) {
      rewind_user_scan(scan);
      taken = walk->rest(take, context);
    }
    return taken;
  });
}

bool read_rows(const FewQuestion &question, int *most, TakeFewRow take, void *context) {
  return open_rows(question,
                   [=](Walk *walk, UserScan *) { return walk->all(most, take, context); });
}

std::optional<std::string_view> few_time_zone(Oid ledger) {
  constexpr char name[] = "token_usage_settings";
  Oid const schema = get_rel_namespace(ledger);
  Oid const settings = get_relname_relid(name, schema);
  if (!OidIsValid(settings)) {
    return std::string_view();
  }
  if (!is_open(settings) || !is_plain_table(settings, name, schema)) {
    return std::nullopt;
  }
  Relation const table = relation_open(settings, NoLock);
  std::optional<std::string_view> out;
  const AttrNumber key = attribute(RelationGetDescr(table), "name");
  const AttrNumber value = attribute(RelationGetDescr(table), "value");
  if (table->rd_rel->relhassubclass || key == InvalidAttrNumber || value == InvalidAttrNumber ||
      TupleDescAttr(RelationGetDescr(table), key - 1)->atttypid != TEXTOID ||
      TupleDescAttr(RelationGetDescr(table), value - 1)->atttypid != TEXTOID) {
    relation_close(table, NoLock);
    return out;
  }
  out = std::string_view();
  // Usually there is nothing at all.
  if (RelationGetNumberOfBlocks(table) > 0) {
    TupleTableSlot *const slot = table_slot_create(table, nullptr);
    TableScanDesc const scan = table_beginscan(table, GetActiveSnapshot(), 0, nullptr);
    while (table_scan_getnextslot(scan, ForwardScanDirection, slot)) {
      bool null = false;
      Datum const found = slot_getattr(slot, key, &null);
      if (!null && std::strcmp(TextDatumGetCString(found), "time_zone") == 0) {
        Datum const zone = slot_getattr(slot, value, &null);
        out = null ? std::string_view() : std::string_view(TextDatumGetCString(zone));
      }
    }
    table_endscan(scan);
    ExecDropSingleTupleTableSlot(slot);
  }
  relation_close(table, NoLock);
  return out;
}

}  // namespace token_usage
