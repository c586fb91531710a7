"""README's "my own container image", from a registry in a real guest: its own command, user, directory and environment,
and an answer.

The image has one program and neither a shell nor any file of ours.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.libvirt.test_guest_image import loaded
from tests.integration.test_service_on_hypervisors import ZONE, machine_volumes, serving
from tests.lab.fixtures import GuestImage, guest_image, lab
from tests.lab.fleet import Lab
from tests.readme.commands import files, readme
from tests.support.process import ENVIRONMENT, CorralProcess
from tests.support.registry import Registry, image, registry

__all__ = ["guest_image", "lab"]

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(900)]

START = """#!/opt/busybox sh
user=$(/opt/busybox id -u)
echo "$1 $user $(/opt/busybox pwd) $GREETING $MODE $CORRAL_NODE_RANK of $CORRAL_GROUP_SIZE" > /tmp/complete
echo answers > /tmp/index.html
echo "the engine says that it begins"
exec /opt/busybox httpd -f -p "$CORRAL_SERVICE_PORT" -h /tmp
"""
NETWORK = 'kind = "bridge"\nsource = "br0"\nsubnet = "10.77.0.0/16"\npool = "10.77.1.10-10.77.1.99"\n'
PASSWD = "root:x:0:0::/root:/bin/sh\nserver:x:1007:1008::/home/server:/bin/sh\n"
SHOWN = "oci://registry.example/team/engine@sha256:DIGEST"
RIGHT = "right 1007 /srv/here hello there requested 0 of 1"


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Registry]:
    with registry(tmp_path / "registry") as running:
        yield running


@pytest.fixture
def corral(lab: Lab, guest_image: GuestImage, tmp_path: Path) -> Iterator[CorralProcess]:
    with serving(tmp_path, with_container_guest(lab, guest_image, NETWORK), lab) as process:
        yield process


def with_container_guest(lab: Lab, guest: GuestImage, network: str) -> str:
    """A configuration by which images of registries on loopback run in the default guest."""
    hosts = "".join(
        f'[[hosts]]\nname = "hv{number}"\nzone = "zone-1"\ndriver = "libvirt"\n'
        f'socket = "{hypervisor.directory}/run/libvirt/libvirt-sock"\n'
        '[hosts.capacity]\nvcpu = 4\nmemory = "20GiB"\n'
        for number, hypervisor in enumerate(lab, start=1)
    )
    zone = f'[[zones]]\nuuid = "{ZONE}"\nname = "zone-1"\n[zones.network]\n{network}'
    catalog = '[catalog]\nimport_networks = ["127.0.0.0/8"]\ncontainer_guest = "guest"\n'
    return catalog + zone + f'[[images]]\nname = "guest"\nmanifest = "{guest.manifest}"\n' + hosts


def contained(directory: Path) -> Path:
    """A layout of an image whose lower layer has another program than the upper one."""
    source = directory / "files"
    source.mkdir()
    (source / "busybox").write_bytes(loaded().find_inputs().busybox.read_bytes())
    (source / "old").write_text("#!/opt/busybox sh\nexit 1\n")
    (source / "start").write_text(START)
    (source / "passwd").write_text(PASSWD)
    for name in ("busybox", "old", "start"):
        (source / name).chmod(0o755)
    layers = [
        {"/opt/busybox": source / "busybox", "/opt/start": source / "old", "/etc/passwd": source / "passwd"},
        {"/opt/start": source / "start"},
    ]
    said = {"entrypoint": "/opt/start", "cmd": "right", "user": "server", "workingdir": "/srv/here"}
    config = [word for name, value in said.items() for word in (f"--config.{name}", value)]
    config += ["--config.env", "GREETING=hello there", "--config.env", "MODE=the image's own"]
    return image(directory / "layout", layers, *config)


def test_a_container_image_becomes_a_member_that_answers(
    corral: CorralProcess, lab: Lab, shelf: Registry, tmp_path: Path
) -> None:
    digest = shelf.push(contained(tmp_path), "team/contained")
    for name, shown in files().items():
        # The README's canary, and more of what the image has to say.
        (tmp_path / name).write_text(shown.replace('"^right"', f'"^{RIGHT}$"'))
    environment = {**os.environ, **ENVIRONMENT, "CORRAL_SERVER": f"127.0.0.1:{corral.port}"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"

    def run(command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    imported, *rest = [command for command in readme() if command.startswith("corral ") and "engine" in command]
    assert SHOWN in imported
    run(imported.replace(SHOWN, shelf.url("team/contained", digest)))
    for command in rest:
        told = run(command)
    assert "engines: Running" in told
    assert '"lastAnswer"' in run("corral group engines -o json")
    assert "the engine says that it begins" in run("corral logs engines 0")
    run("corral delete engines")
    assert machine_volumes(lab) == []
    run("corral catalog remove engine && corral image delete engine")
    assert list((corral.directory / "images").iterdir()) == []
