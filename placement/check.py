"""An independent verifier of any Decision, in plain Python.

Shares nothing with the planner but the data and what each strategy means, so that a planner's mistake cannot hide here.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from placement.constraints import (
    Apart,
    AtMost,
    Constraint,
    Near,
    Prefer,
    Scope,
    Selector,
    SpareHosts,
    SpreadOver,
    Together,
    Within,
)
from placement.model import (
    Assignment,
    Decision,
    Devices,
    Host,
    Node,
    Proof,
    Request,
    Snapshot,
    Status,
)
from placement.strategy import Term, objective


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing wrong with a decision: ``rule`` is a stable word, ``message`` names what breaks it."""

    rule: str
    message: str


def check(snapshot: Snapshot, request: Request, decision: Decision) -> tuple[Violation, ...]:
    """All violations of a decision, empty when it is right.

    Recomputes feasibility, the penalty and every objective but ``least_lost_value`` (whose value table only tests
    recompute), and that bounds and proof agree with one another.
    """
    return tuple(_violations(snapshot, request, decision))


def missed(snapshot: Snapshot, request: Request, decision: Decision) -> int:
    """By how much the request's rules are missed where its nodes are assigned to, capacity, zones and wishes aside."""
    nodes = {node.id: node for node in request.nodes}
    hosts = {host.id: host for host in snapshot.hosts}
    landed: dict[str, list[tuple[Node, Assignment]]] = defaultdict(list)
    for assignment in decision.assignments:
        landed[assignment.host].append((nodes[assignment.node], assignment))
    total = sum(_missed(rule, snapshot, request, landed) for rule in request.constraints if rule.weight is None)
    for host_id, arrivals in landed.items():
        host = hosts[host_id]
        strangers = [member for member in host.members if member.id not in request.staying]
        for node, assignment in arrivals:
            alone = node.exclusive or any(member.exclusive for member in strangers)
            total += bool(strangers) and alone
            total += any(host.labels.get(key) not in allowed for key, allowed in node.host_labels.items())
            total += bool(node.cells) and len(assignment.cells) != node.cells
    return total


def _violations(snapshot: Snapshot, request: Request, decision: Decision) -> Iterator[Violation]:
    if decision.status is not Status.PLACED:
        yield from _unplaced(decision)
        return
    nodes = {node.id: node for node in request.nodes}
    hosts = {host.id: host for host in snapshot.hosts}
    unknown = [a for a in decision.assignments if a.node not in nodes or a.host not in hosts]
    if unknown:
        yield from (Violation("unknown", f"{assignment.node} on {assignment.host}") for assignment in unknown)
        return
    yield from _counts(request, decision)
    landed: dict[str, list[tuple[Node, Assignment]]] = defaultdict(list)
    for assignment in decision.assignments:
        landed[assignment.host].append((nodes[assignment.node], assignment))
    for host_id, arrivals in landed.items():
        yield from _host(hosts[host_id], arrivals, request)
    penalty = 0
    for position, constraint in enumerate(request.constraints):
        missed = _missed(constraint, snapshot, request, landed)
        if missed and constraint.weight is None:
            yield Violation("constraint", f"{type(constraint).__name__} at {position} is missed by {missed}")
        penalty += missed * (constraint.weight or 0)
    if penalty != decision.penalty:
        yield Violation("penalty", f"is {penalty}, stated {decision.penalty}")
    yield from _bounds(decision, _objective(hosts, request, decision, landed))


def _unplaced(decision: Decision) -> Iterator[Violation]:
    if decision.assignments:
        yield Violation("status", f"{decision.status} with assignments")
    if decision.status is Status.INFEASIBLE and decision.explanation is None:
        yield Violation("explanation", "infeasible without an explanation")
    if (decision.status is Status.INFEASIBLE) != (decision.proof is Proof.INFEASIBLE):
        yield Violation("proof", f"{decision.status} with proof {decision.proof}")


def _counts(request: Request, decision: Decision) -> Iterator[Violation]:
    placed = Counter(assignment.node for assignment in decision.assignments)
    unplaced = Counter(decision.unplaced)
    if unplaced and not decision.max_placed:
        yield Violation("count", f"{len(decision.unplaced)} nodes are left out of an all-or-nothing gang")
    for node in request.nodes:
        if placed[node.id] + unplaced[node.id] != node.count:
            yield Violation("count", f"{node.id}: {placed[node.id]} of {node.count} placed")


