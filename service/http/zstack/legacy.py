"""ZStack's older protocol: one path, the message's Java class as key, the session in the body, results as JSON text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from service.app.identity import OPEN
from service.app.jobs import Job, JobResult, JobState
from service.contract.frame import FramedCall
from service.http.zstack import query
from service.http.zstack.apis import APIS, BY_MESSAGE, Api
from service.http.zstack.calls import Call
from service.http.zstack.face import ZStackFace
from service.http.zstack.rest import EXPIRED, POLL, Endpoint, framed, nobody
from service.http.zstack.wire import Immediate, json_text, read_object


def routes(face: ZStackFace) -> list[Route]:
    """All routes of the older protocol."""
    call = framed(face.frame, _call_endpoint(face))
    result = framed(face.frame, _result_endpoint(face), POLL)
    return [
        Route("/zstack/api", call, methods=["POST"]),
        Route("/zstack/api/result/{uuid}", result, methods=["GET"]),
    ]


def _call_endpoint(face: ZStackFace) -> Endpoint:
    async def run(request: Request, framed: FramedCall) -> Response:
        api, message = _message(await read_object(request, face.frame.limits.max_message_bytes))
        framed.method = api.method
        session = message.pop("session", None)
        session_uuid = session.get("uuid") if isinstance(session, dict) else None
        identifier = framed.request_id
        asked = query.from_message(message) if api.query else query.Query()
        call = Call(api, identifier, message, asked, framed.peer)
        who = session_uuid if isinstance(session_uuid, str) else ""
        if api.job:
            await face.submit(framed, call, who)
            return json_text(json.dumps({"uuid": identifier, "state": "Processing"}), 200)
        return _done(identifier, api, await face.answer(framed, call, who))

    return run


def _result_endpoint(face: ZStackFace) -> Endpoint:
    async def run(request: Request, framed: FramedCall) -> Response:
        await framed.permit(nobody, OPEN)
        uuid = request.path_params["uuid"]
        job = await face.jobs.get(uuid)
        if job is None:
            return PlainTextResponse(EXPIRED, status_code=404)
        if job.state is JobState.RUNNING:
            return json_text(json.dumps({"uuid": uuid, "state": "Processing"}), 200)
        return _done(uuid, APIS.get(job.operation), _outcome(job))

    return run


def _outcome(job: Job) -> JobResult:
    return JobResult(job.state is JobState.SUCCEEDED, job.outcome)


def _message(body: Mapping[str, Any]) -> tuple[Api, dict[str, Any]]:
    for name, value in body.items():
        api = BY_MESSAGE.get(name)
        if api is not None:
            if not isinstance(value, dict):
                raise Immediate(400, f"{name} must be a JSON object")
            return api, dict(value)
    shown = next((name for name in body if name.isprintable() and len(name) <= 256), "")
    raise Immediate(400, f"no API is served for the message[{shown}]")


def _done(identifier: str, api: Api | None, outcome: JobResult) -> Response:
    result = json.loads(outcome.document)
    event = {"apiId": identifier, "success": outcome.success, **result}
    name = api.answer if api is not None else "org.zstack.header.message.APIEvent"
    text = json.dumps({name: event}, ensure_ascii=False, separators=(",", ":"))
    return json_text(json.dumps({"uuid": identifier, "state": "Done", "result": text}, ensure_ascii=False), 200)
