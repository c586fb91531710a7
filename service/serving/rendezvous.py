"""`rendezvous/v1`: the documents by which the members of a group find each other, rendered from the group."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_network
from typing import Any

from service.domain.catalog import ModelService, version_key
from service.domain.environment import Secrets, is_line, is_planned, resolved
from service.domain.fleet import Host, Zone
from service.domain.groups import Group, Instance
from service.serving.host_names import host_names

CONTRACT = "rendezvous/v1"
READINESS_INTERVAL_MS = 1_000
READINESS_TIMEOUT_MS = 2_000


def template(member: Instance, catalogue: Mapping[str, ModelService]) -> ModelService:
    """The entry that the member is made from: the version that it was admitted with, where that is kept.

    Raises KeyError for an entry that is gone.
    """
    uuid = member.spec.model_service_uuid
    return catalogue.get(version_key(uuid, member.spec.model_service_version)) or catalogue[uuid]


def rendezvous(
    group: Group,
    member: Instance,
    host: Host,
    zones: Mapping[str, Zone],
    catalogue: Mapping[str, ModelService],
    secrets: Secrets,
) -> dict[str, Any]:
    """The group's facts as `member` needs them. The epoch is that of the start that the machine is created for.

    The one thing in which values of secrets stand: it goes to the member's host and nowhere else.
    Raises SecretUnavailable.
    """
    entry = template(member, catalogue)
    leader = group.instances[0]
    network = zones[host.zone_uuid].network
    found = host_names([m.spec.name for m in group.instances])
    names = {m.uuid: name for m, name in zip(group.instances, found, strict=True)}
    return {
        "contract": CONTRACT,
        "group": {
            "uuid": group.uuid,
            "name": group.spec.name,
            "epoch": group.start_epoch if group.go else group.start_epoch + 1,
            "size": len(group.instances),
        },
        "node": {
            **_peer(member, names[member.uuid]),
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
        "peers": [_peer(m, names[m.uuid]) for m in group.instances],
        "ports": dict(entry.ports),
        "readiness": {
            "path": entry.health_path,
            "port": entry.readiness_port or entry.ports.get("service", 0),
            "interval_ms": entry.readiness_interval_ms or READINESS_INTERVAL_MS,
            "timeout_ms": entry.readiness_timeout_ms or READINESS_TIMEOUT_MS,
        },
        "engine": {
            "preset": entry.framework,
            "command": _command(entry, member),
            "args": member.spec.startup_parameters,
            "env": resolved({**entry.environment, **member.spec.environment_variables}, secrets, group.project),
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


def _command(entry: ModelService, member: Instance) -> str:
    """The start command; a worker without one of its own gets the initial node's."""
    return entry.initial_command if member.rank == 0 else entry.worker_command or entry.initial_command


def _peer(member: Instance, host_name: str) -> dict[str, Any]:
    return {
        "rank": member.rank,
        "role": "leader" if member.rank == 0 else "worker",
        "name": member.spec.name,
        "host_name": host_name,
        "address": member.address,
    }


def _ports(member: Instance, catalogue: Mapping[str, ModelService]) -> Mapping[str, int]:
    return template(member, catalogue).ports


def env_file(document: Mapping[str, Any], member: Instance) -> str:
    """`KEY=value` lines, values taken literally. Those beside `CORRAL_*` let images of known engines work unchanged.

    A value of several lines is left out, since its further lines would be variables of their own; the rendezvous
    document has it.
    """
    group, node, leader = document["group"], document["node"], document["leader"]
    address = node["address"]
    lines = {
        "CORRAL_GROUP_UUID": group["uuid"],
        "CORRAL_GROUP_EPOCH": group["epoch"],
        "CORRAL_GROUP_SIZE": group["size"],
        "CORRAL_NODE_NAME": node["name"],
        "CORRAL_HOST_NAME": node["host_name"],
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
    given = {name: value for name, value in document["engine"]["env"].items() if not is_planned(name)}
    return "".join(f"{n}={v}\n" for n, v in {**given, **lines}.items() if str(v) and is_line(str(v)))


def hosts_file(document: Mapping[str, Any]) -> str:
    """Lines for /etc/hosts: each member's planned address and host name."""
    return "".join(f"{p['address']} {p['host_name']}\n" for p in document["peers"] if p["address"])
