"""A planner process is told what changed: whatever it was told before, it decides as on the whole fleet."""

from __future__ import annotations

import pickle
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from placement import codec
from placement.engine import place
from placement.model import Cell, Decision, Flavour, Host, Member, Node, Policy, Request, Snapshot
from service.planning.pool import Sent
from service.planning.process import Change, CountRoom, Keeper, Order, Place, Time
from tests.placement.instances import tiny

LAW = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], database=None
)
POLICY = Policy(rounds=40, dives=1, branches=400)
ZONES, RACKS = ("east", "west", "north"), (None, "r1", "r2", "r3")


@dataclass
class Memory:
    """The flag, in this process's own memory."""

    value: int = 0


def order(change: Change, snapshot: Snapshot, work: Place | CountRoom, *, ticket: int = 1) -> Order:
    return Order(ticket, Time(600), pickle.dumps(change), snapshot.flavours, snapshot.version, work)


def text(decision: object) -> str:
    assert isinstance(decision, Decision)
    return codec.dumps(codec.write_decision(decision))


def changed(r: random.Random, host: Host) -> Host:
    """The host after one of the things that happen to hosts."""
    vector = {name: r.randint(0, amount) for name, amount in host.capacity.items()}
    happened = r.randrange(10)
    if happened < 4:
        return replace(host, used=vector)
    if happened == 4:
        return replace(host, members=(*host.members, Member(f"m{r.getrandbits(40)}", {}, {"group": "blue"})))
    if happened == 5:
        return replace(host, members=(), schedulable=not host.schedulable)
    if happened == 6:
        return replace(host, labels={"disk": r.choice(["ssd", "hdd"]), "new": "yes"})
    if happened == 7:
        return replace(host, zone=r.choice(ZONES), rack=r.choice(RACKS))
    if happened == 8 and not host.cells:
        return replace(host, capacity={**host.capacity, r.choice(["cpu", "gpu.b200"]): r.randint(1, 12)})
    return replace(host, cells=(Cell(vector),)) if r.random() < 0.3 else replace(host, capacity=vector, used={})


def fleet_after(r: random.Random, hosts: Sequence[Host]) -> tuple[Host, ...]:
    """The fleet a moment later: some hosts changed, sometimes one gone, sometimes one new, sometimes in other order."""
    after = [changed(r, host) if r.random() < 0.4 else host for host in hosts]
    if len(after) > 1 and r.random() < 0.25:
        after.pop(r.randrange(len(after)))
    if r.random() < 0.25:
        new = tiny(r.randrange(10**6), rules=False)[0].hosts[0]
        after.insert(r.randrange(len(after) + 1), replace(new, id=f"new{r.getrandbits(40)}"))
    if r.random() < 0.1:
        r.shuffle(after)
    return tuple(after)


@LAW
@given(st.integers(0, 10**6))
def test_a_process_that_was_told_changes_decides_as_on_the_whole_fleet(seed: int) -> None:
    r = random.Random(seed)
    snapshot, _ = tiny(seed)
    known = [(Sent(), Keeper(Memory())) for _ in range(2)]
    for step in range(6):
        hosts = fleet_after(r, snapshot.hosts)
        flavours = (Flavour({"cpu": 1 + step % 2}),) if r.random() < 0.5 else ()
        snapshot = Snapshot(hosts, flavours, str(step))
        at = r.randrange(2)
        if r.random() < 0.15:
            known[at] = (Sent(), Keeper(Memory()))  # the process died, and another stands for it
        sent, keeper = known[at]
        change = sent.change_to(snapshot)
        request = request_for(r, snapshot)
        reply = keeper.run(order(change, snapshot, Place(request, POLICY)))
        sent.taken(snapshot, change)
        whole = pickle.loads(pickle.dumps(snapshot))
        assert text(reply.result) == text(place(whole, request, POLICY))
        assert not reply.stopped


def request_for(r: random.Random, snapshot: Snapshot) -> Request:
    """A request with any rules, whose staying members do live on the fleet."""
    _, request = tiny(r.randrange(10**6))
    living = {m.id: h.id for h in snapshot.hosts for m in h.members if m.labels.get("group") == "red"}
    named = {node.id for node in request.nodes}
    fits = all(
        selector.nodes <= named
        for rule in request.constraints
        for part in ("select", "first", "second")
        if (selector := getattr(rule, part, None)) is not None
    )
    return replace(request, staying=living, constraints=request.constraints if fits else ())


def test_a_process_refuses_changes_to_a_fleet_that_it_does_not_keep() -> None:
    snapshot, request = tiny(7)
    keeper, sent = Keeper(Memory()), Sent()
    sent.taken(snapshot, sent.change_to(snapshot))  # said to the process before this one
    assert sent.change_to(snapshot).changed == ()
    assert keeper.run(order(sent.change_to(snapshot), snapshot, Place(request, POLICY))).result is None
    anew = Sent(version=sent.version)
    reply = keeper.run(order(anew.change_to(snapshot), snapshot, Place(request, POLICY)))
    assert text(reply.result) == text(place(snapshot, request, POLICY))


def test_labels_and_sizes_that_change_are_not_remembered_as_they_were() -> None:
    keeper, sent = Keeper(Memory()), Sent()
    request = Request((Node("n", {"cpu": 2}, host_labels={"disk": ("ssd",)}),))
    for step, (disk, cpu) in enumerate((("ssd", 8), ("hdd", 8), ("ssd", 1), ("ssd", 4))):
        one = Host("h1", "z", {"cpu": cpu}, labels={"disk": disk})
        other = Host("h2", "z", {"cpu": 64}, {"cpu": step}, labels={"disk": "ssd"})
        snapshot = Snapshot((one, other))
        change = sent.change_to(snapshot)
        reply = keeper.run(order(change, snapshot, Place(request, POLICY)))
        sent.taken(snapshot, change)
        assert text(reply.result) == text(place(Snapshot((one, other)), request, POLICY))


def test_only_hosts_that_changed_are_told() -> None:
    hosts = tuple(Host(f"h{n}", "z", {"cpu": 8}) for n in range(50))
    sent = Sent()
    sent.taken(Snapshot(hosts), sent.change_to(Snapshot(hosts)))
    alike = tuple(pickle.loads(pickle.dumps(hosts)))  # other objects, the same hosts
    assert sent.change_to(Snapshot(alike)).version == sent.version
    later = (*alike[:20], replace(alike[20], used={"cpu": 3}), *alike[22:])
    change = sent.change_to(Snapshot(later))
    assert ([h.id for h in change.changed], change.removed) == (["h20"], frozenset({"h21"}))
    assert (change.base, change.version) == (1, 2)


def test_work_that_is_given_up_or_late_says_that_it_stopped() -> None:
    snapshot, request = tiny(7)
    flag = Memory()
    keeper = Keeper(flag)
    flag.value = 4
    whole = Change(0, 1, snapshot.hosts, frozenset())
    assert keeper.run(order(whole, snapshot, Place(request, POLICY), ticket=4)).stopped
    assert not keeper.run(order(whole, snapshot, Place(request, POLICY), ticket=5)).stopped
    late = replace(order(whole, snapshot, Place(request, POLICY), ticket=6), time=Time(600, time.monotonic() - 1))
    assert keeper.run(late).stopped
    late = replace(late, time=Time(0))
    assert keeper.run(late).stopped
