"""The life of instance groups as callers see it."""

from __future__ import annotations

import base64
import binascii
import hashlib
import uuid as uuids
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from placement.model import Policy, Snapshot, Status
from service.app import planning
from service.app.admission import admit
from service.app.changes import accepted, apply, commit
from service.app.feed import Bookmark, Feed
from service.app.planner import Planner
from service.errors import (
    AlreadyExists,
    Conflict,
    CorralError,
    DeployFailed,
    InvalidArgument,
    NoCapacity,
    NotFound,
    Unavailable,
    Unsatisfiable,
)
from service.facts import DeleteRequested
from service.fleet import Host
from service.model import (
    Caller,
    DeployRequest,
    Event,
    EventKind,
    Failure,
    Group,
    GroupPhase,
    GroupStatus,
    Instance,
    PlacementRecord,
)
from service.store import events, fleet, groups, requests
from service.store.codec import encode
from service.store.engine import Store

Clock = Callable[[], int]

MAX_PAGE = 1000
DEFAULT_PAGE = 100
_DEPLOY = "DeployDistributedModelService"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one call may ask for. `plan_seconds`: the planner's budget."""

    max_nodes: int = 1024
    plan_seconds: float = 5.0


@dataclass(frozen=True, slots=True)
class GroupFilter:
    """Which groups a listing shows; empty fields do not filter."""

    name: str = ""
    statuses: tuple[str, ...] = ()
    zone_uuid: str = ""
    tag: str = ""


@dataclass(frozen=True, slots=True)
class GroupPage:
    """One page, and the token of the next ("" at the end)."""

    groups: tuple[Group, ...]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class Started:
    """An accepted intent: the group as stored, and the revision after which its events begin."""

    group: Group
    after_revision: int


class Groups:
    """The use cases. Every method raises the errors of `service.errors` and nothing else for a caller's mistakes.

    `poke` is called with a group's uuid after an intent was committed: reconciliation may look at it at once.
    """

    def __init__(
        self,
        store: Store,
        feed: Feed,
        planner: Planner,
        clock: Clock,
        *,
        cluster: str,
        limits: Limits | None = None,
        new_uuid: Callable[[], str] = lambda: uuids.uuid4().hex,
    ) -> None:
        self._store = store
        self._feed = feed
        self._planner = planner
        self._clock = clock
        self._cluster = cluster
        self._limits = limits or Limits()
        self._new_uuid = new_uuid
        self._draining = False
        self.poke: Callable[[str], None] = lambda _uuid: None

    def drain(self) -> None:
        """Refuse new intents from now on; reads and streams go on until the feed is closed."""
        self._draining = True

    async def deploy(self, caller: Caller, request: DeployRequest) -> Started:
        """Store the intent: group, members, request id and first event in one commit. That commit is the answer.

        The same request id with the same body answers with the group as it was accepted then.
        Raises InvalidArgument, NotFound (naming the field), AlreadyExists, RequestIdReused, Unavailable.
        """
        if self._draining:
            raise Unavailable("the service is shutting down")
        body_hash = hashlib.sha256(encode(request).encode()).hexdigest()
        now = self._clock()

        def intent(connection: Connection) -> Started:
            if request.request_id:
                known = requests.find(connection, caller.principal, _DEPLOY, request.request_id, body_hash)
                if known is not None:
                    return Started(groups.load(connection, known), events.first(connection, known) - 1)
            spec = admit(
                request.spec,
                fleet.zones(connection),
                fleet.model_services(connection),
                max_nodes=self._limits.max_nodes,
            )
            uuid = request.resource_uuid or self._new_uuid()
            if groups.exists(connection, uuid):
                raise AlreadyExists("instance group", uuid)
            catalogue = fleet.model_services(connection)
            group = self._new_group(caller, uuid, replace(request, spec=spec), now)
            members = tuple(
                replace(
                    m,
                    service_port=catalogue[m.spec.model_service_uuid].ports.get("service", 0),
                    stop_grace_ms=catalogue[m.spec.model_service_uuid].stop_grace_ms,
                )
                for m in group.instances
            )
            group = accepted(connection, replace(group, instances=members), now)
            if request.request_id:
                requests.remember(connection, caller.principal, _DEPLOY, request.request_id, body_hash, uuid, now)
            return Started(group, group.revision - 1)

        started = await self._store.write(intent)
        self.poke(started.group.uuid)
        return started

    async def plan(self, caller: Caller, request: DeployRequest) -> PlacementRecord:
        """Where the group would be placed; nothing is written.

        Raises what `deploy` and its stream would: InvalidArgument, NotFound, NoCapacity, Unsatisfiable.
        """
        now = self._clock()

        def read(connection: Connection) -> tuple[Group, Mapping[str, Host], Snapshot]:
            spec = admit(
                request.spec,
                fleet.zones(connection),
                fleet.model_services(connection),
                max_nodes=self._limits.max_nodes,
            )
            uuid = request.resource_uuid or self._new_uuid()
            if groups.exists(connection, uuid):
                raise AlreadyExists("instance group", uuid)
            group = self._new_group(caller, uuid, replace(request, spec=spec), now)
            hosts, snapshot = planning.read_fleet(connection)
            return group, hosts, snapshot

        group, hosts, snapshot = await self._store.read(read)
        planned = await self._planner.place(
            snapshot,
            planning.request(group),
            Policy(),
            budget_seconds=self._limits.plan_seconds,
        )
        if planned.decision.status is not Status.PLACED:
            raise error_of(planning.failure(planned.decision.explanation, group), group.uuid)
        return planning.record(group, planned.decision, hosts, planned.duration_ms, 0)

    async def get(self, caller: Caller, uuid: str) -> Group:
        """The group as it stands. A deleted one, and one of another tenant, is NotFound."""
        group = await self._store.read(lambda c: groups.load(c, uuid))
        return _visible(caller, group)

    async def list(self, caller: Caller, query: GroupFilter, page_size: int, page_token: str) -> GroupPage:
        """Groups by creation, a page at a time. `page_size` 0: the default; above MAX_PAGE it is MAX_PAGE."""
        size = min(page_size or DEFAULT_PAGE, MAX_PAGE)
        after = _read_token(page_token, query)
        found = await self._store.read(
            lambda c: groups.page(
                c,
                project=_project(caller),
                after=after,
                limit=size + 1,
                name=query.name,
                statuses=query.statuses,
                zone_uuid=query.zone_uuid,
                tag=query.tag,
            )
        )
        page = found[:size]
        more = len(found) > size
        return GroupPage(page, _write_token(page[-1], query) if more else "")

    async def delete(self, caller: Caller, uuid: str, etag: str = "") -> Started:
        """Store the wish that the group goes; it wins over a deploy in progress. Raises NotFound, Conflict (etag)."""
        if self._draining:
            raise Unavailable("the service is shutting down")
        now = self._clock()

        def intent(connection: Connection) -> Started:
            group = _visible(caller, groups.load(connection, uuid, lock=True))
            before = group.revision
            if etag and etag != etag_of(group):
                raise Conflict(f"instance group {uuid} has changed since its etag was read")
            if group.phase is GroupPhase.FAILED:
                return Started(forget(connection, group, now), before)
            group = apply(connection, uuid, [DeleteRequested()], now)
            groups.due(connection, uuid, now)
            return Started(group, before)

        started = await self._store.write(intent)
        self.poke(uuid)
        return started

    async def follow(self, group_uuid: str, after: int) -> AsyncGenerator[Event, None]:
        """The group's events above a revision until its present operation ends; the last one is FINAL.

        Raises DeployFailed, NoCapacity, Unsatisfiable after the FINAL event of a group that failed.
        """
        async with aclosing(self._feed.follow(after, group_uuid=group_uuid)) as changes:
            async for event in changes:
                assert isinstance(event, Event)  # no bookmarks were asked for
                yield event
                if event.kind is EventKind.FINAL:
                    group = event.group
                    if group is not None and group.status is GroupStatus.FAILED and group.failure is not None:
                        raise error_of(group.failure, group_uuid)
                    return

    def watch(
        self, caller: Caller, revision: int | None, group_uuid: str | None
    ) -> AsyncGenerator[Group | Event | Bookmark, None]:
        """All groups that the caller may see, or one. See `Feed.watch`."""
        return self._feed.watch(revision, group_uuid=group_uuid, project=_project(caller))

    def _new_group(self, caller: Caller, uuid: str, request: DeployRequest, now: int) -> Group:
        spec = request.spec
        return Group(
            uuid=uuid,
            spec=spec,
            project=caller.project,
            principal=caller.principal,
            deadline_at=now + spec.deadline_ms if spec.deadline_ms else 0,
            created_at=now,
            updated_at=now,
            instances=tuple(
                Instance(
                    uuid=uuids.uuid5(uuids.UUID(uuid), str(node.node_rank)).hex,
                    group_uuid=uuid,
                    spec=node,
                    zone_uuid=node.zone_uuid,
                    boot_timeout_ms=node.timeout_ms,
                    created_at=now,
                    updated_at=now,
                )
                for node in spec.nodes
            ),
        )


