"""The gauges that mirror the store, brought up to date before each scrape.

Hosts and zones bear their names. Names need not be unique; where two share one, each is told as `name (uuid's head)`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from service.app.feed import Feed
from service.app.projects import usages
from service.domain.device_reports import reported_kind
from service.domain.devices import Device
from service.domain.fencing import Verdict
from service.domain.fleet import GPU, MEMORY, VCPU, Host, HostStatus, Zone
from service.domain.ownership import Holding
from service.domain.tenants import Usage
from service.store import devices, events, fencing, fleet, groups, ownership, settings, waiting
from service.store.connection import Connection
from service.store.engine import Store
from service.telemetry.metrics import Amounts, Metrics, Samples, replace

CountSecrets = Callable[[Connection], Mapping[tuple[str, bool], int]]
"""How many secrets are stored, by the key's name and by whether this process can decrypt them."""

_SILENT = frozenset({HostStatus.CONNECTING, HostStatus.DISCONNECTED})
_HEAD = 8
"""So many digits of its uuid tell a host from others of its name."""


class Gauges:
    """What the metrics tell of the store and of this process's followers and workers."""

    def __init__(
        self,
        store: Store,
        metrics: Metrics,
        feed: Feed,
        working: Callable[[], int],
        secrets: CountSecrets,
        used: Callable[[str], Mapping[str, float]],
    ) -> None:
        """`working`: how many groups are being worked on by this process. `used`: what guests take of a host now."""
        self._secrets = secrets
        self._used = used
        self._store = store
        self._metrics = metrics
        self._feed = feed
        self._working = working
        self._missed = 0

    async def refresh(self) -> None:
        """Read all of it again. Raises Unavailable.

        One scrape may miss what the database says without a gap in the series; after that what was read last is old,
        and nothing is told of it.
        """
        metrics = self._metrics
        metrics.watch_streams.set(self._feed.followers)
        metrics.reconcile_workers.set(self._working())
        try:
            stored = await self._store.read(lambda connection: _read(connection, self._secrets))
        except BaseException:  # a scrape that waited too long is cancelled
            self._missed += 1
            if self._missed > 1:
                self._tell(_Stored())
            raise
        self._tell(stored)
        metrics.events_revision.set(stored.revision)
        metrics.database_size.set(stored.size)
        self._missed = 0

    def _tell(self, stored: _Stored) -> None:
        metrics = self._metrics
        replace(metrics.groups, {(status,): count for status, count in stored.groups.items()})
        metrics.kept_hosts.set(stored.kept_hosts)
        replace(metrics.waiting_groups, {(reason,): count for reason, count in stored.waiting.items()})
        replace(metrics.instances, {(status,): count for status, count in stored.instances.items()})
        replace(metrics.secrets, {(key, str(ok).lower()): n for (key, ok), n in stored.secrets.items()})
        self._tell_hosts(stored)
        self._tell_projects(stored.projects)

    def _tell_hosts(self, stored: _Stored) -> None:
        names, metrics = _Names(stored.hosts, stored.zones), self._metrics
        hosts = [(host, names.of(host.uuid)) for host in stored.hosts.values()]
        replace(metrics.hosts, dict(Counter((h.state.value, h.status.value) for h, _ in hosts)))
        replace(metrics.host_info, {(*n, h.uuid, h.address.driver, h.rack): 1 for h, n in hosts})
        replace(metrics.host_up, {n: float(h.status not in _SILENT) for h, n in hosts})
        replace(metrics.host_status, {(*n, h.state.value, h.status.value): 1 for h, n in hosts})
        _replace_amounts(metrics.host_allocatable, [(n, h.allocatable) for h, n in hosts])
        _replace_amounts(metrics.host_claimed, [(n, h.used) for h, n in hosts])
        _replace_amounts(metrics.host_foreign, [(n, h.foreign) for h, n in hosts])
        _replace_amounts(metrics.host_used, [(n, self._used(h.uuid)) for h, n in hosts])
        states = Counter((*names.of(one.host_uuid), one.state.value) for one in stored.devices)
        replace(metrics.devices.states, {labels: float(count) for labels, count in states.items()})
        kinds = Counter((*names.of(d.host_uuid), kind.value) for d in stored.devices if (kind := reported_kind(d)))
        replace(metrics.devices.out_by_report, {labels: float(count) for labels, count in kinds.items()})
        held: Samples = {(*names.of(uuid), kind.value): count for (uuid, kind), count in stored.held.items()}
        replace(metrics.quarantined, held)
        closed: Samples = {(*n, h.cleaning.state.value): 1 for h, n in hosts if h.cleaning.state.value}
        replace(metrics.machine_cleaning, closed)
        verdicts: Samples = {(*names.of(uuid), one.rule.value): 1 for uuid, one in stored.verdicts.items()}
        replace(metrics.fence_verdicts, verdicts)

    def _tell_projects(self, projects: Sequence[Usage]) -> None:
        metrics = self._metrics
        replace(metrics.project_groups, {(one.project,): one.groups for one in projects})
        replace(metrics.project_instances, {(one.project,): one.members for one in projects})
        _replace_amounts(metrics.project_claimed, [((one.project,), one.claimed) for one in projects])
        _replace_amounts(metrics.project_waiting, [((one.project,), one.waiting) for one in projects])
        _replace_amounts(metrics.project_quota, [((one.project,), one.limits) for one in projects])


