"""Machines of the simulated fleet that are given out as a whole, and the judge of that, without code of the service."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.simulation.hosts import EXECUTING, TOMBSTONE, Conflict, Machine, SimulatedMachineHost

CLEANING = "c1ea0000000000000000000000000000"
"""What machines that clean have in a group's place."""
_CLEANERS = uuid.UUID("0b6f5f3e-6f0f-5a3c-8f0e-6d1c4e1ea401")

Query = Callable[..., Sequence[tuple[Any, ...]]]
GIB = 1 << 30
SHARE = 0.2
"""Of the seeds without a theme, how many have such machines."""


def cleaner_of(host: str) -> str:
    """What stands in an instance's place on the machine that cleans this host."""
    return uuid.uuid5(_CLEANERS, host).hex


class BareMetal:
    """Which hosts are such machines, and what must never happen with them (ARCHITECTURE I2)."""

    NEVER = 1e9
    """How many seconds a guest takes that does not do its work."""

    def __init__(
        self,
        rows: Query,
        machines: Callable[[], Sequence[tuple[str, Machine]]],
        violated: Callable[[str, str], None],
        now: Callable[[], float],
    ) -> None:
        self._rows = rows
        self._machines = machines
        self._violated = violated
        self.totals: dict[str, Mapping[str, int]] = {}
        self._now = now
        self._left: dict[str, str] = {}
        self._projects: dict[str, str] = {}
        self._several = ""
        self.grace = 30.0
        self.unanswered: set[str] = set()
        self.late: dict[str, str] = {}
        """Machines that are on by an order which took effect when its attempt was given up -> of which group."""

    def draw(self, seed: int, theme: str) -> Sequence[dict[str, int]]:
        """What the machines of this seed have, with dice of its own, so that all other seeds stay as they are."""
        dice = random.Random(f"bare metal {seed}")
        self._several = f"project {seed} " if theme == "metal" else ""
        self.grace = random.Random(f"grace {seed}").choice((3.0, 30.0, 60.0))
        if theme != "metal" and (theme or dice.random() >= SHARE):
            return ()
        count = dice.choice((2, 3, 3, 4))
        return [{"vcpu": dice.choice((2, 4, 8)), "memory": dice.choice((2, 4, 8)) * GIB} for _ in range(count)]

    def project(self, group: str) -> str:
        """Whose a group of this name is: several projects take turns on machines that are cleaned."""
        if not self._several:
            return "default"
        return random.Random(self._several + group).choice(("default", "default", "blue", "green"))

    def goes_on(self, host: SimulatedMachineHost, group: str, machine: str) -> None:
        """An order of long ago takes effect, unless it was answered since, where nothing is there: what is on the disks
        is back, as it was left."""
        there = any(m.state != TOMBSTONE for m in host.machines.values())
        if machine not in self.unanswered or not host.up or there:
            return
        self.unanswered.discard(machine)
        self.late[host.uuid] = group
        if group != CLEANING:
            self._left[host.uuid] = self._project_of(group)

    def goes_off(self, host: SimulatedMachineHost) -> None:
        """Its power is cut."""
        self.late.pop(host.uuid, None)

    def require_off(self, host: SimulatedMachineHost) -> None:
        """Raises Conflict while it is on for nobody."""
        if host.uuid in self.late:
            raise Conflict

    def unsettled(self) -> list[str]:
        """At peace no machine is on for nobody."""
        return [f"machine {host} is on by a late order of group {group}" for host, group in self.late.items()]

    def odds(self, usual: float) -> float:
        """How likely a group is deleted: machines go from one project to the other."""
        return 0.8 if self._several else usual

    def length(self, usual: float) -> float:
        """For how many seconds there are faults."""
        return 150.0 if self._several else usual

    def cleaning_seconds(self, host: str, attempt: int, boot: float) -> float:
        """How long a machine takes to be cleaned; some never are. Of dice of its own."""
        dice = random.Random(f"{self._several}{host} {attempt}")
        return self.NEVER if dice.random() < 0.25 else boot * dice.choice((2, 8))

    def cleaners(self) -> frozenset[str]:
        """What stands in an instance's place where a machine is being cleaned."""
        if not self._several:
            return frozenset()
        return frozenset(cleaner_of(host) for (host,) in self._rows("SELECT uuid FROM hosts WHERE cleaning != ''"))

    def committed(self) -> None:
        """After every transaction: each member is on a host of its type, alone on a machine, with all of it, and none
        is on one that is being cleaned, or could not be."""
        if not self.totals:
            return
        for host, state in self._rows(
            "SELECT uuid, cleaning FROM hosts WHERE cleaning != '' AND uuid IN (SELECT host_uuid FROM claims)"
        ):
            self._violated("I21", f"a member has the machine {host}, which is {state}")
        claimed: dict[str, dict[tuple[str, int], dict[str, int]]] = {}
        for host, instance, attempt, resource, amount in self._rows(
            "SELECT host_uuid, instance_uuid, attempt, resource, amount FROM claims"
        ):
            claimed.setdefault(host, {}).setdefault((instance, attempt), {})[resource] = amount
        types = {uuid: json.loads(spec)["type"] for uuid, spec in self._rows("SELECT uuid, spec FROM instances")}
        for host, those in claimed.items():
            whole = self.totals.get(host)
            if whole is not None and len(those) > 1:
                self._violated("I2", f"{len(those)} attempts have claims on the machine {host}: {sorted(those)}")
            for (instance, _), amounts in those.items():
                kind = types.get(instance)  # one that has left its group keeps its claim until its machine is gone
                if kind is not None and (kind == "BareMetal") != (whole is not None):
                    self._violated("I2", f"a member of type {kind} is on host {host}")
                elif whole is not None and amounts != whole:
                    self._violated("I2", f"of the machine {host} a member claims {amounts}, not all: {whole}")

    def changed(self, host: str, before: Machine | None, after: Machine | None) -> None:
        """After every change of a machine: one at most executes, and none where another project's has left anything."""
        if host in self.totals:
            self._leaves(host, before, after)
            if host in self.late and after is not None and after.state in EXECUTING:
                self._violated("I1", f"a guest executes on the machine {host}, which is on for {self.late[host]}")
            here = [m for where, m in self._machines() if where == host and m.state in EXECUTING and not m.tampered]
            if len(here) > 1:
                self._violated("I1", f"{len(here)} guests execute on the machine {host}")

    def _leaves(self, host: str, before: Machine | None, after: Machine | None) -> None:
        """What is on the disks of a machine: of whom, until a guest that cleans has run to its end."""
        ran = before is not None and before.state in EXECUTING
        runs = after is not None and after.state in EXECUTING
        ended = ran and not runs and before is not None and before.group == CLEANING
        if ended and before is not None and self._now() - before.resumed_at >= before.boot_seconds:
            self._left.pop(host, None)
        if not runs or ran or after is None or after.group == CLEANING or not after.ours:
            return
        project, left = self._project_of(after.group), self._left.get(host)
        if left is not None and left != project and self._several:
            self._violated(
                "I21", f"a member of project {project} runs on the machine {host}, which holds what {left} left"
            )
        self._left[host] = project

    def _project_of(self, group: str) -> str:
        if group not in self._projects:
            self._projects |= dict(self._rows("SELECT uuid, project FROM groups"))
        return self._projects.get(group, "")
