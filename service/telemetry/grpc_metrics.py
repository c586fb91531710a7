"""The `grpc_server_*` metrics under the names and labels that dashboards for gRPC servers expect.

`grpc_type`: unary | client_stream | server_stream | bidi_stream. `grpc_code`: `OK`, `InvalidArgument`, … as
the gRPC ecosystem spells them. Times are seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_OK = "OK"


@dataclass(frozen=True, slots=True)
class Method:
    """One method of an API as its labels name it. `type`: unary | client_stream | server_stream | bidi_stream."""

    type: str
    service: str
    name: str

    @property
    def labels(self) -> tuple[str, str, str]:
        """Values of grpc_type, grpc_service, grpc_method."""
        return (self.type, self.service, self.name)

    @property
    def path(self) -> str:
        """`package.Service/Method`, as the table of roles has it; the bare name of what belongs to no gRPC service."""
        return f"{self.service}/{self.name}" if self.service else self.name

    @property
    def streams(self) -> bool:
        """Whether either side sends a stream."""
        return self.type != "unary"


# Callers choose the paths that they ask for: those that are not served share one series.
UNKNOWN_METHOD = Method("unary", "unknown", "unknown")


class GrpcMetrics:
    """The family on one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ["grpc_type", "grpc_service", "grpc_method"]
        self._started = Counter("grpc_server_started_total", "RPCs started.", labels, registry=registry)
        self._handled = Counter(
            "grpc_server_handled_total", "RPCs ended, by status code.", [*labels, "grpc_code"], registry=registry
        )
        self._received = Counter("grpc_server_msg_received_total", "Messages received.", labels, registry=registry)
        self._sent = Counter("grpc_server_msg_sent_total", "Messages sent.", labels, registry=registry)
        self._handling = Histogram(
            "grpc_server_handling_seconds", "Duration of RPCs.", labels, buckets=_BUCKETS, registry=registry
        )

    def initialise(self, methods: Iterable[Method]) -> None:
        """Show every method with zeros, so that rates are right from the first call on."""
        for method in methods:
            self._started.labels(*method.labels)
            self._handled.labels(*method.labels, _OK)
            self._received.labels(*method.labels)
            self._sent.labels(*method.labels)
            self._handling.labels(*method.labels)

    def started(self, method: Method) -> None:
        """Count the beginning of an RPC."""
        self._started.labels(*method.labels).inc()

    def received(self, method: Method) -> None:
        """Count a message from the client."""
        self._received.labels(*method.labels).inc()

    def sent(self, method: Method) -> None:
        """Count a message to the client."""
        self._sent.labels(*method.labels).inc()

    def handled(self, method: Method, code: str, seconds: float) -> None:
        """Count the end of an RPC; `code` is spelled `OK`, `InvalidArgument`, …"""
        self._handled.labels(*method.labels, code).inc()
        self._handling.labels(*method.labels).observe(seconds)


def code_name(name: str) -> str:
    """A status code's name as the label spells it: `INVALID_ARGUMENT` as `InvalidArgument`, `OK` as it is."""
    if name == _OK:
        return name
    # The ecosystem spells this one code with a single l.
    return "Canceled" if name == "CANCELLED" else "".join(word.capitalize() for word in name.split("_"))