def _host(host: Host, arrivals: list[tuple[Node, Assignment]], request: Request) -> Iterator[Violation]:
    if not host.schedulable:
        yield Violation("schedulable", host.id)
    if host.id in request.excluded_hosts:
        yield Violation("excluded", host.id)
    strangers = [member for member in host.members if member.id not in request.staying]
    if any(member.exclusive for member in strangers):
        yield Violation("exclusive", f"{host.id} belongs to an exclusive member")
    need: Counter[str] = Counter()
    cell_need: list[Counter[str]] = [Counter() for _ in host.cells]
    for node, assignment in arrivals:
        yield from _wishes(host, node, bool(strangers))
        need.update(node.demand)
        yield from _cells(node, assignment, host, cell_need)
    yield from _room(host.id, need, host.capacity, host.used)
    for number, cell in enumerate(host.cells):
        yield from _room(f"{host.id} cell {number}", cell_need[number], cell.capacity, cell.used)
    if any(node.devices for node, _ in arrivals):
        yield from _devices(host, arrivals)


def _room(
    where: str, need: Mapping[str, int], capacity: Mapping[str, int], used: Mapping[str, int]
) -> Iterator[Violation]:
    for name, amount in need.items():
        if amount and amount + used.get(name, 0) > capacity.get(name, 0):
            yield Violation("capacity", f"{where} {name}: {amount} is more than what is free")


def _wishes(host: Host, node: Node, strangers: bool) -> Iterator[Violation]:
    if node.zone is not None and node.zone != host.zone:
        yield Violation("zone", f"{node.id} wants {node.zone}, {host.id} is in {host.zone}")
    for key, allowed in node.host_labels.items():
        if host.labels.get(key) not in allowed:
            yield Violation("label", f"{node.id} wants {key}, {host.id} has {host.labels.get(key)}")
    if node.exclusive and strangers:
        yield Violation("exclusive", f"{node.id} shares {host.id} with members of other gangs")


