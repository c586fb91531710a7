"""Small cases that were once wrong, each with its right answer."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from placement.check import check
from placement.constraints import AtMost, Selector, SpareHosts, SpreadOver
from placement.engine import DEFAULT, place
from placement.model import (
    Cell,
    Cure,
    CureKind,
    Decision,
    Host,
    Member,
    Node,
    Policy,
    Proof,
    Request,
    Shortage,
    Snapshot,
    Status,
    Strategy,
)
from placement.modes.capacity import room_for
from placement.reasons import Family, Reason


def decided(snapshot: Snapshot, request: Request, policy: Policy = DEFAULT) -> Decision:
    """The decision, checked."""
    decision = place(snapshot, request, policy)
    assert check(snapshot, request, decision) == ()
    return decision


def cures(decision: Decision) -> tuple[Cure, ...]:
    assert decision.status is Status.INFEASIBLE
    assert decision.explanation is not None
    return decision.explanation.cures


def sockets(used: dict[str, int], **capacity: int) -> Snapshot:
    """Two hosts of two cells with four processors each."""
    cells = (Cell({"cpu": 4}), Cell({"cpu": 4}))
    return Snapshot(tuple(Host(f"h{n}", "z", capacity or {"cpu": 8}, used, cells=cells) for n in range(2)))


PAIR = Node("n", {"cpu": 3}, count=2, cells=1)


@pytest.mark.parametrize("fleet", [sockets({"cpu": 4}), sockets({}, cpu=4), sockets({"cpu": 1}, cpu=6)])
@pytest.mark.parametrize("strategy", Strategy)
def test_room_on_the_cells_is_no_room_where_the_host_has_none_left(fleet: Snapshot, strategy: Strategy) -> None:
    decision = decided(fleet, Request((PAIR,), strategy))
    assert sorted(a.host for a in decision.assignments) == ["h0", "h1"]
    most = decided(fleet, Request((replace(PAIR, count=5),), strategy), Policy(max_placed=True))
    assert (most.objective, most.upper_bound) == (2, 2)
    room = room_for(fleet, PAIR)
    assert (room.count, room.bound) == (2, 2)


def test_exclusive_nodes_of_a_gang_may_share_a_host() -> None:
    nodes = tuple(Node(n, {"vcpu": 1}, exclusive=True) for n in "ab")
    decision = decided(Snapshot((Host("h0", "z", {"vcpu": 16}),)), Request(nodes))
    assert [a.host for a in decision.assignments] == ["h0", "h0"]


def test_exclusive_nodes_keep_off_other_gangs_and_join_their_own() -> None:
    def living(host: str, member: Member) -> Host:
        return Host(host, "z", {"vcpu": 16}, {"vcpu": 1}, members=(member,))

    mine, theirs, alone = Member("mine", exclusive=True), Member("theirs"), Member("alone", exclusive=True)
    fleet = Snapshot((living("h0", mine), living("h1", theirs), living("h2", alone)))
    request = Request((Node("n", {"vcpu": 1}, exclusive=True, count=3),), staying={"mine": "h0"})
    assert {a.host for a in decided(fleet, request).assignments} == {"h0"}
    stranger = place(fleet, replace(request, staying={}))
    assert stranger.explanation is not None
    assert dict(stranger.explanation.funnels[0].ruled_out) == {Reason.HELD: 2, Reason.NOT_EMPTY: 1}
    assert Cure(CureKind.RELAX, Family.EXCLUSIVE) in stranger.explanation.cures


def test_nobody_waits_for_guests_of_a_closed_host_that_has_none() -> None:
    closed = Snapshot((Host("h0", "z", {"cpu": 4}, schedulable=False),))
    decision = decided(closed, Request((Node("n", {"cpu": 2}),)))
    assert cures(decision) == (Cure(CureKind.RELAX, Family.UNSCHEDULABLE), Cure(CureKind.ADD_HOSTS, None, "h0", 1))
    assert decision.explanation is not None
    assert decision.explanation.permanent is False


def test_a_host_that_others_hold_is_not_freed_by_putting_it_in_service() -> None:
    held = Host("h0", "z", {"cpu": 4}, schedulable=False, members=(Member("m", exclusive=True),))
    decision = decided(Snapshot((held,)), Request((Node("n", {"cpu": 2}),)))
    assert Cure(CureKind.RELAX, Family.UNSCHEDULABLE) not in cures(decision)
    assert CureKind.WAIT not in {cure.kind for cure in cures(decision)}


def test_what_is_over_committed_has_to_be_freed_too() -> None:
    decision = decided(Snapshot((Host("h0", "z", {"cpu": 4}, {"cpu": 5}),)), Request((Node("n", {"cpu": 2}),)))
    assert Cure(CureKind.FREE, None, "h0", 0, (Shortage("cpu", 3),)) in cures(decision)


def test_a_rule_that_names_a_member_that_stays_is_explained() -> None:
    host = Host("h0", "z", {"cpu": 4}, {"cpu": 2}, members=(Member("m", {"cpu": 2}),))
    rule = AtMost(Selector(frozenset({"n", "m"})), 2)
    decision = decided(Snapshot((host,)), Request((Node("n", {"cpu": 3}),), constraints=(rule,), staying={"m": "h0"}))
    assert Cure(CureKind.FREE, None, "h0", 0, (Shortage("cpu", 1),)) in cures(decision)


def test_as_many_as_possible_are_placed_under_rules_about_spread_and_spare_hosts() -> None:
    fleet = Snapshot(tuple(Host(f"h{n}", "z", {"cpu": 1}, rack=f"r{n}") for n in range(4)))
    four = Request((Node("n", {"cpu": 1}, count=4),), constraints=(SpareHosts(1),))
    most = decided(fleet, four, Policy(max_placed=True))
    assert (most.objective, most.upper_bound, most.proof) == (3, 3, Proof.OPTIMAL)
    racks = Request((Node("n", {"cpu": 1}, count=5),), constraints=(SpreadOver(minimum=3),))
    most = decided(fleet, racks, Policy(max_placed=True))
    assert (most.objective, most.upper_bound) == (4, 4)
    wish = replace(four, constraints=(SpareHosts(2, weight=5),))
    most = decided(fleet, wish, Policy(max_placed=True))
    assert (most.objective, most.penalty) == (4, 10)


def test_where_not_even_no_node_keeps_the_rules_nothing_is_placed() -> None:
    fleet = Snapshot((Host("h0", "z", {"cpu": 1}),))
    request = Request((Node("n", {"cpu": 1}),), constraints=(SpareHosts(2),))
    assert decided(fleet, request, Policy(max_placed=True)).status is Status.INFEASIBLE


def test_what_might_hold_together_is_not_called_a_conflict() -> None:
    """Cut to measure, the nodes fill both zones to the last unit, if only somebody finds how; one zone is too small."""
    r = random.Random(1)
    hosts, nodes = [], []
    for n in range(24):
        size = {"cpu": r.randint(900, 1100), "mem": r.randint(900, 1100)}
        hosts.append(Host(f"h{n:02d}", "east" if n % 2 else "west", size))
        cuts = {name: sorted(r.sample(range(1, amount), 5)) for name, amount in size.items()}
        for part in range(6):
            piece = {name: ([*at, size[name]][part]) - ([0, *at][part]) for name, at in cuts.items()}
            nodes.append(Node(f"n{n}-{part}", piece, "east"))
    decision = decided(Snapshot(tuple(hosts)), Request(tuple(nodes)), Policy(rounds=0))
    assert decision.status is Status.INFEASIBLE
    assert decision.explanation is not None
    assert decision.explanation.conflict == (Family.ZONE, Family.CAPACITY)


def test_what_does_not_fit_on_hosts_without_any_resource_is_explained() -> None:
    host = Host("h", "west", {}, members=(Member("own"),))
    request = Request((Node("n", {}, "east"),), staying={"own": "h"})
    decision = decided(Snapshot((host,)), request)
    assert decision.status is Status.INFEASIBLE
    assert decision.explanation is not None
    assert decision.explanation.conflict == (Family.ZONE,)
