"""Volumes on a host, made only through libvirt's pools, so that a remote host needs nothing but its libvirtd.

Base images are uploaded once a host and named by their content. An upload that broke off leaves a volume without its
`ready` marker, which is never used. All functions block; they run in a call's thread.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import re
import secrets
import threading
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree.ElementTree import Element, SubElement

import libvirt

from service.domain.catalog import Image
from service.drivers.base import HostRejected, MachineIdentity, MachineSpec
from service.drivers.libvirt import seed
from service.drivers.libvirt.addressing import Options
from service.drivers.libvirt.connection import Work
from service.drivers.libvirt.domain_xml import Boot, Disk
from service.drivers.libvirt.errors import Abandoned
from service.drivers.libvirt.tags import is_machine_volume, volume_name, volume_prefix

_log = logging.getLogger(__name__)

_BASE = re.compile(r"corral-base\.([0-9a-f]{64})\.([0-9a-f]{8})(\.ready)?")
# An upload that is not ready after this long was given up by whoever made it.
STALE_UPLOAD_SECONDS = 3600
POOL_PATIENCE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class _Source:
    """A file of the control plane's machine, checked: size in bytes, hex sha256."""

    path: Path
    size: int
    sha256: str


class Storage:
    """The pool of one host. Remembers no paths: what is there is asked each time, because others can delete it."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._uploading = threading.Lock()
        self._digests: dict[tuple[str, int, int], str] = {}

    def pool(self, connection: Any, work: Work) -> Any:
        """The pool, active; made where it does not exist."""
        try:
            pool = connection.storagePoolLookupByName(self._options.pool)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_POOL:
                raise
            pool = self._define_pool(connection, work)
        if not pool.isActive():
            self._activate(pool, work)
        return pool

    def _activate(self, pool: Any, work: Work) -> None:
        # Where another call is just making the pool, its directory may follow a moment after its definition.
        patience = time.monotonic() + POOL_PATIENCE_SECONDS
        while True:
            work.check()
            try:
                _unless(libvirt.VIR_ERR_OPERATION_INVALID, pool.create, 0)
                return
            except libvirt.libvirtError as error:
                if error.get_int1() != errno.ENOENT or time.monotonic() > patience:
                    raise
            time.sleep(0.05)

    def _define_pool(self, connection: Any, work: Work) -> Any:
        pool = Element("pool", type="dir")
        SubElement(pool, "name").text = self._options.pool
        SubElement(SubElement(pool, "target"), "path").text = self._options.pool_path
        work.check()
        try:
            made = connection.storagePoolDefineXML(ElementTree.tostring(pool, encoding="unicode"), 0)
            made.build(0)
            made.setAutostart(1)
        except libvirt.libvirtError:
            # Another call may have made it at the same moment: then it is there now.
            return connection.storagePoolLookupByName(self._options.pool)
        return made

    # --- a machine's volumes -----------------------------------------------------------------------------------------

    def prepare(self, connection: Any, work: Work, spec: MachineSpec) -> Boot:
        """Everything that the machine starts from, on the host. What is there already is used as it is."""
        image = spec.image
        wants_disk = bool(image.disk_path or spec.root_disk_bytes or image.delivery == "nocloud")
        if not (wants_disk or image.kernel_path):
            return Boot()
        pool = self.pool(connection, work)
        kernel = self.base(connection, pool, work, image, "kernel", image.kernel_path) if image.kernel_path else None
        initrd = self.base(connection, pool, work, image, "initrd", image.initrd_path) if image.initrd_path else None
        disks: list[Disk] = []
        root = self._root_disk(connection, pool, work, spec)
        if root is not None:
            disks.append(Disk(root.path(), "qcow2"))
        if image.delivery == "nocloud":
            disks.append(Disk(self._seed(connection, pool, work, spec).path(), "raw", read_only=True))
        return Boot(
            kernel=kernel.path() if kernel is not None else "",
            initrd=initrd.path() if initrd is not None else "",
            arguments=image.kernel_arguments,
            disks=tuple(disks),
        )

    def _root_disk(self, connection: Any, pool: Any, work: Work, spec: MachineSpec) -> Any | None:
        image = spec.image
        if not image.disk_path:
            if spec.root_disk_bytes == 0:
                return None
            return self._volume(pool, work, volume_name(spec.identity, "root"), spec.root_disk_bytes, "qcow2")
        base = self.base(connection, pool, work, image, "disk", image.disk_path)
        size = max(spec.root_disk_bytes, virtual_size(Path(image.disk_path), image.disk_format))
        name = volume_name(spec.identity, "root")
        return self._volume(pool, work, name, size, "qcow2", backing=(base.path(), image.disk_format))

    def _seed(self, connection: Any, pool: Any, work: Work, spec: MachineSpec) -> Any:
        content = seed.nocloud_image(spec)
        name = volume_name(spec.identity, "seed")
        # An older one may come from a call that broke off in the middle of the upload.
        self._delete(pool, name)
        volume = self._volume(pool, work, name, len(content), "raw")
        stream = connection.newStream(0)
        volume.upload(stream, 0, len(content), 0)
        position = 0

        def read(_stream: Any, count: int, _opaque: Any) -> bytes:
            nonlocal position
            work.check()
            part = content[position : position + count]
            position += len(part)
            return part

        _send(stream, read)
        return volume

    def _volume(
        self,
        pool: Any,
        work: Work,
        name: str,
        size: int,
        kind: str,
        *,
        backing: tuple[str, str] | None = None,
        mode: str = "0600",
    ) -> Any:
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
        work.check()
        try:
            return pool.createXML(ElementTree.tostring(volume, encoding="unicode"), 0)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_STORAGE_VOL_EXIST:
                raise
            there = pool.storageVolLookupByName(name)
            _await_allocated(pool, work, there)
            return there

    def delete_machine_volumes(self, connection: Any, work: Work, identity: MachineIdentity) -> None:
        """Deletes every volume of one attempt."""
        prefix = volume_prefix(identity)
        for name in self._names(connection):
            if name.startswith(prefix):
                work.check()
                self._delete(self.pool(connection, work), name)

    def machine_volumes(self, connection: Any, cluster: str) -> tuple[str, ...]:
        """Names of all volumes of the cluster's machines."""
        return tuple(name for name in self._names(connection) if is_machine_volume(name, cluster))

    def delete(self, connection: Any, work: Work, cluster: str, name: str) -> None:
        """Deletes one of `machine_volumes`. Raises HostRejected `bad_request` for any other name."""
        if not is_machine_volume(name, cluster):
            raise HostRejected("bad_request", "the volume does not belong to a machine of this cluster")
        if name in self._names(connection):
            work.check()
            self._delete(self.pool(connection, work), name)

    def _names(self, connection: Any) -> list[str]:
        try:
            pool = connection.storagePoolLookupByName(self._options.pool)
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_STORAGE_POOL:
                return []
            raise
        return list(pool.listVolumes()) if pool.isActive() else []

    def _delete(self, pool: Any, name: str) -> None:
        try:
            pool.storageVolLookupByName(name).delete(0)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_VOL:
                raise

    def scratch(self, connection: Any, work: Work, name: str, content: bytes, size: int) -> Any:
        """A raw volume of `size` bytes that begins with this content, replaced if it exists."""
        pool = self.pool(connection, work)
        self._delete(pool, name)
        volume = self._volume(pool, work, name, size, "raw")
        stream = connection.newStream(0)
        volume.upload(stream, 0, len(content), 0)
        parts = [content]
        _send(stream, lambda _stream, _count, _opaque: parts.pop() if parts else b"")
        return volume

    # --- base images -------------------------------------------------------------------------------------------------

    def base(self, connection: Any, pool: Any, work: Work, image: Image, role: str, path: str) -> Any:
        """The volume with the content of a registered file, uploaded where the host does not have it.

        Raises HostRejected `missing_image` when the file is not there or is not what was registered.
        """
        source = self._source(image, role, path)
        found = self._ready(pool, source)
        if found is not None:
            return found
        # One upload at a time a host; whoever waited finds it done.
        if not self._uploading.acquire(timeout=work.remaining):
            raise Abandoned
        try:
            found = self._ready(pool, source)
            if found is not None:
                return found
            self._delete_stale_uploads(pool)
            return self._upload(connection, pool, work, image, source)
        finally:
            self._uploading.release()

    def _source(self, image: Image, role: str, path: str) -> _Source:
        file = Path(path)
        try:
            status = file.stat()
            key = (path, status.st_mtime_ns, status.st_size)
            # The registered sum names the volume; the upload proves that the bytes have it.
            digest = image.sha256.get(role, "").lower() or self._digests.get(key) or _sha256(file)
        except OSError as error:
            raise HostRejected("missing_image", f"image {image.name}: its {role} cannot be read", str(error)) from error
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise HostRejected("bad_request", f"image {image.name}: the sha256 of its {role} is malformed")
        self._digests[key] = digest
        return _Source(file, status.st_size, digest)

    def _ready(self, pool: Any, source: _Source) -> Any | None:
        for name in pool.listVolumes():
            match = _BASE.fullmatch(name)
            if match is not None and match[1] == source.sha256 and match[3]:
                try:
                    return pool.storageVolLookupByName(name.removesuffix(".ready"))
                except libvirt.libvirtError as error:
                    if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_VOL:
                        raise
        return None

    def _upload(self, connection: Any, pool: Any, work: Work, image: Image, source: _Source) -> Any:
        name = f"corral-base.{source.sha256}.{secrets.token_hex(4)}"
        # Read by many machines, as whatever user QEMU has there; a machine's own volumes libvirt hands to that user.
        volume = self._volume(pool, work, name, source.size, "raw", mode="0644")
        stream = connection.newStream(0)
        volume.upload(stream, 0, source.size, 0)
        digest = hashlib.sha256()
        with source.path.open("rb") as file:
            _send(stream, _reader(file, digest, work))
        if digest.hexdigest() != source.sha256:
            self._delete(pool, name)
            text = f"image {image.name}: a file is not the one that was registered"
            raise HostRejected("missing_image", text, f"{source.path}: {digest.hexdigest()}")
        self._volume(pool, work, f"{name}.ready", 0, "raw")
        return volume

    def _delete_stale_uploads(self, pool: Any) -> None:
        names = set(pool.listVolumes())
        for name in names:
            match = _BASE.fullmatch(name)
            if match is None or match[3] or f"{name}.ready" in names:
                continue
            changed = ElementTree.fromstring(pool.storageVolLookupByName(name).XMLDesc(0)).findtext(
                "target/timestamps/mtime", "0"
            )
            if time.time() - float(changed) > STALE_UPLOAD_SECONDS:
                _log.info("deleting upload %s, which was never finished", name)
                self._delete(pool, name)


