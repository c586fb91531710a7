"""The vocabulary: what a snapshot keeps of its arrays, and what a strategy means."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from placement.model import Flavour, Host, Snapshot
from placement.problem.index import FleetIndex, index_of
from placement.search.incumbent import MEASURES
from placement.strategy import MOST_NODES, OBJECTIVES, Strategy, Term

FLEET = Snapshot(tuple(Host(f"h{n}", "z", {"cpu": 8}, {"cpu": n}, f"r{n % 2}") for n in range(6)))


def used(row: int, cpu: int) -> Host:
    return replace(FLEET.hosts[row], used={"cpu": cpu})


@pytest.fixture
def no_rebuild(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fleet's arrays are there, and to build them from every host again is an error."""
    index_of(FLEET)

    def build(hosts: tuple[Host, ...]) -> FleetIndex:
        raise AssertionError("the arrays were built anew")

    monkeypatch.setattr(FleetIndex, "build", build)


@pytest.mark.usefixtures("no_rebuild")
def test_a_snapshot_of_the_same_hosts_uses_the_same_arrays() -> None:
    flavoured = FLEET.updated(flavours=(Flavour({"cpu": 1}),), version="2")
    assert index_of(flavoured) is index_of(FLEET)


@pytest.mark.usefixtures("no_rebuild")
def test_changed_hosts_change_their_rows_alone_however_many_changes_there_were() -> None:
    after = FLEET.updated((used(1, 7),)).updated((used(2, 5), used(1, 6))).updated(version="3")
    free = index_of(after).free[:, 0].tolist()
    assert free == [8, 2, 3, 5, 4, 3]
    assert index_of(FLEET).free[:, 0].tolist() == [8, 7, 6, 5, 4, 3]
    assert index_of(after.updated((used(0, 8),))).free[:, 0].tolist() == [0, *free[1:]]


def test_arrays_that_are_asked_for_late_are_those_of_the_first_to_ask() -> None:
    first = Snapshot(FLEET.hosts)
    second = first.updated(version="2")
    assert index_of(first) is index_of(second)


def test_hosts_that_come_or_go_have_the_arrays_built_anew() -> None:
    index_of(FLEET)
    assert len(index_of(FLEET.updated((Host("new", "z", {"cpu": 1}),))).hosts) == 7
    fewer = index_of(FLEET.updated(removed=frozenset({"h0"})))
    assert np.array_equal(fewer.free, index_of(Snapshot(FLEET.hosts[1:])).free)


def test_each_strategy_has_one_row_and_each_term_a_measure() -> None:
    assert set(OBJECTIVES) == set(Strategy)
    assert set(MEASURES) == set(Term)
    assert all(row.unit and row.terms and not row.maximised for row in OBJECTIVES.values())
    assert MOST_NODES.maximised


def test_one_rack_less_outweighs_all_hosts() -> None:
    close = OBJECTIVES[Strategy.CLOSE]
    one_rack = close.total(9, {Term.RACKS: 1, Term.HOSTS: 9})
    assert one_rack < close.total(9, {Term.RACKS: 2, Term.HOSTS: 1})
