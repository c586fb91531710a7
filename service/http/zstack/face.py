"""Calls of both protocols come together here: who calls, may it, do it now or as a job, and the answer as JSON text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from service.app.jobs import Job, JobResult, Jobs
from service.app.sessions import Sessions
from service.contract.frame import CallFrame, FramedCall
from service.domain.tenants import Caller
from service.errors import CorralError, InvalidArgument, Overloaded, PermissionDenied, Unauthenticated, Unavailable
from service.http.zstack import words
from service.http.zstack.apis import APIS, Api
from service.http.zstack.errors import NotSupported, error_code
from service.http.zstack.handlers import Call, Handlers
from service.http.zstack.query import Malformed, shown
from service.http.zstack.webhook import Webhooks
from service.telemetry.grpc_metrics import Method


class ZStackFace:
    """Runs the APIs for the two protocols, `rest` and `legacy`. They frame their calls by `frame`."""

    def __init__(
        self, frame: CallFrame, handlers: Handlers, sessions: Sessions, jobs: Jobs, webhooks: Webhooks
    ) -> None:
        self.frame = frame
        self._handlers = handlers
        self._sessions = sessions
        self.jobs = jobs
        self.webhooks = webhooks
        jobs.perform = self.perform
        jobs.deliver = webhooks.deliver

    async def answer(self, framed: FramedCall, call: Call, session: str) -> JobResult:
        """Do a call that is answered at once. Raises Overloaded, Malformed."""
        try:
            caller = await self._permitted(framed, call.api, session)
        except Overloaded:
            raise
        except CorralError as error:
            return self._failed(framed, call, error)
        return await self._run(framed, replace(call, caller=caller))

    async def submit(self, framed: FramedCall, call: Call, session: str, *, webhook: str = "") -> str:
        """Accept a call that is answered later; returns the job's uuid, which is the call's request id.

        Whatever is wrong with the call is told by the job. Raises AlreadyExists for a job's uuid that was used,
        WebhookRefused, Overloaded, Unavailable.
        """
        try:
            caller = await self._permitted(framed, call.api, session)
        except (Unauthenticated, PermissionDenied) as error:
            framed.failed(error)
            document = _text({"error": error_code(error, call.request_id)})
            told = webhook if isinstance(error, PermissionDenied) else ""
            return self.jobs.refuse(call.api.name, document, uuid=call.request_id, webhook=told)
        if webhook:
            await self.webhooks.check(webhook)
        arguments = json.dumps(call.arguments, ensure_ascii=False)
        return await self.jobs.submit(caller, call.api.name, arguments, uuid=call.request_id, webhook=webhook)

    async def perform(self, job: Job) -> JobResult:
        """Do what a job says. Raises Unavailable where it is to be tried again."""
        api = APIS.get(job.operation)
        method = api.method if api is not None else Method("unary", "", job.operation)
        async with self.frame.job(method, job.uuid, job.caller) as framed:
            if api is None:
                framed.failed(NotSupported(job.operation))
                return JobResult(False, _text({"error": error_code(NotSupported(job.operation), job.uuid)}))
            call = Call(api, job.uuid, json.loads(job.arguments), caller=framed.caller)
            return await self._run(framed, call, again=True)

    async def _permitted(self, framed: FramedCall, api: Api, session: str) -> Caller:
        framed.method = api.method
        return await framed.permit(lambda: self._sessions.caller(session), api.role)

    async def _run(self, framed: FramedCall, call: Call, *, again: bool = False) -> JobResult:
        try:
            result = await self._handlers.run(call)
        except Exception as error:
            if isinstance(error, Unavailable if again else (Malformed, Overloaded)):
                raise
            return self._failed(framed, call, error)
        return JobResult(True, _text(shown(result)))

    def _failed(self, framed: FramedCall, call: Call, error: Exception) -> JobResult:
        framed.failed(error)
        details = ""
        if isinstance(error, InvalidArgument):
            details = words.details(error.violations, call.api.descriptor, call.arguments, call.api.message)
        return JobResult(False, _text({"error": error_code(error, call.request_id, details)}))


def _text(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
