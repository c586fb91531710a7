"""Who is there, by the process table alone: guests that nobody has ordered away must go on in the same process."""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.concurrency.observer import over_commits
from tests.faults.observer import machines
from tests.faults.stores import Store
from tests.lab.fleet import Lab

EVERY_SECONDS = 1.0

Guest = tuple[str, str]
"""(name of the host, name of the domain)."""
Process = tuple[int, int]
"""(pid, when it began in the kernel's ticks): pids are used again, and this tells them apart."""


def guests(lab: Lab) -> dict[Guest, Process]:
    """Every QEMU on all hypervisors, whosever it is."""
    found: dict[Guest, Process] = {}
    for hypervisor in lab:
        for name, pid in hypervisor.guests().items():
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended in the meantime
            found[hypervisor.name, name] = (pid, int(fields[19]))
    return found


@dataclass
class Census:
    """Looks again and again. `lost`: guests that were to be kept and are gone, or run in another process, with what was
    done at that time; `violations`: of I1 and I2, likewise."""

    lab: Lab
    store: Store
    doing: str = ""
    lost: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    looks: int = 0
    _kept: dict[Guest, Process] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _problem: BaseException | None = None

    def keep(self) -> None:
        """From now on all that is there is to stay."""
        with self._lock:
            self._kept = guests(self.lab)

    def let_go(self, host: str = "", domain: str = "") -> None:
        """This guest, or all of a host, may end: the run itself ends it, or has had it ordered away."""
        with self._lock:
            gone = [g for g in self._kept if (not host or g[0] == host) and (not domain or g[1] == domain)]
            for guest in gone:
                del self._kept[guest]

    def look(self) -> None:
        """Once, now."""
        with self._lock:
            found = guests(self.lab)
            gone = [guest for guest, process in self._kept.items() if found.get(guest) != process]
            for guest in gone:
                del self._kept[guest]
            self.lost += [f"{self.doing}: {domain} on {host}" for host, domain in gone]
        executing = defaultdict(list)
        for machine in machines(self.lab):
            if machine.executes:
                executing[machine.instance].append(machine.host)
        twins = [f"I1 {self.doing}: {instance} on {hosts}" for instance, hosts in executing.items() if len(hosts) > 1]
        with contextlib.suppress(RuntimeError, TimeoutError):  # it is away, being put back, or full
            twins += [f"I2 {self.doing}: {row}" for row in over_commits(self.store, "")]
        self.violations += [one for one in twins if one not in self.violations]
        self.looks += 1

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, name="census")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        assert self._thread is not None
        self._thread.join()
        if self._problem is not None and error is None:
            raise self._problem

    def _run(self) -> None:
        try:
            while not self._ended.wait(EVERY_SECONDS):
                self.look()
        except BaseException as problem:
            self._problem = problem
