"""The page while the service's database is away, and after it is back. Each test has a database of its
own to stop: a PostgreSQL server, or a file that is moved aside."""
import datetime
import os
import pathlib
import threading
import time

import pytest

from . import ledger, serving
from .conftest import EDITIONS
from .ledger import UNPRICED
from support import editions, postgres

ROWS = ledger.unpriced(datetime.datetime.now(datetime.timezone.utc))


class File:
    """A SQLite ledger; it is away when its file is."""

    name = "sqlite"

    def __init__(self):
        edition = editions.SqliteEdition()
        self.database = edition.database(file=True)
        self.database.insert("token_usage", ledger.COLUMNS, ROWS)
        self.target = self.database.path

    def stop(self):
        os.rename(self.target, self.target + ".aside")

    def start(self):
        os.rename(self.target + ".aside", self.target)

    def close(self):
        self.database.close()


class Server:
    """A PostgreSQL server of its own, stopped and started on the same port."""

    name = "pg-native"

    def __init__(self):
        self.server = postgres.Server().__enter__()
        self.target = self.server.url("postgres", "postgres")
        connection = self.server.connect()
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("CREATE EXTENSION token_usage")
            cursor.execute("SELECT token_usage_migrate()")
            marks = ", ".join(["%s"] * len(ledger.COLUMNS))
            cursor.executemany(f"INSERT INTO token_usage ({', '.join(ledger.COLUMNS)}) VALUES ({marks})", ROWS)
        connection.close()

    def _control(self, *arguments):
        self.server._run([self.server.bin / "pg_ctl", "-D", self.server.data, "-w", "-t", "60", *arguments])

    def stop(self):
        self._control("-m", "immediate", "stop")

    def start(self):
        self._control("-l", self.server.log, "-o",
                      f"-k {self.server.folder} -p {self.server.port} -c listen_addresses=127.0.0.1", "start")

    def close(self):
        self.server.stop()


@pytest.fixture(params=EDITIONS)
def stoppable(request, chromium):
    made = File() if request.param == "sqlite" else Server()
    site = None
    try:
        site = serving.Site(made.name, made.target)
        made.site = site
        yield made
    finally:
        if site:
            site.stop()
        made.close()


def test_every_part_says_that_the_database_is_away(stoppable, chromium):
    """An error with a way to try again; no zero, no empty table, no sign-in."""
    stoppable.stop()
    try:
        chromium.run("away", stoppable.site, [UNPRICED], user=UNPRICED, expected=[503])
    finally:
        stoppable.start()


def test_the_page_recovers_when_the_database_is_back(stoppable, chromium, tmp_path):
    """Stopped while the page is open, then started again: each part by its own button."""
    files = {name: str(tmp_path / name) for name in ("opened", "away", "failed", "back")}

    def wait_for(name):
        until = time.monotonic() + 60
        while not os.path.exists(files[name]):
            if time.monotonic() > until:
                return
            time.sleep(0.05)

    def stop_and_start():
        wait_for("opened")
        stoppable.stop()
        pathlib.Path(files["away"]).touch()
        wait_for("failed")
        stoppable.start()
        pathlib.Path(files["back"]).touch()

    other = threading.Thread(target=stop_and_start)
    other.start()
    try:
        chromium.run("recovers", stoppable.site, [UNPRICED], user=UNPRICED, expected=[503], files=files)
    finally:
        other.join()


def test_the_service_itself_is_away(chromium, stoppable):
    """Nothing answers at all: the page was loaded, then the service stopped."""
    chromium.run("unreachable", stoppable.site, [UNPRICED], user=UNPRICED, expected=[0], pid=stoppable.site.process.pid)
