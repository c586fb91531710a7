"""What the fleet is asked for decides what its room is worth: sizes that run, and those that the catalogue gives."""

from __future__ import annotations

from dataclasses import replace

import pytest

from placement.engine import place
from placement.model import Flavour, Node, Request, Snapshot
from service.domain.fleet import MEMORY, VCPU, Host, HostStatus, Size
from service.planning import fleet_reader, translate
from service.planning.fleet_reader import FleetReader
from service.store import claims, fleet, groups
from service.store.connection import Connection
from service.store.engine import Store
from tests.support import builders
from tests.support.builders import seat
from tests.support.schema import migrated

GIB = 1 << 30
GPU = "gpu.a100"


def host(number: int, vcpu: int, gib: int, **more: int) -> Host:
    usable = {VCPU: vcpu, MEMORY: gib * GIB, **more}
    return replace(builders.host(number), status=HostStatus.CONNECTED, total=usable, allocatable=usable)


def size(vcpu: int, gib: int, **more: int) -> Size:
    return tuple(sorted({VCPU: vcpu, MEMORY: gib * GIB, **more}.items()))


def chosen(snapshot: Snapshot, vcpu: int, gib: int) -> str:
    decision = place(snapshot, Request((Node("n", {VCPU: vcpu, MEMORY: gib * GIB}),)))
    return decision.assignments[0].host


def test_a_member_without_gpus_leaves_hosts_alone_that_members_with_gpus_need() -> None:
    with_gpu, without = host(1, 8, 32, **{GPU: 2}), host(2, 9, 32)
    hosts = {h.uuid: h for h in (with_gpu, without)}
    # By its own size alone the tighter host is the better one.
    assert chosen(translate.snapshot(hosts, {}), 4, 16) == with_gpu.uuid
    running = {size(4, 16, **{GPU: 1}): 3, size(4, 16): 3}
    assert chosen(translate.snapshot(hosts, {}, sizes=running), 4, 16) == without.uuid


def test_the_most_frequent_sizes_count_and_the_catalogues_among_them() -> None:
    often = {size(number, 1): number for number in range(1, 31)}
    flavours = translate.flavours(often)
    assert {flavour.demand[VCPU] for flavour in flavours} == set(range(15, 31))
    assert flavours == translate.flavours(dict(reversed(often.items())))
    entries = [builders.entry(default_cpu=4, default_memory=16 * GIB), builders.entry(uuid="b" * 32)]
    assert translate.catalogue_sizes(entries) == {size(4, 16): 1, size(1, 1): 1}
    assert translate.flavours({}) == ()


def test_sizes_are_those_of_the_claims_that_stand() -> None:
    store = Store("sqlite://")
    migrated(store.engine)
    try:
        with store.engine.connect() as connection, connection.begin():
            _check_claims(connection)
    finally:
        store.close()


def _check_claims(connection: Connection) -> None:
    fleet.put_zone(connection, builders.zone())
    known = builders.host(1, status=HostStatus.CONNECTED)
    fleet.put_host(connection, known)
    fleet.set_facts(
        connection, known.uuid, boot_id="b", virt_type="kvm",
        total={VCPU: 64, MEMORY: 256 * GIB, GPU: 4}, foreign={},
    )  # fmt: skip
    fleet.put_model_service(connection, builders.entry(default_cpu=2, default_memory=4 * GIB))
    group = builders.group()
    groups.create(connection, group, due_at=0)
    reader = FleetReader()
    catalogue = Flavour({VCPU: 2, MEMORY: 4 * GIB})
    assert reader.read(connection)[1].flavours == (catalogue,)
    demand = {VCPU: 8, MEMORY: 32 * GIB, GPU: 1}
    claims.take(connection, group.uuid, [seat(m.uuid, known.uuid, demand) for m in group.instances])
    for read in (reader.read, fleet_reader.read_fleet):
        assert set(map(_vector, read(connection)[1].flavours)) == {_vector(catalogue), tuple(sorted(demand.items()))}
    claims.release(connection, [(m.uuid, 1) for m in group.instances])
    assert reader.read(connection)[1].flavours == (catalogue,)
    fleet.put_model_service(connection, builders.entry(default_cpu=3, default_memory=4 * GIB))
    assert reader.read(connection)[1].flavours == (Flavour({VCPU: 3, MEMORY: 4 * GIB}),)


def _vector(flavour: Flavour) -> Size:
    return tuple(sorted(flavour.demand.items()))


@pytest.mark.parametrize("flavours", [(), (Flavour({VCPU: 1, MEMORY: GIB}),)])
def test_a_gang_finds_its_room_whatever_room_is_measured_by(flavours: tuple[Flavour, ...]) -> None:
    hosts = {h.uuid: h for h in (host(1, 8, 8), host(2, 4, 64))}
    snapshot = translate.snapshot(hosts, {}).updated(flavours=flavours)
    nodes = tuple(Node(f"n{n}", {VCPU: 4, MEMORY: gib * GIB}) for n, gib in enumerate((4, 4, 60)))
    decision = place(snapshot, Request(nodes))
    assert sorted(a.host for a in decision.assignments) == [host(1, 1, 1).uuid] * 2 + [host(2, 1, 1).uuid]
