"""Whether a kernel lives is told by what comes back from its ports, and by nothing else."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Any

import pytest

from service.domain.fleet import HostAddress
from service.drivers.knocking import Heard, knock

pytestmark = pytest.mark.asyncio


def tcp(port: int) -> HostAddress:
    return HostAddress("libvirt", "tcp", "127.0.0.1", port)


async def test_a_port_that_nobody_listens_at_is_refused_by_a_kernel_that_runs() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    answer = await knock(tcp(port))
    assert answer.heard is Heard.ALIVE
    assert str(port) in answer.why


async def test_a_daemon_that_hangs_has_its_connections_taken_by_its_kernel() -> None:
    with socket.create_server(("127.0.0.1", 0)) as hangs:
        assert (await knock(tcp(hangs.getsockname()[1]))).heard is Heard.ALIVE


@pytest.mark.parametrize(
    ("error", "heard"),
    [
        (OSError(errno.EHOSTUNREACH, "No route to host"), Heard.NOTHING),
        (OSError(errno.ETIMEDOUT, "timed out"), Heard.NOTHING),
        (ConnectionResetError(errno.ECONNRESET, "reset"), Heard.ALIVE),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), Heard.UNSURE),
        (OSError(errno.EMFILE, "Too many open files"), Heard.UNSURE),
        (socket.gaierror(socket.EAI_AGAIN, "no name server"), Heard.UNSURE),
    ],
)
async def test_what_is_this_machines_own_fault_says_nothing_of_the_host(
    monkeypatch: pytest.MonkeyPatch, error: OSError, heard: Heard
) -> None:
    async def fails(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(asyncio, "open_connection", fails)
    assert (await knock(tcp(1))).heard is heard


async def test_nothing_that_comes_back_in_time_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def waits(*_: Any, **__: Any) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio, "open_connection", waits)
    assert (await knock(tcp(1), seconds=0.01)).heard is Heard.NOTHING


@pytest.mark.parametrize(("transport", "port"), [("tls", 16514), ("tcp", 16509), ("ssh", 22)])
async def test_it_is_asked_where_its_hypervisor_is_reached(
    monkeypatch: pytest.MonkeyPatch, transport: str, port: int
) -> None:
    asked: list[tuple[str, int]] = []

    async def refuses(host: str, port: int) -> Any:
        asked.append((host, port))
        raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")

    monkeypatch.setattr(asyncio, "open_connection", refuses)
    await knock(HostAddress("libvirt", transport, "[2001:db8::7]"))
    await knock(HostAddress("libvirt", transport, "10.0.0.7", 99))
    assert asked == [("2001:db8::7", port), ("10.0.0.7", 99)]


async def test_a_host_without_a_network_between_is_this_machine_or_a_simulated_one() -> None:
    assert (await knock(HostAddress("libvirt", "unix"))).heard is Heard.ALIVE
    assert (await knock(HostAddress("simulated"))).heard is Heard.NO_WAY
    assert (await knock(HostAddress("libvirt", "test"))).heard is Heard.NO_WAY
