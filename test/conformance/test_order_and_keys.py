"""Rules 8 and 11: order by UTF-8 bytes, ties, user ids of three types, NULL keys of adopted tables."""
from decimal import Decimal

import pytest

import oracle as orc
from harness import Case, load, row
from support import postgres

AT = "2025-10-20 10:00:00"
AS_OF = orc.instant("2025-10-20 12:00:00")
# ICU would put these in another order: case, accents, punctuation and blanks count little there.
NAMES = ("a", "A", "b", "B", "ab", "a b", "a-b", "a_b", "aB", "z", "Z", "é", "e", "E", "ß", "ss",
         "1", "10", "2", "Ω", "Я", "я", "\U0001f600", "\uffff", "~", " ", "!")


def equal_rows():
    return [row(i, AT, agent_id=n, ai_provider=n, ai_model=NAMES[-i])
            for i, n in enumerate(NAMES, 1)]


def compare(database, rows):
    case = Case(database, rows)
    case.every_report(42, "UTC", AS_OF, days=1)
    for name in NAMES[:6]:
        case.report("history", 42, 1, name, "UTC", orc.iso(AS_OF),
                    oracle_args=(42, 1, name, "UTC", AS_OF))
        case.value(f"SELECT token_usage_detailed_count(42, '{name}')", 1)


def test_ties_fall_in_byte_order(database):
    rows = equal_rows()
    load(database, rows)
    compare(database, rows)


def test_order_in_a_database_of_icu(pg):
    if postgres.server_version() < 15:
        pytest.skip("PostgreSQL before 15 has no ICU databases; "
                    "test_order_of_icu_columns covers ICU there")
    database = pg.database(options="TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'")
    try:
        rows = equal_rows()
        load(database, rows)
        assert database.query("SELECT 'a' < 'B', 'B' < 'a'").rows == [(True, False)]
        compare(database, rows)
    finally:
        database.close()


def test_order_of_icu_columns(pg):
    """Columns that the application made with a collation of its own, a nondeterministic one too."""
    database = pg.database(migrate=False)
    try:
        database.query("CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', "
                       "deterministic = false)")
        database.query("CREATE TABLE token_usage (id bigint PRIMARY KEY, user_id bigint, "
                       "agent_id text COLLATE loose, ai_provider text COLLATE \"en-x-icu\", "
                       "ai_model text COLLATE loose)")
        database.query("SELECT token_usage_migrate()")
        rows = equal_rows()
        load(database, rows)
        compare(database, rows)
    finally:
        database.close()


def test_sqlite_columns_with_a_collation(sqlite):
    database = sqlite.database(migrate=False)
    try:
        database.query("CREATE TABLE token_usage (id INTEGER PRIMARY KEY, user_id INTEGER, "
                       "created_at TIMESTAMP, agent_id TEXT COLLATE NOCASE, "
                       "ai_provider TEXT COLLATE RTRIM, ai_model TEXT COLLATE NOCASE)")
        database.query("SELECT token_usage_migrate()")
        rows = equal_rows()
        load(database, rows)
        compare(database, rows)
    finally:
        database.close()


@pytest.mark.parametrize("kind,ids", [
    ("bigint", [42, -1, 0, 2**63 - 1]),
    ("text", ["42", "alice", "Alice", "о'Коннор", "a b", "042", ""]),
    ("uuid", ["550e8400-e29b-41d4-a716-446655440000", "550e8400-e29b-41d4-a716-446655440001"])])
def test_user_ids(edition, kind, ids):
    database = edition.database(user_id_type=kind)
    try:
        rows = [row(i, orc.instant(AT) + i, user_id=ids[i % len(ids)], prompt_tokens=i)
                for i in range(1, 40)]
        load(database, rows)
        case = Case(database, rows)
        for user in ids:
            case.every_report(user, "UTC", AS_OF, days=2)
            case.report("detailed", user, 7)
            case.body("detailed_json", user, 7)
            case.value(f"SELECT token_usage_detailed_count({sql(user)})",
                       case.oracle.detailed_count(user))
    finally:
        database.close()


def sql(user):
    return str(user) if isinstance(user, int) else "'" + user.replace("'", "''") + "'"


def test_text_finds_the_number(database):
    """Rule 11: '42' finds 42."""
    rows = [row(1, AT), row(2, AT, user_id=43)]
    load(database, rows)
    for user in ("42", "'42'"):
        assert database.query(f"SELECT requests_count FROM token_usage_totals({user}, 'all')").rows \
            == [(1,)]
        assert database.query(f"SELECT token_usage_detailed_count({user})").rows == [(1,)]
        assert len(database.query(f"SELECT * FROM token_usage_detailed({user})").rows) == 1


def test_user_id_types_of_the_call(pg):
    """bigint, text and uuid arguments on ledgers of each type."""
    uuid = "550e8400-e29b-41d4-a716-446655440000"
    for kind, user, calls in (
            ("bigint", 42, ("42", "42::bigint", "42::integer", "42::smallint", "'42'::text", "'42'")),
            ("text", uuid, (f"'{uuid}'", f"'{uuid}'::text", f"'{uuid}'::uuid", f"'{uuid}'::varchar")),
            ("text", "42", ("42", "'42'")),
            ("uuid", uuid, (f"'{uuid}'", f"'{uuid}'::text", f"'{uuid}'::uuid",
                            f"'{uuid.upper()}'"))):
        database = pg.database(user_id_type=kind)
        try:
            load(database, [row(1, AT, user_id=user)])
            for call in calls:
                for name in ("summary", "history", "by_agent", "by_model", "by_provider", "totals"):
                    assert database.query(
                        f"SELECT max(requests_count) FROM token_usage_{name}({call}, as_of => "
                        f"'2025-10-20T12:00:00Z')").rows == [(1,)], (kind, call, name)
                assert database.query(f"SELECT token_usage_detailed_count({call})").rows == [(1,)]
                assert len(database.query(f"SELECT * FROM token_usage_detailed({call})").rows) == 1
        finally:
            database.close()


