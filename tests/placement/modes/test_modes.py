"""Scale, re-plan, drain, rebalance and capacity: modes are requests like any other."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from placement.check import check
from placement.constraints import AtMost, Scope, Selector, Together
from placement.engine import place
from placement.model import Flavour, Host, InvalidPlacementInput, Member, Node, Policy, Request, Snapshot, Status
from placement.modes.drain import Plan, drain, replan, room_for
from placement.modes.rebalance import rebalance


def fleet(seed: int, hosts: int = 8, each: int = 3) -> Snapshot:
    """Hosts with members of several sizes; what the members ask for is what is used."""
    r = random.Random(seed)
    made = []
    for n in range(hosts):
        members = tuple(
            Member(f"m{n}-{k}", {"cpu": r.randint(1, 4), "memory": r.randint(1, 8)}, {"app": f"g{k}"})
            for k in range(r.randint(0, each))
        )
        used = {name: sum(m.demand[name] for m in members) for name in ("cpu", "memory")}
        made.append(
            Host(f"h{n}", "east" if n % 2 else "west", {"cpu": 16, "memory": 32}, used, f"r{n // 2}", {}, True, members)
        )
    return Snapshot(tuple(made), (Flavour({"cpu": 4, "memory": 8}), Flavour({"cpu": 8, "memory": 8})))


def applied(snapshot: Snapshot, plan: Plan) -> Snapshot:
    """The fleet after the moves, one after the other; each must fit when it is its turn."""
    hosts = {host.id: host for host in snapshot.hosts}
    for move in plan.moves:
        source = hosts[move.source]
        member = next(m for m in source.members if m.id == move.member)
        left = tuple(m for m in source.members if m is not member)
        hosts[source.id] = replace(
            source, members=left, used={k: v - member.demand.get(k, 0) for k, v in source.used.items()}
        )
        target = hosts[move.target]
        assert target.zone == source.zone
        for name, amount in member.demand.items():
            assert amount <= target.free(name)
        joined = {k: target.used.get(k, 0) + member.demand.get(k, 0) for k in target.capacity}
        hosts[target.id] = replace(target, members=(*target.members, member), used=joined)
    return Snapshot(tuple(hosts.values()), snapshot.flavours)


@pytest.mark.parametrize("seed", range(20))
def test_a_drained_host_is_empty_and_nobody_is_lost(seed: int) -> None:
    snapshot = fleet(seed)
    plan = drain(snapshot, frozenset({"h0", "h3"}))
    after = {host.id: host for host in applied(snapshot, plan).hosts}
    assert plan.homeless == ()
    assert after["h0"].members == ()
    assert after["h3"].members == ()
    before = sorted(m.id for host in snapshot.hosts for m in host.members)
    assert sorted(m.id for host in after.values() for m in host.members) == before


def test_a_drain_that_can_not_move_all_says_who_stays() -> None:
    full = Host("full", "z", {"cpu": 4}, {"cpu": 4}, members=tuple(Member(f"m{n}", {"cpu": 2}) for n in range(2)))
    fixed = replace(full, id="fixed", members=(Member("pin", {"cpu": 4}, movable=False),))
    small = Host("small", "z", {"cpu": 2})
    plan = drain(Snapshot((full, fixed, small)), frozenset({"full", "fixed"}))
    assert [move.target for move in plan.moves] == ["small"]
    assert len(plan.homeless) == 1
    assert plan.fixed == ("pin",)


def test_a_drain_keeps_anti_affinity() -> None:
    snapshot = fleet(5)
    rule = AtMost(Selector(labels={"app": "g0"}), 1)
    plan = drain(snapshot, frozenset({"h1"}), (rule,))
    for host in applied(snapshot, plan).hosts:
        assert host.id == "h1" or sum(m.labels["app"] == "g0" for m in host.members) <= 1


def test_draining_an_unknown_host_is_an_error_and_an_empty_one_needs_no_move() -> None:
    snapshot = fleet(1)
    with pytest.raises(InvalidPlacementInput, match="unknown host"):
        drain(snapshot, frozenset({"nope"}))
    assert drain(Snapshot((Host("e", "z", {"cpu": 1}),)), frozenset({"e"})).moves == ()


def test_scaling_keeps_members_in_place_and_counts_them_for_rules() -> None:
    hosts = tuple(
        Host(
            f"h{n}",
            "z",
            {"cpu": 8},
            {"cpu": 2} if n < 2 else {},
            f"r{n}",
            members=(Member(f"w{n}", {"cpu": 2}),) if n < 2 else (),
        )
        for n in range(4)
    )
    snapshot = Snapshot(hosts)
    request = Request(
        (Node("w2", {"cpu": 2}), Node("w3", {"cpu": 2})),
        constraints=(AtMost(limit=1, scope=Scope.RACK),),
        staying={"w0": "h0", "w1": "h1"},
    )
    decision = place(snapshot, request)
    assert sorted(a.host for a in decision.assignments) == ["h2", "h3"]
    assert check(snapshot, request, decision) == ()
    assert place(snapshot, replace(request, nodes=(Node("more", {"cpu": 1}, count=3),))).status is Status.INFEASIBLE


def test_scaling_with_affinity_joins_the_members() -> None:
    hosts = tuple(Host(f"h{n}", "z", {"cpu": 8}, rack=f"r{n // 2}") for n in range(6))
    hosts = (*hosts[:4], replace(hosts[4], members=(Member("w0", {"cpu": 1}),), used={"cpu": 1}), hosts[5])
    request = Request(
        (Node("w1", {"cpu": 7}, count=2),), constraints=(Together(scope=Scope.RACK),), staying={"w0": "h4"}
    )
    decision = place(Snapshot(hosts), request)
    assert sorted(a.host for a in decision.assignments) == ["h4", "h5"]


def test_replanning_avoids_the_failed_hosts_and_moves_nobody_else() -> None:
    snapshot = fleet(2)
    request = Request((Node("lost", {"cpu": 2, "memory": 2}),), staying={"m0-0": "h0"})
    decision = replan(snapshot, request, frozenset({"h1", "h2"}))
    assert decision.status is Status.PLACED
    assert {a.host for a in decision.assignments}.isdisjoint({"h1", "h2"})
    with pytest.raises(InvalidPlacementInput, match="failed host"):
        replan(snapshot, request, frozenset({"h0"}))


@pytest.mark.parametrize("seed", range(12))
def test_rebalancing_gains_value_within_its_moves(seed: int) -> None:
    snapshot = fleet(seed, hosts=6, each=4)
    result = rebalance(snapshot, 3)
    assert len(result.moves) <= 3
    assert result.gain > 0 or not result.moves
    applied(snapshot, Plan(result.moves, (), (), None))
    assert rebalance(snapshot, 0).moves == ()
    with pytest.raises(InvalidPlacementInput):
        rebalance(snapshot, -1)


def test_rebalancing_gathers_scattered_room() -> None:
    flavour = Flavour({"cpu": 8})
    hosts = tuple(Host(f"h{n}", "z", {"cpu": 8}, {"cpu": 4}, members=(Member(f"m{n}", {"cpu": 4}),)) for n in range(2))
    result = rebalance(Snapshot(hosts, (flavour,)), 5)
    assert len(result.moves) == 1
    assert result.gain == 1000


@pytest.mark.parametrize("seed", range(10))
def test_capacity_is_what_a_placement_of_so_many_confirms(seed: int) -> None:
    snapshot = fleet(seed)
    node = Node("n", {"cpu": 3, "memory": 5})
    room = room_for(snapshot, node)
    assert room.count == room.bound == sum(room.by_zone.values())
    assert place(snapshot, Request((replace(node, count=room.count),)), Policy(explain=False)).status is Status.PLACED
    more = Request((replace(node, count=room.count + 1),))
    assert place(snapshot, more, Policy(explain=False)).status is Status.INFEASIBLE


def test_capacity_under_anti_affinity_counts_domains() -> None:
    room = room_for(fleet(3), Node("n", {"cpu": 1}), (AtMost(limit=1, scope=Scope.RACK),))
    assert (room.count, room.bound) == (4, 4)
    assert room_for(Snapshot(()), Node("n", {"cpu": 1})).count == 0
    assert room_for(fleet(3), Node("n", {"tpu": 1})).count == 0
