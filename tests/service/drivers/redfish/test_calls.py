"""How many requests a BMC gets: it is slow, and whoever asks it twice waits twice."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

import pytest

from service.domain.seats import Report, token_in
from service.drivers.base import HostUnreachable, MachineIdentity, MachineState
from service.drivers.redfish import connecting
from service.drivers.redfish import driver as driver_module
from service.drivers.redfish.driver import RedfishDriver
from tests.service.drivers.redfish.test_redfish import HOST, SECONDS, Lab, lab, spec

__all__ = ["lab"]

pytestmark = pytest.mark.asyncio

Result = TypeVar("Result")
LOOK = 2
"""The machine's power with what it boots from, and its drive."""


async def asked(lab: Lab, call: Awaitable[Result]) -> tuple[int, Result]:
    """How many requests the call took, and what it gave."""
    before = lab.bmc.requests
    result = await call
    return lab.bmc.requests - before, result


@pytest.fixture(autouse=True)
def known_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow this machine is."""
    monkeypatch.setattr(driver_module, "KNOWN_SECONDS", 3600.0)


async def running(lab: Lab) -> MachineIdentity:
    one = spec()
    await lab.create(one)
    await lab.resume(one)
    return one.identity


async def state_listed(lab: Lab) -> MachineState:
    (found,) = (await lab.driver.list_machines(budget_seconds=SECONDS)).machines
    return found.state


async def test_what_a_machines_life_costs(lab: Lab) -> None:
    """After the first call, which logs in and reads what the machine is."""
    await lab.driver.probe(budget_seconds=SECONDS)
    one, drive, insert, power, reset = spec(), 1, 1, 1, 1
    count, _ = await asked(lab, lab.driver.probe(budget_seconds=SECONDS))
    assert count == LOOK
    assert await asked(lab, lab.create(one)) == (LOOK + drive + insert + drive, MachineState.PAUSED)
    assert await asked(lab, lab.resume(one)) == (LOOK + reset + power, MachineState.RUNNING)
    stop = await asked(lab, lab.driver.shutdown(one.identity, budget_seconds=SECONDS))
    assert stop == (LOOK + power + reset, None)
    off = power + reset + power + power  # seen off, and once more a while later
    eject = drive + 1 + drive
    gone = await asked(lab, lab.driver.remove(one.identity, budget_seconds=SECONDS))
    assert gone == (LOOK + off + LOOK + eject, None)


async def test_that_a_machine_runs_on_is_told_by_what_the_last_probe_saw(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = await running(lab)
    await lab.driver.probe(budget_seconds=SECONDS)
    assert await asked(lab, state_listed(lab)) == (0, MachineState.RUNNING)
    await lab.seats.report(token_in(lab.bmc.image), Report("ready", epoch=7))
    count, listing = await asked(lab, lab.driver.list_machines(budget_seconds=SECONDS))
    assert (count, [m.report.epoch for m in listing.machines if m.report]) == (0, [7]), "reports are read each time"
    count, _ = await asked(lab, lab.driver.observe(identity, budget_seconds=SECONDS))
    assert count == LOOK, "who asks for one machine is told what it does now"
    monkeypatch.setattr(driver_module, "KNOWN_SECONDS", 0.0)
    assert await asked(lab, state_listed(lab)) == (LOOK, MachineState.RUNNING)


async def test_what_was_done_there_or_does_not_run_is_asked_anew(lab: Lab) -> None:
    one = spec()
    await lab.create(one)
    await lab.driver.probe(budget_seconds=SECONDS)
    assert await asked(lab, state_listed(lab)) == (LOOK, MachineState.PAUSED)
    await lab.resume(one)
    assert await asked(lab, state_listed(lab)) == (LOOK, MachineState.RUNNING)
    await lab.driver.power_off(one.identity, budget_seconds=SECONDS)
    assert await asked(lab, state_listed(lab)) == (LOOK, MachineState.STOPPED)
    assert await asked(lab, state_listed(lab)) == (LOOK, MachineState.STOPPED)


async def test_one_that_loses_its_power_is_told_of_by_the_next_probe(lab: Lab) -> None:
    told: list[tuple[str, MachineIdentity | None]] = []
    lab.driver.subscribe(lambda host, identity: told.append((host, identity)))
    identity = await running(lab)
    await lab.driver.probe(budget_seconds=SECONDS)
    await lab.driver.probe(budget_seconds=SECONDS)
    assert told == [], "it was switched on by a call of ours, whose caller knows"
    lab.bmc.power = "Off"
    await lab.driver.probe(budget_seconds=SECONDS)
    assert told == [(lab.driver.host_id, identity)]
    assert await state_listed(lab) is MachineState.STOPPED


async def test_a_guest_that_repeats_itself_is_no_reason_to_ask_its_bmc(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[MachineIdentity | None] = []
    lab.driver.subscribe(lambda _host, identity: heard.append(identity))
    await running(lab)
    token = token_in(lab.bmc.image)
    said = [
        Report("booting"),
        Report("booting", count=4),
        Report("ready", epoch=1),
        Report("ready", epoch=1, count=9, answered=0),
        Report("ready", epoch=1, count=19, answered=5),
        Report("failed", "no more memory", epoch=1),
    ]
    news = []
    for report in said:
        before = len(heard)
        assert await lab.seats.report(token, report)
        news.append(len(heard) - before)
    assert news == [1, 0, 1, 1, 0, 1]
    monkeypatch.setattr("service.store.seats.SILENCE_MS", 0)
    assert await lab.seats.report(token, said[-1])
    assert len(heard) == sum(news) + 1, "its word after a silence is news"


async def test_a_busy_bmc_is_left_alone_for_as_long_as_it_asks(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    await lab.driver.probe(budget_seconds=SECONDS)
    lab.bmc.faults["busy"], lab.bmc.retry_after = 1, "3600"
    with pytest.raises(HostUnreachable, match="busy"):
        await lab.driver.probe(budget_seconds=SECONDS / 2)
    sent = lab.bmc.requests
    with pytest.raises(HostUnreachable, match="busy"):
        await lab.driver.probe(budget_seconds=SECONDS / 2)
    assert lab.bmc.requests == sent
    monkeypatch.setattr(connecting, "MOST_BUSY_SECONDS", 0.2)
    other = RedfishDriver(HOST, lab.address, lab.seats)
    lab.bmc.faults["busy"] = 1
    await other.probe(budget_seconds=SECONDS)
    assert lab.bmc.faults["busy"] == 0
    await other.close()
