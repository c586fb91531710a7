"""Who makes a call, under which id, and for how long: what each face knows of a call before it is read."""

from __future__ import annotations

import re
import uuid
from contextvars import ContextVar
from typing import Any

from service.app.visibility import sees_causes
from service.domain.tenants import Caller
from service.telemetry import traces

REQUEST_ID_KEY = "x-request-id"
TRACEPARENT_KEY = "traceparent"
FORWARDED = frozenset({"x-forwarded-for", "forwarded"})
"""Headers by which a proxy tells for whom it calls; such a caller does not have the proxy's own rights."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")

_caller: ContextVar[Caller] = ContextVar("corral_caller")


def current_caller() -> Caller:
    """Who makes the present call. Raises LookupError outside of one."""
    return _caller.get()


def set_caller(caller: Caller) -> None:
    """Remember the caller for the rest of the present call; every call runs in a context of its own."""
    _caller.set(caller)


def told_cause(cause: str) -> str:
    """What a host itself said, where the present call's caller may know it; outside of a call nobody may."""
    caller = _caller.get(None)
    return cause if caller is not None and sees_causes(caller) else ""


def seconds_left(context: Any) -> float | None:
    """Seconds until the caller's deadline. None for calls that came as JSON; a very large number where gRPC's caller
    set no deadline."""
    left: float | None = None if context is None else context.time_remaining()
    return left


def request_id_of(shown: object, traceparent: object = None) -> str:
    """The id that a caller chose (`x-request-id`) where it is fit for logs; else the trace that it says it is in
    (`traceparent`); else a new one."""
    if isinstance(shown, str) and _REQUEST_ID.fullmatch(shown):
        return shown
    return traces.trace_of(traceparent) or uuid.uuid4().hex
