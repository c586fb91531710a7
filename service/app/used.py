"""What guests take of their hosts just now, as this process's probes measured it. Nothing of it is stored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Protocol

from service.domain.fleet import MEMORY

TOLD_SECONDS = 5.0
"""So often those who look are told; hosts are not measured oftener."""
_VCPU_STEP = 0.1
_MEMORY_STEP = 64 << 20
"""What changed by less is no news."""


class Measured(Protocol):
    """A host that is looked at."""

    @property
    def used(self) -> Mapping[str, float]:
        """By resource; one that was not measured, or not lately, is absent."""
        ...


@dataclass(frozen=True, slots=True)
class UsedNews:
    """What changed, by host; empty of one of which nothing is known any more."""

    hosts: Mapping[str, Mapping[str, float]]


class Used:
    """All hosts'. `measured`: by uuid, as they come and go."""

    def __init__(self, measured: Mapping[str, Measured]) -> None:
        self._measured = measured

    def of(self, host_uuid: str) -> Mapping[str, float]:
        """One host's; empty where nothing is known."""
        one = self._measured.get(host_uuid)
        return {} if one is None else one.used

    async def watch(self) -> AsyncGenerator[UsedNews, None]:
        """First of all hosts that have something to tell, then what changed, every TOLD_SECONDS, without end."""
        told: dict[str, Mapping[str, float]] = {}
        while True:
            now: dict[str, Mapping[str, float]] = {
                uuid: stepped(one.used) for uuid, one in list(self._measured.items())
            }
            news: dict[str, Mapping[str, float]] = {
                uuid: used for uuid, used in now.items() if used != told.get(uuid, {})
            }
            news |= {uuid: {} for uuid in told.keys() - now.keys() if told[uuid]}
            told = now
            if news:
                yield UsedNews(news)
            await asyncio.sleep(TOLD_SECONDS)


def stepped(used: Mapping[str, float]) -> dict[str, float]:
    """In whole steps, so that a little more or less is no news."""
    steps = {name: _MEMORY_STEP if name == MEMORY else _VCPU_STEP for name in used}
    return {name: round(round(amount / steps[name]) * steps[name], 3) for name, amount in used.items()}
