"""A machine is taken to be gone only where two looks in a row are without it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from service import recovering
from service.drivers.base import Listing, MachineIdentity, MachineState, ObservedMachine
from service.transactions.surveys import MOST_LOOKS, agree


def listing(*instances: str, boot: str = "b", state: MachineState = MachineState.RUNNING) -> Listing:
    found = (MachineIdentity("c", "g", instance, 1) for instance in instances)
    return Listing(boot, tuple(ObservedMachine(i, i.machine_uuid, state, "") for i in found))


def test_two_looks_agree_that_show_the_same_machines_in_one_boot() -> None:
    assert agree(listing("a", "b"), listing("b", "a"))
    assert not agree(listing("a", "b"), listing("a"))
    assert not agree(listing("a"), listing("a", boot="another"))
    assert not agree(listing("a"), listing("a", state=MachineState.PAUSED)), "it may have been let run since"


class Host:
    """Shows one listing after the other."""

    def __init__(self, *shown: Listing) -> None:
        self._shown: Iterator[Listing] = iter(shown)

    async def survey(self, *, budget_seconds: float) -> Listing:
        return next(self._shown)


@pytest.mark.asyncio
async def test_a_recovery_believes_what_two_looks_in_a_row_showed() -> None:
    both, one = listing("a", "b"), listing("a")
    assert await recovering._steady(Host(both, both)) == both  # type: ignore[arg-type]
    assert await recovering._steady(Host(one, both, both)) == both  # type: ignore[arg-type]
    unsteady = [both if turn % 2 else one for turn in range(MOST_LOOKS)]
    assert await recovering._steady(Host(*unsteady)) is None  # type: ignore[arg-type]
