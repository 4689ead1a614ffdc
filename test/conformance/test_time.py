"""Rules 1 to 3 by name: days that are not 24 hours long, midnights that do not exist or come twice,
the edges of days, months and years, and every stored form of a time."""
import datetime as dt
import random
from decimal import Decimal

import pytest

import harness
import oracle as orc
from harness import Case, load, row

MICRO, SECOND, HOUR = 1, 10**6, 3600 * 10**6


def around_days(zone, first, last):
    """Rows at the edges of each local day, and spread within it."""
    rows, ident = [], 1
    for ordinal in range(first, last + 2):
        start = orc.start_of_day(zone, ordinal)
        for at in (start - 1, start, start + 1, start - SECOND, start + 30 * 60 * SECOND,
                   start + 2 * HOUR, start + 3 * HOUR - 1, start + 12 * HOUR):
            rows.append(row(ident, at, prompt_tokens=ident, agent_id=("a", "b")[ident % 2]))
            ident += 1
    return rows


def days(text_first, text_last):
    return (dt.date.fromisoformat(text_first).toordinal(),
            dt.date.fromisoformat(text_last).toordinal())


SPANS = {
    "dst_start_new_york": ("America/New_York", "2025-03-08", "2025-03-11"),
    "dst_end_new_york": ("America/New_York", "2025-11-01", "2025-11-04"),
    "dst_start_berlin": ("Europe/Berlin", "2025-03-29", "2025-03-31"),
    "dst_end_berlin": ("Europe/Berlin", "2025-10-25", "2025-10-27"),
    "dst_start_lord_howe": ("Australia/Lord_Howe", "2025-10-04", "2025-10-06"),
    "dst_end_lord_howe": ("Australia/Lord_Howe", "2025-04-05", "2025-04-07"),
    "no_midnight_sao_paulo": ("America/Sao_Paulo", "2018-11-03", "2018-11-05"),
    "double_hour_before_midnight_sao_paulo": ("America/Sao_Paulo", "2018-02-16", "2018-02-19"),
    "midnight_twice_havana": ("America/Havana", "2024-11-02", "2024-11-04"),
    "no_midnight_havana": ("America/Havana", "2024-03-09", "2024-03-11"),
    "one_minute_past_midnight_st_johns": ("America/St_Johns", "2010-11-06", "2010-11-08"),
    "no_midnight_cairo": ("Africa/Cairo", "2025-04-24", "2025-04-26"),
    "skipped_day_apia": ("Pacific/Apia", "2011-12-28", "2012-01-01"),
    "skipped_day_kwajalein_1993": ("Pacific/Kwajalein", "1993-08-19", "1993-08-23"),
    "half_hour_kolkata": ("Asia/Kolkata", "2025-10-19", "2025-10-21"),
    "quarter_hour_kathmandu": ("Asia/Kathmandu", "2025-10-19", "2025-10-21"),
    "plus_fourteen_kiritimati": ("Pacific/Kiritimati", "2025-10-19", "2025-10-21"),
    "minus_twelve": ("Etc/GMT+12", "2025-10-19", "2025-10-21"),
    "leap_day": ("Europe/Moscow", "2024-02-28", "2024-03-01"),
    "leap_day_missing": ("Europe/Moscow", "2023-02-27", "2023-03-01"),
    "month_end": ("America/New_York", "2025-01-31", "2025-02-01"),
    "year_end": ("Asia/Kolkata", "2024-12-31", "2025-01-01"),
    "seconds_in_the_offset_amsterdam_1930": ("Europe/Amsterdam", "1930-05-14", "1930-05-16"),
    "before_1970": ("Europe/London", "1941-05-03", "1941-05-05"),
}


@pytest.mark.parametrize("name", SPANS)
def test_days_of(database, name):
    zone, first, last = SPANS[name]
    first, last = days(first, last)
    rows = around_days(zone, first, last)
    load(database, rows)
    case = Case(database, rows)
    for ordinal in range(first, last + 1):
        start = orc.start_of_day(zone, ordinal)
        for as_of in (start, orc.start_of_day(zone, ordinal + 1) - 1, start + 5 * HOUR):
            case.every_report(42, zone, as_of, days=2, bodies=as_of == start)
    for days_back in (1, 3, 31):
        as_of = orc.start_of_day(zone, last)
        case.report("history", 42, days_back, "a", zone, orc.iso(as_of),
                    oracle_args=(42, days_back, "a", zone, as_of))


