"""What a boot file really is: one set of checks for every way in. Reads the file that it is given and nothing else.

The headers are read here and not by qemu-img, which opens every other file that a header names: a stranger's file could
make it read any file of this machine. And the control plane's machine needs no QEMU.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

QCOW2_MAGIC = b"QFI\xfb"
SECTOR = 512
ISO_BLOCK = 2048
_BLOCKS = 512
SEED_MARK = b"corral seed, to be laid in\n"
"""How the file begins in whose place a member's documents are laid; files of an ISO image begin at a block."""

# What QEMU's docs/interop/qcow2.txt calls incompatible features.
_CORRUPT, _EXTERNAL_DATA, _EXTENDED_L2 = 1 << 1, 1 << 2, 1 << 4
_KNOWN_FEATURES = (1 << 5) - 1
_OFFSET = 0x00FFFFFFFFFFFE00
_COMPRESSED = 1 << 62
_MOST_L1_ENTRIES = 4 << 20  # QEMU's own limit: a table of 32 MiB

# First bytes -> what such a file is, in words. Each would be taken for something else, or for nothing, by a guest.
_OTHER_FORMATS: Mapping[bytes, str] = {
    b"KDMV": "a VMDK disk",
    b"COWD": "a VMDK disk",
    b"# Disk DescriptorFile": "a VMDK disk's description",
    b"vhdxfile": "a VHDX disk",
    b"conectix": "a VHD disk",
    b"QED\0": "a QED disk",
    b"<<< ": "a VDI disk",
}
_PACKED: Mapping[bytes, str] = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}


@dataclass(frozen=True, slots=True)
class _Qcow2:
    """The header's fields that are looked at. Offsets and sizes in bytes, but `l1_entries`."""

    version: int
    backing_offset: int
    cluster_bits: int
    size: int
    encryption: int
    l1_entries: int
    l1_offset: int
    refcount_offset: int
    refcount_clusters: int
    features: int


def problem(file: BinaryIO, size: int, declared: str) -> str | None:
    """What is wrong with a file of `size` bytes that is to be `raw`, `qcow2`, `kernel` or `initrd`; None: nothing.

    As the rest of a sentence: "is a qcow2 disk with a backing file". Moves the file's position.
    """
    if size == 0:
        return "is empty"
    if declared == "qcow2":
        return _qcow2_problem(file, size)
    start = _at(file, 0, 64)
    if start.startswith(QCOW2_MAGIC):
        return "is a qcow2 disk"
    for magic, what in _OTHER_FORMATS.items():
        if start.startswith(magic):
            return f"is {what}"
    if declared == "raw":
        return _raw_problem(file, size, start)
    return _kernel_problem(file, size) if declared == "kernel" else None


def seed_problem(file: BinaryIO) -> str | None:
    """What is wrong with a file from which bare metal is to boot: an ISO image (ECMA-119) that keeps a place for the
    documents of members; None: nothing. As `problem`."""
    if _at(file, 0x8001, 5) != b"CD001":
        return "is no ISO image, from which bare metal boots"
    file.seek(0)
    while block := file.read(_BLOCKS * ISO_BLOCK):
        at = block.find(SEED_MARK)
        while at >= 0:
            if at % ISO_BLOCK == 0:
                return None
            at = block.find(SEED_MARK, at + 1)
    return "keeps no place for the documents of members (`/seed.cpio`, as deploy/guest/metal.py makes it)"


