"""What members' machines say, as callers read it. Hosts are simulated; what a real one keeps the lab's tests show."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import grpc
import pytest
from corral.v1 import deploy_pb2, group_pb2

from service.app import logs
from service.drivers.base import HostRejected, HostUnreachable, LogPiece, LogSource, MachineIdentity
from tests.service.rpc import lab
from tests.service.rpc.lab import deploy, events_of, failure, node, refused, rest_of

pytestmark = pytest.mark.asyncio

CONSOLE, ENGINE = deploy_pb2.INSTANCE_LOG_SOURCE_CONSOLE, deploy_pb2.INSTANCE_LOG_SOURCE_ENGINE


class Kept:
    """Logs of the lab's hosts, as a test writes them."""

    def __init__(self, server: lab.Lab) -> None:
        self.said: dict[tuple[str, LogSource], bytes] = {}
        self.silent = False
        self.reads: list[tuple[int, int]] = []
        for driver in server.plane.drivers.values():
            driver.read_log = self.read  # type: ignore[method-assign]

    async def read(
        self, identity: MachineIdentity, source: LogSource, *, start: int, most: int, budget_seconds: float
    ) -> LogPiece:
        if self.silent:
            raise HostUnreachable("the host did not answer in time")
        text = self.said.get((identity.instance, source))
        if text is None:
            raise HostRejected("absent", f"its host keeps no {source} log of it")
        start = max(0, len(text) + start) if start < 0 else min(start, len(text))
        self.reads.append((start, most))
        return LogPiece(start, text[start : start + most], len(text))


async def made(server: lab.Lab, size: int = 2, **more: Any) -> Any:
    small = node(cpu_num=1, memory_size=lab.GIB)
    return (await events_of(server.stub, deploy(model_services=[small] * size, **more)))[-1].final


def ask(group: Any, **fields: Any) -> deploy_pb2.GetInstanceLogRequest:
    return deploy_pb2.GetInstanceLogRequest(uuid=group.uuid, **fields)


async def read(server: lab.Lab, group: Any, **fields: Any) -> list[Any]:
    return [answer async for answer in server.stub.GetInstanceLog(ask(group, **fields))]


async def test_a_simulated_host_says_that_it_is_one_for_every_rank_and_log() -> None:
    async with lab.running() as server:
        group = await made(server)
        answers = await read(server, group)
        assert [(a.node_rank, a.source) for a in answers] == [(0, CONSOLE), (0, ENGINE), (1, CONSOLE), (1, ENGINE)]
        assert [a.instance_uuid for a in answers[::2]] == [m.uuid for m in group.instances]
        assert all("simulated host: no guest runs" in a.text for a in answers[::2])
        assert all((a.text, a.note) == ("", "it has said nothing yet") for a in answers[1::2])


async def test_the_end_of_each_log_by_lines_ranks_and_source() -> None:
    async with lab.running() as server:
        group = await made(server)
        kept = Kept(server)
        lines = [f"line {n}\n" for n in range(20_000)]
        first, second = (m.uuid for m in group.instances)
        kept.said = {(first, LogSource.ENGINE): "".join(lines).encode(), (second, LogSource.ENGINE): b"one\ntwo"}
        (answer,) = await read(server, group, node_ranks=[0], source=ENGINE, tail_lines=3)
        assert (answer.text, answer.gap) == ("".join(lines[-3:]), True)
        (answer,) = await read(server, group, node_ranks=[0, 0], source=ENGINE)
        assert answer.text == "".join(lines[-logs.DEFAULT_LINES :])
        (answer,) = await read(server, group, node_ranks=[1], source=ENGINE, tail_lines=2000)
        assert (answer.text, answer.gap) == ("one\ntwo\n", False)
        assert all(most <= logs.PIECE_BYTES for _, most in kept.reads), "never more than a piece in memory"
        (answer,) = await read(server, group, node_ranks=[1], source=CONSOLE)
        assert (answer.text, answer.note) == ("", "its host keeps no console log of it")


