#!/usr/bin/env python3
"""Builds the default guest image: a kernel and an initramfs, from Debian packages alone.

    build.py OUT_DIR [--add FILE=PATH]…

writes OUT_DIR/vmlinuz, OUT_DIR/initramfs.img and OUT_DIR/guest.json (names, sha256 sums, kernel command line).
Each --add lays a file of this machine into the image: an engine that is linked statically, a model.
Needs no root, only Python's standard library, and two installed packages. The same inputs give the same bytes; a second
call with the same inputs finds its earlier result by their hash and writes nothing.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import lzma
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOTFS = HERE / "rootfs"
SUPERVISOR = HERE.parent.parent / "service/serving/supervisor.sh"
"""The one that images with cloud-init are sent; this one has it built in."""
FORMAT = "corral-guest/1"
# virtio for disk, network and the progress channel; fw_cfg for the documents; button and evdev for the power button.
MODULES = ("virtio_pci", "virtio_net", "virtio_blk", "virtio_console", "qemu_fw_cfg", "evdev", "button")
# Loaded where the disk is a container image's alone.
CONTAINER_MODULES = ("squashfs", "overlay", "loop")
# no_timer_check: under software emulation one boot in three panics without it.
COMMAND_LINE = "console=ttyS0 no_timer_check quiet loglevel=3 panic=10"
# fmt: off
APPLETS = (
    "acpid", "arping", "base64", "cat", "chmod", "chroot", "cp", "cut", "echo", "find", "grep", "head", "hostname",
    "httpd", "insmod", "ip", "kill", "losetup", "ls", "mkdir", "mke2fs", "mount", "mv", "od", "poweroff", "printf",
    "rm", "sed", "setsid", "sh", "sleep", "sync", "tail", "timeout", "touch", "tr", "udhcpc", "umount", "wc", "wget",
)
# fmt: on
PACKAGES = {
    "kernel": ("linux-image-cloud-amd64", "no kernel named *-cloud-* with its modules was found"),
    "busybox": ("busybox-static", "no busybox was found"),
    "static": ("busybox-static", "the busybox that is installed is not the static one"),
}


class MissingPackage(Exception):
    """A file that comes with a Debian package is not there. Carries the line to show."""

    def __init__(self, what: str) -> None:
        package, reason = PACKAGES[what]
        super().__init__(f"{reason}: apt-get install --no-install-recommends {package}")


@dataclass(frozen=True)
class Inputs:
    """Where the parts come from: kernel release, kernel file, module files in load order, busybox, and the modules that
    container images need, in load order after those.

    `added`: more files, by their path in the guest.
    """

    release: str
    kernel: Path
    modules: tuple[Path, ...]
    busybox: Path
    container_modules: tuple[Path, ...] = ()
    added: Mapping[str, Path] = field(default_factory=dict)

    def digest(self) -> str:
        """sha256 over everything that decides the output."""
        total = hashlib.sha256(f"{FORMAT}\0{self.release}\0{COMMAND_LINE}\0{','.join(APPLETS)}".encode())
        own = (Path(__file__).resolve(), SUPERVISOR, *rootfs_files())
        parts = [
            (path.name, path) for path in (self.kernel, *self.modules, *self.container_modules, self.busybox, *own)
        ]
        for name, path in (*parts, *sorted(self.added.items())):
            total.update(f"\0{name}\0{path.stat().st_mode:o}\0{sha256_of(path)}".encode())
        return total.hexdigest()


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def rootfs_files() -> list[Path]:
    """The files of our own that go into the initramfs, in a fixed order."""
    return sorted(path for path in ROOTFS.rglob("*") if path.is_file())


def find_inputs(root: Path = Path("/")) -> Inputs:
    """Looks under `root` for the newest cloud kernel that has its modules, and for busybox. Raises MissingPackage."""
    for modules in sorted((root / "lib/modules").glob("*-cloud-*"), key=release_order, reverse=True):
        kernel = root / "boot" / f"vmlinuz-{modules.name}"
        if kernel.is_file() and (modules / "modules.dep").is_file():
            break
    else:
        raise MissingPackage("kernel")
    if not os.access(kernel, os.R_OK):
        raise PermissionError(f"{kernel} cannot be read by this user: run as root, or make it readable")
    busybox = next((p for p in (root / "usr/bin/busybox", root / "bin/busybox") if p.is_file()), None)
    if busybox is None:
        raise MissingPackage("busybox")
    if is_dynamic(busybox.read_bytes()):
        raise MissingPackage("static")
    first = load_order(modules, MODULES)
    more = tuple(path for path in load_order(modules, CONTAINER_MODULES) if path not in first)
    return Inputs(modules.name, kernel, first, busybox, more)


def release_order(path: Path) -> list[int]:
    """6.1.0-9 comes before 6.1.0-56."""
    return [int(number) for number in re.findall(r"\d+", path.name)]


def is_dynamic(program: bytes) -> bool:
    """True for a 64-bit ELF program with a PT_INTERP header, one that asks for a dynamic loader."""
    offset = int.from_bytes(program[32:40], "little")
    size, count = int.from_bytes(program[54:56], "little"), int.from_bytes(program[56:58], "little")
    return any(program[offset + i * size : offset + i * size + 4] == b"\3\0\0\0" for i in range(count))


def load_order(directory: Path, wanted: Sequence[str]) -> tuple[Path, ...]:
    """The wanted modules and all that they depend on, each after its dependencies; built-in ones are left out."""
    dependencies: dict[str, tuple[str, list[str]]] = {}
    for line in (directory / "modules.dep").read_text().splitlines():
        module, _, needs = line.partition(":")
        dependencies[module_name(module)] = (module, needs.split())
    builtin_list = directory / "modules.builtin"
    builtin = {module_name(line) for line in builtin_list.read_text().splitlines()} if builtin_list.is_file() else set()
    order: dict[str, Path] = {}

    def add(name: str) -> None:
        if name in order or name in builtin:
            return
        if name not in dependencies:
            raise MissingPackage("kernel")
        path, needs = dependencies[name]
        for need in needs:
            if module_name(need) not in order:
                add(module_name(need))
        order[name] = directory / path

    for name in wanted:
        add(name)
    return tuple(order.values())


def module_name(path: str) -> str:
    """kernel/drivers/virtio/virtio_pci.ko.xz -> virtio_pci"""
    return path.rsplit("/", 1)[-1].split(".ko")[0].replace("-", "_")


def read_module(path: Path) -> bytes:
    """A module's plain content: busybox insmod does not read compressed ones."""
    content = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(content)
    if path.suffix == ".gz":
        return gzip.decompress(content)
    if path.suffix != ".ko":
        raise ValueError(f"kernel module {path.name} is compressed in a way that this script does not read")
    return content


