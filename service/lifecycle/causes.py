"""What a host itself said of a failure goes with the reason that it is behind, for those who may see it. Pure.

A cause is kept beside the reason that it explains (`cause_of`), and counts for nothing where another reason took that
one's place: `domain.causes.Explained`.
"""

from __future__ import annotations

from dataclasses import replace

from service.domain.groups import Failure, Group, Instance
from service.lifecycle.facts import Fact, MoveImpossible, Observation, Observed
from service.lifecycle.members import S, each


def caused(group: Group, fact: Fact) -> Group:
    """The member that a fact is of, with what its host said."""
    if not isinstance(fact, Observed | MoveImpossible):
        return group
    anew = isinstance(fact, Observed) and fact.observation is Observation.REJECTED
    if not fact.reason or not (fact.detail or anew):
        return group

    def told(member: Instance) -> Instance:
        if member.uuid != fact.instance_uuid or fact.reason not in member.reason:
            return member
        return replace(member, cause=fact.detail, cause_of=fact.reason if fact.detail else "")

    return each(group, told)


def explained(group: Group) -> Group:
    """The group with the cause of the reason that it quotes, and nobody with one of a reason that is past."""
    if not group.cause and not any(m.cause for m in group.instances):
        return group
    quoted = next((m for m in group.instances if m.cause and m.cause_of in group.reason), None)
    if quoted is not None:
        group = replace(group, cause=quoted.cause, cause_of=quoted.cause_of)
    elif not group.told_cause:
        group = replace(group, cause="", cause_of="")
    return each(group, lambda m: m if m.told_cause or not m.cause else replace(m, cause="", cause_of=""))


def with_first_cause(group: Group, failure: Failure) -> Failure:
    """The failure, with the reason why a member had to be placed anew: that there was no room came after that."""
    moved = next((m for m in group.instances if m.status is S.PENDING and m.attempt > 1 and m.reason), None)
    if moved is None:
        return failure
    told = f"{failure.message}; model_services[{moved.rank}] needed another host: {moved.reason}"
    return replace(failure, message=told)
