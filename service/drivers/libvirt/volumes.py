"""One volume of a pool: made, written, proven to be there, deleted. Block; they run in a call's thread.

A pool's list is what libvirt remembers of it: a file that somebody else deleted stays listed until the pool is
refreshed, and until then libvirt refuses to make a volume of that name.
"""

from __future__ import annotations

import errno
import logging
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import Any
from xml.etree.ElementTree import Element, SubElement

import libvirt

from service.drivers.base import HostRejected
from service.drivers.libvirt.connection import Work
from service.drivers.libvirt.errors import connection_lost

_log = logging.getLogger(__name__)

ALLOCATION_POLL_SECONDS = 0.02
MOST_READ = 64 << 20
Reader = Callable[[Any, int, Any], bytes]
"""The next bytes, as many as asked for or fewer, for a stream; none at the end."""
_LITTLE = 1 << 20


def make(
    pool: Any,
    work: Work,
    name: str,
    size: int,
    kind: str,
    *,
    backing: tuple[str, str] | None = None,
    mode: str = "0600",
) -> Any:
    """A volume of `size` bytes in format `kind` (raw | qcow2); one of that name that is there is used as it is.

    `backing`: path and format of what it stands on.
    """
    wanted = ElementTree.tostring(_volume_xml(name, size, kind, backing, mode), encoding="unicode")
    for _ in range(2):
        work.check()
        try:
            return pool.createXML(wanted, 0)
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID and not connection_lost(error):
                # Its file is there, and the pool does not know of it; or the pool is not active any more.
                pool.refresh(0)
            elif error.get_error_code() != libvirt.VIR_ERR_STORAGE_VOL_EXIST:
                raise
        there = find(pool, name)
        if there is None:
            continue  # deleted in this moment
        _await_allocated(pool, work, there)
        if capacity(there) is not None:
            return there
        _log.warning("volume %s is listed and its file is gone: it is made anew", name)
        delete(pool, work, name)
    return pool.createXML(wanted, 0)


def _volume_xml(name: str, size: int, kind: str, backing: tuple[str, str] | None, mode: str) -> Element:
    volume = Element("volume", type="file")
    SubElement(volume, "name").text = name
    SubElement(volume, "capacity", unit="bytes").text = str(size)
    SubElement(volume, "allocation", unit="bytes").text = "0"
    target = SubElement(volume, "target")
    SubElement(target, "format", type=kind)
    SubElement(SubElement(target, "permissions"), "mode").text = mode
    if backing is not None:
        store = SubElement(volume, "backingStore")
        SubElement(store, "path").text = backing[0]
        SubElement(store, "format", type=backing[1])
    return volume


def written(pool: Any, work: Work, name: str, content: bytes, *, size: int = 0) -> Any:
    """A raw volume of mode 0600 that begins with this content; `size`: its bytes, where they are more than that.

    One of that size is written over in place: another control plane's create, which may open it in this moment, finds a
    file, and most often these very bytes. What a call that broke off had written is written over with it.

    What was written is read back. Raises HostRejected where it is not there.
    """
    size = max(size, len(content))
    there = find(pool, name)
    if there is not None and capacity(there) != size:
        delete(pool, work, name)
        there = None
    volume = there or make(pool, work, name, size, "raw")
    position = 0

    def read(_stream: Any, count: int, _opaque: Any) -> bytes:
        nonlocal position
        work.check()
        part = content[position : position + count]
        position += len(part)
        return part

    upload(pool, work, volume, 0, len(content), read)
    if size <= MOST_READ and not _kept(content, read_back(pool, work, name)):
        raise not_kept(pool)
    return volume


def upload(pool: Any, work: Work, volume: Any, start: int, length: int, read: Reader) -> None:
    """Writes what `read` gives, to its end, into the volume from `start` on; at most so many bytes. One that is being
    written is waited for."""
    stream = pool.connect().newStream(0)
    _once_free(pool, work, volume.upload, stream, start, length, 0)
    send(stream, read)


def _kept(content: bytes, found: bytes) -> bool:
    """Whether the volume has the content, or another control plane's of this moment; False: it ends in nothing.

    libvirt 9.0 tells nothing of a small upload that the file system had no room for: the volume stays a hole, and the
    guest would boot with it.
    """
    found = found[: len(content)]
    if found == content:
        return True
    other = (at for at, (wanted, there) in enumerate(zip(content, found, strict=False)) if wanted != there)
    return any(found[next(other, len(found)) :])