def virtual_size(path: Path, disk_format: str) -> int:
    """Bytes that a guest sees of a disk image: the file's size, or what a qcow2 header says (QEMU docs, qcow2.txt)."""
    if disk_format != "qcow2":
        return path.stat().st_size
    with path.open("rb") as file:
        header = file.read(32)
    if header[:4] != b"QFI\xfb":
        raise HostRejected("missing_image", "the disk image is not a qcow2 file", str(path))
    if int.from_bytes(header[8:16], "big") != 0:
        # Such a file could name any file of the host as its backing store.
        raise HostRejected("missing_image", "the disk image has a backing file", str(path))
    return int.from_bytes(header[24:32], "big")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reader(file: BinaryIO, digest: Any, work: Work) -> Any:
    def read(_stream: Any, count: int, _opaque: Any) -> bytes:
        work.check()
        part = file.read(count)
        digest.update(part)
        return part

    return read


def _send(stream: Any, read: Any) -> None:
    try:
        stream.sendAll(read, None)
        stream.finish()
    except BaseException:
        _unless(None, stream.abort)
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
            if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:
                raise
        else:
            _unless(None, stream.abort)
            return
        work.check()
        time.sleep(0.02)


def _unless(code: int | None, call: Any, *arguments: Any) -> None:
    """Calls, and lets pass libvirt's error with this code, or every one of its errors for None."""
    try:
        call(*arguments)
    except libvirt.libvirtError as error:
        if code is not None and error.get_error_code() != code:
            raise
