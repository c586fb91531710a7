"""What the configuration file and the API refuse is the same, by the same key or field and in the same words.

Each row is one bad input, told by both ways. A rule that one way keeps and the other does not fails here.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import pytest
from corral.v1 import catalog_pb2, deploy_pb2, fleet_pb2
from google.rpc import error_details_pb2

from service.config.file import ConfigError, load, parse
from service.process import Process
from service.wiring import Service, StartError
from tests.service.rpc.lab import detail, status_of
from tests.support.whole import ENTRY, GIB, ZONE, config_text, whole

LAN = {"kind": "bridge", "source": "br0", "subnet": "10.8.0.0/24", "gateway": "10.8.0.1"}
LOCAL = {"driver": "libvirt", "transport": "unix"}
TCP = {"driver": "libvirt", "transport": "tcp", "address": "hv1.test"}

BAD_HOSTS: list[tuple[dict[str, Any], str, str]] = [
    ({"driver": "vmware", "transport": "unix"}, "driver", "must be one of libvirt, redfish, simulated"),
    ({**TCP, "address": ""}, "address", "is required for tcp"),
    ({"driver": "libvirt", "transport": "unix", "address": "hv1"}, "address", "must be empty for unix"),
    ({"driver": "libvirt", "transport": "unix", "port": 7}, "port", "must be 0 for unix"),
    ({**TCP, "username": "root"}, "username", "must be empty for tcp"),
    ({**TCP, "transport": "ssh", "username": "a b"}, "username", ""),
    ({**TCP, "socket": "/run/x"}, "socket", "must be empty for tcp"),
    ({"driver": "libvirt", "transport": "unix", "socket": "/x?command=id"}, "socket", "must be an absolute path of"),
    ({**TCP, "options": {"pool": "a/b"}}, "options", "must be right for libvirt: host address: pool: malformed"),
    ({"driver": "simulated", "transport": "none", "options": {"cpu": "many"}}, "options", "'cpu' is not an amount"),
    ({**TCP, "capacity": {"cpu": 4}}, "capacity[cpu]", "gpu.<model>; did you mean vcpu?"),
    ({**TCP, "capacity": {"memroy": 4}}, "capacity[memroy]", "gpu.<model>; did you mean memory?"),
    ({**TCP, "capacity": {"disk": 4}}, "capacity[disk]", "must be one of vcpu, memory, gpu.<model>"),
    (
        {**TCP, "capacity": {"gpu.a100": 4}},
        "capacity[gpu.a100]",
        "must not be given for libvirt, whose devices are found",
    ),
    ({**LOCAL, "bridge": "br7"}, "bridge", "must be empty in a zone whose network is of kind none"),
]

BAD_NETWORKS: list[tuple[dict[str, Any], str, str]] = [
    ({"kind": "bridge"}, "source", "must be the name of a bridge"),
    ({"kind": "user", "source": "br0"}, "source", "must be empty for kind user"),
    ({"kind": "none", "subnet": "10.8.0.0/24"}, "subnet", "must be empty for kind none"),
    ({"kind": "bridge", "source": "br0", "gateway": "10.8.0.1"}, "gateway", "must be empty where there is no subnet"),
    ({**LAN, "subnet": "10.8.0.0/33"}, "subnet", "must be a network in CIDR notation"),
    ({**LAN, "subnet": "10.8.0.0/31"}, "subnet", "must have room for instances"),
    ({**LAN, "gateway": "10.9.0.1"}, "gateway", "must be in 10.8.0.0/24"),
    ({**LAN, "gateway": "router"}, "gateway", "must be an IP address"),
    ({**LAN, "pool": "10.9.0.2-10.9.0.9"}, "pool", 'must be "first-last" inside 10.8.0.0/24'),
    ({**LAN, "pool": "10.8.0.9-10.8.0.2"}, "pool", 'must be "first-last" inside 10.8.0.0/24'),
    ({**LAN, "pool": "10.8.0.1-10.8.0.9"}, "pool", "must not hold the gateway 10.8.0.1"),
    ({**LAN, "pool": "10.8.0.9-10.8.0.255"}, "pool", "must leave out 10.8.0.0 and 10.8.0.255"),
]

CLASHES: list[tuple[dict[str, Any], str, str]] = [
    (LAN, "pool", "overlaps 10.8.0.2-10.8.0.254 of zone lan"),
    ({**LAN, "pool": "10.8.0.200-10.8.0.201"}, "pool", "overlaps 10.8.0.2-10.8.0.254 of zone lan"),
    ({**LAN, "subnet": "10.0.0.0/8", "gateway": "10.8.0.9", "pool": "10.9.0.1-10.9.0.9"}, "gateway", "of zone lan"),
    ({**LAN, "subnet": "10.0.0.0/8", "gateway": "", "pool": "10.8.0.1-10.8.0.1"}, "pool", "the gateway of zone lan"),
]

SAME_MACHINES = [
    (LOCAL, {**LOCAL, "socket": "/run/libvirt/libvirt-sock"}),
    (TCP, {**TCP, "transport": "ssh", "address": "HV1.test"}),
    (TCP, {**TCP, "port": 16509}),
]


def toml(value: Any) -> str:
    """A value as TOML writes it, tables inline."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f'"{name}" = {toml(inner)}' for name, inner in value.items()) + " }"
    return f'"{value}"' if isinstance(value, str) else str(value)


