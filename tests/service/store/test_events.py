"""The event log: revisions rise in commit order, sequences have no gaps, however many write."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial

from sqlalchemy import Connection

from service.domain.events import EventKind
from service.domain.groups import Group
from service.store import events, groups
from service.store.events import Draft
from tests.support.builders import group
from tests.support.database import Database, together


def _stored(db: Database, number: int) -> Group:
    made = group(1, uuid=f"{number:032x}")
    made = replace(made, instances=tuple(replace(m, uuid=f"{number:031x}a") for m in made.instances))
    db.write(lambda c: groups.create(c, made, due_at=0))
    return made


def _tell(connection: Connection, uuid: str, count: int) -> int:
    """Append `count` events as the one way of change does: lock the group, count on, write."""
    before = groups.load(connection, uuid, lock=True)
    drafts = [Draft(EventKind.GROUP, before.sequence + n + 1, before) for n in range(count)]
    revision = events.append(connection, before, drafts, 5)
    groups.save(connection, before, replace(before, sequence=before.sequence + count, revision=revision))
    return revision


def test_revisions_and_sequences_have_no_gaps_under_concurrent_writers(db: Database) -> None:
    uuids = [_stored(db, n).uuid for n in range(4)]

    def write(worker: int) -> None:
        for step in range(25):
            db.write(_tell, uuids[(worker + step) % 4], 1 + step % 3)

    assert together([partial(write, worker) for worker in range(6)]) == [None] * 6
    log = db.read(lambda c: events.after(c, 0, 10_000))
    oldest, newest = db.read(events.head)
    assert oldest == 0
    assert [e.revision for e in log] == list(range(newest - len(log) + 1, newest + 1))
    assert len(log) == 6 * sum(1 + s % 3 for s in range(25))
    for uuid in uuids:
        assert [e.sequence for e in log if e.group_uuid == uuid] == list(
            range(1, sum(e.group_uuid == uuid for e in log) + 1)
        )
        assert db.read(events.newest, uuid) == max(e.revision for e in log if e.group_uuid == uuid)


def test_a_reader_that_follows_the_head_misses_nothing(db: Database) -> None:
    """A revision is visible only when all lower ones are: a cursor never passes an event that commits later."""
    uuids = [_stored(db, n).uuid for n in range(3)]
    ended = threading.Event()
    seen: list[int] = []

    def follow() -> None:
        while True:
            last = ended.is_set()
            found = db.read(lambda c: events.after(c, seen[-1] if seen else 0, 50))
            seen.extend(e.revision for e in found)
            if last and not found:
                return

    def write(worker: int) -> None:
        for _ in range(30):
            db.write(lambda c: _tell(c, uuids[worker], 2))

    reader = threading.Thread(target=follow)
    reader.start()
    assert together([partial(write, worker) for worker in range(3)]) == [None] * 3
    ended.set()
    reader.join()
    assert len(seen) == 180
    assert seen == sorted(set(seen))
    assert seen[-1] - seen[0] == 179


def test_a_rolled_back_change_leaves_no_gap(db: Database) -> None:
    uuid = _stored(db, 1).uuid

    def broken(connection: Connection) -> None:
        _tell(connection, uuid, 2)
        raise RuntimeError("after the events")

    first = db.write(lambda c: _tell(c, uuid, 1))
    assert isinstance(together([lambda: db.write(broken)])[0], RuntimeError)
    assert db.write(lambda c: _tell(c, uuid, 1)) == first + 1


def test_events_are_selected_by_group_and_by_tenant(db: Database) -> None:
    one, two = _stored(db, 1), _stored(db, 2)
    db.write(lambda c: events.append(c, one, [Draft(EventKind.GROUP, 1, one)], 1))
    other = replace(two, project="other")
    db.write(lambda c: events.append(c, other, [Draft(EventKind.GROUP, 1, other)], 1))
    assert [e.group_uuid for e in db.read(lambda c: events.after(c, 0, 10, group_uuid=one.uuid))] == [one.uuid]
    assert [e.group_uuid for e in db.read(lambda c: events.after(c, 0, 10, project="other"))] == [two.uuid]


def test_compaction_forgets_old_events_and_says_so(db: Database) -> None:
    uuid = _stored(db, 1).uuid
    newest = db.write(lambda c: _tell(c, uuid, 5))
    assert db.write(lambda c: events.compact(c, newest - 2)) == 3
    assert db.read(events.head) == (newest - 2, newest)
    assert [e.revision for e in db.read(lambda c: events.after(c, 0, 10))] == [newest - 1, newest]
    assert db.read(lambda c: events.first(c, uuid)) == newest - 1
    db.write(lambda c: events.compact(c, newest - 4))
    assert db.read(events.head)[0] == newest - 2
