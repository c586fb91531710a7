"""One host as this process sees it: probes it, lists its machines, says whether it is silent. One task a host, so that
a sick host delays nobody else (ARCHITECTURE I12)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from service.domain.causes import kept
from service.domain.fleet import ANSWERING, Host, HostStatus
from service.domain.ownership import OwnerMark
from service.drivers.base import (
    DriverError,
    HostDriver,
    HostFacts,
    HostRejected,
    Listing,
    MachineIdentity,
    MachineState,
    ObservedMachine,
)
from service.errors import CorralError
from service.failpoints import failpoint
from service.reconcile.custody import Custody, status_of
from service.store import fleet
from service.store.engine import Store
from service.transactions import host_facts

logger = logging.getLogger(__name__)

PROBE_SECONDS = 15.0  # the first one may prove KVM by booting a probe guest
LIST_SECONDS = 10.0
EVERY_SECONDS = 5.0
COMPARE_SECONDS = 20.0
MARK_EVERY_SECONDS = 3600.0
MARK_AFTER_CHANGE_SECONDS = 60.0
MARK_STANDS_SECONDS = 30.0
"""A mark that was seen again so long after it was left is on the host's disk, whatever power it loses."""
RETRY_FIRST_SECONDS = 0.5
RETRY_MOST_SECONDS = 10.0
SILENT_AFTER = 2
ATTEMPTS_APART_SECONDS = 30.0
"""Attempts that get no answer make one silence while they are no further apart: a slow probe, and the longest pause."""
FRESH_SECONDS = 45.0
"""A look is fresh for so long: longer than a slow probe, one that fails, and the pauses between them take together."""


@dataclass(frozen=True, slots=True)
class Look:
    """A listing and the loop times at which it was asked for and answered."""

    listing: Listing
    asked_at: float
    answered_at: float


