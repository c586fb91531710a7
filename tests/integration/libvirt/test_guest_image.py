"""The build of the default guest: same inputs, same bytes, and a clear word where something is missing."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.lab.fixtures import GUEST_BUILD, GuestImage


def loaded() -> ModuleType:
    specification = importlib.util.spec_from_file_location("guest_build", GUEST_BUILD)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["guest_build"] = module
    specification.loader.exec_module(module)
    return module


def build(out: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(GUEST_BUILD), str(out)], capture_output=True, text=True, check=False)


@pytest.fixture
def empty_system(tmp_path: Path) -> Path:
    """A root directory with a kernel, one module tree and a static busybox, all made up."""
    modules = tmp_path / "lib/modules/6.1.0-9-cloud-amd64"
    (modules / "kernel").mkdir(parents=True)
    names = ["a", "b", "c"]
    for name in names:
        (modules / f"kernel/{name}.ko").write_text(name)
    (modules / "modules.dep").write_text(
        "kernel/c.ko: kernel/b.ko kernel/a.ko\nkernel/b.ko: kernel/a.ko\nkernel/a.ko:\n"
    )
    (modules / "modules.builtin").write_text("kernel/built_in.ko\n")
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot/vmlinuz-6.1.0-9-cloud-amd64").write_text("kernel")
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/busybox").write_bytes(bytes(64))
    return tmp_path


def test_the_same_inputs_give_the_same_bytes(guest_image: GuestImage, tmp_path: Path) -> None:
    assert build(tmp_path / "again").returncode == 0
    for file in (guest_image.kernel, guest_image.initramfs, guest_image.manifest):
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


def test_a_second_call_writes_nothing_and_damage_is_noticed(guest_image: GuestImage, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "built" in build(out).stdout
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert "unchanged" in build(out).stdout
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
    (out / "initramfs.img").write_bytes(b"damaged")
    assert "built" in build(out).stdout
    assert (out / "initramfs.img").read_bytes() == guest_image.initramfs.read_bytes()


def test_files_of_ones_own_are_laid_in_and_a_wrong_wish_is_told(guest_image: GuestImage, tmp_path: Path) -> None:
    engine = tmp_path / "my=engine"
    engine.write_text("#!/bin/sh\n")
    engine.chmod(0o755)
    out = tmp_path / "out"
    command = [sys.executable, str(GUEST_BUILD), str(out)]
    subprocess.run([*command, "--add", f"{engine}=/bin/engine"], check=True, capture_output=True)
    archive = gzip.decompress((out / "initramfs.img").read_bytes())
    assert b"bin/engine\0" in archive
    assert b"bin/engine\0" not in gzip.decompress(guest_image.initramfs.read_bytes())
    engine.write_text("#!/bin/sh\nexit 1\n")
    again = subprocess.run([*command, "--add", f"{engine}=/bin/engine"], check=True, capture_output=True, text=True)
    assert "built" in again.stdout, "another content is another image"
    for wish, told in (("nothing=/bin/x", "is not a file"), (f"{engine}=../x", "FILE=PATH"), ("x", "FILE=PATH")):
        done = subprocess.run([*command, "--add", wish], check=False, capture_output=True, text=True)
        assert done.returncode == 1
        assert told in done.stderr


def test_sums_in_the_manifest_are_those_of_the_files(guest_image: GuestImage) -> None:
    module = loaded()
    manifest = json.loads(guest_image.manifest.read_text())
    assert manifest["kernel"]["sha256"] == module.sha256_of(guest_image.kernel)
    assert manifest["initramfs"]["sha256"] == module.sha256_of(guest_image.initramfs)
    assert "no_timer_check" in manifest["command_line"].split()


def test_modules_come_after_what_they_need(empty_system: Path) -> None:
    module = loaded()
    directory = empty_system / "lib/modules/6.1.0-9-cloud-amd64"
    order = module.load_order(directory, ["c", "built_in", "a"])
    assert [path.stem for path in order] == ["a", "b", "c"]


def test_the_newest_kernel_is_taken(empty_system: Path) -> None:
    module = loaded()
    newer = empty_system / "lib/modules/6.1.0-56-cloud-amd64"
    (newer / "kernel").mkdir(parents=True)
    (newer / "modules.dep").write_text(
        "".join(f"kernel/{name}.ko:\n" for name in (*module.MODULES, *module.CONTAINER_MODULES))
    )
    (empty_system / "boot/vmlinuz-6.1.0-56-cloud-amd64").write_text("kernel")
    assert module.find_inputs(empty_system).release == "6.1.0-56-cloud-amd64"


@pytest.mark.parametrize(
    ("missing", "package"),
    [
        ("boot/vmlinuz-6.1.0-9-cloud-amd64", "linux-image-cloud-amd64"),
        ("usr/bin/busybox", "busybox-static"),
        (None, "linux-image-cloud-amd64"),  # a kernel without the modules that the guest needs
    ],
)
def test_a_missing_package_is_named(empty_system: Path, missing: str | None, package: str) -> None:
    module = loaded()
    if missing is not None:
        (empty_system / missing).unlink()
    with pytest.raises(module.MissingPackage, match=f"apt-get install .*{package}"):
        module.find_inputs(empty_system)


def test_a_dynamic_busybox_is_refused(empty_system: Path) -> None:
    module = loaded()
    (empty_system / "usr/bin/busybox").write_bytes(Path("/bin/ls").read_bytes())
    with pytest.raises(module.MissingPackage, match="static"):
        module.find_inputs(empty_system)


def test_the_archive_is_one_that_cpio_reads(guest_image: GuestImage, tmp_path: Path) -> None:
    unpack = f"gzip -dc {guest_image.initramfs} | cpio -idm --quiet --no-absolute-filenames"
    done = subprocess.run(["sh", "-c", unpack], cwd=tmp_path, capture_output=True, text=True, check=False)
    if "cpio: not found" in done.stderr:
        pytest.skip("cpio is not installed")
    assert done.returncode == 0, done.stderr
    assert os.access(tmp_path / "init", os.X_OK)
    assert os.readlink(tmp_path / "bin/sh") == "busybox"
    modules = sorted(path.name for path in (tmp_path / "lib/modules").glob("*.ko"))
    assert modules[-1].endswith("button.ko")
    assert [path.name for path in (tmp_path / "lib/modules/container").iterdir()], "for container images alone"
