"""The gRPC listeners: options, TLS, health, reflection, channelz on the admin listener, and the graceful end."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import grpc
from corral.v1 import (
    catalog_pb2,
    catalog_pb2_grpc,
    deploy_pb2,
    deploy_pb2_grpc,
    fleet_pb2,
    fleet_pb2_grpc,
    project_pb2,
    project_pb2_grpc,
    secret_pb2,
    secret_pb2_grpc,
)
from google.protobuf import descriptor_pool
from grpc_channelz.v1 import channelz, channelz_pb2_grpc
from grpc_channelz.v1.channelz_pb2 import DESCRIPTOR as CHANNELZ
from grpc_health.v1 import health_pb2_grpc

from service.app.groups import Groups
from service.app.identity import Identities
from service.app.logs import Logs
from service.contract.call import FORWARDED
from service.contract.convert.inventory import Reachable
from service.contract.frame import CallFrame, CallLimits
from service.domain.tenants import Caller
from service.listening import PRIVATE, AddressUnavailable, ListenAddress, remove_stale_socket, socket_mode
from service.rpc import group_servicer, health, library_log, reflection
from service.rpc.group_servicer import DistributedModelServicer
from service.rpc.health import HealthServicer
from service.rpc.interceptors import CallGuard, Identify
from service.telemetry.grpc_metrics import Method
from service.telemetry.logs import get_logger

FLEET_SERVICE = fleet_pb2.DESCRIPTOR.services_by_name["FleetService"].full_name
CATALOG_SERVICE = catalog_pb2.DESCRIPTOR.services_by_name["CatalogService"].full_name
CHANNELZ_SERVICE = CHANNELZ.services_by_name["Channelz"].full_name
SECRET_SERVICE = secret_pb2.DESCRIPTOR.services_by_name["SecretService"].full_name
PROJECT_SERVICE = project_pb2.DESCRIPTOR.services_by_name["ProjectService"].full_name
OWN_SERVICES = (group_servicer.SERVICE, FLEET_SERVICE, CATALOG_SERVICE, PROJECT_SERVICE, SECRET_SERVICE)

# A request between the limit and this many times of it is read and refused with the field that is too big; a larger
# one is refused by the transport, which gives no details.
_HARD_LIMIT_FACTOR = 4
_MAX_SEND_BYTES = 64 << 20
# Calls that have arrived and not begun, cancelled ones included. With more, gRPC refuses calls of every client with a
# bare CANCELLED. One client reaches its default of 1,000 within milliseconds.
_MAX_PENDING_CALLS = 8192
_MOST_PENDING_CALLS = 16384
# Further calls wait inside the client, where nobody sees them, so this is above what one client has reason to hold.
_MAX_STREAMS_PER_CONNECTION = 4096
_ADMIN_CONNECTIONS = 64

_log = get_logger("corral.rpc")


_SUBJECT_ALTERNATIVE_NAMES = "x509_subject_alternative_name"


async def anonymous(context: Any) -> Caller:
    """The identity of every caller where none is asked for."""
    return Caller()


def by(identities: Identities) -> Identify:
    """The caller by the `authorization` metadata, or by the URIs of the client's certificate."""

    async def identify(context: Any) -> Caller:
        metadata = dict(context.invocation_metadata() or ())
        shown = metadata.get("authorization", "")
        # gRPC does not tell a unix socket's peer by its uid: the kernel let in whom the socket's mode does.
        unix = context.peer().startswith("unix:") and not FORWARDED & metadata.keys()
        names = context.auth_context().get(_SUBJECT_ALTERNATIVE_NAMES, ())
        uris = [name.decode(errors="replace") for name in names]
        return await identities.identify(str(shown), uris, by_unix_socket=unix)

    return identify


