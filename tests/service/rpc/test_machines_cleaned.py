"""Bare metal is cleaned by a BMC with the faults of bought ones: got over, or out of service with a reason."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from corral.v1 import deploy_pb2, fleet_pb2, project_pb2

from service.drivers.redfish import bmc as bmc_module
from service.reconcile import cleaning, leading, sweep
from tests.service.drivers.redfish.test_boot import image
from tests.service.rpc.lab import soon
from tests.service.rpc.test_bare_metal import node
from tests.service.rpc.test_machines import free_port, until_connected
from tests.support.bmc import ACCOUNT, Bmc
from tests.support.whole import Whole, config_text, whole

pytestmark = pytest.mark.asyncio

HOST = """
[[hosts]]
name = "metal"
zone = "zone-1"
driver = "redfish"
transport = "tls"
address = "localhost"
port = {port}
username = "{account}"
options = {{ ca_file = "{ca}", password_file = "{password}", seed_url = "http://127.0.0.1:{listener}", clean = "{clean}", clean_image = "metal" }}
"""  # noqa: E501
VENDORS = Path(__file__).parents[1] / "drivers/redfish/vendors"


@dataclass
class Site:
    lab: Whole
    bmc: Bmc

    async def cleaning(self) -> Any:
        request = fleet_pb2.GetHostRequest(uuid=self.lab.uuid_of("metal"))
        return (await self.lab.fleet.GetHost(request)).inventory.cleaning

    async def member(self) -> None:
        """One comes and goes."""
        group = await self.lab.up(model_services=[node("BareMetal", 8, 32)])
        assert group.status == "Running"
        async for _ in self.lab.deploy.DeleteInstanceGroup(deploy_pb2.DeleteInstanceGroupRequest(uuid=group.uuid)):
            pass

    async def is_open(self) -> bool:
        """Whether anybody may have it."""
        found = await self.cleaning()
        assert found.state != "Unclean", found.reason
        return (found.state, found.served_project) == ("", "")


@asynccontextmanager
async def site(directory: Path, monkeypatch: pytest.MonkeyPatch, clean: str = "metadata") -> AsyncIterator[Site]:
    """A machine that is not cleaned before GRACE_SECONDS is changed."""
    for module, name, seconds in (
        (bmc_module, "OFF_TWICE_SECONDS", 0.05),
        (bmc_module, "POLL_SECONDS", 0.05),
        (leading, "EVERY_SECONDS", 0.05),
        (cleaning, "AGAIN_SECONDS", 0.05),
        (cleaning, "GRACE_SECONDS", 1e9),
    ):
        monkeypatch.setattr(module, name, seconds)
    bmc, listener = Bmc(directory), free_port()
    bmc.guests = True
    image(directory / "metal.iso")
    entry = HOST.format(
        port=bmc.port, account=ACCOUNT, ca=bmc.ca_file, password=bmc.password_file, listener=listener, clean=clean
    )
    text = config_text(0, extra=entry).replace("[store]", f'machines = "127.0.0.1:{listener}"\n[store]')
    text = text.replace('name = "guest"\nkernel = "kernel"', 'name = "metal"\ndisk = "metal.iso"\ndelivery = "seed"')
    text = text.replace('image = "guest"', 'image = "metal"')
    try:
        async with whole(directory, text) as lab:
            await until_connected(lab)
            yield Site(lab, bmc)
    finally:
        bmc.close()


def some(**faults: int) -> Callable[[Bmc], None]:
    """These happen, so often. A space of a fault's name is an underscore here."""
    return lambda bmc: bmc.faults.update({name.replace("__", " "): often for name, often in faults.items()})


def quirk(name: str) -> Callable[[Bmc], None]:
    def set_it(bmc: Bmc) -> None:
        bmc.quirks = frozenset({name})

    return set_it


def knows_little(bmc: Bmc) -> None:
    bmc.inventory = {"MemorySummary": {}}
    bmc.restart()


def one_session(bmc: Bmc) -> None:
    bmc.sessions.clear()
    bmc.most_sessions = 1


GOT_OVER = {
    "the answer to On is lost": some(lose__Reset=1),
    "On is done, and 500 said": some(**{"500__Reset": 1}),
    "the answer to an insert is lost": some(lose__InsertMedia=1),
    "the answer to an eject is lost": some(lose__EjectMedia=1),
    "the answer to the override is lost": some(lose__PATCH=1),
    "one session, and that one lost": one_session,
    "the session is over": lambda bmc: bmc.restart(),
    "busy, and says when to come again": some(busy=3),
    "a task, and power that comes late": some(task__Reset=2, lag=2),
    "it does not tell its power": some(power_null=2),
    "it does not know its machine yet": knows_little,
    "versions are compared weakly": quirk("weak etags"),
    "for ever is told as once": quirk("once alone"),
    "an eject wants a body": quirk("no body"),
    "an insert wants the protocol": quirk("protocol"),
    "no second insert": quirk("SYS518"),
}


