"""AddModelService and UpdateModelService: a ZStack client's model service in Corral's catalogue.

ZStack says where a service lies by `installPath`; here that names an image that the catalogue knows, by its uuid or its
name. One `startCommand` is run by all members. What only ZStack's own stores and UI need (`TAKEN`) is taken of a new
entry and not kept; what would have to be followed is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from corral.v1 import catalog_pb2

from service.app.catalog import Catalog, ModelServiceChange
from service.app.paging import MAX_PAGE
from service.contract import text, validation
from service.contract.convert import catalog as convert
from service.domain.catalog import ModelService
from service.domain.tenants import Caller
from service.errors import FieldViolation, InvalidArgument, NotFound
from service.http.zstack import body

TYPES = ("Endpoint", "FineTune", "ModelEval", "App")

# ZStack's argument -> field of CreateModelServiceRequest.
_FIELDS = {
    "name": "name",
    "description": "description",
    "framework": "framework",
    "requestCpu": "default_cpu_num",
    "requestMemory": "default_memory_size",
    "startCommand": "initial_command",
    "installPath": "image_uuid",
    "modelUuids": "model_uuid",
    "resourceUuid": "resource_uuid",
}
_ARGUMENTS = {field: argument for argument, field in _FIELDS.items()}
# What every client has to say of a new entry, and what only ZStack's own stores and forms show: nothing is asked by it.
TAKEN = ("yaml", "modelCenterUuid", "readme", "source", "pythonVersion", "condaVersion")
# They decide how ZStack runs the service, and nothing here would follow them.
REFUSED = (
    "containerCommand", "containerArgs", "gpuComputeCapability", "vendorToSpecUuidsMap", "dockerImage", "vmImageUuid",
    "architectureImages", "cpuArchitectures", "environmentParameters", "startupParameters", "inferenceParams",
    "serviceName", "servicePorts", "serviceLivez", "serviceReadyz", "serviceBootupTime", "serviceInstallPath",
    "serviceStartCommand",
)  # fmt: skip
# Of an entry that exists, besides: what would change nothing is refused by name.
NOT_CHANGEABLE = (*REFUSED, *TAKEN)
_CHANGEABLE = ("name", "description", "framework", "requestCpu", "requestMemory", "startCommand", "installPath")
# ZStack's word for what it does not know either.
_FRAMEWORKS = {"Other": "custom"}


async def add(catalog: Catalog, caller: Caller, arguments: Mapping[str, Any], request_id: str) -> ModelService:
    """The new entry. Raises InvalidArgument and NotFound with ZStack's names of arguments, AlreadyExists."""
    _refuse(arguments, REFUSED)
    kind = _type(arguments.get("type"))
    values = {name: arguments.get(name) for name in _FIELDS}
    values["framework"] = _framework(values["framework"])
    values["modelUuids"] = _one_model(arguments.get("modelUuids"))
    values["installPath"] = await _image(catalog, arguments.get("installPath"))
    message = catalog_pb2.CreateModelServiceRequest(request_id=request_id)
    by_json_name = {message.DESCRIPTOR.fields_by_name[field].json_name: values[name] for name, field in _FIELDS.items()}
    try:
        body.fill(message, by_json_name)
        message.worker_command = message.initial_command
        validation.check(message)
    except InvalidArgument as error:
        raise InvalidArgument([FieldViolation(_argument(v.field), v.description) for v in error.violations]) from error
    request = convert.new_model_service(message)
    if kind:
        request = replace(request, entry=replace(request.entry, model_service_type=kind))
    try:
        return await catalog.create_model_service(caller, request)
    except NotFound as error:
        raise NotFound(error.resource_type, error.resource_name, _argument(error.field)) from error


async def update(catalog: Catalog, caller: Caller, uuid: str, arguments: Mapping[str, Any]) -> ModelService:
    """The changed entry; groups that exist keep what they were made from.

    Raises InvalidArgument and NotFound with ZStack's names of arguments, Conflict.
    """
    _refuse(arguments, NOT_CHANGEABLE)
    kind = _type(arguments.get("type"))
    given = {name: arguments[name] for name in _CHANGEABLE if arguments.get(name) is not None}
    if "framework" in given:
        given["framework"] = _framework(given["framework"])
    if "installPath" in given:
        given["installPath"] = await _image(catalog, given["installPath"])
    message = catalog_pb2.UpdateModelServiceRequest(uuid=uuid)
    named = [_FIELDS[name] for name in given]
    json_names = message.DESCRIPTOR.fields_by_name
    try:
        body.fill(message, {json_names[_FIELDS[name]].json_name: value for name, value in given.items()})
        if "initial_command" in named:
            message.worker_command = message.initial_command
            named.append("worker_command")
        message.update_mask.paths.extend(named)
        validation.check(message)
    except InvalidArgument as error:
        raise InvalidArgument([FieldViolation(_argument(v.field), v.description) for v in error.violations]) from error
    values = dict(convert.model_service_change(message).values) if named else {}
    if kind:
        values["model_service_type"] = kind
    if not values:
        return await catalog.get_model_service(uuid)
    try:
        return await catalog.update_model_service(caller, uuid, ModelServiceChange(values))
    except NotFound as error:
        raise NotFound(error.resource_type, error.resource_name, _argument(error.field)) from error


def _refuse(arguments: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raises InvalidArgument for what nothing would follow. What clients' forms leave empty asks for nothing."""
    for name in names:
        if arguments.get(name) not in (None, "", [], {}):
            raise InvalidArgument.of(name, "is not supported")
    if arguments.get("supportDistributed") is False:
        raise InvalidArgument.of("supportDistributed", "every model service can be distributed")


def _framework(value: Any) -> Any:
    return _FRAMEWORKS.get(value, value) if isinstance(value, str) else value


def _argument(field: str) -> str:
    # Both commands are the one that the client wrote.
    return _ARGUMENTS.get("initial_command" if field == "worker_command" else field, field)


def _type(value: Any) -> str:
    if value is None:
        return ""
    if value not in TYPES:
        raise InvalidArgument.of("type", f"must be one of {', '.join(TYPES)}")
    return str(value)


def _one_model(value: Any) -> Any:
    """The only model of the list; None where there is none."""
    if value is None or value == []:
        return None
    if not isinstance(value, list) or len(value) != 1:
        raise InvalidArgument.of("modelUuids", "must be a list of one model")
    return value[0]


async def _image(catalog: Catalog, value: Any) -> Any:
    """The uuid of the image that a uuid or a name names."""
    if not isinstance(value, str) or not value.strip():
        return None
    name = value.strip()
    if text.is_uuid(text.canonical_uuid(name)):
        return name
    found, token = [], ""
    while True:
        page = await catalog.list_images(MAX_PAGE, token)
        found += [image.uuid for image in page.items if image.image.name == name]
        token = page.next_page_token
        if not token:
            break
    if not found:
        raise NotFound("image", name, "installPath")
    if len(found) > 1:
        raise InvalidArgument.of("installPath", "names more than one image; name it by its uuid")
    return found[0]
