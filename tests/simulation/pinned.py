"""Hosts of the simulated fleet that have NUMA cells, and the judge of who is pinned, without code of the service."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.simulation.hosts import TOMBSTONE, Machine

Query = Callable[..., Sequence[tuple[Any, ...]]]
SHARE = 0.25
"""Of the seeds without a theme, how many have such hosts."""
PARTS = ("vcpu", "memory")
SEATED = frozenset({"Claimed", "Creating", "Created", "Booting", "Running", "Stopping", "Stopped"})


class Pinned:
    """Which seeds have cells, and what must hold there of every commit (ARCHITECTURE I2)."""

    def __init__(
        self,
        rows: Query,
        machines: Callable[[], Sequence[tuple[str, Machine]]],
        violated: Callable[[str, str], None],
    ) -> None:
        self._rows = rows
        self._machines = machines
        self._violated = violated
        self.adopted: set[str] = set()
        self._dice: random.Random | None = None

    def draw(self, seed: int, theme: str) -> None:
        """Whether this seed has cells, with dice of its own, so that all other seeds stay as they are."""
        dice = random.Random(f"cells {seed}")
        share = {"cells": 1.0, "": SHARE}.get(theme, 0.0)
        if dice.random() < share:
            self._dice = dice

    def divide(self, total: Mapping[str, int]) -> dict[str, int]:
        """What a host tells that has this: the same, and mostly two cells of it."""
        if self._dice is None or self._dice.random() < 0.2:
            return dict(total)
        halves = {f"cell.{cell}.{name}": total[name] // 2 for cell in (0, 1) for name in PARTS}
        return {**total, **halves}

    def policy(self, name: str) -> str:
        """What the group of this name asks for."""
        if self._dice is None:
            return "none"
        return random.Random(f"cells of {name}").choice(("none", "preferred", "required", "required"))

    def committed(self) -> None:
        """After every transaction: whoever is pinned claims all of its size of its cell, and who must be is."""
        if self._dice is None:
            return
        claimed: dict[tuple[str, int, str], dict[int, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
        for instance, attempt, host, resource, amount in self._rows(
            "SELECT instance_uuid, attempt, host_uuid, resource, amount FROM claims WHERE resource LIKE 'cell.%'"
        ):
            _, cell, name = resource.split(".")
            claimed[instance, attempt, host][int(cell)][name] = amount
        for uuid, attempt, status, spec, group_uuid, text, seat, target in self._rows(
            "SELECT i.uuid, i.attempt, i.status, i.spec, i.group_uuid, g.spec, i.host_uuid || ' ' || i.cells,"
            " i.target_host_uuid || ' ' || i.target_cells FROM instances i JOIN groups g ON g.uuid = i.group_uuid"
        ):
            if status not in SEATED or group_uuid in self.adopted:
                continue
            node, numa = json.loads(spec), json.loads(text)["placement"]["numa"]
            whole = {"vcpu": node["cpu_num"], "memory": node["memory_size"]}
            for host, _, cells in (where.partition(" ") for where in (seat, target)):
                there = {cell: amounts for cell, amounts in claimed[uuid, attempt, host].items() if amounts}
                if there != dict.fromkeys(json.loads(cells), whole):
                    self._violated("I2", f"member {uuid} is pinned to {cells} of {host} and claims {there}")
                elif host and numa == "required" and len(there) != 1 and node["type"] == "VirtualMachine":
                    self._violated("I9", f"member {uuid} must have one cell of {host}, and has {cells}")

    def changed(self, host: str) -> None:
        """After every change of a machine: one that a member claims for there is confined to the cells of the claim."""
        if self._dice is None:
            return
        claimed = {
            (instance, attempt, resource): amount
            for instance, attempt, resource, amount in self._rows(
                "SELECT instance_uuid, attempt, resource, amount FROM claims WHERE host_uuid = ?", host
            )
        }
        for where, machine in self._machines():
            key = machine.instance, machine.attempt
            if where != host or machine.state == TOMBSTONE or machine.tampered or (*key, "vcpu") not in claimed:
                continue
            confined = {name: amount for name, amount in machine.amounts if name.startswith("cell.")}
            wanted = {n: a for (*of, n), a in claimed.items() if tuple(of) == key and n.startswith("cell.")}
            if confined != wanted and machine.group not in self.adopted:
                self._violated("I2", f"machine {key} on {host} is confined to {confined}, its claim is {wanted}")
