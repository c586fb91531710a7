"""From a stored member to what its host is asked to create: sizes, network and the rendezvous documents. Pure.

Contract `rendezvous/v1` (one JSON document and the same facts as an env file): every member knows the whole group
before it boots, so no name service and no discovery are needed. Nothing in here is secret.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from ipaddress import ip_network
from typing import Any

from service.app.planning import demand
from service.drivers.base import Image, MachineIdentity, MachineSpec, NetworkInterface
from service.fleet import Host, ModelService, Zone
from service.model import Group, Instance
from service.store.catalog import version_key

CONTRACT = "rendezvous/v1"
READINESS_INTERVAL_MS = 1_000
READINESS_TIMEOUT_MS = 2_000


def identity_of(cluster: str, member: Instance) -> MachineIdentity:
    """Who the member's present machine is."""
    return MachineIdentity(cluster, member.group_uuid, member.uuid, member.attempt)


def template(member: Instance, catalogue: Mapping[str, ModelService]) -> ModelService:
    """The entry that the member is made from: the version that it was admitted with, where that is kept.

    Raises KeyError for an entry that is gone.
    """
    uuid = member.spec.model_service_uuid
    return catalogue.get(version_key(uuid, member.spec.model_service_version)) or catalogue[uuid]


def machine_spec(
    cluster: str,
    group: Group,
    member: Instance,
    *,
    host: Host,
    zones: Mapping[str, Zone],
    catalogue: Mapping[str, ModelService],
) -> MachineSpec:
    """What `member`'s host is asked to create. Raises KeyError for a zone or catalogue entry that is gone."""
    entry = template(member, catalogue)
    interfaces = _interfaces(member, zones[host.zone_uuid], host)
    document = rendezvous(group, member, host, zones, catalogue)
    return MachineSpec(
        identity=identity_of(cluster, member),
        display_name=member.spec.name,
        vcpus=member.spec.cpu_num,
        memory_bytes=member.spec.memory_size,
        root_disk_bytes=member.spec.root_disk_size,
        image=entry.image,
        interfaces=interfaces,
        documents={
            "rendezvous": json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False),
            "env": _env(document, member),
            "hosts": _hosts(document),
        },
        spec_hash=_spec_hash(member, entry.image, interfaces),
        resources=demand(member.spec),
    )


def rendezvous(
    group: Group, member: Instance, host: Host, zones: Mapping[str, Zone], catalogue: Mapping[str, ModelService]
) -> dict[str, Any]:
    """The group's facts as `member` needs them. The epoch is that of the start that the machine is created for."""
    entry = template(member, catalogue)
    leader = group.instances[0]
    network = zones[host.zone_uuid].network
    return {
        "contract": CONTRACT,
        "group": {
            "uuid": group.uuid,
            "name": group.spec.name,
            "epoch": group.start_epoch if group.go else group.start_epoch + 1,
            "size": len(group.instances),
        },
        "node": {
            **_peer(member),
            "instance": member.uuid,
            "mac": member.mac,
            "prefix_length": ip_network(network.subnet).prefixlen if network.subnet else 0,
            "gateway": network.gateway,
            "host": host.name,
            "zone": host.zone_uuid,
            "rack": host.rack,
            "cpu": member.spec.cpu_num,
            "memory": member.spec.memory_size,
            "gpus": [{"model": g.model, "count": g.count} for g in member.spec.gpus],
        },
        "leader": {"rank": 0, "address": leader.address, "ports": dict(_ports(leader, catalogue))},
        "peers": [_peer(m) for m in group.instances],
        "ports": dict(entry.ports),
        "readiness": {
            "path": entry.health_path,
            "port": entry.readiness_port or entry.ports.get("service", 0),
            "interval_ms": entry.readiness_interval_ms or READINESS_INTERVAL_MS,
            "timeout_ms": entry.readiness_timeout_ms or READINESS_TIMEOUT_MS,
        },
        "engine": {
            "preset": entry.framework,
            "command": entry.initial_command if member.rank == 0 else entry.worker_command,
            "args": member.spec.startup_parameters,
            "env": {**entry.environment, **member.spec.environment_variables},
            "image": entry.image.name,
            "model": entry.model_uuid,
            "tensor_parallel_size": member.spec.tensor_parallel_size,
        },
        "start": {
            "order": group.spec.creation_strategy.value,
            "gate": "workers" if group.spec.workers_first else "leader",
            "deadline_ms": member.boot_timeout_ms,
        },
    }


