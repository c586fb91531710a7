"""A host's pool and a machine's volumes in it, made only through libvirt, so that a remote host needs nothing more.

Documents are volumes of mode 0600: what a caller gives a machine stands in no argument of QEMU's, in no domain XML and
in no log. All functions block; they run in a call's thread.
"""

from __future__ import annotations

import base64
import errno
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, SubElement

import libvirt

from service.domain import boot_files
from service.domain.specs import data_disk_serial
from service.drivers.base import HostRejected, LogPiece, LogSource, MachineIdentity, MachineSpec
from service.drivers.copies import Copied, ImageFile, SeenCopy
from service.drivers.libvirt import base_images, nocloud, volumes
from service.drivers.libvirt.addressing import Options
from service.drivers.libvirt.base_images import BaseImages, Wanted
from service.drivers.libvirt.connection import Work
from service.drivers.libvirt.domain_xml import Boot, Disk
from service.drivers.libvirt.errors import ALREADY, TAKEN, connection_lost
from service.drivers.libvirt.tags import (
    data_role,
    document_role,
    is_machine_volume,
    log_role,
    volume_name,
    volume_prefix,
)

POOL_PATIENCE_SECONDS = 2.0
READ_AGAIN_SECONDS = 600.0
"""How often the pool's directory is read anew."""


