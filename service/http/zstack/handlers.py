"""What each API does: translate its arguments, call the use case, translate the answer back."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from corral.v1 import deploy_pb2, fleet_pb2

from service.app.catalog import Catalog
from service.app.fleet import Fleet, HostFilter
from service.app.groups import Ask, GroupFilter, Groups, Started
from service.app.paging import MAX_PAGE, Page
from service.app.sessions import LIFETIME_MS, Sessions
from service.app.zones import NewZone
from service.contract import text, validation
from service.contract.convert import requests
from service.contract.convert.explanation import in_callers_order
from service.contract.convert.inventory import Reachable
from service.domain.fleet import Host, HostState
from service.domain.groups import DeployRequest, EventKind, Group, GroupStatus
from service.domain.tenants import NOBODY, Caller
from service.errors import (
    DeployFailed,
    InvalidArgument,
    NotFound,
    PlacementError,
    RevisionUnavailable,
)
from service.http.zstack import body, inventories, model_services, query
from service.http.zstack.apis import Api
from service.http.zstack.errors import NotSupported, TimedOut
from service.http.zstack.query import Query
from service.lifecycle.transitions import AT_REST

# The version of ZStack's API that this face speaks: the newest that its description of the deploy names.
API_VERSION = "5.3.46"
# How long an asynchronous call may take, ms; clients are told.
API_TIMEOUT_MS = 3 * 3600 * 1000
VALIDATION_ONLY = "validationOnly"
_HOST_STATES: Mapping[str, HostState] = {
    "enable": HostState.ENABLED,
    "disable": HostState.DISABLED,
    "maintain": HostState.MAINTENANCE,
}
_DELETE_MODES = ("Permissive", "Enforcing")
# What ZStack's update can change and Corral's cannot, because it is how the members were made.
_CHANGEABLE = ("name", "description", "userTags", "systemTags")
_FIXED = ("environmentVariables", "startupParameters", "serviceLivez", "serviceReadyz", "serviceBootupTime")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """One call. `request_id`: the job's uuid, or a name for the log; `peer`: the address that it came from."""

    api: Api
    request_id: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    query: Query = field(default_factory=Query)
    peer: str = ""
    caller: Caller = NOBODY

    def text(self, name: str) -> str:
        """A mandatory argument. Raises InvalidArgument."""
        value = self.arguments.get(name)
        if not isinstance(value, str) or not value.strip():
            raise InvalidArgument.of(name, "is required")
        return value.strip()

    def uuid(self, name: str = "uuid") -> str:
        """A mandatory uuid in its one form. Raises InvalidArgument."""
        return _uuid(name, self.text(name))

    def uuids(self, name: str) -> tuple[str, ...]:
        """A list of uuids; absent is empty. Raises InvalidArgument."""
        values = self.arguments.get(name) or []
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise InvalidArgument.of(name, "must be a list of uuids")
        return tuple(dict.fromkeys(_uuid(f"{name}[{i}]", value.strip()) for i, value in enumerate(values)))


Handler = Callable[[Call], Awaitable[dict[str, Any]]]


