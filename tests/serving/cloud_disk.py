"""A cloud disk of Debian's own packages: cloud-init, the cloud kernel, systemd, GRUB, and no file of Corral's.

The nearest to Debian's published genericcloud image that packages alone give. The root is made once by mmdebstrap and
kept under .cache/cloud by its recipe; the user's engine is laid in each time, and nothing is mounted for it: mke2fs
fills the file system, debugfs writes into it, and GRUB's image stands in the gap before the partition.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.support import ROOT

PACKAGES = (
    *("linux-image-cloud-amd64", "initramfs-tools", "systemd-sysv", "systemd-resolved", "udev", "dbus"),
    *("cloud-init", "netplan.io", "iproute2", "openssh-server", "ca-certificates", "wget"),
)
SIZE = 1 << 30
START = 1 << 20  # of the partition
SECTOR = 512
GRUB = Path("/usr/lib/grub/i386-pc")
MODULES = ("biosdisk", "part_msdos", "ext2", "linux", "normal", "configfile", "serial", "terminal")
PROGRAMS = ("mmdebstrap", "mke2fs", "debugfs", "grub-mkimage", "qemu-img")
_FSTAB = "/dev/vda1 / ext4 errors=remount-ro 0 1\n"
# no_timer_check: without it a kernel under software emulation panics now and then.
_MENU = """serial --unit=0
terminal_output serial
set timeout=0
menuentry debian {
    linux /vmlinuz root=/dev/vda1 ro console=ttyS0 no_timer_check
    initrd /initrd.img
}
"""
_LEFT_OUT = ("/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/man/*")


def missing() -> str:
    """What it takes and this machine has not; empty: nothing."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    absent += [] if (GRUB / "boot.img").is_file() else ["grub-pc-bin"]
    absent += [] if os.getuid() == 0 else ["root's rights"]
    return f"a cloud disk needs {', '.join(absent)}" if absent else ""


def make(directory: Path, files: Mapping[Path, str]) -> Path:
    """`cloud.qcow2` in the directory. `files`: of this machine -> the path in the disk; all of them can be run.

    Raises RuntimeError that says what failed.
    """
    system = directory / "system.ext4"
    _run("cp", "--sparse=always", str(_debian()), str(system))
    folders = sorted({str(parent) for path in files.values() for parent in Path(path).parents if str(parent) != "/"})
    lines = [f"mkdir {folder}" for folder in folders]
    for file, path in files.items():
        lines += [f"write {file} {path}", f"set_inode_field {path} mode 0100755"]
    (directory / "commands").write_text("\n".join(lines))
    _run("debugfs", "-w", "-f", str(directory / "commands"), str(system))
    disk = directory / "cloud.raw"
    _assemble(disk, system)
    _run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(disk), str(directory / "cloud.qcow2"))
    for file in (system, disk):
        file.unlink()
    return directory / "cloud.qcow2"


def _debian() -> Path:
    """The file system with Debian in it, made where it is not kept yet: some minutes."""
    recipe = repr((PACKAGES, SIZE, _FSTAB, _MENU, _LEFT_OUT))
    kept = ROOT / ".cache/cloud" / f"{hashlib.sha256(recipe.encode()).hexdigest()[:12]}.ext4"
    if kept.is_file():
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="corral-cloud-") as name:
        root = Path(name) / "root"
        sources = Path("/etc/apt/sources.list.d/debian.sources")
        mirror = [str(sources)] if sources.exists() else []
        left_out = [f"--dpkgopt=path-exclude={path}" for path in _LEFT_OUT]
        chosen = f"--include={','.join(PACKAGES)}"
        _run("mmdebstrap", "--quiet", "--variant=apt", chosen, *left_out, "bookworm", str(root), *mirror)
        (root / "etc/fstab").write_text(_FSTAB)
        (root / "boot/grub").mkdir(exist_ok=True)
        (root / "boot/grub/grub.cfg").write_text(_MENU)
        made = Path(name) / "made.ext4"
        _run("mke2fs", "-q", "-t", "ext4", "-d", str(root), str(made), f"{(SIZE - START) >> 10}k")
        made.replace(kept) if made.stat().st_dev == kept.parent.stat().st_dev else shutil.move(made, kept)
    return kept


def _assemble(disk: Path, system: Path) -> None:
    """A boot sector with one partition, GRUB's own image behind it, the file system."""
    with tempfile.TemporaryDirectory() as name:
        core = Path(name) / "core.img"
        prefix = "(hd0,msdos1)/boot/grub"
        _run("grub-mkimage", "-O", "i386-pc", "-o", str(core), "-p", prefix, *MODULES)
        image = core.read_bytes()
    assert len(image) <= START - SECTOR, "it stands before the partition"
    boot = bytearray((GRUB / "boot.img").read_bytes())
    size = system.stat().st_size
    first, count = START // SECTOR, size // SECTOR
    # One bootable Linux partition, by its first sector and its length alone.
    entry = b"\x80\xfe\xff\xff\x83\xfe\xff\xff" + first.to_bytes(4, "little") + count.to_bytes(4, "little")
    boot[446:512] = entry.ljust(64, b"\0") + b"\x55\xaa"
    disk.write_bytes(bytes(boot) + image)
    _run("dd", f"if={system}", f"of={disk}", "bs=1M", f"seek={START >> 20}", "conv=sparse,notrunc", "status=none")
    os.truncate(disk, START + size)


def _run(*command: str) -> None:
    """Below everything else that the machine does. Raises RuntimeError with the last lines of what it said."""
    done = subprocess.run(["nice", *command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed: {(done.stdout + done.stderr)[-2000:]}")
