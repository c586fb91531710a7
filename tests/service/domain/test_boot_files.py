"""What a boot file really is: disks that QEMU's own tool makes are taken, and no cut of them is."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.boot_files import disk_size, problem

QEMU_IMG = shutil.which("qemu-img")
needs_qemu_img = pytest.mark.skipif(QEMU_IMG is None, reason="needs qemu-img: apt-get install qemu-utils")
MIB = 1 << 20


def judged(content: bytes, declared: str) -> str | None:
    return problem(io.BytesIO(content), len(content), declared)


def qemu_img(*arguments: object) -> None:
    assert QEMU_IMG is not None
    subprocess.run([QEMU_IMG, *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk of 5 MiB with data at its beginning and end."""
    path = tmp_path_factory.mktemp("raw") / "disk.raw"
    path.write_bytes(b"\xaa" * MIB + bytes(3 * MIB) + bytes(range(256)) * 4096)
    return path


@needs_qemu_img
@pytest.mark.parametrize(
    "options",
    [
        (),
        ("-o", "compat=0.10"),
        ("-o", "cluster_size=512"),
        ("-o", "cluster_size=2M"),
        ("-o", "extended_l2=on"),
        ("-o", "lazy_refcounts=on"),
        ("-o", "preallocation=metadata"),
        ("-o", "preallocation=full"),
        ("-c",),
        ("-c", "-o", "compression_type=zstd"),
    ],
)
def test_disks_of_qemus_own_tool_are_taken_whole_and_refused_cut(
    tmp_path: Path, raw: Path, options: tuple[str, ...]
) -> None:
    disk = tmp_path / "disk.qcow2"
    qemu_img("convert", "-f", "raw", "-O", "qcow2", *options, raw, disk)
    content = disk.read_bytes()
    assert judged(content, "qcow2") is None
    assert disk_size(io.BytesIO(content), len(content), "qcow2") == 5 * MIB
    assert judged(content, "raw") == "is a qcow2 disk"
    last = len(content.rstrip(b"\0"))
    for kept in (100, 4096, last // 4, last // 2):
        found = judged(content[:kept], "qcow2")
        assert found is not None, f"{kept} of {last} bytes"
        assert "truncated" in found


@needs_qemu_img
def test_disks_that_name_other_files_or_cannot_be_read_are_refused(tmp_path: Path, raw: Path) -> None:
    qemu_img("create", "-f", "qcow2", "-F", "raw", "-b", raw, tmp_path / "backed")
    qemu_img("create", "-f", "qcow2", "-o", f"data_file={tmp_path / 'data'}", tmp_path / "external", "1M")
    qemu_img("create", "-f", "qcow2", tmp_path / "plain", "1M")
    assert judged((tmp_path / "backed").read_bytes(), "qcow2") == "is a qcow2 disk with a backing file"
    assert judged((tmp_path / "external").read_bytes(), "qcow2") == "is a qcow2 disk with an external data file"
    plain = (tmp_path / "plain").read_bytes()
    assert judged(plain, "qcow2") is None
    encrypted = plain[:32] + (2).to_bytes(4, "big") + plain[36:]
    assert judged(encrypted, "qcow2") == "is a qcow2 disk that is encrypted"
    corrupt = plain[:72] + (2).to_bytes(8, "big") + plain[80:]
    assert judged(corrupt, "qcow2") == "is a qcow2 disk that QEMU has marked as corrupt"
    unknown = plain[:72] + (1 << 60).to_bytes(8, "big") + plain[80:]
    assert judged(unknown, "qcow2") == "is a qcow2 disk with features that are not known here"


@needs_qemu_img
@pytest.mark.parametrize(("image_format", "what"), [("vmdk", "VMDK"), ("vhdx", "VHDX"), ("vdi", "VDI"), ("qed", "QED")])
def test_a_disk_of_another_format_is_not_taken_for_a_raw_one(
    tmp_path: Path, raw: Path, image_format: str, what: str
) -> None:
    qemu_img("convert", "-f", "raw", "-O", image_format, raw, tmp_path / "disk")
    content = (tmp_path / "disk").read_bytes()
    assert what in str(judged(content, "raw"))
    assert judged(content, "qcow2") == "is not a qcow2 disk"


@pytest.mark.parametrize("magic", [b"\x1f\x8b\x08", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"BZh9", b"PK\x03\x04"])
def test_a_packed_disk_is_none_and_a_packed_initrd_is_one(magic: bytes) -> None:
    assert str(judged(magic + bytes(4096), "raw")).startswith("is packed with ")
    assert judged(magic + bytes(4096), "initrd") is None


def gpt(sectors: int) -> bytes:
    """A disk with a GUID partition table that says that it has this many sectors."""
    header = b"EFI PART" + bytes(16) + struct.pack("<QQ", 1, sectors - 1)
    return (bytes(512) + header).ljust(sectors * 512, b"\0")


def mbr(kind: int, first: int, count: int) -> bytes:
    """A disk's first sector with one partition."""
    return bytes(446) + struct.pack("<4xB3xII", kind, first, count) + bytes(48) + b"\x55\xaa"


def test_a_raw_disk_that_ends_before_its_partitions_is_truncated() -> None:
    assert judged(gpt(4096), "raw") is None
    assert "truncated" in str(judged(gpt(4096)[:-512], "raw"))
    whole = mbr(0x83, 2, 30).ljust(32 * 512, b"\0")
    assert judged(whole, "raw") is None
    assert "truncated" in str(judged(whole[:-1], "raw"))
    assert judged(mbr(0xEE, 1, 0xFFFFFFFF) + bytes(4096), "raw") is None, "a protective entry is no partition"
    assert judged(b"x" * 1000, "raw") is None, "no table, nothing that it says"
    assert disk_size(io.BytesIO(b""), 1000, "raw") == 1024, "guests see whole sectors"


def kernel(paragraphs: int) -> bytes:
    """A kernel of x86 with one sector of setup code, whole."""
    setup = bytearray(1024)
    setup[0x1F1] = 1
    setup[0x1F4:0x1F8] = paragraphs.to_bytes(4, "little")
    setup[0x202:0x206] = b"HdrS"
    return bytes(setup) + bytes(paragraphs * 16)


def test_a_kernel_says_how_long_it_is() -> None:
    assert judged(kernel(100), "kernel") is None
    assert "truncated" in str(judged(kernel(100)[:-1], "kernel"))
    assert judged(b"\x7fELF anything else", "kernel") is None
    assert judged(b"QFI\xfb" + bytes(100), "kernel") == "is a qcow2 disk"


@pytest.mark.parametrize("declared", ["raw", "qcow2", "kernel", "initrd"])
def test_an_empty_file_is_nothing(declared: str) -> None:
    assert judged(b"", declared) == "is empty"


@given(st.binary(max_size=600), st.sampled_from(["raw", "qcow2", "kernel", "initrd"]), st.booleans())
def test_no_content_makes_it_fail(content: bytes, declared: str, qcow2: bool) -> None:
    judged((b"QFI\xfb\0\0\0\3" if qcow2 else b"") + content, declared)


def test_tables_that_name_each_other_are_read_once() -> None:
    """A table of two million entries that all name one other would be terabytes of reading."""
    cluster = 1 << 21
    entries = 2 << 20  # 16 MiB of table
    header = b"QFI\xfb" + struct.pack(">IQIIQIIQQI", 3, 0, 0, 21, 1 << 50, 0, entries, cluster, 0, 0)
    content = bytearray(cluster + entries * 8 + cluster)
    content[: len(header)] = header
    table = struct.pack(">Q", cluster + entries * 8) * entries
    content[cluster : cluster + len(table)] = table
    assert judged(bytes(content), "qcow2") is None
