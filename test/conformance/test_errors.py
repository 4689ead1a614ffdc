"""Rule 9: a wrong argument is an error that names it, with the same text in every edition and
SQLSTATE 22023 on PostgreSQL. And bad input: never a crash, never an empty result that looks like
an answer."""
import pytest

from support.editions import DatabaseError, sql_literal

BIG = 2**63 - 1
DAYS = "a whole number from 1 to 36600"
LIMIT = "a whole number from 1 to 500"
OFFSET = f"a whole number from 0 to {BIG}"
PERIOD = "one of day, week, month, year, all"
ZONE = "an IANA time zone"
TIME = "a time such as 2025-10-20T14:30:25Z"
CURSOR = "a cursor from token_usage_detailed"


def fails(database, sql, message, sqlstate="22023"):
    # Failures are told by hand and cut: some texts here are a megabyte long.
    try:
        rows = str(database.query(sql).rows[:3])
    except DatabaseError as error:
        if error.message != message:
            pytest.fail(f"{database.edition}: {sql[:300]}\ngave {error.message[:400]}\n"
                        f"not  {message[:400]}", pytrace=False)
        if database.dialect == "pg" and error.sqlstate != sqlstate:
            pytest.fail(f"{database.edition}: {sql[:300]}\ngave SQLSTATE {error.sqlstate}, "
                        f"not {sqlstate}", pytrace=False)
    else:
        pytest.fail(f"{database.edition}: {sql[:300]}\ngave {rows[:300]}\n"
                    f"not  {message[:400]}", pytrace=False)


def both(name, arguments):
    """A report and its JSON twin, where the table form is not missing."""
    return (f"SELECT * FROM token_usage_{name}({arguments})",
            f"SELECT token_usage_{name}_json({arguments})")


def must(argument, rule, value):
    return f"token_usage: {argument} must be {rule}, got {value}"


WITH_ZONE = {  # report: the arguments before time_zone
    "summary": "42", "history": "42, 30, NULL", "by_agent": "42, 30", "by_model": "42, 30",
    "totals": "42, 'month', NULL"}


@pytest.mark.parametrize("name", ["summary", "history", "by_agent", "by_model", "totals",
                                  "detailed"])
def test_user_id_null(unchanged, name):
    for sql in both(name, "NULL"):
        fails(unchanged, sql, must("user_id", "given", "NULL"))


def test_user_id_null_elsewhere(unchanged):
    fails(unchanged, "SELECT * FROM token_usage_by_provider(NULL)",
          must("user_id", "given", "NULL"))
    fails(unchanged, "SELECT token_usage_detailed_count(NULL)", must("user_id", "given", "NULL"))


@pytest.mark.parametrize("value", [0, -1, 36601, BIG, -BIG - 1, None], ids=str)
@pytest.mark.parametrize("name,argument", [("history", "days"), ("by_agent", "period_days"),
                                           ("by_model", "period_days")])
def test_days(unchanged, name, argument, value):
    shown = "NULL" if value is None else value
    # PostgreSQL reads -9223372036854775808 as minus a numeric literal; write it as a sum.
    written = "NULL" if value is None else f"({value})" if value != -BIG - 1 else f"(-{BIG} - 1)"
    for sql in both(name, f"42, {written}"):
        fails(unchanged, sql, must(argument, DAYS, shown))
    if name == "by_model":
        fails(unchanged, f"SELECT * FROM token_usage_by_provider(42, {written})",
              must(argument, DAYS, shown))