def test_first_and_last_microsecond_of_a_day(database):
    rows = [row(1, "2025-10-19 23:59:59.999999"), row(2, "2025-10-20 00:00:00"),
            row(3, "2025-10-20 23:59:59.999999"), row(4, "2025-10-21 00:00:00")]
    load(database, rows)
    result = database.query("SELECT * FROM token_usage_history(42, 3, NULL, 'UTC', "
                            "'2025-10-21T00:00:00Z')")
    assert [(str(r[0]), r[1]) for r in result.rows] == [
        ("2025-10-19", 1), ("2025-10-20", 2), ("2025-10-21", 1)]


def test_no_midnight_starts_at_the_first_instant_there_is(database):
    """America/Sao_Paulo 2018-11-04: 23:59:59 is followed by 01:00:00, at 03:00 UTC."""
    rows = [row(1, "2018-11-04 02:59:59.999999"), row(2, "2018-11-04 03:00:00")]
    load(database, rows)
    result = database.query("SELECT * FROM token_usage_history(42, 2, NULL, 'America/Sao_Paulo', "
                            "'2018-11-04T12:00:00Z')")
    assert [(str(r[0]), r[1]) for r in result.rows] == [("2018-11-03", 1), ("2018-11-04", 1)]


@pytest.mark.parametrize("number,first", [(1, "2025-10-20"), (30, "2025-09-21"), (31, "2025-09-20"),
                                          (366, "2024-10-20"), (36600, "1925-08-07")])
def test_history_has_exactly_the_days_asked_for(database, number, first):
    """A window of 30 days touches 30 dates, not 31."""
    rows = database.query(f"SELECT * FROM token_usage_history(42, {number}, NULL, 'Europe/Moscow', "
                          "'2025-10-20T12:00:00Z')").rows
    assert len(rows) == number
    assert (str(rows[0][0]), str(rows[-1][0])) == (first, "2025-10-20")
    assert all(r[1] == 0 for r in rows)


def test_rows_after_the_last_day_are_not_counted(database):
    """Rule 2, in every report, all_time included."""
    rows = [row(1, "2025-10-20 20:59:59.999999"), row(2, "2025-10-20 21:00:00"),
            row(3, "2030-01-01 00:00:00"), row(4, "2025-10-20 09:00:00", agent_id="editor")]
    load(database, rows)
    case = Case(database, rows)
    for at in ("2025-10-20 00:00:00", "2025-10-20 20:59:59", "2025-10-20 21:00:00"):
        case.every_report(42, "Europe/Moscow", orc.instant(at), days=400, bodies=True)
    assert database.query("SELECT requests_count FROM token_usage_summary(42, 'Europe/Moscow', "
                          "'2025-10-20T10:00:00Z')").rows == [(2,), (2,), (2,)]


def test_as_of_null_is_now(database):
    database.query("INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model) "
                   "VALUES (42, 'a', 'p', 'm')")
    for sql in ("SELECT requests_count FROM token_usage_summary(42)",
                "SELECT requests_count FROM token_usage_summary(42, NULL, NULL)",
                "SELECT requests_count FROM token_usage_summary(42, 'Asia/Kolkata')"):
        assert database.query(sql).rows == [(1,)] * 3
    assert database.query("SELECT requests_count FROM token_usage_history(42, 1)").rows == [(1,)]
    assert database.query("SELECT count(*) FROM token_usage_history(42)").rows == [(30,)]


def test_week_starts_on_monday(database):
    rows = [row(n, f"2025-10-{day:02d} 12:00:00") for n, day in enumerate(range(11, 28), 1)]
    load(database, rows)
    case = Case(database, rows)
    for day in range(11, 28):
        as_of = orc.instant(f"2025-10-{day:02d} 13:00:00")
        case.report("totals", 42, "week", None, "UTC", orc.iso(as_of),
                    oracle_args=(42, "week", None, "UTC", as_of))


def test_time_zone_setting(database):
    """Rule 3: NULL and a left-out zone mean the ledger's own."""
    rows = [row(1, "2025-10-19 20:30:00"), row(2, "2025-10-19 21:30:00")]
    load(database, rows)
    assert database.query("SELECT token_usage_setting('time_zone')").rows == [("UTC",)]
    as_of = orc.instant("2025-10-20 12:00:00")
    for zone in ("UTC", "Europe/Moscow", "Asia/Kathmandu"):
        assert database.query(f"SELECT token_usage_set('time_zone', '{zone}')").rows == [(zone,)]
        assert database.query("SELECT token_usage_setting('time_zone')").rows == [(zone,)]
        case = Case(database, rows, zone)
        case.every_report(42, None, as_of, days=2)
        case.report("history", 42, 2, None, "America/New_York", orc.iso(as_of),
                    oracle_args=(42, 2, None, "America/New_York", as_of))
    assert database.query("SELECT token_usage_set('time_zone', NULL)").rows == [("UTC",)]
    Case(database, rows, "UTC").every_report(42, None, as_of, days=2)