async def test_what_is_wrong_is_refused_by_its_field() -> None:
    async with lab.running() as server:
        group = await made(server)
        error = await refused(
            read(server, group, node_ranks=[0, 2]), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"
        )
        assert all(words in str(lab.status_of(error)) for words in ("node_ranks[1]", "ranks 0, 1"))
        for field in ({"node_ranks": [-1]}, {"tail_lines": 2001}, {"tail_lines": -1}, {"source": 9}):
            error = await failure(server.stub, "GetInstanceLog", ask(group, **field))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, field
            assert next(iter(field)) in str(lab.status_of(error))
        missing = deploy_pb2.GetInstanceLogRequest(uuid="f" * 32)
        error = await failure(server.stub, "GetInstanceLog", missing)
        assert error.code() is grpc.StatusCode.NOT_FOUND
        many = await made(server, logs.MOST_FOLLOWED + 1)
        error = await failure(server.stub, "GetInstanceLog", ask(many, follow=True))
        assert "at most 16 of 17" in str(lab.status_of(error))


async def test_what_comes_is_followed_in_whole_lines_until_the_group_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(logs, "LOOK_AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(logs, "IDLE_SECONDS", 0.3)
    async with lab.running() as server:
        group = await made(server, 1)
        kept, key = Kept(server), (group.instances[0].uuid, LogSource.ENGINE)
        kept.said = {key: b"one\nhalf "}
        stream = server.stub.GetInstanceLog(ask(group, source=ENGINE, follow=True))
        assert (await stream.read()).text == "one\n"
        kept.said[key] += b"a line\n"
        assert (await stream.read()).text == "half a line\n"
        assert (await stream.read()).text == "", "it says now and then that it lives"
        kept.silent = True
        assert (await stream.read()).text == ""
        kept.silent, kept.said[key] = False, b"cut\n"
        answer = await stream.read()
        while not answer.text:
            answer = await stream.read()
        assert (answer.text, answer.gap) == ("cut\n", True)
        await lab.call(server.stub, "DeleteInstanceGroup", deploy_pb2.DeleteInstanceGroupRequest(uuid=group.uuid))
        assert all(not answer.text for answer in await rest_of(stream))


async def test_a_follower_is_told_that_the_service_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "POLL_SECONDS", 0.01)
    async with lab.running() as server:
        group = await made(server, 1)
        stream = server.stub.GetInstanceLog(ask(group, follow=True))
        await stream.read()
        server.feed.close()
        await refused(rest_of(stream), grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")


async def test_the_last_lines_stand_in_a_failure_and_outlive_the_machine() -> None:
    async with lab.running() as server:
        for host in server.plane.drivers.values():
            host.host.options = replace(host.host.options, boot_ms=10_000_000)  # no guest is ever ready
        kept = Kept(server)
        small = node(cpu_num=1, memory_size=lab.GIB, timeout=600)
        policy = group_pb2.FailurePolicy(action=group_pb2.FAILURE_ACTION_FAIL_GROUP)
        stream = server.stub.DeployDistributedModelService(deploy(model_services=[small], failure_policy=policy))
        accepted = (await stream.read()).event.accepted
        member = accepted.instances[0].uuid
        kept.said = {(member, LogSource.CONSOLE): b"kernel\n", (member, LogSource.ENGINE): b"out of memory: 8 GiB\n"}
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await rest_of(stream)
        assert "its last lines: kernel | out of memory: 8 GiB" in str(error.value.details())
        kept.said = {}
        group = (await server.stub.GetInstanceGroup(deploy_pb2.GetInstanceGroupRequest(uuid=accepted.uuid))).inventory
        assert (group.status, server.plane.machines()) == ("Failed", [])
        answers = await read(server, group)
        assert [(a.text, a.kept) for a in answers] == [("kernel\n", True), ("out of memory: 8 GiB\n", True)]


async def test_reads_on_one_host_wait_for_each_other() -> None:
    async with lab.running() as server:
        group = await made(server)
        running, most = 0, 0
        for driver in server.plane.drivers.values():
            own = driver.read_log

            async def counted(*told: Any, own: Any = own, **more: Any) -> LogPiece:
                nonlocal running, most
                running += 1
                most = max(most, running)
                await asyncio.sleep(0)
                piece: LogPiece = await own(*told, **more)
                running -= 1
                return piece

            driver.read_log = counted  # type: ignore[method-assign]
        await asyncio.gather(*(read(server, group) for _ in range(8)))
        assert most <= len(server.plane.drivers)
