"""Fixtures of the HTTP suite: a service over a filled ledger of each edition."""
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import service as http_service  # noqa: E402


@pytest.fixture(scope="session")
def ledger(edition):
    """A ledger with requests of users 42 and 7, for tests that change nothing in it."""
    database = edition.database(file=True)
    http_service.fill(database)
    http_service.fill(database, user=7, rows=5)
    yield database
    database.close()


@pytest.fixture(scope="session")
def service(ledger):
    """A service over `ledger`. A hundred years of history may take its time on a busy machine."""
    with http_service.Service(ledger, "--statement-timeout-ms", "60000") as running:
        yield running


@pytest.fixture
def fresh(edition):
    """An empty ledger, in a file on SQLite."""
    database = edition.database(file=True)
    yield database
    database.close()


@pytest.fixture(scope="session")
def sqlite_service(sqlite):
    """A service over an empty SQLite ledger, for what does not depend on the database."""
    database = sqlite.database(file=True)
    with http_service.Service(database) as running:
        yield running
    database.close()


@pytest.fixture(scope="session")
def rsa_folder():
    with http_service.scratch() as folder:
        yield pathlib.Path(folder)
