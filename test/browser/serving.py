"""The service over one database, and Chromium before it.

`Site` starts token-usage-http on a free port of the loopback address with a key of its own, and stops it. `Chromium` is
the process that runs the scenarios of the *.mjs files. Both leave nothing behind.
"""
import base64
import hashlib
import hmac
import json
import os
import pathlib
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
import time

from support import paths

HERE = pathlib.Path(__file__).resolve().parent
PROGRAM = pathlib.Path(os.environ.get("TOKEN_USAGE_HTTP", paths.ROOT / "build" / "token-usage-http"))
PAGE = paths.ROOT / "examples" / "http_service" / "page" / "dist"
SCREENSHOTS = paths.ROOT / "build" / "screenshots"


def node():
    """A Node that playwright-core runs on, which is 20 or later: the machine's, else the one that test/clients/node.sh
    installs; None where neither is."""
    for program in ("node", str(paths.ROOT / "build" / "node" / "node")):
        if shutil.which(program):
            version = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
            if re.match(r"v(2\d|[3-9]\d|\d{3})\.", version):
                return program
    return None


def missing():
    """What the tests need and is not there, as a sentence; None where all is."""
    if not PROGRAM.exists():
        return f"{PROGRAM} is not built"
    if not (PAGE / "index.html").exists():
        return f"no page in {PAGE}; test/browser/prepare.sh builds it"
    if not (HERE / "node_modules" / "playwright-core").exists():
        return f"no playwright-core in {HERE}; test/browser/prepare.sh puts it there"
    if not node():
        return "no Node 20 or later; test/clients/node.sh puts one into build/node"
    chromium = os.environ.get("TOKEN_USAGE_CHROMIUM", "/usr/bin/chromium")
    return None if shutil.which(chromium) else f"no {chromium}"


def _part(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Site:
    """token-usage-http over `database`, a URL or a file."""

    def __init__(self, name, database):
        self.name, self.database = name, database
        self.key = secrets.token_hex(32)
        self.log = []
        self.process = subprocess.Popen(
            [str(PROGRAM), "--database", database, "--listen", "127.0.0.1:0", "--page", str(PAGE),
             "--sqlite-extension", paths.library_for_load()],
            env={**os.environ, "TOKEN_USAGE_JWT_KEY": self.key}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True)
        self._started = threading.Event()
        self.url = None
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._started.wait(20) or self.url is None:
            self.stop()
            raise RuntimeError(f"{PROGRAM} does not listen:\n{''.join(self.log)}")

    def _read(self):
        for line in self.process.stdout:
            self.log.append(line)
            found = re.search(r"listening on (http://[^\s,]+)", line)
            if found and self.url is None:
                self.url = found[1].rstrip("/") + "/"
                self._started.set()
        self._started.set()

    def token(self, subject, seconds=3600):
        """A JSON Web Token for a user, HS256, made here and not by the service."""
        head = _part(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
        body = _part(json.dumps({"sub": str(subject), "exp": int(time.time()) + seconds}).encode())
        signature = hmac.new(self.key.encode(), f"{head}.{body}".encode(), hashlib.sha256).digest()
        return f"{head}.{body}.{_part(signature)}"

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._reader.join(5)
        self.process.stdout.close()


class Chromium:
    """Runs scenarios, one after the other, in a browser that all of them share."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="token_usage_browser_", dir="/tmp")
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.errors = open(os.path.join(self.folder, "errors"), "w+")
        # Profile and crash folder of Chromium go where they are removed again.
        self.process = subprocess.Popen(
            [node(), "driver.mjs"], cwd=HERE, env={**os.environ, "TMPDIR": self.folder, "HOME": self.folder}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors)

    def run(self, scenario, site, users=(), **args):
        """Runs a scenario; AssertionError with its stack where it finds something wrong."""
        about = {"url": site.url, "name": site.name, "screenshots": str(SCREENSHOTS), "failures": str(SCREENSHOTS),
                 "tokens": {str(user): site.token(user) for user in users}}
        try:
            self.process.stdin.write(json.dumps({"scenario": scenario, "site": about, "args": args}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self.errors.seek(0)
            raise AssertionError(f"the browser ended:\n{self.errors.read()}")
        answer = json.loads(line)
        assert answer["ok"], answer.get("error")
        return answer["result"]

    def stop(self):
        # At the end of its input the driver closes Chromium; on SIGTERM playwright does.
        for ask in (self.process.stdin.close, self.process.terminate, self.process.kill):
            try:
                ask()
                self.process.wait(20)
                break
            except (subprocess.TimeoutExpired, BrokenPipeError):
                pass
        self.process.stdout.close()
        self.errors.close()
        shutil.rmtree(self.folder, ignore_errors=True)
