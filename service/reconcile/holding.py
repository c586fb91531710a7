"""What is on record of a host's machines, and which of them nobody knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from service.domain.cleaning import cleaner_of
from service.domain.ownership import Fate, Holding, Quarantined, Records, fate_at_claim
from service.drivers.base import MachineState, ObservedMachine
from service.store import claims, cleanings, clock, groups, left_seats, ownership, retired
from service.store.connection import Connection


@dataclass(frozen=True, slots=True)
class Seats:
    """What the store says of one host: attempts that want a machine there, and claims whose attempt is over."""

    wanted: frozenset[tuple[str, int]]
    stale_claims: frozenset[tuple[str, int, str]]


def seats(connection: Connection, host_uuid: str) -> Seats:
    """Read both in one transaction."""
    seated = groups.on_host(connection, host_uuid)
    arriving = groups.arriving(connection, host_uuid)
    current = frozenset(
        {(instance, attempt) for instance, _, attempt, _ in seated}
        | {(instance, attempt) for instance, _, attempt in arriving}
    )
    stale = frozenset(c for c in claims.on_host(connection, host_uuid) if (c[0], c[1]) not in current)
    return Seats(current, stale)


def records(connection: Connection, host_uuid: str, instances: Sequence[str]) -> tuple[Seats, Records]:
    """The seats of a host, and what is on record of these instances, in one transaction."""
    here = seats(connection, host_uuid)
    found = retired.records(connection, host_uuid, here.wanted, instances)
    left = left_seats.records(connection, host_uuid, instances)
    found = replace(found, retired={**left, **found.retired}, left=frozenset(left))
    return here, _with_cleaning(connection, host_uuid, found) if cleaner_of(host_uuid) in instances else found


def _with_cleaning(connection: Connection, host_uuid: str, found: Records) -> Records:
    """What cleans the host is wanted while that is under way, and is at a later attempt once it is over."""
    mine = cleaner_of(host_uuid)
    count, under_way = cleanings.attempt_now(connection, host_uuid)
    wanted = found.wanted | {(mine, count)} if under_way else found.wanted
    return replace(found, wanted=wanted, current={**found.current, mine: count if under_way else count + 1})


def hold_unknown(connection: Connection, host_uuid: str, machines: Sequence[ObservedMachine]) -> None:
    """Take into quarantine what nobody knows of these, beside what is held there already."""
    there = [m for m in machines if m.state is not MachineState.TOMBSTONE]
    _, known = records(connection, host_uuid, [m.identity.instance for m in there])
    judged = [(m, *fate_at_claim(known, *seat_of(m), m.machine_uuid)) for m in there]
    unknown = {m.machine_uuid: quarantined(m, why) for m, what, why in judged if what is Fate.QUARANTINE}
    before = {q.key: q for q in ownership.quarantine(connection, host_uuid)}
    ownership.hold(connection, host_uuid, list((before | unknown).values()), clock.now(connection))


def quarantined(machine: ObservedMachine, reason: str) -> Quarantined:
    """As it is held, for that reason."""
    identity = machine.identity
    return Quarantined(
        host="",
        key=machine.machine_uuid,
        holding=Holding.MACHINE,
        group=identity.group,
        instance=identity.instance,
        attempt=identity.attempt,
        name=machine.name or identity.machine_name,
        state=machine.state.value,
        reason=reason,
        resources=machine.resources,
        devices=machine.devices or (),
    )


def seat_of(machine: ObservedMachine) -> tuple[str, int]:
    """(instance, attempt) by its metadata."""
    return machine.identity.instance, machine.identity.attempt
