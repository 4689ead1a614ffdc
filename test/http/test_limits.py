"""What a client may send, and what comes back besides the reports: limits, bodies where none belongs,
other origins, static files."""
import json
import pathlib
import re
import time

import pytest
from service import PREFIXES, Service, bearer, error_of, raw_response, scratch, user_token

SUMMARY = PREFIXES[0] + "/usage/tokens/summary"
TOKENS = PREFIXES[0] + "/usage/tokens"
EVENT = json.dumps({"agent_id": "a", "ai_provider": "p", "ai_model": "m", "prompt_tokens": 1, "completion_tokens": 1})


def post(service, body, **headers):
    return service.request("POST", TOKENS, body, {**bearer("42"), "Content-Type": "application/json", **headers})


@pytest.fixture(scope="module")
def small(sqlite):
    database = sqlite.database(file=True)
    with Service(database, "--max-body", "1000", "--max-header", "2000") as running:
        yield running
    database.close()


def test_body_limit(small):
    padded = EVENT + " " * (1000 - len(EVENT))
    assert post(small, padded).status == 201
    answer = post(small, padded + " ")
    assert (answer.status, error_of(answer)) == (413, "the body is larger than 1000 bytes")
    assert post(small, EVENT).status == 201


def test_body_limit_of_chunks(small):
    def chunks(count):
        for _ in range(count):
            yield b" " * 200
    answer = post(small, chunks(4))
    assert answer.status == 400  # blanks are no event
    answer = post(small, chunks(6))
    assert (answer.status, error_of(answer)) == (413, "the body is larger than 1000 bytes")


