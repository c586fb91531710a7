"""Checks that stay on in production, inside the transaction: a change that breaks one is never committed. Pure.

A violation is a bug of ours. It rolls the change back, freezes the group where it is and raises an alarm
(`corral_invariant_violations_total`); the numbers are those of ARCHITECTURE's section 5.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from service.domain.groups import Group, GroupPhase, Instance
from service.errors import InvariantViolation
from service.lifecycle.members import FINAL, PLACED, UP, S
from service.lifecycle.updating import gangs

Seats = Mapping[tuple[str, int], frozenset[str]]
Change = tuple[int, Instance | None, Instance]
"""As `Difference.changed` has them."""


def check(before: Group, after: Group, seats: Seats, changed: Iterable[Change] | None = None) -> None:
    """`seats`: (instance, attempt) -> hosts of the group's claims as they will be committed. `changed`: the members
    that it is about; None: all of them. One that is as it was has been held to all of this as it came to be so.

    Raises InvariantViolation.
    """
    if changed is None:
        known = {m.uuid: m for m in before.instances}
        changed = ((place, known.get(m.uuid), m) for place, m in enumerate(after.instances))
    for problem in _problems(before, after, seats, changed):
        raise InvariantViolation(f"group {after.uuid}: {problem}")


def _problems(before: Group, after: Group, seats: Seats, changed: Iterable[Change]) -> Iterator[str]:
    forgotten = before.phase is GroupPhase.FAILED and after.phase is GroupPhase.DELETED
    if before.phase in FINAL and after.phase is not before.phase and not forgotten:
        yield f"I11: it left the final phase {before.phase.value} for {after.phase.value}"
    for was, gang in zip(gangs(before), gangs(after), strict=False):
        if was.instances and gang.instances and was.instances[0].uuid != gang.instances[0].uuid:
            continue  # the gang that was beside the other is in its place now
        yield from _started_early(was, gang)
    yield from _address_problems(before, after)
    for _, old, new in changed:
        yield from _member_problems(old, new, seats)


def _address_problems(before: Group, after: Group) -> Iterator[str]:
    """The group's own address is another member's only once whoever may have had it is gone."""
    had = before.endpoint.holder if before.endpoint is not None else ""
    has = after.endpoint.holder if after.endpoint is not None else ""
    if had and has != had and after.endpoint is not None:
        there = [m.uuid for m in after.instances if m.uuid == had and m.status is not S.REMOVED]
        if there:
            yield f"I17: the group's address went from {had}, which is not gone, to {has or 'nobody'}"


def _started_early(before: Group, after: Group) -> Iterator[str]:
    if after.go and not before.go:
        early = [m.uuid for m in after.instances if m.status not in UP and not m.leaving]
        if early:
            yield f"I4: GO while {early} are not created"


def _member_problems(old: Instance | None, new: Instance, seats: Seats) -> Iterator[str]:
    hosts = seats.get((new.uuid, new.attempt), frozenset())
    if new.status in PLACED and new.host_uuid not in hosts:
        where = sorted(hosts) or "no host"
        yield f"I2: {new.uuid} is {new.status.value} on {new.host_uuid} and its claim is on {where}"
    if new.target_host_uuid and new.target_host_uuid not in hosts:
        yield f"I2: {new.uuid} is on its way to {new.target_host_uuid} without a claim there"
    if new.status is S.PENDING and hosts:
        yield f"I2: {new.uuid} has no seat and holds a claim on {sorted(hosts)}"
    if old is not None and new.attempt < old.attempt:
        yield f"I1: the attempt of {new.uuid} fell from {old.attempt} to {new.attempt}"
    moved = old is not None and old.status in PLACED and new.status in PLACED and old.host_uuid != new.host_uuid
    if old is not None and moved and new.attempt == old.attempt and new.host_uuid != old.target_host_uuid:
        yield f"I1: {new.uuid} moved from {old.host_uuid} to {new.host_uuid} within one attempt"
