"""`corral usage` and `corral audit`: what projects use of their quotas, and who changed what."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Iterator

from corral.v1 import project_pb2, project_pb2_grpc
from google.protobuf.timestamp_pb2 import Timestamp

from service.cli import errors
from service.cli.explanation import amounts_text
from service.cli.view import json_line

Stub = project_pb2_grpc.ProjectServiceStub

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_AGE = re.compile(r"(\d{1,6})([smhd])")
_PAGE = 500


def add_usage_options(command: argparse.ArgumentParser) -> None:
    """What `corral usage` takes."""
    command.add_argument("project", nargs="?", default="", help="one project (default: yours; all for administrators)")


def add_audit_options(command: argparse.ArgumentParser) -> None:
    """What `corral audit` takes."""
    command.add_argument("--project", default="", help="only changes by callers of this project")
    command.add_argument("--principal", default="", help="only changes by this account, token or certificate")
    command.add_argument("--method", default="", help="only changes by this method, such as DeleteInstanceGroup")
    command.add_argument("--subject", default="", help="only changes of what has this uuid or name")
    command.add_argument("--request-id", default="", help="only changes by the call that has this x-request-id")
    when = "as 2026-01-31T12:00:00Z, or so long ago: 90s, 30m, 12h, 7d"
    command.add_argument("--since", type=moment, metavar="TIME", help=f"only changes from then on: {when}")
    command.add_argument("--until", type=moment, metavar="TIME", help="only changes before then")
    command.add_argument(
        "--limit", type=_count, default=100, metavar="N", help="at most so many (default: %(default)s)"
    )


def moment(text: str) -> Timestamp:
    """A time as RFC 3339 has it, or one that is so long ago. Raises ArgumentTypeError."""
    told = Timestamp()
    if age := _AGE.fullmatch(text):
        told.FromSeconds(int(time.time()) - int(age[1]) * _SECONDS[age[2]])
        return told
    try:
        told.FromJsonString(text)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: {problem}") from problem
    return told


def _count(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to 1000000")
    return int(text)


def show_usage(options: argparse.Namespace, stub: Stub) -> int:
    """One line for each project, and below it one for each resource."""
    token = ""
    while True:
        request = project_pb2.GetUsageRequest(project=options.project, page_size=_PAGE, page_token=token)
        answer = stub.GetUsage(request)
        for one in answer.inventories:
            print(json_line(one) if options.json else "\n".join(_usage_lines(one)))
        token = answer.next_page_token
        if not token:
            return errors.OK


def list_audit(options: argparse.Namespace, stub: Stub) -> int:
    """One line for each change, the newest first."""
    for one in _changes(options, stub):
        print(json_line(one) if options.json else _audit_line(one))
    return errors.OK


def _changes(options: argparse.Namespace, stub: Stub) -> Iterator[project_pb2.AuditEvent]:
    left, token = options.limit, ""
    while left:
        request = project_pb2.ListAuditEventsRequest(
            page_size=min(left, _PAGE),
            page_token=token,
            project=options.project,
            principal=options.principal,
            method=options.method,
            subject=options.subject,
            request_id=options.request_id,
            start_time=options.since,
            end_time=options.until,
        )
        answer = stub.ListAuditEvents(request)
        yield from answer.inventories
        left -= len(answer.inventories)
        token = answer.next_page_token
        if not token:
            return


def _usage_lines(one: project_pb2.ProjectUsage) -> Iterator[str]:
    yield f"{one.project}: {one.group_count} group(s), {one.instance_count} member(s)"
    for resource in one.resources:
        name = resource.resource
        parts = [f"{amounts_text({name: resource.claimed}) or f'no {name}'} claimed"]
        if resource.waiting:
            parts.append(f"{amounts_text({name: resource.waiting})} waiting")
        if resource.HasField("limit"):
            parts.append(f"of {amounts_text({name: resource.limit}) or 'nothing'}")
            parts.append(f"{amounts_text({name: resource.available}) or 'nothing'} left")
        else:
            parts.append("no limit")
        yield f"  {', '.join(parts)}"


def _audit_line(one: project_pb2.AuditEvent) -> str:
    own = f"  request {one.client_request_id}" if one.client_request_id else ""
    return (
        f"{one.time.ToJsonString()}  {one.principal}  ({one.project})  {one.method}  {one.subject}"
        f"  call {one.request_id or '-'}{own}"
    )
