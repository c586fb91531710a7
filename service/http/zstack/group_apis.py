"""Groups: query, update, restart, delete, and the machines of their members."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

from corral.v1 import deploy_pb2

from service.app.groups import Ask, GroupFilter
from service.contract import validation
from service.contract.convert import requests
from service.domain.groups import Group
from service.domain.tenants import Caller
from service.errors import InvalidArgument, NotFound
from service.http.zstack import body, fields, query
from service.http.zstack.calls import Call, Handler, each
from service.http.zstack.following import Following, running
from service.http.zstack.showing import Showing

# What ZStack's update can change and Corral's cannot, because it is how the members were made.
_CHANGEABLE = ("name", "description", "userTags", "systemTags")
_FIXED = (
    "environmentVariables", "startupParameters", "serviceLivez", "serviceReadyz", "serviceBootupTime", "yaml",
    "inferenceParams", "servicePorts",
)  # fmt: skip


class GroupApis:
    """What is done with groups that exist."""

    def __init__(self, following: Following, showing: Showing) -> None:
        self._groups = following.groups
        self._following = following
        self._showing = showing
        self.table: Mapping[str, Handler] = {
            "QueryModelServiceInstanceGroup": self._query,
            "UpdateModelServiceInstanceGroup": self._update,
            "RestartModelServiceGroups": self._restart_all,
            "DeleteModelServiceInstanceGroup": self._delete_one,
            "DeleteModelServiceInstanceGroups": self._delete_all,
            "QueryVmInstance": self._query_machines,
        }

    async def _update(self, call: Call) -> dict[str, Any]:
        for name in _FIXED:
            if call.arguments.get(name) is not None:
                raise InvalidArgument.of(name, "cannot be changed in a group that exists")
        call.refuse("requestId", "updateMask")
        message = deploy_pb2.UpdateInstanceGroupRequest()
        body.fill(message, call.arguments)
        message.update_mask.paths.extend(
            field.name
            for field in message.DESCRIPTOR.fields
            if field.json_name in _CHANGEABLE and call.arguments.get(field.json_name) is not None
        )
        validation.check(message)
        ask = replace(call.once(), etag=message.etag, validate_only=message.validate_only)
        group = await self._groups.update(call.caller, message.uuid, requests.metadata(message), ask)
        return {"inventory": await self._showing.group(group)}

    async def _restart_all(self, call: Call) -> dict[str, Any]:
        async def restart(uuid: str) -> Mapping[str, Any]:
            started = await self._groups.restart(call.caller, uuid, call.once(uuid))
            group = running(await self._following.end_of(call.caller, started), started)
            return {"inventory": await self._showing.group(group)}

        return await each(call, call.uuids("uuids", required=True), restart)

    async def _delete_one(self, call: Call) -> dict[str, Any]:
        call.check_delete_mode()
        await self._delete(call.caller, call.uuid(), call.once())
        return {}

    async def _delete_all(self, call: Call) -> dict[str, Any]:
        call.check_delete_mode()

        async def delete(uuid: str) -> Mapping[str, Any]:
            await self._delete(call.caller, uuid, call.once(uuid))
            return {}

        return await each(call, call.uuids("uuids", required=True), delete)

    async def _delete(self, caller: Caller, uuid: str, ask: Ask) -> None:
        """As all of ZStack's deletions: what is not there is deleted. So a deletion can be done again after a crash."""
        try:
            started = await self._groups.delete(caller, uuid, ask)
        except NotFound:
            return
        await self._following.end_of(caller, started)

    async def _query(self, call: Call) -> dict[str, Any]:
        show = await self._showing.now()
        found = [show.group(group) async for group in self._matching(call)]
        return query.answer(call.query, found, fields.GROUP)

    async def _query_machines(self, call: Call) -> dict[str, Any]:
        show = await self._showing.now()
        found = [machine async for group in self._every(call, GroupFilter()) for machine in show.machines(group)]
        return query.answer(call.query, found, fields.VM)

    async def _matching(self, call: Call) -> AsyncIterator[Group]:
        """The groups that the query may speak of: by what the store can select by, the rest is left to `query`."""
        uuid = call.query.exactly("uuid")
        if uuid is not None:
            group = await self._following.standing(call.caller, uuid)
            if group is not None:
                yield group
            return
        status = call.query.exactly("status")
        wanted = GroupFilter(name=call.query.exactly("name") or "", statuses=(status,) if status else ())
        async for group in self._every(call, wanted):
            yield group

    async def _every(self, call: Call, wanted: GroupFilter) -> AsyncIterator[Group]:
        token = ""
        while True:
            page = await self._groups.list(call.caller, wanted, 1000, token)
            for group in page.groups:
                yield group
            token = page.next_page_token
            if not token:
                return
