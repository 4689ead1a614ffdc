"""Fixtures that every suite shares: the editions, and the count of comparisons made in each."""
import os
import pathlib
import sys
import tempfile

import pytest

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "conformance"))

from support import editions, postgres  # noqa: E402

# Random ledgers grow from this; set TOKEN_USAGE_SEED to repeat a run.
SEED = int(os.environ.get("TOKEN_USAGE_SEED", int.from_bytes(os.urandom(4), "big")))
COMPARISONS = {}


def pytest_configure(config):
    postgres.stop_on_sigterm()


def pytest_report_header(config):
    return f"TOKEN_USAGE_SEED={SEED}"


@pytest.fixture(scope="session", params=editions.wanted())
def edition(request):
    """Each edition in turn."""
    made = editions.make(request.param)
    made.start()
    COMPARISONS.setdefault(f"{made.name} ({made.version()})", 0)
    yield made
    made.stop()


def _one(name):
    @pytest.fixture(scope="session")
    def fixture():
        if name not in editions.wanted():
            pytest.skip(f"TOKEN_USAGE_EDITIONS leaves out {name}")
        made = editions.make(name)
        made.start()
        yield made
        made.stop()
    return fixture


sqlite = _one("sqlite")
native = _one("pg-native")
portable = _one("pg-portable")


@pytest.fixture(scope="session", params=[n for n in editions.wanted() if n != "sqlite"])
def pg(request):
    """The two PostgreSQL editions in turn."""
    made = editions.make(request.param)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def database(edition):
    """A fresh migrated database of the edition."""
    made = edition.database()
    yield made
    made.close()


@pytest.fixture(scope="session")
def unchanged(edition):
    """A migrated, empty database for tests that change nothing in it."""
    made = edition.database()
    yield made
    made.close()


@pytest.fixture
def tmp_path():
    """A folder that is gone after the test; pytest's own stays behind."""
    with tempfile.TemporaryDirectory(prefix="token_usage_test_", dir="/tmp") as folder:
        yield pathlib.Path(folder)


@pytest.fixture(scope="session")
def seed():
    return SEED


def pytest_terminal_summary(terminalreporter):
    if any(COMPARISONS.values()):
        terminalreporter.section("comparisons with the oracle", sep="-")
        for name, count in COMPARISONS.items():
            terminalreporter.write_line(f"{name}: {count}")
        terminalreporter.write_line(f"seed: {SEED}")
