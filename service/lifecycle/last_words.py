"""What a member's machine said last: kept with the member, and told in the reason for which it failed. Pure."""

from __future__ import annotations

from dataclasses import replace

from service.domain import log_text
from service.domain.groups import Group, Instance
from service.lifecycle.facts import LastLines, Observation, Observed
from service.lifecycle.members import LAUNCHING, S, altered, each

GUEST_SAYS = "its guest says"
"""How the reason begins that is a guest's own word."""
TOLD_EVERY_MS = 10_000
"""What a member waits for that comes up is told where it takes so long, and once in that time: guests are strangers."""


def coming_up(group: Group, member: Instance, fact: Observed, now: int) -> Instance:
    """The member with what its guest says of its boot. Of a group that has served the reason stands why it does not."""
    waits = member.status is S.BOOTING and fact.observation is Observation.EXECUTING and not group.served
    if not waits or not fact.reason or now < member.updated_at + TOLD_EVERY_MS:
        return member
    return altered(member, reason=fact.reason) if not member.reason or _is_guests(member.reason) else member


def _is_guests(reason: str) -> bool:
    return reason.startswith(GUEST_SAYS)


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
        newer = fact.said and (not member.reason or _is_guests(member.reason))
        told = log_text.told(fact.said if newer else member.reason, fact.text)
        return replace(member, last_lines=fact.text, reason=told)

    return each(group, take)


def why_late(group: Group, now: int) -> str:
    """Of a group whose time is over: the first member that is not ready, and what is known of it; else empty."""
    return next((f": {m.spec.name} (rank {m.rank}): {m.reason}" for m in late(group, now) if m.reason), "")