@pytest.mark.parametrize("arguments,argument,rule,shown", [
    ("42, 0", "page_limit", LIMIT, 0), ("42, 501", "page_limit", LIMIT, 501),
    ("42, -1", "page_limit", LIMIT, -1), ("42, NULL", "page_limit", LIMIT, "NULL"),
    (f"42, {BIG}", "page_limit", LIMIT, BIG), ("42, 100, -1", "page_offset", OFFSET, -1),
    ("42, 100, NULL", "page_offset", OFFSET, "NULL"),
    ("42, 100, 0, NULL, 'soon'", "start_date", TIME, "soon"),
    ("42, 100, 0, NULL, NULL, '2025-02-30'", "end_date", TIME, "2025-02-30"),
    ("42, 100, 0, NULL, ''", "start_date", TIME, ""),
    ("42, 100, 0, NULL, '2025-10-20 24:00:00'", "start_date", TIME, "2025-10-20 24:00:00"),
    ("42, 100, 0, NULL, 'now'", "start_date", TIME, "now"),
    ("42, 100, 0, NULL, 'infinity'", "start_date", TIME, "infinity"),
    ("42, 100, 0, NULL, NULL, NULL, 'x'", "after", CURSOR, "x"),
    ("42, 100, 0, NULL, NULL, NULL, ''", "after", CURSOR, "")])
def test_arguments_of_detailed(unchanged, arguments, argument, rule, shown):
    for sql in both("detailed", arguments):
        fails(unchanged, sql, must(argument, rule, shown))


def test_time_arguments_of_detailed_count(unchanged):
    fails(unchanged, "SELECT token_usage_detailed_count(42, NULL, 'soon')",
          must("start_date", TIME, "soon"))
    fails(unchanged, "SELECT token_usage_detailed_count(42, NULL, NULL, 'later')",
          must("end_date", TIME, "later"))


@pytest.mark.parametrize("text", [
    "31", "1|0|1", "1|0", "2|0|1", "1|x|1", "1||1", "1|0|", "|0|1", "1|0|abc", "1|0|1.5",
    "1|99999999999999999999|1", "1|0|99999999999999999999", "1|0x10|1", "1| 5|1", "1|+5|1", "-1|0|1"])
def test_malformed_cursors(unchanged, text):
    """Hex of something that is no cursor; and each proper cursor in upper case or cut."""
    cursor = text.encode().hex()
    if text == "1|0|1":
        assert unchanged.query(
            f"SELECT * FROM token_usage_detailed(42, 10, 0, NULL, NULL, NULL, '{cursor}')").rows == []
        wrong = [cursor.upper(), cursor[:-1], cursor + "0", cursor + "zz", " " + cursor,
                 cursor + " "]
    else:
        wrong = [cursor]
    for c in wrong:
        for sql in both("detailed", f"42, 10, 0, NULL, NULL, NULL, '{c}'"):
            fails(unchanged, sql, must("after", CURSOR, c))


@pytest.mark.parametrize("value", ["decade", "", "Month", "months", "current_month", " day", None],
                         ids=repr)
def test_period(unchanged, value):
    shown = "NULL" if value is None else value
    for sql in both("totals", f"42, {sql_literal(value)}"):
        fails(unchanged, sql, must("period", PERIOD, shown))


BAD_ZONES = ["Mars/Olympus", "", "MSK", "PST", "UTC+3", "+03", "+03:00", "posix/UTC", "right/UTC",
             "posix/Europe/Moscow", "SystemV/EST5", "Foo/Bar5", "Foo/Bar5Baz", "../etc/passwd",
             "/etc/localtime", "Europe/", "/Moscow", "Europe", "Europe/Moscow ", " Europe/Moscow",
             "Europe//Moscow", "Europe/Moscow\n", "Etc/GMT+13", "Etc/GMT-15", "Etc/GMT+03",
             "Etc/UTC0", "localtime", "posixrules", "Factory", "EST5", "zone.tab", "tzdata.zi",
             "Europe/Moscow; DROP TABLE token_usage", "Europe/Moscow'", "Европа/Москва", "Z", "now"]


