"""The claim of a gang and that of a live move of the same group: none is made for a group that stands otherwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from sqlalchemy import Connection

from placement.engine import place
from placement.model import Policy, Status
from service.domain.fleet import HostState
from service.domain.groups import Group, GroupPhase, InstanceStatus, MoveStage, PlacementRecord
from service.domain.ownership import Holding, Quarantined
from service.domain.specs import HostLabel, PlacementPolicy
from service.planning import fleet_reader, translate
from service.store import claims, fleet, groups, ownership
from service.transactions import claiming
from tests.support.builders import ENTRY, ZONE, group, host, seat
from tests.support.database import Database

S = InstanceStatus
SOURCE, OTHER, THIRD = (host(number).uuid for number in (1, 2, 3))


@pytest.fixture
def replanned(db: Database) -> Group:
    """A group on three hosts, one member a host: the first waits to be moved live, the second to be placed anew."""
    db.fill(3)
    made = group(2, phase=GroupPhase.PLANNING, go=True, served=True, placement=PlacementPolicy(max_per_host=1))
    leaving, lost = (replace(m, zone_uuid=ZONE, spec=replace(m.spec, model_service_uuid=ENTRY)) for m in made.instances)
    leaving = replace(leaving, status=S.RUNNING, host_uuid=SOURCE, host_name="host-1", move=MoveStage.WANTED)
    made = replace(made, instances=(leaving, replace(lost, attempt=2)))

    def put(connection: Connection) -> None:
        groups.create(connection, made, due_at=0)
        claims.take(connection, made.uuid, [seat(leaving.uuid, SOURCE, translate.demand(leaving.spec))])

    db.write(put)
    return db.read(lambda c: groups.load(c, made.uuid))


def move_to(db: Database, planned: Group, target: str) -> Group:
    return db.write(lambda c: claiming.claim_move(c, planned, planned.instances[0], fleet.hosts(c)[target], 1000))


def plan(db: Database, planned: Group) -> PlacementRecord | None:
    """Where the planner puts the second member, with the fleet as it is now."""

    def decide(connection: Connection) -> PlacementRecord | None:
        hosts, snapshot = fleet_reader.read_fleet(connection)
        decision = place(snapshot, translate.request(planned, snapshot), Policy())
        return translate.record(planned, decision, hosts, 1.0, 1) if decision.status is Status.PLACED else None

    return db.read(decide)


def claim(db: Database, planned: Group, placement: PlacementRecord) -> Group:
    return db.write(lambda c: claiming.claim(c, "cluster", planned, placement, 1000)).group


def test_a_gang_planned_before_a_fellow_took_another_host_is_not_claimed(db: Database, replanned: Group) -> None:
    placement = plan(db, replanned)
    assert placement is not None
    (seat,) = placement.assignments
    moving = move_to(db, replanned, seat.host_uuid)
    assert moving.instances[0].target_host_uuid == seat.host_uuid
    after = claim(db, replanned, placement)
    assert after.instances[1].status is S.PENDING
    assert db.read(lambda c: claims.seats_of(c, replanned.uuid)) == {
        (replanned.instances[0].uuid, 1): frozenset({SOURCE, seat.host_uuid})
    }
    again = plan(db, after)
    assert again is not None
    assert [s.host_uuid for s in again.assignments] == [({OTHER, THIRD} - {seat.host_uuid}).pop()]
    assert claim(db, after, again).instances[1].status is S.CLAIMED


def test_a_live_move_planned_before_a_fellow_was_placed_is_not_claimed(db: Database, replanned: Group) -> None:
    placement = plan(db, replanned)
    assert placement is not None
    (seat,) = placement.assignments
    placed = claim(db, replanned, placement)
    after = move_to(db, replanned, seat.host_uuid)
    assert after == placed
    assert after.instances[0].target_host_uuid == ""


def test_a_member_on_its_way_counts_on_both_hosts(db: Database, replanned: Group) -> None:
    moving = move_to(db, replanned, OTHER)
    placement = plan(db, moving)
    assert placement is not None
    assert [s.host_uuid for s in placement.assignments] == [THIRD]
    db.write(lambda c: fleet.set_state(c, fleet.host(c, THIRD), HostState.DISABLED, 1))
    assert plan(db, moving) is None


def label(connection: Connection, disk: str) -> None:
    for one in fleet.hosts(connection).values():
        fleet.put_host(connection, replace(one, labels={"disk": disk}))


def cluster(connection: Connection, uuid: str) -> None:
    for one in fleet.hosts(connection).values():
        fleet.put_host(connection, replace(one, cluster_uuid=uuid))


@pytest.mark.parametrize(
    ("policy", "undo"),
    [
        (
            PlacementPolicy(required_host_labels=(HostLabel("disk", ("ssd",)),)),
            lambda c: label(c, "hdd"),
        ),
        (PlacementPolicy(), lambda c: cluster(c, "d" * 32)),
        (
            PlacementPolicy(spare_hosts=2),
            lambda c: claims.take(
                c, "b" * 32, [seat("b" * 32, OTHER, {"vcpu": 1}), seat("c" * 32, THIRD, {"vcpu": 1})]
            ),
        ),
    ],
)
def test_what_a_rule_says_of_hosts_is_looked_at_once_more_where_they_are_claimed(
    db: Database, policy: PlacementPolicy, undo: Callable[[Connection], object]
) -> None:
    db.fill(3)
    made = group(1, phase=GroupPhase.PLANNING, placement=policy)
    (member,) = made.instances
    made = replace(made, instances=(replace(member, spec=replace(member.spec, cluster_uuid="c" * 32)),))

    def put(connection: Connection) -> None:
        label(connection, "ssd")
        cluster(connection, "c" * 32)
        groups.create(connection, made, due_at=0)

    db.write(put)
    planned = db.read(lambda c: groups.load(c, made.uuid))
    placement = plan(db, planned)
    assert placement is not None
    placement = replace(placement, assignments=(replace(placement.assignments[0], host_uuid=SOURCE),))
    db.write(undo)
    with pytest.raises(claims.ClaimLost):
        claim(db, planned, placement)
    assert not db.read(lambda c: claims.seats_of(c, made.uuid))


def test_nobody_is_placed_while_a_host_may_have_seen_more_than_the_database(db: Database, replanned: Group) -> None:
    placement = plan(db, replanned)
    assert placement is not None
    db.write(lambda c: ownership.all_known(c, (), [THIRD]))
    with pytest.raises(claiming.HeldBack, match="host-3"):
        claim(db, replanned, placement)
    with pytest.raises(claiming.HeldBack, match="host-3"):
        move_to(db, replanned, OTHER)
    db.write(lambda c: ownership.all_known(c, [THIRD], ()))
    assert claim(db, replanned, placement).instances[1].status is S.CLAIMED


def test_a_member_of_which_a_machine_is_in_quarantine_gets_no_second_one(db: Database, replanned: Group) -> None:
    placement = plan(db, replanned)
    assert placement is not None
    lost = replanned.instances[1]
    held = Quarantined("", "k", Holding.MACHINE, replanned.uuid, lost.uuid, 2)
    db.write(lambda c: ownership.hold(c, OTHER, [held], 1))
    with pytest.raises(claiming.HeldBack, match=r"model_services\[1\] has a machine in quarantine"):
        claim(db, replanned, placement)
    db.write(lambda c: ownership.hold(c, OTHER, [], 2))
    assert claim(db, replanned, placement).instances[1].status is S.CLAIMED
