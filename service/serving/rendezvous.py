"""`rendezvous/v1`: the documents by which the members of a group find each other, rendered from the group."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_network
from typing import Any

from service.domain.catalog import ModelService, version_key
from service.domain.environment import Secrets, is_line, is_planned, resolved
from service.domain.fleet import Host, Zone
from service.domain.groups import Group, Instance
from service.domain.presets import CUSTOM, RANGES, SUPERVISOR_PORT, Ready, ports_of, preset_of, ranges_of
from service.domain.specs import data_disk_serial
from service.serving import engine
from service.serving.fellows import fellows, with_peers

CONTRACT = "rendezvous/v1"
MASTER_PORT = 29_500
"""torch's own default; RAY_PORT is Ray's."""
RAY_PORT = 6_379


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
    """What `member` is told of its group. The epoch is that of the start that the machine is created for.

    The one thing in which values of secrets stand: it goes to the member's host and nowhere else.
    Raises SecretUnavailable.
    """
    entries = {m.uuid: template(m, catalogue) for m in group.instances}
    entry = entries[member.uuid]
    ports = ports_of(entry.framework, entry.ports)
    gate, gate_port = engine.gate(member, entry)
    ready, ready_port = engine.readiness(member, entry)
    leader = group.instances[0]
    leads = entries[leader.uuid]
    network = zones[host.zone_uuid].network
    told = fellows(group.instances)
    own = next(peer for m, peer in zip(group.instances, told.peers, strict=True) if m.uuid == member.uuid)
    return {
        "contract": CONTRACT,
        "group": {
            "uuid": group.uuid,
            "name": group.spec.name,
            "epoch": group.start_epoch if group.go else group.start_epoch + 1,
            "size": len(group.instances),
        },
        "node": {
            **own,
            "instance": member.uuid,
            "mac": member.mac,
            "prefix_length": ip_network(network.subnet).prefixlen if network.subnet else 0,
            "gateway": network.gateway,
            **_endpoint(group, member),
            "host": host.name,
            "zone": host.zone_uuid,
            "rack": host.rack,
            "cpu": member.spec.cpu_num,
            "memory": member.spec.memory_size,
            "gpus": [{"model": g.model, "count": g.count} for g in member.spec.held_gpus],
            **_devices(member),
            **_disks(member),
        },
        "leader": {
            "rank": 0,
            "address": leader.address,
            "ports": dict(ports_of(leads.framework, leads.ports)),
        },
        "peers": list(told.peers),
        "ports": {
            **ports,
            RANGES: {role: list(span) for role, span in ranges_of(entry.framework, ports).items()},
        },
        "readiness": {
            "kind": ready.value,
            "path": entry.health_path if ready is Ready.HTTP else "",
            "port": ready_port,
            "interval_ms": entry.readiness_interval_ms or engine.READINESS_INTERVAL_MS,
            "timeout_ms": entry.readiness_timeout_ms or engine.READINESS_TIMEOUT_MS,
            **({"command": entry.readiness_command} if ready is Ready.COMMAND else {}),
            **({"line": entry.readiness_line} if ready is Ready.SERIAL else {}),
        },
        "canary": {"path": entry.canary_path, "body": entry.canary_body, "expect": entry.canary_expect},
        "engine": {
            "preset": entry.framework,
            "command": engine.command(group, member, entries),
            "args": member.spec.startup_parameters,
            "env": resolved({**entry.environment, **member.spec.environment_variables}, secrets, group.project),
            "image": entry.image.name,
            "image_digest": dict(sorted(entry.image.sha256.items())),
            "model": member.spec.model_uuid or entry.model_uuid,
            **({"weights": {"uri": entry.weights_uri, "sha256": entry.weights_sha256}} if entry.weights_uri else {}),
            "tensor_parallel_size": member.spec.tensor_parallel_size,
            "processes": engine.processes(member.spec),
            "serves": preset_of(entry.framework).serves.value,
            "scope": preset_of(entry.framework).scope.value,
        },
        "start": {
            "order": group.spec.creation_strategy.value,
            "gate": gate.value,
            "gate_port": gate_port,
            "listen_port": engine.listen_port(member, entry),
            "supervisor_port": SUPERVISOR_PORT,
            "deadline_ms": member.boot_timeout_ms,
        },
    }


def _endpoint(group: Group, member: Instance) -> dict[str, str]:
    """The group's own address, where the member has it beside its own."""
    there = group.endpoint
    if there is None or there.holder != member.uuid or there.zone_uuid != member.zone_uuid:
        return {}
    return {"endpoint": there.address} if there.address != member.address else {}


def _disks(member: Instance) -> dict[str, Any]:
    """The member's data disks, by the serials that its guest sees; `size` 0: as large as the image."""
    told = [
        {
            "serial": data_disk_serial(number),
            "size": disk.size,
            **({"image": disk.image.name, "sha256": disk.image.sha256.get("disk", "")} if disk.image else {}),
        }
        for number, disk in enumerate(member.spec.data_disks)
    ]
    return {"data_disks": told} if told else {}


