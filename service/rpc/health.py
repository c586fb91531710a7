"""`grpc.health.v1`: whether the service takes calls, for load balancers and orchestrators."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.errors import NotFound

SERVICE = "grpc.health.v1.Health"

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """One state for the whole server, told under the empty name and under each service's."""

    def __init__(self, services: Iterable[str], version: str = "", name: str = "") -> None:
        """Not serving until `set_serving` says so. `version`, and the installation's `name`: what a check tells in its
        initial metadata."""
        self._version, self._name = version, name.encode()
        self._services = frozenset({"", *services})
        self._serving = False
        self._changed = asyncio.Event()

    def set_serving(self, serving: bool) -> None:
        """Change the state and tell all who watch."""
        if serving != self._serving:
            self._serving = serving
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    def _status(self, service: str) -> Any:
        if service not in self._services:
            return _UNKNOWN
        return _SERVING if self._serving else _NOT_SERVING

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802  # the contract's name
        """The present state. Raises NotFound for a service that is not here."""
        status = self._status(request.service)
        if status == _UNKNOWN:
            raise NotFound("service", request.service[:256], "service")
        if self._version:
            told = (("corral-version", self._version), ("corral-installation-bin", self._name))
            await context.send_initial_metadata(told)
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802  # the contract's name
        """The present state and every change, without end."""
        while True:
            changed = self._changed
            yield health_pb2.HealthCheckResponse(status=self._status(request.service))
            await changed.wait()
