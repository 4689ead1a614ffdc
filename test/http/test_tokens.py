"""Who may ask: tokens of every kind, made without the service's code."""
import json
import os
import subprocess
import time

import pytest
from service import (PREFIXES, PROGRAM, SECRET, RsaKey, Service, _part, bearer, claims, error_of, sign_hs256, token,
                     user_token)

SUMMARY = PREFIXES[0] + "/usage/tokens/summary"


@pytest.fixture(scope="module")
def rsa(rsa_folder):
    return RsaKey(rsa_folder)


@pytest.fixture(scope="module")
def rs256(sqlite, rsa):
    database = sqlite.database(file=True)
    with Service(database, "--jwt-algorithm", "RS256", "--jwt-key-file", str(rsa.public), key="") as running:
        yield running
    database.close()


RS = {"alg": "RS256", "typ": "JWT"}


def ask(service, made, header="Bearer {}"):
    return service.request("GET", SUMMARY, headers={"Authorization": header.format(made)})


def refused(service, made, message=None, header="Bearer {}"):
    answer = ask(service, made, header)
    assert answer.status == 401, answer.text
    challenge = answer.headers["www-authenticate"]
    assert challenge.startswith('Bearer realm="token_usage"')
    assert "data" not in json.loads(answer.text)
    if message is not None:
        assert error_of(answer) == message
    return challenge


def test_no_token(sqlite_service):
    for headers in ({}, {"Authorization": ""}, {"Authorization": "Bearer"}, {"Authorization": "Basic YTpi"},
                    {"Authorization": user_token("42")}, {"Authorization": "Bearerx " + user_token("42")}):
        answer = sqlite_service.request("GET", SUMMARY, headers=headers)
        assert answer.status == 401
        assert error_of(answer) == "a bearer token is needed: Authorization: Bearer <JWT>"
        # RFC 6750: no error code where no token was tried.
        assert answer.headers["www-authenticate"] == 'Bearer realm="token_usage"'


def test_a_good_token(sqlite_service):
    assert ask(sqlite_service, user_token("42")).status == 200
    assert ask(sqlite_service, user_token("42"), "bearer {}").status == 200
    assert ask(sqlite_service, user_token("42"), "BEARER   {}").status == 200
    assert ask(sqlite_service, token(claims("42", nbf=int(time.time()) - 5, iat=1))).status == 200
    assert ask(sqlite_service, token({"sub": "42", "exp": time.time() + 60.5})).status == 200
    assert ask(sqlite_service, token({"sub": 42, "exp": int(time.time()) + 60})).status == 200


def test_time(sqlite_service):
    now = int(time.time())
    challenge = refused(sqlite_service, token(claims(lifetime=-1)), "the token has expired")
    assert 'error="invalid_token"' in challenge
    refused(sqlite_service, token(claims(lifetime=0)), "the token has expired")
    refused(sqlite_service, token({"sub": "42"}), "the token has no time of expiry")
    for bad in ("soon", None, True, [now + 60], str(now + 60)):
        refused(sqlite_service, token({"sub": "42", "exp": bad}), "the token has no time of expiry")
    refused(sqlite_service, token(claims(nbf=now + 30)), "the token is not valid yet")
    refused(sqlite_service, token(claims(nbf="now")), "the token is not valid yet")
    refused(sqlite_service, token({"sub": "42", "exp": -now}), "the token has expired")


def test_a_token_expires_while_it_is_used(sqlite_service):
    made = token(claims(lifetime=2))
    assert ask(sqlite_service, made).status == 200
    time.sleep(2.1)
    refused(sqlite_service, made, "the token has expired")


def test_leeway(sqlite):
    database = sqlite.database(file=True)
    with Service(database, "--jwt-leeway", "30") as running:
        assert ask(running, token(claims(lifetime=-20))).status == 200
        assert ask(running, token(claims(nbf=int(time.time()) + 20))).status == 200
        refused(running, token(claims(lifetime=-40)), "the token has expired")
    database.close()


def test_subject(sqlite_service):
    for bad in ("", None, True, ["42"], {"id": 42}, 4.2, -1):
        refused(sqlite_service, token({"sub": bad, "exp": int(time.time()) + 60}), "the token names no subject")
    refused(sqlite_service, token({"exp": int(time.time()) + 60}), "the token names no subject")


