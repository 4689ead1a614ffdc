"""The ledgers that the browser tests look at, the same rows for every edition.

All instants are relative to a `now` that the caller gives, because the page shows today. Costs are
decimals of at most 15 digits, which both databases keep.
"""
import datetime
import random
from decimal import Decimal
from zoneinfo import ZoneInfo

COLUMNS = ("user_id", "agent_id", "request_id", "ai_provider", "ai_model", "prompt_tokens", "completion_tokens",
           "total_tokens", "cost_usd", "cost_rub", "platform", "content_type", "execution_time_ms", "created_at")

# The users of the tests: a team with 90 days of plausible work; odd names, unknown prices and times
# around midnight; numbers that no float holds; nothing at all; nothing with a price.
DEMO, ODD, HUGE, EMPTY, UNPRICED = 42, 7, 8, 99, 11

# Provider, model, USD for a million tokens in and out (None: no known price), weight.
MODELS = (
    ("anthropic", "claude-sonnet-4-5", "3", "15", 26),
    ("anthropic", "claude-haiku-4-5", "1", "5", 18),
    ("openai", "gpt-4o", "2.5", "10", 20),
    ("openai", "gpt-4o-mini", "0.15", "0.6", 22),
    ("google", "gemini-2.5-flash", "0.3", "2.5", 10),
    ("huggingface", "llama-3.3-70b", None, None, 4),
)

# Agent, typical tokens in and out, weight, platform, content type.
AGENTS = (
    ("researcher", 38000, 4200, 22, "web", "report"),
    ("writer", 9600, 3800, 30, "web", "article"),
    ("support", 5200, 700, 28, "telegram", "answer"),
    ("editor", 7400, 2100, 14, "web", "article"),
    ("translator", 4300, 3900, 6, "api", "article"),
)

ZONES = ("UTC", "Asia/Kolkata", "America/Los_Angeles", "Pacific/Kiritimati")


def _row(user, agent, request, provider, model, tokens_in, tokens_out, usd, rub, platform, content, took, instant):
    return (user, agent, request, provider, model, tokens_in, tokens_out, tokens_in + tokens_out, usd, rub, platform,
            content, took, instant.astimezone(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ"))


def demo(now, days=90, seed=20251020):
    """A team's work: more on weekdays and by day, growing slowly, one price unknown."""
    chance = random.Random(seed)
    rows = []
    for back in range(days - 1, -1, -1):
        day = now - datetime.timedelta(days=back)
        growth = 0.55 + 0.6 * (days - back) / days
        busy = (0.28 if day.weekday() >= 5 else 1) * growth * chance.uniform(0.75, 1.3)
        for _ in range(max(1, round(38 * busy))):
            seconds = int(min(max(chance.gauss(13.5, 3.6), 0), 23.99) * 3600) + chance.randrange(60)
            instant = day.replace(hour=0, minute=0, second=0, microsecond=0) + datetime.timedelta(
                seconds=seconds, microseconds=chance.randrange(10**6))
            if instant > now:
                continue
            agent, size_in, size_out, _, platform, content = chance.choices(AGENTS, [a[3] for a in AGENTS])[0]
            provider, model, price_in, price_out, _ = chance.choices(MODELS, [m[4] for m in MODELS])[0]
            tokens_in = max(20, int(chance.lognormvariate(0, 0.6) * size_in))
            tokens_out = max(5, int(chance.lognormvariate(0, 0.5) * size_out))
            usd = rub = None
            if price_in is not None:
                usd = (tokens_in * Decimal(price_in) + tokens_out * Decimal(price_out)) / 10**6
                rub = round(usd * Decimal("81.4"), 6)
            took = int(600 + tokens_out * chance.uniform(4, 8))
            rows.append(_row(DEMO, agent, f"req-{len(rows) + 1:05}", provider, model, tokens_in, tokens_out, usd, rub,
                             platform, content, took, instant))
    return rows


def midnights(now):
    """One request a microsecond before and one at each of the last midnights of several zones."""
    rows = []
    for zone in ZONES:
        local = now.astimezone(ZoneInfo(zone))
        for back in range(3):
            midnight = (local - datetime.timedelta(days=back)).replace(hour=0, minute=0, second=0, microsecond=0)
            instant = midnight.astimezone(datetime.timezone.utc)
            for part, moment in enumerate((instant - datetime.timedelta(microseconds=1), instant)):
                rows.append(_row(ODD, "night-owl", f"midnight-{zone}-{back}-{part}", "openai", "gpt-4o",
                                 100 * (len(rows) + 1), 7, Decimal("0.0001"), Decimal("0.0095"), None, None, None, moment))
    return rows


# Names that a spreadsheet, a CSV reader or a careless page would trip over.
NAMES = ('=HYPERLINK("http://example.invalid","x")', "+1+1", "-2+3", "@SUM(A1)", 'say "hi", twice', "two\nlines",
         "<img src=x onerror=alert(1)>", "агент-писатель", "🦊 fox", "a" * 80, "plain")


def odd(now):
    rows = midnights(now)
    for index, name in enumerate(NAMES * 3):
        usd = (Decimal("0.000285"), None, Decimal("0"), Decimal("12.345678"), Decimal("0.1"))[index % 5]
        rub = None if usd is None else usd * 95
        rows.append(_row(ODD, name, f"odd-{index}", "prov,ider" if index % 7 == 0 else "openai", "gpt-4o-mini", 10 + index, 3, usd,
                         rub, "web", None, 950, now - datetime.timedelta(days=index % 20, hours=index % 5, seconds=30)))
    return rows


def huge(now):
    """Sums beyond 2^53, and costs whose cents a float of that size has not got."""
    big = 2**53 + 1
    return [_row(HUGE, f"agent-{n}", f"huge-{n}", "openai", "gpt-4o", big, 2 * n, Decimal("700000000000.01"),
                 Decimal("12345678901.2345"), None, None, 10**6 * n, now - datetime.timedelta(minutes=n))
            for n in range(1, 4)]


def unpriced(now):
    return [_row(UNPRICED, "writer", f"unpriced-{n}", "huggingface", "llama-3.3-70b", 100, 10, None, None, "web", "article", 80,
                 now - datetime.timedelta(seconds=n)) for n in range(3)]


def everything(now):
    return demo(now) + odd(now) + huge(now) + unpriced(now)
