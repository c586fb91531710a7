"""Room for a gang by moves: compared with every set of moves of tiny fleets, and each plan carried out."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations

import pytest

from placement.constraints import Apart, AtMost, Constraint, Scope, Selector, Together
from placement.model import (
    Host,
    InvalidPlacementInput,
    Member,
    Node,
    Policy,
    Proof,
    Request,
    Snapshot,
    Status,
    joined,
    left,
)
from placement.modes.make_room import make_room
from placement.modes.moves import Move, Neighbours
from placement.modes.room_check import check_room
from placement.packing.cover import cheapest_cover

SEEDS = 480
QUIET = Policy(explain=False)


def tiny(seed: int) -> tuple[Snapshot, Request, list[Neighbours]]:
    """A fleet of two to four hosts on which few gangs fit without a move."""
    r = random.Random(seed)
    hosts: list[Host] = []
    groups: dict[str, list[tuple[Member, str]]] = {"a": [], "b": []}
    for number in range(r.randint(2, 4)):
        capacity = {"cpu": r.randint(3, 6), "memory": r.randint(3, 6)}
        host = Host(f"h{number}", "z", capacity, rack=r.choice([None, "r1", "r2"]), schedulable=r.random() > 0.05)
        for _ in range(r.randint(0, 3)):
            demand = {"cpu": r.randint(0, 3), "memory": r.randint(0, 3)}
            if any(host.free(name) < amount for name, amount in demand.items()):
                continue
            group = r.choice(["a", "b"])
            member = Member(
                f"{group}{len(groups[group])}",
                demand,
                {"group": group},
                exclusive=not host.members and r.random() < 0.1,
            )
            host = joined(host, member)
            groups[group].append((member, host.id))
        if r.random() < 0.2:  # a stranger that nobody knows, and perhaps more than the host has
            host = replace(host, used={**host.used, "cpu": host.used.get("cpu", 0) + r.randint(1, 3)})
        hosts.append(host)
    nodes = [Node("n", {"cpu": r.randint(1, 5), "memory": r.randint(0, 5)}, count=r.randint(1, 2))]
    if r.random() < 0.4:
        nodes.append(Node("m", {"cpu": r.randint(0, 3), "memory": r.randint(1, 5)}, exclusive=r.random() < 0.2))
    rules: tuple[Constraint, ...] = r.choice([(), (), (AtMost(),), (Together(scope=Scope.RACK),)])
    neighbours = []
    for name, members in groups.items():
        movable = [(m, h) for m, h in members if r.random() < 0.8]
        staying = {m.id: h for m, h in members if (m, h) not in movable}
        own: tuple[Constraint, ...] = (AtMost(limit=2),) if name == "b" and r.random() < 0.5 else ()
        neighbours.append(
            Neighbours(
                tuple(Node(m.id, m.demand, "z", labels=m.labels, exclusive=m.exclusive) for m, _ in movable),
                {m.id: r.randint(0, 9) for m, _ in movable},
                own,
                staying,
            )
        )
    return Snapshot(tuple(hosts)), Request(tuple(nodes), constraints=rules), neighbours


def cheapest(snapshot: Snapshot, request: Request, neighbours: list[Neighbours]) -> int | None:
    """The least cost of any set of moves after which the gang fits, whatever their order; None where there is none."""
    costs = {node.id: group.costs[node.id] for group in neighbours for node in group.nodes}
    home = {member.id: host for host in snapshot.hosts for member in host.members}
    sets = [some for size in range(len(costs) + 1) for some in combinations(sorted(costs), size)]
    for leaving in sorted(sets, key=lambda some: sum(costs[m] for m in some)):
        hosts = {host.id: host for host in snapshot.hosts}
        for name in leaving:
            member = next(m for m in home[name].members if m.id == name)
            hosts[home[name].id] = left(hosts[home[name].id], member)
        if any(_placed(placed, request, leaving, home, neighbours) for placed in _gang(hosts, request)):
            return sum(costs[m] for m in leaving)
    return None


def _gang(hosts: dict[str, Host], request: Request) -> Iterator[dict[str, Host]]:
    """Every way to place the gang."""
    copies = [(node, n) for node in request.nodes for n in range(node.count)]

    def place(index: int, now: dict[str, Host], on: tuple[str, ...]) -> Iterator[dict[str, Host]]:
        if index == len(copies):
            if _kept(request.constraints, on, hosts):
                yield now
            return
        node, copy = copies[index]
        for host in now.values():
            if not host.schedulable or any(host.free(name) < amount for name, amount in node.demand.items() if amount):
                continue
            strangers = [m for m in host.members if not m.id.startswith("gang/")]
            if any(m.exclusive for m in strangers) or (node.exclusive and strangers):
                continue
            member = Member(f"gang/{node.id}{copy}", node.demand, exclusive=node.exclusive)
            yield from place(index + 1, {**now, host.id: joined(host, member)}, (*on, host.id))

    yield from place(0, hosts, ())


def _kept(rules: tuple[Constraint, ...], on: tuple[str, ...], hosts: dict[str, Host]) -> bool:
    for rule in rules:
        if isinstance(rule, AtMost) and max(on.count(host) for host in on) > rule.limit:
            return False
        if isinstance(rule, Together) and len({hosts[host].rack_key for host in on}) > 1:
            return False
    return True


def _placed(
    now: dict[str, Host],
    request: Request,
    leaving: tuple[str, ...],
    home: dict[str, Host],
    neighbours: list[Neighbours],
) -> bool:
    """Whether the leaving find homes, none in its old one."""
    if not leaving:
        return True
    name = leaving[0]
    member = next(m for m in home[name].members if m.id == name)
    group = next(g for g in neighbours if name in g.costs)
    fellows = {*group.costs, *group.staying}
    for host in now.values():
        if host.id == home[name].id or not host.schedulable:
            continue
        if any(host.free(resource) < amount for resource, amount in member.demand.items() if amount):
            continue
        strangers = [m for m in host.members if m.id not in fellows]
        if any(m.exclusive for m in strangers) or (member.exclusive and strangers):
            continue
        if any(
            isinstance(rule, AtMost) and sum(m.id in fellows for m in host.members) + 1 > rule.limit
            for rule in group.constraints
        ):
            continue
        if _placed({**now, host.id: joined(host, member)}, request, leaving[1:], home, neighbours):
            return True
    return False


@pytest.mark.parametrize("first", range(0, SEEDS, 80))
def test_no_plan_is_cheaper_than_its_bound_says_and_each_plan_can_be_carried_out(first: int) -> None:
    for seed in range(first, first + 80):
        snapshot, request, neighbours = tiny(seed)
        plan = make_room(snapshot, request, neighbours, QUIET)
        best = cheapest(snapshot, request, neighbours)
        if plan.status is Status.INFEASIBLE:
            assert best is None, seed
        if best is not None:
            assert plan.lower_bound is not None, seed
            assert plan.lower_bound <= best, (seed, plan.lower_bound, best)
        if plan.status is Status.PLACED:
            assert best is not None, seed
            assert (plan.cost or 0) >= best, (seed, plan.cost, best)
            assert plan.proof is Proof.GAP or plan.cost == best, seed
            assert not check_room(snapshot, request, neighbours, plan), seed


def _host(name: str, *sizes: int, capacity: int = 8) -> Host:
    """A host of so many vCPUs with a member of each size."""
    host = Host(name, "z", {"cpu": capacity}, rack=f"rack of {name}")
    for number, size in enumerate(sizes):
        host = joined(host, Member(f"{name}.{number}", {"cpu": size}))
    return host


def _all_movable(snapshot: Snapshot, constraints: tuple[Constraint, ...] = ()) -> list[Neighbours]:
    """Each member a group of its own, whose move costs its size."""
    return [
        Neighbours((Node(m.id, m.demand, "z"),), {m.id: m.demand["cpu"]}, constraints)
        for host in snapshot.hosts
        for m in host.members
    ]


def test_a_gang_that_fits_needs_no_moves() -> None:
    snapshot = Snapshot((_host("a", 2), _host("b", 3)))
    plan = make_room(snapshot, Request((Node("n", {"cpu": 5}, count=2),)), _all_movable(snapshot))
    assert (plan.status, plan.moves, plan.cost, plan.proof) == (Status.PLACED, (), 0, Proof.OPTIMAL)
    assert plan.placed is plan.decision


def test_the_cheapest_members_leave() -> None:
    snapshot = Snapshot((_host("a", 5), _host("b", 2, 1), _host("c", 4)))
    plan = make_room(snapshot, Request((Node("n", {"cpu": 8}),)), _all_movable(snapshot))
    assert {(move.member, move.source) for move in plan.moves} == {("b.0", "b"), ("b.1", "b")}
    assert (plan.cost, plan.lower_bound, plan.proof) == (3, 3, Proof.OPTIMAL)


def test_where_the_cheapest_find_no_home_others_leave_and_the_gap_is_told() -> None:
    snapshot = Snapshot((_host("a", 5), _host("b", 2, 2, 2), _host("c", 6, capacity=8), _host("d", 6, capacity=8)))
    plan = make_room(snapshot, Request((Node("n", {"cpu": 8}),)), _all_movable(snapshot))
    assert {move.member for move in plan.moves} == {"b.0", "b.1", "b.2"}
    assert (plan.cost, plan.lower_bound, plan.proof) == (6, 5, Proof.GAP)


def test_what_no_moves_can_do_is_proven() -> None:
    snapshot = Snapshot((_host("a", 5), _host("b", 1)))
    plan = make_room(snapshot, Request((Node("n", {"cpu": 9}),)), _all_movable(snapshot))
    assert (plan.status, plan.proof, plan.lower_bound) == (Status.INFEASIBLE, Proof.INFEASIBLE, None)


def test_members_that_nobody_listed_stay() -> None:
    snapshot = Snapshot((_host("a", 1), _host("b", 3)))
    listed = [group for group in _all_movable(snapshot) if "b.0" in group.costs]
    plan = make_room(snapshot, Request((Node("n", {"cpu": 8}),)), listed)
    assert [move.member for move in plan.moves] == ["b.0"]


def test_a_gang_of_one_rack_is_given_room_in_the_cheapest_rack() -> None:
    hosts = [replace(_host(name, *sizes), rack=rack) for name, sizes, rack in (
        ("a", (1,), "r1"), ("b", (7,), "r1"), ("c", (3,), "r2"), ("d", (3,), "r2"), ("e", (), None), ("f", (), None),
    )]  # fmt: skip
    snapshot = Snapshot(tuple(hosts))
    request = Request((Node("n", {"cpu": 8}, count=2),), constraints=(Together(scope=Scope.RACK),))
    plan = make_room(snapshot, request, _all_movable(snapshot))
    assert {move.source for move in plan.moves} == {"c", "d"}
    assert (plan.cost, plan.proof) == (6, Proof.OPTIMAL)


def test_a_member_moves_by_its_own_rules() -> None:
    a, b, c = _host("a", 2), _host("b", 1), _host("c", 3)
    snapshot = Snapshot((a, b, c, _host("d", 6)))
    together = Neighbours(
        (Node("a.0", {"cpu": 2}, "z"), Node("b.0", {"cpu": 1}, "z")), {"a.0": 2, "b.0": 1}, (AtMost(limit=1),)
    )
    fixed = Request((Node("n", {"cpu": 8}),), excluded_hosts=frozenset({"b", "c", "d"}))
    plan = make_room(snapshot, fixed, [together])
    assert [(move.member, move.target) for move in plan.moves if move.target == "b"] == []
    assert plan.status is Status.PLACED
    assert not check_room(snapshot, fixed, [together], plan)


def test_a_member_moves_though_its_group_would_rather_not_be_there() -> None:
    b = joined(_host("b"), Member("b.0", {"cpu": 3}, {"group": "b"}))
    snapshot = Snapshot((_host("a", 2), b))
    wish = Apart(Selector(labels={"group": "a"}), Selector(labels={"group": "b"}), weight=100)
    rather_apart = Neighbours((Node("a.0", {"cpu": 2}, "z", labels={"group": "a"}),), {"a.0": 2}, (wish,))
    request = Request((Node("n", {"cpu": 8}),))
    plan = make_room(snapshot, request, [rather_apart])
    assert [(move.member, move.target) for move in plan.moves] == [("a.0", "b")]
    assert not check_room(snapshot, request, [rather_apart], plan)


def test_a_gang_of_many_kinds_gets_a_plan_and_an_honest_bound() -> None:
    snapshot = Snapshot(tuple(_host(f"h{n:02}", 3, 2) for n in range(40)))
    nodes = tuple(Node(f"n{n}", {"cpu": 4 + n % 5, "memory": n}) for n in range(12))
    roomy = Snapshot(tuple(replace(h, capacity={**h.capacity, "memory": 99}) for h in snapshot.hosts))
    plan = make_room(roomy, Request(nodes), _all_movable(roomy), QUIET)
    assert plan.status is Status.PLACED
    assert plan.cost is not None
    assert 0 < (plan.lower_bound or 0) <= plan.cost
    assert not check_room(roomy, Request(nodes), _all_movable(roomy), plan)


def test_a_stop_leaves_a_bound_that_holds() -> None:
    snapshot, request, neighbours = tiny(11)
    whole = make_room(snapshot, request, neighbours, QUIET)
    cut = make_room(snapshot, request, neighbours, QUIET, stop=lambda: True)
    assert cut.stopped
    if cut.lower_bound is not None and whole.cost is not None:
        assert cut.lower_bound <= whole.cost


def test_neighbours_that_make_no_sense_are_refused() -> None:
    snapshot = Snapshot((_host("a", 2),))
    request = Request((Node("n", {"cpu": 8}),))
    one = Neighbours((Node("a.0", {"cpu": 2}),), {"a.0": 1})
    with pytest.raises(InvalidPlacementInput, match="listed twice"):
        make_room(snapshot, request, [one, one])
    with pytest.raises(InvalidPlacementInput, match="lives on no host"):
        make_room(snapshot, request, [Neighbours((Node("x", {"cpu": 2}),), {"x": 1})])
    with pytest.raises(InvalidPlacementInput, match="costs"):
        Neighbours((Node("a.0", {"cpu": 2}),), {})
    with pytest.raises(InvalidPlacementInput, match="one member"):
        Neighbours((Node("a.0", {"cpu": 2}, count=2),), {"a.0": 1})


@pytest.mark.parametrize("seed", range(120))
def test_the_cheapest_cover_is_the_cheapest_of_all_sets(seed: int) -> None:
    r = random.Random(seed)
    items = [tuple(r.randint(0, 5) for _ in range(3)) for _ in range(r.randint(1, 8))]
    costs = [r.randint(0, 9) for _ in items]
    need = [r.randint(0, sum(item[part] for item in items)) for part in range(3)]
    sets = [some for size in range(len(items) + 1) for some in combinations(range(len(items)), size)]
    enough = [s for s in sets if all(sum(items[n][part] for n in s) >= need[part] for part in range(3))]
    best = min(sum(costs[n] for n in some) for some in enough)
    lower, cost, who = cheapest_cover(items, costs, need)
    assert (lower, cost) == (best, best)
    assert all(sum(items[n][part] for n in who) >= need[part] for part in range(3))
    short_lower, short_cost, _ = cheapest_cover(items, costs, need, steps=2)
    assert short_lower <= best <= short_cost


def test_the_verifier_sees_each_kind_of_wrong_plan() -> None:
    snapshot = Snapshot((_host("a", 5), _host("b", 2, 1), _host("c", 4)))
    request, neighbours = Request((Node("n", {"cpu": 8}),)), _all_movable(snapshot)
    plan = make_room(snapshot, request, neighbours)
    assert not check_room(snapshot, request, neighbours, plan)

    def found(*moves: Move, cost: int = 3) -> set[str]:
        return {v.rule for v in check_room(snapshot, request, neighbours, replace(plan, moves=moves, cost=cost))}

    first, second = plan.moves
    assert "moves" in found(first, second, cost=2)
    assert "capacity" in found(first, cost=neighbours_cost(neighbours, first.member))
    assert "capacity" in found(*(replace(move, target="a") for move in (first, second, Move("c.0", "c", "a"))), cost=7)
    assert "moves" in found(first, replace(second, target=first.source))
    assert {v.rule for v in check_room(snapshot, request, neighbours, replace(plan, status=Status.UNKNOWN))} == {
        "status"
    }


def neighbours_cost(neighbours: list[Neighbours], member: str) -> int:
    return next(group.costs[member] for group in neighbours if member in group.costs)
