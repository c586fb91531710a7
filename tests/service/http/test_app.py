"""The HTTP listener: scrapes, health, refusals, and an orderly stop on the caller's own loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path

import httpx
import pytest
from prometheus_client import Metric
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from service.http.app import bind, create_app, serve_http
from service.listening import AddressUnavailable, ListenAddress
from service.telemetry.metrics import Metrics
from tests.support.ports import own_port

Check = Callable[[], Awaitable[Mapping[str, str]]]


async def all_well() -> Mapping[str, str]:
    return {}


async def nothing_to_refresh() -> None:
    return


@contextlib.asynccontextmanager
async def client(
    readiness: Check = all_well,
    refresh: Callable[[], Awaitable[None]] = nothing_to_refresh,
    routes: tuple[Route, ...] = (),
    metrics: Metrics | None = None,
) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(
        registry=(metrics or Metrics()).registry,
        readiness=readiness,
        refresh=refresh,
        routes=routes,
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://corral") as made:
        yield made


@pytest.mark.asyncio
async def test_a_scrape_shows_what_was_refreshed_just_before() -> None:
    metrics = Metrics()

    async def refresh() -> None:
        metrics.events_revision.set(42)

    async with client(refresh=refresh, metrics=metrics) as http:
        answer = await http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    assert "corral_events_revision 42.0" in answer.text


class Slow:
    """A collector that takes as long as it is let."""

    def __init__(self) -> None:
        self.asked, self.go_on = threading.Event(), threading.Event()

    def describe(self) -> Iterator[Metric]:
        yield from ()

    def collect(self) -> Iterator[Metric]:
        self.asked.set()
        assert self.go_on.wait(60)
        yield from ()


@pytest.mark.asyncio
async def test_calls_go_on_while_a_scrape_is_written_and_a_second_one_waits_for_it() -> None:
    metrics, refreshed = Metrics(), []

    async def refresh() -> None:
        refreshed.append(1)

    async with client(refresh=refresh, metrics=metrics) as http:
        slow = Slow()
        metrics.registry.register(slow)
        first = asyncio.create_task(http.get("/metrics"))
        assert await asyncio.to_thread(slow.asked.wait, 60)
        second = asyncio.create_task(http.get("/metrics"))
        assert (await http.get("/healthz")).status_code == 200
        assert len(refreshed) == 1, "what is being written is not replaced under it"
        slow.go_on.set()
        assert [answer.status_code for answer in (await first, await second)] == [200, 200]
        assert len(refreshed) == 2


@pytest.mark.asyncio
async def test_a_scrape_works_although_the_refresh_fails() -> None:
    metrics = Metrics()

    async def refresh() -> None:
        raise RuntimeError("the database is away")

    async with client(refresh=refresh, metrics=metrics) as http:
        answer = await http.get("/metrics")
    assert answer.status_code == 200
    assert "corral_claims_lost_total" in answer.text
    assert "is away" not in answer.text


@pytest.mark.asyncio
async def test_openmetrics_is_given_to_who_asks_for_it() -> None:
    async with client() as http:
        answer = await http.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


@pytest.mark.asyncio
async def test_health_is_200_when_ready_and_503_with_the_failing_parts_when_not() -> None:
    async def broken() -> Mapping[str, str]:
        return {"store": "no answer"}

    async with client() as http:
        ready = await http.get("/healthz")
    async with client(broken) as http:
        failing = await http.get("/healthz")
    assert (ready.status_code, ready.json()) == (200, {"status": "SERVING", "failing": {}})
    assert (failing.status_code, failing.json()["failing"]) == (503, {"store": "no answer"})


@pytest.mark.asyncio
async def test_health_answers_although_the_check_hangs_or_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.http.app._HEALTH_DEADLINE_SECONDS", 0.02)

    async def hanging() -> Mapping[str, str]:
        await asyncio.Event().wait()
        return {}

    async def breaking() -> Mapping[str, str]:
        raise RuntimeError("secret detail")

    async with client(hanging) as http:
        assert (await http.get("/healthz")).status_code == 503
    async with client(breaking) as http:
        answer = await http.get("/healthz")
    assert answer.status_code == 503
    assert "secret" not in answer.text


@pytest.mark.asyncio
async def test_an_unknown_path_is_404_and_a_wrong_method_405() -> None:
    async with client() as http:
        assert (await http.get("/nothing")).status_code == 404
        assert (await http.post("/metrics")).status_code == 405


@pytest.mark.asyncio
async def test_further_faces_bring_their_own_routes() -> None:
    async def hello(request: Request) -> Response:
        return PlainTextResponse("hello")

    async with client(routes=(Route("/v1/hello", hello),)) as http:
        assert (await http.get("/v1/hello")).text == "hello"


@pytest.mark.asyncio
async def test_a_stopped_server_first_ends_the_request_it_has_and_frees_the_port() -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> Mapping[str, str]:
        entered.set()
        await go_on.wait()
        return {}

    port = own_port()
    listener = bind(ListenAddress("127.0.0.1", port))
    stop = asyncio.Event()
    app = create_app(registry=Metrics().registry, readiness=slow, refresh=nothing_to_refresh)
    serving = asyncio.create_task(serve_http(app, listener, stop))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
        asking = asyncio.create_task(http.get("/healthz"))
        await entered.wait()
        stop.set()
        await asyncio.sleep(0)
        go_on.set()
        assert (await asking).status_code == 200
    await serving
    bind(ListenAddress("127.0.0.1", port)).close()


@pytest.mark.asyncio
async def test_a_unix_socket_serves_and_is_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "corral.sock"
    stop = asyncio.Event()
    app = create_app(registry=Metrics().registry, readiness=all_well, refresh=nothing_to_refresh)
    serving = asyncio.create_task(serve_http(app, bind(ListenAddress(path=str(path))), stop))
    transport = httpx.AsyncHTTPTransport(uds=str(path))
    async with httpx.AsyncClient(transport=transport, base_url="http://corral", timeout=60) as http:
        assert (await http.get("/healthz")).status_code == 200
    stop.set()
    await serving
    assert not path.exists()


def test_a_taken_port_is_said_with_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(AddressUnavailable, match=f"127.0.0.1:{port} is in use by another process"):
            bind(ListenAddress("127.0.0.1", port))


def test_a_live_unix_socket_is_refused_and_a_stale_one_replaced(tmp_path: Path) -> None:
    address = ListenAddress(path=str(tmp_path / "corral.sock"))
    first = bind(address)
    with pytest.raises(AddressUnavailable, match="in use"):
        bind(address)
    first.close()
    bind(address).close()


def test_an_address_that_is_not_ours_is_said() -> None:
    with pytest.raises(AddressUnavailable, match=r"192\.0\.2\.1"):
        bind(ListenAddress("192.0.2.1", 8080))
