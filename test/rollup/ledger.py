"""What the rollup tests share: small thresholds, random writes, and the comparison with the ledger.

A ledger in production rolls a month up when it holds 64 rows or more, and seals 256 rows at a time.
`shrink` rewrites the functions that migrate made so that a handful of rows is enough, and every
fourth write maintains; then a short random stream walks through every path. What is compared is
always the rollups' answer against plain SQL over the ledger, written here by hand.
"""
from decimal import Decimal

SMALL = (("c < 64", "c < 4"), ("c >= 5 * g", "c >= g"), ("c >= 250", "c >= 8"),
         ("c >= 2000 AND c >= 200 * g", "c >= 12"), ("c >= 7000", "c >= 16"),
         ("c >= 20000 AND c >= 2600 * g", "c >= 24"), ("256", "4"), ("128", "4"), ("late < 64", "late < 3"), (", 64, ", ", 3, "), ("count(*) < 64", "count(*) < 3"),
         ("& 127", "& 3"), ("'0.1 seconds'", "'0 seconds'"), ("4096", "20"), ("8192", "40"))


def shrink(query):
    """Makes the thresholds of the ledger's own functions small. query(sql) returns rows."""
    for (text,) in query("SELECT pg_get_functiondef(p.oid) FROM pg_proc p "
                         "WHERE p.proname LIKE 'token\\_usage\\_rollup\\_%' "
                         "AND p.pronamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'token_usage'::regclass)"):
        for old, new in SMALL:
            text = text.replace(old, new)
        query(text)
    for name, text in query("SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger "
                            "WHERE tgrelid IN ('token_usage'::regclass, 'token_usage_delta'::regclass) "
                            "AND tgname LIKE 'token_usage_rollup%'"):
        table = "token_usage_delta" if name.endswith("commit") else "token_usage"
        if "127" in text or "0.0078125" in text:
            query(f"DROP TRIGGER {name} ON {table}")
            query(text.replace("127", "3").replace("0.0078125", "0.25"))
            query(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}")


KEYS = {"none": "NULL::text, NULL::text", "agent": "agent_id, NULL::text", "model": "ai_provider, ai_model"}


def by_hand(query, user, agent, bounds, dimension):
    """The sums that _token_usage_sums must give, from the ledger alone. Money is half-even at 12 places."""
    money = ("(SELECT CASE WHEN h - floor(h) < 0.5 OR h - floor(h) = 0.5 AND mod(floor(h), 2) = 0 THEN floor(h) "
             "ELSE floor(h) + 1 END * 0.000000000001 FROM (SELECT {}::numeric * 1000000000000 AS h) m)")
    usd, rub = money.format("cost_usd"), money.format("cost_rub")
    return plain(query(f"""
      SELECT width_bucket(created_at, %s::timestamptz[]), {KEYS[dimension]}, count(*), sum(prompt_tokens),
             sum(completion_tokens), sum(total_tokens), coalesce(sum({usd}), 0), coalesce(sum({rub}), 0),
             count(*) FILTER (WHERE cost_usd IS NULL), coalesce(sum(execution_time_ms), 0), count(execution_time_ms)
        FROM token_usage
       WHERE user_id = %s AND created_at >= %s AND created_at < %s AND isfinite(created_at)
         AND (%s::text IS NULL OR agent_id = %s)
       GROUP BY 1, 2, 3""", (bounds, user, bounds[0], bounds[-1], agent, agent)))


def by_rollup(query, user, agent, bounds, dimension):
    """The same through the one spot where every report gets its sums."""
    return plain(query("SELECT * FROM _token_usage_sums('token_usage'::regclass, %s, %s, %s::timestamptz[], %s)",
                       (str(user), agent, bounds, dimension)))


def plain(rows):
    return sorted(([("~" if v is None else v) if not isinstance(v, (int, Decimal)) else Decimal(v).normalize()
                    for v in row] for row in rows), key=repr)