@pytest.mark.parametrize("zone", BAD_ZONES, ids=repr)
def test_time_zone(unchanged, zone):
    for name, head in WITH_ZONE.items():
        for sql in both(name, f"{head}, {sql_literal(zone)}"):
            fails(unchanged, sql, must("time_zone", ZONE, zone))
    fails(unchanged, f"SELECT * FROM token_usage_by_provider(42, 30, {sql_literal(zone)})",
          must("time_zone", ZONE, zone))
    fails(unchanged, f"SELECT token_usage_set('time_zone', {sql_literal(zone)})",
          must("value", ZONE, zone))
    assert unchanged.query("SELECT token_usage_setting('time_zone')").rows == [("UTC",)]


@pytest.mark.parametrize("text", ["0999-12-30T00:00:00Z", "0001-06-01T00:00:00Z"])
def test_as_of_year(unchanged, text):
    for name, head in WITH_ZONE.items():
        for sql in both(name, f"{head}, 'UTC', '{text}'"):
            fails(unchanged, sql, must("as_of", "a time from year 1000 to 9999", text))


@pytest.mark.parametrize("value", [
    "'soon'", "''", "'2025-02-30'", "'2025-10-20 24:00:00'", "'now'", "'2025-10-20T14:30:25z'",
    "'10000-01-01 00:00:00'", "x'00'", "1e300", "1000000000000000000"])
def test_as_of_malformed_on_sqlite(sqlite, value):
    database = sqlite.database()
    try:
        for name, head in WITH_ZONE.items():
            for sql in both(name, f"{head}, 'UTC', {value}"):
                with pytest.raises(DatabaseError) as caught:
                    database.query(sql)
                assert caught.value.message.startswith(
                    "token_usage: as_of must be a time such as 2025-10-20T14:30:25Z, got "), sql
    finally:
        database.close()


@pytest.mark.parametrize("value,sqlstate", [
    ("'soon'", "22007"), ("'2025-02-30'", "22008"), ("'infinity'", "22023"),
    ("'-infinity'", "22023"), ("'10000-01-02 00:00:00Z'", "22023"), ("'0044-03-15 BC'", "22023")])
def test_as_of_malformed_on_postgres(pg, value, sqlstate):
    database = pg.database()
    try:
        for name, head in WITH_ZONE.items():
            for sql in both(name, f"{head}, 'UTC', {value}"):
                with pytest.raises(DatabaseError) as caught:
                    database.query(sql)
                assert caught.value.sqlstate == sqlstate, (sql, caught.value.message)
                if sqlstate == "22023":
                    assert caught.value.message.startswith(
                        "token_usage: as_of must be a time from year 1000 to 9999, got ")
    finally:
        database.close()


def test_settings(unchanged):
    names = "one of time_zone"
    fails(unchanged, "SELECT token_usage_setting('colour')", must("name", names, "colour"))
    fails(unchanged, "SELECT token_usage_setting(NULL)", must("name", names, "NULL"))
    fails(unchanged, "SELECT token_usage_setting('')", must("name", names, ""))
    fails(unchanged, "SELECT token_usage_set('colour', 'red')", must("name", names, "colour"))
    fails(unchanged, "SELECT token_usage_set(NULL, 'UTC')", must("name", names, "NULL"))


@pytest.mark.parametrize("value", ["int", "", "BIGINT", "serial", None], ids=repr)
def test_user_id_type(unchanged, value):
    fails(unchanged, f"SELECT token_usage_migrate({sql_literal(value)})",
          must("user_id_type", "one of bigint, text, uuid", "NULL" if value is None else value))


def test_no_ledger(edition):
    database = edition.database(migrate=False)
    message = "token_usage: no token_usage table; run SELECT token_usage_migrate()"
    try:
        for name in ("summary", "history", "by_agent", "by_model", "totals", "detailed"):
            for sql in both(name, "42"):
                fails(database, sql, message, "42P01")
        for sql in ("SELECT * FROM token_usage_by_provider(42)",
                    "SELECT token_usage_detailed_count(42)",
                    "SELECT token_usage_setting('time_zone')",
                    "SELECT token_usage_set('time_zone', 'UTC')"):
            fails(database, sql, message, "42P01")
    finally:
        database.close()


