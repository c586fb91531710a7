"""The NoCloud volume that cloud-init reads, and the images that disks stand on."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path

import pycdlib
import pytest

from service.drivers.base import HostRejected
from service.drivers.libvirt.nocloud import nocloud_image
from service.drivers.libvirt.storage import virtual_size
from tests.service.drivers.libvirt.machines import bridged, specification


def files_of(image: bytes) -> dict[str, str]:
    iso = pycdlib.PyCdlib()
    iso.open_fp(io.BytesIO(image))
    assert iso.pvd.volume_identifier.strip() == b"cidata"
    found: dict[str, str] = {}
    for child in iso.list_children(rr_path="/"):
        name = child.rock_ridge.name().decode() if child.rock_ridge else ""
        if name in ("", ".", ".."):
            continue
        content = io.BytesIO()
        iso.get_file_from_iso_fp(content, rr_path=f"/{name}")
        found[name] = content.getvalue().decode()
    iso.close()
    return found


def test_cloud_init_finds_its_files_and_the_documents() -> None:
    spec = specification(
        documents={"env": "A=b\n", "rendezvous": "{}"},
        interfaces=(bridged(1, "10.0.0.5"), bridged(2)),
        host_name="n-1",
    )
    files = files_of(nocloud_image(spec))
    assert json.loads(files["meta-data"]) == {"instance-id": spec.identity.machine_uuid, "local-hostname": "n-1"}
    head, _, body = files["user-data"].partition("\n")
    assert head == "#cloud-config"
    assert {f["path"]: f["content"] for f in json.loads(body)["write_files"]} == {
        "/etc/corral/env": "A=b\n",
        "/etc/corral/rendezvous": "{}",
    }
    ethernets = json.loads(files["network-config"])["ethernets"]
    assert ethernets["nic0"]["addresses"] == ["10.0.0.5/16"]
    assert ethernets["nic1"]["dhcp4"] is True
    assert files["env"] == "A=b\n"


def test_the_supervisor_is_run_at_each_boot() -> None:
    body = json.loads(files_of(nocloud_image(specification(documents={"supervisor": "exit 0\n"})))["user-data"][14:])
    written = {f["path"]: f["content"] for f in body["write_files"]}
    assert "ExecStart=/bin/sh /etc/corral/supervisor\n" in written["/etc/systemd/system/corral-supervisor.service"]
    ((shell, flag, line),) = body["runcmd"]
    assert (shell, flag) == ("/bin/sh", "-c")
    assert subprocess.run([shell, "-n", flag, line], check=False).returncode == 0
    assert "enable --now corral-supervisor" in line
    without = json.loads(files_of(nocloud_image(specification(documents={"env": ""})))["user-data"][14:])
    assert "runcmd" not in without


def qcow2_header(size: int, backing: int = 0) -> bytes:
    start = b"QFI\xfb" + (3).to_bytes(4, "big") + backing.to_bytes(8, "big")
    return start + bytes(4) + (16).to_bytes(4, "big") + size.to_bytes(8, "big") + bytes(72)


def test_the_size_that_a_guest_sees(tmp_path: Path) -> None:
    raw, qcow2 = tmp_path / "raw", tmp_path / "qcow2"
    raw.write_bytes(b"x" * 1000)
    qcow2.write_bytes(qcow2_header(1 << 30))
    assert virtual_size(raw, "raw") == 1024  # whole sectors
    assert virtual_size(qcow2, "qcow2") == 1 << 30


@pytest.mark.parametrize("content", [b"", b"not qcow2 at all, but long enough", qcow2_header(1, backing=104)])
def test_an_image_that_is_no_qcow2_or_names_other_files_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "image"
    path.write_bytes(content)
    with pytest.raises(HostRejected):
        virtual_size(path, "qcow2")
