"""Resources as ZStack's inventories: mappings of its field names, without what is null. Pure.

Groups and members are those of the gRPC face, by the same conversion, so that no field is named twice.
"""

from __future__ import annotations

import uuid as uuids
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from service.app.clusters import ClusterView
from service.app.sessions import Session
from service.contract.convert import inventory
from service.contract.convert.inventory import Reachable
from service.domain.catalog import ModelService, RegisteredImage, version_key
from service.domain.fleet import MEMORY, VCPU, Cluster, Host, Zone
from service.domain.groups import Group, GroupStatus, Instance, InstanceStatus, PlacementRecord
from service.domain.specs import MachineType
from service.http.zstack.query import Moment


def group(value: Group, reachable: Reachable, images: Mapping[str, str]) -> dict[str, Any]:
    """ModelServiceInstanceGroupInventory. `images`: version of a catalogue entry -> the image that it boots."""
    told = _of_message(inventory.group(value, reachable))
    if value.status is GroupStatus.WAITING:
        told["status"] = GroupStatus.DEPLOYING.value  # ZStack has no word for a group that waits for hosts
    for shown, member in zip(told["instances"], value.serving, strict=True):
        vm = machine(member, images)
        if vm is not None:
            shown["vm"] = vm
    return told


def machine(value: Instance, images: Mapping[str, str]) -> dict[str, Any] | None:
    """VmInstanceInventory of a member's machine; None while it has none."""
    if not value.machine_uuid:
        return None
    uuid = value.machine_uuid.replace("-", "")
    dates = {"createDate": Moment(value.created_at), "lastOpDate": Moment(value.updated_at)}
    spec = value.spec
    nic = {"uuid": uuids.uuid5(uuids.UUID(uuid), "nic/0").hex, "vmInstanceUuid": uuid, "deviceId": 0}
    address = {"ip": value.address, "mac": value.mac, "ipVersion": 6 if ":" in value.address else 4}
    return _filled(
        {
            "uuid": uuid,
            "name": spec.name,
            "description": spec.description,
            "zoneUuid": value.zone_uuid,
            "clusterUuid": spec.cluster_uuid,
            "imageUuid": images.get(version_key(spec.model_service_uuid, spec.model_service_version), ""),
            "hostUuid": value.host_uuid,
            "platform": "Linux",
            "type": "UserVm" if spec.type is MachineType.VIRTUAL_MACHINE else "baremetal2",
            "hypervisorType": "KVM" if spec.type is MachineType.VIRTUAL_MACHINE else "baremetal2",
            "cpuNum": spec.cpu_num,
            "memorySize": spec.memory_size,
            "state": "Unknown" if value.unknown_since else _MACHINE_STATES[value.status],
            "vmNics": [_filled({**nic, **address, **dates})] if value.address else [],
            **dates,
        }
    )


# What ZStack says of a machine whose member is in such a state.
_MACHINE_STATES: Mapping[InstanceStatus, str] = {
    InstanceStatus.PENDING: "Created",
    InstanceStatus.CLAIMED: "Created",
    InstanceStatus.CREATING: "Starting",
    InstanceStatus.CREATED: "Paused",
    InstanceStatus.BOOTING: "Running",
    InstanceStatus.RUNNING: "Running",
    InstanceStatus.STOPPING: "Stopping",
    InstanceStatus.STOPPED: "Stopped",
    InstanceStatus.FAILING: "Destroying",
    InstanceStatus.EVICTING: "Stopping",
    InstanceStatus.REMOVING: "Destroying",
    InstanceStatus.REMOVED: "Destroyed",
}


def planned(value: dict[str, Any], record: PlacementRecord) -> dict[str, Any]:
    """The inventory of a group that was only planned: what was asked for, and where it would be placed now.

    It has no uuid, no status and no dates, because there is no such group.
    """
    seats = sorted(record.assignments, key=lambda seat: seat.rank)
    return value | {
        "instances": [
            {
                "name": seat.name,
                "nodeRank": seat.rank,
                "hostUuid": seat.host_uuid,
                "hostName": seat.host_name,
                "zoneUuid": seat.zone_uuid,
                "cpuNum": seat.resources.get(VCPU),
                "memorySize": seat.resources.get(MEMORY),
            }
            for seat in seats
        ]
    }


def zone(value: Zone) -> dict[str, Any]:
    """ZoneInventory."""
    return _filled(
        {
            "uuid": value.uuid,
            "name": value.name,
            "description": value.description,
            "state": "Enabled",
            "type": "zstack",
            **_dates(value),
        }
    )


def cluster(view: ClusterView) -> dict[str, Any]:
    """ClusterInventory."""
    value = view.cluster
    return _filled(
        {
            "uuid": value.uuid,
            "name": value.name,
            "description": value.description,
            "state": "Enabled",
            "hypervisorType": "KVM",
            "zoneUuid": value.zone_uuid,
            "type": "zstack",
            **_dates(value),
        }
    )


