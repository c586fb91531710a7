"""Seats of machines for their drivers, and what machines themselves ask for: their seed, and to report."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from service.domain.seats import Report, Seating, SeatOf, Seed
from service.drivers.base import HostUnreachable
from service.errors import CorralError
from service.store import left_seats, seats
from service.store.connection import Connection
from service.store.engine import Store


class StoredSeats:
    """`Seats` of the drivers by the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._hear: dict[str, list[Callable[[SeatOf], None]]] = defaultdict(list)

    async def on(self, host_id: str) -> Sequence[Seating]:
        """See Seats."""
        try:
            return await self._store.read(lambda c: seats.on_host(c, host_id))
        except CorralError as error:
            raise HostUnreachable("what is recorded of the machine cannot be read", str(error)) from error

    async def take(self, host_id: str, seating: Seating, token: str, seed: Seed) -> None:
        """See Seats."""
        await self._write(lambda c: seats.take(c, host_id, seating, token, seed))

    async def start(self, host_id: str, of: SeatOf, *, started: bool) -> None:
        """See Seats."""
        await self._write(lambda c: seats.start(c, host_id, of, started))

    async def answered(self, host_id: str, of: SeatOf) -> None:
        """See Seats."""
        await self._write(lambda c: left_seats.answered(c, host_id, of))

    async def came_late(self, host_id: str, of: SeatOf) -> None:
        """See Seats."""
        await self._write(lambda c: left_seats.came_late(c, host_id, of))

    async def leave(self, host_id: str, of: SeatOf, *, revoked: bool) -> None:
        """See Seats."""
        await self._write(lambda c: seats.leave(c, host_id, of, revoked=revoked))

    async def revoke(self, host_id: str, of: SeatOf) -> None:
        """See Seats."""
        await self._write(lambda c: seats.revoke(c, host_id, of))

    def listen(self, host_id: str, hear: Callable[[SeatOf], None]) -> None:
        """See Seats."""
        self._hear[host_id].append(hear)

    async def seed(self, token: str) -> Seed | None:
        """What the token's bearer boots from; None where it was given up, or nobody knows it. Raises Unavailable."""
        return await self._store.read(lambda c: seats.seed(c, token))

    async def report(self, token: str, report: Report) -> bool:
        """Keep what the token's bearer says, and tell who waits for it where that is news: who is told looks at the
        machine, and guests repeat themselves. False where it was given up, was never let run, or nobody knows it.
        Raises Unavailable."""
        known = await self._store.write(lambda c: seats.reported(c, token, report))
        if known is None:
            return False
        host, of, news = known
        for hear in self._hear.get(host, ()) if news else ():
            hear(of)
        return True

    async def _write(self, work: Callable[[Connection], None]) -> None:
        try:
            await self._store.write(work)
        except CorralError as error:
            raise HostUnreachable("what is recorded of the machine cannot be written", str(error)) from error
