"""Adoption: the tables that applications already have (section 2 of the contract). Rows, types, keys and
the application's own objects stay as they are; what cannot work is refused by name."""
import datetime as dt
from decimal import Decimal

import pytest

import adoption.schema as s
import oracle as orc
from harness import Case, load, row
from support.editions import DatabaseError

AT = "2025-10-20 10:00:00"
AS_OF = orc.instant("2025-10-20 12:00:00")

# Two real shapes, as they are found in the wild.
SHAPE_POSTGRES = """
CREATE TABLE users (id SERIAL PRIMARY KEY, name TEXT);
CREATE TABLE content_pieces (id VARCHAR(36) PRIMARY KEY);
CREATE TABLE token_usage (
  id SERIAL PRIMARY KEY,
  user_id INTEGER NOT NULL REFERENCES users(id) ON DELETE CASCADE,
  content_id VARCHAR(36) REFERENCES content_pieces(id) ON DELETE SET NULL,
  workflow_id VARCHAR(36),
  agent_id VARCHAR(100) NOT NULL,
  request_id VARCHAR(100),
  endpoint VARCHAR(200),
  ai_provider VARCHAR(50) NOT NULL,
  ai_model VARCHAR(100) NOT NULL,
  prompt_tokens INTEGER NOT NULL DEFAULT 0,
  completion_tokens INTEGER NOT NULL DEFAULT 0,
  total_tokens INTEGER NOT NULL DEFAULT 0,
  cost_usd DECIMAL(10,4) NOT NULL DEFAULT 0.0,
  cost_rub DECIMAL(10,2) NOT NULL DEFAULT 0.0,
  platform VARCHAR(50),
  content_type VARCHAR(50),
  task_type VARCHAR(50),
  execution_time_ms INTEGER,
  request_metadata JSONB,
  response_metadata JSONB,
  created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
  CONSTRAINT check_tokens_positive CHECK (prompt_tokens >= 0 AND completion_tokens >= 0 AND total_tokens >= 0),
  CONSTRAINT check_total_tokens_sum CHECK (total_tokens = prompt_tokens + completion_tokens)
);
CREATE INDEX my_own_index ON token_usage (platform, created_at);
CREATE MATERIALIZED VIEW token_usage_daily AS
  SELECT user_id, date_trunc('day', created_at) AS day, sum(total_tokens) AS tokens, sum(cost_usd) AS cost
  FROM token_usage GROUP BY 1, 2;
CREATE UNIQUE INDEX ON token_usage_daily (user_id, day);
INSERT INTO users (id, name) VALUES (42, 'a'), (7, 'b');
INSERT INTO content_pieces VALUES ('c-1');
"""

SHAPE_SQLITE = """
CREATE TABLE token_usage (
	id INTEGER NOT NULL,
	user_id INTEGER NOT NULL,
	content_id VARCHAR(36),
	workflow_id VARCHAR(36),
	agent_id VARCHAR(100) NOT NULL,
	request_id VARCHAR(100),
	endpoint VARCHAR(255),
	ai_provider VARCHAR(50) NOT NULL,
	ai_model VARCHAR(100) NOT NULL,
	prompt_tokens INTEGER,
	completion_tokens INTEGER,
	total_tokens INTEGER,
	cost_usd FLOAT,
	cost_rub FLOAT,
	platform VARCHAR(50),
	content_type VARCHAR(50),
	task_type VARCHAR(50),
	execution_time_ms INTEGER,
	request_metadata JSON,
	response_metadata JSON,
	created_at DATETIME,
	PRIMARY KEY (id),
	UNIQUE (request_id)
);
CREATE INDEX ix_token_usage_user_id ON token_usage (user_id);
CREATE INDEX ix_token_usage_agent_id ON token_usage (agent_id);
CREATE INDEX ix_token_usage_created_at ON token_usage (created_at);
CREATE INDEX ix_token_usage_id ON token_usage (id);
"""


