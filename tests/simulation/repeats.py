"""Judges what workers ask hosts for: nothing twice, where the answer came and all is as it was left.

May not import anything of the service: what it expects is written down here a second time, on purpose.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.simulation.hosts import Machine
from tests.simulation.loop import Process

ONCE = frozenset({"create", "resume"})
"""Calls whose answer says all that there is to know. What ends a machine is asked for until it is seen gone."""


class Repeats:
    """Told of each call of a worker, when it is asked for and when its answer has come."""

    def __init__(self, violated: Callable[[str, str], None]) -> None:
        self._violated = violated
        self._answered: dict[tuple[str, tuple[str, int], str], tuple[Machine, int]] = {}

    def asked(self, name: str, lease: tuple[str, int] | None, machine: Machine | None, process: Process) -> None:
        """A worker asks a host for something. `machine`: as it is there now."""
        if name not in ONCE or lease is None or machine is None:
            return
        left, troubles = self._answered.get((name, lease, machine.uuid), (None, 0))
        # What the database did not take is not remembered, so that it may be asked for again.
        if left is machine and process.troubles == troubles:
            self._violated("I23", f"{name} of {machine.instance} is asked for again by its epoch, {lease[1]}")

    def answered(self, name: str, lease: tuple[str, int] | None, machine: Machine | None, process: Process) -> None:
        """The answer has come. `machine`: as it is there now."""
        if name in ONCE and lease is not None and machine is not None:
            self._answered[name, lease, machine.uuid] = machine, process.troubles
