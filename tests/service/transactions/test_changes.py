"""A change of a group writes and checks the members that it changes, and all of them where the group had to be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from sqlalchemy import Connection, delete, select, update

from service.domain.groups import Group, GroupPhase, GroupStatus, InstanceStatus, PlacementRecord
from service.domain.specs import PlacementStrategy
from service.errors import InvariantViolation
from service.lifecycle.facts import Observation, Observed
from service.store import claims, groups, schema
from service.transactions import changes
from tests.support.builders import group, seat
from tests.support.database import Database

NOW = 50_000


def running(db: Database, size: int = 3) -> Group:
    """A group whose members run on one host and have their claims there."""
    (at,) = db.fill(1)
    made = group(size, phase=GroupPhase.RUNNING, status=GroupStatus.RUNNING, go=True, served=True, start_epoch=1)
    seats = tuple(seat(m.uuid, at, {"vcpu": 1}) for m in made.instances)
    there = {"status": InstanceStatus.RUNNING, "host_uuid": at, "machine_uuid": "c" * 32, "was_resumed": True}
    stored = replace(
        made,
        placement=PlacementRecord(seats, PlacementStrategy.SPREAD, 0, 0, 0, "optimal", ""),
        instances=tuple(replace(m, **there) for m in made.instances),  # type: ignore[arg-type]
    )

    def put(connection: Connection) -> None:
        groups.create(connection, stored, due_at=0)
        claims.take(connection, stored.uuid, seats)

    db.write(put)
    return db.read(groups.load, stored.uuid)


def unready(stored: Group, rank: int) -> Observed:
    member = stored.instances[rank]
    return Observed(member.uuid, member.attempt, Observation.UNREADY)


def lose_claim(connection: Connection, instance_uuid: str) -> None:
    connection.execute(delete(schema.claims).where(schema.claims.c.instance_uuid == instance_uuid))


def worked(connection: Connection, stored: Group, facts: Sequence[Observed]) -> Group:
    """As a worker that has the group does it."""
    foreseen = changes.foreseen(stored, facts, NOW)
    known = changes.as_known(connection, stored, foreseen)
    assert known is not None
    return changes.apply(connection, stored.uuid, facts, NOW, epoch=stored.epoch, known=known)


@pytest.mark.parametrize("size", [1, 3, 8])
def test_what_is_written_is_the_group_as_it_then_is(db: Database, size: int) -> None:
    stored = running(db, size)
    for rank in range(min(size, 2)):
        stored = db.write(worked, stored, [unready(stored, rank)])
        assert db.read(groups.load, stored.uuid) == stored
        assert [m.updated_at for m in stored.instances] == [NOW if n <= rank else 0 for n in range(size)]


def test_a_placement_that_is_as_it_was_is_not_written_again(db: Database) -> None:
    stored, of = running(db), schema.groups
    other = '{"assignments":[],"strategy":"spread","planned_ms":0,"bound":0,"value":0,"proof":"","summary":"another"}'
    db.write(lambda c: c.execute(update(of).where(of.c.uuid == stored.uuid).values(placement=other)))
    db.write(worked, stored, [unready(stored, 0)])
    assert db.read(lambda c: c.scalar(select(of.c.placement).where(of.c.uuid == stored.uuid))) == other


def test_a_member_that_changes_without_its_claim_is_refused(db: Database) -> None:
    stored = running(db, 8)
    db.write(lose_claim, stored.instances[1].uuid)
    with pytest.raises(InvariantViolation, match="I2"):
        db.write(worked, stored, [unready(stored, 1)])
    assert db.read(groups.load, stored.uuid) == stored


def test_whoever_reads_the_group_finds_any_member_that_has_no_claim(db: Database) -> None:
    stored = running(db, 8)
    db.write(lose_claim, stored.instances[1].uuid)
    with pytest.raises(InvariantViolation, match="I2"):
        db.write(lambda c: changes.apply(c, stored.uuid, [unready(stored, 0)], NOW))