def test_token_sums_past_int64(database):
    """Rule 6: an error, never a wrapped number."""
    half = 2**61
    for agent, number in (("a", 1), ("b", 2), ("a", 3)):
        database.query("INSERT INTO token_usage (id, user_id, agent_id, ai_provider, ai_model, "
                       "prompt_tokens, completion_tokens, total_tokens, created_at) "
                       + ("OVERRIDING SYSTEM VALUE " if database.dialect == "pg" else "")
                       + f"VALUES ({number}, 42, '{agent}', 'p', 'm', {half}, {half - 1}, "
                       f"{2 * half - 1}, '2025-10-20T10:00:00Z')")
        if number == 2:
            assert database.query("SELECT total_tokens FROM token_usage_totals(42, 'all', NULL, "
                                  "'UTC', '2025-10-20T12:00:00Z')").rows == [(2**63 - 2,)]
    message = f"token_usage: the sum of total_tokens is past {BIG}"
    for name, head in WITH_ZONE.items():
        if name == "by_agent":
            continue
        for sql in both(name, f"{head}, 'UTC', '2025-10-20T12:00:00Z'"):
            fails(database, sql, message, "22003")
    fails(database, "SELECT * FROM token_usage_by_provider(42, 1, 'UTC', '2025-10-20T12:00:00Z')",
          message, "22003")
    fails(database, "SELECT token_usage_stats(prompt_tokens, completion_tokens, total_tokens, "
          "cost_usd, cost_rub, execution_time_ms) FROM token_usage", message, "22003")
    # Two rows of agent a still fit.
    assert database.query("SELECT agent_id, total_tokens FROM token_usage_by_agent(42, 1, 'UTC', "
                          "'2025-10-20T12:00:00Z')").rows == [("a", 2**63 - 2), ("b", 2**62 - 1)]


def test_a_user_without_rows_is_no_error(database):
    """Sums are 0 and lists are empty."""
    database.query("INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model) "
                   "VALUES (1, 'a', 'p', 'm')")
    zeros = (0, 0, 0, 0, 0, 0, 0)
    query = lambda sql: [tuple(float(v) if i in (5, 6) else v for i, v in enumerate(r))
                         for r in database.query(sql).rows]
    assert query("SELECT * FROM token_usage_summary(5)") == [
        (p,) + zeros for p in ("today", "this_month", "all_time")]
    assert [r[1:] for r in query("SELECT * FROM token_usage_history(5, 3)")] == [zeros] * 3
    assert query("SELECT * FROM token_usage_totals(5)") == [("month",) + zeros + (None,)]
    for name in ("by_agent", "by_model", "by_provider", "detailed"):
        assert database.query(f"SELECT * FROM token_usage_{name}(5)").rows == []
    assert database.query("SELECT token_usage_detailed_count(5)").rows == [(0,)]


# -- bad input ------------------------------------------------------------------------------------

MEGABYTE = "x" * 10**6


def test_megabyte_strings(unchanged):
    """Errors show 200 characters and go on with `...`."""
    shown = "x" * 200 + "..."
    literal = f"'{MEGABYTE}'"
    for name, head in WITH_ZONE.items():
        for sql in both(name, f"{head}, {literal}"):
            fails(unchanged, sql, must("time_zone", ZONE, shown))
    fails(unchanged, f"SELECT * FROM token_usage_totals(42, {literal})",
          must("period", PERIOD, shown))
    fails(unchanged, f"SELECT * FROM token_usage_detailed(42, 1, 0, NULL, NULL, NULL, {literal})",
          must("after", CURSOR, shown))
    fails(unchanged, f"SELECT * FROM token_usage_detailed(42, 1, 0, NULL, {literal})",
          must("start_date", TIME, shown))
    fails(unchanged, f"SELECT token_usage_set('time_zone', {literal})", must("value", ZONE, shown))
    fails(unchanged, f"SELECT token_usage_setting({literal})",
          must("name", "one of time_zone", shown))
    hexed = (b"1|" + b"9" * 500000 + b"|1").hex()
    fails(unchanged, f"SELECT * FROM token_usage_detailed(42, 1, 0, NULL, NULL, NULL, '{hexed}')",
          must("after", CURSOR, hexed[:200] + "..."))
    assert unchanged.query(f"SELECT * FROM token_usage_history(42, 1, {literal})").rows[0][1] == 0
    assert unchanged.query(f"SELECT * FROM token_usage_detailed(42, 1, 0, {literal})").rows == []
    emoji = "\U0001f600" * 300
    fails(unchanged, f"SELECT * FROM token_usage_totals(42, '{emoji}')",
          must("period", PERIOD, "\U0001f600" * 200 + "..."))


