"""Mishaps about whose the machines are: databases, names of hosts, installations, copies."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import libvirt
from corral.v1 import fleet_pb2

from tests.concurrency.replicas import Replica
from tests.faults.observer import Machine, pool_of
from tests.faults.operator import Operator
from tests.faults.signs import START_SECONDS, SWEEPS_SECONDS, Expected, Sign, host_is, now
from tests.faults.site import PATIENCE, Site, connected, wait
from tests.lab.hypervisor import Hypervisor

CLUSTER = "SELECT cluster FROM installation"


def database_restored(site: Site) -> Iterator[Expected]:
    """A backup is put back, and a group was deployed since."""
    backup = site.store.backup(site.replicas[0].configuration)
    since = site.launch()
    site.census.keep()
    site.stop()
    site.store.put_back(backup)
    began = now()
    site.start()
    yield Expected(began, host_is(site.operator, "Ahead", "older copy was restored"), START_SECONDS)
    site.stop()
    site.recover()
    site.start()
    wait(lambda: bool(site.members(since)), "the group that was deployed since to be known again")
    site.delete(since)


def database_lost(site: Site) -> Iterator[Expected]:
    """The service begins anew on an empty database."""
    names = [h.name for h in site.lab]
    site.stop()
    site.store.lose()
    began = now()
    site.start()
    yield Expected(began, host_is(site.operator, "Foreign", "mark of another database", names), START_SECONDS)
    site.stop()
    site.recover()
    site.start()


def host_renamed(site: Site) -> Iterator[Expected]:
    """An entry of the configuration gets another name and no `uuid`: the service does not even start with it."""
    host = site.random.choice(list(site.lab)).name
    site.stop()
    began = now()
    for replica in site.replicas:
        replica.configure(site.store.url, site.fleet.replace(f'name = "{host}"', 'name = "renamed"'))
        replica.start()
    words = f"host renamed leads to the same machine as host {host}"
    first = site.replicas[0]
    told = Sign("refuses to start: leads to the same machine as host …", lambda: words in first.log())
    yield Expected(began, [told], 5)
    for replica in site.replicas:
        assert replica.ended() != 0, "it started"
    site.start()


def hypervisor_named_twice(site: Site) -> Iterator[Expected]:
    """One more entry reaches, by another way, a hypervisor that has a name already."""
    host = site.random.choice(list(site.lab))
    entry = (
        f'[[hosts]]\nname = "again"\nzone = "zone-1"\ndriver = "libvirt"\nsocket = "{host.socket}"\n'
        '[hosts.capacity]\nvcpu = 3\nmemory = "4GiB"\n'
    )
    site.stop()
    began = now()
    site.start(site.fleet + entry)
    yield Expected(began, host_is(site.operator, "Mismatched", "same hypervisor", ["again"]), START_SECONDS)
    _remove_host(site, "again")


def _remove_host(site: Site, name: str) -> None:
    """As the guide says: out of the file, restart, and out of the fleet."""
    site.stop()
    site.start()
    wait(lambda: name in site.operator.hosts(), "the list of hosts")
    uuid = site.operator.hosts()[name].uuid
    site.operator.fleet.RemoveHost(fleet_pb2.RemoveHostRequest(uuid=uuid), timeout=30)


def second_installation(site: Site) -> Iterator[Expected]:
    """Somebody sets up another service with a database of its own on the same hypervisors, at times with the same
    cluster id."""
    home = site.directory / "second"
    home.mkdir()
    second = Replica(home, prefix=site.lab.command(), armed=True)
    ((cluster,),) = site.store.query(CLUSTER)
    same = f'[cluster]\nid = "{cluster}"\n' if site.random.random() < 0.5 else ""
    second.configure(f"sqlite:///{home}/corral.db", site.fleet + same)
    names = [h.name for h in site.lab]
    began = now()
    try:
        second.start()
        second.wait(PATIENCE)
        signs = host_is(Operator(second), "Foreign", "mark of another database", names)
        yield Expected(began, signs, START_SECONDS)
        assert all(h.status == "Connected" for h in site.operator.hosts().values()), "the first one is disturbed"
    finally:
        second.close()
        with closing(sqlite3.connect(home / "corral.db")) as connection:
            assert connection.execute("SELECT count(*) FROM claims").fetchone() == (0,)
        shutil.rmtree(home)


def machine_copied(site: Site) -> Iterator[Expected]:
    """A member is copied by hand to another hypervisor, metadata and all, and started there, paused."""
    member = site.random.choice(site.members(site.steady))
    source = site.hypervisor(member.host)
    target = site.random.choice([h for h in site.lab if h is not source])
    name = f"corral-{member.instance}-{member.attempt}"
    with connected(source) as connection:
        xml = connection.lookupByName(name).XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE | libvirt.VIR_DOMAIN_XML_INACTIVE)
        filters = {
            n: connection.nwfilterLookupByName(n).XMLDesc() for n in re.findall(r"<filterref filter='([^']+)'", xml)
        }
    pool_of(target).mkdir(exist_ok=True)
    for path in pool_of(source).iterdir():
        its_own = f".{member.instance}.{member.attempt}." in path.name
        if its_own or (path.name.startswith("corral-base.") and not (pool_of(target) / path.name).exists()):
            shutil.copy(path, pool_of(target))
    with connected(target) as connection:
        try:
            pool = connection.storagePoolLookupByName("corral")
        except (
            libvirt.libvirtError
        ):  # it has none before its first machine; without one nobody knows of the copied disks
            where = "<target><path>/var/lib/libvirt/corral</path></target>"
            pool = connection.storagePoolDefineXML(f"<pool type='dir'><name>corral</name>{where}</pool>")
            pool.create()
        pool.refresh(0)
        there = {one.name() for one in connection.listAllNWFilters()}
        for missing in filters.keys() - there:  # without the filter that its XML names it cannot be started
            connection.nwfilterDefineXML(filters[missing])
        copy = connection.defineXML(xml)
        copy.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
        key = copy.UUIDString()
    began = now()
    site.census.keep()
    operator = site.operator
    uuid = operator.hosts()[target.name].uuid
    signs = [
        Sign(
            "corral hosts quarantine", lambda: any((q.host_uuid, q.key) == (uuid, key) for q in operator.quarantine())
        ),
        Sign("corral_quarantined", lambda: operator.metric("corral_quarantined", host=target.name) > 0),
    ]
    yield Expected(began, signs, SWEEPS_SECONDS)
    site.census.let_go(target.name, name)
    wait(lambda: _nothing_left(site, target, member), "the copy and its volumes to be removed as their operator orders")


def _nothing_left(site: Site, target: Hypervisor, member: Machine) -> bool:
    """Order the end of all that is held; whether nothing of it is left. Volumes are held once their machine is gone."""
    held = site.operator.quarantine()
    for one in held:
        if not one.removal_ordered:
            request = fleet_pb2.RemoveQuarantinedRequest(host_uuid=one.host_uuid, key=one.key)
            site.operator.fleet.RemoveQuarantined(request, timeout=30)
    its_own = f".{member.instance}.{member.attempt}."
    machine = f"corral-{member.instance}-{member.attempt}"
    left = [path for path in pool_of(target).iterdir() if its_own in path.name]
    return not held and not left and machine not in target.guests()
