"""Changing what a group runs: by a second gang beside the first, or in place; and taking that back.

What a second gang needs is planned before anything is stored, so that a group which finds no room is refused with the
planner's reasons and left alone. What comes then is the intent of every change (`group_intents`): one commit, carried
out by reconciliation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from placement.model import Policy, Snapshot, Status
from service.app.admission import admit
from service.app.failures import error_of
from service.app.group_intents import (
    Ask,
    GroupIntents,
    Started,
    body_hash,
    new_instance,
    repeated,
)
from service.app.group_states import require, require_whole
from service.app.visibility import visible
from service.domain.catalog import ModelService, version_key
from service.domain.fleet import MEMORY, VCPU, Host
from service.domain.groups import Group, GroupStatus, Instance, PlacementRecord, Update
from service.domain.specs import GroupSpec, MachineType, NodeSpec
from service.domain.tenants import Caller
from service.domain.updates import MemberChange, UpdateMode, UpdateStage, changed, described
from service.errors import FieldViolation, InvalidArgument, NoCapacity, NotFound, Unsatisfiable, WrongState
from service.failpoints import failpoint
from service.lifecycle.facts import Fact, TakeBackRequested, UpdateRequested
from service.lifecycle.transitions import advance
from service.lifecycle.updating import second
from service.planning import translate
from service.planning.fleet_reader import FleetReader
from service.planning.planner import Planner, answer_time
from service.store import catalog, claims, clock, clusters, fleet, quotas
from service.store import groups as rows
from service.store.claims import ClaimLost
from service.store.codec import canonical
from service.store.connection import Connection

RUNNING = {GroupStatus.RUNNING}
Wanted = Callable[[Connection, Group], Fact]
"""What a caller wants of the group as it is stored; raises what the caller is told."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a caller wants changed, as repeats of a request are compared."""

    changes: tuple[MemberChange, ...]
    mode: UpdateMode


@dataclass(frozen=True, slots=True)
class Rollout:
    """An accepted update, or one that was only looked at. `placement`: of a surge's second gang, as it was planned."""

    started: Started
    placement: PlacementRecord | None = None


@dataclass(frozen=True, slots=True)
class _Foreseen:
    """The second gang as it would be stored, and the fleet."""

    gang: Group
    hosts: Mapping[str, Host]
    snapshot: Snapshot


