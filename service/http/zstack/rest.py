"""ZStack's HTTP protocol: paths and action keys in, 200, 202 or 503 with JSON out, immediate failures as plain text."""

from __future__ import annotations

import uuid as uuids
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from google.rpc import code_pb2
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from service.app.access_keys import SignedCall
from service.app.identity import OPEN
from service.app.jobs import JobState
from service.contract.call import REQUEST_ID_KEY
from service.contract.frame import CallFrame, FramedCall
from service.domain.tenants import NOBODY, Caller
from service.errors import AlreadyExists, Overloaded, Unavailable
from service.http.peers import peer
from service.http.zstack import query
from service.http.zstack.apis import APIS, Api
from service.http.zstack.calls import API_TIMEOUT_MS, MAX_TIMEOUT_MS, Call
from service.http.zstack.face import ZStackFace
from service.http.zstack.query import Malformed
from service.http.zstack.schema import with_schema
from service.http.zstack.webhook import WebhookRefused
from service.http.zstack.wire import Immediate, is_uuid, json_text, location, read_object
from service.telemetry.call_metrics import ZSTACK
from service.telemetry.grpc_metrics import UNKNOWN_METHOD, Method

PREFIXES = ("/zstack/v1", "/v1")
# Clients cut the location at this text, whatever prefix they called by.
JOBS_PATH = "/zstack/v1/api-jobs"
EXPIRED = "the job has been expired"
_OAUTH = "OAuth"
_ACCESS_KEY = "ZStack"
_PARAMETER_KEYS = ("params", "param")
_TAGS = ("systemTags", "userTags")

# How the log and the metrics name the question for a job's answer.
POLL = Method("unary", "", "GetJob")

Endpoint = Callable[[Request, FramedCall], Awaitable[Response]]


def routes(face: ZStackFace) -> list[Route]:
    """All routes, under every prefix."""
    by_path: dict[str, list[Api]] = {}
    for api in APIS.values():
        for path in api.paths:
            by_path.setdefault(path, []).append(api)
    made = []
    for prefix in PREFIXES:
        for path, apis in by_path.items():
            endpoint = framed(face.frame, _endpoint(face, apis))
            made.append(Route(prefix + path, endpoint, methods=sorted({api.verb for api in apis})))
        poll = framed(face.frame, _job_endpoint(face), POLL)
        made.append(Route(prefix + "/api-jobs/{uuid}", poll, methods=["GET"]))
    return made


def framed(
    frame: CallFrame, endpoint: Endpoint, method: Method = UNKNOWN_METHOD
) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint within the frame of all calls, with the failures that are answered as plain text.

    `method`: what it is until the endpoint has read which API is called.
    """

    async def run(request: Request) -> Response:
        chosen = request.headers.get("x-job-uuid", "").strip().lower()
        request_id = chosen if is_uuid(chosen) else uuids.uuid4().hex
        try:
            async with frame.call(ZSTACK, method, request_id, peer=peer(request)) as call:
                call.quiet = method is POLL
                response = await _told_at_once(call, request, endpoint)
                call.count_sent()
        except AlreadyExists as error:
            response = PlainTextResponse(f"Duplicate job uuid[{error.resource_name}]", status_code=400)
        except Overloaded as error:
            response = PlainTextResponse(error.message, status_code=429, headers=_retry_after(error.retry_after_ms))
        except Unavailable as error:
            response = PlainTextResponse(error.message, status_code=503, headers=_retry_after(error.retry_after_ms))
        except Exception:
            response = PlainTextResponse(f"internal error, request id {request_id}", status_code=500)
        response.headers[REQUEST_ID_KEY] = request_id
        return response

    return run


async def _told_at_once(call: FramedCall, request: Request, endpoint: Endpoint) -> Response:
    """The endpoint's answer, or what is wrong with the request itself."""
    try:
        return await endpoint(request, call)
    except Immediate as failure:
        call.code = failure.code
        return failure.response
    except (Malformed, WebhookRefused) as error:
        call.code = code_pb2.INVALID_ARGUMENT
        return PlainTextResponse(str(error), status_code=400)


