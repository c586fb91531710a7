"""The catalogue as operators manage it at run time: model services, and the images that they boot from.

The configuration file and run time share it as they share the fleet (see `app.fleet`). A member is made from the
version of its entry that it was admitted with, so an update concerns only groups that are made afterwards.
"""

from __future__ import annotations

import asyncio
import uuid as uuids
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from service.app import environment, image_files, operator_changes, paging
from service.app.auditing import audited
from service.app.etags import require_etag
from service.app.paging import Page
from service.domain.catalog import ModelService, RegisteredImage, disk_image, kernel_image
from service.domain.presets import port_problems, ports_of
from service.domain.tenants import Caller
from service.domain.weights import NO_COMMAND, starts
from service.errors import AlreadyExists, InvalidArgument, NotFound, WrongState
from service.signals import Signals
from service.store import catalog, schema
from service.store.connection import Connection
from service.store.engine import Store
from service.transactions.secrets import KnownSecrets

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NewModelService:
    """An entry to put into the catalogue. `entry.uuid` is empty for a new one; its image is named by uuid alone."""

    entry: ModelService
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class ModelServiceChange:
    """What to change in an entry: names of its fields, and their new values."""

    values: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NewImage:
    """An image to make known. Files are named as in the image store; a digest that is empty is computed."""

    name: str
    format: str
    file_name: str
    initrd_file_name: str = ""
    sha256: str = ""
    initrd_sha256: str = ""
    resource_uuid: str = ""
    request_id: str = ""
    kernel_arguments: str = ""
    delivery: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that makes an image. `method`: by whose name it is remembered; `uuid`: empty for a new one."""

    method: str
    request: object
    uuid: str
    request_id: str


class Catalog:
    """The use cases of the catalogue. `signals.fleet_changed` is told of every commit."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], int],
        image_directory: Path,
        *,
        new_uuid: Callable[[], str] = lambda: uuids.uuid4().hex,
        signals: Signals | None = None,
        secrets: KnownSecrets | None = None,
    ) -> None:
        """`image_directory`: the image store, the only place that images are registered from."""
        self._secrets = secrets or KnownSecrets()
        self._store = store
        self._clock = clock
        self._image_directory = image_directory
        self._new_uuid = new_uuid
        self._signals = signals or Signals()

    # --- model services --------------------------------------------------------------------------------------------

    async def create_model_service(
        self, caller: Caller, request: NewModelService, *, validate_only: bool = False
    ) -> ModelService:
        """Put an entry into the catalogue; the same request id answers with the entry that it made.

        Raises InvalidArgument (environment variables, ports), NotFound (image, secret), AlreadyExists, RequestIdReused.
        """
        now = self._clock()

        def work(connection: Connection) -> ModelService:
            self._check_environment(connection, request.entry)
            method = "CreateModelService"
            known = operator_changes.made_before(connection, caller, method, request.request_id, request)
            if known is not None:
                return catalog.model_service(connection, known)
            uuid = request.entry.uuid or self._new_uuid()
            if uuid in catalog.model_services(connection):
                raise AlreadyExists("model service", uuid)
            entry = _with_ports(_with_image(connection, replace(request.entry, uuid=uuid)))
            _require_command(entry)
            catalog.put_model_service(connection, entry, now=now)
            operator_changes.made(connection, caller, method, request.request_id, request, uuid, now)
            return catalog.model_service(connection, uuid)

        return await self._commit(work, validate_only)

    async def get_model_service(self, uuid: str) -> ModelService:
        """One entry. Raises NotFound."""
        return await self._store.read(lambda c: catalog.model_service(c, uuid))

    async def list_model_services(self, page_size: int, page_token: str) -> Page[ModelService]:
        """Entries by name. Raises InvalidArgument for a token that is not one."""
        cursor = paging.cursor("model services", page_size, page_token)

        def read(connection: Connection) -> Page[ModelService]:
            found = catalog.page_of_model_services(connection, cursor.after, cursor.limit)
            return cursor.page(found, [(e.name, e.uuid) for e in found])

        return await self._store.read(read)

    async def update_model_service(
        self, caller: Caller, uuid: str, change: ModelServiceChange, etag: str = "", *, validate_only: bool = False
    ) -> ModelService:
        """Change an entry for groups that are made from now on.

        Raises InvalidArgument (environment variables, ports), NotFound (entry, image, secret), Conflict (etag).
        """
        now = self._clock()

        def work(connection: Connection) -> ModelService:
            entry = catalog.model_service(connection, uuid, lock=True)
            require_etag("model service", entry, etag)
            wanted: ModelService = replace(entry, **change.values)  # type: ignore[arg-type]  # the face names fields
            if wanted.environment != entry.environment:
                self._check_environment(connection, wanted)
            if wanted.image_uuid != entry.image_uuid:
                wanted = _with_image(connection, wanted)
            if (wanted.ports, wanted.framework) != (entry.ports, entry.framework):
                wanted = _with_ports(wanted)
            if wanted != entry:
                _require_command(wanted)
                catalog.put_model_service(connection, wanted, now=now)
                audited(connection, caller, "UpdateModelService", uuid, "", now)
            return catalog.model_service(connection, uuid)

        return await self._commit(work, validate_only)

    async def delete_model_service(
        self, caller: Caller, uuid: str, etag: str = "", *, validate_only: bool = False
    ) -> None:
        """Remove an entry. Raises NotFound, Conflict (etag), WrongState: groups use it, or the file defines it."""
        now = self._clock()

        def work(connection: Connection) -> None:
            entry = catalog.model_service(connection, uuid, lock=True)
            require_etag("model service", entry, etag)
            subject = f"model service {entry.name}"
            operator_changes.require_run_time(connection, schema.model_services, subject, uuid)
            if users := catalog.users(connection, uuid):
                raise WrongState(subject, f"in use by {users} instance groups", "one that no group uses")
            catalog.delete_model_service(connection, uuid, now)
            audited(connection, caller, "DeleteModelService", uuid, "", now)

        await self._commit(work, validate_only)

    def _check_environment(self, connection: Connection, entry: ModelService) -> None:
        """Which project may use a secret that an entry names is asked at each deploy."""
        known = self._secrets.known_to_any(connection)
        environment.check(entry.environment, "environment_variables", known)

    # --- images ----------------------------------------------------------------------------------------------------

    async def register_image(
        self, caller: Caller, request: NewImage, *, validate_only: bool = False
    ) -> RegisteredImage:
        """Make an image of the image store known, its files read and their digests taken or compared.

        The same request id answers with the image that it made. Raises InvalidArgument (naming the file's field),
        AlreadyExists, RequestIdReused.
        """
        asked = Asked("RegisterImage", request, request.resource_uuid, request.request_id)
        made = await self.made_before(caller, asked)
        if made is not None:
            return made
        image = await asyncio.to_thread(self._read_files, request)
        return await self.enter(caller, asked, image, validate_only=validate_only)

    async def made_before(self, caller: Caller, asked: Asked) -> RegisteredImage | None:
        """The image that the same request has made earlier. Raises AlreadyExists, RequestIdReused."""
        return await self._store.read(lambda connection: self._known(connection, caller, asked))

    async def enter(
        self, caller: Caller, asked: Asked, image: RegisteredImage, *, validate_only: bool = False
    ) -> RegisteredImage:
        """Put an image into the catalogue whose files were looked at. Raises AlreadyExists, RequestIdReused."""
        now, uuid = self._clock(), asked.uuid or self._new_uuid()

        def work(connection: Connection) -> RegisteredImage:
            there = self._known(connection, caller, asked)
            if there is not None:
                return there
            catalog.put_image(connection, replace(image, uuid=uuid), now=now)
            operator_changes.made(connection, caller, asked.method, asked.request_id, asked.request, uuid, now)
            return catalog.image(connection, uuid)

        return await self._commit(work, validate_only)

    def _known(self, connection: Connection, caller: Caller, asked: Asked) -> RegisteredImage | None:
        there = operator_changes.made_before(connection, caller, asked.method, asked.request_id, asked.request)
        if there is not None:
            return catalog.image(connection, there)
        if asked.uuid and catalog.image_exists(connection, asked.uuid):
            raise AlreadyExists("image", asked.uuid)
        return None

    async def get_image(self, uuid: str) -> RegisteredImage:
        """One image. Raises NotFound."""
        return await self._store.read(lambda c: catalog.image(c, uuid))

    async def list_images(self, page_size: int, page_token: str) -> Page[RegisteredImage]:
        """Images by name. Raises InvalidArgument for a token that is not one."""
        cursor = paging.cursor("images", page_size, page_token)

        def read(connection: Connection) -> Page[RegisteredImage]:
            found = catalog.page_of_images(connection, cursor.after, cursor.limit)
            return cursor.page(found, [(i.image.name, i.uuid) for i in found])

        return await self._store.read(read)

    async def delete_image(self, caller: Caller, uuid: str, etag: str = "", *, validate_only: bool = False) -> None:
        """Forget an image; its file stays. Raises NotFound, Conflict (etag), WrongState: model services or groups boot
        from it, or the file defines it."""
        now = self._clock()

        def work(connection: Connection) -> None:
            image = catalog.image(connection, uuid, lock=True)
            require_etag("image", image, etag)
            subject = f"image {image.image.name}"
            operator_changes.require_run_time(connection, schema.images, subject, uuid)
            if users := catalog.image_users(connection, uuid):
                raise WrongState(subject, f"in use by {users} model services", "one that no model service uses")
            if members := catalog.image_members(connection, uuid):
                raise WrongState(subject, f"what {members} members were made from", "one that no group uses")
            catalog.delete_image(connection, uuid, now)
            audited(connection, caller, "DeleteImage", uuid, "", now)

        await self._commit(work, validate_only)

    def _read_files(self, request: NewImage) -> RegisteredImage:
        role = "kernel" if request.format == "kernel" else "disk"
        main = image_files.examine(
            self._image_directory, request.file_name, request.format, request.sha256, "file_name", "sha256"
        )
        if request.delivery == "seed":
            image_files.require_seed(main.path, "file_name")
        digests, size = {role: main.sha256}, main.size
        initrd_path = ""
        if request.initrd_file_name:
            initrd = image_files.examine(
                self._image_directory,
                request.initrd_file_name,
                "initrd",
                request.initrd_sha256,
                "initrd_file_name",
                "initrd_sha256",
            )
            digests["initrd"], initrd_path = initrd.sha256, str(initrd.path)
            size += initrd.size
        path, told = str(main.path), (request.kernel_arguments, request.delivery)
        if role == "kernel":
            image = kernel_image(request.name, path, initrd_path, digests, *told)
        else:
            image = disk_image(request.name, path, request.format, main.sha256, request.delivery)
        return RegisteredImage("", image, request.format, size)

    async def _commit(
        self, work: Callable[[Connection], operator_changes.T], validate_only: bool
    ) -> operator_changes.T:
        result = await operator_changes.commit(self._store, work, validate_only=validate_only)
        if not validate_only:
            self._signals.fleet_changed()
        return result


def _with_ports(entry: ModelService) -> ModelService:
    """With the ports that its framework needs beside those that it names. Raises InvalidArgument."""
    ports = ports_of(entry.framework, entry.ports)
    if wrong := list(port_problems(entry.framework, ports)):
        raise InvalidArgument(wrong)
    return replace(entry, ports=ports)


def _require_command(entry: ModelService) -> None:
    """A container image starts nothing by itself, and what an image starts by itself waits for no weights. Raises
    InvalidArgument (initial_command, weights)."""
    container = entry.image.container
    if entry.weights_uri and not starts(entry):
        raise InvalidArgument.of("weights", NO_COMMAND)
    if container is not None and not starts(entry):
        told = f"is required: neither image {entry.image.name} nor the framework names a command"
        raise InvalidArgument.of("initial_command", told)


def _with_image(connection: Connection, entry: ModelService) -> ModelService:
    try:
        return replace(entry, image=catalog.image(connection, entry.image_uuid, lock=True).image)
    except NotFound as error:
        raise NotFound("image", entry.image_uuid, "image_uuid") from error
