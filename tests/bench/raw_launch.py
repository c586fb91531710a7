"""The yardstick: the same domains, created by plain libvirt-python, one thread a guest, until each says `ready`."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import libvirt

CHANNEL = "org.corral.progress"
_FILTER = re.compile(r"<filterref filter='([^']+)'")
_VOLUME = re.compile(r"/[^\s,<>'\"]*/(corral\.[^\s,<>'\"/]+)")
_OWN_FILTER = "raw-"
_CLUSTER = re.compile(r'cluster="[^"]*"')


@dataclass(frozen=True)
class Domain:
    """A domain's definition, those of the packet filters that it names, and the libvirt URI of its hypervisor.

    `volumes`: the paths of what was copied for it, which goes with it.
    """

    uri: str
    xml: str
    filters: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()


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
                found[domain.name()] = _captured(connection, uri, domain)
        finally:
            connection.close()
    missing = set(names) - set(found)
    if missing:
        raise LookupError(f"no domain {', '.join(sorted(missing))}")
    return [found[name] for name in names]


def _captured(connection: libvirt.virConnect, uri: str, domain: libvirt.virDomain) -> Domain:
    """The same under names that are not Corral's: its sweep would remove what bears its own, as it should."""
    definition = _CLUSTER.sub('cluster="raw"', domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    filters = []
    for name in dict.fromkeys(_FILTER.findall(definition)):
        own = _OWN_FILTER + name
        definition = definition.replace(f"filter='{name}'", f"filter='{own}'")
        text = connection.nwfilterLookupByName(name).XMLDesc()
        filters.append(re.sub(r"<uuid>[^<]*</uuid>", "", text.replace(f"name='{name}'", f"name='{own}'")))
    volumes = []
    for path, name in dict.fromkeys((match[0], match[1]) for match in _VOLUME.finditer(definition)):
        original = connection.storageVolLookupByPath(path)
        description = original.XMLDesc().replace(name, f"raw.{name}")
        copy = original.storagePoolLookupByVolume().createXMLFrom(description, original)
        volumes.append(copy.path())
        definition = definition.replace(path, copy.path())
    return Domain(uri, definition, tuple(filters), tuple(volumes))


def launch(domains: Sequence[Domain], deadline_seconds: float) -> tuple[float, float]:
    """Create all of them at once; (seconds until all exist, seconds until all are ready). They are gone afterwards.

    Raises TimeoutError, and what libvirt raised at the first of them that failed.
    """
    failed = threading.Event()
    guests = [_Guest(domain, failed) for domain in domains]
    started = time.monotonic()
    try:
        _define_filters(domains)
        with ThreadPoolExecutor(len(guests)) as pool:
            launched = [pool.submit(guest.launch, started, deadline_seconds) for guest in guests]
        times = [each.result() for each in sorted(launched, key=lambda each: isinstance(each.exception(), _Given))]
    finally:
        # Only now: workers need their leader until the last of them is ready.
        for guest in guests:
            guest.remove()
        _remove_copies(domains)
    return max(created for created, _ in times), max(ready for _, ready in times)


def create_paused(domains: Sequence[Domain]) -> float:
    """CPU seconds of this process for creating all of them at once, paused. They are gone afterwards."""
    guests = [_Guest(domain, threading.Event()) for domain in domains]
    before = time.process_time()
    try:
        _define_filters(domains)
        with ThreadPoolExecutor(len(guests)) as pool:
            for created in [pool.submit(guest.create) for guest in guests]:
                created.result()
        return time.process_time() - before
    finally:
        for guest in guests:
            guest.remove()
        _remove_copies(domains)


def _define_filters(domains: Sequence[Domain]) -> None:
    """Once each: members of a group on one hypervisor share them, and two definitions at a time refuse each other."""
    for uri, text in dict.fromkeys((domain.uri, text) for domain in domains for text in domain.filters):
        connection = libvirt.open(uri)
        try:
            connection.nwfilterDefineXML(text)
        finally:
            connection.close()


def _remove_copies(domains: Sequence[Domain]) -> None:
    for uri in {domain.uri for domain in domains}:
        connection = libvirt.open(uri)
        try:
            for defined in connection.listAllNWFilters():
                if defined.name().startswith(_OWN_FILTER):
                    defined.undefine()
            for path in (path for domain in domains if domain.uri == uri for path in domain.volumes):
                connection.storageVolLookupByPath(path).delete()
        finally:
            connection.close()


class _Given(Exception):
    """Another guest failed, and nobody waits any longer."""


class _Guest:
    def __init__(self, wanted: Domain, failed: threading.Event) -> None:
        self._wanted = wanted
        self._failed = failed
        self._connection: libvirt.virConnect | None = None
        self._domain: libvirt.virDomain | None = None

    def launch(self, started: float, deadline_seconds: float) -> tuple[float, float]:
        try:
            return self._launch(started, started + deadline_seconds)
        except BaseException:
            self._failed.set()
            raise

    def create(self) -> tuple[libvirt.virDomain, libvirt.virStream]:
        """Paused, so that the reader of the channel is there before the guest's first word."""
        self._connection = libvirt.open(self._wanted.uri)
        self._domain = self._connection.createXML(self._wanted.xml, libvirt.VIR_DOMAIN_START_PAUSED)
        stream = self._connection.newStream(libvirt.VIR_STREAM_NONBLOCK)
        self._domain.openChannel(CHANNEL, stream, 0)
        return self._domain, stream

    def _launch(self, started: float, deadline: float) -> tuple[float, float]:
        domain, stream = self.create()
        created = time.monotonic() - started
        domain.resume()
        _wait_ready(stream, deadline, self._failed)
        ready = time.monotonic() - started
        stream.abort()
        return created, ready

    def remove(self) -> None:
        if self._domain is not None:
            self._domain.destroy()
        if self._connection is not None:
            self._connection.close()


def _wait_ready(stream: libvirt.virStream, deadline: float, failed: threading.Event) -> None:
    told = b""
    while time.monotonic() < deadline:
        if failed.is_set():
            raise _Given
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
