"""The one table from domain errors to ZStack's ErrorCode. What is not in it is a bug and tells only a request id."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.json_format import MessageToDict

from service import errors
from service.contract.convert.explanation import placement_failure
from service.contract.status import MethodUnimplemented
from service.http.zstack import words

# ZStack's descriptions of its codes, which its clients show.
_DESCRIPTIONS: Mapping[str, str] = {
    "SYS.1000": "An internal error happened in system",
    "SYS.1001": "A message or a operation timeout",
    "SYS.1003": "A resource can not be found",
    "SYS.1006": "An operation failed",
    "SYS.1007": "One or more API argument is invalid",
    "SYS.1012": "The management node is unavailable",
    "SYS.1014": "The operation is not implemented or not supported yet",
    "ID.1000": "Unable to authenticate a user",
    "ID.1001": "The session is invalid, either wrong session id or the session has been expired",
    "ID.1002": "The user doesn't have permission to perform the operation",
    "ID.1003": "The user exceeds a quota of a resource",
    "HOST_ALLOCATION.1000": "No available host found",
}

_RESOURCES: Mapping[str, str] = {
    "zone": "ZoneVO",
    "host": "HostVO",
    "model service": "ModelServiceVO",
    "image": "ImageVO",
    "instance group": "ModelServiceInstanceGroupVO",
    "cluster": "ClusterVO",
    "model": "ModelVO",
}

Details = Callable[[Any], str]


class NotSupported(MethodUnimplemented):
    """The API is ZStack's, and this service does not do it."""

    reason = "NOT_SUPPORTED"

    def __init__(self, api: str) -> None:
        super().__init__(api)
        self.message = f"{api} is not supported"


class TimedOut(errors.DeployFailed):
    """The group was not up at its deadline."""

    reason = "TIMEOUT"


class ApiTimedOut(errors.Undecided):
    """The call has not ended in the time that its caller gave it. What it began goes on."""

    reason = "API_TIMEOUT"

    def __init__(self, api: str, milliseconds: int) -> None:
        super().__init__(f"{api} has not ended within {milliseconds} ms; what it began may go on")


def _message(error: errors.CorralError) -> str:
    return error.message


def _of_not_found(error: errors.NotFound) -> str:
    resource = f"resource[uuid:{error.resource_name}, type:{_RESOURCES.get(error.resource_type, error.resource_type)}]"
    return (
        f"invalid field[{words.camel(error.field)}], {resource} not found" if error.field else f"{resource} not found"
    )


_TABLE: Mapping[type[errors.CorralError], tuple[str, Details]] = {
    errors.InvalidArgument: ("SYS.1007", _message),
    errors.NotFound: ("SYS.1003", _of_not_found),
    errors.AlreadyExists: ("SYS.1007", _message),
    errors.NoAddresses: ("HOST_ALLOCATION.1000", _message),
    errors.NoCapacity: ("HOST_ALLOCATION.1000", _message),
    errors.Unsatisfiable: ("HOST_ALLOCATION.1000", _message),
    errors.QuotaExceeded: ("ID.1003", _message),
    errors.WrongState: ("SYS.1006", _message),
    errors.Conflict: ("SYS.1006", _message),
    errors.Undecided: ("SYS.1001", _message),
    errors.Unavailable: ("SYS.1012", _message),
    errors.Overloaded: ("SYS.1006", _message),
    errors.LoginFailed: ("ID.1000", _message),
    errors.Unauthenticated: ("ID.1001", _message),
    errors.PermissionDenied: ("ID.1002", _message),
    errors.DeployFailed: ("SYS.1006", _message),
    TimedOut: ("SYS.1001", _message),
    NotSupported: ("SYS.1014", _message),
    ApiTimedOut: ("SYS.1001", _message),
}


def is_expected(error: BaseException) -> bool:
    """Whether the error is in the table; any other one is a bug and must be logged with its traceback."""
    return any(kind in _TABLE for kind in type(error).__mro__)


def error_code(error: BaseException, request_id: str, details: str = "") -> dict[str, Any]:
    """The ErrorCode of an error. `details`: instead of the table's; `request_id`: what a log can be searched for."""
    row = next((_TABLE[kind] for kind in type(error).__mro__ if kind in _TABLE), None)
    if row is None or not isinstance(error, errors.CorralError):
        return _code("SYS.1000", f"internal error, request id {request_id}", {"requestId": request_id})
    code, say = row
    told = _code(code, details or say(error), {"reason": error.reason, "requestId": request_id, **_opaque(error)})
    if isinstance(error, errors.DeployFailed) and error.cause:
        told["cause"] = _code("SYS.1000", error.cause, {})
    return told


def _opaque(error: errors.CorralError) -> dict[str, Any]:
    """What machines may want: why a placement failed, and when to come back."""
    if isinstance(error, errors.PlacementError) and error.explanation is not None:
        failure = MessageToDict(placement_failure(error.explanation))
        return {"placementFailure": _renamed(failure)}
    if isinstance(error, errors.Conflict | errors.Undecided | errors.Unavailable | errors.Overloaded):
        return {"retryAfterMs": error.retry_after_ms}
    return {}


def _renamed(value: Any) -> Any:
    """With the paths of fields in JSON names too."""
    if isinstance(value, dict):
        return {k: words.camel(v) if k == "field" and isinstance(v, str) else _renamed(v) for k, v in value.items()}
    return [_renamed(item) for item in value] if isinstance(value, list) else value


def _code(code: str, details: str, opaque: Mapping[str, Any]) -> dict[str, Any]:
    description = _DESCRIPTIONS[code]
    return {"code": code, "description": description, "details": details, "opaque": dict(opaque)}
