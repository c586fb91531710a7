"""Bare metal by its BMC through the whole service: registered, placed with virtual machines, booted, reported, gone."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from corral.v1 import deploy_pb2, fleet_pb2

from service.app.seats import StoredSeats
from service.domain.seats import Seed, token_in
from service.drivers.base import HostFacts
from service.drivers.redfish import bmc as bmc_module
from service.drivers.redfish import driver as driver_module
from service.drivers.redfish.driver import RedfishDriver
from service.errors import Unavailable
from tests.service.rpc.lab import soon
from tests.service.rpc.test_bare_metal import node
from tests.support.bmc import ACCOUNT, GIB, Bmc, fetch, report
from tests.support.ports import own_port
from tests.support.seeds import documents
from tests.support.whole import Whole, config_text, whole

pytestmark = pytest.mark.asyncio

HOST = """
[[hosts]]
name = "{name}"
zone = "zone-1"
driver = "redfish"
transport = "tls"
address = "localhost"
port = {port}
username = "{account}"
options = {{ ca_file = "{ca}", password_file = "{password}", seed_url = "http://127.0.0.1:{listener}", clean = "none" }}
"""


def free_port() -> int:
    """A port of loopback for a listener that starts later."""
    return own_port()


def host(bmc: Bmc, name: str, listener: int) -> str:
    return HOST.format(
        name=name, port=bmc.port, account=ACCOUNT, ca=bmc.ca_file, password=bmc.password_file, listener=listener
    )


async def until_connected(lab: Whole) -> None:
    """Each change of the fleet is one more look; the first is at once."""
    async with asyncio.timeout(60):
        async for _ in lab.fleet.WatchFleet(fleet_pb2.WatchFleetRequest()):
            if (await lab.host("metal")).status == "Connected":
                return


async def test_a_mixed_gang_boots_by_bmc_and_leaves_its_machine_off_and_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bmc_module, "OFF_TWICE_SECONDS", 0.05)
    monkeypatch.setattr(bmc_module, "POLL_SECONDS", 0.05)
    bmc, listener = Bmc(tmp_path), free_port()
    bmc.guests = True
    text = config_text(1, cpu=8, extra=host(bmc, "metal", listener))
    text = text.replace('kernel = "kernel"', 'kernel = "kernel"\ndelivery = "nocloud"')
    url = f"http://127.0.0.1:{listener}/machines/report"
    text = text.replace("[store]", f'machines = "127.0.0.1:{listener}"\n[store]')
    try:
        async with whole(tmp_path, text) as lab:
            assert await asyncio.to_thread(report, url, "no-machines", {"stage": "ready"}) == 410
            await until_connected(lab)
            metal = await lab.host("metal")
            assert (metal.type, metal.driver, metal.status) == ("BareMetal", "redfish", "Connected")
            assert (metal.firmware, metal.secure_boot) == ("UEFI", "off")
            async with httpx.AsyncClient(base_url=f"http://{lab.http_address}") as page:
                shown = (await page.get(f"/corral/v1/hosts/{metal.uuid}")).json()["inventory"]
            assert (shown["firmware"], shown["secureBoot"]) == ("UEFI", "off")
            assert {c.resource: c.total for c in metal.capacities} == {
                "vcpu": 16, "memory": 64 * GIB, "gpu.A100-80GB": 1,
            }  # fmt: skip
            nonces = [{"NONCE": secrets.token_hex(16)} for _ in range(2)]
            virtual = node("VirtualMachine", 1, 1, environment_variables=nonces[0])
            group = await lab.up(
                model_services=[virtual, node("BareMetal", 8, 32, environment_variables=nonces[1], name="metal-node")]
            )
            assert [i.host_name for i in group.instances] == ["host-1", "metal"]
            _it_has_read_what_its_member_was_told(bmc, group, nonces[1]["NONCE"], other=nonces[0]["NONCE"])
            assert [i.status for i in group.instances] == ["Running", "Running"]
            await soon(lambda: _reported(bmc), 60)
            assert bmc.posts == ["On"]
            seed = bmc.image
            parts = await asyncio.to_thread(fetch, seed)
            assert parts[0x8001:0x8006] == b"CD001"
            delete = deploy_pb2.DeleteInstanceGroupRequest(uuid=group.uuid)
            async for _ in lab.deploy.DeleteInstanceGroup(delete):
                pass
            assert (bmc.power, bmc.image, bmc.resets) == ("Off", "", ["On", "ForceOff"])
            assert {c.claimed for c in (await lab.host("metal")).capacities} == {0}
            token = seed.rsplit("/", 1)[-1].removesuffix(".iso")
            assert await asyncio.to_thread(report, url, token, {"stage": "ready"}) == 410
        assert bmc.sessions == set()
    finally:
        bmc.close()


def _it_has_read_what_its_member_was_told(bmc: Bmc, group: Any, nonce: str, *, other: str) -> None:
    """What booted there had this very member's documents: of this deploy, this attempt and nobody else."""
    (read,) = bmc.read
    lines, machine, told = read["env"].splitlines(), json.loads(read["machine"]), json.loads(read["rendezvous"])
    assert f"NONCE={nonce}" in lines
    assert not [text for text in read.values() if other in text]
    assert (machine["instance"], machine["attempt"]) == (group.instances[1].uuid, 1)
    assert (told["group"]["uuid"], told["node"]["name"]) == (group.uuid, "metal-node")
    assert "CORRAL_NODE_RANK=1" in lines


