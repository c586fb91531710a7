"""Whether this process can do its work, and what an operator should know besides."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from service.domain.fleet import Overcommit
from service.errors import CorralError
from service.store import events, settings
from service.store.engine import Store

logger = logging.getLogger(__name__)


class Health:
    """`failing` and `notes` are told to whoever asks after the process's health; `compare` keeps the notes true."""

    def __init__(self, store: Store, overcommit: Overcommit) -> None:
        """`overcommit`: the fleet's own, as this process's configuration file says."""
        self._store = store
        self._overcommit = overcommit
        self._notes: dict[str, str] = {}

    @property
    def notes(self) -> Mapping[str, str]:
        """What is not as this process's configuration file says, by part; the process serves all the same."""
        return self._notes

    async def failing(self) -> Mapping[str, str]:
        """What does not work, by part; empty when all does."""
        try:
            await self._store.read(events.head)
        except CorralError as error:
            return {"store": error.message}
        return {}

    async def compare(self) -> None:
        """See whether another replica has put another overcommit in force. Raises Unavailable."""
        present = await self._store.read(settings.overcommit)
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


def shown(overcommit: Overcommit) -> str:
    """In words: every ratio and reserve that is named."""
    ratios = [f"{name} x {ratio}" for name, ratio in sorted(overcommit.ratios.items())]
    reserved = [f"{amount} {name} reserved" for name, amount in sorted(overcommit.reserved.items()) if amount]
    return ", ".join([*ratios, *reserved]) or "no overcommit"
