"""What has to be written so that a database knows again what runs on its hosts. Pure: from what hosts show and what the
database has to a typed plan, which may be looked at before anything is written.

A machine is the truth of where and as which attempt a member is, its record of what it was made from, and the database
of everything that it still knows. Nothing that executes is ever concluded to be over: what cannot be told is a problem,
and stays as it is.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from pydantic import ValidationError

from service.domain.catalog import ModelService, version_key
from service.domain.fleet import Host
from service.domain.groups import Group, GroupPhase, GroupStatus, Instance, InstanceStatus
from service.domain.ownership import Installation, OwnerMark
from service.domain.recovery import RECORD_VERSION, MachineRecord, ToldValues, numbers, ranges
from service.drivers.base import MachineState, ObservedMachine
from service.lifecycle.members import FINAL, LAUNCHING, S, unmoved, vacate
from service.lifecycle.settling import public_status
from service.store.codec import decode

_MADE = frozenset({S.CREATED, S.BOOTING, S.RUNNING, S.STOPPING, S.STOPPED})
"""Members of which a machine was seen."""
_HALTED = frozenset({MachineState.STOPPED, MachineState.CRASHED})
_ENDING = frozenset({GroupPhase.DELETING, GroupPhase.CLEANING})


@dataclass(frozen=True, slots=True)
class Survey:
    """What a host that answered showed. `told`: machine uuid -> values that its record leaves out, where they were
    read."""

    host: Host
    machines: tuple[ObservedMachine, ...]
    mark: OwnerMark | None = None
    told: Mapping[str, ToldValues] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Known:
    """What the database has. `groups`: by uuid, those that are not over and those that hosts show.

    `retired`: (instance, attempt, host) that were let go. `versions`: `version_key` of every catalogue entry.
    `generation`: how far it has come.
    """

    installation: Installation
    generation: int = 0
    groups: Mapping[str, Group] = field(default_factory=dict)
    retired: frozenset[tuple[str, int, str]] = frozenset()
    versions: frozenset[str] = frozenset()


class Act(StrEnum):
    """What is to be done with a group."""

    CREATE = "create"  # the database has none of this uuid
    CORRECT = "correct"  # a member is elsewhere, or in another state, than the database has it
    END = "end"  # its machines are gone from all hosts: it was deleted after this database was saved


@dataclass(frozen=True, slots=True)
class GroupChange:
    """`group`: as it is to be. `notes`: what an operator should know of it. `entries`: catalogue entries to restore.

    `changed`: uuids of members that are other than the database has them. `missing`: names of values that nothing
    tells any more.
    """

    act: Act
    group: Group
    changed: frozenset[str]
    notes: tuple[str, ...] = ()
    entries: tuple[ModelService, ...] = ()
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Problem:
    """What cannot be recovered, and why. `group`: empty where it concerns no group alone."""

    group: str
    why: str


@dataclass(frozen=True, slots=True)
class RecoveryPlan:
    """`above`: the generation that the database has to be lifted over; 0 for none. `silent`: host name -> why nothing
    is known of it. `whole`: groups that are as the database has them."""

    changes: tuple[GroupChange, ...] = ()
    problems: tuple[Problem, ...] = ()
    above: int = 0
    silent: Mapping[str, str] = field(default_factory=dict)
    whole: int = 0


@dataclass(frozen=True, slots=True)
class _Seat:
    """A member's machine, and the host that shows it."""

    survey: Survey
    machine: ObservedMachine
    record: MachineRecord | None

    @property
    def place(self) -> tuple[int, str]:
        return self.machine.identity.attempt, self.survey.host.uuid


class _Unclear(Exception):
    """Why a group cannot be recovered."""


def plan(
    known: Known, surveys: Sequence[Survey], silent: Mapping[str, str], now: int, *, only: str = ""
) -> RecoveryPlan:
    """What to write. `silent`: name of each host that did not answer -> why. `only`: one group's uuid."""
    ours = [s for s in surveys if s.mark is None or s.mark.database == known.installation.database]
    problems = [
        Problem("", f"host {s.host.name} bears the mark of another database ({s.mark.database}): it was left alone")
        for s in surveys
        if s not in ours and s.mark is not None
    ]
    away = dict(silent) | {s.host.name: "another database's" for s in surveys if s not in ours}
    newest = max(
        [0, *(s.mark.generation for s in ours if s.mark), *(m.generation for s in ours for m in _machines(known, s))]
    )
    planner = _Planner(known, ours, away, now, behind=newest > known.generation)
    changes: list[GroupChange] = []
    groups = {only} if only else {*planner.shown, *known.groups}
    for uuid in sorted(groups):
        try:
            change = planner.group(uuid)
        except _Unclear as reason:
            problems.append(Problem(uuid, str(reason)))
            continue
        changes += [change] if change is not None else []
    whole = len(groups) - len(changes) - len([p for p in problems if p.group])
    return RecoveryPlan(tuple(changes), tuple(problems), newest if planner.behind else 0, away, whole)


