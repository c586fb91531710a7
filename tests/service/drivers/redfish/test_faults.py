"""What BMCs do once in a while, and a service that is killed at each of its orders to one."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from service.drivers.base import DriverError, HostRejected, HostUnreachable, MachineState, OutcomeUnknown
from service.drivers.redfish import connecting
from service.drivers.redfish.driver import RedfishDriver
from tests.service.drivers.redfish.test_boot import booted
from tests.service.drivers.redfish.test_redfish import HOST, SECONDS, Lab, lab, spec
from tests.support.bmc import PASSWORD, SYSTEM

__all__ = ["lab"]

pytestmark = pytest.mark.asyncio


async def test_no_session_is_left_and_the_password_is_not_sent_instead(lab: Lab) -> None:
    lab.bmc.most_sessions = 0
    with pytest.raises(HostUnreachable, match="busy"):
        await lab.driver.probe(budget_seconds=SECONDS)
    lab.bmc.most_sessions = 1
    await lab.driver.probe(budget_seconds=SECONDS)
    assert (lab.bmc.basic, len(lab.bmc.sessions)) == (0, 1)


async def test_a_task_is_no_end_and_what_it_does_is_waited_for(lab: Lab) -> None:
    one = spec()
    await lab.create(one)
    lab.bmc.faults["task Reset"] = lab.bmc.faults["lag"] = 2
    assert await lab.resume(one) is MachineState.RUNNING
    await lab.driver.power_off(one.identity, budget_seconds=SECONDS)
    assert (lab.bmc.resets, lab.bmc.shown) == (["On", "ForceOff"], [])


async def test_on_its_way_is_neither_on_nor_off(lab: Lab) -> None:
    one = spec()
    await lab.create(one)
    await lab.resume(one)
    lab.bmc.shown = ["PoweringOff", "PoweringOff"]
    assert await lab.state(one) is MachineState.STOPPING
    await lab.driver.power_off(one.identity, budget_seconds=SECONDS)
    assert lab.bmc.power == "Off"


async def test_one_that_falls_back_to_off_has_run(lab: Lab) -> None:
    one = spec()
    await lab.create(one)
    lab.bmc.faults["falls back"] = 1
    await lab.resume(one)
    assert await lab.state(one) is MachineState.STOPPED
    with pytest.raises(HostRejected):
        await lab.resume(one)
    assert lab.bmc.posts == ["On"]


async def test_an_order_that_a_bmc_does_not_know_is_not_sent(lab: Lab) -> None:
    one = spec()
    await lab.create(one)
    await lab.resume(one)
    action = {"#ComputerSystem.Reset": {"target": f"{SYSTEM}/Actions/ComputerSystem.Reset",
                                        "ResetType@Redfish.AllowableValues": ["On"]}}  # fmt: skip
    lab.bmc.changes[SYSTEM] = {"Actions": action}
    with pytest.raises(HostRejected, match="knows no ForceOff"):
        await lab.driver.power_off(one.identity, budget_seconds=SECONDS)
    await lab.driver.shutdown(one.identity, budget_seconds=SECONDS)
    assert lab.bmc.posts == ["On"]


async def test_a_version_that_is_compared_weakly_is_no_hindrance(lab: Lab, tmp_path: Path) -> None:
    one = booted(tmp_path / "metal.iso")
    lab.bmc.quirks = frozenset({"weak etags"})
    assert await lab.create(one) is MachineState.PAUSED
    assert await lab.resume(one) is MachineState.RUNNING
    await lab.driver.remove(one.identity, budget_seconds=SECONDS)
    assert lab.bmc.boot["BootSourceOverrideEnabled"] == "Disabled"


async def test_the_password_stands_in_no_log_no_error_and_no_row(
    lab: Lab, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    told: list[str] = []
    for fault in ("busy", "lose InsertMedia", "500 Reset", "power_null", "insert_ignored"):
        lab.bmc.faults[fault] = 2
        for _ in range(3):
            try:
                await lived(lab, lab.driver, booted(tmp_path / "metal.iso"))
            except DriverError as error:
                told += [str(error), error.detail, repr(error.__cause__)]
        lab.bmc.faults[fault] = 0
    rows = await lab.seats._store.read(lambda c: "\n".join(c.connection.dbapi_connection.iterdump()))  # type: ignore
    assert told
    for text in ("\n".join(told), caplog.text, rows):
        assert PASSWORD not in text


class Killed(BaseException):
    """The process ends here."""


async def lived(lab: Lab, driver: RedfishDriver, one: Any) -> None:
    """A member's whole life, by whoever comes to it; each step that is done is passed over."""
    _, found = await driver.observe(one.identity, budget_seconds=SECONDS)
    if found is None:
        found = await driver.create_paused(one, budget_seconds=SECONDS)
    if found.state is MachineState.PAUSED:
        found = await driver.resume(one.identity, budget_seconds=SECONDS)
    await driver.power_off(one.identity, budget_seconds=SECONDS)
    await driver.remove(one.identity, budget_seconds=SECONDS)


