"""One effect on one member: the driver call, its budget, and what came of it as facts.

Where it was not seen what came of a call, that is "maybe": no fact, and the effect is done again, which looks before it
acts.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from service.domain.catalog import version_key
from service.domain.causes import kept
from service.domain.environment import SecretUnavailable, referred
from service.domain.groups import Group, Instance, InstanceStatus
from service.drivers.base import (
    DriverError,
    HostRejected,
    HostUnreachable,
    MachineConflict,
    MachineGhost,
    MachineIdentity,
    MachineSpec,
    MachineState,
    ObservedMachine,
    UuidTaken,
)
from service.drivers.staging import NotStaged
from service.errors import Unavailable
from service.failpoints import failpoint
from service.lifecycle.effects import (
    AbortMove,
    Create,
    MemberEffect,
    Migrate,
    Observe,
    PowerOff,
    Quiesce,
    Remove,
    Resume,
    Shutdown,
    Take,
    Tell,
)
from service.lifecycle.facts import Fact, MoveImpossible, Observation, Observed, Quiesced, Staged, StopAsked
from service.lifecycle.members import gives_up
from service.reconcile import failing_devices, sight, telling
from service.reconcile.custody import Custody
from service.reconcile.directory import Directory
from service.reconcile.host_checks import HostChecks
from service.reconcile.logs import MachineLogs
from service.reconcile.machine_spec import Unread, identity_of, machine_spec
from service.reconcile.monitor import HostMonitor
from service.reconcile.moves import LiveMove
from service.reconcile.outcomes import EffectResult, Sends
from service.reconcile.owners import owner_name
from service.reconcile.staging import Stagings
from service.serving.rendezvous import template
from service.telemetry import traces
from service.telemetry.metrics import Metrics
from service.transactions.secrets import KnownSecrets

logger = logging.getLogger(__name__)

BUDGET_SECONDS: Mapping[type, float] = {
    Create: 30.0,
    Resume: 10.0,
    Observe: 10.0,
    Tell: 10.0,
    Take: 10.0,
    Quiesce: 4.0,
    Shutdown: 10.0,
    PowerOff: 25.0,
    Remove: 25.0,  # a frozen QEMU takes 12 to 18 s to destroy (measured)
    Migrate: 30.0,  # of waiting: a move that takes longer goes on, and is found again
    AbortMove: 30.0,
}
ENDING = frozenset({InstanceStatus.FAILING, InstanceStatus.EVICTING, InstanceStatus.REMOVING, InstanceStatus.STOPPING})
POLL_AGE = 0.5
"""How old (seconds) a listing may be that a look is content with."""
ENTOMB_SECONDS = 10.0
HEAR_SECONDS = 5.0


class MemberCalls:
    """Performs member effects through the hosts' monitors."""

    def __init__(
        self,
        custody: Custody,
        monitors: Mapping[str, HostMonitor],
        directory: Directory,
        metrics: Metrics,
        secrets: KnownSecrets | None = None,
        logs: MachineLogs | None = None,
        stagings: Stagings | None = None,
    ) -> None:
        self._custody = custody
        self._secrets = secrets or KnownSecrets()
        self._monitors = monitors
        self.directory = directory
        self._metrics = metrics
        self.stagings = stagings or Stagings(custody.store, metrics, owner_name())
        self.logs = logs or MachineLogs(custody, monitors, directory, self._secrets)
        self._checks = HostChecks(directory)

    def asks_host(self, member: Instance) -> bool:
        """Whether the member is ready by what its host is asked, over and over."""
        return self._checks.asks(member)

    async def perform(
        self, group: Group, effect: MemberEffect, sends: Sends, *, lease_left_ms: int, hinted: bool
    ) -> EffectResult:
        """Run one member effect. A host's trouble never raises: it becomes facts, a retry, or both.

        `hinted`: something has just changed there, so an older listing will not do.
        """
        member = group.instance(effect.instance_uuid)
        monitor = self._monitors.get(member.host_uuid)
        if monitor is None:
            await self.directory.refresh()
            return EffectResult(retry=True)
        if self._custody.held or monitor.host.uuid in self._custody.flagged:
            return EffectResult(retry=True)  # the database is older than its hosts: an operator decides first
        if monitor.silent:
            return EffectResult(retry=True)  # the worker has told the group that this host is silent
        if not monitor.fresh:
            monitor.suspect()
            return EffectResult(retry=True)  # this process stood still
        budget = BUDGET_SECONDS[type(effect)]
        if lease_left_ms < budget * 1000:
            # Another owner may start before this call could end (ARCHITECTURE mechanism 3).
            return EffectResult(retry=True)
        name = type(effect).__name__.lower()
        started = time.perf_counter()
        verdict = "ok"
        running = self._metrics.driver_calls_running.labels(monitor.host.address.driver)
        running.inc()
        try:
            # Drivers keep the deadline themselves; this is for one with a bug.
            async with asyncio.timeout(budget + 2.0):
                failpoint(f"{name}.before")
                with traces.host_call(monitor.host.address.driver, name, monitor.host.name, member.uuid):
                    if isinstance(effect, Migrate | AbortMove):
                        facts = await self._move(monitor, group, member, effect, sends)
                    else:
                        facts = await self._call(monitor, group, member, effect, budget, hinted)
                failpoint(f"{name}.after")
            if isinstance(effect, Create):
                sends.maybe_arrived.add((member.uuid, member.attempt))
            return EffectResult(facts, retry=not facts)
        except NotStaged as missing:
            verdict = "NotStaged"
            host = monitor if isinstance(effect, Create) else self._monitors[member.target_host_uuid]
            return await self._bring(host, member, effect, missing, sends)
        except DriverError as error:
            verdict = type(error).__name__
            told = await self._told(group, member, error.detail)
            await failing_devices.take_out(self._custody.store, group, member, error)
            return self._trouble(monitor, member, effect, error, sends, told)
        except TimeoutError:
            verdict = "Timeout"
            sends.maybe_arrived.add((member.uuid, member.attempt))
            monitor.suspect()
            return EffectResult(retry=True)
        finally:
            running.dec()
            seconds = time.perf_counter() - started
            self._metrics.driver_calls.labels(monitor.host.address.driver, name, verdict).observe(seconds)

    async def _bring(
        self, monitor: HostMonitor, member: Instance, effect: MemberEffect, missing: NotStaged, sends: Sends
    ) -> EffectResult:
        """The image's way to the host; nothing was made there, and the effect is done again once it is there."""
        try:
            far = await self.stagings.bring(monitor, missing.files)
        except HostRejected as error:
            return self._trouble(monitor, member, effect, error, sends, "")
        except (DriverError, Unavailable) as error:
            logger.info("the image of %s is not on %s yet: %s", member.uuid, monitor.host.name, error)
            return EffectResult(retry=True)
        return EffectResult([Staged(member.uuid, member.attempt, far)] if far and isinstance(effect, Create) else ())

    async def _call(
        self,
        monitor: HostMonitor,
        group: Group,
        member: Instance,
        effect: MemberEffect,
        budget: float,
        hinted: bool,
    ) -> Sequence[Fact]:
        identity = identity_of(self._custody.installation.cluster, member)
        driver = monitor.driver
        if isinstance(effect, Create):
            spec = await self._machine_spec(monitor, group, member)
            if spec is None:
                return (Observed(member.uuid, member.attempt, Observation.REJECTED, "its catalogue entry is gone"),)
            monitor.acted()
            created = await driver.create_paused(spec, budget_seconds=budget)
            return await self._checks.judged(monitor, member, created, sight.seen(member, created))
        if isinstance(effect, Resume):
            if member.devices:
                made = await monitor.observe(identity)
                if made is not None and sight.other_devices(member, made):
                    return sight.seen(member, made)  # it never runs with what is not its own
            running = await driver.resume(identity, budget_seconds=budget)
            return await self._checks.judged(monitor, member, running, sight.let_run(member, running))
        if isinstance(effect, Tell | Take | Quiesce):
            return await self._tell(monitor, group, member, effect, budget)
        if isinstance(effect, Observe):
            return await self._look(monitor, group, member, identity, fresh=hinted)
        if isinstance(effect, Shutdown):
            await driver.shutdown(identity, budget_seconds=budget)
            return (StopAsked(member.uuid, member.attempt),)
        if isinstance(effect, PowerOff):
            await driver.power_off(identity, budget_seconds=budget)
            return await self._look(monitor, group, member, identity, fresh=True)
        assert isinstance(effect, Remove)
        monitor.acted()
        await driver.remove(identity, budget_seconds=budget)
        return await self._absent(monitor, group, member, identity, member.reason)

    async def _tell(
        self, monitor: HostMonitor, group: Group, member: Instance, effect: Tell | Take | Quiesce, budget: float
    ) -> Sequence[Fact]:
        identity = identity_of(self._custody.installation.cluster, member)
        spec = await self._machine_spec(monitor, group, member) if isinstance(effect, Tell) else None
        text = telling.line(group, effect, spec.documents if spec is not None else {})
        if not await telling.told(monitor.driver, identity, text, budget) and isinstance(effect, Quiesce):
            return (Quiesced(member.uuid, member.attempt),)
        return await self._look(monitor, group, member, identity, fresh=True)

    async def _move(
        self, source: HostMonitor, group: Group, member: Instance, effect: Migrate | AbortMove, sends: Sends
    ) -> Sequence[Fact]:
        target = self._monitors.get(member.target_host_uuid)
        move = LiveMove(member, identity_of(self._custody.installation.cluster, member), source, target, sends.moves)
        if isinstance(effect, AbortMove):
            return await move.abort()
        spec = None if target is None else await self._machine_spec(target, group, member)
        return await move.go_on(spec)

    def live_targets(self, group: Group, member: Instance) -> frozenset[str]:
        """The hosts of its own zone (the guest keeps its address) that would take the member's machine as it runs, as
        far as is known without asking."""
        if member.devices:
            return frozenset()  # a device stays where it is, and so does what it is given to
        source, zones, catalogue = self._monitors.get(member.host_uuid), self.directory.zones, self.directory.catalogue
        found, specs = set(), dict[str | None, MachineSpec]()
        for uuid, monitor in self._monitors.items():
            if source is None or monitor is source or monitor.silent or monitor.host.zone_uuid != member.zone_uuid:
                continue
            host, here = monitor.host, self._custody.installation
            try:  # made once: beside its documents a host of the zone makes it like all others of the same bridge
                spec = specs.get(host.bridge) or machine_spec(
                    here, group, member, host=host, zones=zones, catalogue=catalogue, secrets=Unread()
                )
            except KeyError:
                continue  # its catalogue entry is gone: nothing says what it is made from
            specs[host.bridge] = spec
            if source.driver.can_migrate(spec, monitor.driver):
                found.add(uuid)
        return frozenset(found)

    async def _absent(
        self, monitor: HostMonitor, group: Group, member: Instance, identity: MachineIdentity, reason: str
    ) -> Sequence[Fact]:
        """The fact that the machine is gone, once that is certain.

        Where the attempt is given up a tombstone comes first: a create of it that is still under way, however late it
        comes, finds the uuid taken, and cannot put a machine beside the one of the next attempt. Whether it is given
        up may change while this looks, so that the fact says what was done.
        """
        given_up = gives_up(group, member)
        if given_up:
            await monitor.driver.entomb(identity, budget_seconds=ENTOMB_SECONDS)
        if await monitor.confirm_absent(identity.machine_uuid):
            return (Observed(member.uuid, member.attempt, Observation.GONE, reason, barred=given_up),)
        return _AGAIN

    async def _machine_spec(self, monitor: HostMonitor, group: Group, member: Instance) -> MachineSpec | None:
        """What the host is asked to create; None where the zone or the catalogue entry is gone.

        Raises HostRejected for a secret that cannot be read.
        """
        nodes = [m.spec for m in group.instances]
        if any(
            version_key(n.model_service_uuid, n.model_service_version) not in self.directory.catalogue for n in nodes
        ):
            await self.directory.refresh()
        zones, catalogue = self.directory.zones, self.directory.catalogue
        try:
            values = {**template(member, catalogue).environment, **member.spec.environment_variables}
            return machine_spec(
                self._custody.installation,
                group,
                member,
                host=monitor.host,
                zones=zones,
                catalogue=catalogue,
                secrets=await self._secrets.values(self._custody.store, referred(values), group.project),
            )
        except KeyError as missing:
            logger.warning("member %s cannot be made: %s is gone", member.uuid, missing)
            return None
        except SecretUnavailable as error:
            raise HostRejected("missing_secret", str(error)) from error

    async def _look(
        self, monitor: HostMonitor, group: Group, member: Instance, identity: MachineIdentity, *, fresh: bool
    ) -> Sequence[Fact]:
        machine = None
        if not fresh:
            listed = (await monitor.look(max_age=POLL_AGE)).listing.find(identity.machine_uuid)
            machine = listed if listed is not None and sight.is_as_known(member, listed) else None
        if machine is None:
            machine = await monitor.observe(identity)
        if machine is not None and machine.state is not MachineState.TOMBSTONE:
            heard = await self._heard(monitor, identity, machine)
            facts = await self._checks.judged(monitor, member, heard, sight.seen(member, heard))
            return [await self._with_last_lines(group, member, fact) for fact in facts]
        return await self._absent(monitor, group, member, identity, "its machine is gone from the host")

    async def _heard(
        self, monitor: HostMonitor, identity: MachineIdentity, machine: ObservedMachine
    ) -> ObservedMachine:
        """The machine, once its guest is heard here where it was not for long: the group is this worker's, and an older
        connection, or a replica that looks after the group no more, may still hold what it says. As it is where its
        guest cannot be heard at all."""
        if not machine.state.executing or machine.unheard_seconds <= sight.UNHEARD_SECONDS:
            return machine
        try:
            await monitor.driver.hear(identity, budget_seconds=HEAR_SECONDS)
        except HostRejected as error:
            logger.warning("machine %s: %s %s", identity.machine_uuid, error.public, error.detail)
            return machine
        return replace(machine, unheard_seconds=0.0)

    async def _told(self, group: Group, member: Instance, detail: str) -> str:
        """What a host said, without secrets; nothing where they cannot be read, and so not be taken out."""
        if not detail:
            return ""
        try:
            values = {**template(member, self.directory.catalogue).environment, **member.spec.environment_variables}
            names = referred(values)
            secrets = await self._secrets.values(self._custody.store, names, group.project)
            return kept(detail, [secrets.value(name, group.project) for name in names])
        except (KeyError, SecretUnavailable, Unavailable) as why:
            logger.info("what the host said of member %s is not told: %s", member.uuid, why)
            return ""

    async def _with_last_lines(self, group: Group, member: Instance, fact: Fact) -> Fact:
        """The fact, with what the machine said last where it tells that a member serves no more."""
        if not isinstance(fact, Observed) or not fact.reason:
            return fact
        ends = fact.observation in (Observation.HALTED, Observation.GIVEN_UP)
        fails = ends and member.status not in ENDING
        stops = fact.observation is Observation.UNREADY and member.status is InstanceStatus.RUNNING
        return replace(fact, last_lines=await self.logs.last_lines(group, member)) if fails or stops else fact

    def _trouble(
        self, monitor: HostMonitor, member: Instance, effect: MemberEffect, error: DriverError, sends: Sends, told: str
    ) -> EffectResult:
        logger.warning(
            "%s of %s (attempt %d) on %s: %s: %s %s",
            type(effect).__name__, member.uuid, member.attempt, monitor.host.name,
            type(error).__name__, error.public, told,
        )  # fmt: skip
        key = (member.uuid, member.attempt)
        if isinstance(error, MachineGhost):
            monitor.ghost(member.machine_uuid)
            return EffectResult([Observed(*key, Observation.BURNT, error.public, detail=told)], retry=True)
        if isinstance(error, UuidTaken) and isinstance(effect, Remove):
            # Nothing of ours to be removed; no tombstone can stand there, and the claim waits for the stranger's end.
            return EffectResult([Observed(*key, Observation.BURNT, error.public, detail=told)], retry=True)
        if isinstance(error, HostRejected | MachineConflict) and isinstance(effect, Migrate):
            return EffectResult([MoveImpossible(*key, error.public, told)])
        if isinstance(error, HostRejected | MachineConflict) and isinstance(effect, Create | Resume):
            return EffectResult([Observed(*key, Observation.REJECTED, error.public, detail=told)])
        if isinstance(error, HostUnreachable):
            monitor.suspect()
            if isinstance(effect, Create) and key in sends.dispatched and key not in sends.maybe_arrived:
                return EffectResult([Observed(*key, Observation.NOT_SENT)], retry=True)
            return EffectResult(retry=True)
        if isinstance(effect, Create):
            sends.maybe_arrived.add(key)
        monitor.suspect()
        return EffectResult(retry=True)


_AGAIN: Sequence[Fact] = ()
