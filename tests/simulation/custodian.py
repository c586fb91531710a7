"""The observer's judge of whose things are whose: nothing is ended without a record (I15), nothing is touched on a host
that is not this database's or has seen more than it (I16).

May not import anything of the service: what it expects is written down here a second time, on purpose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tests.simulation.hosts import EXECUTING, TOMBSTONE, Machine, SimulatedMachineHost
from tests.simulation.loop import Process
from tests.simulation.metal import CLEANING, cleaner_of

Query = Callable[..., list[tuple[Any, ...]]]

LEAVING = frozenset({"Failing", "Removing", "Evicting", "Stopping", "Stopped", "Removed"})
ENDS = ("remove", "power_off", "shutdown")
TOUCHES = frozenset(
    {"create", "resume", "shutdown", "power_off", "remove", "migrate", "entomb", "clear", "delete_volume"}
)
"""Calls that change something on a host. `abort_migration` is none: it leaves the machine where it runs."""
NOTICE_SECONDS = 45.0
"""So long a process may go on with a host that has become another's, or while another replica has found the database to
be old, before it has to have noticed: a probe that is slow and one that is lost, or the rest of a lease."""


class Custodian:
    """Told of what happens on hosts; `violated(invariant, text)` hears what may not."""

    def __init__(
        self,
        rows: Query,
        now: Callable[[], float],
        hosts: Mapping[str, SimulatedMachineHost],
        violated: Callable[[str, str], None],
    ) -> None:
        self._rows = rows
        self._now = now
        self._hosts = hosts
        self._violated = violated
        self._database = ""
        self._ahead_since: float | None = None
        self._flagged: dict[str, float] = {}

    # --- I15 --------------------------------------------------------------------------------------------------------

    def changed(self, host: str, before: Machine | None, after: Machine | None, cause: str) -> None:
        """A machine changed; `cause`: "process call", or "process call late" of what was sent long ago."""
        process, _, verb = cause.partition(" ")
        if before is None or not verb or before.state == TOMBSTONE:
            return
        if not before.ours:
            self._violated("I15", f"{process} did {verb} to another's machine {before.uuid} on {host}")
            return
        ended = after is None or (verb in ENDS and before.state in EXECUTING and after.state not in EXECUTING)
        if ended and not verb.endswith(" late") and not self._may_end(host, before):
            self._violated("I15", f"{process} ended {before.state} {_name(before)} on {host} without a record")

    def volume_deleted(self, host: str, name: str, process: str) -> None:
        """A volume was deleted for itself, not with its machine."""
        instance, _, attempt = name.removesuffix(".root").split(".", 2)[2].partition(".")
        cleaned = instance == cleaner_of(host) and self._cleaning_is_over(host, int(attempt))
        if not cleaned and not self._on_record(host, instance, int(attempt), name):
            self._violated("I15", f"{process} deleted volume {name} on {host} without a record")

    def _cleaning_is_over(self, host: str, attempt: int) -> bool:
        """Whether the host's row says that this attempt to clean it is none any more."""
        ((state, count),) = self._rows("SELECT cleaning, cleaning_count FROM hosts WHERE uuid = ?", host)
        return bool(int(count) >= attempt + (state == "Cleaning"))

    def _may_end(self, host: str, machine: Machine) -> bool:
        if self._on_record(host, machine.instance, machine.attempt, machine.uuid):
            return True
        if machine.group == CLEANING:  # its own work, which the host's row numbers
            return int(self._rows("SELECT cleaning_count FROM hosts WHERE uuid = ?", host)[0][0]) >= machine.attempt
        moving = self._rows(
            "SELECT host_uuid, target_host_uuid FROM instances"
            " WHERE uuid = ? AND attempt = ? AND target_host_uuid != ''",
            machine.instance,
            machine.attempt,
        )
        if not moving:
            return False
        source, target = moving[0]
        if host == target:
            return machine.state not in EXECUTING  # the copy of a move that is given up
        there = self._hosts[target].machines.get(machine.uuid)  # what a move that has ended left behind
        return host == source and machine.state not in EXECUTING and there is not None and there.state in EXECUTING

    def _on_record(self, host: str, instance: str, attempt: int, key: str) -> bool:
        """Whether this database says at this moment that it let go of the attempt there, or that its end is wanted.

        What is in quarantine ends by an order alone, whatever else is on record.
        """
        for (ordered,) in self._rows("SELECT removal FROM quarantine WHERE host_uuid = ? AND key = ?", host, key):
            return bool(ordered)
        for now, where, status in self._rows(
            "SELECT attempt, host_uuid, status FROM instances WHERE uuid = ?", instance
        ):
            if now > attempt or (now == attempt and where == host and status in LEAVING):
                return True
        retired = "SELECT 1 FROM retired WHERE instance_uuid = ? AND attempt = ? AND host_uuid = ?"
        return bool(self._rows(retired, instance, attempt, host))

    # --- I16 --------------------------------------------------------------------------------------------------------

    def committed(self) -> None:
        """After each transaction: from when on this database knows that it is older than its hosts."""
        ahead = self._rows("SELECT 1 FROM hosts WHERE ahead AND status = 'Ahead' LIMIT 1")
        self._ahead_since = (self._ahead_since or self._now()) if ahead else None
        flagged = [uuid for (uuid,) in self._rows("SELECT uuid FROM hosts WHERE ahead")]
        self._flagged = {uuid: self._flagged.get(uuid, self._now()) for uuid in flagged}

    def went_back(self) -> None:
        """The database is an older one from now on."""
        self._ahead_since, self._flagged = None, {}
        self.committed()

    def touched(self, call: str, host: SimulatedMachineHost, entry: str, process: Process) -> None:
        """A call of a living process is carried out. `entry`: the uuid by which it has the host."""
        if call not in TOUCHES:
            return
        database = self._own()
        mark = host.mark
        by = max(host.marked_at, process.since) + NOTICE_SECONDS
        noticed = process.started > host.marked_at or self._now() > by
        if mark is not None and mark[:2] != (database, entry) and noticed:
            self._violated("I16", f"{process.name} did {call} on {host.name}, which bears the mark {mark}")
        newest = host.newest(database)
        if newest > (come := self._generation()):
            self._violated(
                "I16", f"{process.name} did {call} on {host.name}, which has seen {newest}; the database is at {come}"
            )
        for (ahead,) in self._rows("SELECT ahead FROM hosts WHERE uuid = ?", entry):
            if ahead and self._now() > max(self._flagged.get(entry, 0.0), process.since) + NOTICE_SECONDS:
                self._violated("I16", f"{process.name} did {call} on {host.name}, which is ahead of the database")
        since = self._ahead_since
        if since is not None and self._now() > max(since, process.since) + NOTICE_SECONDS:
            self._violated(
                "I16", f"{process.name} did {call} on {host.name} while another host is ahead of the database"
            )

    def _own(self) -> str:
        if not self._database:
            self._database = self._rows("SELECT database FROM installation")[0][0]
        return self._database

    def _generation(self) -> int:
        (come,) = self._rows(
            "SELECT (SELECT value FROM counters WHERE name = 'revision') + (SELECT generation_offset FROM installation)"
        )[0]
        return int(come)

    def strangers(self) -> list[str]:
        """What is held in quarantine, or has to be, at this moment, in words."""
        held = self._rows("SELECT host_uuid, key FROM quarantine")
        found = [f"{key} is in quarantine on {host}" for host, key in held]
        left = self._rows("SELECT name, status FROM hosts WHERE status IN ('Foreign', 'Ahead', 'Mismatched')")
        return [*found, *(f"host {name} is {status}" for name, status in left)]


def _name(machine: Machine) -> str:
    return f"{machine.instance}-{machine.attempt}"
