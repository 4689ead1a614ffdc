"""The usage page in a real browser, over the service on SQLite and on PostgreSQL with the same ledger.
What the page must show is computed from the ledger's rows, not by the service."""
import csv
import datetime
import os
import pathlib
import time
from decimal import Decimal

from . import figures
from . import ledger
import oracle
import pytest
from . import serving
from .ledger import DEMO, EMPTY, HUGE, ODD, UNPRICED

ZONES = list(ledger.ZONES)
# Zones, each with periods to look at.
VIEWS = [(ZONES[0], ["7", "30", "90", "365"]), *((zone, ["7", "90"]) for zone in ZONES[1:])]
AGENTS = [agent[0] for agent in ledger.AGENTS]


# -- figures --------------------------------------------------------------------------------------

def expected_cards(place, user, zone, now):
    body = place.ledger.summary_json(user, zone, now)["data"]
    return {period: figures.measures(part, place.dialect) for period, part in body.items()}


def check_cards(cards, expected):
    for period, want in expected.items():
        card = cards[period]
        assert {k: card[k] for k in ("total_tokens", "requests_count")} == {k: want[k] for k in ("total_tokens", "requests_count")}
        assert card["tokens_title"] == figures.short(want["total_tokens"])
        assert (card["cost_usd"], card["cost_rub"]) == (want["cost_usd"], want["cost_rub"])
        # Two decimals are shown; all digits on hover and focus, and to those who hear the page.
        assert card["shown"] == [figures.two_decimals(want["cost_usd"], "$"), figures.two_decimals(want["cost_rub"], "₽")]
        assert card["exact"] == [figures.all_digits(want["cost_usd"], "$"), figures.all_digits(want["cost_rub"], "₽")]
        for shown, exact, spoken in zip(card["shown"], card["exact"], card["spoken"]):
            assert spoken == (shown if shown == exact else f"{shown} (exactly {exact})")
        unpriced = want["unpriced_count"]
        assert card["unpriced_text"] == ("" if unpriced == "0" else f"{figures.short(unpriced)} unpriced")


def check_history(found, body, dialect):
    assert found["days"] == [{"date": day["date"], **figures.measures(day, dialect)} for day in body["data"]]
    for name in ("total_tokens", "requests_count"):
        assert int(found["totals"][name]) == sum(day[name] for day in body["data"])
    for name in ("cost_usd", "cost_rub"):
        assert Decimal(found["totals"][name]) == sum(Decimal(figures.text(day[name], dialect)) for day in body["data"])


def check_row(found, want, dialect, keys=("total_tokens", "cost_usd", "cost_rub", "requests_count", "unpriced_count")):
    for key in keys:
        assert found[key] == figures.text(want[key], dialect), (key, found, want)


def check_breakdown(found, by_agent, by_model, dialect):
    agents = {row["agent_id"]: row for row in found["agents"]}
    assert len(found["agents"]) == len(agents) == len(by_agent["agents"])
    for want in by_agent["agents"]:
        check_row(agents[want["agent_id"]], want, dialect)
    spent = [Decimal(row["cost_usd"]) for row in found["agents"]]
    assert spent == sorted(spent, reverse=True)
    providers = {row["provider"]: row for row in found["models"]}
    assert len(found["models"]) == len(providers) == len(by_model["by_provider"])
    for want in by_model["by_provider"]:
        group = providers[want["provider"]]
        for key, name in (("total_tokens", "total_tokens"), ("cost_usd", "total_cost_usd"), ("cost_rub", "total_cost_rub"),
                          ("requests_count", "total_requests")):
            assert group[key] == figures.text(want[name], dialect), (key, want)
        assert int(group["unpriced_count"]) == sum(model["unpriced_count"] for model in want["models"])
        models = {row["ai_model"]: row for row in group["models"]}
        assert len(group["models"]) == len(models) == len(want["models"])
        for model in want["models"]:
            check_row(models[model["ai_model"]], model, dialect)


@pytest.mark.parametrize("user", [DEMO, ODD, HUGE])
def test_figures_equal_the_ledgers(place, chromium, calm, user):
    """Cards, every day of the history, every agent, provider and model, in several zones and periods."""
    found = chromium.run("figures", place.site, [user], user=user, views=VIEWS)
    now = figures.now()
    assert len(found) == sum(len(days) for _, days in VIEWS)
    for one in found:
        zone, days = one["zone"], int(one["days"])
        check_cards(one["cards"], expected_cards(place, user, zone, now))
        check_history(one["history"], place.ledger.history_json(user, days, None, zone, now), place.dialect)
        check_breakdown(one, place.ledger.by_agent_json(user, days, zone, now)["data"],
                        place.ledger.by_model_json(user, days, zone, now)["data"], place.dialect)
    if user == ODD:
        # A microsecond before a zone's midnight and the midnight itself: the days move with the zone.
        by_zone = {one["zone"]: [day["total_tokens"] for day in one["history"]["days"]] for one in found if one["days"] == "7"}
        assert len(set(map(tuple, by_zone.values()))) == len(ZONES)


