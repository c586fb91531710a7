"""Calls of both protocols come together here: who calls, may it, do it now or as a job, and the answer as JSON text."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from service.app.access_keys import AccessKeys, SignedCall
from service.app.jobs import Job, JobResult, Jobs
from service.app.sessions import Sessions
from service.contract.frame import CallFrame, FramedCall
from service.domain.tenants import Caller
from service.errors import CorralError, InvalidArgument, Overloaded, PermissionDenied, Unauthenticated, Unavailable
from service.http.zstack import words
from service.http.zstack.apis import APIS, Api
from service.http.zstack.calls import API_TIMEOUT_MS, Call
from service.http.zstack.errors import ApiTimedOut, NotSupported, error_code
from service.http.zstack.handlers import Handlers
from service.http.zstack.query import Malformed, shown
from service.http.zstack.webhook import Webhooks
from service.telemetry.grpc_metrics import Method

# Among a stored job's arguments: how long it may take, ms. No API of ZStack has an argument of this name.
_TIMEOUT = "apiTimeoutMilliseconds"


class Callers:
    """Who calls: by the uuid of a session, or by a signature with an access key."""

    def __init__(self, sessions: Sessions, access_keys: AccessKeys) -> None:
        self._sessions = sessions
        self._access_keys = access_keys

    async def of(self, shown: str | SignedCall) -> Caller:
        """Raises Unauthenticated, Unavailable."""
        if isinstance(shown, SignedCall):
            return self._access_keys.caller(shown)
        return await self._sessions.caller(shown)


class ZStackFace:
    """Runs the APIs for the two protocols, `rest` and `legacy`. They frame their calls by `frame`."""

    def __init__(self, frame: CallFrame, handlers: Handlers, callers: Callers, jobs: Jobs, webhooks: Webhooks) -> None:
        self.frame = frame
        self._handlers = handlers
        self._callers = callers
        self.jobs = jobs
        self.webhooks = webhooks

    async def answer(self, framed: FramedCall, call: Call, shown: str | SignedCall) -> JobResult:
        """Do a call that is answered at once. Raises Overloaded, Malformed."""
        try:
            caller = await self._permitted(framed, call.api, shown)
        except Overloaded:
            raise
        except CorralError as error:
            return self._failed(framed, call, error)
        return await self._run(framed, replace(call, caller=caller))

    async def submit(self, framed: FramedCall, call: Call, shown: str | SignedCall, *, webhook: str = "") -> str:
        """Accept a call that is answered later; returns the job's uuid, which is the call's request id.

        Whatever is wrong with the call is told by the job. Raises AlreadyExists for a job's uuid that was used,
        WebhookRefused, Overloaded, Unavailable.
        """
        try:
            caller = await self._permitted(framed, call.api, shown)
        except (Unauthenticated, PermissionDenied) as error:
            framed.failed(error)
            document = _text({"error": error_code(error, call.request_id)})
            told = webhook if isinstance(error, PermissionDenied) else ""
            return self.jobs.refuse(call.api.name, document, uuid=call.request_id, webhook=told)
        if webhook:
            await self.webhooks.check(webhook)
        arguments = json.dumps({**call.arguments, _TIMEOUT: call.timeout_ms}, ensure_ascii=False)
        return await self.jobs.submit(caller, call.api.name, arguments, uuid=call.request_id, webhook=webhook)

    async def perform(self, job: Job) -> JobResult:
        """Do what a job says. Raises Unavailable where it is to be tried again."""
        api = APIS.get(job.operation)
        method = api.method if api is not None else Method("unary", "", job.operation)
        async with self.frame.job(method, job.uuid, job.caller) as framed:
            if api is None:
                framed.failed(NotSupported(job.operation))
                return JobResult(False, _text({"error": error_code(NotSupported(job.operation), job.uuid)}))
            arguments = json.loads(job.arguments)
            # A job of the version before has none.
            timeout = arguments.pop(_TIMEOUT, API_TIMEOUT_MS)
            # What a deploy is told must be the same each time that the job is taken up, or it would be another request.
            left = self.jobs.left_ms(job, timeout)
            call = Call(api, job.uuid, arguments, caller=framed.caller, timeout_ms=timeout, left_ms=left)
            return await self._run(framed, call, again=True)

    async def _permitted(self, framed: FramedCall, api: Api, shown: str | SignedCall) -> Caller:
        framed.method = api.method
        return await framed.permit(lambda: self._callers.of(shown), api.role)

    async def _run(self, framed: FramedCall, call: Call, *, again: bool = False) -> JobResult:
        try:
            result = await self._in_time(call)
        except Exception as error:
            if isinstance(error, Unavailable if again else (Malformed, Overloaded)):
                raise
            return self._failed(framed, call, error)
        return JobResult(True, _text(shown(result)))

    async def _in_time(self, call: Call) -> dict[str, Any]:
        """What the API answers. Raises ApiTimedOut where it takes longer than its caller said."""
        try:
            async with asyncio.timeout((call.left_ms or call.timeout_ms) / 1000) as limit:
                return await self._handlers.run(call)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise ApiTimedOut(call.api.name, call.timeout_ms) from error

    def _failed(self, framed: FramedCall, call: Call, error: Exception) -> JobResult:
        framed.failed(error)
        details = ""
        if isinstance(error, InvalidArgument):
            details = words.details(error.violations, call.api.descriptor, call.arguments, call.api.message)
        return JobResult(False, _text({"error": error_code(error, call.request_id, details)}))


def _text(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
