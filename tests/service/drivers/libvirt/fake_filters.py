"""Network filters of a host in memory, as libvirt's handles on them; what it refuses was seen of libvirt 9.0."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import libvirt

from tests.service.drivers.libvirt.fake_errors import error

if TYPE_CHECKING:
    from tests.service.drivers.libvirt.fake import FakeHost


@dataclass
class Filter:
    """A filter's truth on the host."""

    name: str
    uuid: str
    xml: str


def references(xml: str) -> list[str]:
    """Names of the filters that a domain refers to."""
    return [f.get("filter", "") for f in ElementTree.fromstring(xml).findall("devices/interface/filterref")]


def missing(host: FakeHost, xml: str) -> str:
    """The first filter that a domain refers to and the host has not."""
    there = {f.name for f in host.filters.values()}
    return next((name for name in references(xml) if name not in there), "")


@dataclass
class FakeFilter:
    """A virNWFilter."""

    host: FakeHost
    identity: str

    def _there(self) -> Filter:
        if self.identity not in self.host.filters:
            raise error(libvirt.VIR_ERR_NO_NWFILTER, libvirt.VIR_FROM_NWFILTER)
        return self.host.filters[self.identity]

    def name(self) -> str:
        return self._there().name

    def UUIDString(self) -> str:  # noqa: N802
        return self.identity

    def XMLDesc(self, _flags: int = 0) -> str:  # noqa: N802
        return self._there().xml

    def undefine(self) -> int:
        def undefine() -> int:
            name = self._there().name
            if name in self.host.bindings.values() or any(
                name in references(d.xml) for d in self.host.domains.values() if d.active
            ):
                raise error(libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_FROM_NWFILTER)
            del self.host.filters[self.identity]
            return 0

        return self.host.step("undefineFilter", undefine)  # type: ignore[no-any-return]


@dataclass
class FakeBinding:
    """A virNWFilterBinding."""

    host: FakeHost
    port: str

    def filterName(self) -> str:  # noqa: N802
        return self.host.bindings[self.port]

    def delete(self) -> int:
        return self.host.step("unbind", lambda: self.host.bindings.pop(self.port) and 0)  # type: ignore[no-any-return]


class Filtering:
    """The part of a virConnect that is about filters."""

    host: FakeHost

    def listAllNWFilters(self, _flags: int) -> list[FakeFilter]:  # noqa: N802
        return self.host.step("filters", lambda: [FakeFilter(self.host, f) for f in self.host.filters])  # type: ignore[no-any-return]

    def nwfilterLookupByUUIDString(self, identity: str) -> FakeFilter:  # noqa: N802
        def look() -> FakeFilter:
            found = FakeFilter(self.host, identity)
            found.name()
            return found

        return self.host.step("filterLookup", look)  # type: ignore[no-any-return]

    def nwfilterDefineXML(self, xml: str) -> FakeFilter:  # noqa: N802
        root = ElementTree.fromstring(xml)
        name, identity = root.get("name", ""), root.findtext("uuid", "")

        def define() -> FakeFilter:
            for one in self.host.filters.values():
                if (one.name == name) != (one.uuid == identity):
                    raise error(libvirt.VIR_ERR_OPERATION_FAILED, libvirt.VIR_FROM_NWFILTER)
            self.host.filters[identity] = Filter(name, identity, xml)
            return FakeFilter(self.host, identity)

        return self.host.step("defineFilter", define)  # type: ignore[no-any-return]

    def nwfilterBindingLookupByPortDev(self, port: str) -> FakeBinding:  # noqa: N802
        if port not in self.host.bindings:
            raise error(libvirt.VIR_ERR_NO_NWFILTER_BINDING, libvirt.VIR_FROM_NWFILTER)
        return FakeBinding(self.host, port)

    def nwfilterBindingCreateXML(self, xml: str, _flags: int) -> FakeBinding:  # noqa: N802
        root = ElementTree.fromstring(xml)
        port, reference = root.find("portdev"), root.find("filterref")
        assert port is not None
        assert reference is not None
        name, by = port.get("name", ""), reference.get("filter", "")

        def bind() -> FakeBinding:
            if name in self.host.bindings:
                raise error(libvirt.VIR_ERR_OPERATION_FAILED, libvirt.VIR_FROM_NWFILTER)
            if not self.host.filters_work:
                raise error(libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_FIREWALL, "ebtables: not found")
            self.host.bindings[name] = by
            return FakeBinding(self.host, name)

        return self.host.step("bind", bind)  # type: ignore[no-any-return]


def of_groups(host: FakeHost) -> dict[str, Any]:
    """The host's filters by name, without what is passing."""
    return {f.name: f for f in host.filters.values() if "probe" not in f.name}
