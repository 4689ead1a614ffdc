"""The HTTP service as its users meet it: a real process on a free loopback port, tokens made
without its code, requests over sockets."""
import base64
import hashlib
import hmac
import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections import namedtuple

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from support import editions, paths  # noqa: E402

PROGRAM = pathlib.Path(os.environ.get("TOKEN_USAGE_HTTP_PROGRAM", paths.ROOT / "build" / "token-usage-http"))
PREFIXES = ("/api/v1/billing", "/api/billing")
SECRET = "a secret of 32 bytes or more, for tests"

Response = namedtuple("Response", "status headers text")


# -- tokens ---------------------------------------------------------------------------------------

def _part(data):
    if not isinstance(data, bytes):
        data = json.dumps(data).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sign_hs256(secret, text):
    return hmac.new(secret if isinstance(secret, bytes) else secret.encode(), text.encode(), hashlib.sha256).digest()


def claims(subject="42", lifetime=600, **more):
    made = {"sub": subject, "exp": int(time.time()) + lifetime, **more}
    return {k: v for k, v in made.items() if v is not None}


def token(payload=None, secret=SECRET, header=None, sign=sign_hs256):
    """A JWT, HS256 unless `header` and `sign` say otherwise."""
    text = _part(header or {"alg": "HS256", "typ": "JWT"}) + "." + _part(claims() if payload is None else payload)
    return text + "." + _part(sign(secret, text))


def user_token(subject):
    return token(claims(subject))


class RsaKey:
    """An RSA key, made and used by the openssl program."""

    def __init__(self, folder, bits=2048):
        self.private, self.public = folder / f"private{bits}.pem", folder / f"public{bits}.pem"
        self._openssl("genrsa", "-out", self.private, str(bits))
        self._openssl("rsa", "-in", self.private, "-pubout", "-out", self.public)

    @staticmethod
    def _openssl(*argv, data=None):
        return subprocess.run(["openssl", *map(str, argv)], input=data, check=True, capture_output=True).stdout

    def sign(self, _secret, text):
        return self._openssl("dgst", "-sha256", "-sign", self.private, data=text.encode())


# -- the process ----------------------------------------------------------------------------------

class Service:
    """`with Service(database) as service:`; `database` is a connection string, a file or a Database
    of the editions."""

    def __init__(self, database, *options, key=SECRET, environment=None):
        self.target = target_of(database)
        self.options, self.key, self.environment = options, key, environment or {}
        self.lines = []

    def __enter__(self):
        if not PROGRAM.exists():
            raise RuntimeError(f"{PROGRAM} is not built")
        env = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "TOKEN_USAGE_"))}
        env.update(TOKEN_USAGE_JWT_KEY=self.key, **self.environment)
        library = [] if "--sqlite-extension" in self.options else ["--sqlite-extension", paths.library_for_load()]
        self.process = subprocess.Popen(
            [str(PROGRAM), "--database", self.target, "--listen", "127.0.0.1:0", *library, *self.options],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        line = self.wait_for_line(" listening on ")
        self.host = line.split(" listening on http://")[1].split(",")[0]
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()
        self._reader.join()
        self.process.stdout.close()

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def wait_for_line(self, part, seconds=20):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for line in self.lines:
                if part in line:
                    return line
            if self.process.poll() is not None and not self._reader.is_alive():
                break
            time.sleep(0.01)
        raise AssertionError(f"no line with {part!r} in:\n" + "\n".join(self.lines))

    def stop(self, signal_number=signal.SIGTERM):
        self.process.send_signal(signal_number)

    def connection(self, timeout=30):
        return http.client.HTTPConnection(self.host, timeout=timeout)

    def socket(self):
        host, port = self.host.rsplit(":", 1)
        return socket.create_connection((host, int(port)), timeout=30)

    def request(self, method, path, body=None, headers=None, connection=None):
        used = connection or self.connection()
        used.request(method, path, body=body, headers=headers or {})
        got = used.getresponse()
        answer = Response(got.status, {k.lower(): v for k, v in got.getheaders()}, got.read().decode())
        if connection is None:
            used.close()
        return answer

    def get(self, path, user="42", connection=None, **query):
        if query:
            path += "?" + urllib.parse.urlencode(query)
        return self.request("GET", path, headers=bearer(user), connection=connection)

    def record(self, event, user="42", path=PREFIXES[0] + "/usage/tokens", connection=None):
        body = event if isinstance(event, (str, bytes)) else json.dumps(event)
        return self.request("POST", path, body, {**bearer(user), "Content-Type": "application/json"}, connection)


def bearer(user):
    """The header of a user's token; of a token itself, where it is one; none for None."""
    if user is None:
        return {}
    return {"Authorization": "Bearer " + (user if user.count(".") == 2 else user_token(user))}


def target_of(database):
    if isinstance(database, (str, pathlib.Path)):
        return str(database)
    if database.dialect == "sqlite":
        return database.path
    return database._edition.server.url(database.name, database.user)


def error_of(answer):
    """The message of an error, whose form is checked."""
    body = json.loads(answer.text)
    assert set(body) == {"success", "error"} and body["success"] is False, answer.text
    assert answer.headers["content-type"] == "application/json"
    return body["error"]


def one_value(database, sql, parameters):
    """What the database itself says, as text."""
    if database.dialect == "pg":
        sql, parameters = sql.replace("?", "%s"), tuple(parameters)
    return database.query(sql, parameters).rows[0][0]


def raw_response(sock):
    """Status, head and body of one response, read off a socket."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(65536)
        if not piece:
            return None, data.decode(), ""
        data += piece
    head, body = data.split(b"\r\n\r\n", 1)
    length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n")
                   if line.lower().startswith(b"content-length:")), 0)
    while len(body) < length:
        piece = sock.recv(65536)
        if not piece:
            break
        body += piece
    return int(head.split(b" ")[1]), head.decode(), body.decode()


def scratch():
    return tempfile.TemporaryDirectory(prefix="token_usage_http_", dir="/tmp")


def fill(database, user=42, rows=60):
    """Requests of the last 40 days, up to now; every seventh without a price."""
    now = int(time.time())
    made = []
    for i in range(rows):
        cost = None if i % 7 == 6 else str(editions.Decimal("0.000123") * (i + 1))
        if cost is not None and database.dialect == "sqlite":
            cost = float(cost)
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now - i * i * 960))
        made.append((user, ("writer", "researcher", "Перевод")[i % 3], ("openai", "anthropic")[i % 2],
                     ("gpt-4o", "claude-haiku-4-5", "gpt-4o-mini", "claude-sonnet-4-5")[i % 4],
                     100 + i, 10 + i % 5, 110 + i + i % 5, cost, cost, 900 + i, at))
    database.insert("token_usage", ("user_id", "agent_id", "ai_provider", "ai_model", "prompt_tokens", "completion_tokens",
                                    "total_tokens", "cost_usd", "cost_rub", "execution_time_ms", "created_at"), made)
