"""README's "my own model image", on a real guest whose image has no file of ours.

It has Debian's kernel and busybox, a model of its own, and an init that does what cloud-init does with its volume.
"""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from tests.integration.libvirt.test_guest_image import loaded
from tests.integration.test_service_on_hypervisors import ZONE, machine_volumes, serving
from tests.lab.fixtures import lab
from tests.lab.fleet import Lab
from tests.readme.commands import files, readme
from tests.support.process import ENVIRONMENT, CorralProcess

__all__ = ["lab"]

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(900)]

MODULES = ("virtio_pci", "virtio_net", "virtio_blk", "virtio_console", "isofs")
ARGUMENTS = "console=ttyS0 no_timer_check quiet panic=10"
# What cloud-init makes of the volume: files, an address, and the program that is to run.
INIT = """#!/bin/sh
export PATH=/bin
busybox mount -t proc proc /proc
busybox --install -s /bin
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in /lib/modules/*.ko; do insmod "$module"; done
until [ -b /dev/vda ]; do sleep 0.1; done
mount -t iso9660 -o ro /dev/vda /seed
mkdir -p /etc/corral
cp /seed/* /etc/corral/
address=$(sed -n 's/^CORRAL_NODE_ADDRESS=//p' /etc/corral/env)
ip link set lo up
ip address add "$address" dev eth0
ip link set eth0 up
setsid sh /etc/corral/supervisor &
while :; do sleep 1; wait; done
"""
SERVE = """#!/bin/sh
exec httpd -f -p "$2" -h /srv
"""


def own_image(directory: Path) -> None:
    """`vmlinuz` and `initrd.img`. Skips where Debian's packages are missing."""
    build = loaded()
    try:
        found = build.find_inputs()
        modules = build.load_order(Path("/lib/modules") / found.release, MODULES)
    except build.MissingPackage as missing:
        pytest.skip(str(missing))
    parts: dict[str, tuple[int, bytes]] = {
        "init": (0o100755, INIT.encode()),
        "bin/busybox": (0o100755, found.busybox.read_bytes()),
        "bin/sh": (0o120777, b"busybox"),
        "opt/serve": (0o100755, SERVE.encode()),
        "srv/index.html": (0o100644, b"a model\n"),
        "srv/complete": (0o100644, b"right, as it must be\n"),
    }
    for number, module in enumerate(modules):
        parts[f"lib/modules/{number:02d}.ko"] = (0o100644, build.read_module(module))
    folders = ("bin", "dev", "etc", "lib", "lib/modules", "opt", "proc", "run", "seed", "srv", "sys", "tmp", "root")
    entries = [(name, 0o040755, b"") for name in folders] + [(name, *parts[name]) for name in sorted(parts)]
    (directory / "initrd.img").write_bytes(gzip.compress(build.cpio_newc(iter(entries)), 1))
    (directory / "vmlinuz").write_bytes(found.kernel.read_bytes())


@pytest.fixture
def corral(lab: Lab, tmp_path: Path) -> Iterator[CorralProcess]:
    hosts = "".join(
        f'[[hosts]]\nname = "hv{number}"\nzone = "zone-1"\ndriver = "libvirt"\n'
        f'socket = "{hypervisor.directory}/run/libvirt/libvirt-sock"\n'
        '[hosts.capacity]\nvcpu = 4\nmemory = "20GiB"\n'
        for number, hypervisor in enumerate(lab, start=1)
    )
    network = 'kind = "bridge"\nsource = "br0"\nsubnet = "10.77.0.0/16"\npool = "10.77.1.10-10.77.1.99"\n'
    zone = f'[[zones]]\nuuid = "{ZONE}"\nname = "zone-1"\n[zones.network]\n{network}'
    with serving(tmp_path, zone + hosts, lab) as process:
        yield process


def test_an_image_without_a_file_of_ours_becomes_a_model_that_answers(
    corral: CorralProcess, lab: Lab, tmp_path: Path
) -> None:
    own_image(tmp_path)
    for name, text in files().items():
        (tmp_path / name).write_text(text)
    environment = {**os.environ, **ENVIRONMENT, "CORRAL_SERVER": f"127.0.0.1:{corral.port}"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"

    def run(command: str, expected: int = 0) -> str:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == expected, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return done.stdout

    upload, *rest = [command for command in readme() if command.startswith("corral ") and "my-model" in command]
    # The README's is a disk; a kernel boots in a fraction of the time.
    kernel = f"vmlinuz --format kernel --initrd initrd.img --delivery nocloud --arguments '{ARGUMENTS}'"
    assert "my-model.qcow2" in upload
    run(upload.replace("my-model.qcow2", kernel))
    (tmp_path / "vmlinuz").unlink()
    (tmp_path / "initrd.img").unlink()
    for command in rest:
        told = run(command)
    assert "my-models: Running" in told
    assert "in use by 1 model services" in run("corral image delete my-model 2>&1", 6)
    group = run("corral group my-models -o json")
    assert '"lastAnswer"' in group, group
    run("corral delete my-models")
    assert machine_volumes(lab) == []
    run("corral catalog remove my-model && corral image delete my-model")
    left = [path.name for path in (corral.directory / "images").iterdir()]
    assert left == []
    for hypervisor in lab:
        connection = libvirt.open(hypervisor.uri)
        assert [d.name() for d in connection.listAllDomains() if d.isActive()] == []
        connection.close()
