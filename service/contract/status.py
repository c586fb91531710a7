"""The one table from domain errors to `google.rpc.Status`, with its details. Knows no server, so any face can use it.

Every status carries ErrorInfo with the domain `corral`, the error's reason and the request id. What is not in the table
is a bug: INTERNAL, "internal error" and the request id, nothing else; the caller of `status_of` logs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from corral.v1 import placement_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from service import errors
from service.contract.call import told_cause
from service.contract.convert.explanation import hints, placement_failure

DOMAIN = "corral"
INTERNAL_REASON = "INTERNAL"
INTERNAL_MESSAGE = "internal error"

# gRPC clients refuse or drop headers above 8 KiB, and base64 and the message itself need their part of that.
MAX_STATUS_BYTES = 4096
_MAX_MESSAGE_CHARACTERS = 512
_MAX_METADATA_CHARACTERS = 256


class MethodUnimplemented(errors.CorralError):
    """The contract has the method, or has no such method at all; this server does not serve it."""

    reason = "METHOD_UNIMPLEMENTED"

    def __init__(self, method: str) -> None:
        super().__init__("the method is not served here")
        self.method = method


class MessageTooLarge(errors.CorralError):
    """The request has more bytes than the server takes. `field` is the one that holds most of them."""

    reason = "MESSAGE_TOO_LARGE"

    def __init__(self, field: str, size: int, limit: int) -> None:
        where = f"; most of them are in {field}" if field else ""
        super().__init__(f"the request has {size} bytes, at most {limit} are allowed{where}")
        self.field = field
        self.size = size
        self.limit = limit


def _bad_request(violations: Iterable[errors.FieldViolation]) -> error_details_pb2.BadRequest:
    kind = error_details_pb2.BadRequest.FieldViolation
    return error_details_pb2.BadRequest(
        field_violations=[kind(field=v.field, description=v.description) for v in violations]
    )


def _retry(milliseconds: int) -> error_details_pb2.RetryInfo:
    delay = Duration()
    delay.FromMilliseconds(milliseconds)
    return error_details_pb2.RetryInfo(retry_delay=delay)


def _precondition(kind: str, subject: str, description: str) -> error_details_pb2.PreconditionFailure:
    violation = error_details_pb2.PreconditionFailure.Violation(type=kind, subject=subject, description=description)
    return error_details_pb2.PreconditionFailure(violations=[violation])


def _resource(kind: str, name: str, description: str) -> error_details_pb2.ResourceInfo:
    return error_details_pb2.ResourceInfo(resource_type=kind, resource_name=name, description=description)


def _nothing(error: errors.CorralError) -> Iterator[Message]:
    yield from ()


def _of_invalid_argument(error: errors.InvalidArgument) -> Iterator[Message]:
    yield _bad_request(error.violations)


def _of_too_large(error: MessageTooLarge) -> Iterator[Message]:
    yield _bad_request([errors.FieldViolation(error.field, error.message)])


def _of_not_found(error: errors.NotFound) -> Iterator[Message]:
    where = f"named by {error.field}" if error.field else "does not exist"
    yield _resource(error.resource_type, error.resource_name, where)


def _of_already_exists(error: errors.AlreadyExists) -> Iterator[Message]:
    yield _resource(error.resource_type, error.resource_name, "exists already")


def _of_no_capacity(error: errors.NoCapacity) -> Iterator[Message]:
    if error.explanation is not None:
        yield placement_failure(error.explanation)


def _of_no_addresses(error: errors.NoAddresses) -> Iterator[Message]:
    violation = error_details_pb2.QuotaFailure.Violation(subject=f"zone {error.zone}", description=error.message)
    yield error_details_pb2.QuotaFailure(violations=[violation])


def _of_unsatisfiable(error: errors.Unsatisfiable) -> Iterator[Message]:
    yield _precondition("CAPACITY", "fleet", error.message)
    if error.explanation is not None:
        yield placement_failure(error.explanation)


def _of_quota(error: errors.QuotaExceeded) -> Iterator[Message]:
    violation = error_details_pb2.QuotaFailure.Violation(subject=error.subject, description=error.message)
    yield error_details_pb2.QuotaFailure(violations=[violation])


def _of_wrong_state(error: errors.WrongState) -> Iterator[Message]:
    yield _precondition("STATE", error.subject, f"is {error.state}; needs {error.needs}")


def _of_retryable(
    error: errors.Conflict | errors.Undecided | errors.Unavailable | errors.Overloaded,
) -> Iterator[Message]:
    yield _retry(error.retry_after_ms)


def _of_revision(error: errors.RevisionUnavailable) -> Iterator[Message]:
    yield placement_pb2.RevisionRange(oldest=error.oldest, current=error.current)


def _of_deploy_failed(error: errors.DeployFailed) -> Iterator[Message]:
    yield _resource("instance group", error.group_uuid, error.group_reason)


@dataclass(frozen=True, slots=True)
class _Row:
    """One line of the table: the code, the details, and which attributes machines get in ErrorInfo's metadata."""

    code: code_pb2.Code
    details: Callable[[Any], Iterator[Message]] = _nothing
    metadata: tuple[str, ...] = ()