def table(section: str, values: Mapping[str, Any]) -> str:
    """One entry of a list of tables."""
    return f"[[{section}]]\n" + "".join(f"{name} = {toml(value)}\n" for name, value in values.items())


def told_by_file(extra: str) -> tuple[str, ...]:
    """What the configuration with something more has against it."""
    with pytest.raises(ConfigError) as refused:
        parse(config_text(0, extra=extra), Path("/"))
    return refused.value.problems


def as_key(field: str) -> str:
    """A field's path as the file writes it."""
    return re.sub(r"\[([^\]]*)\]", r".\1", field)


async def told_by_call(call: Any) -> list[tuple[str, str]]:
    """(field, words) of the refusal of a call."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT, refused.value.details()
    bad = detail(status_of(refused.value), error_details_pb2.BadRequest)
    return [(violation.field, violation.description) for violation in bad.field_violations]


def host_request(host: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of AddHost that say what the file's keys say."""
    outside = {name: host[name] for name in ("driver", "capacity", "bridge") if name in host}
    return {**outside, "connection": {name: value for name, value in host.items() if name not in outside}}


def zone_request(name: str, network: Mapping[str, str]) -> fleet_pb2.CreateZoneRequest:
    """A zone of run time."""
    return fleet_pb2.CreateZoneRequest(name=name, network=fleet_pb2.ZoneNetwork(**network))


def zone_entry(number: int, name: str, network: Mapping[str, str]) -> str:
    """A zone of the file."""
    return table("zones", {"uuid": f"{number:032x}", "name": name, "network": network})


@pytest.mark.asyncio
async def test_a_bad_host_is_refused_by_both_ways_in_the_same_words(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(0)) as lab:
        for host, field, words in BAD_HOSTS:
            (told,) = told_by_file(table("hosts", {"name": "odd", "zone": "zone-1", **host}))
            place, _, by_file = told.partition(": ")
            ((its_field, by_call),) = await told_by_call(lab.add_host(**host_request(host)))
            assert place == f"hosts[0].{as_key(field)}", host
            assert its_field.removeprefix("connection.") == field, host
            if words:  # else a check of the contract's own comes first, with words of its own
                assert by_file == by_call, host
                assert words in by_call, host


@pytest.mark.asyncio
async def test_a_bad_network_is_refused_by_both_ways_in_the_same_words(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(0)) as lab:
        for network, field, words in BAD_NETWORKS:
            (told,) = told_by_file(zone_entry(5, "odd", network))
            place, _, by_file = told.partition(": ")
            request = zone_request("odd", network)
            ((its_field, by_call),) = await told_by_call(lab.fleet.CreateZone(request))
            assert place == f"zones[1].network.{field}", network
            assert its_field == f"network.{field}", network
            assert by_file == by_call
            assert words in by_call, network


@pytest.mark.asyncio
async def test_no_address_is_in_two_zones_by_either_way(tmp_path: Path) -> None:
    lan = zone_entry(5, "lan", LAN)
    async with whole(tmp_path, config_text(0, extra=lan)) as lab:
        for network, field, words in CLASHES:
            (told,) = told_by_file(lan + zone_entry(6, "odd", network))
            place, _, by_file = told.partition(": ")
            request = zone_request("odd", network)
            ((its_field, by_call),) = await told_by_call(lab.fleet.CreateZone(request))
            assert (place, its_field) == (f"zones[2].network.{field}", f"network.{field}")
            assert by_file == by_call
            assert words in by_call
        apart = zone_request("apart", {**LAN, "subnet": "10.9.0.0/24", "gateway": ""})
        assert (await lab.fleet.CreateZone(apart)).inventory.network.pool == "10.9.0.1-10.9.0.254"


