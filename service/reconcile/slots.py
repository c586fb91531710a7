"""What a worker has going on for each member of its group."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from service.reconcile.calls import EffectResult

BACKOFF_FIRST_MS = 250
BACKOFF_MOST_MS = 10_000


@dataclass(slots=True)
class Slot:
    """What is going on for one member (or for the gang): at most one call at a time, and when to try again."""

    task: asyncio.Task[EffectResult] | None = None
    not_before: int = 0
    pause: int = BACKOFF_FIRST_MS
    observed_at: int = 0
    tells: bool = False
    hinted: bool = False
