"""A group changes by a surge while its endpoint is called all the time; the service may be killed on the way."""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from urllib.parse import urlsplit

from corral.v1 import deploy_pb2, group_pb2

from tests.serving.oracle import LETTERS
from tests.serving.site import Site

SIZE = 2
"""Members: both gangs are to have hosts of their own in the lab."""
EVERY_SECONDS = 0.02
REACH_SECONDS = 60.0
"""Whoever would connect while an address is handed on waits as long as kernels do by themselves: they ask again."""
PATIENCE_SECONDS = 10.0
WAIT_SECONDS = 300.0
CALM_SECONDS = 3.0


@dataclass
class Caller:
    """Asks one address, one request after the other, each by a connection of its own. `right`: when each answer came;
    `failed`: when a request was sent that was not answered, and why."""

    place: Site
    address: str
    right: list[float] = field(default_factory=list)
    failed: list[tuple[float, str]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Caller:
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        assert self._thread is not None
        self._thread.join()

    def _ask(self) -> None:
        while not self._over.wait(EVERY_SECONDS):
            prompt, began = random.choice(LETTERS), time.monotonic()
            expected = self.place.model.ring.completion(prompt, 1)
            try:
                answer = self.place.ask_at(self.address, prompt, 1, PATIENCE_SECONDS, REACH_SECONDS)
            except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                self.failed.append((began, f"{type(error).__name__} after {time.monotonic() - began:.1f} s"))
                continue
            self.right.append(time.monotonic())
            if answer != expected:
                self.wrong.append(f"{prompt}: {answer} and not {expected}")

    def gap(self, since: float) -> float:
        """The longest time, in seconds, between two right answers that came after this."""
        times = [at for at in self.right if at >= since]
        return max((after - before for before, after in pairwise(times)), default=float("inf"))


@dataclass
class Update:
    """How one went. Seconds; `failed`: requests without an answer; `why`: the first of them."""

    took: float
    switched: float
    gap: float
    usual: float
    right: int
    failed: int
    why: str
    wrong: list[str]

    def told(self) -> str:
        """For people."""
        return (
            f"{self.took:.1f} s, switched after {self.switched:.1f} s,"
            f" {self.right} requests answered, {self.failed} failed"
            f"{f' ({self.why})' if self.why else ''}, the longest gap {1000 * self.gap:.0f} ms"
            f" (before the update {1000 * self.usual:.0f} ms)"
        )


def killed_in_the_middle(place: Site, uuid: str) -> None:
    """kill -9 of the service once machines of the second gang are let run, and its start."""
    end = time.monotonic() + WAIT_SECONDS
    while not any(m.status == "Booting" for m in place.get(uuid).update.instances):
        if time.monotonic() > end:
            raise TimeoutError("the second gang was not let run")
        time.sleep(0.05)
    place.corral.kill()
    place.start()


def surged(place: Site, group: group_pb2.InstanceGroup, number: int, harm: Callable[[Site, str], None]) -> Update:
    """One update, to its end and until the caller is answered again. `harm`: what happens on the way.

    Raises TimeoutError, RuntimeError.
    """
    address = urlsplit(place.get(group.uuid).endpoint).hostname
    assert address is not None
    with Caller(place, address) as caller:
        _answered(caller, time.monotonic(), 20)
        began = time.monotonic()
        usual = caller.gap(0)
        change = deploy_pb2.MemberChange(environment_variables={"LEVEL": str(number)})
        request = deploy_pb2.RolloutInstanceGroupRequest(uuid=group.uuid, changes=[change])
        # Its stream ends with the service: what becomes of the update is looked at.
        stream = place.corral.groups.RolloutInstanceGroup(request, timeout=WAIT_SECONDS)
        next(iter(stream))
        harm(place, group.uuid)
        switched = 0.0
        while (found := place.get(group.uuid)).update.stage != "done":
            if found.update.stage == "switched" and not switched:
                switched = time.monotonic() - began
            if found.update.stage == "taken_back":
                raise RuntimeError(f"the update was taken back: {found.update.reason}")
            if time.monotonic() > began + WAIT_SECONDS:
                raise TimeoutError(f"the update is {found.update.stage} after {WAIT_SECONDS:.0f} s")
            time.sleep(0.1)
        took = time.monotonic() - began
        _answered(caller, time.monotonic(), 20)
        time.sleep(CALM_SECONDS)
        _answered(caller, time.monotonic(), 20)
    why = ", ".join(f"{at - began:.1f} s after its begin {what}" for at, what in caller.failed[:5])
    return Update(took, switched, caller.gap(began), usual, len(caller.right), len(caller.failed), why, caller.wrong)


def _answered(caller: Caller, since: float, count: int) -> None:
    """Waits until so many requests were answered after this."""
    end = time.monotonic() + WAIT_SECONDS
    while sum(at >= since for at in caller.right) < count:
        if time.monotonic() > end:
            raise TimeoutError(f"nobody answers: {caller.failed[-1:]}")
        time.sleep(0.05)
