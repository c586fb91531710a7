"""Bare metal by its BMC through the whole service: registered, placed with virtual machines, booted, reported, gone."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import httpx
import pytest
from corral.v1 import deploy_pb2, fleet_pb2

from service.drivers.redfish import bmc as bmc_module
from tests.service.rpc.test_bare_metal import node
from tests.support.bmc import ACCOUNT, GIB, Bmc, fetch, report
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
options = {{ ca_file = "{ca}", password_file = "{password}", seed_url = "http://127.0.0.1:{listener}" }}
"""


def free_port() -> int:
    """A port of loopback that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
            group = await lab.up(model_services=[node("VirtualMachine", 1, 1), node("BareMetal", 8, 32)])
            assert [i.host_name for i in group.instances] == ["host-1", "metal"]
            assert [i.status for i in group.instances] == ["Running", "Running"]
            assert bmc.reports == [("booting", 204), ("ready", 204)]
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
