"""`corral decisions` and `corral dump`: what the planner decided lately, and all that one decision was made from."""

from __future__ import annotations

import argparse
import sys

from corral.v1 import fleet_pb2, fleet_pb2_grpc

from service.cli import errors
from service.cli.view import json_line

Stub = fleet_pb2_grpc.FleetServiceStub


def list_decisions(options: argparse.Namespace, stub: Stub) -> int:
    """A line each, the newest first."""
    for one in stub.ListDecisions(fleet_pb2.ListDecisionsRequest(group_uuid=options.group)).inventories:
        print(json_line(one) if options.json else _line(one))
    return errors.OK


def dump(options: argparse.Namespace, stub: Stub) -> int:
    """Write the text that `python -m placement replay` takes."""
    uuid = options.uuid
    if options.group:
        found = stub.ListDecisions(fleet_pb2.ListDecisionsRequest(group_uuid=uuid)).inventories
        if not found:
            print(f"no decision about the group {uuid} is kept", file=sys.stderr)
            return errors.NOT_FOUND
        uuid = found[0].uuid
    text = "".join(part.text for part in stub.DumpDecision(fleet_pb2.DumpDecisionRequest(uuid=uuid)))
    if options.output == "-":
        sys.stdout.write(text)
        return errors.OK
    try:
        with open(options.output, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as problem:
        print(f"cannot write {options.output}: {problem.strerror}", file=sys.stderr)
        return errors.USAGE
    return errors.OK


def _line(one: fleet_pb2.Decision) -> str:
    late = ", stopped by its time" if one.stopped else ""
    return (
        f"{one.uuid}  {one.create_date.ToJsonString()}  group {one.group_uuid or '-'}  {one.status} ({one.proof}, "
        f"{one.stage}{late})  {one.nodes} nodes on {one.hosts} hosts in {one.duration_ms:.1f} ms"
    )
