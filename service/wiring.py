"""The composition root: the only place that names concrete stores, drivers and faces, and in what order they start."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import socket
import ssl
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from service.app.catalog import Catalog
from service.app.evacuation import Evacuation
from service.app.feed import Feed
from service.app.fleet import Fleet
from service.app.fleet_feed import FleetFeed
from service.app.groups import Groups
from service.app.groups import Limits as AppLimits
from service.app.identity import Identities
from service.app.jobs import Jobs
from service.app.rates import RateLimits
from service.app.sessions import Sessions
from service.config.file import Config
from service.domain.catalog import Image, RegisteredImage, configured_image_uuid
from service.domain.fleet import Host
from service.drivers.base import HostDriver, HostFacts, HostRejected
from service.errors import CorralError
from service.http import openapi
from service.http.app import bind, create_app, serve_http
from service.http.json_face import json_routes
from service.http.zstack.composition import zstack_routes
from service.planning.decisions import DecisionLog, RecordingPlanner
from service.planning.fleet_reader import FleetReader
from service.planning.planner import Planner
from service.planning.pool import PoolPlanner
from service.reconcile.calls import MemberCalls
from service.reconcile.directory import Directory
from service.reconcile.housekeeping import Housekeeping
from service.reconcile.manager import Reconciler
from service.reconcile.monitor import PROBE_SECONDS, HostMonitor
from service.reconcile.owners import Heirs, owner_name
from service.reconcile.roster import Roster
from service.reconcile.sweep import Sweep
from service.reconcile.tools import Tools
from service.rpc import tls
from service.rpc.catalog_servicer import CatalogServicer
from service.rpc.fleet_servicer import FleetServicer
from service.rpc.interceptors import Limits as RpcLimits
from service.rpc.server import RpcServer, by
from service.store import configured, events, fleet, groups, quotas
from service.store.connection import Connection
from service.store.engine import Store
from service.store.hints import Listener
from service.store.migrations import upgrade
from service.telemetry.logs import get_logger
from service.telemetry.metrics import Metrics, replace

log = get_logger("corral.wiring")

REACHABLE_KINDS = frozenset({"bridge", "network"})

# A rotated certificate is in use this long after its file was replaced, at the latest.
TLS_POLL_SECONDS = 5.0


class StartError(Exception):
    """The service cannot start; the message says why and what to do."""


def wall_clock() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def make_driver(config: Config, host: Host) -> HostDriver:
    """The driver that the host's configuration names. Drivers are imported when the first host needs them."""
    if host.address.driver == "simulated":
        from service.drivers.simulated import SharedHost, SimulatedDriver, SimulatedHost, SimulationOptions

        options = SimulationOptions.read(host.address.options)
        if options.state_file:
            shared = SharedHost(host.name, options, time.monotonic, Path(options.state_file))
            return SimulatedDriver(host.uuid, shared)
        return SimulatedDriver(host.uuid, SimulatedHost(host.name, options, time.monotonic))
    if host.address.driver == "libvirt":
        try:
            from service.drivers.libvirt.driver import LibvirtDriver
        except ImportError as error:
            raise HostRejected("unsupported", "libvirt's Python module is not installed here", str(error)) from error

        return LibvirtDriver(host.uuid, config.cluster_id, host.address)
    raise HostRejected("unsupported", f"there is no driver {host.address.driver!r}")