class GroupUpdates(GroupIntents):
    """The use cases that change what runs. Both raise what every change of a group raises."""

    _planner: Planner
    _fleet_reader: FleetReader

    async def rollout(
        self,
        caller: Caller,
        uuid: str,
        changes: Sequence[MemberChange],
        mode: UpdateMode,
        ask: Ask | None = None,
        *,
        seconds: float | None = None,
    ) -> Rollout:
        """Change what the group's members are made from. `seconds`: how long the caller waits for the plan.

        Raises InvalidArgument, NotFound (naming the field), WrongState, Conflict; NoCapacity, Unsatisfiable, Undecided,
        QuotaExceeded where there is no room for a second gang, or for members that grow.
        """
        ask, wish = ask or Ask(), Wish(tuple(changes), mode)

        def wanted(connection: Connection, group: Group) -> UpdateRequested:
            require(group, RUNNING, "it to be Running")
            _require_settled(group)
            after = self._changed(connection, group, changes)
            return self._request(connection, group, after, mode)

        return await self._begin(caller, "Rollout", uuid, ask, canonical(wish), wanted, seconds)

    async def roll_back(
        self, caller: Caller, uuid: str, ask: Ask | None = None, *, seconds: float | None = None
    ) -> Rollout:
        """Take the newest update back: one that goes on is called off, one that is done is undone by another.

        Raises WrongState where there is none, or its old gang is being ended; else what `rollout` raises.
        """
        ask = ask or Ask()

        def wanted(connection: Connection, group: Group) -> Fact:
            update = group.update
            if update is None or update.stage is UpdateStage.TAKEN_BACK or group.status is GroupStatus.DELETING:
                raise WrongState(f"instance group {uuid}", group.status.value, "an update that is not taken back", [])
            if update.stage in (UpdateStage.SWITCHED, UpdateStage.TAKING_BACK):
                told = "its old members to be gone" if update.stage is UpdateStage.SWITCHED else "no taking back"
                raise WrongState(f"the update of instance group {uuid}", update.stage.value, told, ["done"])
            if update.active:
                return TakeBackRequested()
            require(group, RUNNING, "it to be Running")
            _require_settled(group)
            asked = self._request(connection, group, update.before, update.mode)
            return replace(asked, update=replace(asked.update, undoes=update.number))

        return await self._begin(caller, "RollBack", uuid, ask, "", wanted, seconds)

    async def _begin(
        self,
        caller: Caller,
        method: str,
        uuid: str,
        ask: Ask,
        body: str,
        wanted: Wanted,
        seconds: float | None,
    ) -> Rollout:
        answer_by = answer_time(seconds)

        def look(connection: Connection) -> _Foreseen | None:
            if repeated(connection, caller, method, ask.request_id, body_hash(uuid, body)) is not None:
                return None
            group = visible(caller, rows.load(connection, uuid))
            fact = wanted(connection, group)
            if not isinstance(fact, UpdateRequested) or fact.update.mode is UpdateMode.IN_PLACE:
                return None
            gang = second(advance(group, fact, clock.now(connection)))
            assert gang is not None  # it is settled, and no update goes on
            quotas.foresee(connection, group.project, translate.total(translate.demand(m.spec) for m in gang.instances))
            return _Foreseen(gang, *self._fleet_reader.read(connection))

        seen = await self._store.read(look)
        placement = await self._room(seen, answer_by) if seen is not None else None

        failpoint("update.planned")

        def decide(connection: Connection, group: Group) -> Sequence[Fact]:
            fact = wanted(connection, group)
            if isinstance(fact, UpdateRequested) and fact.update.mode is UpdateMode.IN_PLACE:
                _grow(connection, group, fact.update, keep=not ask.validate_only)
            return [fact]

        return Rollout(await self._intend(caller, method, uuid, ask, body, decide), placement)

    async def _room(self, seen: _Foreseen, answer_by: float) -> PlacementRecord:
        """Where the second gang would go. Raises NoCapacity, Unsatisfiable, Undecided, with the cheapest cure."""
        gang = seen.gang
        planned = await self._planner.place(
            seen.snapshot,
            translate.request(gang, seen.snapshot, seen.hosts),
            Policy(),
            budget_seconds=self._limits.plan_seconds,
            answer_by=answer_by,
            project=gang.project,
        )
        if planned.decision.status is Status.PLACED:
            return translate.record(gang, planned.decision, seen.hosts, planned.duration_ms, 0, seen.snapshot)
        error = error_of(translate.failure(planned.decision, gang, seen.snapshot, seen.hosts), gang.uuid)
        if isinstance(error, NoCapacity | Unsatisfiable):
            amount = translate.total(translate.demand(m.spec) for m in gang.instances)
            need = f"a second gang needs {amount[VCPU]} vCPUs and {amount[MEMORY]} bytes of memory beside the first"
            raise type(error)(f"{error.message}; {need}; in_place needs no second one", error.explanation)
        raise error

    def _changed(self, connection: Connection, group: Group, changes: Sequence[MemberChange]) -> GroupSpec:
        """What the group would run. Raises InvalidArgument, NotFound, naming the field."""
        roles = {m.spec.role for m in group.instances}
        for position, change in enumerate(changes):
            if change.role is not None and change.role not in roles:
                there = ", ".join(sorted(roles - {""})) or "none"
                raise InvalidArgument.of(f"changes[{position}].role", f"is no role of the group's; it has {there}")
        was = tuple(m.spec for m in group.instances)
        nodes = changed(was, changes)
        try:
            spec = admit(
                replace(group.spec, nodes=tuple(replace(node, node_rank=-1) for node in nodes)),
                fleet.zones(connection),
                fleet.model_services(connection),
                max_nodes=len(nodes),
                knows_secret=self._secrets.usable(connection, group.project, keep=False),
                cluster_of=lambda uuid: clusters.find(connection, uuid),
                image_of=lambda uuid: catalog.find_image(connection, uuid, keep=False),
                own_uuid=group.uuid,
            )
        except (InvalidArgument, NotFound) as error:
            raise _as_asked(error, changes, was) from error
        ranked = tuple(
            replace(node, node_rank=old.node_rank, is_initial_node=old.is_initial_node)
            for node, old in zip(spec.nodes, was, strict=True)
        )
        if described(ranked) == described(was):
            raise InvalidArgument.of("changes", "would change nothing: every member is made from this already")
        return replace(spec, nodes=ranked)

    def _request(self, connection: Connection, group: Group, after: GroupSpec, mode: UpdateMode) -> UpdateRequested:
        last = group.update.number if group.update is not None else 0
        before = replace(group.spec, nodes=tuple(m.spec for m in group.instances))
        stage = UpdateStage.COMING if mode is UpdateMode.SURGE else UpdateStage.CHANGING
        update = Update(last + 1, mode, stage, before, after, needs=_needs(before, after, mode))
        entries = catalog.every_version(connection)
        now = clock.now(connection)
        made = tuple(
            replace(new_instance(group.uuid, node, _of(entries, node), now, group.version), joining=False)
            for node in after.nodes
        )
        if mode is UpdateMode.SURGE:
            return UpdateRequested(update, made)
        for old, new in zip(group.instances, made, strict=True):
            if why := _not_in_place(old, new, entries):
                path = f"model_services[{old.rank}]"
                raise InvalidArgument.of("mode", f"in place is not possible: {path} {why}; a surge is")
        return UpdateRequested(update)


