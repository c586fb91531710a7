"""Every field by which inventories can be queried: those that Corral tells and those of the classes of ZStack's SDKs.

What Corral does not tell is null in every inventory, and can be asked for as such.
"""

from __future__ import annotations

from corral.v1 import group_pb2

_DATES = ("createDate", "lastOpDate")

GROUP = (
    *(field.json_name for field in group_pb2.InstanceGroup.DESCRIPTOR.fields),
)  # fmt: skip
"""Whose fields are all of the SDK's ModelServiceInstanceGroupInventory and more."""

MODEL_SERVICE = (
    "uuid", "name", "description", "readme", "yaml", "requestCpu", "requestMemory", "modelCenterUuid", "type",
    "framework", "source", "size", "system", "gpuComputeCapability", "installPath", "pythonVersion", "condaVersion",
    "startCommand", "containerCommand", "containerArgs", "supportDistributed", "cpuArchitectures",
    "vendorToSpecUuidsMap", "modelServiceRefs", "modelServiceImages", "dockerImage", "vmImageUuid", "modelUuid",
    *_DATES,
)  # fmt: skip

ZONE = ("uuid", "name", "description", "state", "type", "isDefault", *_DATES)

CLUSTER = ("uuid", "name", "description", "state", "hypervisorType", "zoneUuid", "type", "architecture", *_DATES)

HOST = (
    "uuid", "name", "description", "zoneUuid", "clusterUuid", "managementIp", "hypervisorType", "state", "status",
    "totalCpuCapacity", "availableCpuCapacity", "cpuSockets", "totalMemoryCapacity", "availableMemoryCapacity",
    "cpuNum", "ipmiAddress", "ipmiUsername", "ipmiPort", "ipmiPowerStatus", "cpuStatus", "memoryStatus", "diskStatus",
    "nicStatus", "gpuStatus", "powerSupplyStatus", "fanStatus", "raidStatus", "temperatureStatus", "architecture",
    "username", "sshPort", "osDistribution", "osRelease", "osVersion", *_DATES,
)  # fmt: skip

IMAGE = (
    "uuid", "name", "description", "state", "status", "size", "actualSize", "md5Sum", "url", "mediaType",
    "guestOsType", "type", "platform", "architecture", "format", "system", "virtio", "backupStorageRefs",
    "systemTags", *_DATES,
)  # fmt: skip

VM = (
    "uuid", "name", "description", "zoneUuid", "clusterUuid", "imageUuid", "hostUuid", "lastHostUuid",
    "instanceOfferingUuid", "rootVolumeUuid", "platform", "architecture", "defaultL3NetworkUuid", "type",
    "hypervisorType", "memorySize", "reservedMemorySize", "cpuNum", "cpuSpeed", "allocatorStrategy", "state",
    "vmNics", "allVolumes", "vmCdRoms", "guestOsType", *_DATES,
)  # fmt: skip
