"""PostgreSQL native: reports on users who have few rows, which are read without a query (pg_ext/few_reports.cpp).

Each is compared with the report that it stands before, whose name has _any behind it, and that with the ledger. Which of both gives an
answer is seen by a trap: an error in place of the other one."""
import psycopg2
import pytest

from rollup.test_keep_pg import Session, other, role
from rollup.test_kept_pg import migrate

REPORTS = ("summary({u}, NULL, NULL)", "summary({u}, 'utc', now() - interval '40 days')", "history({u}, 30, NULL, NULL, NULL)",
           "history({u}, 400, 'agent 1', NULL, NULL)", "by_agent({u}, NULL, 60, NULL, NULL, NULL)", "by_agent({u}, 'agent 2', NULL, 'year', NULL, NULL)",
           "by_agent({u}, NULL, NULL, 'all', NULL, NULL)", "by_model({u}, 400, NULL, NULL)", "by_provider({u}, 400, NULL, NULL)",
           "totals({u}, 'day', NULL, NULL, NULL)", "totals({u}, 'week', NULL, NULL, now() - interval '3 days')", "totals({u}, 'month', NULL, NULL, NULL)",
           "totals({u}, 'year', 'agent 1', NULL, NULL)", "totals({u}, 'all', NULL, NULL, NULL)", "detailed({u}, 100, 0, NULL, NULL, NULL, NULL)",
           "detailed({u}, 3, 4, NULL, now() - interval '1 year', now() - interval '2 days', NULL)", "detailed_count({u}, NULL, NULL, NULL)",
           "detailed_count({u}, 'agent 1', now() - interval '200 days', now() - interval '1 day')")
COLUMNS = "user_id, agent_id, ai_provider, ai_model, prompt_tokens, completion_tokens, total_tokens, cost_usd, cost_rub, execution_time_ms, created_at"
ROWS = ("SELECT {u}, 'agent ' || i % 3, (ARRAY['p', 'q', '', 'p'])[i % 4 + 1], 'model ' || i % 5, i, i % 7, i + i % 7,"
        " CASE WHEN i % 6 > 0 THEN i * 0.0000123 END, (i % 4) * 1.50, CASE WHEN i % 5 > 0 THEN i * 3 END, now() - i * interval '{step}'"
        " FROM generate_series({first}, {last}) i")


@pytest.fixture
def place(native):
    database = native.database()
    session = Session(native.server, database.name)
    session.pg, session.name = native, database.name
    fill(session)
    yield session
    session.close()
    database.close()


def fill(session):
    for user, last in ((1, 11), (2, 120), (3, 1400)):
        insert(session, user, last)


def insert(session, user, last, first=0, step="31 hours"):
    session(f"INSERT INTO token_usage ({COLUMNS}) {ROWS.format(u=user, first=first, last=last, step=step)}")


def call(report, user, behind=""):
    name, arguments = report.split("(", 1)
    return f"SELECT * FROM public._token_usage_{name}{behind}(current_schemas(false), {arguments}".format(u=f"'{user}'")


def answer(session, sql):
    try:
        return session(sql)
    except psycopg2.Error as error:
        return error.pgcode, str(error)


def same(session, users=(1, 2, 3, 4)):
    """Both ways give the same, and all rows of the ledger are in it."""
    for user in users:
        for report in REPORTS:
            assert answer(session, call(report, user)) == answer(session, call(report, user, "_any")), (report, user)


def trap(session):
    """Puts an error in place of what hands are passed on to."""
    for text, in session("SELECT pg_get_functiondef(p.oid) FROM pg_proc p WHERE p.proname ~ '^_token_usage_.*_any$'"):
        here = text.index("\nBEGIN\n") + len("\nBEGIN\n")
        session.pg.superuser(f"{text[:here]} RAISE EXCEPTION 'trapped'; {text[here:]}", database=session.name)


def handed_on(session, report, user):
    got = answer(session, call(report, user))
    return isinstance(got, tuple) and "trapped" in got[1]


