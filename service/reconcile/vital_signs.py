"""What a host does whose hypervisor says nothing: whether its kernel answers, and whether its members are at work.

A daemon that was stopped is as silent as a host without power, and its guests run on. Nothing is concluded from a
sign that is missing; one that is seen forbids that the power is cut.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from service.domain.fencing import ANSWER_LAG_MS, KNOCKS, SILENT_SECONDS
from service.domain.fleet import Host
from service.drivers.knocking import Heard, Knock


@dataclass(frozen=True, slots=True)
class Signs:
    """See `Circumstances.alive` and `Circumstances.knocks`."""

    alive: str = ""
    knocks: int | None = 0


@dataclass(slots=True)
class _Known:
    knocks: int | None = 0
    why: str = ""
    alive_at: float | None = None
    asked_at: float = 0.0


class VitalSigns:
    """Of hosts that are silent, as long as they are."""

    def __init__(self, knock: Knock) -> None:
        self._knock = knock
        self._known: dict[str, _Known] = {}

    def forget_all_but(self, hosts: Iterable[str]) -> None:
        """The others answer again, or have left the fleet."""
        self._known = {uuid: self._known[uuid] for uuid in hosts if uuid in self._known}

    async def look(self, hosts: Iterable[Host]) -> None:
        """Ask the kernels of all of these once."""
        await asyncio.gather(*(self.ask(host) for host in hosts))

    async def settle(self, host: Host) -> None:
        """Ask the host's kernel once more, and until it has said nothing so often as is needed: a process that has
        just come to lead begins anew."""
        for _ in range(KNOCKS):
            await self.ask(host)
            if (knocks := self._known[host.uuid].knocks) is None or knocks >= KNOCKS or knocks == 0:
                return

    async def ask(self, host: Host) -> None:
        """Ask the host's kernel once."""
        answer = await self._knock(host.address)
        now = asyncio.get_running_loop().time()
        known = self._known.setdefault(host.uuid, _Known())
        if now > known.asked_at + SILENT_SECONDS:
            known.knocks = 0  # this process stood still, or did not look: what it knows is of long ago
        known.asked_at = now
        if answer.heard is Heard.NO_WAY:
            known.knocks = None
        elif answer.heard is Heard.NOTHING:
            known.knocks = (known.knocks or 0) + 1
        else:
            known.knocks = 0
        if answer.heard is Heard.ALIVE:
            known.alive_at, known.why = now, answer.why

    def of(self, host: str, silent_seconds: float, answers: Mapping[str, int], now_ms: int) -> Signs:
        """What is known. `answers`: of hosts, when a model last answered rightly that cannot do without its members
        there, in ms since the epoch; `now_ms`: by the same clock."""
        known = self._known.get(host, _Known())
        lately = asyncio.get_running_loop().time() - SILENT_SECONDS
        if known.alive_at is not None and known.alive_at >= lately:
            return Signs(known.why, known.knocks)
        answered, since = answers.get(host, 0), now_ms - silent_seconds * 1000
        if answered > since + ANSWER_LAG_MS and answered >= now_ms - SILENT_SECONDS * 1000:
            return Signs("a model of which it has members has answered rightly since, as only all of them do together",
                         known.knocks)  # fmt: skip
        return Signs(knocks=known.knocks)
