"""What an operator sees of the service: hosts, quarantine, groups, events by gRPC; metrics and health by HTTP."""

from __future__ import annotations

import http.client
import re
import socket
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc
from corral.v1 import deploy_pb2, fleet_pb2, fleet_pb2_grpc

from tests.concurrency.replicas import Replica

_SAMPLE = re.compile(r"(\w+(?:\{[^}]*\})?) ([0-9.e+-]+)")


class _Local(http.client.HTTPConnection):
    """HTTP by a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=10)
        self._path = path

    def connect(self) -> None:
        """See http.client.HTTPConnection."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(self._path)


class Operator:
    """Calls one replica. Where it does not answer there is nothing to see, which is no error."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.groups = replica.stub()
        make: Any = fleet_pb2_grpc.FleetServiceStub
        self.fleet = make(replica.channels[-1])

    def hosts(self) -> dict[str, fleet_pb2.Host]:
        """By name."""
        try:
            listed = self.fleet.ListHosts(fleet_pb2.ListHostsRequest(), timeout=10).inventories
        except grpc.RpcError:
            return {}
        return {host.name: host for host in listed}

    def quarantine(self) -> list[fleet_pb2.Quarantined]:
        """All that is held."""
        try:
            return list(self.fleet.ListQuarantine(fleet_pb2.ListQuarantineRequest(), timeout=10).inventories)
        except grpc.RpcError:
            return []

    def get(self, path: str) -> tuple[int, str]:
        """(status, body) of a page; (0, "") where nobody answers."""
        connection = _Local(f"{self.replica.directory}/http")
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except (OSError, http.client.HTTPException):
            return 0, ""
        finally:
            connection.close()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the metric's samples with these labels."""
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        total = 0.0
        for line in self.get("/metrics")[1].splitlines():
            sample = _SAMPLE.fullmatch(line)
            if sample and sample[1].partition("{")[0] == name and all(w in sample[1] for w in wanted):
                total += float(sample[2])
        return total

    def group(self, uuid: str) -> Any:
        """The group's inventory, or None."""
        try:
            return self.groups.GetInstanceGroup(deploy_pb2.GetInstanceGroupRequest(uuid=uuid), timeout=10).inventory
        except grpc.RpcError:
            return None


@dataclass(frozen=True)
class Told:
    """An event of a group. `at`: when it was heard (s of the monotonic clock). `text`: its words for a person."""

    at: float
    group: str
    status: str
    text: str


class Follower:
    """Reads the events of all groups, across ends of the service; what there was before the block began is left out."""

    def __init__(self, operator: Operator) -> None:
        self.told: list[Told] = []
        self.operator = operator
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follower")
        self._caught_up = threading.Event()
        self._call: Any = None

    def __enter__(self) -> Self:
        self._thread.start()
        self._caught_up.wait(30)
        self.told.clear()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        call = self._call
        if call is not None:
            call.cancel()
        self._thread.join()

    def heard(self, group: str, *words: str) -> bool:
        """Whether an event of the group had all these words in one text."""
        return any(t.group == group and all(w in t.text for w in words) for t in self.told)

    def _run(self) -> None:
        last = 0
        while not self._ended.is_set():
            request = deploy_pb2.WatchInstanceGroupsRequest(start_revision=last)
            try:
                self._call = self.operator.groups.WatchInstanceGroups(request, timeout=600)
                for answer in self._call:
                    last = max(last, answer.event.revision)
                    self._note(answer.event)
                    if self._ended.is_set():
                        return
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.OUT_OF_RANGE:
                    last = 0  # an older database, or another one
                self._ended.wait(0.3)

    def _note(self, event: Any) -> None:
        change = event.WhichOneof("change")
        if change == "bookmark" and event.bookmark.initial_state_complete:
            self._caught_up.set()
        if change in ("instance", "group", "accepted", "final"):
            told = getattr(event, change)
            self.told.append(Told(time.monotonic(), event.group_uuid, told.status, told.reason))
