#!/usr/bin/env python3
"""Builds the default guest for bare metal: one image that BIOS and UEFI boot from a BMC's drive, to memory.

    metal.py OUT_DIR [--root DIR] [--disk]

writes OUT_DIR/metal.iso and OUT_DIR/metal.json. It holds Debian's ordinary kernel, which knows real network cards (the
cloud kernel does not), the default guest's initramfs, GRUB for both firmwares, and `seed.cpio`: a file of fixed size in
whose place each member's documents are laid when its machine reads the image. What has drives erase themselves is an
archive of its own, which GRUB loads only where the documents say that the machine is to be cleaned.

`--root`: where the packages of the kernel, nvme-cli and hdparm were unpacked, so that they need not be installed.
`--disk`: OUT_DIR/disk.iso besides, the same guest for a machine's own disk, onto which it is written as it is; it reads
its documents of the volume in the BMC's drive. Needs no root; the packages are named where one is missing.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).resolve().parent
FORMAT = "corral-metal/1"
SEED_BYTES = 1 << 20
SEED_MARK = b"corral seed, to be laid in\n"
"""How the place of the documents begins; the service looks for it before it lays anything there."""
# Network cards of servers and of emulated machines, and their disks, which only a guest that cleans looks at.
MODULES = (
    *("virtio_pci", "virtio_net", "e1000", "e1000e", "igb", "ixgbe", "i40e", "tg3", "bnxt_en", "mlx5_core", "r8169"),
    *("ahci", "ata_piix", "nvme", "virtio_blk", "virtio_scsi", "megaraid_sas", "mpt3sas", "smartpqi", "sd_mod"),
    # A BMC's virtual drive, from which a guest on the machine's own disk reads its documents: most are USB.
    *("xhci_pci", "ehci_pci", "uhci_hcd", "usb_storage", "uas", "sr_mod", "isofs"),
    *("evdev", "button"),
)
TOOLS = ("nvme", "hdparm")
"""What has drives erase themselves; linked dynamically, so that their libraries and its loader go along."""
COMMAND_LINE = "console=tty0 console=ttyS0,115200 no_timer_check quiet loglevel=3 panic=30"
PACKAGES = "grub-common grub-pc-bin grub-efi-amd64-bin xorriso mtools"
_MENU = """serial --unit=0 --speed=115200
terminal_input console serial
terminal_output console serial
set timeout=0
menuentry corral {{
    linux /boot/vmlinuz {command_line}
    {first_files}
}}
"""
_OF_DISK = "initrd /boot/initrd"
_OF_DRIVE = """insmod loopback
    insmod newc
    loopback seed /seed.cpio
    if [ -f (seed)/seed/clean ]; then
        initrd /boot/initrd /boot/tools /seed.cpio
    else
        initrd /boot/initrd /seed.cpio
    fi"""


def guest() -> ModuleType:
    """`build.py`, which has the guest itself."""
    if str(HERE) not in sys.path:
        sys.path.insert(0, str(HERE))
    return importlib.import_module("build")


def find_inputs(root: Path) -> Any:
    """The newest kernel under `root` that is not for clouds, with its modules, and this machine's busybox.

    Raises build.MissingPackage, FileNotFoundError.
    """
    build = guest()
    for modules in sorted((root / "lib/modules").glob("*-amd64"), key=build.release_order, reverse=True):
        kernel = root / "boot" / f"vmlinuz-{modules.name}"
        if "-cloud-" not in modules.name and kernel.is_file() and (modules / "modules.dep").is_file():
            break
    else:
        raise FileNotFoundError(f"no kernel with its modules under {root}: apt-get install linux-image-amd64")
    busybox = next((p for p in (Path("/usr/bin/busybox"), Path("/bin/busybox")) if p.is_file()), None)
    if busybox is None or build.is_dynamic(busybox.read_bytes()):
        raise build.MissingPackage("busybox" if busybox is None else "static")
    return build.Inputs(modules.name, kernel, build.load_order(modules, MODULES), busybox, added=tools(root))


def tools(root: Path) -> dict[str, Path]:
    """Where each file of `TOOLS` is laid in the guest -> the file, under `root` or of this machine.

    Raises FileNotFoundError, RuntimeError.
    """
    found: dict[str, Path] = {}
    for name in TOOLS:
        places = [base / directory / name for base in (root, Path("/")) for directory in ("usr/sbin", "sbin")]
        program = next((path for path in places if path.is_file()), None)
        if program is None:
            raise FileNotFoundError(f"no {name} under {root}: apt-get install nvme-cli hdparm")
        found[f"bin/{name}"] = program.resolve()
        found |= libraries(program, root)
    return found


def libraries(program: Path, root: Path) -> dict[str, Path]:
    """The loader and the libraries of a program, as the loader itself finds them. Raises RuntimeError."""
    search = os.pathsep.join(str(path) for path in sorted((root / "usr/lib").glob("*-linux-gnu")))
    command = {**os.environ, "LC_ALL": "C", "LD_LIBRARY_PATH": search}
    listed = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False, env=command).stdout
    found: dict[str, Path] = {}
    for line in listed.splitlines():
        name, _, rest = line.strip().partition(" => ")
        if rest.startswith("not found"):
            raise RuntimeError(f"{program.name} needs {name}, which is not there")
        path = (rest or name).partition(" (")[0]
        if path.startswith("/"):
            place = path.lstrip("/") if "ld-linux" in path else f"lib/{Path(path).name}"
            found[place] = Path(path).resolve()
    if not found:
        raise RuntimeError(f"the libraries of {program} are not known: {listed.strip()}")
    return found


def make(out: Path, root: Path, name: str = "metal") -> tuple[dict[str, Any], bool]:
    """Returns the manifest, and whether anything had to be built. `name`: `metal` is booted from a BMC's drive, `disk`
    from the machine's own disk, and reads its documents of the volume in that drive.

    Raises as `find_inputs`; RuntimeError.
    """
    build = guest()
    inputs = find_inputs(root)
    boots = name == "metal"
    menu = _MENU.format(command_line=COMMAND_LINE, first_files=_OF_DRIVE if boots else _OF_DISK)
    digest = hashlib.sha256(
        f"{FORMAT} {inputs.digest()} {menu} {SEED_BYTES} {build.sha256_of(Path(__file__))}".encode()
    ).hexdigest()
    manifest, image = out / f"{name}.json", out / f"{name}.iso"
    if manifest.is_file() and image.is_file():
        known: dict[str, Any] = json.loads(manifest.read_text())
        if known.get("inputs") == digest and known.get("sha256") == build.sha256_of(image):
            return known, False
    if (mkrescue := shutil.which("grub-mkrescue")) is None or shutil.which("xorriso") is None:
        raise FileNotFoundError(f"grub-mkrescue and xorriso are needed: apt-get install {PACKAGES}")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as directory:
        tree = Path(directory) / "tree"
        (tree / "boot/grub").mkdir(parents=True)
        (tree / "boot/grub/grub.cfg").write_text(menu)
        (tree / "boot/vmlinuz").write_bytes(inputs.kernel.read_bytes())
        first = build.cpio_newc(build.archive_entries(replace(inputs, added={})))
        (tree / "boot/initrd").write_bytes(gzip.compress(first, compresslevel=6, mtime=0))
        if boots:
            more = build.cpio_newc(build.entries_of(inputs.added))
            (tree / "boot/tools").write_bytes(gzip.compress(more, compresslevel=6, mtime=0))
            (tree / "seed.cpio").write_bytes(SEED_MARK.ljust(SEED_BYTES, b"\0"))
        made = Path(directory) / image.name
        done = subprocess.run(
            [mkrescue, "-o", str(made), str(tree), "--", "-volid", "cidata" if boots else "corral"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0 or not made.is_file():
            raise RuntimeError(f"grub-mkrescue failed: {done.stderr.strip()[-500:]}")
        made.replace(image)
    result = {"format": FORMAT, "inputs": digest, "release": inputs.release, "sha256": build.sha256_of(image)}
    build.write_whole(manifest, json.dumps(result, indent=2).encode() + b"\n")
    return result, True


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, or 1 with one line on stderr that says what to do."""
    parser = argparse.ArgumentParser(description="Build the default guest for bare metal.")
    parser.add_argument("out", type=Path, metavar="OUT_DIR")
    parser.add_argument("--root", type=Path, default=Path("/"), help="where linux-image-amd64 is unpacked (default: /)")
    parser.add_argument("--disk", action="store_true", help="disk.iso besides, for a machine's own disk")
    given = parser.parse_args(arguments)
    try:
        result, built = make(given.out, given.root)
        if given.disk:
            make(given.out, given.root, "disk")
    except (guest().MissingPackage, OSError, RuntimeError, ValueError) as problem:
        print(f"guest image for bare metal: {problem}", file=sys.stderr)
        return 1
    print(f"guest image for bare metal {'built' if built else 'unchanged'}: {given.out} (kernel {result['release']})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
