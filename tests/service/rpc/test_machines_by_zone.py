"""Where bare metal finds the service is said by its zone, in the file and by calls, or by a machine's own options."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from corral.v1 import deploy_pb2, fleet_pb2

from service.config.file import ConfigError, parse
from service.drivers.redfish import bmc as bmc_module
from tests.service.cli.test_on_a_service import corral
from tests.service.rpc.lab import refused
from tests.service.rpc.test_bare_metal import node
from tests.service.rpc.test_machines import free_port, until_connected
from tests.support.bmc import ACCOUNT, Bmc, fetch
from tests.support.seeds import document
from tests.support.whole import ZONE, Whole, config_text, whole

pytestmark = pytest.mark.asyncio

INVALID, WRONG = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION
HOST = """
[[hosts]]
name = "metal"
zone = "zone-1"
driver = "redfish"
transport = "tls"
address = "localhost"
port = {port}
username = "{account}"
options = {{ ca_file = "{ca}", password_file = "{password}", clean = "none"{own} }}
"""


@dataclass
class Site:
    lab: Whole
    bmc: Bmc
    port: int

    async def zone(self, **fields: Any) -> Any:
        return (await self.lab.fleet.UpdateZone(fleet_pb2.UpdateZoneRequest(uuid=ZONE, **fields))).inventory

    async def used(self) -> tuple[str, str]:
        """By which addresses a member's machine is told to boot and to report."""
        group = await self.lab.up(model_services=[node("BareMetal", 8, 32)])
        image = self.bmc.image
        told = json.loads(document(await asyncio.to_thread(fetch, image), "machine"))
        async for _ in self.lab.deploy.DeleteInstanceGroup(deploy_pb2.DeleteInstanceGroupRequest(uuid=group.uuid)):
            pass
        return image.partition("/machines/")[0], told["report_url"].partition("/machines/")[0]


def text(bmc: Bmc, port: int, zone: str, own: str = "") -> str:
    entry = HOST.format(port=bmc.port, account=ACCOUNT, ca=bmc.ca_file, password=bmc.password_file, own=own)
    said = config_text(0, extra=entry).replace('name = "zone-1"\n', f'name = "zone-1"\n{zone}', 1)
    said = said.replace('kernel = "kernel"', 'kernel = "kernel"\ndelivery = "nocloud"')
    return said.replace("[store]", f'machines = "127.0.0.1:{port}"\n[store]')


@asynccontextmanager
async def site(directory: Path, monkeypatch: pytest.MonkeyPatch, own: str = "") -> AsyncIterator[Site]:
    monkeypatch.setattr(bmc_module, "OFF_TWICE_SECONDS", 0.05)
    monkeypatch.setattr(bmc_module, "POLL_SECONDS", 0.05)
    bmc, port = Bmc(directory), free_port()
    bmc.guests = True
    zone = f'seed_url = "http://127.0.0.1:{port}"\nreport_url = "http://localhost:{port}/"\n'
    try:
        async with whole(directory, text(bmc, port, zone, own.format(port=port))) as lab:
            await until_connected(lab)
            yield Site(lab, bmc, port)
    finally:
        bmc.close()


async def test_machines_boot_and_report_by_the_addresses_of_their_zone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site(tmp_path, monkeypatch) as there:
        one, other = f"http://127.0.0.1:{there.port}", f"http://localhost:{there.port}"
        (zone,) = (await there.lab.fleet.ListZones(fleet_pb2.ListZonesRequest())).inventories
        assert (zone.seed_url, zone.report_url) == (one, f"{other}/")
        assert await there.used() == (one, other)
        assert (await there.zone(seed_url=other, description="moved")).seed_url == other
        assert await there.used() == (other, other), "from the next machine on"
        told = await there.zone(update_mask={"paths": ["report_url"]}, seed_url="http://ignored")
        assert (told.seed_url, told.report_url) == (other, "")
        assert (await corral(there.lab, "zones", "set", "zone-1", "--seed-url", one))[0] == 0
        assert await there.used() == (one, one), "machines as BMCs, where nothing else is said"
        code, said, _ = await corral(there.lab, "zones")
        assert (code, f"at {one}, their machines at {one}" in said) == (0, True)


async def test_a_machines_own_options_come_before_its_zones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with site(tmp_path, monkeypatch, ', seed_url = "http://localhost:{port}"') as there:
        one, other = f"http://127.0.0.1:{there.port}", f"http://localhost:{there.port}"
        assert await there.used() == (other, other)
        await there.zone(report_url=one)
        assert await there.used() == (other, one)
        await there.zone(update_mask={"paths": ["seed_url"]})


async def test_addresses_that_are_none_and_the_loss_of_one_that_is_needed_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site(tmp_path, monkeypatch) as there:
        stub = there.lab.fleet
        zone: dict[str, Any]
        for name in ("seed_url", "report_url"):
            for wrong in (
                "10.0.0.1:8081",
                "ftp://10.0.0.1",
                "http://",
                "http://a/?b",
                "http://u:p@a",
                "http://a:99999",
            ):
                await refused(there.zone(**{name: wrong}), INVALID, "INVALID_ARGUMENT")
            zone = {"name": "n", name: "x"}
            await refused(stub.CreateZone(fleet_pb2.CreateZoneRequest(**zone)), INVALID, "INVALID_ARGUMENT")
        await refused(there.zone(update_mask={"paths": ["seed_url"]}), WRONG, "WRONG_STATE")
        made = (await stub.CreateZone(fleet_pb2.CreateZoneRequest(name="n", seed_url="http://10.0.0.1:8081"))).inventory
        assert made.seed_url == "http://10.0.0.1:8081"
        change = fleet_pb2.UpdateZoneRequest(uuid=made.uuid)
        change.update_mask.paths.append("seed_url")
        assert not (await stub.UpdateZone(change)).inventory.seed_url, "nobody needs it there"


async def test_a_file_says_where_its_machines_find_the_service(tmp_path: Path) -> None:
    bmc = Bmc(tmp_path)
    try:
        for zone, own, words in (
            ("", "", "must name seed_url"),
            ('seed_url = "here"\n', "", "must be an address"),
            ('seed_url = "http://a:1"\nreport_url = "here"\n', "", "must be an address"),
            ("", ', seed_url = "here"', "is not an address"),
        ):
            with pytest.raises(ConfigError, match=words):
                parse(text(bmc, 1, zone, own), tmp_path)
        assert parse(text(bmc, 1, 'seed_url = "http://a:1"\n'), tmp_path).zones[0].seed_url == "http://a:1"
    finally:
        bmc.close()
