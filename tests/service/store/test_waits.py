"""Stored times that lie further ahead than they are ever set are held to the present, on both databases."""

from __future__ import annotations

import pytest
from sqlalchemy import insert

from service.app import jobs, sessions
from service.domain.rebalances import Rebalance
from service.reconcile.manager import GROUP_WAITS
from service.store import groups, rebalances, schema
from service.store.waits import SLACK_MS, hold_to_present
from tests.support.builders import group
from tests.support.database import Database

NOW = 1_800_000_000_000
HOUR = 3_600_000
LEASE, DUE = (wait.longest_ms for wait in GROUP_WAITS)


@pytest.mark.parametrize(
    ("due_at", "lease_until", "held", "becomes"),
    [
        (NOW + HOUR, NOW + HOUR, {"group due": 1, "group lease": 1}, (NOW + DUE, NOW + LEASE)),
        (NOW + DUE + SLACK_MS, NOW + LEASE + SLACK_MS, {}, (NOW + DUE + SLACK_MS, NOW + LEASE + SLACK_MS)),
        (NOW - HOUR, 0, {}, (NOW - HOUR, 0)),
        (None, 0, {}, (None, 0)),
    ],
)
def test_a_group_is_neither_due_nor_leased_further_ahead_than_ever(
    db: Database, due_at: int | None, lease_until: int, held: dict[str, int], becomes: tuple[int | None, int]
) -> None:
    made = group(1)
    db.write(lambda c: groups.create(c, made, due_at=0))
    where = schema.groups.c.uuid == made.uuid
    db.write(lambda c: c.execute(schema.groups.update().where(where).values(due_at=due_at, lease_until=lease_until)))
    assert db.write(lambda c: hold_to_present(c, NOW, GROUP_WAITS)) == held
    row = db.read(lambda c: c.execute(schema.groups.select()).one())
    assert (row.due_at, row.lease_until) == becomes
    assert db.write(lambda c: hold_to_present(c, NOW, GROUP_WAITS)) == {}


def test_jobs_and_sessions_are_held_too(db: Database) -> None:
    far = NOW + 400 * 24 * HOUR
    session = {"digest": "d", "account": "a", "created_at": NOW, "expires_at": far}
    job = {"uuid": "a" * 32, "operation": "o", "caller": "{}", "arguments": "", "state": "running", "created_at": NOW}
    db.write(lambda c: c.execute(insert(schema.sessions).values(session)))
    db.write(lambda c: c.execute(insert(schema.jobs).values({**job, "lease_until": far})))
    waits = (*jobs.WAITS, *sessions.WAITS)
    assert db.write(lambda c: hold_to_present(c, NOW, waits)) == {"job lease": 1, "session": 1}
    expires = db.read(lambda c: c.scalar(schema.sessions.select().with_only_columns(schema.sessions.c.expires_at)))
    assert expires == NOW + sessions.MAX_LIFETIME_MS


def test_a_rebalance_is_wanted_for_no_longer_than_it_was_to_be(db: Database) -> None:
    ahead, length = NOW + 5 * HOUR, 90_000
    db.write(lambda c: rebalances.add(c, Rebalance("a" * 32, (), ahead, ahead + length)))
    db.write(lambda c: rebalances.add(c, Rebalance("b" * 32, (), NOW - 1, NOW - 1 + 9 * HOUR)))
    assert db.write(lambda c: hold_to_present(c, NOW, rebalances.WAITS)) == {"rebalance": 1}
    held, other = (db.read(lambda c, uuid=uuid: rebalances.get(c, uuid * 32)) for uuid in "ab")  # type: ignore[misc]
    assert (held.created_at, held.until) == (NOW, NOW + length)
    assert (other.created_at, other.until) == (NOW - 1, NOW - 1 + 9 * HOUR)
    assert db.read(lambda c: rebalances.wanted(c, ["a" * 32], NOW + length)) == frozenset()


def test_a_lease_that_a_leap_of_the_clock_ended_is_not_taken(db: Database) -> None:
    db.write(lambda c: groups.create(c, group(1), due_at=0))
    assert len(db.write(lambda c: groups.take_due(c, "a", NOW, LEASE, 1))) == 1
    leapt = NOW + HOUR
    assert db.write(lambda c: groups.take_due(c, "b", leapt, LEASE, 1, leases_as_of=leapt - HOUR)) == ()
    assert len(db.write(lambda c: groups.take_due(c, "b", leapt, LEASE, 1))) == 1
