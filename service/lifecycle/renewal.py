"""A group that runs and whose members change starts anew without being stopped: its epoch rises, and those that go on
running are told. Pure.

Only where engines cannot do without each other (`GroupSpec.tells`): one that lost a peer has to be started again, and a
member that the group has gone on without must never serve it again.
"""

from __future__ import annotations

from dataclasses import replace

from service.domain.groups import Group, Instance
from service.lifecycle.facts import Observation, Observed
from service.lifecycle.members import LAUNCHING, S, altered, each, outdated
from service.lifecycle.moving import go_over

BEHIND = "it does not know the group's present start yet"
UNHEARD = "its guest cannot be heard: its host refuses the progress channel"
CLASH = "another machine answers for its address"
RESET = "its machine was reset"
FURTHEST = 1_000
"""By how many starts a guest may be ahead of the database at most."""
ANSWERS_APART_MS = 10_000
"""A right answer is written down when the one before is so much older."""
_RUNNING = (Observation.EXECUTING, Observation.READY, Observation.UNREADY, Observation.GIVEN_UP)
_NOT_RUNNING = (Observation.HALTED, Observation.GONE, Observation.PAUSED)


def renewed(before: Group, after: Group, now: int) -> Group:
    """`after`, at the next start where a change made members anew, took some out or brought some in."""
    goes_on = before.go and after.go and after.starts == before.starts and after.phase in LAUNCHING
    if not (goes_on and after.spec.tells and _runs(before) != _runs(after)):
        return after

    def fall_behind(member: Instance) -> Instance:
        # One in the middle of a live move is told where it arrives.
        serves = member.status is S.RUNNING and not member.target_host_uuid
        return go_over(member, S.BOOTING, BEHIND, now) if serves else member

    return each(replace(after, start_epoch=after.start_epoch + 1), fall_behind)


def _runs(group: Group) -> frozenset[tuple[str, int, int]]:
    """What members are made of now: each one's attempt, and its starts there. Who is to join counts once its machine is
    about to be made: a scaling that finds no room disturbs nobody. Who leaves counts until it is gone."""
    made = (m for m in group.instances if not (m.joining and m.status in (S.PENDING, S.CLAIMED)))
    return frozenset((m.uuid, m.attempt, m.restarts) for m in made)


def caught_up(group: Group, fact: Observed) -> Group:
    """The group at the start that a guest of it knows, where a database that was restored or recovered is behind it:
    the next start must be one that no guest has heard of. What a guest says is bounded, since it is a stranger."""
    ahead = group.go and group.spec.tells and 0 < fact.epoch - group.start_epoch <= FURTHEST
    if not ahead or all((m.uuid, m.attempt) != (fact.instance_uuid, fact.attempt) for m in group.instances):
        return group
    return replace(group, start_epoch=fact.epoch)


def not_ready(member: Instance) -> Observation:
    """What one is seen to do that serves, but not as it should: it executes, and where it ran it does so no more."""
    return Observation.UNREADY if member.status is S.RUNNING else Observation.EXECUTING


def was_reset(member: Instance, fact: Observed, now: int) -> bool:
    """Whether the guest of a member that runs boots anew, or has: somebody has reset it, or it has itself.

    By its host's word, where that is newer than what is stored of the member; or by the guest's own, whose boot may
    have passed between two looks, or was heard by a replica alone that has no turn.
    """
    if member.status is not S.RUNNING:
        return False
    if fact.reset_ms >= 0 and now - fact.reset_ms > member.updated_at:
        return True
    return bool(member.guest_boot and fact.boot_id) and member.guest_boot != fact.boot_id


def heard(group: Group, member: Instance, fact: Observed, now: int) -> Instance:
    """The member with what its guest says of itself, and since when it says nothing."""
    if fact.observation not in _RUNNING:
        return altered(member, silent_since=0) if fact.observation in _NOT_RUNNING else member
    if member.status in (S.BOOTING, S.RUNNING) and (not member.reason or member.reason.startswith((UNHEARD, CLASH))):
        clash = f"{CLASH} {member.address or fact.address}: {fact.clash}" if fact.clash else ""
        member = altered(member, reason=UNHEARD if fact.unheard else clash)
    member = altered(member, guest_boot=fact.boot_id or member.guest_boot)
    silent_since = (member.silent_since or now) if fact.silent else 0
    if not fact.epoch or fact.silent:
        return altered(member, silent_since=silent_since)
    answered_at = now - fact.answered_ms if fact.answered_ms >= 0 else 0
    news = answered_at >= member.last_answer_at + ANSWERS_APART_MS
    told = altered(
        member,
        silent_since=silent_since,
        told_epoch=max(member.told_epoch, fact.epoch),
        last_answer_at=answered_at if news else member.last_answer_at,
        engine_restarts=fact.engine_restarts,
        holds=fact.endpoint,
    )
    return replace(told, reason="") if told.reason == BEHIND and not outdated(group, told) else told
