"""What hosts show of members: their machines, and what the record in a machine's metadata tells. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import ValidationError

from service.domain.fleet import Host
from service.domain.ownership import OwnerMark
from service.domain.recovery import RECORD_VERSION, MachineRecord, ToldValues
from service.drivers.base import Listing, MachineState, ObservedMachine
from service.store.codec import decode

HALTED = frozenset({MachineState.STOPPED, MachineState.CRASHED})
"""States of a machine that executed once and does so no more."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What a host that answered showed. `told`: machine uuid -> values that its record leaves out, where they were
    read."""

    host: Host
    machines: tuple[ObservedMachine, ...]
    mark: OwnerMark | None = None
    told: Mapping[str, ToldValues] = field(default_factory=dict)


MOST_LOOKS = 4
"""A host is looked at so often before it is taken for one of which nothing is known."""
UNSTEADY = "its list of machines changes from one look to the next"


def agree(before: Listing, after: Listing) -> bool:
    """Whether two looks, one after the other, show the same: only then is a machine that they do not show taken to be
    gone (ARCHITECTURE mechanism 7)."""
    shown = [{(m.machine_uuid, m.state) for m in look.machines} for look in (before, after)]
    return before.boot_id == after.boot_id and shown[0] == shown[1]


@dataclass(frozen=True, slots=True)
class MemberMachine:
    """A member's machine, and what the host that has it shows. `record` None: none that this version reads."""

    survey: Survey
    machine: ObservedMachine
    record: MachineRecord | None

    @property
    def place(self) -> tuple[int, str]:
        """(attempt, host uuid)."""
        return self.machine.identity.attempt, self.survey.host.uuid

    @property
    def known_record(self) -> MachineRecord:
        """The record of a machine that has one."""
        assert self.record is not None
        return self.record


class Unclear(Exception):
    """Why a group cannot be recovered."""


def chosen(found: Sequence[MemberMachine], notes: list[str]) -> MemberMachine:
    """The machine of a member among those that bear its name: the latest attempt. Raises Unclear."""
    latest = max(s.machine.identity.attempt for s in found)
    there = [s for s in found if s.machine.identity.attempt == latest]
    name = there[0].machine.identity.machine_name
    if any(s.machine.state is MachineState.MIGRATING for s in found):
        raise Unclear(f"machine {name} is in the middle of a live move: look again once it has ended")
    if len(there) > 1:
        raise Unclear(f"machine {name} is on {' and on '.join(sorted(s.survey.host.name for s in there))}")
    if there[0].machine.state is MachineState.GHOST:
        raise Unclear(f"host {there[0].survey.host.name} can neither run nor remove machine {name}")
    for older in (s for s in found if s.machine.identity.attempt < latest):
        where, attempt = older.survey.host.name, older.machine.identity.attempt
        if older.machine.state not in HALTED:
            raise Unclear(f"attempts {attempt} and {latest} of one member are there at once, on {where} and "
                           f"{there[0].survey.host.name}")  # fmt: skip
        notes.append(f"attempt {attempt} of the same member is stopped on {where}: it is over, and will be removed")
    return there[0]


def record_of(machine: ObservedMachine) -> MachineRecord | None:
    """Its record, where this version reads it."""
    if not machine.record:
        return None
    try:
        record = decode(MachineRecord, machine.record)
    except ValidationError:
        return None  # of a newer version, or no record at all
    same = (record.member.uuid, record.group.uuid) == (machine.identity.instance, machine.identity.group)
    return record if same and record.version <= RECORD_VERSION else None


def withholds(machine: ObservedMachine) -> bool:
    """Whether its record leaves values out that its host may keep."""
    record = record_of(machine)
    return record is not None and bool(record.environment or record.entry_environment or record.has_parameters)


def values_of(document: str) -> ToldValues:
    """What a machine's rendezvous document tells; nothing where it is none."""
    try:
        engine = json.loads(document)["engine"]
        return ToldValues({str(name): str(value) for name, value in engine["env"].items()}, str(engine["args"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return ToldValues()