class Storage:
    """The pool of one host. Remembers no paths: it asks each time, because others can delete what is there."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._images = BaseImages()
        self._read_again_at = time.monotonic() + READ_AGAIN_SECONDS

    def pool(self, connection: Any, work: Work) -> Any:
        """The pool, active; made where it does not exist."""
        pool = self._defined(connection) or self._define_pool(connection, work)
        if not pool.isActive():
            self._activate(pool, work)
        return pool

    def _activate(self, pool: Any, work: Work) -> None:
        # Where another call is just making the pool, its directory may follow a moment after its definition.
        patience = time.monotonic() + POOL_PATIENCE_SECONDS
        while True:
            work.check()
            try:
                # The code is that of a pool which another call has started meanwhile, and of others.
                volumes.unless(libvirt.VIR_ERR_OPERATION_INVALID, pool.create, 0)
                if pool.isActive():
                    return
                if time.monotonic() > patience:
                    raise HostRejected("missing_image", "the host's storage pool cannot be started")
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
        except libvirt.libvirtError as error:
            # Another call may have made it at the same moment: then it is there now, and started or to be started.
            there = self._defined(connection)
            if there is None or error.get_error_code() not in TAKEN | ALREADY or connection_lost(error):
                raise
            return there
        return made

    def _defined(self, connection: Any) -> Any | None:
        try:
            return connection.storagePoolLookupByName(self._options.pool)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_POOL:
                raise
            return None

    # --- a machine's volumes -----------------------------------------------------------------------------------------

    def prepare(self, connection: Any, work: Work, spec: MachineSpec, *, has_firmware: bool = True) -> Boot:
        """Everything that the machine starts from, on the host. Images and disks that are there are used as they are;
        documents are those of this specification. `has_firmware`: whether it is a real hypervisor, which hands
        documents over and keeps what machines say."""
        image = spec.image
        if image.delivery == "seed":
            raise HostRejected("bad_request", f"image {image.name!r} is for bare metal, by a BMC's drive")
        by_nocloud = image.delivery == "nocloud"
        documents = {} if by_nocloud or not has_firmware else {n: t for n, t in spec.documents.items() if t}
        some_disk = image.disk_path or spec.root_disk_bytes or spec.data_disks
        if not (some_disk or by_nocloud or image.kernel_path or documents):
            return Boot()
        pool = self.pool(connection, work)
        bases = self._images.volumes(pool, self._wanted(pool, spec))
        kernel, initrd = bases.get("kernel"), bases.get("initrd")
        disks: list[Disk] = []
        root = self._root_disk(pool, work, spec, bases.get("disk"))
        if root is not None:
            disks.append(Disk(root.path(), "qcow2"))
        if by_nocloud:
            name = volume_name(spec.identity, "seed")
            disks.append(Disk(volumes.written(pool, work, name, nocloud.nocloud_image(spec)).path(), "raw", True))
        disks += _data_disks(pool, work, spec, bases)
        return Boot(
            kernel=kernel.path() if kernel is not None else "",
            initrd=initrd.path() if initrd is not None else "",
            arguments=image.kernel_arguments,
            disks=tuple(disks),
            documents={n: _document(pool, work, spec.identity, n, text).path() for n, text in documents.items()},
            **(_logs(pool, work, spec.identity) if has_firmware else {}),
        )

    def _wanted(self, pool: Any, spec: MachineSpec) -> list[Wanted]:
        def known_as(role: str) -> str:
            there = volumes.find(pool, volume_name(spec.identity, role))
            return "" if there is None else Path(volumes.backing_path(there)).name

        image = spec.image
        wanted = [Wanted(role, image, role) for role in ("kernel", "initrd")]
        wanted.append(Wanted("disk", image, "disk", known_as("root") if image.disk_path else ""))
        for number, disk in enumerate(spec.data_disks):
            if disk.image is not None:
                role = data_role(number)
                wanted.append(Wanted(role, disk.image, "disk", known_as(role)))
        return [one for one in wanted if one.path]

    def stage(self, connection: Any, work: Work, file: ImageFile, copied: Copied, boot_id: str) -> Copied:
        """See HostDriver.stage."""
        return self._images.stage(self.pool(connection, work), work, file, copied, boot_id)

    def copies(self, connection: Any) -> tuple[SeenCopy, ...]:
        """See HostDriver.list_copies."""
        pool = self._defined(connection)
        return () if pool is None or not pool.isActive() else base_images.seen(connection, pool)

    def withdraw_copy(self, connection: Any, work: Work, name: str) -> None:
        """See HostDriver.withdraw_copy."""
        base_images.withdraw(self.pool(connection, work), work, name)

    def delete_copy(self, connection: Any, work: Work, name: str) -> None:
        """See HostDriver.delete_copy."""
        base_images.delete(connection, self.pool(connection, work), work, name)

    def _root_disk(self, pool: Any, work: Work, spec: MachineSpec, base: Any | None) -> Any | None:
        image, name = spec.image, volume_name(spec.identity, "root")
        if base is None:
            if spec.root_disk_bytes == 0:
                return None
            return volumes.make(pool, work, name, spec.root_disk_bytes, "qcow2")
        size = max(spec.root_disk_bytes, virtual_size(Path(image.disk_path), image.disk_format))
        return volumes.make(pool, work, name, size, "qcow2", backing=(base.path(), image.disk_format))

    def document(self, connection: Any, work: Work, identity: MachineIdentity, name: str) -> str:
        """The text of one of a machine's documents; empty where there is no volume of it, or none that makes sense."""
        wanted = volume_name(identity, document_role(name))
        if wanted not in self._names(connection):
            return ""
        try:
            return base64.b64decode(
                volumes.read_back(self.pool(connection, work), work, wanted), validate=True
            ).decode()
        except ValueError:
            return ""

    def log(
        self, connection: Any, work: Work, identity: MachineIdentity, source: LogSource, start: int, most: int
    ) -> LogPiece:
        """See HostDriver.read_log."""
        pool = self._defined(connection)
        there = pool is not None and pool.isActive()
        volume = volumes.find(pool, volume_name(identity, log_role(source))) if there else None
        size = None if volume is None else volumes.capacity(volume)
        if volume is None or size is None:
            raise HostRejected("absent", f"its host keeps no {source} log of it")
        start = max(0, size + start) if start < 0 else min(start, size)
        count = min(most, size - start)
        data = volumes.read(pool, work, volume, start, count) if count else b""
        return LogPiece(start, data, size)

    def delete_machine_volumes(self, connection: Any, work: Work, identity: MachineIdentity) -> None:
        """Deletes every volume of one attempt."""
        prefix = volume_prefix(identity)
        for name in self._names(connection):
            if name.startswith(prefix):
                work.check()
                volumes.delete(self.pool(connection, work), work, name)

    def machine_volumes(self, connection: Any, cluster: str) -> tuple[str, ...]:
        """Names of all volumes of the cluster's machines; now and then also of those that the host made itself."""
        self._take_in_made(connection)
        return tuple(name for name in self._names(connection) if is_machine_volume(name, cluster))

    def delete(self, connection: Any, work: Work, cluster: str, name: str) -> None:
        """Deletes one of `machine_volumes`. Raises HostRejected `bad_request` for any other name."""
        if not is_machine_volume(name, cluster):
            raise HostRejected("bad_request", "the volume does not belong to a machine of this cluster")
        if name in self._names(connection):
            work.check()
            volumes.delete(self.pool(connection, work), work, name)

    def _take_in_made(self, connection: Any) -> None:
        """A log that became too long the host keeps as another file, of which the pool knows once it was read again."""
        if time.monotonic() < self._read_again_at:
            return
        self._read_again_at = time.monotonic() + READ_AGAIN_SECONDS
        pool = self._defined(connection)
        if pool is not None and pool.isActive():
            # Refused while another call is making a volume there: the next time will do.
            volumes.unless(None, pool.refresh, 0)

    def _names(self, connection: Any) -> list[str]:
        pool = self._defined(connection)
        return list(pool.listVolumes()) if pool is not None and pool.isActive() else []

    def scratch(self, connection: Any, work: Work, name: str, content: bytes, size: int) -> Any:
        """A raw volume of `size` bytes that begins with this content, written over if it exists."""
        return volumes.written(self.pool(connection, work), work, name, content, size=size)