def archive_entries(inputs: Inputs) -> Iterator[tuple[str, int, bytes]]:
    """(name, mode with file type, content) of everything in the initramfs, directories before what stands in them."""
    files: dict[str, tuple[int, bytes]] = {"bin/busybox": (0o100755, inputs.busybox.read_bytes())}
    files |= {f"bin/{applet}": (0o120777, b"busybox") for applet in APPLETS}
    files["bin/["] = (0o120777, b"busybox")
    for number, path in enumerate(inputs.modules):
        files[f"lib/modules/{number:02d}-{module_name(path.name)}.ko"] = (0o100644, read_module(path))
    for number, path in enumerate(inputs.container_modules):
        files[f"lib/modules/container/{number:02d}-{module_name(path.name)}.ko"] = (0o100644, read_module(path))
    laid = {str(path.relative_to(ROOTFS)): path for path in rootfs_files()}
    files |= read_files({**laid, "etc/corral/supervisor.sh": SUPERVISOR, **inputs.added})
    yield from _in_order(files, {"proc", "sys", "dev", "run", "tmp", "etc"})


def entries_of(added: Mapping[str, Path]) -> Iterator[tuple[str, int, bytes]]:
    """As `archive_entries`, of these files alone: path in the guest -> file."""
    yield from _in_order(read_files(added), set())


def read_files(paths: Mapping[str, Path]) -> dict[str, tuple[int, bytes]]:
    """Path in the guest -> (mode, content)."""
    modes = {name: 0o100755 if path.stat().st_mode & 0o100 else 0o100644 for name, path in paths.items()}
    return {name: (modes[name], path.read_bytes()) for name, path in paths.items()}


