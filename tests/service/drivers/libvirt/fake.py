"""A stateful libvirt of memory: the driver's real code runs against it, and it answers in libvirt's own error codes.

`FakeHost` is the machine; `open` gives connections to it. Faults are planted by method name: an error before the effect
(it never happened), after it (the reply was lost), or a hang until released.
"""

from __future__ import annotations

import threading
import time
import uuid
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import libvirt

from tests.service.drivers.libvirt.fake_errors import error as error
from tests.service.drivers.libvirt.fake_errors import lost as lost
from tests.service.drivers.libvirt.fake_storage import FakePool, FakeStream


@dataclass
class Fault:
    """One planted fault."""

    raises: Callable[[], libvirt.libvirtError] | None = None
    after_effect: bool = False
    hang: threading.Event | None = None
    times: int = 1


@dataclass
class Domain:
    """A domain's truth on the host."""

    name: str
    uuid: str
    xml: str
    persistent: bool = True
    state: tuple[int, int] = (int(libvirt.VIR_DOMAIN_SHUTOFF), 0)
    autostart: bool = False

    @property
    def active(self) -> bool:
        return self.state[0] not in (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_CRASHED)


@dataclass
class FakeHost:
    """Everything that outlives a connection. `calls` lists every method called, in order."""

    domains: dict[str, Domain] = field(default_factory=dict)
    volumes: dict[str, str] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    resident_kib: dict[str, int] = field(default_factory=dict)
    inactive_networks: set[str] = field(default_factory=set)
    disk_errors: dict[str, int] = field(default_factory=dict)
    lost_files: set[str] = field(default_factory=set)
    networks: dict[str, str] = field(default_factory=dict)
    pool: bool = False
    pool_active: bool = True
    calls: list[str] = field(default_factory=list)
    faults: dict[str, list[Fault]] = field(default_factory=lambda: defaultdict(list))
    connections: list[FakeConnection] = field(default_factory=list)
    reachable: dict[str, FakeHost] = field(default_factory=dict)
    moving: set[str] = field(default_factory=set)
    moves: list[tuple[str, dict[str, Any], int]] = field(default_factory=list)
    let_moves_end: threading.Event = field(default_factory=threading.Event)

    def open(self, _uri: str) -> FakeConnection:
        """Stands in for libvirt.open."""
        self.step("open", lambda: None)
        connection = FakeConnection(self)
        self.connections.append(connection)
        return connection

    def plant(
        self, method: str, raises: Callable[[], libvirt.libvirtError], *, after: bool = False, times: int = 1
    ) -> None:
        """The next `times` calls of the method fail."""
        self.faults[method].append(Fault(raises, after_effect=after, times=times))

    def hang(self, method: str, times: int = 1) -> threading.Event:
        """The next `times` calls of the method wait until the returned event is set."""
        event = threading.Event()
        self.faults[method].append(Fault(hang=event, times=times))
        return event

    def step(self, method: str, effect: Callable[[], Any]) -> Any:
        """One call: faults first, then the effect."""
        self.calls.append(method)
        fault = self._next_fault(method)
        if fault is not None and fault.hang is not None:
            fault.hang.wait(30)
        if fault is not None and fault.raises is not None and not fault.after_effect:
            raise fault.raises()
        result = effect()
        if fault is not None and fault.raises is not None:
            raise fault.raises()
        return result

    def _next_fault(self, method: str) -> Fault | None:
        waiting = self.faults.get(method)
        if not waiting:
            return None
        waiting[0].times -= 1
        return waiting.pop(0) if waiting[0].times == 0 else waiting[0]

    def effects(self) -> list[str]:
        """The calls that changed something, in order."""
        reading = {"open", "lookup", "state", "XMLDesc", "stats", "networkLookup", "poolLookup"}
        return [call for call in self.calls if call not in reading | {"listVolumes", "downloadVolume", "volumeInfo"}]

    def add_foreign(self, name: str, *, vcpus: int, memory_kib: int, running: bool, autostart: bool = False) -> Domain:
        """A domain that somebody else made."""
        made_uuid = str(uuid.uuid4())
        xml = (
            f"<domain><name>{name}</name><uuid>{made_uuid}</uuid>"
            f"<memory unit='KiB'>{memory_kib}</memory><vcpu>{vcpus}</vcpu></domain>"
        )
        state = (libvirt.VIR_DOMAIN_RUNNING, 1) if running else (libvirt.VIR_DOMAIN_SHUTOFF, 0)
        self.domains[made_uuid] = Domain(name, made_uuid, xml, state=state, autostart=autostart)
        return self.domains[made_uuid]


