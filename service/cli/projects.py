"""`corral usage` and `corral audit`: what projects use of their quotas, and who changed what."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import click
from corral.v1 import project_pb2, project_pb2_grpc
from google.protobuf.timestamp_pb2 import Timestamp

from service.cli import errors, names
from service.cli.command import Output, Session, output_option, verb
from service.cli.explanation import amounts_text
from service.cli.output import Columns

Stub = project_pb2_grpc.ProjectServiceStub

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_AGE = re.compile(r"(\d{1,6})([smhd])")
_PAGE = 500


def register(corral: click.Group) -> None:
    """Add the sub-commands."""
    verb(corral, "usage", example="corral usage")(usage)
    verb(corral, "audit", example="corral audit --since 1h --limit 20")(audit)


class Moment(click.ParamType[Any]):
    """A time as RFC 3339 has it, or one that is so long ago."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Timestamp:
        told = Timestamp()
        if age := _AGE.fullmatch(value):
            told.FromSeconds(int(time.time()) - int(age[1]) * _SECONDS[age[2]])
            return told
        try:
            told.FromJsonString(value)
        except ValueError as problem:
            self.fail(f"{value!r} is no time: {problem}", param, ctx)
        return told


@output_option
@click.argument("project", type=names.PROJECT, required=False, default="")
def usage(session: Session, output: Output, project: str) -> int:
    """Tell what a project uses of its quota: yours, or PROJECT; administrators see all."""
    stub = session.stub(Stub)
    token = ""
    while True:
        request = project_pb2.GetUsageRequest(project=project, page_size=_PAGE, page_token=token)
        answer = stub.GetUsage(request)
        for one in answer.inventories:
            output.one(one, one.project, "\n".join(_usage_lines(one)))
        token = answer.next_page_token
        if not token:
            return errors.OK


_WHEN = "as 2026-01-31T12:00:00Z, or so long ago: 90s, 30m, 12h, 7d"


@output_option
@click.option("--project", type=names.PROJECT, default="", help="Only changes by callers of this project.")
@click.option("--principal", default="", help="Only changes by this account, token or certificate.")
@click.option("--method", default="", help="Only changes by this method, such as DeleteInstanceGroup.")
@click.option("--subject", default="", help="Only changes of what has this uuid or name.")
@click.option("--request-id", default="", help="Only changes by the call that has this x-request-id.")
@click.option("--since", "start_time", type=Moment(), metavar="TIME", help=f"Only changes from then on: {_WHEN}.")
@click.option("--until", "end_time", type=Moment(), metavar="TIME", help="Only changes before then.")
@click.option(
    "--limit", type=click.IntRange(1, 1_000_000), default=100, show_default=True, metavar="N", help="At most so many."
)
def audit(session: Session, output: Output, limit: int, **only: Any) -> int:
    """Tell who changed what, the newest first; for operators."""
    output.many(_changes(session.stub(Stub), limit, only), _AUDIT_COLUMNS, lambda one: one.subject)
    return errors.OK


def _changes(stub: Stub, left: int, only: dict[str, Any]) -> Iterator[project_pb2.AuditEvent]:
    token = ""
    while left:
        request = project_pb2.ListAuditEventsRequest(page_size=min(left, _PAGE), page_token=token, **only)
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


_AUDIT_COLUMNS: Columns = (
    ("time", lambda one: one.time.ToJsonString()),
    ("who", lambda one: one.principal),
    ("from", lambda one: one.peer or "-"),
    ("project", lambda one: one.project),
    ("method", lambda one: one.method),
    ("subject", lambda one: one.subject),
    ("call", lambda one: one.request_id or "-"),
    ("request", lambda one: one.client_request_id),
)
