"""Reads database and simulated hosts from outside and reports what must never be: shares no code with the service."""

from __future__ import annotations

import json
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol

_SUMS = """
SELECT r.host_uuid, r.resource, r.usable - r.foreign_used, r.used, coalesce(sum(c.amount), 0)
FROM host_resources r LEFT JOIN claims c ON c.host_uuid = r.host_uuid AND c.resource = r.resource
GROUP BY r.host_uuid, r.resource, r.usable, r.foreign_used, r.used
HAVING coalesce(sum(c.amount), 0) > r.usable - r.foreign_used OR coalesce(sum(c.amount), 0) <> r.used
"""
_SEQUENCES = """
SELECT group_uuid, count(*), min(sequence), max(sequence) FROM events GROUP BY group_uuid
HAVING count(*) <> max(sequence) - min(sequence) + 1 OR min(sequence) <> 1
"""
_STORED_DIFFERS = """
SELECT g.uuid, g.sequence, max(e.sequence) FROM groups g JOIN events e ON e.group_uuid = g.uuid
GROUP BY g.uuid, g.sequence HAVING g.sequence <> max(e.sequence)
"""
_TWICE_ADDRESSED = "SELECT zone_uuid, address FROM addresses GROUP BY zone_uuid, address HAVING count(*) > 1"
_LEFT_BEHIND = """
SELECT 'claim', c.instance_uuid FROM claims c LEFT JOIN instances i
ON i.uuid = c.instance_uuid AND i.attempt = c.attempt AND i.status <> 'Removed' WHERE i.uuid IS NULL
UNION ALL
SELECT 'address', a.instance_uuid FROM addresses a LEFT JOIN instances i
ON i.uuid = a.instance_uuid AND i.attempt = a.attempt AND i.status <> 'Removed' WHERE i.uuid IS NULL
"""
_UNSETTLED = """
SELECT uuid, phase FROM groups WHERE phase NOT IN ('running', 'stopped', 'failed', 'deleted')
"""


class Server(Protocol):
    """Whatever answers plain SQL."""

    def query(self, sql: str, database: str = ...) -> list[list[str]]:
        """Rows. Raises RuntimeError."""


def over_commits(server: Server, database: str) -> list[str]:
    """I2: hosts on which more is claimed than there is, or `used` is not the sum of the claims."""
    return [" ".join(row) for row in server.query(_SUMS, database)]


def broken_histories(server: Server, database: str) -> list[str]:
    """I6: groups whose events have gaps, or whose row has another sequence number than the last event."""
    return [" ".join(row) for query in (_SEQUENCES, _STORED_DIFFERS) for row in server.query(query, database)]


def left_behind(server: Server, database: str) -> list[str]:
    """I10, at rest: claims and addresses without a member that has them."""
    return [" ".join(row) for query in (_LEFT_BEHIND, _TWICE_ADDRESSED) for row in server.query(query, database)]


def unsettled(server: Server, database: str) -> list[str]:
    """I5, at rest: groups that are in no resting phase."""
    return [" ".join(row) for row in server.query(_UNSETTLED, database)]


def machines(directory: Path) -> list[tuple[str, str, str]]:
    """(host, instance, state) of every machine on the simulated hosts, tombstones left out."""
    found = []
    for path in sorted((directory / "hosts").glob("*.json")):
        for machine in json.loads(path.read_text())["machines"]:
            if machine["state"] != "tombstone":
                found.append((path.stem, machine["identity"]["instance"], machine["state"]))
    return found


def crowded(found: Iterable[tuple[str, str, str]], vcpu: int) -> list[str]:
    """Hosts with more machines than they have vCPUs; each machine of these tests has one."""
    counted = Counter(host for host, _, _ in found)
    return [f"{host} has {count} machines on {vcpu} vCPUs" for host, count in counted.items() if count > vcpu]


def doubled(found: Iterable[tuple[str, str, str]]) -> list[str]:
    """I1: instances that run more than once."""
    counted = Counter(instance for _, instance, state in found if state == "running")
    return [f"{instance} runs {count} times" for instance, count in counted.items() if count > 1]


@dataclass
class Watch:
    """Looks at database and hosts again and again until the block ends, and keeps every violation."""

    server: Server
    database: str
    directory: Path
    vcpu: int
    violations: list[str] = field(default_factory=list)
    looks: int = 0
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Watch:
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
        while not self._ended.wait(0.2):
            try:
                found = machines(self.directory)
                self.violations += crowded(found, self.vcpu) + doubled(found)
                self.violations += over_commits(self.server, self.database)
                self.looks += 1
            except RuntimeError as problem:  # the database was stopped by the test itself
                if "connect" not in str(problem):
                    self.violations.append(str(problem))


@dataclass(frozen=True)
class Held:
    """A client knows that `amount` of `host` was its own from `since` to `until` (s of the monotonic clock)."""

    host: str
    amount: int
    since: float
    until: float


def overlaps(history: Iterable[Held], capacity: int) -> list[str]:
    """Moments at which clients together surely held more of a host than it has."""
    changes: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for held in history:
        if held.since < held.until:
            changes[held.host] += [(held.since, held.amount), (held.until, -held.amount)]
    found = []
    for host, moments in changes.items():
        total = 0
        for moment, amount in sorted(moments):
            total += amount
            if total > capacity:
                found.append(f"{host}: {total} of {capacity} held at {moment}")
    return found
