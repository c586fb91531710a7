"""Mishaps by somebody's hand on a hypervisor: machines of others in the way, `virsh`, the power button."""

from __future__ import annotations

import signal
import uuid
from collections.abc import Iterator

import libvirt

from service.drivers.base import MachineIdentity
from tests.faults.custody import CLUSTER
from tests.faults.observer import Machine
from tests.faults.signs import Expected, Sign, event, host_is, now
from tests.faults.site import Site, connected, destroy, wait

_STRANGER = """<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>16</memory><vcpu>1</vcpu>
<os><type>hvm</type></os></domain>"""


def _name(member: Machine) -> str:
    return f"corral-{member.instance}-{member.attempt}"


def _in_the_way(site: Site, *, by_name: bool) -> Iterator[Expected]:
    """On each hypervisor a foreign machine has the name or uuid of a member's next attempt; then the member is lost."""
    (member,) = site.members(site.mover)
    ((cluster,),) = site.store.query(CLUSTER)
    after = MachineIdentity(cluster, site.mover, member.instance, member.attempt + 1)
    name = after.machine_name if by_name else "somebody-elses"
    for hypervisor in site.lab:
        key = str(uuid.uuid4()) if by_name else after.machine_uuid
        with connected(hypervisor) as connection:
            stranger = connection.defineXML(_STRANGER.format(name=name, uuid=key))
            stranger.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
    site.census.keep()
    site.census.let_go(member.host, _name(member))
    began = now()
    try:
        site.hypervisor(member.host).signal_guest(_name(member), signal.SIGKILL)
        words = "belongs to something else" if by_name else "belongs to somebody else"
        yield Expected(began, [event(site, site.mover, words)])
        wait(lambda: _runs_again(site, site.mover, member), "the member to run beside the strangers")
    finally:
        for hypervisor in site.lab:
            site.census.let_go(hypervisor.name, name)
            destroy(hypervisor, [name])


def _runs_again(site: Site, group: str, member: Machine) -> bool:
    """Whether the member's machine is another one now, and its group runs."""
    there = [m for m in site.members(group) if m.instance == member.instance]
    return bool(
        [m for m in there if m.pid != member.pid] and getattr(site.operator.group(group), "status", "") == "Running"
    )


def foreign_machine_has_the_name(site: Site) -> Iterator[Expected]:
    """See _in_the_way."""
    yield from _in_the_way(site, by_name=True)


def foreign_machine_has_the_uuid(site: Site) -> Iterator[Expected]:
    """See _in_the_way."""
    yield from _in_the_way(site, by_name=False)


def destroyed(site: Site) -> Iterator[Expected]:
    """`virsh destroy` of a member that runs."""
    group = site.random.choice([site.steady, site.mover])
    member = site.random.choice(site.members(group))
    site.census.let_go(member.host, _name(member))
    with connected(site.hypervisor(member.host)) as connection:
        domain = connection.lookupByName(_name(member))
        began = now()
        domain.destroy()
    yield Expected(began, [event(site, group, "stopped by itself")])
    wait(lambda: _runs_again(site, group, member), "the destroyed member to run again")


def undefined(site: Site) -> Iterator[Expected]:
    """`virsh undefine` of a member that runs: its machine goes on, and would not survive its host's restart."""
    member = site.random.choice(site.members(site.steady))
    host = site.hypervisor(member.host)
    before = max(o.metric("corral_definitions_restored_total", host=host.name) for o in site.operators)
    with connected(host) as connection:
        domain = connection.lookupByName(_name(member))
        began = now()
        domain.undefine()

    def persistent() -> bool:
        with connected(host) as connection:
            return bool(connection.lookupByName(_name(member)).isPersistent())

    told = "corral_definitions_restored_total"
    signs = [
        Sign(told, lambda: any(o.metric(told, host=host.name) > before for o in site.operators)),
        Sign("its definition is there again", persistent),
    ]
    yield Expected(began, signs)


def reset(site: Site) -> Iterator[Expected]:
    """`virsh reset` of a member that runs: the same process begins its boot anew."""
    member = site.random.choice(site.members(site.steady))
    with connected(site.hypervisor(member.host)) as connection:
        domain = connection.lookupByName(_name(member))
        began = now()
        domain.reset()
    yield Expected(began, [event(site, site.steady, "its machine was reset")])


def hypervisor_rebooted(site: Site) -> Iterator[Expected]:
    """libvirtd and all guests are gone at once; some seconds later libvirtd is back, on another boot."""
    lost = site.random.choice(site.members(site.steady))
    host = site.hypervisor(lost.host)
    site.census.let_go(host.name)
    began = now()
    host.power_off()
    yield Expected(began, [*host_is(site.operator, "Disconnected", "", [host.name])])
    host.power_on()
    wait(lambda: _runs_again(site, site.steady, lost), "the members of the rebooted hypervisor to run again")
