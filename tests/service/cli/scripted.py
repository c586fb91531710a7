"""A service of a few scripted answers, for the command to call."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
from corral.v1 import deploy_pb2, deploy_pb2_grpc, group_pb2, placement_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

GROUP = "ab" * 16
DOCUMENTED = {
    "deployDistributedModelService": {
        "modelServices": [
            {
                "isInitialNode": False,
                "uuid": "f1e135835fee363c9f57ed8232023886",
                "zoneUuid": "7a007a391d483c9f843bf1df4b7e5d8f",
                "cpuNum": 8,
                "name": "model-service",
                "type": "VirtualMachine",
                "memorySize": 17179869184,
                "timeout": 0,
            }
        ],
        "serviceCreationStrategy": "parallel",
        "name": "distributed-model-service",
    },
    "systemTags": ["a::b"],
    "userTags": [],
}


def member(status: str) -> group_pb2.Instance:
    return group_pb2.Instance(
        uuid="cd" * 16, name="node-0", status=status, host_name="hv1", cpu_num=8, memory_size=1 << 34
    )


def group(status: str, reason: str = "") -> group_pb2.InstanceGroup:
    return group_pb2.InstanceGroup(
        uuid=GROUP, name="my [group]", status=status, reason=reason, instances=[member(status)]
    )


def event(revision: int, **change: Any) -> group_pb2.InstanceGroupEvent:
    return group_pb2.InstanceGroupEvent(revision=revision, sequence=revision, group_uuid=GROUP, **change)


TAKES = {"vcpu": 8, "memory": 1 << 34}
EVENTS = [
    event(1, accepted=group("Deploying")),
    event(
        2,
        planned=placement_pb2.Placement(
            assignments=[placement_pb2.Assignment(name="node-0", host_name="hv1", resources=TAKES)],
            proof=placement_pb2.PLACEMENT_PROOF_OPTIMAL,
            stage="greedy",
        ),
    ),
    event(3, claimed=placement_pb2.Claim(instances=[placement_pb2.InstanceClaim(host_uuid="h")])),
    event(4, instance=member("Booting")),
    event(5, final=group("Running")),
]


def failure(code: grpc.StatusCode, message: str, *details: Message) -> status_pb2.Status:
    packed = []
    for detail in details:
        part = AnyMessage()
        part.Pack(detail)
        packed.append(part)
    return status_pb2.Status(code=code.value[0], message=message, details=packed)


@dataclass
class Service(deploy_pb2_grpc.DistributedModelServiceServicer):
    """Answers each call from its script: events to stream, then an error, a bare code as of a proxy, or a good end."""

    deploy: list[Any] = field(default_factory=lambda: list(EVENTS))
    watch: list[Any] = field(default_factory=list)
    delete: list[Any] = field(default_factory=lambda: [event(9, final=group("Deleted"))])
    requests: list[Message] = field(default_factory=list)
    pages: list[list[group_pb2.InstanceGroup]] = field(
        default_factory=lambda: [[group("Running")], [group("Failed", "why")]]
    )

    def _stream(self, script: list[Any], request: Message, context: grpc.ServicerContext, kind: Any) -> Iterator[Any]:
        self.requests.append(request)
        for item in script:
            if isinstance(item, status_pb2.Status):
                context.abort_with_status(rpc_status.to_status(item))
            if isinstance(item, grpc.StatusCode):
                context.abort(item, "reset on the way")
            yield kind(event=item)

    def DeployDistributedModelService(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        yield from self._stream(self.deploy, request, context, deploy_pb2.DeployDistributedModelServiceResponse)

    def WatchInstanceGroups(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        yield from self._stream(self.watch, request, context, deploy_pb2.WatchInstanceGroupsResponse)

    def DeleteInstanceGroup(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        yield from self._stream(self.delete, request, context, deploy_pb2.DeleteInstanceGroupResponse)

    def PlanDistributedModelService(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.requests.append(request)
        documents = [
            deploy_pb2.MemberDocuments(node_rank=rank, name=f"node-{rank}", documents={"env": f"NODE_RANK={rank}\n"})
            for rank in request.document_ranks
        ]
        return deploy_pb2.PlanDistributedModelServiceResponse(placement=EVENTS[1].planned, documents=documents)

    def GetInstanceGroup(self, request: Any, context: Any) -> Any:  # noqa: N802
        if request.uuid != GROUP:
            missing = error_details_pb2.ResourceInfo(resource_type="instance group", resource_name=request.uuid)
            context.abort_with_status(
                rpc_status.to_status(failure(grpc.StatusCode.NOT_FOUND, "no such group", missing))
            )
        return deploy_pb2.GetInstanceGroupResponse(inventory=group("Running"))

    def ListInstanceGroups(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.requests.append(request)
        page = int(request.page_token or 0)
        more = page + 1 < len(self.pages)
        token = str(page + 1) if more else ""
        return deploy_pb2.ListInstanceGroupsResponse(inventories=self.pages[page], next_page_token=token)
