"""A deploy that waits and may have others move: where its room was called off it is made again, at a bounded pace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from corral.v1 import group_pb2

from service.domain import waiting
from service.drivers.base import HostRejected, MachineState
from service.drivers.simulated import SimulatedDriver
from service.lifecycle import room
from service.lifecycle.waiting import waits
from service.reconcile.room_making import MOST_TRIES
from service.store import groups
from tests.service.rpc.test_evacuation import never_twice, soon
from tests.service.rpc.test_make_room import LIVE, at_rest, deployed, large, stored
from tests.service.rpc.test_room import one_on_each
from tests.support.whole import Whole, config_text, whole

pytestmark = pytest.mark.asyncio

MINE = "c0" * 16


class Refusing:
    """Hosts that refuse live moves as long as `refuses`; `asked`: how many they have refused."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refuses = True
        self.asked = 0
        move = SimulatedDriver._move

        async def refusing(driver: SimulatedDriver, *args: Any) -> None:
            if self.refuses:
                self.asked += 1
                raise HostRejected("refused", "the host does not want to")
            await move(driver, *args)

        monkeypatch.setattr(SimulatedDriver, "_move", refusing)


@asynccontextmanager
async def waiter(lab: Whole) -> AsyncIterator[asyncio.Task[list[Any]]]:
    """One that waits once its room was called off, and who could move for it has refused."""
    asked = large(make_room=LIVE, wait=group_pb2.Wait(for_ms=3_600_000), resource_uuid=MINE)
    task = asyncio.create_task(deployed(lab, asked))
    await soon(lambda: rests(lab))
    yield task
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def rests(lab: Whole) -> bool:
    return any(map(waits, await lab.service.store.read(lambda c: groups.load_many(c, [MINE]))))


def rooms(lab: Whole, outcome: str) -> float:
    return float(lab.service.metrics.rooms.labels(outcome)._value.get())


async def looks(lab: Whole, many: int) -> None:
    """So many more looks of the one that waits are over."""
    seen: set[int] = set()

    async def enough() -> bool:
        seen.add((await stored(lab, MINE)).waiting.looked_at)
        return len(seen) > many

    await soon(enough)


async def test_a_waiter_whose_room_was_called_off_gets_another_once_its_members_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "LEAST_POLL_MS", 100)
    monkeypatch.setattr(room, "ASK_MOST_MS", 200)
    async with whole(tmp_path, config_text(hosts=2)) as lab:
        others = await one_on_each(lab)
        refusing = Refusing(monkeypatch)
        async with never_twice(lab), waiter(lab) as task:

            async def again() -> bool:
                return rooms(lab, "called_off") > MOST_TRIES

            await soon(again)
            refusing.refuses = False
            cleared = asyncio.create_task(forgetting(lab))
            assert (await task)[-1].final.status == "Running"
            cleared.cancel()
            await asyncio.gather(cleared, return_exceptions=True)
            await at_rest(lab, others)
        assert rooms(lab, "made") == 1


async def forgetting(lab: Whole) -> None:
    """What refused moves have left in the way on their targets is cleared at once, not after two minutes."""
    while True:
        for monitor in lab.service.reconciler.monitors.values():
            host = monitor.driver.host  # type: ignore[attr-defined]
            for machine in [m for m in host.machines.values() if m.state is MachineState.TOMBSTONE]:
                host.clear_tombstone(machine.identity)
        await asyncio.sleep(0.01)


async def test_those_who_did_not_go_are_left_alone_for_a_while_however_often_it_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "LEAST_POLL_MS", 50)
    monkeypatch.setattr(room, "ASK_FIRST_MS", room.ASK_MOST_MS)
    async with whole(tmp_path, config_text(hosts=2)) as lab:
        others = await one_on_each(lab)
        refusing = Refusing(monkeypatch)
        async with waiter(lab):
            assert refusing.asked == 2
            assert rooms(lab, "begun") == rooms(lab, "called_off") == 2
            await looks(lab, 5)
            assert refusing.asked == 2
            assert rooms(lab, "begun") == 2
            await at_rest(lab, others)