def test_forgeries(sqlite_service):
    message = "the token is not one that this service accepts"
    good = user_token("42")
    head, body, signature = good.split(".")
    refused(sqlite_service, token(secret=SECRET + "x"), message)
    refused(sqlite_service, token(secret=""), message)
    refused(sqlite_service, f"{head}.{_part(claims('7'))}.{signature}", message)
    refused(sqlite_service, f"{head}.{body}.", message)
    refused(sqlite_service, f"{head}.{body}", message)
    refused(sqlite_service, f"{head}.{body}.{signature}.{signature}", message)
    refused(sqlite_service, f"{head}.{body}.{signature[:-2]}", message)
    flipped = ("A" if signature[0] != "A" else "B") + signature[1:]
    refused(sqlite_service, f"{head}.{body}.{flipped}", message)
    for bad in ("x", "a.b.c", "..", "...", "%00", "{}", "é.é.é".encode().decode("latin-1")):
        refused(sqlite_service, bad, message)
    for payload in (b"", b"[]", b"42", b"{", b"\xff\xfe", b'{"sub": "42"'):
        refused(sqlite_service, token(payload))


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", ""])
def test_no_algorithm(sqlite_service, rs256, alg):
    header = {"alg": alg, "typ": "JWT"}
    for service in (sqlite_service, rs256):
        unsigned = _part(header) + "." + _part(claims())
        refused(service, unsigned + ".")
        refused(service, unsigned)
        refused(service, token(header=header))
    refused(sqlite_service, _part({"typ": "JWT"}) + "." + _part(claims()) + ".")


@pytest.mark.parametrize("alg", ["HS384", "HS512", "RS256", "RS384", "ES256", "PS256", "EdDSA", "hs256", 256, None])
def test_another_algorithm_than_ours(sqlite_service, alg):
    """Signed by the right secret as HS256 signs, but called otherwise; and, for the SHA-2 family, signed as it says."""
    import hashlib
    import hmac
    refused(sqlite_service, token(header={"alg": alg, "typ": "JWT"})) if alg != "hs256" else None
    if alg in ("HS384", "HS512"):
        digest = {"HS384": hashlib.sha384, "HS512": hashlib.sha512}[alg]
        refused(sqlite_service, token(header={"alg": alg, "typ": "JWT"},
                                      sign=lambda secret, text: hmac.new(secret.encode(), text.encode(), digest).digest()))


def test_rs256(rs256, rsa, rsa_folder):
    assert ask(rs256, token(header=RS, sign=rsa.sign)).status == 200
    refused(rs256, token(claims(lifetime=-1), header=RS, sign=rsa.sign), "the token has expired")
    other = RsaKey(rsa_folder, 3072)
    refused(rs256, token(header=RS, sign=other.sign), "the token is not one that this service accepts")
    head, _, signature = token(header=RS, sign=rsa.sign).split(".")
    refused(rs256, f"{head}.{_part(claims('7'))}.{signature}", "the token is not one that this service accepts")


def test_the_public_key_is_no_secret(rs256, rsa):
    """Algorithm confusion: HS256, signed with what everybody may know, in each form that the service may have read it in."""
    pem = rsa.public.read_bytes()
    for secret in (pem, pem.rstrip(b"\n"), pem.replace(b"\n", b"\r\n"), pem + b"\0"):
        for alg in ("HS256", "HS384", "HS512"):
            made = token(header={"alg": alg, "typ": "JWT"}, secret=secret)
            refused(rs256, made, "the token is not one that this service accepts")


def test_embedded_keys_are_not_used(rs256, rsa_folder):
    """A token may carry or name a key; only ours counts."""
    other = RsaKey(rsa_folder, 2049)
    for more in ({"jwk": {"kty": "RSA", "n": "AQAB", "e": "AQAB"}}, {"jku": "http://127.0.0.1/keys"},
                 {"kid": "../../../../dev/null"}, {"x5u": "http://127.0.0.1/"}):
        refused(rs256, token(header={**RS, **more}, sign=other.sign), "the token is not one that this service accepts")


def test_audience_issuer_and_scope(sqlite):
    database = sqlite.database(file=True)
    with Service(database, "--jwt-audience", "usage", "--jwt-issuer", "https://id.example", "--jwt-scope", "usage.read") as running:
        whole = {"aud": "usage", "iss": "https://id.example", "scope": "profile usage.read"}
        assert ask(running, token(claims(**whole))).status == 200
        assert ask(running, token(claims(**{**whole, "aud": ["other", "usage"]}))).status == 200
        assert ask(running, token(claims(**{**whole, "scope": None, "scp": ["usage.read"]}))).status == 200
        for bad in ("other", ["other"], None, "usage.read", "Usage", 5):
            answer = ask(running, token(claims(**{**whole, "aud": bad})))
            assert (answer.status, error_of(answer)) == (403, "the token is not for this service"), bad
        for bad in ("profile", "usage.readx", "xusage.read", None, "", "usage", 5, {"usage.read": 1}):
            answer = ask(running, token(claims(**{**whole, "scope": bad})))
            assert (answer.status, error_of(answer)) == (403, "the token lacks the scope usage.read"), bad
            assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]
        for bad in ("https://id.example/", None, ["https://id.example"]):
            refused(running, token(claims(**{**whole, "iss": bad})), "the token is of another issuer")
    database.close()


