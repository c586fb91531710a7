"""Secrets, of a file and stored, reach a guest's volume and nothing else: the service, libvirtd and QEMU, all real."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from corral.v1 import deploy_pb2, group_pb2, secret_pb2, secret_pb2_grpc

from service.store.offline import backup
from tests.integration.test_service_on_hypervisors import ENTRY, SMALL, ZONE, configuration, machine_volumes, serving
from tests.lab.fixtures import GuestImage, guest_image, lab
from tests.lab.fleet import Lab
from tests.security.canary import command_lines, files_under, leaks, random_canary
from tests.support.process import CorralProcess
from tests.support.secrets import a_key

__all__ = ["guest_image", "lab"]

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(900)]


@pytest.fixture
def canary(tmp_path: Path) -> str:
    made = random_canary()
    (tmp_path / "token").write_text(f"{made}\n")
    return made


@pytest.fixture
def corral(lab: Lab, guest_image: GuestImage, tmp_path: Path, canary: str) -> Iterator[CorralProcess]:
    text = 'level = "debug"\n' + configuration(lab, guest_image)
    secrets = f'\n[[secrets]]\nname = "token"\nfile = "token"\n{a_key(tmp_path)}'
    with serving(tmp_path, text + secrets, lab) as process:
        yield process


def database(corral: CorralProcess) -> bytes:
    with sqlite3.connect(corral.database) as connection:
        return "\n".join(connection.iterdump()).encode()


def kept(corral: CorralProcess) -> dict[str, bytes]:
    """What stands in the database: its rows, its own files with what it has not sorted in yet, and a backup."""
    to = corral.database.with_name("backup.db")
    backup(f"sqlite:///{corral.database}", to)
    files = {path.name: path.read_bytes() for path in corral.database.parent.glob(f"{corral.database.name}*")}
    return {"rows": database(corral), **files, "backup": to.read_bytes()}


def test_a_secret_reaches_the_guests_volume_and_nothing_else(corral: CorralProcess, lab: Lab, canary: str) -> None:
    stored = random_canary()
    stub = secret_pb2_grpc.SecretServiceStub(corral.channel)
    stub.CreateSecret(secret_pb2.CreateSecretRequest(name="stored", value=stored))
    member = group_pb2.NodeSpec(
        uuid=ENTRY,
        zone_uuid=ZONE,
        cpu_num=1,
        memory_size=SMALL,
        environment_variables={"HF_TOKEN": "secret://token", "STORED": "secret://stored", "PLAIN": canary[::-1]},
    )
    request = deploy_pb2.DeployDistributedModelServiceRequest(
        name="secretive", model_services=[member], service_creation_strategy="parallel"
    )
    events = list(corral.groups.DeployDistributedModelService(request, timeout=120))
    group = events[-1].event.final
    assert group.status == "Running"
    places = {"events": str(events).encode(), "yaml": group.yaml.encode(), "log": corral.log.read_bytes()}
    volumes: dict[str, bytes] = {}
    # Of whatever runs on this machine, the service and its planners with it.
    places |= command_lines({int(one.name) for one in Path("/proc").iterdir() if one.name.isdigit()})
    places["metrics"] = httpx.get(f"{corral.http}/metrics").content
    for hypervisor in lab:
        assert all(f"/proc/{pid}/cmdline" in places for pid in hypervisor.guests().values())
        places |= files_under(hypervisor.directory, but=("/var/lib/libvirt/corral/",))
        volumes |= files_under(hypervisor.directory / "var/lib/libvirt/corral", but=("corral-base.",))
    assert leaks(canary[::-1], places) == [], "a plain value reaches the guest in the same way"
    places |= kept(corral)
    for secret in (canary, stored):
        assert leaks(secret, places) == []
        holding = leaks(secret, volumes)
        assert {Path(path).name.rpartition(".")[2] for path in holding} == {"document-env", "document-rendezvous"}
    corral.delete(group.uuid)
    assert machine_volumes(lab) == []