class FakeConnection:
    """A virConnect."""

    def __init__(self, host: FakeHost) -> None:
        self.host = host
        self.alive = True
        self.closed = False
        self._on_close: Callable[..., None] | None = None
        self._on_event: Callable[..., None] | None = None

    # --- the connection itself ---

    def isAlive(self) -> int:  # noqa: N802
        return int(self.alive and not self.closed)

    def setKeepAlive(self, _interval: int, _count: int) -> int:  # noqa: N802
        return 0

    def registerCloseCallback(self, callback: Callable[..., None], _opaque: Any) -> int:  # noqa: N802
        self._on_close = callback
        return 0

    def unregisterCloseCallback(self) -> int:  # noqa: N802
        self._on_close = None
        return 0

    def domainEventRegisterAny(self, _domain: Any, _event: int, callback: Callable[..., None], _opaque: Any) -> int:  # noqa: N802
        self._on_event = callback
        return 1

    def domainEventDeregisterAny(self, _callback: int) -> int:  # noqa: N802
        self._on_event = None
        return 0

    def close(self) -> int:
        self.closed = True
        return 0

    def break_down(self) -> None:
        """libvirtd is gone."""
        self.alive = False
        if self._on_close is not None:
            self._on_close(self, libvirt.VIR_CONNECT_CLOSE_REASON_EOF, None)

    def emit(self, machine_uuid: str, event: int) -> None:
        """A lifecycle event."""
        if self._on_event is not None:
            self._on_event(self, FakeDomain(self.host, machine_uuid), event, 0, None)

    # --- the host ---

    def getType(self) -> str:  # noqa: N802
        return "QEMU"

    def getHostname(self) -> str:  # noqa: N802
        return "fake"

    def getVersion(self) -> int:  # noqa: N802
        return 7_002_022

    def getLibVersion(self) -> int:  # noqa: N802
        return 9_000_000

    def getInfo(self) -> list[Any]:  # noqa: N802
        return ["x86_64", 4096, 8, 2000, 1, 1, 8, 1]

    def getMemoryStats(self, _cell: int) -> dict[str, int]:  # noqa: N802
        return {"total": 64 << 20}

    def getCapabilities(self) -> str:  # noqa: N802
        return "<capabilities><guest><arch name='x86_64'><domain type='qemu'/></arch></guest></capabilities>"

    def networkLookupByName(self, name: str) -> Any:  # noqa: N802
        def look() -> Any:
            if name not in self.host.networks:
                raise error(libvirt.VIR_ERR_NO_NETWORK)
            return FakeNetwork(self.host.networks[name], name not in self.host.inactive_networks)

        return self.host.step("networkLookup", look)

    def networkCreateXML(self, xml: str) -> Any:  # noqa: N802
        def create() -> Any:
            name = ElementTree.fromstring(xml).findtext("name", "")
            self.host.networks[name] = str(uuid.uuid4())
            return FakeNetwork(self.host.networks[name])

        return self.host.step("networkCreate", create)

    # --- domains ---

    def lookupByUUIDString(self, machine_uuid: str) -> FakeDomain:  # noqa: N802
        def look() -> FakeDomain:
            if machine_uuid not in self.host.domains:
                raise error(libvirt.VIR_ERR_NO_DOMAIN)
            return FakeDomain(self.host, machine_uuid)

        return self.host.step("lookup", look)  # type: ignore[no-any-return]

    def lookupByName(self, name: str) -> FakeDomain:  # noqa: N802
        def look() -> FakeDomain:
            for domain in self.host.domains.values():
                if domain.name == name:
                    return FakeDomain(self.host, domain.uuid)
            raise error(libvirt.VIR_ERR_NO_DOMAIN)

        return self.host.step("lookup", look)  # type: ignore[no-any-return]

    def defineXML(self, xml: str) -> FakeDomain:  # noqa: N802
        root = ElementTree.fromstring(xml)
        name, machine_uuid = root.findtext("name", ""), root.findtext("uuid", "")

        def define() -> FakeDomain:
            there = self.host.domains.get(machine_uuid)
            same_name = [d for d in self.host.domains.values() if d.name == name]
            if (there is not None and there.name != name) or any(d.uuid != machine_uuid for d in same_name):
                raise error(libvirt.VIR_ERR_OPERATION_FAILED, libvirt.VIR_FROM_DOMAIN)
            if there is None:
                self.host.domains[machine_uuid] = Domain(name, machine_uuid, xml)
            else:
                there.xml = xml  # silently, even while it runs: as libvirt does
            return FakeDomain(self.host, machine_uuid)

        return self.host.step("define", define)  # type: ignore[no-any-return]

    def getAllDomainStats(self, _stats: int, _flags: int) -> list[tuple[FakeDomain, dict[str, int]]]:  # noqa: N802
        def read() -> list[tuple[FakeDomain, dict[str, int]]]:
            return [
                (FakeDomain(self.host, d.uuid), {"state.state": d.state[0], "state.reason": d.state[1]})
                for d in self.host.domains.values()
            ]

        return self.host.step("stats", read)  # type: ignore[no-any-return]

    def domainListGetStats(self, domains: list[FakeDomain], _stats: int, _flags: int) -> list[Any]:  # noqa: N802
        resident = self.host.resident_kib
        return self.host.step(  # type: ignore[no-any-return]
            "stats",
            lambda: [
                (d, {"balloon.rss": resident[d.UUIDString()]} if d.UUIDString() in resident else {}) for d in domains
            ],
        )

    # --- storage ---

    def storagePoolLookupByName(self, _name: str) -> FakePool:  # noqa: N802
        def look() -> FakePool:
            if not self.host.pool:
                raise error(libvirt.VIR_ERR_NO_STORAGE_POOL)
            return FakePool(self.host)

        return self.host.step("poolLookup", look)  # type: ignore[no-any-return]

    def storagePoolDefineXML(self, _xml: str, _flags: int) -> FakePool:  # noqa: N802
        self.host.pool = True
        return FakePool(self.host)

    def newStream(self, flags: int) -> FakeStream:  # noqa: N802
        return FakeStream(self.host, bool(flags & libvirt.VIR_STREAM_NONBLOCK))


