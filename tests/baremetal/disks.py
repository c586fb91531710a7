"""Disks of machines of bare metal: erased between projects by the drives themselves, or what a machine starts from."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from corral.v1 import deploy_pb2, fleet_pb2

from tests.baremetal.emulator import OVMF
from tests.baremetal.machines import DISK_BYTES, Relay, machines, tidy
from tests.baremetal.test_baremetal import FIRMWARES, LEFT, MANY_SECONDS, Site, configuration, nodes
from tests.lab.fixtures import GuestImage
from tests.lab.fleet import Lab
from tests.lab.namespaces import wait_until
from tests.service.rpc.test_machines import free_port
from tests.support import ROOT
from tests.support.process import CorralProcess

pytestmark = [pytest.mark.qemu, pytest.mark.slow, pytest.mark.timeout(1800)]

OWN_DISK = "f1e135835fee363c9f57ed8232023888"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where metal.json and disk.iso are, the guest for a BMC's drive and for a machine's own disk."""
    if not Path(OVMF).is_file():
        pytest.skip("OVMF is missing: apt-get install --no-install-recommends ovmf")
    out, kernel = tmp_path_factory.mktemp("metal"), ROOT / ".cache/metal/root"
    for name in ("metal.json", "metal.iso", "disk.json", "disk.iso"):
        if (built := kernel.parent / name).is_file():
            shutil.copy(built, out)
    command = [sys.executable, str(ROOT / "deploy/guest/metal.py"), str(out), "--disk"]
    root = ["--root", str(kernel)] if kernel.is_dir() else []
    done = subprocess.run([*command, *root], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"{done.stderr.strip()}; `make baremetal` prepares it")
    return out


@contextmanager
def site(
    lab: Lab, guest: GuestImage, images: Path, directory: Path, firmwares: Mapping[str, str], **how: Any
) -> Iterator[Site]:
    """A service and machines. `how`: see `machines`."""
    port = free_port()
    relay = Relay(lab, port)
    own_disk = f"""
[[images]]
name = "own-disk"
disk = "{images}/disk.iso"
delivery = "nocloud"
[[model_services]]
uuid = "{OWN_DISK}"
name = "own-disk"
image = "own-disk"
stop_grace_ms = 3000
"""
    try:
        with machines(lab, directory, firmwares, **how) as made:
            entries = "".join(machine.entry(f"http://127.0.0.1:{port}", relay.url) for machine in made)
            text = configuration(lab, guest, images / "metal.json") + own_disk + entries
            corral = CorralProcess(directory, text, server=f'machines = "127.0.0.1:{port}"')
            corral.start()
            try:
                found = Site(lab, corral, made)
                wait_until(lambda: set(found.statuses().values()) == {"Connected"}, 120, "all hosts")
                yield found
            finally:
                corral.kill()
                tidy(lab[0])
    finally:
        relay.close()


def test_a_machine_is_erased_by_its_drives_own_command_or_by_zeros_all_over(
    lab: Lab, guest_image: GuestImage, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An NVMe drive erases itself; an ATA disk that knows no such command, as QEMU's, is written over."""
    firmwares = {"metal-bios": "bios"}
    with site(lab, guest_image, images, tmp_path, firmwares, clean="erase", nvme=True) as there:
        (machine,) = there.machines
        for file in (machine.disk, machine.nvme):
            _mark(file, 0, DISK_BYTES // 2, DISK_BYTES - 4096)
        request = deploy_pb2.DeployDistributedModelServiceRequest(
            name="leaving", model_services=nodes()[1:2], service_creation_strategy="parallel"
        )
        group = there.corral.follow(there.corral.groups.DeployDistributedModelService(request, timeout=MANY_SECONDS))
        assert group.status == "Running", machine.console()
        assert there.corral.delete(group.uuid).status == "Deleted"
        assert LEFT in machine.nvme.read_bytes()

        def cleaning() -> fleet_pb2.HostCleaning:
            answer = there.corral.fleet.ListHosts(fleet_pb2.ListHostsRequest())
            return next(host.cleaning for host in answer.inventories if host.name == machine.name)

        def over() -> bool:
            assert cleaning().state != "Unclean", f"{cleaning().reason}\n{machine.console()}"
            return not cleaning().state and not cleaning().served_project

        began = time.monotonic()
        wait_until(over, MANY_SECONDS, "the machine to be erased")
        for file in (machine.disk, machine.nvme):
            assert file.read_bytes() == bytes(DISK_BYTES)
        log = there.corral.log.read_text()
        assert "nvme0n1: NVMe format with erase of user data" in log
        assert "sda: zeros all over, since it has no erase of its own that works" in log
        assert (machine.on(), machine.drive()) == (False, [])
        with capsys.disabled():
            print(f"\n{json.dumps({'from gone to erased, s': round(time.monotonic() - began, 1)})}")


def test_a_machine_starts_from_its_own_disk_and_reads_a_volume_in_its_drive(
    lab: Lab, guest_image: GuestImage, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """BIOS and UEFI. The same rendezvous and reports as of a machine that boots to memory; the disk stays its own."""
    system = images / "disk.iso"
    with site(lab, guest_image, images, tmp_path, FIRMWARES, clean="none", system=system) as there:
        began = time.monotonic()
        head, *workers = nodes()
        for worker in workers:
            worker.uuid = OWN_DISK
        request = deploy_pb2.DeployDistributedModelServiceRequest(
            name="own-disk", model_services=[head, *workers], service_creation_strategy="parallel"
        )
        group = there.corral.follow(there.corral.groups.DeployDistributedModelService(request, timeout=MANY_SECONDS))
        assert group.status == "Running", "\n".join(machine.console() for machine in there.machines)
        seconds = time.monotonic() - began
        health = {i.host_name: there.lab.get_json(i.addresses[0]) for i in group.instances}
        assert health["hv1"]["joined"] == 2
        for machine in there.machines:
            assert health[machine.name]["machine_uuid"].lower() == machine.uuid
            assert machine.volume() == "cidata"
            assert not [line for line in machine.requests() if line.startswith("PATCH")], "it boots as it is set"
        assert there.corral.delete(group.uuid).status == "Deleted"
        assert [(machine.on(), machine.drive()) for machine in there.machines] == [(False, [])] * 2
        for machine in there.machines:
            with machine.disk.open("rb") as disk, system.open("rb") as own:
                assert disk.read(4096) == own.read(4096)
        with capsys.disabled():
            print(f"\n{json.dumps({'own disk: call to Running, s': round(seconds, 1)})}")


def _mark(file: Path, *places: int) -> None:
    """Leave something there."""
    marked = LEFT * (4096 // len(LEFT))
    with file.open("r+b") as opened:
        for place in places:
            opened.seek(place)
            opened.write(marked)
