"""What the contract says each report must answer, computed the plain way.

Written from the contract alone, with `decimal`, `zoneinfo` and `datetime`; it shares no code and
no method with the product. A ledger is a list of `Row`; each function here filters and adds up all
of it. Money is `Decimal`, instants are microseconds since 1970 (UTC), days are `date`.

Results are lists of tuples of typed cells: `Money`, `At` (an instant), `Day`, or plain int, text
and None. `cells.py` turns them into what each edition must return.
"""
import bisect
import calendar
import datetime as dt
import functools
from collections import namedtuple
from decimal import Decimal, localcontext, ROUND_HALF_EVEN, ROUND_HALF_UP
from zoneinfo import ZoneInfo

Money = namedtuple("Money", "value")
At = namedtuple("At", "microseconds")
Day = namedtuple("Day", "date")

FIELDS = ("id user_id agent_id ai_provider ai_model prompt_tokens completion_tokens total_tokens "
          "cost_usd cost_rub execution_time_ms platform content_type task_type content_id "
          "workflow_id request_id endpoint created_at")


class Row:
    """One request. `created_at` in microseconds; None where it is missing or unreadable."""
    __slots__ = FIELDS.split()

    def __init__(self, **values):
        for name in self.__slots__:
            setattr(self, name, values.get(name))


# -- time -----------------------------------------------------------------------------------------

EPOCH = dt.datetime(1970, 1, 1)
MICROSECOND = dt.timedelta(microseconds=1)
FIRST = (dt.datetime(1, 1, 2) - EPOCH) // MICROSECOND
LAST = (dt.datetime(9999, 12, 31) - EPOCH) // MICROSECOND


def instant(text):
    """Microseconds of `YYYY-MM-DD[ T]HH:MM:SS[.f]` in UTC; a `Z` at the end is allowed."""
    text = text.rstrip("Z").replace("T", " ")
    fmt = "%Y-%m-%d %H:%M:%S" + (".%f" if "." in text else "")
    return (dt.datetime.strptime(text, fmt) - EPOCH) // MICROSECOND


def local(zone, at):
    """The wall clock of `zone` at an instant, in microseconds of a naive calendar."""
    clamped = min(max(at, FIRST), LAST)
    utc = EPOCH + MICROSECOND * clamped
    offset = utc.replace(tzinfo=dt.timezone.utc).astimezone(ZoneInfo(zone)).utcoffset()
    return at + offset // MICROSECOND


@functools.lru_cache(maxsize=200000)
def start_of_day(zone, ordinal):
    """The first instant at which the clock of `zone` shows `ordinal` 00:00 or later."""
    midnight = (ordinal - EPOCH.toordinal()) * 86400 * 10**6
    hour = 3600 * 10**6
    # All instants whose wall clock can be that midnight lie within 27 hours of it; the clock is
    # a straight line between the changes of offset, which are found by halving.
    marks = [midnight + h * hour for h in range(-27, 28, 3)]
    candidates = set()
    for low, high in zip(marks, marks[1:]):
        first, last = local(zone, low) - low, local(zone, high) - high
        candidates.update((midnight - first, midnight - last))
        if first != last:
            a, b = low, high
            while b - a > 1:
                middle = (a + b) // 2
                if local(zone, middle) - middle == first:
                    a = middle
                else:
                    b = middle
            candidates.add(b)
    return min(c for c in candidates if local(zone, c) >= midnight)


def day_of(zone, at):
    """The day (as an ordinal) whose [start, next start) holds the instant."""
    day = local(zone, at) // (86400 * 10**6) + EPOCH.toordinal()
    while start_of_day(zone, day) > at:
        day -= 1
    while start_of_day(zone, day + 1) <= at:
        day += 1
    return day


def iso(at):
    """`YYYY-MM-DDTHH:MM:SS[.ffffff]Z`."""
    moment = EPOCH + MICROSECOND * at
    text = moment.strftime("%m-%dT%H:%M:%S")
    fraction = f".{moment.microsecond:06d}" if moment.microsecond else ""
    return f"{moment.year:04d}-{text}{fraction}Z"


def month_start(day):
    date = dt.date.fromordinal(day)
    return date.replace(day=1).toordinal()


# -- money ----------------------------------------------------------------------------------------

