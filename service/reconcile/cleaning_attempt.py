"""One attempt to clean one machine: each try looks at what is there and does what comes next."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from ipaddress import ip_network
from typing import TypeVar

from service.domain.catalog import Image
from service.domain.cleaning import CLEANED, CLEANING_GROUP, DOCUMENT, FAILED, MOST_TRIES, Wipe, cleaner_of
from service.domain.fleet import MEMORY, VCPU
from service.drivers.base import (
    DriverError,
    HostRejected,
    MachineIdentity,
    MachineSpec,
    MachineState,
    NetworkInterface,
    ObservedMachine,
)
from service.errors import CorralError
from service.failpoints import failpoint
from service.reconcile.custody import Custody
from service.reconcile.monitor import HostMonitor
from service.store.connection import Connection
from service.store.engine import Store
from service.telemetry.metrics import Metrics
from service.transactions import cleaning as steps
from service.transactions.cleaning import Step

logger = logging.getLogger(__name__)

CALL_SECONDS = 30.0

T = TypeVar("T")


class CleaningAttempt:
    """Attempt `count` on one host, under the lease's `epoch`."""

    def __init__(
        self,
        store: Store,
        monitors: Mapping[str, HostMonitor],
        custody: Custody,
        metrics: Metrics,
        host_uuid: str,
        count: int,
        epoch: int,
    ) -> None:
        self._store = store
        self._monitors = monitors
        self._custody = custody
        self._metrics = metrics
        self._host_uuid = host_uuid
        self._count = count
        self._epoch = epoch
        self._clean = ""  # what its guest has said of that, once it is clean
        self._identity = MachineIdentity(custody.installation.cluster, CLEANING_GROUP, cleaner_of(host_uuid), count)

    async def tried(self) -> bool:
        """Whether it is over. Raises NotLeading."""
        try:
            return await self._once_more()
        except HostRejected as error:
            if error.code == "denied":  # of the way to it, not of the machine: its operator mends that
                await self._told(error.public)
                return False
            return await self._failed(f"{error.public}: {error.detail}" if error.detail else error.public)
        except DriverError as error:
            await self._told(error.public)
        except CorralError as error:
            logger.warning("the cleaning of host %s goes on later: %s", self._host_uuid, error)
        return False

    async def _once_more(self) -> bool:
        """As `tried`. Before each call to the host the database is asked, under the lease.

        Raises DriverError, CorralError, NotLeading.
        """
        step = await self._look()
        monitor = self._monitors.get(self._host_uuid)
        if step is None or monitor is None:
            return True
        none = step.host.wipe is Wipe.NONE
        if step.late and not none:
            return await self._failed(f"it was not done in time; last: {step.host.cleaning.reason}")
        if monitor.silent or not monitor.fresh or self._custody.held:
            return False
        if none:
            return await self._opened(monitor, "its operator wants none")
        machine = await monitor.observe(self._identity)
        if machine is None or machine.state is MachineState.ABSENT:
            if self._clean:
                return await self._opened(monitor, self._clean)
            failpoint("clean.creating")
            await monitor.driver.create_paused(self._spec(step), budget_seconds=CALL_SECONDS)
            failpoint("clean.created")
            return False
        if machine.state is MachineState.PAUSED:
            if await self._look() is not None:
                await monitor.driver.resume(self._identity, budget_seconds=CALL_SECONDS)
                failpoint("clean.resumed")
                await self._told("it boots")
            return False
        return await self._judged(monitor, machine)

    async def _judged(self, monitor: HostMonitor, machine: ObservedMachine) -> bool:
        """By what the guest says; whether it is over."""
        if machine.state in (MachineState.MIGRATING, MachineState.TOMBSTONE):
            return False
        report = machine.report
        if report is not None and report.stage == CLEANED:
            self._clean = report.detail or "its guest says that it is clean"
            return await self._opened(monitor, self._clean)
        if report is not None and report.stage == FAILED:
            return await self._failed(report.detail or "its guest says that it cannot be cleaned")
        if not machine.state.executing:
            return await self._stopped(monitor)
        if report is None:
            return False
        await self._told(f"{report.stage}: {report.detail}" if report.detail else report.stage)
        return False

    async def _stopped(self, monitor: HostMonitor) -> bool:
        """It is off, and nobody knows how far it came: it boots anew, from the beginning, so often and no more."""
        again = await self._write(lambda c: steps.stopped(c, self._epoch, self._host_uuid, self._count))
        if again is None:
            return True
        if not again:
            return await self._failed(f"the machine stopped {MOST_TRIES} times before it had said that it is clean")
        failpoint("clean.again")
        logger.warning("host %s stopped before it had said that it is clean, and boots once more", self._host_uuid)
        await monitor.driver.remove(self._identity, budget_seconds=CALL_SECONDS)
        return False

    async def _opened(self, monitor: HostMonitor, how: str) -> bool:
        """What has cleaned it is switched off and seen gone; then the machine is given out again."""
        if await self._look() is None:
            return True
        await monitor.driver.power_off(self._identity, budget_seconds=CALL_SECONDS)
        if await self._look() is None:
            return True
        await monitor.driver.remove(self._identity, budget_seconds=CALL_SECONDS)
        failpoint("clean.removed")
        if not await monitor.confirm_absent(self._identity.machine_uuid):
            return False
        ended = await self._write(lambda c: steps.done(c, self._epoch, self._host_uuid, self._count, how))
        failpoint("clean.done")
        if ended:
            self._metrics.cleanings.labels("cleaned").inc()
            logger.info("host %s is clean: %s", self._host_uuid, how)
        return True

    async def _failed(self, reason: str) -> bool:
        failpoint("clean.failing")
        if await self._write(lambda c: steps.failed(c, self._epoch, self._host_uuid, self._count, reason)):
            self._metrics.cleanings.labels("failed").inc()
            logger.warning("host %s is out of service, it could not be cleaned: %s", self._host_uuid, reason)
            await self._clear_away()
        return True

    async def _clear_away(self) -> None:
        """What has failed is switched off. Where that does not work out the sweep does it: its attempt is over."""
        monitor = self._monitors.get(self._host_uuid)
        if monitor is None or monitor.silent:
            return
        try:
            await monitor.driver.power_off(self._identity, budget_seconds=CALL_SECONDS)
            await monitor.driver.remove(self._identity, budget_seconds=CALL_SECONDS)
        except DriverError as error:
            logger.info("host %s: what should have cleaned it is cleared away later: %s", self._host_uuid, error)

    async def _told(self, reason: str) -> None:
        with contextlib.suppress(CorralError):
            await self._write(lambda c: steps.told(c, self._epoch, self._host_uuid, self._count, reason))

    async def _look(self) -> Step | None:
        return await self._write(lambda c: steps.look(c, self._epoch, self._host_uuid, self._count))

    async def _write(self, work: Callable[[Connection], T]) -> T:
        return await self._store.write(work)

    def _spec(self, step: Step) -> MachineSpec:
        """What the host is asked to create. Raises HostRejected where it is not told by which image."""
        host = step.host
        image = _image(step)
        interfaces = _interfaces(step)
        env = {"CORRAL_NODE_NAME": "cleaning", "CORRAL_HOST_NAME": "cleaning", **_addressed(interfaces)}
        documents = {DOCUMENT: f"{host.wipe}\n", "env": "".join(f"{key}={value}\n" for key, value in env.items())}
        return MachineSpec(
            identity=self._identity,
            display_name="cleaning",
            vcpus=host.total.get(VCPU, 0),
            memory_bytes=host.total.get(MEMORY, 0),
            root_disk_bytes=0,
            image=image,
            interfaces=interfaces,
            documents=documents,
            spec_hash=hashlib.sha256(json.dumps([image.name, documents], sort_keys=True).encode()).hexdigest()[:32],
            resources=dict(host.allocatable),
            host_name="cleaning",
        )


def _image(step: Step) -> Image:
    if step.host.address.driver == "simulated":
        return Image("cleaning")
    name = step.host.address.options.get("clean_image", "")
    if not name:
        raise HostRejected("missing_image", "its option clean_image names no image to clean it by")
    if step.image is None:
        raise HostRejected("missing_image", f"the catalogue has no image {name!r}, by which it is to be cleaned")
    if step.image.delivery != "seed":
        raise HostRejected("bad_request", f"image {name!r} is not of delivery seed, which machines boot to memory from")
    return step.image


def _interfaces(step: Step) -> tuple[NetworkInterface, ...]:
    network = step.zone.network
    if network.kind == "none":
        return ()
    length = ip_network(network.subnet).prefixlen if network.subnet else 0
    source, gateway = step.host.bridge or network.source, network.gateway if step.address else ""
    return (NetworkInterface(network.kind, source, "", step.address, length, gateway),)


def _addressed(interfaces: tuple[NetworkInterface, ...]) -> dict[str, str]:
    if not interfaces or not interfaces[0].address:
        return {}
    one = interfaces[0]
    return {"CORRAL_NODE_ADDRESS": f"{one.address}/{one.prefix_length}", "CORRAL_NODE_GATEWAY": one.gateway}
