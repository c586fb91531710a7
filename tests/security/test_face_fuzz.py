"""The two HTTP faces under built and broken bodies, queries and headers: never 500, never a traceback, always a body
that says what is wrong. The numbers of examples are a quick run's; FUZZ_EXAMPLES makes it a long one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from service.http.bindings import rules
from service.http.zstack.apis import APIS
from tests.security.service import ENTRY, METHODS, ZONE, json_client, log_in
from tests.support.process import CorralProcess

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "120"))
SERVICES = {method.containing_service.full_name: method.containing_service for method in METHODS.values()}
RULES = [rule for rule in rules(SERVICES.values()) if not rule.streams or rule.verb != "GET"]
# What a client may be told; 307 is a path with a slash too many; 500 is a bug and 501 an API that is not there.
STATUSES = frozenset({200, 202, 307, 400, 401, 403, 404, 405, 409, 413, 415, 429, 503, 504})
GROUP = "9" * 32
TEXTS = [
    *("", "0", "-1", "true", "null", ENTRY, ZONE, GROUP, "parallel", "VirtualMachine", "Container", "Running", "raw"),
    *("name", "uuid", "a.b", "1e400", "NaN", "2038-01-19T03:14:08Z", "9" * 400, "x" * 5000, "٣" * 32, "\ud800", "\x00"),
    *("description,name", "uuid=1", "name~=%", "createDate>x", "is null", "instances.hostUuid?=a,b", "../../x", "%00"),
]
texts = st.one_of(st.sampled_from(TEXTS), st.text(max_size=20))
numbers = st.one_of(
    st.sampled_from([0, 1, -1, 2, 1024, 1 << 30, 1 << 34, 2**31, 2**63, 2**64, -(2**63) - 1, 10**400, 8.0, 0.5]),
    st.floats(),
    st.integers(),
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=8,
)
# Shrinking would replay calls against a service whose state has moved on.
unshrunk = settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)


@st.composite
def objects(draw: st.DrawFn, kind: Any, depth: int = 3) -> dict[str, Any]:
    """A JSON object of a message: some of its fields, most of the right shape, some of any shape at all."""
    made = {}
    for field in kind.fields:
        if not draw(st.booleans()):
            continue
        name = field.json_name if draw(st.integers(0, 9)) else field.name
        if not draw(st.integers(0, 3)) or field.enum_type is not None:
            made[name] = draw(values)
        elif field.message_type is not None and not field.message_type.GetOptions().map_entry and depth:
            inner = objects(field.message_type, depth - 1)
            made[name] = draw(st.lists(inner, max_size=2) if field.is_repeated else inner)
        else:
            scalar = texts if field.type == field.TYPE_STRING else numbers
            made[name] = draw(st.lists(scalar, max_size=2) if field.is_repeated else scalar)
    return made


@st.composite
def broken(draw: st.DrawFn, text: str) -> bytes:
    """The text as bytes, with a few of them changed, cut out or repeated."""
    data = bytearray(text.encode(errors="surrogatepass"))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(data)))
        match draw(st.integers(0, 3)):
            case 0:
                data[place : place + 1] = bytes([draw(st.integers(0, 255))])
            case 1:
                del data[place : place + draw(st.integers(1, 6))]
            case 2:
                data[place:place] = data[place : place + 20] * 2
            case _:
                data[place:place] = draw(st.sampled_from([b"[" * 5000, b'{"a":' * 3000, b"\xff", b"1" * 5000, b"\\u"]))
    return bytes(data)


class Fuzzed:
    """One client, and what it was answered."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http
        self.seen: dict[int, int] = {}

    def send(self, verb: str, path: str, **more: Any) -> None:
        """One request; of a stream the beginning is enough. Raises AssertionError for a wrong answer."""
        try:
            with self.http.stream(verb, path, **more) as answer:
                status, kind = answer.status_code, answer.headers.get("content-type", "")
                self.seen[status] = self.seen.get(status, 0) + 1
                assert status in STATUSES, (verb, path, more, status, answer.read())
                if kind.startswith("text/event-stream"):
                    return
                text = answer.read().decode()
        except (httpx.InvalidURL, UnicodeEncodeError):
            return  # the client itself cannot write it
        assert "Traceback" not in text
        assert "internal error" not in text.lower(), (verb, path, more, text)
        if status >= 400 and kind.startswith("application/json"):
            assert "error" in json.loads(text)


@pytest.fixture(scope="module")
def fuzzed(corral: CorralProcess) -> Iterator[Fuzzed]:
    with json_client(corral, "root") as http:
        client = Fuzzed(http)
        yield client
        assert 400 in client.seen, client.seen  # which others depends on the tests that this process got
        assert http.get("/healthz").json()["status"] == "SERVING"


@pytest.fixture(scope="module")
def zstack(corral: CorralProcess) -> Iterator[Fuzzed]:
    headers = {"Authorization": f"OAuth {log_in(corral, 'root-z')}"}
    with httpx.Client(base_url=corral.http, headers=headers, timeout=60) as http:
        client = Fuzzed(http)
        yield client
        assert 400 in client.seen, client.seen


def _path(draw: Any, template: str, variables: tuple[str, ...]) -> str:
    for name in variables:
        value = draw(st.sampled_from([GROUP, ENTRY, ZONE, "x", "%00", "%ff", "..%2f", "a:b", "%ED%A0%80", "9" * 300]))
        template = template.replace("{" + name + "}", value)
    return template


