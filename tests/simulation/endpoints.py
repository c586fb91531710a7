"""The addresses that groups keep while their heads change: what must never happen, judged from rows and hosts alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from typing import Any

from tests.simulation.hosts import EXECUTING, Machine

Query = Callable[..., Sequence[tuple[Any, ...]]]
Machines = Callable[[], Iterable[tuple[str, Machine]]]


class Endpoints:
    """Told of every change of a machine, and asked at every commit."""

    def __init__(self, rows: Query, violated: Callable[[str, str], None], machines: Machines) -> None:
        self._rows = rows
        self._violated = violated
        self._machines = machines
        self.cleaners: Callable[[], frozenset[str]] = frozenset
        """What cleans machines has an address meanwhile, and is no member."""

    def keeping(self) -> Set[str]:
        """Groups that may have an address in their own name."""
        where = "endpoint IS NOT NULL AND phase NOT IN ('deleted', 'failed')"
        return {uuid for (uuid,) in self._rows(f"SELECT uuid FROM groups WHERE {where}")} | self.cleaners()

    def is_let_go(self, address: str, holder: tuple[str, int], after: tuple[str, int] | None) -> bool:
        """Whether the member that had the address has it no more. What becomes its group's stays taken; what was a
        group's and is nobody's is on no machine any more."""
        if after is not None and after[0] == holder[0]:
            return False
        if holder[1]:
            group = self._rows("SELECT group_uuid FROM instances WHERE uuid = ?", holder[0])
            return after is None or after[1] > 0 or not group or group[0][0] != after[0]
        for host, machine in self._machines():
            if self._counts(machine) and machine.endpoint == address:
                self._violated("I17", f"{address} was given back, and {machine.instance} on {host} answers there")
        return False

    def machine_changed(self, machine: Machine | None) -> None:
        """No two machines answer at one address."""
        if machine is None or not self._counts(machine):
            return
        mine = {machine.address, machine.endpoint} - {""}
        for host, other in self._machines():
            if other.instance == machine.instance or not self._counts(other):
                continue
            for address in sorted(mine & {other.address, other.endpoint}):
                if address in (machine.endpoint, other.endpoint):
                    self._violated("I17", f"{machine.instance} and {other.instance} on {host} answer at {address}")

    @staticmethod
    def _counts(machine: Machine) -> bool:
        return machine.ours and machine.state in EXECUTING and not machine.tampered and not machine.late
