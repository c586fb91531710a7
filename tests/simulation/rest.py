"""Judges whether a run has come to rest: every group, host, machine, claim and address as it should be for ever.

May not import anything of the service: what it expects is written down here a second time, on purpose.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tests.simulation.hosts import EXECUTING, TOMBSTONE, Machine
from tests.simulation.observer import SEATED, Observer, Query

RESTING = frozenset({"running", "stopped", "failed", "deleted"})


class AtRest:
    """Asked at peace; `machines`: (host uuid, machine) of all that is really there, with our tag."""

    def __init__(self, rows: Query, machines: Callable[[], Sequence[tuple[str, Machine]]], observer: Observer) -> None:
        self._rows = rows
        self._machines = machines
        self._observer = observer

    def unsettled(self) -> list[str]:
        """What is not at rest yet, in words; empty when everything is as it should be for ever."""
        members = self._rows(
            "SELECT i.uuid, i.attempt, i.host_uuid, i.status, g.phase FROM instances i"
            " JOIN groups g ON g.uuid = i.group_uuid"
        )
        wanted = {(uuid, attempt, host) for uuid, attempt, host, status, _ in members if status in SEATED}
        return [
            *self._groups_on_their_way(),
            *self._hosts_not_seen(),
            *self._machines_amiss(members, wanted),
            *self._left_over(wanted),
            *self._not_drained(),
            # An update goes on once its group has room again.
            *(what for group, what in self._observer.updates.under_way() if not self._waits_for_room(group)),
        ]

    def _groups_on_their_way(self) -> Iterator[str]:
        for uuid, phase, status, owner, due in self._rows("SELECT uuid, phase, status, owner, due_at FROM groups"):
            if self._waits_for_room(uuid):
                continue
            if (
                phase == "planning"
                and status == "Waiting"
                and not owner
                and due
                and (not self._has_room(uuid, whole=True) or self._leaves_room(uuid))
            ):
                continue  # it waits for as long as its caller said, and somebody will look
            if phase not in RESTING:
                yield f"group {uuid} is {phase}"
            if phase == "running" and status not in ("Running", "Degraded"):
                yield f"group {uuid} is in phase running and {status}"
            if phase in ("failed", "deleted") and (owner or (due or 0) > 0):
                yield f"final group {uuid} is still owned by {owner!r}, due at {due}"

    def _waits_for_room(self, group: str) -> bool:
        """Whether it served, lost a member, and finds no room for it."""
        stands = ("planning", "Degraded")
        return self._rows("SELECT phase, status FROM groups WHERE uuid = ?", group) == [stands] and not self._has_room(
            group
        )

    def _leaves_room(self, group: str) -> bool:
        """Whether what is there is kept for somebody before it in line, who does not fit yet."""
        first = self._rows(
            "SELECT o.uuid FROM groups g JOIN groups o ON (-o.priority, o.created_at, o.uuid) <"
            " (-g.priority, g.created_at, g.uuid) WHERE g.uuid = ? AND o.phase = 'planning' AND o.waiting_kept > 0",
            group,
        )
        return any(not self._has_room(uuid, whole=True) for (uuid,) in first)

    def _has_room(self, group: str, *, whole: bool = False) -> bool:
        """Whether a pending member of the group would fit on a host that is open, as far as amounts go. `whole`: all of
        them together."""
        if self._observer.quota or self._rows("SELECT 1 FROM hosts WHERE state != 'Enabled'"):
            return False  # others may have used it up; its rules may want more hosts than are open
        rules = self._observer.rules.of(group)
        strict = rules["exclusive_hosts"] or rules["max_per_host"] or rules["anti_affinity_groups"]
        if strict or rules["numa"] == "required":
            return False  # whether these leave room is the planner's business, which has tests of its own
        free = defaultdict(dict)  # type: ignore[var-annotated]
        for host, resource, amount in self._rows(
            "SELECT r.host_uuid, r.resource, r.usable - r.foreign_used - r.used FROM host_resources r"
        ):
            free[host][resource] = amount
        for (host,) in self._rows("SELECT uuid FROM hosts WHERE cleaning != ''"):
            free.pop(host, None)
        pending = self._rows("SELECT spec FROM instances WHERE group_uuid = ? AND status = 'Pending'", group)
        nodes = sorted((json.loads(text) for (text,) in pending), key=lambda node: -node["cpu_num"])
        if any(node["gpus"] for node in nodes):
            return False  # which devices are left is the planner's business too
        for node in nodes:
            fits = (f for f in free.values() if f["vcpu"] >= node["cpu_num"] and f["memory"] >= node["memory_size"])
            host = next(fits, None)
            if host is None:
                if whole:
                    return False
                continue
            if not whole:
                return True
            host["vcpu"] -= node["cpu_num"]
            host["memory"] -= node["memory_size"]
        return whole and bool(nodes)

    def _not_drained(self) -> Iterator[str]:
        """A host under maintenance carries nothing in the end, but for groups that an operator has adopted there."""
        closed = {uuid for (uuid,) in self._rows("SELECT uuid FROM hosts WHERE state = 'Maintenance'")}
        for host, machine in self._machines():
            if host in closed and machine.state != TOMBSTONE and machine.group not in self._observer.adopted:
                yield f"host {host} is drained and has {machine.state} machine {machine.instance}-{machine.attempt}"
        for host, group in self._rows("SELECT DISTINCT host_uuid, group_uuid FROM claims"):
            if host in closed and group not in self._observer.adopted:
                yield f"host {host} is drained and has claims"

    def _machines_amiss(self, members: Sequence[tuple[Any, ...]], wanted: set[tuple[str, int, str]]) -> Iterator[str]:
        machines = [(m, host) for host, m in self._machines() if m.state != TOMBSTONE]
        running = {(m.instance, m.attempt, host) for m, host in machines if m.state in EXECUTING}
        for machine, host in machines:
            if (machine.instance, machine.attempt, host) not in wanted:
                yield f"{machine.state} machine {machine.instance}-{machine.attempt} on {host} is unwanted"
        for uuid, attempt, host, status, phase in members:
            runs = (uuid, attempt, host) in running
            if status == "Stopped" and runs:
                yield f"member {uuid} is Stopped and executes on {host}"
            if phase == "running" and not (status == "Running" and runs):
                yield f"member {uuid} of a running group is {status}, and {'' if runs else 'not '}executing on {host}"

    def _hosts_not_seen(self) -> Iterator[str]:
        """Called at peace: somebody reaches every host."""
        for uuid, status in self._rows("SELECT uuid, status FROM hosts WHERE status != 'Connected'"):
            yield f"host {uuid} is {status}, and answers"

    def _left_over(self, wanted: set[tuple[str, int, str]]) -> Iterator[str]:
        for instance, attempt, host in self._rows("SELECT DISTINCT instance_uuid, attempt, host_uuid FROM claims"):
            if (instance, attempt, host) not in wanted:
                yield f"claim of {instance} attempt {attempt} on {host} has no owner"
        for instance, host in self._rows("SELECT DISTINCT instance_uuid, host_uuid FROM bookings"):
            yield f"a seat is kept for {instance} on {host}"
        for (instance,) in self._rows("SELECT uuid FROM instances WHERE room != '' OR move != ''"):
            yield f"member {instance} is to move, for nobody"
        present = {uuid for (uuid,) in self._rows("SELECT uuid FROM instances WHERE status != 'Removed'")}
        present |= self._observer.updates.endpoints.cleaners()  # what could not be cleaned keeps its guest's address
        kept = "endpoint IS NOT NULL AND phase NOT IN ('deleted', 'failed')"
        present |= {uuid for (uuid,) in self._rows(f"SELECT uuid FROM groups WHERE {kept}")}
        for uuid, called in self._rows(f"SELECT uuid, endpoint FROM groups WHERE {kept} AND phase = 'running'"):
            yield from self._not_called(uuid, json.loads(called))
        for address, instance, attempt in self._rows("SELECT address, instance_uuid, attempt FROM addresses"):
            if instance not in present:
                yield f"address {address} of {instance} attempt {attempt} has no owner"

    def _not_called(self, group: str, called: Mapping[str, Any]) -> Iterator[str]:
        """A group that runs is called at its address, where its head is in that zone."""
        head = "group_uuid = ? AND NOT beside AND status = 'Running' ORDER BY rank LIMIT 1"
        for uuid, zone, attempt in self._rows(f"SELECT uuid, zone_uuid, attempt FROM instances WHERE {head}", group):
            has = {m.endpoint for _, m in self._machines() if (m.instance, m.attempt) == (uuid, attempt)}
            own = {m.address for _, m in self._machines() if (m.instance, m.attempt) == (uuid, attempt)}
            if zone == called["zone_uuid"] and called["address"] not in has | own:
                yield f"{uuid}, the head of {group}, does not answer at {called['address']}"
