"""Small valid domain objects for tests."""

from __future__ import annotations

from collections.abc import Mapping

from service.domain.catalog import Image, ModelService
from service.domain.fleet import Host, HostAddress, Zone
from service.domain.groups import Group, Instance, Seat
from service.domain.network import Network
from service.domain.specs import GroupSpec, NodeSpec

ZONE = "7a007a391d483c9f843bf1df4b7e5d8f"
ENTRY = "f1e135835fee363c9f57ed8232023886"


def node(rank: int = -1, **changes: object) -> NodeSpec:
    """One node of the default catalogue entry: 2 vCPUs, 1 GiB."""
    values: dict[str, object] = {
        "name": f"node-{rank}" if rank >= 0 else "",
        "model_service_uuid": ENTRY,
        "zone_uuid": ZONE,
        "cpu_num": 2,
        "memory_size": 1 << 30,
        "node_rank": rank,
        "is_initial_node": rank == 0,
    }
    return NodeSpec(**{**values, **changes})  # type: ignore[arg-type]


def spec(size: int = 2, **changes: object) -> GroupSpec:
    """A specification of `size` nodes as a face hands it in."""
    values: dict[str, object] = {"name": "group", "nodes": tuple(node() for _ in range(size))}
    return GroupSpec(**{**values, **changes})  # type: ignore[arg-type]


def group(size: int = 2, uuid: str = "a" * 32, **changes: object) -> Group:
    """A stored group, every member pending. Keys of GroupSpec go to the specification."""
    of_spec = {k: changes.pop(k) for k in tuple(changes) if k in GroupSpec.__dataclass_fields__}
    nodes = tuple(node(rank) for rank in range(size))
    members = tuple(
        Instance(uuid=f"{rank:032x}", group_uuid=uuid, spec=nodes[rank], boot_timeout_ms=60_000) for rank in range(size)
    )
    return Group(
        uuid=uuid,
        spec=GroupSpec(**{"name": "group", "nodes": nodes, **of_spec}),  # type: ignore[arg-type]
        instances=members,
        **changes,  # type: ignore[arg-type]
    )


def seat(instance_uuid: str, host_uuid: str, resources: Mapping[str, int], *, attempt: int = 1) -> Seat:
    """A seat as the plan makes one."""
    return Seat(instance_uuid, 0, "node", host_uuid, "host", ZONE, resources, attempt)


def zone(**changes: object) -> Zone:
    """The zone of `host` and `node`, with a pool of 40 addresses."""
    network = Network("network", "corral", "10.9.0.0/24", "10.9.0.1", "10.9.0.10", "10.9.0.49")
    return Zone(**{"uuid": ZONE, "name": "zone-1", "network": network, **changes})  # type: ignore[arg-type]


def host(number: int = 1, **changes: object) -> Host:
    """A simulated host of the zone."""
    values: dict[str, object] = {
        "uuid": f"{number:032x}",
        "name": f"host-{number}",
        "zone_uuid": ZONE,
        "address": HostAddress("simulated"),
    }
    return Host(**{**values, **changes})  # type: ignore[arg-type]


def entry(**changes: object) -> ModelService:
    """The default catalogue entry."""
    return ModelService(
        **{"uuid": ENTRY, "name": "default", "image": Image("guest"), "stop_grace_ms": 0, **changes}  # type: ignore[arg-type]
    )
