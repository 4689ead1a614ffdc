"""Runs one SQL text in an edition and compares its rows with the oracle's.

`Case` holds a database and the rows that were put in it. `report` and `body` take the name of a
function and its positional arguments, write the SQL, run it and compare everything: column names,
number and order of rows, types and values.
"""
import json
import random
from decimal import Decimal

import conftest
import oracle as orc
from support.editions import Instant, plain_decimal, sql_literal

COLUMNS = ["id", "user_id", "agent_id", "ai_provider", "ai_model", "prompt_tokens",
           "completion_tokens", "total_tokens", "cost_usd", "cost_rub", "execution_time_ms",
           "platform", "content_type", "task_type", "content_id", "workflow_id", "request_id",
           "endpoint", "created_at"]


def count(edition_name, number=1):
    for key in conftest.COMPARISONS:
        if key.startswith(edition_name + " "):
            conftest.COMPARISONS[key] += number


def expected_cell(cell, dialect):
    """What the edition must return for a cell of the oracle."""
    if isinstance(cell, orc.Money):
        return float(cell.value) if dialect == "sqlite" else plain_decimal(cell.value)
    if isinstance(cell, orc.At):
        return orc.iso(cell.microseconds) if dialect == "sqlite" else Instant(cell.microseconds)
    if isinstance(cell, orc.Day):
        return cell.date.isoformat()
    return cell


def actual_cell(value):
    """Decimals by their digits, so that a trailing zero is a difference."""
    return format(value, "f") if isinstance(value, Decimal) else value


def typed(rows):
    return [tuple((type(v).__name__, v) for v in row) for row in rows]


def _number(text):
    assert "e" not in text.lower(), f"exponent in a JSON number: {text}"
    assert not text.endswith("0"), f"trailing zero in a JSON number: {text}"
    return Decimal(text)


def parse_body(text):
    """JSON text, its numbers as exact decimals. Trailing zeros and exponents are refused."""
    assert isinstance(text, str), f"a JSON body must be text or jsonb, got {text!r}"
    return json.loads(text, parse_float=_number)


def keys_in_order(value):
    """The shape of a body: its keys in order, lists by their first item."""
    if isinstance(value, dict):
        return [(k, keys_in_order(v)) for k, v in value.items()]
    if isinstance(value, list):
        return [keys_in_order(v) for v in value[:1]]
    return None


def arguments(args):
    return ", ".join(sql_literal(a) for a in args)


class Case:
    def __init__(self, database, rows, zone="UTC"):
        self.database, self.rows = database, rows
        self.oracle = orc.Oracle(rows, zone)
        self.dialect = database.dialect

    def _compare(self, sql, expected):
        columns, rows = expected
        result = self.database.query(sql)
        count(self.database.edition)
        assert tuple(result.columns) == tuple(columns), sql
        want = typed([tuple(expected_cell(c, self.dialect) for c in row) for row in rows])
        got = typed([tuple(actual_cell(c) for c in row) for row in result.rows])
        assert got == want, f"{self.database.edition}: {sql}"
        return result.rows

    def report(self, name, *args, oracle_args=None):
        """Compares token_usage_<name>(args). `oracle_args` where SQL and oracle are told the same
        thing in different words (instants)."""
        expected = getattr(self.oracle, name)(*(args if oracle_args is None else oracle_args))
        return self._compare(f"SELECT * FROM token_usage_{name}({arguments(args)})", expected)

    def body(self, name, *args, oracle_args=None):
        """Compares the JSON twin."""
        expected = getattr(self.oracle, name)(*(args if oracle_args is None else oracle_args))
        sql = f"SELECT token_usage_{name}({arguments(args)})"
        text = self.database.query(sql).rows[0][0]
        count(self.database.edition)
        got = parse_body(text)
        assert got == expected, f"{self.database.edition}: {sql}"
        if self.dialect == "sqlite":
            assert keys_in_order(got) == keys_in_order(expected), sql
        return got

    def value(self, sql, expected):
        """Compares one plain value."""
        got = self.database.query(sql).rows[0][0]
        count(self.database.edition)
        assert got == expected, f"{self.database.edition}: {sql}"

    def every_report(self, user, zone, as_of, days=30, agent=None, bodies=True):
        """All reports of one user, zone and instant; `as_of` in microseconds."""
        text = orc.iso(as_of)

        def both(name, *head):
            tail, told = (zone, text), (zone, as_of)
            self.report(name, *head, *tail, oracle_args=head + told)

        def body(name, *head):
            self.body(name, *head, zone, text, oracle_args=head + (zone, as_of))

        both("summary", user)
        both("history", user, days, agent)
        both("by_agent", user, days)
        both("by_model", user, days)
        both("by_provider", user, days)
        for period in ("day", "week", "month", "year", "all"):
            both("totals", user, period, agent)
        if bodies:
            body("summary_json", user)
            body("history_json", user, days, agent)
            body("by_agent_json", user, days)
            body("by_model_json", user, days)
            for period in ("day", "week", "month", "year", "all"):
                body("totals_json", user, period, agent)