def cursor_of(micros, row_id):
    return f"1|{micros}|{row_id}".encode().hex()


def test_as_any_other_report(place):
    same(place)
    # By hand, so that both cannot be wrong in the same way.
    for user in (1, 2):
        (want,), = place(f"SELECT (count(*), sum(prompt_tokens), sum(completion_tokens), sum(total_tokens), sum(cost_usd)::numeric, sum(cost_rub),"
                         f" count(*) - count(cost_usd), round(avg(execution_time_ms)))::text FROM token_usage WHERE user_id = {user}")
        (have,), = place(f"SELECT (requests_count, prompt_tokens, completion_tokens, total_tokens, cost_usd, cost_rub, unpriced_count, avg_execution_time_ms)::text"
                         f" FROM token_usage_totals({user}, 'all')")
        assert [float(v) for v in have.strip("()").split(",")] == [float(v) for v in want.strip("()").split(",")]
        assert [r[0] for r in place(f"SELECT id FROM token_usage_detailed({user}, 500)")] == \
            [r[0] for r in place(f"SELECT id FROM token_usage WHERE user_id = {user} ORDER BY created_at DESC, id DESC")]


def test_who_is_served(place):
    trap(place)
    for user, served in ((1, True), (2, True), (3, False), (4, True)):
        assert [r for r in REPORTS if handed_on(place, r, user) != (not served and ("'all'" in r or "summary" in r or "count({u}, N" in r))
                and (served or "400" not in r and "year" not in r)] == [], user
    assert not handed_on(place, "detailed({u}, 100, 0, NULL, NULL, NULL, NULL)", 3)
    assert not handed_on(place, f"detailed({{u}}, 100, 0, NULL, NULL, NULL, '{cursor_of(1735689600000000, 7)}')", 3)
    # An error is told by those who know its text; other zones and pages of an agent are theirs too.
    for report in ("summary({u}, 'Mars', NULL)", "summary({u}, 'Europe/Moscow', NULL)", "history({u}, 0, NULL, NULL, NULL)", "totals({u}, 'moon', NULL, NULL, NULL)",
                   "summary({u}, NULL, '0900-01-01')", "detailed({u}, 501, 0, NULL, NULL, NULL, NULL)", "detailed({u}, 5, 0, 'agent 1', NULL, NULL, NULL)",
                   "detailed({u}, 5, 0, NULL, NULL, NULL, 'abc')"):
        assert handed_on(place, report, 1), report
    for user in ("x", "99999999999999999999", " 1"):
        assert handed_on(place, REPORTS[0], user)
    place("SELECT token_usage_set('time_zone', 'Asia/Kolkata')")
    assert handed_on(place, REPORTS[0], 1)
    place("SELECT token_usage_set('time_zone', 'UTC')")
    assert not handed_on(place, REPORTS[0], 1)


def test_as_of_before_2000_and_rows_of_no_time(place):
    place(f"INSERT INTO token_usage ({COLUMNS}) SELECT 5, 'a', 'p', 'm', 1, 1, 2, 'NaN', 1.0000000000005, NULL, t FROM unnest(ARRAY['-infinity', 'infinity',"
          " '1999-12-31 23:59:59.999999', '2000-01-01', '1999-12-31', '1999-12-27']::timestamptz[]) t")
    same(place, (5,))
    for at in ("1999-12-31 23:59:59.999999+00", "2000-01-01 00:00+00", "1999-12-27 00:00+00", "2024-02-29 12:00+00"):
        for report in ("summary({u}, NULL, '%s')", "history({u}, 9, NULL, NULL, '%s')", "totals({u}, 'week', NULL, NULL, '%s')", "totals({u}, 'year', NULL, NULL, '%s')"):
            assert place(call(report % at, 5)) == place(call(report % at, 5, "_any")), (report, at)


