"""Calls end at their deadlines, and a sick host costs nobody else anything."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import libvirt
import pytest

from service.drivers.base import HostUnreachable, OutcomeUnknown
from service.drivers.libvirt.connection import CALLS_AT_A_TIME, GIVEN_UP_LIMIT, Lane, Work
from service.drivers.libvirt.errors import Abandoned
from tests.service.drivers.libvirt.fake import FakeHost, error, lost, wait_for

SOON = 1.0
"""A budget that a call uses up: within it, a thread begins on a busy machine, too."""


def lane_of(host: FakeHost, **options: Any) -> Lane:
    return Lane("fake:///", opener=host.open, **options)


def answer(_work: Work, _connection: Any) -> str:
    return "answer"


async def call(lane: Lane, function: Any = answer, *, budget: float = 60.0, effect: bool = True) -> Any:
    return await lane.call(function, budget_seconds=budget, has_effect=effect, what="test")


@pytest.mark.asyncio
async def test_connections_are_kept_and_never_more_than_the_calls_at_a_time() -> None:
    host = FakeHost()
    lane = lane_of(host)
    for _ in range(5):
        assert await call(lane) == "answer"
    assert host.calls == ["open"]
    assert await asyncio.gather(*(call(lane) for _ in range(50))) == ["answer"] * 50
    assert len(host.connections) <= CALLS_AT_A_TIME
    await lane.close()
    assert wait_for(lambda: all(connection.closed for connection in host.connections))


@pytest.mark.asyncio
async def test_a_connection_serves_one_call_at_a_time() -> None:
    lane = lane_of(FakeHost())
    lock = threading.Lock()
    busy: set[int] = set()

    def alone(work: Work, connection: Any) -> None:
        with lock:
            assert id(connection) not in busy
            busy.add(id(connection))
        work.pause(0.005)
        with lock:
            busy.remove(id(connection))

    await asyncio.gather(*(call(lane, alone) for _ in range(40)))
    await lane.close()


@pytest.mark.asyncio
async def test_no_more_calls_at_a_time_than_allowed() -> None:
    lane = lane_of(FakeHost())
    lock = threading.Lock()
    running: list[int] = [0, 0]

    full = threading.Event()

    def count(work: Work, _connection: Any) -> None:
        with lock:
            running[0] += 1
            running[1] = max(running)
            if running[0] == CALLS_AT_A_TIME:
                full.set()
        full.wait(60)
        work.pause(0.02)
        with lock:
            running[0] -= 1

    await asyncio.gather(*(call(lane, count) for _ in range(20)))
    assert running[1] == CALLS_AT_A_TIME
    await lane.close()


@pytest.mark.asyncio
@pytest.mark.parametrize(("effect", "expected"), [(True, OutcomeUnknown), (False, HostUnreachable)])
async def test_a_hung_call_ends_at_its_deadline_and_its_connection_is_not_used_again(
    effect: bool, expected: type[Exception]
) -> None:
    host = FakeHost()
    lane = lane_of(host)
    release = threading.Event()

    def hang(_work: Work, _connection: Any) -> None:
        release.wait(120)

    await call(lane)  # the connection is there: to open one is within the budget, too
    with pytest.raises(expected):
        await call(lane, hang, budget=SOON, effect=effect)
    assert await call(lane) == "answer"
    assert host.calls == ["open", "open"]
    assert not host.connections[0].closed  # somebody is still in it
    release.set()
    assert wait_for(lambda: host.connections[0].closed)
    await lane.close()


@pytest.mark.asyncio
async def test_a_call_that_was_given_up_does_not_take_its_next_step() -> None:
    lane = lane_of(FakeHost())
    release = threading.Event()
    outcome: list[str] = []

    def two_steps(work: Work, _connection: Any) -> None:
        release.wait(120)
        try:
            work.check()
        except Abandoned:
            outcome.append("stopped")
            raise
        outcome.append("second step")

    await call(lane)  # the connection is there: to open one is within the budget, too
    with pytest.raises(OutcomeUnknown):
        await call(lane, two_steps, budget=SOON)
    release.set()
    assert wait_for(lambda: bool(outcome))
    assert outcome == ["stopped"]
    await lane.close()


@pytest.mark.asyncio
async def test_a_cancelled_caller_gives_its_call_up() -> None:
    lane = lane_of(FakeHost())
    release, entered = threading.Event(), threading.Event()
    works: list[Work] = []

    def hang(work: Work, _connection: Any) -> None:
        works.append(work)
        entered.set()
        release.wait(120)

    task = asyncio.create_task(call(lane, hang))
    assert await asyncio.to_thread(entered.wait, 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(Abandoned):
        works[0].check()
    release.set()
    await lane.close()


@pytest.mark.asyncio
async def test_a_daemon_that_never_answers_open_costs_one_thread() -> None:
    host = FakeHost()
    release = host.hang("open")
    lane = lane_of(host)
    for _ in range(3):
        with pytest.raises(HostUnreachable):
            await call(lane, budget=SOON)
    assert host.calls == ["open"]
    release.set()
    assert await call(lane) == "answer"  # the late connection is taken
    assert host.calls == ["open"]
    await lane.close()


@pytest.mark.asyncio
async def test_a_connection_that_could_not_be_opened_is_tried_again() -> None:
    host = FakeHost()
    host.plant("open", lost)
    lane = lane_of(host)
    with pytest.raises(HostUnreachable):
        await call(lane)
    assert await call(lane) == "answer"
    await lane.close()


@pytest.mark.asyncio
async def test_a_call_that_comes_as_an_open_ends_does_not_keep_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the end of a task and its callbacks others have their turn; waiting for it then takes no turn at all."""

    async def at_once(function: Any, _name: str) -> Any:
        return function()

    monkeypatch.setattr("service.drivers.libvirt.connection.in_thread", at_once)
    lane = lane_of(FakeHost())
    first = asyncio.create_task(call(lane))
    await asyncio.sleep(0)  # it has begun to open
    second = asyncio.create_task(call(lane))  # its turn comes right after the open's
    assert [await first, await second] == ["answer", "answer"]
    await lane.close()


