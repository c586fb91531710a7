"""What brings up groups: the distributed deploy, a group of one, and which templates a model could be served by."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from corral.v1 import deploy_pb2

from service.app.catalog import Catalog
from service.contract import text, validation
from service.contract.convert import requests
from service.contract.convert.explanation import in_callers_order
from service.domain.catalog import ModelService
from service.domain.specs import DeployRequest
from service.errors import CorralError, FieldViolation, InvalidArgument, NotFound, PlacementError, Unavailable
from service.http.zstack import body, inventories, nodes, placing_tags
from service.http.zstack.calls import Call, Handler
from service.http.zstack.errors import error_code
from service.http.zstack.following import Following, running
from service.http.zstack.showing import Showing

Message = deploy_pb2.DeployDistributedModelServiceRequest
VALIDATION_ONLY = "validationOnly"
MAX_TEMPLATES = 64
# What of a single deploy is its group's; the rest is its only node's.
_OF_GROUP = ("name", "description", "resourceUuid", "tagUuids", "systemTags", "userTags")
_ANY = re.compile(r"^model_services\[\d+\]\.")


class DeployApis:
    """What is planned and launched."""

    def __init__(self, following: Following, catalog: Catalog, showing: Showing) -> None:
        self._groups = following.groups
        self._following = following
        self._catalog = catalog
        self._showing = showing
        self.table: Mapping[str, Handler] = {
            "DeployDistributedModelService": self._deploy,
            "DeployModelService": self._deploy_single,
            "MatchModelServiceTemplateWithModel": self._match,
        }

    async def _deploy(self, call: Call) -> dict[str, Any]:
        return await self._launched(call, call.arguments)

    async def _deploy_single(self, call: Call) -> dict[str, Any]:
        call.text("name")
        try:
            return await self._launched(call, _single(call.arguments))
        except InvalidArgument as error:
            raise _of_only_node(error) from error
        except NotFound as error:
            raise _not_found_by_only_node(error) from error

    async def _launched(self, call: Call, arguments: Mapping[str, Any]) -> dict[str, Any]:
        call.refuse("requestId")
        message = await self._message(arguments)
        dry_run = VALIDATION_ONLY in message.system_tags or message.validate_only
        message.system_tags[:] = [tag for tag in message.system_tags if tag != VALIDATION_ONLY]
        request = _request(call, message)
        try:
            if dry_run:
                record = await self._groups.plan(call.caller, request)
                return {"inventory": inventories.planned(_asked_for(message), record)}
            started = await self._groups.deploy(call.caller, request)
            group = await self._following.end_of(call.caller, started)
        except PlacementError as error:
            raise in_callers_order(error, requests.positions_by_rank(message.model_services)) from error
        return {"inventory": await self._showing.group(running(group, started))}

    async def _match(self, call: Call) -> dict[str, Any]:
        """`result`: for each template whether the wanted number of nodes fits now, and where, or why not."""
        templates, models = (call.uuids(name, required=True) for name in ("modelServiceUuids", "modelUuids"))
        if len(templates) > MAX_TEMPLATES:
            raise InvalidArgument.of("modelServiceUuids", f"must be at most {MAX_TEMPLATES}")
        number = body.integer_of(call.arguments.get("instanceNumber"), "instanceNumber")
        if not 1 <= number <= 1024:
            raise InvalidArgument.of("instanceNumber", "must be from 1 to 1024")
        single = _single({"name": "match", **call.arguments})
        result = {}
        for uuid in templates:
            first = {**single["modelServices"][0], "uuid": uuid}
            # They are alike, and rank 0 is one of them in any case.
            others = [{**first, "isInitialNode": None}] * (number - 1)
            try:
                result[uuid] = await self._matched(call, {**single, "modelServices": [first, *others]}, uuid, models)
            except Unavailable:
                raise
            except InvalidArgument as error:
                raise _of_only_node(error) from error
            except NotFound as error:
                result[uuid] = {"success": False, "error": error_code(_not_found_by_only_node(error), call.request_id)}
            except CorralError as error:
                result[uuid] = {"success": False, "error": error_code(error, call.request_id)}
        return {"result": result}

    async def _matched(
        self, call: Call, arguments: Mapping[str, Any], uuid: str, models: tuple[str, ...]
    ) -> dict[str, Any]:
        serves = (await self._catalog.get_model_service(uuid)).model_uuid
        if serves and serves not in models:
            raise NotFound("model", serves, "modelUuids")
        message = await self._message(arguments)
        record = await self._groups.plan(call.caller, _request(call, message))
        return {"success": True, "modelUuids": [serves] if serves else list(models)} | inventories.planned({}, record)

    async def _message(self, arguments: Mapping[str, Any]) -> Message:
        """The checked message of ZStack's arguments. Raises InvalidArgument."""
        values = dict(arguments)
        listed = values.get("modelServices")
        if isinstance(listed, list):
            entries: dict[str, ModelService | None] = {}
            values["modelServices"] = [
                nodes.normalized(node, await self._entry(node, entries), f"model_services[{i}].")
                if isinstance(node, Mapping)
                else node
                for i, node in enumerate(listed)
            ]
        message = Message()
        body.fill(message, values)
        validation.check(message)
        placing_tags.apply(message)
        return message

    async def _entry(self, node: Mapping[str, Any], known: dict[str, ModelService | None]) -> ModelService | None:
        """The node's catalogue entry, where it is needed to tell whether what the node says is the entry's own."""
        uuid = node.get("uuid")
        if not isinstance(uuid, str) or not (node.get("serviceReadyz") or node.get("serviceLivez")):
            return None
        if uuid not in known:
            try:
                known[uuid] = await self._catalog.get_model_service(text.canonical_uuid(uuid.strip()))
            except NotFound:
                known[uuid] = None  # told by the admission, with the field
        return known[uuid]


def _request(call: Call, message: Message) -> DeployRequest:
    """With the job's uuid as request id, so that the same job never makes a second group; and with a deadline."""
    request = requests.deploy_request(message)
    spec = replace(request.spec, deadline_ms=request.spec.deadline_ms or call.timeout_ms)
    return replace(request, spec=spec, request_id=call.job)


def _single(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a group of one node, of those of a single deploy."""
    of_group = {name: arguments[name] for name in _OF_GROUP if name in arguments}
    node = {name: value for name, value in arguments.items() if name not in of_group or name == "name"}
    return {**of_group, "serviceCreationStrategy": "parallel", "modelServices": [node]}


def _of_only_node(error: InvalidArgument) -> InvalidArgument:
    """With the caller's own names, who wrote one node; what is wrong with it is told once, however many are made."""
    told = dict.fromkeys((_ANY.sub("", v.field), v.description) for v in error.violations)
    return InvalidArgument([FieldViolation(field, description) for field, description in told])


def _not_found_by_only_node(error: NotFound) -> NotFound:
    return NotFound(error.resource_type, error.resource_name, _ANY.sub("", error.field))


def _asked_for(message: Message) -> dict[str, Any]:
    asked = {"name": message.name, "description": message.description or None}
    return asked | {"modelServiceUuid": message.model_services[0].uuid, "type": message.model_services[0].type or None}
