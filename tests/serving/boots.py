"""A boot by the service beside the same machines started by hand: when what happened, and at what processor time."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from corral.v1 import group_pb2

from tests.serving import by_hand
from tests.serving.site import Site

TICKS = os.sysconf("SC_CLK_TCK")
MEMBERS = 3


@dataclass
class Boot:
    """Seconds from the call to what `at` names, to the first right answer, and of processors until then."""

    at: dict[str, float] = field(default_factory=dict)
    right: float = 0.0
    processor: float = 0.0

    def told(self) -> str:
        """For people, in the order of the time."""
        return ", ".join(f"{name} {seconds:.1f}" for name, seconds in sorted(self.at.items(), key=lambda one: one[1]))


def processor_seconds() -> float:
    """What all processes below this one have used, and those that they have waited for."""
    parents: dict[int, int] = {}
    used: dict[int, float] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended in the meantime
            parents[int(entry.name)] = int(words[1])
            used[int(entry.name)] = sum(map(int, words[11:15])) / TICKS
    mine = os.getpid()

    def below(pid: int) -> bool:
        while pid in parents:
            pid = parents[pid]
            if pid == mine:
                return True
        return False

    return sum(seconds for pid, seconds in used.items() if below(pid))


@dataclass
class _Asked:
    """Asks an address from the moment it is known, as a caller would who cannot wait for the status."""

    place: Site
    began: float
    used: float
    boot: Boot
    thread: threading.Thread | None = None

    def at(self, address: str) -> None:
        """It is this one."""
        if self.thread is None:
            self.thread = threading.Thread(target=self._ask, args=(address,))
            self.thread.start()

    def _ask(self, address: str) -> None:
        self.boot.right = by_hand.until_right(self.place, address) - self.began
        self.boot.processor = processor_seconds() - self.used


def deployed(place: Site, size: int = MEMBERS) -> tuple[group_pb2.InstanceGroup, Boot]:
    """A group that runs, and how it came to that. Raises RuntimeError where it does not."""
    boot = Boot()
    asked = _Asked(place, time.monotonic(), processor_seconds(), boot)
    reached: dict[str, set[str]] = {}
    final = None
    for message in place.deploy(size):
        now, event = time.monotonic() - asked.began, message.event
        kind = event.WhichOneof("change")
        if kind in ("accepted", "claimed"):
            boot.at[kind] = now
        elif kind == "instance":
            member = event.instance
            if member.is_initial_node and member.addresses:
                asked.at(member.addresses[0])
            reached.setdefault(member.status, set()).add(member.uuid)
            if len(reached[member.status]) == size:
                boot.at.setdefault(f"all {member.status}", now)
        elif kind == "final":
            final = event.final
            boot.at["the group is told of"] = now
    if final is None or final.status != "Running":
        raise RuntimeError(f"the group is {final.status}: {final.reason}" if final is not None else "no final event")
    asked.at(final.instances[0].addresses[0])
    assert asked.thread is not None
    asked.thread.join()
    boot.at["right from outside"] = boot.right
    return final, boot


def started_by_hand(place: Site, group: group_pb2.InstanceGroup) -> Boot:
    """The same machines, by plain libvirt."""
    right, processor = by_hand.boot(place, group, processor_seconds)
    return Boot(right=right, processor=processor)


def compared(ours: Sequence[Boot], theirs: Sequence[Boot]) -> list[str]:
    """The medians, in lines for people."""
    right = statistics.median(a.right / b.right for a, b in zip(ours, theirs, strict=True))
    told = statistics.median(a.at["the group is told of"] / b.right for a, b in zip(ours, theirs, strict=True))
    used = statistics.median(a.processor / b.processor for a, b in zip(ours, theirs, strict=True))

    def middle(values: list[float]) -> str:
        return f"{statistics.median(values):.1f}"

    names = {name for boot in ours for name in boot.at}
    parts = {name: statistics.median(boot.at[name] for boot in ours if name in boot.at) for name in names}
    return [
        f"median of {len(ours)}, alternating: call to first right answer {middle([b.right for b in ours])} s"
        f" ({middle([b.processor for b in ours])} CPU s), by hand {middle([b.right for b in theirs])} s"
        f" ({middle([b.processor for b in theirs])} CPU s)",
        f"call to first right answer / by hand: {right:.2f}; to the status Running / by hand: {told:.2f};"
        f" CPU seconds / by hand: {used:.2f}",
        f"medians from the call: {Boot(parts).told()}",
    ]