def _written(value: Any) -> bytes:
    """JSON with whatever Python writes beyond it: NaN, Infinity, halves of characters."""
    return json.dumps(value).encode()


@unshrunk
@given(data=st.data())
def test_any_body_or_query_of_any_method_gets_a_proper_answer(fuzzed: Fuzzed, data: st.DataObject) -> None:
    rule = data.draw(st.sampled_from(RULES))
    path = _path(data.draw, rule.path, rule.variables)
    if rule.has_body:
        fuzzed.send(rule.verb, path, content=_written(data.draw(objects(rule.descriptor.input_type))))
        return
    names = [name for field in rule.descriptor.input_type.fields for name in (field.name, field.json_name)]
    query = data.draw(st.lists(st.tuples(st.sampled_from([*names, "other"]), texts), max_size=3))
    fuzzed.send(rule.verb, path, params=[(k, v.encode(errors="replace").decode()) for k, v in query])


@unshrunk
@given(data=st.data())
def test_any_broken_body_of_any_method_gets_a_proper_answer(fuzzed: Fuzzed, data: st.DataObject) -> None:
    rule = data.draw(st.sampled_from([rule for rule in RULES if rule.has_body]))
    whole = json.dumps(data.draw(objects(rule.descriptor.input_type)), ensure_ascii=data.draw(st.booleans()))
    fuzzed.send(rule.verb, _path(data.draw, rule.path, rule.variables), content=data.draw(broken(whole)))


@unshrunk
@given(data=st.data())
def test_any_header_gets_a_proper_answer(fuzzed: Fuzzed, corral: CorralProcess, data: st.DataObject) -> None:
    printable = st.binary(max_size=60).map(
        lambda raw: bytes(byte for byte in raw if byte >= 32 and byte != 127).strip()
    )
    names = (
        "authorization",
        "x-request-id",
        "last-event-id",
        "content-type",
        "accept",
        "x-job-uuid",
        "x-web-hook",
        "host",
        "origin",
        "sec-fetch-site",
        "x-forwarded-for",
    )
    headers = {name: data.draw(printable) for name in data.draw(st.sets(st.sampled_from(names), max_size=3))}
    if data.draw(st.booleans()):
        headers["authorization"] = (b"Bearer " + headers.get("authorization", b"")).strip()
    path = data.draw(
        st.sampled_from(["/corral/v1/instance-groups", "/zstack/v1/hosts", "/metrics", "/zstack/v1/zones"])
    )
    fuzzed.send("GET", path, headers=headers)
    fuzzed.send("PUT", "/zstack/v1/ai/model-services", headers=headers, content=b"{}")


def _arguments(api: Any) -> st.SearchStrategy[dict[str, Any]]:
    names = (
        "uuid",
        "uuids",
        "name",
        "conditions",
        "fields",
        "limit",
        "start",
        "count",
        "sortBy",
        "stateEvent",
        "session",
    )
    loose = st.dictionaries(st.sampled_from(names), values, max_size=4)
    if api.descriptor is None:
        return loose
    return st.tuples(objects(api.descriptor), loose).map(lambda pair: {**pair[1], **pair[0]})


@unshrunk
@given(data=st.data())
def test_any_call_of_any_zstack_api_gets_a_proper_answer(zstack: Fuzzed, data: st.DataObject) -> None:
    api = data.draw(st.sampled_from([api for api in APIS.values() if api.name != "LogOut"]))
    path = "/zstack/v1" + _path(data.draw, data.draw(st.sampled_from(api.paths)), ("uuid",))
    if api.verb in ("PUT", "POST"):
        arguments = data.draw(st.one_of(_arguments(api), values))
        body = {data.draw(st.sampled_from([api.key, "params", "param"])): arguments, "systemTags": data.draw(values)}
        zstack.send(api.verb, path, content=_written(body))
        return
    names = ("q", "limit", "start", "count", "sort", "fields", "groupBy", "uuids", "deleteMode", "replyWithCount")
    query = data.draw(st.lists(st.tuples(st.sampled_from(names), texts), max_size=4))
    zstack.send(api.verb, path, params=[(k, v.encode(errors="replace").decode()) for k, v in query])


@unshrunk
@given(data=st.data())
def test_any_broken_zstack_body_gets_a_proper_answer(zstack: Fuzzed, data: st.DataObject) -> None:
    api = data.draw(st.sampled_from([api for api in APIS.values() if api.verb in ("PUT", "POST")]))
    whole = json.dumps({api.key: data.draw(_arguments(api))})
    zstack.send(api.verb, "/zstack/v1" + api.paths[0].replace("{uuid}", GROUP), content=data.draw(broken(whole)))


@unshrunk
@given(data=st.data())
def test_any_message_of_the_older_protocol_gets_a_proper_answer(
    zstack: Fuzzed, corral: CorralProcess, data: st.DataObject
) -> None:
    api = data.draw(st.sampled_from([api for api in APIS.values() if api.name != "LogOut"]))
    session = zstack.http.headers["authorization"].partition(" ")[2]
    message = data.draw(_arguments(api))
    if data.draw(st.integers(0, 4)):
        message["session"] = {"uuid": session}
    body: Any = {api.message: message} if data.draw(st.integers(0, 9)) else data.draw(values)
    content = _written(body)
    if not data.draw(st.integers(0, 3)):
        content = data.draw(broken(content.decode()))
    zstack.send("POST", "/zstack/api", content=content)
