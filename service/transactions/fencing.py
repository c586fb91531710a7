"""A host that does not answer is off: what its operator's word and its BMC's proof have in common, and each step of a
fence by its BMC as a transaction of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from service.domain.fencing import DEADLINE_MS, MOST_IN_AN_HOUR, OPEN, Fence, FenceCause, FenceState
from service.domain.fleet import Fencing, Host, HostState, HostStatus
from service.errors import Unavailable
from service.lifecycle.facts import Fact, Fenced
from service.store import audit, clock, fencing, fleet, groups, ownership
from service.store.connection import Connection
from service.transactions.changes import apply, time_lost

LEASE_MS = 45_000
"""As long as a group's: more than any call to a BMC takes, and than the time for which one that was given up may send.
"""
PRINCIPAL = "corral"


class NotLeading(Exception):
    """Another process judges silent hosts by now: this one does nothing more."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a transaction left: the fence with its host, and the groups whose members are placed anew."""

    fence: Fence
    host: Host
    touched: tuple[str, ...] = field(default=())

    @property
    def over(self) -> bool:
        """Whether nothing more is to be done."""
        return self.fence.state not in OPEN


def empty(connection: Connection, host: Host, fact: Fact) -> list[str]:
    """Maintenance, and the fact for every group with a seat on the host; returns these groups."""
    now = clock.now(connection)
    seated = {group for _, group, _, _ in groups.on_host(connection, host.uuid)}
    touched = sorted(seated | {group for _, group, _ in groups.arriving(connection, host.uuid)})
    for group_uuid in touched:  # all locks first, so that the event counter's comes last
        groups.load(connection, group_uuid, lock=True)
    for group_uuid in touched:
        apply(connection, group_uuid, [fact], now)
        groups.due(connection, group_uuid, 0)
    if host.state is not HostState.MAINTENANCE:
        fleet.set_state(connection, host, HostState.MAINTENANCE, now)
    return touched


def is_off(connection: Connection, host: Host) -> list[str]:
    """It is known that the host is off: its members are placed anew. Returns their groups."""
    if host.name in ownership.ahead(connection):
        time_lost(connection, clock.now(connection))
    touched = empty(connection, host, Fenced(host.uuid))
    ownership.off(connection, host.uuid)
    return touched


def by_word(connection: Connection, host: Host, now: int) -> None:
    """Its operator has said that the host is off: no BMC needs to be asked any more."""
    if (under_way := fencing.open_of(connection, host.uuid)) is not None:
        _end(connection, under_way, host, FenceState.WITHDRAWN, "its operator has said that it is off", now)


def ask(connection: Connection, host: Host, uuid: str, cause: FenceCause, principal: str, reason: str) -> Fence:
    """Record that the host is to be switched off by its BMC; the one that is under way already, where there is one.

    The caller has locked the host's row.
    """
    if (under_way := fencing.open_of(connection, host.uuid)) is not None:
        return under_way
    now = clock.now(connection)
    made = Fence(uuid, host.uuid, cause, FenceState.ORDERED, host.hypervisor, principal, reason, asked_at=now)
    fencing.add(connection, made, host.zone_uuid)
    return made


def ask_for_silence(connection: Connection, epoch: int, host_uuid: str, uuid: str, reason: str) -> Fence | None:
    """As `ask`, by the service itself, with the record of it in the audit; None where that is not right any more.

    Raises NotLeading, NotFound.
    """
    _lead(connection, epoch)
    host = fleet.host(connection, host_uuid, lock=True)
    fit = host.status is HostStatus.DISCONNECTED and host.state is not HostState.MAINTENANCE and host.hypervisor
    if not fit or host.fencing is not Fencing.AUTO or fencing.open_fences(connection):
        return None
    now = clock.now(connection)
    if fencing.lately(connection, [FenceCause.SILENCE], now) >= MOST_IN_AN_HOUR:
        return None
    _audit(connection, "FenceSilentHost", f"{host_uuid}: {reason}", now)
    return ask(connection, host, uuid, FenceCause.SILENCE, PRINCIPAL, reason)


def look(connection: Connection, epoch: int, uuid: str) -> Step | None:
    """Whether the fence goes on, asked before each call to a BMC, with the lease renewed for that call. None: it is of
    no host any more. Raises NotLeading."""
    _lead(connection, epoch)
    found = fencing.fence(connection, uuid)
    host = None if found is None else fleet.hosts(connection, [found.host]).get(found.host)
    if found is None or host is None:
        return None
    host = fleet.host(connection, host.uuid, lock=True)
    found = fencing.fence(connection, uuid) or found
    if found.state not in OPEN:
        return Step(found, host)
    now = clock.now(connection)
    ended = _reason_to_end(found, host, now)
    if ended is not None:
        return Step(_end(connection, found, host, *ended, now), host)
    if host.status is HostStatus.CONNECTING:
        raise Unavailable("a replica has just started, and nobody knows yet whether the host answers")
    return Step(found, host)


