"""The HTTP listener's routes and the server that runs them on the control plane's own event loop.

`/metrics` for Prometheus, `/healthz` for load balancers. The faces hand their routes to `create_app`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from service.http.connections import Bounds, bounded
from service.listening import PRIVATE, AddressUnavailable, ListenAddress, remove_stale_socket, socket_mode
from service.telemetry.logs import get_logger

Readiness = Callable[[], Awaitable[Mapping[str, str]]]
"""What does not work, by the part's name (`store`, `reconcile`, …); empty: ready."""

Refresh = Callable[[], Awaitable[None]]
"""Brings the gauges that mirror stored state up to date; called before each scrape."""

# A health question must be answered even when the thing that it asks hangs.
_HEALTH_DEADLINE_SECONDS = 2.0
_REFRESH_DEADLINE_SECONDS = 2.0
# Long enough for the largest body over a slow line, and too short for a client that only keeps a connection busy.
REQUEST_SECONDS = 60.0

_log = get_logger("corral.http")


def create_app(
    *,
    registry: CollectorRegistry,
    readiness: Readiness,
    refresh: Refresh,
    routes: Sequence[BaseRoute] = (),
    notes: Callable[[], Mapping[str, str]] = dict,
) -> Starlette:
    """The application. `routes`: the faces'.

    `notes`: what an operator should know though the service is ready, told with its health.
    """

    scraping = asyncio.Lock()  # gauges that are replaced are empty for a moment, which no other scrape may meet

    async def metrics(request: Request) -> Response:
        encoder, content_type = choose_encoder(request.headers.get("accept", ""))
        async with scraping:
            try:
                await asyncio.wait_for(refresh(), _REFRESH_DEADLINE_SECONDS)
            except Exception as problem:
                # Counters and durations are still right, and an operator learns of the trouble by this scrape.
                _log.warning("gauges could not be refreshed before a scrape", error=repr(problem))
            # With a thousand hosts it is a megabyte and some 200 ms: calls go on meanwhile.
            text = await asyncio.to_thread(encoder, registry)
        return Response(text, headers={"Content-Type": content_type})

    async def healthz(request: Request) -> Response:
        try:
            failing = dict(await asyncio.wait_for(readiness(), _HEALTH_DEADLINE_SECONDS))
        except TimeoutError:
            failing = {"service": f"no answer within {_HEALTH_DEADLINE_SECONDS:g} s"}
        except Exception as problem:
            _log.error("the readiness check failed", error=repr(problem))
            failing = {"service": "internal error"}
        body: dict[str, object] = {"status": "NOT_SERVING" if failing else "SERVING", "failing": failing}
        if told := dict(notes()):
            body["notes"] = told
        return JSONResponse(body, status_code=503 if failing else 200, headers={"Cache-Control": "no-store"})

    async def not_found(request: Request, problem: Exception) -> Response:
        return PlainTextResponse("no such path\n", status_code=404)

    own = [
        Route("/metrics", metrics, methods=["GET"]),
        Route("/healthz", healthz, methods=["GET"]),
    ]
    return Starlette(routes=[*own, *routes], exception_handlers={404: not_found})


def bind(address: ListenAddress, unix_mode: int = PRIVATE) -> socket.socket:
    """A listening socket on `address`, not shared with any other process. Raises AddressUnavailable."""
    if address.path:
        return _bind_unix(address, unix_mode)
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as problem:
        raise AddressUnavailable(f"{address}: {problem.strerror}") from problem
    listener = socket.socket(family, kind, protocol)
    # Connections of the process before in TIME_WAIT do not stop a restart; a second listener is still refused.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(target)
        listener.listen(512)
    except OSError as problem:
        listener.close()
        raise AddressUnavailable(_bind_problem(address, problem)) from problem
    listener.setblocking(False)
    return listener


def _bind_unix(address: ListenAddress, mode: int) -> socket.socket:
    remove_stale_socket(address)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with socket_mode(mode):
            listener.bind(address.path)
        listener.listen(512)
    except OSError as problem:
        listener.close()
        raise AddressUnavailable(_bind_problem(address, problem)) from problem
    listener.setblocking(False)
    return listener


def _bind_problem(address: ListenAddress, problem: OSError) -> str:
    if problem.errno == errno.EADDRINUSE:
        return f"{address} is in use by another process; stop it or choose another address in the configuration"
    return f"{address}: {problem.strerror}"


async def serve_http(
    app: ASGIApp,
    listener: socket.socket,
    stop: asyncio.Event,
    *,
    grace_seconds: float = 5.0,
    tls: ssl.SSLContext | None = None,
    max_connections: int = 4096,
    request_seconds: float = REQUEST_SECONDS,
    refused: Callable[[], None] = lambda: None,
    trusted_proxies: Sequence[str] = (),
) -> None:
    """Serve `app` on `listener` (from `bind`) until `stop` is set, then let running requests end for `grace_seconds`.

    Closes the listener; a unix socket's file is removed. `refused` is called for each connection above
    `max_connections`; a request must have come whole within `request_seconds`. `trusted_proxies`: networks whose
    `X-Forwarded-For` and `X-Forwarded-Proto` are believed.
    """
    server = _Server(
        uvicorn.Config(
            app,
            http=bounded(Bounds(max_connections, request_seconds, refused)),
            ws="none",
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            # By default uvicorn believes these headers of every caller on this machine.
            proxy_headers=bool(trusted_proxies),
            forwarded_allow_ips=list(trusted_proxies),
            timeout_graceful_shutdown=max(1, round(grace_seconds)),
            # Long, because a connection that is closed just when its client uses it again is an error to the client.
            timeout_keep_alive=60,
            h11_max_incomplete_event_size=64 << 10,
            ssl_context_factory=None if tls is None else lambda _config, _default: tls,
        )
    )
    path = listener.getsockname() if listener.family == socket.AF_UNIX else ""
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="http")
    stopping = asyncio.create_task(stop.wait(), name="http-stop")
    try:
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        await serving
    finally:
        stopping.cancel()
        server.should_exit = True
        if not serving.done():
            serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await serving
        listener.close()
        if path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the control plane's own decide when to stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the process's signals as they are."""
        yield