def _machines(known: Known, survey: Survey) -> Iterable[ObservedMachine]:
    return (m for m in survey.machines if m.identity.cluster == known.installation.cluster)


class _Planner:
    """One plan's makings. `shown`: group uuid -> instance -> its machines."""

    def __init__(
        self, known: Known, surveys: Sequence[Survey], away: Mapping[str, str], now: int, *, behind: bool
    ) -> None:
        self._known = known
        self._away = away
        self._now = now
        self.behind = behind
        self.shown: dict[str, dict[str, list[_Seat]]] = defaultdict(lambda: defaultdict(list))
        self._latest: dict[str, int] = defaultdict(int)
        for survey in surveys:
            for machine in _machines(known, survey):
                identity = machine.identity
                key = (identity.instance, identity.attempt, survey.host.uuid)
                self._latest[identity.instance] = max(self._latest[identity.instance], identity.attempt)
                if machine.state is not MachineState.TOMBSTONE and key not in known.retired:
                    seat = _Seat(survey, machine, record_of(machine))
                    self.shown[identity.group][identity.instance].append(seat)

    def group(self, uuid: str) -> GroupChange | None:
        """What to do with a group; None: nothing. Raises _Unclear."""
        seats: dict[str, _Seat] = {}
        notes: list[str] = []
        for instance, found in sorted(self.shown.get(uuid, {}).items()):
            seats[instance] = _chosen(found, notes)
        row = self._known.groups.get(uuid)
        if row is None and seats:
            return self._created(uuid, seats, notes)
        if row is None or row.phase in FINAL:
            if row is not None and seats:
                raise _Unclear(
                    f"this database has it as {row.status.value}, and has no record of {len(seats)} machines"
                )
            return None
        return self._corrected(row, seats, notes)

    # --- a group that the database does not have ---------------------------------------------------------------------

    def _created(self, uuid: str, seats: Mapping[str, _Seat], notes: list[str]) -> GroupChange:
        bare = [s for s in seats.values() if s.record is None]
        if bare:
            raise _Unclear(f"machine {bare[0].machine.name} has no record that this version reads")
        ordered = sorted(seats.values(), key=lambda s: _of(s).member.rank)
        ranks = tuple(_of(s).member.rank for s in ordered)
        if len(set(ranks)) < len(ranks):
            raise _Unclear(f"it has two members of rank {next(r for r in ranks if ranks.count(r) > 1)}")
        newest = _of(max(ordered, key=lambda s: (s.machine.generation, _of(s).epoch)))
        lacking = ranges(tuple(sorted(numbers(newest.ranks) - set(ranks))))
        halted = [s for s in ordered if s.machine.state in _HALTED]
        if self._away and (lacking or halted):
            what = f"ranks {lacking} have no machine" if lacking else "machines of it are stopped"
            raise _Unclear(f"{what}, and hosts did not answer that may have theirs: {', '.join(sorted(self._away))}")
        if 0 not in ranks:
            raise _Unclear(f"its leader has no machine (ranks that have one: {ranges(ranks)})")
        if lacking:
            notes.append(f"ranks {lacking} have no machine on any host: it is recovered without them")
        entries, missing = self._entries(ordered), set[str]()
        members = tuple(self._member(s, missing) for s in ordered)
        group = Group(
            uuid=uuid,
            spec=replace(newest.group.spec, nodes=tuple(m.spec for m in members)),
            project=newest.group.project,
            principal=newest.group.principal,
            created_at=newest.group.created_at or self._now,
            updated_at=self._now,
            start_epoch=max(_of(s).epoch for s in ordered),
            instances=members,
        )
        group = self._told(self._as_found(group, {i: s.machine.state for i, s in seats.items()}), missing)
        return GroupChange(
            Act.CREATE, group, frozenset(seats), tuple(notes), tuple(entries), tuple(sorted(missing))
        )  # fmt: skip

    def _member(self, seat: _Seat, missing: set[str]) -> Instance:
        """The member as its record has it, where its machine is."""
        record, host, identity = _of(seat), seat.survey.host, seat.machine.identity
        told = seat.survey.told.get(seat.machine.machine_uuid, ToldValues())
        spec = record.member.spec
        values = {n: told.environment[n] for n in record.environment if n in told.environment}
        spec = replace(spec, environment_variables={**spec.environment_variables, **values})
        if record.has_parameters:
            spec = replace(spec, startup_parameters=told.parameters)
        missing.update(set(record.environment) - set(values))
        if record.has_parameters and not told.parameters:
            missing.add("startup_parameters")
        return replace(
            record.member,
            uuid=identity.instance,
            group_uuid=identity.group,
            spec=spec,
            attempt=identity.attempt,
            host_uuid=host.uuid,
            host_name=host.name,
            zone_uuid=host.zone_uuid,
            machine_uuid=seat.machine.machine_uuid,
            created_at=record.member.created_at or self._now,
            updated_at=self._now,
        )

    def _entries(self, seats: Iterable[_Seat]) -> list[ModelService]:
        """The catalogue's entries that members were made from and that it does not have."""
        found: dict[str, ModelService] = {}
        for seat in seats:
            record = _of(seat)
            node = record.member.spec
            key = version_key(node.model_service_uuid, node.model_service_version)
            if key in self._known.versions or record.entry is None:
                continue
            told = seat.survey.told.get(seat.machine.machine_uuid, ToldValues()).environment
            values = {n: told[n] for n in record.entry_environment if n in told}
            entry = replace(record.entry, uuid=node.model_service_uuid, version=node.model_service_version)
            found.setdefault(key, replace(entry, environment={**entry.environment, **values}))
        return [found[key] for key in sorted(found)]

    # --- a group that the database has -------------------------------------------------------------------------------

    def _corrected(self, row: Group, seats: Mapping[str, _Seat], notes: list[str]) -> GroupChange | None:
        if not seats and self.behind and not self._away and row.phase not in _ENDING:
            return self._ended(row)
        missing, changed = set[str](), set[str]()
        members = [self._member_now(row, m, seats.get(m.uuid), missing, changed, notes) for m in row.instances]
        for uuid in sorted(set(seats) - {m.uuid for m in row.instances}):
            members.append(self._joined(row, seats[uuid], members, missing, notes))
            changed.add(uuid)
        members = [m for m in sorted(members, key=lambda m: m.rank) if m.status is not S.REMOVED or m.uuid in seats]
        group = replace(row, instances=tuple(members), spec=replace(row.spec, nodes=tuple(m.spec for m in members)))
        if not changed and not (self.behind and _otherwise(row, seats)):
            return None
        epochs = [_of(s).epoch for s in seats.values() if s.record is not None]
        group = replace(group, start_epoch=max([group.start_epoch, *epochs]))
        if row.phase not in _ENDING:
            group = self._as_found(group, {i: s.machine.state for i, s in seats.items()})
        group = self._told(group, missing)
        if not changed:
            notes.append(f"its machines show it as {group.status.value}, this database as {row.status.value}")
        entries = self._entries(s for u, s in seats.items() if u in changed and s.record is not None)
        return GroupChange(
            Act.CORRECT, group, frozenset(changed), tuple(notes), tuple(entries), tuple(sorted(missing))
        )  # fmt: skip

    def _ended(self, row: Group) -> GroupChange | None:
        if not any(m.status in _MADE for m in row.instances):
            return None  # nothing of it was ever seen on a host: it is placed as it was accepted
        gone = tuple(replace(unmoved(m), status=S.REMOVED, unknown_since=0, deadline_at=0) for m in row.instances)
        group = replace(row, instances=gone, phase=GroupPhase.DELETED, status=GroupStatus.DELETED)
        note = "no host has any of its machines: it was deleted after this database was saved"
        return GroupChange(Act.END, group, frozenset(m.uuid for m in gone), (note,))

    def _member_now(
        self,
        row: Group,
        member: Instance,
        seat: _Seat | None,
        missing: set[str],
        changed: set[str],
        notes: list[str],
    ) -> Instance:
        if seat is None:
            if not self.behind or self._away or member.status not in _MADE or row.phase in _ENDING:
                return member
            changed.add(member.uuid)
            notes.append(f"rank {member.rank} has no machine on any host: it is placed anew")
            gone = vacate(member, keep_claim=False)
            return replace(gone, attempt=max(gone.attempt, self._latest[member.uuid] + 1), reason="its machine is gone")
        attempt, host_uuid = seat.place
        if attempt < member.attempt or (attempt, host_uuid) == (member.attempt, member.host_uuid):
            return member
        if attempt == member.attempt and host_uuid == member.target_host_uuid:
            return member  # its live move is on record
        changed.add(member.uuid)
        was = f"attempt {member.attempt} on {member.host_name or 'no host'}"
        notes.append(f"rank {member.rank} is attempt {attempt} on {seat.survey.host.name}, not {was}")
        status = S.REMOVING if row.phase in _ENDING else S.RUNNING
        if seat.record is not None:
            # Its own specification is the row's, which has all values.
            told = self._member(seat, set())
            return replace(told, spec=member.spec, created_at=member.created_at, status=status)
        host, identity = seat.survey.host, seat.machine.identity
        place = replace(unmoved(member), attempt=attempt, host_uuid=host.uuid, host_name=host.name, status=status)
        return replace(place, machine_uuid=identity.machine_uuid, zone_uuid=host.zone_uuid)

    def _joined(
        self, row: Group, seat: _Seat, members: list[Instance], missing: set[str], notes: list[str]
    ) -> Instance:
        """A member that came by a scaling after this database was saved; one whose rank it has is gone by the same."""
        if seat.record is None:
            raise _Unclear(f"machine {seat.machine.name} of a member that the database lacks has no record")
        member = self._member(seat, missing)
        for other in [m for m in members if m.rank == member.rank]:
            if other.status is not S.PENDING:
                raise _Unclear(f"it has two members of rank {member.rank}")
            members.remove(other)
        notes.append(f"rank {member.rank} is a member that the database does not have, on {member.host_name}")
        return replace(member, status=S.REMOVING if row.phase in _ENDING else S.RUNNING)

    # --- where it stands ---------------------------------------------------------------------------------------------

    def _as_found(self, group: Group, states: Mapping[str, MachineState]) -> Group:
        """The group in the phase that its machines are in. Nothing that executes is stopped by it, and nothing that was
        stopped is started."""
        runs = any(state.executing for state in states.values())
        paused = MachineState.PAUSED in states.values()

        def status(member: Instance) -> InstanceStatus:
            state = states.get(member.uuid)
            if state is None:
                return member.status
            if runs:
                return S.CREATED if state is MachineState.PAUSED else S.RUNNING
            if paused:
                return S.CREATED if state is MachineState.PAUSED else S.CREATING
            return S.STOPPED

        members = tuple(
            replace(
                unmoved(m),
                status=status(m),
                was_resumed=m.was_resumed or runs,
                deadline_at=0,
                stop_asked=False,
                joining=False,
                leaving=False,
            )
            if m.uuid in states
            else m
            for m in group.instances
        )
        statuses = {m.status for m in members}
        if runs:
            phase = GroupPhase.BOOTING if statuses - {S.RUNNING} else GroupPhase.RUNNING
        else:
            phase = GroupPhase.CREATING if paused else GroupPhase.STOPPED
        if S.PENDING in statuses and phase is not GroupPhase.STOPPED:
            phase = GroupPhase.PLANNING
        # A machine that waits for GO was told the epoch that GO is to make.
        epoch = group.start_epoch if runs or not paused else max(0, group.start_epoch - 1)
        found = replace(
            group,
            instances=members,
            phase=phase,
            go=runs or phase is GroupPhase.STOPPED,
            served=runs,
            start_epoch=epoch,
            restarting=False,
            failure=None,
            failures=0,
            retry_at=0,
            excluded_hosts=(),
            running_since=self._now if runs else 0,
        )
        return replace(found, status=public_status(found))

    def _told(self, group: Group, missing: set[str]) -> Group:
        if not missing:
            return group
        return replace(group, reason=f"recovered without the values of {', '.join(sorted(missing))}")


