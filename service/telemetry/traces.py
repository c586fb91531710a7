"""Traces: one for each call, from its RPC over the planner and the reconciler to the calls to hosts.

A call's request id is the name of its trace: logs, audit rows and traces find each other, and a replica that goes
on with the work of another one needs nothing but the audit row. Spans are made where the extra `otel` is installed and
OTEL_EXPORTER_OTLP_ENDPOINT says where they go; otherwise a span is one look at a variable.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from service.telemetry.logs import get_logger

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

_HEX = re.compile(r"[0-9a-f]{32}")
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
_DESTINATIONS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")

Values = Mapping[str, str | int | float | bool]

_tracer: Tracer | None = None
_named: ContextVar[str] = ContextVar("request_id", default="")
"""The request id that the next span without a parent is named by."""

_log = get_logger("corral.traces")


def trace_id(request_id: str) -> str:
    """The trace of a call, 32 hexadecimal digits: the request id itself where it is such, or its digest."""
    plain = request_id.replace("-", "")
    usable = _HEX.fullmatch(plain) and plain.strip("0")
    return plain if usable else hashlib.sha256(request_id.encode()).hexdigest()[:32]


def trace_of(traceparent: object) -> str:
    """The trace that a caller says it is in (W3C `traceparent`); empty where it says none."""
    found = _TRACEPARENT.fullmatch(traceparent) if isinstance(traceparent, str) else None
    return found[1] if found is not None and found[1].strip("0") else ""


def on() -> bool:
    """Whether anybody hears of spans."""
    return _tracer is not None


def configure() -> None:
    """Send this process's spans to where the environment says, if it says so."""
    if not any(os.environ.get(name) for name in _DESTINATIONS):
        return
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        _log.warning("no traces are sent: the extra otel is not installed")
        return
    provide(BatchSpanProcessor(OTLPSpanExporter()))


def provide(processor: Any) -> None:
    """Give all spans to this processor of OpenTelemetry's."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class ByRequest(RandomIdGenerator):
        """A span without a parent is the first of its call: both of its ids follow from the request id."""

        def generate_trace_id(self) -> int:
            named = _named.get()
            return int(trace_id(named), 16) if named else super().generate_trace_id()

        def generate_span_id(self) -> int:
            named = _named.get()
            return _first_span(named) if named else super().generate_span_id()

    global _tracer
    resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", "corral")})
    provider = TracerProvider(resource=resource, id_generator=ByRequest())
    provider.add_span_processor(processor)
    _tracer = provider.get_tracer("corral")


def close() -> None:
    """Send nothing more."""
    global _tracer
    _tracer = None


def span(name: str, values: Values | None = None) -> AbstractContextManager[Any]:
    """Around a piece of work, within whatever is around it. Yields OpenTelemetry's span, or None where nobody hears."""
    if _tracer is None:
        return nullcontext()
    return _tracer.start_as_current_span(name, attributes=dict(values or {}))


def host_call(driver: str, name: str, host: str, instance: str) -> AbstractContextManager[Any]:
    """Around a call to a host for a member. Looks, of which there are many and for ever, are in no trace."""
    if name == "observe":
        return nullcontext()
    return span(f"{driver} {name}", {"corral.host": host, "corral.instance": instance})


@contextmanager
def call(name: str, request_id: str) -> Iterator[None]:
    """Around a call: the first span of its trace."""
    if _tracer is None:
        yield
        return
    from opentelemetry.context import Context
    from opentelemetry.trace import SpanKind

    mark = _named.set(request_id)
    try:
        first = _tracer.start_span(name, Context(), SpanKind.SERVER, {"corral.request_id": request_id})
    finally:
        _named.reset(mark)
    from opentelemetry.trace import use_span

    with use_span(first, end_on_exit=True):
        yield


@contextmanager
def continued(request_id: str) -> Iterator[None]:
    """Around work that a call set off, in this process or another: its spans are below the call's."""
    if _tracer is None or not request_id:
        yield
        return
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span

    parent = SpanContext(
        int(trace_id(request_id), 16), _first_span(request_id), is_remote=True, trace_flags=TraceFlags(1)
    )
    with use_span(NonRecordingSpan(parent)):
        yield


def _first_span(request_id: str) -> int:
    return int(hashlib.sha256(request_id.encode()).hexdigest()[32:48], 16) or 1
