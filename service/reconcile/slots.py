"""What a worker has going on for each member of its group."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from service.domain.groups import Group
from service.lifecycle.effects import AwaitRoom, Dispatch, Effect, GiveWay, Observe, Plan, Quiesce, Take, Tell
from service.reconcile.outcomes import EffectResult

GANG, BESIDE, LEAVING = "gang", "gang beside", "the gang's leaving"
BACKOFF_FIRST_MS = 250
BACKOFF_MOST_MS = 10_000


@dataclass(slots=True)
class Slot:
    """What is going on for one member (or for the gang): at most one call at a time, and when to try again."""

    task: asyncio.Task[EffectResult] | None = None
    not_before: int = 0
    pause: int = BACKOFF_FIRST_MS
    observed_at: int = 0
    did: type | None = None
    hinted: bool = False

    def is_due(self, effect: Effect, steady: int) -> bool:
        """Whether it is to be done now (ms of a steady clock): what looks is done at its pace, or when hinted."""
        if not isinstance(effect, Observe | Tell | Take | Quiesce | AwaitRoom):
            return True
        anew = self.hinted or (isinstance(effect, Tell | Take | Quiesce) and self.did is not type(effect))
        if not anew and steady < self.observed_at + effect.every_ms:
            return False
        self.observed_at, self.did = steady, type(effect)
        return True


def key_of(effect: Effect, group: Group) -> str:
    """The slot that an effect runs in."""
    if isinstance(effect, GiveWay):
        return LEAVING
    if not isinstance(effect, Plan | Dispatch):
        return GANG if isinstance(effect, AwaitRoom) else effect.instance_uuid
    return BESIDE if group.instance(effect.instance_uuids[0]).beside else GANG
