"""Who goes first of those that wait for hosts. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from service.domain.groups import Waiting
from service.errors import NoCapacity

LEAST_POLL_MS = 10_000
POLL_MS_EACH = 200
MISSED_POLLS = 3
KEPT_AFTER_MS = 600_000
"""Whoever is the first in line for so long, with no start that is proven, has what becomes free on his hosts kept."""


@dataclass(frozen=True, slots=True)
class Waiter:
    """A group that waits. `created_at`: ms, when it was accepted; `priority`: the higher goes first; `looked`: how
    often room had been given back when it was last seen not to fit; `looked_at`: when that was, ms; `why`: an error
    reason; `kept`: whether room is kept for it."""

    uuid: str
    project: str
    created_at: int
    looked: int = 0
    looked_at: int = 0
    why: str = ""
    kept: bool = False
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Queue:
    """All who wait, the first first. `given_back`: how often room was given back so far; `as_of`: ms."""

    waiters: Sequence[Waiter] = ()
    given_back: int = 0
    as_of: int = 0

    def ahead(self, waiter: Waiter, shares: Mapping[str, float]) -> Sequence[Waiter]:
        """Those that go before this one, which may wait already or not."""
        mine = _key(waiter, shares)
        return [other for other in self.waiters if other.uuid != waiter.uuid and _key(other, shares) < mine]

    @property
    def poll_ms(self) -> int:
        """How often each of them looks though nothing was given back: hosts may have come, or have become larger. The
        more wait, the less often."""
        return max(LEAST_POLL_MS, POLL_MS_EACH * len(self.waiters))

    def owed(self, waiters: Iterable[Waiter]) -> list[Waiter]:
        """Those of them that have not looked since room was given back the last time, and may do so any moment.

        Whoever has not looked for long is held up by something else, and holds up nobody.
        """
        held_up = self.as_of - MISSED_POLLS * self.poll_ms
        return [w for w in waiters if w.looked < self.given_back and w.looked_at > held_up]


def ordered(waiters: Iterable[Waiter], shares: Mapping[str, float]) -> list[Waiter]:
    """A higher priority goes first; then those whose project uses less, and of alike ones who has waited longer."""
    return sorted(waiters, key=lambda waiter: _key(waiter, shares))


def share(used: Mapping[str, int], limits: Mapping[str, int]) -> float:
    """How much of what it may have somebody uses, by the resource of which that is the most (the dominant share)."""
    return max((used.get(name, 0) / limit for name, limit in limits.items() if limit > 0), default=0.0)


def _key(waiter: Waiter, shares: Mapping[str, float]) -> tuple[int, float, int, str]:
    return -waiter.priority, round(shares.get(waiter.project, 0.0), 6), waiter.created_at, waiter.uuid


def first_for_hosts(ahead: Iterable[Waiter]) -> bool:
    """Whether nobody of those ahead waits for hosts: what they wait for else takes no host from anybody."""
    return all(waiter.why != NoCapacity.reason for waiter in ahead)


def keeper(ahead: Iterable[Waiter]) -> Waiter | None:
    """The one of those ahead, the first first, whose room is left alone; there is one at a time."""
    return next((waiter for waiter in ahead if waiter.kept), None)


def long_enough(waiting: Waiting, starts_at: int, now: int, after_ms: int = KEPT_AFTER_MS) -> bool:
    """Whether what becomes free is kept for the first in line, whoever goes or not: no start is proven (`starts_at`,
    ms), or the first that was has passed, since somebody has stayed beyond what he said. `after_ms` 0: never."""
    broken = 0 < waiting.promised_at <= now
    return bool(waiting.since and after_ms) and now >= waiting.since + after_ms and (not starts_at or broken)
