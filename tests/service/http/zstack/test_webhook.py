"""Webhooks: told until they answer, and nobody is called whom the configuration does not allow."""

from __future__ import annotations

import asyncio
import json
import uuid as uuids
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from service.app.jobs import Job, JobState
from service.domain.tenants import Caller
from service.http.zstack.webhook import WebhookRefused, Webhooks

from .lab import Lab, action

LOOPBACK = ("127.0.0.1/32",)


@dataclass
class Receiver:
    """A server that answers with given statuses, the last one for ever, and keeps what it got."""

    statuses: list[int]
    headers: str = ""
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    came: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        headers = {"": (await reader.readline()).decode()}
        while line := (await reader.readline()).strip():
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        self.got.append((headers, await reader.readexactly(int(headers["content-length"]))))
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n{self.headers}\r\n".encode())
        writer.close()
        self.came.set()


@asynccontextmanager
async def receiver(*statuses: int, headers: str = "") -> AsyncIterator[Receiver]:
    made = Receiver(list(statuses), headers)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    async with server:
        yield made


def job(url: str, state: JobState = JobState.SUCCEEDED) -> Job:
    return Job("7" * 32, "X", Caller(), "", 0, state=state, outcome='{"inventory":{}}', webhook=url, ended_at=1)


@pytest.mark.asyncio
async def test_the_outcome_is_posted_with_the_jobs_uuid_and_success() -> None:
    async with receiver(200) as there:
        url = f"http://127.0.0.1:{there.port}/hook?x=1"
        await Webhooks(LOOPBACK).deliver(job(url), 15)
        await Webhooks(LOOPBACK).deliver(job(url, JobState.FAILED), 15)
    (first, body), (second, _) = there.got
    assert first[""] == "POST /hook?x=1 HTTP/1.1\r\n"
    assert (first["x-job-uuid"], first["x-job-success"]) == ("7" * 32, "true")
    assert first["content-type"] == "application/json; charset=utf-8"
    assert json.loads(body) == {"inventory": {}}
    assert second["x-job-success"] == "false"


@pytest.mark.asyncio
async def test_what_does_not_answer_2xx_is_tried_again_until_the_tries_are_used_up() -> None:
    async with receiver(500, 503, 204) as there:
        await Webhooks(LOOPBACK, interval_seconds=0).deliver(job(f"http://127.0.0.1:{there.port}/"), 15)
        assert len(there.got) == 3
    async with receiver(500) as there:
        await Webhooks(LOOPBACK, interval_seconds=0).deliver(job(f"http://127.0.0.1:{there.port}/"), 15)
        assert len(there.got) == 15


@pytest.mark.asyncio
async def test_a_redirect_is_not_followed() -> None:
    async with receiver(200) as elsewhere:
        location = f"Location: http://127.0.0.1:{elsewhere.port}/\r\n"
        async with receiver(302, headers=location) as there:
            await Webhooks(LOOPBACK, interval_seconds=0).deliver(job(f"http://127.0.0.1:{there.port}/"), 2)
            assert len(there.got) == 2
        assert elsewhere.got == []


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.2/",
        "http://[::1]/",
        "http://0/",
        "http://2130706434/",
        "http://169.254.169.254/latest/meta-data",
        "http://[::ffff:10.0.0.1]/",
        "https://user:secret@127.0.0.1/",
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
        "http:///x",
        "not a url",
        "http://127.0.0.1:99999/",
        "http://" + "a" * 4096,
    ],
)
async def test_an_address_that_is_not_allowed_is_refused_and_never_called(url: str) -> None:
    webhooks = Webhooks(LOOPBACK, interval_seconds=0)
    with pytest.raises(WebhookRefused):
        await webhooks.check(url)
    await webhooks.deliver(job(url), 2)  # tells nobody, and raises nothing


@pytest.mark.asyncio
async def test_a_mapped_address_counts_as_the_address_that_it_maps() -> None:
    await Webhooks(LOOPBACK).check("http://[::ffff:127.0.0.1]/")


@pytest.mark.asyncio
async def test_a_name_is_resolved_and_the_checked_address_is_the_one_that_is_called() -> None:
    async def resolve(host: str, port: int) -> list[str]:
        assert host == "hooks.example"
        return ["10.1.2.3", "127.0.0.1"]

    async with receiver(200) as there:
        await Webhooks(LOOPBACK, resolve=resolve).deliver(job(f"http://hooks.example:{there.port}/"), 1)
    assert there.got[0][0]["host"] == f"hooks.example:{there.port}"

    async def elsewhere(host: str, port: int) -> list[str]:
        return ["10.1.2.3"]

    with pytest.raises(WebhookRefused, match="not allowed"):
        await Webhooks(LOOPBACK, resolve=elsewhere).check("http://hooks.example/")


@pytest.mark.asyncio
async def test_without_configured_networks_every_webhook_is_refused() -> None:
    with pytest.raises(WebhookRefused):
        await Webhooks(()).check("http://127.0.0.1/")


@pytest.mark.asyncio(loop_scope="module")
async def test_a_deploy_and_a_refusal_are_told_to_their_webhook(zstack: Lab) -> None:
    async with receiver(200) as there:
        viewer = await zstack.log_in("eve")
        for session, success in ((zstack.session, "true"), (viewer, "false")):
            there.came.clear()
            headers = {"X-Web-Hook": f"http://127.0.0.1:{there.port}/", "X-Job-UUID": uuids.uuid4().hex}
            accepted = await zstack.put(
                "/ai/model-services", {"deployDistributedModelService": action()}, session, **headers
            )
            answer = await zstack.ended(accepted)
            async with asyncio.timeout(60):
                await there.came.wait()
            got, body = there.got[-1]
            assert (got["x-job-uuid"], got["x-job-success"]) == (headers["X-Job-UUID"], success)
            told = json.loads(body)
            assert ("schema" in told) == (success == "true")
            assert {name: value for name, value in told.items() if name != "schema"} == answer.json()


@pytest.mark.asyncio(loop_scope="module")
async def test_nothing_is_sent_or_even_looked_up_for_a_caller_that_nobody_knows(zstack: Lab) -> None:
    async with receiver(200) as there:
        headers = {"X-Web-Hook": f"http://127.0.0.1:{there.port}/"}
        body = {"deployDistributedModelService": action()}
        refused = await zstack.ended(await zstack.put("/ai/model-services", body, "0" * 32, **headers))
        assert refused.json()["error"]["code"] == "ID.1001"
        unknown = await zstack.put(
            "/ai/model-services", body, "0" * 32, **{"X-Web-Hook": "http://no.such.name.invalid/"}
        )
        assert unknown.status_code == 202, "its host was not resolved"
        # The webhook of a caller that is known comes after whatever was sent for the other.
        known = await zstack.put("/ai/model-services", body, await zstack.log_in("eve"), **headers)
        async with asyncio.timeout(60):
            await there.came.wait()
        assert [got["x-job-uuid"] for got, _ in there.got] == [known.json()["location"].rpartition("/")[2]]
