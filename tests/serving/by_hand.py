"""The yardstick of a boot: the machines of a stopped group, started by plain libvirt while the service is not there."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import libvirt
from corral.v1 import deploy_pb2, group_pb2

from tests.serving.site import Site

ASK_SECONDS = 2.0
REACH_SECONDS = 0.5
"""For a connection alone: a guest that is not there yet takes none, and the next try is to follow soon."""
WAIT_SECONDS = 300.0


def until_right(place: Site, address: str) -> float:
    """When (monotonic) the model at the address answered rightly for the first time. Raises TimeoutError."""
    end = time.monotonic() + WAIT_SECONDS
    expected = place.model.ring.completion("q", 3)
    while time.monotonic() < end:
        try:
            if place.ask_at(address, "q", 3, ASK_SECONDS, REACH_SECONDS) == expected:
                return time.monotonic()
        except (OSError, http.client.HTTPException, ValueError, KeyError):
            time.sleep(0.05)
    raise TimeoutError(f"no right answer within {WAIT_SECONDS:.0f} s")


def boot(place: Site, group: group_pb2.InstanceGroup, used: Callable[[], float]) -> tuple[float, float]:
    """Seconds from the start of all machines to the first right answer, and what `used` says has been used in them. The
    group is stopped before and after."""
    request = deploy_pb2.StopInstanceGroupRequest(uuid=group.uuid)
    place.corral.follow(place.corral.groups.StopInstanceGroup(request, timeout=120))
    place.corral.kill()
    connections = [libvirt.open(hypervisor.uri) for hypervisor in place.lab]
    names = {f"corral-{m.uuid}-{m.attempt}" for m in group.instances}
    domains = [d for c in connections for d in c.listAllDomains() if d.name() in names]
    try:
        before, began = used(), time.monotonic()
        with ThreadPoolExecutor(len(domains)) as pool:
            list(pool.map(lambda domain: domain.create(), domains))
        return until_right(place, group.instances[0].addresses[0]) - began, used() - before
    finally:
        for domain in domains:
            if domain.isActive():
                domain.destroy()
        for connection in connections:
            connection.close()
        place.start()
