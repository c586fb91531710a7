"""Judges a run from outside: reads what is really on the hosts, and the database's tables with plain SQL.

May not import anything of the service: what it expects is written down here a second time, on purpose.
"""

from __future__ import annotations

import copy
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tests.simulation.evictions import Evictions
from tests.simulation.hosts import EXECUTING, TOMBSTONE, Machine
from tests.simulation.lines import Lines
from tests.simulation.rooms import Rooms
from tests.simulation.rules import Claims, Rules
from tests.simulation.updates import Updates

Query = Callable[..., list[tuple[Any, ...]]]

SEATED = frozenset(
    {"Claimed", "Creating", "Created", "Booting", "Running", "Stopping", "Stopped", "Failing", "Removing"}
)
LEAVING = frozenset({"Failing", "Removing", "Evicting", "Stopping", "Stopped", "Removed"})

_OF_THE_DATABASE = ("revision", "_sequences", "_told_groups", "_told_members", "_claims", "_addresses", "_own",
                    "_owners", "_go", "_seats", "_fleet", "_off")  # fmt: skip

_GROUPS = "SELECT uuid, phase, status, reason, sequence, revision, go, epoch, project FROM groups"
_MEMBERS = (
    "SELECT uuid, status, attempt, host_uuid, reason, address, unknown_since, group_uuid, target_host_uuid"
    " FROM instances"
)
_SERVING = (
    "SELECT i.uuid, g.uuid, i.beside, g.start_epoch FROM instances i JOIN groups g ON g.uuid = i.group_uuid"
    " WHERE i.status = 'Running'"
)


