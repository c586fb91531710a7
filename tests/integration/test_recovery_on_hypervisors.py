"""A database lost and one of yesterday, on real libvirtds under real QEMU guests, which go on in their processes."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import libvirt
import pytest
from corral.v1 import deploy_pb2, group_pb2

from tests.integration.test_service_on_hypervisors import (
    ENTRY,
    SMALL,
    ZONE,
    configuration,
    domains,
    machine_volumes,
    serving,
)
from tests.lab.fixtures import GuestImage, guest_image, lab
from tests.lab.fleet import Lab
from tests.security.canary import leaks, random_canary
from tests.support.process import ENVIRONMENT, CorralProcess

__all__ = ["guest_image", "lab"]

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(900)]


@pytest.fixture
def corral(lab: Lab, guest_image: GuestImage, tmp_path: Path) -> Iterator[CorralProcess]:
    with serving(tmp_path, configuration(lab, guest_image), lab) as process:
        yield process


def recover(corral: CorralProcess, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service", "recover", "--config", str(corral.configuration), *more],
        capture_output=True,
        text=True,
        cwd=corral.directory,
        env={**os.environ, **ENVIRONMENT},
        timeout=200,
    )


def deploy(corral: CorralProcess, name: str, count: int, **fields: Any) -> group_pb2.InstanceGroup:
    node = group_pb2.NodeSpec(uuid=ENTRY, zone_uuid=ZONE, cpu_num=1, memory_size=SMALL, **fields)
    group = corral.follow(corral.deploy(name, [node] * count))
    assert group.status == "Running"
    return group


def guests(lab: Lab) -> dict[str, int]:
    """Machine's name -> pid of its QEMU, by the process table."""
    found: dict[str, int] = {}
    for hypervisor in lab:
        for pid in hypervisor.namespace.processes():
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            for word in words:
                if word.startswith(b"guest=corral-"):
                    found[word.decode().removeprefix("guest=").partition(",")[0]] = pid
    return found


def of_groups(corral: CorralProcess) -> dict[str, Any]:
    listed = corral.groups.ListInstanceGroups(deploy_pb2.ListInstanceGroupsRequest()).inventories
    return {
        g.uuid: (g.name, g.status, [(m.uuid, m.status, m.attempt, m.host_name, list(m.addresses)) for m in g.instances])
        for g in listed
    }


def definitions(lab: Lab) -> dict[str, bytes]:
    """Name -> XML of every domain, with what libvirt shows only to those who ask for it."""
    found = {}
    for hypervisor in lab:
        connection = libvirt.open(hypervisor.uri)
        for domain in connection.listAllDomains():
            found[domain.name()] = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE).encode()
        connection.close()
    return found


def test_a_lost_database_and_yesterdays_are_recovered_under_running_guests(corral: CorralProcess, lab: Lab) -> None:
    canary = random_canary()
    first = deploy(corral, "first", 2, environment_variables={"TOKEN": canary}, startup_parameters=f"--key {canary}")
    yesterday = corral.directory / "yesterday.db"
    with closing(sqlite3.connect(corral.database)) as source, closing(sqlite3.connect(yesterday)) as target:
        source.backup(target)
    second = deploy(corral, "second", 1)
    doomed = deploy(corral, "doomed", 1)
    corral.delete(doomed.uuid)
    before, running = of_groups(corral), guests(lab)
    assert len(running) == 3
    xml = definitions(lab)
    assert leaks(canary, xml) == []
    sizes = [
        len(element.text or "")
        for text in xml.values()
        for element in ElementTree.fromstring(text).iterfind("metadata/{urn:corral:machine:1}machine")
    ]
    assert len(sizes) == 3
    assert all(500 < size < 4000 for size in sizes), sizes

    # Lost: its rows are those of the machines, with the values that each was told.
    corral.stop()
    for path in corral.directory.glob("corral.db*"):
        path.unlink()
    shown = recover(corral, "--output", "json")
    assert shown.returncode == 3, shown
    assert canary not in shown.stdout + shown.stderr
    assert {g["name"]: (g["action"], g["missing_values"]) for g in json.loads(shown.stdout)["groups"]} == {
        "first": ("create", []), "second": ("create", [])
    }  # fmt: skip
    assert recover(corral, "--write").returncode == 0
    corral.start()
    assert of_groups(corral) == before
    assert guests(lab) == running
    with closing(sqlite3.connect(corral.database)) as connection:
        query = "SELECT spec FROM instances WHERE group_uuid = ?"
        specs = [json.loads(spec) for (spec,) in connection.execute(query, (first.uuid,))]
    told = [(s["environment_variables"], s["startup_parameters"]) for s in specs]
    assert told == [({"TOKEN": canary}, f"--key {canary}")] * 2

    # Yesterday's: what was deployed since is found again.
    corral.stop()
    for path in corral.directory.glob("corral.db*"):
        path.unlink()
    shutil.copy(yesterday, corral.database)
    shown = recover(corral)
    assert shown.returncode == 3, shown
    assert second.uuid in shown.stdout
    assert first.uuid not in shown.stdout
    assert recover(corral, "--write").returncode == 0
    corral.start()
    assert of_groups(corral) == before
    third = deploy(corral, "third", 1)
    assert running.items() <= guests(lab).items()

    for uuid in (first.uuid, second.uuid, third.uuid):
        assert corral.delete(uuid).status == "Deleted"
    assert domains(lab) == {}
    assert machine_volumes(lab) == []
