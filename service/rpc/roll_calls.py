"""The calls of FleetService about rolls, which its servicer has with the others."""

from __future__ import annotations

from typing import Any

from corral.v1 import fleet_pb2

from service.app.rolling import Rolls
from service.contract import pages, validation
from service.contract.call import current_caller, seconds_left
from service.contract.convert import rolls


class RollCalls:
    """A part of a servicer, which sets what they are answered by."""

    _rolls: Rolls

    async def PlanRoll(  # noqa: N802
        self, request: fleet_pb2.PlanRollRequest, context: Any
    ) -> fleet_pb2.PlanRollResponse:
        """In which order hosts would be emptied; nothing is moved."""
        validation.check(request)
        return rolls.plan(await self._rolls.plan(rolls.asked(request), seconds=seconds_left(context)))

    async def RollHosts(  # noqa: N802
        self, request: fleet_pb2.RollHostsRequest, context: Any
    ) -> fleet_pb2.RollHostsResponse:
        """Begins a roll; nobody needs to watch it."""
        validation.check(request)
        begun = await self._rolls.begin(
            current_caller(),
            rolls.wish(request),
            request.request_id,
            validate_only=request.validate_only,
            seconds=seconds_left(context),
        )
        answer = fleet_pb2.RollHostsResponse(inventory=rolls.roll(begun.roll))
        if begun.plan is not None:
            answer.plan.CopyFrom(rolls.plan(begun.plan))
        return answer

    async def GetRoll(self, request: fleet_pb2.GetRollRequest, context: Any) -> fleet_pb2.GetRollResponse:  # noqa: N802
        """One roll as it is now."""
        validation.check(request)
        return fleet_pb2.GetRollResponse(inventory=rolls.roll(await self._rolls.get(request.uuid)))

    async def ListRolls(  # noqa: N802
        self, request: fleet_pb2.ListRollsRequest, context: Any
    ) -> fleet_pb2.ListRollsResponse:
        """A page of rolls, the newest first."""
        validation.check(request)
        page = await self._rolls.list(request.page_size, request.page_token)
        found, token = pages.fitting(page, rolls.roll)
        return fleet_pb2.ListRollsResponse(inventories=found, next_page_token=token)

    async def CallOffRoll(  # noqa: N802
        self, request: fleet_pb2.CallOffRollRequest, context: Any
    ) -> fleet_pb2.CallOffRollResponse:
        """Begins no further host."""
        validation.check(request)
        one = await self._rolls.call_off(current_caller(), request.uuid, validate_only=request.validate_only)
        return fleet_pb2.CallOffRollResponse(inventory=rolls.roll(one))
