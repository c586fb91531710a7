"""An independent verifier of a roll: carries its batches out move by move, and asks ``placement.check``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from placement.check import Violation
from placement.model import Proof, Snapshot, Status
from placement.modes.moves import Neighbours
from placement.modes.plans import Batch, Roll
from placement.modes.rebalance_check import Count, after_move, seat_violations, sized


def check_roll(
    snapshot: Snapshot, groups: Sequence[Neighbours], hosts: Sequence[str], at_once: int, plan: Roll
) -> tuple[Violation, ...]:
    """All that is wrong with a plan; empty when it is right.

    Each host is emptied once, in batches that are not too large; nobody goes to a host of the batch; each move finds
    room while all before it of its batch are still on both ends; after a batch its hosts are empty, and no more rules
    are broken than before.
    """
    return tuple(_violations(snapshot, groups, hosts, at_once, plan))


def _violations(
    snapshot: Snapshot, groups: Sequence[Neighbours], hosts: Sequence[str], at_once: int, plan: Roll
) -> Iterator[Violation]:
    emptied = [host for batch in plan.batches for host in batch.hosts]
    if sorted([*emptied, *plan.left]) != sorted(hosts):
        yield Violation("hosts", "a host is emptied twice, or not told of")
    if any(not 1 <= len(batch.hosts) <= at_once for batch in plan.batches):
        yield Violation("at_once", f"a batch has no host, or more than {at_once}")
    placed = plan.status is Status.PLACED
    if placed == bool(plan.left) and hosts:
        yield Violation("status", f"{plan.status.value} with {len(plan.left)} hosts left")
    if placed and (plan.proof is Proof.OPTIMAL) != (len(plan.moves) == plan.least_moves):
        yield Violation("proof", f"{plan.proof.value}: {len(plan.moves)} moves, at least {plan.least_moves}")
    if placed and len(plan.moves) < plan.least_moves:
        yield Violation("bound", f"{len(plan.moves)} moves are fewer than {plan.least_moves}")
    yield from _carried_out(snapshot, groups, plan.batches)


def _carried_out(snapshot: Snapshot, groups: Sequence[Neighbours], batches: Sequence[Batch]) -> Iterator[Violation]:
    owner = {node.id: group for group in groups for node in group.nodes}
    nodes = {node.id: node for group in groups for node in group.nodes}
    now = {host.id: sized(host, nodes) for host in snapshot.hosts}
    count = Count(now, groups)
    for batch in batches:
        broken, held = count.total, dict(now)
        for move in batch.moves:
            if count.where.get(move.member) != move.source or move.source not in batch.hosts:
                yield Violation("moves", f"{move.member} is not on {move.source}, or that is not emptied")
                return
            if move.target in batch.hosts or move.member not in owner:
                yield Violation(
                    "moves", f"{move.member} goes to {move.target}, which is being emptied, or may not move"
                )
                return
            yield from seat_violations(held, count.where, owner[move.member], nodes[move.member], move)
            now, held = after_move(now, held, move)
            count.move(move, now)
        if count.total > broken:
            yield Violation("broken", f"{count.total} once {batch.hosts} are empty, {broken} before")
        for host in batch.hosts:
            if any(member.id in owner for member in now[host].members):
                yield Violation("empty", f"somebody is still on {host}")
