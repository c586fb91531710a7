"""The composition root: which store, planner, drivers and faces make up one control plane, and who hears whom.

It only puts together. What starts and ends in which order is `process`.
"""

from __future__ import annotations

import contextlib
import os
import time
from importlib.metadata import PackageNotFoundError, version

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from service.app import imports, jobs, sessions
from service.app.access_keys import AccessKeys
from service.app.catalog import Catalog
from service.app.cleaning import Cleanings
from service.app.credentials import Credentials
from service.app.devices import Devices
from service.app.evacuation import Evacuation
from service.app.feed import Feed
from service.app.fleet import Fleet
from service.app.fleet_feed import FleetFeed
from service.app.gauges import Gauges
from service.app.groups import GroupLimits, Groups
from service.app.health import Health
from service.app.identity import Identities
from service.app.image_store import ImageStore
from service.app.jobs import Job, JobResult, Jobs
from service.app.logs import Logs
from service.app.picture import Picture
from service.app.projects import Projects
from service.app.quarantine import Quarantine
from service.app.rates import RateLimits
from service.app.rebalancing import Rebalancing
from service.app.rolling import Rolls
from service.app.room import RoomPlans
from service.app.seats import StoredSeats
from service.app.secrets import StoredSecrets
from service.app.sessions import Sessions
from service.app.uploads import Uploads
from service.app.used import Used
from service.config.file import Config
from service.config.keys import KeyUnusable, read_keys
from service.config.secrets import ConfiguredSecrets
from service.contract.frame import CallFrame, CallLimits
from service.domain.fleet import Host
from service.domain.tenants import Anonymous
from service.drivers import in_zone
from service.drivers.base import HostDriver, HostFacts
from service.drivers.kinds import make_driver, make_switch
from service.http import openapi
from service.http.app import Readiness, create_app
from service.http.guard import WebGuard
from service.http.json_face import json_routes
from service.http.scraping import ScrapeGuard
from service.http.web.live import Live
from service.http.web.pages import page_routes
from service.http.zstack.composition import zstack_face, zstack_routes
from service.http.zstack.face import ZStackFace
from service.http.zstack.paths import WithoutEmptySegments
from service.http.zstack.webhook import Webhooks
from service.planning.decisions import DecisionLog, RecordingPlanner
from service.planning.fleet_reader import FleetReader
from service.planning.planner import Planner
from service.planning.pool import PoolPlanner
from service.reconcile import fencing
from service.reconcile.adoption import Adoption
from service.reconcile.calls import MemberCalls
from service.reconcile.cleaning import Cleaner
from service.reconcile.context import WorkerContext
from service.reconcile.copy_sweep import CopySweep
from service.reconcile.custody import Custody
from service.reconcile.directory import Directory
from service.reconcile.fencing import Fencer
from service.reconcile.manager import Reconciler
from service.reconcile.monitor import PROBE_SECONDS, HostMonitor
from service.reconcile.owners import owner_name
from service.reconcile.rolling import Roller
from service.reconcile.roster import Roster
from service.reconcile.staging import Stagings
from service.reconcile.sweep import Sweep
from service.reconcile.worker import LEASE_MS
from service.rpc import tls
from service.rpc.catalog_servicer import CatalogServicer
from service.rpc.fleet_servicer import FleetServicer
from service.rpc.project_servicer import ProjectServicer
from service.rpc.secret_servicer import SecretServicer
from service.rpc.server import RpcServer, by
from service.signals import Signals
from service.store import fleet, rebalances
from service.store.clock import StoreClock, wall_clock
from service.store.clock import now as database_now
from service.store.engine import Store
from service.store.migrations import upgrade
from service.store.ownership import AnotherCluster, establish
from service.store.sealing import Keyring
from service.telemetry.call_metrics import CallMetrics
from service.telemetry.metrics import Metrics
from service.transactions.secrets import KnownSecrets

REACHABLE_KINDS = frozenset({"bridge", "network"})


class StartError(Exception):
    """The service cannot start; the message says why and what to do."""


