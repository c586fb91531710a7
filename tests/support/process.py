"""The service as its own process, as an operator starts it, and a gRPC client of it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import grpc
from corral.v1 import deploy_pb2, deploy_pb2_grpc, fleet_pb2_grpc, group_pb2

from tests.support import ROOT
from tests.support.builders import ENTRY, ZONE
from tests.support.ports import own_port

# The project as a checkout has it, importable from any directory.
ENVIRONMENT: Mapping[str, str] = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}"}
START_SECONDS = 120.0
STOP_SECONDS = 120.0
# One simulated host, slow enough to be caught at work, and one account.
CONFIGURATION = f"""
[[zones]]
uuid = "{ZONE}"
name = "zone-1"
[[hosts]]
name = "one"
zone = "zone-1"
driver = "simulated"
options = {{ cpu = "8", memory = "32GiB", boot_ms = "700" }}
[[images]]
name = "guest"
kernel = "/boot/none"
[[model_services]]
uuid = "{ENTRY}"
name = "default"
image = "guest"
[[accounts]]
name = "alice"
password_sha512 = "{hashlib.sha512(b"secret").hexdigest()}"
role = "admin"
"""


class NotRunning(Exception):
    """The process was ended, and is not started again yet."""


class ServiceProcess:
    """One `python -m service serve` on a configuration file that asks for JSON logs: start it, end it, start it again.

    As a context manager it is started, and ended in order. The file's directory is its working directory. `python`: the
    interpreter of another installation than this checkout. `start_seconds`: how long a start may take. `module`: what
    is run in place of `service`, with the same arguments. `inside`: a command that runs what follows it elsewhere, in a
    network of a lab.
    """

    def __init__(
        self,
        configuration: Path,
        *,
        python: Path | None = None,
        start_seconds: float = START_SECONDS,
        module: str = "service",
        inside: Sequence[str] = (),
    ) -> None:
        self.configuration = configuration
        self._python = python
        self._module = module
        self._inside = tuple(inside)
        self._start_seconds = start_seconds
        self.directory = configuration.parent
        self.log = self.directory / "corral.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._serving: Mapping[str, str] = {}

    def start(self) -> None:
        """Returns once the service says that it serves. Raises AssertionError with its log where it does not."""
        with self.log.open("ab") as log:
            offset = log.tell()
            # Ends with whoever started it. Not by an option of Popen, which would make it fork with gRPC's handlers.
            serve = [
                str(self._python or sys.executable),
                "-m",
                self._module,
                "serve",
                "--config",
                str(self.configuration),
            ]
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig=KILL", "--", *self._inside, *serve],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **(ENVIRONMENT if self._python is None else {})},
                cwd=self.directory,
            )
        deadline = time.monotonic() + self._start_seconds
        while time.monotonic() < deadline:
            ended = self._process.poll() is not None
            for line in self.log.read_bytes()[offset:].splitlines(keepends=True):
                if b'"event": "serving"' in line and line.endswith(b"\n"):
                    self._serving = json.loads(line)
                    return
            if ended:
                break
            time.sleep(0.05)
        self._end(signal.SIGKILL)
        raise AssertionError(f"the service did not start:\n{self.log.read_text()}")

    @property
    def pid(self) -> int:
        """The running process's."""
        assert self._process is not None
        return self._process.pid

    @property
    def grpc(self) -> str:
        """`address:port` of the running process's gRPC listener."""
        return self._serving["grpc"]

    @property
    def http(self) -> str:
        """The base address of the running process's HTTP listener, as if it were without TLS."""
        return f"http://{self._serving['http']}"

    def kill(self) -> None:
        """kill -9, and wait for its end. Does nothing where it has ended."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, and its end, which must be orderly. Does nothing where it has ended."""
        code = self._end(signal.SIGTERM)
        assert code in (None, 0), f"ended with {code}:\n{self.log.read_text()}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _end(self, number: signal.Signals) -> int | None:
        process, self._process = self._process, None
        if process is None:
            return None
        process.send_signal(number)
        try:
            return process.wait(STOP_SECONDS)
        finally:
            process.kill()
            process.wait()


