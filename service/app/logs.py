"""What members' machines say, for callers: the end of each log, and then what comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from service.app.feed import Feed
from service.app.groups import Groups
from service.domain import log_text
from service.domain.groups import Group, Instance
from service.domain.tenants import Caller
from service.drivers.base import DriverError, HostUnreachable, LogPiece, LogSource
from service.errors import InvalidArgument, NotFound, Unavailable

DEFAULT_LINES = 100
PIECE_BYTES = 65_536
MOST_FOLLOWED = 16
POLL_SECONDS = 1.0
LOOK_AGAIN_SECONDS = 5.0
"""How often the group itself is looked at: a member may have been placed anew."""
IDLE_SECONDS = 10.0


class Machines(Protocol):
    """Where the logs are; see `service.reconcile.logs.MachineLogs`."""

    async def read(self, member: Instance, source: LogSource, *, start: int, most: int) -> LogPiece:
        """A piece of a log. Raises DriverError."""
        ...

    async def secrets_of(self, group: Group, member: Instance) -> Mapping[str, str]:
        """Name -> value of what must not be shown."""
        ...


@dataclass(frozen=True, slots=True)
class LogAsk:
    """Whose logs. No `ranks`: of all members; no `source`: both; `lines` 0: DEFAULT_LINES of each."""

    group_uuid: str
    ranks: tuple[int, ...] = ()
    source: LogSource | None = None
    lines: int = 0
    follow: bool = False


@dataclass(frozen=True, slots=True)
class LogText:
    """Whole lines of one log. `kept`: what was stored when the member failed, its machine is gone. `gap`: lines before
    these were left out. `note`: why there is nothing to show."""

    rank: int
    instance_uuid: str
    name: str
    source: LogSource
    text: str = ""
    kept: bool = False
    gap: bool = False
    note: str = ""


@dataclass(slots=True)
class _Reader:
    """How far one log was read, and of which attempt."""

    source: LogSource
    attempt: int
    offset: int = 0
    lines: log_text.Lines = field(default_factory=log_text.Lines)


class Logs:
    """The use case."""

    def __init__(self, groups: Groups, feed: Feed, machines: Machines) -> None:
        self._groups = groups
        self._feed = feed
        self._machines = machines

    async def read(self, caller: Caller, ask: LogAsk) -> AsyncGenerator[LogText, None]:
        """The end of each log by rank, then, where it is asked for, what comes, until the group is gone.

        Raises NotFound, InvalidArgument (`node_ranks`), Unavailable (draining).
        """
        group = await self._groups.get(caller, ask.group_uuid)
        members = _chosen(group, ask)
        sources = tuple(LogSource) if ask.source is None else (ask.source,)
        readers: dict[str, list[_Reader]] = {}
        for member in members:
            secrets = await self._machines.secrets_of(group, member)
            readers[member.uuid] = [_Reader(source, member.attempt) for source in sources]
            for reader in readers[member.uuid]:
                yield await self._end(member, reader, ask, secrets)
        if ask.follow:
            async for text in self._coming(caller, ask, readers):
                yield text

    async def _end(self, member: Instance, reader: _Reader, ask: LogAsk, secrets: Mapping[str, str]) -> LogText:
        made = LogText(member.rank, member.uuid, member.spec.name, reader.source)
        try:
            piece = await self._machines.read(member, reader.source, start=-PIECE_BYTES, most=PIECE_BYTES)
        except (DriverError, TimeoutError) as error:
            return _instead(made, member, error)
        reader.offset = piece.start + len(piece.data)
        data, whole = piece.data, piece.start == 0
        if not whole:
            data = data[data.find(b"\n") + 1 :]  # it begins within a line
        data = reader.lines.feed(data) if ask.follow else data
        text = log_text.without_secrets(log_text.plain(data), secrets)
        lines = text.split("\n")
        if lines and not lines[-1]:
            lines.pop()
        shown = lines[-(ask.lines or DEFAULT_LINES) :]
        gap = not whole or len(shown) < len(lines)
        if not shown:
            return _with(made, note="" if reader.offset else "it has said nothing yet")
        return _with(made, text="".join(f"{line}\n" for line in shown), gap=gap)

    async def _coming(
        self, caller: Caller, ask: LogAsk, readers: Mapping[str, list[_Reader]]
    ) -> AsyncGenerator[LogText, None]:
        loop = asyncio.get_running_loop()
        look_at, said_at = 0.0, loop.time()
        group, secrets = None, {}
        while True:
            await asyncio.sleep(POLL_SECONDS)
            if self._feed.closed:
                raise Unavailable("the service is shutting down")
            if group is None or loop.time() >= look_at:
                try:
                    group = await self._groups.get(caller, ask.group_uuid)
                except NotFound:
                    return
                look_at = loop.time() + LOOK_AGAIN_SECONDS
                members = [m for m in group.instances if m.uuid in readers]
                secrets = {m.uuid: await self._machines.secrets_of(group, m) for m in members}
            for member in members:
                for reader in readers[member.uuid]:
                    text = await self._more(member, reader, secrets[member.uuid])
                    if text is not None:
                        said_at = loop.time()
                        yield text
            if members and loop.time() >= said_at + IDLE_SECONDS:
                # Whatever stands in between does not take the stream for dead.
                said_at = loop.time()
                first = members[0]
                yield LogText(first.rank, first.uuid, first.spec.name, readers[first.uuid][0].source)

    async def _more(self, member: Instance, reader: _Reader, secrets: Mapping[str, str]) -> LogText | None:
        """What came since; None for nothing, and while its host cannot be asked."""
        anew = member.attempt != reader.attempt
        if anew:
            reader.attempt, reader.offset = member.attempt, 0
            reader.lines.restart()
        try:
            piece = await self._machines.read(member, reader.source, start=reader.offset, most=PIECE_BYTES)
            cut = piece.size < reader.offset
            if cut:
                reader.lines.restart()
                piece = await self._machines.read(member, reader.source, start=0, most=PIECE_BYTES)
        except (DriverError, TimeoutError):
            return None
        reader.offset = piece.start + len(piece.data)
        text = log_text.without_secrets(log_text.plain(reader.lines.feed(piece.data)), secrets)
        if not text:
            return None
        return LogText(member.rank, member.uuid, member.spec.name, reader.source, text=text, gap=cut or anew)


def _chosen(group: Group, ask: LogAsk) -> list[Instance]:
    by_rank = {member.rank: member for member in group.serving}
    for position, rank in enumerate(ask.ranks):
        if rank not in by_rank:
            there = ", ".join(str(known) for known in sorted(by_rank)[:20])
            raise InvalidArgument.of(f"node_ranks[{position}]", f"is {rank}; the group has ranks {there}")
    chosen = [by_rank[rank] for rank in sorted(set(ask.ranks) or by_rank)]
    if ask.follow and len(chosen) > MOST_FOLLOWED:
        raise InvalidArgument.of("node_ranks", f"must name at most {MOST_FOLLOWED} of {len(chosen)} members to follow")
    return chosen


def _instead(made: LogText, member: Instance, error: Exception) -> LogText:
    """Of a machine that is gone or cannot be asked: what was kept of it, or why there is nothing."""
    why = error.public if isinstance(error, DriverError) else "its host did not answer in time"
    stored = log_text.section(member.last_lines, made.source.value)
    if not stored:
        return _with(made, note=why)
    note = why if isinstance(error, HostUnreachable) else ""
    return _with(made, text=f"{stored}\n", kept=True, note=note)


def _with(made: LogText, *, text: str = "", kept: bool = False, gap: bool = False, note: str = "") -> LogText:
    return LogText(made.rank, made.instance_uuid, made.name, made.source, text, kept, gap, note)
