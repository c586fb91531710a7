"""What runs in a planner process: it keeps the fleet's last snapshot with its class index, and takes changes to it.

The solvers are loaded by `load`, once the service serves, or by work that needs them before.
"""

from __future__ import annotations

import ctypes
import gc
import math
import os
import pickle
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from placement.model import Decision, Flavour, Host, Node, Policy, Request, Snapshot
from placement.modes.moves import Evictions, Leaving, MadeRoom, Neighbours
from placement.modes.plans import Limits, Rebalance, Roll
from placement.stop import Stop
from service.planning.planner import (
    count_room,
    evictions_verified,
    place_verified,
    rebalance_verified,
    roll_verified,
    room_verified,
)

if TYPE_CHECKING:
    from placement.modes.capacity import Room

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Flag(Protocol):
    """A number in memory that both processes see."""

    value: int


@dataclass(frozen=True, slots=True)
class Change:
    """From the fleet of version `base` to that of `version`; base 0: from no host at all; both equal: no change."""

    base: int
    version: int
    changed: tuple[Host, ...]
    removed: frozenset[str]


@dataclass(frozen=True, slots=True)
class Place:
    """Work: a gang to place."""

    request: Request
    policy: Policy

    def run(self, snapshot: Snapshot, stop: Stop) -> Decision:
        """The verified Decision. Raises InvariantViolation."""
        return place_verified(snapshot, self.request, self.policy, stop)


@dataclass(frozen=True, slots=True)
class CountRoom:
    """Work: how many more of a node fit."""

    node: Node

    def run(self, snapshot: Snapshot, stop: Stop) -> Room:
        """The room."""
        return count_room(snapshot, self.node, stop)


@dataclass(frozen=True, slots=True)
class MakeRoom:
    """Work: which members have to move so that a gang fits."""

    request: Request
    neighbours: tuple[Neighbours, ...]

    def run(self, snapshot: Snapshot, stop: Stop) -> MadeRoom:
        """The verified moves. Raises InvariantViolation."""
        return room_verified(snapshot, self.request, self.neighbours, stop)


@dataclass(frozen=True, slots=True)
class Evict:
    """Work: which groups have to go, and who moves then, so that a gang fits."""

    request: Request
    leaving: tuple[Leaving, ...]
    neighbours: tuple[Neighbours, ...]

    def run(self, snapshot: Snapshot, stop: Stop) -> Evictions:
        """The verified plan. Raises InvariantViolation."""
        return evictions_verified(snapshot, self.request, self.leaving, self.neighbours, stop)


@dataclass(frozen=True, slots=True)
class Balance:
    """Work: which members move so that rules hold again and hosts are evenly full."""

    groups: tuple[Neighbours, ...]
    limits: Limits

    def run(self, snapshot: Snapshot, stop: Stop) -> Rebalance:
        """The verified moves. Raises InvariantViolation."""
        return rebalance_verified(snapshot, self.groups, self.limits, stop)


@dataclass(frozen=True, slots=True)
class RollHosts:
    """Work: an order in which hosts are emptied, some at a time."""

    groups: tuple[Neighbours, ...]
    hosts: tuple[str, ...]
    at_once: int

    def run(self, snapshot: Snapshot, stop: Stop) -> Roll:
        """The verified order. Raises InvariantViolation."""
        return roll_verified(snapshot, self.groups, self.hosts, self.at_once, stop)


Work = Place | CountRoom | MakeRoom | Evict | Balance | RollHosts


@dataclass(frozen=True, slots=True)
class Time:
    """What an order may take: `budget` seconds from its begin, and until `answer_by` at the latest.

    `answer_by` is of `time.monotonic`, a clock that all processes of a machine share.
    """

    budget: float
    answer_by: float = math.inf

    def deadline(self) -> float:
        """When work that begins now has to end."""
        return min(time.monotonic() + self.budget, self.answer_by)


@dataclass(frozen=True, slots=True)
class Order:
    """One piece of work. `change`: a pickled `Change` that makes the kept fleet the one to work on.

    `ticket`: rises with every order of a process; the work stops early once the shared flag has reached it.
    """

    ticket: int
    time: Time
    change: bytes
    flavours: tuple[Flavour, ...]
    revision: str
    work: Work


@dataclass(frozen=True, slots=True)
class Reply:
    """`result`: of the work, None where the change was not made for the fleet that is kept here.

    `stopped`: the work heard that it should end before it was done.
    """

    result: Decision | Room | MadeRoom | Evictions | Rebalance | Roll | None
    stopped: bool = False


class Keeper:
    """The fleet that this process knows, and the work on it. `flag`: the greatest ticket that shall stop."""

    def __init__(self, flag: Flag) -> None:
        self._flag = flag
        self._version = 0
        self._fleet = Snapshot(())

    def apply(self, change: Change) -> bool:
        """Take the change in; False where it begins with another version than the one that is kept."""
        if change.base == 0:
            self._fleet = Snapshot(change.changed)
        elif change.base == self._version:
            if change.version == self._version:
                return True
            self._fleet = self._fleet.updated(change.changed, change.removed)
        else:
            return False
        self._version = change.version
        return True

    def index(self) -> None:
        """Make the class index of the kept fleet, where that is not made yet."""
        from placement.problem.index import index_of

        index_of(self._fleet)

    def run(self, order: Order) -> Reply:
        """Do the work of an order. Raises InvariantViolation, InvalidPlacementInput."""
        if not self.apply(pickle.loads(order.change)):  # our own parent wrote it
            return Reply(None)
        self.index()  # before the clock runs: the budget is of the search
        snapshot = self._fleet.updated(flavours=order.flavours, version=order.revision)
        heard = False
        deadline = order.time.deadline()

        def stop() -> bool:
            nonlocal heard
            heard = heard or self._flag.value >= order.ticket or time.monotonic() >= deadline
            return heard

        result = order.work.run(snapshot, stop)
        return Reply(result, heard)


_keeper: Keeper


def run(order: Order) -> Reply:
    """An order in the process that `begin` made."""
    return _keeper.run(order)


def load() -> None:
    """Load the solvers, so that no plan's deadline passes while one is loaded: 50 ms each.

    What is there by then stays for good, and no collection in the middle of a plan looks at it again: 12 ms each time.
    """
    from placement.exact import cp_sat, master

    cp_sat.library()
    master.library()
    gc.collect()
    gc.freeze()


def begin(parent: int, flag: Flag) -> None:
    """What a process does first: leave Ctrl-C to the service, and end with it, however it ends.

    A worker waits on a pipe that its siblings hold open too, so a service killed with -9 would leave them for ever.
    """
    global _keeper
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the request was made
        os._exit(1)
    _keeper = Keeper(flag)