@pytest.mark.asyncio
@pytest.mark.parametrize(("one", "other"), SAME_MACHINES)
async def test_one_hypervisor_under_two_names_is_refused_by_both_ways(
    tmp_path: Path, one: dict[str, Any], other: dict[str, Any]
) -> None:
    first, second = ({"name": n, "zone": "zone-1", **host} for n, host in (("hv1", one), ("alias", other)))
    assert told_by_file(table("hosts", first) + table("hosts", second)) == (
        "hosts[1]: leads to the same machine as host hv1",
    )
    async with whole(tmp_path, config_text(0, extra=table("hosts", first))) as lab:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await lab.add_host(**host_request(other))
        assert refused.value.code() is grpc.StatusCode.ALREADY_EXISTS


@pytest.mark.asyncio
async def test_what_the_file_adds_is_held_to_what_was_added_at_run_time(tmp_path: Path) -> None:
    """A host that was renamed in the file would be a second name of one that is in the database."""
    url = f"sqlite:///{tmp_path}/corral.db"
    async with whole(tmp_path, config_text(0, url=url)) as lab:
        await lab.fleet.CreateZone(zone_request("lan", LAN))
    assert "zone odd: its pool overlaps" in await _refused_start(tmp_path, url, zone_entry(6, "odd", LAN))
    first = table("hosts", {"name": "hv1", "zone": "zone-1", **TCP})
    async with whole(tmp_path, config_text(0, url=url, extra=first)) as lab:
        assert len(lab.service.directory.hosts) == 1
    renamed = first.replace('"hv1"', '"hv1-renamed"')
    assert "leads to the same machine as host hv1, which is in the" in await _refused_start(tmp_path, url, renamed)
    async with whole(tmp_path, config_text(0, url=url, extra=first)) as lab:  # nothing was written
        assert [host.name for host in lab.service.directory.hosts.values()] == ["hv1"]


SIMULATED = {"driver": "simulated", "transport": "test", "options": {"cpu": "8", "memory": "16GiB", "boot_ms": "10"}}
METAL = {**SIMULATED, "options": {"cpu": "8", "memory": "16GiB", "boot_ms": "10", "bare_metal": "yes"}}
MEMBER = {"uuid": ENTRY, "zone_uuid": ZONE, "cpu_num": 1, "memory_size": GIB}


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("was", "becomes", "kind", "other", "field"),
    [
        (SIMULATED, METAL, "VirtualMachine", "BareMetal", "options"),
        (METAL, TCP, "BareMetal", "VirtualMachine", "driver"),
    ],
    ids=["to bare metal", "and back"],
)
async def test_a_host_with_members_does_not_become_one_of_another_type(
    tmp_path: Path, was: dict[str, Any], becomes: dict[str, Any], kind: str, other: str, field: str
) -> None:
    url = f"sqlite:///{tmp_path}/corral.db"
    first, second = (table("hosts", {"name": "hv1", "zone": "zone-1", **one}) for one in (was, becomes))
    async with whole(tmp_path, config_text(0, url=url, extra=first)) as lab:
        group = await lab.up(model_services=[{**MEMBER, "type": kind}])
    told = await _refused_start(tmp_path, url, second)
    assert f"host hv1: {field}: makes a host of type {kind} one of type {other} while it is carrying 1 members" in told
    async with whole(tmp_path, config_text(0, url=url, extra=first)) as lab:
        assert (await lab.host("hv1")).type == kind
        async for _ in lab.deploy.DeleteInstanceGroup(deploy_pb2.DeleteInstanceGroupRequest(uuid=group.uuid)):
            pass
    async with whole(tmp_path, config_text(0, url=url, extra=second)) as lab:  # without members it may
        assert (await lab.host("hv1")).type == other


async def _refused_start(directory: Path, url: str, extra: str) -> str:
    process = Process(Service(parse(config_text(0, url=url, extra=extra), directory)))
    try:
        with pytest.raises(StartError) as refused:
            await process.start()
    finally:
        await process.stop()
    return str(refused.value)


