"""By which rules a silent hypervisor is switched off: laws of the judgement, and an example of each rule."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.fencing import (
    ANSWERED_SECONDS,
    FEWEST_HOSTS,
    KNOCKS,
    MOST_IN_AN_HOUR,
    MOST_SILENT,
    SILENT_SECONDS,
    Circumstances,
    Rule,
    Sight,
    judge,
)

LONG = SILENT_SECONDS + 1
DEAD = Sight("dead", "z", silent_seconds=LONG, answered_seconds=LONG)
WELL = tuple(Sight(f"h{n}", "z", answered_seconds=1.0) for n in range(4))
KNOWN = Circumstances(disconnected_seconds=LONG, maintenance=False, members=2, machine="a-machine")


def rule(subject: Sight = DEAD, others: tuple[Sight, ...] = WELL, known: Circumstances = KNOWN) -> Rule:
    return judge(subject, (subject, *others), known).rule


def test_a_host_that_is_silent_alone_and_for_long_is_fenced() -> None:
    assert rule() is Rule.FENCE
    assert rule(others=WELL[:2]) is Rule.FENCE  # one of three


@pytest.mark.parametrize(
    ("wanted", "changes"),
    [
        (Rule.MAINTENANCE, {"maintenance": True}),
        (Rule.HEARD, {"disconnected_seconds": 0.0}),
        (Rule.WAITING, {"disconnected_seconds": SILENT_SECONDS - 1}),
        (Rule.OLD_DATABASE, {"old_database": True}),
        (Rule.EMPTY, {"members": 0}),
        (Rule.UNKNOWN_MACHINE, {"machine": ""}),
        (Rule.ONE_AT_A_TIME, {"open_fences": 1}),
        (Rule.TOO_OFTEN, {"lately": MOST_IN_AN_HOUR}),
        (Rule.FAILED_LATELY, {"failed_ago_ms": 1000}),
        (Rule.ALIVE, {"alive": "it refuses connections"}),
        (Rule.WAITING, {"knocks": KNOCKS - 1}),
    ],
)
def test_each_rule_forbids_it_alone(wanted: Rule, changes: dict[str, object]) -> None:
    assert rule(known=replace(KNOWN, **changes)) is wanted  # type: ignore[arg-type]


def test_silence_of_a_moment_is_none() -> None:
    assert rule(replace(DEAD, silent_seconds=SILENT_SECONDS - 1)) is Rule.WAITING


def test_two_of_three_are_a_fault_of_the_network() -> None:
    other = replace(DEAD, host="other")
    assert rule(others=(other, WELL[0])) is Rule.NETWORK_FAULT


def test_a_process_that_stood_still_has_no_witnesses() -> None:
    stale = tuple(replace(one, answered_seconds=ANSWERED_SECONDS + 1) for one in WELL)
    assert rule(others=stale) is Rule.NETWORK_FAULT


def test_a_zone_of_two_hosts_has_no_majority() -> None:
    assert rule(others=WELL[:1]) is Rule.SMALL_ZONE
    elsewhere = tuple(replace(one, zone="y") for one in WELL)
    assert rule(others=(WELL[0], *elsewhere)) is Rule.SMALL_ZONE


def test_hosts_under_maintenance_are_witnesses_of_nothing() -> None:
    away = tuple(replace(DEAD, host=f"m{n}", maintenance=True) for n in range(9))
    assert rule(others=(*WELL, *away)) is Rule.FENCE
    resting = tuple(replace(one, maintenance=True) for one in WELL)
    assert rule(others=resting) is Rule.SMALL_ZONE


def test_more_that_are_silent_at_a_time_share_a_fault() -> None:
    more = tuple(replace(DEAD, host=f"d{n}", silent_seconds=1.0, zone="y") for n in range(MOST_SILENT))
    assert rule(others=(*WELL, *more)) is Rule.TOO_MANY_SILENT
    assert rule(others=(*WELL, *more[:-1])) is Rule.FENCE


sights = st.builds(
    Sight,
    st.uuids().map(str),
    st.sampled_from("yz"),
    st.sampled_from([0.0, 0.0, 0.0, 1.0, LONG]),
    st.sampled_from([None, 0.5, 1.0, LONG]),
    st.booleans(),
)
circumstances = st.builds(
    Circumstances,
    st.sampled_from([0.0, 1.0, LONG]),
    st.booleans(),
    st.integers(0, 2),
    st.sampled_from(["", "m"]),
    st.booleans(),
    st.integers(0, 1),
    st.integers(0, 3),
    st.sampled_from([None, 1, 10**9]),
    st.sampled_from(["", "", "it refuses connections"]),
    st.sampled_from([None, 0, KNOCKS - 1, KNOCKS]),
)


@given(sights, st.lists(sights, max_size=9), circumstances)
def test_whatever_is_fenced_keeps_every_rule(subject: Sight, others: list[Sight], known: Circumstances) -> None:
    """Counted a second time, from the rules as the guide says them."""
    if judge(subject, (subject, *others), known).rule is not Rule.FENCE:
        return
    assert subject.silent_seconds >= SILENT_SECONDS
    assert known.disconnected_seconds >= SILENT_SECONDS
    assert known.members
    assert known.machine
    assert not known.maintenance
    assert not known.old_database
    assert not known.open_fences
    assert known.lately < 2
    zone = [one for one in (subject, *others) if one.zone == subject.zone and not one.maintenance]
    answered = [one for one in zone if not one.silent_seconds and (one.answered_seconds or 99) <= 10]
    assert len(zone) >= FEWEST_HOSTS
    assert len(answered) > len(zone) / 2
    assert sum(bool(one.silent_seconds) for one in (subject, *others) if not one.maintenance) <= 2


@given(sights, st.lists(sights, max_size=6), sights, circumstances)
def test_one_more_silent_host_never_lets_a_host_be_fenced(
    subject: Sight, others: list[Sight], more: Sight, known: Circumstances
) -> None:
    before = judge(subject, (subject, *others), known).rule
    silent = replace(more, silent_seconds=LONG, maintenance=False)
    after = judge(subject, (subject, *others, silent), known).rule
    zone = [one for one in (subject, *others) if one.zone == subject.zone and not one.maintenance]
    if len(zone) >= FEWEST_HOSTS and before is not Rule.FENCE:
        assert after is not Rule.FENCE