@pytest.mark.parametrize("user", [DEMO, ODD, HUGE])
def test_the_report_functions_say_the_same(place, calm, user):
    """The SQL of README.md, called here over a connection of our own, against what the page is checked with."""
    now = figures.now()
    for zone in ZONES:
        for period, want in expected_cards(place, user, zone, now).items():
            rows = place.database.query(f"SELECT * FROM token_usage_summary({user}, '{zone}') WHERE period = '{period}'")
            got = dict(zip(rows.columns, rows.rows[0]))
            assert {k: figures.text(Decimal(repr(v)) if isinstance(v, float) else v, place.dialect)
                    for k, v in got.items() if k in figures.MEASURES} == want


def test_history_of_an_agent(place, chromium, calm):
    answer = chromium.run("historyByAgent", place.site, [DEMO], user=DEMO, agents=AGENTS[:3] + [""])
    now = figures.now()
    assert sorted(answer["offered"]) == sorted(AGENTS + [""])
    for agent, found in answer["found"].items():
        check_history(found, place.ledger.history_json(DEMO, 30, agent or None, "UTC", now), place.dialect)


def test_charts_show_the_measure_that_was_chosen(place, chromium, calm):
    labels = chromium.run("measures", place.site, [DEMO], user=DEMO)
    days = place.ledger.history_json(DEMO, 30, None, "UTC", figures.now())["data"]
    total = {key: sum(Decimal(figures.text(day[key], place.dialect)) for day in days) for key in figures.MEASURES}
    assert "Tokens by day" in labels["total_tokens"] and f" {int(total['total_tokens']):,} in all" in labels["total_tokens"]
    assert "Requests by day" in labels["requests_count"] and f" {total['requests_count']:,} in all" in labels["requests_count"]
    for key, sign in (("cost_usd", "$"), ("cost_rub", "₽")):
        assert f" {figures.all_digits(figures.plain_decimal(total[key]), sign)} in all" in labels[key]


def test_charts_are_drawn(place, chromium):
    chromium.run("charts", place.site, [DEMO], user=DEMO)


# -- the list -------------------------------------------------------------------------------------

@pytest.mark.parametrize("user, limit", [(DEMO, 100), (ODD, 10), (HUGE, 10)])
def test_pages_reach_the_last_row_without_a_repeat(place, chromium, user, limit):
    answer = chromium.run("paging", place.site, [user], user=user, limit=limit)
    want = [str(row.id) for row in place.ledger.listed(user)]
    assert answer["ids"] == want
    count = len(want)
    assert answer["counts"] == [f"{first + 1:,}–{min(first + limit, count):,} of {count:,}" for first in range(0, count, limit)]


def check_requests(found, want, dialect):
    assert [row["id"] for row in found] == [str(row.id) for row in want]
    for shown, row in zip(found, want):
        assert shown["created_at"] == oracle.iso(row.created_at)
        assert shown["agent_id"] == row.agent_id
        assert shown["model_shown"] == f"{row.ai_provider} / {row.ai_model}"
        for name in ("total_tokens", "prompt_tokens", "completion_tokens"):
            assert shown[name] == str(getattr(row, name))
        for name in ("cost_usd", "cost_rub"):
            assert shown[name] == figures.text(oracle.money(getattr(row, name)), dialect)
        assert shown["usd_shown"] == ("unpriced" if row.cost_usd is None else figures.all_digits(shown["cost_usd"], "$"))


def microseconds(day, zone):
    return oracle.start_of_day(zone, datetime.date.fromisoformat(day).toordinal())


@pytest.mark.parametrize("zone", ZONES)
def test_filters(place, chromium, calm, zone):
    """An agent, a first day, a last day, and all of them; days are days of the zone that is chosen."""
    today = datetime.date.fromordinal(oracle.day_of(zone, figures.now()))
    day = [(today - datetime.timedelta(days=back)).isoformat() for back in range(4)]
    filters = [{"agent": "night-owl"}, {"from": day[0]}, {"to": day[1]}, {"from": day[1], "to": day[1]},
               {"agent": "night-owl", "from": day[2], "to": day[1]}, {"agent": ledger.NAMES[0], "from": day[3]},
               {"agent": "plain", "from": "1999-01-01", "to": "1999-12-31"}]
    found = chromium.run("filtered", place.site, [ODD], user=ODD, zone=zone, filters=filters)
    sizes = []
    for answer, given in zip(found, filters):
        start = microseconds(given["from"], zone) if "from" in given else None
        end = given.get("to") and microseconds((datetime.date.fromisoformat(given["to"]) + datetime.timedelta(days=1)).isoformat(), zone) - 1
        want = place.ledger.listed(ODD, given.get("agent"), start, end)
        check_requests(answer["rows"], want[:100], place.dialect)
        assert answer["state"] == ("ready" if want else "empty")
        assert answer["count"] == (f"1–{len(want)} of {len(want)}" if want else "")
        sizes.append(len(want))
    assert all(sizes[:6]) and not sizes[6]