def test_sums_past_bounds(place):
    """Past 64 bits is the error; money past what the library adds up is the server's."""
    place(f"INSERT INTO token_usage ({COLUMNS}) SELECT 6, 'a', 'p', 'm', 9223372036854775807, 0, 9223372036854775807, 1, 1, 1, now() FROM generate_series(1, 2)")
    place(f"INSERT INTO token_usage ({COLUMNS}) SELECT 7, 'a', 'p', 'm', 1, 0, 1, 1e30, 1, 1, now() FROM generate_series(1, 2)")
    same(place, (6, 7))
    assert answer(place, "SELECT * FROM token_usage_summary(6)")[0] == "22003"
    assert answer(place, "SELECT cost_usd FROM token_usage_totals(7, 'all')") == [(2 * 10 ** 30,)]


@pytest.mark.parametrize("change, served", (
    ("ALTER TABLE token_usage ALTER cost_usd TYPE double precision", False), ("ALTER TABLE token_usage ALTER user_id TYPE integer", True),
    ("ALTER TABLE token_usage ALTER agent_id TYPE short", False),
    ("ALTER TABLE token_usage ALTER prompt_tokens TYPE integer", True),
    ("ALTER TABLE token_usage ALTER total_tokens DROP NOT NULL; UPDATE token_usage SET total_tokens = NULL WHERE id % 3 = 0", True),
    ("ALTER TABLE token_usage ALTER agent_id DROP NOT NULL; UPDATE token_usage SET agent_id = NULL WHERE id % 3 = 0", True),
    ("DROP INDEX idx_token_usage_user_date", False), ("CREATE TABLE child () INHERITS (token_usage)", False),
    ("ALTER TABLE token_usage DROP COLUMN endpoint", False), ("DROP INDEX idx_token_usage_user_date; CREATE INDEX ON token_usage (user_id, created_at)", True)))
def test_other_ledgers(place, change, served):
    """What was found out about a ledger is found out anew when it changes, in every session."""
    second = other(place, "app")
    for session in (place, second):
        same(session, (1,))
    place("CREATE DOMAIN short AS text; CREATE COLLATION same (provider = icu, locale = 'und', deterministic = false)")
    place("ALTER TABLE token_usage DROP CONSTRAINT check_total_tokens_sum")
    for statement in change.split("; "):
        place(statement)
    if "child" in change:
        place(f"INSERT INTO child (id, {COLUMNS}) {ROWS.format(u=1, first=20, last=25, step='1 hour').replace('SELECT', 'SELECT -i,', 1)}")
    for session in (place, second):
        same(session, (1, 2))
    trap(place)
    for session in (place, second):
        session.pg, session.name = place.pg, place.name
        assert handed_on(session, REPORTS[0], 1) != served
    second.close()


@pytest.mark.parametrize("key, one", (("text", "é"), ("varchar(20)", "u 1"), ("text COLLATE same", "u"), ("char(4)", "u"),
                                      ("uuid", "0a0b0c0d-0000-4000-8000-00000000000f"), ("smallint", "7")))
def test_other_keys(place, key, one):
    """Ledgers that were there before us, with times without zone."""
    place("CREATE COLLATION same (provider = icu, locale = 'und', deterministic = false)")
    place("CREATE SCHEMA theirs")
    place("CREATE TABLE theirs.token_usage (LIKE token_usage INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING IDENTITY)")
    place(f"ALTER TABLE theirs.token_usage ALTER created_at DROP DEFAULT, ALTER created_at TYPE timestamp, ALTER user_id TYPE {key} USING NULL")
    migrate(place, "theirs")
    insert(place, f"'{one}'::text::{key.split(' COLL')[0]}", 30)
    same(place, (one, one.upper(), one + " ", "{" + one + "}", ""))
    assert answer(place, call("detailed_count({u}, NULL, NULL, NULL)", one)) == [(31,)]
    trap(place)
    assert handed_on(place, REPORTS[0], one) == (key not in ("text", "varchar(20)", "uuid"))


