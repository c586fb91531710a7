"""An observer outside: asks the model every 200 ms and notes what the service says of the group at the same time."""

from __future__ import annotations

import http.client
import random
import threading
import time
from dataclasses import dataclass, field
from itertools import pairwise

import grpc

from tests.serving.oracle import LETTERS
from tests.serving.site import Site
from tests.support.process import NotRunning

EVERY_SECONDS = 0.2
PATIENCE_SECONDS = 2.0
LETTERS_ASKED = 3
SHOWS_SECONDS = 40.0
"""A fault of which nobody has noticed anything for so long has done no harm."""


@dataclass
class Observer:
    """Two threads on one group, so that a question that hangs hides no status. Times are monotonic seconds."""

    site: Site
    uuid: str
    address: str
    right: list[float] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    wrong: list[tuple[float, str]] = field(default_factory=list)
    statuses: list[tuple[float, str, str]] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Observer:
        self._threads = [threading.Thread(target=work) for work in (self._ask, self._look)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        while not self._over.wait(EVERY_SECONDS):
            prompt = random.choice(LETTERS)
            expected = self.site.model.ring.completion(prompt, LETTERS_ASKED)
            began = time.monotonic()
            try:
                answer = self.site.ask_at(self.address, prompt, LETTERS_ASKED, PATIENCE_SECONDS)
            except (OSError, http.client.HTTPException, ValueError, KeyError):
                continue
            if answer == expected:
                self.right.append(time.monotonic())
                self.took.append(self.right[-1] - began)
            else:
                self.wrong.append((time.monotonic(), f"{prompt}: {answer} and not {expected}"))

    def _look(self) -> None:
        while not self._over.wait(EVERY_SECONDS):
            try:
                group = self.site.get(self.uuid)
            except (grpc.RpcError, NotRunning, ValueError):  # the last: its connection was closed by its end
                continue
            if not self.statuses or self.statuses[-1][1:] != (group.status, group.reason):
                self.statuses.append((time.monotonic(), group.status, group.reason))

    def status(self) -> str:
        """What the service said last."""
        return self.statuses[-1][1] if self.statuses else ""

    def silence(self) -> float:
        """For how long no answer was right."""
        return time.monotonic() - self.right[-1] if self.right else float("inf")

    def settled(self, whole_seconds: float, wait_seconds: float) -> bool:
        """Waits until the group is Running and answers rightly; False where it does not come to that."""
        return self.healed(time.monotonic(), whole_seconds, wait_seconds) < float("inf")

    def noticed(self, since: float, wait_seconds: float) -> float:
        """When the service said, after `since`, that it is not whole; infinity where the group was right all the time
        for as long as a fault may take to show."""
        end = time.monotonic() + wait_seconds
        while time.monotonic() < end:
            found = next((at for at, status, _ in self.statuses if at > since and status != "Running"), None)
            if found is not None:
                return found
            if time.monotonic() > since + SHOWS_SECONDS and self.silence() < PATIENCE_SECONDS:
                return float("inf")
            time.sleep(EVERY_SECONDS)
        return float("inf")

    def healed(self, since: float, whole_seconds: float, wait_seconds: float) -> float:
        """When the group was whole again: Running, with right answers for `whole_seconds` on; infinity for never."""
        end = time.monotonic() + wait_seconds
        began: float | None = None
        while time.monotonic() < end and self.status() != "Failed":
            now = time.monotonic()
            if self.status() == "Running" and self.silence() < PATIENCE_SECONDS:
                began = max(since, now) if began is None else began
                if now - began >= whole_seconds:
                    return began
            else:
                began = None
            time.sleep(EVERY_SECONDS)
        return float("inf")

    def first_right_after(self, since: float) -> float:
        """When the model answered rightly for the first time after its longest silence since then."""
        times = [since, *(at for at in self.right if at > since)]
        gaps = [(b - a, b) for a, b in pairwise(times)]
        return max(gaps)[1] if gaps else float("inf")

    def untrue(self, allowed_seconds: float) -> float:
        """For how many seconds beyond what is allowed the status was Running while no answer was right."""
        total, end = 0.0, time.monotonic()
        spans = [
            (began, after[0])
            for (began, status, _), after in zip(self.statuses, [*self.statuses[1:], (end, "", "")], strict=True)
            if status == "Running"
        ]
        times = [*self.right, end]
        for last, following in pairwise(times):
            total += sum(max(0.0, min(following, b) - max(last + allowed_seconds, a)) for a, b in spans)
        return total
