"""Who goes first of those that wait for hosts. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

LEAST_POLL_MS = 10_000
POLL_MS_EACH = 200
MISSED_POLLS = 3


@dataclass(frozen=True, slots=True)
class Waiter:
    """A group that waits. `created_at`: ms, when it was accepted; `looked`: how often room had been given back when it
    was last seen not to fit; `looked_at`: when that was, ms."""

    uuid: str
    project: str
    created_at: int
    looked: int = 0
    looked_at: int = 0


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
    """Those whose project uses less go before the others, and of alike ones who has waited longer."""
    return sorted(waiters, key=lambda waiter: _key(waiter, shares))


def share(used: Mapping[str, int], limits: Mapping[str, int]) -> float:
    """How much of what it may have somebody uses, by the resource of which that is the most (the dominant share)."""
    return max((used.get(name, 0) / limit for name, limit in limits.items() if limit > 0), default=0.0)


def _key(waiter: Waiter, shares: Mapping[str, float]) -> tuple[float, int, str]:
    return round(shares.get(waiter.project, 0.0), 6), waiter.created_at, waiter.uuid