class Tells(Protocol):
    """An answer of a stream that follows a group."""

    @property
    def event(self) -> group_pb2.InstanceGroupEvent: ...


class CorralProcess(ServiceProcess):
    """A service in a directory of its own, on SQLite, and a gRPC client of it.

    `configuration`: the tables of the file below its own head. `server`: more lines of the head's table [server].
    `inside`: see ServiceProcess; its gRPC listener is a socket of the directory then.
    """

    def __init__(
        self,
        directory: Path,
        configuration: str,
        *,
        server: str = "",
        python: Path | None = None,
        inside: Sequence[str] = (),
    ) -> None:
        super().__init__(directory / "corral.toml", python=python, inside=inside)
        self.database = directory / "corral.db"
        self.port = own_port()  # a process that is started again serves where clients look for it
        if "[identity]" not in configuration:  # at the end: what is given may begin with keys of the head's last table
            configuration = f'{configuration}\n[identity]\nanonymous = "loopback"\n'
        listener = f"unix:{directory}/grpc.sock" if inside else "127.0.0.1:{port}"
        self._text = (
            f'[server]\nhttp = "127.0.0.1:0"\ngrpc = "{listener}"\n{server}\n'
            f'[store]\nurl = "sqlite:///corral.db"\n[log]\nformat = "json"\n{configuration}'
        )
        self._channel: grpc.Channel | None = None

    def use_store(self, url: str) -> None:
        """Another database from the next start on. `url`: as SQLAlchemy has it."""
        head, _, rest = self._text.partition('[store]\nurl = "')
        self._text = f'{head}[store]\nurl = "{url}"{rest.partition(chr(34))[2]}'

    def configure(self) -> None:
        """Write the configuration file, as the next start does."""
        self.configuration.write_text(self._text.replace("{port}", str(self.port), 1))

    def start(self) -> None:
        """See ServiceProcess.start."""
        self.configure()
        super().start()
        reached = f"unix:{self.directory}/grpc.sock" if self._inside else f"127.0.0.1:{self.port}"
        self._channel = grpc.insecure_channel(reached)

    @property
    def channel(self) -> grpc.Channel:
        """A connection to the running process, which its end closes. Raises NotRunning."""
        if self._channel is None:
            raise NotRunning
        return self._channel

    @property
    def groups(self) -> deploy_pb2_grpc.DistributedModelServiceStub:
        """A stub of the running process."""
        return deploy_pb2_grpc.DistributedModelServiceStub(self.channel)

    @property
    def fleet(self) -> fleet_pb2_grpc.FleetServiceStub:
        """A stub of the running process."""
        return fleet_pb2_grpc.FleetServiceStub(self.channel)

    def _end(self, number: signal.Signals) -> int | None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        return super()._end(number)

    def follow(self, events: Iterable[Tells]) -> group_pb2.InstanceGroup:
        """Read a stream to its end; the final inventory."""
        last = None
        for message in events:
            last = message.event
        assert last is not None
        assert last.WhichOneof("change") == "final", last
        return last.final

    def deploy(
        self,
        name: str,
        nodes: Sequence[group_pb2.NodeSpec],
        strategy: str = "parallel",
        *,
        wait_seconds: float = 240,
        **more: Any,
    ) -> Iterator[deploy_pb2.DeployDistributedModelServiceResponse]:
        """The deploy's stream, for so long at most. `more`: further fields of the request."""
        request = deploy_pb2.DeployDistributedModelServiceRequest(
            name=name, model_services=nodes, service_creation_strategy=strategy, **more
        )
        return self.groups.DeployDistributedModelService(request, timeout=wait_seconds)

    def delete(self, uuid: str) -> group_pb2.InstanceGroup:
        """Delete and follow to the end."""
        request = deploy_pb2.DeleteInstanceGroupRequest(uuid=uuid)
        return self.follow(self.groups.DeleteInstanceGroup(request, timeout=120))
