"""Snapshot, request, decision and dump as JSON, version 1.

Amounts are integers in any unit. Fields marked ? may be left out; an unknown field is an error that names it.

snapshot  {"version": 1, "hosts": [{"id", "zone", "rack"?, "capacity": {name: int}, "used"?: {name: int}, "labels"?:
          {}, "schedulable"?: true, "members"?: [{"id", "demand"?, "labels"?, "movable"?, "exclusive"?, "cells"?:
          [int], "holds"?: [[pool, count]]}], "cells"?: [{"capacity", "used"?}], "pools"?: [{"resource", "capacity",
          "used"?, "cell"?: int, "partition"?}]}], "flavours"?: [{"demand"}], "revision"?: str}
request   {"version": 1, "nodes": [{"id", "demand": {name: int}, "zone"?: str, "count"?: 1, "labels"?: {},
          "host_labels"?: {key: [value]}, "exclusive"?: false, "cells"?: 0, "devices"?: [{"resource", "count",
          "local"?: false, "joint"?: false}]}], "strategy"?: "least_lost_value" | "fewest_hosts" | "spread" | "close",
          "constraints"?: [rule], "excluded_hosts"?: [id], "staying"?: {member: host}, "seed"?: 0, "deadline_ms"?: int}
rule      {"kind": "at_most" | "together" | "spread_over" | "within" | "spare_hosts" | "apart" | "near" | "prefer",
          "scope"?: "host" | "rack" | "zone", "weight"?: int (absent: hard), and by kind: "select"?: selector, "limit"?,
          "minimum"?, "maximum"?, "count"?, "first", "second", "key", "values": [label's value]}; selector {"nodes"?:
          [id], "labels"?: {}}, absent: the whole request
decision  {"version": 1, "status": "placed" | "infeasible" | "unknown", "assignments": [{"node", "host", "cells"?:
          [int], "devices"?: [[pool, count]]}], "objective", "lower_bound", "upper_bound", "proof": "optimal" | "gap" |
          "infeasible" | "none", "stage", "strategy", "penalty", "penalty_bound", "unplaced": [id], "stopped",
          "max_placed", "explanation"}
dump      {"version": 1, "snapshot", "request", "policy": {…}, "decision"}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from enum import Enum
from typing import Any

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
from placement.json_values import VERSION, a_flag, a_list, an_object, build, one_of, plain
from placement.json_values import dumps as dumps
from placement.json_values import loads as loads
from placement.model import (
    Assignment,
    Cell,
    Cure,
    CureKind,
    Decision,
    Devices,
    Explanation,
    Flavour,
    Funnel,
    Host,
    Member,
    NearestMiss,
    Node,
    Policy,
    Pool,
    Proof,
    Request,
    Shortage,
    Snapshot,
    Status,
    Strategy,
)
from placement.reasons import Family, Reason
from placement.resources import InvalidPlacementInput, checked_integer

KINDS: dict[str, type] = {
    "at_most": AtMost,
    "together": Together,
    "apart": Apart,
    "near": Near,
    "spread_over": SpreadOver,
    "within": Within,
    "spare_hosts": SpareHosts,
    "prefer": Prefer,
}
MAX_DEADLINE_MS = 86_400_000


def read_snapshot(value: Any) -> Snapshot:
    """A snapshot from its JSON form."""
    row = an_object("snapshot", value, {"version", "hosts", "flavours", "revision"}, {"hosts"})
    hosts = [_host(f"snapshot.hosts[{n}]", host) for n, host in enumerate(a_list("snapshot.hosts", row["hosts"]))]
    flavours = []
    for n, flavour in enumerate(a_list("snapshot.flavours", row.get("flavours", []))):
        path = f"snapshot.flavours[{n}]"
        flavours.append(build(Flavour, path, **an_object(path, flavour, {"demand"}, {"demand"})))
    revision = row.get("revision", "")
    if not isinstance(revision, str):
        raise InvalidPlacementInput("snapshot.revision", "must be a string")
    return Snapshot(tuple(hosts), tuple(flavours), revision)


HOST_FIELDS = {"id", "zone", "rack", "capacity", "used", "labels", "schedulable", "members", "cells", "pools"}


def _host(path: str, value: Any) -> Host:
    row = an_object(path, value, HOST_FIELDS, {"id", "zone", "capacity"})
    row["schedulable"] = a_flag(f"{path}.schedulable", row.get("schedulable", True))
    if "members" in row:
        known = {"id", "demand", "labels", "movable", "exclusive", "cells", "holds"}
        row["members"] = tuple(
            build(Member, f"{path}.members[{n}]", **an_object(f"{path}.members[{n}]", member, known, {"id"}))
            for n, member in enumerate(a_list(f"{path}.members", row["members"]))
        )
    if "cells" in row:
        row["cells"] = tuple(
            build(
                Cell, f"{path}.cells[{n}]", **an_object(f"{path}.cells[{n}]", cell, {"capacity", "used"}, {"capacity"})
            )
            for n, cell in enumerate(a_list(f"{path}.cells", row["cells"]))
        )
    if "pools" in row:
        known = {"resource", "capacity", "used", "cell", "partition"}
        row["pools"] = tuple(
            build(Pool, f"{path}.pools[{n}]", **an_object(f"{path}.pools[{n}]", pool, known, {"resource", "capacity"}))
            for n, pool in enumerate(a_list(f"{path}.pools", row["pools"]))
        )
    host: Host = build(Host, path, **row)
    return host


NODE_FIELDS = {"id", "demand", "zone", "count", "labels", "host_labels", "exclusive", "cells", "devices"}
WANTED, WANTED_MUST = {"resource", "count", "local", "joint"}, {"resource", "count"}
REQUEST_FIELDS = {
    "version",
    "nodes",
    "strategy",
    "constraints",
    "excluded_hosts",
    "staying",
    "seed",
    "deadline_ms",
}


def read_request(value: Any) -> tuple[Request, Policy, int | None]:
    """(request, policy with its seed, deadline in milliseconds or None) from the JSON form."""
    row = an_object("request", value, REQUEST_FIELDS, {"nodes"})
    nodes = []
    for n, node in enumerate(a_list("request.nodes", row["nodes"])):
        path = f"request.nodes[{n}]"
        made = an_object(path, node, NODE_FIELDS, {"id", "demand"})
        made["exclusive"] = a_flag(f"{path}.exclusive", made.get("exclusive", False))
        if "devices" in made:
            made["devices"] = tuple(
                build(Devices, f"{path}.devices[{m}]", **an_object(f"{path}.devices[{m}]", one, WANTED, WANTED_MUST))
                for m, one in enumerate(a_list(f"{path}.devices", made["devices"]))
            )
        nodes.append(build(Node, path, **made))
    rules = a_list("request.constraints", row.get("constraints") or [])
    deadline = row.get("deadline_ms")
    if deadline is not None:
        deadline = checked_integer("request.deadline_ms", deadline, 1, MAX_DEADLINE_MS)
    request = Request(
        tuple(nodes),
        one_of("request.strategy", Strategy, row.get("strategy") or Strategy.LEAST_LOST_VALUE),
        tuple(_rule(f"request.constraints[{n}]", rule) for n, rule in enumerate(rules)),
        frozenset(a_list("request.excluded_hosts", row.get("excluded_hosts", []))),
        row.get("staying", {}),
    )
    return request, Policy(seed=row.get("seed", 0) or 0), deadline


def _rule(path: str, value: Any) -> Constraint:
    row = an_object(path, value, None, {"kind"})
    kind = row.pop("kind")
    if kind not in KINDS:
        raise InvalidPlacementInput(f"{path}.kind", f"must be one of {', '.join(KINDS)}")
    made = KINDS[kind]
    known = {field.name for field in fields(made)}
    needed = {"first", "second", "key", "values"} & known
    row = an_object(path, row, known, needed)
    for name in ("select", "first", "second"):
        if name in row:
            parts = an_object(f"{path}.{name}", row[name] or {}, {"nodes", "labels"}, set())
            nodes = frozenset(a_list(f"{path}.{name}.nodes", parts.get("nodes", [])))
            row[name] = Selector(nodes, parts.get("labels", {}))
    if "values" in row:
        row["values"] = tuple(a_list(f"{path}.values", row["values"]))
    row.setdefault("weight", None)
    if "scope" in row:
        row["scope"] = one_of(f"{path}.scope", Scope, row["scope"])
    rule: Constraint = build(made, path, **row)
    return rule


def read_decision(value: Any) -> Decision:
    """A decision from its JSON form."""
    known = {field.name for field in fields(Decision)} | {"version"}
    row = an_object("decision", value, known, {"status"})
    row.pop("version", None)
    row["status"] = one_of("decision.status", Status, row["status"])
    row["proof"] = one_of("decision.proof", Proof, row.get("proof", "none"))
    row["strategy"] = one_of("decision.strategy", Strategy, row.get("strategy", Strategy.LEAST_LOST_VALUE))
    found = []
    for n, assignment in enumerate(a_list("decision.assignments", row.get("assignments", []))):
        path = f"decision.assignments[{n}]"
        made = an_object(path, assignment, {"node", "host", "cells", "devices"}, {"node", "host"})
        found.append(
            Assignment(made["node"], made["host"], tuple(made.get("cells", ())), _pairs(made.get("devices", ())))
        )
    row["assignments"] = tuple(found)
    row["unplaced"] = tuple(a_list("decision.unplaced", row.get("unplaced", [])))
    if row.get("explanation") is not None:
        row["explanation"] = _explanation(row["explanation"])
    decision: Decision = build(Decision, "decision", **row)
    return decision


def _pairs(value: Any) -> tuple[tuple[int, int], ...]:
    return tuple((pool, count) for pool, count in value)


def _explanation(value: Any) -> Explanation:
    row = an_object("decision.explanation", value, {field.name for field in fields(Explanation)}, {"message"})
    row["funnels"] = tuple(
        Funnel(
            f["node"],
            f["alike"],
            f["hosts"],
            tuple((Reason(reason), hosts) for reason, hosts in f["ruled_out"]),
            tuple((Reason(reason), name, hosts) for reason, name, hosts in f["resources"]),
            f["candidates"],
        )
        for f in row.get("funnels", ())
    )
    if row.get("nearest") is not None:
        near = row["nearest"]
        row["nearest"] = NearestMiss(
            near["node"], near["host"], _shortages(near["shortages"]), near.get("host_name", "")
        )
    row["shortages"] = _shortages(row.get("shortages", ()))
    row["conflict"] = tuple(Family(family) for family in row.get("conflict", ()))
    row["cures"] = tuple(
        Cure(
            CureKind(cure["kind"]),
            Family(cure["family"]) if cure.get("family") else None,
            cure.get("host"),
            cure.get("count", 0),
            _shortages(cure.get("amounts", ())),
            cure.get("host_name", ""),
        )
        for cure in row.get("cures", ())
    )
    return Explanation(**row)


def _shortages(rows: Sequence[Mapping[str, Any]]) -> tuple[Shortage, ...]:
    optional = ("pool", "where", "cell")
    return tuple(Shortage(row["resource"], row["missing"], **{k: row[k] for k in optional if k in row}) for row in rows)


def write_snapshot(snapshot: Snapshot) -> dict[str, Any]:
    """The JSON form of a snapshot; fields at their default are left out."""
    hosts = []
    for host in snapshot.hosts:
        row: dict[str, Any] = {
            "id": host.id,
            "zone": host.zone,
            "rack": host.rack,
            "capacity": dict(host.capacity),
            "used": dict(host.used),
            "labels": dict(host.labels),
        }
        if not host.schedulable:
            row["schedulable"] = False
        if host.members:
            row["members"] = [_write_member(member) for member in host.members]
        if host.cells:
            row["cells"] = [plain(asdict(cell)) for cell in host.cells]
        if host.pools:
            row["pools"] = [plain(asdict(pool)) for pool in host.pools]
        hosts.append(row)
    made: dict[str, Any] = {"version": VERSION, "hosts": hosts}
    if snapshot.flavours:
        made["flavours"] = [{"demand": dict(flavour.demand)} for flavour in snapshot.flavours]
    if snapshot.version:
        made["revision"] = snapshot.version
    return made


def _write_member(member: Member) -> dict[str, Any]:
    row: dict[str, Any] = plain(asdict(member))
    if not member.holds:
        del row["holds"]
    return row


def write_request(request: Request, seed: int = 0, deadline_ms: int | None = None) -> dict[str, Any]:
    """The JSON form of a request."""
    nodes = []
    for node in request.nodes:
        row = plain(asdict(node))
        row.pop("kind")
        nodes.append({key: kept for key, kept in row.items() if kept or key in ("id", "demand", "zone")})
    made: dict[str, Any] = {
        "version": VERSION,
        "nodes": nodes,
        "strategy": request.strategy.value,
        "constraints": [_write_rule(rule) for rule in request.constraints],
        "seed": seed,
        "deadline_ms": deadline_ms,
    }
    if request.excluded_hosts:
        made["excluded_hosts"] = sorted(request.excluded_hosts)
    if request.staying:
        made["staying"] = dict(request.staying)
    return made


def _write_rule(rule: Constraint) -> dict[str, Any]:
    row: dict[str, Any] = {"kind": next(name for name, made in KINDS.items() if isinstance(rule, made))}
    for field in fields(rule):
        value = getattr(rule, field.name)
        if isinstance(value, Selector):
            value = {"nodes": sorted(value.nodes), "labels": dict(value.labels)}
        if value is not None:
            row[field.name] = (
                value.value if isinstance(value, Enum) else list(value) if isinstance(value, tuple) else value
            )
    return row


def _write_explanation(explanation: Explanation) -> dict[str, Any]:
    made: dict[str, Any] = plain(asdict(explanation))
    shortages = [*made["shortages"], *(made["nearest"] or {}).get("shortages", ())]
    for short in (*shortages, *(short for cure in made["cures"] for short in cure["amounts"])):
        if short["pool"] is None and short["cell"] is None:
            del short["where"]
        for name in ("pool", "cell"):
            if short[name] is None:
                del short[name]
    for one in (*([made["nearest"]] if made["nearest"] else []), *made["cures"]):
        if not one["host_name"]:
            del one["host_name"]
    return made


def write_decision(decision: Decision) -> dict[str, Any]:
    """The JSON form of a decision."""
    made: dict[str, Any] = {"version": VERSION}
    for field in fields(decision):
        if field.name == "assignments":
            made["assignments"] = [
                {
                    "node": a.node,
                    "host": a.host,
                    **({"cells": list(a.cells)} if a.cells else {}),
                    **({"devices": [list(pair) for pair in a.devices]} if a.devices else {}),
                }
                for a in decision.assignments
            ]
        elif field.name == "explanation":
            made["explanation"] = _write_explanation(decision.explanation) if decision.explanation else None
        else:
            made[field.name] = plain(getattr(decision, field.name))
    return made


def write_dump(snapshot: Snapshot, request: Request, policy: Policy, decision: Decision) -> dict[str, Any]:
    """Everything that a decision was made from, for replay."""
    return {
        "version": VERSION,
        "snapshot": write_snapshot(snapshot),
        "request": write_request(request, policy.seed),
        "policy": asdict(policy),
        "decision": write_decision(decision),
    }


def read_dump(value: Any) -> tuple[Snapshot, Request, Policy, Decision]:
    """The parts of a dump."""
    needed = {"snapshot", "request", "policy", "decision"}
    row = an_object("dump", value, needed | {"version"}, needed)
    policy = an_object("dump.policy", row["policy"], {field.name for field in fields(Policy)}, set())
    request, _, _ = read_request(row["request"])
    made: Policy = build(Policy, "dump.policy", **policy)
    return read_snapshot(row["snapshot"]), request, made, read_decision(row["decision"])
