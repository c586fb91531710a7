"""What an operator orders about the cleaning of machines of bare metal."""

from __future__ import annotations

from collections.abc import Callable

from service.app import operator_changes
from service.app.auditing import audited
from service.app.capacity import HostView
from service.app.etags import require_etag
from service.app.fleet import Fleet
from service.domain.tenants import Caller
from service.signals import Signals
from service.store import clock as database_clock
from service.store import fleet
from service.store.connection import Connection
from service.store.engine import Store
from service.transactions import cleaning


class Cleanings:
    """The use case. `signals.fleet_changed` is told of every commit."""

    def __init__(self, store: Store, clock: Callable[[], int], fleet: Fleet, signals: Signals) -> None:
        self._store = store
        self._clock = clock
        self._fleet = fleet
        self._signals = signals

    async def clean(self, caller: Caller, uuid: str, etag: str = "", *, validate_only: bool = False) -> HostView:
        """Have a machine cleaned that nobody has: one that could not be, or one that nobody trusts. The cleaning that
        is under way is shown where there is one.

        Raises NotFound, Conflict (etag), WrongState where it is no such machine, somebody has it, it does not answer or
        is not to be cleaned at all; NoAddresses.
        """

        def work(connection: Connection) -> HostView:
            host = fleet.host(connection, uuid, lock=True)
            require_etag("host", host, etag)
            cleaning.ordered(connection, host, database_clock.now(connection))
            audited(connection, caller, "CleanHost", uuid, "", self._clock())
            return self._fleet.views(connection, (fleet.host(connection, uuid),))[0]

        view = await operator_changes.commit(self._store, work, validate_only=validate_only)
        if not validate_only:
            self._signals.fleet_changed()
        return view