def rows_of(*texts, **more):
    return [row(i, text, **more) for i, text in enumerate(texts, 1)]


def test_real_shape_serial_decimal_timestamp_on_postgres(pg):
    """(a) of the issue."""
    database = pg.database(migrate=False)
    try:
        database.query(SHAPE_POSTGRES)
        rows = [row(1, AT, cost_usd=Decimal("0.0123"), cost_rub=Decimal("1.17"), content_id="c-1"),
                row(2, "2025-10-19 23:59:59.999999", cost_usd=Decimal("0.1"), cost_rub=Decimal("9.50")),
                row(3, "2025-10-20 21:30:00", user_id=7)]
        # TIMESTAMP is what CURRENT_TIMESTAMP of a server in UTC wrote.
        load(database, rows, time=lambda r: orc.iso(r.created_at)[:-1])
        database.query("SELECT setval('token_usage_id_seq', 3)")
        database.query("REFRESH MATERIALIZED VIEW token_usage_daily")
        columns, keys = s.columns(database), s.constraints(database)
        held = database.query(f"SELECT {', '.join(columns)}, ctid FROM token_usage ORDER BY id").rows
        before = set(s.everything(database))

        steps = s.migrate(database)
        assert steps["table token_usage"] == "adopted"
        found = s.columns(database)
        assert {n: found[n] for n in columns} == columns
        assert s.constraints(database) == keys
        assert s.foreign_keys(database) == {"user_id": ("users", "CASCADE"),
                                            "content_id": ("content_pieces", "SET NULL")}
        assert database.query(f"SELECT {', '.join(columns)}, ctid FROM token_usage ORDER BY id").rows == held
        # Nothing of the application's has gone or was rewritten; things of ours were added.
        assert before <= set(s.everything(database))
        assert set(s.INDEXES) < set(s.indexes(database)) and "my_own_index" in s.indexes(database)

        case = Case(database, rows)
        for user in (42, 7):
            for zone in ("UTC", "Europe/Moscow"):
                case.every_report(user, zone, AS_OF + 12 * 3600 * 10**6, days=3)
            case.report("detailed", user)
            case.body("detailed_json", user)
        database.query("SET TimeZone = 'America/New_York'")
        result = database.query("SELECT requests_count FROM token_usage_history(42, 2, NULL, 'UTC', "
                                "'2025-10-20T12:00:00Z')")
        assert result.rows == [(1,), (1,)], "the session's zone must not matter"
        database.query("SET TimeZone = 'UTC'")
        database.query("REFRESH MATERIALIZED VIEW CONCURRENTLY token_usage_daily")
        database.query("INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model) VALUES "
                       "(42, 'a', 'p', 'm')")
        assert database.query("SELECT max(id) FROM token_usage").rows == [(4,)]
        database.query("DELETE FROM users WHERE id = 42")
        assert database.query("SELECT count(*) FROM token_usage").rows == [(1,)]
        assert set(s.migrate(database).values()) == {"kept"}
    finally:
        database.close()