class Handlers:
    """The APIs that this service does; asking for another one raises NotSupported."""

    def __init__(
        self, groups: Groups, fleet: Fleet, catalog: Catalog, sessions: Sessions, reachable: Reachable
    ) -> None:
        self._groups = groups
        self._fleet = fleet
        self._catalog = catalog
        self._sessions = sessions
        self._reachable = reachable
        self._table: Mapping[str, Handler] = {
            "LogInByAccount": self._log_in,
            "LogOut": self._log_out,
            "ValidateSession": self._validate_session,
            "RenewSession": self._renew_session,
            "DeployDistributedModelService": self._deploy,
            "QueryModelServiceInstanceGroup": self._query_groups,
            "UpdateModelServiceInstanceGroup": self._update_group,
            "RestartModelServiceGroups": self._restart_groups,
            "DeleteModelServiceInstanceGroup": self._delete_group,
            "DeleteModelServiceInstanceGroups": self._delete_groups,
            "QueryModelService": self._query_model_services,
            "AddModelService": self._add_model_service,
            "QueryZone": self._query_zones,
            "CreateZone": self._create_zone,
            "DeleteZone": self._delete_zone,
            "QueryHost": self._query_hosts,
            "ChangeHostState": self._change_host_state,
            "GetCpuMemoryCapacity": self._capacity,
            "GetVersion": self._version,
        }

    async def run(self, call: Call) -> dict[str, Any]:
        """What the call answers. Raises the errors of `service.errors`."""
        handler = self._table.get(call.api.name)
        if handler is None:
            raise NotSupported(call.api.name)
        return await handler(call)

    async def _log_in(self, call: Call) -> dict[str, Any]:
        password = call.arguments.get("password")
        if not isinstance(password, str):
            raise InvalidArgument.of("password", "is required")
        session = await self._sessions.log_in(call.text("accountName"), password, call.peer)
        return {"inventory": inventories.session(session)}

    async def _log_out(self, call: Call) -> dict[str, Any]:
        await self._sessions.log_out(call.text("sessionUuid"))
        return {}

    async def _validate_session(self, call: Call) -> dict[str, Any]:
        return {"valid": await self._sessions.is_valid(call.text("sessionUuid"))}

    async def _renew_session(self, call: Call) -> dict[str, Any]:
        seconds = call.arguments.get("duration")
        # A JSON number may be larger than any float, and then reads as infinite.
        if seconds is not None and (type(seconds) not in (int, float) or not 0 < seconds < math.inf):
            raise InvalidArgument.of("duration", "must be a number of seconds above 0")
        lifetime_ms = LIFETIME_MS if seconds is None else math.ceil(seconds * 1000)
        return {"inventory": inventories.session(await self._sessions.renew(call.text("sessionUuid"), lifetime_ms))}

    async def _deploy(self, call: Call) -> dict[str, Any]:
        message = deploy_pb2.DeployDistributedModelServiceRequest()
        body.fill(message, call.arguments)
        validation.check(message)
        dry_run = VALIDATION_ONLY in message.system_tags or message.validate_only
        message.system_tags[:] = [tag for tag in message.system_tags if tag != VALIDATION_ONLY]
        request = self._request(call, message)
        try:
            if dry_run:
                record = await self._groups.plan(call.caller, request)
                return {"inventory": inventories.planned(_asked_for(message), record)}
            started = await self._groups.deploy(call.caller, request)
            group = await self._end_of(call.caller, started)
        except PlacementError as error:
            raise in_callers_order(error, requests.positions_by_rank(message.model_services)) from error
        return {"inventory": inventories.group(_running(group, started), self._reachable)}

    def _request(self, call: Call, message: deploy_pb2.DeployDistributedModelServiceRequest) -> DeployRequest:
        """With the job's uuid as request id, so that the same job never makes a second group; and with a deadline."""
        request = requests.deploy_request(message)
        spec = replace(request.spec, deadline_ms=request.spec.deadline_ms or API_TIMEOUT_MS)
        return replace(request, spec=spec, request_id=f"zstack-job/{call.request_id}")

    async def _end_of(self, caller: Caller, started: Started) -> Group | None:
        """The group when the operation that was begun has ended; None where the group is gone by then.

        Raises NoCapacity, Unsatisfiable, DeployFailed (TimedOut) where the group failed, Unavailable.
        """
        uuid, after = started.group.uuid, started.after_revision
        while True:
            final: Group | None = None
            try:
                async with aclosing(self._groups.follow(uuid, after)) as changes:
                    async for event in changes:
                        final = event.group if event.kind is EventKind.FINAL else None
                break
            except RevisionUnavailable:
                # Its events were compacted while this process was down: what stands now tells the end as well.
                standing = await self._standing(caller, uuid)
                if standing is None or standing.phase in AT_REST:
                    final = standing
                    break
                after = standing.revision
            except DeployFailed as error:
                if final is not None and final.failure is not None and final.failure.code == TimedOut.reason:
                    raise TimedOut(error.group_uuid, error.group_reason) from error
                raise
        return None if final is not None and final.status is GroupStatus.DELETED else final

    async def _standing(self, caller: Caller, uuid: str) -> Group | None:
        try:
            return await self._groups.get(caller, uuid)
        except NotFound:
            return None

    async def _update_group(self, call: Call) -> dict[str, Any]:
        for name in _FIXED:
            if call.arguments.get(name) is not None:
                raise InvalidArgument.of(name, "cannot be changed in a group that exists")
        message = deploy_pb2.UpdateInstanceGroupRequest()
        body.fill(message, call.arguments)
        message.update_mask.paths.extend(
            field.name
            for field in message.DESCRIPTOR.fields
            if field.json_name in _CHANGEABLE and call.arguments.get(field.json_name) is not None
        )
        validation.check(message)
        group = await self._groups.update(call.caller, message.uuid, requests.metadata(message), _once(call))
        return {"inventory": inventories.group(group, self._reachable)}

    async def _restart_groups(self, call: Call) -> dict[str, Any]:
        uuids = call.uuids("uuids")
        if not uuids:
            raise InvalidArgument.of("uuids", "is required")
        restarted = await _all(self._restart(call.caller, uuid, _once(call, uuid)) for uuid in uuids)
        return {"inventories": [inventories.group(group, self._reachable) for group in restarted]}

    async def _restart(self, caller: Caller, uuid: str, ask: Ask) -> Group:
        started = await self._groups.restart(caller, uuid, ask)
        return _running(await self._end_of(caller, started), started)

    async def _delete_group(self, call: Call) -> dict[str, Any]:
        _check_delete_mode(call)
        await self._delete(call.caller, call.uuid(), _once(call))
        return {}

    async def _delete_groups(self, call: Call) -> dict[str, Any]:
        _check_delete_mode(call)
        uuids = call.uuids("uuids")
        if not uuids:
            raise InvalidArgument.of("uuids", "is required")
        await _all(self._delete(call.caller, uuid, _once(call, uuid)) for uuid in uuids)
        return {}

    async def _delete(self, caller: Caller, uuid: str, ask: Ask) -> None:
        """As all of ZStack's deletions: what is not there is deleted. So a deletion can be done again after a crash."""
        try:
            started = await self._groups.delete(caller, uuid, ask)
        except NotFound:
            return
        await self._end_of(caller, started)

    async def _query_groups(self, call: Call) -> dict[str, Any]:
        found = [inventories.group(group, self._reachable) async for group in self._matching(call)]
        return query.answer(call.query, found, inventories.GROUP_FIELDS)

    async def _matching(self, call: Call) -> AsyncIterator[Group]:
        """The groups that the query may speak of: by what the store can select by, the rest is left to `query`."""
        uuid = call.query.exactly("uuid")
        if uuid is not None:
            group = await self._standing(call.caller, uuid)
            if group is not None:
                yield group
            return
        status = call.query.exactly("status")
        wanted = GroupFilter(name=call.query.exactly("name") or "", statuses=(status,) if status else ())
        token = ""
        while True:
            page = await self._groups.list(call.caller, wanted, 1000, token)
            for group in page.groups:
                yield group
            token = page.next_page_token
            if not token:
                return

    async def _query_model_services(self, call: Call) -> dict[str, Any]:
        found = [inventories.model_service(entry) async for entry in _every(self._catalog.list_model_services)]
        return query.answer(call.query, found, inventories.MODEL_SERVICE_FIELDS)

    async def _add_model_service(self, call: Call) -> dict[str, Any]:
        request_id = f"zstack-job/{call.request_id}"
        entry = await model_services.add(self._catalog, call.caller, call.arguments, request_id)
        return {"inventory": inventories.model_service(entry)}

    async def _query_zones(self, call: Call) -> dict[str, Any]:
        found = [inventories.zone(view.zone) async for view in _every(self._fleet.list_zones)]
        return query.answer(call.query, found, inventories.ZONE_FIELDS)

    async def _create_zone(self, call: Call) -> dict[str, Any]:
        message = fleet_pb2.CreateZoneRequest()
        body.fill(message, call.arguments)
        validation.check(message)
        request = NewZone(message.name, message.description, message.resource_uuid, f"zstack-job/{call.request_id}")
        return {"inventory": inventories.zone((await self._fleet.create_zone(call.caller, request)).zone)}

    async def _delete_zone(self, call: Call) -> dict[str, Any]:
        _check_delete_mode(call)
        try:
            await self._fleet.delete_zone(call.caller, call.uuid())
        except NotFound:
            return {}
        return {}

    async def _query_hosts(self, call: Call) -> dict[str, Any]:
        found = [inventories.host(host) async for host in self._hosts()]
        return query.answer(call.query, found, inventories.HOST_FIELDS)

    async def _hosts(self) -> AsyncIterator[Host]:
        async for view in _every(lambda size, token: self._fleet.list_hosts(HostFilter(), size, token)):
            yield view.host

    async def _change_host_state(self, call: Call) -> dict[str, Any]:
        event = call.text("stateEvent")
        if event not in _HOST_STATES:
            raise InvalidArgument.of("stateEvent", f"must be one of {', '.join(_HOST_STATES)}")
        view = await self._fleet.set_state(call.caller, call.uuid(), _HOST_STATES[event])
        return {"inventory": inventories.host(view.host)}

    async def _capacity(self, call: Call) -> dict[str, Any]:
        zones, clusters, hosts = (call.uuids(name) for name in ("zoneUuids", "clusterUuids", "hostUuids"))
        counted = [
            host
            async for host in self._hosts()
            if (not zones or host.zone_uuid in zones)
            and (not clusters or host.cluster_uuid in clusters)
            and (not hosts or host.uuid in hosts)
        ]
        return inventories.capacity(counted)

    async def _version(self, call: Call) -> dict[str, Any]:
        return {"version": API_VERSION}