class Service:
    """The parts of one control plane, made and connected; none of them runs yet."""

    def __init__(self, config: Config, *, planner: Planner | None = None) -> None:
        """Opens the database and brings it up to date. Raises StartError, DatabaseLocked, Unavailable."""
        self.config = config
        self._known_secrets = KnownSecrets(ConfiguredSecrets(config.secrets), keyring(config))
        self.signals = Signals()
        self.metrics = Metrics(process=True)
        self.metrics.build.labels(_version()).set(1)
        self.store = Store(config.store_url)
        upgrade(self.store.engine)
        try:
            installation = establish(self.store.engine, config.cluster_id, wall_clock())
        except AnotherCluster as error:
            self.store.close()
            raise StartError(str(error)) from error
        self.store.on_end(
            lambda kind, outcome, seconds: self.metrics.database_transactions.labels(kind, outcome).observe(seconds)
        )
        self.custody = Custody(self.store, installation)
        self.name = config.cluster_name or installation.cluster
        self.seats = StoredSeats(self.store)
        self.clock = StoreClock(LEASE_MS)
        asked_at = time.monotonic()
        with self.store.engine.connect() as connection:
            self.clock.read(database_now(connection), asked_at)
        self.owner = owner_name()
        self._fleet_reader = FleetReader()
        self.decisions = DecisionLog()
        self.pool = planner or PoolPlanner(max(2, (os.cpu_count() or 1) - 1), self.metrics)
        self.planner = RecordingPlanner(self.pool, self.decisions, self.metrics, wall_clock)
        self._make_identity()
        self.directory = Directory({}, {}, {}, lambda: self.roster.refresh())
        self._make_reconciliation()
        self._make_use_cases()
        self.zstack = self._make_zstack()
        self.health = Health(self.store, config.overcommit)
        self.gauges = Gauges(
            self.store, self.metrics, self.feed, lambda: self.reconciler.working, self.secrets.counted, self.used.of
        )
        self.rpc = self._make_rpc()
        self._connect()

    def http_app(self, readiness: Readiness) -> ASGIApp:
        """What the HTTP listener serves."""
        app = create_app(
            registry=self.metrics.registry,
            readiness=readiness,
            refresh=self.gauges.refresh,
            notes=lambda: {**self.health.notes, **self.uploads.notes},
            routes=[*self._json_routes(), *zstack_routes(self.zstack), *self._web_routes()],
        )
        whole = WithoutEmptySegments(app)
        open_here = self.config.open_scrape and self.config.server.http.local
        guarded = ScrapeGuard(whole, self.identities, open_here=open_here)
        return WebGuard(guarded, self.frame, self.config.server.known_host_names)

    def _make_identity(self) -> None:
        config = self.config
        self.sessions = Sessions(self.store, config.accounts, self.clock.now)
        self.access_keys = AccessKeys(config.access_keys, wall_clock)
        self.identities = Identities(self.sessions, config.tokens, config.certificates, anonymous=config.anonymous)
        self.rates = RateLimits(
            config.rates.get(""),
            {project: rate for project, rate in config.rates.items() if project},
            time.monotonic,
            lambda project: self.metrics.rate_limited.labels(project).inc(),
        )
        limits = CallLimits(
            max_message_bytes=config.server.max_message_bytes, max_connections=config.server.max_grpc_connections
        )
        self.frame = CallFrame(CallMetrics(self.metrics), limits, self.rates.admit)

    def _make_reconciliation(self) -> None:
        monitors: dict[str, HostMonitor] = {}
        self.used = Used(monitors)
        stagings = Stagings(self.store, self.metrics, self.owner, self.config.least_staging_rate)
        held = (self.custody, monitors, self.directory, self.metrics, self._known_secrets)
        self._calls = MemberCalls(*held, stagings=stagings)
        context = WorkerContext(
            store=self.store,
            planner=self.planner,
            calls=self._calls,
            monitors=monitors,
            metrics=self.metrics,
            owner=self.owner,
            custody=self.custody,
            clock=self.clock,
            waits=(*jobs.WAITS, *sessions.WAITS, *fencing.WAITS, *rebalances.WAITS),
            fleet_reader=self._fleet_reader,
            kept_after_ms=1000 * self.config.keep_room_after,
            priorities=self.config.priorities,
        )
        self._adoption = Adoption(self.store, monitors, self.custody)
        copies = CopySweep(self.store, self.metrics, self.owner, self.config.image_copies_budget)
        self.reconciler = Reconciler(context, Sweep(self.store, monitors, self.custody, self.metrics, copies))
        self.roster = Roster(self.store, self.reconciler, self.directory, self._driver, self.custody)
        self.fencer = Fencer(
            self.store, monitors, self.custody, self.metrics, self.clock, self.owner, make_switch,
            group_due=self.signals.group_due,
        )  # fmt: skip
        self.cleaner = Cleaner(self.store, monitors, self.custody, self.metrics, self.clock, self.owner)
        self.roller = Roller(
            self.store, self.planner, self._fleet_reader, self._calls.live_targets, self.custody, self.metrics,
            wall_clock, self.signals,
        )  # fmt: skip

    def _make_use_cases(self) -> None:
        config = self.config
        self.feed = Feed(self.store)
        self.groups = Groups(
            self.store,
            self.feed,
            self.planner,
            cluster=self.custody.installation.cluster,
            limits=GroupLimits(max_nodes=config.server.max_nodes, priorities=config.priorities),
            fleet_reader=self._fleet_reader,
            signals=self.signals,
            secrets=self._known_secrets,
            holder=self.reconciler,
        )
        self.secrets = StoredSecrets(self.store, wall_clock, self._known_secrets)
        self._webhooks = Webhooks(config.webhook_networks)
        self.jobs = Jobs(
            self.store,
            self.clock.now,
            perform=self._perform_job,
            deliver=self._webhooks.deliver,
            owner=self.owner,
            leases_as_of=self.clock.leases_as_of,
        )
        self.fleet = Fleet(
            self.store,
            wall_clock,
            self._first_contact,
            self.planner,
            reader=self._fleet_reader,
            credentials=config.credentials,
            anonymous_loopback=config.anonymous is Anonymous.LOOPBACK and config.server.on_loopback,
            signals=self.signals,
            used=self.used.of,
            image_copies_budget=config.image_copies_budget,
        )
        self.catalog = Catalog(
            self.store, wall_clock, config.image_directory, signals=self.signals, secrets=self._known_secrets
        )
        self.uploads = Uploads(
            self.store, self.catalog, ImageStore(config.image_directory, config.max_upload_size), self.metrics
        )
        self.imports = imports.configured(
            self.uploads, self.catalog, Credentials(self.store, self._known_secrets), config
        )
        self.fleet_feed = FleetFeed(self.store, self.fleet)
        self.devices = Devices(self.store, wall_clock, self.signals)
        self.cleanings = Cleanings(self.store, wall_clock, self.fleet, self.signals)
        self.quarantine = Quarantine(self.store, wall_clock, self.signals, self._adoption.prepare)
        live_targets = self._calls.live_targets
        self.evacuation = Evacuation(
            self.store, self.feed, self.planner, wall_clock, self.fleet, signals=self.signals, live_targets=live_targets
        )
        self.room = RoomPlans(self.store, self.groups, self.planner, wall_clock, live_targets, config.priorities)
        self.rebalancing = Rebalancing(
            self.store, self.feed, self.planner, wall_clock, self._fleet_reader, live_targets,
            metrics=self.metrics, signals=self.signals, hold_seconds=config.hold_seconds,
        )  # fmt: skip
        self.rolls = Rolls(
            self.store, self.planner, wall_clock, self._fleet_reader, live_targets,
            metrics=self.metrics, signals=self.signals,
        )  # fmt: skip

    def _connect(self) -> None:
        """Who hears whom."""
        self.signals.group_due.listen(self.reconciler.poke)
        self.signals.fleet_changed.listen(self.fleet_feed.poke)
        self.signals.fleet_changed.listen(self.fencer.poke)
        self.signals.fleet_changed.listen(self.cleaner.poke)
        self.signals.fleet_changed.listen(self.roller.poke)
        self.fleet_feed.listen(self.roster.refresh)
        self.fleet_feed.listen(self.health.compare)

    def _driver(self, host: Host) -> HostDriver:
        return make_driver(host, self.custody.installation.cluster, self.seats)

    async def _first_contact(self, host: Host) -> HostFacts:
        """What a host is that is not in the fleet yet. Raises DriverError."""
        zones = await self.store.read(fleet.zones)
        driver = self._driver(in_zone.reached(host, zones.get(host.zone_uuid)))
        try:
            return await driver.probe(budget_seconds=PROBE_SECONDS)
        finally:
            await driver.close()

    def _json_routes(self) -> list[Route]:
        description = openapi.document((d for d, _ in self.rpc.services.values()), _version())

        async def described(_request: Request) -> Response:
            return JSONResponse(description)

        routes = json_routes(self.rpc.services, self.frame, self.identities)
        return [Route("/openapi.json", described), *routes]

    def _web_routes(self) -> list[Route]:
        about = {"version": _version(), "grpc": str(self.rpc.address), "name": self.name}
        picture = Picture(self.store, self.fleet.views, self.feed)
        self.feed.listen(picture.poke)
        self.signals.fleet_changed.listen(picture.poke)
        live = Live(self.frame, self.identities, self.groups, picture, self.used, self._reachable, about)
        return [live.route(), *page_routes()]

    def _make_zstack(self) -> ZStackFace:
        return zstack_face(
            self.frame,
            self.groups,
            self.fleet,
            self.catalog,
            self.sessions,
            self.access_keys,
            self.jobs,
            self._webhooks,
            reachable=self._reachable,
        )

    async def _perform_job(self, job: Job) -> JobResult:
        return await self.zstack.perform(job)

    def _reachable(self, zone_uuid: str) -> bool:
        """Whether members in the zone have addresses that are reachable from outside of their hosts."""
        zone = self.directory.zones.get(zone_uuid)
        return zone is not None and zone.network.kind in REACHABLE_KINDS

    def _make_rpc(self) -> RpcServer:
        config = self.config
        return RpcServer(
            self.groups,
            self.frame,
            config.server.grpc,
            config.server.admin,
            reachable=self._reachable,
            logs=Logs(self.groups, self.feed, self._calls.logs),
            unix_mode=config.server.unix_mode,
            credentials=tls.credentials(pem(config)) if config.server.tls is not None else None,
            identify=by(self.identities),
            fleet=FleetServicer(
                self.fleet,
                self.fleet_feed,
                self.evacuation,
                self.cleanings,
                self.quarantine,
                self.devices,
                self.decisions,
                self.room,
                self.rebalancing,
                self.rolls,
                self._reachable,
            ),
            catalog=CatalogServicer(self.catalog, self.uploads, self.imports),
            projects=ProjectServicer(Projects(self.store)),
            secrets=SecretServicer(self.secrets),
            version=_version(),
            name=self.name,
        )


def keyring(config: Config) -> Keyring:
    """The keys that stored secrets are encrypted with. Raises StartError."""
    try:
        return Keyring(read_keys(config.secret_keys))
    except KeyUnusable as error:
        raise StartError(f"[[secret_keys]]: {error}") from error


def pem(config: Config) -> tls.Reloading:
    """The listeners' TLS files, for a configuration that names them. Raises StartError."""
    files = config.server.tls
    assert files is not None
    try:
        return tls.Reloading(files.certificate, files.key, files.client_ca)
    except (OSError, ValueError) as error:
        raise StartError(f"[server.tls]: {error}") from error


def _version() -> str:
    with contextlib.suppress(PackageNotFoundError):
        return version("corral")
    return "source"
