"""The same call by every face: the same refusals, one log line, one count, and an audit row that the line leads to."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import structlog
from corral.v1 import fleet_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sqlalchemy import Connection, select

from service.contract.turns import Turns
from service.store import schema
from service.telemetry import logs
from service.telemetry.grpc_metrics import code_name
from tests.service.rpc.lab import rest_of, until
from tests.support.whole import Whole, config_text, whole

pytestmark = pytest.mark.asyncio

PASSWORD = hashlib.sha512(b"secret").hexdigest()
ACCOUNTS = "[identity]\nanonymous = false\n" + "".join(
    f'[[accounts]]\nname = "{role}"\npassword_sha512 = "{PASSWORD}"\nrole = "{role}"\n' for role in ("admin", "viewer")
)
REQUEST_ID = "0123456789abcdef0123456789abcdef"
# What a call that is refused at once says of its end on the wire, by face.
WIRE = {
    "json": {"UNAUTHENTICATED": 401, "PERMISSION_DENIED": 403, "RESOURCE_EXHAUSTED": 429, "INVALID_ARGUMENT": 400},
    "zstack": {"RESOURCE_EXHAUSTED": 429},
}


@dataclass
class Told:
    """What a caller was told: the code where the call was refused, else OK, and when to come back."""

    code: str
    request_id: str
    retry: bool = False


@dataclass
class Lab:
    """The service, its log, and a session of each account."""

    whole: Whole
    http: httpx.AsyncClient
    log: io.StringIO
    sessions: dict[str, str]

    def lines(self) -> list[dict[str, Any]]:
        """The log lines of calls since the last look, but those of sessions and of polls for jobs."""
        text = self.log.getvalue()
        self.log.seek(0)
        self.log.truncate()
        read = [json.loads(line) for line in text.splitlines()]
        return [line for line in read if line["event"] == "call" and line["method"] not in ("LogInByAccount", "GetJob")]

    def count(self, face: str, method: str, code: str) -> float:
        """How many calls were counted."""
        labels = {"face": face, "method": method, "code": code_name(code)}
        registry = self.whole.service.metrics.registry
        return registry.get_sample_value("corral_calls_total", labels) or 0.0

    async def audit(self) -> list[tuple[str, str, str]]:
        """Principal, method and request id of every audit row."""

        def read(connection: Connection) -> list[tuple[str, str, str]]:
            found = connection.execute(select(schema.audit).order_by(schema.audit.c.id))
            return [(row.principal, row.method, row.request_id) for row in found]

        rows: list[tuple[str, str, str]] = await self.whole.service.store.read(read)
        return rows


Call = Callable[[Lab, str], Coroutine[Any, Any, Told]]
"""A call with a session's uuid, empty for none that anybody knows."""


async def by_grpc(lab: Lab, session: str, call: Callable[..., Any], request: Any) -> Told:
    metadata = (("authorization", f"Bearer {session or 'wrong'}"), ("x-request-id", REQUEST_ID))
    answer = call(request, metadata=metadata)
    try:
        await answer
    except grpc.aio.AioRpcError as error:
        trailing = dict(error.trailing_metadata() or ())
        retry = b"RetryInfo" in bytes(trailing["grpc-status-details-bin"])
        return Told(error.code().name, str(trailing["x-request-id"]), retry)
    return Told("OK", dict(await answer.trailing_metadata())["x-request-id"])


async def grpc_list(lab: Lab, session: str) -> Told:
    return await by_grpc(lab, session, lab.whole.fleet.ListZones, fleet_pb2.ListZonesRequest())


async def grpc_create(lab: Lab, session: str) -> Told:
    return await by_grpc(lab, session, lab.whole.fleet.CreateZone, fleet_pb2.CreateZoneRequest(name="north"))


def _told(face: str, answer: httpx.Response) -> Told:
    codes = {status: code for code, status in WIRE[face].items()}
    retry = "retry-after" in answer.headers
    return Told(codes.get(answer.status_code, "OK"), answer.headers["x-request-id"], retry)


async def by_json(lab: Lab, session: str, verb: str, body: Any = None) -> Told:
    headers = {"authorization": f"Bearer {session or 'wrong'}", "x-request-id": REQUEST_ID}
    return _told("json", await lab.http.request(verb, "/corral/v1/zones", headers=headers, json=body))


async def json_list(lab: Lab, session: str) -> Told:
    return await by_json(lab, session, "GET")


async def json_create(lab: Lab, session: str) -> Told:
    return await by_json(lab, session, "POST", {"name": "north"})


async def by_zstack(lab: Lab, session: str, verb: str, body: Any = None) -> Told:
    headers = {"Authorization": f"OAuth {session or 'wrong'}", "X-Job-UUID": REQUEST_ID}
    answer = await lab.http.request(verb, "/zstack/v1/zones", headers=headers, json=body)
    if answer.status_code == 202:
        await ended(lab, answer.json()["location"], lambda polled: polled.status_code != 202)
    return _told("zstack", answer)


