"""What callers want of a group that exists: stored as an intent in one commit, carried out by reconciliation."""

from __future__ import annotations

import hashlib
import uuid as uuids
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from service.app import engines
from service.app.admission import admit, wish_of
from service.app.auditing import audited
from service.app.etags import require_etag
from service.app.group_states import require, require_whole
from service.app.role_changes import RoleChange, joining_and_leaving, named_as_asked
from service.app.visibility import project_of, visible
from service.domain import placement_rules, ranks, roles
from service.domain.catalog import ModelService
from service.domain.groups import Group, GroupPhase, GroupStatus, Instance, RoomWish
from service.domain.preemption import Policies, require_evictor
from service.domain.presets import Serves, ports_of, preset_of
from service.domain.specs import GroupSpec, NodeSpec, RoomMoves
from service.domain.tenants import Caller
from service.errors import InvalidArgument, NotFound, RequestIdReused, Unavailable
from service.lifecycle.facts import DeleteRequested, Fact, ScaleRequested, StartRequested, StopRequested
from service.serving.rendezvous import template
from service.signals import Signals
from service.store import catalog, clock, clusters, events, fleet, groups, requests
from service.store.codec import canonical
from service.store.connection import Connection
from service.store.engine import Store
from service.transactions.changes import apply, commit
from service.transactions.secrets import KnownSecrets

SERVING = frozenset({GroupStatus.RUNNING, GroupStatus.DEGRADED, GroupStatus.UNKNOWN})


@dataclass(frozen=True, slots=True)
class GroupLimits:
    """What one call may ask for. `plan_seconds`: the planner's budget for it; `priorities`: by project how high
    it may go and who evicts whom, of "" all that are not named."""

    max_nodes: int = 1024
    plan_seconds: float = 5.0
    priorities: Policies = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Started:
    """An accepted intent: the group as stored, and the revision after which its events begin."""

    group: Group
    after_revision: int


@dataclass(frozen=True, slots=True)
class Ask:
    """What every change of a group has. `etag`: the one that the group must still have; `request_id`: makes a repeat
    harmless; `validate_only`: check and write nothing."""

    etag: str = ""
    request_id: str = ""
    validate_only: bool = False


@dataclass(frozen=True, slots=True)
class Metadata:
    """New values of an update; None leaves a field as it is."""

    name: str | None = None
    description: str | None = None
    user_tags: tuple[str, ...] | None = None
    system_tags: tuple[str, ...] | None = None


Decide = Callable[[Connection, Group], Sequence[Fact]]