def qcow2(*, backing: int = 0, features: int = 0, l1_offset: int = 0) -> bytes:
    """The header of a disk of 64 KiB clusters, with one entry in its first table, and nothing behind it."""
    start = b"QFI\xfb" + struct.pack(">IQIIQIIQQI", 3, backing, 0, 16, 1 << 20, 0, 1, l1_offset, 0, 0)
    return start.ljust(72, b"\0") + features.to_bytes(8, "big") + bytes(32)


BAD_FILES = [
    ("empty", "qcow2", b"", "is empty"),
    ("raw-as-qcow2", "qcow2", bytes(512), "is not a qcow2 disk"),
    ("qcow2-as-raw", "raw", qcow2(), "is a qcow2 disk"),
    ("vmdk", "raw", b"KDMV" + bytes(1024), "is a VMDK disk"),
    ("packed", "raw", b"\xfd7zXZ\0" + bytes(1024), "is packed with xz"),
    ("backed", "qcow2", qcow2(backing=512), "is a qcow2 disk with a backing file"),
    ("external", "qcow2", qcow2(features=1 << 2), "is a qcow2 disk with an external data file"),
    ("corrupt", "qcow2", qcow2(features=1 << 1), "is a qcow2 disk that QEMU has marked as corrupt"),
    ("cut", "qcow2", qcow2(l1_offset=1 << 16), "is truncated: it is a qcow2 disk with data beyond its end"),
]
"""Name, declared format, content, and what is wrong."""


@pytest.mark.asyncio
async def test_a_bad_image_is_refused_by_both_ways_in_the_same_words(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (tmp_path / "kernel").write_bytes(b"kernel")
    for name, _, content, _ in BAD_FILES:
        (images / name).write_bytes(content)
    async with whole(tmp_path, config_text(0)) as lab:
        for name, declared, content, words in BAD_FILES:
            file = tmp_path / "corral.toml"
            image = table("images", {"name": "odd", "disk": f"images/{name}", "disk_format": declared})
            real = table("hosts", {"name": "hv1", "zone": "zone-1", **TCP})
            file.write_text(config_text(0, extra=image + real))
            with pytest.raises(ConfigError) as refused:
                load(file)
            request = catalog_pb2.RegisterImageRequest(name="odd", format=declared, file_name=name)
            ((field, by_call),) = await told_by_call(lab.catalog.RegisterImage(request))
            assert field == "file_name"
            assert refused.value.problems == (f"images[1]: {images / name} {by_call}",)
            assert by_call == words
            if content:  # nothing at all is refused by its size
                sent = catalog_pb2.UploadImageRequest(
                    name="odd", format=declared, size=len(content), sha256=sha256(content).hexdigest(), data=content
                )
                assert await told_by_call(lab.catalog.UploadImage(iter([sent]))) == [("data", words)]


def test_all_mistakes_are_told_at_once_those_of_the_second_look_too() -> None:
    extra = (
        table("hosts", {"name": "a", "zone": "zone-9", **TCP})
        + table("hosts", {"name": "b!", "zone": "zone-1", **TCP})  # wrong by itself: left out, and the indexes stay
        + table("hosts", {"name": "c", "zone": "zone-1", **TCP, "capacity": {"cpu": 4}})
        + table("model_services", {"uuid": "e" * 32, "name": "x", "image": "gust"})
    )
    text = config_text(0, extra=extra).replace('http = "127.0.0.1:0"', 'http = "0.0.0.0:80"')
    with pytest.raises(ConfigError) as refused:
        parse(text, Path("/"))
    told = [problem.partition(":")[0] for problem in refused.value.problems]
    assert sorted(told) == [
        "hosts[0].zone",
        "hosts[1].name",
        "hosts[2]",  # leads to the machine of a
        "hosts[2].capacity.cpu",
        "model_services[1].image",
        "server.http",
    ]


def test_what_an_entry_that_was_left_out_would_have_named_is_not_missed() -> None:
    text = config_text(1).replace('name = "zone-1"\n', 'name = "zone-1"\ncolour = 1\n', 1)
    with pytest.raises(ConfigError) as refused:
        parse(text, Path("/"))
    assert [problem.partition(":")[0] for problem in refused.value.problems] == ["zones[0].colour"]