@pytest.mark.parametrize("given,meant", [
    ("europe/moscow", "Europe/Moscow"), ("EUROPE/MOSCOW", "Europe/Moscow"), ("utc", "UTC"),
    ("Etc/GMT-14", "Etc/GMT-14"), ("etc/gmt+12", "Etc/GMT+12"), ("EST5EDT", "EST5EDT"),
    ("America/Argentina/Buenos_Aires", "America/Argentina/Buenos_Aires"),
    ("Asia/Ho_Chi_Minh", "Asia/Ho_Chi_Minh"), ("America/Port-au-Prince", "America/Port-au-Prince")])
def test_zone_names_in_any_case(database, given, meant):
    rows = around_days(meant, *days("2025-03-29", "2025-03-31"))
    load(database, rows)
    as_of = orc.instant("2025-03-30 12:00:00")
    Case(database, rows).report("history", 42, 3, None, given, orc.iso(as_of),
                                oracle_args=(42, 3, None, meant, as_of))


def test_as_of_far_away(database):
    rows = [row(1, "1500-06-01 00:00:00"), row(2, "2025-10-20 00:00:00"),
            row(3, "9998-12-30 12:00:00")]
    load(database, rows)
    case = Case(database, rows)
    for at in ("1000-01-02 00:00:00", "1500-06-01 05:00:00", "9998-12-30 23:59:59"):
        for zone in ("UTC", "Europe/Berlin"):
            case.every_report(42, zone, orc.instant(at), days=36600 if (zone, at[:4]) == ("UTC", "9998") else 400,
                              bodies=False)


# -- stored forms (SQLite) ------------------------------------------------------------------------

FORMS = {
    "2025-10-20 14:30": "2025-10-20 14:30:00", "2025-10-20T14:30": "2025-10-20 14:30:00",
    "2025-10-20 14:30:25": "2025-10-20 14:30:25", "2025-10-20T14:30:25": "2025-10-20 14:30:25",
    "2025-10-20 14:30:25.5": "2025-10-20 14:30:25.5",
    "2025-10-20T14:30:25.123456": "2025-10-20 14:30:25.123456",
    "2025-10-20 14:30:25.1234567": "2025-10-20 14:30:25.123456",
    "2025-10-20 14:30:25.999999999999": "2025-10-20 14:30:25.999999",
    "2025-10-20T14:30:25Z": "2025-10-20 14:30:25", "2025-10-20 14:30:25 Z": "2025-10-20 14:30:25",
    "2025-10-20T14:30Z": "2025-10-20 14:30:00",
    "2025-10-20T14:30:25.25Z": "2025-10-20 14:30:25.25",
    "2025-10-20T14:30:25+03:00": "2025-10-20 11:30:25",
    "2025-10-20 14:30:25 +03:00": "2025-10-20 11:30:25",
    "2025-10-20 14:30-05:30": "2025-10-20 20:00:00",
    "2025-10-20T14:30:25.5-00:00": "2025-10-20 14:30:25.5",
    "2025-10-20 00:00:00+23:59": "2025-10-19 00:01:00",
    "2025-10-20 14:30:25 -23:59": "2025-10-21 14:29:25",
    1760970625: "2025-10-20 14:30:25", 1760970625.5: "2025-10-20 14:30:25.5",
    1760970625.123456: "2025-10-20 14:30:25.123456", 1760970625123: "2025-10-20 14:30:25.123",
    0: "1970-01-01 00:00:00", -1: "1969-12-31 23:59:59", -86400.5: "1969-12-30 23:59:59.5",
    99999999999: "5138-11-16 09:46:39", 10**11: "1973-03-03 09:46:40",
    "0001-01-02 00:00:00": "0001-01-02 00:00:00", "2024-02-29 12:00": "2024-02-29 12:00:00",
}
UNREADABLE = ("", "soon", "2025-10-20", "2025-02-29 12:00", "2025-13-01 00:00:00",
              "2025-10-20 24:00:00", "2025-10-20 14:60", "2025-10-20 14:30:60",
              "2025-10-20t14:30:25", "2025-10-20T14:30:25z", "2025-10-20 14:30:25.",
              "2025-10-20  14:30:25", " 2025-10-20 14:30:25", "2025-10-20 14:30:25 ",
              "2025-10-20 14:30:25+3:00", "2025-10-20 14:30:25+03", "2025-10-20 14:30:25+24:00",
              "2025-10-20 14:30:25+03:60", "2025-10-20 14:30:25 UTC", "2025-10-20 14:30:25  Z",
              "0000-01-01 00:00:00", "20251020T143025", "2025-10-20 4:30", b"2025-10-20 14:30:25",
              float("inf"), 1e300, 10**18, -(10**18), "2025-10-20 14:30:25\0")