def order(connection: Connection, epoch: int, uuid: str) -> Step | None:
    """`look`, and on record that the BMC is told to cut the power: committed before it is told."""
    step = look(connection, epoch, uuid)
    if step is None or step.over:
        return step
    told = replace(step.fence, state=FenceState.SENDING, orders=step.fence.orders + 1)
    fencing.put(connection, told, step.host.zone_uuid, clock.now(connection))
    return replace(step, fence=told)


def proven(connection: Connection, epoch: int, uuid: str) -> Step | None:
    """`look`, and the host is off: its members are placed anew."""
    step = look(connection, epoch, uuid)
    if step is None or step.over:
        return step
    now = clock.now(connection)
    touched = is_off(connection, step.host)
    _audit(connection, "FencedHost", f"{step.host.uuid}: seen off twice by its BMC", now)
    ended = _end(connection, step.fence, step.host, FenceState.FENCED, "seen off twice by its BMC", now)
    return Step(ended, step.host, tuple(touched))


def fail(connection: Connection, epoch: int, uuid: str, state: FenceState, reason: str) -> Step | None:
    """`look`, and the fence ends without proof."""
    step = look(connection, epoch, uuid)
    if step is None or step.over:
        return step
    return replace(step, fence=_end(connection, step.fence, step.host, state, reason, clock.now(connection)))


def trouble(connection: Connection, epoch: int, uuid: str, reason: str) -> Step | None:
    """`look`, and why it takes its time."""
    step = look(connection, epoch, uuid)
    if step is None or step.over or step.fence.reason == reason:
        return step
    told = replace(step.fence, reason=reason)
    fencing.put(connection, told, step.host.zone_uuid, clock.now(connection))
    return replace(step, fence=told)


def rehearse(connection: Connection, epoch: int, host: Host, uuid: str, reason: str) -> None:
    """Record what would have been done with a host whose fencing is dry. Raises NotLeading."""
    _lead(connection, epoch)
    now = clock.now(connection)
    told = Fence(
        uuid, host.uuid, FenceCause.DRY, FenceState.REHEARSED, host.hypervisor, PRINCIPAL, reason,
        asked_at=now, ended_at=now,
    )  # fmt: skip
    fencing.add(connection, told, host.zone_uuid)
    _audit(connection, "RehearseFence", f"{host.uuid}: {reason}", now)


def under_lease(connection: Connection, epoch: int, work: Callable[[int], None]) -> None:
    """Run `work(now)` for the process that leads. Raises NotLeading."""
    _lead(connection, epoch)
    work(clock.now(connection))


def _lead(connection: Connection, epoch: int) -> None:
    if not fencing.renew_lease(connection, epoch, clock.now(connection), LEASE_MS):
        raise NotLeading


def _reason_to_end(found: Fence, host: Host, now: int) -> tuple[FenceState, str] | None:
    by_itself = found.cause is FenceCause.SILENCE
    if host.status not in (HostStatus.DISCONNECTED, HostStatus.CONNECTING):
        return FenceState.WITHDRAWN, "the host answers again: what its machines are is for it to say"
    if by_itself and host.state is HostState.MAINTENANCE:
        return FenceState.WITHDRAWN, "the host is under maintenance, which is an operator's work"
    if host.fencing is Fencing.OFF or (by_itself and host.fencing is not Fencing.AUTO):
        return FenceState.WITHDRAWN, "its operator has forbidden it meanwhile"
    if host.hypervisor != found.machine:
        return FenceState.FAILED, "the host is another machine than it was"
    if now > found.asked_at + DEADLINE_MS:
        return FenceState.FAILED, f"not proven off in time: {found.reason}"
    return None


def _end(connection: Connection, found: Fence, host: Host, state: FenceState, reason: str, now: int) -> Fence:
    ended = replace(found, state=state, reason=reason, ended_at=now)
    fencing.put(connection, ended, host.zone_uuid, now)
    return ended


def _audit(connection: Connection, method: str, subject: str, now: int) -> None:
    audit.record(connection, principal=PRINCIPAL, project="", method=method, subject=subject, request_id="", now=now)
