"""The JSON form of all that a rebalance was planned from, by which ``python -m placement replay`` plans it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from typing import Any

from placement import codec
from placement.json_values import VERSION, a_list, an_object, build, one_of, plain
from placement.model import Request, Snapshot
from placement.modes.moves import Neighbours
from placement.modes.plans import Goal, Limits, Rebalance

PARTS = {"snapshot", "groups", "limits", "rebalance"}


def write_dump(snapshot: Snapshot, groups: Sequence[Neighbours], limits: Limits, plan: Rebalance) -> dict[str, Any]:
    """Everything that a plan was made from, and the plan."""
    told = plain(asdict(replace(limits, within=None, held=frozenset())))
    told["within"] = None if limits.within is None else sorted(limits.within)
    told["held"] = sorted(limits.held)
    return {
        "version": VERSION,
        "snapshot": codec.write_snapshot(snapshot),
        "groups": [_write_group(group) for group in groups],
        "limits": told,
        "rebalance": write_plan(plan),
    }


def write_plan(plan: Rebalance) -> dict[str, Any]:
    """The JSON form of a plan."""
    made: dict[str, Any] = plain(asdict(plan))
    return made


def read_dump(value: Any) -> tuple[Snapshot, tuple[Neighbours, ...], Limits, Any]:
    """The parts of a dump; the plan as it is written. Raises ``InvalidPlacementInput``."""
    row = an_object("dump", value, PARTS | {"version"}, PARTS)
    told = an_object("dump.limits", row["limits"], {field.name for field in fields(Limits)}, set())
    told["goal"] = one_of("dump.limits.goal", Goal, told.get("goal", Goal.EVEN_LOAD))
    told["resources"] = tuple(a_list("dump.limits.resources", told.get("resources", [])))
    if told.get("within") is not None:
        told["within"] = frozenset(a_list("dump.limits.within", told["within"]))
    told["held"] = frozenset(a_list("dump.limits.held", told.get("held", [])))
    limits: Limits = build(Limits, "dump.limits", **told)
    groups = tuple(_group(f"dump.groups[{n}]", one) for n, one in enumerate(a_list("dump.groups", row["groups"])))
    return codec.read_snapshot(row["snapshot"]), groups, limits, row["rebalance"]


def _write_group(group: Neighbours) -> dict[str, Any]:
    """As a request of its members, with what each of them costs to move."""
    request = Request(
        group.nodes, constraints=group.constraints, excluded_hosts=group.excluded_hosts, staying=group.staying
    )
    return {"members": codec.write_request(request), "costs": dict(group.costs)}


def _group(path: str, value: Any) -> Neighbours:
    row = an_object(path, value, {"members", "costs"}, {"members", "costs"})
    request, _, _ = codec.read_request(row["members"])
    costs = an_object(f"{path}.costs", row["costs"], None, set())
    rules, staying = request.constraints, request.staying
    group: Neighbours = build(
        Neighbours, path, nodes=request.nodes, costs=costs, constraints=rules, staying=staying,
        excluded_hosts=request.excluded_hosts,
    )  # fmt: skip
    return group
