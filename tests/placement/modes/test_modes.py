"""Scale, re-plan, drain, rebalance and capacity: modes are requests like any other."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from placement.check import check
from placement.constraints import Apart, AtMost, Constraint, Scope, Selector, Together
from placement.engine import place
from placement.model import (
    Cell,
    Flavour,
    Host,
    InvalidPlacementInput,
    Member,
    Node,
    Policy,
    Request,
    Snapshot,
    Status,
    joined,
    left,
)
from placement.modes.answered import answered
from placement.modes.capacity import room_for
from placement.modes.drain import Drain, Leaving, drain, leaving
from placement.modes.gather import gather
from placement.modes.moves import Move


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


def drained(snapshot: Snapshot, hosts: frozenset[str], constraints: tuple[Constraint, ...] = ()) -> Drain:
    """The drain of all movable members of some hosts as one gang."""
    return answered(drain(snapshot, leaving(snapshot, hosts, constraints)[0]))


def applied(snapshot: Snapshot, moves: Sequence[Move]) -> Snapshot:
    """The fleet after the moves, one after the other; each must fit when it is its turn."""
    hosts = {host.id: host for host in snapshot.hosts}
    for move in moves:
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
    plan = drained(snapshot, frozenset({"h0", "h3"}))
    after = {host.id: host for host in applied(snapshot, plan.moves).hosts}
    assert plan.stuck is None
    assert {host.id: (dict(host.used), host.members) for host in plan.after.hosts} == {
        host.id: (dict(host.used), host.members) for host in after.values()
    }
    assert after["h0"].members == ()
    assert after["h3"].members == ()
    before = sorted(m.id for host in snapshot.hosts for m in host.members)
    assert sorted(m.id for host in after.values() for m in host.members) == before


def test_a_drain_that_cannot_move_all_says_which_gang_is_stuck_and_why() -> None:
    full = Host("full", "z", {"cpu": 4}, {"cpu": 4}, members=tuple(Member(f"m{n}", {"cpu": 2}) for n in range(2)))
    fixed = replace(full, id="fixed", members=(Member("pin", {"cpu": 4}, movable=False),))
    snapshot = Snapshot((full, fixed, Host("small", "z", {"cpu": 2})))
    away = frozenset({"full", "fixed"})
    assert leaving(snapshot, away)[1] == ("pin",)
    gangs = [Leaving(Request((Node(f"m{n}", {"cpu": 2}),), excluded_hosts=away)) for n in range(2)]
    plan = answered(drain(snapshot, gangs))
    assert [(move.member, move.target) for move in plan.moves] == [("m0", "small")]
    assert plan.stuck == 1
    assert plan.decision is not None
    assert plan.decision.status is Status.INFEASIBLE
    assert plan.decision.explanation is not None


def test_a_gang_goes_to_the_hosts_it_prefers_and_elsewhere_only_where_these_do_not_take_all_of_it() -> None:
    old = Host("old", "z", {"cpu": 4}, {"cpu": 4}, members=tuple(Member(f"m{n}", {"cpu": 2}) for n in range(2)))
    snapshot = Snapshot(
        (old, Host("small", "z", {"cpu": 2}), Host("twin", "z", {"cpu": 4}), Host("wide", "z", {"cpu": 9}))
    )
    request = Request(tuple(Node(m.id, m.demand) for m in old.members), excluded_hosts=frozenset({"old"}))

    def targets(*preferred: str) -> set[str]:
        return {move.target for move in answered(drain(snapshot, [Leaving(request, frozenset(preferred))])).moves}

    assert targets("wide") == {"wide"}
    assert targets("small") == targets() == {"small", "twin"}


def test_who_has_moved_counts_for_the_rules_of_those_that_follow() -> None:
    old = Host("old", "z", {"cpu": 4}, {"cpu": 2}, members=tuple(Member(c, {"cpu": 1}, {"app": c}) for c in "ab"))
    snapshot = Snapshot((old, Host("h1", "z", {"cpu": 4}), Host("h2", "z", {"cpu": 4})))
    apart = Apart(Selector(labels={"app": "a"}), Selector(labels={"app": "b"}))
    gangs = [
        Leaving(
            Request((Node(c, {"cpu": 1}, labels={"app": c}),), constraints=(apart,), excluded_hosts=frozenset({"old"}))
        )
        for c in "ab"
    ]
    assert sorted(move.target for move in answered(drain(snapshot, gangs)).moves) == ["h1", "h2"]


def test_a_move_takes_its_share_of_numa_cells_along() -> None:
    cells = (Cell({"cpu": 4}, {"cpu": 3}), Cell({"cpu": 4}))
    pinned = Member("m", {"cpu": 3}, cells=(0,))
    old = Host("old", "z", {"cpu": 8}, {"cpu": 3}, members=(pinned,), cells=cells)
    new = Host("new", "z", {"cpu": 8}, {"cpu": 2}, cells=(Cell({"cpu": 4}, {"cpu": 2}), Cell({"cpu": 4})))
    plan = drained(Snapshot((old, new)), frozenset({"old"}))
    assert plan.moves == (Move("m", "old", "new", (1,)),)
    after = {host.id: host for host in plan.after.hosts}
    assert [dict(cell.used) for cell in after["old"].cells] == [{"cpu": 0}, {}]
    assert [dict(cell.used) for cell in after["new"].cells] == [{"cpu": 2}, {"cpu": 3}]
    assert after["new"].members == (replace(pinned, cells=(1,)),)
    assert left(joined(old, replace(pinned, id="twin", cells=(1,))), replace(pinned, id="twin", cells=(1,))).cells == (
        cells[0],
        Cell({"cpu": 4}, {"cpu": 0}),
    )


def test_a_drain_keeps_anti_affinity() -> None:
    snapshot = fleet(5)
    rule = AtMost(Selector(labels={"app": "g0"}), 1)
    plan = drained(snapshot, frozenset({"h1"}), (rule,))
    for host in applied(snapshot, plan.moves).hosts:
        assert host.id == "h1" or sum(m.labels["app"] == "g0" for m in host.members) <= 1


def test_draining_an_unknown_host_is_an_error_and_an_empty_one_needs_no_move() -> None:
    snapshot = fleet(1)
    with pytest.raises(InvalidPlacementInput, match="unknown host"):
        leaving(snapshot, frozenset({"nope"}))
    assert drained(Snapshot((Host("e", "z", {"cpu": 1}),)), frozenset({"e"})).moves == ()


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


@pytest.mark.parametrize("seed", range(12))
def test_gathering_gains_value_within_its_moves(seed: int) -> None:
    snapshot = fleet(seed, hosts=6, each=4)
    result = gather(snapshot, 3)
    assert len(result.moves) <= 3
    assert result.gain > 0 or not result.moves
    applied(snapshot, result.moves)
    assert gather(snapshot, 0).moves == ()
    with pytest.raises(InvalidPlacementInput):
        gather(snapshot, -1)


def test_gathering_scattered_room() -> None:
    flavour = Flavour({"cpu": 8})
    hosts = tuple(Host(f"h{n}", "z", {"cpu": 8}, {"cpu": 4}, members=(Member(f"m{n}", {"cpu": 4}),)) for n in range(2))
    result = gather(Snapshot(hosts, (flavour,)), 5)
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
