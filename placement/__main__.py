"""Offline planner: ``python -m placement COMMAND``. Reads files, prints JSON or text; nothing else here touches files.

Commands: place, explain, check, replay, drain, roll, rebalance, gather, room. Exit status: 0 placed, right or the same;
1 not placed, wrong or different; 2 bad input; 3 unknown.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from placement import codec
from placement.check import check
from placement.engine import place
from placement.model import Cure, CureKind, Decision, Explanation, Request, Snapshot, Status
from placement.modes import rebalance_dump
from placement.modes.answered import answered
from placement.modes.capacity import room_for
from placement.modes.drain import drain, leaving
from placement.modes.gather import gather
from placement.modes.moves import Move, Neighbours, node_of
from placement.modes.plans import Goal, Limits
from placement.modes.rebalance import rebalance
from placement.modes.roll import roll
from placement.resources import InvalidPlacementInput
from placement.stop import Stop, never
from placement.strategy import objective

CODES = {Status.PLACED: 0, Status.INFEASIBLE: 1, Status.UNKNOWN: 3}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except InvalidPlacementInput as error:
        print(f"invalid input: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"cannot read {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m placement", description="Place a gang on a fleet, offline.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, text in (
        ("place", _place, "print the decision as JSON"),
        ("explain", _explain, "say in words where it goes or why it cannot"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("snapshot")
        command.add_argument("request")
        command.add_argument("--max-placed", action="store_true", help="as many nodes as possible, not all or nothing")
        command.add_argument("--seed", type=int, help="overrides the request's seed")
        command.add_argument("--deadline-ms", type=int, help="overrides the request's deadline")
        command.add_argument("--dump", help="also write snapshot, request, policy and decision to this file")
        command.set_defaults(run=run)
    command = commands.add_parser("check", help="verify a decision")
    for name in ("snapshot", "request", "decision"):
        command.add_argument(name)
    command.set_defaults(run=_check)
    command = commands.add_parser("replay", help="decide a dump again and compare")
    command.add_argument("dump")
    command.set_defaults(run=_replay)
    command = commands.add_parser("drain", help="where the movable members of some hosts go, as JSON")
    command.add_argument("snapshot")
    command.add_argument("host", nargs="+")
    command.set_defaults(run=_drain)
    command = commands.add_parser("roll", help="an order in which hosts are emptied some at a time, as JSON")
    command.add_argument("snapshot")
    command.add_argument("host", nargs="*", help="all open hosts where none is named")
    command.add_argument("--at-once", type=int, default=1, help="so many hosts at a time at most (default 1)")
    command.set_defaults(run=_roll)
    for name, run, text in (
        ("rebalance", _rebalance, "moves after which hosts are more evenly full, or more of them free, as JSON"),
        ("gather", _gather, "moves after which the free room is worth more, as JSON"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("snapshot")
        command.add_argument("--most-moves", type=int, default=10, help="no more moves than this (default 10)")
        command.set_defaults(run=run)
    commands.choices["rebalance"].add_argument(
        "--goal",
        type=Goal,
        choices=list(Goal),
        default=Goal.EVEN_LOAD,
        metavar="{" + ",".join(Goal) + "}",
        help="what for (default even_load)",
    )
    command = commands.add_parser("room", help="how many more nodes like the request's first one fit, as JSON")
    command.add_argument("snapshot")
    command.add_argument("request")
    command.set_defaults(run=_room)
    for name in ("drain", "roll", "rebalance", "gather", "room"):
        commands.choices[name].add_argument("--deadline-ms", type=int, help="end with what is known by then")
    return parser


def _read(path: str) -> Any:
    with open(path, "rb") as file:
        return codec.loads(file.read())


def _decide(options: argparse.Namespace) -> tuple[Snapshot, Request, Decision]:
    snapshot = codec.read_snapshot(_read(options.snapshot))
    request, policy, deadline = codec.read_request(_read(options.request))
    if options.seed is not None:
        policy = replace(policy, seed=options.seed)
    if options.deadline_ms is not None:
        deadline = options.deadline_ms
    policy = replace(policy, max_placed=options.max_placed)
    with _deadline(deadline) as stop:
        decision = place(snapshot, request, policy, stop)
    if options.dump:
        with open(options.dump, "w", encoding="utf-8") as file:
            file.write(codec.dumps(codec.write_dump(snapshot, request, policy, decision)) + "\n")
    return snapshot, request, decision


@contextmanager
def _deadline(milliseconds: int | None) -> Iterator[Stop]:
    """A stop that comes after so long; None: never."""
    if milliseconds is None:
        yield never
        return
    if milliseconds < 1:
        raise InvalidPlacementInput("deadline_ms", "must be positive")
    over = threading.Event()
    timer = threading.Timer(milliseconds / 1000, over.set)
    timer.daemon = True
    timer.start()
    try:
        yield over.is_set
    finally:
        timer.cancel()


def _place(options: argparse.Namespace) -> int:
    snapshot, request, decision = _decide(options)
    print(codec.dumps(codec.write_decision(decision)))
    return _verified(snapshot, request, decision)


def _explain(options: argparse.Namespace) -> int:
    snapshot, request, decision = _decide(options)
    print("\n".join(in_words(decision)))
    return _verified(snapshot, request, decision)


def _verified(snapshot: Snapshot, request: Request, decision: Decision) -> int:
    """The exit status of a decision; that of a wrong one where the independent check finds a planner's mistake."""
    violations = check(snapshot, request, decision)
    for violation in violations:
        print(f"the decision is wrong: {violation.rule}: {violation.message}", file=sys.stderr)
    return 1 if violations else CODES[decision.status]


