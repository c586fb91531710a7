"""Whole hosts set free: every plan of tiny fleets enumerated, laws on larger ones, and what a user expects."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import permutations

import pytest

from placement.constraints import AtMost, Prefer, Scope, SpareHosts, Together
from placement.model import Host, Member, Node, Proof, Snapshot, joined
from placement.modes.moves import Move, Neighbours
from placement.modes.plans import Cause, Goal, Limits, Rebalance
from placement.modes.rebalance import rebalance
from placement.modes.rebalance_check import check_rebalance
from tests.placement.modes.test_rebalance import (
    RULES,
    all_seats,
    carried_out,
    fleet_at,
    holds,
    load,
    one,
    resident,
    seats_of,
    tiny,
)

FREE = Limits(10, goal=Goal.FREE_HOSTS)


def sparse(seed: int) -> tuple[Snapshot, list[Neighbours]]:
    """Three or four hosts, a few members on most of them, nearly all of which may move."""
    r = random.Random(seed)
    hosts = [
        Host(f"h{n}", "z", {"cpu": r.choice([4, 5, 6]), "memory": r.choice([2, 4])}, rack=f"r{n % 2}")
        for n in range(r.randint(3, 4))
    ]
    nodes: dict[str, list[Node]] = {"a": [], "b": [], "c": []}
    for number in range(r.randint(2, 5)):
        group, row = r.choice("abc"), r.randrange(len(hosts))
        demand = {"cpu": r.randint(1, 3), "memory": r.randint(0, 1)}
        node = Node(f"{group}{number}", demand, "z", labels={"group": group})
        if all(hosts[row].free(name) >= amount for name, amount in demand.items()):
            hosts[row] = joined(hosts[row], Member(node.id, demand, node.labels))
            nodes[group].append(node)
    rules = {"a": r.choice(RULES), "b": r.choice(RULES), "c": ()}
    groups = [Neighbours(tuple(some), {n.id: r.randint(0, 9) for n in some}, rules[g]) for g, some in nodes.items()]
    return Snapshot(tuple(hosts)), groups


# --- the truth, counted without any code of the planner --------------------------------------------------------------


def most_freed(snapshot: Snapshot, groups: list[Neighbours], most_moves: int) -> tuple[int, int]:
    """(the most hosts that can become free while those that are free stay so, the fewest moves for that)."""
    before = seats_of(snapshot)
    free = {h.id for h in snapshot.hosts if h.schedulable and h.empty}
    best = (0, 0)
    for seats in all_seats(snapshot, groups, most_moves):
        now = {name for name, h in fleet_at(snapshot, seats).items() if h.schedulable and h.empty}
        moves = sum(before[m] != seat for m, seat in seats.items())
        if free <= now and (len(now - free), -moves) > best and holds(snapshot, groups, seats):
            best = (len(now - free), -moves)
    return best[0], -best[1]


# --- laws ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_each_plan_is_right_and_none_frees_more_than_its_bound(seed: int) -> None:
    snapshot, groups = (tiny if seed % 2 else sparse)(seed)
    limits = replace(FREE, most_moves=2 + seed % 3)
    plan = rebalance(snapshot, groups, limits)
    assert check_rebalance(snapshot, groups, limits, plan) == ()
    assert rebalance(snapshot, groups, limits) == plan
    if holds(snapshot, groups, seats_of(snapshot)):
        freed, moves = most_freed(snapshot, groups, limits.most_moves)
        assert len(plan.freed) <= freed <= plan.most_freed
        if plan.proof is Proof.OPTIMAL:
            assert (len(plan.freed), len(plan.moves)) == (freed, moves)


def test_nearly_always_the_most_hosts_are_freed_by_the_fewest_moves() -> None:
    best = missed = proven = 0
    for seed in range(100, 160):
        snapshot, groups = sparse(seed)
        freed, moves = most_freed(snapshot, groups, 4)
        if not freed or not holds(snapshot, groups, seats_of(snapshot)):
            continue
        plan = rebalance(snapshot, groups, replace(FREE, most_moves=4))
        found = (len(plan.freed), len(plan.moves)) == (freed, moves)
        best, missed, proven = best + found, missed + (not found), proven + (plan.proof is Proof.OPTIMAL)
    assert best >= 9 * missed
    assert proven >= best // 2


def wide(seed: int, hosts: int = 16) -> tuple[Snapshot, list[Neighbours]]:
    """Two zones of hosts of which many are nearly empty."""
    r = random.Random(seed)
    made, groups = [], []
    for number in range(hosts):
        host = Host(f"h{number:02}", f"z{number % 2}", {"cpu": 32, "memory": 64}, rack=f"r{number // 4}")
        nodes = []
        for one_more in range(r.choice([0, 1, 1, 2, 3, 8])):
            demand = {"cpu": r.choice([1, 2, 4]), "memory": r.choice([1, 4, 8])}
            node = Node(f"m{number}-{one_more}", demand, host.zone)
            if all(host.free(name) >= amount for name, amount in demand.items()):
                host = joined(host, Member(node.id, demand))
                nodes.append(node)
        made.append(host)
        if nodes:
            rules = r.choice(((), (), (AtMost(limit=3),)))
            groups.append(Neighbours(tuple(nodes), {n.id: n.demand["memory"] for n in nodes}, rules))
    return Snapshot(tuple(made)), groups


@pytest.mark.parametrize("seed", range(4))
def test_nothing_swings(seed: int) -> None:
    """Each plan frees hosts and takes none that are free, so that one after another they come to an end."""
    snapshot, groups = wide(seed)
    for _ in range(len(snapshot.hosts)):
        plan = rebalance(snapshot, groups, FREE)
        assert check_rebalance(snapshot, groups, FREE, plan) == ()
        if not plan.moves:
            break
        after = carried_out(snapshot, plan)
        free, now = ({h.id for h in fleet.hosts if h.empty} for fleet in (snapshot, after))
        assert now == free | set(plan.freed) > free or any(step.cause is Cause.RULE for step in plan.steps)
        snapshot = after
    else:
        pytest.fail("it goes on for ever")
    assert rebalance(snapshot, groups, FREE) == plan


@pytest.mark.parametrize("seed", range(12))
def test_moves_find_room_in_any_order_and_side_by_side(seed: int) -> None:
    snapshot, groups = sparse(seed)
    plan = rebalance(snapshot, groups, FREE)
    nodes = {n.id: n for g in groups for n in g.nodes}
    for order in permutations(plan.moves):
        hosts = {h.id: h for h in snapshot.hosts}
        for move in order:  # nobody leaves before everybody has come
            arriving = Member(f"{move.member} arriving", nodes[move.member].demand, cells=move.cells)
            assert all(hosts[move.target].free(r) >= amount for r, amount in arriving.demand.items())
            hosts[move.target] = joined(hosts[move.target], arriving)


# --- what a user expects ---------------------------------------------------------------------------------------------


def home(name: str, *members: Member, cpu: int = 8, **more: object) -> Host:
    host = Host(name, "z", {"cpu": cpu}, **more)  # type: ignore[arg-type]
    for member in members:
        host = joined(host, member)
    return host


def freeing(hosts: list[Host], groups: list[Neighbours], limits: Limits = FREE) -> Rebalance:
    plan = rebalance(Snapshot(tuple(hosts)), groups, limits)
    assert check_rebalance(Snapshot(tuple(hosts)), groups, limits, plan) == ()
    return plan


def test_the_host_with_the_fewest_members_is_emptied_and_that_is_proven() -> None:
    pairs = {name: resident(name) for name in ("a", "b", "c")}
    hosts = [home("h0", pairs["a"][0]), home("h1", pairs["b"][0], pairs["c"][0]), home("h2")]
    plan = freeing(hosts, [one(node) for _, node in pairs.values()])
    assert plan.moves == (Move("a", "h0", "h1"),)
    assert (plan.freed, plan.most_freed, plan.proof) == (("h0",), 1, Proof.OPTIMAL)
    assert [(step.cause, step.gain) for step in plan.steps] == [(Cause.FREE, 1)]


def test_nobody_moves_where_no_host_becomes_free_by_it() -> None:
    pairs = {name: resident(name, 3) for name in ("a", "b", "c", "d")}
    groups = [one(node) for _, node in pairs.values()]
    hosts = [home("h0", *(pairs[n][0] for n in "ab")), home("h1", *(pairs[n][0] for n in "cd")), home("h2")]
    assert (freeing(hosts, groups).moves, freeing(hosts, groups).most_freed) == ((), 0)
    # Two have to go for a host to become free.
    roomy = [hosts[0], home("h1", *(pairs[n][0] for n in "cd"), cpu=16), hosts[2]]
    assert freeing(roomy, groups, replace(FREE, most_moves=1)).moves == ()
    assert freeing(roomy, groups).freed == ("h0",)
    # It stays as it is where somebody on it may not move, where something else uses it, or outside of what is meant.
    assert freeing([*roomy[:1], replace(roomy[1], schedulable=False)], groups).moves == ()
    assert freeing(roomy, groups[1:]).moves == ()
    assert freeing([replace(roomy[0], used={"cpu": 7}), roomy[1]], groups).moves == ()
    assert freeing(roomy, groups, replace(FREE, within=frozenset({"h0"}))).moves == ()
    assert rebalance(Snapshot(tuple(roomy)), groups, FREE, stop=lambda: True).moves == ()


def test_a_host_that_others_use_is_gone_to_and_one_that_is_free_is_not() -> None:
    member, node = resident("a")
    used = home("used", used={"cpu": 1})
    assert freeing([home("h0", member), used], [one(node)]).moves == (Move("a", "h0", "used"),)
    assert freeing([home("h0", member), home("h1")], [one(node)]).moves == ()


def test_rules_and_wishes_outweigh_a_free_host() -> None:
    (a, a_node), (b, b_node), (c, c_node) = resident("a"), resident("b"), resident("c")
    hosts = [home("h0", a, labels={"disk": "ssd"}), home("h1", b, c)]
    assert freeing(hosts, [one(a_node)]).freed == ("h0",)
    assert freeing(hosts, [one(a_node, b_node, rules=(AtMost(),))]).freed == ()
    assert freeing(hosts, [one(a_node, rules=(Prefer(key="disk", values=("ssd",), weight=5),))]).freed == ()
    # Two that are to share a host would be apart while the second is on its way.
    hosts = [home("h0", a, b), home("h1", c)]
    assert freeing(hosts, [one(a_node, b_node)]).freed == ("h0",)
    assert freeing(hosts, [one(a_node, b_node, rules=(Together(scope=Scope.HOST),))]).freed == ()
    assert freeing(hosts, [one(a_node, b_node, rules=(Together(scope=Scope.HOST),)), one(c_node)]).freed == ("h1",)


def test_spare_hosts_are_never_too_few_on_the_way() -> None:
    (a, a_node), (b, b_node) = resident("a"), resident("b")
    hosts = [home("h0", a), home("h1", b), home("h2")]
    plan = freeing(hosts, [one(a_node, rules=(SpareHosts(1),)), one(b_node)])
    assert plan.freed == ("h0",)
    assert plan.moves == (Move("a", "h0", "h1"),)


def test_what_is_broken_is_mended_first_by_the_same_moves() -> None:
    (a, a_node), (b, b_node) = resident("a", host_labels={"disk": ("ssd",)}), resident("b")
    ssd = home("ssd", b, labels={"disk": "ssd"})
    plan = freeing([home("wrong", a), ssd, home("other", resident("c")[0])], [one(a_node), one(b_node)])
    assert plan.steps[0].move == Move("a", "wrong", "ssd")
    assert plan.steps[0].cause is Cause.RULE
    assert plan.freed == ()
    assert plan.left == ()


def test_load_is_not_evened_out_where_hosts_are_to_be_freed() -> None:
    pairs = [resident(f"c{n}") for n in range(3)]
    hosts = [home("full", *(member for member, _ in pairs)), home("empty")]
    groups = [one(node) for _, node in pairs]
    assert freeing(hosts, groups).moves == ()
    assert freeing(hosts, groups, Limits(10)).moves != ()
    assert freeing(hosts, groups).zones[0].before == load(hosts[0])


def test_the_check_finds_each_kind_of_wrong_plan() -> None:
    pairs = {name: resident(name) for name in ("a", "b", "c")}
    hosts = [home("h0", pairs["a"][0]), home("h1", pairs["b"][0], pairs["c"][0]), home("h2")]
    snapshot, groups = Snapshot(tuple(hosts)), [one(node) for _, node in pairs.values()]
    good = rebalance(snapshot, groups, FREE)
    to_free = replace(good.steps[0], move=Move("a", "h0", "h2"))
    for plan, limits in (
        (replace(good, freed=()), FREE),
        (replace(good, freed=("h0", "h0")), FREE),
        (replace(good, freed=("h1",)), FREE),
        (replace(good, most_freed=0), FREE),
        (replace(good, steps=(to_free,)), FREE),
        (good, Limits(10)),
    ):
        assert "freed" in {v.rule for v in check_rebalance(snapshot, groups, limits, plan)}, plan
