"""What a driver of machines remembers of them, as a port: the store has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from service.domain.seats import Seating, SeatOf, Seed


class Seats(Protocol):
    """The seats of all machines. Every method raises HostUnreachable where what remembers them does not answer."""

    async def on(self, host_id: str) -> Sequence[Seating]:
        """All seats of a machine, those that are revoked among them, and what is kept of those that were given up."""
        ...

    async def take(self, host_id: str, seating: Seating, token: str, seed: Seed) -> None:
        """The attempt sits there, not started, and boots from this seed. A seat that it had gets the new token.

        Raises SeatTaken.
        """
        ...

    async def start(self, host_id: str, of: SeatOf, *, started: bool) -> None:
        """Remember that it is about to be let run, or that it certainly was not. Raises SeatTaken where it was revoked
        or is gone."""
        ...

    async def answered(self, host_id: str, of: SeatOf) -> None:
        """Remember that the order to let it run has taken effect: it does not come later any more."""
        ...

    async def came_late(self, host_id: str, of: SeatOf) -> None:
        """Remember that the machine ran for an attempt that was given up, and is off again."""
        ...

    async def leave(self, host_id: str, of: SeatOf, *, revoked: bool) -> None:
        """Give up the seat, the one that is revoked or the one that is not. What it was known by is kept a while."""
        ...

    async def revoke(self, host_id: str, of: SeatOf) -> None:
        """Give the attempt up for ever, whether or not it has a seat."""
        ...

    def listen(self, host_id: str, hear: Callable[[SeatOf], None]) -> None:
        """Call `hear` whenever a guest of the machine tells this process something new."""
        ...
