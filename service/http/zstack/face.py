"""Calls of both protocols come together here: who calls, may it, do it now or as a job, and the answer as JSON text."""

from __future__ import annotations

import json
import uuid as uuids
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from service.app.identity import require
from service.app.jobs import Job, Jobs, Outcome
from service.app.rates import Admit
from service.app.sessions import Sessions
from service.domain.tenants import Caller
from service.errors import CorralError, InvalidArgument, Overloaded, PermissionDenied, Unauthenticated, Unavailable
from service.http.zstack import words
from service.http.zstack.apis import APIS, OPEN, Api
from service.http.zstack.errors import NotSupported, error_code, is_expected
from service.http.zstack.handlers import NOBODY, Call, Handlers
from service.http.zstack.query import Malformed, shown
from service.http.zstack.webhook import Webhooks
from service.telemetry.logs import get_logger

_log = get_logger("corral.zstack")


class ZStackFace:
    """Runs the APIs for the two protocols, `rest` and `legacy`."""

    def __init__(self, handlers: Handlers, sessions: Sessions, jobs: Jobs, webhooks: Webhooks, admit: Admit) -> None:
        self._handlers = handlers
        self._sessions = sessions
        self._admit = admit
        self.jobs = jobs
        self.webhooks = webhooks
        jobs.perform = self.perform
        jobs.deliver = webhooks.deliver

    async def answer(self, call: Call, session: str) -> Outcome:
        """Do a call that is answered at once. Raises Overloaded, Malformed."""
        try:
            caller = await self._known(call.api, session)
        except Overloaded:
            raise
        except CorralError as error:
            return self._failed(call, error)
        return await self._run(replace(call, caller=caller))

    async def submit(self, call: Call, session: str, *, job: str = "", webhook: str = "") -> str:
        """Accept a call that is answered later; returns the job's uuid.

        Whatever is wrong with the call is told by the job. Raises AlreadyExists for a job's uuid that was used,
        Overloaded, Unavailable.
        """
        try:
            caller = await self._known(call.api, session)
        except (Unauthenticated, PermissionDenied) as error:
            uuid = job or uuids.uuid4().hex
            document = _text({"error": error_code(error, uuid)})
            return self.jobs.refuse(call.api.name, document, uuid=uuid, webhook=webhook)
        arguments = json.dumps(call.arguments, ensure_ascii=False)
        return await self.jobs.submit(caller, call.api.name, arguments, uuid=job, webhook=webhook)

    async def perform(self, job: Job) -> Outcome:
        """Do what a job says. Raises Unavailable where it is to be tried again."""
        api = APIS.get(job.operation)
        if api is None:
            return Outcome(False, _text({"error": error_code(NotSupported(job.operation), job.uuid)}))
        call = Call(api, job.uuid, json.loads(job.arguments), caller=job.caller)
        return await self._run(call, again=True)

    async def _known(self, api: Api, session: str) -> Caller:
        if api.role == OPEN:
            return NOBODY
        caller = await self._sessions.caller(session)
        self._admit(caller)
        require(caller, api.role, api.name)
        return caller

    async def _run(self, call: Call, *, again: bool = False) -> Outcome:
        try:
            result = await self._handlers.run(call)
        except Exception as error:
            if isinstance(error, Unavailable if again else (Malformed, Overloaded)):
                raise
            return self._failed(call, error)
        return Outcome(True, _text(shown(result)))

    def _failed(self, call: Call, error: Exception) -> Outcome:
        if not is_expected(error):
            _log.error("an API failed", api=call.api.name, request=call.request_id, exc_info=error)
        details = ""
        if isinstance(error, InvalidArgument):
            details = words.details(error.violations, call.api.descriptor, call.arguments, call.api.message)
        return Outcome(False, _text({"error": error_code(error, call.request_id, details)}))


def _text(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