def disk_size(file: BinaryIO, size: int, declared: str) -> int:
    """How many bytes a guest sees of a disk file that has no `problem`."""
    if declared != "qcow2":
        return -(-size // SECTOR) * SECTOR
    header = _qcow2_header(file)
    assert header is not None
    return header.size


def _at(file: BinaryIO, offset: int, count: int) -> bytes:
    file.seek(offset)
    return file.read(count)


# --- raw disks and kernels -------------------------------------------------------------------------------------------


def _raw_problem(file: BinaryIO, size: int, start: bytes) -> str | None:
    for magic, what in _PACKED.items():
        if start.startswith(magic):
            return f"is packed with {what}"
    header = _at(file, SECTOR, 48)
    if header.startswith(b"EFI PART") and len(header) == 48:
        backup: int = struct.unpack_from("<Q", header, 32)[0]
        # UEFI 2.10, section 5.3.2: the other copy of the header stands in the disk's last sector.
        return "is truncated: its partition table ends beyond it" if (backup + 1) * SECTOR > size else None
    if _at(file, 0x8001, 5) == b"CD001":
        return None  # the partitions of an ISO image may be rounded up beyond its end
    table = _at(file, 446, 66)
    if len(table) == 66 and table[64:] == b"\x55\xaa":
        for kind, first, count in (struct.unpack_from("<4xB3xII", table, 16 * number) for number in range(4)):
            if kind not in (0, 0xEE) and (first + count) * SECTOR > size:
                return "is truncated: a partition ends beyond it"
    return None


def _kernel_problem(file: BinaryIO, size: int) -> str | None:
    """x86's boot protocol says how long a kernel is (Linux, Documentation/arch/x86/boot.rst)."""
    setup = _at(file, 0x1F1, 0x15)
    if setup[0x11:] != b"HdrS":
        return None
    sectors, paragraphs = setup[0] or 4, int.from_bytes(setup[3:7], "little")
    return (
        "is truncated: its header says that it is longer" if (sectors + 1) * SECTOR + paragraphs * 16 > size else None
    )


# --- qcow2 -----------------------------------------------------------------------------------------------------------


def _qcow2_header(file: BinaryIO) -> _Qcow2 | None:
    raw = _at(file, 0, 104)
    if len(raw) < 72 or not raw.startswith(QCOW2_MAGIC):
        return None
    version, backing, _, bits, size, encryption, l1_size, l1, refcount, clusters = struct.unpack_from(
        ">IQIIQIIQQI", raw, 4
    )
    features = int.from_bytes(raw[72:80], "big") if version >= 3 else 0
    return _Qcow2(version, backing, bits, size, encryption, l1_size, l1, refcount, clusters, features)


def _qcow2_problem(file: BinaryIO, size: int) -> str | None:
    header = _qcow2_header(file)
    if header is None or header.version not in (2, 3):
        return "is not a qcow2 disk"
    if header.backing_offset:
        return "is a qcow2 disk with a backing file"
    if header.features & _EXTERNAL_DATA:
        return "is a qcow2 disk with an external data file"
    if header.encryption:
        return "is a qcow2 disk that is encrypted"
    if header.features & _CORRUPT:
        return "is a qcow2 disk that QEMU has marked as corrupt"
    if header.features & ~_KNOWN_FEATURES:
        return "is a qcow2 disk with features that are not known here"
    if not 9 <= header.cluster_bits <= 21 or header.l1_entries > _MOST_L1_ENTRIES:
        return "is a qcow2 disk with a header that makes no sense"
    if any(end > size for end in _ends(file, header, size)):
        return "is truncated: it is a qcow2 disk with data beyond its end"
    return None


def _ends(file: BinaryIO, header: _Qcow2, size: int) -> Iterator[int]:
    """How far the file must reach for each table and each cluster; of a data cluster its first byte is enough."""
    cluster = 1 << header.cluster_bits
    yield header.refcount_offset + header.refcount_clusters * cluster
    yield header.l1_offset + header.l1_entries * 8
    if header.l1_offset + header.l1_entries * 8 > size:
        return
    raw = _at(file, header.l1_offset, header.l1_entries * 8)
    # Each table once, however often it is named: no file makes this read more than itself.
    tables = {entry & _OFFSET for entry in struct.unpack(f">{header.l1_entries}Q", raw)} - {0}
    for offset in sorted(tables):
        yield offset + cluster
        if offset + cluster <= size:
            yield _last_byte(_at(file, offset, cluster), header)


def _last_byte(table: bytes, header: _Qcow2) -> int:
    """1 + the highest offset in the file at which a cluster of this table begins."""
    entries = struct.unpack(f">{len(table) // 8}Q", table)
    if header.features & _EXTENDED_L2:
        entries = entries[::2]  # each is followed by the bitmap of its subclusters
    packed = (1 << (62 - (header.cluster_bits - 8))) - 1
    last = max((e & packed if e & _COMPRESSED else e & _OFFSET for e in entries), default=0)
    return last + 1 if last else 0
