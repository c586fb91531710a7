"""In which states of a group callers may change it."""

from __future__ import annotations

from service.domain.groups import Group, GroupPhase, GroupStatus
from service.errors import WrongState


def require(group: Group, allowed: frozenset[GroupStatus] | set[GroupStatus], needs: str) -> None:
    """Raises WrongState where the group is in no such state, or is being updated."""
    if group.updating and group.update is not None:
        standing = f"in its update {group.update.number} ({group.update.stage.value})"
        needed = "no update in progress: wait for its end, or take it back"
        raise WrongState(f"instance group {group.uuid}", standing, needed)
    if group.status not in allowed:
        states = [status.value for status in allowed]
        raise WrongState(f"instance group {group.uuid}", group.status.value, needs, states)


def require_whole(group: Group) -> None:
    """Raises WrongState where members of a group that serves are still on their way, as after a scaling."""
    if group.phase is not GroupPhase.RUNNING:
        needed = "all of its members to run: wait until those that start do"
        raise WrongState(f"instance group {group.uuid}", f"{group.status.value}, and {group.phase.value}", needed)