def options(limits: CallLimits) -> list[tuple[str, int]]:
    """Channel arguments of a listener."""
    return [
        # By default a second process could share the port, and nobody would notice.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", limits.max_message_bytes * _HARD_LIMIT_FACTOR),
        ("grpc.max_send_message_length", _MAX_SEND_BYTES),
        ("grpc.max_allowed_incoming_connections", limits.max_connections),
        ("grpc.max_concurrent_streams", _MAX_STREAMS_PER_CONNECTION),
        ("grpc.server.max_pending_requests", _MAX_PENDING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", _MOST_PENDING_CALLS),
        ("grpc.max_metadata_size", 16 << 10),
        ("grpc.absolute_max_metadata_size", 32 << 10),
        # Finds within 80 s clients that vanished without closing their connection.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # A connection that never speaks HTTP/2 holds a file descriptor, by default for two minutes.
        ("grpc.server_handshake_timeout_ms", 20_000),
        # Otherwise clients with a keepalive of their own would be disconnected with too_many_pings.
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
        ("grpc.http2.max_ping_strikes", 5),
        ("grpc.enable_channelz", 1),
    ]


class RpcServer:
    """The public listener and, where an address is given, the admin listener.

    `start` opens them and answers NOT_SERVING until `set_serving(True)`. To end: `drain`, then `stop`.
    """

    def __init__(
        self,
        groups: Groups,
        frame: CallFrame,
        address: ListenAddress,
        admin_address: ListenAddress | None = None,
        *,
        reachable: Reachable,
        logs: Logs,
        credentials: grpc.ServerCredentials | None = None,
        unix_mode: int = PRIVATE,
        identify: Identify = anonymous,
        fleet: fleet_pb2_grpc.FleetServiceServicer | None = None,
        catalog: catalog_pb2_grpc.CatalogServiceServicer | None = None,
        projects: project_pb2_grpc.ProjectServiceServicer | None = None,
        secrets: secret_pb2_grpc.SecretServiceServicer | None = None,
        version: str = "",
        name: str = "",
    ) -> None:
        """`credentials`: TLS of the public listener; None: without, as the configuration allows it.

        `version`, and the installation's `name`: as health checks tell them.

        Without `fleet`, `catalog`, `projects` or `secrets` that service's methods answer UNIMPLEMENTED.
        """
        library_log.quieten()
        frame.metrics.grpc.initialise(_methods([*OWN_SERVICES, health.SERVICE]))
        self.address = address
        self.admin_address = admin_address
        self._credentials = credentials
        self._unix_mode = unix_mode
        self._health = HealthServicer(OWN_SERVICES, version, name)
        self._frames = (frame, frame.beside())
        public, admin = (CallGuard(each, identify) for each in self._frames)
        self._public = grpc.aio.server(interceptors=[public], options=options(frame.limits))
        few = options(replace(frame.limits, max_connections=_ADMIN_CONNECTIONS))
        self._admin = grpc.aio.server(interceptors=[admin], options=few) if admin_address else None
        models = DistributedModelServicer(groups, reachable, logs)
        fleet = fleet or fleet_pb2_grpc.FleetServiceServicer()
        catalog = catalog or catalog_pb2_grpc.CatalogServiceServicer()
        projects = projects or project_pb2_grpc.ProjectServiceServicer()
        secrets = secrets or secret_pb2_grpc.SecretServiceServicer()
        deploy_pb2_grpc.add_DistributedModelServiceServicer_to_server(models, self._public)
        fleet_pb2_grpc.add_FleetServiceServicer_to_server(fleet, self._public)
        catalog_pb2_grpc.add_CatalogServiceServicer_to_server(catalog, self._public)
        project_pb2_grpc.add_ProjectServiceServicer_to_server(projects, self._public)
        secret_pb2_grpc.add_SecretServiceServicer_to_server(secrets, self._public)
        self.services = {
            group_servicer.SERVICE: (deploy_pb2.DESCRIPTOR.services_by_name["DistributedModelService"], models),
            FLEET_SERVICE: (fleet_pb2.DESCRIPTOR.services_by_name["FleetService"], fleet),
            CATALOG_SERVICE: (catalog_pb2.DESCRIPTOR.services_by_name["CatalogService"], catalog),
            PROJECT_SERVICE: (project_pb2.DESCRIPTOR.services_by_name["ProjectService"], projects),
            SECRET_SERVICE: (secret_pb2.DESCRIPTOR.services_by_name["SecretService"], secrets),
        }
        """Full name -> (descriptor, servicer), for faces that speak the same contract another way."""
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._public)
        reflection.add_to_server(self._public, [*OWN_SERVICES, health.SERVICE])
        if self._admin is not None:
            health_pb2_grpc.add_HealthServicer_to_server(self._health, self._admin)
            channelz_pb2_grpc.add_ChannelzServicer_to_server(channelz.aio.ChannelzServicer(), self._admin)
            reflection.add_to_server(self._admin, [CHANNELZ_SERVICE, health.SERVICE])

    async def start(self) -> None:
        """Open the listeners; `address` and `admin_address` then hold the real ports. Raises AddressUnavailable."""
        self.address = _listen(self._public, self.address, self._credentials, self._unix_mode)
        await self._public.start()
        if self._admin is not None and self.admin_address is not None:
            self.admin_address = _listen(self._admin, self.admin_address, None, self._unix_mode)
            await self._admin.start()
        _log.info("gRPC listens", address=str(self.address), admin=str(self.admin_address or ""))

    def set_serving(self, serving: bool) -> None:
        """What health says."""
        self._health.set_serving(serving)

    def drain(self) -> None:
        """Health says NOT_SERVING; every stream of every face ends with Unavailable and a hint when to come back."""
        self._health.set_serving(False)
        for frame in self._frames:
            frame.end_streams()

    async def stop(self, grace_seconds: float) -> None:
        """Take no more calls, let the present ones end within the grace, then cut them off."""
        await self._public.stop(grace_seconds)
        if self._admin is not None:
            await self._admin.stop(grace_seconds)


def _methods(services: Sequence[str]) -> list[Method]:
    """All methods of some services, as metrics name them."""
    pool = descriptor_pool.Default()
    found = [method for name in services for method in pool.FindServiceByName(name).methods]
    return [Method(_kind(m), m.containing_service.full_name, m.name) for m in found]


def _kind(method: Any) -> str:
    if method.client_streaming:
        return "client_stream"
    return "server_stream" if method.server_streaming else "unary"


def _listen(
    server: Any, address: ListenAddress, credentials: grpc.ServerCredentials | None, unix_mode: int
) -> ListenAddress:
    """Bind one address; returns it with the port that it got. Raises AddressUnavailable."""
    if address.path:
        remove_stale_socket(address)
    try:
        with socket_mode(unix_mode) if address.path else contextlib.nullcontext():
            if credentials is None:
                port = server.add_insecure_port(str(address))
            else:
                port = server.add_secure_port(str(address), credentials)
    except RuntimeError as error:
        raise AddressUnavailable(f"{address} is in use or not an address of this machine") from error
    if address.path:
        return address
    return ListenAddress(address.host, port)
