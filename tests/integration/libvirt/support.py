"""What the tests on real hypervisors share."""

from __future__ import annotations

import json

from service.domain.fleet import HostAddress
from service.drivers.base import MachineIdentity
from service.drivers.libvirt.driver import LibvirtDriver
from tests.lab.hypervisor import Hypervisor
from tests.service.drivers.libvirt.machines import CLUSTER


def driver_for(hypervisor: Hypervisor, cluster: str = CLUSTER) -> LibvirtDriver:
    """A driver of one of the lab's hypervisors."""
    return LibvirtDriver(hypervisor.name, cluster, HostAddress("libvirt", "unix", socket=str(hypervisor.socket)))


def guest_documents(
    identity: MachineIdentity, *, rank: int, address: str, leader: str = "", epoch: int = 1, size: int = 2
) -> dict[str, str]:
    """What the default guest reads."""
    facts = {
        "CORRAL_GROUP_UUID": identity.group,
        "CORRAL_GROUP_EPOCH": epoch,
        "CORRAL_GROUP_SIZE": size,
        "CORRAL_NODE_NAME": f"node-{rank}",
        "CORRAL_HOST_NAME": f"node-{rank}",
        "CORRAL_NODE_RANK": rank,
        "CORRAL_NODE_INSTANCE": identity.instance,
        "CORRAL_NODE_ADDRESS": f"{address}/16",
        "CORRAL_LEADER_ADDRESS": leader,
    }
    return {
        "env": "".join(f"{key}={value}\n" for key, value in facts.items()),
        "hosts": f"{address} node-{rank}\n",
        "rendezvous": json.dumps({"contract": "rendezvous/v1", "node": {"rank": rank, "name": 'a, "b" & <c>'}}),
    }