def _check(options: argparse.Namespace) -> int:
    snapshot = codec.read_snapshot(_read(options.snapshot))
    request, _, _ = codec.read_request(_read(options.request))
    violations = check(snapshot, request, codec.read_decision(_read(options.decision)))
    for violation in violations:
        print(f"{violation.rule}: {violation.message}")
    if not violations:
        print("right: every rule, capacity, bound and the objective hold")
    return 1 if violations else 0


def _replay(options: argparse.Namespace) -> int:
    dump = _read(options.dump)
    if isinstance(dump, dict) and "rebalance" in dump:
        return _replay_rebalance(dump)
    snapshot, request, policy, before = codec.read_dump(dump)
    after = place(snapshot, request, policy)
    print(codec.dumps(codec.write_decision(after)))
    if codec.write_decision(after) == codec.write_decision(before):
        return 0
    reason = "the first was stopped by its deadline" if before.stopped else "the planner has changed"
    print(f"differs from the dump: {reason}", file=sys.stderr)
    return 1


def _replay_rebalance(dump: dict[str, Any]) -> int:
    snapshot, groups, limits, before = rebalance_dump.read_dump(dump)
    after = rebalance_dump.write_plan(rebalance(snapshot, groups, limits))
    print(codec.dumps(after))
    if after == before:
        return 0
    stopped = isinstance(before, dict) and before.get("stopped")
    reason = "the first was stopped by its deadline" if stopped else "the planner has changed"
    print(f"differs from the dump: {reason}", file=sys.stderr)
    return 1


def _drain(options: argparse.Namespace) -> int:
    snapshot = codec.read_snapshot(_read(options.snapshot))
    gangs, fixed = leaving(snapshot, frozenset(options.host))
    with _deadline(options.deadline_ms) as stop:
        found = answered(drain(snapshot, gangs), stop=stop)
    decision = codec.write_decision(found.decision) if found.decision is not None else None
    print(codec.dumps({"moves": _moves(found.moves), "fixed": fixed, "decision": decision}))
    return CODES[found.decision.status] if found.decision is not None else int(bool(fixed))


def _each_alone(snapshot: Snapshot) -> list[Neighbours]:
    """The movable members, each as a group of its own."""
    movable = [(m, host) for host in snapshot.hosts for m in host.members if m.movable]
    return [Neighbours((node_of(m, host),), {m.id: 1}) for m, host in movable]


def _roll(options: argparse.Namespace) -> int:
    snapshot = codec.read_snapshot(_read(options.snapshot))
    hosts = options.host or [host.id for host in snapshot.hosts if host.schedulable]
    with _deadline(options.deadline_ms) as stop:
        plan = roll(snapshot, _each_alone(snapshot), hosts, options.at_once, stop=stop)
    batches = [{"hosts": list(batch.hosts), "moves": _moves(batch.moves)} for batch in plan.batches]
    stuck = {"host": plan.stuck, "why": plan.why} if plan.stuck else None
    told = {"batches": batches, "left": list(plan.left), "least_moves": plan.least_moves, "proof": plan.proof.value}
    print(codec.dumps({**told, "stuck": stuck}))
    return CODES[plan.status]


