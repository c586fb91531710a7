"""Clusters: what hosts name as theirs. One exists for as long as a host is in it."""

from __future__ import annotations

from dataclasses import dataclass

from service.app import paging
from service.app.paging import Page
from service.domain.fleet import Host
from service.store import fleet
from service.store.connection import Connection
from service.store.engine import Store


@dataclass(frozen=True, slots=True)
class ClusterView:
    """A cluster. `zone_uuids`: those of its hosts, sorted; `created_at`, `updated_at`: ms since the epoch, of the first
    host that came into it and of the one that was changed last."""

    uuid: str
    zone_uuids: tuple[str, ...]
    hosts: int
    created_at: int
    updated_at: int


class Clusters:
    """The use cases of clusters."""

    _store: Store

    async def list_clusters(self, page_size: int, page_token: str) -> Page[ClusterView]:
        """Clusters by uuid. Raises InvalidArgument for a token that is not one."""
        cursor = paging.cursor("clusters", page_size, page_token)

        def read(connection: Connection) -> Page[ClusterView]:
            members: dict[str, list[Host]] = {}
            for host in fleet.hosts(connection).values():
                if host.cluster_uuid:
                    members.setdefault(host.cluster_uuid, []).append(host)
            after = cursor.after[1] if cursor.after is not None else ""
            found = [_view(uuid, members[uuid]) for uuid in sorted(members) if uuid > after][: cursor.limit]
            return cursor.page(found, [("", cluster.uuid) for cluster in found])

        return await self._store.read(read)


def _view(uuid: str, hosts: list[Host]) -> ClusterView:
    return ClusterView(
        uuid,
        tuple(sorted({host.zone_uuid for host in hosts})),
        len(hosts),
        min(host.created_at for host in hosts),
        max(host.updated_at for host in hosts),
    )
