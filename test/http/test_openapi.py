"""openapi.json is true to the service: every operation is called, in every edition and in each of the
ways that the document lists, and every body fits the schema that it names."""
import json
import os
import re

import jsonschema
import pytest
from service import PREFIXES, Service, bearer, claims, token

ROUTES = {("GET", "/usage/tokens"), ("POST", "/usage/tokens"), ("GET", "/usage/tokens/summary"),
          ("GET", "/usage/tokens/history"), ("GET", "/usage/tokens/by-agent"), ("GET", "/usage/tokens/by-model"),
          ("GET", "/usage/tokens/detailed"), ("GET", "/healthz")}
EVENT = {"agent_id": "a", "ai_provider": "openai", "ai_model": "gpt-4o", "prompt_tokens": 1, "completion_tokens": 1}


@pytest.fixture(scope="module")
def document(sqlite_service):
    answer = sqlite_service.request("GET", "/openapi.json")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    return json.loads(answer.text)


def operations(document):
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method in ("get", "post", "put", "delete", "patch"):
                yield method.upper(), path, operation


def resolve(document, node):
    while "$ref" in node:
        target = document
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        node = target
    return node


def validator(document, schema):
    jsonschema.Draft202012Validator.check_schema(schema)
    resolver = jsonschema.RefResolver("", document)
    return jsonschema.Draft202012Validator(schema, resolver=resolver)


def check(document, operation, answer):
    """The answer is one that the operation lists."""
    assert str(answer.status) in operation["responses"], (answer.status, operation["operationId"])
    response = resolve(document, operation["responses"][str(answer.status)])
    for name in response.get("headers", {}):
        assert name.lower() in answer.headers, (name, answer)
    media = response["content"]["application/json"]
    assert answer.headers["content-type"] == "application/json"
    validator(document, media["schema"]).validate(json.loads(answer.text))


def test_it_lists_the_routes(document):
    assert document["openapi"].startswith("3.1.")
    assert {(m, p) for m, p, _ in operations(document)} == ROUTES
    assert tuple(s["url"] for s in document["servers"]) == PREFIXES
    names = [o["operationId"] for _, _, o in operations(document)]
    assert len(set(names)) == len(names)


def test_references_lead_somewhere_and_nothing_is_unused(document):
    used = set(re.findall(r'"\$ref": "#/components/(\w+/\w+)"', json.dumps(document)))
    there = {f"{kind}/{name}" for kind, items in document["components"].items() for name in items
             if kind != "securitySchemes"}
    assert used == there


def test_examples_fit_their_schemas(document):
    count = 0
    for _, _, operation in operations(document):
        bodies = [resolve(document, r)["content"]["application/json"] for r in operation["responses"].values()]
        if "requestBody" in operation:
            bodies.append(operation["requestBody"]["content"]["application/json"])
        for body in bodies:
            if "example" in body:
                validator(document, body["schema"]).validate(body["example"])
                count += 1
    assert count > 50


def test_every_answer_of_every_operation(document, edition, ledger, service):
    """Calls each operation so that each status that it lists comes, under both prefixes, and no other."""
    small = edition.database(file=True)
    bare = edition.database(install=False, migrate=False, file=True)
    scoped = ["--jwt-scope", "usage", "--max-body", "2000", "--max-header", "2000"]
    # Not installed: the library is missing (SQLite), or the functions are (PostgreSQL).
    broken = ["--sqlite-extension", "/nowhere/library"]
    with Service(small, *scoped) as guarded, Service(bare, *broken) as uninstalled, \
            Service(small if edition.dialect == "sqlite" else "postgresql://127.0.0.1:1/none") as away:
        if edition.dialect == "sqlite":
            small.close()
            os.rename(away.target, away.target + ".moved")
        for method, path, operation in operations(document):
            seen = set()
            for prefix in ([""] if "servers" in document["paths"][path] else PREFIXES):
                for answer in calls(method, prefix + path, service, guarded, uninstalled, away):
                    check(document, operation, answer)
                    seen.add(str(answer.status))
            assert seen == set(operation["responses"]), (method, path)


def calls(method, path, service, guarded, uninstalled, away):
    body = json.dumps({**EVENT, "request_id": "openapi " + path}) if method == "POST" else None
    kind = {"Content-Type": "application/json"} if body else {}

    def call(service, user="42", body=body, method=method, path=path, **headers):
        return service.request(method, path, body, {**bearer(user), **kind, **headers})

    health = path == "/healthz"
    if method == "GET":
        yield call(service)
    yield call(service, method="DELETE", body=None)
    yield call(guarded, token(claims(scope="usage")), X="x" * 3000)
    yield call(uninstalled)
    yield call(away)
    if health:
        return
    yield call(service, None)
    yield call(guarded)
    yield call(service, path=path + "?colour=red")
    if method == "POST":
        # Into the ledger of a service of its own would be cleaner; user 9 is nobody's here.
        mine = json.dumps({**EVENT, "request_id": "openapi " + path})
        yield call(service, "9", mine)
        yield call(service, "9", mine)
        yield call(service, "9", json.dumps({**EVENT, "request_id": "openapi " + path, "ai_model": "other"}))
        yield call(service, "9", json.dumps({**EVENT, "user_id": 42}))
        yield service.request(method, path, body, {**bearer("9"), "Content-Type": "text/plain"})
        yield call(guarded, token(claims(scope="usage")), body="x" * 3000)


def test_parameters_are_those_that_the_service_takes(document, service):
    """Each listed one is taken, with its default and its bounds; the error names those that are not."""
    for method, path, operation in operations(document):
        parameters = [resolve(document, p) for p in operation.get("parameters", [])]
        url = PREFIXES[0] + path
        plain = service.get(url) if parameters else None
        for parameter in parameters:
            assert parameter["in"] == "query" and not parameter.get("required"), parameter
            name, schema = parameter["name"], parameter["schema"]
            assert service.get(url, **{name: ""}).status == 200
            if "default" in schema:
                assert service.get(url, **{name: schema["default"]}).text == plain.text, (path, name)
            for value in schema.get("enum", []):
                assert service.get(url, **{name: value}).status == 200
            if "minimum" in schema:
                assert service.get(url, **{name: schema["minimum"]}).status == 200
                assert service.get(url, **{name: schema["minimum"] - 1}).status == 400
            if "maximum" in schema:
                assert service.get(url, **{name: schema["maximum"]}).status == 200
                assert service.get(url, **{name: schema["maximum"] + 1}).status == 400
            if "enum" in schema:
                assert service.get(url, **{name: "none of them"}).status == 400


def test_the_event_has_the_keys_that_recording_takes(document, sqlite_service):
    """Each key of the schema is known to token_usage_record; that others are not is tested with recording."""
    schema = document["components"]["schemas"]["Event"]
    for key in schema["properties"]:
        answer = sqlite_service.record({**EVENT, key: {"no": "such value"}})
        assert "must be a known key" not in answer.text, key
