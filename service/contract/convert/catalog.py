"""Model services and images as messages, and the requests that change them as domain types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from corral.v1 import catalog_pb2

from service.app.catalog import ModelServiceChange, NewImage, NewModelService
from service.app.etags import etag_of
from service.app.identity import VIEWER
from service.app.imports import NewImport, Step
from service.app.uploads import NewUpload
from service.contract.convert.inventory import timestamp
from service.domain.catalog import Image, ModelService, RegisteredImage
from service.domain.presets import ports_of
from service.domain.tenants import Caller

_DEFAULTS = ModelService("", "", Image(""))


def model_service(value: ModelService, caller: Caller) -> catalog_pb2.ModelService:
    """The inventory of a catalogue entry. Viewers see environment variables by name alone: values may be secrets."""
    values = dict.fromkeys(value.environment, "") if caller.role == VIEWER else value.environment
    return catalog_pb2.ModelService(
        uuid=value.uuid,
        name=value.name,
        description=value.description,
        image_uuid=value.image_uuid,
        root_disk_size=value.root_disk_size,
        framework=value.framework,
        model_uuid=value.model_uuid,
        initial_command=value.initial_command,
        worker_command=value.worker_command,
        ports=ports_of(value.framework, value.ports),
        readiness_check=catalog_pb2.ReadinessCheck(
            path=value.health_path,
            port=value.readiness_port,
            interval=value.readiness_interval_ms,
            timeout=value.readiness_timeout_ms,
            kind=value.readiness_kind,
            command=value.readiness_command,
            line=value.readiness_line,
            canary=_canary(value),
        ),
        default_cpu_num=value.default_cpu,
        default_memory_size=value.default_memory,
        environment_variables=values,
        workers_first=value.workers_first,
        boot_timeout=value.boot_timeout_ms,
        stop_grace=value.stop_grace_ms,
        support_metrics=value.supported_metrics,
        model_service_type=value.model_service_type,
        weights=_weights(value),
        create_date=timestamp(value.created_at),
        last_op_date=timestamp(value.updated_at),
        etag=etag_of(value),
    )


def _canary(value: ModelService) -> catalog_pb2.Canary | None:
    if not value.canary_path:
        return None
    return catalog_pb2.Canary(path=value.canary_path, body=value.canary_body, expect=value.canary_expect)


def _weights(value: ModelService) -> catalog_pb2.Weights | None:
    return catalog_pb2.Weights(uri=value.weights_uri, sha256=value.weights_sha256) if value.weights_uri else None


def image(value: RegisteredImage) -> catalog_pb2.Image:
    """The inventory of an image. Where its files lie is the operator's own business."""
    digests, container = value.image.sha256, value.image.container
    return catalog_pb2.Image(
        uuid=value.uuid,
        name=value.image.name,
        format=value.format,
        sha256=digests.get("kernel" if value.format == "kernel" else "disk", ""),
        initrd_sha256=digests.get("initrd", ""),
        size=value.size,
        create_date=timestamp(value.created_at),
        etag=etag_of(value),
        container_digest=container.digest if container is not None else "",
        container_command=(*container.entrypoint, *container.arguments) if container is not None else (),
    )


# One row for each field that a caller may set: the message's name, the domain's names, and how to read it.
_Reader = Callable[[Any], Mapping[str, object]]


def _plain(name: str, field: str) -> _Reader:
    return lambda message: {field: getattr(message, name) or getattr(_DEFAULTS, field)}


def _readiness(message: Any) -> Mapping[str, object]:
    check = message.readiness_check
    return {
        "health_path": check.path or _DEFAULTS.health_path,
        "readiness_port": check.port,
        "readiness_interval_ms": check.interval,
        "readiness_timeout_ms": check.timeout,
        "readiness_kind": check.kind,
        "readiness_command": check.command,
        "readiness_line": check.line,
        "canary_path": check.canary.path,
        "canary_body": check.canary.body,
        "canary_expect": check.canary.expect,
    }


