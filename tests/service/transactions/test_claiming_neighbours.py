"""The rules between groups at the claim: those of the group, and those that others have about it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import Connection

from service.domain.groups import Group, GroupPhase, PlacementRecord
from service.domain.specs import PlacementPolicy, PlacementStrategy
from service.planning import translate
from service.store import bookings, claims, groups
from service.transactions import claiming
from tests.support.builders import ENTRY, ZONE, group, host, seat
from tests.support.database import Database

HERE, ELSEWHERE = host(1).uuid, host(2).uuid
MINE, OTHER = "a" * 32, "b" * 32
ALONE = PlacementPolicy(exclusive_hosts=True)


def put(connection: Connection, uuid: str, policy: PlacementPolicy) -> Group:
    made = group(1, uuid=uuid, phase=GroupPhase.PLANNING, placement=policy)
    (member,) = made.instances
    member = replace(member, uuid=uuid[0] * 31 + "1", zone_uuid=ZONE)
    made = replace(made, instances=(replace(member, spec=replace(member.spec, model_service_uuid=ENTRY)),))
    groups.create(connection, made, due_at=0)
    return groups.load(connection, uuid)


def claim(db: Database, planned: Group, host_uuid: str) -> bool:
    (member,) = planned.instances
    one = seat(member.uuid, host_uuid, translate.demand(member.spec))
    placement = PlacementRecord((one,), PlacementStrategy.SPREAD, 0.0, 0.0, 0.0, "optimal", "greedy")
    claimed = db.write(lambda c: claiming.claim(c, "cluster", planned, placement, 1000)).group
    return claimed.instances[0].host_uuid == host_uuid


@pytest.mark.parametrize(
    ("mine", "others", "may"),
    [
        (PlacementPolicy(), PlacementPolicy(), True),
        (ALONE, PlacementPolicy(), False),
        (PlacementPolicy(), ALONE, False),
        (PlacementPolicy(anti_affinity_groups=(OTHER,)), PlacementPolicy(), False),
        (PlacementPolicy(), PlacementPolicy(anti_affinity_groups=(MINE,)), False),
        (PlacementPolicy(affinity_groups=(OTHER,)), PlacementPolicy(), True),
        (PlacementPolicy(affinity_groups=("d" * 32,)), PlacementPolicy(), False),
    ],
)
@pytest.mark.parametrize("booked", [False, True])
def test_who_came_to_a_host_since_the_plan_counts_by_its_rules_and_by_the_groups_own(
    db: Database, mine: PlacementPolicy, others: PlacementPolicy, may: bool, booked: bool
) -> None:
    db.fill(2)
    planned = db.write(lambda c: put(c, MINE, mine))

    def come(connection: Connection) -> None:
        other = put(connection, OTHER, others)
        (member,) = other.instances
        its = seat(member.uuid, HERE, translate.demand(member.spec))
        if booked:
            bookings.book(connection, "e" * 32, OTHER, [(OTHER, its)])
        else:
            claims.take(connection, OTHER, [its])

    db.write(come)
    if may:
        assert claim(db, planned, HERE)
    else:
        with pytest.raises(claims.ClaimLost):
            claim(db, planned, HERE)
        if not mine.affinity_groups:
            assert claim(db, planned, ELSEWHERE)


def test_a_group_that_wants_its_hosts_alone_is_no_stranger_to_itself(db: Database) -> None:
    db.fill(2)
    planned = db.write(lambda c: put(c, MINE, ALONE))
    db.write(lambda c: claims.take(c, MINE, [seat("f" * 32, HERE, {"vcpu": 1})]))
    assert claim(db, planned, HERE)
