"""A stateful libvirt in memory: the driver's real code runs against it, and it answers in libvirt's own error codes.

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

from tests.service.drivers.libvirt.fake_devices import Devices, Function, addresses_of
from tests.service.drivers.libvirt.fake_domain import Domain as Domain
from tests.service.drivers.libvirt.fake_domain import FakeDomain, FakeNetwork
from tests.service.drivers.libvirt.fake_errors import error as error
from tests.service.drivers.libvirt.fake_errors import lost as lost
from tests.service.drivers.libvirt.fake_filters import Filter, Filtering
from tests.service.drivers.libvirt.fake_storage import FakePool, FakeStream


@dataclass
class Fault:
    """One planted fault."""

    raises: Callable[[], libvirt.libvirtError] | None = None
    after_effect: bool = False
    hang: threading.Event | None = None
    times: int = 1


@dataclass
class FakeHost:
    """Everything that outlives a connection. `calls` lists every method called, in order."""

    domains: dict[str, Domain] = field(default_factory=dict)
    functions: dict[str, Function] = field(default_factory=dict)
    volumes: dict[str, str] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    uploaded: dict[str, int] = field(default_factory=dict)  # bytes that were sent to each volume, twice sent ones too
    link_carries: int | None = None  # so many bytes are sent, then the connection breaks, once
    resident_kib: dict[str, int] = field(default_factory=dict)
    cpu_ns: dict[str, int] = field(default_factory=dict)
    topology: str = ""  # an element of the capabilities
    pool_full: bool = False  # as libvirt 9.0 has it: a small upload is lost without a word
    inactive_networks: set[str] = field(default_factory=set)
    disk_errors: dict[str, int] = field(default_factory=dict)
    lost_files: set[str] = field(default_factory=set)
    networks: dict[str, str] = field(default_factory=dict)
    leases: dict[str, list[dict[str, str]]] = field(default_factory=dict)  # of networks that give some
    heard: dict[str, dict[str, Any]] = field(default_factory=dict)  # a domain's uuid -> interfaces by ARP
    filters: dict[str, Filter] = field(default_factory=dict)
    bindings: dict[str, str] = field(default_factory=dict)  # a port of a bridge -> the filter's name
    filters_work: bool = True
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
            fault.hang.wait(120)
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
        reading |= {"deviceXML", "devices", "deviceLookup", "listenDevices", "filters", "filterLookup", "openUpload"}
        return [call for call in self.calls if call not in reading | {"listVolumes", "downloadVolume", "volumeInfo"}]

    def add_foreign(
        self, name: str, *, vcpus: int, memory_kib: int, running: bool, autostart: bool = False,
        tuning: str = "",
    ) -> Domain:  # fmt: skip
        """A domain that somebody else made."""
        made_uuid = str(uuid.uuid4())
        xml = (
            f"<domain><name>{name}</name><uuid>{made_uuid}</uuid>"
            f"<memory unit='KiB'>{memory_kib}</memory><vcpu>{vcpus}</vcpu>{tuning}</domain>"
        )
        state = (libvirt.VIR_DOMAIN_RUNNING, 1) if running else (libvirt.VIR_DOMAIN_SHUTOFF, 0)
        for address in addresses_of(xml) if running else ():
            self.functions[address].driver = "vfio-pci"
        self.domains[made_uuid] = Domain(name, made_uuid, xml, state=state, autostart=autostart)
        return self.domains[made_uuid]


class FakeConnection(Filtering, Devices):
    """A virConnect."""

    def __init__(self, host: FakeHost) -> None:
        self.host = host
        self.alive = True
        self.closed = False
        self._on_close: Callable[..., None] | None = None
        self._on_event: Callable[..., None] | None = None
        self._on_reboot: Callable[..., None] | None = None

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

    def domainEventRegisterAny(self, _domain: Any, event: int, callback: Callable[..., None], _opaque: Any) -> int:  # noqa: N802
        if event == libvirt.VIR_DOMAIN_EVENT_ID_REBOOT:
            self._on_reboot = callback
        else:
            self._on_event = callback
        return event

    def domainEventDeregisterAny(self, event: int) -> int:  # noqa: N802
        if event == libvirt.VIR_DOMAIN_EVENT_ID_REBOOT:
            self._on_reboot = None
        else:
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

    def reset(self, machine_uuid: str) -> None:
        """libvirt tells that a machine was reset."""
        assert self._on_reboot is not None
        self._on_reboot(self, FakeDomain(self.host, machine_uuid), None)

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
        guest = "<guest><arch name='x86_64'><domain type='qemu'/></arch></guest>"
        return f"<capabilities><host>{self.host.topology}</host>{guest}</capabilities>"

    def networkLookupByName(self, name: str) -> Any:  # noqa: N802
        def look() -> Any:
            if name not in self.host.networks:
                raise error(libvirt.VIR_ERR_NO_NETWORK)
            return FakeNetwork(self.host.networks[name], name not in self.host.inactive_networks)

        return self.host.step("networkLookup", look)

    def listAllNetworks(self, flags: int) -> list[FakeNetwork]:  # noqa: N802
        assert flags == libvirt.VIR_CONNECT_LIST_NETWORKS_ACTIVE
        there = [name for name in self.host.networks if name not in self.host.inactive_networks]
        leases = self.host.leases
        return [FakeNetwork(self.host.networks[name], leases=leases.get(name)) for name in there]

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
                there.xml, there.persistent = xml, True  # silently, even while it runs: as libvirt does
            return FakeDomain(self.host, machine_uuid)

        return self.host.step("define", define)  # type: ignore[no-any-return]

    def getAllDomainStats(self, _stats: int, _flags: int) -> list[tuple[FakeDomain, dict[str, int]]]:  # noqa: N802
        def read() -> list[tuple[FakeDomain, dict[str, int]]]:
            return [
                (FakeDomain(self.host, d.uuid), {"state.state": d.state[0], "state.reason": d.state[1]})
                for d in self.host.domains.values()
            ]

        return self.host.step("stats", read)  # type: ignore[no-any-return]

    def listAllDomains(self, flags: int = 0) -> list[FakeDomain]:  # noqa: N802
        if not flags:
            return [FakeDomain(self.host, d.uuid) for d in self.host.domains.values()]
        assert flags == libvirt.VIR_CONNECT_LIST_DOMAINS_TRANSIENT
        return [FakeDomain(self.host, d.uuid) for d in self.host.domains.values() if not d.persistent]

    def domainListGetStats(self, domains: list[FakeDomain], stats: int, _flags: int) -> list[Any]:  # noqa: N802
        assert not stats & libvirt.VIR_DOMAIN_STATS_CPU_TOTAL, "libvirt asks the QEMU for that, which may hang"

        def of(uuid: str) -> dict[str, int]:
            return {"balloon.rss": self.host.resident_kib[uuid]} if uuid in self.host.resident_kib else {}

        return self.host.step("stats", lambda: [(d, of(d.UUIDString())) for d in domains])  # type: ignore[no-any-return]

    # --- storage ---

    def storagePoolLookupByName(self, _name: str) -> FakePool:  # noqa: N802
        def look() -> FakePool:
            if not self.host.pool:
                raise error(libvirt.VIR_ERR_NO_STORAGE_POOL)
            return FakePool(self.host)

        return self.host.step("poolLookup", look)  # type: ignore[no-any-return]

    def listAllStoragePools(self, flags: int) -> list[FakePool]:  # noqa: N802
        assert flags == libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE
        return [FakePool(self.host)] if self.host.pool and self.host.pool_active else []

    def storagePoolDefineXML(self, _xml: str, _flags: int) -> FakePool:  # noqa: N802
        self.host.pool = True
        return FakePool(self.host)

    def newStream(self, flags: int) -> FakeStream:  # noqa: N802
        return FakeStream(self.host, bool(flags & libvirt.VIR_STREAM_NONBLOCK))


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Polls; whether it came true."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True
