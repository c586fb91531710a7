"""Instance groups as callers use them: deploy, plan, get, list, follow, watch.

The changes are in `group_intents` and `updates`.
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid as uuids
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import astuple, replace

from placement.model import Snapshot
from service.app import alternatives, paging, plans
from service.app.admission import admit
from service.app.auditing import audited
from service.app.failures import error_of
from service.app.feed import Bookmark, Feed
from service.app.group_intents import (
    Ask,
    GroupLimits,
    Metadata,
    Started,
    new_instance,
    repeated,
    room_wish,
)
from service.app.group_views import GroupFilter, GroupPage, MemberDocuments
from service.app.paging import Page
from service.app.promised import check_quota, ends, may_wait, priority, promised
from service.app.updates import GroupUpdates
from service.app.visibility import project_of, require_visible, visible
from service.domain.events import Event, EventKind
from service.domain.fleet import Host
from service.domain.groups import Group, GroupPhase, GroupStatus, Instance, PlacementRecord
from service.domain.specs import DeployRequest, GroupSpec
from service.domain.tenants import Caller
from service.errors import AlreadyExists, InvalidArgument, Unavailable
from service.failpoints import failpoint
from service.planning import translate
from service.planning.backfill import Kept
from service.planning.fleet_reader import FleetReader
from service.planning.planner import Planner, answer_time
from service.serving import preview
from service.signals import Signals
from service.store import (
    addresses,
    catalog,
    clock,
    clusters,
    events,
    fleet,
    group_pages,
    groups,
    instances,
    quotas,
    requests,
)
from service.store.basis import Basis, basis
from service.store.codec import canonical
from service.store.connection import Connection
from service.store.engine import Store
from service.transactions import kept_room
from service.transactions.changes import accepted
from service.transactions.holding import Holder
from service.transactions.secrets import KnownSecrets

__all__ = ["Ask", "GroupFilter", "GroupLimits", "GroupPage", "Groups", "MemberDocuments", "Metadata", "Started",
           "error_of"]  # fmt: skip

MOST_DOCUMENT_BYTES = 2 << 20
"""Of all documents that one plan answers with: a message of gRPC has 4 MiB by default."""
_DEPLOY = "DeployDistributedModelService"


class Groups(GroupUpdates):
    """The use cases. Every method raises the errors of `service.errors` and nothing else for a caller's mistakes.

    `signals.group_due` is told a group's uuid after an intent was committed: reconciliation may look at it at once.
    """

    def __init__(
        self,
        store: Store,
        feed: Feed,
        planner: Planner,
        *,
        cluster: str,
        limits: GroupLimits | None = None,
        new_uuid: Callable[[], str] = lambda: uuids.uuid4().hex,
        fleet_reader: FleetReader | None = None,
        signals: Signals | None = None,
        secrets: KnownSecrets | None = None,
        holder: Holder | None = None,
    ) -> None:
        """`holder`: who works on what is deployed from its first commit on, where somebody does in this process."""
        super().__init__(store, limits or GroupLimits(), signals or Signals(), secrets or KnownSecrets())
        self._feed, self._planner = feed, planner
        self._known, self._holder = feed.known, holder
        self._fleet_reader = fleet_reader or FleetReader()
        self._cluster = cluster
        self._new_uuid = new_uuid

    async def deploy(self, caller: Caller, request: DeployRequest) -> Started:
        """Store the intent: group, members, request id and first event in one commit. That commit is the answer.

        The same request id with the same body answers with the group as it was accepted then.
        Raises InvalidArgument, NotFound (naming the field), AlreadyExists, RequestIdReused, QuotaExceeded, NoAddresses,
        Unavailable.
        """
        self._refuse_when_draining()
        body_hash = hashlib.sha256(canonical(request).encode()).hexdigest()

        offer = self._holder.offer() if self._holder is not None else None
        committing: list[str] = []

        def intent(connection: Connection) -> tuple[Started, int]:
            now = clock.now(connection)
            known = repeated(connection, caller, _DEPLOY, request.request_id, body_hash)
            if known is not None:
                return known, 0
            stands = basis(connection, caller.project)
            admitted = self._admitted(connection, caller, request, now, stands, keep=True)
            if stands.limited:
                alternatives.first_that(admitted, lambda one: check_quota(connection, one))
            if admitted.waiting is None:
                alternatives.first_that(admitted, lambda one: addresses.require_free(connection, one.instances, stands))
            committing.append(admitted.uuid)
            group = accepted(connection, admitted, now, offer and offer.held(now))
            before = group.revision - 1
            audited(connection, caller, _DEPLOY, group.uuid, request.request_id, now)
            if request.request_id:
                requests.remember(
                    connection, caller.principal, _DEPLOY, request.request_id, body_hash, group.uuid, before, now
                )
                failpoint("intent.remembered")
            return Started(group, before), now

        try:
            started, taken_at = await self._store.write(intent)
            failpoint("intent.committed")
        except (Unavailable, asyncio.CancelledError):
            if self._holder is not None and offer is not None:
                self._holder.unsure(committing)
            raise
        if self._holder is not None and offer is not None and taken_at:
            self._holder.hold(offer, started.group, taken_at, fresh=not request.resource_uuid)
        else:
            self._signals.group_due(started.group.uuid)
        return started

    async def plan(self, caller: Caller, request: DeployRequest, *, seconds: float | None = None) -> PlacementRecord:
        """Where the group would be placed; nothing is written. `seconds`: how long the caller waits, None: for ever.

        A caller that is cancelled ends the search.
        Raises what `deploy` and its stream would: InvalidArgument, NotFound, NoCapacity, Unsatisfiable; and Undecided
        where the time was over before anything was found or ruled out.
        """
        _, record = await self._planned(caller, request, seconds)
        return record

    async def plan_documents(
        self, caller: Caller, request: DeployRequest, ranks: Sequence[int], *, seconds: float | None = None
    ) -> tuple[PlacementRecord, tuple[MemberDocuments, ...]]:
        """`plan`, and what the members of these ranks would be told, in the order of their ranks.

        Raises as `plan`, and InvalidArgument where a rank is none of the group's or the texts are too long together.
        """
        group, record = await self._planned(caller, request, seconds)
        size = len(group.instances)
        for position, rank in enumerate(ranks):
            if rank >= size:
                raise InvalidArgument.of(f"document_ranks[{position}]", f"is {rank}; the group has ranks below {size}")

        def read(connection: Connection) -> tuple[MemberDocuments, ...]:
            zones = fleet.zones(connection)
            planned: dict[int, str] = {}
            for zone_uuid in {seat.zone_uuid for seat in record.assignments}:
                seats = [seat.rank for seat in record.assignments if seat.zone_uuid == zone_uuid]
                if zones[zone_uuid].network.plans_addresses:
                    free = addresses.free_addresses(connection, zone_uuid, zones[zone_uuid].network, len(seats))
                    planned |= dict(zip(seats, free, strict=True))
            seated, catalogue = preview.seated(group, record, planned), fleet.model_services(connection)
            told = preview.without_values(catalogue)
            hosts = fleet.hosts(connection, sorted({seat.host_uuid for seat in record.assignments}))
            found, left = [], MOST_DOCUMENT_BYTES
            for member in seated.instances:
                if member.rank in ranks:
                    texts = preview.preview(seated, member.rank, hosts, zones, told)
                    left -= sum(len(text.encode()) for text in texts.values())
                    if left < 0:
                        raise InvalidArgument.of("document_ranks", "asks for more than 2 MiB; ask for fewer ranks")
                    found.append(MemberDocuments(member.rank, member.spec.name, texts))
            return tuple(found)

        return record, await self._store.read(read)

    def foreseen(
        self, connection: Connection, caller: Caller, request: DeployRequest
    ) -> tuple[Group, Mapping[str, Host], Snapshot]:
        """The group as a deploy would store it, and the fleet. Raises what a deploy raises before it is planned."""
        stands = basis(connection)
        group = self._admitted(connection, caller, request, clock.now(connection), stands, keep=False)
        alternatives.first_that(group, lambda one: self._has_leave(connection, one, stands))
        hosts, snapshot = self._fleet_reader.read(connection)
        return group, hosts, snapshot

    def _has_leave(self, connection: Connection, group: Group, stands: Basis) -> None:
        """Raises QuotaExceeded, NoAddresses."""
        quotas.foresee(connection, group.project, promised(connection, group))
        addresses.require_free(connection, group.instances, stands)

    async def _planned(
        self, caller: Caller, request: DeployRequest, seconds: float | None
    ) -> tuple[Group, PlacementRecord]:
        answer_by = answer_time(seconds)

        def read(connection: Connection) -> tuple[Group, plans.Fleet, Kept | None]:
            group, hosts, snapshot = self.foreseen(connection, caller, request)
            known = plans.Fleet(snapshot, hosts, fleet.model_services(connection))
            return group, known, kept_room.before(connection, group, group.created_at)

        group, known, kept = await self._store.read(read)
        group, planned = await plans.best(self._planner, group, kept, known, self._limits.plan_seconds, answer_by)
        return group, translate.record(group, planned.decision, known.hosts, planned.duration_ms, 0, known.snapshot)

    async def get(self, caller: Caller, uuid: str) -> Group:
        """The group as it stands. A deleted one, and one of another tenant, is NotFound."""
        return visible(caller, await self._store.read(lambda c: self._known.load(c, uuid)))

    async def list(self, caller: Caller, query: GroupFilter, asked: int, page_token: str) -> GroupPage:
        """Groups by creation, a page at a time. `asked`: its size, 0 for the default.

        Raises InvalidArgument for a token of another listing.
        """
        cursor, own = paging.cursor("instance groups", asked, page_token, *astuple(query)), project_of(caller)

        def read(connection: Connection) -> tuple[int, tuple[Group, ...]]:
            if own is not None and query.project not in ("", own):
                return events.head(connection)[1], ()
            found = group_pages.page(
                connection,
                project=own or query.project or None,
                after=cursor.after_time(),
                limit=cursor.limit,
                name=query.name,
                statuses=query.statuses,
                zone_uuid=query.zone_uuid,
                tag=query.tag,
                load=self._known.load_many,
            )
            return events.head(connection)[1], tuple(found)

        revision, found = await self._store.read(read)
        page = cursor.page(found, [(str(group.created_at), group.uuid) for group in found])
        return GroupPage(page, revision)

    async def history(self, caller: Caller, uuid: str, asked: int, page_token: str) -> Page[Event]:
        """What has happened to the group, the oldest first, a page at a time. `asked`: its size, 0 for the default.

        Raises NotFound as `get` does, and InvalidArgument for a token of another listing.
        """
        cursor = paging.cursor("events", asked, page_token, uuid)
        sequence = cursor.after_number()

        def read(connection: Connection) -> tuple[Event, ...]:
            visible(caller, groups.load(connection, uuid))
            return events.of_group(connection, uuid, sequence, cursor.limit)

        found = await self._store.read(read)
        return cursor.page(found, [(str(event.sequence), event.group_uuid) for event in found])

    async def list_instances(
        self, caller: Caller, asked: int, page_token: str, group_uuid: str = "", host_uuid: str = ""
    ) -> Page[Instance]:
        """Members of the groups that the caller sees, by uuid. Empty filters do not filter.

        Raises InvalidArgument for a token of another listing.
        """
        cursor = paging.cursor("instances", asked, page_token, group_uuid, host_uuid)

        def read(connection: Connection) -> Page[Instance]:
            found = instances.page(
                connection,
                project=project_of(caller),
                after=cursor.after[1] if cursor.after is not None else "",
                limit=cursor.limit,
                group_uuid=group_uuid,
                host_uuid=host_uuid,
            )
            return cursor.page(found, [("", member.uuid) for member in found])

        return await self._store.read(read)

    async def follow(self, group_uuid: str, after: int) -> AsyncGenerator[Event, None]:
        """The group's events above a revision until its present operation ends; the last one is FINAL.

        Raises DeployFailed, NoCapacity, Unsatisfiable after the FINAL event of an operation that failed: the group is
        Failed, or Running as before where a scaling was withdrawn.
        """
        async with aclosing(self.follow_marked(group_uuid, after, marked=False)) as changes:
            async for event in changes:
                assert isinstance(event, Event)  # no bookmarks were asked for
                yield event

    async def follow_marked(
        self, group_uuid: str, after: int, *, marked: bool = True
    ) -> AsyncGenerator[Event | Bookmark, None]:
        """As `follow`. `marked`: with bookmarks while nothing happens."""
        feed = self._feed.follow(after, group_uuid=group_uuid, bookmarks=marked)
        async with aclosing(feed) as changes:
            async for event in changes:
                yield event
                if isinstance(event, Bookmark):
                    continue
                if event.kind is EventKind.FINAL:
                    group = event.group
                    ended = (GroupStatus.FAILED, GroupStatus.RUNNING)
                    if group is not None and group.status in ended and group.failure is not None:
                        raise error_of(group.failure, group_uuid)
                    return

    def watch(
        self, caller: Caller, revision: int | None, group_uuid: str | None
    ) -> AsyncGenerator[Group | Event | Bookmark, None]:
        """All groups that the caller may see, or one. See `Feed.watch`."""
        return self._feed.watch(revision, group_uuid=group_uuid, project=project_of(caller))

    def _admitted(
        self, connection: Connection, caller: Caller, request: DeployRequest, now: int, stands: Basis, *, keep: bool
    ) -> Group:
        """The group as it would be stored. `keep`: in a transaction that writes, which has read `stands`.

        Raises InvalidArgument, NotFound, AlreadyExists, WrongState (a secret that cannot be decrypted).
        """
        catalogue, zones = stands.catalogue, stands.zones
        knows_secret = self._secrets.usable(connection, caller.project, keep=keep)

        def admitted(asked: GroupSpec) -> GroupSpec:
            return admit(
                asked,
                zones,
                catalogue,
                max_nodes=self._limits.max_nodes,
                knows_secret=knows_secret,
                cluster_of=lambda uuid: clusters.find(connection, uuid),
                image_of=lambda uuid: catalog.find_image(connection, uuid, keep=keep),
                own_uuid=request.resource_uuid,
            )

        spec = admitted(request.spec)
        require_visible(connection, caller, spec.placement)
        uuid = request.resource_uuid or self._new_uuid()
        # One that is made at random is nobody's.
        past = next(iter(groups.load_many(connection, [uuid] if request.resource_uuid else ())), None)
        if past is not None and past.phase is not GroupPhase.DELETED:
            raise AlreadyExists("instance group", uuid)
        group = Group(
            uuid=uuid,
            spec=spec,
            project=caller.project,
            principal=caller.principal,
            deadline_at=now + spec.deadline_ms if spec.deadline_ms else 0,
            created_at=now,
            updated_at=now,
            room=room_wish(caller, request.make_room, caller.project, self._limits.priorities),
            waiting=may_wait(request.wait, now),
            may_wait=request.wait,
            ends_at=ends(request.ends_at, now),
            priority=priority(request.priority, caller.project, self._limits.priorities),
            instances=tuple(
                new_instance(uuid, node, catalogue, now, past=past.version if past else 0) for node in spec.nodes
            ),
        )
        version = past.version if past else 0
        group = alternatives.admitted(group, request.alternatives, admitted, catalogue, now, version)
        return group if past is None else _next_life(past, group)


def _next_life(past: Group, group: Group) -> Group:
    """A group with the uuid of a deleted one. All that is counted goes on, and whoever still works on that one has
    lost its lease (ARCHITECTURE I8)."""
    return replace(
        group,
        sequence=past.sequence,
        version=past.version,
        revision=past.revision,
        start_epoch=past.start_epoch,
        epoch=past.epoch + 1,
    )
