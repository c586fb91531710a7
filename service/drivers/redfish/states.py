"""What a look at a BMC and the seats of its machine say together. Pure."""

from __future__ import annotations

import time
from collections.abc import Sequence

from service.domain import staging
from service.domain.seats import Report, Seating, SeatOf, key_of, token_in
from service.drivers.base import MachineIdentity, MachineState, ObservedMachine
from service.drivers.reports import GuestReport


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


def state_of(seating: Seating, power: str, image: str, seats: Sequence[Seating]) -> MachineState:
    """What the seat's machine is; ABSENT where nothing of it is there yet. `seats`: all of the machine.

    A machine that is on is a seat's where its seed is in the drive, or where it was let run: a guest may have let go of
    the drive since. One that is off was never let run, or has stopped by itself, by what the seat remembers. Of an
    attempt that was given up a machine is there where its seed says so, or where an order that nobody saw answered
    explains why it is on, and never where that may be the machine of whoever sits there now.
    """
    if seating.live:
        return _of_live(seating, power, image)
    if power == "Off":
        emptied = seating.left and of_it(seating, image) and not any(one.live for one in seats)
        nothing = MachineState.ABSENT if seating.left else MachineState.TOMBSTONE
        return MachineState.PAUSED if emptied else nothing
    if seating is _given_up_and_on(seats, image):
        return MachineState.RUNNING
    return MachineState.ABSENT if seating.left else MachineState.TOMBSTONE


def _of_live(seating: Seating, power: str, image: str) -> MachineState:
    here = in_drive(seating, image)
    if power == "Off":
        if seating.started:
            return MachineState.STOPPED
        return MachineState.PAUSED if here else MachineState.ABSENT
    if not here and not seating.started:
        return MachineState.ABSENT
    return MachineState.STOPPING if power == "PoweringOff" else MachineState.RUNNING


def _given_up_and_on(seats: Sequence[Seating], image: str) -> Seating | None:
    """Of which attempt that was given up the machine is, which is on: the one whose seed is in its drive, or the last
    one whose order to switch on nobody saw answered, where nothing is in it."""
    if any(one.live and (one.started or in_drive(one, image)) for one in seats):
        return None
    if image:
        return next((one for one in seats if not one.live and of_it(one, image)), None)
    return min((one for one in seats if one.late), key=lambda one: (one.left, one.age), default=None)


def states(seats: Sequence[Seating], power: str, image: str) -> Sequence[tuple[Seating, MachineState]]:
    """What each seat's machine is; see `state_of`."""
    return [(one, state_of(one, power, image, seats)) for one in seats]


def explained(seats: Sequence[Seating], power: str, image: str) -> bool:
    """Whether all that the BMC shows is ours: what is on, and what is in the drive."""
    known = any(of_it(one, image) for one in seats)
    if image and not known:
        return False
    started = any(one.started and one.live for one in seats)
    return power == "Off" or known or started or _given_up_and_on(seats, image) is not None


def free(seats: Sequence[Seating], power: str, image: str) -> bool:
    """Whether nothing is there that a claim does not cover: nothing of others, nor of an attempt that was given up."""
    given_up = _given_up_and_on(seats, image) if power != "Off" else None
    return explained(seats, power, image) and given_up is None


def observed(seating: Seating, state: MachineState) -> ObservedMachine:
    """As a driver answers it. Of one that has stopped its last word stands: one that was cleaned is off soon after."""
    identity = identity_of(seating.of)
    told = (state.executing or state is MachineState.STOPPED) and seating.live
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
