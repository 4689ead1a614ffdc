"""What stands in examples/ to be deployed, as far as it can be tried without a container engine: the demo,
the systemd unit, the Dockerfiles' packages, the compose file, the Grafana dashboard's SQL."""
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import urllib.request

import pytest
import yaml
from service import PROGRAM, Service, fill, scratch

from support import paths

EXAMPLES = paths.ROOT / "examples"


# -- the demo ---------------------------------------------------------------------------------------

def test_demo(sqlite):
    """One command: an address with a token, and figures behind it."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("TOKEN_USAGE_")}
    process = subprocess.Popen([str(EXAMPLES / "http_service/demo"), "--no-page", "--listen", "127.0.0.1:0"], env=env, text=True,
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        output = ""
        for line in process.stdout:
            output += line
            if line.startswith("The token"):
                break
        url, token = re.search(r"(http://127\.0\.0\.1:\d+)/#token=(\S+)", output).groups()
        request = urllib.request.Request(url + "/api/v1/billing/usage/tokens/summary", headers={"Authorization": "Bearer " + token})
        with urllib.request.urlopen(request, timeout=30) as answer:
            summary = json.load(answer)["data"]
        assert summary["all_time"]["requests_count"] > 2000
        assert summary["all_time"]["unpriced_count"] > 100
        assert summary["this_month"]["requests_count"] > 0
        assert oct((paths.ROOT / "build/demo.key").stat().st_mode)[-3:] == "600"
    finally:
        process.send_signal(signal.SIGTERM)
        rest = process.stdout.read()
        process.wait(30)
        process.stdout.close()
    assert "stopped" in rest


# -- systemd ----------------------------------------------------------------------------------------

def unit():
    return (EXAMPLES / "token-usage-http.service").read_text()


def test_systemd_unit(tmp_path):
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    # Where it will be installed nothing is yet; the rest of the unit is checked as it is.
    text = unit().replace("/usr/local/bin/token-usage-http", str(PROGRAM))
    assert text != unit()
    path = tmp_path / "token-usage-http.service"
    path.write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True)
    complaints = [line for line in done.stderr.splitlines() if "token-usage-http" in line]
    assert not complaints and done.returncode == 0, done.stderr


def test_its_options_are_the_programs():
    command = re.search(r"^ExecStart=(.*)$", unit(), re.M)[1]
    text = subprocess.run([str(PROGRAM), "--help"], capture_output=True, text=True, check=True).stdout
    for option in re.findall(r"--[\w-]+", command):
        assert option + " " in text, option


# -- containers -------------------------------------------------------------------------------------

def stages(name):
    """The stages of a Dockerfile, as the packages that each installs."""
    text = (EXAMPLES / "docker" / name).read_text().replace("\\\n", " ")
    found = []
    for line in text.splitlines():
        if line.startswith("FROM "):
            found.append(set())
        for match in re.findall(r"apt-get install -y --no-install-recommends ([^&]*)", line):
            found[-1] |= set(match.split())
    return found


def demo_packages():
    text = (EXAMPLES / "http_service/demo").read_text().replace("\\\n", " ")
    return set(re.search(r"^install_missing (.*)$", text, re.M)[1].split())


def test_service_image_builds_with_the_packages_of_the_build():
    _, build, _ = stages("service.Dockerfile")
    # sqlite3 and tzdata are for what the demo does, not for the build.
    assert build == demo_packages() - {"sqlite3", "tzdata"}
    checked = set(re.findall(r"[\w-]+-dev\b", (paths.ROOT / "check").read_text()))
    assert {p for p in build if p.endswith("-dev")} <= checked


def test_service_image_has_the_libraries_that_the_program_is_linked_with():
    if not shutil.which("dpkg-query"):
        pytest.skip("not a Debian machine")
    _, _, final = stages("service.Dockerfile")
    needed = set()
    for binary in (PROGRAM, paths.LIBRARY):
        text = subprocess.run(["readelf", "-d", str(binary)], capture_output=True, text=True, check=True).stdout
        for library in re.findall(r"NEEDED.*\[(.*)\]", text):
            found = subprocess.run(["dpkg-query", "-S", f"*-linux-gnu/{library}"], capture_output=True, text=True).stdout
            owners = {line.split(":")[0] for line in found.splitlines()}
            needed |= {o for o in owners if not o.endswith("-dev")}
    needed -= {"libc6", "libgcc-s1"}  # in every image
    assert needed <= final, needed - final


def test_copied_paths_are_there():
    for name in ("postgres.Dockerfile", "service.Dockerfile"):
        for line in (EXAMPLES / "docker" / name).read_text().splitlines():
            if line.startswith("COPY ") and "--from" not in line:
                source = line.split()[1]
                assert (paths.ROOT / source).exists(), source


def test_compose_file():
    compose = yaml.safe_load((EXAMPLES / "docker-compose.yml").read_text())
    assert set(compose["services"]) == {"database", "service"}
    help_text = subprocess.run([str(PROGRAM), "--help"], capture_output=True, text=True, check=True).stdout
    for name, service in compose["services"].items():
        assert (EXAMPLES / service["build"]["context"] / service["build"]["dockerfile"]).exists(), name
    for variable in compose["services"]["service"]["environment"]:
        assert variable in help_text, variable
    for port in compose["services"]["service"]["ports"]:
        assert port.startswith("127.0.0.1:")


def test_init_script_of_the_database_image(native):
    """Run as the image runs it, against a new database."""
    native.superuser("CREATE DATABASE from_image TEMPLATE template0", "DROP ROLE IF EXISTS image_app")
    env = native.server.environment()
    env.update(POSTGRES_USER="postgres", POSTGRES_DB="from_image", APP_PASSWORD="it's; secret")
    script = (EXAMPLES / "docker/init-token-usage.sh").read_text()
    # `app` is the tests' own role here.
    script = script.replace("ROLE app", "ROLE image_app").replace("TO app", "TO image_app")
    done = subprocess.run(["sh", "-c", script], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with Service(native.server.url("from_image", "image_app")) as running:
        assert running.get("/healthz", None).status == 200
        assert running.record({"agent_id": "a", "ai_provider": "p", "ai_model": "m", "prompt_tokens": 1, "completion_tokens": 1}).status == 201
        assert running.get("/api/billing/usage/tokens/summary").status == 200
    native.superuser("DROP DATABASE from_image", "DROP ROLE image_app")


# -- Grafana ----------------------------------------------------------------------------------------

def dashboard():
    return json.loads((EXAMPLES / "grafana-dashboard.json").read_text())


def filled_in(sql):
    """What Grafana makes of a query before it sends it."""
    values = {"${user:sqlstring}": "'42'", "${days}": "30", "${time_zone:sqlstring}": "'Europe/Moscow'",
              "$__timeFrom()": "'2020-01-01T00:00:00Z'", "$__timeTo()": "'2100-01-01T00:00:00Z'"}
    for name, value in values.items():
        sql = sql.replace(name, value)
    assert "$" not in sql, sql
    return sql


def test_grafana_dashboard(pg):
    database = pg.database()
    fill(database)
    board = dashboard()
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids) >= 8
    for panel in board["panels"]:
        (target,) = panel["targets"]
        result = database.query(filled_in(target["rawSql"]))
        assert result.rows, panel["title"]
        # A series needs its time; the currency of a column needs the column.
        assert (target["format"] == "time_series") == ("time" in result.columns), panel["title"]
        for override in panel["fieldConfig"]["overrides"]:
            assert override["matcher"]["options"] in result.columns, panel["title"]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            assert ("42", "42") in [tuple(r) for r in database.query(variable["query"]).rows]
    database.close()
