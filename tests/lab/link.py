"""A link to a hypervisor's socket that a test can slow down, cut, and count what goes over it."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path


class Link:
    """Relays a unix socket. `sent`: bytes that went to the hypervisor. `rate`: bytes a second that it carries there;
    0: as it comes."""

    def __init__(self, socket: Path, target: Path, rate: int = 0) -> None:
        self.socket = socket
        self.rate = rate
        self.sent = 0
        self.cut_at: int | None = None
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Link:
        self._server = await asyncio.start_unix_server(self._relay, self.socket)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await self._server.wait_closed()

    def cut(self) -> None:
        """Breaks all connections; new ones are taken."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(self._target)
        self._writers |= {writer, back}
        ways = [asyncio.create_task(self._send(reader, back)), asyncio.create_task(_copy(there, writer))]
        with contextlib.suppress(OSError):
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        for end in (writer, back):
            end.transport.abort()
            self._writers.discard(end)

    async def _send(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while part := await reader.read(1 << 16):
            writer.write(part)
            await writer.drain()
            self.sent += len(part)
            if self.cut_at is not None and self.sent >= self.cut_at:
                self.cut_at = None
                self.cut()
            if self.rate:
                await asyncio.sleep(len(part) / self.rate)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while part := await reader.read(1 << 16):
        writer.write(part)
        await writer.drain()
