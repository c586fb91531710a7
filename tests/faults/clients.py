"""Callers that deploy, follow, lose their replica, ask another one, and delete: what the service is killed under."""

from __future__ import annotations

import random
import threading
import time
import uuid
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import grpc
from corral.v1 import deploy_pb2, group_pb2

from tests.concurrency.replicas import Replica, deploy

MEMORY = 96 << 20  # bytes of each member
_TRY_AGAIN = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.OUT_OF_RANGE,
}
_ENDS = {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.ABORTED, grpc.StatusCode.NOT_FOUND}
_ACTIONS = (
    group_pb2.FAILURE_ACTION_FAIL_GROUP,
    group_pb2.FAILURE_ACTION_RESTART_MEMBER,
    group_pb2.FAILURE_ACTION_REPLACE_MEMBER,
)


@dataclass
class Clients:
    """Some callers, each in a thread. `acknowledged`: groups whose deploy was answered, never to be forgotten."""

    replicas: list[Replica]
    count: int
    seed: int
    acknowledged: set[str] = field(default_factory=set)
    outcomes: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Clients:
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(self.count)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        rng = random.Random(self.seed * 100 + number)
        stubs = [replica.stub() for replica in self.replicas]
        kept: list[str] = []
        while not self._ended.is_set():
            group = uuid.UUID(int=rng.getrandbits(128)).hex
            policy = group_pb2.FailurePolicy(action=rng.choice(_ACTIONS), budget=rng.randint(1, 5))
            request = deploy(group, rng.randint(1, 2), memory=MEMORY, failure_policy=policy)
            early = rng.random() < 0.4
            outcome = self._deploy(stubs, request, rng, leave_early=early)
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
            time.sleep(rng.random() * 2)
            if group in self.acknowledged:
                kept.append(group)
            while len(kept) > (1 if outcome.startswith("Running") else 0):  # otherwise the fleet would fill up
                self.delete(stubs, kept.pop(0), rng)

    def _deploy(self, stubs: list[Any], request: Any, rng: random.Random, *, leave_early: bool) -> str:
        """Follow to the end, whatever dies meanwhile; returns how it ended."""
        last = 0
        while not self._ended.is_set():
            call = rng.choice(stubs).DeployDistributedModelService(request, timeout=20)
            try:
                for response in call:
                    self.acknowledged.add(request.resource_uuid)
                    event = response.event
                    if event.WhichOneof("change") == "bookmark":
                        continue
                    last = self._in_order(request.resource_uuid, event.sequence, last)
                    if event.WhichOneof("change") == "final":
                        return f"{event.final.status} {event.final.reason}".strip()
                    if leave_early and event.sequence > rng.randint(1, 6):
                        call.cancel()
                        return "left"
            except grpc.RpcError as error:
                if error.code() in _ENDS:
                    return str(error.code().name)
                if error.code() not in _TRY_AGAIN:
                    self.violations.append(f"a deploy ended with {error.code().name}: {error.details()}")
                    return "violation"
                last = 0  # the next answer begins at the beginning
                time.sleep(0.3)
        return "ended"

    def _in_order(self, group: str, sequence: int, last: int) -> int:
        if last and sequence != last + 1:
            self.violations.append(f"I6 the stream of {group} went from {last} to {sequence}")
        return sequence

    def delete(self, stubs: list[Any], group: str, rng: random.Random) -> None:
        """Ask until the wish is stored, or until the test ends."""
        while not self._ended.is_set():
            try:
                call = rng.choice(stubs).DeleteInstanceGroup(
                    deploy_pb2.DeleteInstanceGroupRequest(uuid=group), timeout=10
                )
                next(iter(call))
                call.cancel()
                return
            except (grpc.RpcError, StopIteration) as error:
                if isinstance(error, StopIteration) or error.code() in _ENDS:
                    return
                if error.code() not in _TRY_AGAIN:
                    self.violations.append(f"a delete ended with {error.code().name}: {error.details()}")
                    return
                time.sleep(0.3)
