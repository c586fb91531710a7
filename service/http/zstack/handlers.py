"""What each API does: one table of all handlers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.app.catalog import Catalog
from service.app.fleet import Fleet
from service.app.groups import Groups
from service.app.sessions import Sessions
from service.contract.convert.inventory import Reachable
from service.http.zstack.calls import Call, Handler
from service.http.zstack.catalog_apis import CatalogApis
from service.http.zstack.deploy_apis import DeployApis
from service.http.zstack.errors import NotSupported
from service.http.zstack.fleet_apis import FleetApis
from service.http.zstack.following import Following
from service.http.zstack.group_apis import GroupApis
from service.http.zstack.session_apis import SessionApis
from service.http.zstack.showing import Showing


class Handlers:
    """The APIs that this service does; asking for another one raises NotSupported."""

    def __init__(
        self, groups: Groups, fleet: Fleet, catalog: Catalog, sessions: Sessions, reachable: Reachable
    ) -> None:
        following, showing = Following(groups), Showing(catalog, reachable)
        self._table: Mapping[str, Handler] = {
            **SessionApis(sessions).table,
            **DeployApis(following, catalog, showing).table,
            **GroupApis(following, showing).table,
            **CatalogApis(catalog).table,
            **FleetApis(fleet).table,
        }

    async def run(self, call: Call) -> dict[str, Any]:
        """What the call answers. Raises the errors of `service.errors`."""
        handler = self._table.get(call.api.name)
        if handler is None:
            raise NotSupported(call.api.name)
        return await handler(call)
