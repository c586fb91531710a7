"""The page's one stream: who is looking, all that is there, and then what changes, at most ten times a second.

A page opens one stream however much it shows, so that ten pages of one browser do not use up its connections. What
comes close together is told together: a member that passes three states within a moment is told once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from service.app.capacity import HostView
from service.app.feed import Bookmark
from service.app.groups import Groups
from service.app.identity import ADMIN, VIEWER, Identities
from service.app.picture import Look, Picture
from service.app.used import Used, UsedNews
from service.app.visibility import sees_causes
from service.contract.call import REQUEST_ID_KEY, request_id_of
from service.contract.convert.inventory import Reachable
from service.contract.frame import CallerLeft, CallFrame, FramedCall
from service.domain.events import Event
from service.domain.groups import Group, Instance
from service.domain.tenants import Caller
from service.http.peers import by_unix_socket, peer
from service.http.reply import Reply, left
from service.http.web import documents
from service.telemetry.call_metrics import JSON
from service.telemetry.grpc_metrics import Method

PATH = "/web/events"
PAUSE_SECONDS = 0.1
"""The least time between two messages of changes; the pause between two drawings of a page adds to it."""
_QUIET_SECONDS = 10.0
_AHEAD = 4096
"""This many changes are read ahead of a page; a slower page is told later, from the store."""
_PART = 2000
"""A message tells of this many things at most: a page draws what has come while the rest is under way."""
_METHOD = Method("server_stream", "corral.web", "Events")

News = Look | Group | Event | Bookmark | UsedNews


class HostDocuments:
    """The documents of hosts, each made once for all pages while its host is as it was."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, bool], tuple[HostView, dict[str, Any]]] = {}

    def of(self, view: HostView, *, causes: bool) -> dict[str, Any]:
        """See `documents.host`."""
        key = (view.host.uuid, causes)
        known = self._made.get(key)
        if known is None or known[0] is not view:
            self._made[key] = known = (view, documents.host(view, causes=causes))
        return known[1]

    def forget(self, uuids: Iterable[str]) -> None:
        """These hosts are gone."""
        for uuid in uuids:
            for causes in (False, True):
                self._made.pop((uuid, causes), None)


@dataclass(slots=True)
class Changes:
    """What one message tells, by uuid: of several changes of the same thing the last. `causes`: to somebody who is told
    what hosts themselves said."""

    host_documents: HostDocuments
    causes: bool = False
    hosts: dict[str, Any] = field(default_factory=dict)
    removed_hosts: list[str] = field(default_factory=list)
    zones: list[Any] | None = None
    groups: dict[str, Any] = field(default_factory=dict)
    members: dict[str, Any] = field(default_factory=dict)
    used: dict[str, Any] = field(default_factory=dict)
    revision: int = 0
    complete: int = 0
    """How many of the sources have told here that all that stood when they began has been told."""

    def add(self, news: News, reachable: Reachable) -> None:
        """Take in one more."""
        match news:
            case Look():
                made = self.host_documents
                self.hosts.update((view.host.uuid, made.of(view, causes=self.causes)) for view in news.hosts)
                self.removed_hosts += news.removed
                made.forget(news.removed)
                self.complete += news.whole
                if news.zones is not None:
                    self.zones = [documents.zone(view) for view in news.zones]
            case UsedNews():
                self.used.update(news.hosts)
            case Group():
                self._group(news, reachable)
            case Bookmark():
                self.revision = news.revision
                self.complete += news.initial_state_complete
            case Event():
                self.revision = news.revision
                if news.group is not None:
                    self._group(news.group, reachable)
                if news.instance is not None:
                    self._member(news.instance, reachable)

    def _group(self, group: Group, reachable: Reachable) -> None:
        self.groups[group.uuid] = documents.group(group, causes=self.causes)
        for member in group.instances:
            self._member(member, reachable)

    def _member(self, member: Instance, reachable: Reachable) -> None:
        self.members[member.uuid] = documents.member(member, reachable, causes=self.causes)

    @property
    def size(self) -> int:
        """How many things it tells of."""
        return len(self.hosts) + len(self.groups) + len(self.members)

    def document(self) -> dict[str, Any]:
        """The message."""
        whole = {
            "revision": self.revision,
            "hosts": list(self.hosts.values()),
            "removed_hosts": self.removed_hosts,
            "groups": list(self.groups.values()),
            "members": list(self.members.values()),
            "used": self.used,
        }
        told: dict[str, Any] = {name: value for name, value in whole.items() if value}
        if self.zones is not None:
            told["zones"] = self.zones
        return told