# -- ledgers --------------------------------------------------------------------------------------

def stored_time(rng, at, dialect):
    """One of the forms that created_at may be stored in, for an instant."""
    if at is None:
        return None
    text = orc.iso(at)
    if dialect == "pg":
        return text
    form = rng.randrange(8)
    if form == 0 and at % 10**6 == 0 and 0 <= at < 10**17:
        return at // 10**6
    if form == 1 and at % 1000 == 0 and at // 1000 >= 10**11:
        return at // 1000
    if form == 2 and at >= 0:
        real = at / 10**6
        if Decimal(repr(real)) * 10**6 // 1 == at:
            return real
    if form == 3:
        minutes = rng.choice((0, 180, 330, 345, -570, 825, -1425, 1439, -300))
        shifted = at + minutes * 60 * 10**6
        if 0 <= shifted:
            sign = "-" if minutes < 0 else "+"
            hours, rest = divmod(abs(minutes), 60)
            return (orc.iso(shifted)[:-1] + rng.choice(("", " ")) + f"{sign}{hours:02d}:{rest:02d}")
    body = text[:-1]
    if form == 4 and body.endswith(":00"):
        body = body[:-3]
    if "." in body and rng.random() < 0.3:
        body += rng.choice(("0", "9", "999", "000001"))
    if rng.random() < 0.5:
        body = body.replace("T", " ")
    return body + rng.choice(("", "", "Z", " Z"))


def load(database, rows, rng=None, time=None, money=None):
    """Inserts rows. `time(row)` and `money(value)` may choose the stored form."""
    rng = rng or random.Random(1)
    sqlite = database.dialect == "sqlite"

    def cost(value):
        if value is None or money is None:
            return float(value) if sqlite and value is not None else value
        return money(value)

    table = []
    for r in rows:
        values = {name: getattr(r, name) for name in COLUMNS}
        values["cost_usd"], values["cost_rub"] = cost(r.cost_usd), cost(r.cost_rub)
        if sqlite and isinstance(r.execution_time_ms, Decimal):
            values["execution_time_ms"] = float(r.execution_time_ms)
        values["created_at"] = (time(r) if time else
                                stored_time(rng, r.created_at, database.dialect))
        table.append(tuple(values[name] for name in COLUMNS))
    columns = list(COLUMNS)
    if not sqlite:
        # Explicit ids, as a restore writes them; the identity column takes them in any kind.
        database.query("ALTER TABLE token_usage ALTER COLUMN id SET GENERATED BY DEFAULT"
                       if _identity(database) else "SELECT 1")
    if table:
        database.insert("token_usage", columns, table)


def _identity(database):
    return database.query(
        "SELECT 1 FROM pg_catalog.pg_attribute WHERE attrelid = 'token_usage'::regclass "
        "AND attname = 'id' AND attidentity = 'a'").rows


