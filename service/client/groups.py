"""Calls of `DistributedModelService` that survive lost connections.

A deploy carries a request id, so that it can be sent again when no answer came; once the group is known, its events
are taken up by a watch from the last revision seen. Nothing is done twice and no event is lost.
"""

from __future__ import annotations

import time
import uuid as uuids
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import grpc
from corral.v1 import deploy_pb2, deploy_pb2_grpc, group_pb2, placement_pb2
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from service.client.follow import PAUSE_SECONDS, RETRIES, EventMessage, follow, is_lost

Response = TypeVar("Response")


class CallFailed(Exception):
    """A call that the service refused, or an operation that failed.

    `code`: gRPC's status code. `reason`: the service's stable word (`NO_CAPACITY`, …). `fields`: wrong fields by path.
    `placement`: why the group could not be placed, where that was it.
    """

    def __init__(self, error: grpc.RpcError) -> None:
        self.code: grpc.StatusCode = error.code()
        self.reason = ""
        self.fields: dict[str, str] = {}
        self.placement: placement_pb2.PlacementFailure | None = None
        status = rpc_status.from_call(error)
        for detail in status.details if status is not None else ():
            self._read(detail)
        super().__init__(f"{self.code.name}{f' ({self.reason})' if self.reason else ''}: {error.details()}")

    def _read(self, detail: object) -> None:
        info, bad, failure = (
            error_details_pb2.ErrorInfo(),
            error_details_pb2.BadRequest(),
            placement_pb2.PlacementFailure(),
        )
        if detail.Unpack(info):  # type: ignore[attr-defined]
            self.reason = info.reason
        elif detail.Unpack(bad):  # type: ignore[attr-defined]
            self.fields |= {violation.field: violation.description for violation in bad.field_violations}
        elif detail.Unpack(failure):  # type: ignore[attr-defined]
            self.placement = failure


class CorralClient:
    """One connection to the service. Use it as a context manager, or `close` it. Safe for several threads."""

    def __init__(
        self,
        target: str,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """`target`: `HOST:PORT` or `unix:PATH`. Without `credentials` the connection is not encrypted."""
        self._channel = (
            grpc.insecure_channel(target) if credentials is None else grpc.secure_channel(target, credentials)
        )
        self._stub = deploy_pb2_grpc.DistributedModelServiceStub(self._channel)
        self._pause = pause

    def __enter__(self) -> CorralClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the connection go. Operations in progress go on in the service."""
        self._channel.close()

    def deploy(
        self, request: deploy_pb2.DeployDistributedModelServiceRequest
    ) -> Iterator[group_pb2.InstanceGroupEvent]:
        """Every event from accepted to final. Raises CallFailed where the request is refused or the group fails."""
        wanted = deploy_pb2.DeployDistributedModelServiceRequest()
        wanted.CopyFrom(request)
        wanted.request_id = wanted.request_id or uuids.uuid4().hex
        return self._follow(lambda: self._stub.DeployDistributedModelService(wanted), repeatable=True)

    def deploy_and_wait(
        self,
        name: str,
        model_services: Sequence[group_pb2.NodeSpec],
        *,
        strategy: str = "parallel",
        on_event: Callable[[group_pb2.InstanceGroupEvent], None] = lambda _event: None,
    ) -> group_pb2.InstanceGroup:
        """Deploy and return the running group's inventory. Raises CallFailed."""
        request = deploy_pb2.DeployDistributedModelServiceRequest(
            name=name, model_services=model_services, service_creation_strategy=strategy
        )
        return self._last(self.deploy(request), on_event)

    def plan(self, request: deploy_pb2.PlanDistributedModelServiceRequest) -> placement_pb2.Placement:
        """Where the group would go; nothing is written. Raises CallFailed with `placement` where it does not fit."""
        return self._unary(lambda: self._stub.PlanDistributedModelService(request)).placement

    def get(self, uuid: str) -> group_pb2.InstanceGroup:
        """One group. Raises CallFailed."""
        return self._unary(lambda: self._stub.GetInstanceGroup(deploy_pb2.GetInstanceGroupRequest(uuid=uuid))).inventory

    def list(self, *, name: str = "", statuses: Sequence[str] = (), tag: str = "") -> Iterator[group_pb2.InstanceGroup]:
        """All groups that match, over as many pages as it takes. Raises CallFailed."""
        token = ""
        while True:
            request = deploy_pb2.ListInstanceGroupsRequest(name=name, statuses=statuses, tag=tag, page_token=token)
            page = self._unary(lambda asked=request: self._stub.ListInstanceGroups(asked))  # type: ignore[misc]
            yield from page.inventories
            token = page.next_page_token
            if not token:
                return

    def delete_and_wait(self, uuid: str) -> group_pb2.InstanceGroup:
        """Delete the group and wait until it is gone. Raises CallFailed."""
        request = deploy_pb2.DeleteInstanceGroupRequest(uuid=uuid, request_id=uuids.uuid4().hex)
        return self._last(self._follow(lambda: self._stub.DeleteInstanceGroup(request), repeatable=True))

    def watch(self, uuid: str = "", start_revision: int = 0) -> Iterator[group_pb2.InstanceGroupEvent]:
        """Changes of all groups or of one, without end, over lost connections too. Raises CallFailed.

        Where the service has forgotten the revision to go on from (OUT_OF_RANGE), begin a new watch from 0.
        """
        revision, lost = start_revision, 0
        while True:
            request = deploy_pb2.WatchInstanceGroupsRequest(uuid=uuid, start_revision=revision)
            try:
                for response in self._stub.WatchInstanceGroups(request):
                    lost, revision = 0, max(revision, response.event.revision)
                    yield response.event
                return
            except grpc.RpcError as error:
                lost = self._lost(error, lost)

    def _follow(
        self, begin: Callable[[], Iterable[EventMessage]], *, repeatable: bool
    ) -> Iterator[group_pb2.InstanceGroupEvent]:
        try:
            yield from follow(self._stub, begin, repeatable=repeatable, pause=self._pause)
        except grpc.RpcError as error:
            raise CallFailed(error) from error

    def _lost(self, error: grpc.RpcError, lost: int) -> int:
        if not is_lost(error) or lost >= RETRIES:
            raise CallFailed(error) from error
        self._pause(PAUSE_SECONDS)
        return lost + 1

    @staticmethod
    def _last(
        events: Iterator[group_pb2.InstanceGroupEvent],
        on_event: Callable[[group_pb2.InstanceGroupEvent], None] = lambda _event: None,
    ) -> group_pb2.InstanceGroup:
        last = group_pb2.InstanceGroup()
        for event in events:
            on_event(event)
            if event.HasField("final"):
                last = event.final
        return last

    @staticmethod
    def _unary(call: Callable[[], Response]) -> Response:
        try:
            return call()
        except grpc.RpcError as error:
            raise CallFailed(error) from error
