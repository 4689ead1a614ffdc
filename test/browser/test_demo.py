"""`examples/http_service/demo`, the last of the three commands of README.md: it serves a page that shows the
ledger it made, by the address that it prints, and ends when it is told to."""
import os
import re
import signal
import subprocess
import time
import types

import pytest

from . import figures
from .test_page import check_breakdown, check_cards, check_history, expected_cards
from support import editions, paths

USER = 42


@pytest.fixture
def demo(chromium):
    if "sqlite" not in editions.wanted():
        pytest.skip("TOKEN_USAGE_EDITIONS leaves out sqlite")
    process = subprocess.Popen([str(paths.ROOT / "examples" / "http_service" / "demo"), "--listen", "127.0.0.1:0"],
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               start_new_session=True)
    said = []
    try:
        for line in process.stdout:
            said.append(line)
            found = re.search(r"The page of user (\d+): +(http://127\.0\.0\.1:\d+/)#token=(\S+)", line)
            if found:
                break
        else:
            raise AssertionError("".join(said))
        assert found[1] == str(USER)
        yield found[2], found[3]
        process.terminate()
        assert process.wait(20) in (0, 128 + signal.SIGTERM)
        # The service is a child of the script and is to be gone with it; what copies its log may take a moment more.
        until = time.monotonic() + 10
        with pytest.raises(ProcessLookupError):
            while time.monotonic() < until:
                os.killpg(process.pid, 0)
                time.sleep(0.05)
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
        process.stdout.close()


def test_demo_shows_its_ledger(demo, chromium, calm):
    url, token = demo
    database = editions.SqliteDatabase(str(paths.ROOT / "build" / "demo.db"))
    try:
        place = types.SimpleNamespace(ledger=figures.read(database), dialect="sqlite")
    finally:
        database.close()
    site = types.SimpleNamespace(url=url, name="demo", token=lambda user: token)
    found = chromium.run("figures", site, [USER], user=USER, views=[("UTC", ["30", "90"])])
    now = figures.now()
    for one in found:
        days = int(one["days"])
        check_cards(one["cards"], expected_cards(place, USER, "UTC", now))
        check_history(one["history"], place.ledger.history_json(USER, days, None, "UTC", now), "sqlite")
        check_breakdown(one, place.ledger.by_agent_json(USER, days, "UTC", now)["data"],
                        place.ledger.by_model_json(USER, days, "UTC", now)["data"], "sqlite")
        # Something to look at.
        assert int(one["history"]["totals"]["requests_count"]) > 500