def _once(call: Call, uuid: str = "") -> Ask:
    """With a request id of the job (and the group), so that a job taken up again does nothing twice."""
    return Ask(request_id=f"zstack-job/{call.request_id}/{uuid}" if uuid else f"zstack-job/{call.request_id}")


def _running(group: Group | None, started: Started) -> Group:
    """The group that an operation has brought up. Raises DeployFailed where somebody ended it before."""
    if group is None or group.status is not GroupStatus.RUNNING:
        state = "Deleted" if group is None else group.status.value
        raise DeployFailed(started.group.uuid, f"was {state} before it was Running")
    return group


async def _every(listing: Callable[[int, str], Awaitable[Page[T]]]) -> AsyncIterator[T]:
    """Everything that a listing has, page by page."""
    token = ""
    while True:
        page = await listing(MAX_PAGE, token)
        for item in page.items:
            yield item
        token = page.next_page_token
        if not token:
            return


async def _all(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """What all of them return, once all have ended. Raises the first failure then, and not while others still work."""
    ends = await asyncio.gather(*works, return_exceptions=True)
    done: list[T] = []
    for end in ends:
        if isinstance(end, BaseException):
            raise end
        done.append(end)
    return done


def _uuid(name: str, value: str) -> str:
    canonical = text.canonical_uuid(value)
    if not text.is_uuid(canonical):
        raise InvalidArgument.of(name, "must be a uuid of 32 hexadecimal digits, with or without dashes")
    return canonical


def _check_delete_mode(call: Call) -> None:
    mode = call.arguments.get("deleteMode")
    if mode is not None and mode not in _DELETE_MODES:
        raise InvalidArgument.of("deleteMode", f"must be one of {', '.join(_DELETE_MODES)}")


def _asked_for(message: deploy_pb2.DeployDistributedModelServiceRequest) -> dict[str, Any]:
    asked = {"name": message.name, "description": message.description or None}
    return asked | {"modelServiceUuid": message.model_services[0].uuid, "type": message.model_services[0].type or None}