def test_megabyte_values_in_the_ledger(database):
    # An index of PostgreSQL holds a third of a page; SQLite has no such limit.
    agent = MEGABYTE if database.dialect == "sqlite" else MEGABYTE[:2000]
    database.query("INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, "
                   "platform, created_at) VALUES (42, '%s', '%s', 'm', '%s', "
                   "'2025-10-20T10:00:00Z')" % (agent, agent, MEGABYTE))
    at = "'UTC', '2025-10-20T12:00:00Z'"
    found = database.query(f"SELECT agent_id FROM token_usage_by_agent(42, 1, {at})").rows
    same = found == [(agent,)]
    assert same
    assert database.query(f"SELECT requests_count FROM token_usage_history(42, 1, '{agent}', "
                          f"{at})").rows == [(1,)]
    found = agent in database.query("SELECT token_usage_detailed_json(42)").rows[0][0]
    assert found


SQLITE_BAD = ["x'ff00fe'", "CAST(x'61ff62' AS TEXT)", "CAST(x'610062' AS TEXT)", "1e999", "-1e999",
              "x''", "zeroblob(100000)", "1.5", "-0.0", "'abc'", "''", "9223372036854775807", "NULL",
              "printf('%.*c', 1000000, 'z')", "CAST(x'f09f98' AS TEXT)"]


@pytest.mark.parametrize("value", SQLITE_BAD)
def test_any_value_in_any_argument_on_sqlite(sqlite, value):
    """Every argument of every function takes every kind of value: an error of the contract or an
    answer, and the database goes on working."""
    database = sqlite.database()
    try:
        database.query("INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model) "
                       "VALUES (42, 'a', 'p', 'm')")
        good = {"summary": ["42", "'UTC'", "'2025-10-20'"],
                "history": ["42", "3", "'a'", "'UTC'", "'2025-10-20'"],
                "by_agent": ["42", "3", "'UTC'", "'2025-10-20'"],
                "by_model": ["42", "3", "'UTC'", "'2025-10-20'"],
                "by_provider": ["42", "3", "'UTC'", "'2025-10-20'"],
                "totals": ["42", "'day'", "'a'", "'UTC'", "'2025-10-20'"],
                "detailed": ["42", "3", "0", "'a'", "NULL", "NULL", "NULL"]}
        calls = []
        for name, arguments in good.items():
            for at in range(len(arguments)):
                changed = arguments[:at] + [value] + arguments[at + 1:]
                calls.append(f"SELECT * FROM token_usage_{name}({', '.join(changed)})")
                if name != "by_provider":
                    calls.append(f"SELECT token_usage_{name}_json({', '.join(changed)})")
        for at in range(4):
            changed = ["42", "'a'", "NULL", "NULL"]
            changed[at] = value
            calls.append(f"SELECT token_usage_detailed_count({', '.join(changed)})")
        for at in range(6):
            changed = ["1", "2", "3", "0.1", "0.2", "4"]
            changed[at] = value
            calls.append(f"SELECT token_usage_stats({', '.join(changed)})")
        calls += [f"SELECT token_usage_decimal_sum({value})", f"SELECT token_usage_setting({value})",
                  f"SELECT token_usage_set('time_zone', {value})",
                  f"SELECT token_usage_set({value}, 'UTC')", f"SELECT token_usage_migrate({value})"]
        for sql in calls:
            try:
                result = database.connection.execute(sql)
                result.fetchall()
            except Exception as error:
                text = str(error)
                assert text.startswith("token_usage: ") or "Could not decode" in text \
                    or "past 9223372036854775807" in text, (sql, text)
        database.connection.text_factory = bytes
        assert database.query("SELECT count(*) FROM token_usage").rows == [(1,)]
    finally:
        database.close()