def row(ident, at, **values):
    """A row with ordinary values where none are given; `at` is an instant or its text."""
    defaults = dict(id=ident, user_id=42, agent_id="writer", ai_provider="openai",
                    ai_model="gpt-4o", prompt_tokens=10, completion_tokens=5,
                    cost_usd=Decimal("0.01"), cost_rub=Decimal("0.95"), execution_time_ms=100,
                    created_at=orc.instant(at) if isinstance(at, str) else at)
    defaults.update(values)
    if "total_tokens" not in values:
        defaults["total_tokens"] = ((defaults["prompt_tokens"] or 0)
                                    + (defaults["completion_tokens"] or 0))
    return orc.Row(**defaults)


ZONES = ("UTC", "America/New_York", "Europe/Berlin", "Europe/Moscow", "Australia/Lord_Howe",
         "America/Sao_Paulo", "Asia/Kolkata", "Asia/Kathmandu", "Pacific/Kiritimati",
         "America/St_Johns", "America/Havana", "Pacific/Apia", "Africa/Monrovia",
         "Pacific/Marquesas", "Africa/Casablanca", "Etc/GMT+12", "Asia/Tehran", "Europe/Dublin")
AGENTS = ("writer", "Writer", "editor", "researcher", "über", "Zebra", "zebra", "агент", "a b",
          "a-b", "a_b", "élan", "\U0001f600")
MODELS = (("openai", "gpt-4o"), ("openai", "gpt-4o-mini"), ("anthropic", "claude"),
          ("Anthropic", "claude"), ("huggingface", "llama"), ("openai", "GPT-4o"))
COSTS = tuple(Decimal(t) for t in (
    "0", "0.1", "0.2", "0.3", "0.000000000001", "0.000028", "999999.99", "123456789.123456",
    "1", "10", "0.07", "1.005", "2.675", "33.333333333333", "0.000000333333"))


def random_rows(rng, number, base, users=(42, 7, 10**12), span_days=70):
    """Rows whose times crowd around local midnights of the zones."""
    rows = []
    day = 86400 * 10**6
    for ident in range(1, number + 1):
        pick = rng.random()
        if pick < 0.5:
            ordinal = orc.EPOCH.toordinal() + (base // day) + rng.randrange(-span_days, 5)
            at = orc.start_of_day(rng.choice(ZONES), ordinal) + rng.choice(
                (-1, 0, 1, -1000, 10**6, -10**6, 59 * 10**6))
        elif pick < 0.6 and rows:
            at = rng.choice(rows).created_at
        else:
            at = base - rng.randrange(span_days * day) + 4 * day
            if rng.random() < 0.5:
                at -= at % rng.choice((10**6, 1000, 60 * 10**6))
        provider, model = rng.choice(MODELS)
        prompt, completion = rng.randrange(0, 5000), rng.randrange(0, 900)
        cost = rng.choice(COSTS) if rng.random() < 0.9 else None
        rows.append(row(
            ident, at, user_id=rng.choice(users), agent_id=rng.choice(AGENTS),
            ai_provider=provider, ai_model=model, prompt_tokens=prompt,
            completion_tokens=completion, cost_usd=cost,
            cost_rub=None if cost is None or rng.random() < 0.1 else
            (rng.choice(COSTS) if rng.random() < 0.5 else Decimal(str(rng.randrange(10**9)))
             .scaleb(-rng.randrange(0, 9))),
            execution_time_ms=rng.choice((None, 0, 1, 2, rng.randrange(20000))),
            platform=rng.choice((None, "web", "telegram")),
            content_type=rng.choice((None, "article", "it's")),
            task_type=rng.choice((None, "draft")), workflow_id=rng.choice((None, "wf-1")),
            request_id=rng.choice((None, f"req-{ident}")), endpoint=rng.choice((None, "/v1/x"))))
    rng.shuffle(rows)
    return rows
