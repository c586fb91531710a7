"""libvirt's ghost: a domain whose create was cut off by a kill of libvirtd. It is listed for ever, has no process, and
can neither be run nor removed. The group goes on elsewhere, the host takes nothing new, and the claim stays.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import libvirt
import pytest
from corral.v1 import deploy_pb2, group_pb2

from tests.concurrency.observer import over_commits
from tests.concurrency.replicas import deploy, replicas
from tests.faults.clients import MEMORY
from tests.faults.observer import machines
from tests.faults.scenario import fleet
from tests.lab.fixtures import GuestImage, capability_cache, guest_image
from tests.lab.fleet import Lab
from tests.lab.hypervisor import Hypervisor
from tests.lab.namespaces import wait_until
from tests.lab.requirements import why_not
from tests.support.postgres import Postgres

__all__ = ["guest_image"]

_STARTING = "reason='starting up' pid='0'"
GHOST = (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP)

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(900)]


@pytest.fixture
def own_lab(pytestconfig: pytest.Config) -> Iterator[Lab]:
    """Two hypervisors that the test may harm."""
    if reason := why_not():
        pytest.skip(reason)
    with Lab(2, capability_cache(pytestconfig), network="10.83") as lab:
        yield lab


class Cutter(threading.Thread):
    """Kills libvirtd of a hypervisor that begins a create, before the QEMU process exists, until that makes a ghost."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(name="cutter")
        self._lab = lab
        self._pids = {hypervisor.name: hypervisor.daemon_pid() for hypervisor in lab}
        self.victim: Hypervisor | None = None
        self.name_of_domain = ""

    def run(self) -> None:
        """Watch libvirt's own state files, which say `starting up` with pid 0 at that moment."""
        deadline = time.monotonic() + 120
        while self.victim is None and time.monotonic() < deadline:
            for hypervisor in self._lab:
                for path in (hypervisor.directory / "run/libvirt/qemu").glob("corral-*.xml"):
                    if _STARTING in _text(path):
                        self._cut(hypervisor, path.stem)

    def _cut(self, hypervisor: Hypervisor, name: str) -> None:
        os.kill(self._pids[hypervisor.name], signal.SIGKILL)
        hypervisor.restart_daemon()
        self._pids[hypervisor.name] = hypervisor.daemon_pid()
        if state_of(hypervisor, name) == GHOST:  # otherwise QEMU had started, and the kill came too late
            self.victim, self.name_of_domain = hypervisor, name


def _text(path: Path) -> str:
    """What a file of libvirt's says; nothing where libvirt has just taken it away."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def state_of(hypervisor: Hypervisor, name: str) -> tuple[int, int] | None:
    """libvirt's state and reason of a domain; None where it is not there."""
    connection = libvirt.open(hypervisor.uri)
    try:
        state, reason = connection.lookupByName(name).state()
        return state, reason
    except libvirt.libvirtError:
        return None
    finally:
        connection.close()


def test_a_ghost_costs_its_claim_and_nothing_else(
    own_lab: Lab, guest_image: GuestImage, postgres: Postgres, database: str
) -> None:
    directory = Path(tempfile.mkdtemp(prefix="corral-ghost-"))
    try:
        configuration = fleet(own_lab, guest_image.manifest)
        with replicas(directory, postgres.url(database), configuration, 1, prefix=own_lab.command()) as (replica,):
            group = uuid.uuid4().hex
            cutter = Cutter(own_lab)
            cutter.start()
            policy = group_pb2.FailurePolicy(action=group_pb2.FAILURE_ACTION_REPLACE_MEMBER, budget=5)
            call = replica.stub().DeployDistributedModelService(
                deploy(group, memory=MEMORY, failure_policy=policy), timeout=300
            )
            cutter.join()
            ghost = cutter.victim
            assert ghost is not None, "no create was cut off"
            attempt = int(cutter.name_of_domain.rpartition("-")[2])
            assert cutter.name_of_domain not in ghost.guests()
            final = [response.event for response in call][-1].final
            assert final.status == "Running"
            assert [(m.host, m.attempt) for m in machines(own_lab)] == [(_other(own_lab, ghost).name, attempt + 1)]
            wait_until(lambda: _status(postgres, database, ghost) == "Degraded", 60, "the host to be degraded")
            held = postgres.query("SELECT attempt FROM claims WHERE resource = 'vcpu' ORDER BY attempt", database)
            assert held == [[str(attempt)], [str(attempt + 1)]]
            assert over_commits(postgres, database) == []
            _delete(replica.stub(), group)
            assert postgres.query("SELECT DISTINCT attempt FROM claims", database) == [[str(attempt)]]
            # As the guide says: the host is rebooted. What libvirt kept under /run is gone after it, and the ghost too.
            ghost.reboot()
            wait_until(lambda: _status(postgres, database, ghost) == "Connected", 120, "the host to be usable again")
            wait_until(
                lambda: postgres.query("SELECT count(*) FROM claims", database) == [["0"]], 120, "the claim to end"
            )
            assert machines(own_lab) == []
    finally:
        shutil.rmtree(directory)


def _other(lab: Lab, hypervisor: Hypervisor) -> Hypervisor:
    (found,) = (h for h in lab if h is not hypervisor)
    return found


def _status(server: Postgres, database: str, hypervisor: Hypervisor) -> str:
    ((status,),) = server.query(f"SELECT status FROM hosts WHERE name = '{hypervisor.name}'", database)
    return status


def _delete(stub: Any, group: str) -> None:
    try:
        for _ in stub.DeleteInstanceGroup(deploy_pb2.DeleteInstanceGroupRequest(uuid=group), timeout=120):
            pass
    except grpc.RpcError as error:
        raise AssertionError(f"the delete ended with {error.code().name}: {error.details()}") from error