def _cells(node: Node, assignment: Assignment, host: Host, need: list[Counter[str]]) -> Iterator[Violation]:
    chosen = assignment.cells
    if len(set(chosen)) != node.cells or len(chosen) != node.cells or any(c >= len(host.cells) for c in chosen):
        yield Violation("numa", f"{node.id} wants {node.cells} cells of {host.id}, has {chosen}")
        return
    named = {name for cell in host.cells for name in cell.capacity}
    for number in chosen:
        need[number].update({name: -(-amount // node.cells) for name, amount in node.demand.items() if name in named})


def _devices(host: Host, arrivals: list[tuple[Node, Assignment]]) -> Iterator[Violation]:
    """Whether each node has what it wants together, no pool is given out twice, and enough is left for the others."""
    taken: Counter[int] = Counter()
    models: Counter[str] = Counter()
    anything = 0
    for node, assignment in arrivals:
        got = Counter(dict(assignment.devices))
        if any(not 0 <= pool < len(host.pools) for pool in got) or not _served(node.devices, got, host, assignment):
            yield Violation("device", f"{node.id} does not get on {host.id} what it wants together")
            continue
        taken.update(got)
        for pool, count in got.items():
            models[host.pools[pool].resource] += count
        loose = Counter({name: amount for name, amount in node.demand.items() if name.split(".")[0] == "gpu"})
        loose["gpu"] -= sum(amount for name, amount in loose.items() if name != "gpu") if "gpu" in node.demand else 0
        for one in node.devices:
            loose[one.resource] -= one.count
        anything += loose.pop("gpu", 0)
        models.update(loose)
    for number, count in taken.items():
        if count > host.pools[number].free:
            yield Violation("device", f"{count} are taken of pool {number} of {host.id}, which has fewer")
    room = {name: host.free(name) for name in host.capacity if name.startswith("gpu.")}
    for name, count in models.items():
        if count > room.get(name, 0):
            yield Violation("device", f"{count} {name} of {host.id} are taken, which has fewer")
    if anything and anything > sum(room.values()) - sum(models.values()):
        yield Violation("device", f"{host.id} has not {anything} devices more")


def _served(wanted: Sequence[Devices], got: Counter[int], host: Host, assignment: Assignment) -> bool:
    """Whether a node's devices are just what its requests ask for, tried in every way."""
    if not wanted:
        return not +got
    one, rest = wanted[0], wanted[1:]
    for partition in {pool.partition for pool in host.pools} if one.joint else {""}:
        fitting = [
            number
            for number in got
            if host.pools[number].resource.startswith(one.resource)
            and (one.resource == "gpu" or host.pools[number].resource == one.resource)
            and (not one.local or host.pools[number].cell in assignment.cells)
            and (not one.joint or (partition and host.pools[number].partition == partition))
        ]
        for split in _splits(one.count, [got[number] for number in fitting]):
            if _served(rest, got - Counter(dict(zip(fitting, split, strict=True))), host, assignment):
                return True
    return False


def _splits(count: int, most: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Every way to take so many of amounts."""
    if not most:
        if not count:
            yield ()
        return
    for first in range(min(count, most[0]) + 1):
        for rest in _splits(count - first, most[1:]):
            yield (first, *rest)


def _domain(host: Host, scope: Scope) -> str:
    if scope is Scope.HOST:
        return host.id
    return host.rack_key if scope is Scope.RACK else host.zone


def _missed(
    constraint: Constraint,
    snapshot: Snapshot,
    request: Request,
    landed: dict[str, list[tuple[Node, Assignment]]],
) -> int:
    if isinstance(constraint, SpareHosts):
        spare = sum(1 for host in snapshot.hosts if host.schedulable and host.empty and host.id not in landed)
        return max(0, constraint.count - spare)
    if isinstance(constraint, Prefer):
        bearing = {host.id for host in snapshot.hosts if host.labels.get(constraint.key) in constraint.values}
        return sum(
            _picks(constraint.select, node.id, node.labels, True)
            for host_id, arrivals in landed.items()
            if host_id not in bearing
            for node, _ in arrivals
        )

    def count(selector: Selector, without: Selector | None = None) -> tuple[Counter[str], Counter[str]]:
        """New nodes and old members of each domain, of those that the selector picks."""
        new: Counter[str] = Counter()
        old: Counter[str] = Counter()
        for host in snapshot.hosts:
            domain = _domain(host, constraint.scope)
            for node, _ in landed.get(host.id, ()):
                if _picks(selector, node.id, node.labels, True) and not (
                    without and _picks(without, node.id, node.labels, True)
                ):
                    new[domain] += 1
            for member in host.members:
                own = member.id in request.staying
                if _picks(selector, member.id, member.labels, own) and not (
                    without and _picks(without, member.id, member.labels, own)
                ):
                    old[domain] += 1
        return new, old

    return _missed_in_domains(constraint, count)


def _picks(selector: Selector, identity: str, labels: object, own: bool) -> bool:
    if not selector.nodes and not selector.labels:
        return own
    if own and identity in selector.nodes:
        return True
    assert isinstance(labels, dict)
    return bool(selector.labels) and all(labels.get(key) == value for key, value in selector.labels.items())


def _missed_in_domains(
    constraint: AtMost | Together | Apart | Near | SpreadOver | Within,
    count: Callable[..., tuple[Counter[str], Counter[str]]],
) -> int:
    if isinstance(constraint, Apart | Near):
        new, old = count(constraint.first)
        new_second, old_second = count(constraint.second, constraint.first)
        second = set(new_second) | set(old_second)
        if isinstance(constraint, Near):
            return len(set(new) - second)
        changed = set(new) | set(new_second)
        return len((set(new) | set(old)) & second & changed)
    new, old = count(constraint.select)
    if isinstance(constraint, AtMost):
        return sum(min(new[domain], max(0, new[domain] + old[domain] - constraint.limit)) for domain in new)
    if isinstance(constraint, Together):
        return len(set(new) - set(old)) + (-1 if new and not old else 0)
    if isinstance(constraint, Within):
        return max(0, len(set(new) - set(old)) - max(0, constraint.maximum - len(set(old))))
    return max(0, constraint.minimum - len(set(new) | set(old)))


def _objective(
    hosts: dict[str, Host],
    request: Request,
    decision: Decision,
    landed: dict[str, list[tuple[Node, Assignment]]],
) -> int | None:
    """The objective as the table defines it, measured here; None where a term is not measured here."""
    measured = {
        Term.HOSTS: len(landed),
        Term.RACKS: len({hosts[host_id].rack_key for host_id in landed}),
        Term.SQUARES: sum(len(arrivals) ** 2 for arrivals in landed.values()),
        Term.NODES: len(decision.assignments),
    }
    wanted = objective(request.strategy, decision.max_placed)
    return wanted.total(request.size, measured) if wanted.terms.keys() <= measured.keys() else None


def _bounds(decision: Decision, found: int | None) -> Iterator[Violation]:
    stated = decision.objective
    if found is not None and stated != found:
        yield Violation("objective", f"is {found}, stated {stated}")
    lower, upper = decision.lower_bound, decision.upper_bound
    if stated is None or lower is None or upper is None or not lower <= stated <= upper:
        yield Violation("bounds", f"{lower} <= {stated} <= {upper} does not hold")
        return
    if decision.penalty_bound > decision.penalty:
        yield Violation("bounds", "the penalty is below its bound")
    closed = lower == upper and decision.penalty == decision.penalty_bound
    if closed != (decision.proof is Proof.OPTIMAL):
        yield Violation("proof", f"{decision.proof} with bounds {lower}, {upper}")