class GroupIntents:
    """The changing use cases. `signals.group_due` is told a group's uuid after an intent was committed.

    Times that an intent sets are the database's, as those of leases are: a replica whose own clock is wrong shortens no
    grace.
    """

    def __init__(self, store: Store, limits: GroupLimits, signals: Signals, secrets: KnownSecrets) -> None:
        self._store = store
        self._secrets = secrets
        self._limits = limits
        self._signals = signals
        self._draining = False

    def drain(self) -> None:
        """Refuse new intents from now on; reads and streams go on until the feed is closed."""
        self._draining = True

    async def delete(self, caller: Caller, uuid: str, ask: Ask | None = None) -> Started:
        """End the group for good; this wins over everything in progress. Raises NotFound, Conflict, Unavailable."""
        return await self._intend(caller, "Delete", uuid, ask or Ask(), "", lambda _c, _g: [DeleteRequested()])

    async def stop(self, caller: Caller, uuid: str, ask: Ask | None = None) -> Started:
        """Power the members off, keep their seats. Raises NotFound, Conflict, WrongState."""

        def decide(_connection: Connection, group: Group) -> Sequence[Fact]:
            require(group, SERVING, "it to be Running, Degraded or Unknown")
            return [StopRequested()]

        return await self._intend(caller, "Stop", uuid, ask or Ask(), "", decide)

    async def restart(self, caller: Caller, uuid: str, ask: Ask | None = None) -> Started:
        """Power the members off and bring them up again with the next start epoch. Raises like `stop`."""

        def decide(_connection: Connection, group: Group) -> Sequence[Fact]:
            require(group, SERVING | {GroupStatus.STOPPED}, "it to be Running, Degraded, Unknown or Stopped")
            return [StartRequested() if group.status is GroupStatus.STOPPED else StopRequested(restart=True)]

        return await self._intend(caller, "Restart", uuid, ask or Ask(), "", decide)

    async def start(self, caller: Caller, uuid: str, ask: Ask | None = None) -> Started:
        """Bring a stopped group up again. Raises NotFound, Conflict, WrongState."""

        def decide(_connection: Connection, group: Group) -> Sequence[Fact]:
            require(group, {GroupStatus.STOPPED}, "it to be Stopped")
            return [StartRequested()]

        return await self._intend(caller, "Start", uuid, ask or Ask(), "", decide)

    async def scale(
        self,
        caller: Caller,
        uuid: str,
        joining: Sequence[NodeSpec],
        leaving: Sequence[str],
        ask: Ask | None = None,
        *,
        by_role: RoleChange | None = None,
        make_room: RoomMoves | None = None,
    ) -> Started:
        """Add workers, remove members, all or nothing: nobody leaves before those that join are placed.

        `by_role`: instead, what is to change of whole roles. `make_room`: how others may be moved for those that join.
        Raises InvalidArgument, NotFound, WrongState, Conflict; the stream ends with NoCapacity where they do not fit.
        """

        change = by_role or RoleChange()
        if not joining and not leaving and not change:
            raise InvalidArgument.of("model_services", "name members to add, or to remove, or both")

        def decide(connection: Connection, group: Group) -> Sequence[Fact]:
            require(group, {GroupStatus.RUNNING}, "it to be Running")
            require_whole(group)
            added, removed = joining_and_leaving(group, change) if change else (joining, leaving)
            _check_removed(group, removed)
            _check_left(connection, group, added, removed)
            try:
                members = self._joining(connection, group, added, removed)
            except (InvalidArgument, NotFound) as error:
                raise named_as_asked(error) if change.updates else error from error
            kept = [m.rank for m in (*group.instances, *members) if m.uuid not in removed]
            framework = _framework(connection, group)
            engines.check_count(len(kept), framework, "model_services")
            engines.check_ranks(kept, framework, "remove_instance_uuids")
            room = room_wish(caller, make_room, group.project, self._limits.priorities) if members else None
            return [ScaleRequested(members, frozenset(removed), room)]

        body = canonical(replace(_NO_SPEC, nodes=tuple(joining))) + ",".join(sorted(leaving))
        body += "".join(f",{role}={count}" for role, count in sorted(change.counts.items()))
        body += canonical(replace(_NO_SPEC, nodes=tuple(change.updates))) if change.updates else ""
        body += f",room={make_room}" if make_room else ""
        return await self._intend(caller, "Scale", uuid, ask or Ask(), body, decide)

    async def update(self, caller: Caller, uuid: str, changes: Metadata, ask: Ask | None = None) -> Group:
        """Change name, description and tags; nothing is restarted. The same request id answers with the group as it is.

        Raises NotFound, Conflict, InvalidArgument, RequestIdReused.
        """
        ask = ask or Ask()
        self._refuse_when_draining()
        if changes.name == "":
            raise InvalidArgument.of("name", "must not be empty")
        hashed = body_hash(uuid, canonical(changes))

        def intent(connection: Connection) -> Group:
            now = clock.now(connection)
            known = repeated(connection, caller, "Update", ask.request_id, hashed)
            if known is not None:
                return visible(caller, known.group)
            group = visible(caller, groups.load(connection, uuid, lock=True))
            require_etag("instance group", group, ask.etag)
            if ask.validate_only:
                return group
            audited(connection, caller, "UpdateInstanceGroup", uuid, ask.request_id, now)
            if ask.request_id:
                requests.remember(connection, caller.principal, "Update", ask.request_id, hashed, uuid, 0, now)
            return commit(connection, group, replace(group, spec=_changed(group.spec, changes)), (), now)

        return await self._store.write(intent)

    async def _intend(self, caller: Caller, method: str, uuid: str, ask: Ask, body: str, decide: Decide) -> Started:
        self._refuse_when_draining()
        hashed = body_hash(uuid, body)

        def intent(connection: Connection) -> Started:
            now = clock.now(connection)
            known = repeated(connection, caller, method, ask.request_id, hashed)
            if known is not None:
                return known
            group = visible(caller, groups.load(connection, uuid, lock=True))
            require_etag("instance group", group, ask.etag)
            # All events of a group that has rested for long may be forgotten; what follows is above both revisions.
            before = max(group.revision, events.head(connection)[0])
            facts = decide(connection, group)
            if ask.validate_only:
                return Started(group, before)
            if group.phase is GroupPhase.FAILED:
                group = forget(connection, group, now)
            else:
                group = apply(connection, uuid, facts, now)
                groups.due(connection, uuid, 0)
            audited(connection, caller, f"{method}InstanceGroup", uuid, ask.request_id, now)
            if ask.request_id:
                requests.remember(connection, caller.principal, method, ask.request_id, hashed, uuid, before, now)
            return Started(group, before)

        started = await self._store.write(intent)
        self._signals.group_due(uuid)
        return started

    def _joining(
        self, connection: Connection, group: Group, added: Sequence[NodeSpec], removed: Sequence[str]
    ) -> tuple[Instance, ...]:
        """The new members, pending, with the lowest free ranks."""
        if not added:
            return ()
        if wrong := list(ranks.joining_violations([wish_of(node) for node in added])):
            raise InvalidArgument(wrong)
        catalogue = fleet.model_services(connection)
        plain = replace(group.spec, nodes=tuple(replace(n, node_rank=-1) for n in added))
        spec = admit(
            plain,
            fleet.zones(connection),
            catalogue,
            max_nodes=self._limits.max_nodes,
            knows_secret=self._secrets.usable(connection, group.project, keep=True),
            cluster_of=lambda uuid: clusters.find(connection, uuid),
            image_of=lambda uuid: catalog.find_image(connection, uuid, keep=True),
            framework=_framework(connection, group),
            members=[m.spec for m in group.instances if m.uuid not in removed],
            known_roles=roles.orders([m.spec for m in group.instances if m.uuid not in removed]),
        )
        joining = len(spec.nodes)
        if len(group.instances) - len(removed) + joining > self._limits.max_nodes:
            raise InvalidArgument.of("model_services", f"the group would have more than {self._limits.max_nodes} nodes")
        taken = {m.rank for m in group.instances if m.uuid not in removed}
        free = (rank for rank in range(1, len(taken) + joining + 1) if rank not in taken)
        now = clock.now(connection)
        return tuple(
            new_instance(
                group.uuid, replace(node, node_rank=rank, is_initial_node=False), catalogue, now, group.version
            )
            for node, rank in zip(spec.nodes, free, strict=False)
        )

    def _refuse_when_draining(self) -> None:
        if self._draining:
            raise Unavailable("the service is shutting down")


