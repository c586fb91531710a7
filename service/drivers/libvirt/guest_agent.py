"""Whether a machine's QEMU guest agent answers, over the hypervisor: no guest network is needed."""

from __future__ import annotations

import math

import libvirt
import libvirt_qemu

from service.drivers.base import HostRejected
from service.drivers.libvirt.errors import describe
from service.drivers.libvirt.inventory import Seen

PING = '{"execute":"guest-ping"}'
# Libvirt says the same of an agent that is not connected, one that has not answered in time, and one that answered what
# was not asked.
_NO_ANSWER = frozenset({libvirt.VIR_ERR_AGENT_UNRESPONSIVE, libvirt.VIR_ERR_AGENT_UNSYNCED})


def answers(seen: Seen | None, cluster: str, seconds: float) -> bool:
    """Whether the agent of the cluster's machine answers a ping within so long, in whole seconds and at least one.

    Raises HostRejected `absent` where it does not run, `unsupported` where it was made without an agent's channel,
    libvirtError.
    """
    if seen is None or seen.record.machine_of(cluster) is None or seen.state != libvirt.VIR_DOMAIN_RUNNING:
        raise HostRejected("absent", "there is no running machine to ask")
    try:
        libvirt_qemu.qemuAgentCommand(seen.domain, PING, max(1, math.floor(seconds)), 0)
    except libvirt.libvirtError as error:
        if error.get_error_code() in _NO_ANSWER:
            return False
        if error.get_error_code() == libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED:
            raise HostRejected("unsupported", "the machine has no guest agent's channel", describe(error)) from error
        raise
    return True
