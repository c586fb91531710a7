"""Members whose image is still being brought to their host, or whose guest fetches its weights: it is told how far that
is, and it costs them no time. Pure."""

from __future__ import annotations

from dataclasses import replace

from service.domain.groups import Failure, Group, Instance
from service.lifecycle.facts import Observation, Observed, Staged
from service.lifecycle.members import LAUNCHING, S, altered, each
from service.lifecycle.settling import give_up


def staged(group: Group, fact: Staged, now: int) -> Group:
    """The group's own time to come up does not run while an image is on its way: how long that takes is limited by
    its size, and is no matter of the group's. What passed since the last news of any member is put on once."""
    there = next((m for m in group.instances if m.uuid == fact.instance_uuid), None)
    if there is None or there.attempt != fact.attempt or there.status is not S.CREATING:
        return group
    last = max((m.staging.at for m in group.instances if m.staging is not None and m.status is S.CREATING), default=0)
    passed = max(0, now - last) if last else 0

    def take(member: Instance) -> Instance:
        if member.uuid != fact.instance_uuid:
            return member
        return replace(member, staging=replace(fact.staging, at=now), reason=str(fact.staging))

    return replace(each(group, take), deadline_at=group.deadline_at + passed if group.deadline_at else 0)


def fetched(group: Group, fact: Observed, now: int) -> Group:
    """The group after a guest has said how far its weights have come, or that it fetches none any more.

    While bytes come neither the group's time runs nor that of any member that boots: others wait at their gates for it.
    What passed since the last news of any member is put on once. Where none come it runs, and ends the wait.
    """
    there = next((m for m in group.instances if m.uuid == fact.instance_uuid), None)
    if there is None or there.attempt != fact.attempt or there.status is not S.BOOTING:
        return group
    before, after = there.staging, fact.staging
    moved = after is not None and (before is None or before.done != after.done)
    if (after is None and before is None) or (after is not None and not moved):
        return group
    last = max((m.staging.at for m in group.instances if m.staging is not None and m.status is S.BOOTING), default=0)
    passed = max(0, now - last) if last and moved else 0

    def take(member: Instance) -> Instance:
        if passed and member.status is S.BOOTING and member.deadline_at:
            member = replace(member, deadline_at=member.deadline_at + passed)
        if member.uuid != fact.instance_uuid:
            return member
        told = replace(after, at=now) if after is not None else None
        unsaid = member.reason in ("", str(before))
        return altered(member, staging=told, reason=str(told or "") if unsaid else member.reason)

    return replace(each(group, take), deadline_at=group.deadline_at + passed if group.deadline_at else 0)


def refused(group: Group, fact: Observed, now: int) -> Group | None:
    """The group given up where a guest can never start its engine: another try, on whichever host, would find the same.
    None where that is not said, and of a group that has served: what serves goes on, by its budget."""
    if not fact.fault or fact.observation is not Observation.GIVEN_UP:
        return None
    there = next((m for m in group.instances if m.uuid == fact.instance_uuid and m.attempt == fact.attempt), None)
    if there is None or there.status is not S.BOOTING:
        return None
    if group.served or group.phase not in LAUNCHING:
        return None
    failure = Failure(fact.fault, f"member {there.spec.name} (rank {there.rank}): {fact.reason}")
    return give_up(group, failure, now)
