"""A group is kept to itself by one filter a host: there before its first machine starts, gone with its last."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import libvirt
import pytest

from service.domain.isolation import NWFILTER, GroupFilter, Isolation
from service.drivers.base import HostRejected, MachineSpec
from service.drivers.libvirt.filter_rules import filter_xml
from service.drivers.libvirt.filters import filter_name, filter_uuid
from tests.service.drivers.libvirt.fake import FakeHost, error, lost
from tests.service.drivers.libvirt.fake_filters import Filter, of_groups, references
from tests.service.drivers.libvirt.machines import BUDGET, CLUSTER, bridged, driver_of, identity, specification

pytestmark = pytest.mark.asyncio

GROUP = "a" * 32
OURS = filter_name(CLUSTER, GROUP)
WHOLE = Isolation(GROUP, ("10.0.0.1/32", "10.0.0.8/31"), ("10.0.0.0/24",), (("10.0.0.8", 8000),), routed=True)


def isolated(number: int = 1, isolation: Isolation | None = WHOLE) -> MachineSpec:
    return specification(number, interfaces=(bridged(number, f"10.0.0.{7 + number}"),), isolation=isolation)


async def test_the_filter_is_there_before_the_first_machine_and_goes_with_the_last() -> None:
    host = FakeHost()
    driver = driver_of(host)
    for number in (1, 2):
        await driver.create_paused(isolated(number), budget_seconds=BUDGET)
    assert [f.uuid for f in of_groups(host).values()] == [filter_uuid(CLUSTER, GROUP)]
    assert all(references(d.xml) == [OURS] for d in host.domains.values())
    assert await driver.list_filters(budget_seconds=BUDGET) == (GroupFilter(GROUP, WHOLE.digest, used=True),)
    await driver.remove(identity(1), budget_seconds=BUDGET)
    assert OURS in of_groups(host)
    await driver.remove(identity(2), budget_seconds=BUDGET)
    assert (of_groups(host), host.filters, host.bindings) == ({}, {}, {})
    await driver.close()


async def test_whoever_leads_may_answer_at_the_groups_address_at_its_port_and_nothing_else() -> None:
    lent = replace(WHOLE, lent=(("52:54:0a:00:00:09", "10.0.0.7", 8000),))
    before, after = (ElementTree.fromstring(filter_xml(OURS, "u", one)) for one in (WHOLE, lent))
    known = {ElementTree.tostring(rule) for rule in before}
    more = [rule for rule in after if ElementTree.tostring(rule) not in known and rule.get("action") != "drop"]
    said = [(r.get("direction"), int(r.get("priority", "0")), dict(r[0].attrib)) for r in more if r.tag == "rule"]
    tcp = {"protocol": "tcp"}
    assert said == [
        ("out", 200, {"arpsrcmacaddr": "52:54:0a:00:00:09", "arpsrcipaddr": "10.0.0.7"}),
        ("out", 250, {"srcmacaddr": "52:54:0a:00:00:09", **tcp, "srcipaddr": "10.0.0.7", "srcportstart": "8000"}),
        ("in", 250, {"dstmacaddr": "52:54:0a:00:00:09", **tcp, "dstipaddr": "10.0.0.7", "dstportstart": "8000"}),
    ], "before the rule that drops what is not the member's own address"


async def test_other_members_are_let_in_where_machines_run() -> None:
    host = FakeHost()
    driver = driver_of(host)
    await driver.create_paused(isolated(), budget_seconds=BUDGET)
    wider = replace(WHOLE, peers=("10.0.0.1/32", "10.0.0.8/30"))
    await driver.set_filter(wider, budget_seconds=BUDGET)
    host.calls.clear()
    await driver.set_filter(wider, budget_seconds=BUDGET)
    assert "defineFilter" not in host.calls, "what says the same is not set again"
    assert await driver.list_filters(budget_seconds=BUDGET) == (GroupFilter(GROUP, wider.digest, used=True),)
    await driver.close()


async def test_a_stopped_machine_keeps_its_filter_and_a_filter_that_somebody_took_away_comes_back() -> None:
    host = FakeHost()
    driver = driver_of(host)
    await driver.create_paused(isolated(), budget_seconds=BUDGET)
    await driver.power_off(identity(1), budget_seconds=BUDGET)
    await driver.remove_filter(GROUP, budget_seconds=BUDGET)
    assert OURS in of_groups(host), "a machine that is stopped refers to it"
    host.filters.clear()
    await driver.create_paused(isolated(), budget_seconds=BUDGET)
    assert OURS in of_groups(host)
    await driver.close()


async def test_a_filter_that_is_not_ours_is_neither_changed_nor_removed() -> None:
    host = FakeHost()
    theirs = Filter(OURS, "5e5e5e5e-0000-4000-8000-000000000000", "<filter/>")
    other = filter_name("another-cluster", GROUP)
    host.filters = {theirs.uuid: theirs, filter_uuid("another-cluster", GROUP): Filter(other, other, "<filter/>")}
    driver = driver_of(host)
    assert await driver.list_filters(budget_seconds=BUDGET) == ()
    with pytest.raises(HostRejected, match="not ours") as refused:
        await driver.create_paused(isolated(), budget_seconds=BUDGET)
    assert refused.value.code == "denied"
    await driver.remove_filter(GROUP, budget_seconds=BUDGET)
    assert set(host.filters) == {theirs.uuid, filter_uuid("another-cluster", GROUP)}
    assert (host.filters[theirs.uuid].xml, host.domains) == ("<filter/>", {})
    await driver.close()


async def test_a_host_whose_filters_do_not_work_says_so_and_runs_its_machines_without() -> None:
    host = FakeHost(filters_work=False)
    driver = driver_of(host)
    said = (await driver.probe(budget_seconds=BUDGET)).isolation
    assert "ebtables: not found" in said
    await driver.create_paused(isolated(), budget_seconds=BUDGET)
    assert [references(d.xml) for d in host.domains.values()] == [[]]
    assert (host.filters, host.bindings) == ({}, {})
    await driver.close()


async def test_whether_filters_work_is_proven_once_a_boot_and_leaves_nothing() -> None:
    host = FakeHost()
    driver = driver_of(host)
    for _ in range(2):
        assert (await driver.probe(budget_seconds=BUDGET)).isolation == NWFILTER
    assert (host.calls.count("bind"), host.filters, host.bindings) == (1, {}, {})
    await driver.close()


async def test_a_probe_that_another_process_is_in_the_middle_of_is_not_taken_for_no() -> None:
    host = FakeHost()
    host.plant("bind", lambda: error(libvirt.VIR_ERR_OPERATION_FAILED, libvirt.VIR_FROM_NWFILTER))
    driver = driver_of(host)
    assert (await driver.probe(budget_seconds=BUDGET)).isolation == ""
    assert (await driver.probe(budget_seconds=BUDGET)).isolation == NWFILTER
    await driver.close()


async def test_what_a_probe_left_that_broke_off_is_cleared_by_the_next() -> None:
    host = FakeHost()
    host.plant("bind", lost, after=True)
    for _ in range(2):
        driver = driver_of(host)
        try:
            said = (await driver.probe(budget_seconds=BUDGET)).isolation
        except Exception:
            said = ""
        await driver.close()
    assert (said, host.bindings) == (NWFILTER, {})
    assert [f.name for f in host.filters.values()] == []


async def test_a_machine_that_moves_is_held_where_it_comes() -> None:
    from service.drivers.libvirt.domain_xml import Boot, Platform, arriving_xml, machine_xml

    spec = isolated()
    here = machine_xml(spec, Platform("qemu", "x86_64"), Boot(), None, "corral-elsewhere")
    for name, wanted in ((OURS, [OURS]), ("", [])):
        assert references(arriving_xml(here, Boot(), spec.interfaces, None, name)) == wanted


async def test_what_no_rule_accepts_is_dropped_and_every_rule_for_accepting_names_addresses() -> None:
    root = ElementTree.fromstring(filter_xml(OURS, filter_uuid(CLUSTER, GROUP), replace(WHOLE, routed=False)))
    rules = [(r.get("action"), r.get("direction"), int(r.get("priority", "0")), r[0]) for r in root.findall("rule")]
    assert [(a, d, m.tag) for a, d, p, m in rules if p == max(p for _, _, p, _ in rules)] == [("drop", "inout", "mac")]
    assert all(m.attrib for a, d, _, m in rules if a == "accept" and not (d == "in" and m.tag == "arp"))
    assert not [m for *_, m in rules if m.tag not in ("mac", "arp", "ip")]
