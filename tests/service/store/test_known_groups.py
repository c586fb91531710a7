"""A group that has not changed is read as the same object; one that has is read as it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from sqlalchemy import Connection

from service.domain.groups import Group, GroupPhase, Instance, Waiting
from service.errors import NotFound
from service.store import groups
from service.store.known_groups import KnownGroups
from tests.support.builders import group
from tests.support.database import Database

ONE, TWO = "a" * 32, "b" * 32


def _stored(db: Database, uuid: str = ONE) -> Group:
    made = group(uuid=uuid, created_at=5)
    members = tuple(replace(m, uuid=f"{uuid[:8]}{m.uuid[8:]}") for m in made.instances)
    made = replace(made, instances=members)
    db.write(lambda c: groups.create(c, made, due_at=0))
    return made


def _member(**changes: object) -> Callable[[Group], Group]:
    def change(before: Group) -> Group:
        first: Instance = replace(before.instances[0], **changes)  # type: ignore[arg-type]
        return replace(before, instances=(first, *before.instances[1:]))

    return change


# Of each: what changes without a new version, and what changes with one.
CHANGES: dict[str, Callable[[Group], Group]] = {
    "the model answered": _member(last_answer_at=7),
    "the guest knows a start": _member(told_epoch=3),
    "it was looked for room": lambda g: replace(g, waiting=Waiting(since=1, until=99, looked=4, looked_at=9)),
    "a new version": lambda g: replace(_member(reason="why")(g), version=g.version + 1),
    "deleted": lambda g: replace(g, phase=GroupPhase.DELETED, version=g.version + 1, instances=()),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_is_unchanged_is_the_same_object_and_what_changed_is_read_again(
    db: Database, change: Callable[[Group], Group]
) -> None:
    _stored(db)
    _stored(db, TWO)
    known = KnownGroups()

    def both(connection: Connection) -> tuple[Group, ...]:
        return known.load_many(connection, [TWO, ONE])

    first = db.read(both)
    assert first == db.read(lambda c: groups.load_many(c, [TWO, ONE]))
    again = db.read(both)
    assert again[0] is first[0]
    assert again[1] is first[1]
    db.write(lambda c: groups.save(c, first[1], change(first[1])))
    after = db.read(both)
    assert after[0] is first[0]
    assert after[1] != first[1]
    assert after == db.read(lambda c: groups.load_many(c, [TWO, ONE]))


def test_a_lease_that_was_taken_is_seen(db: Database) -> None:
    _stored(db)
    known = KnownGroups()
    before = db.read(lambda c: known.load(c, ONE))
    db.write(lambda c: groups.take_due(c, "somebody", 10, 1000, 5))
    assert db.read(lambda c: known.load(c, ONE)).epoch == before.epoch + 1


def test_what_is_not_there_is_not_found_also_where_it_was_before(db: Database) -> None:
    stored, known = _stored(db), KnownGroups()
    with pytest.raises(NotFound):
        db.read(lambda c: known.load(c, TWO))
    assert db.read(lambda c: known.load(c, ONE)) == stored
    gone = replace(stored, phase=GroupPhase.DELETED, version=stored.version + 1)
    db.write(lambda c: groups.save(c, stored, gone))
    db.write(lambda c: groups.forget_deleted(c, ONE))
    with pytest.raises(NotFound):
        db.read(lambda c: known.load(c, ONE))


def test_no_more_members_are_kept_than_it_may(db: Database) -> None:
    _stored(db)
    _stored(db, TWO)
    known = KnownGroups(most_members=3)  # one of two members weighs that
    first = db.read(lambda c: known.load(c, ONE))
    assert db.read(lambda c: known.load(c, ONE)) is first
    second = db.read(lambda c: known.load(c, TWO))
    assert db.read(lambda c: known.load(c, TWO)) is second
    again = db.read(lambda c: known.load(c, ONE))
    assert again is not first
    assert again == first