@dataclass
class FakeNetwork:
    """A virNetwork."""

    identity: str
    active: bool = True

    def UUIDString(self) -> str:  # noqa: N802
        return self.identity

    def isActive(self) -> int:  # noqa: N802
        return int(self.active)


class FakeDomain:
    """A virDomain: a handle, which may point at a domain that is gone."""

    def __init__(self, host: FakeHost, machine_uuid: str) -> None:
        self.host = host
        self._uuid = machine_uuid

    def _there(self) -> Domain:
        found = self.host.domains.get(self._uuid)
        if found is None:
            raise error(libvirt.VIR_ERR_NO_DOMAIN)
        return found

    def UUIDString(self) -> str:  # noqa: N802
        return self._uuid

    def state(self, _flags: int = 0) -> list[int]:
        return self.host.step("state", lambda: list(self._there().state))  # type: ignore[no-any-return]

    def XMLDesc(self, _flags: int = 0) -> str:  # noqa: N802
        return self.host.step("XMLDesc", lambda: self._there().xml)  # type: ignore[no-any-return]

    def isActive(self) -> int:  # noqa: N802
        return int(self._there().active)

    def diskErrors(self, _flags: int) -> dict[str, int]:  # noqa: N802
        return self.host.disk_errors

    def autostart(self) -> int:
        return int(self._there().autostart)

    def createWithFlags(self, _flags: int) -> int:  # noqa: N802
        def create() -> int:
            there = self._there()
            if there.active:
                raise error(libvirt.VIR_ERR_OPERATION_INVALID)
            there.state = (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_USER)
            return 0

        return self.host.step("create", create)  # type: ignore[no-any-return]

    def resume(self) -> int:
        def run() -> int:
            there = self._there()
            if there.state[0] != libvirt.VIR_DOMAIN_PAUSED:
                raise error(libvirt.VIR_ERR_OPERATION_INVALID)
            there.state = (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_UNPAUSED)
            return 0

        return self.host.step("resume", run)  # type: ignore[no-any-return]

    def shutdown(self) -> int:
        return self.host.step("shutdown", lambda: self._there() and 0)  # type: ignore[no-any-return]

    def destroyFlags(self, _flags: int) -> int:  # noqa: N802
        def destroy() -> int:
            there = self._there()
            if not there.active:
                raise error(libvirt.VIR_ERR_OPERATION_INVALID)
            there.state = (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED)
            if not there.persistent:
                del self.host.domains[self._uuid]
            return 0

        return self.host.step("destroy", destroy)  # type: ignore[no-any-return]

    def undefineFlags(self, _flags: int) -> int:  # noqa: N802
        def undefine() -> int:
            there = self._there()
            if there.active:
                there.persistent = False  # it goes on running, and nobody's
            else:
                del self.host.domains[self._uuid]
            return 0

        return self.host.step("undefine", undefine)  # type: ignore[no-any-return]

    def jobStats(self, _flags: int) -> dict[str, int]:  # noqa: N802
        def read() -> dict[str, int]:
            self._there()
            if self._uuid not in self.host.moving:
                return {"type": libvirt.VIR_DOMAIN_JOB_NONE}
            return {
                "type": libvirt.VIR_DOMAIN_JOB_UNBOUNDED,
                "operation": libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT,
            }

        return self.host.step("state", read)  # type: ignore[no-any-return]

    def abortJob(self) -> int:  # noqa: N802
        def abort() -> int:
            if self._uuid not in self.host.moving:
                raise error(libvirt.VIR_ERR_OPERATION_INVALID)
            self.host.moving.discard(self._uuid)
            return 0

        return self.host.step("abortJob", abort)  # type: ignore[no-any-return]

    def migrateToURI3(self, uri: str, parameters: dict[str, Any], flags: int) -> int:  # noqa: N802
        """Peer to peer: until `host.let_moves_end` is set it goes on; an aborted job ends it before."""

        def move() -> int:
            there = self._there()
            target = self.host.reachable.get(uri)
            if target is None:
                raise error(libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_FROM_RPC, "No route to host")
            if self._uuid in target.domains:
                raise error(libvirt.VIR_ERR_OPERATION_FAILED, libvirt.VIR_FROM_DOMAIN)
            self.host.moves.append((uri, parameters, flags))
            self.host.moving.add(self._uuid)
            while not self.host.let_moves_end.wait(0.005):
                if self._uuid not in self.host.moving:
                    raise error(libvirt.VIR_ERR_OPERATION_ABORTED)
            self.host.moving.discard(self._uuid)
            xml = parameters[libvirt.VIR_MIGRATE_PARAM_PERSIST_XML]
            state = (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_MIGRATED)
            target.domains[self._uuid] = Domain(there.name, self._uuid, xml, state=state)
            del self.host.domains[self._uuid]
            return 0

        return self.host.step("migrate", move)  # type: ignore[no-any-return]

    def openChannel(self, _name: str, _stream: Any, _flags: int) -> int:  # noqa: N802
        self.host.step("openChannel", self._there)
        return 0


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Polls; whether it came true."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True
