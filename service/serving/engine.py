"""What a member of a group runs: its start command, rendered from the preset and the plan, and what it waits for. Pure.

A command is one line for a POSIX shell. Words that a caller gave are quoted into it, so that no shell ever runs them;
what the catalogue says is the operator's own and is taken as it is.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from service.domain import containers
from service.domain.catalog import ModelService
from service.domain.groups import Group, Instance
from service.domain.presets import (
    BY_HOST,
    CUSTOM,
    MOST_HOST_CHECK_MS,
    Gate,
    Ready,
    Serves,
    ports_of,
    preset_of,
    ranges_of,
)
from service.domain.specs import NodeSpec

READINESS_INTERVAL_MS = 1_000
READINESS_TIMEOUT_MS = 2_000
ANY_ADDRESS = {4: "0.0.0.0", 6: "::"}
_PLACE = re.compile(r"\{([a-z_]+)\}")


def command(group: Group, member: Instance, entries: Mapping[str, ModelService]) -> str:
    """The line that starts the member's engine; empty where the image starts by itself.

    A worker without a command of its own runs the initial node's; where the catalogue has neither, the preset's is run,
    and where that has none, what a container image says of itself, with start parameters in place of its arguments.
    `entries`: of all members by their uuid. Raises ValueError for start parameters that are no words.
    """
    entry = entries[member.uuid]
    preset = preset_of(entry.framework)
    own = entry.initial_command if member.rank == 0 else entry.worker_command or entry.initial_command
    if not own:
        fragments = preset.leader_command if member.rank == 0 else preset.worker_command
        own = _joined(fragments, _values(group, member, entries, {n for f in fragments for n in _PLACE.findall(f)}))
    given = words(member.spec.startup_parameters)
    if not own and entry.image.container is not None:
        return containers.command(entry.image.container.entrypoint, entry.image.container.arguments, given)
    arguments = shlex.join(given)
    return f"{own} {arguments}" if own and arguments else own


def words(parameters: str) -> Sequence[str]:
    """The words of start parameters, split as a POSIX shell would. Raises ValueError where a quotation does not end."""
    return shlex.split(parameters)


def gate(member: Instance, entry: ModelService) -> tuple[Gate, int]:
    """Whose engines must listen before this member's is started, and on which port; (NONE, 0) for no one's."""
    preset = preset_of(entry.framework)
    ports = _ports(entry)
    kind = _gate(entry)
    waits = kind is Gate.WORKERS if member.rank == 0 else kind is Gate.LEADER
    if not waits:
        return Gate.NONE, 0
    return kind, ports.get(preset.gate_port, ports.get("service", 0))


def _gate(entry: ModelService) -> Gate:
    """An engine that is known has its own gate; of another its operator says whether the workers come first."""
    return Gate.WORKERS if entry.framework == CUSTOM and entry.workers_first else preset_of(entry.framework).gate


def listen_port(member: Instance, entry: ModelService) -> int:
    """The port by which the member's peers are told that its engine listens; 0 where nobody waits for it."""
    preset = preset_of(entry.framework)
    awaited = _gate(entry) is (Gate.LEADER if member.rank == 0 else Gate.WORKERS)
    ports = _ports(entry)
    return ports.get(preset.gate_port, ports.get("service", 0)) if awaited else 0


def readiness(member: Instance, entry: ModelService) -> tuple[Ready, int]:
    """How the member's guest tells that its engine is ready, and on which port it looks; 0 where there is none."""
    preset, ports = preset_of(entry.framework), _ports(entry)
    if member.rank == 0 or preset.serves is Serves.ALL:
        ready = Ready(entry.readiness_kind) if entry.readiness_kind else preset.leader_ready
        return ready, entry.readiness_port or ports.get("service", 0)
    return preset.worker_ready, ports.get(preset.gate_port, 0) if preset.worker_ready is Ready.LISTENING else 0


