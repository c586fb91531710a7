"""Whose claims a fact ends: the only place that names them. Pure."""

from __future__ import annotations

from service.domain.difference import difference
from service.domain.groups import Group, Instance
from service.lifecycle.facts import Fact, MoveAborted, Moved, Observation, Observed
from service.lifecycle.members import S, never_sent


def released(before: Group, fact: Fact, after: Group) -> tuple[tuple[str, int, str], ...]:
    """The (instance, attempt, host) whose claims this step ends: seen gone, or never sent anything.

    A member that was left behind on a silent host is not among them: its old claim stands until the sweep sees the
    machine absent (ARCHITECTURE I2).
    """
    if isinstance(fact, Moved | MoveAborted):
        return _released_by_move(before, fact, after)
    changed, left = difference(before, after)
    gone = []
    pairs: list[tuple[Instance, Instance | None]] = [(old, new) for _, old, new in changed if old is not None]
    for old, new in (*pairs, *((old, None) for old in left)):
        stays = new is not None and old.attempt == new.attempt and new.status is not S.REMOVED
        if old.status is S.REMOVED or stays:
            continue
        seen_gone = (
            isinstance(fact, Observed) and fact.observation is Observation.GONE and fact.instance_uuid == old.uuid
        )
        if seen_gone or never_sent(old):
            gone.append((old.uuid, old.attempt, old.host_uuid))
    return tuple(gone)


def _released_by_move(before: Group, fact: Moved | MoveAborted, after: Group) -> tuple[tuple[str, int, str], ...]:
    """The host that a live move has left, or did not get to."""
    if before == after or (isinstance(fact, MoveAborted) and not fact.absent):
        return ()
    old = before.instance(fact.instance_uuid)
    return ((old.uuid, old.attempt, old.host_uuid if isinstance(fact, Moved) else old.target_host_uuid),)