def test_two_authorization_headers(sqlite_service):
    with sqlite_service.socket() as sock:
        sock.sendall(f"GET {SUMMARY} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {user_token('42')}\r\n"
                     f"Authorization: Bearer {user_token('7')}\r\n\r\n".encode())
        from service import raw_response
        status, _, body = raw_response(sock)
        assert (status, json.loads(body)["error"]) == (400, "the Authorization header must be given once")


def test_no_secret_in_the_log(sqlite_service):
    made = user_token("42")
    ask(sqlite_service, made)
    sqlite_service.wait_for_line("summary 200")
    everything = "\n".join(sqlite_service.lines)
    assert SECRET not in everything and made.split(".")[2] not in everything


# -- keys at the start, and the subcommand ----------------------------------------------------------

def run(*argv, **environment):
    env = {k: v for k, v in os.environ.items() if not k.startswith("TOKEN_USAGE_")}
    return subprocess.run([str(PROGRAM), *map(str, argv)], env={**env, **environment}, capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=20)


@pytest.mark.parametrize("algorithm,key,message", [
    ("HS256", "", "no key"),
    ("HS256", "too short", "32 bytes or more"),
    ("HS256", "PUBLIC", "say --jwt-algorithm RS256"),
    ("RS256", "x" * 40, "needs the RSA public key"),
    ("RS256", "PRIVATE", "needs the RSA public key"),
    ("RS256", "SMALL", "2048 bits or more"),
])
def test_a_key_that_does_not_suit(rsa, rsa_folder, algorithm, key, message):
    if key == "SMALL":
        key = RsaKey(rsa_folder, 1024).public.read_text()
    key = {"PUBLIC": rsa.public.read_text(), "PRIVATE": rsa.private.read_text()}.get(key, key)
    done = run("--database", "no.db", "--listen", "127.0.0.1:0", "--jwt-algorithm", algorithm, TOKEN_USAGE_JWT_KEY=key)
    assert done.returncode == 2 and message in done.stderr, done


@pytest.mark.parametrize("argv,message", [
    ([], "--database is needed"),
    (["--database", "x.db", "--listen", "nowhere"], "--listen must be ADDRESS:PORT, got nowhere"),
    (["--database", "x.db", "--listen", "127.0.0.1:70000"], "--listen must be ADDRESS:PORT"),
    (["--database", "x.db", "--listen", "::1:80"], "an IPv6 address stands in brackets"),
    (["--database", "postgresql://a:b:c/x?y", "--listen", "127.0.0.1:0"], "--database: "),
    (["--database", "x.db", "--jwt-key-file", "/nowhere/key"], "cannot read /nowhere/key"),
])
def test_options_that_make_no_sense(argv, message):
    done = run(*argv, TOKEN_USAGE_JWT_KEY=SECRET)
    assert done.returncode == 2 and message in done.stderr, done


def test_token_subcommand(sqlite_service, rs256, rsa, rsa_folder):
    secret = rsa_folder / "secret"
    secret.write_text(SECRET + "\n")
    for argv in (["--jwt-key-file", secret], []):
        done = run("token", "--subject", "42", *argv, TOKEN_USAGE_JWT_KEY=SECRET)
        assert done.returncode == 0
        assert ask(sqlite_service, done.stdout.strip()).status == 200
    assert ask(sqlite_service, run("token", "--subject", "42", "--lifetime", "-5", TOKEN_USAGE_JWT_KEY=SECRET).stdout.strip()).status == 401
    done = run("token", "--subject", "42", "--jwt-algorithm", "RS256", "--jwt-key-file", rsa.private)
    assert ask(rs256, done.stdout.strip()).status == 200
    done = run("token", "--subject", "42", "--jwt-algorithm", "RS256", "--jwt-key-file", rsa.public)
    assert done.returncode == 2 and "private key" in done.stderr
    # An independent reading of what it made.
    done = run("token", "--subject", "42", TOKEN_USAGE_JWT_KEY=SECRET)
    text, signature = done.stdout.strip().rsplit(".", 1)
    assert _part(sign_hs256(SECRET, text)) == signature
    assert bearer(done.stdout.strip())["Authorization"].startswith("Bearer ey")