def _devices(member: Instance) -> dict[str, Any]:
    """The devices that the member has for itself: what its guest must see. Of where they are on the host it is told the
    NUMA cell, by which it knows which are near each other."""
    if not member.devices:
        return {}
    return {
        "devices": [
            {"model": d.model, "functions": [f.ids for f in d.functions], "numa_cell": d.cell} for d in member.devices
        ]
    }


def _must_see(node: Mapping[str, Any]) -> str:
    """`VENDOR:PRODUCT=COUNT` of the functions that a guest must see, by their ids."""
    ids = [ids for device in node.get("devices", ()) for ids in device["functions"]]
    return " ".join(f"{one}={ids.count(one)}" for one in sorted(set(ids)))


def texts(document: dict[str, Any], group: Group, member: Instance) -> dict[str, str]:
    """All that the member is told, as texts by name: `rendezvous`, `env`, `hosts`, `hostfile`."""
    told = fellows(group.instances)
    return {
        "rendezvous": with_peers(document, told),
        "env": env_file(document, member),
        "hosts": told.hosts,
        "hostfile": engine.hostfile(group),
    }


def env_file(document: Mapping[str, Any], member: Instance) -> str:
    """`KEY=value` lines, values taken literally. Those beside `CORRAL_*` let images of known engines work unchanged.

    A value of several lines is left out, since its further lines would be variables of their own; the rendezvous
    document has it.
    """
    group, node, leader = document["group"], document["node"], document["leader"]
    ports, start, address = document["ports"], document["start"], node["address"]
    master_port = leader["ports"].get("rendezvous", MASTER_PORT)
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
        "CORRAL_ENDPOINT_ADDRESS": node.get("endpoint", ""),
        "CORRAL_DEVICES": _must_see(node),
        "CORRAL_LEADER_ADDRESS": leader["address"],
        "CORRAL_LEADER_PORT": leader["ports"].get("service", ""),
        "CORRAL_SERVICE_PORT": ports.get("service", ""),
        "CORRAL_RENDEZVOUS_PORT": ports.get("rendezvous", ""),
        "CORRAL_RPC_PORT": ports.get("rpc", ""),
        "CORRAL_PEERS": " ".join(p["address"] for p in document["peers"]),
        "CORRAL_PRESET": document["engine"]["preset"],
        "CORRAL_ENGINE_COMMAND": document["engine"]["command"],
        "CORRAL_GATE": start["gate"],
        "CORRAL_GATE_PORT": start["gate_port"] or "",
        "CORRAL_LISTEN_PORT": start["listen_port"] or "",
        "CORRAL_SUPERVISOR_PORT": start["supervisor_port"],
        "CORRAL_SCOPE": document["engine"]["scope"],
        "CORRAL_READINESS": document["readiness"]["kind"],
        "CORRAL_READINESS_PATH": document["readiness"]["path"],
        "CORRAL_READINESS_PORT": document["readiness"]["port"] or "",
        "CORRAL_READINESS_COMMAND": document["readiness"].get("command", ""),
        "CORRAL_READINESS_TIMEOUT_SECONDS": -(-document["readiness"]["timeout_ms"] // 1000),
        "CORRAL_READINESS_INTERVAL_SECONDS": -(-document["readiness"]["interval_ms"] // 1000),
        **{f"CORRAL_CANARY_{name.upper()}": value for name, value in document["canary"].items()},
        **{f"CORRAL_WEIGHTS_{name.upper()}": told for name, told in document["engine"].get("weights", {}).items()},
        "CORRAL_START_DEADLINE_SECONDS": member.boot_timeout_ms // 1000,
        **({"CORRAL_GROUP_ROLE": node["group_role"]} if "group_role" in node else {}),
        "MASTER_ADDR": leader["address"],
        "MASTER_PORT": master_port,
        "NODE_RANK": node["rank"],
        "NNODES": group["size"],
        "PET_MASTER_ADDR": leader["address"],
        "PET_MASTER_PORT": master_port,
        "PET_NODE_RANK": node["rank"],
        "PET_NNODES": group["size"],
        "PET_NPROC_PER_NODE": sum(gpu["count"] for gpu in node["gpus"]) or 1,
        "LWS_LEADER_ADDRESS": leader["address"],
        "LWS_GROUP_SIZE": group["size"],
        "LWS_WORKER_INDEX": node["rank"],
        "RAY_ADDRESS": _ray_address(document),
        "VLLM_HOST_IP": address,
    }
    given = {name: value for name, value in document["engine"]["env"].items() if not is_planned(name)}
    return "".join(f"{n}={v}\n" for n, v in {**given, **lines}.items() if str(v) and is_line(str(v)))


def _ray_address(document: Mapping[str, Any]) -> str:
    """Ray looks for a cluster there as soon as it is set: told only to members whose engine may be Ray."""
    leader = document["leader"]
    if not leader["address"] or document["engine"]["preset"] not in (CUSTOM, "vllm-ray"):
        return ""
    return f"{leader['address']}:{leader['ports'].get('rendezvous', RAY_PORT)}"