def forget(connection: Connection, group: Group, now: int) -> Group:
    """A failed group holds nothing any more: its deletion is a change of one row."""
    gone = replace(group, phase=GroupPhase.DELETED, status=GroupStatus.DELETED)
    return commit(connection, group, gone, (), now)


def error_of(failure: Failure, group_uuid: str) -> CorralError:
    """The error that a caller gets for a stored failure."""
    if failure.code == Unsatisfiable.reason:
        return Unsatisfiable(failure.message, failure.explanation)
    if failure.code == NoCapacity.reason:
        return NoCapacity(failure.message, failure.explanation)
    return DeployFailed(group_uuid, failure.message)


def etag_of(group: Group) -> str:
    """A value that changes whenever the group does."""
    return f"{group.uuid[:8]}-{group.version}"


def _project(caller: Caller) -> str | None:
    return None if caller.role == "admin" else caller.project


def _visible(caller: Caller, group: Group) -> Group:
    if group.phase is GroupPhase.DELETED or _project(caller) not in (None, group.project):
        raise NotFound("instance group", group.uuid)
    return group


def _write_token(last: Group, query: GroupFilter) -> str:
    text = f"{last.created_at}.{last.uuid}.{_fingerprint(query)}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _read_token(token: str, query: GroupFilter) -> tuple[int, str] | None:
    if not token:
        return None
    try:
        text = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()
        created, uuid, fingerprint = text.split(".")
        key = int(created), uuid
    except (ValueError, binascii.Error) as error:
        raise InvalidArgument.of("page_token", "is not a token that a listing gave out") from error
    if fingerprint != _fingerprint(query):
        raise InvalidArgument.of("page_token", "belongs to a listing with other filters")
    return key


def _fingerprint(query: GroupFilter) -> str:
    return hashlib.sha256(encode(query).encode()).hexdigest()[:8]
