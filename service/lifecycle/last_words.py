"""What a member's machine said last: kept with the member, and told in the reason for which it failed. Pure."""

from __future__ import annotations

from dataclasses import replace

from service.domain import log_text
from service.domain.groups import Group, Instance
from service.lifecycle.facts import LastLines, Observed
from service.lifecycle.members import LAUNCHING, S, each


def late(group: Group, now: int) -> list[Instance]:
    """Members that were let run and are given up at this moment, because they are not ready in their time."""
    if group.phase not in LAUNCHING:
        return []
    own = 0 if group.served else group.deadline_at

    def is_late(member: Instance) -> bool:
        over = [at for at in (member.deadline_at, own) if at]
        runs = member.status in (S.CREATED, S.BOOTING) and member.was_resumed and not member.unknown_since
        return runs and any(now >= at for at in over)

    return [member for member in group.instances if is_late(member)]


def remembered(member: Instance, fact: Observed) -> Instance:
    """The member with the last lines that were read with a look at it."""
    return replace(member, last_lines=fact.last_lines) if fact.last_lines else member


def reason(fact: Observed, told: str) -> str:
    """Why a member takes on another status, with what it said last where that was read."""
    return log_text.told(told, fact.last_lines)


def taken(group: Group, fact: LastLines, now: int) -> Group:
    """The group after the last lines of a member that is about to be given up were read."""

    def take(member: Instance) -> Instance:
        if (member.uuid, member.attempt) != (fact.instance_uuid, fact.attempt):
            return member
        return replace(member, last_lines=fact.text, reason=log_text.told(member.reason or fact.said, fact.text))

    return each(group, take)


def why_late(group: Group, now: int) -> str:
    """Of a group whose time is over: the first member that is not ready, and what is known of it; else empty."""
    return next((f": {m.spec.name} (rank {m.rank}): {m.reason}" for m in late(group, now) if m.reason), "")