class Live:
    """Answers `GET /web/events`. Administrators see the fleet and all groups, everybody else their project's groups."""

    def __init__(
        self,
        frame: CallFrame,
        identities: Identities,
        groups: Groups,
        picture: Picture,
        used: Used,
        reachable: Reachable,
        about: Mapping[str, Any],
    ) -> None:
        """`about`: what the first event tells of the service."""
        self._frame = frame
        self._identities = identities
        self._groups = groups
        self._picture = picture
        self._used = used
        self._reachable = reachable
        self._about = about
        self._host_documents = HostDocuments()

    def route(self) -> Route:
        """Where it is served."""
        return Route(PATH, self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        request_id = request_id_of(request.headers.get(REQUEST_ID_KEY))
        reply = Reply(request, send, request_id)
        try:
            async with self._frame.call(JSON, _METHOD, request_id, peer=peer(request)) as call:
                await self._answered(call, request, reply)
        except CallerLeft:
            await reply.nothing()
        except Exception as error:
            await reply.problem(error)

    async def _answered(self, call: FramedCall, request: Request, reply: Reply) -> None:
        shown, unix = request.headers.get("authorization", ""), by_unix_socket(request)
        caller = await call.permit(lambda: self._identities.identify(shown, by_unix_socket=unix), VIEWER)
        call.received()
        leaving = asyncio.create_task(left(request))
        leaving.add_done_callback(lambda gone: None if gone.cancelled() else call.end_with(CallerLeft()))
        try:
            call.begun()
            await reply.named("hello", {**self._about, "caller": _who(caller)})
            async with aclosing(self._messages(caller)) as messages:
                async for name, document in messages:
                    if name:
                        await reply.named(name, document)
                        call.count_sent()
                    else:
                        await reply.comment()
        finally:
            leaving.cancel()

    async def _messages(self, caller: Caller) -> AsyncGenerator[tuple[str, Any], None]:
        """Messages with their names; without one where there was nothing to tell for a while."""
        queue: asyncio.Queue[News | BaseException] = asyncio.Queue(_AHEAD)
        sources: list[AsyncGenerator[News, None]] = [self._groups.watch(caller, None, None)]
        if caller.role == ADMIN:
            sources.insert(0, self._picture.watch())
        missing = len(sources)
        # One after the other: the fleet is drawn while the groups, which are many more things, are still being read.
        readers = [asyncio.create_task(_read(sources.pop(0), queue))]
        try:
            while True:
                changes = Changes(self._host_documents, sees_causes(caller))
                if not await self._gathered(queue, changes):
                    yield "", None
                    continue
                missing -= changes.complete
                if changes.complete and sources:
                    readers.append(asyncio.create_task(_read(sources.pop(0), queue)))
                told = changes.document()
                if not changes.complete and told.keys() <= {"revision"}:
                    # A page draws nothing of how far the log was read, and a pause would hold back what comes next.
                    yield "", None
                    continue
                yield "changes", told
                if missing == 0:
                    missing = -1
                    yield "ready", {"revision": changes.revision}
                    if caller.role == ADMIN:
                        readers.append(asyncio.create_task(_read(self._used.watch(), queue)))
                if missing < 0:
                    await asyncio.sleep(PAUSE_SECONDS)
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)

    async def _gathered(self, queue: asyncio.Queue[News | BaseException], changes: Changes) -> bool:
        """Take what there is, waiting for the first of it; False where nothing came for a while. Raises what a source
        ended with."""
        try:
            async with asyncio.timeout(_QUIET_SECONDS):
                self._add(changes, await queue.get())
        except TimeoutError:
            return False
        while not queue.empty() and changes.size < _PART:
            self._add(changes, queue.get_nowait())
        return True

    def _add(self, changes: Changes, news: News | BaseException) -> None:
        if isinstance(news, BaseException):
            raise news
        changes.add(news, self._reachable)


async def _read(source: AsyncGenerator[News, None], queue: asyncio.Queue[News | BaseException]) -> None:
    """Hand on what a source tells, and what it ends with."""
    try:
        async with aclosing(source):
            async for news in source:
                await queue.put(news)
    except Exception as problem:
        await queue.put(problem)


def _who(caller: Caller) -> dict[str, str]:
    return {"principal": caller.principal, "project": caller.project, "role": caller.role}
