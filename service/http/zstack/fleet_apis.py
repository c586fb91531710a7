"""The fleet: zones, clusters, hosts and what they have left."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from corral.v1 import fleet_pb2

from service.app.fleet import Fleet
from service.app.host_requests import HostFilter
from service.contract import validation
from service.contract.convert import zone_requests
from service.domain.fleet import Host, HostState
from service.errors import InvalidArgument, NotFound
from service.http.zstack import body, fields, inventories, query
from service.http.zstack.calls import Call, Handler, every

_HOST_STATES: Mapping[str, HostState] = {
    "enable": HostState.ENABLED,
    "disable": HostState.DISABLED,
    "maintain": HostState.MAINTENANCE,
}
# Argument -> (ZStack's name of the resource that it lists, the host's field that holds one).
_BY: Mapping[str, tuple[str, str]] = {
    "hostUuids": ("HostVO", "uuid"),
    "clusterUuids": ("ClusterVO", "cluster_uuid"),
    "zoneUuids": ("ZoneVO", "zone_uuid"),
}


class FleetApis:
    """What is done with the fleet."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.table: Mapping[str, Handler] = {
            "QueryZone": self._query_zones,
            "CreateZone": self._create_zone,
            "DeleteZone": self._delete_zone,
            "QueryCluster": self._query_clusters,
            "QueryHost": self._query_hosts,
            "ChangeHostState": self._change_host_state,
            "GetCpuMemoryCapacity": self._capacity,
        }

    async def _query_zones(self, call: Call) -> dict[str, Any]:
        found = [inventories.zone(view.zone) async for view in every(self._fleet.list_zones)]
        return query.answer(call.query, found, fields.ZONE)

    async def _create_zone(self, call: Call) -> dict[str, Any]:
        call.refuse("requestId")
        message = fleet_pb2.CreateZoneRequest(request_id=call.job)
        body.fill(message, call.arguments)
        validation.check(message)
        request, only = zone_requests.new_zone(message), message.validate_only
        return {
            "inventory": inventories.zone(
                (await self._fleet.create_zone(call.caller, request, validate_only=only)).zone
            )
        }

    async def _delete_zone(self, call: Call) -> dict[str, Any]:
        call.check_delete_mode()
        try:
            await self._fleet.delete_zone(call.caller, call.uuid())
        except NotFound:
            return {}
        return {}

    async def _query_clusters(self, call: Call) -> dict[str, Any]:
        found = [inventories.cluster(cluster) async for cluster in every(self._fleet.list_clusters)]
        return query.answer(call.query, found, fields.CLUSTER)

    async def _query_hosts(self, call: Call) -> dict[str, Any]:
        found = [inventories.host(host) async for host in self._hosts()]
        return query.answer(call.query, found, fields.HOST)

    async def _hosts(self) -> AsyncIterator[Host]:
        async for view in every(lambda size, token: self._fleet.list_hosts(HostFilter(), size, token)):
            yield view.host

    async def _change_host_state(self, call: Call) -> dict[str, Any]:
        event = call.text("stateEvent")
        if event not in _HOST_STATES:
            raise InvalidArgument.of("stateEvent", f"must be one of {', '.join(_HOST_STATES)}")
        view = await self._fleet.set_state(call.caller, call.uuid(), _HOST_STATES[event])
        return {"inventory": inventories.host(view.host)}

    async def _capacity(self, call: Call) -> dict[str, Any]:
        """Of all hosts that all the arguments name, and of each resource of the narrowest argument by itself."""
        wanted = {name: call.uuids(name) for name in _BY}
        counted = [
            host
            async for host in self._hosts()
            if host.schedulable
            and all(not uuids or getattr(host, _BY[name][1]) in uuids for name, uuids in wanted.items())
        ]
        # As ZStack: where no argument names anything, all zones are meant.
        kind, attribute = next((_BY[name] for name, uuids in wanted.items() if uuids), _BY["zoneUuids"])
        return inventories.capacity(counted, kind, attribute)
