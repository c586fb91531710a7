"""Exhaustive search over tiny fleets, written from the rules' definitions alone: what the planner is compared with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import combinations

from placement.check import check
from placement.constraints import AtMost, Constraint, Near, Prefer, SpareHosts, SpreadOver, Together, Within
from placement.model import Assignment, Decision, Host, Node, Proof, Request, Snapshot, Status, Strategy
from placement.problem.scoring import RoomValue


def _domain(host: Host, scope: str) -> str:
    return {"host": host.id, "rack": host.rack or f"alone {host.id}", "zone": host.zone}[scope]


class Brute:
    """Every placement of a request, by depth-first search that prunes by nothing but what each host takes."""

    def __init__(self, snapshot: Snapshot, request: Request) -> None:
        self.snapshot, self.request = snapshot, request
        self.nodes = [node for node in request.nodes for _ in range(node.count)]
        self.need = [(node, dict(node.demand)) for node in self.nodes]

    def placements(
        self, index: int = 0, done: tuple[tuple[Node, Host, tuple[int, ...]], ...] = ()
    ) -> Iterator[tuple[tuple[Node, Host, tuple[int, ...]], ...]]:
        """All placements of the whole gang that fit the hosts one by one."""
        if index == len(self.nodes):
            yield done
            return
        node = self.nodes[index]
        for host in self.snapshot.hosts:
            # Alike copies are interchangeable: the later copy never goes to an earlier host.
            if index and self.nodes[index - 1] is node and host.id < done[-1][1].id:
                continue
            for cells in combinations(range(len(host.cells)), node.cells):
                if self._fits(host, [*((n, c) for n, h, c in done if h is host), (node, cells)]):
                    yield from self.placements(index + 1, (*done, (node, host, cells)))

    def _fits(self, host: Host, arrivals: list[tuple[Node, tuple[int, ...]]]) -> bool:
        if not host.schedulable or host.id in self.request.excluded_hosts:
            return False
        strangers = [member for member in host.members if member.id not in self.request.staying]
        if any(member.exclusive for member in strangers):
            return False
        node = arrivals[-1][0]
        if node.zone not in (None, host.zone):
            return False
        if any(host.labels.get(key) not in allowed for key, allowed in node.host_labels.items()):
            return False
        if node.exclusive and strangers:
            return False
        total: Counter[str] = Counter()
        pinned: dict[int, Counter[str]] = {number: Counter() for number in range(len(host.cells))}
        named = {name for cell in host.cells for name in cell.capacity}
        for n, cells in arrivals:
            total.update(n.demand)
            for number in cells:
                pinned[number].update({k: -(-v // n.cells) for k, v in n.demand.items() if k in named})
        if any(v > host.free(k) for k, v in total.items() if v):
            return False
        if any(n.devices for n, _ in arrivals) and not _served(host, _asked(arrivals), [p.free for p in host.pools]):
            return False
        return all(
            v <= max(0, host.cells[number].capacity.get(k, 0) - host.cells[number].used.get(k, 0))
            for number, need in pinned.items()
            for k, v in need.items()
        )

    def missed(self, rule: Constraint, placement: tuple[tuple[Node, Host, tuple[int, ...]], ...]) -> int:
        """By how much a rule is missed."""
        if isinstance(rule, SpareHosts):
            landed = {host.id for _, host, _ in placement}
            spare = [h for h in self.snapshot.hosts if h.schedulable and h.empty and h.id not in landed]
            return max(0, rule.count - len(spare))
        if isinstance(rule, Prefer):
            elsewhere = [n for n, host, _ in placement if host.labels.get(rule.key) not in rule.values]
            return sum(part_of(rule, node.id, dict(node.labels), True) for node in elsewhere)
        new: Counter[tuple[str, int]] = Counter()
        old: Counter[tuple[str, int]] = Counter()
        for node, host, _ in placement:
            new[_domain(host, rule.scope), part_of(rule, node.id, dict(node.labels), True)] += 1
        for host in self.snapshot.hosts:
            for member in host.members:
                part = part_of(rule, member.id, dict(member.labels), member.id in self.request.staying)
                old[_domain(host, rule.scope), part] += 1
        return missed_by(rule, new, old, {domain for domain, _ in (*new, *old)})

    def best(self, value: RoomValue | None = None) -> tuple[int, int] | None:
        """The least (penalty, objective), None when nothing fits."""
        best: tuple[int, int] | None = None
        for placement in self.placements():
            misses = [(rule, self.missed(rule, placement)) for rule in self.request.constraints]
            if any(missed and rule.weight is None for rule, missed in misses):
                continue
            penalty = sum(missed * (rule.weight or 0) for rule, missed in misses)
            found = (penalty, self.objective(placement, value))
            if best is None or found < best:
                best = found
        return best

    def objective(self, placement: tuple[tuple[Node, Host, tuple[int, ...]], ...], value: RoomValue | None) -> int:
        """The strategy's objective, from its definition."""
        hosts: Counter[str] = Counter(host.id for _, host, _ in placement)
        strategy = self.request.strategy
        if strategy is Strategy.FEWEST_HOSTS:
            return len(hosts)
        if strategy is Strategy.SPREAD:
            return sum(n * n for n in hosts.values())
        if strategy is Strategy.CLOSE:
            racks = {_domain(host, "rack") for _, host, _ in placement}
            return len(racks) * (len(self.nodes) + 1) + len(hosts)
        assert value is not None
        lost = 0
        for host in {h.id: h for _, h, _ in placement}.values():
            before = {name: host.free(name) for name in value.names}
            after = dict(before)
            for node, where, _ in placement:
                if where is host:
                    for name in value.names:
                        after[name] -= node.demand.get(name, 0)
            lost += worth_of(value, before) - worth_of(value, after)
        return lost


