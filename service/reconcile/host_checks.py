"""Readiness that a member's host is asked for: whether the guest agent answers, whether the console has said a line.

For images in which nothing of Corral's runs, or beside what does. What cannot be found out now changes nothing.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from service.domain.groups import Instance, InstanceStatus
from service.domain.presets import Ready
from service.drivers.base import HostRejected, LogSource, ObservedMachine
from service.lifecycle.facts import Fact, Observation, Observed
from service.lifecycle.renewal import not_ready
from service.reconcile.directory import Directory
from service.reconcile.monitor import HostMonitor
from service.serving import engine
from service.serving.engine import HostCheck
from service.serving.rendezvous import template

MOST_KNOWN = 4_096
"""Of so many machines is remembered how far their consoles were read; what is forgotten is read again."""
PIECE_BYTES = 65_536
MOST_PIECES = 16
MOST_LINE = 8_192
TURN_SECONDS = 3.0
Key = TypeVar("Key")
_EXECUTES = (Observation.EXECUTING, Observation.READY, Observation.UNREADY)


def has_text(line: str, text: str) -> bool:
    """Whether the line has the text in it, `*` for any characters. A guest cannot make it slow by what it writes."""
    at = 0
    for part in text.split("*"):
        found = line.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return True


@dataclass(slots=True)
class _Read:
    """How far a console was read. `rest`: of its last line, which may go on. `said`: the line was there."""

    start: int
    rest: str = ""
    said: bool = False


@dataclass(slots=True)
class _Asked:
    at: float
    answers: bool


class HostChecks:
    """Asks hosts, one guest of a host at a time. Keeps of each machine what it was told last."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._turns: dict[str, asyncio.Lock] = {}
        self._read: OrderedDict[tuple[str, int], _Read] = OrderedDict()
        self._asked: OrderedDict[str, _Asked] = OrderedDict()

    def asks(self, member: Instance) -> bool:
        """Whether the member's host is asked over and over: what a console has once said stays so."""
        check = self._check(member)
        return check is not None and check.kind is Ready.AGENT

    def _check(self, member: Instance) -> HostCheck | None:
        try:
            return engine.host_check(member, template(member, self._directory.catalogue))
        except KeyError:  # its entry is gone
            return None

    async def judged(
        self, monitor: HostMonitor, member: Instance, machine: ObservedMachine, facts: Sequence[Fact]
    ) -> Sequence[Fact]:
        """The facts of a look at the member's machine, with what its host says of its readiness. Raises DriverError."""
        check = self._check(member)
        if check is None:
            return facts
        return [await self._judged(monitor, member, machine, check, fact) for fact in facts]

    async def _judged(
        self, monitor: HostMonitor, member: Instance, machine: ObservedMachine, check: HostCheck, fact: Fact
    ) -> Fact:
        if not isinstance(fact, Observed) or fact.observation not in _EXECUTES or fact.silent:
            return fact
        if fact.observation is not Observation.READY and not check.alone:
            return fact  # its guest says that it is not ready
        why = await self._why_not(monitor, member, machine, check)
        if why:
            return replace(fact, observation=not_ready(member), reason=why)
        return replace(fact, observation=Observation.READY, reason="")

    async def _why_not(self, monitor: HostMonitor, member: Instance, machine: ObservedMachine, check: HostCheck) -> str:
        """Why the member is not ready, for callers; empty where it is. Asked too often to be answered in time, the
        answer before stands."""
        turn = self._turns.setdefault(monitor.host.uuid, asyncio.Lock())
        running = member.status is InstanceStatus.RUNNING
        if check.kind is Ready.SERIAL:
            if running:
                return ""
            told = "its console has not said the line yet that tells that it is ready"
            asked = self._console_said(monitor, machine, check)
        else:
            told = "its guest agent does not answer"
            asked = self._agent_answers(monitor, machine, check)
        try:
            await asyncio.wait_for(turn.acquire(), TURN_SECONDS)
        except TimeoutError:
            asked.close()
            return "" if running else told
        try:
            return "" if await asked else told
        except HostRejected as error:
            if error.code == "unsupported":
                return error.public
            raise
        finally:
            turn.release()

    async def _agent_answers(self, monitor: HostMonitor, machine: ObservedMachine, check: HostCheck) -> bool:
        now = asyncio.get_running_loop().time()
        before = self._asked.get(machine.machine_uuid)
        if before is not None and before.answers and now - before.at < check.interval_ms / 1000:
            return True
        answers = await monitor.driver.agent_answers(machine.identity, budget_seconds=2 * check.timeout_ms / 1000)
        self._asked[machine.machine_uuid] = _Asked(now, answers)
        _forget(self._asked, machine.machine_uuid)
        return answers

    async def _console_said(self, monitor: HostMonitor, machine: ObservedMachine, check: HostCheck) -> bool:
        key = (machine.machine_uuid, machine.console_from)
        read = self._read.setdefault(key, _Read(machine.console_from))
        _forget(self._read, key)
        for _ in range(MOST_PIECES):
            if read.said:
                break
            piece = await monitor.driver.read_log(
                machine.identity,
                LogSource.CONSOLE,
                start=read.start,
                most=PIECE_BYTES,
                budget_seconds=check.timeout_ms / 1000,
            )
            if piece.size < read.start:  # its host has cut it
                read.start, read.rest = 0, ""
                continue
            if not piece.data:
                break
            *whole, rest = (read.rest + piece.data.decode(errors="replace")).split("\n")
            read.said = any(has_text(line, check.line) for line in (*whole, rest))
            read.start, read.rest = piece.start + len(piece.data), rest[-MOST_LINE:]
        return read.said


def _forget(known: OrderedDict[Key, Any], last: Key) -> None:
    """What was used longest ago, of more than MOST_KNOWN."""
    known.move_to_end(last)
    while len(known) > MOST_KNOWN:
        known.popitem(last=False)
