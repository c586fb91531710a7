"""Whose the hosts are: what each one says of itself held against the database, before anything is concluded or done."""

from __future__ import annotations

import logging
from dataclasses import replace

from service.domain.fleet import Host, HostStatus
from service.domain.ownership import Installation, OwnerMark, Standing, Verdict, judge
from service.drivers.base import HostDriver, HostFacts
from service.errors import AlreadyExists
from service.store import ownership
from service.store.connection import Connection
from service.store.engine import Store

logger = logging.getLogger(__name__)

MARK_SECONDS = 10.0

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
    """

    def __init__(self, store: Store, installation: Installation) -> None:
        self._store = store
        self.installation = installation
        self.behind: dict[str, str] = {}
        self._reached = 0

    @property
    def held(self) -> bool:
        """Whether everything waits for an operator's word."""
        return bool(self.behind)

    def forget(self, host_uuid: str) -> None:
        """A host is no longer this process's."""
        self.behind.pop(host_uuid, None)

    def knows(self, generation: int) -> bool:
        """Whether the database has been seen at this generation or a later one; False: it must be asked."""
        return generation <= self._reached

    async def admit(self, host: Host, driver: HostDriver, facts: HostFacts, newest_machine: int) -> Verdict:
        """What the host is to this database; one that is its own bears its mark when this returns.

        `newest_machine`: the highest generation among its machines. Raises DriverError, Unavailable.
        """
        verdict = await self._judge(host, facts, newest_machine)
        if not verdict.usable and host.claim_ordered and verdict.standing is not Standing.MISMATCHED:
            verdict = await self._take_over(host, driver, facts, newest_machine)
        elif not verdict.usable and host.claim_ordered:
            verdict = await self._replaced(host, driver, facts, newest_machine, verdict)
        elif verdict.usable:
            if host.claim_ordered:  # there was nothing to claim
                await self._store.write(lambda c: ownership.set_hypervisor(c, host.uuid, facts.hypervisor))
            verdict = await self._mark(host, driver, facts, newest_machine)
        if verdict.standing is Standing.AHEAD:
            self.behind[host.uuid] = verdict.reason
        else:
            self.behind.pop(host.uuid, None)
        return verdict

    async def _judge(self, host: Host, facts: HostFacts, newest_machine: int, mark: OwnerMark | None = None) -> Verdict:
        def read(connection: Connection) -> Verdict:
            found = ownership.installation(connection)
            record = ownership.host_record(connection, host.uuid, facts.hypervisor)
            if found is None or record is None:
                return Verdict(Standing.MISMATCHED, "the host is of the fleet no more")
            self.installation = found
            self._reached = max(self._reached, generation := ownership.generation(connection))
            stands = mark or facts.mark
            if (
                stands is not None
                and stands.database == found.database
                and not ownership.knows(connection, stands.host)
            ):
                stands = replace(stands, host=host.uuid)  # of a host that was taken out of the fleet since
            return judge(
                found,
                record,
                hypervisor=facts.hypervisor,
                mark=stands,
                generation=generation,
                newest_machine=newest_machine,
            )

        return await self._store.read(read)

    async def _mark(self, host: Host, driver: HostDriver, facts: HostFacts, newest_machine: int) -> Verdict:
        """The host is this hypervisor from now on, and bears the mark of how far the database has come."""
        try:
            if facts.hypervisor and facts.hypervisor != host.hypervisor:
                await self._store.write(lambda c: ownership.set_hypervisor(c, host.uuid, facts.hypervisor))
        except AlreadyExists:  # another entry of the same hypervisor came first
            return await self._judge(host, facts, newest_machine)
        mark = OwnerMark(self.installation.database, host.uuid, self._reached)
        stands = await driver.leave_mark(mark, budget_seconds=MARK_SECONDS)
        return await self._judge(host, facts, newest_machine, stands)

    async def _take_over(self, host: Host, driver: HostDriver, facts: HostFacts, newest_machine: int) -> Verdict:
        """An operator's word: the host is this database's, and what it has seen is to be taken for known."""
        logger.warning("host %s: claimed for this database by its operator's word", host.name)
        mark = facts.mark
        own = mark is not None and mark.database == self.installation.database
        seen = max(newest_machine, mark.generation if mark is not None and own else 0)

        def accept(connection: Connection) -> int:
            ownership.lift(connection, seen)
            ownership.set_hypervisor(connection, host.uuid, facts.hypervisor)
            return ownership.generation(connection)

        self._reached = max(self._reached, reached := await self._store.write(accept))
        mine = OwnerMark(self.installation.database, host.uuid, reached)
        stands = await driver.leave_mark(mine, take_over=True, budget_seconds=MARK_SECONDS)
        return await self._judge(host, facts, newest_machine, stands)

    async def _replaced(
        self, host: Host, driver: HostDriver, facts: HostFacts, newest_machine: int, verdict: Verdict
    ) -> Verdict:
        """An operator's word that another machine stands in the host's place; not where another host is that one."""

        def twin(connection: Connection) -> bool:
            record = ownership.host_record(connection, host.uuid, facts.hypervisor)
            return record is not None and bool(record.twin)

        if await self._store.read(twin):
            return verdict
        return await self._take_over(host, driver, facts, newest_machine)


def status_of(verdict: Verdict) -> HostStatus:
    """What is recorded of a host that is not usable."""
    return STATUS[verdict.standing]
