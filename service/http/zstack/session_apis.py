"""Sessions, and what version of ZStack's API this is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from service.app.sessions import LIFETIME_MS, MAX_LIFETIME_MS, Sessions
from service.errors import InvalidArgument
from service.http.zstack import inventories
from service.http.zstack.calls import Call, Handler

# The version of ZStack's API that this face speaks: the newest that its description of the deploy names.
API_VERSION = "5.3.46"


class SessionApis:
    """Login, logout, renewal."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self.table: Mapping[str, Handler] = {
            "LogInByAccount": self._log_in,
            "LogOut": self._log_out,
            "ValidateSession": self._validate,
            "RenewSession": self._renew,
            "GetVersion": self._version,
        }

    async def _log_in(self, call: Call) -> dict[str, Any]:
        password = call.arguments.get("password")
        if not isinstance(password, str):
            raise InvalidArgument.of("password", "is required")
        session = await self._sessions.log_in(call.text("accountName"), password, call.peer)
        return {"inventory": inventories.session(session)}

    async def _log_out(self, call: Call) -> dict[str, Any]:
        await self._sessions.log_out(call.text("sessionUuid"))
        return {}

    async def _validate(self, call: Call) -> dict[str, Any]:
        return {"valid": await self._sessions.is_valid(call.text("sessionUuid"))}

    async def _renew(self, call: Call) -> dict[str, Any]:
        seconds = call.arguments.get("duration")
        most = MAX_LIFETIME_MS // 1000
        # A JSON number may be larger than any float, and then reads as infinite.
        if seconds is not None and (type(seconds) not in (int, float) or not 0 < seconds <= most):
            raise InvalidArgument.of("duration", f"must be a number of seconds above 0 and at most {most}")
        lifetime_ms = LIFETIME_MS if seconds is None else math.ceil(seconds * 1000)
        return {"inventory": inventories.session(await self._sessions.renew(call.text("sessionUuid"), lifetime_ms))}

    async def _version(self, call: Call) -> dict[str, Any]:
        return {"version": API_VERSION}