def _in_order(files: Mapping[str, tuple[int, bytes]], directories: set[str]) -> Iterator[tuple[str, int, bytes]]:
    for name in files:
        directories |= {str(parent) for parent in Path(name).parents if str(parent) != "."}
    for name in sorted(directories):
        yield name, 0o040755, b""
    for name in sorted(files):
        yield name, *files[name]


def cpio_newc(entries: Iterator[tuple[str, int, bytes]]) -> bytes:
    """The "new ASCII" cpio archive that Linux unpacks (its document: buffer-format), owned by root, without times."""
    archive = bytearray()

    def append(inode: int, name: str, mode: int, content: bytes) -> None:
        encoded = name.encode() + b"\0"
        links = 2 if mode & 0o040000 and not mode & 0o100000 else 1
        fields = (inode, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
        for part in (b"070701" + b"".join(b"%08X" % value for value in fields) + encoded, content):
            archive.extend(part)
            archive.extend(bytes(-len(archive) % 4))

    for inode, (name, mode, content) in enumerate(entries, start=1):
        append(inode, name, mode, content)
    append(0, "TRAILER!!!", 0, b"")
    return bytes(archive)


def write_whole(path: Path, content: bytes) -> None:
    """Replaces a file at once, so that a reader or an interrupted build never leaves half of one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def earlier_result(manifest: Path, digest: str) -> dict[str, Any] | None:
    """The manifest of an earlier build from the same inputs, if its files are still what it says."""
    try:
        found: dict[str, Any] = json.loads(manifest.read_text())
        same = found["inputs"] == digest and all(
            sha256_of(manifest.parent / part["file"]) == part["sha256"]
            for part in (found["kernel"], found["initramfs"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if same else None


def build(out: Path, inputs: Inputs) -> tuple[dict[str, Any], bool]:
    """Returns the manifest and whether anything had to be built."""
    digest = inputs.digest()
    manifest = out / "guest.json"
    found = earlier_result(manifest, digest)
    if found is not None:
        return found, False
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "vmlinuz", inputs.kernel.read_bytes())
    write_whole(out / "initramfs.img", gzip.compress(cpio_newc(archive_entries(inputs)), compresslevel=9, mtime=0))
    result = {
        "format": FORMAT,
        "inputs": digest,
        "release": inputs.release,
        "command_line": COMMAND_LINE,
        "kernel": {"file": "vmlinuz", "sha256": sha256_of(out / "vmlinuz")},
        "initramfs": {"file": "initramfs.img", "sha256": sha256_of(out / "initramfs.img")},
    }
    # Last, because it is what says that the other two are complete.
    write_whole(manifest, json.dumps(result, indent=2).encode() + b"\n")
    return result, True


def additions(wishes: Sequence[str]) -> dict[str, Path]:
    """`FILE=PATH` each: which files of this machine stand where in the guest. Raises ValueError, OSError."""
    found = {}
    for wish in wishes:
        file, separator, path = wish.rpartition("=")
        name = path.lstrip("/")
        if not separator or not name or {"", ".", ".."} & set(name.split("/")):
            raise ValueError(f"--add {wish}: expected FILE=PATH, with a path in the guest like bin/engine")
        if not Path(file).is_file():
            raise ValueError(f"--add {wish}: {file} is not a file")
        found[name] = Path(file).resolve()
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, or 1 with one line on stderr that says what to do."""
    parser = argparse.ArgumentParser(description="Build Corral's default guest image from installed Debian packages.")
    parser.add_argument("out", type=Path, metavar="OUT_DIR")
    parser.add_argument("--add", action="append", default=[], metavar="FILE=PATH", help="a file, and where it is put")
    given = parser.parse_args(arguments)
    out: Path = given.out
    try:
        result, built = build(out, replace(find_inputs(), added=additions(given.add)))
    except (MissingPackage, OSError, ValueError) as problem:
        print(f"guest image: {problem}", file=sys.stderr)
        return 1
    print(f"guest image {'built' if built else 'unchanged'}: {out} (kernel {result['release']})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