class Service:
    """One Corral process. `start`, then `stop`."""

    def __init__(self, config: Config, *, planner: Planner | None = None) -> None:
        """Opens the database and brings it up to date. Raises StartError, store.engine.DatabaseLocked, Unavailable."""
        self.config = config
        self.metrics = Metrics(process=True)
        self.metrics.build.labels(_version()).set(1)
        self.store = Store(config.store_url)
        upgrade(self.store.engine)
        self.feed = Feed(self.store)
        self._fleet_reader = FleetReader()
        self.decisions = DecisionLog()
        self._pool = planner or PoolPlanner(max(1, (os.cpu_count() or 1) - 1), self.metrics)
        self.planner = RecordingPlanner(self._pool, self.decisions, self.metrics, wall_clock)
        self.owner = owner_name()
        self.sessions = Sessions(self.store, config.accounts, wall_clock)
        self.identities = Identities(self.sessions, config.tokens, config.certificates, anonymous=config.anonymous)
        self.rates = RateLimits(
            config.rates.get(""),
            {project: rate for project, rate in config.rates.items() if project},
            time.monotonic,
            lambda project: self.metrics.rate_limited.labels(project).inc(),
        )
        self.groups = Groups(
            self.store,
            self.feed,
            self.planner,
            cluster=config.cluster_id,
            limits=AppLimits(max_nodes=config.server.max_nodes),
            fleet_reader=self._fleet_reader,
        )
        self.jobs = Jobs(self.store, wall_clock, owner=self.owner)
        self.fleet = Fleet(
            self.store,
            wall_clock,
            self._first_contact,
            self.planner,
            overcommit=config.overcommit,
            reader=self._fleet_reader,
            ssh_keys=config.ssh_keys,
        )
        self.catalog = Catalog(self.store, wall_clock, config.image_directory)
        self.fleet_feed = FleetFeed(self.store, self.fleet)
        self.fleet.changed = self.catalog.changed = self.fleet_feed.poke
        self.evacuation = Evacuation(self.store, self.feed, self.planner, wall_clock, self.fleet)
        self.directory = Directory({}, {}, {})
        self.reconciler = self._make_reconciler()
        self.roster = Roster(
            self.store, self.reconciler, self.directory, lambda host: make_driver(config, host), config.overcommit
        )
        self.fleet_feed.listen(self.roster.refresh)
        self.groups.poke = self.evacuation.poke = self.reconciler.poke
        self.evacuation.live_targets = self._calls.live_targets
        self.rpc = self._make_rpc()
        self._http_stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._http_socket: socket.socket | None = None
        self.http_address = ""

    async def start(self) -> None:
        """Open the listeners once the fleet's rows are written and the first hosts were asked.

        Raises AddressUnavailable, Unavailable.
        """
        self._http_socket = bind(self.config.server.http)
        try:
            await self._follow_fleet()
        except BaseException:
            self._http_socket.close()  # a start that fails leaves no listener behind
            raise
        await self.feed.start()
        self._spawn(self.feed.run(), "feed")
        if not self.store.sqlite:
            self._spawn(Listener(self.store.url, self.feed.poke, self.reconciler.poke).run(), "hints")
        heirs = Heirs(self.store, lambda: self.reconciler.poke(""))
        await heirs.once()  # what the process before this one held is this one's now
        self._spawn(heirs.run(), "heirs")
        self._spawn(Housekeeping(self.store).run(), "housekeeping")
        await self.reconciler.start()
        await self.rpc.start()
        app = create_app(
            registry=self.metrics.registry,
            readiness=self.readiness,
            refresh=self.refresh,
            endpoints={
                "gRPC": str(self.rpc.address),
                "JSON": "/corral/v1/instance-groups",
                "OpenAPI": "/openapi.json",
                "metrics": "/metrics",
                "health": "/healthz",
            },
            routes=[*self._json_routes(), *self._zstack_routes()],
        )
        self._spawn(self.jobs.run(), "jobs")
        self.http_address = _shown(self._http_socket)
        context = None
        if self.config.server.tls is not None:
            files = _pem(self.config)
            context = tls.context(files)
            self._spawn(_keep_fresh(context, files), "TLS files")
        http = serve_http(
            app,
            self._http_socket,
            self._http_stop,
            tls=context,
            max_connections=self.config.server.max_http_connections,
            refused=self.metrics.http_refused.inc,
        )
        self._spawn(http, "http")
        self.rpc.set_serving(True)
        if isinstance(self._pool, PoolPlanner):
            self._spawn(self._pool.warm(), "warm the planner")
        log.info("serving", grpc=str(self.rpc.address), http=self.http_address, hosts=len(self.directory.hosts))

    async def stop(self) -> None:
        """Drain: not serving, streams end with Unavailable, calls end, leases go back, then everything is closed."""
        grace = self.config.server.drain_grace_ms / 1000
        log.info("draining", grace_seconds=grace)
        self.rpc.drain()
        # Before the feed ends: a job that is cut off goes on in the next process, and must not be seen to fail.
        await self.jobs.stop()
        self.groups.drain()
        self.feed.close()
        self.fleet_feed.close()
        await self.rpc.stop(grace)
        await self.reconciler.stop(grace)
        self._http_stop.set()
        for task in self._tasks:
            if task.get_name() != "http":
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.planner.close()
        self.store.close()
        log.info("stopped")

    async def readiness(self) -> Mapping[str, str]:
        """What does not work, by part; empty when all does."""
        problems = {}
        try:
            await self.store.read(events.head)
        except CorralError as error:
            problems["store"] = error.message
        for task in self._tasks:
            if task.done() and task.get_name() != "warm the planner":
                problems[task.get_name()] = "has stopped"
        return problems

    async def refresh(self) -> None:
        """Bring the gauges that mirror the store up to date. Raises Unavailable."""

        def read(connection: Connection) -> tuple[Mapping[str, int], Mapping[str, int], Mapping[str, Host], int]:
            by_group, by_instance = groups.counts(connection)
            return by_group, by_instance, fleet.hosts(connection), events.head(connection)[1]

        by_group, by_instance, hosts, revision = await self.store.read(read)
        metrics = self.metrics
        replace(metrics.groups, {(status,): count for status, count in by_group.items()})
        replace(metrics.instances, {(status,): count for status, count in by_instance.items()})
        by_state: dict[tuple[str, ...], float] = {}
        for host in hosts.values():
            key = (host.state.value, host.status.value)
            by_state[key] = by_state.get(key, 0) + 1
        replace(metrics.hosts, by_state)
        for gauge, name in ((metrics.host_capacity, "usable"), (metrics.host_used, "used"),
                            (metrics.host_foreign, "foreign")):  # fmt: skip
            replace(
                gauge,
                {
                    (host.name, host.zone_uuid, resource): amount
                    for host in hosts.values()
                    for resource, amount in getattr(host, name).items()
                },
            )
        metrics.events_revision.set(revision)
        metrics.watch_streams.set(self.feed.followers)
        metrics.reconcile_workers.set(self.reconciler.working)

    def _make_reconciler(self) -> Reconciler:
        config = self.config
        monitors: dict[str, HostMonitor] = {}
        calls = self._calls = MemberCalls(config.cluster_id, monitors, self.directory, self.metrics)
        tools = Tools(
            store=self.store,
            planner=self.planner,
            calls=calls,
            monitors=monitors,
            metrics=self.metrics,
            owner=self.owner,
            cluster=config.cluster_id,
            fleet_reader=self._fleet_reader,
        )
        return Reconciler(tools, Sweep(self.store, monitors, config.cluster_id, self.metrics))

    async def _first_contact(self, host: Host) -> HostFacts:
        """What a host that is not of the fleet yet is. Raises DriverError."""
        driver = make_driver(self.config, host)
        try:
            return await driver.probe(budget_seconds=PROBE_SECONDS)
        finally:
            await driver.close()

    async def _follow_fleet(self) -> None:
        """Write what the configuration says and follow the rows. Raises StartError, Unavailable."""
        await self.store.write(self._write_fleet)
        await self.roster.sync()
        for host in self.config.hosts:
            if host.uuid in self.roster.unusable:
                raise StartError(f"host {host.name}: {self.roster.unusable[host.uuid]}")
        await self.fleet_feed.start()
        self._spawn(self.fleet_feed.run(), "fleet")

    def _json_routes(self) -> list[Route]:
        description = openapi.document((d for d, _ in self.rpc.services.values()), _version())

        async def described(_request: Request) -> Response:
            return JSONResponse(description)

        limit = self.config.server.max_message_bytes
        routes = json_routes(self.rpc.services, self.identities, max_body_bytes=limit, admit=self.rates.admit)
        return [Route("/openapi.json", described), *routes]

    def _zstack_routes(self) -> list[Route]:
        return zstack_routes(
            self.groups,
            self.fleet,
            self.catalog,
            self.sessions,
            self.jobs,
            reachable=self._reachable,
            webhook_networks=self.config.webhook_networks,
            max_body_bytes=self.config.server.max_message_bytes,
            admit=self.rates.admit,
        )

    def _reachable(self, zone_uuid: str) -> bool:
        """Whether members in the zone have addresses that are reachable from outside of their hosts."""
        zone = self.directory.zones.get(zone_uuid)
        return zone is not None and zone.network.kind in REACHABLE_KINDS

    def _make_rpc(self) -> RpcServer:
        config = self.config
        return RpcServer(
            self.groups,
            self.metrics.registry,
            config.server.grpc,
            config.server.admin,
            reachable=self._reachable,
            limits=RpcLimits(
                max_message_bytes=config.server.max_message_bytes, max_connections=config.server.max_grpc_connections
            ),
            credentials=tls.credentials(_pem(config)) if config.server.tls is not None else None,
            identify=by(self.identities),
            admit=self.rates.admit,
            fleet=FleetServicer(self.fleet, self.fleet_feed, self.evacuation, self.decisions, self._reachable),
            catalog=CatalogServicer(self.catalog),
        )

    def _write_fleet(self, connection: Connection) -> None:
        config = self.config
        configured.write(
            connection,
            zones=config.zones,
            hosts=config.hosts,
            images=[_registered(image) for image in config.images],
            model_services=[
                dataclasses.replace(entry, image_uuid=configured_image_uuid(entry.image.name))
                for entry in config.model_services
            ],
            now=wall_clock(),
        )
        quotas.put(connection, config.quotas)

    def _spawn(self, work: object, name: str) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work, name=name)  # type: ignore[arg-type]
        task.add_done_callback(_report)
        self._tasks.append(task)


