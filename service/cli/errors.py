"""What a failed call told, in sentences, and the command's exit code for it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping

import grpc
from corral.v1 import placement_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from service.cli.explanation import explain

OK = 0
FAILED = 1
USAGE = 2
NOT_PLACED = 3
NOT_FOUND = 4
UNAVAILABLE = 5
CONFLICT = 6
DENIED = 7
INTERNAL = 70
INTERRUPTED = 130

EXIT_CODES: Mapping[grpc.StatusCode, int] = {
    grpc.StatusCode.INVALID_ARGUMENT: USAGE,
    grpc.StatusCode.OUT_OF_RANGE: USAGE,
    grpc.StatusCode.UNIMPLEMENTED: USAGE,
    grpc.StatusCode.RESOURCE_EXHAUSTED: NOT_PLACED,
    grpc.StatusCode.NOT_FOUND: NOT_FOUND,
    grpc.StatusCode.UNAVAILABLE: UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: UNAVAILABLE,
    grpc.StatusCode.ALREADY_EXISTS: CONFLICT,
    grpc.StatusCode.ABORTED: CONFLICT,
    grpc.StatusCode.FAILED_PRECONDITION: CONFLICT,
    grpc.StatusCode.UNAUTHENTICATED: DENIED,
    grpc.StatusCode.PERMISSION_DENIED: DENIED,
    grpc.StatusCode.CANCELLED: INTERRUPTED,
    grpc.StatusCode.INTERNAL: INTERNAL,
    grpc.StatusCode.UNKNOWN: INTERNAL,
    grpc.StatusCode.DATA_LOSS: INTERNAL,
}
# A reason is finer than its code.
REASON_EXIT_CODES: Mapping[str, int] = {
    "UNSATISFIABLE": NOT_PLACED,
    "DEPLOY_FAILED": FAILED,
    "OVERLOADED": UNAVAILABLE,
    "RATE_LIMITED": UNAVAILABLE,
    "UNDECIDED": UNAVAILABLE,
}

EXIT_CODES_TOLD: Mapping[int, str] = {
    OK: "done",
    FAILED: "the group failed, or not all of it was done",
    USAGE: "wrong usage, or a request that the service refuses",
    NOT_PLACED: "no room for the group, or more than a quota allows",
    NOT_FOUND: "not found",
    UNAVAILABLE: "the service cannot be reached, or has too much to do",
    CONFLICT: "a conflict with the present state",
    DENIED: "not allowed",
    INTERNAL: "a bug",
    INTERRUPTED: "interrupted; what was begun goes on in the service",
}


class NotThere(Exception):
    """What a name or uuid on the command line means is not there, or several have the name."""


def tell(*lines: str) -> None:
    """Lines for people, to standard error."""
    print("\n".join(lines), file=sys.stderr, flush=True)


def exit_code(error: grpc.RpcError) -> int:
    """The command's exit code for a failed call."""
    reason = next((part.reason for part in _details(error) if isinstance(part, error_details_pb2.ErrorInfo)), "")
    return REASON_EXIT_CODES.get(reason, EXIT_CODES.get(error.code(), FAILED))


def describe(error: grpc.RpcError) -> list[str]:
    """A failed call in lines: its code and message, then what each detail says."""
    message = error.details() or "no message"
    lines = [f"{error.code().name}: {message}"]
    for detail in _details(error):
        lines += _DESCRIBERS[type(detail)](detail)
    return lines


def _details(error: grpc.RpcError) -> Iterator[Message]:
    """The error's details whose types are known here."""
    status: status_pb2.Status | None = rpc_status.from_call(error)
    packed: list[AnyMessage] = list(status.details) if status is not None else []
    for part in packed:
        for kind in _DESCRIBERS:
            detail = kind()
            if part.Unpack(detail):
                yield detail


def _error_info(info: error_details_pb2.ErrorInfo) -> list[str]:
    facts = ", ".join(f"{key}={value}" for key, value in sorted(info.metadata.items()))
    return [f"  reason: {info.reason}" + (f" ({facts})" if facts else "")]


def _bad_request(bad: error_details_pb2.BadRequest) -> list[str]:
    return [f"  {violation.field}: {violation.description}" for violation in bad.field_violations]


def _precondition(failure: error_details_pb2.PreconditionFailure) -> list[str]:
    return [f"  {part.subject or part.type}: {part.description}" for part in failure.violations]


def _quota(failure: error_details_pb2.QuotaFailure) -> list[str]:
    return [f"  {part.subject}: {part.description}" for part in failure.violations]


def _resource(info: error_details_pb2.ResourceInfo) -> list[str]:
    return [f"  {info.resource_type} {info.resource_name}" + (f": {info.description}" if info.description else "")]


def _retry(info: error_details_pb2.RetryInfo) -> list[str]:
    return [f"  try again in {info.retry_delay.ToMilliseconds() / 1000:g} s"]


def _request_info(info: error_details_pb2.RequestInfo) -> list[str]:
    return [f"  request id for the operator: {info.request_id}"]


_DESCRIBERS: Mapping[type[Message], Callable[..., list[str]]] = {
    error_details_pb2.ErrorInfo: _error_info,
    error_details_pb2.BadRequest: _bad_request,
    error_details_pb2.PreconditionFailure: _precondition,
    error_details_pb2.QuotaFailure: _quota,
    error_details_pb2.ResourceInfo: _resource,
    error_details_pb2.RetryInfo: _retry,
    error_details_pb2.RequestInfo: _request_info,
    placement_pb2.PlacementFailure: explain,
}