def test_rights(place):
    """Row security, columns and none: the database's own answer, and no row that it hides."""
    reader = role(place, "reader", "GRANT SELECT ON token_usage TO {}")
    name = reader.connection.info.user
    whole = reader("SELECT requests_count FROM token_usage_totals(1, 'all')")
    assert whole == [(12,)]
    place(f"CREATE POLICY one ON token_usage TO {name} USING (agent_id = 'agent 1')")
    place("ALTER TABLE token_usage ENABLE ROW LEVEL SECURITY")
    same(reader, (1,))
    assert reader("SELECT requests_count FROM token_usage_totals(1, 'all')") == [(4,)] == reader("SELECT token_usage_detailed_count(1)")
    assert len(reader("SELECT * FROM token_usage_detailed(1)")) == 4
    assert place("SELECT requests_count FROM token_usage_totals(1, 'all')") == whole
    place("ALTER TABLE token_usage DISABLE ROW LEVEL SECURITY")
    place(f"REVOKE SELECT ON token_usage FROM {name}")
    place(f"GRANT SELECT (user_id, created_at, agent_id) ON token_usage TO {name}")
    for sql in ("SELECT * FROM token_usage_summary(1)", "SELECT * FROM token_usage_detailed(1)"):
        assert answer(reader, sql)[0] == "42501"
    place(f"GRANT SELECT ON token_usage TO {name}")
    place("REVOKE SELECT ON token_usage_settings FROM PUBLIC")
    assert answer(reader, "SELECT * FROM token_usage_summary(1)")[0] == "42501"
    reader.close()


def test_what_the_transaction_sees(place):
    """Own rows that are not committed, rows that are gone, and none that others wrote after the snapshot; from a trigger too."""
    second = other(place, "app")
    second("BEGIN ISOLATION LEVEL REPEATABLE READ")
    assert second("SELECT token_usage_detailed_count(1)") == [(12,)]
    insert(place, 1, 2, step="1 minute")
    place("DELETE FROM token_usage WHERE user_id = 1 AND agent_id = 'agent 2' AND created_at < now() - interval '1 day'")
    same(place, (1,))
    same(second, (1,))
    assert second("SELECT token_usage_detailed_count(1)") == [(12,)]
    second("ROLLBACK")
    place("BEGIN")
    place("UPDATE token_usage SET user_id = 4 WHERE user_id = 2 AND agent_id = 'agent 1'")
    same(place)
    place("ROLLBACK")
    place("CREATE TABLE seen (n bigint); CREATE FUNCTION budget() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
          " INSERT INTO seen SELECT requests_count FROM token_usage_totals(new.user_id, 'all'); RETURN NULL; END $$;"
          "CREATE TRIGGER budget AFTER INSERT ON token_usage FOR EACH ROW EXECUTE FUNCTION budget()")
    insert(place, 8, 2)
    assert place("SELECT max(n) FROM seen") == [(3,)]
    second.close()


def test_a_path_of_one_s_own(place):
    """The first ledger of the path is meant, and what stands in it under the names of operators is not called."""
    place("CREATE SCHEMA near")
    migrate(place, "near")
    insert(place, 1, 1)
    place("CREATE FUNCTION near.wrong(bigint, bigint) RETURNS boolean LANGUAGE sql AS 'SELECT false';"
          "CREATE OPERATOR near.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = near.wrong)")
    assert place("SELECT requests_count FROM token_usage_totals(1, 'all')") == [(2,)]
    same(place, (1,))
    place("SET search_path = public")
    assert place("SELECT requests_count FROM token_usage_totals(1, 'all')") == [(12,)]
    place("SET search_path = pg_catalog")
    assert answer(place, "SELECT * FROM public.token_usage_totals(1, 'all')")[0] == "42P01"


def test_order_among_equals(place):
    """A page of rows of one time goes by id, also where it ends among them."""
    place(f"INSERT INTO token_usage ({COLUMNS}) {ROWS.format(u=9, first=1, last=40, step='0 seconds')}")
    for size, offset in ((10, 0), (10, 10), (40, 0), (7, 30), (100, 39), (100, 41)):
        report = f"detailed({{u}}, {size}, {offset}, NULL, NULL, NULL, NULL)"
        rows = place(call(report, 9))
        assert rows == place(call(report, 9, "_any"))
        assert [r[0] for r in rows] == sorted((r[0] for r in rows), reverse=True) and len(rows) == max(min(size, 40 - offset), 0)
    assert place("SELECT date FROM token_usage_history(9, 1)") == [(place("SELECT timezone('UTC', now())::date")[0][0],)]


