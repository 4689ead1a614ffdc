"""A second definition of the reports, in Python over plain rows: parses what the ledger stores, adds decimals,
and cuts days with the standard library's zone data. It shares no code with the library under test."""
import bisect
import datetime
import functools
import re
from decimal import ROUND_HALF_EVEN, Decimal
from zoneinfo import ZoneInfo

UTC = datetime.timezone.utc
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=UTC)
PLACES = Decimal(1).scaleb(-12)
TEXT = re.compile(r"(\d{4})-(\d\d)-(\d\d)[ T](\d\d):(\d\d)(?::(\d\d)(?:\.(\d+))?)?(?: ?(Z)| ?([+-])(\d\d):(\d\d))?",
                  re.ASCII)


@functools.lru_cache(maxsize=None)
def micros(value):
    """Unix microseconds of a stored created_at, or None where it is unreadable."""
    if isinstance(value, int):
        out = value * 1000 if value >= 10**11 else value * 10**6
    elif isinstance(value, float):
        out = int((Decimal(repr(value)) * 10**6).to_integral_value(rounding="ROUND_FLOOR"))
    elif isinstance(value, str):
        found = TEXT.fullmatch(value)
        if not found:
            return None
        year, month, day, hour, minute, second, fraction, _, sign, off_hour, off_minute = found.groups()
        try:
            stamp = datetime.datetime(int(year), int(month), int(day), int(hour), int(minute), int(second or 0),
                                      tzinfo=UTC)
        except ValueError:
            return None
        out = (stamp - EPOCH) // datetime.timedelta(microseconds=1) + int(((fraction or "") + "000000")[:6])
        if sign:
            if int(off_hour) > 23 or int(off_minute) > 59:
                return None
            offset = (int(off_hour) * 3600 + int(off_minute) * 60) * 10**6
            out += offset if sign == "-" else -offset
    else:
        return None
    return out


@functools.lru_cache(maxsize=None)
def money(value):
    """A stored cost as a count of 10^-12, or None where it is no number."""
    if value is None:
        return None
    number = Decimal("%.14e" % value) if isinstance(value, float) else Decimal(value)
    return int(number.quantize(PLACES, rounding=ROUND_HALF_EVEN).scaleb(12))


def shown_time(at):
    moment = EPOCH + datetime.timedelta(microseconds=at)
    return moment.strftime("%Y-%m-%dT%H:%M:%S") + (f".{at % 10**6:06}" if at % 10**6 else "") + "Z"


class Sums:
    """The measures of a report, as it shows them."""

    def __init__(self):
        self.count = self.prompt = self.completion = self.total = self.usd = self.rub = self.unpriced = 0
        self.ms = self.timed = 0

    def add(self, row):
        _, _, _, _, prompt, completion, total, usd, rub, ms, *_ = row
        self.count += 1
        self.prompt += prompt
        self.completion += completion
        self.total += total
        units = money(usd)
        self.usd += units or 0
        self.unpriced += units is None
        self.rub += money(rub) or 0
        if ms is not None:
            self.ms += ms
            self.timed += 1

    def shown(self):
        return (self.count, self.prompt, self.completion, self.total, float(Decimal(self.usd).scaleb(-12)),
                float(Decimal(self.rub).scaleb(-12)), self.unpriced)

    def average(self):
        return (2 * self.ms + self.timed) // (2 * self.timed) if self.timed else None


class Ledger:
    """The rows of one user, and the reports over them."""

    COLUMNS = ("created_at, agent_id, ai_provider, ai_model, prompt_tokens, completion_tokens, total_tokens,"
               " cost_usd, cost_rub, execution_time_ms, request_id, id")

    def __init__(self, db, user, schema="main"):
        self.rows = []
        for row in db.execute(f"SELECT {self.COLUMNS} FROM {schema}.token_usage WHERE user_id = ?", (user,)):
            at = micros(row[0])
            if at is not None:
                self.rows.append((at, row))
        self.rows.sort(key=lambda pair: pair[0])
        self.times = [at for at, _ in self.rows]

    @staticmethod
    @functools.lru_cache(maxsize=None)
    def midnight(zone, day):
        start = datetime.datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone))
        return (start - EPOCH) // datetime.timedelta(microseconds=1)

    @staticmethod
    def day_of(zone, as_of):
        return (EPOCH + datetime.timedelta(microseconds=as_of)).astimezone(ZoneInfo(zone)).date()

    def between(self, low, high, agent=None):
        first = 0 if low is None else bisect.bisect_left(self.times, low)
        return [row for _, row in self.rows[first:bisect.bisect_left(self.times, high)]
                if agent is None or row[1] == agent]

    def total(self, low, high, agent=None):
        out = Sums()
        for row in self.between(low, high, agent):
            out.add(row)
        return out

    def groups(self, low, high, columns, agent=None):
        out = {}
        for row in self.between(low, high, agent):
            out.setdefault(tuple(row[c] for c in columns), Sums()).add(row)
        return out

    def summary(self, zone, as_of):
        last = self.day_of(zone, as_of)
        end = self.midnight(zone, last + datetime.timedelta(1))
        return [(name,) + self.total(low, end).shown() for name, low in
                (("today", self.midnight(zone, last)), ("this_month", self.midnight(zone, last.replace(day=1))),
                 ("all_time", None))]

    def history(self, days, agent, zone, as_of):
        last = self.day_of(zone, as_of)
        out = []
        for back in range(days - 1, -1, -1):
            day = last - datetime.timedelta(back)
            sums = self.total(self.midnight(zone, day), self.midnight(zone, day + datetime.timedelta(1)), agent)
            out.append((day.isoformat(),) + sums.shown())
        return out

    def by(self, columns, days, zone, as_of):
        last = self.day_of(zone, as_of)
        found = self.groups(self.midnight(zone, last - datetime.timedelta(days - 1)),
                            self.midnight(zone, last + datetime.timedelta(1)), columns)
        if columns == (1,):
            order = lambda item: (-item[1].total, item[0][0].encode())
        else:
            order = lambda item: (-item[1].rub, -item[1].usd, -item[1].total, [key.encode() for key in item[0]])
        return [key + sums.shown() + (sums.average(),) for key, sums in sorted(found.items(), key=order)]

    def totals(self, period, agent, zone, as_of):
        last = self.day_of(zone, as_of)
        first = {"day": last, "week": last - datetime.timedelta(last.weekday()), "month": last.replace(day=1),
                 "year": last.replace(month=1, day=1), "all": None}[period]
        sums = self.total(first and self.midnight(zone, first),
                          self.midnight(zone, last + datetime.timedelta(1)), agent)
        return [(period,) + sums.shown() + (sums.average(),)]

    def chosen(self, agent, start, end):
        return [(at, row) for at, row in self.rows if (start is None or at >= start) and (end is None or at <= end)
                and (agent is None or row[1] == agent)]

    def count(self, agent, start, end):
        return len(self.chosen(agent, start, end))

    def page(self, limit, offset, agent, start, end):
        """Of each row: id, created_at, agent to cost_rub, execution_time_ms, request_id."""
        listed = sorted(self.chosen(agent, start, end), key=lambda pair: (-pair[0], -pair[1][-1]))
        return [(row[-1], shown_time(at)) + row[1:7] + tuple(
            None if money(cost) is None else float(Decimal(money(cost)).scaleb(-12)) for cost in row[7:9]) + row[9:11]
            for at, row in listed[offset:offset + limit]]
