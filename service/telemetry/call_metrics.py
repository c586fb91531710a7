"""What is counted for each call: `corral_calls_*` for every face, and gRPC's own family of metrics for gRPC."""

from __future__ import annotations

from service.telemetry.grpc_metrics import GrpcMetrics, Method, code_name
from service.telemetry.metrics import Metrics

GRPC, JSON, ZSTACK, JOB = "grpc", "json", "zstack", "job"
"""Values of the label `face`. A job is what a call by ZStack's protocols asked for, done after its acknowledgement."""


class CallMetrics:
    """The families of one process."""

    def __init__(self, metrics: Metrics) -> None:
        self._calls = metrics.calls
        self._duration = metrics.call_duration
        self.grpc = GrpcMetrics(metrics.registry)

    def started(self, face: str, method: Method) -> None:
        """Count the beginning of a call."""
        if face == GRPC:
            self.grpc.started(method)

    def received(self, face: str, method: Method) -> None:
        """Count a message from the caller."""
        if face == GRPC:
            self.grpc.received(method)

    def sent(self, face: str, method: Method) -> None:
        """Count a message to the caller."""
        if face == GRPC:
            self.grpc.sent(method)

    def ended(self, face: str, method: Method, code: str, seconds: float) -> None:
        """Count the end of a call. `code`: a status code's name, such as `INVALID_ARGUMENT`."""
        spelled = code_name(code)
        self._calls.labels(face, method.path, spelled).inc()
        self._duration.labels(face, method.path).observe(seconds)
        if face == GRPC:
            self.grpc.handled(method, spelled, seconds)
