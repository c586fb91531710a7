"""ZStack's system tags that say where machines go: what such a tag says is kept to, or it is refused by name. Pure.

A tag that was only kept would be a rule that nothing keeps. ZStack has these of machines:

* `resourceBindings::Cluster:UUID`: only on hosts of the cluster, which is what a node's `clusterUuid` says. Its form
  for several clusters, and for hosts (`Host:UUID`), has no counterpart.
* `affinityGroupUuid::UUID` and `vmSchedulingRuleGroupUuid::UUID`: the machine joins a group of ZStack's that has a
  policy of its own. There are none of these groups here.
* of instance offerings, `maxInstancePerHost::N`, which counts everybody's machines, and the modes of two allocators.
"""

from __future__ import annotations

from collections.abc import Mapping

from corral.v1 import deploy_pb2

from service.contract import text
from service.errors import InvalidArgument

BINDINGS = "resourceBindings"
_POLICY = "placementPolicy says how members are placed"
REFUSED: Mapping[str, str] = {
    "affinityGroupUuid": f"names a group that there is not; {_POLICY}",
    "vmSchedulingRuleGroupUuid": f"names a group that there is not; {_POLICY}",
    "maxInstancePerHost": "counts all machines of a host; placementPolicy.maxPerHost counts the group's own",
    "minimumCPUUsageHostAllocatorStrategyMode": f"is of an instance offering; {_POLICY}",
    "minimumMemoryUsageHostAllocatorStrategyMode": f"is of an instance offering; {_POLICY}",
}


def apply(message: deploy_pb2.DeployDistributedModelServiceRequest) -> None:
    """Place the message's nodes as its system tags say. Raises InvalidArgument for one that cannot be kept to."""
    for position, tag in enumerate(message.system_tags):
        name, found, value = tag.partition("::")
        path = f"system_tags[{position}]"
        if found and name in REFUSED:
            raise InvalidArgument.of(path, f"{name} {REFUSED[name]}")
        if found and name == BINDINGS:
            _bind(message, _cluster(value, path), path)


def _cluster(value: str, path: str) -> str:
    kind, _, uuid = value.strip().partition(":")
    uuid = text.canonical_uuid(uuid.strip())
    if kind != "Cluster" or not text.is_uuid(uuid):
        told = f"{BINDINGS} may bind to one cluster, as {BINDINGS}::Cluster:UUID"
        raise InvalidArgument.of(path, f"{told}; hosts are asked for by placementPolicy.requiredHostLabels")
    return uuid


def _bind(message: deploy_pb2.DeployDistributedModelServiceRequest, cluster: str, path: str) -> None:
    for position, node in enumerate(message.model_services):
        if node.cluster_uuid not in ("", cluster):
            told = f"{BINDINGS} names another cluster than modelServices[{position}].clusterUuid"
            raise InvalidArgument.of(path, told)
        node.cluster_uuid = cluster
