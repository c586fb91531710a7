#!/usr/bin/env python3
"""Builds the default guest for bare metal: one image that BIOS and UEFI boot from a BMC's drive, to memory.

    metal.py OUT_DIR [--root DIR]

writes OUT_DIR/metal.iso and OUT_DIR/metal.json. It holds Debian's ordinary kernel, which knows real network cards (the
cloud kernel does not), the default guest's initramfs, GRUB for both firmwares, and `seed.cpio`: a file of fixed size in
whose place each member's documents are laid when its machine reads the image. `--root`: where the kernel's package was
unpacked, so that it need not be installed. Needs no root; the packages are named where one is missing.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
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
    *("evdev", "button"),
)
COMMAND_LINE = "console=tty0 console=ttyS0,115200 no_timer_check quiet loglevel=3 panic=30"
PACKAGES = "grub-common grub-pc-bin grub-efi-amd64-bin xorriso mtools"
_MENU = f"""serial --unit=0 --speed=115200
terminal_input console serial
terminal_output console serial
set timeout=0
menuentry corral {{
    linux /boot/vmlinuz {COMMAND_LINE}
    initrd /boot/initrd /seed.cpio
}}
"""


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
    return build.Inputs(modules.name, kernel, build.load_order(modules, MODULES), busybox)


def make(out: Path, root: Path) -> tuple[dict[str, Any], bool]:
    """Returns the manifest, and whether anything had to be built. Raises as `find_inputs`; RuntimeError."""
    build = guest()
    inputs = find_inputs(root)
    digest = hashlib.sha256(
        f"{FORMAT} {inputs.digest()} {_MENU} {SEED_BYTES} {build.sha256_of(Path(__file__))}".encode()
    ).hexdigest()
    manifest, image = out / "metal.json", out / "metal.iso"
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
        (tree / "boot/grub/grub.cfg").write_text(_MENU)
        (tree / "boot/vmlinuz").write_bytes(inputs.kernel.read_bytes())
        archive = build.cpio_newc(build.archive_entries(inputs))
        (tree / "boot/initrd").write_bytes(gzip.compress(archive, compresslevel=6, mtime=0))
        (tree / "seed.cpio").write_bytes(SEED_MARK.ljust(SEED_BYTES, b"\0"))
        made = Path(directory) / "metal.iso"
        done = subprocess.run(
            [mkrescue, "-o", str(made), str(tree), "--", "-volid", "cidata"],
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
    given = parser.parse_args(arguments)
    try:
        result, built = make(given.out, given.root)
    except (guest().MissingPackage, OSError, RuntimeError, ValueError) as problem:
        print(f"guest image for bare metal: {problem}", file=sys.stderr)
        return 1
    print(f"guest image for bare metal {'built' if built else 'unchanged'}: {given.out} (kernel {result['release']})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