class Writes:
    """Random writes as SQL text, of every kind that the contract names."""

    def __init__(self, rng, users=4, cascade=False):
        """cascade: there is a table users with their ids, which the ledger follows."""
        self.rng, self.users, self.cascade = rng, users, cascade

    def user(self):
        return 1 if self.rng.random() < 0.5 else self.rng.randint(2, self.users)

    def time(self):
        r = self.rng
        kind = r.random()
        if kind < 0.35:
            return "now()"
        if kind < 0.40:
            return f"now() + interval '{r.randint(1, 60)} days'"
        if kind < 0.75:
            return f"now() - interval '{r.randint(0, 3000)} minutes'"
        return f"date_trunc('month', now()) - interval '{r.randint(0, 500)} days' + interval '{r.randint(0, 86399)} seconds'"

    def values(self):
        r = self.rng
        prompt, completion = r.randint(0, 9), r.randint(0, 9)
        cost = "NULL" if r.random() < 0.2 else str(Decimal(r.randint(-5, 99999)) / Decimal(10 ** r.randint(0, 14)))
        cost = cost if "E" not in cost else "0.000000000000500"
        ms = "NULL" if r.random() < 0.3 else r.randint(0, 900)
        return (f"{self.user()}, 'agent {r.randint(1, 3)}', 'p{r.randint(1, 2)}', 'm{r.randint(1, 3)}', {prompt}, {completion}, "
                f"{prompt + completion}, {cost}, {'NULL' if r.random() < 0.2 else r.randint(0, 50) / 4}, {ms}, {self.time()}")

    COLUMNS = ("user_id, agent_id, ai_provider, ai_model, prompt_tokens, completion_tokens, total_tokens, "
               "cost_usd, cost_rub, execution_time_ms, created_at")

    def some(self):
        r = self.rng
        return r.choice(("id = (SELECT id FROM token_usage ORDER BY random() LIMIT 1)",
                         f"user_id = {self.user()} AND id % {r.randint(2, 40)} = 0",
                         f"id IN (SELECT id FROM token_usage ORDER BY random() LIMIT {r.randint(1, 4)})",
                         f"created_at > now() - interval '{r.randint(1, 200)} minutes' AND id % 7 = {r.randint(0, 6)}"))

    def write(self):
        r = self.rng
        kind = r.random()
        if kind < 0.30:
            return f"INSERT INTO token_usage ({self.COLUMNS}) VALUES ({self.values()})"
        if kind < 0.40:
            return (f"INSERT INTO token_usage ({self.COLUMNS}) VALUES "
                    + ", ".join(f"({self.values()})" for _ in range(r.randint(2, 8))))
        if kind < 0.46:
            return (f"INSERT INTO token_usage ({self.COLUMNS}) SELECT {self.COLUMNS} FROM token_usage "
                    f"WHERE {self.some()} LIMIT {r.randint(1, 9)}")
        if kind < 0.52:
            return (f"INSERT INTO token_usage (request_id, {self.COLUMNS}) VALUES ('r{r.randint(1, 30)}', {self.values()}) "
                    + r.choice(("ON CONFLICT DO NOTHING", "ON CONFLICT (request_id) DO UPDATE SET "
                                "prompt_tokens = excluded.prompt_tokens, total_tokens = excluded.prompt_tokens "
                                "+ token_usage.completion_tokens, created_at = excluded.created_at")))
        if kind < 0.56:
            return (f"INSERT INTO token_usage (id, {self.COLUMNS}) VALUES ({r.choice((-1, 1)) * r.randint(10**6, 10**9)}, "
                    f"{self.values()}) ON CONFLICT DO NOTHING")
        if kind < 0.86:
            change = r.choice((
                f"prompt_tokens = prompt_tokens + 1, total_tokens = total_tokens + 1", f"user_id = {self.user()}",
                f"agent_id = 'agent {r.randint(1, 3)}'", f"ai_model = 'm{r.randint(1, 3)}'", f"ai_provider = 'p{r.randint(1, 2)}'",
                "cost_usd = NULL", f"cost_usd = {r.randint(0, 99)}.5", "cost_rub = NULL", "cost_rub = coalesce(cost_rub, 0) + 1.25",
                "execution_time_ms = NULL", f"execution_time_ms = {r.randint(0, 99)}", f"created_at = {self.time()}",
                f"created_at = created_at + interval '{r.randint(-50, 50)} hours'", "id = id + 1000000000",
                "platform = 'web'", "request_metadata = '{}'",
                f"user_id = {self.user()}, agent_id = 'agent 2', created_at = {self.time()}, cost_usd = 3"))
            return f"UPDATE token_usage SET {change} WHERE {self.some()}"
        if kind < 0.985:
            return f"DELETE FROM token_usage WHERE {self.some()}"
        if kind < 0.992:
            user = self.user()
            if self.cascade and r.random() < 0.5:
                return f"DELETE FROM users WHERE id = {user}; INSERT INTO users VALUES ({user})"
            return f"DELETE FROM token_usage WHERE user_id = {user}"
        if kind < 0.995:
            return "DELETE FROM token_usage"
        return "TRUNCATE token_usage"

    def bounds(self):
        """Ascending instants, as text: whole buckets, cut ones, any length, with and without infinity."""
        r = self.rng
        unit, most = r.choice((("month", 500), ("day", 60), ("day", 400), ("hour", 4), ("hour", 100), ("minute", 3), ("minute", 60)))
        n = r.randint(2, 12)
        shift = r.choice(("0", "0", "330 minutes", "3 hours", "17 minutes"))
        text = [f"date_trunc('{unit}', now() - interval '{r.random() * most:.4f} days') + interval '{shift}'" for _ in range(n)]
        text += r.choice(([], [], ["now() + interval '1 day'"], ["'-infinity'"], ["'infinity'"], ["'-infinity'", "'infinity'"]))
        return f"SELECT array_agg(DISTINCT b::timestamptz ORDER BY b::timestamptz)::text[] FROM unnest(ARRAY[{', '.join(text)}]::timestamptz[]) b"
