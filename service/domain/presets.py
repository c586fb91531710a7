"""Presets: what is known of an engine that serves a model on several machines, as one table, and what follows from it
for the ports of a catalogue entry. Pure.

A preset fills what an entry leaves open. Its commands are fragments, joined by spaces: a fragment that names a value
which is not known (`{tensor}` where nobody says how many accelerators there are) is left out as a whole. `serving`
renders them; `{…}` names a value there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise

from service.errors import FieldViolation

CUSTOM = "custom"
MOST_MEMBERS = 1024
SUPERVISOR_PORT = 7431
"""The TCP port at which a member's supervisor tells its peers whether its engine listens; no engine may have it."""
RANGES = "ranges"
"""A key beside the names of ports in the rendezvous document, so that no port can have this name."""


class Gate(StrEnum):
    """Whose engines must listen before a member's own engine is started."""

    NONE = "none"
    LEADER = "leader"  # workers wait for rank 0
    WORKERS = "workers"  # rank 0 waits for all workers


class Scope(StrEnum):
    """What has to be started again after a fault of one member, so that the engine serves correctly again."""

    MEMBER = "member"
    HEAD = "head"  # the member, and rank 0
    GROUP = "group"


class Serves(StrEnum):
    """Which members answer the service's callers."""

    LEADER = "leader"
    ALL = "all"


class Ready(StrEnum):
    """By what a member is known to be ready: what its guest looks at itself, or what its host is asked."""

    HTTP = "http"  # a GET of the readiness path is answered with a status of 200 to 299
    LISTENING = "listening"  # somebody listens on the port; nobody connects to it, since that alone may break an engine
    PROCESS = "process"  # the engine's process goes on running
    COMMAND = "command"  # a command of the entry's ends with status 0
    AGENT = "agent"  # asked of the host: the guest agent answers a ping
    SERIAL = "serial"  # asked of the host: the console has said a line since the machine was started


BY_HOST = frozenset({Ready.AGENT, Ready.SERIAL})
"""What no program of Corral's in the guest looks at."""
MOST_HOST_CHECK_MS = 5_000
"""What one look by the host may take: calls of other machines wait behind it."""


@dataclass(frozen=True, slots=True)
class Preset:
    """One engine. `ports`: first TCP port by role; `spans`: how many ports from there on, 1 where it says nothing.

    `gate_port`: the role of the port by which the gate tells that an engine listens. `most_members`: of a group.
    `needs_addresses`: its commands name the addresses of other members, so these must be planned.
    """

    leader_command: Sequence[str] = ()
    worker_command: Sequence[str] = ()
    ports: Mapping[str, int] = field(default_factory=lambda: {"service": 8080})
    spans: Mapping[str, int] = field(default_factory=dict)
    gate: Gate = Gate.NONE
    gate_port: str = "service"
    leader_ready: Ready = Ready.HTTP
    worker_ready: Ready = Ready.PROCESS
    scope: Scope = Scope.GROUP
    serves: Serves = Serves.LEADER
    most_members: int = MOST_MEMBERS
    needs_addresses: bool = True


_TORCH = "--nnodes {size} --node-rank {rank} --master-addr {leader} --master-port {rendezvous}"
_RAY_PORTS = "--min-worker-port {rpc_second} --max-worker-port {rpc_last}"
# Ray's head answers before its workers have come; vLLM counts accelerators once, when it begins.
_RAY_WHOLE = (
    "python3 -c \"import ray, time; ray.init(address='auto', log_to_driver=False);"
    " [time.sleep(1) for _ in iter(lambda: sum(n['Alive'] for n in ray.nodes()) >= {size}, True)]\" &&"
)
_SGLANG = (
    "exec python3 -m sglang.launch_server --dist-init-addr {leader}:{rendezvous} --nnodes {size} --node-rank {rank}",
    "--tp {all_devices}",
)
_TORCHRUN = ("exec torchrun", _TORCH, "--nproc-per-node {processes}")

