"""What an operator decides about hosts that are not this database's, and about machines that nobody knows.

The decisions are rows; the reconciler, which looks at the hosts, carries them out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from service.app import operator_changes, paging
from service.app.auditing import audited
from service.app.etags import require_etag
from service.app.paging import Page
from service.domain.fleet import HostStatus
from service.domain.groups import Group
from service.domain.ownership import Quarantined
from service.domain.tenants import Caller
from service.errors import WrongState
from service.signals import Signals
from service.store import fleet, ownership
from service.store.connection import Connection
from service.store.engine import Store

T = TypeVar("T")

PrepareAdoption = Callable[[str], Awaitable[Callable[[Connection], Group]]]
"""Looks at the hosts, and answers what writes the group of this uuid as they show it."""

LEFT_ALONE = frozenset({HostStatus.FOREIGN, HostStatus.AHEAD, HostStatus.MISMATCHED})
"""Of these hosts nothing is concluded, and nothing is done there, until an operator claims them."""
SILENT = frozenset({HostStatus.CONNECTING, HostStatus.DISCONNECTED})


class Quarantine:
    """The use cases. `signals.fleet_changed` is told of every commit, so that this process takes notice at once."""

    def __init__(
        self, store: Store, clock: Callable[[], int], signals: Signals, prepare_adoption: PrepareAdoption
    ) -> None:
        self._store = store
        self._prepare_adoption = prepare_adoption
        self._clock = clock
        self._signals = signals

    async def claim_host(self, caller: Caller, uuid: str, etag: str = "", *, validate_only: bool = False) -> None:
        """Order that the host be this database's, whatever it bears.

        Where it is ahead, nobody is placed until hosts that do not answer now have done so and were claimed, or were
        fenced or removed: a member may run there. Raises NotFound, Conflict (etag), WrongState: nothing keeps the host
        from being ours.
        """
        now = self._clock()

        def work(connection: Connection) -> None:
            host = fleet.host(connection, uuid, lock=True)
            require_etag("host", host, etag)
            if host.status not in LEFT_ALONE:
                allowed = "a host that is " + ", ".join(sorted(LEFT_ALONE))
                raise WrongState(f"host {host.name}", host.status.value, allowed)
            ownership.order_claim(connection, uuid, now)
            if host.status is HostStatus.AHEAD:  # what hosts that do not answer have seen, nobody can tell
                silent = [h.uuid for h in fleet.hosts(connection).values() if h.status in SILENT]
                ownership.all_known(connection, (), silent)
            audited(connection, caller, "ClaimHost", uuid, "", now)

        await self._commit(work, validate_only)

    async def list(self, host_uuid: str, page_size: int, page_token: str) -> Page[Quarantined]:
        """What is held, by host and key. `host_uuid` empty: on all hosts. Raises NotFound (host), InvalidArgument for a
        token that is not one, or of another host."""
        cursor = paging.cursor("quarantine", page_size, page_token, host_uuid)

        def read(connection: Connection) -> Page[Quarantined]:
            if host_uuid:
                fleet.host(connection, host_uuid)
            found = ownership.page(connection, host_uuid, cursor.after, cursor.limit)
            return cursor.page(found, [(one.host, one.key) for one in found])

        return await self._store.read(read)

    async def remove(self, caller: Caller, host_uuid: str, key: str, *, validate_only: bool = False) -> Quarantined:
        """Order the end of what is held. Once is enough. Raises NotFound."""
        now = self._clock()

        def work(connection: Connection) -> Quarantined:
            one = ownership.order_removal(connection, host_uuid, key)
            audited(connection, caller, "RemoveQuarantined", f"{key} on host {host_uuid}", "", now)
            return one

        return await self._commit(work, validate_only)

    async def adopt(self, caller: Caller, group_uuid: str, *, validate_only: bool = False) -> Group:
        """Make the group whose machines are held one of this service's again; they go on as they are.

        Raises WrongState, which says why that is not plain, Conflict where a host has no room for what it holds.
        """
        write = await self._prepare_adoption(group_uuid)
        now = self._clock()

        def work(connection: Connection) -> Group:
            group = write(connection)
            audited(connection, caller, "AdoptQuarantined", group_uuid, "", now)
            return group

        group = await self._commit(work, validate_only)
        if not validate_only:
            self._signals.group_due(group_uuid)
        return group

    async def _commit(self, work: Callable[[Connection], T], validate_only: bool) -> T:
        result = await operator_changes.commit(self._store, work, validate_only=validate_only)
        if not validate_only:
            self._signals.fleet_changed()
        return result
