"""Every question that a mode asks is answered rightly, on every family; and what it says of the fleet is so."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from placement.check import check
from placement.engine import DEFAULT, place
from placement.model import Assignment, Decision, Host, Member, Node, Policy, Request, Snapshot, Status, joined
from placement.modes import capacity as capacity_mode
from placement.modes import gather as gather_mode
from placement.modes.drain import Drain, drain, leaving
from placement.stop import Stop, never
from tests.placement.families import FAMILIES, most_that_fit


def peopled(snapshot: Snapshot, seed: int) -> Snapshot:
    """The fleet with members where they fit, pinned to cells where a host has some."""
    r = random.Random(seed)
    hosts = []
    for host in snapshot.hosts:
        host = replace(host, schedulable=True, members=())
        for number in range(r.randint(0, 3)):
            cells = (r.randrange(len(host.cells)),) if host.cells else ()
            demand = {name: r.randint(0, max(1, amount // 4)) for name, amount in host.capacity.items()}
            member = Member(
                f"m-{host.id}-{number}", demand, exclusive=r.random() < 0.1 and not host.members, cells=cells
            )
            alone = any(other.exclusive for other in host.members)
            node = Node(member.id, demand, cells=len(cells))
            there = Decision(Status.PLACED, (Assignment(member.id, host.id, cells),), 1, 1, 1)
            fits = {v.rule for v in check(Snapshot((host,)), Request((node,)), there)}.isdisjoint({"capacity", "numa"})
            if fits and not alone:
                host = joined(host, member)
        hosts.append(host)
    return Snapshot(tuple(hosts), snapshot.flavours)


def cells_hold(host: Host) -> bool:
    return all(
        cell.used.get(name, 0) <= amount or not amount for cell in host.cells for name, amount in cell.capacity.items()
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(12))
def test_a_drain_is_right_at_each_step_and_leaves_what_it_says(family: str, seed: int) -> None:
    snapshot = peopled(FAMILIES[family](seed)[0], seed)
    source = snapshot.hosts[0]
    steps = drain(snapshot, leaving(snapshot, frozenset({source.id}))[0])
    result: Drain | None = None
    decision: Decision | None = None
    while result is None:
        try:
            question = next(steps) if decision is None else steps.send(decision)
        except StopIteration as done:
            result = done.value
            break
        decision = place(question.snapshot, question.request)
        assert check(question.snapshot, question.request, decision) == ()
    assert result is not None
    after = {host.id: host for host in result.after.hosts}
    lives = {member.id: host.id for host in after.values() for member in host.members}
    assert set(lives) == {member.id for host in snapshot.hosts for member in host.members}
    assert all(lives[move.member] == move.target for move in result.moves)
    for before in snapshot.hosts[1:]:
        now = after[before.id]
        for name in now.capacity:
            assert now.used.get(name, 0) <= max(now.capacity[name], before.used.get(name, 0))
        assert cells_hold(now) or not cells_hold(before)
    if result.stuck is None:
        assert after[source.id].members == ()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(6))
def test_a_gathering_and_a_count_of_room_decide_rightly(
    family: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def verified(snapshot: Snapshot, request: Request, policy: Policy = DEFAULT, stop: Stop = never) -> Decision:
        decision = place(snapshot, request, policy, stop)
        assert check(snapshot, request, decision) == ()
        return decision

    monkeypatch.setattr(gather_mode, "place", verified)
    monkeypatch.setattr(capacity_mode, "place", verified)
    snapshot, request = FAMILIES[family](seed)
    result = gather_mode.gather(peopled(snapshot, seed), 3)
    assert len({(move.member, move.target) for move in result.moves}) == len(result.moves)
    node = next((node for node in request.nodes if any(node.demand.values())), None)
    if node is not None and node.cells:
        small = replace(node, demand={name: amount * 2 for name, amount in node.demand.items()})
        room = capacity_mode.room_for(snapshot, small)
        truth = most_that_fit((snapshot, Request((replace(small, count=min(6, room.bound + 1)),))))
        assert room.count <= room.bound
        assert truth is not None
        assert min(6, room.count) <= truth <= room.bound