def test_nul_and_invalid_utf8_in_errors_on_sqlite(sqlite):
    database = sqlite.database()
    try:
        for value, shown in (("CAST(x'610062' AS TEXT)", "a\\0b"),
                             ("CAST(x'61ff62' AS TEXT)", "a\ufffdb")):
            fails(database, f"SELECT * FROM token_usage_summary(42, {value})",
                  must("time_zone", ZONE, shown))
            fails(database, f"SELECT * FROM token_usage_totals(42, {value})",
                  must("period", PERIOD, shown))
        fails(database, "SELECT * FROM token_usage_history(42, 1.5)", must("days", DAYS, "1.5"))
        fails(database, "SELECT * FROM token_usage_history(42, 'abc')", must("days", DAYS, "abc"))
        fails(database, "SELECT * FROM token_usage_history(42, 1e20)", must("days", DAYS, "1e+20"))
    finally:
        database.close()


def test_nul_and_invalid_utf8_in_the_ledger_on_sqlite(sqlite):
    """Bodies stay valid JSON: U+FFFD for what is no UTF-8, \\u0000 for NUL."""
    database = sqlite.database()
    try:
        database.query("INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, "
                       "created_at) VALUES (42, CAST(x'61ff62' AS TEXT), CAST(x'610062' AS TEXT), "
                       "'m', '2025-10-20 10:00:00')")
        import json
        for sql, path in (
                ("SELECT token_usage_by_agent_json(42, 1, 'UTC', '2025-10-20')", ("agents", "agent_id", "a\ufffdb")),
                ("SELECT token_usage_by_model_json(42, 1, 'UTC', '2025-10-20')", ("by_model", "ai_provider", "a\0b")),
                ("SELECT token_usage_detailed_json(42)", ("items", "agent_id", "a\ufffdb")),
                ("SELECT token_usage_detailed_json(42)", ("items", "ai_provider", "a\0b"))):
            body = json.loads(database.query(sql).rows[0][0])
            assert body["data"][path[0]][0][path[1]] == path[2]
            assert database.query(f"SELECT json_valid(({sql}))").rows == [(1,)]
    finally:
        database.close()


def test_user_id_that_the_type_cannot_hold(pg):
    for kind, value in (("bigint", "abc"), ("bigint", "99999999999999999999"), ("bigint", "4 2"),
                        ("uuid", "abc"), ("uuid", "42")):
        database = pg.database(user_id_type=kind)
        try:
            for name in ("summary", "history", "by_agent", "by_model", "totals", "detailed"):
                for sql in both(name, f"'{value}'"):
                    fails(database, sql, must("user_id", f"a {kind}", value))
        finally:
            database.close()


def test_writers_of_arguments_as_clients_bind_them(sqlite):
    """Clients that bind every number as REAL, or as text, are understood."""
    database = sqlite.database()
    try:
        database.query("INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, "
                       "created_at) VALUES (42, 'a', 'p', 'm', '2025-10-20 10:00:00')")
        for user, days in ((42, 3), (42.0, 3.0), ("42", "3")):
            rows = database.query("SELECT requests_count FROM token_usage_history(?, ?, NULL, "
                                  "'UTC', '2025-10-20')", (user, days)).rows
            assert rows == [(0,), (0,), (1,)], (user, days)
            assert database.query("SELECT token_usage_detailed_count(?)", (user,)).rows == [(1,)]
    finally:
        database.close()
