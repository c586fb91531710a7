"""The table of APIs: no call of this face may do what the same call over gRPC may not."""

from __future__ import annotations

from service.app.identity import OPEN
from service.contract.roles import ROLES
from service.http.zstack.apis import APIS, BY_MESSAGE

_MODEL, _FLEET = "corral.v1.DistributedModelService/", "corral.v1.FleetService/"
_CATALOG = "corral.v1.CatalogService/"

SAME = {
    "DeployDistributedModelService": f"{_MODEL}DeployDistributedModelService",
    "QueryModelServiceInstanceGroup": f"{_MODEL}ListInstanceGroups",
    "DeleteModelServiceInstanceGroup": f"{_MODEL}DeleteInstanceGroup",
    "DeleteModelServiceInstanceGroups": f"{_MODEL}DeleteInstanceGroup",
    "UpdateModelServiceInstanceGroup": f"{_MODEL}UpdateInstanceGroup",
    "RestartModelServiceGroups": f"{_MODEL}RestartInstanceGroup",
    "QueryModelService": f"{_CATALOG}ListModelServices",
    "AddModelService": f"{_CATALOG}CreateModelService",
    "DeployModelService": f"{_MODEL}DeployDistributedModelService",
    "MatchModelServiceTemplateWithModel": f"{_MODEL}PlanDistributedModelService",
    "QueryVmInstance": f"{_MODEL}ListInstances",
    "UpdateModelService": f"{_CATALOG}UpdateModelService",
    "DeleteModelService": f"{_CATALOG}DeleteModelService",
    "DeleteModelServices": f"{_CATALOG}DeleteModelService",
    "QueryImage": f"{_CATALOG}ListImages",
    "QueryCluster": f"{_FLEET}ListClusters",
    "QueryZone": f"{_FLEET}ListZones",
    "CreateZone": f"{_FLEET}CreateZone",
    "DeleteZone": f"{_FLEET}DeleteZone",
    "QueryHost": f"{_FLEET}ListHosts",
    "ChangeHostState": f"{_FLEET}DisableHost",
    "GetCpuMemoryCapacity": f"{_FLEET}GetCapacity",
}


def test_every_api_that_needs_a_role_needs_that_of_its_counterpart() -> None:
    assert {name: api.role for name, api in APIS.items() if api.role != OPEN} == {
        name: ROLES[method] for name, method in SAME.items()
    }


def test_what_needs_no_session_is_about_sessions_or_the_version() -> None:
    assert {name for name, api in APIS.items() if api.role == OPEN} == {
        "LogInByAccount",
        "LogOut",
        "ValidateSession",
        "RenewSession",
        "GetVersion",
    }


def test_messages_and_answers_are_zstacks_java_classes() -> None:
    deploy = APIS["DeployDistributedModelService"]
    assert deploy.message == "org.zstack.ai.message.APIDeployDistributedModelServiceMsg"
    assert deploy.answer == "org.zstack.ai.message.APIDeployDistributedModelServiceEvent"
    assert APIS["QueryZone"].answer == "org.zstack.header.zone.APIQueryZoneReply"
    assert APIS["RenewSession"].answer == "org.zstack.header.identity.APIRenewSessionEvent"
    assert len(BY_MESSAGE) == len(APIS)