PRESETS: Mapping[str, Preset] = {
    CUSTOM: Preset(worker_ready=Ready.HTTP, scope=Scope.MEMBER, serves=Serves.ALL, needs_addresses=False),
    "llamacpp-rpc": Preset(
        # The prompt cache in main memory (-cram) is not for models on remote devices.
        leader_command=("exec llama-server --host {any} --port {service}", "--rpc {workers}", "-ngl 99 -cram 0"),
        worker_command=("exec ggml-rpc-server -H {own} -p {rpc}",),
        ports={"service": 8080, "rpc": 50052},
        gate=Gate.WORKERS,
        gate_port="rpc",
        worker_ready=Ready.LISTENING,
        most_members=17,  # GGML_RPC_MAX_SERVERS is 16
    ),
    "mpi": Preset(
        leader_command=(
            'exec mpirun --allow-run-as-root --hostfile "$CORRAL_HOSTFILE" -np {all_processes}',
            '--mca plm_rsh_args "-p {rpc} -o StrictHostKeyChecking=accept-new"',
        ),
        worker_command=("exec /usr/sbin/sshd -D -e -p {rpc}",),
        ports={"service": 8080, "rpc": 2222},
        gate=Gate.WORKERS,
        gate_port="rpc",
        leader_ready=Ready.LISTENING,
        worker_ready=Ready.LISTENING,
    ),
    "sglang": Preset(
        leader_command=(*_SGLANG, "--host {any} --port {service}"),
        worker_command=_SGLANG,
        ports={"service": 30000, "rendezvous": 20000},
        spans={"rendezvous": 7},  # attention split by data takes so many
    ),
    "torchrun": Preset(
        leader_command=_TORCHRUN,
        worker_command=_TORCHRUN,
        ports={"service": 8080, "rendezvous": 29500},
        leader_ready=Ready.LISTENING,
    ),
    "vllm": Preset(
        leader_command=(
            "exec vllm serve --host {any} --port {service}",
            _TORCH,
            "--tensor-parallel-size {tensor}",
            "--pipeline-parallel-size {pipeline}",
        ),
        worker_command=(
            "exec vllm serve --headless",
            _TORCH,
            "--tensor-parallel-size {tensor}",
            "--pipeline-parallel-size {pipeline}",
        ),
        ports={"service": 8000, "rendezvous": 29501},
    ),
    "vllm-ray": Preset(
        leader_command=(
            "ray start --head --node-ip-address {own} --port {rendezvous} --ray-client-server-port {rpc}",
            _RAY_PORTS,
            "&&",
            _RAY_WHOLE,
            "exec vllm serve --host {any} --port {service} --distributed-executor-backend ray",
            "--tensor-parallel-size {tensor}",
            "--pipeline-parallel-size {pipeline}",
        ),
        worker_command=(
            "exec ray start --block --address {leader}:{rendezvous} --node-ip-address {own}",
            _RAY_PORTS,
        ),
        ports={"service": 8000, "rendezvous": 6379, "rpc": 10001},
        spans={"rpc": 9999},  # Ray's own range for its workers' processes
        gate=Gate.LEADER,
        gate_port="rendezvous",
    ),
}


def preset_of(framework: str) -> Preset:
    """The preset of that name; of a name that an older configuration has, the custom one."""
    return PRESETS.get(framework, PRESETS[CUSTOM])


def ports_of(framework: str, given: Mapping[str, int]) -> Mapping[str, int]:
    """First port by role: the entry's own, and the preset's for roles that it leaves out, in the order of the roles.

    A custom entry has exactly the ports that it names, or the service's alone where it names none.
    """
    known = preset_of(framework).ports
    if preset_of(framework) is PRESETS[CUSTOM] and given:
        known = {}
    return dict(sorted({**known, **given}.items()))


def ranges_of(framework: str, ports: Mapping[str, int]) -> Mapping[str, tuple[int, int]]:
    """First and last port of each role that has more than one."""
    spans = preset_of(framework).spans
    return {role: (first, first + spans[role] - 1) for role, first in ports.items() if spans.get(role, 1) > 1}


def port_problems(framework: str, ports: Mapping[str, int]) -> Iterator[FieldViolation]:
    """What is wrong with an entry's ports, `ports_of` applied: two roles that share a port, a range past the last."""
    spans = preset_of(framework).spans
    taken = sorted((first, first + spans.get(role, 1) - 1, role) for role, first in ports.items())
    for first, last, role in taken:
        if role == RANGES:
            yield FieldViolation(f"ports[{role}]", "is a name that the rendezvous document has for something else")
        if first <= SUPERVISOR_PORT <= last:
            yield FieldViolation(f"ports[{role}]", f"{SUPERVISOR_PORT} is the port of the members' supervisors")
        if last > 65_535:
            yield FieldViolation(f"ports[{role}]", f"needs ports up to {last}; the last port is 65535")
    for (_, last, role), (first, _, other) in pairwise(taken):
        if first <= last:
            yield FieldViolation(f"ports[{other}]", f"{first} is also a port of {role}")
