"""An operation's events to its end, over lost connections too: a watch goes on after the last revision seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import grpc
from corral.v1 import deploy_pb2, deploy_pb2_grpc, group_pb2
from grpc_status import rpc_status

RETRIES = 30
PAUSE_SECONDS = 1.0


def is_lost(error: grpc.RpcError) -> bool:
    """Whether the connection broke, or the service cannot be reached, rather than that it has refused or failed.

    A proxy that loses the service in the middle of a stream resets it, which comes as INTERNAL or UNKNOWN. Whatever the
    service itself says has details.
    """
    code = error.code()
    if code is grpc.StatusCode.UNAVAILABLE:
        return True
    broken = code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
    return broken and rpc_status.from_call(error) is None


class EventMessage(Protocol):
    """Any response of a stream: all of them carry one event."""

    @property
    def event(self) -> group_pb2.InstanceGroupEvent: ...


def follow(
    stub: deploy_pb2_grpc.DistributedModelServiceStub,
    begin: Callable[[], Iterable[EventMessage]],
    *,
    repeatable: bool = False,
    on_lost: Callable[[], None] = lambda: None,
    pause: Callable[[float], None] = time.sleep,
) -> Iterator[group_pb2.InstanceGroupEvent]:
    """Every event of the operation that `begin` calls for, the final one included.

    When the connection is lost after the group is known, the operation goes on in the service, so a watch from the last
    revision seen takes over. Before that the call is made again only if it is `repeatable`, which needs a request id.
    `on_lost` is called at every loss after events came. Raises RpcError where the operation failed, or the service
    could not be reached for RETRIES tries.
    """
    responses, group, revision, lost = begin(), "", 0, 0
    while True:
        try:
            for response in responses:
                event = response.event
                lost, revision = 0, max(revision, event.revision)
                group = event.group_uuid or group
                yield event
                # The rest of the operation's own stream says how it ended; a watch would never end.
                if event.HasField("final") and isinstance(response, deploy_pb2.WatchInstanceGroupsResponse):
                    return
            return
        except grpc.RpcError as error:
            lost += 1
            begun = bool(group) or repeatable
            if not is_lost(error) or not begun or lost > RETRIES:
                raise
            if lost == 1:
                on_lost()
            pause(PAUSE_SECONDS)
            resumed = deploy_pb2.WatchInstanceGroupsRequest(uuid=group, start_revision=revision)
            responses = stub.WatchInstanceGroups(resumed) if group else begin()
