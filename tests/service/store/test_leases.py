"""A group has one owner at a time, and every owner has a higher epoch than the one before."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from service.store import groups
from service.store.groups import Lease
from tests.support.builders import group
from tests.support.database import Database, together

LEASE = 45_000


def _due(db: Database, count: int) -> list[str]:
    uuids = []
    for number in range(count):
        made = group(1, uuid=f"{number:032x}")
        made = replace(made, instances=tuple(replace(m, uuid=f"{number:031x}b") for m in made.instances))
        db.write(groups.create, made, due_at=100 + number)
        uuids.append(made.uuid)
    return uuids


def test_due_groups_are_taken_oldest_first_and_only_once(db: Database) -> None:
    uuids = _due(db, 4)
    assert [u for u, *_ in db.write(lambda c: groups.take_due(c, "a", 102, LEASE, 2))] == uuids[:2]
    assert [u for u, *_ in db.write(lambda c: groups.take_due(c, "b", 102, LEASE, 9))] == uuids[2:3]
    assert db.write(lambda c: groups.take_due(c, "b", 102, LEASE, 9)) == ()


def test_many_replicas_share_the_due_groups_without_overlap(db: Database) -> None:
    uuids = _due(db, 40)
    rounds = [partial(db.write, partial(_take, owner=f"replica-{n}")) for n in range(8)]
    outcomes = together(rounds)
    taken = [uuid for outcome in outcomes if not isinstance(outcome, Exception) for uuid, *_ in outcome]
    assert len(taken) == len(set(taken))
    while rest := db.write(lambda c: groups.take_due(c, "last", 1_000, LEASE, 9)):  # locked rows were skipped
        taken += [uuid for uuid, *_ in rest]
    assert sorted(taken) == sorted(uuids)


def test_a_lease_that_ran_out_is_taken_with_the_next_epoch(db: Database) -> None:
    (uuid,) = _due(db, 1)
    ((_, first, _),) = db.write(lambda c: groups.take_due(c, "a", 200, LEASE, 1))
    assert db.write(lambda c: groups.take_due(c, "b", 200 + LEASE - 1, LEASE, 1)) == ()
    ((_, second, left_behind),) = db.write(lambda c: groups.take_due(c, "b", 200 + LEASE, LEASE, 1))
    assert second == first + 1
    assert left_behind
    assert not db.write(lambda c: groups.renew(c, uuid, first, 10**9))
    assert not db.write(lambda c: groups.give_back(c, uuid, first, 0, None))
    assert db.write(lambda c: groups.renew(c, uuid, second, 10**9))
    assert db.write(lambda c: groups.take_due(c, "a", 10**9 - 1, LEASE, 1)) == ()


def test_a_group_that_changed_meanwhile_is_not_given_back_unseen(db: Database) -> None:
    (uuid,) = _due(db, 1)
    ((_, epoch, _),) = db.write(lambda c: groups.take_due(c, "a", 200, LEASE, 1))
    seen = db.read(lambda c: groups.load(c, uuid))
    db.write(lambda c: groups.save(c, seen, replace(seen, version=seen.version + 1)))
    assert not db.write(lambda c: groups.give_back(c, uuid, epoch, None, seen.version))
    assert db.write(lambda c: groups.give_back(c, uuid, epoch, 900, seen.version + 1))
    assert db.write(lambda c: groups.take_due(c, "b", 899, LEASE, 1)) == ()
    assert db.write(lambda c: groups.take_due(c, "b", 900, LEASE, 1)) == (Lease(uuid, epoch + 1),)


def test_a_lease_that_was_given_back_is_not_renewed(db: Database) -> None:
    (uuid,) = _due(db, 1)
    ((_, epoch, _),) = db.write(lambda c: groups.take_due(c, "a", 200, LEASE, 1))
    assert db.write(lambda c: groups.give_back(c, uuid, epoch, 900, None))
    assert not db.write(lambda c: groups.renew(c, uuid, epoch, 10**9))
    assert db.write(lambda c: groups.take_due(c, "b", 900, LEASE, 1)) == (Lease(uuid, epoch + 1),)


def test_a_group_that_is_never_due_is_never_taken(db: Database) -> None:
    (uuid,) = _due(db, 1)
    db.write(lambda c: groups.due(c, uuid, None))
    assert db.write(lambda c: groups.take_due(c, "a", 10**15, LEASE, 1)) == ()


def _take(connection: object, owner: str) -> tuple[Lease, ...]:
    return groups.take_due(connection, owner, 1_000, LEASE, 7)  # type: ignore[arg-type]
