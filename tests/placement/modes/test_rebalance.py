"""Repair and rebalance: laws on random fleets, every plan of tiny fleets enumerated, and what a user expects of one."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, permutations, product

import pytest

from placement.constraints import Apart, AtMost, Constraint, Near, Scope, Selector, SpreadOver, Together, Within
from placement.model import Cell, Host, InvalidPlacementInput, Member, Node, Proof, Snapshot, joined, left
from placement.modes.moves import Move, Neighbours
from placement.modes.plans import Cause, Goal, Limits, Rebalance, Rule
from placement.modes.rebalance import rebalance
from placement.modes.rebalance_check import check_rebalance

SEEDS = 60
DEMANDS = ({"cpu": 1}, {"cpu": 2}, {"cpu": 2, "memory": 1}, {"cpu": 3})
RULES: tuple[tuple[Constraint, ...], ...] = (
    (),
    (),
    (AtMost(),),
    (AtMost(limit=1, scope=Scope.RACK),),
    (Together(scope=Scope.RACK),),
    (SpreadOver(minimum=2),),
    (Within(maximum=1),),
    (Apart(Selector(labels={"group": "a"}), Selector(labels={"group": "b"})),),
    (Near(Selector(labels={"group": "a"}), Selector(labels={"group": "b"})),),
    (AtMost(), SpreadOver(minimum=2)),
)


def tiny(seed: int) -> tuple[Snapshot, list[Neighbours]]:
    """Two to four hosts with up to five members, wherever chance has put them."""
    r = random.Random(seed)
    hosts = [
        Host(
            f"h{n}",
            "z",
            {"cpu": r.choice([4, 6, 8]), "memory": 4},
            {"cpu": r.choice([0, 0, 1])},
            rack=r.choice(["r1", "r2", None]),
            labels={"disk": r.choice(["ssd", "hdd"])},
            schedulable=r.random() > 0.1,
            cells=(Cell({"cpu": 3}), Cell({"cpu": 3})) if r.random() < 0.2 else (),
        )
        for n in range(r.randint(2, 4))
    ]
    members: dict[str, list[tuple[Node, str, bool]]] = {"a": [], "b": []}
    for number in range(r.randint(1, 5)):
        group = r.choice("ab")
        row = r.randrange(len(hosts))
        demand = r.choice(DEMANDS)
        node = Node(
            f"{group}{number}",
            demand,
            "z",
            labels={"group": group},
            host_labels={"disk": ("ssd",)} if r.random() < 0.2 else {},
            exclusive=r.random() < 0.1,
            cells=1 if r.random() < 0.1 else 0,
        )
        cells = (r.randrange(2),) if node.cells and hosts[row].cells else ()
        # What a member asks for may be more than there is: a ratio was lowered.
        member = Member(node.id, demand, node.labels, exclusive=node.exclusive, cells=cells)
        hosts[row] = joined(hosts[row], member)
        members[group].append((node, hosts[row].id, r.random() < 0.85))
    groups = []
    for there in members.values():
        movable = [node for node, _, free in there if free]
        staying = {node.id: host for node, host, free in there if not free}
        groups.append(Neighbours(tuple(movable), {n.id: r.randint(0, 9) for n in movable}, r.choice(RULES), staying))
    return Snapshot(tuple(hosts)), groups


# --- the truth, counted without any code of the planner --------------------------------------------------------------

Seats = dict[str, tuple[str, tuple[int, ...]]]


def seats_of(snapshot: Snapshot) -> Seats:
    return {m.id: (h.id, m.cells) for h in snapshot.hosts for m in h.members}


def fleet_at(snapshot: Snapshot, seats: Seats) -> dict[str, Host]:
    hosts = {h.id: h for h in snapshot.hosts}
    for host in snapshot.hosts:
        for member in host.members:
            target, cells = seats[member.id]
            if (target, cells) != (host.id, member.cells):
                hosts[host.id] = left(hosts[host.id], member)
                hosts[target] = joined(hosts[target], replace(member, cells=cells))
    return hosts


def holds(snapshot: Snapshot, groups: list[Neighbours], seats: Seats) -> bool:
    """Whether no rule is broken, as far as moves could mend it."""
    hosts = fleet_at(snapshot, seats)
    movers = {n.id for g in groups for n in g.nodes}
    for host in hosts.values():
        mine = [m for m in host.members if m.id in movers]
        for name, used in host.used.items():
            excess = used - host.capacity.get(name, 0)
            if 0 < excess <= sum(m.demand.get(name, 0) for m in mine):
                return False
        for number, cell in enumerate(host.cells):
            pinned = sum(m.demand.get("cpu", 0) for m in mine if number in m.cells)
            if 0 < cell.used.get("cpu", 0) - cell.capacity["cpu"] <= pinned:
                return False
    return all(_group_holds(hosts, group, groups, seats) for group in groups)


def _group_holds(hosts: dict[str, Host], group: Neighbours, groups: list[Neighbours], seats: Seats) -> bool:
    own = {n.id for n in group.nodes} | set(group.staying)
    for node in group.nodes:
        host = hosts[seats[node.id][0]]
        if any(host.labels.get(k) not in allowed for k, allowed in node.host_labels.items()):
            return False
        if node.cells and len(seats[node.id][1]) != node.cells:
            return False
        strangers = [m for m in host.members if m.id not in own]
        if strangers and (node.exclusive or any(m.exclusive for m in strangers)):
            return False
    return not group.nodes or all(_rule_holds(hosts, rule, group, own, seats) for rule in group.constraints)


def _rule_holds(hosts: dict[str, Host], rule: Constraint, group: Neighbours, own: set[str], seats: Seats) -> bool:
    def domain(member: str) -> str:
        host = hosts[seats[member][0]]
        return host.id if rule.scope is Scope.HOST else host.rack_key  # type: ignore[union-attr]

    movers = {n.id for n in group.nodes}
    new = Counter(domain(m) for m in own & movers)
    old = Counter(domain(m) for m in own - movers)
    if isinstance(rule, AtMost):
        return all(new[d] + old[d] <= rule.limit for d in new)
    if isinstance(rule, Together):
        return not new or (set(new) <= set(old) if old else len(new) == 1)
    if isinstance(rule, Within):
        return len(set(new) - set(old)) <= max(0, rule.maximum - len(old))
    if isinstance(rule, SpreadOver):
        return len(set(new) | set(old)) >= rule.minimum
    first = {m for h in hosts.values() for m in (x.id for x in h.members) if m.startswith("a")}
    second = {m for h in hosts.values() for m in (x.id for x in h.members) if m.startswith("b")}
    if isinstance(rule, Near):
        return {domain(m) for m in first & movers} <= {domain(m) for m in second}
    shared = {domain(m) for m in first} & {domain(m) for m in second}
    return not shared & {domain(m) for m in (first | second) & movers}


def load(host: Host) -> int:
    return max((-(-host.used.get(r, 0) * 1000 // c) for r, c in host.capacity.items() if c), default=0)


def all_seats(snapshot: Snapshot, groups: list[Neighbours], moves: int) -> Iterator[Seats]:
    """Every fleet that so many moves can end with, whatever is in between, as long as it has room for all who moved."""
    before = seats_of(snapshot)
    nodes = {n.id: (n, g) for g in groups for n in g.nodes}

    def others(member: str) -> list[Host]:
        return [h for h in snapshot.hosts if h.schedulable and h.id != before[member][0]]

    for many in range(min(moves, len(nodes)) + 1):
        for who in combinations(sorted(nodes), many):
            choices = [
                [
                    (h.id, c)
                    for h in snapshot.hosts
                    if h.schedulable and h.id != before[m][0]
                    for c in _pins(nodes[m][0], h)
                ]
                for m in who
            ]
            for where in product(*choices):
                seats = {**before, **dict(zip(who, where, strict=True))}
                hosts = fleet_at(snapshot, seats)
                if all(
                    hosts[h].used.get(r, 0) <= hosts[h].capacity.get(r, 0)
                    for m, (h, _) in zip(who, where, strict=True)
                    for r, amount in nodes[m][0].demand.items()
                    if amount
                ):
                    yield seats


def _pins(node: Node, host: Host) -> list[tuple[int, ...]]:
    return list(combinations(range(len(host.cells)), node.cells)) if node.cells else [()]


# --- laws ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_plan_is_better_than_its_bounds_say_and_each_is_right(seed: int) -> None:
    snapshot, groups = tiny(seed)
    limits = Limits(3, 100, 50)
    plan = rebalance(snapshot, groups, limits)
    assert check_rebalance(snapshot, groups, limits, plan) == ()
    before = seats_of(snapshot)
    ends = list(all_seats(snapshot, groups, limits.most_moves))
    mending = [sum(before[m] != s for m, s in end.items()) for end in ends if holds(snapshot, groups, end)]
    assert holds(snapshot, groups, before) == (not plan.broken)
    assert min(mending, default=plan.least_moves) >= plan.least_moves
    after = {**before, **{m.member: (m.target, m.cells) for m in plan.moves}}
    assert holds(snapshot, groups, after) == (not plan.left)
    for zone in plan.zones:
        peaks = [max(load(h) for h in fleet_at(snapshot, end).values() if h.schedulable) for end in ends]
        assert zone.bound <= min(peaks)
    if plan.proof is Proof.OPTIMAL:
        assert min(mending) == sum(step.cause is Cause.RULE for step in plan.steps)
    if 1 in mending and 0 not in mending:
        assert not plan.left


@pytest.mark.parametrize("seed", range(24))
def test_moves_hold_in_any_order_and_side_by_side(seed: int) -> None:
    """Members of different groups go whenever they like; those of one go one after the other."""
    snapshot, groups = tiny(seed)
    plan = rebalance(snapshot, groups, Limits(4, 100, 50))
    nodes = {n.id: n for g in groups for n in g.nodes}
    for order in permutations(plan.moves):
        hosts = {h.id: h for h in snapshot.hosts}
        for move in order:  # all are on their way at once: nobody leaves before everybody has come
            member = Member(f"{move.member} arriving", nodes[move.member].demand, cells=move.cells)
            hosts[move.target] = joined(hosts[move.target], member)
            target = hosts[move.target]
            assert all(
                target.used.get(r, 0) <= target.capacity.get(r, 0) for r, amount in member.demand.items() if amount
            )


def spread_fleet(seed: int, hosts: int = 14) -> tuple[Snapshot, list[Neighbours]]:
    r = random.Random(seed)
    made, groups = [], []
    for number in range(hosts):
        host = Host(f"h{number:02}", f"z{number % 2}", {"cpu": 32, "memory": 64}, rack=f"r{number // 4}")
        for one in range(r.randint(0, 10)):
            demand = {"cpu": r.choice([1, 2, 4]), "memory": r.choice([1, 4, 8])}
            if all(host.free(name) >= amount for name, amount in demand.items()):
                host = joined(host, Member(f"m{number}-{one}", demand))
        nodes = tuple(Node(m.id, m.demand, host.zone) for m in host.members)
        groups.append(Neighbours(nodes, {n.id: n.demand["memory"] for n in nodes}, r.choice(((), (AtMost(limit=3),)))))
        made.append(host)
    return Snapshot(tuple(made)), [g for g in groups if g.nodes]


def carried_out(snapshot: Snapshot, plan: Rebalance) -> Snapshot:
    hosts = {h.id: h for h in snapshot.hosts}
    for move in plan.moves:
        member = next(m for m in hosts[move.source].members if m.id == move.member)
        hosts[move.source] = left(hosts[move.source], member)
        hosts[move.target] = joined(hosts[move.target], replace(member, cells=move.cells))
    return Snapshot(tuple(hosts.values()))


@pytest.mark.parametrize("seed", range(5))
def test_nothing_swings(seed: int) -> None:
    """One plan after another comes to an end, and each makes the list of loads smaller."""
    snapshot, groups = spread_fleet(seed)
    limits = Limits(4, 100, 30)
    for _ in range(60):
        plan = rebalance(snapshot, groups, limits)
        assert check_rebalance(snapshot, groups, limits, plan) == ()
        if not plan.moves:
            break
        after = carried_out(snapshot, plan)
        if all(step.cause is Cause.LOAD for step in plan.steps):
            assert sorted(map(load, after.hosts), reverse=True) < sorted(map(load, snapshot.hosts), reverse=True)
        snapshot = after
    else:
        pytest.fail("it goes on for ever")
    assert rebalance(snapshot, groups, limits) == plan


# --- what a user expects ---------------------------------------------------------------------------------------------

A, B = Selector(labels={"app": "a"}), Selector(labels={"app": "b"})


def resident(name: str, cpu: int = 2, **more: object) -> tuple[Member, Node]:
    labels = {"app": name[0]}
    return Member(name, {"cpu": cpu}, labels), Node(name, {"cpu": cpu}, "z", labels=labels, **more)  # type: ignore[arg-type]


def one(*nodes: Node, rules: tuple[Constraint, ...] = (), cost: int = 1) -> Neighbours:
    return Neighbours(nodes, {n.id: cost for n in nodes}, rules)


def test_a_pair_that_must_be_apart_and_shares_a_host_is_one_move_of_the_cheaper_one() -> None:
    (a, a_node), (b, b_node) = resident("a"), resident("b")
    home = joined(joined(Host("h0", "z", {"cpu": 8}), a), b)
    snapshot = Snapshot((home, Host("h1", "z", {"cpu": 8})))
    apart = (Apart(A, B),)
    plan = rebalance(snapshot, [one(a_node, rules=apart, cost=5), one(b_node, rules=apart, cost=3)])
    assert plan.moves == (Move("b", "h0", "h1"),)
    assert (plan.steps[0].cause, plan.steps[0].rule, plan.cost) == (Cause.RULE, Rule.APART, 3)
    assert (plan.missed, plan.missed_after, plan.least_moves, plan.proof) == (2, 0, 1, Proof.OPTIMAL)


def test_what_is_broken_comes_first_and_load_gets_the_moves_that_are_left() -> None:
    (a, a_node), *rest = resident("a", host_labels={"disk": ("ssd",)}), *(resident(f"c{n}") for n in range(4))
    full = Host("full", "z", {"cpu": 8})
    for member, _ in rest:
        full = joined(full, member)
    wrong = joined(Host("wrong", "z", {"cpu": 8}), a)
    snapshot = Snapshot((full, wrong, Host("ssd", "z", {"cpu": 8}, labels={"disk": "ssd"})))
    groups = [one(a_node), *(one(node) for _, node in rest)]
    assert [m.member for m in rebalance(snapshot, groups, Limits(1)).moves] == ["a"]
    plan = rebalance(snapshot, groups, Limits(10))
    assert plan.steps[0].move == Move("a", "wrong", "ssd")
    assert [step.cause for step in plan.steps] == [Cause.RULE, Cause.LOAD, Cause.LOAD]
    assert plan.zones[0].after < plan.zones[0].before == 1000


def test_a_rack_is_gathered_by_the_fewest_members_together() -> None:
    pairs = [resident(f"a{n}") for n in range(3)]
    hosts = [Host(f"h{n}", "z", {"cpu": 8}, rack=f"r{n // 2}") for n in range(4)]
    for row, (member, _) in zip((0, 2, 3), pairs, strict=True):
        hosts[row] = joined(hosts[row], member)
    plan = rebalance(Snapshot(tuple(hosts)), [one(*(n for _, n in pairs), rules=(Together(scope=Scope.RACK),))])
    assert [step.move.member for step in plan.steps if step.cause is Cause.RULE] == ["a0"]
    assert (plan.least_moves, plan.left) == (1, ())


def test_an_overfull_host_and_an_overfull_cell_give_up_their_largest() -> None:
    pairs = [resident("a", 1), resident("b", 4), resident("c", 2)]
    host = Host("h0", "z", {"cpu": 5})
    for member, _ in pairs:
        host = joined(host, member)
    plan = rebalance(Snapshot((host, Host("h1", "z", {"cpu": 8}))), [one(node) for _, node in pairs], Limits(1))
    assert plan.left == ()
    assert (plan.broken[0].rule, plan.least_moves, len(plan.moves)) == (Rule.CAPACITY, 1, 1)
    cells = (Cell({"cpu": 3}), Cell({"cpu": 3}))
    pinned = [replace(resident(name)[0], cells=(0,)) for name in "ab"]
    home = joined(joined(Host("h0", "z", {"cpu": 6}, cells=cells), pinned[0]), pinned[1])
    groups = [one(resident(name, cells=1)[1]) for name in "ab"]
    plan = rebalance(Snapshot((home, Host("h1", "z", {"cpu": 6}, cells=cells))), groups, Limits(1))
    assert (plan.broken[0].rule, plan.left, len(plan.moves[0].cells)) == (Rule.NUMA, (), 1)


def test_nobody_moves_without_gain_beyond_the_threshold_or_out_of_what_is_to_be_balanced() -> None:
    pairs = [resident(f"c{n}") for n in range(3)]
    full = Host("full", "z", {"cpu": 10})
    for member, _ in pairs:
        full = joined(full, member)
    snapshot = Snapshot((full, Host("empty", "z", {"cpu": 10})))
    groups = [one(node) for _, node in pairs]
    assert len(rebalance(snapshot, groups, Limits(9, 200, 50)).moves) == 1
    assert rebalance(snapshot, groups, Limits(9, 601, 50)).moves == ()
    assert rebalance(snapshot, groups, Limits(9, 200, 201)).moves == ()
    assert rebalance(snapshot, groups, Limits(0)).moves == ()
    assert rebalance(snapshot, groups, Limits(9, within=frozenset({"full"}))).moves == ()
    closed = Snapshot((full, replace(snapshot.hosts[1], schedulable=False)))
    assert rebalance(closed, groups).moves == ()
    assert rebalance(snapshot, groups, stop=lambda: True).moves == ()
    assert rebalance(snapshot, groups, stop=lambda: True).stopped


def test_whoever_is_held_moves_for_a_broken_rule_alone_for_whatever_goal() -> None:
    moved = Counter[tuple[bool, Cause]]()
    for seed in range(SEEDS):
        snapshot, groups = tiny(seed)
        everybody = [node.id for group in groups for node in group.nodes]
        held = frozenset(random.Random(seed).sample(everybody, len(everybody) // 2))
        for goal in Goal:
            limits = Limits(9, 1, 1, goal=goal, held=held)
            plan = rebalance(snapshot, groups, limits)
            assert check_rebalance(snapshot, groups, limits, plan) == (), seed
            moved += Counter((step.move.member in held, step.cause) for step in plan.steps)
            free = rebalance(snapshot, groups, replace(limits, held=frozenset()))
            stated = [v.rule for v in check_rebalance(snapshot, groups, limits, free)]
            wrong = any(s.cause is not Cause.RULE and s.move.member in held for s in free.steps)
            assert ("held" in stated) == wrong, seed
    assert moved[True, Cause.RULE] > 0
    assert min(moved[False, Cause.LOAD], moved[False, Cause.FREE]) > 0
    assert moved[True, Cause.LOAD] == moved[True, Cause.FREE] == 0


def test_members_that_live_nowhere_and_absurd_limits_are_named() -> None:
    with pytest.raises(InvalidPlacementInput, match="lives on no host"):
        rebalance(Snapshot((Host("h", "z", {"cpu": 1}),)), [one(Node("m", {"cpu": 1}))])
    for wrong, field in (((-1, 0, 1), "most_moves"), ((1, 1001, 1), "threshold"), ((1, 0, 0), "least_gain")):
        with pytest.raises(InvalidPlacementInput, match=field):
            Limits(*wrong)