def _mapping(name: str, field: str) -> _Reader:
    return lambda message: {field: dict(sorted(getattr(message, name).items())) or getattr(_DEFAULTS, field)}


FIELDS: Mapping[str, _Reader] = {
    "name": _plain("name", "name"),
    "description": _plain("description", "description"),
    "image_uuid": _plain("image_uuid", "image_uuid"),
    "root_disk_size": _plain("root_disk_size", "root_disk_size"),
    "framework": _plain("framework", "framework"),
    "model_uuid": _plain("model_uuid", "model_uuid"),
    "initial_command": _plain("initial_command", "initial_command"),
    "worker_command": _plain("worker_command", "worker_command"),
    "ports": lambda message: {"ports": dict(sorted(message.ports.items()))},
    "readiness_check": _readiness,
    "default_cpu_num": _plain("default_cpu_num", "default_cpu"),
    "default_memory_size": _plain("default_memory_size", "default_memory"),
    "environment_variables": _mapping("environment_variables", "environment"),
    "workers_first": _plain("workers_first", "workers_first"),
    "boot_timeout": _plain("boot_timeout", "boot_timeout_ms"),
    "stop_grace": _plain("stop_grace", "stop_grace_ms"),
    "weights": lambda message: {"weights_uri": message.weights.uri, "weights_sha256": message.weights.sha256},
    "support_metrics": lambda message: {"supported_metrics": tuple(message.support_metrics)},
}


def new_model_service(message: catalog_pb2.CreateModelServiceRequest) -> NewModelService:
    """An entry to make; a field that is empty has the domain's default, ports that are missing the framework's."""
    values: dict[str, Any] = {}
    for read in FIELDS.values():
        values |= read(message)
    return NewModelService(ModelService(uuid=message.resource_uuid, image=Image(""), **values), message.request_id)


def model_service_change(message: catalog_pb2.UpdateModelServiceRequest) -> ModelServiceChange:
    """What to change: the fields that the mask names, or without a mask those that are not empty.

    A field that the mask names and that is empty goes back to its default.
    """
    named = tuple(message.update_mask.paths) or tuple(f.name for f, _ in message.ListFields() if f.name in FIELDS)
    values: dict[str, object] = {}
    for name in named:
        values |= FIELDS[name](message)
    return ModelServiceChange(values)


def new_upload(message: catalog_pb2.UploadImageRequest) -> NewUpload:
    """What the first message of an upload says."""
    return _sent(message, message.size)


def new_import(message: catalog_pb2.ImportImageRequest) -> NewImport:
    """What is to be fetched."""
    return NewImport(_sent(message, 0), message.url, message.credentials)


def _sent(message: catalog_pb2.UploadImageRequest | catalog_pb2.ImportImageRequest, size: int) -> NewUpload:
    return NewUpload(
        sha256=message.sha256,
        size=size,
        name=message.name,
        format=message.format,
        initrd_sha256=message.initrd_sha256,
        resource_uuid=message.resource_uuid,
        request_id=message.request_id,
        kernel_arguments=message.kernel_arguments,
        delivery=message.delivery,
    )


def import_step(step: Step) -> catalog_pb2.ImportImageResponse:
    """How far an import is."""
    message = catalog_pb2.ImportImageResponse(
        received=step.received, size=step.size, bytes_per_second=step.rate, done=step.done
    )
    if step.remaining_ms is not None:
        message.remaining_ms = step.remaining_ms
    if step.image is not None:
        message.inventory.CopyFrom(image(step.image))
    return message


def new_image(message: catalog_pb2.RegisterImageRequest) -> NewImage:
    """An image to make known."""
    return NewImage(
        name=message.name,
        format=message.format,
        file_name=message.file_name,
        kernel_arguments=message.kernel_arguments,
        delivery=message.delivery,
        initrd_file_name=message.initrd_file_name,
        sha256=message.sha256,
        initrd_sha256=message.initrd_sha256,
        resource_uuid=message.resource_uuid,
        request_id=message.request_id,
    )