def body_hash(uuid: str, body: str) -> str:
    """By which a repeated request is known for the same one."""
    return hashlib.sha256(f"{uuid}\n{body}".encode()).hexdigest()


_NO_SPEC = GroupSpec(name="", nodes=())


def _changed(spec: GroupSpec, changes: Metadata) -> GroupSpec:
    return replace(
        spec,
        name=spec.name if changes.name is None else changes.name,
        description=spec.description if changes.description is None else changes.description,
        user_tags=spec.user_tags if changes.user_tags is None else changes.user_tags,
        system_tags=spec.system_tags if changes.system_tags is None else changes.system_tags,
    )


def _framework(connection: Connection, group: Group) -> str:
    """Of the entry that the initial node was made from."""
    return template(group.instances[0], catalog.every_version(connection)).framework


def new_instance(
    group_uuid: str, node: NodeSpec, catalogue: Mapping[str, ModelService], now: int, version: int = 0, past: int = 0
) -> Instance:
    """A pending member. `version`: of the group, where it joins one that exists: a rank that is used again then gets
    another uuid. `past`: of the deleted group that had the group's uuid before, whose machines are others too."""
    entry = catalogue[node.model_service_uuid]
    name = str(node.node_rank) if not (version or past) else f"{node.node_rank}-{version or past}"
    return Instance(
        uuid=uuids.uuid5(uuids.UUID(group_uuid), name).hex,
        group_uuid=group_uuid,
        spec=node,
        zone_uuid=node.zone_uuid,
        service_port=_service_port(entry, node.node_rank),
        boot_timeout_ms=node.timeout_ms,
        stop_grace_ms=entry.stop_grace_ms,
        joining=version > 0,
        created_at=now,
        updated_at=now,
    )


