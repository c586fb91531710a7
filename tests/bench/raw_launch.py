"""The yardstick: the same domains, created by plain libvirt-python, one thread a guest, until each says `ready`."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import libvirt

CHANNEL = "org.corral.progress"


@dataclass(frozen=True)
class Domain:
    """A domain's definition, and the libvirt URI of its hypervisor."""

    uri: str
    xml: str


def start_event_loop() -> None:
    """Once in a process, before the first connection: without it a stream that does not block never gets anything."""
    libvirt.virEventRegisterDefaultImpl()

    def run() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=run, name="libvirt-events", daemon=True).start()


def capture(uris: Sequence[str], names: Sequence[str]) -> list[Domain]:
    """The definitions of these domains as they stand on the hypervisors. Raises LookupError where one is missing."""
    found = {}
    for uri in uris:
        connection = libvirt.open(uri)
        try:
            for domain in connection.listAllDomains():
                # Under Corral's own tag its sweep would remove them, as it should.
                definition = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE).replace(
                    'cluster="corral"', 'cluster="raw"'
                )
                found[domain.name()] = Domain(uri, definition)
        finally:
            connection.close()
    missing = set(names) - set(found)
    if missing:
        raise LookupError(f"no domain {', '.join(sorted(missing))}")
    return [found[name] for name in names]


def launch(domains: Sequence[Domain], deadline_seconds: float) -> tuple[float, float]:
    """Create all of them at once; (seconds until all exist, seconds until all are ready). They are gone afterwards.

    Raises TimeoutError.
    """
    guests = [_Guest(domain) for domain in domains]
    started = time.monotonic()
    try:
        with ThreadPoolExecutor(len(guests)) as pool:
            times = list(pool.map(lambda guest: guest.launch(started, deadline_seconds), guests))
    finally:
        # Only now: workers need their leader until the last of them is ready.
        for guest in guests:
            guest.remove()
    return max(created for created, _ in times), max(ready for _, ready in times)


class _Guest:
    def __init__(self, wanted: Domain) -> None:
        self._wanted = wanted
        self._connection: libvirt.virConnect | None = None
        self._domain: libvirt.virDomain | None = None

    def launch(self, started: float, deadline_seconds: float) -> tuple[float, float]:
        self._connection = libvirt.open(self._wanted.uri)
        # Paused, so that the reader of the channel is there before the guest's first word.
        self._domain = self._connection.createXML(self._wanted.xml, libvirt.VIR_DOMAIN_START_PAUSED)
        stream = self._connection.newStream(libvirt.VIR_STREAM_NONBLOCK)
        self._domain.openChannel(CHANNEL, stream, 0)
        created = time.monotonic() - started
        self._domain.resume()
        _wait_ready(stream, started + deadline_seconds)
        ready = time.monotonic() - started
        stream.abort()
        return created, ready

    def remove(self) -> None:
        if self._domain is not None:
            self._domain.destroy()
        if self._connection is not None:
            self._connection.close()


def _wait_ready(stream: libvirt.virStream, deadline: float) -> None:
    told = b""
    while time.monotonic() < deadline:
        part = stream.recv(4096)
        if isinstance(part, int):  # -2: nothing yet
            time.sleep(0.005)
            continue
        told += part
        *lines, told = told.split(b"\n")
        if any(_stage(line) == "ready" for line in lines):
            return
    raise TimeoutError("a guest did not become ready")


def _stage(line: bytes) -> str:
    try:
        return str(json.loads(line)["stage"])
    except (ValueError, KeyError, TypeError):
        return ""  # the rest of a line whose beginning was not seen
