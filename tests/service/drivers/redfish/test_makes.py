"""BMCs of several makes, as small documents of what each tells and refuses otherwise: a machine lives by all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from service.drivers.base import MachineState
from tests.service.drivers.redfish.test_boot import booted
from tests.service.drivers.redfish.test_redfish import SECONDS, Lab, lab

__all__ = ["lab"]

pytestmark = pytest.mark.asyncio

MAKES = {path.stem: json.loads(path.read_text()) for path in (Path(__file__).parent / "vendors").glob("*.json")}


@pytest.mark.parametrize("make", sorted(MAKES))
async def test_a_machine_of_this_make_is_given_out_and_given_back(lab: Lab, tmp_path: Path, make: str) -> None:
    told: dict[str, Any] = MAKES[make]
    bmc = lab.bmc
    bmc.changes, bmc.allowed, bmc.quirks = told["changes"], told["allowed"], frozenset(told.get("quirks", ()))
    for fault in told.get("faults", ()):
        bmc.faults[fault] = 9
    facts = await lab.driver.probe(budget_seconds=SECONDS)
    assert facts.total["vcpu"] == 16
    one, two = booted(tmp_path / "one.iso"), booted(tmp_path / "two.iso")
    assert await lab.create(one) is MachineState.PAUSED
    assert bmc.boot["BootSourceOverrideTarget"] == told["boots_from"]
    assert await lab.resume(one) is MachineState.RUNNING
    await lab.driver.power_off(one.identity, budget_seconds=SECONDS)
    assert await lab.create(two) is MachineState.PAUSED  # with what it had before still in its drive
    await lab.driver.remove(two.identity, budget_seconds=SECONDS)
    assert (bmc.power, bmc.image, bmc.resets) == ("Off", "", ["On", "ForceOff"])
    assert bmc.boot["BootSourceOverrideEnabled"] == "Disabled"
