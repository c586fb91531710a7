"""A silent hypervisor is switched off by its BMC once, with the record first and the proof before its members go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from sqlalchemy import select

from service.app.evacuation import Evacuation
from service.app.fleet import Fleet
from service.domain import fencing as rules
from service.domain.fencing import Fence, FenceCause, FenceState, Rule
from service.domain.fleet import Bmc, Fencing, Host, HostAddress, HostState, HostStatus
from service.domain.specs import DeployRequest, FailurePolicy
from service.drivers import knocking
from service.drivers.base import HostUnreachable, OutcomeUnknown
from service.drivers.knocking import Knock
from service.drivers.power import PowerSwitch, WrongMachine
from service.errors import Unavailable, WrongState
from service.planning.planner import InlinePlanner
from service.reconcile import fencing as fencer_module
from service.reconcile import leading
from service.reconcile import monitor as monitor_module
from service.reconcile.fencing import Fencer
from service.store import fencing, fleet, schema
from service.store.clock import StoreClock
from service.transactions import fencing as steps
from tests.support.builders import host, spec
from tests.support.control_plane import CALLER, ControlPlane, control_plane

pytestmark = pytest.mark.asyncio

PASSWORD = "/etc/corral/bmc"
BOARD = HostAddress("redfish", "tls", "bmc-1", username="corral", options={"password_file": PASSWORD})


@dataclass
class Board:
    """A BMC of memory. `says`: its answers in place of the truth; `silent`: it answers nobody."""

    machine: str
    power: str = "On"
    orders: int = 0
    silent: bool = False
    loses: int = 0
    says: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)


class Switch(PowerSwitch):
    def __init__(self, board: Board) -> None:
        self.board = board

    async def _look(self, machine: str) -> str:
        if self.board.silent:
            raise HostUnreachable("the BMC does not answer")
        if machine != self.board.machine:
            raise WrongMachine("the BMC is of another machine")
        return self.board.says.pop(0) if self.board.says else self.board.power

    async def power(self, machine: str, *, budget_seconds: float) -> str:
        self.board.seen.append("power")
        return await self._look(machine)

    async def force_off(self, machine: str, *, budget_seconds: float) -> None:
        self.board.seen.append("force_off")
        await self._look(machine)
        self.board.orders += 1
        self.board.power = "Off"
        if self.board.loses:
            self.board.loses -= 1
            raise OutcomeUnknown("the BMC gave no answer")

    async def stays_off(self, machine: str, *, budget_seconds: float) -> bool:
        self.board.seen.append("stays_off")
        return await self._look(machine) == "Off" and await self._look(machine) == "Off"

    async def close(self) -> None:
        pass


@dataclass
class Lab:
    plane: ControlPlane
    fencer: Fencer
    evacuation: Evacuation
    board: Board
    victim: str

    async def fence(self) -> Fence | None:
        found = await self.plane.store.read(lambda c: fencing.newest(c, [self.victim]))
        return found.get(self.victim)

    async def host(self) -> Host:
        return await self.plane.store.read(lambda c: fleet.host(c, self.victim))

    async def rule(self) -> Rule | None:
        told = await self.plane.store.read(lambda c: fencing.verdicts(c))
        return told[self.victim].rule if self.victim in told else None

    async def ended(self, state: FenceState) -> Fence:
        await until(lambda: self._is(state))
        found = await self.fence()
        assert found is not None
        return found

    async def _is(self, state: FenceState) -> bool:
        found = await self.fence()
        return found is not None and found.state is state

    async def elsewhere(self) -> bool:
        """Whether all members run, and none of them on the victim."""
        rows = await self.plane.store.read(
            lambda c: c.execute(select(schema.instances.c.host_uuid, schema.instances.c.status)).all()
        )
        return all(row.status == "Running" and row.host_uuid != self.victim for row in rows)

    async def audit(self) -> list[str]:
        return await self.plane.store.read(
            lambda c: list(c.scalars(select(schema.audit.c.method).order_by(schema.audit.c.id)))
        )


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not await holds():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def no_answer(*_: object, **__: object) -> Any:
    raise HostUnreachable("the host cannot be reached")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "SILENT_SECONDS", 0.3)
    monkeypatch.setattr(rules, "ANSWERED_SECONDS", 60.0)
    monkeypatch.setattr(monitor_module, "RETRY_FIRST_SECONDS", 0.02)
    monkeypatch.setattr(monitor_module, "RETRY_MOST_SECONDS", 0.05)
    monkeypatch.setattr(leading, "EVERY_SECONDS", 0.05)
    monkeypatch.setattr(fencer_module, "AGAIN_FIRST_SECONDS", 0.05)
    monkeypatch.setattr(fencer_module, "AGAIN_MOST_SECONDS", 0.05)


@asynccontextmanager
async def lab(
    mode: Fencing = Fencing.AUTO, hosts: int = 4, *, run: bool = True, knock: Knock = knocking.knock
) -> AsyncIterator[Lab]:
    """A group on a few hosts, of which the one that has a member falls silent; `run`: with a fencer at work."""
    fleet_of = tuple(host(n, bmc=Bmc(BOARD, mode)) for n in range(1, hosts + 1))
    async with control_plane(hosts=fleet_of) as plane:
        await plane.deploy(DeployRequest(spec(1, failure_policy=FailurePolicy.REPLACE_MEMBER)))
        victim, driver = next((u, d) for u, d in plane.drivers.items() if d.host.machines)
        row = await plane.store.read(lambda c: fleet.host(c, victim))
        board = Board(row.hypervisor)
        fencer = Fencer(
            plane.store,
            plane.reconciler.monitors,
            plane.custody,
            plane.metrics,
            StoreClock(),
            "test",
            lambda _bmc: Switch(board),
            group_due=plane.reconciler.poke,
            knock=knock,
        )
        cases = Fleet(plane.store, lambda: 1, no_answer, InlinePlanner())
        evacuation = Evacuation(plane.store, plane.feed, InlinePlanner(), lambda: 1, cases)
        for name in ("probe", "list_machines"):
            setattr(driver, name, no_answer)
        plane.reconciler.monitors[victim].suspect()
        task = asyncio.create_task(fencer.run()) if run else None
        made = Lab(plane, fencer, evacuation, board, victim)
        try:
            await until(lambda: _silent(made))
            yield made
        finally:
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


async def _silent(made: Lab) -> bool:
    return (await made.host()).status is HostStatus.DISCONNECTED


async def test_a_dead_host_is_switched_off_and_its_members_run_elsewhere() -> None:
    async with lab() as made:
        fence = await made.ended(FenceState.FENCED)
        assert (fence.cause, fence.orders, made.board.orders) == (FenceCause.SILENCE, 1, 1)
        await until(made.elsewhere)
        assert (await made.host()).state is HostState.MAINTENANCE
        assert [m for m in await made.audit() if "Fence" in m] == ["FenceSilentHost", "FencedHost"]
        assert await made.rule() in (Rule.FENCE, Rule.MAINTENANCE)
        for _ in range(5):
            await made.fencer.once()
        assert made.board.orders == 1, "never twice"


async def test_one_that_lost_its_power_needs_no_order() -> None:
    async with lab(run=False) as made:
        made.board.power = "Off"
        task = asyncio.create_task(made.fencer.run())
        fence = await made.ended(FenceState.FENCED)
        assert (fence.orders, made.board.orders) == (0, 0)
        await until(made.elsewhere)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("trouble", ["silent", "lies"])
async def test_what_is_not_proven_off_keeps_its_members(trouble: str) -> None:
    async with lab(run=False) as made:
        if trouble == "silent":
            made.board.silent = True
        else:
            made.board.says = ["On", "On", *["Off", "On"] * 40]
        task = asyncio.create_task(made.fencer.run())
        await until(lambda: _tried(made, trouble))
        fence = await made.fence()
        assert fence is not None
        assert fence.state in rules.OPEN
        assert not await made.elsewhere()
        made.board.silent, made.board.says = False, []
        await made.ended(FenceState.FENCED)
        assert made.board.orders <= 1 or trouble == "lies"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _tried(made: Lab, trouble: str) -> bool:
    wanted = {"silent": "power", "lies": "stays_off"}[trouble]
    return made.board.seen.count(wanted) >= 3


async def test_a_lost_answer_is_looked_at_before_anything_is_sent_again() -> None:
    async with lab(run=False) as made:
        made.board.loses = 1
        task = asyncio.create_task(made.fencer.run())
        await made.ended(FenceState.FENCED)
        assert made.board.orders == 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_the_wrong_machine_is_not_touched() -> None:
    async with lab(run=False) as made:
        made.board.machine = "another"
        task = asyncio.create_task(made.fencer.run())
        fence = await made.ended(FenceState.FAILED)
        assert "another machine" in fence.reason
        assert made.board.orders == 0
        await until(lambda: _ruled(made, Rule.FAILED_LATELY))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_database_that_does_not_take_the_end_of_a_fence_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refused: list[Any] = []
    real = steps.fail

    def once(*arguments: Any) -> Any:
        if not refused:
            refused.append(arguments)
            raise Unavailable("the database cannot be reached")
        return real(*arguments)

    monkeypatch.setattr(steps, "fail", once)
    async with lab(run=False) as made:
        made.board.machine = "another"
        task = asyncio.create_task(made.fencer.run())
        await made.ended(FenceState.FAILED)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert refused
    assert "a fence broke" not in caplog.text


async def _ruled(made: Lab, wanted: Rule) -> bool:
    return await made.rule() is wanted


async def test_dry_tells_what_it_would_do_and_does_nothing() -> None:
    async with lab(Fencing.DRY) as made:
        fence = await made.ended(FenceState.REHEARSED)
        assert fence.cause is FenceCause.DRY
        assert "would be switched off" in fence.reason
        for _ in range(5):
            await made.fencer.once()
        assert made.board.orders == 0
        assert "force_off" not in made.board.seen
        assert (await made.fence()) == fence, "once a silence"
        assert not await made.elsewhere()


async def test_two_of_three_hosts_that_are_silent_are_fenced_by_nobody() -> None:
    async with lab(hosts=3, run=False) as made:
        other = next(u for u in made.plane.drivers if u != made.victim)
        for name in ("probe", "list_machines"):
            setattr(made.plane.drivers[other], name, no_answer)
        made.plane.reconciler.monitors[other].suspect()
        await until(lambda: _gone(made, other))
        task = asyncio.create_task(made.fencer.run())
        await until(lambda: _ruled(made, Rule.NETWORK_FAULT))
        assert made.board.seen == []
        assert await made.fence() is None
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _gone(made: Lab, uuid: str) -> bool:
    return await made.plane.store.read(lambda c: fleet.status_of(c, uuid)) is HostStatus.DISCONNECTED


async def test_an_operator_has_it_switched_off_and_may_say_that_it_is() -> None:
    async with lab(Fencing.MANUAL) as made:
        for _ in range(3):
            await made.fencer.once()
        assert (await made.fence(), await made.rule()) == (None, None)
        made.board.silent = True
        view = await made.evacuation.fence(CALLER, made.victim)
        assert view.fence is not None
        assert (view.fence.state, view.fence.cause) == (FenceState.ORDERED, FenceCause.OPERATOR)
        again = await made.evacuation.fence(CALLER, made.victim)
        assert again.fence is not None
        assert again.fence.uuid == view.fence.uuid, "the one that is under way"
        await until(lambda: _tried(made, "silent"))
        assert not await made.elsewhere()
        await made.evacuation.fence(CALLER, made.victim, already_off=True)
        fence = await made.ended(FenceState.WITHDRAWN)
        assert "operator" in fence.reason
        await until(made.elsewhere)
        assert made.board.orders == 0


async def test_a_host_that_answers_again_is_not_switched_off() -> None:
    async with lab(run=False) as made:
        await made.evacuation.fence(CALLER, made.victim)
        await made.plane.store.write(lambda c: fleet.set_status(c, made.victim, HostStatus.CONNECTED))
        task = asyncio.create_task(made.fencer.run())
        await made.ended(FenceState.WITHDRAWN)
        assert made.board.seen == []
        with pytest.raises(WrongState):
            await made.evacuation.fence(CALLER, made.victim)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_who_does_not_lead_does_nothing_and_who_was_led_past_stops() -> None:
    async with lab(run=False) as made:
        now = await made.plane.store.write(lambda c: fencing.take_lease(c, "other", _far(), 45_000, 0))
        assert now == 1
        await made.evacuation.fence(CALLER, made.victim)
        for _ in range(3):
            await made.fencer.once()
        assert made.board.seen == []
        await made.plane.store.write(lambda c: fencing.end_lease(c, "other"))
        made.board.silent = True
        task = asyncio.create_task(made.fencer.run())
        await until(lambda: _tried(made, "silent"))
        await made.plane.store.write(lambda c: fencing.end_lease(c, "test"))
        await made.plane.store.write(lambda c: fencing.take_lease(c, "other", _far(), 45_000, _far()))
        made.board.silent = False
        await until(lambda: _idle(made))
        orders = made.board.orders
        await asyncio.gather(*(made.fencer.once() for _ in range(3)))
        assert made.board.orders == orders
        assert (await made.fence() or replace(Fence("", "", FenceCause.DRY, FenceState.FENCED, ""))).state in rules.OPEN
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _idle(made: Lab) -> bool:
    return not made.fencer._tasks


def _far() -> int:
    return 4_000_000_000_000