def test_real_shape_of_an_orm_on_sqlite(sqlite):
    """(b) of the issue."""
    database = sqlite.database(migrate=False)
    try:
        database.script(SHAPE_SQLITE)
        rows = [row(1, "2025-10-20 10:00:00.000000", cost_usd=0.1, cost_rub=9.5, request_id="r1"),
                row(2, "2025-10-19 23:59:59.999999", cost_usd=0.2, cost_rub=19.0),
                row(3, None), row(4, "2025-10-20 21:30:00.5", user_id=7, prompt_tokens=None,
                                  completion_tokens=None, total_tokens=None, cost_usd=None)]

        def stored(r):
            """As the ORM writes it: always six digits."""
            if r.created_at is None:
                return None
            moment = dt.datetime(1970, 1, 1) + dt.timedelta(microseconds=r.created_at)
            return moment.strftime("%Y-%m-%d %H:%M:%S.%f")

        load(database, rows, time=stored, money=float)
        columns = s.columns(database)
        held = database.query(f"SELECT {', '.join(columns)} FROM token_usage ORDER BY id").rows
        before = set(s.everything(database))

        steps = s.migrate(database)
        assert steps["table token_usage"] == "adopted"
        assert {step for step in steps if step.startswith("column ")} == {
            f"column token_usage.{n}" for n in s.RECORDING}
        found = s.columns(database)
        assert {n: found[n] for n in columns} == columns and s.foreign_keys(database) == {}
        assert database.query(f"SELECT {', '.join(columns)} FROM token_usage ORDER BY id").rows == held
        # The text of the table itself has grown by the columns of recording.
        assert {item for item in before if item[:2] != ("table", "token_usage")} <= set(s.everything(database))
        assert {"ix_token_usage_user_id", "ix_token_usage_created_at"} < set(s.indexes(database))
        assert set(s.INDEXES) < set(s.indexes(database))

        case = Case(database, rows)
        for user in (42, 7):
            case.every_report(user, "Europe/Moscow", AS_OF + 12 * 3600 * 10**6, days=3)
        case.report("detailed", 42)
        assert set(s.migrate(database).values()) == {"kept"}
        assert database.query("PRAGMA integrity_check").rows == [("ok",)]
    finally:
        database.close()


# -- each kind that the contract lists ------------------------------------------------------------