def _peer(member: Instance) -> dict[str, Any]:
    role = "leader" if member.rank == 0 else "worker"
    return {"rank": member.rank, "role": role, "name": member.spec.name, "address": member.address}


def _ports(member: Instance, catalogue: Mapping[str, ModelService]) -> Mapping[str, int]:
    return template(member, catalogue).ports


def _env(document: Mapping[str, Any], member: Instance) -> str:
    """`KEY=value` lines, values taken literally. The second half lets images of known engines work unchanged."""
    group, node, leader = document["group"], document["node"], document["leader"]
    address = node["address"]
    lines = {
        "CORRAL_GROUP_UUID": group["uuid"],
        "CORRAL_GROUP_EPOCH": group["epoch"],
        "CORRAL_GROUP_SIZE": group["size"],
        "CORRAL_NODE_NAME": node["name"],
        "CORRAL_NODE_INSTANCE": node["instance"],
        "CORRAL_NODE_RANK": node["rank"],
        "CORRAL_NODE_ROLE": node["role"],
        "CORRAL_NODE_ADDRESS": f"{address}/{node['prefix_length']}" if address else "",
        "CORRAL_NODE_GATEWAY": node["gateway"],
        "CORRAL_LEADER_ADDRESS": leader["address"],
        "CORRAL_LEADER_PORT": leader["ports"].get("service", ""),
        "CORRAL_SERVICE_PORT": document["ports"].get("service", ""),
        "CORRAL_START_DEADLINE_SECONDS": member.boot_timeout_ms // 1000,
        "MASTER_ADDR": leader["address"],
        "MASTER_PORT": leader["ports"].get("rendezvous", ""),
        "NODE_RANK": node["rank"],
        "NNODES": group["size"],
        "LWS_LEADER_ADDRESS": leader["address"],
        "LWS_GROUP_SIZE": group["size"],
        "LWS_WORKER_INDEX": node["rank"],
        "RAY_ADDRESS": f"{leader['address']}:{leader['ports'].get('rendezvous', 6379)}" if leader["address"] else "",
        "VLLM_HOST_IP": address,
    }
    lines |= document["engine"]["env"]
    return "".join(f"{name}={value}\n" for name, value in lines.items() if str(value))


def _hosts(document: Mapping[str, Any]) -> str:
    return "".join(f"{p['address']} {_host_name(p['name'])}\n" for p in document["peers"] if p["address"])


def _host_name(name: str) -> str:
    """A name that /etc/hosts can hold: letters, digits and hyphens."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in name).strip("-")[:63] or "node"


def _interfaces(member: Instance, zone: Zone, host: Host) -> tuple[NetworkInterface, ...]:
    network = zone.network
    if network.kind == "none":
        return ()
    return (
        NetworkInterface(
            kind=network.kind,
            source=host.bridge or network.source,
            mac=member.mac,
            address=member.address,
            prefix_length=ip_network(network.subnet).prefixlen if network.subnet else 0,
            gateway=network.gateway,
        ),
    )


def _spec_hash(member: Instance, image: Image, interfaces: tuple[NetworkInterface, ...]) -> str:
    """Changes whenever the machine would have to be made differently; documents may change without it."""
    text = repr((member.spec, image.name, sorted(image.sha256.items()), interfaces))
    return hashlib.sha256(text.encode()).hexdigest()[:32]
