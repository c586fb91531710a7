"""Many members that come on by one commit: one pass over the gang, where each fact alone looks at all members. Pure.

It takes nothing but what ends nothing: machines that were made, run and are ready, of a gang in which nobody fails,
leaves, joins or moves. Then no step between two such facts does more than the step after the last of them
(`tests/service/lifecycle/test_laws.py` compares both). Everything else is taken fact by fact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from service.domain.groups import Group, GroupPhase, Instance, MoveStage
from service.lifecycle.facts import Fact, Observation, Observed
from service.lifecycle.members import UP, S
from service.lifecycle.settling import settle

Seen = Callable[[Group, Instance, Observed, int], Instance]
"""The member of the group after a look at its machine at a time (ms)."""

_COMES_ON = {
    S.CLAIMED: frozenset({S.CLAIMED, S.CREATING}),
    S.CREATING: frozenset({S.CREATING, S.CREATED}),
    S.CREATED: frozenset({S.CREATED, S.BOOTING, S.RUNNING}),
    S.BOOTING: frozenset({S.BOOTING, S.RUNNING}),
    S.RUNNING: frozenset({S.RUNNING}),
}
_SEEN = frozenset({Observation.DISPATCHED, Observation.PAUSED, Observation.EXECUTING, Observation.READY})


def progress(group: Group, facts: Sequence[Fact], now: int, seen: Seen) -> Group | None:
    """The group after these facts at `now` (ms), with more of the same commit to follow; None where they are to be
    taken one after the other."""
    if len(facts) < 2 or not all(_is_progress(group, fact) for fact in facts) or not _is_plain(group):
        return None
    members = {member.uuid: member for member in group.instances}
    for fact in facts:
        assert isinstance(fact, Observed)
        before = members.get(fact.instance_uuid)
        if before is None:
            continue
        after = seen(group, before, fact, now)
        if after.status not in _COMES_ON[before.status] or _begun(after) != _begun(before):
            return None
        members[fact.instance_uuid] = after
    told = tuple(members.values())
    if all(after is before for after, before in zip(told, group.instances, strict=True)):
        return group
    return settle(replace(group, instances=told), now, may_go=False)


def _is_progress(group: Group, fact: Fact) -> bool:
    """Whether it tells of a machine that comes on, and nothing that is the whole group's matter."""
    if not isinstance(fact, Observed) or fact.observation not in _SEEN:
        return False
    return not (fact.fault or fact.detail) and fact.staging is None and fact.epoch <= group.start_epoch


def _is_plain(group: Group) -> bool:
    """Whether all of the gang only comes up, or runs: its phase follows from its members and from nothing else."""
    if group.updating or group.cause or group.endpoint is not None or group.eviction is not None:
        return False
    if group.room is not None or group.waiting is not None:
        return False
    if group.go:
        of = UP if group.phase in (GroupPhase.BOOTING, GroupPhase.RUNNING) else frozenset()
    else:
        of = frozenset(_COMES_ON) if group.phase is GroupPhase.CREATING else frozenset()
    return all(member.status in of and _is_alone(member) for member in group.instances)


def _is_alone(member: Instance) -> bool:
    stays = not (member.joining or member.leaving or member.beside or member.room or member.stop_asked)
    still = member.move is MoveStage.NONE and not member.target_host_uuid
    return stays and still and not member.cause and member.staging is None


def _begun(member: Instance) -> tuple[int, int]:
    return member.attempt, member.restarts
