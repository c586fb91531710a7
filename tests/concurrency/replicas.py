"""Replicas as real processes on one PostgreSQL and one fleet, and what tests do to them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from corral.v1 import deploy_pb2, deploy_pb2_grpc, group_pb2

from tests.support import ROOT

ZONE = "7a007a391d483c9f843bf1df4b7e5d8f"
ENTRY = "f1e135835fee363c9f57ed8232023886"
GIB = 1 << 30

_SERVER = """
[server]
grpc = "unix:{directory}/grpc"
http = "unix:{directory}/http"
drain_grace_ms = 5000
[identity]
anonymous = "loopback"
[store]
url = "{store}"
[log]
format = "json"
level = "{level}"
[overcommit]
cpu = 1
memory = 1
reserved_memory = "0"
"""

_SIMULATED_FLEET = """
[[zones]]
uuid = "{zone}"
name = "zone-1"
[[images]]
name = "guest"
kernel = "kernel"
[[model_services]]
uuid = "{entry}"
name = "default"
image = "guest"
stop_grace_ms = 0
"""

_SIMULATED_HOST = """
[[hosts]]
name = "sim-{number}"
zone = "zone-1"
driver = "simulated"
transport = "test"
[hosts.options]
cpu = "{vcpu}"
memory = "{memory}GiB"
boot_ms = "20"
call_ms = "0"
state_file = "{directory}/hosts/sim-{number}.json"
"""


def simulated_fleet(directory: Path, hosts: int, *, vcpu: int, memory: int = 64) -> str:
    """Configuration of hosts whose machines all replicas see. `memory` in GiB."""
    made = [
        _SIMULATED_HOST.format(number=number, vcpu=vcpu, memory=memory, directory=directory)
        for number in range(1, hosts + 1)
    ]
    return _SIMULATED_FLEET.format(zone=ZONE, entry=ENTRY) + "".join(made)


@dataclass
class Replica:
    """One process of the service. `alone`: in a pid namespace of its own, as if on another machine. `prefix`: the
    command that runs it, such as one that enters a network. `armed`: it can be killed at a named point."""

    directory: Path
    alone: bool = False
    prefix: Sequence[str] = ()
    armed: bool = False
    process: subprocess.Popen[bytes] | None = None
    channels: list[grpc.Channel] = field(default_factory=list)

    @property
    def target(self) -> str:
        """Its gRPC address."""
        return f"unix:{self.directory}/grpc"

    @property
    def pid(self) -> int:
        """The service's pid. Raises RuntimeError where it does not run."""
        if self.process is None or self.process.poll() is not None:
            raise RuntimeError(f"{self.directory.name} does not run")
        if not self.alone:
            return self.process.pid
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0])

    @property
    def configuration(self) -> Path:
        """Its configuration file."""
        return self.directory / "corral.toml"

    def configure(self, store: str, fleet: str, *, level: str = "info") -> None:
        """Write its configuration file. `store`: the database's address; `fleet`: the rest of the file."""
        head = _SERVER.format(directory=self.directory, store=store, level=level)
        self.configuration.write_text(head + fleet)

    def start(self) -> None:
        """Start the process; `wait` says when it serves."""
        for name in ("grpc", "http"):
            (self.directory / name).unlink(missing_ok=True)
        program = ["tests.faults.armed", str(self.trap)] if self.armed else ["service"]
        command = [sys.executable, "-m", *program, "serve", "--config", str(self.configuration)]
        if self.alone:
            command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--", *command]
        # No preexec_fn: with it Popen forks, and gRPC's fork handlers run in the child and at times end it.
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig=KILL", "--", *self.prefix, *command],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": "protos:."},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self, seconds: float = 60) -> None:
        """Until it answers. Raises TimeoutError, or RuntimeError where it has ended."""
        deadline = time.monotonic() + seconds
        with self._connect(100) as channel:  # one for all tries: an open one connects again by itself
            stub: Any = deploy_pb2_grpc.DistributedModelServiceStub(channel)
            while True:
                try:
                    stub.GetInstanceGroup(deploy_pb2.GetInstanceGroupRequest(uuid="0" * 32), timeout=30)
                except grpc.RpcError as error:
                    if error.code() is grpc.StatusCode.NOT_FOUND:
                        return
                if self.process is None or self.process.poll() is not None:
                    raise RuntimeError(f"{self.directory.name} has ended: {self.log()[-2000:]}")
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{self.directory.name} does not answer: {self.log()[-2000:]}")
                time.sleep(0.05)

    def serve(self, seconds: float = 120) -> None:
        """Start it and wait until it answers. What ends at its start is started again, as by systemd's `Restart=`: the
        database may be away just then. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while True:
            self.start()
            try:
                return self.wait(max(0.0, deadline - time.monotonic()))
            except RuntimeError as error:
                if time.monotonic() > deadline:
                    raise TimeoutError(str(error)) from error
                time.sleep(1)

    def stub(self) -> Any:
        """A stub on a new connection; `close` closes it."""
        channel = self._connect(1000)
        self.channels.append(channel)
        make: Any = deploy_pb2_grpc.DistributedModelServiceStub
        return make(channel)

    def _connect(self, longest_backoff_ms: int) -> grpc.Channel:
        """A connection that is tried again for as long as the process is away."""
        return grpc.insecure_channel(
            self.target,
            options=[("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 100),
                     ("grpc.max_reconnect_backoff_ms", longest_backoff_ms)],
        )  # fmt: skip

    def signal(self, number: signal.Signals) -> None:
        """A signal to the service itself."""
        os.kill(self.pid, number)

    def step_clock(self, seconds: float) -> None:
        """Set the wall clock of the armed process, now and at each later start, `seconds` ahead of the real time."""
        (self.directory / "clock").write_text(str(seconds))
        if self.process is not None and self.process.poll() is None:
            self.signal(signal.SIGUSR2)

    @property
    def trap(self) -> Path:
        """The file that names the point at which an armed process kills itself; it is gone when it did."""
        return self.directory / "kill-at"

    def kill_at(self, point: str, seconds: float) -> bool:
        """Let the process kill itself where it passes the point next. False: it did not, and was killed in the end."""
        self.trap.write_text(point)
        self.signal(signal.SIGUSR1)
        assert self.process is not None
        try:
            self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(RuntimeError):  # it passed the point just now
                self.kill()
        passed = not self.trap.exists()
        self.trap.unlink(missing_ok=True)
        return passed

    def kill(self) -> None:
        """kill -9, and wait for its end."""
        self.signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait(timeout=120)

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        self.signal(signal.SIGTERM)
        assert self.process is not None
        return self.process.wait(timeout=60)

    def ended(self) -> int:
        """The exit code of a process that ends by itself."""
        assert self.process is not None
        return self.process.wait(timeout=60)

    def log(self) -> str:
        """Everything that it logged."""
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def close(self) -> None:
        """End it for good."""
        for channel in self.channels:
            channel.close()
        if self.process is not None and self.process.poll() is None:
            self.process.kill()  # of a namespace, too: its members are killed with unshare
            self.process.wait(timeout=120)


@contextmanager
def replicas(
    directory: Path,
    store: str,
    fleet: str,
    count: int,
    *,
    alone: Sequence[int] = (),
    prefix: Sequence[str] = (),
    armed: bool = False,
    level: str = "info",
) -> Iterator[list[Replica]]:
    """`count` serving replicas. `fleet`: the rest of their configuration. `alone`, `prefix`, `armed`: see Replica."""
    made = []
    for number in range(count):
        home = directory / f"replica-{number}"
        home.mkdir(parents=True, exist_ok=True)
        made.append(Replica(home, alone=number in alone, prefix=prefix, armed=armed))
        made[-1].configure(store, fleet, level=level)
    try:
        for replica in made:
            replica.start()
        for replica in made:
            replica.wait()
        yield made
    finally:
        for replica in made:
            replica.close()


def deploy(uuid: str, nodes: int = 1, *, vcpu: int = 1, memory: int = GIB, **fields: Any) -> Any:
    """A deploy request with a uuid of the caller's, so that it may be sent again after a lost answer."""
    specs = [
        {"uuid": ENTRY, "zone_uuid": ZONE, "name": f"node-{n}", "cpu_num": vcpu, "memory_size": memory,
         "type": "VirtualMachine"}
        for n in range(nodes)
    ]  # fmt: skip
    values: dict[str, Any] = {
        "name": "group",
        "model_services": specs,
        "service_creation_strategy": "parallel",
        "resource_uuid": uuid,
        "request_id": f"deploy-{uuid}",
    }
    return deploy_pb2.DeployDistributedModelServiceRequest(**{**values, **fields})


__all__ = ["ENTRY", "GIB", "ZONE", "Replica", "deploy", "group_pb2", "replicas", "simulated_fleet"]