def money(value):
    """Rule 4: one stored cost as a decimal of 12 places; None where it is none."""
    if value is None:
        return None
    with localcontext() as context:
        context.prec = 400
        if isinstance(value, float):
            value = Decimal("%.15g" % value)
        value = Decimal(value)
        if not value.is_finite():
            return None
        return value.quantize(Decimal("1e-12"), rounding=ROUND_HALF_EVEN)


def half_away(numerator, denominator):
    """numerator / denominator rounded half away from zero to a whole number."""
    with localcontext() as context:
        context.prec = 400
        return int((Decimal(numerator) / Decimal(denominator)).to_integral_value(ROUND_HALF_UP))


# -- measures -------------------------------------------------------------------------------------

class Sums:
    """The measures over some rows."""

    def __init__(self, rows):
        with localcontext() as context:
            context.prec = 400
            self.requests = len(rows)
            self.prompt = sum(r.prompt_tokens or 0 for r in rows)
            self.completion = sum(r.completion_tokens or 0 for r in rows)
            self.total = sum(
                r.total_tokens if r.total_tokens is not None
                else (r.prompt_tokens or 0) + (r.completion_tokens or 0) for r in rows)
            costs = [money(r.cost_usd) for r in rows]
            self.usd = sum((c for c in costs if c is not None), Decimal(0))
            self.rub = sum((c for c in (money(r.cost_rub) for r in rows) if c is not None),
                           Decimal(0))
            self.unpriced = sum(c is None for c in costs)
            times = [Decimal(r.execution_time_ms) for r in rows if r.execution_time_ms is not None]
            self.average = half_away(sum(times), len(times)) if times else None

    def cells(self):
        return (self.requests, self.prompt, self.completion, self.total, Money(self.usd),
                Money(self.rub), self.unpriced)

    def body(self):
        return {"total_tokens": self.total, "prompt_tokens": self.prompt,
                "completion_tokens": self.completion, "cost_usd": self.usd, "cost_rub": self.rub,
                "requests_count": self.requests, "unpriced_count": self.unpriced}


MEASURES = ("requests_count", "prompt_tokens", "completion_tokens", "total_tokens", "cost_usd",
            "cost_rub", "unpriced_count")


def _text_key(text):
    """Ascending by UTF-8 bytes, NULL last."""
    return (text is None, (text or "").encode("utf-8"))


