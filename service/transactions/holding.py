"""The lease that a deploy's own commit takes: whoever accepts a group works on it at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from service.domain.groups import Group
from service.store.groups import Held


class Offer(NamedTuple):
    """Somebody who would work on one more group. `owner`: as whom; `lease_ms`: for how long at first; `asked_at`: the
    event loop's time (s) before the transaction that takes the lease: it seems shorter than it is, never longer."""

    owner: str
    lease_ms: int
    asked_at: float

    def held(self, now: int) -> Held:
        """The lease's columns at `now` (ms)."""
        return Held(self.owner, now + self.lease_ms)


class Holder(Protocol):
    """Who works on groups in this process."""

    def offer(self) -> Offer | None:
        """Before the transaction; None: the group is left to whoever looks for what is due."""

    def hold(self, offer: Offer, group: Group, now: int, *, fresh: bool) -> None:
        """The group was committed so, with the offered lease, at `now` (ms). `fresh`: its uuid was nobody's before."""

    def unsure(self, uuids: Sequence[str]) -> None:
        """Whether these were committed with the offered lease is not known, or nobody waited for it."""