@dataclass(frozen=True, slots=True)
class HostCheck:
    """What a member's host is asked of its guest. Times in ms. `line`: of the console, `*` for any text.

    `alone`: nothing in the guest has a say, since it neither runs an engine of Corral's nor asks a canary.
    """

    kind: Ready
    line: str
    interval_ms: int
    timeout_ms: int
    alone: bool


def host_check(member: Instance, entry: ModelService) -> HostCheck | None:
    """What the member's host is asked; None where the guest itself tells."""
    kind, _ = readiness(member, entry)
    if kind not in BY_HOST:
        return None
    preset = preset_of(entry.framework)
    own = entry.initial_command if member.rank == 0 else entry.worker_command or entry.initial_command
    starts = own or (preset.leader_command if member.rank == 0 else preset.worker_command)
    return HostCheck(
        kind,
        entry.readiness_line,
        entry.readiness_interval_ms or READINESS_INTERVAL_MS,
        min(entry.readiness_timeout_ms or READINESS_TIMEOUT_MS, MOST_HOST_CHECK_MS),
        alone=not starts and not entry.canary_path,
    )


def hostfile(group: Group) -> str:
    """The members for `mpirun --hostfile`: on each line an address and its number of processes."""
    return "".join(f"{m.address} slots={processes(m.spec)}\n" for m in group.instances if m.address)


def processes(node: NodeSpec) -> int:
    """How many processes compute on a member: one for each accelerator; without accelerators, one for each vCPU."""
    return devices(node) or node.cpu_num


def devices(node: NodeSpec) -> int:
    """How many accelerators a member has."""
    return sum(gpu.count for gpu in node.gpus)


def _values(
    group: Group, member: Instance, entries: Mapping[str, ModelService], asked: Set[str]
) -> Mapping[str, object]:
    """What a preset's commands may name: name -> value; 0 and "" for what is not known. What every member has to be
    looked at for stands there where it is asked for."""
    leader, entry = group.instances[0], entries[member.uuid]
    ports = _ports(entry)
    ranges = ranges_of(entry.framework, ports)
    every = sum(devices(m.spec) for m in group.instances) if asked & {"pipeline", "all_devices"} else 0
    tensor = leader.spec.tensor_parallel_size or devices(leader.spec)
    return {
        **ports,
        **{f"{role}_second": first + 1 for role, (first, _) in ranges.items()},
        **{f"{role}_last": last for role, (_, last) in ranges.items()},
        "size": len(group.instances),
        "rank": str(member.rank),
        "own": member.address,
        "any": ANY_ADDRESS[6 if ":" in member.address else 4],
        "leader": _bracketed(leader.address),
        "rendezvous": _ports(entries[leader.uuid]).get("rendezvous", 0),
        "workers": _workers(group, entries) if "workers" in asked else "",
        "tensor": tensor,
        "pipeline": every // tensor if tensor and every > tensor and every % tensor == 0 else 0,
        "all_devices": leader.spec.tensor_parallel_size or every,
        "processes": devices(member.spec) or 1,
        "all_processes": sum(processes(m.spec) for m in group.instances) if "all_processes" in asked else 0,
    }


def _workers(group: Group, entries: Mapping[str, ModelService]) -> str:
    """Where the workers listen; empty unless the addresses of all are known."""
    workers = [
        f"{_bracketed(m.address)}:{_ports(entries[m.uuid]).get('rpc', 0)}" for m in group.instances[1:] if m.address
    ]
    return ",".join(workers) if len(workers) == len(group.instances) - 1 else ""


def _ports(entry: ModelService) -> Mapping[str, int]:
    return ports_of(entry.framework, entry.ports)


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _joined(fragments: Sequence[str], values: Mapping[str, object]) -> str:
    known = (f for f in fragments if all(values.get(name) for name in _PLACE.findall(f)))
    return " ".join(_PLACE.sub(lambda found: str(values[found[1]]), f) for f in known)
