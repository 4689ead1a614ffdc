"""The three editions behind one interface.

An `Edition` makes databases; a `Database` runs SQL text and gives plain rows. What differs between
the two databases is only how a value is typed, and that is settled here: money comes as `Decimal`
from PostgreSQL and as `float` from SQLite, instants as `Instant` (microseconds), dates as
`YYYY-MM-DD`, JSON as text.
"""
import atexit
import itertools
import os
import re
import shutil
import sqlite3
import tempfile
from collections import namedtuple
from decimal import Decimal

from . import paths, postgres

Result = namedtuple("Result", "columns rows")
Instant = namedtuple("Instant", "microseconds")

ALL = ("sqlite", "pg-native", "pg-portable")


def wanted():
    """The editions to test: all, or those that TOKEN_USAGE_EDITIONS names."""
    names = os.environ.get("TOKEN_USAGE_EDITIONS", ",".join(ALL)).split(",")
    for name in names:
        if name not in ALL:
            raise ValueError(f"TOKEN_USAGE_EDITIONS: {name} is none of {', '.join(ALL)}")
    return names


class DatabaseError(Exception):
    """An error of the database: its message, and on PostgreSQL its SQLSTATE, detail and hint."""

    def __init__(self, message, sqlstate=None, detail=None, hint=None):
        super().__init__(message)
        self.message, self.sqlstate, self.detail, self.hint = message, sqlstate, detail, hint


# -- SQLite ---------------------------------------------------------------------------------------

_scratch = []


@atexit.register
def _remove_scratch():
    for folder in _scratch:
        shutil.rmtree(folder, ignore_errors=True)


def scratch_folder():
    folder = tempfile.mkdtemp(prefix="token_usage_test_", dir="/tmp")
    _scratch.append(folder)
    return folder


