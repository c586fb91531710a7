"""A live move that is called off: its member goes on where it is, also where the hypervisor lost it half way."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from service.drivers.base import MachineIdentity, MachineState, ObservedMachine
from service.lifecycle.facts import MoveAborted
from service.reconcile.monitor import HostMonitor
from service.reconcile.moves import LiveMove, Trail
from tests.support.builders import group

IDENTITY = MachineIdentity("c", "g", "i", 1)


@dataclass
class Host:
    """A host with the machine in one state, or without it; keeps what its driver is told."""

    state: MachineState | None
    told: list[str] = field(default_factory=list)
    silent: bool = False

    @property
    def driver(self) -> Host:
        return self

    async def observe(self, _identity: MachineIdentity) -> ObservedMachine | None:
        return None if self.state is None else ObservedMachine(IDENTITY, IDENTITY.machine_uuid, self.state, "")

    async def abort_migration(self, _identity: MachineIdentity, *, budget_seconds: float) -> None:
        self.told.append("abort")

    async def entomb(self, _identity: MachineIdentity, *, budget_seconds: float) -> None:
        self.told.append("entomb")

    async def confirm_absent(self, _uuid: str) -> bool:
        self.told.append("absent")
        return True

    async def resume(self, _identity: MachineIdentity, *, budget_seconds: float) -> None:
        self.told.append("resume")


def move(source: Host, target: Host) -> LiveMove:
    member = replace(group(1).instances[0], host_uuid="a", target_host_uuid="b", attempt=1)
    return LiveMove(member, IDENTITY, cast(HostMonitor, source), cast(HostMonitor, target), Trail())


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (MachineState.MIGRATING, ["abort", "resume"]),  # paused for a move that goes on no more
        (MachineState.RUNNING, ["abort"]),
        (MachineState.PAUSED, ["abort"]),  # for another reason, which is looked at as ever
    ],
)
@pytest.mark.asyncio
async def test_who_was_left_paused_by_a_lost_move_runs_again_once_its_target_is_barred(
    state: MachineState, told: list[str]
) -> None:
    source, target = Host(state), Host(None)
    ended = await move(source, target).abort()
    assert [type(fact) for fact in ended] == [MoveAborted]
    assert (source.told, target.told) == (told, ["entomb", "absent"])


@pytest.mark.asyncio
async def test_nobody_is_let_run_while_the_target_was_not_seen_without_it() -> None:
    source, target = Host(MachineState.MIGRATING), Host(None)

    async def not_yet(_uuid: str) -> bool:
        return False

    cast(Any, target).confirm_absent = not_yet
    assert await move(source, target).abort() == ()
    assert source.told == ["abort"]