def test_pages_by_cursor(place):
    """Page by page as any other, also among rows of one time, from a row that is gone, and within bounds."""
    place(f"INSERT INTO token_usage ({COLUMNS}) {ROWS.format(u=9, first=1, last=40, step='0 seconds')}")
    place(f"INSERT INTO token_usage ({COLUMNS}) {ROWS.format(u=9, first=1, last=40, step='1 hour')}")
    for user, count in ((1, 12), (2, 121), (9, 80)):
        for limit in (1, 7, 40, 500):
            listed, after = [], "NULL"
            while True:
                report = f"detailed({{u}}, {limit}, 0, NULL, NULL, NULL, {after})"
                rows = place(call(report, user))
                assert rows == place(call(report, user, "_any"))
                listed += [r[0] for r in rows]
                if len(rows) < limit:
                    break
                after = f"'{rows[-1][-1]}'"
            assert listed == [r[0] for r in place(f"SELECT id FROM token_usage WHERE user_id = {user} ORDER BY created_at DESC, id DESC")]
            assert len(listed) == count
    for row_id, cursor in place(call("detailed({u}, 500, 0, NULL, NULL, NULL, NULL)", 9).replace("*", "id, cursor"))[::9]:
        place(f"DELETE FROM token_usage WHERE id = {row_id}")
        for offset, start, end in ((0, "NULL", "NULL"), (3, "NULL", "NULL"), (0, "now() - interval '5 hours'", "NULL"), (0, "NULL", "now() - interval '9 hours'"),
                                   (1, "now() - interval '20 hours'", "now() - interval '1 minute'")):
            report = f"detailed({{u}}, 10, {offset}, NULL, {start}, {end}, '{cursor}')"
            assert place(call(report, 9)) == place(call(report, 9, "_any"))


@pytest.mark.parametrize("text", [cursor_of(0, 0), cursor_of(-1, -1), cursor_of(2**63 - 1, 1), cursor_of(-2**63, 1), cursor_of(2**63, 1), cursor_of(1, 2**63), cursor_of(1, -2**63),
                                  cursor_of(9223371331199999999, 1), cursor_of(9223371331200000000, 1), cursor_of(-210866803200000000, 1),
                                  cursor_of(-210866803200000001, 1), cursor_of("007", 1), cursor_of(1, "007"), cursor_of(1, "-0"), cursor_of(1, "+1"), cursor_of(1, " 1"),
                                  cursor_of(1, ""), cursor_of("", 1), cursor_of(1, "1|1"), cursor_of(1, "1\0"), "317C317c31", cursor_of(4e9, 1),
                                  cursor_of(1, 1)[:-1], cursor_of(1, 1) + "zz", "", "31", "317c", "ff", "é", "323c7c31"])
def test_any_cursor(place, text):
    report = f"detailed({{u}}, 10, 0, NULL, NULL, NULL, '{text}')"
    assert answer(place, call(report, 2)) == answer(place, call(report, 2, "_any"))


def test_very_many_rows_of_one_time(place):
    """They are left to the query, which gives the same."""
    place(f"INSERT INTO token_usage ({COLUMNS}) {ROWS.format(u=9, first=1, last=2300, step='0 seconds')}")
    (low, high, micros), = place("SELECT min(id), max(id), (extract(epoch FROM max(created_at)) * 1000000)::bigint FROM token_usage WHERE user_id = 9")
    reports = [f"detailed({{u}}, 10, 0, NULL, NULL, NULL, '{cursor_of(micros, at)}')" for at in (low + 20, high - 20)]
    for report in reports:
        rows = place(call(report, 9))
        assert rows == place(call(report, 9, "_any")) and len(rows) == 10
    trap(place)
    assert all(handed_on(place, report, 9) for report in reports)