def _data_disks(pool: Any, work: Work, spec: MachineSpec, bases: Mapping[str, Any]) -> list[Disk]:
    """The machine's own disks beside the root disk; those that are there are used as they are."""
    made = []
    for number, disk in enumerate(spec.data_disks):
        role, image, size, backing = data_role(number), disk.image, disk.size, None
        if image is not None:
            size = max(size, virtual_size(Path(image.disk_path), image.disk_format))
            backing = (bases[role].path(), image.disk_format)
        volume = volumes.make(pool, work, volume_name(spec.identity, role), size, "qcow2", backing=backing)
        made.append(Disk(volume.path(), "qcow2", serial=data_disk_serial(number)))
    return made


def _document(pool: Any, work: Work, identity: MachineIdentity, name: str, text: str) -> Any:
    """The document as guests read it from the firmware: in base64, as it came when it stood in QEMU's arguments."""
    content = base64.b64encode(text.encode())
    return volumes.written(pool, work, volume_name(identity, document_role(name)), content)


def _logs(pool: Any, work: Work, identity: MachineIdentity) -> dict[str, Any]:
    """`Boot.logs` and `console_from`; logs of a machine that starts again go on."""
    made = {s: volumes.make(pool, work, volume_name(identity, log_role(s)), 0, "raw") for s in LogSource}
    paths = {source: volume.path() for source, volume in made.items()}
    return {"logs": paths, "console_from": volumes.capacity(made[LogSource.CONSOLE]) or 0}


def virtual_size(path: Path, disk_format: str) -> int:
    """Bytes that a guest sees of a disk image. Raises HostRejected `missing_image` where it is not what it should be.

    Checked again here, after its registration: a file that was exchanged since could name any file of the host.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            wrong = boot_files.problem(file, size, disk_format)
            if wrong is None:
                return boot_files.disk_size(file, size, disk_format)
    except OSError as error:
        raise HostRejected("missing_image", "the disk image cannot be read", str(error)) from error
    raise HostRejected("missing_image", f"the disk image {wrong}", str(path))
