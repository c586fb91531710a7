"""Calls begin in their order, and no more than allowed at once, whatever becomes of those before them."""

from __future__ import annotations

import asyncio

import pytest

from service.contract.turns import Turn, Turns
from service.errors import Overloaded

pytestmark = pytest.mark.asyncio

LONG = 3600.0


async def settle() -> None:
    """Let everything that can run do so."""
    for _ in range(10):
        await asyncio.sleep(0)


class Calls:
    """Calls that note when they begin."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self.begun: dict[int, Turn] = {}
        self.tasks: list[asyncio.Task[None]] = []

    def arrive(self, count: int) -> None:
        first = len(self.tasks)
        self.tasks += [asyncio.create_task(self._call(number)) for number in range(first, first + count)]

    async def _call(self, number: int) -> None:
        self.begun[number] = await self._turns.take()


async def test_calls_begin_in_their_order_as_turns_end() -> None:
    calls = Calls(Turns(100, at_once=2, longest_seconds=LONG))
    calls.arrive(5)
    await settle()
    assert list(calls.begun) == [0, 1]
    calls.begun[1].end()
    await settle()
    assert list(calls.begun) == [0, 1, 2]
    calls.begun[1].end()  # a second time: that frees nothing
    await settle()
    assert list(calls.begun) == [0, 1, 2]
    calls.begun[0].end()
    calls.begun[2].end()
    await settle()
    assert list(calls.begun) == [0, 1, 2, 3, 4]


async def test_who_arrives_later_does_not_overtake_those_who_wait() -> None:
    calls = Calls(Turns(100, at_once=1, longest_seconds=LONG))
    calls.arrive(2)
    await settle()
    calls.begun[0].end()
    calls.arrive(1)
    await settle()
    assert list(calls.begun) == [0, 1]


async def test_a_turn_ends_by_itself_so_that_a_long_plan_or_a_lost_call_holds_up_nobody() -> None:
    calls = Calls(Turns(100, at_once=1, longest_seconds=0.01))
    calls.arrive(3)
    async with asyncio.timeout(60):
        await asyncio.gather(*calls.tasks)
    assert list(calls.begun) == [0, 1, 2]


async def test_a_call_whose_client_has_left_takes_no_turn() -> None:
    calls = Calls(Turns(100, at_once=1, longest_seconds=LONG))
    calls.arrive(3)
    await settle()
    calls.tasks[1].cancel()
    await settle()
    calls.begun[0].end()
    await settle()
    assert list(calls.begun) == [0, 2]


async def test_a_turn_that_is_given_in_the_moment_in_which_the_client_leaves_goes_to_the_next() -> None:
    calls = Calls(Turns(100, at_once=1, longest_seconds=LONG))
    calls.arrive(3)
    await settle()
    calls.begun[0].end()
    calls.tasks[1].cancel()
    await settle()
    assert list(calls.begun) == [0, 2]
    assert calls.tasks[1].cancelled()


async def test_more_than_may_wait_are_refused_at_once() -> None:
    turns = Turns(1, at_once=1, longest_seconds=LONG)
    calls = Calls(turns)
    calls.arrive(2)
    await settle()
    with pytest.raises(Overloaded, match="1 calls wait to begin already"):
        await turns.take()
    calls.begun[0].end()
    await settle()
    assert list(calls.begun) == [0, 1]
