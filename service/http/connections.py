"""Bounds on connections of the HTTP listener: how many there may be, and how long a request may take to arrive.

uvicorn's own `limit_concurrency` counts requests, and never ends a connection that says nothing.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from starlette.requests import Request
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.http.peers import UNIX_PEER
from service.listening import UnixPeer, unix_peer

_FULL = b"too many connections\n"
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\nretry-after: 1\r\n"
    b"connection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(_FULL), _FULL)
)


@dataclass(frozen=True, slots=True)
class Bounds:
    """`most`: connections at a time; one more is answered 503 and closed, and `refused` is called.

    `request_seconds`: the time for a whole request to arrive, from the start of the connection or from the request's
    first byte. Answers, and streams of them, are not limited.
    """

    most: int
    request_seconds: float
    refused: Callable[[], None]


def _peer(connection: socket.socket) -> UnixPeer | None:
    try:
        return unix_peer(connection)
    except OSError:  # the socket's file, by which it would be known who may come in, is gone
        return None


_MORE_TIME = "corral.more_time"


def more_time(request: Request) -> Callable[[], None]:
    """What gives the rest of a request's body as much time again: for bodies without end, of callers who may."""
    longer: Callable[[], None] = request.scope.get("state", {}).get(_MORE_TIME, lambda: None)
    return longer


def bounded(bounds: Bounds) -> type[asyncio.Protocol]:
    """The protocol of a listener, as uvicorn takes it."""
    return type("BoundedProtocol", (_BoundedProtocol,), {"bounds": bounds})


class _BoundedProtocol(H11Protocol):
    """One connection."""

    bounds: ClassVar[Bounds]

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        if connection is not None and connection.family == socket.AF_UNIX:
            self.app_state = {**self.app_state, UNIX_PEER: _peer(connection)}
        if len(self.connections) > self.bounds.most:
            self.bounds.refused()
            transport.write(_REFUSAL)
            transport.close()
            return
        self.app_state = {**self.app_state, _MORE_TIME: self._more_time}
        self._expect_request()

    def data_received(self, data: bytes) -> None:
        if self._deadline is None and self._incomplete():
            self._expect_request()
        super().data_received(data)
        if not self._incomplete():
            self._stop_expecting()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        begun, _ = self.conn.trailing_data  # of a request that came after the one that was answered
        if begun and self._deadline is None and self._incomplete() and not self.transport.is_closing():
            self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_expecting()
        super().connection_lost(exc)

    def _incomplete(self) -> bool:
        """Whether more of a request is to come before there is something to answer."""
        return self.cycle is None or self.cycle.response_complete or self.cycle.more_body

    def _expect_request(self) -> None:
        self._deadline = self.loop.call_later(self.bounds.request_seconds, self._too_late)

    def _more_time(self) -> None:
        if self._deadline is not None:
            self._stop_expecting()
            self._expect_request()

    def _stop_expecting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_late(self) -> None:
        self._deadline = None
        if self._incomplete():
            self.transport.close()
