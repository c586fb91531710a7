"""One project's plans do not stand before another's, and no place is lost."""

from __future__ import annotations

import asyncio
import random

import pytest

from service.planning.fair_queue import FairQueue

pytestmark = pytest.mark.asyncio


async def turns() -> None:
    """Let everybody go on who can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_projects_take_turns_and_each_keeps_its_order() -> None:
    queue, served = FairQueue(1), list[str]()

    async def work(name: str) -> None:
        await queue.take(name[0])
        served.append(name)

    await queue.take("a")
    waiting = [asyncio.create_task(work(name)) for name in ("a1", "a2", "a3", "b1", "b2", "c1")]
    await turns()
    for name in ("a", "a", "b", "c", "a", "b"):
        queue.give(name)
        await turns()
    await asyncio.gather(*waiting)
    assert served == ["a1", "b1", "c1", "a2", "b2", "a3"]


async def test_a_project_with_much_to_do_leaves_the_last_place_to_others() -> None:
    queue = FairQueue(3)
    many = [asyncio.create_task(queue.take("a")) for _ in range(8)]
    await turns()
    assert sum(task.done() for task in many) == 2
    await asyncio.wait_for(queue.take("b"), 60)
    for task in many:
        task.cancel()
    await asyncio.gather(*many, return_exceptions=True)


async def test_places_are_never_lost_nor_given_twice_however_callers_are_cancelled() -> None:
    dice, queue, places, held = random.Random(7), FairQueue(3), 3, 0

    async def work(project: str) -> None:
        nonlocal held
        await queue.take(project)
        held += 1
        assert held <= places
        try:
            for _ in range(dice.randrange(4)):
                await asyncio.sleep(0)
        finally:
            held -= 1
            queue.give(project)

    tasks = []
    for _ in range(500):
        tasks.append(asyncio.create_task(work(dice.choice("abc"))))
        if dice.random() < 0.4:
            dice.choice(tasks).cancel()
        if dice.random() < 0.5:
            await asyncio.sleep(0)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert held == 0
    for project in "xyz":
        await asyncio.wait_for(queue.take(project), 60)
