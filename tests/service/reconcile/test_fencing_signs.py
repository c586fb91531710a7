"""A hypervisor whose daemon alone is silent is not switched off, by whatever sign of life there is of its host."""

from __future__ import annotations

from typing import Any

import pytest

from service.domain.fencing import Fence, FenceState, Rule
from service.domain.fleet import Fencing, HostAddress
from service.drivers.knocking import Answer, Heard
from service.store import fencing
from service.transactions import fencing as steps
from tests.service.reconcile.test_fencing import _ruled, lab, quick, until

__all__ = ["quick"]

pytestmark = pytest.mark.asyncio


class Kernel:
    """What the victim's kernel says to whoever asks it."""

    def __init__(self, *says: Heard) -> None:
        self.says, self.asked = list(says), 0

    async def knock(self, _: HostAddress) -> Answer:
        self.asked += 1
        return Answer(self.says.pop(0) if len(self.says) > 1 else self.says[0], "it refuses connections")


@pytest.mark.parametrize("mode", [Fencing.AUTO, Fencing.DRY])
async def test_a_host_whose_daemon_alone_was_stopped_is_not_switched_off(mode: Fencing) -> None:
    kernel = Kernel(Heard.ALIVE)
    async with lab(mode, knock=kernel.knock) as made:
        await until(lambda: _ruled(made, Rule.ALIVE))
        asked = kernel.asked
        await until(lambda: _asked(kernel, asked + 20))
        assert (await made.fence(), made.board.seen) == (None, [])
        told = await made.plane.store.read(lambda c: fencing.verdicts(c))
        assert "refuses connections" in told[made.victim].reason


async def _asked(kernel: Kernel, often: int) -> bool:
    return kernel.asked >= often


async def test_one_whose_kernel_is_silent_too_is_switched_off_and_one_that_cannot_be_asked_is_not() -> None:
    unsure = Kernel(Heard.UNSURE)
    async with lab(knock=unsure.knock) as made:
        await until(lambda: _asked(unsure, 20))
        assert await made.rule() is Rule.WAITING
        assert made.board.seen == []
        unsure.says = [Heard.NOTHING]
        await made.ended(FenceState.FENCED)
        assert made.board.orders == 1


async def test_one_that_is_seen_alive_right_before_the_order_is_not_switched_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernel, real = Kernel(Heard.NOTHING), steps.ask_for_silence

    def asked(*arguments: Any) -> Fence | None:
        found = real(*arguments)
        if found is not None:
            kernel.says = [Heard.ALIVE]
        return found

    monkeypatch.setattr(steps, "ask_for_silence", asked)
    async with lab(knock=kernel.knock) as made:
        await made.ended(FenceState.WITHDRAWN)
        assert made.board.orders == 0
