"""The storage of a host in memory: its pool, volumes and uploads."""

from __future__ import annotations

import errno
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import libvirt

from tests.service.drivers.libvirt.fake_errors import error, lost

if TYPE_CHECKING:
    from tests.service.drivers.libvirt.fake import FakeConnection, FakeHost


_WRITES = threading.Lock()


def absent_file() -> libvirt.libvirtError:
    """What libvirt says of a volume that it lists and whose file somebody deleted."""
    return error(libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_FROM_STORAGE, "cannot stat file", errno.ENOENT)


class FakePool:
    """A virStoragePool."""

    def __init__(self, host: FakeHost) -> None:
        self.host = host

    def isActive(self) -> int:  # noqa: N802
        return int(self.host.pool_active)

    def create(self, _flags: int) -> int:
        def start() -> int:
            self.host.pool_active = True
            return 0

        return self.host.step("startPool", start)  # type: ignore[no-any-return]

    def refresh(self, _flags: int) -> int:
        return 0

    def info(self) -> list[int]:
        """State, capacity, allocation, available."""
        return [0, 1 << 40, 0, 0 if self.host.pool_full else 1 << 40]

    def connect(self) -> FakeConnection:
        return self.host.connections[-1]

    def build(self, _flags: int) -> int:
        return 0

    def setAutostart(self, _on: int) -> int:  # noqa: N802
        return 0

    def listAllVolumes(self, _flags: int) -> list[FakeVolume]:  # noqa: N802
        return self.host.step("listVolumes", lambda: [FakeVolume(self.host, name) for name in self.host.volumes])  # type: ignore[no-any-return]

    def listVolumes(self) -> list[str]:  # noqa: N802
        return self.host.step("listVolumes", lambda: list(self.host.volumes))  # type: ignore[no-any-return]

    def storageVolLookupByName(self, name: str) -> FakeVolume:  # noqa: N802
        if name not in self.host.volumes:
            raise error(libvirt.VIR_ERR_NO_STORAGE_VOL, libvirt.VIR_FROM_STORAGE)
        return FakeVolume(self.host, name)

    def createXML(self, xml: str, _flags: int) -> FakeVolume:  # noqa: N802
        name = ElementTree.fromstring(xml).findtext("name", "")

        def create() -> FakeVolume:
            if name in self.host.volumes:
                raise error(libvirt.VIR_ERR_STORAGE_VOL_EXIST, libvirt.VIR_FROM_STORAGE)
            self.host.volumes[name] = xml
            return FakeVolume(self.host, name)

        return self.host.step("createVolume", create)  # type: ignore[no-any-return]


class FakeVolume:
    """A virStorageVol."""

    def __init__(self, host: FakeHost, name: str) -> None:
        self.host = host
        self._name = name

    def name(self) -> str:
        return self._name

    def path(self) -> str:
        return f"/pool/{self._name}"

    def infoFlags(self, flags: int) -> list[int]:  # noqa: N802
        """Type, capacity and size, read from the file, which may be gone without libvirt's knowledge."""
        assert flags == libvirt.VIR_STORAGE_VOL_GET_PHYSICAL

        def read() -> list[int]:
            xml = self.host.volumes.get(self._name)
            if xml is None:
                raise error(libvirt.VIR_ERR_NO_STORAGE_VOL, libvirt.VIR_FROM_STORAGE)
            if self._name in self.host.lost_files:
                raise absent_file()
            # As libvirt does: of a raw volume that somebody has written to, its file's size.
            made_as = int(ElementTree.fromstring(xml).findtext("capacity", "0"))
            size = max(made_as, len(self.host.contents.get(self._name, b"")) if made_as == 0 else 0)
            return [0, 1 << 40, size]  # what it takes for the capacity is the content's own word

        return self.host.step("volumeInfo", read)  # type: ignore[no-any-return]

    def delete(self, _flags: int) -> int:
        def remove() -> int:
            self.host.lost_files.discard(self._name)
            if self.host.volumes.pop(self._name, None) is None:
                raise error(libvirt.VIR_ERR_NO_STORAGE_VOL, libvirt.VIR_FROM_STORAGE)
            return 0

        return self.host.step("deleteVolume", remove)  # type: ignore[no-any-return]

    def upload(self, stream: FakeStream, offset: int, length: int, _flags: int) -> int:
        def begin() -> int:
            stream.target, stream.offset, stream.length = self._name, offset, length
            return 0

        return self.host.step("openUpload", begin)  # type: ignore[no-any-return]

    def download(self, stream: FakeStream, offset: int, length: int, _flags: int) -> int:
        def read() -> int:
            if self._name in self.host.lost_files:
                raise absent_file()
            stream.target, stream.part = self._name, slice(offset, offset + length if length else None)
            return 0

        return self.host.step("downloadVolume", read)  # type: ignore[no-any-return]

    def XMLDesc(self, _flags: int = 0) -> str:  # noqa: N802
        volume = ElementTree.fromstring(self.host.volumes[self._name])
        target = volume.find("target")
        assert target is not None
        # As old as the epoch, so that a driver that looks for stale uploads takes it for one.
        ElementTree.SubElement(ElementTree.SubElement(target, "timestamps"), "mtime").text = "1.0"
        ElementTree.SubElement(target, "path").text = self.path()
        return ElementTree.tostring(volume, encoding="unicode")


class FakeStream:
    """A virStream: takes an upload, gives a download."""

    def __init__(self, host: FakeHost, nonblocking: bool) -> None:
        self.host = host
        self.nonblocking = nonblocking
        self.target = ""
        self.offset = 0
        self.length = 0
        self.part = slice(None)

    def sendAll(self, read: Callable[[Any, int, Any], bytes], opaque: Any) -> None:  # noqa: N802
        def send() -> None:
            size = int(ElementTree.fromstring(self.host.volumes[self.target]).findtext("capacity", "0"))
            at = self.offset
            self._write(size, at, b"")
            while part := read(self, 65536, opaque):
                assert at + len(part) - self.offset <= self.length, "libvirt takes no more than was said"
                self._write(size, at, b"" if self.host.pool_full else part)
                at += len(part)
                self.host.uploaded[self.target] = self.host.uploaded.get(self.target, 0) + len(part)
                if self.host.link_carries is not None and sum(self.host.uploaded.values()) >= self.host.link_carries:
                    self.host.link_carries = None
                    raise lost()

        self.host.step("upload", send)

    def _write(self, size: int, at: int, part: bytes) -> None:
        """These bytes and no others: what another call writes meanwhile stays."""
        with _WRITES:
            content = bytearray(self.host.contents.get(self.target, b"").ljust(size, b"\0"))
            content[at : at + len(part)] = part
            self.host.contents[self.target] = bytes(content)

    def recvAll(self, take: Callable[[Any, bytes, Any], int], opaque: Any) -> None:  # noqa: N802
        content = self.host.contents[self.target][self.part]
        for start in range(0, len(content), 65536):
            take(self, content[start : start + 65536], opaque)

    def finish(self) -> int:
        return 0

    def abort(self) -> int:
        self.host.calls.append("abortStream")
        return 0

    def eventAddCallback(self, _events: int, _callback: Any, _opaque: Any) -> int:  # noqa: N802
        return 0

    def eventRemoveCallback(self) -> int:  # noqa: N802
        return 0