@pytest.mark.parametrize("after", [False, True], ids=["before it is sent", "before it is answered"])
@pytest.mark.parametrize("number", range(1, 8))
async def test_whoever_comes_after_one_that_was_killed_at_an_order_ends_it_well(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, after: bool
) -> None:
    """The orders: log in, insert, start from the drive, on, off, start as set, eject."""
    one = booted(tmp_path / "metal.iso")
    count, real = 0, connecting.Connector._op

    def killed(self: Any, method: str, *arguments: Any, **named: Any) -> Any:
        nonlocal count
        # Connections of earlier tests that nobody has closed end their sessions when they are collected, at any time.
        orders = method != "GET" and f":{lab.bmc.port}" in self._url
        count += orders
        dies = orders and count == number
        if dies and not after:
            raise Killed
        answer = real(self, method, *arguments, **named)
        if dies:
            raise Killed
        return answer

    with monkeypatch.context() as dying:
        dying.setattr(connecting.Connector, "_op", killed)
        with pytest.raises(Killed):
            await lived(lab, lab.driver, one)
        assert count == number
    next_one = RedfishDriver(HOST, lab.address, lab.seats)
    for _ in range(2):
        try:
            await lived(lab, next_one, one)
            break
        except OutcomeUnknown:
            continue
    _, found = await next_one.observe(one.identity, budget_seconds=SECONDS)
    assert (found, lab.bmc.power, lab.bmc.image) == (None, "Off", "")
    assert lab.bmc.boot["BootSourceOverrideEnabled"] == "Disabled"
    assert all(seat.left for seat in await lab.seats.on(HOST))
    assert lab.bmc.resets.count("On") <= 2, "once by each"
    await next_one.close()


async def test_one_silent_bmc_holds_up_no_other_and_keeps_its_seat(lab: Lab, tmp_path: Path) -> None:
    from service.domain.fleet import HostAddress
    from tests.support.bmc import ACCOUNT, Bmc

    one = spec()
    await lab.create(one)
    other = Bmc(tmp_path, "44454c4c-0000-1000-8000-000000000002")
    options = {**lab.address.options, "ca_file": str(other.ca_file), "password_file": str(other.password_file)}
    address = HostAddress("redfish", "tls", "localhost", other.port, username=ACCOUNT, options=options)
    driver = RedfishDriver("f" * 32, address, lab.seats)
    try:
        lab.bmc.faults["silent"] = 99
        waiting = asyncio.create_task(lab.driver.observe(one.identity, budget_seconds=90.0))
        for _ in range(3):
            await driver.probe(budget_seconds=SECONDS)
        assert not waiting.done()
        lab.bmc.heard.set()
        with pytest.raises(DriverError):
            await waiting
        assert len(await lab.seats.on(HOST)) == 1
    finally:
        lab.bmc.faults["silent"] = 0
        await driver.close()
        other.close()