async def ended(lab: Lab, url: str, holds: Callable[[httpx.Response], bool]) -> None:
    """Ask for a job until it has ended."""
    async with asyncio.timeout(60):
        while True:
            if holds(await lab.http.get(url)):
                return
            await asyncio.sleep(0.02)


async def zstack_list(lab: Lab, session: str) -> Told:
    return await by_zstack(lab, session, "GET")


async def zstack_create(lab: Lab, session: str) -> Told:
    return await by_zstack(lab, session, "POST", {"params": {"name": "north"}})


async def by_legacy(lab: Lab, session: str, message: str, fields: dict[str, Any]) -> Told:
    body = {message: {**fields, "session": {"uuid": session or "wrong"}}}
    answer = await lab.http.post("/zstack/api", json=body)
    if answer.status_code == 200:
        uuid = answer.json()["uuid"]
        if answer.json()["state"] != "Done":
            await ended(lab, f"/zstack/api/result/{uuid}", lambda polled: polled.json()["state"] == "Done")
        return Told("OK", uuid)
    return _told("zstack", answer)


async def legacy_list(lab: Lab, session: str) -> Told:
    return await by_legacy(lab, session, "org.zstack.header.zone.APIQueryZoneMsg", {})


async def legacy_create(lab: Lab, session: str) -> Told:
    return await by_legacy(lab, session, "org.zstack.header.zone.APICreateZoneMsg", {"name": "north"})