class Observer:
    """Told of every commit and of every change on a host; raises nothing, remembers the first violations."""

    def __init__(
        self, rows: Query, now: Callable[[], float], machines: Callable[[], Sequence[tuple[str, Machine]]]
    ) -> None:
        self._rows = rows
        self._now = now
        self._machines = machines
        self.violations: list[str] = []
        self.found = False
        self._alarms = 0
        self.usable: Mapping[tuple[str, str], int] = {}
        self.quota: Mapping[str, int] = {}
        self.revision = 0
        self._seen: tuple[object, object] = (None, None)
        self._groups: dict[str, tuple[Any, ...]] = {}
        self._members: dict[str, tuple[Any, ...]] = {}
        self._hosts: object = None
        self._claimed: object = None
        self._sequences: dict[str, int] = {}
        self._told_groups: dict[str, tuple[str, str, str]] = {}
        self._told_members: dict[str, tuple[str, int, str, str, str, int]] = {}
        self._claims: dict[tuple[str, int, str, str], tuple[str, str, int]] = {}
        self._addresses: dict[tuple[str, str], tuple[str, int]] = {}
        self._own: dict[tuple[str, str], str] = {}
        self.reached: set[str] = set()
        self._owners: dict[tuple[str, int], str] = {}
        self._seats: dict[str, tuple[int, str, str]] = {}
        self._go: set[str] = set()
        self._had_go: set[str] = set()
        self._lost_go: set[str] = set()
        self._ended: frozenset[str] = frozenset()
        self._served: set[tuple[str, int]] = set()
        self._fleet: dict[str, tuple[str, str]] = {}
        self._left: set[str] = set()
        self._off: set[tuple[str, int]] = set()
        self.adopted: set[str] = set()
        self.rules = Rules(rows, self.violated, self.adopted)
        self.commits = self.claim_changes = 0
        self.rooms, self._lines, self._evictions = Rooms(rows, now), Lines(rows), Evictions(rows, now)
        self.updates = Updates(rows, self.violated, self._executes, machines)

    def memory(self) -> dict[str, Any]:
        """What it was told of the database so far, to be remembered with a backup of it."""
        return {name: copy.copy(getattr(self, name)) for name in _OF_THE_DATABASE}

    def went_back(self, memory: Mapping[str, Any], ended: Iterable[str]) -> None:
        """The database is as it was when this was remembered. `ended`: processes of before, whose calls may come."""
        self._lost_go, self._ended = self._had_go - memory["_go"], frozenset(ended)
        for name in _OF_THE_DATABASE:
            setattr(self, name, copy.copy(memory[name]))
        self.updates.forget()
        self.rules.forget()
        self.commits += 1
        self.claim_changes += 1

    def violated(self, invariant: str, text: str) -> None:
        """Remember a violation."""
        self.found = True
        if len(self.violations) < 20:
            self.violations.append(f"{self._now():.3f} {invariant}: {text}")

    def alarmed(self, text: str) -> None:
        """The service itself raised an alarm: a violation too, but the run goes on, to see what comes of it."""
        self._alarms += 1
        if self._alarms <= 3:
            self.violations.append(f"{self._now():.3f} alarm: {text}")

    # --- the database -----------------------------------------------------------------------------------------------

    def committed(self, lease: tuple[str, int] | None, process: str) -> None:
        """After every transaction that changed something, written by `process`.

        `lease`: (group, epoch) of the worker that wrote, if any.
        """
        self.commits += 1
        # A list that is the one of the last commit says that nothing of it has changed: what follows from it alone is
        # as it was.
        seen, before = (self._rows(_GROUPS), self._rows(_MEMBERS)), self._seen
        self._seen = seen
        same_groups, same_members = seen[0] is before[0], seen[1] is before[1]
        if not same_groups:
            self._groups = {row[0]: row for row in seen[0]}
        if not same_members:
            self._members = {row[0]: row for row in seen[1]}
        groups, members = self._groups, self._members
        if lease is not None and lease[0] in groups and groups[lease[0]][7] != lease[1]:
            self.violated("I8", f"epoch {lease[1]} of group {lease[0]} wrote after epoch {groups[lease[0]][7]}")
        if lease is not None and self._owners.setdefault(lease, process) != process:
            self.violated("I8", f"{process} and {self._owners[lease]} both own epoch {lease[1]} of group {lease[0]}")
        fresh = self._read_events()
        self._check_fleet(members)
        if not same_members:
            self._check_attempts(members)
        self._check_told(
            () if same_groups and not fresh else groups.values(), () if same_members and not fresh else members.values()
        )
        self.updates.committed()
        if not (same_groups and same_members):
            self._served |= {
                (member, self.updates.epoch(group, beside, epoch))
                for member, group, beside, epoch in self._rows(_SERVING)
            }
            self._check_go(groups, members)
        self._check_claims(members)
        for wrong in (*self.rooms.wrong(self.usable), *self._lines.wrong(self.usable), *self._evictions.wrong()):
            self.violated("I20" if wrong.startswith("group ") else "I2", wrong)

    def _check_told(self, groups: Iterable[tuple[Any, ...]], members: Iterable[tuple[Any, ...]]) -> None:
        """I6: these are as their events tell."""
        for uuid, phase, status, reason, sequence, _revision, *_ in groups:
            if phase == "running":
                self.reached.add(uuid)
            if self._sequences.get(uuid, 0) != sequence:
                self.violated(
                    "I6", f"group {uuid} is at sequence {sequence}, its events at {self._sequences.get(uuid)}"
                )
            if self._told_groups.get(uuid) != (phase, status, reason):
                self.violated("I6", f"group {uuid} is {(phase, status, reason)}, told: {self._told_groups.get(uuid)}")
        for uuid, status, attempt, host, reason, address, unknown, *_ in members:
            told = self._told_members.get(uuid)
            if told != (status, attempt, host, reason, address, unknown):
                self.violated(
                    "I6", f"member {uuid} is {(status, attempt, host, reason, address, unknown)}, told: {told}"
                )

    def _check_fleet(self, members: Mapping[str, tuple[Any, ...]]) -> None:
        """I2: a host leaves the fleet without members, and with claims only where it was fenced and does not answer."""
        rows = self._rows("SELECT uuid, state, status FROM hosts")
        if rows is self._hosts:
            self._left = set()
            return
        self._hosts = rows
        fleet = {uuid: (state, status) for uuid, state, status in rows}
        self._left = set(self._fleet) - set(fleet)
        self._off |= {(m.instance, m.attempt) for at, m in self._machines() if at in self._left}
        for host in sorted(self._left):
            if any(row[1] != "Removed" and host in (row[3], row[8]) for row in members.values()):
                self.violated("I2", f"host {host} left the fleet with members on it")
            claimed = any(at == host for _, _, _, at in self._claims)
            if claimed and self._fleet[host] != ("Maintenance", "Disconnected"):
                self.violated("I2", f"host {host} left the fleet with claims on it while it was {self._fleet[host]}")
        self._fleet = fleet

    def _check_attempts(self, members: Mapping[str, tuple[Any, ...]]) -> None:
        """I1: an attempt has one host, but for a live move, and for a machine that is found where it really is."""
        for uuid, _, attempt, host, *_, target in members.values():
            if not host:
                continue
            before, was, bound_for = self._seats.get(uuid, (0, "", ""))
            if before == attempt and host not in (was, bound_for):
                if not self._is_there(host, uuid, attempt):
                    self.violated("I1", f"attempt {attempt} of {uuid} was seated on {was} and is seated on {host}")
                elif self._executes(was, uuid, attempt):
                    self.violated("I1", f"attempt {attempt} of {uuid} runs on {was} and is taken for one on {host}")
            self._seats[uuid] = attempt, host, target

    def _is_there(self, host: str, instance: str, attempt: int) -> bool:
        return any(where == host and (m.instance, m.attempt) == (instance, attempt) for where, m in self._machines())

    def _executes(self, host: str, instance: str, attempt: int) -> bool:
        return any(
            where == host and (m.instance, m.attempt) == (instance, attempt) and m.state in EXECUTING and not m.tampered
            for where, m in self._machines()
        )

    def _check_go(self, groups: Mapping[str, tuple[Any, ...]], members: Mapping[str, tuple[Any, ...]]) -> None:
        """I4: in the commit that is GO every member is placed and known to be created."""
        gone = {uuid for uuid, row in groups.items() if row[6]}
        for uuid in gone - self._go:
            rows = self._rows("SELECT uuid FROM instances WHERE group_uuid = ? AND (leaving OR beside)", uuid)
            leaving = {m for (m,) in rows}
            up = ("Created", "Booting", "Running")
            early = [m[0] for m in members.values() if m[7] == uuid and m[1] not in up and m[0] not in leaving]
            if early and groups[uuid][1] == "booting":
                self.violated("I4", f"GO of group {uuid} is committed, {early} are not created")
        self._go, self._had_go = gone, self._had_go | gone

    def _read_events(self) -> bool:
        """Returns whether there were any."""
        fresh = self._rows(
            "SELECT revision, group_uuid, sequence, kind, body FROM events WHERE revision > ?1 UNION ALL"
            " SELECT revision, '', 0, 'fleet', '' FROM fleet_events WHERE revision > ?1 ORDER BY revision",
            self.revision,
        )
        for revision, group, sequence, kind, body in fresh:
            if revision != self.revision + 1:
                self.violated("I6", f"revision {revision} follows {self.revision}")
            if kind == "fleet":
                self.revision = revision
                continue
            if sequence != self._sequences.get(group, 0) + 1:
                self.violated("I6", f"sequence {sequence} of group {group} follows {self._sequences.get(group, 0)}")
            self.revision, self._sequences[group] = revision, sequence
            document = json.loads(body)
            if kind == "instance":
                self._tell_member(document)
            elif kind in ("accepted", "group", "final"):
                self._tell_group(group, document)
        counter = self._rows("SELECT value FROM counters WHERE name = 'revision'")[0][0]
        if counter != self.revision:
            self.violated("I6", f"the counter says {counter}, the newest event is {self.revision}")
        return bool(fresh)

    def _tell_group(self, uuid: str, document: Mapping[str, Any]) -> None:
        before = self._told_groups.get(uuid, ("", "", ""))[0]
        phase = document["phase"]
        if (before == "deleted" and phase != "deleted") or (before == "failed" and phase not in ("failed", "deleted")):
            self.violated("I11", f"group {uuid} went from {before} to {phase}")
        self._told_groups[uuid] = (phase, document["status"], document["reason"])
        for member in document["instances"]:
            self._tell_member(member)

    def _tell_member(self, member: Mapping[str, Any]) -> None:
        self._told_members[member["uuid"]] = (
            member["status"], member["attempt"], member["host_uuid"], member["reason"], member["address"],
            member["unknown_since"],
        )  # fmt: skip

    def _check_claims(self, members: Mapping[str, tuple[Any, ...]]) -> None:
        rows = self._rows("SELECT instance_uuid, attempt, resource, host_uuid, group_uuid, amount FROM claims")
        claims = self._claims
        if rows is not self._claimed:
            claims = {(i, attempt, what, host): (host, group, amount) for i, attempt, what, host, group, amount in rows}
            self._claimed = rows
        addresses = {
            (zone, address): (instance, attempt)
            for zone, address, instance, attempt in self._rows(
                "SELECT zone_uuid, address, instance_uuid, attempt FROM addresses"
            )
        }
        for uuid, status, attempt, host, *_ in members.values():
            if status in SEATED and (uuid, attempt, "vcpu", host) not in claims:
                self.violated("I2", f"member {uuid} is {status} on {host} without a claim there")
        if claims != self._claims:
            gone = sorted({(i, a, h) for i, a, r, h in self._claims if (i, a, r, h) not in claims})
            for instance, attempt, host in gone:
                self._released("claim", instance, attempt, host)
            self._claims = claims
            self.claim_changes += 1
            self._check_sums(claims)
            self.rules.check(claims, {uuid: row[2] for uuid, row in members.items() if row[1] != "Removed"})
        if addresses != self._addresses:
            held = {(instance, attempt) for instance, attempt, *_ in claims}
            present = {m for m, row in members.items() if row[1] != "Removed"} | self.updates.endpoints.keeping()
            for key, holder in self._addresses.items():
                if self.updates.endpoints.is_let_go(key[1], holder, addresses.get(key)):
                    self._released(f"address {key[1]}", *holder, None)
            self._addresses = addresses
            for (zone, address), holder in addresses.items():
                if holder not in held and holder[0] not in present:
                    self.violated("I10", f"address {address} is held by {holder}, which has no claim")
                own = self._own.setdefault((holder[0], zone), address)
                if own != address and holder[0] not in self.updates.endpoints.cleaners():
                    self.violated("I17", f"{holder[0]} had address {own} in zone {zone}, and has {address} now")

    def _released(self, what: str, instance: str, attempt: int, host: str | None) -> None:
        for where, machine in self._machines():
            if (machine.instance, machine.attempt) != (instance, attempt) or host not in (None, where):
                continue
            if where in self._left:
                continue  # by its operator's word the host is off for good
            if (instance, attempt) in self._off and machine.state not in EXECUTING:
                continue  # so it was; should it come back, by another uuid even, what is on it is known as left
            if machine.state != TOMBSTONE and not machine.late and not machine.tampered:
                self.violated("I2", f"the {what} of {instance} attempt {attempt} was released, it is {machine.state}")

    def _check_sums(self, claims: Claims) -> None:
        sums: dict[tuple[str, str], int] = defaultdict(int)
        for (_, _, resource, _), (host, _, amount) in claims.items():
            sums[host, resource] += amount
        for key, amount in sums.items():
            if amount > self.usable.get(key, 0):
                self.violated("I2", f"claims of {amount} {key[1]} on {key[0]}, usable is {self.usable.get(key, 0)}")
        for resource, limit in self.quota.items():
            # A member counts once: moved live it is claimed on two hosts, placed anew it has its old claim for a while.
            once: dict[str, int] = defaultdict(int)
            for (instance, _, name, _), (_, _, amount) in claims.items():
                if name == resource:
                    once[instance] = max(once[instance], amount)
            total = sum(once.values())
            if total > limit:
                self.violated("I9", f"claims of {total} {resource}, the tenant's quota is {limit}")
        for host, resource, used in self._rows("SELECT host_uuid, resource, used FROM host_resources"):
            if used != sums.get((host, resource), 0):
                self.violated("I2", f"used {resource} of {host} is {used}, claims are {sums.get((host, resource), 0)}")

    # --- the hosts --------------------------------------------------------------------------------------------------

    def effect(self, name: str, lease: tuple[str, int]) -> None:
        """A call of a worker arrives at a host within its budget."""
        epoch = self._rows("SELECT epoch FROM groups WHERE uuid = ?", lease[0])[0][0]
        if epoch != lease[1]:
            self.violated("I8", f"{name} of epoch {lease[1]} of group {lease[0]} takes effect in epoch {epoch}")

    def machine_changed(self, host: str, before: Machine | None, after: Machine | None, cause: str) -> None:
        """Something on a host is not as it was."""
        self.updates.endpoints.machine_changed(after)
        if before is None and after is not None and after.state != TOMBSTONE and cause != "stranger":
            self._appeared(host, after)
        ran = before is not None and before.state in EXECUTING
        runs = after is not None and after.state in EXECUTING
        if runs and not ran and after is not None and not after.tampered:
            self._started(host, after, cause.split(" ")[0])
        if ran and not runs and before is not None and " " in cause and not before.tampered:
            self._stopped(before, cause)

    def _appeared(self, host: str, machine: Machine) -> None:
        """However late a request arrives: an attempt that was given up, and whose claim is gone, is never made."""
        rows = self._rows("SELECT attempt FROM instances WHERE uuid = ?", machine.instance)
        held = (machine.instance, machine.attempt, "vcpu", host) in self._claims
        if machine.arriving and not held:
            self.violated("I2", f"{machine.instance} attempt {machine.attempt} comes to {host} without a claim there")
        if rows and machine.attempt < rows[0][0] and not held:
            self.violated("I2", f"attempt {machine.attempt} of {machine.instance} was made on {host} without a claim")

    def _started(self, host: str, machine: Machine, by: str) -> None:
        for where, other in self._machines():
            same = other.instance == machine.instance and (other.uuid, where) != (machine.uuid, host)
            if same and other.state in EXECUTING and not other.tampered:
                self.violated("I1", f"{machine.instance} runs on {host} (attempt {machine.attempt}) and on {where}")
        rows = self._rows(
            "SELECT CASE WHEN ? THEN g.start_epoch ELSE g.go END, i.attempt, i.status, g.uuid, i.beside"
            " FROM instances i JOIN groups g ON g.uuid = i.group_uuid WHERE i.uuid = ?",
            machine.late,  # a resume of an earlier start that arrives after a restart: nothing could call it back
            machine.instance,
        )
        if rows and rows[0][4] and (gang := self.updates.gangs.get(rows[0][3])) is not None:
            rows = [(gang["start_epoch"] if machine.late else gang["go"], *rows[0][1:])]
        lost = machine.group in (self._lost_go if rows else self._had_go)
        if lost and (by in self._ended or by == "hypervisor"):
            return  # it was sent, or began to move, after GO, which is in no database any more, or is in none itself
        if not rows or not rows[0][0]:
            self.violated("I4", f"{machine.instance} runs before GO of its group is committed")
        elif not machine.late and (rows[0][1] != machine.attempt or rows[0][2] in ("Removed", "Pending", "Claimed")):
            self.violated("I3", f"{machine.instance} attempt {machine.attempt} was started; wanted is {rows[0][1:3]}")
        elif not machine.late and by != "hypervisor":  # one that moves live has started long ago
            for fellow in self.updates.started_before(machine.instance, self._served):
                self.violated("I18", f"{machine.instance} starts before {fellow} of a role before its own was ready")

    def _stopped(self, machine: Machine, cause: str) -> None:
        """A replica ended a running machine: somebody must have wanted that."""
        if not cause.endswith((" remove", " power_off", " shutdown")):
            return
        rows = self._rows("SELECT attempt, status FROM instances WHERE uuid = ?", machine.instance)
        if self._rows("SELECT 1 FROM quarantine WHERE key = ? AND removal", machine.uuid):
            return  # it was none of the member's
        if rows and rows[0][0] == machine.attempt and rows[0][1] not in LEAVING:
            self.violated("I3", f"{machine.instance} was ended by {cause} while it is {rows[0][1]}")
