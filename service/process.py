"""One Corral process: the order in which the parts start and end, and whether all of them work."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import ssl
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from service.app.capacity import carries
from service.app.health import shown
from service.config.settings import Config
from service.domain.catalog import Image, RegisteredImage, configured_image_uuid
from service.domain.fleet import ANSWERING, Host, HostStatus, Overcommit, Zone
from service.domain.network import clashes
from service.drivers import kinds
from service.http.app import bind, serve_http
from service.http.machines import machines_app
from service.planning.pool import PoolPlanner
from service.reconcile.housekeeping import Housekeeping
from service.reconcile.owners import LeaseReaper
from service.rpc import tls
from service.store import configured, fleet, quotas
from service.store.clock import wall_clock
from service.store.connection import Connection
from service.store.hints import Listener
from service.store.loads import of_hosts
from service.telemetry.logs import get_logger
from service.wiring import Service, StartError, pem

log = get_logger("corral.process")

TLS_POLL_SECONDS = 5.0
"""A rotated certificate is in use this long after its file was replaced, at the latest."""

_WARM = "warm the planner"
_MACHINES = "machines"
_MAY_ANSWER = ANSWERING | {HostStatus.CONNECTING}
"""The one background task that ends by itself."""


class Process:
    """`start`, then `stop`. A start that failed needs `stop` too."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.http_address = ""
        self._http_socket: socket.socket | None = None
        self._http_stop = asyncio.Event()
        self.machines_address = ""
        self._machines_socket: socket.socket | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._draining = False
        self._answered_before = frozenset[str]()

    async def start(self) -> None:
        """Open the listeners once the fleet's rows are written and hosts were asked for the first time.

        Raises StartError, AddressUnavailable, Unavailable.
        """
        service = self.service
        self._http_socket = bind(service.config.server.http, service.config.server.unix_mode)
        try:
            if service.config.server.machines is not None:
                self._machines_socket = bind(service.config.server.machines, service.config.server.unix_mode)
                self.machines_address = _shown(self._machines_socket)
            await self._follow_fleet()
        except BaseException:
            self._http_socket.close()  # a start that fails leaves no listener behind
            if self._machines_socket is not None:
                self._machines_socket.close()
            raise
        await service.feed.start()
        self._spawn(service.feed.run(), "feed")
        if not service.store.sqlite:
            self._spawn(Listener(service.store.url, service.feed.poke, service.signals.group_due).run(), "hints")
        reaper = LeaseReaper(service.store, lambda: service.signals.group_due(""))
        await reaper.once()  # what the process before this one held is this one's now
        self._spawn(reaper.run(), "leases of ended processes")
        self._spawn(service.fencer.run(), "fencing")
        self._spawn(service.cleaner.run(), "cleaning")
        self._spawn(service.roller.run(), "rolls")
        self._spawn(Housekeeping(service.store).run(), "housekeeping")
        self._spawn(service.uploads.run(), "images")
        for key, count in (await service.secrets.rewrap()).items():
            log.error(
                "stored secrets cannot be decrypted: machines that need them are not made, and they stay as they are",
                key=key,
                secrets=count,
                wanted="that key, as it was, in [[secret_keys]]",
            )
        await service.reconciler.start(self._answered_before)
        await service.rpc.start()
        self._serve_http(self._http_socket)
        if self._machines_socket is not None:
            self._serve_machines(self._machines_socket)
        self._spawn(service.jobs.run(), "jobs")
        self._serves(await service.health.prove())
        self._spawn(service.health.run(self._serves), "health")
        if isinstance(service.pool, PoolPlanner):
            self._spawn(service.pool.warm(), _WARM)
        log.info("serving", grpc=str(service.rpc.address), http=self.http_address, hosts=len(service.directory.hosts))

    async def stop(self) -> None:
        """Drain: not serving, streams end with Unavailable, calls end, leases go back, then everything is closed."""
        service = self.service
        grace = service.config.server.drain_grace_ms / 1000
        log.info("draining", grace_seconds=grace)
        self._draining = True
        service.rpc.drain()
        # Before the feed ends: a job that is cut off goes on in the next process, and must not be seen to fail.
        await service.jobs.stop()
        service.groups.drain()
        service.feed.close()
        service.fleet_feed.close()
        await service.rpc.stop(grace)
        await service.reconciler.stop(grace)
        self._http_stop.set()
        for task in self._tasks:
            if task.get_name() not in ("http", _MACHINES):
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        service.uploads.close()
        service.planner.close()
        service.store.close()
        log.info("stopped")

    async def readiness(self) -> Mapping[str, str]:
        """What does not work, by part; empty when all does."""
        problems = dict(await self.service.health.failing())
        for task in self._tasks:
            if task.done() and task.get_name() != _WARM:
                problems[task.get_name()] = "has stopped"
        return problems

    def _serves(self, writes: bool) -> None:
        """gRPC's health follows whether the database can be written, until the process drains."""
        self.service.metrics.database_up.set(writes)
        if not self._draining:
            self.service.rpc.set_serving(writes)

    async def _follow_fleet(self) -> None:
        """Write what the configuration says and follow the rows. Raises StartError, Unavailable."""
        service = self.service
        before, now = await service.store.write(lambda c: write_fleet(c, service.config)), service.config.overcommit
        if before.overcommit != now:
            log.info("overcommit is now as this file says", before=shown(before.overcommit), now=shown(now))
        self._answered_before = before.answered
        await service.roster.sync()
        for host in service.config.hosts:
            if host.uuid in service.roster.unusable:
                raise StartError(f"host {host.name}: {service.roster.unusable[host.uuid]}")
        await service.fleet_feed.start()
        self._spawn(service.fleet_feed.run(), "fleet")

    def _serve_http(self, listener: socket.socket) -> None:
        config = self.service.config
        self.http_address = _shown(listener)
        context = None
        if config.server.tls is not None:
            files = pem(config)
            context = tls.context(files)
            self._spawn(_keep_fresh(context, files), "TLS files")
            ends = self.service.metrics.certificate_not_after.labels(str(config.server.tls.certificate))
            ends.set_function(lambda: files.not_after)
        serving = serve_http(
            self.service.http_app(self.readiness),
            listener,
            self._http_stop,
            tls=context,
            max_connections=config.server.max_http_connections,
            refused=self.service.metrics.http_refused.inc,
            trusted_proxies=config.server.trusted_proxies,
        )
        self._spawn(serving, "http")

    def _serve_machines(self, listener: socket.socket) -> None:
        """BMCs and machines are no callers: they have a listener of their own, which serves nothing but theirs."""
        seats = self.service.seats
        app = machines_app(seats.seed, seats.report)
        most = self.service.config.server.max_http_connections
        self._spawn(serve_http(app, listener, self._http_stop, max_connections=most), _MACHINES)

    def _spawn(self, work: Coroutine[object, object, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(_report)
        self._tasks.append(task)


class Before(NamedTuple):
    """What the fleet's rows said before a start wrote its own. `answered`: uuids of the hosts that answered by them, or
    that an earlier start had not asked yet."""

    overcommit: Overcommit
    answered: frozenset[str]


def write_fleet(connection: Connection, config: Config) -> Before:
    """Write what the configuration says of the fleet, and who may use how much of it.

    Returns what it was before. Raises StartError where the file clashes with what is there.
    """
    known = fleet.hosts(connection)
    answered = frozenset(uuid for uuid, host in known.items() if host.status in _MAY_ANSWER)
    _refuse_clashes(config, fleet.zones(connection), known)
    _refuse_other_types(connection, config.hosts, known)
    before = configured.write(
        connection,
        zones=config.zones,
        clusters_of=config.clusters,
        hosts=config.hosts,
        images=[_registered(image) for image in config.images],
        model_services=[
            dataclasses.replace(entry, image_uuid=configured_image_uuid(entry.image.name))
            for entry in config.model_services
        ],
        overcommit=config.overcommit,
        devices=config.devices,
        now=wall_clock(),
    )
    quotas.put(connection, config.quotas)
    return Before(before, answered)


def _refuse_clashes(config: Config, zones: Mapping[str, Zone], hosts: Mapping[str, Host]) -> None:
    """What the file adds must not clash with what is there already, as with calls at run time. Raises StartError."""
    kept = {uuid: zone for uuid, zone in zones.items() if uuid not in {z.uuid for z in config.zones}}
    for zone in config.zones:
        for other in kept.values():
            for wrong in clashes(zone.network, other.network, other.name):
                words = f"zone {zone.name}: its {wrong.field} {wrong.description}, which is in the database"
                if zone.uuid not in zones or zones[zone.uuid].network != zone.network:
                    raise StartError(f"{words}; delete that zone first, or give this one other addresses")
                log.warning(words)
    left = [host for uuid, host in hosts.items() if uuid not in {h.uuid for h in config.hosts}]
    for host in config.hosts:
        if (twin := kinds.twin_of(host, left)) is not None:
            words = f"host {host.name} leads to the same machine as host {twin.name}, which is in the database"
            if host.uuid not in hosts or hosts[host.uuid].address != host.address:
                raise StartError(f"{words}; take {host.name} out of the file, or drain and remove {twin.name} first")
            log.warning(words)


def _refuse_other_types(connection: Connection, hosts: Sequence[Host], known: Mapping[str, Host]) -> None:
    """A host that carries members stays what it is: those of a hypervisor have shares of it, which on bare metal nobody
    has, and nothing could be told of them by another driver. Raises StartError that names the field."""
    for host in hosts:
        before = known.get(host.uuid)
        if before is None or before.machine_type == host.machine_type:
            continue
        fleet.host(connection, host.uuid, lock=True)  # whoever claims there comes before, and is counted, or after
        load = of_hosts(connection, [host.uuid])[host.uuid]
        if load.members or load.stale_claims:
            key = "options" if before.address.driver == host.address.driver else "driver"
            raise StartError(
                f"host {host.name}: {key}: makes a host of type {before.machine_type} one of type {host.machine_type} "
                f"while it is {carries(load)}; allowed once it carries none: give the file what it had "
                f"({before.address.driver}), drain the host, and change it then"
            )


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
    """New handshakes of the HTTP listener get what the files hold; gRPC reads the files by itself."""
    while True:
        await asyncio.sleep(TLS_POLL_SECONDS)
        if await asyncio.to_thread(files.changed):
            tls.refresh(context, files)


def _shown(listener: socket.socket) -> str:
    name = listener.getsockname()
    return f"unix:{name}" if isinstance(name, str) else f"{name[0]}:{name[1]}"
