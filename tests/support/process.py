"""The service as its own process, as an operator starts it, and a gRPC client of it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
from corral.v1 import deploy_pb2, deploy_pb2_grpc, group_pb2

ROOT = Path(__file__).resolve().parents[2]
_SERVING = re.compile(r'"grpc": "127\.0\.0\.1:(\d+)"')


class CorralProcess:
    """One `python -m service serve`; start, kill and start again on the same database."""

    def __init__(self, directory: Path, configuration: str, port: int = 0) -> None:
        self.directory = directory
        self.port = port
        self.configuration = directory / "corral.toml"
        self.configuration.write_text(
            f'[server]\ngrpc = "127.0.0.1:{port}"\nhttp = "127.0.0.1:0"\n[store]\nurl = "sqlite:///corral.db"\n'
            f'[log]\nformat = "json"\n{configuration}'
        )
        self.database = directory / "corral.db"
        self.log = directory / "corral.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: grpc.Channel | None = None

    def start(self) -> None:
        """Returns once the service says that it serves."""
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}"}
        with self.log.open("ab") as log:
            offset = log.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "service", "serve", "--config", str(self.configuration)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=self.directory,
            )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            found = _SERVING.search(self.log.read_text()[offset:])
            if found:
                self._channel = grpc.insecure_channel(f"127.0.0.1:{found[1]}")
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError(f"the service did not start:\n{self.log.read_text()[offset:]}")

    @property
    def http(self) -> str:
        """The base address of the running process's HTTP listener."""
        return "http://" + re.findall(r'"http": "(127\.0\.0\.1:\d+)"', self.log.read_text())[-1]

    @property
    def groups(self) -> deploy_pb2_grpc.DistributedModelServiceStub:
        """The stub of the running process."""
        assert self._channel is not None
        return deploy_pb2_grpc.DistributedModelServiceStub(self._channel)

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, and its orderly end."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None

    def follow(self, events: Iterator[object]) -> group_pb2.InstanceGroup:
        """Read a stream to its end; the final inventory."""
        last = None
        for message in events:
            last = message.event  # type: ignore[attr-defined]
        assert last is not None
        assert last.WhichOneof("change") == "final", last
        return last.final

    def deploy(self, name: str, nodes: list[group_pb2.NodeSpec], strategy: str = "parallel", **more: object) -> object:
        """The deploy's stream."""
        request = deploy_pb2.DeployDistributedModelServiceRequest(
            name=name,
            model_services=nodes,
            service_creation_strategy=strategy,
            **more,  # type: ignore[arg-type]
        )
        return self.groups.DeployDistributedModelService(request, timeout=240)

    def delete(self, uuid: str) -> group_pb2.InstanceGroup:
        """Delete and follow to the end."""
        request = deploy_pb2.DeleteInstanceGroupRequest(uuid=uuid)
        return self.follow(self.groups.DeleteInstanceGroup(request, timeout=120))