@asynccontextmanager
async def one_machine(tmp_path: Path, bmc: Bmc) -> AsyncIterator[Whole]:
    """A service with this machine alone, which boots from its own disk."""
    listener = free_port()
    text = config_text(0, extra=host(bmc, "metal", listener))
    text = text.replace('kernel = "kernel"', 'kernel = "kernel"\ndelivery = "nocloud"')
    text = text.replace("[store]", f'machines = "127.0.0.1:{listener}"\n[store]')
    async with whole(tmp_path, text) as lab:
        await until_connected(lab)
        yield lab


@pytest.fixture
def bmc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bmc]:
    monkeypatch.setattr(bmc_module, "OFF_TWICE_SECONDS", 0.05)
    monkeypatch.setattr(bmc_module, "POLL_SECONDS", 0.05)
    made = Bmc(tmp_path)
    made.guests = True
    yield made
    made.close()


@pytest.mark.parametrize("given_up", [True, False], ids=["410", "503"])
async def test_a_machine_whose_seed_is_not_served_stays_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bmc: Bmc, given_up: bool
) -> None:
    """Its BMC reads the image when it is told of it, and refuses one that is not there: nothing of it ever runs."""
    bmc.quirks = frozenset({"reads the image"})
    served, trouble = StoredSeats.seed, [True]

    async def seed(seats: StoredSeats, token: str) -> Seed | None:
        if trouble and given_up:
            return None
        if trouble:
            raise Unavailable("the database is away")
        return await served(seats, token)

    monkeypatch.setattr(StoredSeats, "seed", seed)
    async with one_machine(tmp_path, bmc) as lab:
        deploying = asyncio.create_task(lab.up(model_services=[node("BareMetal", 8, 32)]))
        await soon(lambda: _refused(bmc, 410 if given_up else 503))
        assert (bmc.power, bmc.image, bmc.posts, bmc.reports) == ("Off", "", [], [])
        trouble.clear()
        group = await deploying
        assert group.status == "Running"
        assert bmc.posts == ["On"]
        await soon(lambda: _reported(bmc), 60)


async def _reported(bmc: Bmc) -> bool:
    """The guest notes an answer once it has it: the group may run by then."""
    return bmc.reports == [("booting", 204), ("ready", 204)]


async def _refused(bmc: Bmc, code: int) -> bool:
    return code in bmc.unread