def _chosen(found: Sequence[_Seat], notes: list[str]) -> _Seat:
    """The machine of a member among those that bear its name: the latest attempt. Raises _Unclear."""
    latest = max(s.machine.identity.attempt for s in found)
    there = [s for s in found if s.machine.identity.attempt == latest]
    name = there[0].machine.identity.machine_name
    if any(s.machine.state is MachineState.MIGRATING for s in found):
        raise _Unclear(f"machine {name} is in the middle of a live move: look again once it has ended")
    if len(there) > 1:
        raise _Unclear(f"machine {name} is on {' and on '.join(sorted(s.survey.host.name for s in there))}")
    if there[0].machine.state is MachineState.GHOST:
        raise _Unclear(f"host {there[0].survey.host.name} can neither run nor remove machine {name}")
    for older in (s for s in found if s.machine.identity.attempt < latest):
        where, attempt = older.survey.host.name, older.machine.identity.attempt
        if older.machine.state not in _HALTED:
            raise _Unclear(f"attempts {attempt} and {latest} of one member are there at once, on {where} and "
                           f"{there[0].survey.host.name}")  # fmt: skip
        notes.append(f"attempt {attempt} of the same member is stopped on {where}: it is over, and will be removed")
    return there[0]


def _otherwise(row: Group, seats: Mapping[str, _Seat]) -> bool:
    """Whether machines run of a group that the database has stopped, or all are stopped of one that it has running."""
    states = [s.machine.state for s in seats.values()]
    if row.phase in (GroupPhase.STOPPED, GroupPhase.STOPPING):
        return any(state.executing or state is MachineState.PAUSED for state in states)
    made = {m.uuid for m in row.instances if m.status in _MADE}
    return row.phase in LAUNCHING and bool(made) and made <= set(seats) and all(s in _HALTED for s in states)


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


def _of(seat: _Seat) -> MachineRecord:
    assert seat.record is not None
    return seat.record


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