def test_an_endless_body_is_cut_off(small):
    with small.socket() as sock:
        sock.sendall(f"POST {TOKENS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {user_token('42')}\r\n"
                     "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        sent = 0
        with pytest.raises(OSError):
            while sent < 64 * 1024 * 1024:
                sock.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
                sent += 65536
        assert sent < 16 * 1024 * 1024


def test_who_may_not_ask_need_not_send_the_body(small):
    with small.socket() as sock:
        sock.sendall(f"POST {TOKENS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                     "Content-Length: 900\r\n\r\n".encode())
        started = time.monotonic()
        status, head, _ = raw_response(sock)
        assert status == 401 and time.monotonic() - started < 5
        assert "connection: close" in head.lower()


def test_header_limit(small):
    assert small.request("GET", SUMMARY, headers={**bearer("42"), "X-Filler": "x" * 1000}).status == 200
    answer = small.request("GET", SUMMARY, headers={**bearer("42"), "X-Filler": "x" * 2000})
    assert (answer.status, error_of(answer)) == (431, "the header is larger than 2000 bytes")
    answer = small.request("GET", SUMMARY + "?time_zone=" + "x" * 2000, headers=bearer("42"))
    assert answer.status == 431
    many = {f"X-{i}": "y" * 10 for i in range(200)}
    assert small.request("GET", SUMMARY, headers={**bearer("42"), **many}).status == 431
    # Far past it, libmicrohttpd ends the reading itself, in its own words.
    assert small.request("GET", "/" + "x" * 200_000).status in (414, 431)


def test_an_endless_header_is_cut_off(small):
    with small.socket() as sock:
        with pytest.raises(OSError):
            sock.sendall(b"GET / HTTP/1.1\r\n")
            for _ in range(4096):
                sock.sendall(b"X-Filler: " + b"x" * 16384)
            raise AssertionError("it took 64 MiB of header")


def test_a_body_of_a_get_is_not_the_next_request(small):
    """Request smuggling: the second request stands in the body of the first."""
    inner = f"GET /healthz?inner HTTP/1.1\r\nHost: x\r\n\r\n"
    for framing in (f"Content-Length: {len(inner)}\r\n\r\n{inner}",
                    f"Transfer-Encoding: chunked\r\n\r\n{len(inner):x}\r\n{inner}\r\n0\r\n\r\n"):
        with small.socket() as sock:
            sock.sendall(f"GET /healthz HTTP/1.1\r\nHost: x\r\n{framing}".encode())
            status, head, _ = raw_response(sock)
            assert status == 200
            sock.sendall(b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            status, _, _ = raw_response(sock)
            assert status in (404, None)
            assert sock.recv(1000) == b""
    for lengths in ("Content-Length: 5\r\nContent-Length: 6", "Content-Length: 5\r\nTransfer-Encoding: chunked",
                    "Content-Length: -1", "Content-Length: x", "Content-Length: 5, 5"):
        with small.socket() as sock:
            sock.sendall(f"POST {TOKENS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {user_token('42')}\r\n{lengths}\r\n\r\n12345".encode())
            status, head, _ = raw_response(sock)
            assert status in (400, 413, None), (lengths, status)
            assert sock.recv(1000) == b""


def test_no_http_at_all(small):
    for text in (b"\r\n\r\n", b"\0" * 100, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00"):
        with small.socket() as sock:
            sock.sendall(text)
            sock.settimeout(0.3)
            try:
                sock.recv(1000)
            except TimeoutError:
                pass
    assert small.get("/healthz", None).status == 200


def test_keep_alive_and_pipelining(small):
    connection = small.connection()
    for _ in range(50):
        assert small.get(SUMMARY, connection=connection).status == 200
    # An error does not end the connection either.
    assert small.get(SUMMARY + "?x=1", connection=connection).status == 400
    assert small.get(SUMMARY, None, connection=connection).status == 401
    assert small.get(SUMMARY, connection=connection).status == 200
    connection.close()
    with small.socket() as sock:
        one = f"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        sock.sendall(one + one + one.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        data = b""
        while piece := sock.recv(65536):
            data += piece
        assert data.count(b"HTTP/1.1 200") == 3


def test_a_silent_connection_is_closed(sqlite):
    database = sqlite.database(file=True)
    with Service(database, "--idle-timeout", "1") as running, running.socket() as sock:
        started = time.monotonic()
        assert sock.recv(10) == b""
        assert 0.5 < time.monotonic() - started < 10
    database.close()


def test_more_connections_than_told(sqlite):
    database = sqlite.database(file=True)
    with Service(database, "--max-connections", "4") as running:
        sockets = [running.socket() for _ in range(8)]
        time.sleep(0.3)
        for sock in sockets:
            sock.close()
        # Until their threads have seen the end, a new connection may be refused as well.
        deadline = time.monotonic() + 20
        while True:
            try:
                answer = running.get("/healthz", None)
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        assert answer.status == 200
    database.close()


# -- other origins ----------------------------------------------------------------------------------

def test_no_other_origin_may_ask(sqlite_service):
    origin = {"Origin": "https://app.example"}
    answer = sqlite_service.request("GET", SUMMARY, headers={**bearer("42"), **origin})
    assert not [h for h in answer.headers if h.startswith("access-control")]
    answer = sqlite_service.request("OPTIONS", SUMMARY, headers={**origin, "Access-Control-Request-Method": "GET"})
    assert answer.status == 405 and not [h for h in answer.headers if h.startswith("access-control")]


def test_the_one_origin_that_may(sqlite):
    database = sqlite.database(file=True)
    with Service(database, "--cors-origin", "https://app.example") as running:
        for path in (SUMMARY, TOKENS):
            answer = running.request("OPTIONS", path, headers={
                "Origin": "https://app.example", "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization"})
            assert (answer.status, answer.text) == (204, "")
            assert answer.headers["access-control-allow-origin"] == "https://app.example"
            assert answer.headers["access-control-allow-headers"] == "Authorization, Content-Type"
            assert answer.headers["access-control-allow-methods"] == ("GET, HEAD, POST" if path == TOKENS else "GET, HEAD")
        for token in ("42", None):
            answer = running.request("GET", SUMMARY, headers={**bearer(token), "Origin": "https://app.example"})
            assert answer.headers["access-control-allow-origin"] == "https://app.example"
            assert answer.headers["vary"] == "Origin"
            assert "access-control-allow-credentials" not in answer.headers
        for other in ("https://app.example.evil", "http://app.example", "null", "https://APP.example"):
            for method in ("GET", "OPTIONS"):
                answer = running.request(method, SUMMARY, headers={**bearer("42"), "Origin": other})
                assert not [h for h in answer.headers if h.startswith("access-control")], other
                assert answer.headers["vary"] == "Origin"
    database.close()


# -- files ------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def site(sqlite):
    database = sqlite.database(file=True)
    with scratch() as folder:
        root = pathlib.Path(folder) / "site"
        for name, text in {"index.html": "<!doctype html><title>Page</title>", "assets/app-1a2b3c4d.js": "export {}",
                           "assets/app-1a2b3c4d.css": "p {}", "docs/index.html": "<!doctype html><title>Docs</title>",
                           "docs/swagger-ui.css": "a {}", "favicon.svg": "<svg/>", "empty.txt": ""}.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        (pathlib.Path(folder) / "secret.txt").write_text("secret")
        with Service(database, "--page", str(root)) as running:
            (root / "later.txt").write_text("not there when it started")
            yield running
    database.close()


def test_files(site):
    for path, start, content_type, caching in (
            ("/", "<!doctype html><title>Page", "text/html; charset=utf-8", "no-cache"),
            ("/index.html", "<!doctype html><title>Page", "text/html; charset=utf-8", "no-cache"),
            ("/assets/app-1a2b3c4d.js", "export", "text/javascript; charset=utf-8", "public, max-age=31536000, immutable"),
            ("/assets/app-1a2b3c4d.css", "p", "text/css; charset=utf-8", "public, max-age=31536000, immutable"),
            ("/docs/", "<!doctype html><title>Docs", "text/html; charset=utf-8", "no-cache"),
            ("/docs/swagger-ui.css", "a", "text/css; charset=utf-8", "no-cache"),
            ("/favicon.svg", "<svg/>", "image/svg+xml", "no-cache"),
            ("/empty.txt", "", "text/plain; charset=utf-8", "no-cache"),
            ("/openapi.json", "{", "application/json", "no-cache")):
        answer = site.get(path, None)
        assert (answer.status, answer.headers["content-type"], answer.headers["cache-control"]) == (200, content_type, caching), path
        assert answer.text.startswith(start)
        assert answer.headers["x-content-type-options"] == "nosniff"
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src 'self';" in policy and "frame-ancestors 'none'" in policy
        assert ("'unsafe-inline'" in policy) == path.startswith("/docs/")
        assert not re.search(r"https?:|\*", policy)
        again = site.request("GET", path, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status, again.text) == (304, "")
        assert site.request("GET", path, headers={"If-None-Match": '"other"'}).status == 200
        assert site.request("HEAD", path).status == 200
        assert site.request("POST", path).headers["allow"] == "GET, HEAD"
    answer = site.get("/docs", None)
    assert (answer.status, answer.headers["location"]) == (301, "/docs/")


def test_nothing_else_is_a_file(site):
    for path in ("/../secret.txt", "/%2e%2e/secret.txt", "/..%2fsecret.txt", "/assets/../../secret.txt", "//secret.txt", "/assets",
                 "/assets/", "/later.txt", "/index.html%00.txt", "/.", "/docs/..", "/INDEX.HTML", "/index.html/"):
        answer = site.get(path, None)
        assert answer.status in (301, 404) and "secret" not in answer.text.replace("no such", ""), path
        if answer.status == 404:
            assert error_of(answer) == "no such path"


def test_without_a_page(sqlite):
    database = sqlite.database(file=True)
    with Service(database, "--page", "/nowhere") as running:
        assert running.get("/", None).status == 404
        assert running.get("/openapi.json", None).status == 200
        running.wait_for_line("no page in /nowhere")
    database.close()
