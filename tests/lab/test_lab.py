"""The lab itself: its hypervisors are independent, and it leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import libvirt
import pytest

from tests.lab.fixtures import lab as lab
from tests.lab.fleet import Lab
from tests.lab.namespaces import process_state, wait_until
from tests.support import ROOT

pytestmark = pytest.mark.qemu

_OWNER = """
import sys, time
from tests.lab.fleet import Lab
lab = Lab(1)
pids = [lab.switch.pid, lab[0].namespace.pid, *lab[0].namespace.processes()]
print(lab.directory, *pids, flush=True)
time.sleep(60)
"""


def test_hypervisors_are_independent(lab: Lab) -> None:
    connections = [libvirt.open(hypervisor.uri) for hypervisor in lab]
    try:
        assert [connection.getHostname() for connection in connections] == [h.name for h in lab]
        xml = "<domain type='qemu'><name>only-here</name><memory>1024</memory><os><type>hvm</type></os></domain>"
        domain = connections[0].defineXML(xml)
        assert [d.name() for d in connections[0].listAllDomains()] == ["only-here"]
        assert connections[1].listAllDomains() == []
        domain.undefine()
    finally:
        for connection in connections:
            connection.close()


def test_killed_owner_leaves_nothing_behind(lab: Lab) -> None:
    # `lab` is asked for only to skip where a lab cannot run.
    owner = subprocess.Popen([sys.executable, "-c", _OWNER], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    directory, *pids = owner.stdout.readline().split()
    assert all(process_state(int(pid)) for pid in pids)
    os.kill(owner.pid, signal.SIGKILL)
    owner.communicate()
    wait_until(lambda: all(process_state(int(pid)) in ("", "Z") for pid in pids), 60, "the lab's processes to end")
    wait_until(lambda: not Path(directory).exists(), 60, "the lab's directory to go")


def test_reboot_keeps_disk_and_loses_what_is_volatile(lab: Lab) -> None:
    hypervisor = lab[1]
    kept = hypervisor.directory / "var/lib/libvirt/kept"
    lost = hypervisor.directory / "run/libvirt/lost"
    for path in (kept, lost):
        path.write_text("")
    before = hypervisor.daemon_pid()
    hypervisor.reboot()
    assert kept.exists()
    assert not lost.exists()
    assert hypervisor.daemon_pid() != before


def test_what_starts_guests_stays_in_one_worker(request: pytest.FixtureRequest) -> None:
    if not getattr(request.config.option, "loadgroup", False):
        pytest.skip("the tests run in one process")
    assert request.node.nodeid.endswith("@qemu")