async def test_a_machine_is_cleaned_whatever_its_bmc_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One machine, one fault after the other."""
    async with site(tmp_path, monkeypatch) as there:
        bmc = there.bmc
        for name, happens in GOT_OVER.items():
            bmc.faults.clear()
            bmc.quirks, bmc.most_sessions = frozenset(), 8
            monkeypatch.setattr(cleaning, "GRACE_SECONDS", 1e9)
            await there.member()
            bmc.resets.clear()
            bmc.cleaned.clear()
            happens(bmc)
            monkeypatch.setattr(cleaning, "GRACE_SECONDS", 0.0)
            await soon(there.is_open)
            assert (bmc.cleaned, bmc.resets) == (["metadata"], ["On", "ForceOff"]), f"{name}: each order, and once"
            shown = (bmc.power, bmc.image, bmc.boot["BootSourceOverrideEnabled"])
            assert shown == ("Off", "", "Disabled"), name
        assert bmc.basic == 0


async def test_a_machine_of_each_make_is_cleaned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with site(tmp_path, monkeypatch, "erase") as there:
        bmc = there.bmc
        for path in sorted(VENDORS.glob("*.json")):
            told: dict[str, Any] = json.loads(path.read_text())
            monkeypatch.setattr(cleaning, "GRACE_SECONDS", 1e9)
            await there.member()
            bmc.changes, bmc.allowed, bmc.quirks = told["changes"], told["allowed"], frozenset(told.get("quirks", ()))
            bmc.faults.clear()
            bmc.faults.update(dict.fromkeys(told.get("faults", ()), 9))
            bmc.cleaned.clear()
            monkeypatch.setattr(cleaning, "GRACE_SECONDS", 0.0)
            await soon(there.is_open)
            assert (bmc.cleaned, bmc.power, bmc.image) == (["erase"], "Off", ""), path.stem


async def test_a_bmc_that_refuses_its_account_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with site(tmp_path, monkeypatch) as there:
        await there.member()
        there.bmc.faults["locked account"] = 1
        there.bmc.sessions.clear()
        monkeypatch.setattr(cleaning, "GRACE_SECONDS", 0.0)

        async def refused() -> bool:
            request = fleet_pb2.GetHostRequest(uuid=there.lab.uuid_of("metal"))
            return "refuses its account" in (await there.lab.fleet.GetHost(request)).inventory.reason

        await soon(refused)
        assert (await there.cleaning()).state in ("", "Cleaning"), "that says nothing of the machine"
        there.bmc.faults["locked account"] = 0
        await soon(there.is_open)


NOT_BOOTED = {
    "stopped 3 times before it had said": some(falls__back=9),
    "did not take what the machine is to boot from": some(insert_ignored=1),
    "does not have the machine start from its drive": some(override_ignored=1),
}


async def test_a_machine_that_did_not_boot_what_cleans_it_is_out_of_service_until_it_is_cleaned_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site(tmp_path, monkeypatch) as there:
        for reason, happens in NOT_BOOTED.items():
            monkeypatch.setattr(cleaning, "GRACE_SECONDS", 1e9)
            await there.member()
            there.bmc.cleaned.clear()
            happens(there.bmc)
            monkeypatch.setattr(cleaning, "GRACE_SECONDS", 0.0)

            async def unclean() -> bool:
                return bool((await there.cleaning()).state == "Unclean")

            await soon(unclean)
            assert reason in (await there.cleaning()).reason
            assert there.bmc.cleaned == []
            there.bmc.faults.clear()
            await there.lab.fleet.CleanHost(fleet_pb2.CleanHostRequest(uuid=there.lab.uuid_of("metal")))
            await soon(there.is_open)
            assert there.bmc.cleaned == ["metadata"]


@pytest.mark.parametrize("often", [1, 2])
async def test_a_machine_that_stops_in_the_middle_of_its_cleaning_boots_again_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, often: int
) -> None:
    async with site(tmp_path, monkeypatch) as there:
        await there.member()
        there.bmc.resets.clear()
        there.bmc.faults["falls back"] = often
        monkeypatch.setattr(cleaning, "GRACE_SECONDS", 0.0)
        await soon(there.is_open)
        assert there.bmc.resets == ["On"] * (often + 1) + ["ForceOff"]
        assert (there.bmc.cleaned, there.bmc.power, there.bmc.image) == (["metadata"], "Off", "")


async def test_an_order_that_takes_effect_after_its_group_was_deleted_is_ended_and_its_machine_cleaned_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("EVERY_SECONDS", 0.2), ("GRACE_SECONDS", 0.0), ("TOMBSTONE_SECONDS", 0.0)):
        monkeypatch.setattr(sweep, name, seconds)
    async with site(tmp_path, monkeypatch) as there:
        bmc = there.bmc
        bmc.faults.update({"hold On": 1, "lose Reset": 1})
        await there.member()  # its second attempt runs
        monkeypatch.setattr(cleaning, "GRACE_SECONDS", 0.0)
        await soon(there.is_open, 60)
        assert bmc.cleaned == ["metadata"]
        removals = len(await _audited(there, "RemoveUnwantedMachine"))
        monkeypatch.setattr(cleaning, "GRACE_SECONDS", 1e9)
        bmc.late()

        async def ended() -> bool:
            return bmc.power == "Off" and (await there.cleaning()).served_project == "default"

        await soon(ended, 60)
        assert len(await _audited(there, "RemoveUnwantedMachine")) == removals + 1
        assert bmc.cleaned == ["metadata"]
        monkeypatch.setattr(cleaning, "GRACE_SECONDS", 0.0)
        await soon(there.is_open, 60)
        assert bmc.cleaned == ["metadata", "metadata"], "its own disk may have brought back what was there"
        await there.member()


async def _audited(there: Site, method: str) -> list[str]:
    found = await there.lab.projects.ListAuditEvents(project_pb2.ListAuditEventsRequest(page_size=1000))
    return [one.subject for one in found.inventories if one.method == method]