_NODE = re.compile(r"model_services\[(\d+)\](?:\.(.*))?")


def _as_asked(
    error: InvalidArgument | NotFound, changes: Sequence[MemberChange], was: Sequence[NodeSpec]
) -> InvalidArgument | NotFound:
    """What is wrong with a member, by the change that its caller wrote for it."""

    def written(path: str) -> str:
        found = _NODE.fullmatch(path)
        role = was[int(found[1])].role if found is not None and int(found[1]) < len(was) else None
        mine = [n for n, change in enumerate(changes) if change.role in (None, role)]
        if found is None or not mine:
            return "changes"
        field = "model_service_uuid" if found[2] in (None, "uuid") else found[2]
        return f"changes[{mine[-1]}].{field}"

    if isinstance(error, NotFound):
        return NotFound(error.resource_type, error.resource_name, written(error.field))
    return InvalidArgument([FieldViolation(written(v.field), v.description) for v in error.violations])


def _needs(before: GroupSpec, after: GroupSpec, mode: UpdateMode) -> Mapping[str, int]:
    """What it takes beside what the group has: all of a second gang, or what members grow by."""
    wanted = translate.total(translate.wish(node) for node in after.nodes)
    if mode is UpdateMode.SURGE:
        return wanted
    held = translate.total(translate.wish(node) for node in before.nodes)
    return {name: amount - held.get(name, 0) for name, amount in wanted.items() if amount > held.get(name, 0)}


def _of(entries: Mapping[str, ModelService], node: NodeSpec) -> Mapping[str, ModelService]:
    """The entry that the node is made from, under its uuid."""
    uuid = node.model_service_uuid
    entry = entries.get(version_key(uuid, node.model_service_version)) or entries.get(uuid)
    if entry is None:
        raise NotFound("model service", uuid)
    return {uuid: entry}


def _not_in_place(old: Instance, new: Instance, entries: Mapping[str, ModelService]) -> str:
    """Why the member's machine cannot become this where it is, on the disk that it has; empty: it can."""
    was, will = old.spec, new.spec
    before, after = _of(entries, was)[was.model_service_uuid], _of(entries, will)[will.model_service_uuid]
    resized = (will.cpu_num, will.memory_size) != (was.cpu_num, was.memory_size)
    reasons = (
        (before.image != after.image, "gets another image, and its disk is made from the one that it has"),
        (was.root_disk_size != will.root_disk_size, "gets a disk of another size"),
        (was.gpus != will.gpus, "gets other devices"),
        (old.service_port != new.service_port, "gets another service port"),
        (resized and was.type is MachineType.BARE_METAL, "has a whole machine, whose size is what it is"),
        (resized and bool(old.cells), "is pinned to a NUMA cell, which is chosen by size"),
    )
    return next((why for holds, why in reasons if holds), "")


def _grow(connection: Connection, group: Group, update: Update, *, keep: bool) -> None:
    """Claim now what members will be larger by, on the hosts that they are on. `keep`: or only see whether that can be
    had. Raises NoCapacity, QuotaExceeded."""
    sizes, more = {}, []
    nodes = {node.node_rank: node for node in update.after.nodes}
    for member in group.instances:
        node, was = nodes[member.rank], member.spec
        if (node.cpu_num, node.memory_size) != (was.cpu_num, was.memory_size):
            seat = member.uuid, member.attempt, member.target_host_uuid or member.host_uuid
            # What members give up in the end is kept until then: they may be taken back to it.
            sizes[seat] = {VCPU: max(node.cpu_num, was.cpu_num), MEMORY: max(node.memory_size, was.memory_size)}
            more.append({VCPU: sizes[seat][VCPU] - was.cpu_num, MEMORY: sizes[seat][MEMORY] - was.memory_size})
    if not sizes:
        return
    quotas.check(connection, group.project, translate.total(more))
    tried = connection.begin_nested()
    try:
        claims.resize(connection, sizes)
    except ClaimLost as lost:
        raise NoCapacity(f"members cannot grow where they are: {lost}; a surge finds them other hosts", None) from lost
    finally:
        if not keep:
            tried.rollback()


def _require_settled(group: Group) -> None:
    """Raises WrongState where members are on their way, as after a scaling, or where the group is to end so that
    another one fits: what it runs is not changed then."""
    require_whole(group)
    if group.eviction is not None:
        needed = "no eviction ahead: wait until it is over or called off"
        raise WrongState(f"instance group {group.uuid}", "to be evicted", needed)