def not_kept(pool: Any) -> HostRejected:
    """Why what was written is not there."""
    pool.refresh(0)
    if pool.info()[3] < _LITTLE:
        return HostRejected("no_space", "the host's storage pool is full")
    return HostRejected("not_kept", "the host's storage pool does not keep what is written to it")


def read_back(pool: Any, work: Work, name: str) -> bytes:
    """All that a small raw volume holds; nothing where it or its file is not there."""
    volume = find(pool, name)
    size = None if volume is None else capacity(volume)
    if volume is None or not size or size > MOST_READ:
        return b""
    return read(pool, work, volume, 0, size)


def read(pool: Any, work: Work, volume: Any, start: int, count: int) -> bytes:
    """So many bytes of a volume from `start` on, or fewer where it ends before."""
    stream = pool.connect().newStream(0)
    volume.download(stream, start, count, 0)
    parts: list[bytes] = []

    def take(_stream: Any, data: bytes, _opaque: Any) -> int:
        work.check()
        parts.append(data)
        return len(data)

    try:
        stream.recvAll(take, None)
        stream.finish()
    except BaseException:
        unless(None, stream.abort)
        raise
    return b"".join(parts)


def find(pool: Any, name: str) -> Any | None:
    """The volume of that name as the pool remembers it, or None."""
    try:
        return pool.storageVolLookupByName(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_VOL:
            raise
        return None


def capacity(volume: Any) -> int | None:
    """Its size in bytes, read from its file; None where the file is gone, whatever the pool remembers.

    Not its capacity: libvirt refreshes the pool after each upload, and takes a volume whose content is qcow2 for a disk
    of the size that stands there.
    """
    try:
        return _file_size(volume)
    except libvirt.libvirtError as error:
        absent = error.get_error_code() == libvirt.VIR_ERR_SYSTEM_ERROR and error.get_int1() == errno.ENOENT
        if connection_lost(error) or not (absent or error.get_error_code() == libvirt.VIR_ERR_NO_STORAGE_VOL):
            raise
        return None


def _file_size(volume: Any) -> int:
    try:
        return int(volume.infoFlags(libvirt.VIR_STORAGE_VOL_GET_PHYSICAL)[2])
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
            raise
        return int(volume.info()[1])  # of libvirt's test driver, which has no files


def backing_path(volume: Any) -> str:
    """The path of what it stands on, as the pool remembers it; empty for nothing."""
    try:
        return ElementTree.fromstring(volume.XMLDesc(0)).findtext("backingStore/path", "")
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_VOL:
            raise
        return ""


def delete(pool: Any, work: Work, name: str) -> None:
    """Deletes it; absent, or listed without a file, is success. One that is being written is waited for."""
    volume = find(pool, name)
    if volume is not None:
        unless(libvirt.VIR_ERR_NO_STORAGE_VOL, _once_free, pool, work, volume.delete, 0)


def _once_free(pool: Any, work: Work, step: Callable[..., object], *arguments: Any) -> None:
    """Takes the step, again and again while another call writes the volume: libvirt refuses it meanwhile.

    It refuses with the code that a pool which is not active has too; that one is raised.
    """
    while True:
        try:
            step(*arguments)
            return
        except libvirt.libvirtError as error:
            held = error.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID and not connection_lost(error)
            if not held or not pool.isActive():
                raise
        work.pause(ALLOCATION_POLL_SECONDS)


def send(stream: Any, read: Reader) -> None:
    """Sends what `read` gives, to its end; what a broken upload leaves is the caller's to delete."""
    try:
        stream.sendAll(read, None)
        stream.finish()
    except BaseException:
        unless(None, stream.abort)
        raise


def _await_allocated(pool: Any, work: Work, volume: Any) -> None:
    """Waits while another control plane's call still makes the volume.

    libvirt lists it from the beginning, and tells of what is half made only by refusing to read it.
    """
    while True:
        stream = pool.connect().newStream(0)
        try:
            volume.download(stream, 0, 1, 0)
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_SYSTEM_ERROR and error.get_int1() == errno.ENOENT:
                return  # made long ago, and its file is gone
            if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:
                raise
        else:
            unless(None, stream.abort)
            return
        work.pause(ALLOCATION_POLL_SECONDS)


def unless(code: int | None, call: Any, *arguments: Any) -> None:
    """Calls, and lets pass libvirt's error with this code, or every one of its errors for None."""
    try:
        call(*arguments)
    except libvirt.libvirtError as error:
        if code is not None and error.get_error_code() != code:
            raise