def _registered(image: Image) -> RegisteredImage:
    """An image of the configuration file as the catalogue tells it."""
    paths = [Path(path) for path in (image.kernel_path, image.initrd_path, image.disk_path) if path]
    return RegisteredImage(
        configured_image_uuid(image.name),
        image,
        "kernel" if image.kernel_path else image.disk_format,
        sum(path.stat().st_size for path in paths if path.is_file()),
    )


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("background task broke", task=task.get_name(), exc_info=error)


async def _keep_fresh(context: ssl.SSLContext, files: tls.Reloading) -> None:
    """New handshakes of the HTTP listener get what the files hold; gRPC looks at its own."""
    while True:
        await asyncio.sleep(TLS_POLL_SECONDS)
        await asyncio.to_thread(tls.refresh, context, files)


def _pem(config: Config) -> tls.Reloading:
    files = config.server.tls
    assert files is not None
    try:
        return tls.Reloading(files.certificate, files.key, files.client_ca)
    except (OSError, ValueError) as error:
        raise StartError(f"[server.tls]: {error}") from error


def _shown(listener: socket.socket) -> str:
    name = listener.getsockname()
    return f"unix:{name}" if isinstance(name, str) else f"{name[0]}:{name[1]}"


def _version() -> str:
    with contextlib.suppress(PackageNotFoundError):
        return version("corral")
    return "source"
