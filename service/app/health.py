"""Whether this process can do its work, and what an operator should know besides."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping

from service.domain.fleet import Overcommit
from service.errors import CorralError
from service.store import clock, events, fencing, fleet, settings
from service.store.connection import Connection
from service.store.engine import Store
from service.store.transaction import NO_SPACE

logger = logging.getLogger(__name__)

PROVE_SECONDS = 5.0
FULL_HOLDS_SECONDS = 30.0
PROOF_HOLDS_SECONDS = 30.0
"""How long a successful write counts. A write that hangs is noticed when the last one is older than this."""


class Health:
    """`failing` and `notes` answer whoever asks for the process's health; `run` and `compare` keep them true."""

    def __init__(self, store: Store, overcommit: Overcommit) -> None:
        """`overcommit`: the fleet's own, as this process's configuration file says."""
        self._store = store
        self._overcommit = overcommit
        self._notes: dict[str, str] = {}
        self._trouble = ""
        self._proven_at = 0.0
        self._look_now = asyncio.Event()
        store.on_refusal(self._doubt)

    @property
    def notes(self) -> Mapping[str, str]:
        """What an operator should know by part: what is not as this process's configuration file says, and what is done
        about silent hosts, or why nothing is. The process serves all the same."""
        return self._notes

    async def failing(self) -> Mapping[str, str]:
        """What does not work, by part; empty when all does. A read is tried now, a write every PROVE_SECONDS."""
        try:
            await self._store.read(events.head)
        except CorralError as error:
            return {"store": error.message}
        silent = asyncio.get_running_loop().time() - self._proven_at
        if silent > PROOF_HOLDS_SECONDS and self._proven_at:
            return {"store": f"no write has ended for {silent:.0f} s"}
        return {"store": self._trouble} if self._trouble else {}

    async def run(self, told: Callable[[bool], None]) -> None:
        """Prove every PROVE_SECONDS, and whenever a write was refused, that the database can be written; `told` hears
        whether it could."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._look_now.wait(), PROVE_SECONDS)
            told(await self.prove())
            self._look_now.clear()

    def _doubt(self) -> None:
        """A write was refused: nobody is told that all is well until one has gone through."""
        if not self._trouble:
            self._look_now.set()

    async def prove(self) -> bool:
        """Write once, and remember what came of it; whether it was possible."""
        before = self._trouble
        try:
            await self._store.write(lambda c: settings.prove_write(c, clock.now(c)))
            self._trouble = NO_SPACE if self._lately_full() else ""
        except CorralError as error:
            self._trouble = error.message
        self._proven_at = asyncio.get_running_loop().time()
        if self._trouble and self._trouble != before:
            logger.error("not ready: %s", self._trouble)
        elif before and not self._trouble:
            logger.info("ready again: the database can be written")
        return not self._trouble

    def _lately_full(self) -> bool:
        """Whether a write found no space a short while ago. PostgreSQL writes one small row over, as the proof does, in
        pages and log files that it has, where it can add nothing."""
        full_at = None if self._store.sqlite else self._store.full_at
        return full_at is not None and asyncio.get_running_loop().time() < full_at + FULL_HOLDS_SECONDS

    async def compare(self) -> None:
        """See whether another replica has put another overcommit in force, and what is thought of silent hosts. Called
        when the fleet has changed. Raises Unavailable."""
        present, silent = await self._store.read(lambda c: (settings.overcommit(c), _silent(c)))
        if silent:
            self._notes["fencing"] = silent
        else:
            self._notes.pop("fencing", None)
        if present == self._overcommit:
            if self._notes.pop("overcommit", None):
                logger.info("the fleet's overcommit is as this configuration file says again")
            return
        told = (
            f"this configuration file says {shown(self._overcommit)}, but {shown(present)} is in force: another "
            "replica was started later with another file; give all replicas the same [overcommit] and restart them"
        )
        if self._notes.get("overcommit") != told:
            logger.warning("[overcommit]: %s", told)
        self._notes["overcommit"] = told


def _silent(connection: Connection) -> str:
    """What is done about hosts that are silent and may be fenced by the service itself, or why not; empty: none is."""
    verdicts = fencing.verdicts(connection)
    if not verdicts:
        return ""
    hosts = fleet.hosts(connection, sorted(verdicts))
    return "; ".join(
        f"host {host.name} ({host.fencing.value}): {verdicts[host.uuid].rule.value}: {verdicts[host.uuid].reason}"
        for host in sorted(hosts.values(), key=lambda one: one.name)
    )


def shown(overcommit: Overcommit) -> str:
    """In words: every ratio and reserve that is named."""
    ratios = [f"{name} x {ratio}" for name, ratio in sorted(overcommit.ratios.items())]
    reserved = [f"{amount} {name} reserved" for name, amount in sorted(overcommit.reserved.items()) if amount]
    return ", ".join([*ratios, *reserved]) or "no overcommit"
