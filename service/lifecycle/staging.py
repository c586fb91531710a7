"""Members whose image is still being brought to their host: it is told how far it is, and costs them no time. Pure."""

from __future__ import annotations

from dataclasses import replace

from service.domain.groups import Group, Instance
from service.lifecycle.facts import Staged
from service.lifecycle.members import S, each


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
