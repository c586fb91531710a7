"""What would be otherwise on a real bridge if one rule of a group's network filter were missing: each is missed."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from service.drivers.libvirt.filter_rules import filter_xml
from tests.integration.libvirt.test_filter_rules import (
    FOUR,
    NAME,
    SIX,
    UUID,
    Bench,
    Family,
    attempts,
    bench,
    hold,
    wanted,
)

__all__ = ["bench"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize("family", [FOUR, SIX], ids=["ipv4", "ipv6"])
def test_each_rule_is_missed_where_it_is_not_there(bench: Bench, family: Family) -> None:
    tried = attempts(family)
    hold(bench, family, family.isolation(routed=False))
    for routed in (False, True):
        whole = filter_xml(NAME, UUID, family.isolation(routed=routed))
        rules = ElementTree.fromstring(whole).findall("rule")
        for number, rule in enumerate(rules):
            # What is closed is shut anyway where there is no way beyond the gateway.
            if (rule.get("priority") in ("210", "600", "700")) is not routed:
                continue
            planted = ElementTree.fromstring(whole)
            planted.remove(planted.findall("rule")[number])
            bench.connection.nwfilterDefineXML(ElementTree.tostring(planted, encoding="unicode"))
            assert bench.passed(tried) != wanted(tried, routed=routed), ElementTree.tostring(rule)
        bench.connection.nwfilterDefineXML(whole)
        assert bench.passed(tried) == wanted(tried, routed=routed), "the last one was the missing rule's"