@pytest.mark.asyncio
async def test_a_broken_connection_is_noticed_told_and_replaced() -> None:
    host = FakeHost()
    told: list[str] = []
    lane = lane_of(host, closed=lambda: told.append("closed"))
    await call(lane)
    host.connections[0].break_down()
    await asyncio.sleep(0)
    assert told == ["closed"]
    assert await call(lane) == "answer"
    assert len(host.connections) == 2
    assert wait_for(lambda: host.connections[0].closed)
    await lane.close()


@pytest.mark.asyncio
async def test_a_connection_found_broken_before_libvirt_tells_is_told_once() -> None:
    host = FakeHost()
    told: list[str] = []
    lane = lane_of(host, closed=lambda: told.append("closed"))
    await call(lane)
    host.connections[0].alive = False
    assert await call(lane, lambda _work, connection: connection.isAlive())
    assert told == ["closed"]
    host.connections[0].break_down()
    await asyncio.sleep(0)
    assert told == ["closed"]
    await lane.close()


@pytest.mark.asyncio
async def test_an_error_of_the_wire_replaces_the_connection() -> None:
    host = FakeHost()
    lane = lane_of(host)

    def breaks(_work: Work, _connection: Any) -> None:
        raise lost()

    with pytest.raises(OutcomeUnknown):
        await call(lane, breaks)
    await call(lane)
    assert len(host.connections) == 2
    await lane.close()


@pytest.mark.asyncio
async def test_an_answer_of_the_host_keeps_the_connection() -> None:
    host = FakeHost()
    lane = lane_of(host)

    def refuses(_work: Work, _connection: Any) -> None:
        raise error(libvirt.VIR_ERR_NO_NETWORK)

    with pytest.raises(Exception, match="network"):
        await call(lane, refuses)
    await call(lane)
    assert len(host.connections) == 1
    await lane.close()


@pytest.mark.asyncio
async def test_calls_that_nobody_waits_for_are_bounded() -> None:
    lane = lane_of(FakeHost())
    release, entered = threading.Event(), threading.Semaphore(0)

    def hang(_work: Work, _connection: Any) -> None:
        entered.release()
        release.wait(120)

    for _ in range(GIVEN_UP_LIMIT):
        task = asyncio.create_task(call(lane, hang))
        assert await asyncio.to_thread(entered.acquire, timeout=60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    with pytest.raises(HostUnreachable, match="does not finish"):
        await call(lane)
    release.set()

    async def answers_again() -> bool:
        try:
            return bool(await call(lane) == "answer")
        except HostUnreachable:
            return False

    async with asyncio.timeout(60):
        while not await answers_again():  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0.01)
    await lane.close()


@pytest.mark.asyncio
async def test_a_sick_host_does_not_delay_another() -> None:
    sick_host, well_host = FakeHost(), FakeHost()
    sick, well = lane_of(sick_host), lane_of(well_host)
    release = threading.Event()

    def hang(_work: Work, _connection: Any) -> None:
        release.wait(120)

    hung = [asyncio.create_task(call(sick, hang)) for _ in range(20)]
    await asyncio.sleep(0)
    assert await asyncio.gather(*(call(well) for _ in range(50))) == ["answer"] * 50
    assert not any(task.done() for task in hung)
    release.set()
    await asyncio.gather(*hung)
    await sick.close()
    await well.close()


@pytest.mark.asyncio
async def test_a_closed_driver_takes_no_calls() -> None:
    lane = lane_of(FakeHost())
    await call(lane)
    await lane.close()
    with pytest.raises(HostUnreachable):
        await call(lane)