class HostMonitor:
    """Keeps the host's row in the store true and answers what was last seen of its machines."""

    def __init__(
        self,
        host: Host,
        driver: HostDriver,
        store: Store,
        changed: Callable[[str], None],
        custody: Custody,
    ) -> None:
        """`changed(host_uuid)`: called when the host falls silent or answers again. `custody`: the process's."""
        self.host = host
        self.driver = driver
        self._store = store
        self._changed = changed
        self._failures = 0
        self._silent = True
        self._ghosts: set[str] = set()
        self._last: Look | None = None
        self._listing: asyncio.Task[Look] | None = None
        self._wake = asyncio.Event()
        self._record_anew = False
        self._compared_at = 0.0
        self._unwritten = False
        self._probed_at = -FRESH_SECONDS
        self._answered_at: float | None = None
        self._unanswered: tuple[float, float] | None = None
        self._custody = custody
        self._admitted: tuple[str, OwnerMark | None] | None = None
        self._marked_at = -MARK_EVERY_SECONDS
        self._acted = False
        self._kept: OwnerMark | None = None
        self._held: Mapping[str, int] = {}
        self.facts: HostFacts | None = None

    @property
    def silent(self) -> bool:
        """Whether the host does not answer at present."""
        return self._silent

    @property
    def answered_seconds(self) -> float | None:
        """How long ago the host last answered, whatever it is to this database; None: it never did."""
        return None if self._answered_at is None else asyncio.get_running_loop().time() - self._answered_at

    @property
    def silent_seconds(self) -> float:
        """For how long attempts in a row got no answer at all, more than 0; 0: the last one was answered, if only by a
        refusal, or the last one is not of late."""
        now = asyncio.get_running_loop().time()
        if self._unanswered is None or now > self._unanswered[1] + ATTEMPTS_APART_SECONDS:
            return 0.0
        return now - self._unanswered[0] + 1e-3

    @property
    def fresh(self) -> bool:
        """Whether the host was looked at lately. A process that stood still looks again before it does anything, since
        another owner or another hypervisor may have come meanwhile."""
        return asyncio.get_running_loop().time() < self._probed_at + FRESH_SECONDS

    @property
    def used(self) -> Mapping[str, float]:
        """What guests take there, as it was last measured; nothing is known of a host that does not answer."""
        return {} if self._silent or self.facts is None else self.facts.used

    @property
    def settled(self) -> bool:
        """Whether the first probe has ended, either way."""
        return self.facts is not None or self._failures > 0

    @property
    def last(self) -> Look | None:
        """The newest complete listing."""
        return self._last

    def update(self, host: Host) -> None:
        """Take over what the operator says of the host now; its amounts, and which devices rules offer of a host of its
        name, are recorded anew at once."""
        amounts_changed = (host.capacity_override, host.name) != (self.host.capacity_override, self.host.name)
        claim_ordered = host.claim_ordered and not self.host.claim_ordered
        self.host = host
        if claim_ordered:
            self._admitted = None
            self._wake.set()
        if amounts_changed:
            self._record_anew = True
            self._wake.set()

    def acted(self) -> None:
        """A machine was made or ended there: the host's mark must tell soon how far the database has come."""
        self._acted = True

    async def mark_now(self) -> bool:
        """See Custody.mark_now. Raises DriverError."""
        return await self._custody.mark_now(self.host, self.driver)

    def hold(self, amounts: Mapping[str, int]) -> None:
        """What machines in quarantine hold there: it counts as used by others, from now on."""
        if dict(amounts) != self._held:
            self._held = dict(amounts)
            self._record_anew = True
            self._wake.set()

    def suspect(self) -> None:
        """A call went wrong: probe now, before the next probe is due."""
        self._wake.set()

    def ghost(self, machine_uuid: str) -> None:
        """The host holds a machine that it can neither run nor destroy: no new claims until it is gone."""
        self._ghosts.add(machine_uuid)
        self._wake.set()

    async def run(self) -> None:
        """Probe until cancelled: every EVERY_SECONDS, or with a growing pause while the host does not answer."""
        pause = RETRY_FIRST_SECONDS
        while True:
            try:
                await self._probe()
                pause = RETRY_FIRST_SECONDS
                wait = EVERY_SECONDS
            except DriverError as error:
                await self._failed(error)
                wait, pause = pause, min(pause * 2, RETRY_MOST_SECONDS)
            except CorralError as error:
                logger.warning("host %s: not recorded: %s", self.host.name, error)
                wait = RETRY_FIRST_SECONDS
            self._wake.clear()
            try:
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(RETRY_FIRST_SECONDS / 5)  # a storm of suspicions is one probe, not many

    async def look(self, *, max_age: float = 0.0) -> Look:
        """A complete listing that was asked for at most `max_age` seconds ago; callers at the same time share one.

        Raises DriverError.
        """
        loop = asyncio.get_running_loop()
        asked = loop.time()
        if self._last is not None and asked - self._last.asked_at <= max_age:
            return self._last
        while True:
            task = self._listing
            if task is None or task.done():
                task = self._listing = loop.create_task(self._list())
            look = await asyncio.shield(task)
            if look.asked_at >= asked - max_age:
                return look

    async def observe(self, identity: MachineIdentity) -> ObservedMachine | None:
        """One machine now; None is no proof of absence. Raises DriverError."""
        _, machine = await self.driver.observe(identity, budget_seconds=LIST_SECONDS)
        return machine

    async def confirm_absent(self, machine_uuid: str) -> bool:
        """Whether two complete listings from now on are without the machine, both of the boot that the host was
        admitted with (ARCHITECTURE mechanism 7). A tombstone in its place says that it cannot come any more.
        """
        first = await self.look()
        if _there(first.listing, machine_uuid):
            return False
        failpoint("monitor.absent_once")
        second = await self.look()
        if _there(second.listing, machine_uuid):
            return False
        # Of the boot that the host was admitted with: another hypervisor at the same address has another one.
        known = self.facts.boot_id if self.facts is not None else None
        if first.listing.boot_id != second.listing.boot_id or first.listing.boot_id != known:
            self.suspect()
            return False
        self._ghosts.discard(machine_uuid)
        failpoint("monitor.absent_twice")
        return True

    async def _list(self) -> Look:
        loop = asyncio.get_running_loop()
        asked = loop.time()
        listing = await self.driver.list_machines(budget_seconds=LIST_SECONDS)
        failpoint("monitor.listed")
        self._last = Look(listing, asked, loop.time())
        if not self._custody.knows(max((m.generation for m in listing.machines), default=0)):
            # It has seen a later generation than the database was seen to have: the next probe asks the database.
            self._admitted = None
            self._wake.set()
        gone = {uuid for uuid in self._ghosts if _can_go(listing.find(uuid))}
        if gone:
            self._ghosts -= gone
            self._record_anew = True
            self._wake.set()
        return self._last

    async def _probe(self) -> None:
        asked = asyncio.get_running_loop().time()
        facts = await self.driver.probe(budget_seconds=PROBE_SECONDS)
        failpoint("monitor.probed")
        self._answered_at, self._unanswered = asked, None
        if not await self._is_ours(facts):
            return
        self._probed_at = asked
        facts = replace(facts, mark=None, foreign=_sum(facts.foreign, self._held))
        if facts != self.facts or self._silent or self._record_anew or await self._misrecorded(facts):
            self._record_anew = False
            await self._store.write(lambda c: host_facts.record(c, self.host, facts))
            failpoint("monitor.recorded")
            logger.info("host %s answers: %s, %s %s", self.host.name, facts.hostname, facts.virt_type, facts.virt_note)
            if (shown := facts.functions) is not None and (self.facts is None or self.facts.functions != shown):
                for unmet in await self._store.read(lambda c: host_facts.unmet_rules(c, self.host, shown)):
                    logger.warning("host %s: %s", self.host.name, unmet)
        if self._ghosts:
            await self._record(HostStatus.DEGRADED, "it holds a machine that it can neither run nor destroy")
        self.facts = facts
        self._failures = 0
        self._unwritten = False
        if self._silent:
            self._silent = False
            self._changed(self.host.uuid)

    async def _is_ours(self, facts: HostFacts) -> bool:
        """Whether anything may be concluded from the host. Asked of the database at each connect, when the host says of
        itself what it did not say before, and each hour; in between what was found holds.

        A host that is not ours counts as silent: what is there is left alone, and its members are unknown.
        """
        now = asyncio.get_running_loop().time()
        pause = MARK_AFTER_CHANGE_SECONDS if self._acted else MARK_EVERY_SECONDS
        known = self._admitted == (facts.hypervisor, facts.mark) and self.host.uuid not in self._custody.flagged
        if known and not self._silent:
            if facts.mark is not None and self._kept != facts.mark and now >= self._marked_at + MARK_STANDS_SECONDS:
                await self._custody.keep(self.host, facts.mark)
                self._kept = facts.mark
            if now < self._marked_at + pause:
                return True
        look = await self.look()  # the generation that its machines bear belongs to what is judged
        verdict = await self._custody.admit(self.host, self.driver, facts, look.listing.machines)
        failpoint("monitor.judged")
        if verdict.usable:
            self._admitted, self._marked_at, self._acted = (facts.hypervisor, verdict.mark), now, False
            return True
        logger.error("host %s is left alone: %s", self.host.name, verdict.reason)
        self._admitted = None
        self._failures = max(self._failures, 1)  # it is settled
        await self._record(status_of(verdict), verdict.reason)
        if not self._silent:
            self._silent = True
            self._changed(self.host.uuid)
        return False

    async def _misrecorded(self, facts: HostFacts) -> bool:
        """Whether the store has come to say that the host does not answer, or holds a ghost that is not there: another
        replica wrote that, and may have ended before it could take it back. Or it lacks a device that is there."""
        if not self._compares():
            return False
        if shown := facts.functions or ():
            lacks = await self._store.read(lambda c: fleet.lacks_devices(c, self.host, shown))
            if lacks:
                return True
        stored = await self._store.read(lambda c: fleet.status_of(c, self.host.uuid))
        if stored is HostStatus.DEGRADED and self._last is not None and not self._ghosts:
            return all(m.state is not MachineState.GHOST for m in self._last.listing.machines)
        return stored is not None and stored not in ANSWERING

    async def _unrecorded(self) -> bool:
        """Whether the store does not say that the host is silent: that could not be written, or a replica that started
        has written that nobody knows, and may have ended before it knew."""
        if self._unwritten or not self._compares():
            return self._unwritten
        try:
            stored = await self._store.read(lambda c: fleet.status_of(c, self.host.uuid))
        except CorralError:
            return False
        return stored is HostStatus.CONNECTING

    def _compares(self) -> bool:
        now = asyncio.get_running_loop().time()
        if now < self._compared_at + COMPARE_SECONDS:
            return False
        self._compared_at = now
        return True

    async def _failed(self, error: DriverError) -> None:
        self._failures += 1
        self._count_silence(error)
        logger.info("host %s does not answer (%d): %s %s", self.host.name, self._failures, error.public, error.detail)
        if self._silent and self.facts is None and self._failures == 1:
            await self._record(HostStatus.DISCONNECTED, error.public, kept(error.detail, ()))
        if self._failures < SILENT_AFTER and not isinstance(error, HostRejected):
            return
        if not self._silent:
            self._silent = True
            failpoint("monitor.silent")
            await self._record(HostStatus.DISCONNECTED, error.public, kept(error.detail, ()))
            self._changed(self.host.uuid)
        elif await self._unrecorded():
            await self._record(HostStatus.DISCONNECTED, error.public, kept(error.detail, ()))

    def _count_silence(self, error: DriverError) -> None:
        """A refusal is an answer. Attempts that lie far apart, since this process stood still, begin anew."""
        now = asyncio.get_running_loop().time()
        if isinstance(error, HostRejected):
            self._answered_at, self._unanswered = now, None
            return
        before = self._unanswered
        first = before[0] if before is not None and now <= before[1] + ATTEMPTS_APART_SECONDS else now
        self._unanswered = first, now

    async def _record(self, status: HostStatus, reason: str, cause: str = "") -> None:
        self._unwritten = False
        try:
            await self._store.write(lambda c: fleet.set_status(c, self.host.uuid, status, reason, cause=cause))
        except CorralError as error:
            self._unwritten = status is HostStatus.DISCONNECTED
            logger.warning("host %s: status %s not recorded: %s", self.host.name, status, error)


def _sum(one: Mapping[str, int], other: Mapping[str, int]) -> Mapping[str, int]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in sorted({*one, *other})}


def _can_go(ghost: ObservedMachine | None) -> bool:
    """Whether it is a ghost no longer: gone, or in a state that no ghost is ever in, because one was made anew.

    Until a hypervisor's driver can tell, it says of a ghost that it is paused.
    """
    return ghost is None or ghost.state not in (MachineState.GHOST, MachineState.PAUSED)


def _there(listing: Listing, machine_uuid: str) -> bool:
    found = listing.find(machine_uuid)
    return found is not None and found.state is not MachineState.TOMBSTONE
