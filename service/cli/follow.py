"""Following an operation's stream to its end, also over a connection that breaks: a watch takes it up where it was."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import grpc
from corral.v1 import deploy_pb2, deploy_pb2_grpc, group_pb2

from service.cli.view import View

_RETRIES = 30
_PAUSE_SECONDS = 1.0


class EventMessage(Protocol):
    """Any response of a stream: all of them carry one event."""

    @property
    def event(self) -> group_pb2.InstanceGroupEvent: ...


def follow(
    stub: deploy_pb2_grpc.DistributedModelServiceStub,
    responses: Iterable[EventMessage],
    view: View,
    *,
    notice: Callable[[str], None],
    pause: Callable[[float], None] = time.sleep,
) -> group_pb2.InstanceGroup:
    """Show every event and answer the final inventory.

    When the connection is lost after the group was accepted, the operation goes on in the service, so a watch from the
    last revision seen takes over. Raises RpcError where the operation failed or the service stays away.
    """
    seen = group_pb2.InstanceGroupEvent()
    lost = 0
    while True:
        try:
            for response in responses:
                event = response.event
                lost = 0
                if event.WhichOneof("change") != "bookmark":
                    view.show(event)
                seen.revision = max(seen.revision, event.revision)
                seen.group_uuid = event.group_uuid or seen.group_uuid
                if event.WhichOneof("change") == "final":
                    seen.final.CopyFrom(event.final)
                    # The rest of a deploy's stream says how it ended; a watch would never end.
                    if isinstance(response, deploy_pb2.WatchInstanceGroupsResponse):
                        return seen.final
            return seen.final
        except grpc.RpcError as error:
            lost += 1
            if error.code() is not grpc.StatusCode.UNAVAILABLE or not seen.group_uuid or lost > _RETRIES:
                raise
            if lost == 1:
                notice("connection lost; the operation goes on, taking up its events again")
            pause(_PAUSE_SECONDS)
            responses = _resume(stub, seen)


def _resume(
    stub: deploy_pb2_grpc.DistributedModelServiceStub, seen: group_pb2.InstanceGroupEvent
) -> Iterator[deploy_pb2.WatchInstanceGroupsResponse]:
    request = deploy_pb2.WatchInstanceGroupsRequest(uuid=seen.group_uuid, start_revision=seen.revision)
    yield from stub.WatchInstanceGroups(request)
