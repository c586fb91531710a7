"""The methods of `FleetService`: check, translate, call the use case, translate back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from corral.v1 import fleet_pb2, fleet_pb2_grpc

from service.app.cleaning import Cleanings
from service.app.devices import Devices
from service.app.evacuation import Evacuation
from service.app.fleet import Fleet
from service.app.fleet_feed import FleetFeed
from service.app.host_requests import HostFilter
from service.app.quarantine import Quarantine
from service.app.rebalancing import Rebalancing
from service.app.rolling import Rolls
from service.app.room import RoomPlans
from service.contract import heartbeat, pages, validation
from service.contract.call import current_caller, seconds_left
from service.contract.convert import fleet as convert
from service.contract.convert import inventory, requests, zone_requests
from service.contract.convert.explanation import in_callers_order
from service.contract.convert.inventory import Reachable
from service.contract.heartbeat import beating
from service.domain.fleet import HostState
from service.errors import PlacementError
from service.planning.decisions import DecisionLog
from service.rpc.rebalance_calls import RebalanceCalls
from service.rpc.roll_calls import RollCalls

SERVICE = fleet_pb2.DESCRIPTOR.services_by_name["FleetService"].full_name

_PART = 256 << 10
"""Characters of a dump in one message; each takes at most four bytes."""


class FleetServicer(RebalanceCalls, RollCalls, fleet_pb2_grpc.FleetServiceServicer):
    """Translates between the wire and `service.app.fleet`."""

    def __init__(
        self,
        fleet: Fleet,
        feed: FleetFeed,
        evacuation: Evacuation,
        cleanings: Cleanings,
        quarantine: Quarantine,
        devices: Devices,
        decisions: DecisionLog,
        room: RoomPlans,
        rebalancing: Rebalancing,
        rolls: Rolls,
        reachable: Reachable,
    ) -> None:
        """`reachable`: whether members of a zone can be reached from outside; it decides about their `url`."""
        self._fleet = fleet
        self._feed = feed
        self._evacuation = evacuation
        self._cleanings = cleanings
        self._quarantine = quarantine
        self._devices = devices
        self._decisions = decisions
        self._room = room
        self._rebalancing = rebalancing
        self._rolls = rolls
        self._reachable = reachable

    async def CreateZone(  # noqa: N802
        self, request: fleet_pb2.CreateZoneRequest, context: Any
    ) -> fleet_pb2.CreateZoneResponse:
        """Makes a zone."""
        validation.check(request)
        view = await self._fleet.create_zone(
            current_caller(), zone_requests.new_zone(request), validate_only=request.validate_only
        )
        return fleet_pb2.CreateZoneResponse(inventory=convert.zone(view))

    async def ListZones(  # noqa: N802
        self, request: fleet_pb2.ListZonesRequest, context: Any
    ) -> fleet_pb2.ListZonesResponse:
        """A page of zones."""
        validation.check(request)
        page = await self._fleet.list_zones(request.page_size, request.page_token)
        found, token = pages.fitting(page, convert.zone)
        return fleet_pb2.ListZonesResponse(inventories=found, next_page_token=token)

    async def UpdateZone(  # noqa: N802
        self, request: fleet_pb2.UpdateZoneRequest, context: Any
    ) -> fleet_pb2.UpdateZoneResponse:
        """Changes a zone's pools and whom its groups may talk with."""
        validation.check(request)
        view = await self._fleet.update_zone(
            current_caller(),
            request.uuid,
            zone_requests.zone_change(request),
            request.etag,
            validate_only=request.validate_only,
        )
        return fleet_pb2.UpdateZoneResponse(inventory=convert.zone(view))

    async def DeleteZone(  # noqa: N802
        self, request: fleet_pb2.DeleteZoneRequest, context: Any
    ) -> fleet_pb2.DeleteZoneResponse:
        """Removes a zone without hosts."""
        validation.check(request)
        await self._fleet.delete_zone(current_caller(), request.uuid, request.etag, validate_only=request.validate_only)
        return fleet_pb2.DeleteZoneResponse()

    async def CreateCluster(  # noqa: N802
        self, request: fleet_pb2.CreateClusterRequest, context: Any
    ) -> fleet_pb2.CreateClusterResponse:
        """Makes a cluster."""
        validation.check(request)
        view = await self._fleet.create_cluster(
            current_caller(), convert.new_cluster(request), validate_only=request.validate_only
        )
        return fleet_pb2.CreateClusterResponse(inventory=convert.cluster(view))

    async def UpdateCluster(  # noqa: N802
        self, request: fleet_pb2.UpdateClusterRequest, context: Any
    ) -> fleet_pb2.UpdateClusterResponse:
        """Changes what a cluster is called."""
        validation.check(request)
        change = convert.cluster_change(request)
        view = await self._fleet.update_cluster(
            current_caller(), request.uuid, change, request.etag, validate_only=request.validate_only
        )
        return fleet_pb2.UpdateClusterResponse(inventory=convert.cluster(view))

    async def DeleteCluster(  # noqa: N802
        self, request: fleet_pb2.DeleteClusterRequest, context: Any
    ) -> fleet_pb2.DeleteClusterResponse:
        """Removes a cluster without hosts."""
        validation.check(request)
        await self._fleet.delete_cluster(
            current_caller(), request.uuid, request.etag, validate_only=request.validate_only
        )
        return fleet_pb2.DeleteClusterResponse()

    async def ListClusters(  # noqa: N802
        self, request: fleet_pb2.ListClustersRequest, context: Any
    ) -> fleet_pb2.ListClustersResponse:
        """A page of clusters."""
        validation.check(request)
        page = await self._fleet.list_clusters(request.page_size, request.page_token)
        found, token = pages.fitting(page, convert.cluster)
        return fleet_pb2.ListClustersResponse(inventories=found, next_page_token=token)

    async def AddHost(  # noqa: N802
        self, request: fleet_pb2.AddHostRequest, context: Any
    ) -> fleet_pb2.AddHostResponse:
        """Takes a host into the fleet once it has answered."""
        validation.check(request)
        view = await self._fleet.add_host(
            current_caller(), convert.new_host(request), validate_only=request.validate_only
        )
        return fleet_pb2.AddHostResponse(inventory=convert.host(view))

    async def GetHost(  # noqa: N802
        self, request: fleet_pb2.GetHostRequest, context: Any
    ) -> fleet_pb2.GetHostResponse:
        """One host as it stands."""
        validation.check(request)
        return fleet_pb2.GetHostResponse(inventory=convert.host(await self._fleet.get_host(request.uuid)))

    async def ListHosts(  # noqa: N802
        self, request: fleet_pb2.ListHostsRequest, context: Any
    ) -> fleet_pb2.ListHostsResponse:
        """A page of hosts."""
        validation.check(request)
        query = HostFilter(request.zone_uuid, tuple(request.states), tuple(request.statuses), request.project)
        page = await self._fleet.list_hosts(query, request.page_size, request.page_token)
        found, token = pages.fitting(page, convert.host)
        return fleet_pb2.ListHostsResponse(inventories=found, next_page_token=token)

    async def UpdateHost(  # noqa: N802
        self, request: fleet_pb2.UpdateHostRequest, context: Any
    ) -> fleet_pb2.UpdateHostResponse:
        """Changes what the operator says of a host."""
        validation.check(request)
        done = await self._fleet.update_host(
            current_caller(),
            request.uuid,
            convert.host_change(request),
            request.etag,
            validate_only=request.validate_only,
        )
        return fleet_pb2.UpdateHostResponse(inventory=convert.host(done.view), broken_rules=done.broken_rules)

    async def RemoveHost(  # noqa: N802
        self, request: fleet_pb2.RemoveHostRequest, context: Any
    ) -> fleet_pb2.RemoveHostResponse:
        """Takes an empty host out of the fleet."""
        validation.check(request)
        await self._fleet.remove_host(
            current_caller(), request.uuid, request.etag, force=request.force, validate_only=request.validate_only
        )
        return fleet_pb2.RemoveHostResponse()

    async def EnableHost(  # noqa: N802
        self, request: fleet_pb2.EnableHostRequest, context: Any
    ) -> fleet_pb2.EnableHostResponse:
        """Lets new members be placed on a host again."""
        return fleet_pb2.EnableHostResponse(inventory=await self._set_state(request, HostState.ENABLED))

    async def DisableHost(  # noqa: N802
        self, request: fleet_pb2.DisableHostRequest, context: Any
    ) -> fleet_pb2.DisableHostResponse:
        """Places no new members on a host."""
        return fleet_pb2.DisableHostResponse(inventory=await self._set_state(request, HostState.DISABLED))

    async def MaintainHost(  # noqa: N802
        self, request: fleet_pb2.MaintainHostRequest, context: Any
    ) -> fleet_pb2.MaintainHostResponse:
        """Marks an empty host as under maintenance."""
        return fleet_pb2.MaintainHostResponse(inventory=await self._set_state(request, HostState.MAINTENANCE))

    async def DrainHost(  # noqa: N802
        self, request: fleet_pb2.DrainHostRequest, context: Any
    ) -> AsyncIterator[fleet_pb2.DrainHostResponse]:
        """Moves all members away; a client that leaves does not stop it."""
        validation.check(request)
        drain = self._evacuation.drain(
            current_caller(), request.uuid, request.etag, request.request_id, validate_only=request.validate_only
        )
        async with aclosing(beating(drain, heartbeat.SECONDS)) as steps:
            async for step in steps:
                yield convert.progress(step, self._reachable) if step is not None else fleet_pb2.DrainHostResponse()

    async def FenceHost(  # noqa: N802
        self, request: fleet_pb2.FenceHostRequest, context: Any
    ) -> fleet_pb2.FenceHostResponse:
        """Takes the caller's word that a host is off."""
        validation.check(request)
        view = await self._evacuation.fence(
            current_caller(),
            request.uuid,
            request.etag,
            already_off=request.already_off,
            validate_only=request.validate_only,
        )
        return fleet_pb2.FenceHostResponse(inventory=convert.host(view))

    async def ClaimHost(  # noqa: N802
        self, request: fleet_pb2.ClaimHostRequest, context: Any
    ) -> fleet_pb2.ClaimHostResponse:
        """Takes the caller's word that a host is this service's."""
        validation.check(request)
        await self._quarantine.claim_host(
            current_caller(), request.uuid, request.etag, validate_only=request.validate_only
        )
        return fleet_pb2.ClaimHostResponse(inventory=convert.host(await self._fleet.get_host(request.uuid)))

    async def ListQuarantine(  # noqa: N802
        self, request: fleet_pb2.ListQuarantineRequest, context: Any
    ) -> fleet_pb2.ListQuarantineResponse:
        """A page of what nobody knows."""
        validation.check(request)
        page = await self._quarantine.list(request.host_uuid, request.page_size, request.page_token)
        found, token = pages.fitting(page, convert.quarantined)
        return fleet_pb2.ListQuarantineResponse(inventories=found, next_page_token=token)

    async def RemoveQuarantined(  # noqa: N802
        self, request: fleet_pb2.RemoveQuarantinedRequest, context: Any
    ) -> fleet_pb2.RemoveQuarantinedResponse:
        """Orders the end of a machine or volume that nobody knows."""
        validation.check(request)
        one = await self._quarantine.remove(
            current_caller(), request.host_uuid, request.key, validate_only=request.validate_only
        )
        return fleet_pb2.RemoveQuarantinedResponse(inventory=convert.quarantined(one))

    async def AdoptQuarantined(  # noqa: N802
        self, request: fleet_pb2.AdoptQuarantinedRequest, context: Any
    ) -> fleet_pb2.AdoptQuarantinedResponse:
        """Makes quarantined machines a group again."""
        validation.check(request)
        group = await self._quarantine.adopt(current_caller(), request.group_uuid, validate_only=request.validate_only)
        return fleet_pb2.AdoptQuarantinedResponse(inventory=inventory.group(group, self._reachable))

    async def CleanHost(  # noqa: N802
        self, request: fleet_pb2.CleanHostRequest, context: Any
    ) -> fleet_pb2.CleanHostResponse:
        """Has a machine of bare metal cleaned."""
        validation.check(request)
        view = await self._cleanings.clean(
            current_caller(), request.uuid, request.etag, validate_only=request.validate_only
        )
        return fleet_pb2.CleanHostResponse(inventory=convert.host(view))

    async def QuarantineDevice(  # noqa: N802
        self, request: fleet_pb2.QuarantineDeviceRequest, context: Any
    ) -> fleet_pb2.QuarantineDeviceResponse:
        """Takes a device out of service."""
        validation.check(request)
        made = await self._devices.quarantine(
            current_caller(), request.host_uuid, request.key, request.reason, validate_only=request.validate_only
        )
        return fleet_pb2.QuarantineDeviceResponse(inventory=convert.device(made))

    async def ReleaseDevice(  # noqa: N802
        self, request: fleet_pb2.ReleaseDeviceRequest, context: Any
    ) -> fleet_pb2.ReleaseDeviceResponse:
        """Takes a device back into service."""
        validation.check(request)
        made = await self._devices.release(
            current_caller(), request.host_uuid, request.key, validate_only=request.validate_only
        )
        return fleet_pb2.ReleaseDeviceResponse(inventory=convert.device(made))

    async def GetCapacity(  # noqa: N802
        self, request: fleet_pb2.GetCapacityRequest, context: Any
    ) -> fleet_pb2.GetCapacityResponse:
        """How much there is, and how much of it is taken."""
        validation.check(request)
        answer = convert.capacity(await self._fleet.capacity(request.zone_uuid))
        if request.cpu_num:
            room = await self._fleet.room(
                request.cpu_num, request.memory_size, request.zone_uuid, seconds=seconds_left(context)
            )
            answer.room.CopyFrom(fleet_pb2.Room(count=room.count, bound=room.bound, by_zone=room.by_zone))
        return answer

    async def PlanRoom(  # noqa: N802
        self, request: fleet_pb2.PlanRoomRequest, context: Any
    ) -> fleet_pb2.PlanRoomResponse:
        """Which members would have to move so that a group fits; nothing is moved."""
        validation.check(request)
        try:
            wanted = requests.deploy_request(request.group)
            return convert.room(await self._room.plan(current_caller(), wanted, seconds=seconds_left(context)))
        except PlacementError as error:
            raise in_callers_order(error, requests.positions_by_rank(request.group.model_services)) from error

    async def ListDecisions(  # noqa: N802
        self, request: fleet_pb2.ListDecisionsRequest, context: Any
    ) -> fleet_pb2.ListDecisionsResponse:
        """What was planned lately."""
        validation.check(request)
        kept = self._decisions.list(request.group_uuid)
        return fleet_pb2.ListDecisionsResponse(inventories=[inventory.decision(one) for one in kept])

    async def DumpDecision(  # noqa: N802
        self, request: fleet_pb2.DumpDecisionRequest, context: Any
    ) -> AsyncIterator[fleet_pb2.DumpDecisionResponse]:
        """All that a decision was made from, to replay it."""
        validation.check(request)
        text = await asyncio.to_thread(self._decisions.get(request.uuid).dump)
        for start in range(0, len(text), _PART):
            yield fleet_pb2.DumpDecisionResponse(text=text[start : start + _PART])

    async def WatchFleet(  # noqa: N802
        self, request: fleet_pb2.WatchFleetRequest, context: Any
    ) -> AsyncIterator[fleet_pb2.WatchFleetResponse]:
        """Changes from a revision on, until the client leaves or the service drains."""
        validation.check(request)
        async with aclosing(self._feed.watch(request.start_revision or None, request.zone_uuid)) as updates:
            async for update in updates:
                yield convert.update(update)

    async def _set_state(self, request: Any, state: HostState) -> fleet_pb2.Host:
        validation.check(request)
        view = await self._fleet.set_state(
            current_caller(), request.uuid, state, request.etag, validate_only=request.validate_only
        )
        return convert.host(view)
