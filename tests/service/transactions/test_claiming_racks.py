"""A host's rack may change between a plan and its claim: rules about racks are looked at where seats are taken."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest
from sqlalchemy import Connection, select
from sqlalchemy.exc import OperationalError

from placement import check
from placement.engine import place
from placement.model import Assignment, Decision, Policy, Status
from service.domain.fleet import Host
from service.domain.groups import Group, GroupPhase, InstanceStatus, MoveStage, PlacementRecord
from service.domain.kept_rules import lost_to_racks
from service.domain.specs import PlacementPolicy, Survive
from service.planning import fleet_reader, translate
from service.store import claims, fleet, groups, schema
from service.transactions import claiming
from tests.support.builders import ENTRY, ZONE, group, host, seat
from tests.support.database import Database

S = InstanceStatus
RULES = [
    PlacementPolicy(max_per_rack=1),
    PlacementPolicy(max_per_rack=2),
    PlacementPolicy(survive=Survive(1)),
    PlacementPolicy(same_rack=True),
    PlacementPolicy(max_racks=1),
    PlacementPolicy(max_racks=2),
    PlacementPolicy(min_racks=2),
    PlacementPolicy(min_racks=3),
    PlacementPolicy(min_racks=2, max_racks=2, max_per_rack=2),
]


def in_racks(letters: str) -> dict[str, Host]:
    """Hosts in these racks, one letter each; a dot is a host without one."""
    made = (replace(host(n + 1), rack=rack.replace(".", "")) for n, rack in enumerate(letters))
    return {one.uuid: one for one in made}


def test_what_is_lost_is_what_the_planners_own_check_finds_missed() -> None:
    def cases() -> Iterator[tuple[PlacementPolicy, str, int]]:
        for policy, letters in itertools.product(RULES, map("".join, itertools.product("ab.", repeat=4))):
            yield from ((policy, letters, staying) for staying in range(4))

    verdicts = set()
    for policy, letters, staying in cases():
        hosts = in_racks(letters)
        made = group(4, placement=policy)
        seated = [
            replace(m, host_uuid=h, status=S.RUNNING) if n < staying else m
            for n, (m, h) in enumerate(zip(made.instances, hosts, strict=True))
        ]
        made = replace(made, instances=tuple(seated))
        seats = list(zip(seated, hosts.values(), strict=True))
        lost = lost_to_racks(made, seats[:staying], seats, whole=True)

        there = {h.uuid: [(m.uuid, made.uuid, False)] for m, h in seats[:staying]}
        fleet_now = translate.snapshot(hosts, there)
        put = tuple(Assignment(m.uuid, h.uuid) for m, h in seats[staying:])
        missed = check.missed(fleet_now, translate.request(made), Decision(Status.PLACED, put))
        assert bool(lost) == bool(missed), (policy, letters, staying, lost, missed)
        verdicts.add(bool(lost))
    assert verdicts == {True, False}


def racks(connection: Connection, letters: str) -> None:
    """Hosts 1, 2 … are in these racks."""
    for number, rack in enumerate(letters, 1):
        fleet.put_host(connection, replace(fleet.host(connection, host(number).uuid), rack=rack))


@pytest.fixture
def halved(db: Database) -> Group:
    """A group with one member on the first of four hosts, in racks a, a, b, b, and one to be placed in another rack."""
    db.fill(4)
    made = group(2, phase=GroupPhase.PLANNING, go=True, served=True, placement=PlacementPolicy(max_per_rack=1))
    there, lost = (replace(m, zone_uuid=ZONE, spec=replace(m.spec, model_service_uuid=ENTRY)) for m in made.instances)
    there = replace(there, status=S.RUNNING, host_uuid=host(1).uuid, host_name="host-1")
    made = replace(made, instances=(there, replace(lost, attempt=2)))

    def put(connection: Connection) -> None:
        racks(connection, "aabb")
        groups.create(connection, made, due_at=0)
        claims.take(connection, made.uuid, [seat(there.uuid, there.host_uuid, translate.demand(there.spec))])

    db.write(put)
    return db.read(lambda c: groups.load(c, made.uuid))


def planned(connection: Connection, made: Group) -> PlacementRecord:
    hosts, snapshot = fleet_reader.read_fleet(connection)
    return translate.record(made, place(snapshot, translate.request(made, snapshot), Policy()), hosts, 1.0, 1)


def test_a_gang_is_not_claimed_where_racks_are_others_since_its_plan(db: Database, halved: Group) -> None:
    placement = db.read(planned, halved)
    assert {s.host_uuid for s in placement.assignments} <= {host(3).uuid, host(4).uuid}
    # The rack of the host that it goes to, or that of the host of a fellow that stays where it is.
    for letters in ("aaaa", "babb"):
        db.write(racks, letters)
        with pytest.raises(claims.ClaimLost, match="at most 1 in a rack"):
            db.write(lambda c: claiming.claim(c, "cluster", halved, placement, 1000))
    db.write(racks, "acbb")
    after = db.write(lambda c: claiming.claim(c, "cluster", halved, placement, 1000)).group
    assert after.instances[1].status is S.CLAIMED


def test_a_live_move_is_not_claimed_where_it_would_miss_a_rule_about_racks_by_more(db: Database, halved: Group) -> None:
    placed = db.write(lambda c: claiming.claim(c, "cluster", halved, planned(c, halved), 1000)).group
    mover, fellow = placed.instances

    def wish(connection: Connection) -> Group:
        before = groups.load(connection, placed.uuid)
        members = (replace(before.instances[0], move=MoveStage.WANTED), before.instances[1])
        groups.save(connection, before, replace(before, instances=members))
        return groups.load(connection, placed.uuid)

    wished = db.write(wish)

    def move(connection: Connection, target: Host) -> Group:
        target = fleet.host(connection, target.uuid)
        return claiming.claim_move(connection, wished, wished.instances[0], target, 1000)

    beside = next(host(n) for n in (3, 4) if host(n).uuid != fellow.host_uuid)
    with pytest.raises(claims.ClaimLost, match="at most 1 in a rack"):
        db.write(move, beside)
    # Both are in one rack by now, as an operator may say: a move within it makes that no worse.
    db.write(racks, "aaaa")
    assert db.write(move, host(2)).instance(mover.uuid).target_host_uuid == host(2).uuid


def test_nobody_gives_a_fellows_host_another_rack_while_a_gang_is_claimed(
    db: Database, halved: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    placement = db.read(planned, halved)
    held: list[bool] = []

    def look(*_: object, **__: object) -> None:
        if db.store.engine.dialect.name == "sqlite":
            held.append(True)  # which has one writer at a time
            return
        with db.store.engine.connect() as other:
            query = select(schema.hosts.c.uuid).where(schema.hosts.c.uuid == host(1).uuid)
            try:
                other.execute(query.with_for_update(nowait=True))
            except OperationalError:
                held.append(True)

    monkeypatch.setattr(claiming, "_check_racks", look)
    db.write(lambda c: claiming.claim(c, "cluster", halved, placement, 1000))
    assert held == [True]
