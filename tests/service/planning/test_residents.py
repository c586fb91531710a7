"""Members that live on a host are made anew only where they are not as they were."""

from __future__ import annotations

from dataclasses import replace

from service.planning import translate
from service.planning.residents import APART_LABEL, GROUP_LABEL
from tests.support.builders import host

HOST = replace(host(1), allocatable={"vcpu": 8}, total={"vcpu": 8})
ONE, TWO = "1" * 32, "2" * 32
MINE, OTHER = "a" * 32, "b" * 32


def test_who_stays_is_the_same_member_and_who_comes_is_made() -> None:
    before = translate.seen(HOST, [(ONE, MINE, False)], {})
    after = translate.seen(HOST, [(ONE, MINE, False), (TWO, OTHER, True)], {}, was=before)
    assert after.members[0] is before.members[0]
    assert [(m.id, m.labels[GROUP_LABEL], m.exclusive) for m in after.members] == [
        (ONE, MINE, False), (TWO, OTHER, True),
    ]  # fmt: skip
    assert translate.seen(HOST, [(TWO, OTHER, True)], {}, was=after).members == after.members[1:]


def test_whose_rules_changed_is_another() -> None:
    before = translate.seen(HOST, [(ONE, MINE, False)], {})
    apart = {MINE: frozenset({OTHER})}
    for seats, rules in (([(ONE, MINE, True)], {}), ([(ONE, OTHER, False)], {}), ([(ONE, MINE, False)], apart)):
        found = translate.seen(HOST, seats, rules, was=before)
        assert found == translate.seen(HOST, seats, rules)
        assert found != before
    assert translate.seen(HOST, [(ONE, MINE, False)], apart).members[0].labels[APART_LABEL + OTHER] == "yes"