@pytest.mark.parametrize("user, agent", [(DEMO, ""), (ODD, ""), (HUGE, ""), (ODD, ledger.NAMES[0]), (UNPRICED, "")])
def test_csv_equals_the_rows(place, chromium, tmp_path, user, agent):
    """Every row, beyond one page of the service; digits kept; nothing that a spreadsheet would run."""
    path = tmp_path / "rows.csv"
    chromium.run("csv", place.site, [user], user=user, agent=agent, path=str(path))
    text = path.read_bytes().decode("utf-8")
    assert text.startswith("\ufeff") and text.endswith("\r\n")
    got = list(csv.DictReader(text[1:].splitlines(keepends=True)))
    want = place.ledger.listed(user, agent or None)
    assert len(got) == len(want) > 0
    for line, row in zip(got, want):
        assert line["id"] == str(row.id)
        assert line["created_at"] == oracle.iso(row.created_at)
        for name in ("agent_id", "ai_provider", "ai_model", "platform", "content_type"):
            value = getattr(row, name) or ""
            assert line[name] == ("'" + value if value[:1] in tuple("=+-@\t\r\n") else value), line
        for name in ("prompt_tokens", "completion_tokens", "total_tokens", "execution_time_ms"):
            assert line[name] == figures.text(getattr(row, name), place.dialect)
        for name in ("cost_usd", "cost_rub"):
            assert line[name] == figures.text(oracle.money(getattr(row, name)), place.dialect)
    for line in csv.reader(text[1:].splitlines(keepends=True)):
        assert not any(cell[:1] in ("=", "+", "@", "\t", "\r") for cell in line)


# -- states ---------------------------------------------------------------------------------------

def test_token_leaves_the_address_and_goes_with_signing_out(place, chromium):
    chromium.run("token", place.site, [DEMO], user=DEMO)


def test_sign_in(place, chromium):
    chromium.run("signIn", place.site, [DEMO], user=DEMO)


def test_a_bad_token_brings_the_sign_in_back(place, chromium):
    good = place.site.token(DEMO)
    for bad in (place.site.token(DEMO, seconds=-60), good[:-4] + "AAAA", "nonsense"):
        chromium.run("refused", place.site, token=bad)


def test_a_token_that_expires_while_the_page_is_open(place, chromium):
    chromium.run("expires", place.site, token=place.site.token(DEMO, seconds=20), seconds=21)


def test_a_user_without_requests(place, chromium):
    chromium.run("empty", place.site, [EMPTY], user=EMPTY)


def test_requests_without_a_price(place, chromium):
    chromium.run("unpriced", place.site, [UNPRICED], user=UNPRICED, requests=3)


def test_loading_and_answers_that_come_late(place, chromium):
    chromium.run("loading", place.site, user=place.site.token(DEMO))


def test_zone_choice(place, chromium):
    chromium.run("zoneChoice", place.site, [DEMO], user=DEMO)


def test_odd_names_are_text(place, chromium):
    chromium.run("oddNames", place.site, [ODD], user=ODD, names=list(ledger.NAMES))


def test_light_and_dark(place, chromium):
    chromium.run("colours", place.site, [DEMO], user=DEMO)


def test_widths(place, chromium):
    chromium.run("widths", place.site, [DEMO, ODD, HUGE])


def test_keyboard(place, chromium):
    chromium.run("keyboard", place.site, [DEMO], user=DEMO)


# -- Swagger UI -----------------------------------------------------------------------------------

def test_swagger_ui_runs_every_route(place, chromium):
    """Each route under each of the addresses that the description gives. A user of its own, since one of the routes records."""
    ran = chromium.run("swagger", place.site, [4242], user=4242)
    assert len(ran) >= 14
    assert {name: one["status"] for name, one in ran.items() if one["status"][:2] != "20"} == {}
    # What was recorded through the documentation is in the ledger, once.
    assert place.database.query("SELECT count(*) FROM token_usage WHERE user_id = 4242").rows == [(1,)]


# -- the picture ----------------------------------------------------------------------------------

def test_picture_of_the_readme(place, chromium):
    """TOKEN_USAGE_PICTURE=FILE writes the picture of README.md anew; without it, it goes to the screenshots."""
    wanted = os.environ.get("TOKEN_USAGE_PICTURE") if place.dialect == "sqlite" else None
    path = pathlib.Path(wanted).resolve() if wanted else serving.SCREENSHOTS / f"{place.site.name}-picture.png"
    # Where the day is well under way, so that it has something to show.
    hour = datetime.datetime.now(datetime.timezone.utc).hour
    zone = "America/New_York" if hour < 5 else "Asia/Tokyo" if hour < 14 else "UTC"
    chromium.run("picture", place.site, [DEMO], user=DEMO, path=str(path), zone=zone)
    assert path.stat().st_size < 300_000
