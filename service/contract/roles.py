"""The one table of who may call what. A method without a row is refused, and a test fails for it."""

from __future__ import annotations

from collections.abc import Mapping

from service.app.identity import ADMIN, OPEN, OPERATOR, VIEWER

_MODEL = "corral.v1.DistributedModelService/"
_FLEET = "corral.v1.FleetService/"
_CATALOG = "corral.v1.CatalogService/"
_PROJECT = "corral.v1.ProjectService/"
_SECRET = "corral.v1.SecretService/"

ROLES: Mapping[str, str] = {
    f"{_MODEL}DeployDistributedModelService": OPERATOR,
    f"{_MODEL}PlanDistributedModelService": VIEWER,
    f"{_MODEL}GetInstanceGroup": VIEWER,
    f"{_MODEL}ListInstanceGroups": VIEWER,
    f"{_MODEL}WatchInstanceGroups": VIEWER,
    f"{_MODEL}ListInstanceGroupEvents": VIEWER,
    f"{_MODEL}ListInstances": VIEWER,
    f"{_MODEL}GetInstanceLog": VIEWER,
    f"{_MODEL}UpdateInstanceGroup": OPERATOR,
    f"{_MODEL}RolloutInstanceGroup": OPERATOR,
    f"{_MODEL}RollBackInstanceGroup": OPERATOR,
    f"{_MODEL}ScaleInstanceGroup": OPERATOR,
    f"{_MODEL}StartInstanceGroup": OPERATOR,
    f"{_MODEL}StopInstanceGroup": OPERATOR,
    f"{_MODEL}RestartInstanceGroup": OPERATOR,
    f"{_MODEL}DeleteInstanceGroup": OPERATOR,
    f"{_FLEET}CreateZone": ADMIN,
    f"{_FLEET}ListZones": VIEWER,
    f"{_FLEET}UpdateZone": ADMIN,
    f"{_FLEET}DeleteZone": ADMIN,
    f"{_FLEET}CreateCluster": ADMIN,
    f"{_FLEET}ListClusters": VIEWER,
    f"{_FLEET}UpdateCluster": ADMIN,
    f"{_FLEET}DeleteCluster": ADMIN,
    f"{_FLEET}AddHost": ADMIN,
    f"{_FLEET}GetHost": ADMIN,
    f"{_FLEET}ListHosts": ADMIN,
    f"{_FLEET}UpdateHost": ADMIN,
    f"{_FLEET}RemoveHost": ADMIN,
    f"{_FLEET}EnableHost": ADMIN,
    f"{_FLEET}DisableHost": ADMIN,
    f"{_FLEET}MaintainHost": ADMIN,
    f"{_FLEET}DrainHost": ADMIN,
    f"{_FLEET}FenceHost": ADMIN,
    f"{_FLEET}ClaimHost": ADMIN,
    f"{_FLEET}ListQuarantine": ADMIN,
    f"{_FLEET}RemoveQuarantined": ADMIN,
    f"{_FLEET}AdoptQuarantined": ADMIN,
    f"{_FLEET}QuarantineDevice": ADMIN,
    f"{_FLEET}ReleaseDevice": ADMIN,
    f"{_FLEET}GetCapacity": ADMIN,
    f"{_FLEET}PlanRoom": ADMIN,  # it names every tenant's members
    f"{_FLEET}PlanRebalance": ADMIN,
    f"{_FLEET}RebalanceHosts": ADMIN,
    f"{_FLEET}CallOffRebalance": ADMIN,
    f"{_FLEET}ListDecisions": ADMIN,
    f"{_FLEET}DumpDecision": ADMIN,  # it shows every tenant's members
    f"{_FLEET}WatchFleet": ADMIN,
    f"{_CATALOG}CreateModelService": ADMIN,
    f"{_CATALOG}GetModelService": VIEWER,
    f"{_CATALOG}ListModelServices": VIEWER,
    f"{_CATALOG}UpdateModelService": ADMIN,
    f"{_CATALOG}DeleteModelService": ADMIN,
    f"{_CATALOG}RegisterImage": ADMIN,
    f"{_CATALOG}UploadImage": ADMIN,
    f"{_CATALOG}GetImageUpload": ADMIN,
    f"{_CATALOG}ImportImage": ADMIN,
    f"{_CATALOG}GetImage": VIEWER,
    f"{_CATALOG}ListImages": VIEWER,
    f"{_CATALOG}DeleteImage": ADMIN,
    f"{_PROJECT}GetUsage": VIEWER,
    f"{_PROJECT}ListAuditEvents": OPERATOR,
    f"{_SECRET}CreateSecret": OPERATOR,
    f"{_SECRET}GetSecret": VIEWER,
    f"{_SECRET}ListSecrets": VIEWER,
    f"{_SECRET}RotateSecret": OPERATOR,
    f"{_SECRET}DeleteSecret": OPERATOR,
    "grpc.health.v1.Health/Check": OPEN,
    "grpc.health.v1.Health/Watch": OPEN,
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo": VIEWER,
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": VIEWER,
    "grpc.channelz.v1.Channelz/GetTopChannels": ADMIN,
    "grpc.channelz.v1.Channelz/GetServers": ADMIN,
    "grpc.channelz.v1.Channelz/GetServer": ADMIN,
    "grpc.channelz.v1.Channelz/GetServerSockets": ADMIN,
    "grpc.channelz.v1.Channelz/GetChannel": ADMIN,
    "grpc.channelz.v1.Channelz/GetSubchannel": ADMIN,
    "grpc.channelz.v1.Channelz/GetSocket": ADMIN,
}
