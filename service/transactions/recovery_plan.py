"""What has to be written so that a database knows again what runs on its hosts.

Pure: takes what hosts show and what the database has, and gives a typed plan, which may be looked at before anything is
written.

Where a member is, and as which attempt, its machine says; what it was made from, the machine's record; all else the
database, as far as it still knows. Nothing that executes is ever concluded to be over: what is not plain is told as a
problem, and stays as it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from service.domain.catalog import ModelService, version_key
from service.domain.cells import cells_in
from service.domain.devices import HeldDevice
from service.domain.groups import Group, GroupPhase, GroupStatus, Instance
from service.domain.ownership import Installation
from service.domain.recovery import ToldValues, numbers, ranges
from service.drivers.base import MachineState, ObservedMachine
from service.lifecycle.members import FINAL, LAUNCHING, S, at_target, unmoved, vacate
from service.transactions.found_state import as_found
from service.transactions.surveys import HALTED, MemberMachine, Survey, Unclear, chosen, record_of

_MADE = frozenset({S.CREATED, S.BOOTING, S.RUNNING, S.STOPPING, S.STOPPED})
"""Members of which a machine was seen."""
_ENDING = frozenset({GroupPhase.DELETING, GroupPhase.CLEANING})


@dataclass(frozen=True, slots=True)
class Known:
    """What the database has. `groups`: by uuid, those that are not over and those that hosts show.

    `retired`: (instance, attempt, host) that were let go. `versions`: `version_key` of every catalogue entry.
    `generation`: how far it has come. `ahead`: a host was found to be ahead of it, while the service ran on it; it may
    have come further since, by what it wrote in that time, and lacks what it lacked.
    """

    installation: Installation
    generation: int = 0
    ahead: bool = False
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
    tells any more. `standing`: (instance, attempt) that were let go while their machine could not be removed; it is
    there still, and what it holds stays claimed.
    """

    act: Act
    group: Group
    changed: frozenset[str]
    notes: tuple[str, ...] = ()
    entries: tuple[ModelService, ...] = ()
    missing: tuple[str, ...] = ()
    standing: frozenset[tuple[str, int]] = frozenset()


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
    planner = _Planner(known, ours, away, now, behind=known.ahead or newest > known.generation)
    changes: list[GroupChange] = []
    groups = {only} if only else {*planner.shown, *known.groups}
    for uuid in sorted(groups):
        try:
            change = planner.group(uuid)
        except Unclear as reason:
            problems.append(Problem(uuid, str(reason)))
            continue
        changes += [change] if change is not None else []
    whole = len(groups) - len(changes) - len([p for p in problems if p.group])
    return RecoveryPlan(tuple(changes), tuple(problems), newest if planner.behind else 0, away, whole)


def _machines(known: Known, survey: Survey) -> Iterable[ObservedMachine]:
    return (m for m in survey.machines if m.identity.cluster == known.installation.cluster)