LIST = [
    pytest.param("grpc", "corral.v1.FleetService/ListZones", grpc_list, id="grpc"),
    pytest.param("json", "corral.v1.FleetService/ListZones", json_list, id="json"),
    pytest.param("zstack", "QueryZone", zstack_list, id="zstack"),
    pytest.param("zstack", "QueryZone", legacy_list, id="legacy"),
]
CREATE = [
    pytest.param("grpc", "corral.v1.FleetService/CreateZone", grpc_create, id="grpc"),
    pytest.param("json", "corral.v1.FleetService/CreateZone", json_create, id="json"),
    pytest.param("zstack", "CreateZone", zstack_create, id="zstack"),
    pytest.param("zstack", "CreateZone", legacy_create, id="legacy"),
]


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What the process logs meanwhile, as JSON, debugging included."""
    written, root = io.StringIO(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    logs.configure(format="json", level="debug", stream=written)
    yield written
    structlog.reset_defaults()
    root.handlers[:], root.level = handlers, level


@asynccontextmanager
async def serving(directory: Path, log: io.StringIO) -> AsyncIterator[Lab]:
    async with (
        whole(directory, config_text(extra=ACCOUNTS)) as made,
        httpx.AsyncClient(base_url=f"http://{made.http_address}", trust_env=False, timeout=120) as http,
    ):
        lab = Lab(made, http, log, {"nobody": ""})
        for name in ("admin", "viewer"):
            body = {"logInByAccount": {"accountName": name, "password": PASSWORD}}
            answer = await http.put("/zstack/v1/accounts/login", json=body)
            lab.sessions[name] = answer.json()["inventory"]["uuid"]
        lab.lines()
        yield lab


def shown(line: dict[str, Any]) -> tuple[str, str, str, str, str]:
    """What every face must tell of a call in its log line, besides peer and duration."""
    assert line["milliseconds"] >= 0
    return line["face"], line["method"], line["code"], line["principal"], line["request_id"]


@pytest.mark.parametrize(("face", "method", "call"), LIST)
async def test_a_call_leaves_one_line_and_one_count_by_every_face(
    tmp_path: Path, log: io.StringIO, face: str, method: str, call: Call
) -> None:
    async with serving(tmp_path, log) as lab:
        told = await call(lab, lab.sessions["viewer"])
        assert told.code == "OK"
        (line,) = lab.lines()
        assert shown(line) == (face, method, "OK", "viewer", told.request_id)
        assert line["peer"].removeprefix("ipv4:").startswith("127.0.0.1")
        assert line["messages"] == 1
        assert lab.count(face, method, "OK") == 1
        duration = lab.whole.service.metrics.registry.get_sample_value(
            "corral_call_duration_seconds_count", {"face": face, "method": method}
        )
        assert duration == 1


@pytest.mark.parametrize(("face", "method", "call"), CREATE)
async def test_the_log_line_of_a_change_leads_to_its_audit_row(
    tmp_path: Path, log: io.StringIO, face: str, method: str, call: Call
) -> None:
    async with serving(tmp_path, log) as lab:
        told = await call(lab, lab.sessions["admin"])
        assert told.code == "OK"
        lines = [shown(line) for line in lab.lines()]
        expected = [(face, method, "OK", "admin", told.request_id)]
        if face == "zstack":  # accepted, and then done
            expected.append(("job", method, "OK", "admin", told.request_id))
            assert lab.count("job", method, "OK") == 1
        assert lines == expected
        assert lab.count(face, method, "OK") == 1
        assert await lab.audit() == [("admin", "CreateZone", told.request_id)]


@pytest.mark.parametrize(("face", "method", "call"), CREATE)
@pytest.mark.parametrize(("who", "code"), [("viewer", "PERMISSION_DENIED"), ("nobody", "UNAUTHENTICATED")])
async def test_who_may_not_is_refused_logged_and_counted_by_every_face_and_changes_nothing(
    tmp_path: Path, log: io.StringIO, face: str, method: str, call: Call, who: str, code: str
) -> None:
    async with serving(tmp_path, log) as lab:
        told = await call(lab, lab.sessions[who])
        # ZStack's clients learn by the job what is wrong with a call.
        assert told.code == ("OK" if face == "zstack" else code)
        (line,) = lab.lines()
        assert shown(line) == (face, method, code, "viewer" if who == "viewer" else "", told.request_id)
        assert lab.count(face, method, code) == 1
        assert await lab.audit() == []


@pytest.mark.parametrize(("face", "method", "call"), LIST)
async def test_one_call_too_many_is_refused_by_every_face_while_health_answers(
    tmp_path: Path, log: io.StringIO, face: str, method: str, call: Call
) -> None:
    async with serving(tmp_path, log) as lab:
        frame = lab.whole.service.frame
        frame.limits = replace(frame.limits, max_unary=0)
        await refused(lab, face, call)
        await healthy(lab)
        frame.limits = replace(frame.limits, max_unary=1)
        assert (await call(lab, lab.sessions["viewer"])).code == "OK", "those before it have ended"


@pytest.mark.parametrize(("face", "method", "call"), LIST)
async def test_calls_wait_for_their_turn_by_every_face_while_health_answers(
    tmp_path: Path, log: io.StringIO, face: str, method: str, call: Call
) -> None:
    async with serving(tmp_path, log) as lab:
        frame = lab.whole.service.frame
        frame._turns = Turns(0, at_once=1, longest_seconds=3600)
        turn = await frame.turn()
        await refused(lab, face, call)
        await healthy(lab)
        frame._turns._most_waiting = 1
        waiting = asyncio.create_task(call(lab, lab.sessions["viewer"]))
        await until(lambda: frame._turns._waiting == 1, "it waits")
        assert lab.lines() == []
        turn.end()
        assert (await waiting).code == "OK"
        (line,) = lab.lines()
        assert line["method"] == method
        assert not frame._turns._free.locked(), "a call that has ended gives its turn back"


async def refused(lab: Lab, face: str, call: Call) -> None:
    """A call is told that too much is in progress, and when to come back."""
    told = await call(lab, lab.sessions["viewer"])
    assert (told.code, told.retry) == ("RESOURCE_EXHAUSTED", True)
    (line,) = lab.lines()
    assert (line["face"], line["code"], line["request_id"]) == (face, "RESOURCE_EXHAUSTED", told.request_id)


async def healthy(lab: Lab) -> None:
    """Both kinds of health answer."""
    async with grpc.aio.insecure_channel(str(lab.whole.service.rpc.address)) as channel:
        stub: Any = health_pb2_grpc.HealthStub
        answer = await stub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert (await lab.http.get("/healthz")).status_code == 200
    lab.lines()


async def test_a_drain_ends_the_streams_of_both_faces_that_have_streams(tmp_path: Path, log: io.StringIO) -> None:
    async with serving(tmp_path, log) as lab:
        who = {"authorization": f"Bearer {lab.sessions['admin']}"}
        watch = lab.whole.fleet.WatchFleet(fleet_pb2.WatchFleetRequest(), metadata=tuple(who.items()))
        await watch.read()
        async with lab.http.stream("GET", "/corral/v1/fleet:watch", headers=who) as stream:
            lines = stream.aiter_lines()
            assert await anext(lines)
            lab.whole.service.rpc.drain()
            rest = [line async for line in lines]
        (problem,) = [json.loads(line[6:]) for line in rest if line.startswith('data: {"error"')]
        assert problem["error"]["status"] == "UNAVAILABLE"
        assert any("retryDelay" in detail for detail in problem["error"]["details"])
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await rest_of(watch)
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        told = {(line["face"], line["code"]) for line in lab.lines()}
        assert told == {("grpc", "UNAVAILABLE"), ("json", "UNAVAILABLE")}


async def test_a_client_that_leaves_its_json_call_ends_it_as_cancelled(tmp_path: Path, log: io.StringIO) -> None:
    async with serving(tmp_path, log) as lab:
        who = {"authorization": f"Bearer {lab.sessions['admin']}"}
        async with lab.http.stream("GET", "/corral/v1/fleet:watch", headers=who) as stream:
            await anext(stream.aiter_lines())
        seen: list[dict[str, Any]] = []
        async with asyncio.timeout(60):
            while not seen:
                seen = lab.lines()
                await asyncio.sleep(0.02)
        assert (seen[0]["face"], seen[0]["code"]) == ("json", "CANCELLED")
        assert not lab.whole.service.frame._streams
        assert lab.whole.service.frame._active == {False: 0, True: 0}
