"""Clusters as operators manage them at run time; see `app.fleet` for what they share with the configuration file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from service.app import operator_changes, paging
from service.app.auditing import audited
from service.app.etags import require_etag
from service.app.paging import Page
from service.domain.fleet import Cluster, Host
from service.domain.tenants import Caller
from service.errors import AlreadyExists, InvalidArgument, NotFound, WrongState
from service.store import clusters, fleet, schema
from service.store.connection import Connection
from service.store.engine import Store


@dataclass(frozen=True, slots=True)
class ClusterView:
    """A cluster and where its hosts are: zone's uuid -> how many."""

    cluster: Cluster
    hosts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class NewCluster:
    """A cluster to make. Without `resource_uuid` one is made."""

    name: str
    zone_uuid: str
    description: str = ""
    resource_uuid: str = ""
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class ClusterChange:
    """What to change in a cluster; None leaves it."""

    name: str | None = None
    description: str | None = None


class Clusters:
    """The use cases of clusters."""

    _store: Store
    _clock: Callable[[], int]
    _new_uuid: Callable[[], str]

    async def create_cluster(self, caller: Caller, request: NewCluster, *, validate_only: bool = False) -> ClusterView:
        """Make a cluster; the same request id answers with the cluster that it made.

        Raises AlreadyExists, NotFound (zone), RequestIdReused.
        """
        now = self._clock()

        def work(connection: Connection) -> ClusterView:
            known = operator_changes.made_before(connection, caller, "CreateCluster", request.request_id, request)
            if known is not None:
                return _view(connection, known)
            uuid = request.resource_uuid or self._new_uuid()
            if clusters.find(connection, uuid) is not None:
                raise AlreadyExists("cluster", uuid)
            if request.zone_uuid not in fleet.zones(connection):
                raise NotFound("zone", request.zone_uuid, "zone_uuid")
            clusters.put(connection, Cluster(uuid, request.name, request.zone_uuid, request.description), now)
            operator_changes.made(connection, caller, "CreateCluster", request.request_id, request, uuid, now)
            return _view(connection, uuid)

        return await operator_changes.commit(self._store, work, validate_only=validate_only)

    async def list_clusters(self, page_size: int, page_token: str) -> Page[ClusterView]:
        """Clusters by name. Raises InvalidArgument for a token that is not one."""
        cursor = paging.cursor("clusters", page_size, page_token)

        def read(connection: Connection) -> Page[ClusterView]:
            found = clusters.page(connection, cursor.after, cursor.limit)
            where = clusters.hosts_in(connection)
            views = [ClusterView(one, where.get(one.uuid, {})) for one in found]
            return cursor.page(views, [(one.name, one.uuid) for one in found])

        return await self._store.read(read)

    async def update_cluster(
        self, caller: Caller, uuid: str, change: ClusterChange, etag: str = "", *, validate_only: bool = False
    ) -> ClusterView:
        """Change what a cluster is called. Raises NotFound, Conflict (etag)."""
        now = self._clock()

        def work(connection: Connection) -> ClusterView:
            cluster = clusters.get(connection, uuid, lock=True)
            require_etag("cluster", cluster, etag)
            name, description = change.name, change.description
            wanted = replace(
                cluster,
                name=cluster.name if name is None else name,
                description=cluster.description if description is None else description,
            )
            if wanted != cluster:
                clusters.put(connection, wanted, now)
                audited(connection, caller, "UpdateCluster", uuid, "", now)
            return _view(connection, uuid)

        return await operator_changes.commit(self._store, work, validate_only=validate_only)

    async def delete_cluster(self, caller: Caller, uuid: str, etag: str = "", *, validate_only: bool = False) -> None:
        """Remove a cluster. Raises NotFound, Conflict (etag), WrongState: it has hosts, or the file defines it."""
        now = self._clock()

        def work(connection: Connection) -> None:
            cluster = clusters.get(connection, uuid, lock=True)
            require_etag("cluster", cluster, etag)
            operator_changes.require_run_time(connection, schema.clusters, f"cluster {cluster.name}", uuid)
            if hosts := sum(clusters.hosts_in(connection).get(uuid, {}).values()):
                said = f"not empty: it has {hosts} hosts"
                raise WrongState(f"cluster {cluster.name}", said, "a cluster without hosts")
            clusters.forget(connection, uuid)
            audited(connection, caller, "DeleteCluster", uuid, "", now)

        await operator_changes.commit(self._store, work, validate_only=validate_only)


def require_cluster(connection: Connection, host: Host) -> None:
    """The host's cluster is of its zone, and stays while the transaction lasts. Raises NotFound, InvalidArgument."""
    if not host.cluster_uuid:
        return
    cluster = clusters.find(connection, host.cluster_uuid, lock=True)
    if cluster is None:
        raise NotFound("cluster", host.cluster_uuid, "cluster_uuid")
    if cluster.zone_uuid != host.zone_uuid:
        raise InvalidArgument.of("cluster_uuid", f"is in zone {cluster.zone_uuid}, and the host in another")


def _view(connection: Connection, uuid: str) -> ClusterView:
    return ClusterView(clusters.get(connection, uuid), clusters.hosts_in(connection).get(uuid, {}))
