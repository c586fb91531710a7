"""One node after another: the short way chooses what the whole search does, on the fleet as it was kept current."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from placement import codec
from placement.check import check
from placement.engine import name_nodes, place
from placement.model import Flavour, Host, Member, Node, Policy, Proof, Request, Snapshot, Status, Strategy, joined
from placement.problem.feasibility import fits_nowhere
from placement.problem.gang import collapse
from placement.search.single import is_single
from placement.search.strategies import BY_STRATEGY
from placement.stop import never

SHORT = (Strategy.LEAST_LOST_VALUE, Strategy.FEWEST_HOSTS, Strategy.SPREAD)


def fleet(r: random.Random) -> tuple[Snapshot, dict[str, int]]:
    """Hosts of few models, so that many are alike, partly in use, some closed, some with more used than they have."""
    unit = {name: r.choice([1, 1, 3, 1024]) for name in ["cpu", "memory", "disk", "gpu.a"][: r.choice([1, 2, 2, 3, 4])]}
    models = [{name: u * r.randint(4, 24) + r.randrange(u) for name, u in unit.items()} for _ in range(3)]
    hosts = []
    for number in range(r.randint(1, 40)):
        capacity = r.choice(models)
        used = {name: r.choice([0, r.randint(0, most), most + 1]) for name, most in capacity.items()}
        members = (Member(f"m{number}", {}, exclusive=r.random() < 0.3),) if r.random() < 0.2 else ()
        zone, rack = r.choice(["east", "west"]), r.choice([None, "r1", "r2"])
        labels = {"disk": r.choice(["ssd", "hdd"])}
        hosts.append(Host(f"h{number:02d}", zone, capacity, used, rack, labels, r.random() > 0.1, members))
    r.shuffle(hosts)
    flavours = tuple(Flavour({n: u * r.randint(0, 4) + 1 for n, u in unit.items()}) for _ in range(r.choice([0, 2, 3])))
    return Snapshot(tuple(hosts), flavours), unit


def node(r: random.Random, number: int, unit: dict[str, int]) -> Node:
    demand = {name: u * r.choice([0, 1, 1, 2, 3]) + r.choice([0, 0, 1]) for name, u in unit.items()}
    labels = {"disk": (r.choice(["ssd", "hdd"]),)} if r.random() < 0.2 else {}
    zone = r.choice([None, None, "east", "nowhere"])
    return Node(f"n{number}", demand, zone, host_labels=labels, exclusive=r.random() < 0.1)


@pytest.mark.parametrize("seed", range(60))
def test_a_stream_of_single_nodes_goes_where_the_whole_search_puts_it(seed: int) -> None:
    r = random.Random(seed)
    snapshot, unit = fleet(r)
    short = 0
    for number in range(25):
        strategy = r.choice(SHORT)
        closed = frozenset({r.choice(snapshot.hosts).id}) if r.random() < 0.2 else frozenset()
        request = Request((node(r, number, unit),), strategy, excluded_hosts=closed)
        policy = Policy(explain=False, seed=r.choice([0, 0, 7]))
        decision = place(snapshot, request, policy)
        fresh = Snapshot(snapshot.hosts, snapshot.flavours)
        gang = collapse(fresh, request)
        short += is_single(gang)
        whole = None if fits_nowhere(gang) is not None else BY_STRATEGY[strategy](gang, policy, never)
        if whole is None or whole.landed is None:
            assert decision.status is Status.INFEASIBLE
            continue
        assert decision.assignments == name_nodes(gang, whole.landed)
        assert (decision.objective, decision.proof) == (whole.objective, Proof.OPTIMAL)
        assert check(snapshot, request, decision) == ()
        assert codec.write_decision(decision) == codec.write_decision(place(fresh, request, policy))
        (landed,) = decision.assignments
        host = next(host for host in snapshot.hosts if host.id == landed.host)
        asked = request.nodes[0]
        snapshot = snapshot.updated((joined(host, Member(asked.id, asked.demand, exclusive=asked.exclusive)),))
    assert short > 10


def test_a_fleet_kept_current_is_what_a_new_snapshot_of_its_hosts_is() -> None:
    hosts = tuple(Host(f"h{n}", "z", {"cpu": 8}) for n in (2, 0, 1))
    first = Snapshot(hosts)
    second = first.updated((replace(hosts[1], used={"cpu": 3}),), version="2")
    third = second.updated((replace(hosts[0], used={"cpu": 5}),))
    assert third == Snapshot(
        (replace(hosts[0], used={"cpu": 5}), replace(hosts[1], used={"cpu": 3}), hosts[2]), (), "2"
    )
    assert first.hosts == hosts
    assert third.updated((Host("new", "z", {"cpu": 1}),)).hosts[-1].id == "new"
    assert third.updated((Host("h1", "z", {"cpu": 1}),), frozenset({"h0"})).hosts == (
        third.hosts[0],
        Host("h1", "z", {"cpu": 1}),
    )