def _asked(arrivals: list[tuple[Node, tuple[int, ...]]]) -> list[tuple[str, int, bool, bool, tuple[int, ...]]]:
    """(model, how many, of the node's own cells, of one partition, those cells): what stands together comes first."""
    together = [(d.resource, d.count, d.local, d.joint, cells) for n, cells in arrivals for d in n.devices]
    loose = []
    for n, _ in arrivals:
        for name in {d.resource for d in n.devices} | {k for k in n.demand if k.startswith("gpu")}:
            rest = n.demand.get(name, 0) - sum(d.count for d in n.devices if d.resource == name)
            if rest > 0:
                loose.append((name, rest, False, False, ()))
    return together + loose


def _served(host: Host, asked: list[tuple[str, int, bool, bool, tuple[int, ...]]], free: list[int]) -> bool:
    """Whether each gets its devices, by trying every split over the host's pools."""
    if not asked:
        return True
    (resource, count, local, joint, cells), rest = asked[0], asked[1:]
    fitting = [n for n, p in enumerate(host.pools) if p.resource == resource and (not local or p.cell in cells)]
    if not any(p.resource == resource for p in host.pools) and not (local or joint):
        return _served(host, rest, free)  # the host counts them without saying where they are
    groups = [fitting]
    if joint:
        names = {host.pools[n].partition for n in fitting} - {""}
        groups = [[n for n in fitting if host.pools[n].partition == name] for name in sorted(names)]
    return any(
        _served(host, rest, [f - split.get(n, 0) for n, f in enumerate(free)])
        for group in groups
        for split in _splits(group, count, free)
    )


def _splits(pools: list[int], count: int, free: list[int]) -> Iterator[dict[int, int]]:
    if not pools:
        if not count:
            yield {}
        return
    for taken in range(min(count, free[pools[0]]) + 1):
        for split in _splits(pools[1:], count - taken, free):
            yield {pools[0]: taken, **split}


def part_of(rule: Constraint, identity: str, labels: dict[str, str], own: bool) -> int:
    """1 for the rule's first part, 2 for its second, 0 for neither."""
    names = ("first", "second") if hasattr(rule, "first") else ("select",)
    for number, name in enumerate(names, 1):
        selector = getattr(rule, name)
        if not selector.nodes and not selector.labels:
            picked = own
        else:
            picked = (own and identity in selector.nodes) or (
                bool(selector.labels) and all(labels.get(k) == v for k, v in selector.labels.items())
            )
        if picked:
            return number
    return 0


def missed_by(rule: Constraint, new: Counter[tuple[str, int]], old: Counter[tuple[str, int]], domains: set[str]) -> int:
    """The definition of each rule, domain by domain: (domain, part) -> how many are new or old there."""
    if isinstance(rule, AtMost):
        return sum(min(new[d, 1], max(0, new[d, 1] + old[d, 1] - rule.limit)) for d in domains)
    if isinstance(rule, Together):
        strangers = sum(1 for d in domains if new[d, 1] and not old[d, 1])
        return strangers if any(old[d, 1] for d in domains) else max(0, strangers - 1)
    if isinstance(rule, SpreadOver):
        return max(0, rule.minimum - sum(1 for d in domains if new[d, 1] or old[d, 1]))
    if isinstance(rule, Within):
        settled = sum(1 for d in domains if old[d, 1])
        return max(0, sum(1 for d in domains if new[d, 1] and not old[d, 1]) - max(0, rule.maximum - settled))
    if isinstance(rule, Near):
        return sum(1 for d in domains if new[d, 1] and not new[d, 2] and not old[d, 2])
    return sum(1 for d in domains if (new[d, 1] or old[d, 1]) and (new[d, 2] or old[d, 2]) and (new[d, 1] or new[d, 2]))


def worth_of(value: RoomValue, room: dict[str, int]) -> int:
    """The worth of the best multiset of flavours in a room, by every room that is left on the way, in whole units."""
    sizes = [tuple(-(-int(s) // int(u)) for s, u in zip(row, value.unit, strict=True)) for row in value.flavours]
    worth = [int(w) for w in value.worth]

    known: dict[tuple[int, ...], int] = {}

    def best(whole: tuple[int, ...]) -> int:
        open_rooms = [whole]
        while open_rooms:
            cells = open_rooms[-1]
            after = [tuple(c - s for c, s in zip(cells, size, strict=True)) for size in sizes]
            smaller = [(left, gain) for left, gain in zip(after, worth, strict=True) if min(left) >= 0]
            asked = [left for left, _ in smaller if left not in known]
            if not asked:
                known[cells] = max((known[left] + gain for left, gain in smaller), default=0)
                open_rooms.pop()
            open_rooms += asked
        return known[whole]

    if not value.names:
        return 0
    return best(tuple(room[name] // int(unit) for name, unit in zip(value.names, value.unit, strict=True)))


def assert_right(snapshot: Snapshot, request: Request, decision: Decision) -> None:
    """The decision passes the independent check."""
    assert check(snapshot, request, decision) == ()
    assert all(isinstance(a, Assignment) for a in decision.assignments)
    if decision.status is Status.INFEASIBLE:
        assert decision.proof is Proof.INFEASIBLE