ADOPTED = {
    "pg": "CREATE TABLE token_usage (id bigint PRIMARY KEY, user_id bigint, agent_id text, "
          "ai_provider text, ai_model text, prompt_tokens integer, completion_tokens integer, "
          "total_tokens integer, cost_usd numeric(10,4), cost_rub numeric(10,2), "
          "execution_time_ms double precision, created_at timestamp)",
    "sqlite": "CREATE TABLE token_usage (id INTEGER PRIMARY KEY, user_id INTEGER, agent_id TEXT, "
              "ai_provider TEXT, ai_model TEXT, prompt_tokens INTEGER, completion_tokens INTEGER, "
              "total_tokens INTEGER, cost_usd FLOAT, cost_rub FLOAT, execution_time_ms FLOAT, "
              "created_at DATETIME)"}


def test_nulls_in_an_adopted_table(edition):
    """NULL keys are a group of their own, last in ascending order; NULL counts are 0, a NULL total is
    prompt + completion; no filter matches a NULL agent; a row without a time is in no report."""
    database = edition.database(migrate=False)
    try:
        database.query(ADOPTED[edition.dialect])
        database.query("SELECT token_usage_migrate()")
        rows = [row(1, AT, agent_id=None), row(2, AT, ai_provider=None),
                row(3, AT, ai_model=None), row(4, AT, agent_id=None, ai_provider=None,
                                               ai_model=None, execution_time_ms=None),
                row(5, AT), row(6, None), row(7, None, agent_id=None),
                row(8, AT, agent_id="z"), row(9, AT, agent_id="NULL"), row(10, AT, agent_id=""),
                row(11, AT, execution_time_ms=Decimal("0.5"), agent_id="half"),
                row(12, AT, execution_time_ms=Decimal("1.25"), agent_id="two"),
                row(13, AT, execution_time_ms=Decimal("1.75"), agent_id="two")]
        load(database, rows, time=lambda r: None if r.created_at is None else
             orc.iso(r.created_at)[:-1])
        case = Case(database, rows)
        for agent in (None, "writer", "NULL", ""):
            case.every_report(42, "UTC", AS_OF, days=2, agent=agent)
            case.value("SELECT token_usage_detailed_count(42, "
                       + ("NULL" if agent is None else f"'{agent}'") + ")",
                       case.oracle.detailed_count(42, agent))
    finally:
        database.close()


def test_null_counts_in_an_adopted_table(edition):
    database = edition.database(migrate=False)
    try:
        database.query(ADOPTED[edition.dialect])
        database.query("SELECT token_usage_migrate()")
        rows = [row(1, AT, prompt_tokens=None, completion_tokens=None, total_tokens=None),
                row(2, AT, prompt_tokens=7, completion_tokens=None, total_tokens=None),
                row(3, AT, prompt_tokens=None, completion_tokens=None, total_tokens=9),
                row(4, AT, prompt_tokens=1, completion_tokens=2, total_tokens=50)]
        load(database, rows)
        Case(database, rows).every_report(42, "UTC", AS_OF, days=2)
    finally:
        database.close()


def test_detailed_order_on_ties(database):
    rows = [row(i, orc.instant(AT) + (i % 3)) for i in range(1, 60)]
    load(database, rows)
    case = Case(database, rows)
    for limit in (1, 7, 100):
        for offset in (0, 1, 58, 59, 60):
            case.report("detailed", 42, limit, offset)
            case.body("detailed_json", 42, limit, offset)


def test_detailed_of_a_ledger_with_text_or_uuid_ids(edition):
    """Ties by bytes of the id."""
    for kind, ids in (("text", ["b", "a", "B", "10", "9", "é", "z"]),
                      ("uuid", [f"00000000-0000-0000-0000-{n:012x}" for n in (5, 1, 255, 16)])):
        database = edition.database(migrate=False)
        try:
            database.query(f"CREATE TABLE token_usage (id {kind} PRIMARY KEY, user_id bigint, "
                           + ("created_at timestamptz)" if edition.dialect == "pg"
                              else "created_at TIMESTAMP)"))
            database.query("SELECT token_usage_migrate()")
            rows = [row(i, AT) for i in ids]
            load(database, rows)
            case = Case(database, rows)
            for limit, offset, after in ((10, 0, None), (2, 1, None), (2, 0, rows[1]),
                                         (10, 1, rows[0])):
                words = (42, limit, offset, None, None, None,
                         after and orc.cursor(after))
                told = (42, limit, offset, None, None, None, after)
                case.body("detailed_json", *words, oracle_args=told)
                if edition.dialect == "sqlite":
                    case.report("detailed", *words, oracle_args=told)
                else:
                    from harness import arguments
                    case._compare(f"SELECT * FROM token_usage_detailed_text({arguments(words)})",
                                  case.oracle.detailed(*told))
        finally:
            database.close()
