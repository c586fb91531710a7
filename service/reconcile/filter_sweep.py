"""What holds groups on a host is kept as their rows say, and taken away where none of their members is any more.

Only where it is on record that the group's members were let go on that host, and only once no machine refers to it:
what the database knows nothing of stays, and holds whom it held (ARCHITECTURE I15).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from service.domain.fleet import Zone
from service.domain.isolation import NWFILTER, GroupFilter, Isolation, isolation_of, let_loose
from service.domain.network import Network
from service.reconcile.monitor import HostMonitor
from service.store import filters, fleet, groups
from service.store.connection import Connection
from service.store.engine import Store
from service.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

CALL_SECONDS = 25.0
MOST_KNOWN = 10_000
"""Groups that are remembered as they were read last."""
Rules = frozenset[tuple[str, Network]]


class FilterSweep:
    """What this process knows of the filters of all hosts."""

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        self._suspects: dict[str, set[str]] = {}
        self._known: dict[tuple[str, str], tuple[int, Rules, Isolation]] = {}

    def forget(self, host_uuid: str) -> None:
        """The host is no longer in the fleet."""
        self._suspects.pop(host_uuid, None)

    async def sweep(self, monitor: HostMonitor, *, early: bool) -> None:
        """One pass over a host. `early`: nothing is removed yet. Raises DriverError."""
        if monitor.facts is None or monitor.facts.isolation != NWFILTER:
            return
        there = {f.group: f for f in await monitor.driver.list_filters(budget_seconds=CALL_SECONDS)}
        if not there:
            self._suspects.pop(monitor.host.uuid, None)
            return
        wanted, let_go = await self._store.read(lambda c: self._read(c, monitor, there))
        for group, isolation in sorted(wanted.items()):
            if there[group].digest != isolation.digest:
                await monitor.driver.set_filter(isolation, budget_seconds=CALL_SECONDS)
        unwanted = {g for g, f in there.items() if g not in wanted and g in let_go and not f.used}
        before = self._suspects.get(monitor.host.uuid, set())
        self._suspects[monitor.host.uuid] = unwanted
        for group in sorted(unwanted & before) if not early else ():
            logger.info("host %s: the network filter of group %s holds nobody: removed", monitor.host.name, group)
            await monitor.driver.remove_filter(group, budget_seconds=CALL_SECONDS)
            self._metrics.orphans_removed.labels("filter").inc()

    def _read(
        self, connection: Connection, monitor: HostMonitor, there: Mapping[str, GroupFilter]
    ) -> tuple[dict[str, Isolation], frozenset[str]]:
        """What is to hold each group that has members here, and the groups on record as let go here."""
        host_uuid = monitor.host.uuid
        here = {group for _, group, *_ in groups.on_host(connection, host_uuid)}
        here |= {group for _, group, _ in groups.arriving(connection, host_uuid)}
        zones = fleet.zones(connection)
        zone = zones.get(monitor.host.zone_uuid)
        wanted = {} if zone is None else self._isolations(connection, sorted(here & there.keys()), zone, zones)
        return wanted, filters.let_go(connection, host_uuid, sorted(there.keys() - here))

    def _isolations(
        self, connection: Connection, uuids: list[str], zone: Zone, zones: Mapping[str, Zone]
    ) -> dict[str, Isolation]:
        """Of each group as it stands; a large one is read only when it has changed."""
        rules = frozenset((uuid, one.network) for uuid, one in zones.items())
        versions = filters.versions(connection, uuids)
        known = {g: self._known.get((g, zone.uuid)) for g in versions}
        anew = [g for g in sorted(versions) if (k := known[g]) is None or k[:2] != (versions[g], rules)]
        for group in groups.load_many(connection, anew):
            # Where an operator holds nobody any more, those who run with a filter are let talk with everybody.
            held = isolation_of(group, zone, zones) or let_loose(group.uuid, zone.network)
            self._known[(group.uuid, zone.uuid)] = (group.version, rules, held)
        found = {g: self._known[(g, zone.uuid)][2] for g in versions}
        if len(self._known) > MOST_KNOWN:
            self._known.clear()
        return found
