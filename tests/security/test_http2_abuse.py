"""HTTP/2 abuse of the gRPC listener: health on another connection answers all the while, and everything is given back.

Amounts and times are bounded, and all of it stays on loopback. The p99 of health is printed for the record.
"""

from __future__ import annotations

import contextlib
import gzip
import multiprocessing
import os
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

import grpc
import pytest
from corral.v1 import deploy_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.security import http2
from tests.security.http2 import END_HEADERS, HEADERS, Connection, frame, header
from tests.security.service import bearer, deployed, process, secret
from tests.support.process import CorralProcess

HEALTH_CALLS = 30
PAUSE_SECONDS = 0.01
# What a service may hold after an attack beyond what it held before: threads and pools that were made once.
SPARE_FILES = 20
SPARE_BYTES = 192 << 20
LIST = "/corral.v1.DistributedModelService/ListInstanceGroups"
WATCH = "/corral.v1.DistributedModelService/WatchInstanceGroups"
BOMB = gzip.compress(bytes(128 << 20))
CREDENTIALS = (("authorization", f"Bearer {secret('ann')}"),)


class Target:
    """The service under attack."""

    def __init__(self, corral: CorralProcess) -> None:
        self.corral = corral
        self.port = corral.port
        self.pid = corral.pid

    def files(self) -> int:
        """Open file descriptors."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def memory(self) -> int:
        """Resident bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1]) << 10


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    service = process(tmp_path_factory.mktemp("http2"))
    service.start()
    deployed(service, "ann", name="witness")
    yield Target(service)
    service.stop()
    log = service.log.read_text()
    assert "Traceback" not in log
    assert "a handler failed" not in log


def rapid_reset(port: int) -> None:
    """CVE-2023-44487: streams that are cancelled as soon as they are asked for, so that no limit on open ones bites."""
    for _ in range(4):
        with Connection(port) as connection:
            for start in range(1, 4000, 200):
                burst = b"".join(
                    http2.call(stream, LIST, b"", CREDENTIALS)
                    + frame(http2.RST_STREAM, 0, stream, struct.pack(">I", http2.CANCEL))
                    for stream in range(start, start + 200, 2)
                )
                if not connection.send(burst):
                    break


def header_flood(port: int) -> None:
    """Calls whose headers are far above the limit."""
    for _ in range(20):
        with Connection(port) as connection:
            block = http2.call_headers(LIST) + b"".join(header(f"x-{n}", "v" * 1000) for n in range(1000))
            pieces = [block[at : at + 16000] for at in range(0, len(block), 16000)]
            connection.send(frame(HEADERS, 0, 1, pieces[0]))
            for piece in pieces[1:-1]:
                connection.send(frame(http2.CONTINUATION, 0, 1, piece))
            connection.send(frame(http2.CONTINUATION, END_HEADERS, 1, pieces[-1]))
            connection.send(frame(http2.DATA, http2.END_STREAM, 1, http2.message(b"")))
            assert connection.ended(), "gRPC drops what is above its limit, and answers"


def continuation_flood(port: int) -> None:
    """A header block that never ends (CVE-2024-27316 and others): 32 MB of it, or as much as is taken."""
    for _ in range(2):
        with Connection(port) as connection:
            connection.send(frame(HEADERS, 0, 1, http2.call_headers(LIST)))
            piece = frame(http2.CONTINUATION, 0, 1, header("x-more", "v" * 8000))
            for _ in range(2000):
                if not connection.send(piece):
                    break
    with Connection(port) as connection:  # empty ones cost no bytes of headers at all
        connection.send(frame(HEADERS, 0, 1, http2.call_headers(LIST)))
        for _ in range(100):
            connection.send(frame(http2.CONTINUATION, 0, 1) * 200)


def header_bomb(port: int) -> None:
    """One large entry in the table, then references to it of one byte each: 43 MB of headers in 15 KB."""
    for _ in range(10):
        with Connection(port) as connection:
            bomb = header("x-bomb", "v" * 3900, indexed=True) + http2.repeated(62, 15000 - 4100)
            connection.send(frame(HEADERS, END_HEADERS | http2.END_STREAM, 1, bomb[:16000]))
            assert connection.ended()


def settings_and_pings(port: int) -> None:
    """Frames that each ask for an answer, from a peer that never reads the answers."""
    for payload in (http2.settings(window=1000), frame(http2.PING, 0, 0, b"12345678")):
        with Connection(port) as connection:
            for _ in range(200):
                if not connection.send(payload * 200):
                    break


def half_open(port: int) -> None:
    """Connections that say nothing, half a preface, or half a frame."""
    with contextlib.ExitStack() as stack:
        for first in (b"", http2.PREFACE[:10], http2.PREFACE + http2.settings()[:4]) * 100:
            stack.enter_context(Connection(port, first))
        time.sleep(0.3)


def no_window(port: int) -> None:
    """Watches and listings of a reader that gives the server no room to send."""
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            connection = stack.enter_context(Connection(port, http2.PREFACE + http2.settings(window=0)))
            connection.send(b"".join(http2.call(stream, WATCH, b"", CREDENTIALS) for stream in range(1, 101, 2)))
            connection.send(b"".join(http2.call(stream, LIST, b"", CREDENTIALS) for stream in range(101, 201, 2)))
        time.sleep(0.5)