class Oracle:
    """The reports of one ledger. `zone` is its setting."""

    def __init__(self, rows, zone="UTC"):
        self.rows = [r for r in rows if r.created_at is not None]
        self.zone = zone

    def _range(self, user, first, last, zone, agent=None):
        """The user's rows of the local days first..last (None = from the beginning)."""
        end = start_of_day(zone, last + 1)
        start = None if first is None else start_of_day(zone, first)
        return [r for r in self.rows
                if r.user_id == user and r.created_at < end
                and (start is None or r.created_at >= start)
                and (agent is None or r.agent_id == agent)]

    # Each report: (columns, rows).

    def summary(self, user, zone, as_of):
        last = day_of(zone or self.zone, as_of)
        names = (("today", last), ("this_month", month_start(last)), ("all_time", None))
        return (("period",) + MEASURES,
                [(name,) + Sums(self._range(user, first, last, zone or self.zone)).cells()
                 for name, first in names])

    def history(self, user, days, agent, zone, as_of):
        zone = zone or self.zone
        last = day_of(zone, as_of)
        return (("date",) + MEASURES,
                [(Day(date),) + sums.cells()
                 for date, sums in self._days(user, last - days + 1, last, zone, agent)])

    def _days(self, user, first, last, zone, agent):
        """Each local day of a range with the sums of its rows."""
        starts = [start_of_day(zone, d) for d in range(first, last + 1)]
        buckets = [[] for _ in starts]
        for row in self._range(user, first, last, zone, agent):
            buckets[bisect.bisect_right(starts, row.created_at) - 1].append(row)
        return [(dt.date.fromordinal(first + i), Sums(rows)) for i, rows in enumerate(buckets)]

    def _groups(self, rows, key):
        groups = {}
        for row in rows:
            groups.setdefault(key(row), []).append(row)
        return {k: Sums(v) for k, v in groups.items()}

    def _agents(self, rows):
        groups = self._groups(rows, lambda r: r.agent_id)
        return sorted(groups.items(), key=lambda g: (-g[1].total, _text_key(g[0])))

    def _models(self, rows):
        groups = self._groups(rows, lambda r: (r.ai_provider, r.ai_model))
        return sorted(groups.items(), key=lambda g: (-g[1].rub, -g[1].usd, -g[1].total,
                                                     _text_key(g[0][0]), _text_key(g[0][1])))

    def _providers(self, rows):
        groups = self._groups(rows, lambda r: r.ai_provider)
        return sorted(groups.items(), key=lambda g: (-g[1].rub, -g[1].usd, -g[1].total,
                                                     _text_key(g[0])))

    def _period_rows(self, user, days, zone, as_of):
        zone = zone or self.zone
        last = day_of(zone, as_of)
        return self._range(user, last - days + 1, last, zone)

    def by_agent(self, user, days, zone, as_of):
        rows = self._period_rows(user, days, zone, as_of)
        return (("agent_id",) + MEASURES + ("avg_execution_time_ms",),
                [(name,) + sums.cells() + (sums.average,) for name, sums in self._agents(rows)])

    def by_model(self, user, days, zone, as_of):
        rows = self._period_rows(user, days, zone, as_of)
        return (("ai_provider", "ai_model") + MEASURES + ("avg_execution_time_ms",),
                [name + sums.cells() + (sums.average,) for name, sums in self._models(rows)])

    def by_provider(self, user, days, zone, as_of):
        rows = self._period_rows(user, days, zone, as_of)
        return (("ai_provider",) + MEASURES + ("avg_execution_time_ms",),
                [(name,) + sums.cells() + (sums.average,) for name, sums in self._providers(rows)])

    def _totals_rows(self, user, period, agent, zone, as_of):
        zone = zone or self.zone
        last = day_of(zone, as_of)
        date = dt.date.fromordinal(last)
        first = {"day": last, "week": last - calendar.weekday(date.year, date.month, date.day),
                 "month": month_start(last), "year": dt.date(date.year, 1, 1).toordinal(),
                 "all": None}[period]
        return self._range(user, first, last, zone, agent)

    def totals(self, user, period, agent, zone, as_of):
        sums = Sums(self._totals_rows(user, period, agent, zone, as_of))
        return (("period",) + MEASURES + ("avg_execution_time_ms",),
                [(period,) + sums.cells() + (sums.average,)])

    DETAILED = ("id", "created_at", "agent_id", "ai_provider", "ai_model", "prompt_tokens",
                "completion_tokens", "total_tokens", "cost_usd", "cost_rub", "execution_time_ms",
                "platform", "content_type", "task_type", "content_id", "workflow_id", "request_id",
                "endpoint", "cursor")

    def listed(self, user, agent=None, start=None, end=None):
        """All rows that detailed lists over its pages, in order."""
        rows = [r for r in self.rows
                if r.user_id == user and (agent is None or r.agent_id == agent)
                and (start is None or r.created_at >= start)
                and (end is None or r.created_at <= end)]
        ident = (lambda r: r.id) if rows and isinstance(rows[0].id, int) \
            else (lambda r: str(r.id).encode("utf-8"))
        return sorted(rows, key=lambda r: (r.created_at, ident(r)), reverse=True)

    def _page(self, rows, limit, offset, after):
        if after is not None:
            rows = rows[rows.index(after) + 1:]
        return rows[offset:offset + limit], len(rows) > offset + limit

    def detailed(self, user, limit=100, offset=0, agent=None, start=None, end=None, after=None):
        """`after` is a Row here; the caller writes its cursor."""
        page, _ = self._page(self.listed(user, agent, start, end), limit, offset, after)
        return self.DETAILED, [self.item(r) for r in page]

    @staticmethod
    def item(r):
        usd, rub = money(r.cost_usd), money(r.cost_rub)
        return (r.id, At(r.created_at), r.agent_id, r.ai_provider, r.ai_model, r.prompt_tokens,
                r.completion_tokens, r.total_tokens, None if usd is None else Money(usd),
                None if rub is None else Money(rub), r.execution_time_ms, r.platform,
                r.content_type, r.task_type, r.content_id, r.workflow_id, r.request_id, r.endpoint,
                cursor(r))

    def detailed_count(self, user, agent=None, start=None, end=None):
        return len(self.listed(user, agent, start, end))

    # The JSON bodies. Key order matters (SQLite writes it), so dicts are in the contract's order.

    def summary_json(self, user, zone, as_of):
        last = day_of(zone or self.zone, as_of)
        names = (("today", last), ("this_month", month_start(last)), ("all_time", None))
        return {"success": True, "data": {
            name: Sums(self._range(user, first, last, zone or self.zone)).body()
            for name, first in names}}

    def history_json(self, user, days, agent, zone, as_of):
        zone = zone or self.zone
        last = day_of(zone, as_of)
        return {"success": True, "data": [
            {"date": date.isoformat(), **sums.body()}
            for date, sums in self._days(user, last - days + 1, last, zone, agent)],
            "period": {"days": days, "agent_id": agent}}

    def by_agent_json(self, user, days, zone, as_of):
        rows = self._period_rows(user, days, zone, as_of)
        return {"success": True, "data": {
            "agents": [{"agent_id": name, **sums.body(),
                        "avg_execution_time_ms": sums.average or 0}
                       for name, sums in self._agents(rows)],
            "totals": _totals_body(Sums(rows)), "period_days": days}}

    def by_model_json(self, user, days, zone, as_of):
        rows = self._period_rows(user, days, zone, as_of)
        models = [{"ai_provider": name[0], "ai_model": name[1], **sums.body(),
                   "avg_execution_time_ms": sums.average or 0}
                  for name, sums in self._models(rows)]
        return {"success": True, "data": {
            "by_model": models,
            "by_provider": [{"provider": name, **_totals_body(sums),
                             "models": [m for m in models if m["ai_provider"] == name]}
                            for name, sums in self._providers(rows)],
            "period_days": days}}

    def detailed_json(self, user, limit=100, offset=0, agent=None, start=None, end=None,
                      after=None):
        rows = self.listed(user, agent, start, end)
        page, more = self._page(rows, limit, offset, after)
        items = [{"id": r.id, "agent_id": r.agent_id, "ai_provider": r.ai_provider,
                  "ai_model": r.ai_model, "total_tokens": r.total_tokens,
                  "prompt_tokens": r.prompt_tokens, "completion_tokens": r.completion_tokens,
                  "cost_usd": money(r.cost_usd), "cost_rub": money(r.cost_rub),
                  "execution_time_ms": r.execution_time_ms, "created_at": iso(r.created_at),
                  "content_type": r.content_type, "platform": r.platform} for r in page]
        return {"success": True, "data": {
            "items": items, "total": len(rows), "limit": limit, "offset": offset,
            "has_more": more, "next_cursor": cursor(page[-1]) if more and page else None}}

    def totals_json(self, user, period, agent, zone, as_of):
        rows = self._totals_rows(user, period, agent, zone, as_of)
        totals = Sums(rows)
        return {"period": "all_time" if period == "all" else f"current_{period}",
                "total_requests": totals.requests, "total_tokens": totals.total,
                "total_cost_usd": totals.usd, "total_cost_rub": totals.rub,
                "by_agent": [{"agent_id": name, "agent_name": name, "requests": s.requests,
                              "tokens": s.total, "cost_usd": s.usd, "cost_rub": s.rub,
                              "avg_tokens_per_request": half_away(s.total, s.requests)}
                             for name, s in self._agents(rows)]}


def _totals_body(sums):
    return {"total_tokens": sums.total, "total_cost_usd": sums.usd, "total_cost_rub": sums.rub,
            "total_requests": sums.requests}


def stats(rows):
    """token_usage_stats over rows."""
    sums = Sums(rows)
    return {"requests_count": sums.requests, "prompt_tokens": sums.prompt,
            "completion_tokens": sums.completion, "total_tokens": sums.total,
            "cost_usd": sums.usd, "cost_rub": sums.rub, "unpriced_count": sums.unpriced,
            "avg_execution_time_ms": sums.average}


def decimal_sum(values):
    """token_usage_decimal_sum: None over nothing."""
    with localcontext() as context:
        context.prec = 400
        values = [v for v in (money(v) for v in values) if v is not None]
        return sum(values, Decimal(0)) if values else None


def cursor(row):
    """The cursor text of a row, the same in every edition."""
    return f"1|{row.created_at}|{row.id}".encode("utf-8").hex()