@dataclass(frozen=True, slots=True)
class _Stored:
    """One look at the database; empty: nothing is known of it now."""

    groups: Mapping[str, int] = field(default_factory=dict)
    instances: Mapping[str, int] = field(default_factory=dict)
    waiting: Mapping[str, int] = field(default_factory=dict)
    kept_hosts: int = 0
    hosts: Mapping[str, Host] = field(default_factory=dict)
    zones: Mapping[str, Zone] = field(default_factory=dict)
    held: Mapping[tuple[str, Holding], int] = field(default_factory=dict)
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    projects: Sequence[Usage] = ()
    devices: Sequence[Device] = ()
    secrets: Mapping[tuple[str, bool], int] = field(default_factory=dict)
    revision: int = 0
    size: int = 0


def _read(connection: Connection, secrets: CountSecrets) -> _Stored:
    by_group, by_instance = groups.counts(connection)
    return _Stored(
        groups=by_group,
        instances=by_instance,
        waiting=waiting.counts(connection),
        kept_hosts=waiting.kept_hosts(connection),
        hosts=fleet.hosts(connection),
        zones=fleet.zones(connection),
        held=ownership.counts(connection),
        verdicts=fencing.verdicts(connection),
        projects=usages(connection),
        devices=[device for of_host in devices.of_hosts(connection).values() for device in of_host],
        secrets=secrets(connection),
        revision=events.head(connection)[1],
        size=settings.size(connection),
    )


class _Names:
    """The labels `host` and `zone` of each host."""

    def __init__(self, hosts: Mapping[str, Host], zones: Mapping[str, Zone]) -> None:
        self._hosts = hosts
        self._host_names = _told_apart((h.uuid, h.name) for h in hosts.values())
        self._zone_names = _told_apart((z.uuid, z.name) for z in zones.values())

    def of(self, host_uuid: str) -> tuple[str, str]:
        """(host, zone); of a host that is no longer in the fleet its uuid, and no zone."""
        host = self._hosts.get(host_uuid)
        if host is None:
            return (host_uuid, "")
        return (self._host_names[host_uuid], self._zone_names.get(host.zone_uuid, host.zone_uuid))


def _told_apart(named: Iterable[tuple[str, str]]) -> Mapping[str, str]:
    """uuid -> a name that no other one has."""
    pairs = tuple(named)
    times = Counter(name for _, name in pairs)
    return {uuid: name if times[name] == 1 else f"{name} ({uuid[:_HEAD]})" for uuid, name in pairs}


def _replace_amounts(gauges: Amounts, vectors: Sequence[tuple[tuple[str, ...], Mapping[str, float]]]) -> None:
    replace(gauges.vcpus, {labels: vector[VCPU] for labels, vector in vectors if VCPU in vector})
    replace(gauges.memory, {labels: vector[MEMORY] for labels, vector in vectors if MEMORY in vector})
    by_model = {
        (*labels, resource.removeprefix(GPU)): amount
        for labels, vector in vectors
        for resource, amount in vector.items()
        if resource.startswith(GPU)
    }
    replace(gauges.gpus, by_model)
