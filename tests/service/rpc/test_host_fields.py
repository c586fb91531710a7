"""Hosts of run time have what hosts of the configuration file have, but for what names files of the service."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from corral.v1 import fleet_pb2
from google.protobuf.descriptor import Descriptor

from service.config.schema import HostSection
from service.contract.convert.fleet import new_host
from service.domain.fleet import HostState
from service.drivers.kinds import KINDS
from service.drivers.libvirt.addressing import Options, connection_uri, options_of
from service.drivers.simulated import SimulationOptions
from service.store import fleet
from tests.support.whole import GIB, ZONE, config_text, whole

# Keys of [[hosts]] -> fields of AddHostRequest.
COUNTERPARTS = {
    "name": "name",
    "uuid": "resource_uuid",
    "zone": "zone_uuid",
    "driver": "driver",
    "transport": "connection.transport",
    "address": "connection.address",
    "port": "connection.port",
    "socket": "connection.socket",
    "username": "connection.username",
    "options": "connection.options",
    "capacity": "capacity",
    "overcommit": "resource_policies",
    "bridge": "bridge",
    "labels": "labels",
    "rack": "rack",
    "cluster_uuid": "cluster_uuid",
    "state": "state",
    "bmc": "bmc",
}
OF_THE_FILE = {"partitions"}
"""What is said of a fleet's devices, there and in [[devices]], the configuration file alone says."""
NAMED = {"huge_page": "huge_pages"}
"""Field of the driver's options -> the option, which is a size in words where the field has its bytes."""


def test_every_key_of_a_configured_host_has_its_field() -> None:
    assert set(COUNTERPARTS) | OF_THE_FILE == set(HostSection.model_fields)
    assert not OF_THE_FILE & {*COUNTERPARTS, *fleet_pb2.AddHostRequest.DESCRIPTOR.fields_by_name}
    for path in COUNTERPARTS.values():
        message: Descriptor | None = fleet_pb2.AddHostRequest.DESCRIPTOR
        for name in path.split("."):
            assert message is not None
            assert name in message.fields_by_name, path
            message = message.fields_by_name[name].message_type


def test_every_option_of_a_driver_can_be_set_unless_it_names_a_file_here() -> None:
    fields = {field.name for field in dataclasses.fields(Options)}
    assert KINDS["libvirt"].options == {NAMED.get(name, name) for name in fields} - {"ssh_key"}
    given = dict.fromkeys(KINDS["simulated"].options, "3") | {
        "gpu.a100": "2",
        "live_migration": "no",
        "numa": "2",
        "bare_metal": "no",
        "clean": "none",
        "dedicated_cpus": "true",
        "huge_pages": "2MiB",
    }
    read = SimulationOptions.read(given)
    of_cells = {"cell.0.vcpu": 2, "cell.0.memory": 2, "cell.1.vcpu": 1, "cell.1.memory": 1}
    assert read.total == {"vcpu": 3, "memory": 3, "gpu.a100": 2, **of_cells}
    assert {field.name for field in dataclasses.fields(SimulationOptions)} == {
        *("total", "foreign", "boot_ms", "call_ms", "migrate_ms", "live_migration", "bare_metal", "busy"),
        "state_file",  # names a file
    }


def test_a_libvirt_host_is_reached_by_the_socket_and_used_by_the_options_that_were_given() -> None:
    request = fleet_pb2.AddHostRequest(
        name="h",
        zone_uuid=ZONE,
        driver="libvirt",
        connection=fleet_pb2.HostConnection(
            transport="unix",
            socket="/run/lab/libvirt-sock",
            options={"pool": "fast", "pool_path": "/srv/fast", "virt_type": "qemu"},
        ),
    )
    address = new_host(request).host.address
    assert connection_uri(address) == "qemu+unix:///system?socket=/run/lab/libvirt-sock"
    assert options_of(address) == Options(pool="fast", pool_path="/srv/fast", virt_type="qemu")


@pytest.mark.asyncio
async def test_a_host_of_run_time_is_as_its_fields_say(tmp_path: Path) -> None:
    attached = 'name = "zone-1"\nnetwork = { kind = "bridge", source = "br0" }\n'
    async with whole(tmp_path, config_text().replace('name = "zone-1"\n', attached, 1)) as lab:
        options = {"cpu": "8", "memory": "32GiB", "gpu.a100": "2", "boot_ms": "1", "numa": "2"}
        host = await lab.add_host(
            connection={"transport": "none", "options": options},
            capacity={"vcpu": 4},
            bridge="br7",
            state="Disabled",
        )
        total = {one.resource: one.total for one in host.capacities}
        assert total == {"vcpu": 4, "memory": 32 * GIB, "gpu.a100": 2}
        cells = [{one.resource: one.total for one in cell.capacities} for cell in host.numa_cells]
        assert cells == [{"vcpu": 2, "memory": 16 * GIB}] * 2, "a cell keeps its share of what the operator says"
        assert host.state == "Disabled"
        stored = await lab.service.store.read(lambda c: fleet.host(c, host.uuid))
        assert (stored.bridge, stored.state, dict(stored.capacity_override)) == ("br7", HostState.DISABLED, {"vcpu": 4})
        assert stored.address.options == options