KINDS = {
    "serial_key": "id SERIAL PRIMARY KEY, user_id INTEGER",
    "smallint_keys": "id smallint PRIMARY KEY, user_id smallint",
    "varchar": "id bigint PRIMARY KEY, user_id bigint, agent_id varchar(100), ai_provider varchar(50), "
               "ai_model char(20), request_id varchar(64)",
    "timestamp": "id bigint PRIMARY KEY, user_id bigint, created_at timestamp",
    "timestamp_3": "id bigint PRIMARY KEY, user_id bigint, created_at timestamp(3)",
    "decimal": "id bigint PRIMARY KEY, user_id bigint, cost_usd decimal(10,4), cost_rub decimal(10,2)",
    "double": "id bigint PRIMARY KEY, user_id bigint, cost_usd double precision, cost_rub double precision",
    "real": "id bigint PRIMARY KEY, user_id bigint, cost_usd real, cost_rub real",
    "integer_costs": "id bigint PRIMARY KEY, user_id bigint, cost_usd integer, cost_rub bigint",
    "json": "id bigint PRIMARY KEY, user_id bigint, request_metadata json, response_metadata text",
    "nullable": "id bigint PRIMARY KEY, user_id bigint, prompt_tokens integer, total_tokens integer",
    "numeric_tokens": "id bigint PRIMARY KEY, user_id bigint, prompt_tokens numeric, total_tokens "
                      "double precision, execution_time_ms real",
    "extra_columns": "id bigint PRIMARY KEY, user_id bigint, tenant text, period text, \"order\" integer, "
                     "days integer, agent text, bounds text, as_of text, ledger text",
    "quoted_case": "id bigint PRIMARY KEY, user_id bigint, \"User_Id\" integer, \"Cost_Usd\" text",
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_tables_on_postgres(pg, kind):
    database = pg.database(migrate=False)
    try:
        database.query(f"CREATE TABLE token_usage ({KINDS[kind]})")
        columns = s.columns(database)
        database.query("INSERT INTO token_usage (id, user_id) VALUES (1, 42)")
        steps = s.migrate(database)
        assert steps["table token_usage"] == "adopted"
        found = s.columns(database)
        assert {n: found[n] for n in columns} == columns, "the application's columns changed"
        assert {n for n in s.COLUMNS + s.RECORDING if n not in columns} \
            == {n.split(".")[1] for n in steps if n.startswith("column ")}
        rows = [row(2, AT, cost_usd=Decimal(2), cost_rub=Decimal(3)),
                row(3, AT, cost_usd=Decimal(4), cost_rub=Decimal(5), agent_id="editor")]
        load(database, rows, time=lambda r: orc.iso(r.created_at)[:-1])
        database.query("DELETE FROM token_usage WHERE id = 1")
        if kind == "varchar":
            for r in rows:
                r.ai_model = r.ai_model.ljust(20)
        case = Case(database, rows)
        if kind != "varchar":  # char(n) keys keep or lose their blanks; that is the database's affair
            case.every_report(42, "Europe/Moscow", AS_OF, days=2, bodies=False)
        else:
            case.report("by_agent", 42, 2, "UTC", orc.iso(AS_OF), oracle_args=(42, 2, "UTC", AS_OF))
        assert set(s.migrate(database).values()) == {"kept"}
    finally:
        database.close()


@pytest.mark.parametrize("key", ["uuid", "text", "varchar(36)"])
def test_uuid_and_text_keys_on_postgres(pg, key):
    database = pg.database(migrate=False)
    try:
        database.query(f"CREATE TABLE token_usage (id {key} PRIMARY KEY, user_id {key} NOT NULL)")
        assert s.migrate(database)["table token_usage"] == "adopted"
        user = "550e8400-e29b-41d4-a716-446655440000"
        rows = [row(f"00000000-0000-0000-0000-00000000000{i}", AT, user_id=user) for i in (1, 3, 2)]
        load(database, rows)
        case = Case(database, rows)
        case.every_report(user, "UTC", AS_OF, days=2)
        case.body("detailed_json", user)
        with pytest.raises(DatabaseError) as caught:
            database.query(f"SELECT * FROM token_usage_detailed('{user}')")
        assert caught.value.message.startswith("token_usage: ")
        assert "token_usage_detailed_text" in (caught.value.hint or "")
    finally:
        database.close()


def test_domains_on_postgres(pg):
    database = pg.database(migrate=False)
    try:
        database.query("CREATE DOMAIN money_amount AS numeric(12, 6) CHECK (value >= 0); CREATE DOMAIN name_text AS "
                       "varchar(50); CREATE TABLE token_usage (id bigint PRIMARY KEY, user_id bigint, "
                       "agent_id name_text, cost_usd money_amount, cost_rub money_amount)")
        s.migrate(database)
        rows = [row(1, AT, cost_usd=Decimal("1.5"), cost_rub=Decimal("0.000001"))]
        load(database, rows)
        Case(database, rows).every_report(42, "UTC", AS_OF, days=1)
    finally:
        database.close()


def test_partitioned_table_on_postgres(pg):
    database = pg.database(migrate=False)
    try:
        database.query("CREATE TABLE token_usage (id bigint NOT NULL, user_id bigint NOT NULL, created_at "
                       "timestamptz NOT NULL, PRIMARY KEY (id, created_at)) PARTITION BY RANGE (created_at); "
                       "CREATE TABLE tu_a PARTITION OF token_usage FOR VALUES FROM (MINVALUE) TO ('2025-10-20'); "
                       "CREATE TABLE tu_b PARTITION OF token_usage FOR VALUES FROM ('2025-10-20') TO (MAXVALUE)")
        s.migrate(database)
        rows = rows_of("2025-10-19 10:00:00", AT, "2025-10-19 23:59:59.999999")
        load(database, rows)
        Case(database, rows).every_report(42, "UTC", AS_OF, days=2)
        assert set(s.migrate(database).values()) == {"kept"}
    finally:
        database.close()


def test_missing_columns(edition):
    """Old rows: no tokens, unknown price; later rows as the defaults say."""
    database = edition.database(migrate=False)
    try:
        time = "timestamptz DEFAULT now()" if edition.dialect == "pg" else "TIMESTAMP"
        database.query(f"CREATE TABLE token_usage (id integer PRIMARY KEY, user_id integer, created_at {time})")
        database.query("INSERT INTO token_usage VALUES (1, 42, '2025-10-20T10:00:00Z')")
        steps = s.migrate(database)
        assert {n for n in steps if n.startswith("column ")} == {
            f"column token_usage.{n}" for n in s.COLUMNS + s.RECORDING if n not in ("id", "user_id", "created_at")}
        assert all(steps[n] == "created" for n in steps if n.startswith("column "))
        old = row(1, AT, agent_id=None, ai_provider=None, ai_model=None, prompt_tokens=0,
                  completion_tokens=0, total_tokens=0, cost_usd=None, cost_rub=None,
                  execution_time_ms=None)
        database.query("INSERT INTO token_usage (id, user_id, agent_id, prompt_tokens, completion_tokens, "
                       "created_at) VALUES (2, 42, 'a', 3, 4, '2025-10-20T10:00:00Z')")
        later = Decimal(0) if edition.dialect == "pg" else None
        new = row(2, AT, agent_id="a", ai_provider=None, ai_model=None, prompt_tokens=3,
                  completion_tokens=4, total_tokens=None, cost_usd=later, cost_rub=later,
                  execution_time_ms=None)
        Case(database, [old, new]).every_report(42, "UTC", AS_OF, days=1)
        assert set(s.migrate(database).values()) == {"kept"}
    finally:
        database.close()


def test_missing_id_and_time_on_postgres(pg):
    database = pg.database(migrate=False)
    try:
        database.query("CREATE TABLE token_usage (user_id bigint)")
        database.query("INSERT INTO token_usage VALUES (42), (42)")
        s.migrate(database)
        assert database.query("SELECT id FROM token_usage ORDER BY id").rows == [(1,), (2,)]
        assert database.query("SELECT requests_count FROM token_usage_totals(42, 'all')").rows == [(0,)]
        database.query("INSERT INTO token_usage (user_id) VALUES (42)")
        assert database.query("SELECT requests_count FROM token_usage_totals(42, 'all')").rows == [(1,)]
        assert database.query("SELECT count(DISTINCT id) FROM token_usage").rows == [(3,)]
    finally:
        database.close()


REFUSED = {
    "boolean_user": ("id bigint PRIMARY KEY, user_id boolean", "column user_id has type boolean, needs "),
    "bytea_id": ("id bytea PRIMARY KEY, user_id bigint", "column id has type bytea, needs "),
    "date_time": ("id bigint PRIMARY KEY, user_id bigint, created_at date", "column created_at has type date, needs "),
    "text_time": ("id bigint PRIMARY KEY, user_id bigint, created_at text", "column created_at has type text, needs "),
    "text_cost": ("id bigint PRIMARY KEY, user_id bigint, cost_usd text", "column cost_usd has type text, needs "),
    "money_cost": ("id bigint PRIMARY KEY, user_id bigint, cost_rub money", "column cost_rub has type money, needs "),
    "array_agent": ("id bigint PRIMARY KEY, user_id bigint, agent_id text[]", "column agent_id has type text[], needs "),
    "text_tokens": ("id bigint PRIMARY KEY, user_id bigint, prompt_tokens text", "column prompt_tokens has type text, needs "),
    "no_user": ("id bigint PRIMARY KEY", "column user_id is missing"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_on_postgres(pg, name):
    columns, reason = REFUSED[name]
    database = pg.database(migrate=False)
    try:
        database.query(f"CREATE TABLE token_usage ({columns})")
        before = s.everything(database)
        with pytest.raises(DatabaseError) as caught:
            s.migrate(database)
        assert caught.value.message.startswith("token_usage: cannot adopt table token_usage: " + reason)
        assert caught.value.sqlstate == "42804"
        assert s.everything(database) == before
    finally:
        database.close()


@pytest.mark.parametrize("columns,missing", [
    ("id INTEGER PRIMARY KEY, user_id INTEGER", "created_at"),
    ("id INTEGER PRIMARY KEY, created_at TIMESTAMP", "user_id"),
    ("user_id INTEGER, created_at TIMESTAMP", "id")])
def test_refusals_on_sqlite(sqlite, columns, missing):
    database = sqlite.database(migrate=False)
    try:
        database.query(f"CREATE TABLE token_usage ({columns})")
        before = s.everything(database)
        with pytest.raises(DatabaseError) as caught:
            s.migrate(database)
        assert caught.value.message == (
            f"token_usage: cannot adopt table token_usage: column {missing} is missing")
        assert s.everything(database) == before
    finally:
        database.close()


def test_request_id_index_of_an_adopted_table(edition):
    """Unique where the data allows it, else plain; none more where a unique key is there."""
    text = "text" if edition.dialect == "pg" else "TEXT"
    for column, values, unique in ((f"request_id {text}", "('a'), ('b'), (NULL), (NULL)", True),
                                   (f"request_id {text}", "('a'), ('a')", False),
                                   (f"request_id {text} UNIQUE", "('a'), ('b')", False)):
        database = edition.database(migrate=False)
        try:
            ident = ("id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY" if edition.dialect == "pg"
                     else "id INTEGER PRIMARY KEY")
            time = "timestamptz" if edition.dialect == "pg" else "TIMESTAMP"
            database.query(f"CREATE TABLE token_usage ({ident}, user_id bigint, {column}, created_at {time})")
            database.query(f"INSERT INTO token_usage (request_id) VALUES {values}")
            s.migrate(database)
            made = s.indexes(database)["idx_token_usage_request_id"]
            assert ("UNIQUE" in made) == unique, (column, values, made)
        finally:
            database.close()


def test_an_index_of_our_name_on_the_table_is_kept(edition):
    database = edition.database(migrate=False)
    try:
        time = "timestamptz" if edition.dialect == "pg" else "TIMESTAMP"
        database.query(f"CREATE TABLE token_usage (id bigint PRIMARY KEY, user_id bigint, created_at {time})")
        database.query("CREATE INDEX idx_token_usage_user_date ON token_usage (created_at)")
        before = s.indexes(database)["idx_token_usage_user_date"]
        assert s.migrate(database)["index idx_token_usage_user_date"] == "kept"
        assert s.indexes(database)["idx_token_usage_user_date"] == before
    finally:
        database.close()


def test_adoption_that_fails_half_way_leaves_the_table_alone(edition):
    """Columns would be added before the index of our name on another table is met."""
    database = edition.database(migrate=False)
    try:
        time = "timestamptz" if edition.dialect == "pg" else "TIMESTAMP"
        database.query(f"CREATE TABLE token_usage (id bigint PRIMARY KEY, user_id bigint, created_at {time})")
        database.query("CREATE TABLE other (a integer)")
        database.query("CREATE INDEX idx_token_usage_created_at ON other (a)")
        before = s.everything(database)
        with pytest.raises(DatabaseError):
            s.migrate(database)
        assert s.everything(database) == before
    finally:
        database.close()


def test_triggers_and_views_of_the_application_stay(edition):
    database = edition.database(migrate=False)
    try:
        time = "timestamptz DEFAULT now()" if edition.dialect == "pg" else "TIMESTAMP DEFAULT CURRENT_TIMESTAMP"
        database.query(f"CREATE TABLE token_usage (id bigint PRIMARY KEY, user_id bigint, created_at {time})")
        database.query("CREATE TABLE log (id bigint)")
        if edition.dialect == "pg":
            database.query("CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT "
                           "INTO log VALUES (new.id); RETURN new; END $$; CREATE TRIGGER mine AFTER INSERT ON "
                           "token_usage FOR EACH ROW EXECUTE FUNCTION note()")
        else:
            database.query("CREATE TRIGGER mine AFTER INSERT ON token_usage BEGIN INSERT INTO log VALUES "
                           "(new.id); END")
        database.query("CREATE VIEW of_mine AS SELECT id, user_id FROM token_usage")
        s.migrate(database)
        database.query("INSERT INTO token_usage (id, user_id) VALUES (1, 42)")
        assert database.query("SELECT id FROM log").rows == [(1,)]
        assert database.query("SELECT * FROM of_mine").rows == [(1, 42)]
    finally:
        database.close()
