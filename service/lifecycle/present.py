"""A group's own times where the database's clock was set: none lies further ahead than its kind is ever set, and none
passes by a leap alone.

The clock may have been ahead and be set right. A pause, a deadline or the time since when something has been so, stored
meanwhile, then lies in the future, and the group would wait for it. Or it leaps ahead: a boot of a minute would then be
taken for one that is late by the leap, and be ended for that. Pure.
"""

from __future__ import annotations

from dataclasses import replace

from service.domain.groups import Group, Instance, RoomWish, Waiting
from service.domain.leaving import Eviction
from service.lifecycle.members import S
from service.lifecycle.moving import longest_move
from service.lifecycle.room import ASK_MOST_MS
from service.lifecycle.settling import RETRY_MOST_MS

SLACK_MS = 20_000
"""A time may have been set after `now` was read: later by as long as a transaction takes, at most."""


def held_to_present(group: Group, now: int) -> Group:
    """The group without times that cannot be: each at the furthest that it can lie ahead of `now` (ms). The very same
    object where there are none."""
    members = tuple(_member(m, now) for m in group.instances)
    retry_at = _held(group.retry_at, now, RETRY_MOST_MS)
    running_since = _held(group.running_since, now, 0)
    deadline_at = _held(group.deadline_at, now, group.spec.deadline_ms)
    waiting, eviction, room = _waiting(group.waiting, now), _eviction(group.eviction, now), _room(group.room, now)
    if (retry_at, running_since, deadline_at, waiting, eviction, room) == (
        group.retry_at, group.running_since, group.deadline_at, group.waiting, group.eviction, group.room,
    ) and all(new is old for new, old in zip(members, group.instances, strict=True)):  # fmt: skip
        return group
    return replace(
        group,
        retry_at=retry_at,
        running_since=running_since,
        deadline_at=deadline_at,
        waiting=waiting,
        eviction=eviction,
        room=room,
        instances=members,
    )


def carried_on(group: Group, by_ms: int) -> Group:
    """The group after a leap of the clock ahead: what was to be waited for takes as long as before."""
    return replace(
        group,
        retry_at=_later(group.retry_at, by_ms),
        running_since=_later(group.running_since, by_ms),
        deadline_at=_later(group.deadline_at, by_ms),
        waiting=_carried_on(group.waiting, by_ms),
        eviction=replace(group.eviction, at=_later(group.eviction.at, by_ms)) if group.eviction is not None else None,
        room=replace(group.room, asks_again_at=_later(group.room.asks_again_at, by_ms)) if group.room else None,
        instances=tuple(
            replace(
                member,
                deadline_at=_later(member.deadline_at, by_ms),
                move_deadline_at=_later(member.move_deadline_at, by_ms),
                unknown_since=_later(member.unknown_since, by_ms),
                paused_at=_later(member.paused_at, by_ms),
                moved_at=_later(member.moved_at, by_ms),
                silent_since=_later(member.silent_since, by_ms),
                staging=replace(member.staging, at=member.staging.at + by_ms) if member.staging else None,
            )
            for member in group.instances
        ),
    )


def begun_anew(group: Group, now: int) -> Group:
    """The group of a database that has lost the time up to now: a boot, a live move, a group's own deadline that passed
    in it counts from now, whole, and so does a silence. Whoever was to end may be ended at once."""
    return replace(
        group,
        running_since=now if group.running_since else 0,
        deadline_at=_anew(group.deadline_at, now, group.spec.deadline_ms),
        waiting=_waits_anew(group.waiting, now),
        eviction=_noticed_anew(group.eviction, now),
        instances=tuple(
            replace(
                member,
                deadline_at=_anew(member.deadline_at, now, member.boot_timeout_ms)
                if member.status in (S.BOOTING, S.CREATED)
                else member.deadline_at,
                move_deadline_at=_anew(member.move_deadline_at, now, longest_move(member)),
                unknown_since=now if member.unknown_since else 0,
                silent_since=now if member.silent_since else 0,
            )
            for member in group.instances
        ),
    )


def _waiting(waiting: Waiting | None, now: int) -> Waiting | None:
    """A time that the caller has named is not moved."""
    if waiting is None:
        return None
    until = _held(waiting.until, now, waiting.length) if waiting.length else waiting.until
    return replace(waiting, until=until, since=_held(waiting.since, now, 0), looked_at=_held(waiting.looked_at, now, 0))


def _carried_on(waiting: Waiting | None, by_ms: int) -> Waiting | None:
    if waiting is None:
        return None
    until = _later(waiting.until, by_ms) if waiting.length else waiting.until
    return replace(waiting, until=until, since=_later(waiting.since, by_ms))


def _waits_anew(waiting: Waiting | None, now: int) -> Waiting | None:
    return replace(waiting, until=_anew(waiting.until, now, waiting.length)) if waiting is not None else None


def _eviction(asked: Eviction | None, now: int) -> Eviction | None:
    return replace(asked, at=_held(asked.at, now, asked.notice_ms)) if asked is not None else None


def _noticed_anew(asked: Eviction | None, now: int) -> Eviction | None:
    return replace(asked, at=_anew(asked.at, now, asked.notice_ms)) if asked is not None else None


def _room(wish: RoomWish | None, now: int) -> RoomWish | None:
    return replace(wish, asks_again_at=_held(wish.asks_again_at, now, ASK_MOST_MS)) if wish is not None else None


def _anew(at: int, now: int, whole: int) -> int:
    return now + whole if whole and 0 < at <= now else at


def _later(at: int, by_ms: int) -> int:
    return at + by_ms if at else 0


def _member(member: Instance, now: int) -> Instance:
    deadline_at = _held(member.deadline_at, now, max(member.boot_timeout_ms, member.stop_grace_ms))
    move_deadline_at = _held(member.move_deadline_at, now, longest_move(member))
    unknown_since, paused_at = _held(member.unknown_since, now, 0), _held(member.paused_at, now, 0)
    silent_since, last_answer_at = _held(member.silent_since, now, 0), _held(member.last_answer_at, now, 0)
    moved_at = _held(member.moved_at, now, 0)
    if (deadline_at, move_deadline_at, unknown_since, paused_at, silent_since, last_answer_at, moved_at) == (
        member.deadline_at, member.move_deadline_at, member.unknown_since, member.paused_at,
        member.silent_since, member.last_answer_at, member.moved_at,
    ):  # fmt: skip
        return member
    return replace(
        member,
        deadline_at=deadline_at,
        move_deadline_at=move_deadline_at,
        unknown_since=unknown_since,
        paused_at=paused_at,
        silent_since=silent_since,
        last_answer_at=last_answer_at,
        moved_at=moved_at,
    )


def _held(at: int, now: int, longest: int) -> int:
    return now + longest if at > now + longest + SLACK_MS else at
