"""Room that is kept for the first in line: traces under a virtual clock, in which small groups come all the time and a
large one must not wait for longer than is proven, or than the longest of them stays."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest

from placement.engine import place
from placement.model import Decision, Policy, Snapshot, Status
from placement.modes.evict import evict
from service.domain.cells import Cell, NumaPolicy
from service.domain.devices import Clean, Device, DeviceState
from service.domain.fleet import Host as FleetHost
from service.domain.fleet import HostState, HostStatus
from service.domain.groups import Failure, Group, Instance, InstanceStatus, KeptRoom, KeptSeat, Waiting
from service.domain.specs import GpuRequest, PlacementPolicy
from service.domain.waiting import KEPT_AFTER_MS, Waiter, first_for_hosts, keeper, long_enough
from service.planning import backfill, devices, foresight, translate
from service.planning.backfill import Kept
from service.reconcile.reserving import leaving
from tests.support.builders import ZONE, host, node
from tests.support.builders import group as a_group

QUICK = Policy(explain=False)
HOSTS, CPUS = 4, 8
MINUTE = 60_000


def group(number: int, sizes: tuple[int, ...], *, ends_at: int = 0) -> Group:
    """A group of members of these many vCPUs."""
    uuid = f"{number:032x}"
    members = tuple(
        Instance(f"{number:016x}{rank:016x}", uuid, node(rank, cpu_num=cpus)) for rank, cpus in enumerate(sizes)
    )
    return replace(a_group(1, uuid), instances=members, ends_at=ends_at, created_at=number)


def fleet(count: int = HOSTS) -> dict[str, FleetHost]:
    size = {"vcpu": CPUS, "memory": 64 << 30}
    made = (
        host(n, status=HostStatus.CONNECTED, state=HostState.ENABLED, total=size, allocatable=size)
        for n in range(1, count + 1)
    )
    return {one.uuid: one for one in made}


@dataclass
class Trace:
    """A fleet, who runs on it until when, and who waits, in order; `now`: ms. `keeps`: whether room is kept at all."""

    hosts: dict[str, FleetHost]
    keeps: bool = True
    now: int = 0
    running: dict[str, tuple[Group, int]] = field(default_factory=dict)
    line: list[Group] = field(default_factory=list)
    lasts: dict[str, int] = field(default_factory=dict)
    began: dict[str, int] = field(default_factory=dict)
    promised: dict[str, int] = field(default_factory=dict)

    def snapshot(self) -> Snapshot:
        seated: dict[str, list[tuple[str, str, bool]]] = {}
        for one, _ in self.running.values():
            for m in one.instances:
                seated.setdefault(m.host_uuid, []).append((m.uuid, one.uuid, False))
        return translate.snapshot(self.hosts, seated)

    def comes(self, one: Group, lasts: int) -> None:
        self.line.append(one)
        self.lasts[one.uuid] = lasts
        self.looks()

    def goes_on_to(self, now: int) -> None:
        """Until then, with everybody gone whose time has come, and all looked at each time; each ten minutes too."""
        while True:
            ends = [end for _, end in self.running.values()]
            at = min([*(end for end in ends if end > self.now), now, self.now + 10 * MINUTE])
            self.now = at
            for uuid in [uuid for uuid, (_, end) in self.running.items() if end <= at]:
                self._takes(self.running.pop(uuid)[0], -1)
            self.looks()
            if at == now:
                return

    def looks(self) -> None:
        for number, one in enumerate(tuple(self.line)):
            if one.uuid in self.began:
                continue
            ahead = [w for w in self.line[:number] if w.uuid not in self.began]
            stored = next(w for w in self.line if w.uuid == one.uuid)
            self._look(stored, ahead)
        self.line = [w for w in self.line if w.uuid not in self.began]

    def _look(self, one: Group, ahead: list[Group]) -> None:
        """What `reconcile.placing` does, without its transactions."""
        everything, kept = self.snapshot(), self._kept(ahead)
        narrowed, closed = backfill.open_to(one, kept, everything, self.hosts)
        asked = translate.request(one, narrowed, self.hosts)
        decision = place(narrowed, replace(asked, excluded_hosts=closed), QUICK)
        if decision.status is Status.PLACED:
            self._begins(one, decision)
            return
        waiting = one.waiting or Waiting(until=1 << 50, since=max(1, self.now))
        starts_at, room = 0, None
        if self.keeps and first_for_hosts(self._waiters(ahead)):
            starts_at, found = asyncio.run(foresight.earliest(self._times(), lambda at: self._fits(one, at)))
            if found is not None:
                room = KeptRoom(backfill.seats(one, found.assignments, self.hosts), starts_at)
                before = self.promised.setdefault(one.uuid, starts_at)
                assert starts_at <= before, "whoever came meanwhile has delayed its proven start"
            if long_enough(waiting, starts_at, self.now):
                room = self._by_age(one, waiting, everything)
        told = replace(
            waiting, kept=room, starts_at=starts_at, promised_at=waiting.promised_at or starts_at,
            failure=Failure("NO_CAPACITY", "full"),
        )  # fmt: skip
        self.line[self.line.index(one)] = replace(one, waiting=told)

    def _by_age(self, one: Group, waiting: Waiting, everything: Snapshot) -> KeptRoom | None:
        before = waiting.kept
        if before is not None and not before.starts_at and backfill.still_there(before, one, self.hosts):
            return before
        others = [leaving(other, everything, self.hosts) for other, _ in self.running.values()]
        plan = evict(everything, translate.request(one, everything, self.hosts), others, QUICK)
        assert plan.placed is not None
        return KeptRoom(backfill.seats(one, plan.placed.assignments, self.hosts))

    def _waiters(self, ahead: list[Group]) -> list[Waiter]:
        return [
            Waiter(g.uuid, g.project, g.created_at, why=g.waiting.failure.code, kept=g.waiting.kept is not None)
            for g in ahead
            if g.waiting is not None and g.waiting.failure is not None
        ]

    def _kept(self, ahead: list[Group]) -> Kept | None:
        first = keeper(self._waiters(ahead))
        if first is None:
            return None
        holder = next(g for g in ahead if g.uuid == first.uuid)
        assert holder.waiting is not None
        assert holder.waiting.kept is not None
        at = holder.waiting.kept.starts_at
        going = [g for g, _ in self.running.values() if self.now < g.ends_at <= at]
        return Kept(holder, holder.waiting.kept, going)

    def _times(self) -> list[int]:
        return list(foresight.times({g.uuid: g.ends_at for g, _ in self.running.values()}, self.now))

    async def _fits(self, one: Group, at: int) -> Decision:
        going = [g for g, _ in self.running.values() if self.now < g.ends_at <= at]
        later = foresight.without(self.snapshot(), self.hosts, going)
        return place(later, translate.request(one, later, self.hosts), QUICK)

    def _begins(self, one: Group, decision: Decision) -> None:
        where = {a.node: a.host for a in decision.assignments}
        seated = tuple(
            replace(m, host_uuid=where[m.uuid], zone_uuid=m.spec.zone_uuid, status=InstanceStatus.RUNNING)
            for m in one.instances
        )
        placed = replace(one, instances=seated)
        self._takes(placed, 1)
        self.began[one.uuid] = self.now
        self.running[one.uuid] = (placed, self.now + self.lasts[one.uuid])

    def _takes(self, one: Group, sign: int) -> None:
        for m in one.instances:
            there = self.hosts[m.host_uuid]
            used = {name: there.used.get(name, 0) + sign * n for name, n in translate.demand(m.spec).items()}
            assert all(used[name] <= there.allocatable[name] for name in used), "more is taken than there is"
            self.hosts[m.host_uuid] = replace(there, used=used)


def arrivals(seed: int, longest: int, *, end_said: bool) -> Iterator[tuple[int, Group, int]]:
    """(when, who, for how long): small groups, so many that the fleet is never without them."""
    dice, now = random.Random(seed), 0
    for number in range(1, 60):
        now += dice.randint(2 * MINUTE, 4 * MINUTE)
        lasts = dice.randint(longest // 2, longest)
        sizes = dice.choice(((2,), (2, 2), (3,), (4,)))
        yield now, group(number, sizes, ends_at=now + 2 * longest if end_said else 0), lasts


LARGE = (CPUS, CPUS)
LONGEST = 30 * MINUTE
ARRIVES = 12


def run(seed: int, *, keeps: bool, end_said: bool) -> tuple[Trace, str]:
    """A trace into which a group comes that needs half of all hosts, whole."""
    trace = Trace(fleet(), keeps)
    large = group(1000 + seed, LARGE)
    for number, (at, one, lasts) in enumerate(arrivals(seed, LONGEST, end_said=end_said)):
        trace.goes_on_to(at)
        if number == ARRIVES:
            trace.comes(large, LONGEST)
        # It says a time that it keeps: it is gone by then, most often earlier.
        trace.comes(replace(one, ends_at=at + 4 * LONGEST) if one.ends_at else one, lasts)
    return trace, large.uuid


@pytest.mark.parametrize("seed", range(2))
def test_nobody_has_said_when_he_goes_and_it_waits_no_longer_than_the_longest_stays(seed: int) -> None:
    trace, large = run(seed, keeps=True, end_said=False)
    assert large in trace.began, "it has never begun"
    assert trace.began[large] - _arrived(seed) <= KEPT_AFTER_MS + 10 * MINUTE + LONGEST


@pytest.mark.parametrize("seed", range(2))
def test_it_begins_by_its_first_proven_start_however_many_pass_it(seed: int) -> None:
    trace, large = run(seed, keeps=True, end_said=True)
    assert trace.began[large] <= trace.promised[large]
    passed = [uuid for uuid, at in trace.began.items() if _arrived(seed) < at < trace.began[large] and uuid != large]
    assert passed, "others use what it does not need"


def test_without_it_the_large_one_starves() -> None:
    """The planted bug: the same trace, and nothing is kept."""
    waits = []
    for seed in range(2):
        trace, large = run(seed, keeps=False, end_said=False)
        waits.append(trace.began.get(large, trace.now) - _arrived(seed))
    assert max(waits) > KEPT_AFTER_MS + 10 * MINUTE + LONGEST


def _arrived(seed: int) -> int:
    return [at for at, _, _ in arrivals(seed, LONGEST, end_said=False)][ARRIVES]


def filled() -> tuple[dict[str, FleetHost], Snapshot, Group, Group]:
    """Two hosts, each half full of a group that goes at 100 and one that stays; and who waits for a whole one."""
    trace = Trace(fleet(2))
    one, two = group(1, (6,), ends_at=100), group(2, (2, 6))
    where = {one.instances[0].uuid: 1, two.instances[0].uuid: 1, two.instances[1].uuid: 2}
    for g in (one, two):
        seated = (
            replace(m, host_uuid=f"{where[m.uuid]:032x}", zone_uuid=ZONE, status=InstanceStatus.RUNNING)
            for m in g.instances
        )
        placed = replace(g, instances=tuple(seated))
        trace.running[g.uuid] = (placed, 1000)
        trace._takes(placed, 1)
    return trace.hosts, trace.snapshot(), trace.running[one.uuid][0], group(3, (5,))


def kept_on_first(waiter: Group, going: Group | None) -> Kept:
    seat = KeptSeat(waiter.instances[0].uuid, f"{1:032x}")
    return Kept(waiter, KeptRoom((seat,), 100 if going else 0), (going,) if going else ())


def fits(candidate: Group, kept: Kept, hosts: dict[str, FleetHost], snapshot: Snapshot) -> bool:
    narrowed, closed = backfill.open_to(candidate, kept, snapshot, hosts)
    asked = replace(translate.request(candidate, narrowed, hosts), excluded_hosts=closed)
    return place(narrowed, asked, QUICK).status is Status.PLACED


def test_whoever_is_gone_by_then_may_have_all_of_it() -> None:
    hosts, snapshot, going, waiter = filled()
    hosts[f"{1:032x}"] = replace(hosts[f"{1:032x}"], used={"vcpu": 6, "memory": 0})
    snapshot = snapshot.updated([replace(h, used={"vcpu": 6}) for h in snapshot.hosts if h.id == f"{1:032x}"])
    kept = kept_on_first(replace(waiter, instances=(replace(waiter.instances[0], spec=node(0, cpu_num=8)),)), going)
    short = replace(group(4, (2,)), ends_at=100)
    hosts[f"{2:032x}"] = replace(hosts[f"{2:032x}"], state=HostState.DISABLED)
    snapshot = snapshot.updated([replace(h, schedulable=False) for h in snapshot.hosts if h.id == f"{2:032x}"])
    assert fits(short, kept, hosts, snapshot)
    assert not fits(replace(short, ends_at=101), kept, hosts, snapshot)
    assert not fits(replace(short, ends_at=0), kept, hosts, snapshot)


def test_what_is_left_beside_the_kept_seats_may_be_used_and_no_more() -> None:
    hosts, snapshot, going, waiter = filled()
    kept = kept_on_first(waiter, going)
    assert fits(group(4, (2,)), kept, hosts, snapshot), "on the other host"
    assert not fits(group(4, (2, 2)), kept, hosts, snapshot), "at 100 there are 8 - 2 - 5 on the first"
    by_age = kept_on_first(waiter, None)
    assert fits(group(4, (2,)), by_age, hosts, snapshot)
    assert not fits(group(4, (1, 2)), by_age, hosts, snapshot)


def test_a_rule_between_the_two_closes_the_hosts() -> None:
    hosts, snapshot, going, waiter = filled()
    kept = kept_on_first(waiter, going)
    candidate = group(4, (1,))
    shy = replace(candidate.spec, placement=PlacementPolicy(anti_affinity_groups=(waiter.uuid,)))
    _, closed = backfill.open_to(replace(candidate, spec=shy), kept, snapshot, hosts)
    assert closed == {f"{1:032x}"}
    alone = replace(waiter, spec=replace(waiter.spec, placement=PlacementPolicy(exclusive_hosts=True)))
    narrowed, _ = backfill.open_to(candidate, kept_on_first(alone, going), snapshot, hosts)
    assert any(m.exclusive for h in narrowed.hosts for m in h.members)


def test_seats_of_a_closed_host_are_chosen_anew() -> None:
    hosts, _, _, waiter = filled()
    room = KeptRoom((KeptSeat(waiter.instances[0].uuid, f"{1:032x}"),))
    assert backfill.still_there(room, waiter, hosts)
    hosts[f"{1:032x}"] = replace(hosts[f"{1:032x}"], state=HostState.DISABLED)
    assert not backfill.still_there(room, waiter, hosts)
    assert not backfill.still_there(KeptRoom(()), waiter, hosts)


def test_devices_that_a_kept_seat_wants_together_are_left_free_where_they_stand() -> None:
    """A host has two devices in each of two cells, and who is first in line is to have both of one: somebody behind him
    gets both of the other, and not one of each."""
    cells = tuple(
        Cell(number, amounts, amounts) for number, amounts in ((n, {"vcpu": 8, "memory": 32 << 30}) for n in (0, 1))
    )
    size = {"vcpu": 16, "memory": 64 << 30, "gpu.h100": 4}
    there = host(1, status=HostStatus.CONNECTED, state=HostState.ENABLED, total=size, allocatable=size, cells=cells)
    cards = [
        Device(there.uuid, f"0000:{n:02x}:00.0", "h100", (), n % 2, n, "", Clean.RESET, DeviceState.AVAILABLE)
        for n in range(4)
    ]
    hosts = {there.uuid: there}
    fleet_now = translate.snapshot(hosts, {}, devices={there.uuid: cards})

    def wants(number: int, policy: NumaPolicy, *counts: int) -> Group:
        made = group(number, (1,) * len(counts))
        members = (
            replace(m, spec=replace(m.spec, gpus=(GpuRequest("h100", count),)))
            for m, count in zip(made.instances, counts, strict=True)
        )
        spec = replace(made.spec, placement=PlacementPolicy(numa=policy))
        return replace(made, instances=tuple(members), spec=spec)

    first = wants(1, NumaPolicy.REQUIRED, 2)
    placed = place(fleet_now, translate.request(first, fleet_now, hosts), QUICK)
    kept = Kept(first, KeptRoom(backfill.seats(first, placed.assignments, hosts)))
    for behind, fits in (
        (wants(2, NumaPolicy.REQUIRED, 2), True),
        (wants(3, NumaPolicy.REQUIRED, 1, 1), True),
        (wants(4, NumaPolicy.REQUIRED, 2, 1), False),
        (wants(5, NumaPolicy.NONE, 2), True),
    ):
        narrowed, closed = backfill.open_to(behind, kept, fleet_now, hosts)
        assert not closed
        found = place(narrowed, translate.request(behind, narrowed, hosts), QUICK)
        assert (found.status is Status.PLACED) is fits
        pools = narrowed.hosts[0].pools
        assert sorted(pool.free for pool in pools) == [0, 2]
        if fits and behind.spec.placement.numa is NumaPolicy.REQUIRED:
            other = {cell for one in found.assignments for cell in one.cells}
            assert other.isdisjoint(cell for one in placed.assignments for cell in one.cells)


def test_devices_that_are_booked_count_as_taken_where_their_member_will_be() -> None:
    """Two of each cell, and two are booked by a member that is pinned to the second one: those of the first are left;
    with nobody known to come, of each that has the most."""
    cells = tuple(Cell(number, {"vcpu": 8, "memory": 32 << 30}, {"vcpu": 8, "memory": 32 << 30}) for number in (0, 1))
    size = {"vcpu": 16, "memory": 64 << 30, "gpu.h100": 4}
    there = host(1, total=size, allocatable=size, cells=cells, booked={"gpu.h100": 2})
    cards = [
        Device(there.uuid, f"0000:{n:02x}:00.0", "h100", (), n % 2, n, "", Clean.RESET, DeviceState.AVAILABLE)
        for n in range(4)
    ]
    for pinned, free in (({"f" * 32: (1,)}, [2, 0]), ({}, [0, 2])):
        pools, _ = devices.pools(there, cards, pinned)
        assert [pool.free for pool in pools] == free
    leaving = [replace(card, instance_uuid="e" * 32, state=DeviceState.CLAIMED) for card in cards[:3]]
    pools, holds = devices.pools(there, [*leaving, cards[3]], {"e" * 32: (0,), "f" * 32: (1,)})
    assert ([pool.free for pool in pools], holds) == ([0, 0], {"e" * 32: ((0, 2), (1, 1))})
