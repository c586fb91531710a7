"""Whose the hosts are: what each says of itself is compared with the database before anything is concluded or done."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from service.domain.fleet import Host, HostStatus
from service.domain.ownership import HostRecord, Installation, OwnerMark, Standing, Verdict, judge
from service.drivers.base import DriverError, HostDriver, HostFacts, ObservedMachine
from service.errors import AlreadyExists, Unavailable
from service.reconcile.holding import hold_unknown
from service.store import clock, events, ownership
from service.store.connection import Connection
from service.store.engine import Store
from service.transactions import changes

logger = logging.getLogger(__name__)

MARK_SECONDS = 10.0
_LOOKS = 3

STATUS = {
    Standing.FOREIGN: HostStatus.FOREIGN,
    Standing.AHEAD: HostStatus.AHEAD,
    Standing.MISMATCHED: HostStatus.MISMATCHED,
}
"""What is recorded of a host of which nothing may be concluded."""


class Custody:
    """One a process, shared by all its hosts.

    `behind`: host uuid -> why. While any host has seen what this database does not know, the database is an old one:
    then nothing is placed, sent or removed anywhere, since a member that it takes for lost may have been placed anew.
    `judged`: every host that was known at the start has been looked at since, or did not answer in its time.
    `flagged`: uuids of the hosts that the database has put down as ahead, by whatever replica, when it was last asked.
    `since`: the database's time (ms) when this process first looked for work.
    `missing`: uuids of the hosts that answered by the database's last word, and have not since the start; for a while.
    """

    def __init__(self, store: Store, installation: Installation) -> None:
        self.store = store
        self.installation = installation
        self.behind: dict[str, str] = {}
        self.judged = True
        self.flagged: frozenset[str] = frozenset()
        self.since = 0
        self.missing: frozenset[str] = frozenset()
        self._told: frozenset[str] = frozenset()
        self._reached = 0

    @property
    def held(self) -> bool:
        """Whether everything waits for an operator's word."""
        return bool(self.behind or self._told)

    def tell(self, ahead: Mapping[str, str]) -> None:
        """Host uuid -> why, of the hosts that any replica has found to be ahead: each may be reached by another one."""
        if ahead and not self.held:
            logger.error("everything waits: another replica has found hosts ahead: %s", "; ".join(ahead.values()))
        self._told = frozenset(ahead)

    def forget(self, host_uuid: str) -> None:
        """The host is no longer in the fleet, or is reached in another way from now on."""
        self.behind.pop(host_uuid, None)

    async def mark_now(self, host: Host, driver: HostDriver) -> bool:
        """Let the host know how far the database has come before something is done there that tells of no generation
        itself. False: the database does not answer, or the host is not its own any more. Raises DriverError."""
        try:
            come = await self.store.read(ownership.generation)
        except Unavailable as error:
            logger.info("host %s is not marked: %s", host.name, error)
            return False
        mark = OwnerMark(self.installation.database, host.uuid, come)
        stands = await driver.leave_mark(mark, budget_seconds=MARK_SECONDS)
        return replace(stands, generation=0) == replace(mark, generation=0)

    async def keep(self, host: Host, mark: OwnerMark) -> None:
        """The host has borne this mark for a while: a copy of it that was made before is told by its older one."""
        await self.store.write(lambda c: ownership.set_marked(c, host.uuid, mark.generation))

    async def unmark(self, host: Host, driver: HostDriver, *, silent: bool) -> None:
        """A host has left the fleet: it bears the mark no more, or the log says that it still does."""
        mark = OwnerMark(self.installation.database, host.uuid, 0)
        why = "it does not answer"
        if not silent:
            try:
                await driver.clear_mark(mark, budget_seconds=MARK_SECONDS)
                return
            except DriverError as error:
                why = error.public
        logger.warning(
            "host %s was removed and still bears this installation's mark (%s): another installation leaves it alone "
            "until it is claimed there, or the domain corral-owner is undefined",
            host.name, why,
        )  # fmt: skip

    def knows(self, generation: int) -> bool:
        """Whether this process has seen the database at this generation or a later one; False: it must be asked."""
        return generation <= self._reached

    async def admit(
        self, host: Host, driver: HostDriver, facts: HostFacts, machines: Sequence[ObservedMachine]
    ) -> Verdict:
        """What the host is to this database; one that is its own bears its mark when this returns.

        `machines`: all that bear this installation's tag there. Raises DriverError, Unavailable.
        """
        found = _Found(host, driver, facts, tuple(machines))
        record, verdict = await self._judged(found, facts.mark)
        if verdict.usable:
            verdict = await self._mark(found, record)
        elif record.claim_ordered and not record.twin:  # nobody's word makes two hosts of one machine
            verdict = await self._take_over(found, lost_time=record.ahead or verdict.standing is Standing.AHEAD)
        if verdict.standing is Standing.AHEAD:
            if not record.ahead:
                await self.store.write(lambda c: ownership.set_ahead(c, host.uuid))
            self.behind[host.uuid] = verdict.reason
        else:
            self.behind.pop(host.uuid, None)
        return verdict

    async def _judged(self, found: _Found, mark: OwnerMark | None) -> tuple[HostRecord, Verdict]:
        """What is on record of the host, and what it is. A mark that is older than what is on record may have been read
        before another replica raised both: only one that is read after the record tells of a copy.

        Raises DriverError, Unavailable.
        """
        record, verdict = await self._judge(found, mark)
        for _ in range(_LOOKS):
            if not verdict.older_mark:
                break
            mark = (await found.driver.probe(budget_seconds=MARK_SECONDS)).mark
            own = mark is not None and mark.database == self.installation.database
            if mark is not None and own and mark.generation < record.marked:
                break
            record, verdict = await self._judge(found, mark)
        return record, verdict

    async def _judge(self, found: _Found, mark: OwnerMark | None) -> tuple[HostRecord, Verdict]:
        """What is on record of the host, and what it is by the mark that stands there."""
        host, facts = found.host, found.facts

        def read(connection: Connection) -> tuple[HostRecord, Verdict]:
            installation = ownership.installation(connection)
            record = ownership.host_record(connection, host.uuid, facts.hypervisor)
            if installation is None or record is None:
                return HostRecord(host.uuid), Verdict(Standing.MISMATCHED, "the host is of the fleet no more")
            self.installation = installation
            generation = installation.generation(events.head(connection)[1])
            self._reached = max(self._reached, generation)
            stands = mark
            own = stands is not None and stands.database == installation.database
            # Of a host that was taken out of the fleet since; it says nothing of which machine this host was.
            known = record.hypervisor in ("", facts.hypervisor)
            if stands is not None and own and known and not ownership.knows(connection, stands.host):
                stands = replace(stands, host=host.uuid)
            return record, judge(
                installation,
                record,
                hypervisor=facts.hypervisor,
                mark=stands,
                generation=generation,
                newest_machine=found.newest_machine,
            )

        return await self.store.read(read)

    async def _mark(self, found: _Found, record: HostRecord) -> Verdict:
        """The host is this hypervisor from now on, and bears the mark of how far the database has come."""
        host, hypervisor = found.host, found.facts.hypervisor
        if hypervisor != record.hypervisor or record.claim_ordered:
            try:
                await self.store.write(lambda c: ownership.set_hypervisor(c, host.uuid, hypervisor))
            except AlreadyExists:  # another entry of the same hypervisor came first
                return (await self._judged(found, found.facts.mark))[1]
        mark = OwnerMark(self.installation.database, host.uuid, self._reached)
        stands = await found.driver.leave_mark(mark, budget_seconds=MARK_SECONDS)
        return (await self._judged(found, stands))[1]

    async def _take_over(self, found: _Found, *, lost_time: bool) -> Verdict:
        """An operator's word: the host is this database's, and what it has seen is to be taken for known.

        `lost_time`: the database is an older copy.
        """
        host, facts = found.host, found.facts
        logger.warning("host %s: claimed for this database by its operator's word", host.name)
        if lost_time:
            # While it was ahead nobody was given up for a time that passed: none that passed counts afterwards.
            await self.store.write(lambda c: changes.time_lost(c, clock.now(c)))
        own = facts.mark is not None and facts.mark.database == self.installation.database
        seen = max(found.newest_machine, facts.mark.generation if facts.mark is not None and own else 0)

        def accept(connection: Connection) -> int:
            # First, so that no member is taken for lost whose machine is here.
            hold_unknown(connection, host.uuid, found.machines)
            ownership.lift(connection, seen)
            ownership.set_hypervisor(connection, host.uuid, facts.hypervisor)
            return ownership.generation(connection)

        self._reached = max(self._reached, reached := await self.store.write(accept))
        mine = OwnerMark(self.installation.database, host.uuid, reached)
        stands = await found.driver.leave_mark(mine, take_over=True, budget_seconds=MARK_SECONDS)
        return (await self._judged(found, stands))[1]


@dataclass(frozen=True, slots=True)
class _Found:
    """A host, and what it says of itself."""

    host: Host
    driver: HostDriver
    facts: HostFacts
    machines: tuple[ObservedMachine, ...]

    @property
    def newest_machine(self) -> int:
        """The highest generation among its machines."""
        return max((m.generation for m in self.machines), default=0)


def status_of(verdict: Verdict) -> HostStatus:
    """What is recorded of a host that is not usable."""
    return STATUS[verdict.standing]
