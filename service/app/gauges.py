"""The gauges that mirror the store, brought up to date before each scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from service.app.feed import Feed
from service.app.projects import usages
from service.domain.fleet import Host
from service.domain.ownership import Holding
from service.domain.tenants import Usage
from service.store import events, fleet, groups, ownership
from service.store.connection import Connection
from service.store.engine import Store
from service.telemetry.metrics import Metrics, replace

CountSecrets = Callable[[Connection], Mapping[tuple[str, bool], int]]
"""How many secrets are stored, by the key's name and by whether this process can decrypt them."""


class Gauges:
    """What the metrics tell of the store and of this process's followers and workers."""

    def __init__(
        self, store: Store, metrics: Metrics, feed: Feed, working: Callable[[], int], secrets: CountSecrets
    ) -> None:
        """`working`: how many groups are being worked on by this process."""
        self._secrets = secrets
        self._store = store
        self._metrics = metrics
        self._feed = feed
        self._working = working

    async def refresh(self) -> None:
        """Read all of it again. Raises Unavailable."""

        by_group, by_instance, hosts, revision, held, projects = await self._store.read(_read)
        stored = await self._store.read(self._secrets)
        metrics = self._metrics
        replace(metrics.groups, {(status,): count for status, count in by_group.items()})
        replace(metrics.instances, {(status,): count for status, count in by_instance.items()})
        self._tell_hosts(hosts.values())
        self._tell_projects(projects)
        replace(
            metrics.quarantined,
            {(hosts[uuid].name if uuid in hosts else uuid, kind.value): count for (uuid, kind), count in held.items()},
        )
        replace(metrics.secrets, {(key, str(readable).lower()): n for (key, readable), n in stored.items()})
        metrics.events_revision.set(revision)
        metrics.watch_streams.set(self._feed.followers)
        metrics.reconcile_workers.set(self._working())

    def _tell_hosts(self, hosts: Iterable[Host]) -> None:
        hosts = tuple(hosts)
        by_state: dict[tuple[str, ...], float] = {}
        for host in hosts:
            key = (host.state.value, host.status.value)
            by_state[key] = by_state.get(key, 0) + 1
        metrics = self._metrics
        replace(metrics.hosts, by_state)
        replace(metrics.host_capacity, _amounts((h, h.allocatable) for h in hosts))
        replace(metrics.host_used, _amounts((h, h.used) for h in hosts))
        replace(metrics.host_foreign, _amounts((h, h.foreign) for h in hosts))

    def _tell_projects(self, projects: Sequence[Usage]) -> None:
        metrics = self._metrics
        replace(metrics.project_groups, {(one.project,): one.groups for one in projects})
        replace(metrics.project_instances, {(one.project,): one.members for one in projects})
        replace(metrics.project_claimed, _by_resource((one.project, one.claimed) for one in projects))
        replace(metrics.project_waiting, _by_resource((one.project, one.waiting) for one in projects))
        replace(metrics.project_quota, _by_resource((one.project, one.limits) for one in projects))


_Counts = Mapping[str, int]
_Held = Mapping[tuple[str, Holding], int]


def _read(
    connection: Connection,
) -> tuple[_Counts, _Counts, Mapping[str, Host], int, _Held, tuple[Usage, ...]]:
    by_group, by_instance = groups.counts(connection)
    revision = events.head(connection)[1]
    held = ownership.counts(connection)
    return by_group, by_instance, fleet.hosts(connection), revision, held, usages(connection)


def _by_resource(vectors: Iterable[tuple[str, Mapping[str, int]]]) -> dict[tuple[str, ...], float]:
    return {(project, name): amount for project, vector in vectors for name, amount in vector.items()}


def _amounts(vectors: Iterable[tuple[Host, Mapping[str, int]]]) -> dict[tuple[str, ...], float]:
    return {(host.name, host.zone_uuid, name): n for host, vector in vectors for name, n in vector.items()}
