"""The whole service in this process, wired as in production, on simulated hosts, with stubs for its services."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import grpc
from corral.v1 import (
    catalog_pb2_grpc,
    deploy_pb2,
    deploy_pb2_grpc,
    fleet_pb2,
    fleet_pb2_grpc,
    project_pb2_grpc,
    secret_pb2_grpc,
)

from service.config.file import parse
from service.drivers.simulated import SimulatedDriver
from service.planning.planner import InlinePlanner, Planner
from service.process import Process
from service.wiring import Service
from tests.support.schema import migrated

ZONE = "7a007a391d483c9f843bf1df4b7e5d8f"
ENTRY = "f1e135835fee363c9f57ed8232023886"
GIB = 1 << 30

FILE = f"""
[server]
grpc = "127.0.0.1:0"
http = "127.0.0.1:0"
[store]
url = "sqlite://"
[catalog]
image_directory = "images"
[[zones]]
uuid = "{ZONE}"
name = "zone-1"
[[images]]
name = "guest"
kernel = "kernel"
[[model_services]]
uuid = "{ENTRY}"
name = "default"
image = "guest"
stop_grace_ms = 200
"""

HOST = """
[[hosts]]
name = "{name}"
zone = "zone-1"
driver = "simulated"
transport = "test"
[hosts.options]
cpu = "{cpu}"
memory = "64GiB"
boot_ms = "10"
call_ms = "0"
migrate_ms = "{migrate_ms}"
live_migration = "{live}"
"""


def config_text(
    hosts: int = 2,
    *,
    cpu: int = 1,
    url: str = "sqlite://",
    extra: str = "",
    live: bool = True,
    migrate_ms: int = 20,
) -> str:
    """A configuration with hosts `host-1` … in one zone; each has `cpu` real CPUs, ten times as many virtual ones.

    `live`: members can be moved as they run.
    """
    options = {"cpu": cpu, "migrate_ms": migrate_ms, "live": "yes" if live else "no"}
    listed = "".join(HOST.format(name=f"host-{number}", **options) for number in range(1, hosts + 1))
    if "[identity]" not in extra:
        extra += '\n[identity]\nanonymous = "loopback"\n'
    return FILE.replace("sqlite://", url) + listed + extra


@dataclass
class Whole:
    """A running service, its HTTP address (`host:port`) and its stubs."""

    service: Service
    http_address: str
    deploy: Any
    fleet: Any
    catalog: Any
    projects: Any
    secrets: Any

    def uuid_of(self, name: str) -> str:
        """The uuid of the host with this name."""
        (found,) = [h.uuid for h in self.service.directory.hosts.values() if h.name == name]
        return found

    def driver(self, name: str) -> SimulatedDriver:
        """The driver of the host with this name."""
        driver = self.service.reconciler.monitors[self.uuid_of(name)].driver
        assert isinstance(driver, SimulatedDriver)
        return driver

    def machines(self, instance_uuid: str) -> list[tuple[str, str]]:
        """(host name, state) of every machine of the instance, on all hosts, whatever its attempt."""
        return [
            (monitor.host.name, machine.state.value)
            for monitor in self.service.reconciler.monitors.values()
            if isinstance(monitor.driver, SimulatedDriver)
            for machine in monitor.driver.host.machines.values()
            if machine.identity.instance == instance_uuid and machine.state.value != "tombstone"
        ]

    def machines_on(self, name: str) -> list[str]:
        """The states of all machines on the host; tombstones do not count."""
        states = [machine.state.value for machine in self.driver(name).host.machines.values()]
        return [state for state in states if state != "tombstone"]

    async def up(self, size: int = 1, **changes: Any) -> Any:
        """A running group of `size` members of 4 virtual CPUs; its inventory."""
        request = deploy_pb2.DeployDistributedModelServiceRequest(
            **{
                "model_services": [
                    {
                        "uuid": ENTRY,
                        "zone_uuid": ZONE,
                        "cpu_num": 4,
                        "memory_size": GIB,
                        "name": f"node-{rank}",
                        "type": "VirtualMachine",
                    }
                    for rank in range(size)
                ],
                "service_creation_strategy": "parallel",
                "name": "group",
                **changes,
            }
        )
        events = [answer.event async for answer in self.deploy.DeployDistributedModelService(request)]
        return events[-1].final

    async def get(self, group_uuid: str) -> Any:
        """The group as it stands."""
        request = deploy_pb2.GetInstanceGroupRequest(uuid=group_uuid)
        return (await self.deploy.GetInstanceGroup(request)).inventory

    async def host(self, name: str) -> fleet_pb2.Host:
        """The host's inventory."""
        answer = await self.fleet.GetHost(fleet_pb2.GetHostRequest(uuid=self.uuid_of(name)))
        inventory: fleet_pb2.Host = answer.inventory
        return inventory

    async def add_host(self, **changes: Any) -> fleet_pb2.Host:
        """Another simulated host, added at run time."""
        request = fleet_pb2.AddHostRequest(
            **{
                "name": "added",
                "zone_uuid": ZONE,
                "driver": "simulated",
                "connection": {"transport": "none"},
                **changes,
            }
        )
        inventory: fleet_pb2.Host = (await self.fleet.AddHost(request)).inventory
        return inventory


async def _hosts_were_asked(service: Service) -> None:
    """A start waits for hosts for 3 s, which may be too short on a busy machine: what it writes of them would come in
    the middle of a test."""
    async with asyncio.timeout(120):
        while not all(monitor.settled for monitor in service.reconciler.monitors.values()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@asynccontextmanager
async def whole(directory: Path, text: str | None = None, *, planner: Planner | None = None) -> AsyncIterator[Whole]:
    """Start the service with a configuration text that lies in `directory`, and end it."""
    with patch("service.wiring.upgrade", migrated):
        service = Service(parse(text or config_text(), directory), planner=planner or InlinePlanner())
    process = Process(service)
    await process.start()
    try:
        await _hosts_were_asked(service)
        async with grpc.aio.insecure_channel(str(service.rpc.address)) as channel:
            stub: Callable[..., Any] = deploy_pb2_grpc.DistributedModelServiceStub
            fleet: Callable[..., Any] = fleet_pb2_grpc.FleetServiceStub
            catalog: Callable[..., Any] = catalog_pb2_grpc.CatalogServiceStub
            projects: Callable[..., Any] = project_pb2_grpc.ProjectServiceStub
            secrets: Callable[..., Any] = secret_pb2_grpc.SecretServiceStub
            yield Whole(
                service,
                process.http_address,
                stub(channel),
                fleet(channel),
                catalog(channel),
                projects(channel),
                secrets(channel),
            )
    finally:
        await process.stop()