def _rebalance(options: argparse.Namespace) -> int:
    snapshot = codec.read_snapshot(_read(options.snapshot))
    groups = _each_alone(snapshot)
    with _deadline(options.deadline_ms) as stop:
        plan = rebalance(snapshot, groups, Limits(options.most_moves, goal=options.goal), stop=stop)
    zones = [{"zone": z.zone, "before": z.before, "after": z.after, "bound": z.bound} for z in plan.zones]
    told: dict[str, Any] = {"moves": _moves(plan.moves), "fullest": zones, "proof": plan.proof.value}
    if options.goal is Goal.FREE_HOSTS:
        told |= {"freed": list(plan.freed), "most_freed": plan.most_freed}
    print(codec.dumps(told))
    return 0


def _gather(options: argparse.Namespace) -> int:
    with _deadline(options.deadline_ms) as stop:
        found = gather(codec.read_snapshot(_read(options.snapshot)), options.most_moves, stop=stop)
    print(codec.dumps({"moves": _moves(found.moves), "gain": found.gain}))
    return 0


def _moves(moves: Sequence[Move]) -> list[dict[str, Any]]:
    return [{"member": m.member, "from": m.source, "to": m.target, "cells": list(m.cells)} for m in moves]


def _room(options: argparse.Namespace) -> int:
    request, _, deadline = codec.read_request(_read(options.request))
    with _deadline(options.deadline_ms or deadline) as stop:
        snapshot = codec.read_snapshot(_read(options.snapshot))
        room = room_for(snapshot, request.nodes[0], request.constraints, stop=stop)
    print(codec.dumps({"count": room.count, "bound": room.bound, "by_zone": room.by_zone}))
    return 0


def in_words(decision: Decision) -> list[str]:
    """The decision for people, a line each."""
    head = f"{decision.status.value} ({decision.proof.value}, stage {decision.stage})"
    lines = [head]
    if decision.objective is not None:
        unit = objective(decision.strategy, decision.max_placed).unit
        lines.append(
            f"{decision.strategy.value}: {decision.objective} ({unit}), proven between {decision.lower_bound} and "
            f"{decision.upper_bound}; penalty {decision.penalty}"
        )
    by_host: dict[str, list[str]] = {}
    for assignment in decision.assignments:
        by_host.setdefault(assignment.host, []).append(assignment.node)
    lines.extend(f"  {host}: {', '.join(nodes)}" for host, nodes in by_host.items())
    if decision.unplaced:
        lines.append(f"left out: {', '.join(decision.unplaced)}")
    if decision.explanation is not None:
        lines.extend(_why(decision.explanation))
    return lines


def _why(explanation: Explanation) -> list[str]:
    lines = [explanation.message]
    for row in explanation.funnels:
        steps = [f"{hosts} {reason.value}" for reason, hosts in row.ruled_out]
        short = [f"{name} {hosts}" for _, name, hosts in row.resources]
        detail = f" ({', '.join(short)})" if short else ""
        lines.append(
            f"  {row.node} (x{row.alike}): {row.hosts} hosts, less {', '.join(steps) or 'none'}{detail}, "
            f"leaves {row.candidates}"
        )
    if explanation.nearest is not None:
        missing = ", ".join(f"{s.missing} {s.resource}" for s in explanation.nearest.shortages)
        lines.append(f"nearest: {explanation.nearest.host} lacks {missing or 'nothing but the rules'}")
    if explanation.placeable_bound is not None:
        lines.append(
            f"of {explanation.total} nodes {explanation.placeable} can be placed, at most {explanation.placeable_bound}"
        )
    if explanation.conflict:
        lines.append(f"in conflict: {', '.join(family.value for family in explanation.conflict)}")
    lines.extend(f"cure: {_cure(cure)}" for cure in explanation.cures)
    if explanation.permanent is not None:
        lines.append("can never fit on this fleet" if explanation.permanent else "fits once the fleet is empty")
    return lines


def _cure(cure: Cure) -> str:
    if cure.kind is CureKind.RELAX and cure.family is not None:
        return f"drop the {cure.family.value} constraints"
    if cure.kind is CureKind.ADD_HOSTS:
        return f"add {cure.count} empty hosts like {cure.host}"
    if cure.kind is CureKind.FREE:
        return f"free {', '.join(f'{s.missing} {s.resource}' for s in cure.amounts)} on {cure.host}"
    if cure.kind is CureKind.SHRINK:
        return f"ask for {cure.count} nodes"
    return "wait for present guests to leave"


if __name__ == "__main__":
    sys.exit(main())