async def test_a_deploy_and_a_rest_cost_a_bmc_few_requests_however_long_they_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bmc: Bmc
) -> None:
    """Beside two requests for each probe. Who looks at the group while it boots, and at rest, asks the BMC nothing."""
    monkeypatch.setattr(driver_module, "KNOWN_SECONDS", 3600.0)
    probes: list[object] = []
    probe = RedfishDriver.probe

    async def counted(driver: RedfishDriver, *, budget_seconds: float) -> HostFacts:
        probes.append(driver)
        return await probe(driver, budget_seconds=budget_seconds)

    monkeypatch.setattr(RedfishDriver, "probe", counted)
    bmc.guests = False
    async with one_machine(tmp_path, bmc) as lab:
        before, probed = bmc.requests, len(probes)
        deploying = asyncio.create_task(lab.up(model_services=[node("BareMetal", 8, 32)]))
        await soon(lambda: _posted(bmc, "On"), 60)
        token = token_in(bmc.image)
        url = json.loads(documents(await asyncio.to_thread(fetch, bmc.image))["machine"])["report_url"]

        async def say(stage: str, times: int) -> None:
            for count in range(times):
                said = {"stage": stage, "boot_id": "first", "count": count + 1}
                assert await asyncio.to_thread(report, url, token, said) == 204

        await say("booting", 40)
        await say("ready", 1)
        group = await deploying
        assert group.status == "Running"
        await say("ready", 40)
        looks = 2 * (len(probes) - probed + 1)  # one may be under way
        assert bmc.requests - before - looks <= 24


async def _posted(bmc: Bmc, how: str) -> bool:
    return how in bmc.posts


async def test_one_that_switches_itself_off_runs_again_as_often_as_its_budget_says(tmp_path: Path, bmc: Bmc) -> None:
    async with one_machine(tmp_path, bmc) as lab:
        policy = {"action": "FAILURE_ACTION_RESTART_MEMBER", "budget": 1}
        group = await lab.up(model_services=[node("BareMetal", 8, 32)], failure_policy=policy)
        assert (group.status, bmc.resets) == ("Running", ["On"])

        async def running_after(count: int) -> bool:
            get = deploy_pb2.GetInstanceGroupRequest(uuid=group.uuid)
            status = (await lab.deploy.GetInstanceGroup(get)).inventory.status
            return bmc.resets.count("On") == count and status == "Running"

        bmc.power = "Off"  # its guest has done so
        await soon(lambda: running_after(2), 60)
        bmc.power = "Off"

        async def failed() -> bool:
            get = deploy_pb2.GetInstanceGroupRequest(uuid=group.uuid)
            return bool((await lab.deploy.GetInstanceGroup(get)).inventory.status == "Failed")

        await soon(failed, 60)
        assert bmc.resets.count("On") == 2, "its budget was one"
        assert bmc.power == "Off"


async def test_a_silent_bmc_leaves_its_member_unknown_with_its_claim_and_holds_up_nobody(
    tmp_path: Path, bmc: Bmc
) -> None:
    listener = free_port()
    text = config_text(1, cpu=8, extra=host(bmc, "metal", listener))
    text = text.replace('kernel = "kernel"', 'kernel = "kernel"\ndelivery = "nocloud"')
    text = text.replace("[store]", f'machines = "127.0.0.1:{listener}"\n[store]')
    async with whole(tmp_path, text) as lab:
        await until_connected(lab)
        group = await lab.up(model_services=[node("BareMetal", 8, 32)])

        async def member() -> str:
            get = deploy_pb2.GetInstanceGroupRequest(uuid=group.uuid)
            (one,) = (await lab.deploy.GetInstanceGroup(get)).inventory.instances
            return str(one.status)

        async def member_is(status: str) -> bool:
            return await member() == status

        bmc.faults["silent"] = 1
        await soon(lambda: member_is("Unknown"), 120)
        assert (await lab.host("metal")).status == "Disconnected"
        assert {c.claimed for c in (await lab.host("metal")).capacities} == {16, 64 * GIB, 1}
        other = await lab.up(model_services=[node("VirtualMachine", 1, 1)], name="other")
        assert other.status == "Running"
        assert bmc.power == "On"
        assert bmc.resets == ["On"], "silence is no reason to do anything"
        bmc.faults["silent"] = 0
        await soon(lambda: member_is("Running"), 120)
        assert bmc.resets == ["On"]
