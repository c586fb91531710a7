"""Kills, freezes and cuts under clients at work: each takes something away, and gives it back some time later."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from service.failpoints import NAMES
from tests.concurrency.replicas import Replica
from tests.faults.keeper import Keeper
from tests.faults.observer import Observer, machines
from tests.faults.site import PATIENCE
from tests.faults.stores import PostgreSql, Sqlite
from tests.lab.fleet import Lab
from tests.lab.hypervisor import Hypervisor
from tests.lab.requirements import program
from tests.support.postgres import Postgres

_RARE = ("move.", "migrate.", "abortmove.", "staging.", "copies.")
_POINTS = sorted(name for name in NAMES if not name.startswith(_RARE))
_POINT_SECONDS = 5.0

_LEASES = "SELECT uuid, epoch FROM groups WHERE lease_until > 0 AND owner LIKE '%/{pid}/%'"


@dataclass
class Harm:
    """Does one random fault at a time. `recoveries`: s from a restart of the service until it serves; `takeovers`:
    s from the death of a lease's owner until the group has another; `points`: where a service was killed."""

    lab: Lab
    store: Sqlite | PostgreSql
    replicas: list[Replica]
    observer: Observer
    keeper: Keeper
    random: random.Random
    done: dict[str, int] = field(default_factory=dict)
    points: set[str] = field(default_factory=set)
    recoveries: list[float] = field(default_factory=list)
    takeovers: list[float] = field(default_factory=list)

    def once(self) -> str:
        """One fault from its beginning to its end; returns its name, or "" where there was nothing to harm."""
        faults: list[tuple[int, Callable[[], bool]]] = [
            (2, self.kill_service),
            (3, self.kill_service_at_a_point),
            (2, self.freeze_service),
            (3, self.kill_libvirtd),
            (2, self.freeze_libvirtd),
            (4, self.kill_guest),
            (2, self.freeze_guest),
            (2, self.cut_link),
        ]
        if isinstance(self.store, PostgreSql):
            faults += [(2, self.kill_database), (1, self.freeze_database)]
        (fault,) = self.random.choices([f for _, f in faults], [w for w, _ in faults])
        if not fault():
            return ""
        self.done[fault.__name__] = self.done.get(fault.__name__, 0) + 1
        return fault.__name__

    def kill_service(self) -> bool:
        """kill -9 of a replica; it is started again."""
        return self._kill(self.random.choice(self.replicas), "")

    def kill_service_at_a_point(self) -> bool:
        """kill -9 of a replica where it passes a named point, or a moment later where it does not pass it."""
        return self._kill(self.random.choice(self.replicas), self.random.choice(_POINTS))

    def _kill(self, replica: Replica, point: str) -> bool:
        pid = replica.pid
        held = self._leases(pid)
        if not point:
            replica.kill()
        else:
            if replica.kill_at(point, _POINT_SECONDS):
                self.points.add(point)
            held = self._leases(pid)  # those of before may have ended well meanwhile
        following = threading.Thread(target=self._follow, args=(held, time.monotonic()))
        following.start()
        self._pause(0.0, 2.0)
        started = time.monotonic()
        replica.serve(PATIENCE)
        self.recoveries.append(time.monotonic() - started)
        following.join()
        return True

    def freeze_service(self) -> bool:
        """SIGSTOP of a replica for a while, shorter than its leases."""
        replica = self.random.choice(self.replicas)
        replica.signal(signal.SIGSTOP)
        self._pause(0.5, 6.0)
        replica.signal(signal.SIGCONT)
        return True

    def kill_libvirtd(self) -> bool:
        """kill -9 of a libvirtd, whatever it is doing; its guests live on."""
        hypervisor = self._hypervisor()
        with self._trouble(hypervisor), self.keeper.away(hypervisor):
            hypervisor.kill_daemon()
            self._pause(0.0, 2.0)
            hypervisor.start_daemon()
        return True

    def freeze_libvirtd(self) -> bool:
        """SIGSTOP of a libvirtd: connections stay open and nothing answers."""
        hypervisor = self._hypervisor()
        with self._trouble(hypervisor), self.keeper.away(hypervisor):
            hypervisor.signal_daemon(signal.SIGSTOP)
            self._pause(1.0, 12.0)
            hypervisor.signal_daemon(signal.SIGCONT)
        return True

    def kill_guest(self) -> bool:
        """kill -9 of a QEMU."""
        return self._signal_guest(signal.SIGKILL)

    def freeze_guest(self) -> bool:
        """SIGSTOP of a QEMU for a while: libvirt says that it runs, and calls on it hang."""
        return self._signal_guest(signal.SIGSTOP)

    def kill_database(self) -> bool:
        """kill -9 of all of PostgreSQL."""
        server = self._server()
        server.kill()
        self._pause(0.0, 2.0)
        server.start()
        return True

    def freeze_database(self) -> bool:
        """SIGSTOP of all of PostgreSQL."""
        server = self._server()
        server.pause()
        self._pause(0.5, 5.0)
        server.resume()
        return True

    def _server(self) -> Postgres:
        assert isinstance(self.store, PostgreSql)
        return self.store.server

    def cut_link(self) -> bool:
        """A hypervisor's link is down: no answer, and no connection is closed."""
        hypervisor = self._hypervisor()
        port = f"port{hypervisor.index}"
        with self._trouble(hypervisor):
            self.lab.switch.run(program("ip"), "link", "set", port, "down")
            self._pause(2.0, 10.0)
            self.lab.switch.run(program("ip"), "link", "set", port, "up")
        return True

    def end(self) -> None:
        """Give everything back."""
        if isinstance(self.store, PostgreSql):
            self.store.server.resume()
        for replica in self.replicas:
            with contextlib.suppress(RuntimeError):
                replica.signal(signal.SIGCONT)
        for hypervisor in self.lab:
            with contextlib.suppress(ProcessLookupError):
                hypervisor.signal_daemon(signal.SIGCONT)
            for name in hypervisor.guests():
                with contextlib.suppress(KeyError, ProcessLookupError):
                    hypervisor.signal_guest(name, signal.SIGCONT)

    def _signal_guest(self, number: signal.Signals) -> bool:
        found = machines(self.lab)
        if not found:
            return False
        machine = self.random.choice(found)
        (hypervisor,) = (h for h in self.lab if h.name == machine.host)
        name = f"corral-{machine.instance}-{machine.attempt}"
        try:
            hypervisor.signal_guest(name, number)
            if number is signal.SIGSTOP:
                self._pause(1.0, 8.0)
                hypervisor.signal_guest(name, signal.SIGCONT)
        except (KeyError, ProcessLookupError):
            return False  # it was removed in the meantime
        return True

    def _hypervisor(self) -> Hypervisor:
        return self.random.choice(list(self.lab))

    @contextmanager
    def _trouble(self, hypervisor: Hypervisor) -> Iterator[None]:
        self.observer.trouble.add(hypervisor.name)
        try:
            yield
        finally:
            self.observer.trouble.discard(hypervisor.name)

    def _leases(self, pid: int) -> dict[str, int]:
        try:
            rows = self.store.query(_LEASES.format(pid=pid))
        except (RuntimeError, TimeoutError):
            return {}
        return {row[0]: int(row[1]) for row in rows}

    def _follow(self, held: dict[str, int], since: float) -> None:
        """Wait until every group that the dead owner held has a later epoch; after 90 s the others are a violation."""
        deadline = time.monotonic() + 90
        while held and time.monotonic() < deadline:
            uuids = ", ".join(f"'{uuid}'" for uuid in held)
            rows = self.store.query(f"SELECT uuid, epoch FROM groups WHERE uuid IN ({uuids})")
            for uuid, epoch in rows:
                if int(epoch) > held[uuid]:
                    del held[uuid]
                    self.takeovers.append(time.monotonic() - since)
            time.sleep(0.1)
        if held:
            self.observer.violations.append(f"I11 nobody took over {sorted(held)}")

    def _pause(self, least: float, most: float) -> None:
        time.sleep(self.random.uniform(least, most))
