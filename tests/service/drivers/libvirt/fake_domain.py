"""Domains and networks of a host in memory, as libvirt's handles on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import libvirt

from tests.service.drivers.libvirt.fake_devices import give, take_back
from tests.service.drivers.libvirt.fake_errors import error
from tests.service.drivers.libvirt.fake_filters import missing

if TYPE_CHECKING:
    from tests.service.drivers.libvirt.fake import FakeHost


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
class FakeNetwork:
    """A virNetwork."""

    identity: str
    active: bool = True
    leases: list[dict[str, str]] | None = None

    def DHCPLeases(self) -> list[dict[str, str]]:  # noqa: N802
        if self.leases is None:
            raise error(libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_FROM_NETWORK, "no DHCP")
        return self.leases

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

    def info(self) -> list[int]:
        """State, most memory, memory, processors, and the processor time of its process (ns)."""
        return self.host.step("info", lambda: [self._there().state[0], 0, 0, 1, self.host.cpu_ns.get(self._uuid, 0)])  # type: ignore[no-any-return]

    def XMLDesc(self, _flags: int = 0) -> str:  # noqa: N802
        return self.host.step("XMLDesc", lambda: self._there().xml)  # type: ignore[no-any-return]

    def isActive(self) -> int:  # noqa: N802
        return int(self._there().active)

    def interfaceAddresses(self, source: int) -> dict[str, Any]:  # noqa: N802
        assert source == libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP
        if self._uuid not in self.host.heard:
            raise error(libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_NONE, "the kernel does not tell")
        return self.host.heard[self._uuid]

    def isPersistent(self) -> int:  # noqa: N802
        return int(self._there().persistent)

    def diskErrors(self, _flags: int) -> dict[str, int]:  # noqa: N802
        return self.host.disk_errors

    def autostart(self) -> int:
        return int(self._there().autostart)

    def createWithFlags(self, _flags: int) -> int:  # noqa: N802
        def create() -> int:
            there = self._there()
            if there.active:
                raise error(libvirt.VIR_ERR_OPERATION_INVALID)
            if name := missing(self.host, there.xml):
                raise error(libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_NWFILTER, f"filter {name!r} is missing")
            give(self.host, self._uuid, there.xml)
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
            take_back(self.host, there.xml)
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

    def undefine(self) -> int:
        return self.undefineFlags(0)

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
