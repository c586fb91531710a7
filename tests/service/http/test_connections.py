"""Connections of the HTTP listener are bounded: in number, and in the time that a request may take to arrive."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from service.http.app import bind, create_app, serve_http
from service.listening import ListenAddress
from service.telemetry.metrics import Metrics
from tests.service.http.test_app import all_well, nothing_to_refresh

pytestmark = pytest.mark.asyncio

GET = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"


class Listening:
    """A listener that may not serve yet: what clients send before waits in the kernel."""

    def __init__(self, *routes: Route) -> None:
        self.socket = bind(ListenAddress("127.0.0.1", 0))
        self.port: int = self.socket.getsockname()[1]
        self.refused = 0
        self._app = create_app(
            registry=Metrics().registry,
            readiness=all_well,
            refresh=nothing_to_refresh,
            routes=routes,
        )

    def _refuse(self) -> None:
        self.refused += 1

    @contextlib.asynccontextmanager
    async def serving(self, most: int, request_seconds: float) -> AsyncIterator[None]:
        stop = asyncio.Event()
        server = serve_http(
            self._app,
            self.socket,
            stop,
            max_connections=most,
            request_seconds=request_seconds,
            refused=self._refuse,
        )
        task = asyncio.create_task(server)
        try:
            yield
        finally:
            stop.set()
            await task

    def connect(self, first: bytes = b"") -> socket.socket:
        made = socket.create_connection(("127.0.0.1", self.port))
        made.setblocking(False)
        if first:
            made.send(first)
        return made


async def until_closed(connection: socket.socket) -> bytes:
    """All that the server sends until it closes."""
    loop, told = asyncio.get_running_loop(), b""
    with contextlib.suppress(ConnectionResetError):
        async with asyncio.timeout(60):
            while more := await loop.sock_recv(connection, 65536):
                told += more
    return told


async def answered(connection: socket.socket) -> bytes:
    """The head of the server's answer."""
    loop, told = asyncio.get_running_loop(), b""
    async with asyncio.timeout(60):
        while b"\r\n\r\n" not in told:
            more = await loop.sock_recv(connection, 65536)
            if not more:
                break
            told += more
    return told


async def test_one_connection_too_many_is_told_so_and_closed_and_a_free_place_is_given_again() -> None:
    listening = Listening()
    async with listening.serving(most=3, request_seconds=600):
        with contextlib.ExitStack() as stack:
            held = [stack.enter_context(listening.connect(GET)) for _ in range(3)]
            for connection in held:
                assert (await answered(connection)).startswith(b"HTTP/1.1 200")
            with listening.connect() as fourth:
                told = await until_closed(fourth)
            assert told.startswith(b"HTTP/1.1 503")
            assert b"retry-after: 1" in told
            assert listening.refused == 1
            held[0].close()
            async with asyncio.timeout(60):
                while True:  # the server learns of the closed one a moment later
                    with listening.connect(GET) as again:
                        if (await answered(again)).startswith(b"HTTP/1.1 200"):
                            break


@pytest.mark.parametrize(
    "begun",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(GET[:-4], id="half a head"),
        pytest.param(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n12345", id="half a body"),
        pytest.param(GET + GET[:-4], id="half a request after a whole one"),
    ],
)
async def test_a_request_that_does_not_come_whole_ends_its_connection(begun: bytes) -> None:
    async def swallow(request: Request) -> Response:
        await request.body()
        return PlainTextResponse("")

    listening = Listening(Route("/", swallow, methods=["POST"]))
    with listening.connect(begun) as connection:
        async with listening.serving(most=10, request_seconds=1):
            await until_closed(connection)


async def test_the_second_request_of_a_connection_must_come_whole_as_well() -> None:
    listening = Listening()
    with listening.connect(GET) as connection:
        async with listening.serving(most=10, request_seconds=1):
            assert (await answered(connection)).startswith(b"HTTP/1.1 200")
            connection.send(GET[:-4])
            await until_closed(connection)


async def test_an_answer_may_take_longer_than_a_request() -> None:
    async def slow(request: Request) -> Response:
        await asyncio.sleep(2)
        return PlainTextResponse("at last")

    listening = Listening(Route("/slow", slow))
    with listening.connect(GET.replace(b"/ ", b"/slow ", 1)) as connection:
        async with listening.serving(most=10, request_seconds=1):
            assert (await answered(connection)).startswith(b"HTTP/1.1 200")