class SqliteDatabase:
    """One SQLite connection with the extension loaded (or not: `extension=False`)."""

    dialect = "sqlite"
    edition = "sqlite"

    def __init__(self, path=":memory:", extension=True):
        self.path = path
        self.connection = sqlite3.connect(path, isolation_level=None, timeout=10)
        if extension:
            self.connection.enable_load_extension(True)
            self.connection.load_extension(paths.library_for_load())
            self.connection.enable_load_extension(False)

    def query(self, sql, parameters=()):
        try:
            cursor = self.connection.execute(sql, parameters)
            rows = cursor.fetchall()
        except (sqlite3.Error, OverflowError, ValueError) as error:
            raise DatabaseError(str(error)) from None
        names = [d[0] for d in cursor.description or ()]
        return Result(names, rows)

    def execute(self, sql, parameters=()):
        return self.query(sql, parameters)

    def script(self, sql):
        try:
            self.connection.executescript(sql)
        except sqlite3.Error as error:
            raise DatabaseError(str(error)) from None

    def insert(self, table, columns, rows):
        marks = ", ".join("?" * len(columns))
        try:
            self.connection.execute("SAVEPOINT load")
            self.connection.executemany(
                f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", rows)
            self.connection.execute("RELEASE load")
        except sqlite3.Error as error:
            raise DatabaseError(str(error)) from None

    def another(self):
        """A second connection to the same database file."""
        return SqliteDatabase(self.path)

    def close(self):
        self.connection.close()


class SqliteEdition:
    name = "sqlite"
    dialect = "sqlite"

    def start(self):
        if not paths.LIBRARY.exists():
            raise RuntimeError(f"{paths.LIBRARY} is not built")

    def stop(self):
        pass

    def version(self):
        return f"SQLite {sqlite3.sqlite_version}"

    def database(self, user_id_type=None, migrate=True, file=False, **_):
        path = os.path.join(scratch_folder(), "test.db") if file else ":memory:"
        database = SqliteDatabase(path)
        if migrate:
            database.query("SELECT token_usage_migrate()" if user_id_type is None
                           else f"SELECT token_usage_migrate('{user_id_type}')")
        return database


# -- PostgreSQL -----------------------------------------------------------------------------------

_TIME = re.compile(r"^(\d{4,})-(\d\d)-(\d\d) (\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?(?:\+00)?$")


def _instant(text, _cursor=None):
    """timestamptz and timestamp text (the session's zone is UTC) as microseconds since 1970."""
    if text is None:
        return None
    match = _TIME.match(text)
    if not match:
        return text
    year, month, day, hour, minute, second = (int(g) for g in match.groups()[:6])
    days = days_from_civil(year, month, day)
    fraction = int((match.group(7) or "").ljust(6, "0") or 0)
    return Instant((((days * 24 + hour) * 60 + minute) * 60 + second) * 10**6 + fraction)


def days_from_civil(year, month, day):
    """Days since 1970-01-01 in the proleptic Gregorian calendar, for any year."""
    year -= month <= 2
    era = year // 400
    yoe = year - era * 400
    doy = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146097 + yoe * 365 + yoe // 4 - yoe // 100 + doy - 719468


def _register_types():
    import psycopg2.extensions as ext
    text = lambda value, cursor: value
    for oids, name, cast in (((1184, 1114), "INSTANT", _instant), ((1082,), "DAY", text),
                             ((3802, 114), "JSONTEXT", text), ((2950,), "UUIDTEXT", text)):
        ext.register_type(ext.new_type(oids, name, cast))


class PostgresDatabase:
    """One PostgreSQL connection to a database of its own."""

    dialect = "pg"

    def __init__(self, edition, name, user):
        self.edition = edition.name
        self._edition, self.name, self.user = edition, name, user
        self.connection = edition.server.connect(name, user)
        self.connection.autocommit = True

    def query(self, sql, parameters=None):
        import psycopg2
        try:
            with self.connection.cursor() as cursor:
                cursor.execute(sql, parameters)
                if cursor.description is None:
                    return Result([], [])
                return Result([d[0] for d in cursor.description], cursor.fetchall())
        except psycopg2.Error as error:
            if error.diag is None or error.diag.message_primary is None:
                raise DatabaseError(str(error), error.pgcode) from None
            raise DatabaseError(error.diag.message_primary, error.pgcode,
                                error.diag.message_detail, error.diag.message_hint) from None
        except ValueError as error:
            raise DatabaseError(str(error)) from None

    execute = query
    script = query

    def insert(self, table, columns, rows):
        from psycopg2.extras import execute_values
        with self.connection.cursor() as cursor:
            execute_values(cursor, f"INSERT INTO {table} ({', '.join(columns)}) VALUES %s", rows,
                           page_size=500)

    def another(self, user=None):
        return PostgresDatabase(self._edition, self.name, user or self.user)

    def close(self):
        self.connection.close()


class PostgresEdition:
    """Databases of a private server, owned by `app`, a role without special rights."""

    dialect = "pg"
    _server = None
    _users = 0
    _counter = itertools.count(1)
    OWNER = "app"

    def __init__(self, name):
        self.name = name
        self._templates = {}

    @property
    def server(self):
        return PostgresEdition._server

    def start(self):
        PostgresEdition._users += 1
        if PostgresEdition._server is None:
            _register_types()
            PostgresEdition._server = postgres.Server().__enter__()
            self.superuser(f"CREATE ROLE {self.OWNER} LOGIN")

    def stop(self):
        PostgresEdition._users -= 1
        if PostgresEdition._users == 0 and PostgresEdition._server is not None:
            PostgresEdition._server.stop()
            PostgresEdition._server = None

    def version(self):
        return f"PostgreSQL {postgres.pg_config('--version').split()[1]}"

    def superuser(self, *statements, database="postgres"):
        connection = self.server.connect(database)
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
        finally:
            connection.close()

    def database(self, user_id_type=None, migrate=True, install=True, options="", **_):
        """A new database with the edition installed in it, and migrated unless told not to be.
        `options` go to CREATE DATABASE (a locale, for example)."""
        name = f"t{os.getpid()}_{next(self._counter)}"
        if options or not install:
            self._create(name, options or "TEMPLATE template0")
            if install:
                self.install(name, user_id_type, migrate)
        else:
            key = (user_id_type, migrate)
            if key not in self._templates:
                template = f"template_{self.name.replace('-', '_')}_{next(self._counter)}"
                self._create(template, "TEMPLATE template0")
                self.install(template, user_id_type, migrate)
                self._templates[key] = template
            self._create(name, f"TEMPLATE {self._templates[key]}")
        return PostgresDatabase(self, name, self.OWNER)

    def _create(self, name, options):
        self.superuser(f"CREATE DATABASE {name} OWNER {self.OWNER} {options}")
        if postgres.server_version() < 15:
            # What 15 gives the owner of a database through pg_database_owner.
            self.superuser(f"ALTER SCHEMA public OWNER TO {self.OWNER}", database=name)

    def install(self, name, user_id_type=None, migrate=True):
        database = PostgresDatabase(self, name, self.OWNER)
        try:
            if self.name == "pg-native":
                database.query("CREATE EXTENSION token_usage")
                if migrate:
                    database.query("SELECT token_usage_migrate()" if user_id_type is None
                                   else f"SELECT token_usage_migrate('{user_id_type}')")
            else:
                # The file migrates by itself; another user_id type is asked for before it, and a
                # database that is to stay unmigrated loses the tables that the file made.
                database.query(paths.PORTABLE_SQL.read_text())
                if user_id_type not in (None, "bigint") or not migrate:
                    database.query(postgres.UNMIGRATE)
                if user_id_type not in (None, "bigint") and migrate:
                    database.query(f"SELECT token_usage_migrate('{user_id_type}')")
        finally:
            database.close()


def make(name):
    return SqliteEdition() if name == "sqlite" else PostgresEdition(name)


# -- values ---------------------------------------------------------------------------------------

def plain_decimal(value):
    """A Decimal as the contract writes money: no exponent, no trailing zeros."""
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def sql_literal(value):
    """A value as SQL text that both databases read."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        raise TypeError("no booleans in the common SQL text")
    if isinstance(value, (int, Decimal)):
        return str(value)
    return "'" + str(value).replace("'", "''") + "'"
