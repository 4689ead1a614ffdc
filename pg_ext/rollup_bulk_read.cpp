// How rollup_bulk.cpp reads the ledger: through a portal, whose rows come here as the executor
// makes them, in the snapshot of the statement that calls us.
#include <cstdint>
#include <cstring>

#include "rollup_bulk_work.h"
#include "rollup_row.h"

namespace token_usage {

namespace {

// Writes the rows of a partition that are in memory to its file.
void spill(Work *work, std::uint32_t partition) {
  RollupBulk *const bulk = work->bulk;
  if (work->files[partition] == nullptr) {
    // We may be inside the portal that reads the ledger, whose own ends with it.
    MemoryContext const context = MemoryContextSwitchTo(work->context);
    ResourceOwner const owner = CurrentResourceOwner;
    CurrentResourceOwner = work->owner;
    work->files[partition] = BufFileCreateTemp(false);
    CurrentResourceOwner = owner;
    MemoryContextSwitchTo(context);
  }
  for (std::size_t i = 0; i < bulk->chunks(partition); ++i) {
    const RollupBulk::Rows rows = bulk->chunk(partition, i);
    static_cast<void>(
        BufFileWrite(work->files[partition], rows.data, rows.size * sizeof *rows.data));
    work->filed[partition] += rows.size;
  }
  guarded([=] { bulk->forget(partition); });
}

void spill_all(Work *work) {
  for (std::uint32_t partition = 0; partition < RollupBulk::kPartitions; ++partition) {
    if (work->bulk->chunks(partition) > 0) {
      spill(work, partition);
    }
  }
}

// Where the executor puts the ledger's rows.
struct Receiver {
  DestReceiver base;  // the server wants it first
  Work *work;
};

void start(DestReceiver *self, int, TupleDesc columns) {
  check_types(columns, reinterpret_cast<Receiver *>(self)->work->user_type, kRowTypes, "the rows");
}

bool receive(TupleTableSlot *slot, DestReceiver *self) {
  Work *const work = reinterpret_cast<Receiver *>(self)->work;
  slot_getallattrs(slot);
  if (slot->tts_isnull[0] || slot->tts_isnull[1]) {
    return true;  // nobody's, or of no time
  }
  LedgerRow ledger_row;
  BulkRow &row = ledger_row.row;
  Detoasted user;
  std::int64_t number = 0;
  switch (work->user_type) {
    case INT8OID:
      number = DatumGetInt64(slot->tts_values[0]);
      row.user = {reinterpret_cast<const char *>(&number), sizeof number};
      break;
    case UUIDOID:
      row.user = {DatumGetPointer(slot->tts_values[0]), UUID_LEN};
      break;
    default:
      row.user = user.open(slot->tts_values[0], false);
  }
  ledger_row.open(slot->tts_values + 1, slot->tts_isnull + 1);
  RollupBulk *const bulk = work->bulk;
  const auto add = [bulk, &row] { return bulk->add(row); };
  RollupBulk::Added added = guarded(add);
  if (added == RollupBulk::Added::full) {
    spill_all(work);
    added = guarded(add);
  }
  if (added != RollupBulk::Added::taken) {
    too_much();
  }
  ledger_row.close();
  user.close();
  return true;
}

}  // namespace

void read_ledger(Work *work) {
  Receiver receiver = {destination(start, receive), work};
  Oid types[] = {TIMESTAMPTZOID};
  Datum values[] = {work->until};
  Portal const portal =
      SPI_cursor_open_with_args(nullptr, work->sql[kRows], 1, types, values, nullptr, true, 0);
  if (portal == nullptr) {
    elog(ERROR, "token_usage: %s", SPI_result_code_string(SPI_result));
  }
  PortalRunFetch(portal, FETCH_FORWARD, FETCH_ALL, &receiver.base);
  SPI_cursor_close(portal);
}

}  // namespace token_usage
