"""What one part of a process tells the others at once: made first, then handed to those who speak and who listen.

A signal only shortens the time until somebody looks: what is true stands in the store, and other replicas hear nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, ParamSpec

P = ParamSpec("P")


class Signal(Generic[P]):
    """One thing that can be told. Listeners are called in the order in which they came, on the teller's thread."""

    def __init__(self) -> None:
        self._listeners: list[Callable[P, None]] = []

    def listen(self, listener: Callable[P, None]) -> None:
        """Call `listener` each time from now on."""
        self._listeners.append(listener)

    def __call__(self, *arguments: P.args, **named: P.kwargs) -> None:
        """Tell every listener."""
        for listener in self._listeners:
            listener(*arguments, **named)


class Signals:
    """The signals of one process. All are told on the event loop, after the commit that they speak of.

    `group_due(uuid)`: somebody's intent for the group was stored. `fleet_changed()`: zones, hosts or the catalogue did.
    """

    def __init__(self) -> None:
        self.group_due: Signal[[str]] = Signal()
        self.fleet_changed: Signal[[]] = Signal()
