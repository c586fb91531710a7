"""The methods of `DistributedModelService`: check, translate, call the use case, translate back.

A method that is not here answers UNIMPLEMENTED by the generated base class and the interceptor.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from corral.v1 import deploy_pb2, deploy_pb2_grpc

from service.app.groups import GroupFilter, Groups, Started, etag_of
from service.errors import Conflict, PlacementError
from service.model import Event
from service.rpc import validation
from service.rpc.calls import current_caller
from service.rpc.convert import events, inventory, requests
from service.rpc.convert.explanation import in_callers_order
from service.rpc.convert.inventory import Reachable

SERVICE = deploy_pb2.DESCRIPTOR.services_by_name["DistributedModelService"].full_name


class DistributedModelServicer(deploy_pb2_grpc.DistributedModelServiceServicer):
    """Translates between the wire and `service.app.groups`."""

    def __init__(self, groups: Groups, reachable: Reachable) -> None:
        """`reachable`: whether members of a zone can be reached from outside; it decides about their `url`."""
        self._groups = groups
        self._reachable = reachable

    async def DeployDistributedModelService(  # noqa: N802
        self, request: deploy_pb2.DeployDistributedModelServiceRequest, context: Any
    ) -> AsyncIterator[deploy_pb2.DeployDistributedModelServiceResponse]:
        """Stores the intent, then shows the group's events until the operation ends."""
        validation.check(request)
        caller, wanted = current_caller(), requests.deploy_request(request)
        try:
            if request.validate_only:
                record = await self._groups.plan(caller, wanted)
                yield deploy_pb2.DeployDistributedModelServiceResponse(event=events.planned(record))
                return
            started = await self._groups.deploy(caller, wanted)
            async with aclosing(self._follow(started)) as changes:
                async for change in changes:
                    message = events.event(change, self._reachable)
                    yield deploy_pb2.DeployDistributedModelServiceResponse(event=message)
        except PlacementError as error:
            raise in_callers_order(error, requests.rank_order(request.model_services)) from error

    async def PlanDistributedModelService(  # noqa: N802
        self, request: deploy_pb2.PlanDistributedModelServiceRequest, context: Any
    ) -> deploy_pb2.PlanDistributedModelServiceResponse:
        """Where the group would be placed; nothing is written."""
        validation.check(request)
        try:
            record = await self._groups.plan(current_caller(), requests.deploy_request(request))
        except PlacementError as error:
            raise in_callers_order(error, requests.rank_order(request.model_services)) from error
        return deploy_pb2.PlanDistributedModelServiceResponse(placement=inventory.placement(record, planned_only=True))

    async def GetInstanceGroup(  # noqa: N802
        self, request: deploy_pb2.GetInstanceGroupRequest, context: Any
    ) -> deploy_pb2.GetInstanceGroupResponse:
        """One group as it stands."""
        validation.check(request)
        group = await self._groups.get(current_caller(), request.uuid)
        return deploy_pb2.GetInstanceGroupResponse(inventory=inventory.group(group, self._reachable))

    async def ListInstanceGroups(  # noqa: N802
        self, request: deploy_pb2.ListInstanceGroupsRequest, context: Any
    ) -> deploy_pb2.ListInstanceGroupsResponse:
        """A page of groups."""
        validation.check(request)
        query = GroupFilter(request.name, tuple(request.statuses), request.zone_uuid, request.tag)
        page = await self._groups.list(current_caller(), query, request.page_size, request.page_token)
        return deploy_pb2.ListInstanceGroupsResponse(
            inventories=[inventory.group(group, self._reachable) for group in page.groups],
            next_page_token=page.next_page_token,
        )

    async def WatchInstanceGroups(  # noqa: N802
        self, request: deploy_pb2.WatchInstanceGroupsRequest, context: Any
    ) -> AsyncIterator[deploy_pb2.WatchInstanceGroupsResponse]:
        """Changes from a revision on, until the client leaves or the service drains."""
        validation.check(request)
        watch = self._groups.watch(current_caller(), request.start_revision or None, request.uuid or None)
        async with aclosing(watch) as changes:
            async for change in changes:
                message = events.change(change, self._reachable)
                yield deploy_pb2.WatchInstanceGroupsResponse(event=message)

    async def DeleteInstanceGroup(  # noqa: N802
        self, request: deploy_pb2.DeleteInstanceGroupRequest, context: Any
    ) -> AsyncIterator[deploy_pb2.DeleteInstanceGroupResponse]:
        """Stores the wish, then shows the group's events until it is gone."""
        validation.check(request)
        if request.validate_only:
            group = await self._groups.get(current_caller(), request.uuid)
            if request.etag not in ("", etag_of(group)):
                raise Conflict(f"instance group {group.uuid} has changed since its etag was read")
            message = events.standing(group, self._reachable)
            yield deploy_pb2.DeleteInstanceGroupResponse(event=message)
            return
        started = await self._groups.delete(current_caller(), request.uuid, request.etag)
        async with aclosing(self._follow(started)) as changes:
            async for change in changes:
                yield deploy_pb2.DeleteInstanceGroupResponse(event=events.event(change, self._reachable))

    def _follow(self, started: Started) -> AsyncGenerator[Event, None]:
        """The events of an operation that was just begun."""
        return self._groups.follow(started.group.uuid, started.after_revision)
