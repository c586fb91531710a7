"""Ganeti's real allocator ``hail`` on our fleets, through its IAllocator protocol: JSON in, JSON out."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

from placement.model import Host, Node, Request, Snapshot
from tests.bench.placement_peers import Outcome

HAIL = "/usr/lib/ganeti/iallocators/hail"
GROUP = "6f1ed002-ab5b-4a0c-8f5a-000000000001"
LEAST = {"memory-size": 1, "cpu-count": 1, "disk-size": 1, "disk-count": 0, "nic-count": 0, "spindle-use": 0}
MOST = {
    "memory-size": 1 << 24,
    "cpu-count": 4096,
    "disk-size": 1 << 20,
    "disk-count": 16,
    "nic-count": 8,
    "spindle-use": 64,
}
POLICY = {
    "minmax": [{"min": LEAST, "max": MOST}],
    "std": {**LEAST, "disk-count": 1, "nic-count": 1, "spindle-use": 1},
    "disk-templates": ["plain"],
    "vcpu-ratio": 1.0,
    "spindle-ratio": 1e6,
}
PARAMETERS = {
    "spindle_count": 1000,
    "exclusive_storage": False,
    "cpu_speed": 1.0,
    "oob_program": "",
    "ovs": False,
    "ovs_name": "",
    "ovs_link": "",
    "ssh_port": 22,
}


def _node(host: Host) -> dict[str, object]:
    memory = host.free("memory") >> 20
    return {
        "group": GROUP,
        "tags": [],
        "primary_ip": "192.0.2.1",
        "secondary_ip": "192.0.2.1",
        "offline": False,
        "drained": False,
        "master_candidate": True,
        "master_capable": True,
        "vm_capable": True,
        "total_memory": memory,
        "free_memory": memory,
        "reserved_memory": 0,
        "total_disk": 1 << 20,
        "free_disk": 1 << 20,
        "total_cpus": host.free("cpu"),
        "reserved_cpus": 0,
        "total_spindles": 1000,
        "free_spindles": 1000,
        "i_pri_memory": 0,
        "i_pri_up_memory": 0,
        "ndparams": PARAMETERS,
    }


def _instance(node: Node) -> dict[str, object]:
    return {
        "name": node.id,
        "memory": node.demand["memory"] >> 20,
        "vcpus": node.demand["cpu"],
        "spindle_use": 1,
        "disks": [{"size": 1, "mode": "w", "spindles": 1}],
        "disk_space_total": 1,
        "disk_template": "plain",
        "os": "none",
        "tags": [],
        "nics": [],
        "hypervisor": "kvm",
        "required_nodes": 1,
    }


def question(snapshot: Snapshot, request: Request) -> dict[str, object]:
    """The IAllocator document: what is free on our hosts as whole hosts, and the gang as one ``multi-allocate``."""
    group = {"name": "default", "alloc_policy": "preferred", "networks": [], "tags": [], "ipolicy": POLICY}
    return {
        "version": 2,
        "cluster_name": "fleet",
        "cluster_tags": [],
        "enabled_hypervisors": ["kvm"],
        "ipolicy": POLICY,
        "nodegroups": {GROUP: group},
        "nodes": {host.id: _node(host) for host in snapshot.hosts},
        "instances": {},
        "request": {"type": "multi-allocate", "instances": [_instance(node) for node in request.nodes]},
    }


def hail(snapshot: Snapshot, request: Request, seconds: float) -> Outcome:
    """One run of ``hail`` for the whole gang, ended after `seconds` of wall time; its own CPU time counts."""
    name = "Ganeti hail"
    program = shutil.which("hail") or shutil.which(HAIL)
    if program is None:
        return Outcome(name, 0.0, None, 0, "not installed here")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "request.json"
        path.write_text(json.dumps(question(snapshot, request)), encoding="utf-8")
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        try:
            done = subprocess.run([program, str(path)], capture_output=True, text=True, check=False, timeout=seconds)
        except subprocess.TimeoutExpired:
            done = None
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if done is None:
        return Outcome(name, spent, None, 0, f"not done in {seconds:.0f} s of wall")
    if done.returncode:
        return Outcome(name, spent, None, 0, f"failed: {(done.stderr or done.stdout).strip()[:120]}")
    landed = {node: hosts[0] for node, hosts in json.loads(done.stdout)["result"][0]}
    _verify(snapshot, request, landed)
    return Outcome(name, spent, len(set(landed.values())), len(landed), "CPU time of its process")


def _verify(snapshot: Snapshot, request: Request, landed: dict[str, str]) -> None:
    """The peer got the same question only if its answer fits our hosts."""
    used: Counter[tuple[str, str]] = Counter()
    for node in request.nodes:
        for resource_name, amount in node.demand.items() if node.id in landed else ():
            used[landed[node.id], resource_name] += amount
    for host in snapshot.hosts:
        assert all(used[host.id, each] <= host.free(each) for each in host.capacity), f"hail overfills {host.id}"
