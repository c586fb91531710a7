"""The methods of `DistributedModelService`: check, translate, call the use case, translate back."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from corral.v1 import deploy_pb2, deploy_pb2_grpc, group_pb2

from service.app.groups import Ask, GroupFilter, Groups, Started
from service.app.logs import Logs
from service.app.updates import Rollout
from service.contract import pages, validation
from service.contract.call import current_caller, seconds_left
from service.contract.convert import events, inventory, logs, requests, views
from service.contract.convert.explanation import in_callers_order
from service.contract.convert.inventory import Reachable
from service.errors import PlacementError
from service.rpc.calls import Ready

SERVICE = deploy_pb2.DESCRIPTOR.services_by_name["DistributedModelService"].full_name


class DistributedModelServicer(deploy_pb2_grpc.DistributedModelServiceServicer):
    """Translates between the wire and `service.app.groups`."""

    def __init__(self, groups: Groups, reachable: Reachable, instance_logs: Logs) -> None:
        """`reachable`: whether members of a zone can be reached from outside; it decides about their `url`."""
        self._groups = groups
        self._logs = instance_logs
        self._reachable = reachable
        self._events = events.EventMessages(reachable)
        self._views = views.GroupViews(reachable)

    async def DeployDistributedModelService(  # noqa: N802
        self, request: deploy_pb2.DeployDistributedModelServiceRequest, context: Any
    ) -> AsyncIterator[deploy_pb2.DeployDistributedModelServiceResponse]:
        """Stores the intent, then shows the group's events until the operation ends."""
        validation.check(request)
        caller, wanted = current_caller(), requests.deploy_request(request)
        try:
            if request.validate_only:
                record = await self._groups.plan(caller, wanted, seconds=seconds_left(context))
                yield deploy_pb2.DeployDistributedModelServiceResponse(event=events.planned(record))
                return
            started = await self._groups.deploy(caller, wanted)
            async with aclosing(self._operation(started, Ask())) as messages:
                async for message in messages:
                    yield deploy_pb2.DeployDistributedModelServiceResponse(event=message)
        except PlacementError as error:
            raise in_callers_order(error, requests.positions_by_rank(request.model_services)) from error

    async def PlanDistributedModelService(  # noqa: N802
        self, request: deploy_pb2.PlanDistributedModelServiceRequest, context: Any
    ) -> deploy_pb2.PlanDistributedModelServiceResponse:
        """Where the group would be placed, and what its members would be told; nothing is written."""
        validation.check(request)
        try:
            wanted, ranks = requests.deploy_request(request), tuple(request.document_ranks)
            left = seconds_left(context)
            record, documents = await self._groups.plan_documents(current_caller(), wanted, ranks, seconds=left)
        except PlacementError as error:
            raise in_callers_order(error, requests.positions_by_rank(request.model_services)) from error
        return deploy_pb2.PlanDistributedModelServiceResponse(
            placement=inventory.placement(record, planned_only=True),
            documents=[
                deploy_pb2.MemberDocuments(node_rank=one.rank, name=one.name, documents=one.documents)
                for one in documents
            ],
        )

    async def GetInstanceGroup(  # noqa: N802
        self, request: deploy_pb2.GetInstanceGroupRequest, context: Any
    ) -> Any:
        """One group as it stands."""
        validation.check(request)
        group = await self._groups.get(current_caller(), request.uuid)
        if _takes_bytes(context):
            return Ready(self._views.group(group))
        return deploy_pb2.GetInstanceGroupResponse(inventory=inventory.group(group, self._reachable))

    async def ListInstanceGroups(  # noqa: N802
        self, request: deploy_pb2.ListInstanceGroupsRequest, context: Any
    ) -> Any:
        """A page of groups."""
        validation.check(request)
        query = GroupFilter(request.name, tuple(request.statuses), request.zone_uuid, request.tag, request.project)
        page = await self._groups.list(current_caller(), query, request.page_size, request.page_token)
        if _takes_bytes(context):
            made, token = pages.fitting_bytes(page.page, self._views.group)
            rest = deploy_pb2.ListInstanceGroupsResponse(next_page_token=token, revision=page.revision)
            return Ready(b"".join((*made, rest.SerializeToString())))
        found, token = pages.fitting(page.page, lambda group: inventory.group(group, self._reachable))
        return deploy_pb2.ListInstanceGroupsResponse(inventories=found, next_page_token=token, revision=page.revision)

    async def ListInstances(  # noqa: N802
        self, request: deploy_pb2.ListInstancesRequest, context: Any
    ) -> deploy_pb2.ListInstancesResponse:
        """A page of members."""
        validation.check(request)
        page = await self._groups.list_instances(
            current_caller(), request.page_size, request.page_token, request.group_uuid, request.host_uuid
        )
        found, token = pages.fitting(page, lambda member: inventory.instance(member, self._reachable))
        return deploy_pb2.ListInstancesResponse(inventories=found, next_page_token=token)

    async def WatchInstanceGroups(  # noqa: N802
        self, request: deploy_pb2.WatchInstanceGroupsRequest, context: Any
    ) -> AsyncIterator[Any]:
        """Changes from a revision on, until the client leaves or the service drains."""
        validation.check(request)
        watch = self._groups.watch(current_caller(), request.start_revision or None, request.uuid or None)
        async with aclosing(watch) as changes:
            async for change in changes:
                if _takes_bytes(context):
                    yield Ready(self._events.framed(change))
                else:
                    yield deploy_pb2.WatchInstanceGroupsResponse(event=self._events.change(change))

    async def ListInstanceGroupEvents(  # noqa: N802
        self, request: deploy_pb2.ListInstanceGroupEventsRequest, context: Any
    ) -> deploy_pb2.ListInstanceGroupEventsResponse:
        """A page of what has happened to a group."""
        validation.check(request)
        page = await self._groups.history(current_caller(), request.uuid, request.page_size, request.page_token)
        found, token = pages.fitting(page, lambda one: events.event(one, self._reachable))
        return deploy_pb2.ListInstanceGroupEventsResponse(events=found, next_page_token=token)

    async def GetInstanceLog(  # noqa: N802
        self, request: deploy_pb2.GetInstanceLogRequest, context: Any
    ) -> AsyncIterator[deploy_pb2.GetInstanceLogResponse]:
        """What members' machines say: the end of each log, then what comes."""
        validation.check(request)
        async with aclosing(self._logs.read(current_caller(), logs.ask(request))) as texts:
            async for text in texts:
                yield logs.lines(text)

    async def UpdateInstanceGroup(  # noqa: N802
        self, request: deploy_pb2.UpdateInstanceGroupRequest, context: Any
    ) -> deploy_pb2.UpdateInstanceGroupResponse:
        """Changes what a group is called and tagged."""
        validation.check(request)
        ask, changes = requests.ask(request), requests.metadata(request)
        group = await self._groups.update(current_caller(), request.uuid, changes, ask)
        return deploy_pb2.UpdateInstanceGroupResponse(inventory=inventory.group(group, self._reachable))

    async def RolloutInstanceGroup(  # noqa: N802
        self, request: deploy_pb2.RolloutInstanceGroupRequest, context: Any
    ) -> AsyncIterator[deploy_pb2.RolloutInstanceGroupResponse]:
        """Changes what a group runs, then shows its events until one gang is left."""
        validation.check(request)
        ask, changes = requests.ask(request), requests.member_changes(request)
        mode, left = requests.UPDATE_MODES[request.mode], seconds_left(context)
        rollout = await self._groups.rollout(current_caller(), request.uuid, changes, mode, ask, seconds=left)
        async with aclosing(self._rollout(rollout, ask)) as messages:
            async for message in messages:
                yield deploy_pb2.RolloutInstanceGroupResponse(event=message)

    async def RollBackInstanceGroup(  # noqa: N802
        self, request: deploy_pb2.RollBackInstanceGroupRequest, context: Any
    ) -> AsyncIterator[deploy_pb2.RollBackInstanceGroupResponse]:
        """Takes the newest update back, then shows the group's events until one gang is left."""
        validation.check(request)
        ask = requests.ask(request)
        left = seconds_left(context)
        rollout = await self._groups.roll_back(current_caller(), request.uuid, ask, seconds=left)
        async with aclosing(self._rollout(rollout, ask)) as messages:
            async for message in messages:
                yield deploy_pb2.RollBackInstanceGroupResponse(event=message)

    async def ScaleInstanceGroup(  # noqa: N802
        self, request: deploy_pb2.ScaleInstanceGroupRequest, context: Any
    ) -> AsyncIterator[deploy_pb2.ScaleInstanceGroupResponse]:
        """Adds or removes members, then shows the group's events until they have come or gone."""
        validation.check(request)
        added, removed = requests.nodes(request.model_services), tuple(request.remove_instance_uuids)
        ask = requests.ask(request)
        change = requests.role_change(request)
        room = requests.ROOM_MOVES[request.make_room]
        started = await self._groups.scale(
            current_caller(), request.uuid, added, removed, ask, by_role=change, make_room=room
        )
        # Those that join take the free ranks in the order of the list.
        joining = sorted(member.rank for member in started.group.instances if member.joining)
        try:
            async with aclosing(self._operation(started, ask)) as messages:
                async for message in messages:
                    yield deploy_pb2.ScaleInstanceGroupResponse(event=message)
        except PlacementError as error:
            positions = {rank: position for position, rank in enumerate(joining)}
            raise in_callers_order(error, positions) from error

    async def StartInstanceGroup(  # noqa: N802
        self, request: deploy_pb2.StartInstanceGroupRequest, context: Any
    ) -> AsyncIterator[deploy_pb2.StartInstanceGroupResponse]:
        """Starts a stopped group, then shows its events until it runs."""
        validation.check(request)
        ask = requests.ask(request)
        started = await self._groups.start(current_caller(), request.uuid, ask)
        async with aclosing(self._operation(started, ask)) as messages:
            async for message in messages:
                yield deploy_pb2.StartInstanceGroupResponse(event=message)

    async def StopInstanceGroup(  # noqa: N802
        self, request: deploy_pb2.StopInstanceGroupRequest, context: Any
    ) -> AsyncIterator[deploy_pb2.StopInstanceGroupResponse]:
        """Stops a group, then shows its events until it has stopped."""
        validation.check(request)
        ask = requests.ask(request)
        started = await self._groups.stop(current_caller(), request.uuid, ask)
        async with aclosing(self._operation(started, ask)) as messages:
            async for message in messages:
                yield deploy_pb2.StopInstanceGroupResponse(event=message)

    async def RestartInstanceGroup(  # noqa: N802
        self, request: deploy_pb2.RestartInstanceGroupRequest, context: Any
    ) -> AsyncIterator[deploy_pb2.RestartInstanceGroupResponse]:
        """Stops a group and starts it again, and shows its events until it runs."""
        validation.check(request)
        ask = requests.ask(request)
        started = await self._groups.restart(current_caller(), request.uuid, ask)
        async with aclosing(self._operation(started, ask)) as messages:
            async for message in messages:
                yield deploy_pb2.RestartInstanceGroupResponse(event=message)

    async def DeleteInstanceGroup(  # noqa: N802
        self, request: deploy_pb2.DeleteInstanceGroupRequest, context: Any
    ) -> AsyncIterator[deploy_pb2.DeleteInstanceGroupResponse]:
        """Stores the intent, then shows the group's events until it is gone."""
        validation.check(request)
        ask = requests.ask(request)
        started = await self._groups.delete(current_caller(), request.uuid, ask)
        async with aclosing(self._operation(started, ask)) as messages:
            async for message in messages:
                yield deploy_pb2.DeleteInstanceGroupResponse(event=message)

    async def _rollout(self, rollout: Rollout, ask: Ask) -> AsyncGenerator[group_pb2.InstanceGroupEvent, None]:
        """As `_operation`; of one that was only planned, where its second gang would go."""
        if ask.validate_only and rollout.placement is not None:
            yield events.planned(rollout.placement)
            return
        async with aclosing(self._operation(rollout.started, ask)) as messages:
            async for message in messages:
                yield message

    async def _operation(self, started: Started, ask: Ask) -> AsyncGenerator[group_pb2.InstanceGroupEvent, None]:
        """The events of an operation until it ends; of one that was only validated, the group as it stands."""
        if ask.validate_only:
            yield events.standing(started.group, self._reachable)
            return
        async with aclosing(self._groups.follow_marked(started.group.uuid, started.after_revision)) as changes:
            async for change in changes:
                yield self._events.change(change)


def _takes_bytes(context: Any) -> bool:
    """Whether the answer goes out as protobuf, not as JSON."""
    return context is not None
