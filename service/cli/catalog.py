"""`corral catalog` and `corral images`: what members run, and from which files they boot."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import click
from corral.v1 import catalog_pb2, catalog_pb2_grpc
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError

from service.cli import errors, names
from service.cli.command import Output, Session, output_option, verb, verb_group
from service.cli.explanation import size_text
from service.cli.listing import is_uuid, named, pages
from service.cli.output import Columns, yaml_document
from service.cli.requests import BadRequestFile, read_mapping
from service.cli.view import moment_text

Stub = catalog_pb2_grpc.CatalogServiceStub
_PAGE = 500
_DRY_RUN = click.option("--dry-run", "validate_only", is_flag=True, help="Only check it; nothing is changed.")


def register(corral: click.Group) -> None:
    """Add the sub-commands."""
    catalog = verb_group(corral, "catalog", example="corral catalog")(list_services)
    verb(catalog, "show", example="corral catalog show default")(show_service)
    verb(catalog, "add", example="corral catalog add service.yaml")(add_service)
    verb(catalog, "edit", example="corral catalog edit chat-model changes.yaml")(edit_service)
    verb(catalog, "remove", example="corral catalog remove chat-model")(remove_service)
    images = verb_group(corral, "images", example="corral images")(list_images)
    verb(images, "show", example="corral images show guest")(show_image)
    verb(images, "add", example="corral images add cloud --format raw --file disk.raw")(add_image)
    verb(images, "remove", example="corral images remove cloud")(remove_image)


def all_services(stub: Stub) -> Iterator[catalog_pb2.ModelService]:
    """All model services of the catalogue."""
    return pages(
        lambda token: stub.ListModelServices(catalog_pb2.ListModelServicesRequest(page_size=_PAGE, page_token=token))
    )


def all_images(stub: Stub) -> Iterator[catalog_pb2.Image]:
    """All images."""
    return pages(lambda token: stub.ListImages(catalog_pb2.ListImagesRequest(page_size=_PAGE, page_token=token)))


def find_service(stub: Stub, wanted: str) -> catalog_pb2.ModelService:
    """The model service of this uuid or name. Raises NotThere."""
    found: catalog_pb2.ModelService = named(all_services(stub), wanted, "model service", "corral catalog")
    return found


def find_image(stub: Stub, wanted: str) -> catalog_pb2.Image:
    """The image of this uuid or name. Raises NotThere."""
    found: catalog_pb2.Image = named(all_images(stub), wanted, "image", "corral images")
    return found


def _defaults(one: catalog_pb2.ModelService) -> str:
    parts = [f"{one.default_cpu_num} vcpu"] if one.default_cpu_num else []
    parts += [size_text(one.default_memory_size)] if one.default_memory_size else []
    return ", ".join(parts) or "-"


_SERVICE_COLUMNS: Columns = (
    ("uuid", lambda one: one.uuid),
    ("name", lambda one: one.name),
    ("framework", lambda one: one.framework or "-"),
    ("image", lambda one: one.image_uuid),
    ("a member's default", _defaults),
    ("description", lambda one: one.description),
)


@output_option
def list_services(session: Session, output: Output) -> int:
    """List model services, which groups are made of; with a sub-command show, add, edit and remove them."""
    output.many(all_services(session.stub(Stub)), _SERVICE_COLUMNS, lambda one: one.name)
    return errors.OK


@output_option
@click.argument("name", type=names.MODEL_SERVICE)
def show_service(session: Session, output: Output, name: str) -> int:
    """Show one model service, by name or uuid."""
    stub = session.stub(Stub)
    uuid = name if is_uuid(name) else find_service(stub, name).uuid
    _show(output, stub.GetModelService(catalog_pb2.GetModelServiceRequest(uuid=uuid)).inventory)
    return errors.OK


@output_option
@click.argument("file")
@_DRY_RUN
def add_service(session: Session, output: Output, file: str, validate_only: bool) -> int:
    """Add a model service. FILE: its fields as YAML or JSON, with the names of CreateModelServiceRequest."""
    stub = session.stub(Stub)
    request = _filled(catalog_pb2.CreateModelServiceRequest(), _with_image(stub, read_mapping(file)), file)
    request.validate_only = validate_only
    request.request_id = request.request_id or uuid4().hex
    made = stub.CreateModelService(request).inventory
    output.one(made, made.name, f"{made.name} is {'fit to be added' if validate_only else 'added'}: {made.uuid}")
    return errors.OK


@output_option
@click.argument("name", type=names.MODEL_SERVICE)
@click.argument("file")
@_DRY_RUN
def edit_service(session: Session, output: Output, name: str, file: str, validate_only: bool) -> int:
    """Change a model service, by name or uuid. FILE: the fields that change, as YAML or JSON; others stay."""
    stub = session.stub(Stub)
    told = _with_image(stub, read_mapping(file))
    request = _filled(catalog_pb2.UpdateModelServiceRequest(), told, file)
    request.uuid = find_service(stub, name).uuid
    request.validate_only = validate_only
    known = {field.json_name: field.name for field in request.DESCRIPTOR.fields}
    request.update_mask.paths[:] = sorted(known.get(key, key) for key in told)
    made = stub.UpdateModelService(request).inventory
    output.one(made, made.name, f"{made.name} is {'fit to be changed' if validate_only else 'changed'}")
    return errors.OK


@output_option
@click.argument("name", type=names.MODEL_SERVICE)
@_DRY_RUN
def remove_service(session: Session, output: Output, name: str, validate_only: bool) -> int:
    """Remove a model service that no group uses, by name or uuid."""
    stub = session.stub(Stub)
    found = find_service(stub, name)
    stub.DeleteModelService(catalog_pb2.DeleteModelServiceRequest(uuid=found.uuid, validate_only=validate_only))
    output.one(found, found.name, f"{found.name} {'may be' if validate_only else 'is'} removed")
    return errors.OK


def _with_image(stub: Stub, told: dict[str, Any]) -> dict[str, Any]:
    """`image: NAME` as the uuid that it means."""
    if "image" not in told:
        return told
    rest = {key: value for key, value in told.items() if key != "image"}
    return {**rest, "imageUuid": find_image(stub, str(told["image"])).uuid}


def _filled(request: Any, told: dict[str, Any], file: str) -> Any:
    try:
        return ParseDict(told, request)
    except (ParseError, RecursionError) as problem:
        raise BadRequestFile(f"{file}: {problem}") from problem


_IMAGE_COLUMNS: Columns = (
    ("uuid", lambda one: one.uuid),
    ("name", lambda one: one.name),
    ("format", lambda one: one.format),
    ("size", lambda one: size_text(one.size)),
    ("since", lambda one: moment_text(one.create_date)),
    ("sha256", lambda one: one.sha256),
)


@output_option
def list_images(session: Session, output: Output) -> int:
    """List images; with a sub-command show, add and remove them."""
    output.many(all_images(session.stub(Stub)), _IMAGE_COLUMNS, lambda one: one.name)
    return errors.OK


@output_option
@click.argument("name", type=names.IMAGE)
def show_image(session: Session, output: Output, name: str) -> int:
    """Show one image, by name or uuid."""
    stub = session.stub(Stub)
    uuid = name if is_uuid(name) else find_image(stub, name).uuid
    _show(output, stub.GetImage(catalog_pb2.GetImageRequest(uuid=uuid)).inventory)
    return errors.OK


def _show(output: Output, found: catalog_pb2.ModelService | catalog_pb2.Image) -> None:
    output.one(found, found.name, yaml_document(MessageToDict(found)).removeprefix("---\n"))


@output_option
@click.argument("name")
@click.option("--format", "kind", type=click.Choice(["raw", "qcow2", "kernel"]), required=True)
@click.option("--file", "file_name", required=True, help="The file's name in the service's image_directory.")
@click.option("--initrd", "initrd_file_name", default="", help="The initrd's, for a kernel.")
@click.option("--sha256", default="", help="What the file must have.")
@click.option("--initrd-sha256", default="", help="What the initrd must have.")
@click.option("--arguments", "kernel_arguments", default="", help="The command line of a kernel.")
@click.option("--delivery", type=click.Choice(["nocloud", "fw_cfg", "seed"]), help="How documents reach the guest.")
@_DRY_RUN
def add_image(session: Session, output: Output, name: str, kind: str, **told: Any) -> int:
    """Register a file that lies in the service's image directory."""
    request = catalog_pb2.RegisterImageRequest(name=name, format=kind, request_id=uuid4().hex, **told)
    made = session.stub(Stub).RegisterImage(request).inventory
    done = "fit to be registered" if told["validate_only"] else "registered"
    output.one(made, made.name, f"{made.name} is {done}: {made.uuid}, {size_text(made.size)}")
    return errors.OK


@output_option
@click.argument("name", type=names.IMAGE)
@_DRY_RUN
def remove_image(session: Session, output: Output, name: str, validate_only: bool) -> int:
    """Forget an image that no model service uses; its file stays where it lies."""
    stub = session.stub(Stub)
    found = find_image(stub, name)
    stub.DeleteImage(catalog_pb2.DeleteImageRequest(uuid=found.uuid, validate_only=validate_only))
    output.one(found, found.name, f"{found.name} {'may be' if validate_only else 'is'} removed")
    return errors.OK