def image(value: RegisteredImage) -> dict[str, Any]:
    """ImageInventory."""
    return _filled(
        {
            "uuid": value.uuid,
            "name": value.image.name,
            "state": "Enabled",
            "status": "Ready",
            "size": value.size,
            "actualSize": value.size,
            "mediaType": "RootVolumeTemplate" if value.format in ("raw", "qcow2") else "Kernel",
            "type": "zstack",
            "platform": "Linux",
            "format": value.format,
            "system": False,
            "virtio": True,
            **_dates(value),
        }
    )


def host(value: Host) -> dict[str, Any]:
    """HostInventory. Capacities are ZStack's: vCPUs with overcommit, and bytes that may be given to machines."""
    return _filled(
        {
            "uuid": value.uuid,
            "name": value.name,
            "zoneUuid": value.zone_uuid,
            "clusterUuid": value.cluster_uuid,
            "managementIp": value.address.address,
            "hypervisorType": "KVM" if value.address.driver == "libvirt" else value.address.driver,
            "state": value.state.value,
            "status": value.status.value,
            "cpuNum": value.total.get(VCPU, 0),
            "totalCpuCapacity": value.allocatable.get(VCPU, 0),
            "availableCpuCapacity": _available(value, VCPU),
            "totalMemoryCapacity": value.allocatable.get(MEMORY, 0),
            "availableMemoryCapacity": _available(value, MEMORY),
            **_dates(value),
        }
    )


def capacity(hosts: Sequence[Host], kind: str, attribute: str) -> dict[str, Any]:
    """The reply of getCpuMemoryCapacity over hosts that take new machines, and each resource's part of it.

    `kind`: ZStack's name of these resources; `attribute`: the host's field that says which one it is part of.
    """
    parts: dict[str, list[Host]] = {}
    for value in hosts:
        if getattr(value, attribute):
            parts.setdefault(getattr(value, attribute), []).append(value)
    return {
        **_sums(hosts),
        "capacityData": [{"resourceUuid": uuid, **_sums(part)} for uuid, part in sorted(parts.items())],
        "resourceType": kind,
    }


def _sums(hosts: Sequence[Host]) -> dict[str, int]:
    return {
        "totalCpu": sum(value.allocatable.get(VCPU, 0) for value in hosts),
        "availableCpu": sum(_available(value, VCPU) for value in hosts),
        "totalMemory": sum(value.allocatable.get(MEMORY, 0) for value in hosts),
        "availableMemory": sum(_available(value, MEMORY) for value in hosts),
        "managedCpuNum": sum(value.total.get(VCPU, 0) for value in hosts),
    }


def model_service(value: ModelService) -> dict[str, Any]:
    """ModelServiceInventory: a catalogue entry."""
    return _filled(
        {
            "uuid": value.uuid,
            "name": value.name,
            "description": value.description,
            "framework": value.framework,
            "modelUuid": value.model_uuid,
            "type": value.model_service_type,
            "requestCpu": value.default_cpu,
            "requestMemory": value.default_memory,
            "startCommand": value.initial_command,
            "installPath": value.image_uuid,
            "system": False,
            "supportDistributed": True,
            **_dates(value),
        }
    )


def session(value: Session) -> dict[str, Any]:
    """SessionInventory. An account is its own and only user."""
    return {
        "uuid": value.uuid,
        "accountUuid": value.account_uuid,
        "userUuid": value.account_uuid,
        "expiredDate": Moment(value.expires_at),
        "createDate": Moment(value.created_at),
    }


def _dates(value: Zone | Cluster | Host | ModelService | RegisteredImage) -> dict[str, Moment]:
    return {"createDate": Moment(value.created_at), "lastOpDate": Moment(value.updated_at)}


def _available(value: Host, resource: str) -> int:
    held = value.used.get(resource, 0) + value.foreign.get(resource, 0)
    return max(0, value.allocatable.get(resource, 0) - held)


def _filled(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in (None, "")}


def _of_message(message: Message) -> dict[str, Any]:
    """By JSON names. A text that is empty and a message that is not set are null; numbers stay numbers."""
    values: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.is_repeated:
            values[field.json_name] = [_of_message(item) if isinstance(item, Message) else item for item in value]
        elif field.message_type is not None:
            if message.HasField(field.name):
                values[field.json_name] = _moment(value) if isinstance(value, Timestamp) else _of_message(value)
        elif field.cpp_type != FieldDescriptor.CPPTYPE_STRING or value:
            values[field.json_name] = value
    return values


def _moment(value: Timestamp) -> Moment:
    return Moment(value.seconds * 1000 + value.nanos // 1_000_000)
