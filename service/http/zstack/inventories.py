"""Resources as ZStack's inventories: mappings of its field names, without what is null. Pure.

Groups and members are those of the gRPC face, by the same conversion, so that no field is named twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from corral.v1 import group_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from service.app.sessions import Session
from service.contract.convert import inventory
from service.contract.convert.inventory import Reachable
from service.domain.catalog import ModelService
from service.domain.fleet import MEMORY, VCPU, Host, Zone
from service.domain.groups import Group, PlacementRecord
from service.http.zstack.query import Moment


def group(value: Group, reachable: Reachable) -> dict[str, Any]:
    """ModelServiceInstanceGroupInventory."""
    return _of_message(inventory.group(value, reachable))


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


def capacity(hosts: Sequence[Host]) -> dict[str, Any]:
    """The reply of getCpuMemoryCapacity over hosts that take new machines."""
    counted = [value for value in hosts if value.schedulable]
    return {
        "totalCpu": sum(value.allocatable.get(VCPU, 0) for value in counted),
        "availableCpu": sum(_available(value, VCPU) for value in counted),
        "totalMemory": sum(value.allocatable.get(MEMORY, 0) for value in counted),
        "availableMemory": sum(_available(value, MEMORY) for value in counted),
        "managedCpuNum": sum(value.total.get(VCPU, 0) for value in counted),
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


def _dates(value: Zone | Host | ModelService) -> dict[str, Moment]:
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


def _names(descriptor: Descriptor) -> tuple[str, ...]:
    return tuple(field.json_name for field in descriptor.fields)


GROUP_FIELDS = _names(group_pb2.InstanceGroup.DESCRIPTOR)
ZONE_FIELDS = ("uuid", "name", "description", "state", "type", "createDate", "lastOpDate")
HOST_FIELDS = (
    "uuid", "name", "zoneUuid", "clusterUuid", "managementIp", "hypervisorType", "state", "status", "cpuNum",
    "totalCpuCapacity", "availableCpuCapacity", "totalMemoryCapacity", "availableMemoryCapacity", "createDate",
    "lastOpDate",
)  # fmt: skip
MODEL_SERVICE_FIELDS = (
    "uuid", "name", "description", "framework", "modelUuid", "type", "requestCpu", "requestMemory", "startCommand",
    "supportDistributed", "createDate", "lastOpDate",
)  # fmt: skip
