"""What a look at a BMC and the seats of its machine say together. Pure."""

from __future__ import annotations

import time
from collections.abc import Sequence

from service.domain import staging
from service.domain.seats import Report, Seating, SeatOf, key_of, token_in
from service.drivers.base import GuestReport, MachineIdentity, MachineState, ObservedMachine


def identity_of(of: SeatOf) -> MachineIdentity:
    """As drivers name an attempt."""
    return MachineIdentity(of.cluster, of.group, of.instance, of.attempt)


def seat_of(identity: MachineIdentity) -> SeatOf:
    """As seats name it."""
    return SeatOf(identity.cluster, identity.group, identity.instance, identity.attempt)


def in_drive(seating: Seating, image: str) -> bool:
    """Whether the seat's own seed is in the drive."""
    token = token_in(image)
    return bool(token) and key_of(token) == seating.key


def of_it(seating: Seating, image: str) -> bool:
    """Whether what is in the drive is, or once was, the seat's: it may be taken out."""
    token = token_in(image)
    return bool(token) and key_of(token) in {seating.key, *seating.former}


def state_of(seating: Seating, power: str, image: str) -> MachineState:
    """What the seat's machine is; ABSENT where nothing of it is there yet.

    A machine that is on is a seat's where its seed is in the drive, or where it was let run: a guest may have let go of
    the drive since. One that is off was never let run, or has stopped by itself, by what the seat remembers. Of an
    attempt that was given up a machine is there only where its seed says so.
    """
    if seating.revoked:
        return MachineState.RUNNING if of_it(seating, image) and power != "Off" else MachineState.TOMBSTONE
    here = in_drive(seating, image)
    if power == "Off":
        if seating.started:
            return MachineState.STOPPED
        return MachineState.PAUSED if here else MachineState.ABSENT
    if not here and not seating.started:
        return MachineState.ABSENT
    return MachineState.STOPPING if power == "PoweringOff" else MachineState.RUNNING


def explained(seats: Sequence[Seating], power: str, image: str) -> bool:
    """Whether all that the BMC shows is ours: what is on, and what is in the drive."""
    known = any(of_it(one, image) for one in seats)
    if image and not known:
        return False
    started = any(one.started and not one.revoked for one in seats)
    return power == "Off" or known or started


def observed(seating: Seating, state: MachineState) -> ObservedMachine:
    """As a driver answers it. Of one that has stopped its last word stands: one that was cleaned is off soon after."""
    identity = identity_of(seating.of)
    told = (state.executing or state is MachineState.STOPPED) and not seating.revoked
    return ObservedMachine(
        identity,
        identity.machine_uuid,
        state,
        seating.spec_hash,
        report=_guest(seating.report) if told and seating.report is not None else None,
        generation=seating.generation,
        resources=dict(seating.resources),
        name=identity.machine_name,
        record=seating.record,
    )


def _guest(report: Report) -> GuestReport:
    return GuestReport(
        report.stage,
        report.detail,
        report.epoch,
        report.address,
        time.monotonic() - report.age,
        report.count,
        report.answered,
        report.restarts,
        report.rank,
        boot_id=report.boot_id,
        weights=staging.far(report.weights),
        fault=staging.fault(report.fault),
    )