def room_wish(caller: Caller, moves: RoomMoves | None, project: str, policies: Policies) -> RoomWish | None:
    """What may be moved for a caller's group: its own project's members, by an administrator everybody's.

    Raises InvalidArgument where groups are to end for it, and the group's `project` may evict nobody.
    """
    if moves is RoomMoves.EVICT:
        require_evictor(policies, project)
    return RoomWish(moves, everybody=project_of(caller) is None) if moves is not None else None


def _service_port(entry: ModelService, rank: int) -> int:
    """Where the member answers the service's callers; 0 where the leader alone does."""
    serves = rank == 0 or preset_of(entry.framework).serves is Serves.ALL
    return ports_of(entry.framework, entry.ports).get("service", 0) if serves else 0


def forget(connection: Connection, group: Group, now: int) -> Group:
    """A failed group holds nothing any more: its deletion is a change of one row."""
    gone = replace(group, phase=GroupPhase.DELETED, status=GroupStatus.DELETED, reason="", failure=None)
    return commit(connection, group, gone, (), now)


def repeated(connection: Connection, caller: Caller, method: str, request_id: str, body_hash: str) -> Started | None:
    """What the same request started earlier, or None. Raises RequestIdReused for another body."""
    if not request_id:
        return None
    found = requests.find(connection, caller.principal, method, request_id, body_hash)
    if found is None:
        return None
    group = groups.load(connection, found.group_uuid)
    if project_of(caller) not in (None, group.project):
        # A token and an account may have the same name in two projects.
        raise RequestIdReused(request_id)
    return Started(group, max(found.after_revision, events.head(connection)[0]))


def _check_removed(group: Group, removed: Sequence[str]) -> None:
    ranks = {m.uuid: m.rank for m in group.instances}
    for position, uuid in enumerate(removed):
        field = f"remove_instance_uuids[{position}]"
        if uuid not in ranks:
            raise InvalidArgument.of(field, f"{uuid} is not a member of the group")
        if ranks[uuid] == 0:
            raise InvalidArgument.of(field, "the initial node cannot be removed")


def _check_left(connection: Connection, group: Group, added: Sequence[NodeSpec], removed: Sequence[str]) -> None:
    """Members leave only where those that stay keep the rules of the policy. Raises InvalidArgument.

    Where others join, the planner sees to how far all of them are spread.
    """
    policy = group.spec.placement
    left = [m for m in group.instances if m.uuid not in removed]
    if not removed or not (policy.min_hosts or policy.min_racks or policy.min_zones or policy.survive):
        return
    wrong = list(placement_rules.violations(policy, [*(m.spec for m in left), *roles.expanded(added, {})], group.uuid))
    if wrong:
        raise InvalidArgument.of("remove_instance_uuids", f"{wrong[0].field} {wrong[0].description}")
    if added:
        return
    on = fleet.hosts(connection, sorted({m.host_uuid for m in left if m.host_uuid}))
    survive = policy.survive
    in_racks = Counter(on[m.host_uuid].rack or m.host_uuid for m in left if m.host_uuid in on)
    if survive is not None and max(in_racks.values(), default=0) > survive.most_in_a_rack(len(left)):
        told = f"would leave fewer than {survive.members} where a rack is lost, and placement_policy.survive forbids it"
        raise InvalidArgument.of("remove_instance_uuids", told)
    for scope, least, domains in (
        ("hosts", policy.min_hosts, set(on)),
        ("racks", policy.min_racks, {host.rack or uuid for uuid, host in on.items()}),
        ("zones", policy.min_zones, {host.zone_uuid for host in on.values()}),
    ):
        if len(domains) < least:
            raise InvalidArgument.of(
                "remove_instance_uuids",
                f"would leave members in {len(domains)} {scope}, and placement_policy.min_{scope} is {least}",
            )
