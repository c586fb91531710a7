"""What a server takes at a time: calls, calls that wait to begin, connections. Health answers meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from corral.v1 import deploy_pb2
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2

from service.contract import turns
from service.contract.frame import CallLimits
from service.domain.tenants import Caller
from tests.service.rpc import lab
from tests.service.rpc.test_server import SERVING, health_of

pytestmark = pytest.mark.asyncio


async def test_more_calls_than_the_limit_are_refused_with_a_hint_while_health_answers() -> None:
    async with lab.running(limits=CallLimits(max_unary=0, max_streams=2)) as server:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.stub.ListInstanceGroups(deploy_pb2.ListInstanceGroupsRequest())
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert lab.reason_of(caught.value) == "OVERLOADED"
        assert lab.detail(lab.status_of(caught.value), error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() > 0
        watches = [server.stub.WatchInstanceGroups(deploy_pb2.WatchInstanceGroupsRequest()) for _ in range(2)]
        for watch in watches:
            await watch.read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await lab.call(server.stub, "WatchInstanceGroups", deploy_pb2.WatchInstanceGroupsRequest())
        assert lab.reason_of(caught.value) == "OVERLOADED"
        assert (await health_of(server.channel).Check(health_pb2.HealthCheckRequest())).status == SERVING
        watches[0].cancel()
        await lab.until_ended(server, followers=1)
        again = server.stub.WatchInstanceGroups(deploy_pb2.WatchInstanceGroupsRequest())
        assert (await again.read()).event.WhichOneof("change") == "bookmark"


async def test_calls_that_arrive_together_wait_their_turn_while_health_answers_and_too_many_are_refused() -> None:
    let_in = asyncio.Event()

    async def identify(_context: Any) -> Caller:
        await let_in.wait()
        return Caller()

    async with lab.running(limits=CallLimits(max_waiting=2), identify=identify) as server:

        def call() -> Any:
            return asyncio.ensure_future(server.stub.ListInstanceGroups(deploy_pb2.ListInstanceGroupsRequest()))

        calls: list[Any] = []
        async with asyncio.timeout(60):
            while not _refused(calls):
                # Fewer than one connection may hold: a busy machine learns late of the first refusal.
                calls += [call() for _ in range(10 * turns.AT_ONCE if len(calls) < 2000 else 0)]
                assert (await health_of(server.channel).Check(health_pb2.HealthCheckRequest())).status == SERVING
        assert {lab.reason_of(error) for error in _refused(calls)} == {"OVERLOADED"}
        let_in.set()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        served = [answer for answer in answers if isinstance(answer, deploy_pb2.ListInstanceGroupsResponse)]
        assert len(served) >= turns.AT_ONCE
        assert isinstance(await call(), deploy_pb2.ListInstanceGroupsResponse)


def _refused(calls: list[Any]) -> list[Any]:
    """How calls have ended; but those that the library drops, since 30 s were too short on a busy machine to begin
    them."""
    ended = [made.exception() for made in calls if made.done()]
    return [error for error in ended if error.code() is not grpc.StatusCode.CANCELLED]


async def test_connections_above_the_limit_are_closed_and_those_below_it_are_served() -> None:
    async with lab.running(limits=CallLimits(max_connections=3)) as server:
        health, address = health_of(server.channel), server.server.address
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == SERVING
        silent = [await asyncio.open_connection(address.host, address.port) for _ in range(6)]
        try:
            ended = [asyncio.create_task(reader.read()) for reader, _ in silent]
            await lab.until(lambda: sum(each.done() for each in ended) >= 4, "four are closed")
            await asyncio.sleep(0.2)
            assert sum(each.done() for each in ended) == 4
            assert (await health.Check(health_pb2.HealthCheckRequest())).status == SERVING
        finally:
            for _, writer in silent:
                writer.close()
        await asyncio.wait(ended, timeout=10)
        async with grpc.aio.insecure_channel(str(address)) as another:
            checked = health_of(another).Check(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=60)
            assert (await checked).status == SERVING
