"""ZStack's system tags that say where machines go: what such a tag says is kept to, or it is refused by name. Pure.

A tag that was only kept would be a rule that nothing keeps. ZStack has these of machines:

* `resourceBindings::Cluster:UUID`: only on hosts of the cluster, which is what a node's `clusterUuid` says. Its form
  for several clusters, and for hosts (`Host:UUID`), has no counterpart.
* `affinityGroupUuid::UUID` and `vmSchedulingRuleGroupUuid::UUID`: the machine joins a group of ZStack's that has a
  policy of its own. There are none of these groups here.
* of instance offerings, `maxInstancePerHost::N`, which counts everybody's machines, and the modes of two allocators.
* `pciDevice::UUID`, `mdevDevice::UUID`, `pciDeviceSpec::UUID::N`, `mdevDeviceSpec::UUID::N`: devices, by uuids that
  ZStack gives to these and to its specifications of them. Here a device is known by its host and address, and asked for
  by its model. Two more, without a value, say that a machine gives back what it has by a specification as it stops.
* `vmCpuPinning::PAIRS` and `vmNumaEnable::true`: processors of a host by number, before it is chosen, and cells of
  the guest's own.

They are listed by ZStack's manual for developers beside CreateVmInstance.
"""

from __future__ import annotations

from collections.abc import Mapping

from corral.v1 import deploy_pb2

from service.contract import text
from service.errors import InvalidArgument

BINDINGS = "resourceBindings"
_POLICY = "placementPolicy says how members are placed"
_GPUS = "gpus of a node asks by model and count"
_RELEASED = "has no effect here: a member has its devices until it is placed anew or deleted"
REFUSED: Mapping[str, str] = {
    "affinityGroupUuid": f"names a group that there is not; {_POLICY}",
    "vmSchedulingRuleGroupUuid": f"names a group that there is not; {_POLICY}",
    "maxInstancePerHost": "counts all machines of a host; placementPolicy.maxPerHost counts the group's own",
    "minimumCPUUsageHostAllocatorStrategyMode": f"is of an instance offering; {_POLICY}",
    "minimumMemoryUsageHostAllocatorStrategyMode": f"is of an instance offering; {_POLICY}",
    "pciDevice": f"names a device by a uuid that there is not; {_GPUS}",
    "pciDeviceSpec": f"names a specification that there is not; {_GPUS}",
    "mdevDevice": f"names a device by a uuid that there is not, and devices are given whole; {_GPUS}",
    "mdevDeviceSpec": f"names a specification that there is not, and devices are given whole; {_GPUS}",
    "autoReleaseSpecReleatedPhysicalPciDevice": _RELEASED,
    "autoReleaseSpecReleatedVirtualPciDevice": _RELEASED,
    "vmCpuPinning": "names processors of a host that is not chosen yet; dedicatedCpus of a node gives it its own",
    "vmNumaEnable": "is not supported; numaCells and numaPolicy of a node say of which cells it is",
}
_WITHOUT_A_VALUE = frozenset(name for name in REFUSED if REFUSED[name] is _RELEASED)


def apply(message: deploy_pb2.DeployDistributedModelServiceRequest) -> None:
    """Place the message's nodes as its system tags say. Raises InvalidArgument for one that cannot be kept to."""
    for position, tag in enumerate(message.system_tags):
        name, found, value = tag.partition("::")
        path = f"system_tags[{position}]"
        if name in REFUSED and (found or name in _WITHOUT_A_VALUE):
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
