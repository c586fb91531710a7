"""The APIs of this face, one literal table: names, paths, where the arguments stand, and who may call them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from corral.v1 import deploy_pb2, fleet_pb2, group_pb2
from google.protobuf.descriptor import Descriptor

from service.app.identity import ADMIN, OPEN, OPERATOR, VIEWER
from service.http.zstack import schema
from service.http.zstack.schema import JavaClass
from service.telemetry.grpc_metrics import Method


@dataclass(frozen=True, slots=True)
class Api:
    """One API. `package` and `name` make the Java class of its message, by which the older protocol calls it.

    `role`: the least role that may call it, or OPEN: to get a session, or by the session itself. `job`: accepted at
    once, answered later. `reply`: how the answer's class ends. `query`: takes conditions. `lists`: arguments that are
    lists in a URL too.
    `uuid_argument`: what the `{uuid}` of the path is. `descriptor`: the message whose rules the arguments obey.
    `inventory`: the class of what stands in the answer's `inventory` or `inventories`.
    """

    name: str
    package: str
    verb: str
    paths: tuple[str, ...]
    role: str
    job: bool = False
    reply: str = ""
    query: bool = False
    lists: tuple[str, ...] = ()
    uuid_argument: str = "uuid"
    descriptor: Descriptor | None = None
    inventory: JavaClass | None = None

    @property
    def message(self) -> str:
        """The Java class of the request."""
        return f"{self.package}.API{self.name}Msg"

    @property
    def answer(self) -> str:
        """The Java class of the answer."""
        return f"{self.package}.API{self.name}{self.reply or ('Event' if self.job else 'Reply')}"

    @property
    def method(self) -> Method:
        """As the log, the metrics and refusals name it."""
        return Method("unary", "", self.name)

    @property
    def holds(self) -> Mapping[str, JavaClass]:
        """What the outermost fields of the answer hold."""
        if self.inventory is None:
            return {}
        return dict.fromkeys(("inventory", "inventories", "capacityData"), self.inventory)

    @property
    def key(self) -> str:
        """The action key in the body of a PUT."""
        return self.name[0].lower() + self.name[1:]


_AI = "org.zstack.ai.message"
_IDENTITY = "org.zstack.header.identity"
_HOST = "org.zstack.header.host"
_ZONE = "org.zstack.header.zone"
_GROUPS = "/ai/model-services/instances/groups"
# The Go SDKs put `/actions` after the uuid of every PUT, as most of ZStack's own paths have it.
_GROUP = ("/model-service-instance-groups/{uuid}", "/model-service-instance-groups/{uuid}/actions")
_MODEL_SERVICE = ("/ai/model-services/{uuid}", "/ai/model-services/{uuid}/actions")

_TABLE = (
    # Sessions.
    Api("LogInByAccount", _IDENTITY, "PUT", ("/accounts/login",), OPEN, inventory=schema.SESSION),
    Api("LogOut", _IDENTITY, "DELETE", ("/accounts/sessions/{uuid}",), OPEN, uuid_argument="sessionUuid"),
    Api("ValidateSession", _IDENTITY, "GET", ("/accounts/sessions/{uuid}/valid",), OPEN, uuid_argument="sessionUuid"),
    Api("RenewSession", _IDENTITY, "PUT", ("/accounts/sessions/{uuid}/renew",), OPEN, reply="Event",
        uuid_argument="sessionUuid", inventory=schema.SESSION),
    # Groups.
    Api("DeployDistributedModelService", _AI, "PUT", ("/ai/model-services",), OPERATOR, job=True,
        descriptor=deploy_pb2.DeployDistributedModelServiceRequest.DESCRIPTOR, inventory=schema.GROUP),
    Api("DeployModelService", _AI, "PUT", _MODEL_SERVICE, OPERATOR, job=True,
        descriptor=group_pb2.NodeSpec.DESCRIPTOR, inventory=schema.GROUP),
    Api("MatchModelServiceTemplateWithModel", _AI, "POST", ("/ai/model-services/templates",), VIEWER, job=True,
        descriptor=group_pb2.NodeSpec.DESCRIPTOR),
    Api("QueryModelServiceInstanceGroup", _AI, "GET", (_GROUPS, _GROUPS + "/{uuid}"), VIEWER,
        query=True, inventory=schema.GROUP),
    Api("DeleteModelServiceInstanceGroup", _AI, "DELETE", (_GROUPS + "/{uuid}",), OPERATOR, job=True),
    Api("DeleteModelServiceInstanceGroups", _AI, "DELETE", (_GROUPS,), OPERATOR, job=True, lists=("uuids",)),
    Api("UpdateModelServiceInstanceGroup", _AI, "PUT", _GROUP, OPERATOR,
        job=True, descriptor=deploy_pb2.UpdateInstanceGroupRequest.DESCRIPTOR, inventory=schema.GROUP),
    Api("RestartModelServiceGroups", _AI, "PUT", ("/model-service-instance-groups",), OPERATOR, job=True),
    Api("QueryVmInstance", "org.zstack.header.vm", "GET", ("/vm-instances", "/vm-instances/{uuid}"), VIEWER,
        query=True, inventory=schema.VM),
    # The catalogue.
    Api("QueryModelService", _AI, "GET", ("/ai/model-services", "/ai/model-services/{uuid}"),
        VIEWER, query=True, inventory=schema.MODEL_SERVICE),
    Api("AddModelService", _AI, "POST", ("/ai/model-services",), ADMIN, job=True, inventory=schema.MODEL_SERVICE),
    Api("UpdateModelService", _AI, "PUT", _MODEL_SERVICE, ADMIN, job=True,
        inventory=schema.MODEL_SERVICE),
    Api("DeleteModelService", _AI, "DELETE", ("/ai/model-services/{uuid}",), ADMIN, job=True),
    Api("DeleteModelServices", _AI, "DELETE", ("/ai/model-services",), ADMIN, job=True, lists=("uuids",)),
    Api("QueryImage", "org.zstack.header.image", "GET", ("/images", "/images/{uuid}"), VIEWER, query=True,
        inventory=schema.IMAGE),
    # The fleet. As over gRPC, what hosts there are and what they have left is its operators' business alone.
    Api("QueryZone", _ZONE, "GET", ("/zones", "/zones/{uuid}"), VIEWER, query=True, inventory=schema.ZONE),
    Api("CreateZone", _ZONE, "POST", ("/zones",), ADMIN, job=True,
        descriptor=fleet_pb2.CreateZoneRequest.DESCRIPTOR, inventory=schema.ZONE),
    Api("DeleteZone", _ZONE, "DELETE", ("/zones/{uuid}",), ADMIN, job=True),
    Api("QueryCluster", "org.zstack.header.cluster", "GET", ("/clusters", "/clusters/{uuid}"), VIEWER, query=True,
        inventory=schema.CLUSTER),
    Api("QueryHost", _HOST, "GET", ("/hosts", "/hosts/{uuid}"), ADMIN, query=True, inventory=schema.HOST),
    Api("ChangeHostState", _HOST, "PUT", ("/hosts/{uuid}/actions",), ADMIN, job=True, inventory=schema.HOST),
    Api("GetCpuMemoryCapacity", "org.zstack.header.allocator", "GET", ("/hosts/capacities/cpu-memory",), ADMIN,
        lists=("zoneUuids", "hostUuids", "clusterUuids"), inventory=schema.CAPACITY),
    # The service itself.
    Api("GetVersion", "org.zstack.header.managementnode", "PUT", ("/management-nodes/actions",), OPEN),
)  # fmt: skip

APIS: Mapping[str, Api] = {api.name: api for api in _TABLE}
BY_MESSAGE: Mapping[str, Api] = {api.message: api for api in _TABLE}
