"""Machines of the simulated fleet that are given out as a whole, and the judge of that, without code of the service."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.simulation.hosts import EXECUTING, Machine

Query = Callable[..., Sequence[tuple[Any, ...]]]
GIB = 1 << 30
SHARE = 0.2
"""Of the seeds without a theme, how many have such machines."""


class BareMetal:
    """Which hosts are such machines, and what must never happen with them (ARCHITECTURE I2)."""

    def __init__(
        self,
        rows: Query,
        machines: Callable[[], Sequence[tuple[str, Machine]]],
        violated: Callable[[str, str], None],
    ) -> None:
        self._rows = rows
        self._machines = machines
        self._violated = violated
        self.totals: dict[str, Mapping[str, int]] = {}

    def draw(self, seed: int, theme: str) -> Sequence[dict[str, int]]:
        """What the machines of this seed have, with dice of its own, so that all other seeds stay as they are."""
        dice = random.Random(f"bare metal {seed}")
        if theme != "metal" and (theme or dice.random() >= SHARE):
            return ()
        count = dice.choice((2, 3, 3, 4))
        return [{"vcpu": dice.choice((2, 4, 8)), "memory": dice.choice((2, 4, 8)) * GIB} for _ in range(count)]

    def committed(self) -> None:
        """After every transaction: each member is on a host of its type, alone on a machine, with all of it."""
        if not self.totals:
            return
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
                if (types[instance] == "BareMetal") != (whole is not None):
                    self._violated("I2", f"a member of type {types[instance]} is on host {host}")
                elif whole is not None and amounts != whole:
                    self._violated("I2", f"of the machine {host} a member claims {amounts}, not all: {whole}")

    def changed(self, host: str) -> None:
        """After every change of a machine: one at most executes."""
        if host in self.totals:
            here = [m for where, m in self._machines() if where == host and m.state in EXECUTING and not m.tampered]
            if len(here) > 1:
                self._violated("I1", f"{len(here)} guests execute on the machine {host}")