def test_every_stored_form_in_one_table(sqlite):
    """One table that mixes all forms; what is no time is in no report."""
    database = sqlite.database()
    try:
        rows, stored = [], {}
        for form, meant in FORMS.items():
            rows.append(row(len(rows) + 1, meant, request_id=repr(form)))
            stored[rows[-1].id] = form
        for form in UNREADABLE:
            rows.append(row(len(rows) + 1, None, request_id=repr(form)))
            stored[rows[-1].id] = form
        random.Random(3).shuffle(rows)
        load(database, rows, time=lambda r: stored[r.id])
        case = Case(database, rows)
        listed = {r[0]: r[1] for r in
                  database.query("SELECT id, created_at FROM token_usage_detailed(42, 500)").rows}
        for r in rows:
            want = None if r.created_at is None else orc.iso(r.created_at)
            assert listed.get(r.id) == want, (stored[r.id], listed.get(r.id), want)
        case.report("detailed", 42, 500)
        case.value("SELECT token_usage_detailed_count(42)", len(FORMS))
        for at in sorted({r.created_at for r in rows if r.created_at is not None
                          and r.created_at > orc.instant("1000-01-02 00:00:00")}):
            case.every_report(42, "Asia/Kathmandu", at, days=3, bodies=False)
            text = orc.iso(at)
            case.report("detailed", 42, 10, 0, None, text, text,
                        oracle_args=(42, 10, 0, None, at, at))
    finally:
        database.close()


@pytest.mark.parametrize("form", [f for f in FORMS if f != "0001-01-02 00:00:00"], ids=repr)
def test_as_of_in_every_form(sqlite, form):
    """On SQLite as_of, start_date and end_date take whatever created_at may hold."""
    database = sqlite.database()
    try:
        at = orc.instant(FORMS[form])
        rows = [row(1, at), row(2, at - 1), row(3, at + 1), row(4, at - 86400 * SECOND)]
        load(database, rows)
        case = Case(database, rows)
        case.report("history", 42, 2, None, "UTC", form if not isinstance(form, float) else
                    Decimal(repr(form)), oracle_args=(42, 2, None, "UTC", at))
        argument = form if not isinstance(form, float) else Decimal(repr(form))
        case.report("detailed", 42, 10, 0, None, argument, argument,
                    oracle_args=(42, 10, 0, None, at, at))
    finally:
        database.close()


def test_time_arguments_of_detailed(database):
    """Both ends inclusive, no zone = UTC, a date alone = its midnight."""
    rows = [row(1, "2025-10-19 23:59:59.999999"), row(2, "2025-10-20 00:00:00"),
            row(3, "2025-10-20 12:00:00.000001"), row(4, "2025-10-21 00:00:00"),
            row(5, "2025-10-21 00:00:00.000001")]
    load(database, rows)
    case = Case(database, rows)
    for start, end, told in (
            ("2025-10-20", "2025-10-21", ("2025-10-20 00:00:00", "2025-10-21 00:00:00")),
            ("2025-10-20T00:00:00Z", "2025-10-21T00:00:00Z",
             ("2025-10-20 00:00:00", "2025-10-21 00:00:00")),
            ("2025-10-20 03:00:00+03:00", "2025-10-20 23:00:00-01:00",
             ("2025-10-20 00:00:00", "2025-10-21 00:00:00")),
            ("2025-10-20 12:00:00.000001", None, ("2025-10-20 12:00:00.000001", None)),
            (None, "2025-10-20 00:00:00", (None, "2025-10-20 00:00:00")),
            ("2025-10-21", "2025-10-20", ("2025-10-21 00:00:00", "2025-10-20 00:00:00"))):
        told = tuple(None if t is None else orc.instant(t) for t in told)
        case.report("detailed", 42, 10, 0, None, start, end, oracle_args=(42, 10, 0, None) + told)
        case.body("detailed_json", 42, 10, 0, None, start, end,
                  oracle_args=(42, 10, 0, None) + told)
        case.value(f"SELECT token_usage_detailed_count({harness.arguments((42, None, start, end))})",
                   case.oracle.detailed_count(42, None, *told))
