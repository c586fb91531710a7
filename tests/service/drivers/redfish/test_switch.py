"""A hypervisor's power by its BMC: the right machine alone, told once, and believed off when it is seen off twice."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from service.domain.fleet import HostAddress
from service.drivers.base import HostRejected, HostUnreachable, OutcomeUnknown
from service.drivers.power import APART_SECONDS, WrongMachine
from service.drivers.redfish import bmc as bmc_module
from service.drivers.redfish.switch import RedfishSwitch
from tests.support.bmc import ACCOUNT, Bmc

pytestmark = pytest.mark.asyncio

SECONDS = 60.0


def address(bmc: Bmc, **options: str) -> HostAddress:
    files = {"ca_file": str(bmc.ca_file), "password_file": str(bmc.password_file)}
    return HostAddress("redfish", "tls", "localhost", bmc.port, username=ACCOUNT, options={**files, **options})


@pytest_asyncio.fixture
async def bmc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bmc]:
    monkeypatch.setattr(bmc_module, "POLL_SECONDS", 0.05)
    board = Bmc(tmp_path)
    board.power = "On"
    try:
        yield board
    finally:
        board.close()


@pytest_asyncio.fixture
async def switch(bmc: Bmc) -> AsyncIterator[RedfishSwitch]:
    made = RedfishSwitch(address(bmc), apart_seconds=0.05)
    yield made
    await made.close()
    assert bmc.sessions == set()


async def test_the_two_looks_are_as_far_apart_as_a_lie_may_last() -> None:
    assert APART_SECONDS >= 5


async def test_it_is_cut_once_and_seen_off_twice(bmc: Bmc, switch: RedfishSwitch) -> None:
    assert await switch.power(bmc.uuid.upper(), budget_seconds=SECONDS) == "On"
    assert not await switch.stays_off(bmc.uuid, budget_seconds=SECONDS)
    await switch.force_off(bmc.uuid, budget_seconds=SECONDS)
    await switch.force_off(bmc.uuid, budget_seconds=SECONDS)  # what is off is not told again
    assert await switch.stays_off(bmc.uuid, budget_seconds=SECONDS)
    assert bmc.posts == ["ForceOff"]


async def test_another_machine_is_never_touched(bmc: Bmc, switch: RedfishSwitch) -> None:
    other = "44454c4c-0000-1000-8000-00000000ffff"
    for call in (switch.power, switch.force_off, switch.stays_off):
        with pytest.raises(WrongMachine):
            await call(other, budget_seconds=SECONDS)
    assert (bmc.posts, bmc.power) == ([], "On")
    bmc.uuid = ""
    with pytest.raises(WrongMachine):
        await switch.force_off("", budget_seconds=SECONDS)
    assert bmc.posts == []


async def test_a_lost_answer_is_looked_at_and_the_order_is_not_sent_again(bmc: Bmc, switch: RedfishSwitch) -> None:
    bmc.faults["lose Reset"] = 1
    with pytest.raises(OutcomeUnknown):
        await switch.force_off(bmc.uuid, budget_seconds=SECONDS)
    await switch.force_off(bmc.uuid, budget_seconds=SECONDS)
    assert await switch.stays_off(bmc.uuid, budget_seconds=SECONDS)
    assert bmc.posts == ["ForceOff"]


async def test_off_for_a_moment_and_a_bmc_that_restarts_prove_nothing(
    bmc: Bmc, switch: RedfishSwitch, monkeypatch: pytest.MonkeyPatch
) -> None:
    bmc.power = "Off"

    def lies(_seconds: float) -> None:
        bmc.power = "On"

    with monkeypatch.context() as between:
        between.setattr(time, "sleep", lies)
        assert not await switch.stays_off(bmc.uuid, budget_seconds=SECONDS)
    bmc.power = "Off"
    with monkeypatch.context() as between:
        between.setattr(time, "sleep", lambda _seconds: bmc.restart())
        assert not await switch.stays_off(bmc.uuid, budget_seconds=SECONDS)
    assert await switch.stays_off(bmc.uuid, budget_seconds=SECONDS)


async def test_what_it_does_not_tell_is_not_off(bmc: Bmc, switch: RedfishSwitch) -> None:
    await switch.power(bmc.uuid, budget_seconds=SECONDS)
    bmc.power, bmc.faults["power_null"] = "Off", 1
    with pytest.raises(OutcomeUnknown):
        await switch.stays_off(bmc.uuid, budget_seconds=SECONDS)


async def test_a_bmc_that_is_gone_says_nothing_and_its_certificate_is_known(bmc: Bmc, tmp_path: Path) -> None:
    strange = Bmc(tmp_path, "44454c4c-0000-1000-8000-000000000002")
    try:
        mistaken = RedfishSwitch(address(strange, ca_file=str(bmc.ca_file)))
        with pytest.raises(HostRejected, match="certificate"):
            await mistaken.power(strange.uuid, budget_seconds=SECONDS)
        await mistaken.close()
        assert strange.posts == []
        gone = RedfishSwitch(address(strange))
    finally:
        strange.close()
    with pytest.raises(HostUnreachable):
        await gone.power(strange.uuid, budget_seconds=SECONDS)
    await gone.close()
    with pytest.raises(HostRejected, match="password_file"):
        RedfishSwitch(HostAddress("redfish", "tls", "localhost", 1, username=ACCOUNT))
