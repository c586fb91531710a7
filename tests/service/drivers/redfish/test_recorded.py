"""What BMCs have answered, as sushy has recorded it: inventories are read, and refusals are got over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sushy

from service.drivers.base import MachineState
from tests.service.drivers.redfish.test_redfish import SECONDS, Lab, lab, spec
from tests.support.bmc import DRIVE, GIB, SYSTEM

__all__ = ["lab"]

pytestmark = pytest.mark.asyncio

RECORDED = Path(sushy.__file__).parent / "tests/unit/json_samples"
OWN = frozenset(
    {"@odata.id", "Actions", "Links", "PowerState", "Processors", "EthernetInterfaces", "SecureBoot", "Boot"}
)
"""What leads to other resources, and what a machine's life changes: that is the BMC's of the test."""


def recorded(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RECORDED / name).read_text())
    return found


def facts_of(name: str) -> dict[str, Any]:
    return {key: value for key, value in recorded(name).items() if key not in OWN}


@pytest.mark.parametrize("system", ["system.json", "systemv1_20.json"])
async def test_an_inventory_that_a_bmc_has_told_is_read(lab: Lab, system: str) -> None:
    """The first one tells two sockets, and how many threads in the documents of the sockets alone."""
    bmc = lab.bmc
    bmc.inventory = {}
    bmc.changes = {
        SYSTEM: facts_of(system),
        f"{SYSTEM}/Processors/CPU1": facts_of("processor.json"),
        f"{SYSTEM}/Processors/GPU1": facts_of("processor2.json"),
        f"{SYSTEM}/EthernetInterfaces/1": facts_of("ethernet_interfaces.json"),
        f"{SYSTEM}/SecureBoot": facts_of("secure_boot.json"),
    }
    facts = await lab.driver.probe(budget_seconds=SECONDS)
    threads = recorded("processor.json")["TotalThreads"]
    told = recorded(system)
    assert facts.total == {
        "vcpu": told["ProcessorSummary"].get("LogicalProcessorCount", threads),
        "memory": told["MemorySummary"]["TotalSystemMemoryGiB"] * GIB,
    }
    assert (facts.hypervisor, facts.firmware, facts.secure_boot) == (told["UUID"], "UEFI", "off")
    assert facts.hostname == "Contoso 3500"


@pytest.mark.parametrize(
    ("refusal", "parameter"),
    [
        ("transfer_proto_required_error.json", "TransferProtocolType"),
        ("transfer_proto_required_error2.json", "TransferProtocolType"),
        ("transfer_proto_required_error3.json", "TransferProtocolType"),
        ("transfer_proto_required_error4.json", "TransferProtocolType"),
        ("transfer_method_required_error.json", "TransferMethod"),
        ("credentials_required_error.json", "UserName"),
    ],
)
async def test_an_insert_says_what_a_bmc_has_wanted(lab: Lab, refusal: str, parameter: str) -> None:
    one = spec()
    lab.bmc.changes = {DRIVE: {"MediaTypes": recorded("virtual_mediav1_6.json")["MediaTypes"]}}
    lab.bmc.wanted = {parameter: recorded(refusal)}
    assert await lab.create(one) is MachineState.PAUSED
    assert await lab.resume(one) is MachineState.RUNNING
    await lab.driver.remove(one.identity, budget_seconds=SECONDS)
    assert (lab.bmc.power, lab.bmc.image, lab.bmc.resets) == ("Off", "", ["On", "ForceOff"])
