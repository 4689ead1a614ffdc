"""Fixtures of the browser tests: the browser, and the service over each database with the same ledger."""
import datetime
import time
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from . import figures
from . import ledger
from . import serving
from support import editions

# The page is the same over every edition, and the portable edition answers as the native one does
# (the conformance tests see to that); so these two.
EDITIONS = [name for name in editions.wanted() if name != "pg-portable"]


@pytest.fixture(scope="session")
def chromium():
    reason = serving.missing()
    if reason:
        pytest.skip(reason)
    made = serving.Chromium()
    yield made
    made.stop()


class Place:
    """A database with the ledger in it, and the service over it."""

    def __init__(self, edition, now):
        self.edition, self.dialect = edition, edition.dialect
        self.database = edition.database(file=True)
        self.load(ledger.everything(now))
        self.site = serving.Site(edition.name, self.url())
        self.ledger = figures.read(self.database)

    def url(self):
        if self.dialect == "sqlite":
            return self.database.path
        return self.edition.server.url(self.database.name, self.edition.OWNER)

    def load(self, rows):
        if self.dialect == "sqlite":
            rows = [tuple(float(v) if isinstance(v, Decimal) else v for v in row) for row in rows]
        self.database.insert("token_usage", ledger.COLUMNS, rows)

    def close(self):
        self.site.stop()
        self.database.close()


@pytest.fixture(scope="session", params=EDITIONS)
def place(request, chromium):
    edition = editions.make(request.param)
    edition.start()
    made = None
    try:
        made = Place(edition, datetime.datetime.now(datetime.timezone.utc))
        yield made
    finally:
        if made:
            made.close()
        edition.stop()


@pytest.fixture
def calm():
    """Waits where a day ends within two minutes in one of the zones of the tests: the page and the
    expectation must look at the same day. (Not kept across tests: each looks anew.)"""
    while True:
        now = datetime.datetime.now(datetime.timezone.utc)
        left = []
        for zone in ledger.ZONES:
            local = now.astimezone(ZoneInfo(zone))
            midnight = (local + datetime.timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
            left.append((midnight - local).total_seconds())
        if min(left) > 120:
            return
        time.sleep(min(left) + 1)
