"""Two hypervisors behind one address, of which one is a copy of the other: what is done on one is not done on both."""

from __future__ import annotations

from dataclasses import replace

import pytest

from service.domain.fleet import HostStatus
from service.domain.ownership import OwnerMark
from service.domain.specs import DeployRequest
from service.drivers.base import HostFacts, MachineState
from service.drivers.simulated import SimulatedDriver, SimulatedHost
from service.reconcile import monitor, sweep
from service.store import ownership
from tests.service.reconcile.test_custody import ONE, claim, machines, status, swept, until
from tests.support.builders import spec
from tests.support.control_plane import control_plane

pytestmark = pytest.mark.asyncio


def answers_from_the_next_look_on(driver: SimulatedDriver, host: SimulatedHost) -> None:
    """Whoever is at the address changes before a look, not in its middle, where the mark for one would be left on the
    other."""
    probe = driver.probe

    async def first(*, budget_seconds: float) -> HostFacts:
        driver.host, driver.probe = host, probe  # type: ignore[method-assign]
        return await probe(budget_seconds=budget_seconds)

    driver.probe = first  # type: ignore[method-assign]


async def test_a_copy_of_a_hypervisor_is_told_by_its_older_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has everything of the original, its uuid as well, but for what the original was marked with since."""
    monkeypatch.setattr(sweep, "GRACE_SECONDS", 0.0)
    monkeypatch.setattr(monitor, "MARK_STANDS_SECONDS", 0.0)
    monkeypatch.setattr(monitor, "MARK_AFTER_CHANGE_SECONDS", 0.0)
    monkeypatch.setattr(monitor, "EVERY_SECONDS", 0.05)
    async with control_plane(hosts=ONE) as plane:
        key = f"{1:032x}"
        driver = plane.drivers[key]
        home = driver.host
        home.hypervisor = "first"
        await plane.deploy(DeployRequest(spec(1)))

        async def kept_above(mark: OwnerMark | None) -> bool:
            record = await plane.store.read(lambda c: ownership.host_record(c, key, "first"))
            return record is not None and mark is not None and record.marked > mark.generation

        await until(lambda: kept_above(OwnerMark("", "", 0)))
        copy = SimulatedHost("copy", home.options, home.clock, boot_id="simulated-77", hypervisor="first")
        copy.mark = home.mark
        await plane.deploy(DeployRequest(spec(1)))
        await until(lambda: kept_above(copy.mark))
        answers_from_the_next_look_on(driver, copy)
        await status(plane, 1, HostStatus.MISMATCHED)
        await swept(plane)
        assert not copy.machines
        assert list(machines({"": home}).values()) == [MachineState.RUNNING] * 2
        await claim(plane, 1)  # the operator's word: it is this one now
        await status(plane, 1, HostStatus.CONNECTED)
        await until(lambda: kept_above(home.mark))
        answers_from_the_next_look_on(driver, home)  # of the two it is now the one that is left behind
        await status(plane, 1, HostStatus.MISMATCHED)


async def test_a_mark_that_was_read_before_another_replica_raised_it_tells_of_no_copy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(monitor, "MARK_STANDS_SECONDS", 0.0)
    monkeypatch.setattr(monitor, "MARK_AFTER_CHANGE_SECONDS", 0.0)
    monkeypatch.setattr(monitor, "EVERY_SECONDS", 0.05)
    async with control_plane(hosts=ONE) as plane:
        key = f"{1:032x}"
        driver = plane.drivers[key]
        await plane.deploy(DeployRequest(spec(1)))

        async def kept() -> bool:
            record = await plane.store.read(lambda c: ownership.host_record(c, key, driver.host.hypervisor))
            return record is not None and record.marked > 0

        await until(kept)
        facts = await driver.probe(budget_seconds=5.0)
        assert facts.mark is not None
        late = replace(facts, mark=replace(facts.mark, generation=0))
        verdict = await plane.custody.admit(ONE[0], driver, late, ())
        assert verdict.usable, verdict.reason
        driver.host.mark = late.mark  # now it is older indeed
        verdict = await plane.custody.admit(ONE[0], driver, late, ())
        assert (verdict.usable, verdict.older_mark) == (False, True)
