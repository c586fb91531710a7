"""The calls of FleetService about rebalances, which its servicer has with the others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from corral.v1 import fleet_pb2

from service.app.rebalancing import Rebalancing
from service.contract import heartbeat, pages, validation
from service.contract.call import current_caller, seconds_left
from service.contract.convert import rebalances
from service.contract.convert.inventory import Reachable
from service.contract.heartbeat import beating


class RebalanceCalls:
    """A part of a servicer, which sets what they are answered by."""

    _rebalancing: Rebalancing
    _reachable: Reachable

    async def PlanRebalance(  # noqa: N802
        self, request: fleet_pb2.PlanRebalanceRequest, context: Any
    ) -> fleet_pb2.PlanRebalanceResponse:
        """Which members would move; nothing is moved."""
        validation.check(request)
        wish = rebalances.wish(request)
        return rebalances.plan(await self._rebalancing.plan(wish, seconds=seconds_left(context)))

    async def RebalanceHosts(  # noqa: N802
        self, request: fleet_pb2.RebalanceHostsRequest, context: Any
    ) -> AsyncIterator[fleet_pb2.RebalanceHostsResponse]:
        """Moves members; a client that leaves does not stop it."""
        validation.check(request)
        run = self._rebalancing.run(
            current_caller(), rebalances.wish(request), request.request_id, validate_only=request.validate_only
        )
        async with aclosing(beating(run, heartbeat.SECONDS)) as steps:
            async for step in steps:
                empty = fleet_pb2.RebalanceHostsResponse()
                yield rebalances.progress(step, self._reachable) if step is not None else empty

    async def GetRebalance(  # noqa: N802
        self, request: fleet_pb2.GetRebalanceRequest, context: Any
    ) -> fleet_pb2.GetRebalanceResponse:
        """One rebalance as it is now."""
        validation.check(request)
        return fleet_pb2.GetRebalanceResponse(inventory=rebalances.rebalance(await self._rebalancing.get(request.uuid)))

    async def ListRebalances(  # noqa: N802
        self, request: fleet_pb2.ListRebalancesRequest, context: Any
    ) -> fleet_pb2.ListRebalancesResponse:
        """A page of rebalances, the newest first."""
        validation.check(request)
        page = await self._rebalancing.list(request.page_size, request.page_token)
        found, token = pages.fitting(page, rebalances.rebalance)
        return fleet_pb2.ListRebalancesResponse(inventories=found, next_page_token=token)

    async def CallOffRebalance(  # noqa: N802
        self, request: fleet_pb2.CallOffRebalanceRequest, context: Any
    ) -> fleet_pb2.CallOffRebalanceResponse:
        """Moves nobody any more who has not gone."""
        validation.check(request)
        view = await self._rebalancing.call_off(current_caller(), request.uuid, validate_only=request.validate_only)
        return fleet_pb2.CallOffRebalanceResponse(inventory=rebalances.rebalance(view))