def _retry_after(milliseconds: int) -> dict[str, str]:
    return {"Retry-After": str(-(-milliseconds // 1000))}


def _endpoint(face: ZStackFace, apis: Sequence[Api]) -> Endpoint:
    async def run(request: Request, framed: FramedCall) -> Response:
        candidates = [api for api in apis if api.verb == _verb(request)]
        if request.method in ("GET", "HEAD", "DELETE"):
            api, arguments = candidates[0], _url_arguments(candidates[0], request)
        else:
            body = await read_object(request, face.frame.limits.max_message_bytes)
            api, arguments = _action(candidates, body, request)
        if "uuid" in request.path_params:
            arguments[api.uuid_argument] = request.path_params["uuid"]
        shown = _shown(request) if api.role else ""
        return await _call(face, framed, api, arguments, shown, request)

    return run


def _verb(request: Request) -> str:
    return "GET" if request.method == "HEAD" else request.method


async def _call(
    face: ZStackFace,
    framed: FramedCall,
    api: Api,
    arguments: Mapping[str, Any],
    shown: str | SignedCall,
    request: Request,
) -> Response:
    framed.method = api.method
    _check_job_uuid(request)
    asked = query.Query()
    if api.query:
        asked = query.from_url(request.query_params.multi_items(), request.path_params.get("uuid", ""))
    call = Call(api, framed.request_id, arguments, asked, framed.peer, timeout_ms=_timeout_ms(request))
    if not api.job:
        outcome = await face.answer(framed, call, shown)
        if not outcome.success:
            return json_text(outcome.document, 503)
        typed = api.query or _wants_schema(request)
        return json_text(with_schema(outcome.document, api.holds) if typed else outcome.document, 200)
    where = location(request, JOBS_PATH)
    webhook = request.headers.get("x-web-hook", "").strip()
    job = await face.submit(framed, call, shown, webhook=webhook)
    return json_text(f'{{"location":"{where}/{job}","apiTimeout":{call.timeout_ms}}}', 202)


def _job_endpoint(face: ZStackFace) -> Endpoint:
    async def run(request: Request, framed: FramedCall) -> Response:
        await framed.permit(nobody, OPEN)
        job = await face.jobs.get(request.path_params["uuid"])
        if job is None:
            return PlainTextResponse(EXPIRED, status_code=404)
        if job.state is JobState.RUNNING:
            return json_text("{}", 202)
        if job.state is not JobState.SUCCEEDED:
            return json_text(job.outcome, 503)
        api = APIS.get(job.operation) if _wants_schema(request) else None
        return json_text(with_schema(job.outcome, api.holds) if api is not None else job.outcome, 200)

    return run


def _wants_schema(request: Request) -> bool:
    return request.headers.get("x-json-schema", "").strip().lower() == "true"


async def nobody() -> Caller:
    """Who asks for the answer of a job: whoever knows its uuid."""
    return NOBODY


def _check_job_uuid(request: Request) -> None:
    uuid = request.headers.get("x-job-uuid", "").strip().lower()
    if uuid and not is_uuid(uuid):
        raise Immediate(400, "Invalid header[X-Job-UUID], it must be a UUID with '-' stripped")


def _timeout_ms(request: Request) -> int:
    """How long the call may take, by ZStack's header, which is in seconds."""
    seconds = request.headers.get("x-api-timeout", "").strip()
    if not seconds:
        return API_TIMEOUT_MS
    if not (seconds.isascii() and seconds.isdecimal() and 0 < int(seconds[:12]) <= MAX_TIMEOUT_MS // 1000):
        most = MAX_TIMEOUT_MS // 1000
        raise Immediate(400, f"Invalid header[X-API-Timeout], it must be a number of seconds from 1 to {most}")
    return int(seconds) * 1000


def _shown(request: Request) -> str | SignedCall:
    """What the caller shows: the uuid of a session, or a signature with an access key."""
    header = request.headers.get("authorization")
    if header is None:
        raise Immediate(400, "missing header 'Authorization'")
    kind, _, shown = header.strip().partition(" ")
    if kind == _ACCESS_KEY:
        return _signed(request, shown.strip())
    if kind != _OAUTH:
        raise Immediate(400, f"Authorization type must be '{_OAUTH}'")
    return shown.strip()


def _signed(request: Request, shown: str) -> SignedCall:
    key_id, colon, signature = shown.partition(":")
    date = request.headers.get("date", "").strip()
    if not colon or not date:
        raise Immediate(400, f"Authorization '{_ACCESS_KEY}' must be '<id>:<signature>', with the header 'Date'")
    verb = request.method
    return SignedCall(key_id, signature, verb, date, _signed_paths(request))


def _signed_paths(request: Request) -> tuple[str, ...]:
    """The path from `/v1` on in each form in which clients sign it: as it came, without empty segments, and with the
    slash at its end that their tables of paths have and their URLs have not."""
    came: bytes = request.scope.get("raw_path") or request.url.path.encode()
    forms = (came.decode("ascii", "replace"), request.url.path, f"{request.url.path}/")
    return tuple(dict.fromkeys(form[form.find("/v1") :] for form in forms))


def _url_arguments(api: Api, request: Request) -> dict[str, Any]:
    """Arguments of a URL: the first value, or all where the API takes a list."""
    found = request.query_params
    return {name: found.getlist(name) if name in api.lists else found.getlist(name)[0] for name in found}


def _action(apis: Sequence[Api], body: Mapping[str, Any], request: Request) -> tuple[Api, dict[str, Any]]:
    """The API that the first known key of the body names, and its arguments with the tags that stand beside it."""
    by_key = {api.key: api for api in apis}
    for key in body:
        api = by_key.get(key) or (apis[0] if key in _PARAMETER_KEYS else None)
        if api is not None:
            return api, _with_tags(_arguments(body[key], key), body)
    raise Immediate(400, f"the body doesn't contain action mapping to the URL[{request.url.path}]")


def _arguments(value: Any, key: str) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise Immediate(400, f"{key} must be a JSON object")
    return dict(value or {})


def _with_tags(arguments: dict[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
    """Tags may stand beside the action and in it; both count, each once."""
    for name in _TAGS:
        outer, inner = body.get(name), arguments.get(name)
        if isinstance(outer, list) and isinstance(inner, list):
            arguments[name] = inner + [tag for tag in outer if tag not in inner]
        elif outer is not None and inner is None:
            arguments[name] = outer
    return arguments
