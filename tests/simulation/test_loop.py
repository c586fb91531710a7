"""The virtual loop: time jumps, killed processes stay dead, frozen ones go on with all that came meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest

from tests.simulation.loop import Process, SimulatedLoop, Stuck


@pytest.fixture
def loop() -> Iterator[SimulatedLoop]:
    made = SimulatedLoop()
    yield made
    made.bury()


def run(loop: SimulatedLoop, work: Coroutine[Any, Any, Any]) -> None:
    loop.run_until_complete(work)


def test_sleeping_costs_no_time_but_virtual_one(loop: SimulatedLoop) -> None:
    before = loop.time()
    run(loop, asyncio.sleep(86_400))
    assert loop.time() == before + 86_400


def test_timers_fire_in_the_order_of_their_times(loop: SimulatedLoop) -> None:
    fired: list[int] = []
    for delay in (3, 1, 2):
        loop.call_later(delay, fired.append, delay)
    run(loop, asyncio.sleep(4))
    assert fired == [1, 2, 3]


def test_a_killed_process_never_runs_again_not_even_its_clean_up(loop: SimulatedLoop) -> None:
    done: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(1)
            done.append("worked")
        finally:
            done.append("cleaned up")

    process = Process("victim", loop)
    process.spawn(work(), "work")
    loop.call_later(0.5, process.kill)
    run(loop, asyncio.sleep(10))
    assert done == []


def test_a_frozen_process_goes_on_where_it_was_while_time_has_passed(loop: SimulatedLoop) -> None:
    seen: list[float] = []
    started = loop.time()

    async def work() -> None:
        await asyncio.sleep(1)
        seen.append(loop.time() - started)

    process = Process("sleeper", loop)
    process.spawn(work(), "work")
    loop.call_later(0.5, process.freeze)
    loop.call_later(60.0, process.thaw)
    run(loop, asyncio.sleep(100))
    assert seen == [60.0]


def test_others_go_on_while_one_process_is_frozen(loop: SimulatedLoop) -> None:
    ticks: list[str] = []

    async def work(name: str) -> None:
        for _ in range(3):
            await asyncio.sleep(1)
            ticks.append(name)

    frozen, other = Process("frozen", loop), Process("other", loop)
    frozen.spawn(work("frozen"), "work")
    other.spawn(work("other"), "work")
    frozen.freeze()
    run(loop, asyncio.sleep(10))
    assert ticks == ["other"] * 3


def test_a_task_of_a_process_starts_its_tasks_in_the_same_process(loop: SimulatedLoop) -> None:
    done: list[str] = []

    async def child() -> None:
        await asyncio.sleep(1)
        done.append("child")

    async def parent() -> None:
        task = asyncio.create_task(child())
        await task

    process = Process("family", loop)
    process.spawn(parent(), "parent")
    loop.call_later(0.5, process.kill)
    run(loop, asyncio.sleep(5))
    assert done == []


def test_a_loop_with_nothing_left_to_do_says_so(loop: SimulatedLoop) -> None:
    with pytest.raises(Stuck):
        run(loop, _wait_for_ever(loop))


async def _wait_for_ever(loop: SimulatedLoop) -> None:
    await loop.create_future()
