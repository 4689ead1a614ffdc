"""What the page must show, from the ledger's own rows: read by plain SQL, added up by the oracle of the
conformance tests, written as the page writes it. Nothing here asks the service or a report function."""
import datetime
from decimal import Decimal, ROUND_HALF_UP

import oracle
from support.editions import Instant, plain_decimal

COLUMNS = ("id", "user_id", "agent_id", "ai_provider", "ai_model", "prompt_tokens", "completion_tokens", "total_tokens",
           "cost_usd", "cost_rub", "execution_time_ms", "platform", "content_type", "created_at")
MEASURES = ("total_tokens", "prompt_tokens", "completion_tokens", "cost_usd", "cost_rub", "requests_count", "unpriced_count")


def read(database):
    """The whole ledger, as rows of the oracle."""
    rows = []
    for values in database.query(f"SELECT {', '.join(COLUMNS)} FROM token_usage").rows:
        row = dict(zip(COLUMNS, values))
        at = row["created_at"]
        row["created_at"] = at.microseconds if isinstance(at, Instant) else oracle.instant(at)
        rows.append(oracle.Row(**row))
    return oracle.Oracle(rows)


def now():
    return int(datetime.datetime.now(datetime.timezone.utc).timestamp() * 10**6)


def text(value, dialect):
    """A number as the service writes it. SQLite's sums are the nearest REAL (contract, rule 4)."""
    if value is None:
        return ""
    if isinstance(value, Decimal):
        return plain_decimal(Decimal(repr(float(value))) if dialect == "sqlite" else value)
    return str(value)


def measures(body, dialect):
    return {name: text(body[name], dialect) for name in MEASURES}


def two_decimals(digits, sign):
    """An amount as the cards and tables show it."""
    value = Decimal(digits)
    if value != 0 and abs(value) < Decimal("0.005"):
        return f"<{sign}0.01"
    return f"{sign}{value.quantize(Decimal('0.01'), ROUND_HALF_UP):,}"


def all_digits(digits, sign):
    """An amount with all its digits, two decimals at least."""
    whole, _, fraction = digits.partition(".")
    return f"{sign}{int(whole):,}.{fraction.ljust(2, '0')}"


def short(number):
    return f"{int(number):,}"