_TABLE: Mapping[type[errors.CorralError], _Row] = {
    errors.InvalidArgument: _Row(code_pb2.INVALID_ARGUMENT, _of_invalid_argument),
    errors.NotFound: _Row(code_pb2.NOT_FOUND, _of_not_found, ("resource_type", "resource_name", "field")),
    errors.AlreadyExists: _Row(code_pb2.ALREADY_EXISTS, _of_already_exists, ("resource_type", "resource_name")),
    errors.NoCapacity: _Row(code_pb2.RESOURCE_EXHAUSTED, _of_no_capacity),
    errors.NoAddresses: _Row(code_pb2.RESOURCE_EXHAUSTED, _of_no_addresses, ("zone", "pool", "asked", "free")),
    errors.Unsatisfiable: _Row(code_pb2.FAILED_PRECONDITION, _of_unsatisfiable),
    errors.QuotaExceeded: _Row(
        code_pb2.RESOURCE_EXHAUSTED, _of_quota, ("subject", "resource", "limit", "requested", "held")
    ),
    errors.WrongState: _Row(code_pb2.FAILED_PRECONDITION, _of_wrong_state, ("subject", "state", "allowed")),
    errors.Conflict: _Row(code_pb2.ABORTED, _of_retryable),
    errors.Undecided: _Row(code_pb2.ABORTED, _of_retryable),
    errors.Unavailable: _Row(code_pb2.UNAVAILABLE, _of_retryable),
    errors.Overloaded: _Row(code_pb2.RESOURCE_EXHAUSTED, _of_retryable),
    errors.RateLimited: _Row(code_pb2.RESOURCE_EXHAUSTED, _of_retryable, ("project", "calls_per_second", "burst")),
    errors.RevisionUnavailable: _Row(code_pb2.OUT_OF_RANGE, _of_revision, ("revision", "oldest", "current")),
    errors.Unauthenticated: _Row(code_pb2.UNAUTHENTICATED),
    errors.PermissionDenied: _Row(code_pb2.PERMISSION_DENIED),
    errors.DeployFailed: _Row(code_pb2.ABORTED, _of_deploy_failed, ("group_uuid",)),
    MethodUnimplemented: _Row(code_pb2.UNIMPLEMENTED, metadata=("method",)),
    MessageTooLarge: _Row(code_pb2.RESOURCE_EXHAUSTED, _of_too_large, ("field", "size", "limit")),
}


def _row(error: BaseException) -> _Row | None:
    """The line of the error's nearest class; None for what no use case promises to raise."""
    return next((_TABLE[kind] for kind in type(error).__mro__ if kind in _TABLE), None)


def is_expected(error: BaseException) -> bool:
    """Whether the error is in the table; any other one is a bug and must be logged with its traceback."""
    return _row(error) is not None


def code_of(error: BaseException) -> int:
    """The number of the error's status code; INTERNAL for what is not in the table."""
    row = _row(error)
    return int(code_pb2.INTERNAL if row is None else row.code)


def status_of(error: BaseException, request_id: str) -> status_pb2.Status:
    """The status of an error, small enough for HTTP/2 headers. Unknown errors tell nothing but the request id."""
    row = _row(error)
    if row is None or not isinstance(error, errors.CorralError):
        return _status(code_pb2.INTERNAL, INTERNAL_MESSAGE, INTERNAL_REASON, {"request_id": request_id}, ())
    known = {name: value for name in row.metadata if (value := getattr(error, name)) is not None}
    metadata = {name: _shortened(str(value), _MAX_METADATA_CHARACTERS) for name, value in known.items()}
    metadata = {name: value for name, value in metadata.items() if value}
    message = _shortened(_told(error), _MAX_MESSAGE_CHARACTERS)
    return _status(row.code, message, error.reason, {**metadata, "request_id": request_id}, row.details(error))


def _told(error: errors.CorralError) -> str:
    """The message; of a gang that does not fit with the nearest miss and the cheapest cure, for callers who read no
    details; with what a host said, to those who are told."""
    if isinstance(error, errors.PlacementError) and error.explanation is not None:
        return "; ".join((error.message, *hints(error.explanation)))
    cause = told_cause(error.cause)
    return f"{error.message}; the host says: {cause}" if cause else error.message


def _shortened(value: str, longest: int) -> str:
    return value if len(value) <= longest else f"{value[: longest - 1]}…"


def _status(
    code: code_pb2.Code, message: str, reason: str, metadata: Mapping[str, str], details: Iterable[Message]
) -> status_pb2.Status:
    status = status_pb2.Status(code=code, message=message)
    _pack(status, error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata))
    for detail in details:
        _add_shrunk(status, detail)
    return status


def _pack(status: status_pb2.Status, detail: Message) -> None:
    packed = AnyMessage()
    packed.Pack(detail)
    status.details.append(packed)


def _add_shrunk(status: status_pb2.Status, detail: Message) -> None:
    """Add a detail, its lists cut from the end until the status fits; a detail that never fits is left out."""
    while True:
        _pack(status, detail)
        if status.ByteSize() <= MAX_STATUS_BYTES:
            return
        del status.details[-1]
        if not _drop_last_item(detail):
            return


def _drop_last_item(detail: Message) -> bool:
    """Take one item off the longest list of a detail; False where there is none to take."""
    lists = [getattr(detail, field.name) for field, _ in detail.ListFields() if _is_list(field)]
    longest = max(lists, key=len, default=None)
    if longest is None:
        return False
    del longest[-1]
    return True


def _is_list(field: Any) -> bool:
    entry = field.message_type is not None and field.message_type.GetOptions().map_entry
    return bool(field.is_repeated and not entry)
