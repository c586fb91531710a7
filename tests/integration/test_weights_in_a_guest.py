"""A model's weights, fetched by a real guest: on from where their line broke, and read by the engine of a container
image in its own root and as its own user; other bytes than were asked for start nothing."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration import test_container_image as container
from tests.integration.test_container_image import shelf
from tests.integration.test_service_on_hypervisors import machine_volumes, serving
from tests.lab.fixtures import GuestImage, guest_image, lab
from tests.lab.fleet import Lab
from tests.support.process import ENVIRONMENT, CorralProcess
from tests.support.registry import Registry
from tests.support.source import source

__all__ = ["guest_image", "lab", "shelf"]

pytestmark = [pytest.mark.qemu, pytest.mark.slow, pytest.mark.timeout(900)]

SERVER = "10.77.0.1"  # the lab's switch
START = """#!/opt/busybox sh
sum=$(/opt/busybox sha256sum < "$CORRAL_WEIGHTS_PATH")
echo "weights ${sum%% *} at $CORRAL_WEIGHTS_PATH" > /tmp/complete
exec /opt/busybox httpd -f -p "$CORRAL_SERVICE_PORT" -h /tmp
"""
ENTRY = """resourceUuid: e1de1e1de1e1de1e1de1e1de1e1de1e1
name: weighed
image: weighed
weights: {{uri: "{uri}", sha256: "{sha256}"}}
readinessCheck:
  path: /complete
  canary: {{path: /complete, expect: "^weights {sha256} at /var/lib/corral/weights/{sha256}/ring.gguf$"}}
"""
GROUP = """name: weighed
serviceCreationStrategy: parallel
failurePolicy: {action: FAILURE_ACTION_FAIL_GROUP}
modelServices: [{uuid: e1de1e1de1e1de1e1de1e1de1e1de1e1, cpuNum: 1, memorySize: 134217728, rootDiskSize: 67108864}]
"""


@pytest.fixture
def corral(lab: Lab, guest_image: GuestImage, tmp_path: Path) -> Iterator[CorralProcess]:
    text = container.with_container_guest(lab, guest_image, container.NETWORK + f'reachable = ["{SERVER}"]\n')
    with serving(tmp_path, text, lab) as process:
        yield process


def test_weights_reach_an_engine_after_a_cut_and_other_bytes_do_not(
    corral: CorralProcess, lab: Lab, shelf: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {**os.environ, **ENVIRONMENT, "CORRAL_SERVER": f"127.0.0.1:{corral.port}"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"

    def run(command: str, expected: int = 0) -> str:
        given = ["bash", "-c", f"{command} 2>&1"]
        done = subprocess.run(
            given, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == expected, f"{command}\n{done.stdout[-3000:]}"
        return done.stdout

    monkeypatch.setattr(container, "START", START)
    digest = shelf.push(container.contained(tmp_path), "team/weighed")
    (tmp_path / "group.yaml").write_text(GROUP)
    data = random.randbytes(3 << 20)
    with source(namespace=lab.switch, address=SERVER) as web:
        web.files["/models/ring.gguf"] = data
        web.cuts = [len(data) // 2]
        facts = {"uri": web.url("/models/ring.gguf"), "sha256": hashlib.sha256(data).hexdigest()}
        (tmp_path / "entry.yaml").write_text(ENTRY.format(**facts))
        run(f"corral image import {shelf.url('team/weighed', digest)} --name weighed && corral catalog add entry.yaml")
        assert "weighed: Running" in run("corral deploy group.yaml"), "its canary is the digest that its user found"
        assert [first for _, first, _ in web.asked] == [0, len(data) // 2], "it went on where the line broke"
        run("corral delete weighed")
        other = web.files["/models/ring.gguf"] = data[:-1] + bytes([data[-1] ^ 1])
        told = run("corral deploy group.yaml", 1)
        assert f"have the SHA-256 {hashlib.sha256(other).hexdigest()}" in told
        run("corral delete weighed")
    assert machine_volumes(lab) == []
