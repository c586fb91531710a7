"""What the planner says fits can be claimed, device by device, as long as nothing changed: drawn fleets and gangs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from sqlalchemy import Connection

from placement.engine import place
from placement.model import Policy, Status
from service.domain.cells import NumaPolicy
from service.domain.devices import Device, DeviceRule, DeviceRules, Partition, PciFunction, RuleKind
from service.domain.fleet import MEMORY, VCPU, Host
from service.domain.groups import Group, GroupPhase, Seat
from service.domain.specs import GpuRequest, PlacementPolicy
from service.planning import fleet_reader, translate
from service.planning.fleet_reader import FleetReader
from service.store import devices, fleet, groups, settings
from service.transactions import claiming
from tests.support.builders import ENTRY, ZONE, group
from tests.support.database import Database

GIB = 1 << 30
RULES = (
    DeviceRule(RuleKind.GPU, "h100", vendor="10de", product="2330"),
    DeviceRule(RuleKind.GPU, "l4", vendor="10de", product="27b8"),
)
PRODUCTS = ("2330", "2330", "27b8")


def fleet_of(db: Database, r: random.Random) -> None:
    """Three hosts of up to two cells, each with up to eight devices, most of them in partitions."""
    hosts = db.fill(3, vcpu=64)
    partitions: list[Partition] = []
    functions = {}
    for number, uuid in enumerate(hosts, 1):
        cells = r.choice([1, 2, 2])
        mine = [
            PciFunction(
                f"0000:{at + 1:02x}:00.0",
                "10de",
                r.choice(PRODUCTS),
                "030200",
                group=at,
                cell=r.choice([None, *range(cells)]),
            )
            for at in range(r.randint(3, 8))
        ]
        for name in ("left", "right"):
            taken = {a for p in partitions if p.host == f"host-{number}" for a in p.addresses}
            free = [f.address for f in mine if f.address not in taken]
            if some := tuple(r.sample(free, min(len(free), r.randint(0, 4)))):
                partitions.append(Partition(f"host-{number}", name, some))
        functions[uuid] = (cells, mine)
    db.write(settings.set_device_rules, DeviceRules(RULES, tuple(partitions)))
    for uuid, (cells, mine) in functions.items():
        total = {VCPU: 16 * cells, MEMORY: 64 * GIB * cells}
        total |= {f"cell.{cell}.{name}": amount // cells for cell in range(cells) for name, amount in total.items()}
        db.write(fleet.set_facts, uuid, boot_id="1", virt_type="kvm", total=total, foreign={}, functions=tuple(mine))


def gang(r: random.Random, number: int) -> Group:
    """Up to four members that want devices in every way that there is."""
    size, numa = r.randint(1, 4), r.choice(list(NumaPolicy))
    made = group(size, uuid=f"{number + 1:032x}", phase=GroupPhase.PLANNING, placement=PlacementPolicy(numa=numa))
    members = []
    for rank, member in enumerate(made.instances):
        models = r.choice([(), ("h100",), ("h100",), ("l4",), ("h100", "l4"), ("",), ("", "h100")])
        gpus = tuple(
            GpuRequest(model, r.randint(1, 3), r.choice([None, *NumaPolicy]), bool(model) and r.random() < 0.4)
            for model in models
        )
        spec = replace(member.spec, gpus=gpus, model_service_uuid=ENTRY, cpu_num=r.choice([1, 4]), memory_size=GIB)
        members.append(replace(member, uuid=f"{number + 1:016x}{rank:016x}", spec=spec, zone_uuid=ZONE))
    nodes = tuple(member.spec for member in members)
    return replace(made, instances=tuple(members), spec=replace(made.spec, nodes=nodes))


def planned_and_claimed(db: Database, asked: Group, reader: FleetReader) -> tuple[Seat, ...] | None:
    """The seats of the gang, None where the planner finds no place for it. Both readers see the same fleet."""

    def decide(connection: Connection):  # type: ignore[no-untyped-def]
        hosts, snapshot = fleet_reader.read_fleet(connection)
        assert reader.read(connection)[1].hosts == snapshot.hosts
        decision = place(snapshot, translate.request(asked, snapshot, hosts), Policy(explain=False))
        if decision.status is not Status.PLACED:
            return None
        return translate.record(asked, decision, hosts, 1.0, 1, snapshot)

    record = db.read(decide)
    if record is None:
        return None
    db.write(lambda c: groups.create(c, asked, due_at=0))
    after = db.write(lambda c: claiming.claim(c, "cluster", asked, record, 1000)).group
    assert after.placement is not None
    return after.placement.assignments


def wishes_hold(asked: Group, seat: Seat, there: Sequence[Device], host: Host) -> None:
    """The member has so many devices as it wants, and where it wants them."""
    spec = next(m.spec for m in asked.instances if m.uuid == seat.instance_uuid)
    of = {device.key: device for device in there}
    mine = [of[held.key] for held in seat.devices]
    assert len(mine) == sum(gpu.count for gpu in spec.gpus)
    required = asked.spec.placement.numa is NumaPolicy.REQUIRED
    assert len(seat.cells) == 1 or not (required or any(g.numa is NumaPolicy.REQUIRED for g in spec.gpus))
    alone = len(host.cells) == 1
    for gpu in spec.gpus:
        of_it = [d for d in mine if gpu.model in ("", d.model)]
        near = [d for d in of_it if alone or d.cell in seat.cells]
        local = gpu.numa is NumaPolicy.REQUIRED or (gpu.numa is None and required)
        assert len(of_it) >= gpu.count
        assert not local or len(near) >= gpu.count, (gpu, seat, mine)
        joined = [d for d in (near if local else of_it) if d.partition]
        most = max((sum(d.partition == p for d in joined) for p in {d.partition for d in joined}), default=0)
        assert not gpu.same_partition or most >= gpu.count, (gpu, seat, mine)


@pytest.mark.parametrize("seed", range(6))
def test_what_the_planner_says_fits_is_claimed_device_by_device(db: Database, seed: int) -> None:
    """Gang after gang until the fleet is full, devices taken out of service now and then: each plan is claimed, each
    wish is kept, and no device is two members'."""
    r, reader, placed = random.Random(seed), FleetReader(), 0
    fleet_of(db, r)
    owners: dict[tuple[str, str], str] = {}
    for number in range(16):
        if r.random() < 0.3:
            host_uuid, there = r.choice(sorted(db.read(devices.of_hosts).items()))
            db.write(devices.quarantine, host_uuid, [r.choice(there).key], "seen to fail")
        asked = gang(r, number)
        seats = planned_and_claimed(db, asked, reader)
        placed += seats is not None
        hosts, known = db.read(fleet.hosts), db.read(devices.of_hosts)
        for seat in seats or ():
            wishes_hold(asked, seat, known[seat.host_uuid], hosts[seat.host_uuid])
            for device in seat.devices:
                assert owners.setdefault((seat.host_uuid, device.key), seat.instance_uuid) == seat.instance_uuid
    assert placed > 1, "the drawn gangs say too little"
