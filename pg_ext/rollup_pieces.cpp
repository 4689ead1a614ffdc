// Cuts the range of a report into the coarsest rollups that no bound of it cuts, and the rest,
// which is read from the ledger. A bucket is a UTC month, day, hour or (where the report has no
// groups, for zones of :30) half-hour. A bucket that sealed_until cuts holds what lies before it,
// so it may serve a piece that ends there.
#include "rollup_pieces.h"

#include <algorithm>

namespace token_usage {

namespace {

constexpr int64 kDay = USECS_PER_DAY;
constexpr int64 kHour = USECS_PER_HOUR;
constexpr int64 kHalfHour = USECS_PER_HOUR / 2;

int64 floor_to(int64 at, int64 unit) {
  const int64 rest = at % unit;
  return rest < 0 ? at - rest - unit : at - rest;
}

TimestampTz next_month(TimestampTz month) {
  int year = 0;
  int number = 0;
  int day = 0;
  j2date(static_cast<int>(month / kDay - (month % kDay < 0 ? 1 : 0)) + POSTGRES_EPOCH_JDATE, &year,
         &number, &day);
  const int next = number == 12 ? date2j(year + 1, 1, 1) : date2j(year, number + 1, 1);
  return (next - POSTGRES_EPOCH_JDATE) * kDay;
}

// What serves from `pos` on, and up to where, within one rolled month. `stop` is the end of the
// stretch of the report or sealed_until, whichever comes first.
int within_month(TimestampTz pos, TimestampTz month, TimestampTz month_end, int flags,
                 TimestampTz sealed, bool groups, TimestampTz *stop) {
  if ((flags & (groups ? 2 : 1)) != 0 && pos == month && (*stop >= month_end || *stop == sealed)) {
    *stop = std::min(month_end, *stop);
    return 3;
  }
  *stop = std::min(month_end, *stop);
  const bool days = (flags & (groups ? 8 : 4)) != 0;
  if (days && pos == floor_to(pos, kDay) && (*stop == sealed || floor_to(*stop, kDay) > pos)) {
    *stop = *stop == sealed ? *stop : floor_to(*stop, kDay);
    return 2;
  }
  if (days) {
    *stop = std::min(*stop, floor_to(pos, kDay) + kDay);
  }
  if ((flags & (groups ? 32 : 16)) != 0) {
    const int64 unit = groups ? kHour : kHalfHour;
    if (pos == floor_to(pos, unit) && (*stop == sealed || floor_to(*stop, unit) > pos)) {
      *stop = *stop == sealed ? *stop : floor_to(*stop, unit);
      return 1;
    }
    *stop = std::min(*stop, floor_to(pos, unit) + unit);
  }
  return 0;
}

}  // namespace

int rollup_pieces(const TimestampTz *bounds, int count, TimestampTz sealed_until,
                  const RolledMonths &months, bool groups, Piece **result) {
  const TimestampTz last = bounds[count - 1];
  int room = 16;
  int used = 0;
  auto *pieces = static_cast<Piece *>(palloc(static_cast<Size>(room) * sizeof(Piece)));
  int bound = 1;
  int at_month = 0;
  TimestampTz month_end = months.count > 0 ? next_month(months.starts[0]) : 0;
  TimestampTz pos = bounds[0];
  while (pos < last) {
    while (bounds[bound] <= pos) {
      ++bound;
    }
    while (at_month < months.count && month_end <= pos) {
      ++at_month;
      month_end = at_month < months.count ? next_month(months.starts[at_month]) : 0;
    }
    int tier = 0;
    TimestampTz stop = last;
    if (at_month < months.count && pos < sealed_until) {
      const TimestampTz month = months.starts[at_month];
      if (pos < month) {
        stop = std::min(month, last);
      } else {
        // What lies before sealed_until is the whole of its bucket.
        stop = std::min(bounds[bound], sealed_until);
        tier = within_month(pos, month, month_end, months.flags[at_month], sealed_until, groups,
                            &stop);
      }
    }
    if (used > 0 && pieces[used - 1].tier == tier) {
      pieces[used - 1].hi = stop;
    } else {
      if (used == room) {
        room *= 2;
        pieces = static_cast<Piece *>(repalloc(pieces, static_cast<Size>(room) * sizeof(Piece)));
      }
      pieces[used++] = Piece{tier, pos, stop};
    }
    pos = stop;
  }
  *result = pieces;
  return used;
}

}  // namespace token_usage
