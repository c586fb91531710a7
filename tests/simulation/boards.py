"""BMCs of the simulated hypervisors, and the judge of fences, without code of the service.

A BMC answers late, never, or with a lie; an order may arrive after whoever gave it is gone. The judge looks at hosts,
at who reaches them, and at rows.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.simulation.hosts import SimulatedMachineHost

Query = Callable[..., Sequence[tuple[Any, ...]]]
THEME = "fence"
SHARE = 0.06
"""Of the seeds without a theme, how many are about fences."""
WATCH_SECONDS = 1.0
HEARD_SECONDS = 25.0
"""Who reaches a host says so in its row within 20 s, and asks it every 5 s."""
SHORT_SECONDS = 45.0
"""Silence that a process may not have seen yet."""
MOST_IN_AN_HOUR, MOST_AT_A_TIME = 2, 2


def drawn(seed: int) -> bool:
    """Whether a seed without a theme has this one. Of dice of its own, so that all others stay as they are."""
    return random.Random(f"fence {seed}").random() < SHARE


def in_turn(seed: int) -> bool:
    """Whether in this seed hosts fall silent one after the other, each for good: that is what an hour's most is for."""
    return random.Random(f"in turn {seed}").random() < 0.4


def from_one(seed: int) -> bool:
    """Whether in this seed one host at a time says nothing to the process that judges hosts, or its daemon says nothing
    to anybody, for as long as a dead one: others reach it, or its kernel lives."""
    return not in_turn(seed) and random.Random(f"from one {seed}").random() < 0.5


def fewest(seed: int) -> int:
    """Of how many hosts there are at least: where hosts fall silent in turn two may be gone, and most others answer."""
    return 6 if in_turn(seed) or from_one(seed) else 3


def length(seed: int, dice: random.Random) -> float:
    """For how many seconds hosts fall silent."""
    return max(dice.choice((200.0, 300.0, 420.0)), 560.0 * in_turn(seed))


class Board:
    """The BMC of one host. `wired_to`: the host whose power it switches, which may not be the one that names it."""

    def __init__(self, wired_to: SimulatedMachineHost, dice: random.Random) -> None:
        self.host = wired_to
        self.dead_until = 0.0
        self.session = 0
        self.lies_until = 0.0
        all_of_them = ("silent", "lost", "late", "lies")
        self.moods = dice.choice(((), ("silent",), ("lost",), ("lies",), ("lies",), ("late",), all_of_them))


class Boards:
    """All of them, and what must never happen with fences (ARCHITECTURE I1, I15)."""

    def __init__(
        self,
        rows: Query,
        hosts: Mapping[str, SimulatedMachineHost],
        now: Callable[[], float],
        reached: Callable[[SimulatedMachineHost], bool],
        lives: Callable[[SimulatedMachineHost], bool],
        violated: Callable[[str, str], None],
    ) -> None:
        """`reached(host)`: whether any replica that lives reaches it now; `lives(host)`: whether its kernel answers
        them all."""
        self._rows = rows
        self._hosts = hosts
        self._now = now
        self._reached = reached
        self._lives = lives
        self._violated = violated
        self.boards: dict[str, Board] = {}
        self.miswired: set[str] = set()
        self.switched_off: list[str] = []
        self._unreached_since: dict[str, float] = {}
        self._last_unreached: dict[str, float] = {}
        self._last_mute: dict[str, float] = {}
        self._off_at: dict[str, float] = {}
        self._known: dict[str, str] = {}

    def make(self, seed: int) -> None:
        """A BMC for each host; now and then two are wired to one another's."""
        dice = random.Random(f"boards {seed}")
        names = list(self._hosts)
        wired = dict(zip(names, names, strict=True))
        if len(names) > 1 and dice.random() < 0.2:
            one, two = dice.sample(names, 2)
            wired[one], wired[two] = two, one
            self.miswired = {one, two}
        self.boards = {name: Board(self._hosts[to], dice) for name, to in wired.items()}

    def watch(self) -> None:
        """Look who reaches whom, and who is off."""
        now = self._now()
        for uuid, host in self._hosts.items():
            if not host.up:
                self._off_at[uuid] = now
            if not self._lives(host):
                self._last_mute[uuid] = now
            if host.up and self._reached(host):
                self._unreached_since.pop(uuid, None)
            else:
                self._unreached_since.setdefault(uuid, now)
                self._last_unreached[uuid] = now

    def ordered(self, host: SimulatedMachineHost) -> None:
        """The power of a host that is on is cut now, by its BMC."""
        self.watch()
        now, uuid = self._now(), host.uuid
        self.switched_off.append(host.name)
        found = self._rows(
            "SELECT f.cause, f.state, h.state FROM fences f JOIN hosts h ON h.uuid = f.host_uuid WHERE f.host_uuid = ?"
            " ORDER BY f.asked_at DESC LIMIT 1", uuid
        )  # fmt: skip
        if not found or found[0][1] == "Ordered":
            self._violated("I15", f"host {host.name} is switched off, and no record says that it may be")
            return
        closed = {of for (of,) in self._rows("SELECT uuid FROM hosts WHERE state = 'Maintenance'")}
        silent = [u for u, since in self._unreached_since.items() if now - since > SHORT_SECONDS and u not in closed]
        if found[0][0] == "Silence" and len(silent) > MOST_AT_A_TIME:
            self._violated("I15", f"host {host.name} is switched off while {len(silent)} hosts are silent")
        if found[0][0] == "Silence":
            self._must_be_dead(uuid, "switched off")

    def _must_be_dead(self, uuid: str, what: str) -> None:
        """Nobody who could say so reaches the host, and its kernel does not answer them all."""
        now, name = self._now(), self._hosts[uuid].name
        if (heard := now - self._last_unreached.get(uuid, -1e9)) > HEARD_SECONDS:
            self._violated("I15", f"host {name} is {what}, and was reached for {heard:.0f} s")
        if (lived := now - self._last_mute.get(uuid, -1e9)) > HEARD_SECONDS:
            self._violated("I15", f"host {name} is {what}, and its kernel answered for {lived:.0f} s")

    def committed(self) -> None:
        """After every transaction: fences that began, and those that are over."""
        if not self.boards:
            return
        for uuid, host, cause, state in self._rows("SELECT uuid, host_uuid, cause, state FROM fences"):
            before = self._known.get(uuid)
            if before == state:
                continue
            self._known[uuid] = state
            if before is None and cause == "Silence":
                self._began(host)
            if state == "Fenced":
                self._is_off(host)

    def _began(self, host: str) -> None:
        closed = {uuid for (uuid,) in self._rows("SELECT uuid FROM hosts WHERE state = 'Maintenance'")}
        if host in closed:
            self._violated("I15", f"host {host} is fenced by itself, and is under maintenance")
        self.watch()
        self._must_be_dead(host, "fenced by itself")
        (count,) = self._rows(
            "SELECT count(*) FROM fences WHERE cause = 'Silence' AND (orders > 0 OR state != 'Withdrawn')"
        )[0]
        if count > MOST_IN_AN_HOUR:
            self._violated("I15", f"{count} hosts are fenced by the service in less than an hour")
        (under_way,) = self._rows("SELECT count(*) FROM fences WHERE state IN ('Ordered', 'Sending')")[0]
        if under_way > 1:
            self._violated("I15", f"{under_way} fences are under way when one by the service begins")

    def _is_off(self, host: str) -> None:
        there = self._hosts[host]
        if there.up and self._now() - self._off_at.get(host, -1e9) > 60.0:
            self._violated("I1", f"host {there.name} counts as fenced, and was not off")
