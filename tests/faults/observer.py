"""Looks at real hypervisors and the database from outside: process tables, libvirt's own state files, plain SQL.

It shares no code with the service and asks no daemon, so that a dead or frozen libvirtd hides nothing from it.
"""

from __future__ import annotations

import re
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from tests.concurrency.observer import Server, broken_histories, left_behind, over_commits, unsettled
from tests.lab.fleet import Lab
from tests.lab.hypervisor import Hypervisor
from tests.lab.namespaces import process_state

_MACHINE = re.compile(r"corral-([0-9a-f]{32})-([0-9]+)")
_STATE = re.compile(r"<domstatus state='([a-z]+)'")
_WANTED = "SELECT uuid, attempt, host_name FROM instances WHERE host_uuid <> '' AND status <> 'Removed'"
_GO = "SELECT i.uuid FROM instances i JOIN groups g ON g.uuid = i.group_uuid WHERE NOT g.go AND NOT g.served"
_UP = "SELECT uuid, attempt, host_name FROM instances WHERE status = 'Running'"


@dataclass(frozen=True)
class Machine:
    """One QEMU process of ours. `state`: as libvirt last wrote it (`running`, `paused`, …); empty where it did not."""

    host: str
    instance: str
    attempt: int
    pid: int
    state: str

    @property
    def executes(self) -> bool:
        """Whether its guest may run code: unpaused, and the process is there and not stopped by a signal."""
        return self.state == "running" and process_state(self.pid) not in ("", "Z", "T", "t")


def machines(lab: Lab) -> list[Machine]:
    """Every QEMU of ours on all hypervisors."""
    found = []
    for hypervisor in lab:
        for name, pid in hypervisor.guests().items():
            match = _MACHINE.fullmatch(name)
            if match is None:
                continue
            path = hypervisor.directory / f"run/libvirt/qemu/{name}.xml"
            try:
                state = _STATE.search(path.read_text())
            except FileNotFoundError:  # it has ended, or is only being started
                state = None
            found.append(Machine(hypervisor.name, match[1], int(match[2]), pid, state[1] if state else ""))
    return found


def pool_of(hypervisor: Hypervisor) -> Path:
    """The directory of its storage pool, as its libvirtd sees it."""
    return Path(f"/proc/{hypervisor.namespace.pid}/root/var/lib/libvirt/corral")


def volumes(lab: Lab) -> list[str]:
    """Files of machines (not of images) in all hosts' pools."""
    return [f"{hypervisor.name}/{path.name}" for hypervisor in lab for path in pool_of(hypervisor).glob("corral.*")]


@dataclass
class Observer:
    """Looks again and again until the block ends. Keeps every violation, and the longest life of an orphan (s)."""

    server: Server
    database: str
    lab: Lab
    violations: list[str] = field(default_factory=list)
    looks: int = 0
    longest_orphan: float = 0.0
    _orphans: dict[tuple[str, str, int], float] = field(default_factory=dict)
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    trouble: set[str] = field(default_factory=set)
    """Names of hosts that cannot be reached at present: nobody can remove an orphan there."""

    def __enter__(self) -> Observer:
        self._thread = threading.Thread(target=self._run, name="observer")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        assert self._thread is not None
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(0.3):
            found = machines(self.lab)
            self._look_for_doubles(found)
            try:
                self._look_before_go(found)
                self._look_for_orphans(found)
                self.violations += [f"I2 {row}" for row in over_commits(self.server, self.database)]
            except (RuntimeError, TimeoutError):  # the database is down or frozen: that is part of the test
                continue
            self.looks += 1

    def _look_for_doubles(self, found: list[Machine]) -> None:
        """I1. A machine counts if it executes after all hosts were looked at, too."""
        executing = defaultdict(list)
        for machine in found:
            if machine.executes:
                executing[machine.instance].append(machine)
        for instance, twins in executing.items():
            if len(twins) > 1:
                self.violations.append(f"I1 {instance} executes {[(m.host, m.attempt) for m in twins]}")

    def _look_before_go(self, found: list[Machine]) -> None:
        """I4. GO is read after the machine was seen, so that a GO in between is no violation."""
        executing = {m.instance for m in found if m.executes}
        if executing:
            before = {row[0] for row in self.server.query(_GO, self.database)}
            self.violations += [f"I4 {instance} executes before GO" for instance in executing & before]

    def _look_for_orphans(self, found: list[Machine]) -> None:
        """I3: how long a machine that nobody wants is there while its host can be reached."""
        wanted = {(row[2], row[0], int(row[1])) for row in self.server.query(_WANTED, self.database)}
        now = time.monotonic()
        here = {(m.host, m.instance, m.attempt) for m in found} - wanted
        for key in here:
            since = self._orphans.setdefault(key, now)
            if key[0] in self.trouble:
                self._orphans[key] = now
            else:
                self.longest_orphan = max(self.longest_orphan, now - since)
        for key in set(self._orphans) - here:
            del self._orphans[key]


def at_rest(server: Server, database: str, lab: Lab) -> list[str]:
    """What does not hold now that nothing goes on any more: I2, I3, I4, I5, I6, I10."""
    found = [f"I5 {row}" for row in unsettled(server, database)]
    found += [f"I2 {row}" for row in over_commits(server, database)]
    found += [f"I6 {row}" for row in broken_histories(server, database)]
    found += [f"I10 {row}" for row in left_behind(server, database)]
    up = {(row[2], row[0], int(row[1])) for row in server.query(_UP, database)}
    here = {(m.host, m.instance, m.attempt): m for m in machines(lab)}
    found += [f"I4 {key} is said to run and is not there" for key in sorted(up - set(here))]
    found += [f"I3 {key} is there and nobody wants it" for key in sorted(set(here) - up)]
    found += [f"I4 {key} is {here[key].state}" for key in sorted(up & set(here)) if here[key].state != "running"]
    return found