class _Planner:
    """What one plan is made from. `shown`: group uuid -> instance -> its machines."""

    def __init__(
        self, known: Known, surveys: Sequence[Survey], away: Mapping[str, str], now: int, *, behind: bool
    ) -> None:
        self._known = known
        self._away = away
        self._now = now
        self.behind = behind
        self.shown: dict[str, dict[str, list[MemberMachine]]] = defaultdict(lambda: defaultdict(list))
        self._latest: dict[str, int] = defaultdict(int)
        self._standing: dict[str, set[tuple[str, int]]] = defaultdict(set)
        for survey in surveys:
            for machine in _machines(known, survey):
                identity = machine.identity
                key = (identity.instance, identity.attempt, survey.host.uuid)
                self._latest[identity.instance] = max(self._latest[identity.instance], identity.attempt)
                if machine.state is MachineState.TOMBSTONE:
                    continue
                if key in known.retired:
                    self._standing[identity.group].add((identity.instance, identity.attempt))
                    continue
                seat = MemberMachine(survey, machine, record_of(machine))
                self.shown[identity.group][identity.instance].append(seat)

    def group(self, uuid: str) -> GroupChange | None:
        """What to do with a group; None: nothing. Raises Unclear."""
        seats: dict[str, MemberMachine] = {}
        notes: list[str] = []
        for instance, found in sorted(self.shown.get(uuid, {}).items()):
            seats[instance] = chosen(found, notes)
        row = self._known.groups.get(uuid)
        if row is None and seats:
            return self._created(uuid, seats, notes)
        if row is None or row.phase in FINAL:
            if row is not None and seats:
                raise Unclear(f"this database has it as {row.status.value}, and has no record of {len(seats)} machines")
            return None
        return self._corrected(row, seats, notes)

    # --- a group that the database does not have ---------------------------------------------------------------------

    def _created(self, uuid: str, seats: Mapping[str, MemberMachine], notes: list[str]) -> GroupChange:
        bare = [s for s in seats.values() if s.record is None]
        if bare:
            raise Unclear(f"machine {bare[0].machine.name} has no record that this version reads")
        ordered = sorted(seats.values(), key=lambda s: s.known_record.member.rank)
        ranks = tuple(s.known_record.member.rank for s in ordered)
        if len(set(ranks)) < len(ranks):
            raise Unclear(f"it has two members of rank {next(r for r in ranks if ranks.count(r) > 1)}")
        newest = max(ordered, key=lambda s: (s.machine.generation, s.known_record.epoch)).known_record
        lacking = ranges(tuple(sorted(numbers(newest.ranks) - set(ranks))))
        halted = [s for s in ordered if s.machine.state in HALTED]
        if self._away and (lacking or halted):
            what = f"ranks {lacking} have no machine" if lacking else "machines of it are stopped"
            raise Unclear(f"{what}, and hosts did not answer that may have theirs: {', '.join(sorted(self._away))}")
        if 0 not in ranks:
            raise Unclear(f"its leader has no machine (ranks that have one: {ranges(ranks)})")
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
            start_epoch=max(s.known_record.epoch for s in ordered),
            instances=members,
        )
        group = self._told(as_found(group, {i: s.machine.state for i, s in seats.items()}, self._now), missing)
        return GroupChange(
            Act.CREATE, group, frozenset(seats), tuple(notes), tuple(entries), tuple(sorted(missing))
        )  # fmt: skip

    def _member(self, seat: MemberMachine, missing: set[str]) -> Instance:
        """The member as its record has it, where its machine is."""
        record, host, identity = seat.known_record, seat.survey.host, seat.machine.identity
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
            cells=cells_in(seat.machine.resources),
            devices=_seen_devices(seat),
            created_at=record.member.created_at or self._now,
            updated_at=self._now,
        )

    def _entries(self, seats: Iterable[MemberMachine]) -> list[ModelService]:
        """Entries that members were made from and that the catalogue does not have."""
        found: dict[str, ModelService] = {}
        for seat in seats:
            record = seat.known_record
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

    def _corrected(self, row: Group, seats: Mapping[str, MemberMachine], notes: list[str]) -> GroupChange | None:
        if not seats and self.behind and not self._away and row.phase not in _ENDING:
            return self._ended(row)
        missing, changed = set[str](), set[str]()
        members = [self._member_now(row, m, seats.get(m.uuid), missing, changed, notes) for m in row.instances]
        for uuid in sorted(set(seats) - {m.uuid for m in row.instances}):
            members.append(self._joined(row, seats[uuid], members, missing, notes))
            changed.add(uuid)
        members = [m for m in sorted(members, key=lambda m: m.rank) if m.status is not S.REMOVED or m.uuid in seats]
        group = replace(row, instances=tuple(members), spec=replace(row.spec, nodes=tuple(m.spec for m in members)))
        states = _where_they_are(members, seats)
        if not changed and not (self.behind and _otherwise(row, states)):
            return None
        if row.updating:
            raise Unclear("an update of it was under way, with two gangs or half of one: end it by its record first")
        epochs = [s.known_record.epoch for s in seats.values() if s.record is not None]
        group = replace(group, start_epoch=max([group.start_epoch, *epochs]))
        if row.phase not in _ENDING:
            group = as_found(replace(group, instances=self._settled(members, seats, changed)), states, self._now)
        group = self._told(group, missing)
        if not changed:
            notes.append(f"its machines show it as {group.status.value}, this database as {row.status.value}")
        entries = self._entries(s for u, s in seats.items() if u in changed and s.record is not None)
        return GroupChange(
            Act.CORRECT, group, frozenset(changed), tuple(notes), tuple(entries), tuple(sorted(missing))
        )  # fmt: skip

    def _settled(
        self, members: Iterable[Instance], seats: Mapping[str, MemberMachine], changed: set[str]
    ) -> tuple[Instance, ...]:
        """The members, where machines show that live moves have brought them: what comes next forgets the moves.

        Raises Unclear where one may have arrived on a host that cannot be looked at.
        """
        there = []
        for member in members:
            seat = seats.get(member.uuid)
            if seat is not None and _has_arrived(member, seat):
                changed.add(member.uuid)
                member = replace(at_target(member), moved_at=self._now)
            elif seat is not None and seat.machine.state in HALTED and member.target_host_name in self._away:
                raise Unclear(
                    f"rank {member.rank} is stopped on {seat.survey.host.name}, and may have moved to "
                    f"{member.target_host_name}, which cannot be looked at"
                )
            there.append(member)
        return tuple(there)

    def _ended(self, row: Group) -> GroupChange | None:
        if not any(m.status in _MADE for m in row.instances):
            return None  # nothing of it was ever seen on a host: it is placed as it was accepted
        gone = tuple(replace(unmoved(m), status=S.REMOVED, unknown_since=0, deadline_at=0) for m in row.instances)
        group = replace(row, instances=gone, phase=GroupPhase.DELETED, status=GroupStatus.DELETED, update=None)
        note = "no host has any of its machines: it was deleted after this database was saved"
        standing = frozenset(self._standing[row.uuid])
        return GroupChange(Act.END, group, frozenset(m.uuid for m in gone), (note,), standing=standing)

    def _member_now(
        self,
        row: Group,
        member: Instance,
        seat: MemberMachine | None,
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
        if _has_arrived(member, seat):
            return member  # its live move is on record
        if attempt == member.attempt and member.host_name in self._away:
            raise Unclear(
                f"rank {member.rank} is on {seat.survey.host.name}, and by this database on {member.host_name}, which "
                "cannot be looked at: one of the two may be a copy"
            )
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
        pinned = cells_in(seat.machine.resources)
        return replace(
            place,
            machine_uuid=identity.machine_uuid,
            zone_uuid=host.zone_uuid,
            cells=pinned,
            devices=_seen_devices(seat),
        )

    def _joined(
        self, row: Group, seat: MemberMachine, members: list[Instance], missing: set[str], notes: list[str]
    ) -> Instance:
        """A member that a scaling brought after this database was saved; the same scaling ended the one of its rank."""
        if seat.record is None:
            raise Unclear(f"machine {seat.machine.name} of a member that the database lacks has no record")
        member = self._member(seat, missing)
        for other in [m for m in members if m.rank == member.rank]:
            if other.status is not S.PENDING:
                raise Unclear(f"it has two members of rank {member.rank}")
            members.remove(other)
        notes.append(f"rank {member.rank} is a member that the database does not have, on {member.host_name}")
        return replace(member, status=S.REMOVING if row.phase in _ENDING else S.RUNNING)

    def _told(self, group: Group, missing: set[str]) -> Group:
        if not missing:
            return group
        return replace(group, reason=f"recovered without the values of {', '.join(sorted(missing))}")


def _has_arrived(member: Instance, seat: MemberMachine) -> bool:
    """Whether its only machine is where its live move was to bring it."""
    return seat.place == (member.attempt, member.target_host_uuid)


def _seen_devices(seat: MemberMachine) -> tuple[HeldDevice, ...]:
    """The functions that the machine has; what they are is known where the claims are written."""
    return tuple(HeldDevice(address, "", ()) for address in seat.machine.devices or ())


def _where_they_are(members: Iterable[Instance], seats: Mapping[str, MemberMachine]) -> dict[str, MachineState]:
    """By member, what its machine does where the member is; what is left of an earlier attempt says nothing of it."""
    return {
        m.uuid: seat.machine.state
        for m in members
        if (seat := seats.get(m.uuid)) is not None
        and seat.place in ((m.attempt, m.host_uuid), (m.attempt, m.target_host_uuid))
    }


def _otherwise(row: Group, states: Mapping[str, MachineState]) -> bool:
    """Whether machines run of a group that the database has stopped, or all are stopped of one that it has running."""
    if row.phase in (GroupPhase.STOPPED, GroupPhase.STOPPING):
        return any(state.executing or state is MachineState.PAUSED for state in states.values())
    made = {m.uuid for m in row.instances if m.status in _MADE}
    return row.phase in LAUNCHING and bool(made) and made <= set(states) and all(s in HALTED for s in states.values())