def broken_frames(port: int) -> None:
    """Frames that are too long, come in the wrong place or make no sense."""
    open_call = frame(HEADERS, END_HEADERS, 1, http2.call_headers(LIST))
    broken = {
        "longer than the server allows": open_call + b"\xff\xff\xff" + frame(http2.DATA, 0, 1)[3:],
        "a window of nothing": open_call + frame(http2.WINDOW_UPDATE, 0, 1, b"\0\0\0\0"),
        "settings of three bytes": frame(http2.SETTINGS, 0, 0, b"abc"),
        "an unknown table entry": frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\x0f"),
        "another frame in a header block": frame(HEADERS, 0, 1, b"") + frame(http2.PING, 0, 0, b"12345678"),
    }
    for what, data in broken.items():
        with Connection(port) as connection:
            connection.send(data)
            assert connection.ended(), what
    for first in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", os.urandom(4096), b"\x16\x03\x01" + os.urandom(512)):
        with Connection(port, first) as connection:
            assert connection.ended(), "what is not HTTP/2 is not served"
    # gRPC passes over these without a word, which the RFC does not allow and which does no harm.
    passed_over = (
        frame(http2.DATA, 0, 7, b"x"),
        frame(HEADERS, END_HEADERS, 0, http2.call_headers(LIST)),
        frame(http2.WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff") * 2,
        http2.call(2, LIST),
        http2.call(5, LIST) + http2.call(3, LIST),
    )
    for data in passed_over:
        with Connection(port) as connection:
            connection.send(data * 50)


def huge_messages(port: int) -> None:
    """Prefixes that promise 4 GiB, and a compressed message that would become 128 MiB."""
    with Connection(port) as connection:
        for stream in range(1, 41, 2):
            promised = http2.message(b"x" * 100, length=0xFFFFFFFF)
            connection.send(frame(HEADERS, END_HEADERS, stream, http2.call_headers(LIST, CREDENTIALS)))
            connection.send(frame(http2.DATA, 0, stream, promised))
        assert connection.ended()
    data = http2.message(BOMB, compressed=True)
    for _ in range(4):
        with Connection(port) as connection:
            connection.agree()
            more = [*CREDENTIALS, ("grpc-encoding", "gzip")]
            connection.send(frame(HEADERS, END_HEADERS, 1, http2.call_headers(LIST, more)))
            for at in range(0, len(data), http2.MAX_FRAME):
                end = http2.END_STREAM if at + http2.MAX_FRAME >= len(data) else 0
                connection.send(frame(http2.DATA, end, 1, data[at : at + http2.MAX_FRAME]))
            assert connection.ended(), "a bomb is refused"


ATTACKS: Mapping[str, Callable[[int], None]] = {
    attack.__name__: attack
    for attack in (
        rapid_reset,
        header_flood,
        continuation_flood,
        header_bomb,
        settings_and_pings,
        half_open,
        no_window,
        broken_frames,
        huge_messages,
    )
}


@pytest.fixture(scope="module")
def attacker() -> Iterator[ProcessPoolExecutor]:
    """A process of its own for the attacks, so that they do not hold up the calls whose time is taken here."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        pool.submit(os.getpid).result(60)
        yield pool


def health_meanwhile(port: int, begin: Callable[[], Future[None]]) -> tuple[Future[None], list[float]]:
    """Ask for health until an attack that is begun here has ended, and at least HEALTH_CALLS times.

    Returns the attack and the seconds that each answer took, sorted.
    """
    seconds: list[float] = []
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        grpc.channel_ready_future(channel).result(60)
        stub = health_pb2_grpc.HealthStub(channel)
        attack = begin()
        while not attack.done() or len(seconds) < HEALTH_CALLS:
            started = time.perf_counter()
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=60)
            seconds.append(time.perf_counter() - started)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            time.sleep(PAUSE_SECONDS)
    return attack, sorted(seconds)


def given_back(target: Target, files: int) -> bool:
    """Whether the connections of an attack are gone; the service learns of it a moment later."""
    for _ in range(1200):
        if target.files() <= files + SPARE_FILES:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("name", ATTACKS)
def test_health_answers_during_an_attack_and_the_service_works_after_it(
    target: Target, attacker: ProcessPoolExecutor, name: str, record_property: Callable[[str, object], None]
) -> None:
    files, memory = target.files(), target.memory()
    attack, seconds = health_meanwhile(target.port, lambda: attacker.submit(ATTACKS[name], target.port))
    attack.result()
    p99 = seconds[min(len(seconds) - 1, int(len(seconds) * 0.99))] * 1000
    grown = (target.memory() - memory) >> 20
    record_property("health_p99_ms", round(p99, 1))
    print(f"{name}: {len(seconds)} health calls, p99 {p99:.1f} ms, memory +{grown} MiB")
    assert given_back(target, files), f"{target.files()} files are open, {files} were"
    assert target.memory() - memory < SPARE_BYTES
    listed = target.corral.groups.ListInstanceGroups(
        deploy_pb2.ListInstanceGroupsRequest(), metadata=bearer("ann"), timeout=60
    )
    assert [group.name for group in listed.inventories] == ["witness"]
