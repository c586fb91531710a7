"""Container images: pulled by digest into the image store, and made a disk that Corral's own guest runs.

The layers arrive as uploads do, by their digests, and are gone on with as those are; a process of its own makes a file
system of them (`service.app.unpacking`), which with the kernel and initial RAM disk of the configured guest is an image
like any other. So guests need neither a network nor a container runtime, and hosts no program that they do not have.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import logging
import os
import shutil
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from service.app.catalog import Asked
from service.app.image_files import Examined
from service.app.image_sources import ImageSources
from service.app.image_store import Arrival
from service.app.layer_files import Layer
from service.app.registries import Repository
from service.app.unpacking import DEFAULT_PATH, PACKAGE, WRITER, Order
from service.app.uploads import NewUpload, Uploads
from service.config.settings import Config
from service.domain.catalog import Image, RegisteredImage, container_image
from service.domain.containers import Blob, Container, Manifest, Reference, RunConfig
from service.domain.tenants import Caller
from service.errors import InvalidArgument, Unavailable, WrongState

logger = logging.getLogger(__name__)

_PIECE = 1 << 20
_MARK = b"etc/corral/container.sh"
"""A file of the default guest's that runs container images."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one image may be: bytes of its layers as they come and of its disk, bytes unpacked; how long that takes."""

    most_bytes: int
    most_unpacked: int
    most_ms: int


class Seen(Protocol):
    """Who is told how far it is."""

    def begun(self, size: int, at: int) -> None:
        """So many bytes there are, and so many are here."""

    def came(self, count: int) -> None:
        """So many more."""


class ContainerImages:
    """The use case of container images."""

    def __init__(self, uploads: Uploads, sources: ImageSources, limits: Limits, guest: Image | None) -> None:
        """`guest`: the image whose kernel and initial RAM disk boot them; None: none is configured."""
        self._uploads = uploads
        self._store = uploads.images
        self._sources = sources
        self._limits = limits
        self._guest = guest

    async def take(
        self, caller: Caller, what: NewUpload, reference: Reference, asked: Asked, seen: Seen
    ) -> RegisteredImage:
        """Pull it and make the image.

        Raises InvalidArgument (url), AlreadyExists, RequestIdReused, Conflict, WrongState, Unavailable.
        """
        guest = await self._able()
        async with (
            self._uploads.opened(partial(self._store.place, reference.digest)) as place,
            AsyncExitStack() as held,
        ):
            try:
                repository = Repository(self._sources, reference)
                manifest, config = await repository.image()
                await self._pull(repository, manifest, seen)
                for digest in sorted({layer.digest for layer in manifest.layers} - {reference.digest}):
                    await held.enter_async_context(self._uploads.opened(partial(self._store.hold, digest)))
                try:
                    await self._unpack(reference, manifest, config)
                except InvalidArgument:
                    await self._forget(manifest)
                    raise
                disk = await self._adopted(reference.digest, place, held)
                made = await self._image(what, reference, config, guest, disk, held)
                image = await self._uploads.enter(caller, asked, made)
                await self._forget(manifest)
                return image
            finally:
                await self._uploads.file(self._store.give_up, reference.digest, place)

    async def _able(self) -> Image:
        """The guest, where this server can make such images. Raises WrongState."""
        if shutil.which(WRITER) is None:
            raise WrongState("this server", f"without {WRITER}", f"Debian's package {PACKAGE} here")
        guest = self._guest
        if guest is None or not guest.kernel_path or not guest.initrd_path:
            needs = "an entry of [[images]] that is the default guest, named by catalog.container_guest"
            raise WrongState("the service", "without a guest for container images", needs)
        if not await asyncio.to_thread(_runs_containers, guest.initrd_path):
            raise WrongState(
                f"image {guest.name} (catalog.container_guest)",
                "a guest that does not run container images",
                "the default guest of this version (`make guest`)",
            )
        return guest

    # --- pulling -----------------------------------------------------------------------------------------------------

    async def _pull(self, repository: Repository, manifest: Manifest, seen: Seen) -> None:
        parts = {layer.digest: layer for layer in manifest.layers}
        size = sum(layer.size for layer in parts.values())
        if size > self._limits.most_bytes:
            told = f"has {size} bytes: may have {self._limits.most_bytes} here (catalog.max_upload_size)"
            raise InvalidArgument.of("url", told)
        here = {digest: await self._here(layer) for digest, layer in parts.items()}
        seen.begun(size, sum(here.values()))
        for digest, layer in parts.items():
            if here[digest] < layer.size:
                async with repository.blob(layer, here[digest]) as download:
                    begin = partial(self._store.begin, digest, layer.size, download.at)
                    async with (
                        self._uploads.opened(begin) as arrival,
                        aclosing(_told(download.parts(), seen)) as coming,
                    ):
                        await self._uploads.receive(arrival, coming)
                        await self._uploads.file(arrival.sync)

    async def _here(self, layer: Blob) -> int:
        """How many of its bytes are here; what is longer is something else and counts as nothing."""
        there = await self._uploads.received(layer.digest)
        return there if there <= layer.size else 0

    async def _forget(self, manifest: Manifest) -> None:
        for layer in manifest.layers:
            await self._uploads.file(self._store.discard, layer.digest)

    # --- unpacking ---------------------------------------------------------------------------------------------------

    async def _unpack(self, reference: Reference, manifest: Manifest, config: RunConfig) -> None:
        """Raises InvalidArgument (url), WrongState, Unavailable."""
        order = Order(
            layers=[
                Layer(str(self._store.part(layer.digest)), layer.digest, layer.packed, contents)
                for layer, contents in zip(manifest.layers, config.contents, strict=True)
            ],
            output=str(self._store.part(reference.digest)),
            most_unpacked=self._limits.most_unpacked,
            most_bytes=self._limits.most_bytes,
            most_seconds=max(1, self._limits.most_ms // 1000),
            user=config.user,
            directory=config.directory,
            environment=config.environment,
        )
        answer = await _worked(order.text())
        if "unusable" in answer:
            raise InvalidArgument.of("url", str(answer["unusable"]))
        if "failed" in answer:
            told = f"not fit for it ({answer['failed']})"
            raise WrongState("the image store", told, "a directory with room that the service may write to")

    async def _adopted(self, name: str, place: Arrival, held: AsyncExitStack) -> Examined:
        """The disk under its own digest, looked at as every image is."""
        await self._uploads.file(place.sync)
        digest = await self._uploads.file(_digest, self._store.part(name))
        if not await self._uploads.file(self._store.adopt, name, digest):
            await held.enter_async_context(self._uploads.opened(partial(self._store.hold, digest)))
        return await self._uploads.file(self._store.examine, digest, "raw", "url")

    async def _image(
        self,
        what: NewUpload,
        reference: Reference,
        config: RunConfig,
        guest: Image,
        disk: Examined,
        held: AsyncExitStack,
    ) -> RegisteredImage:
        """With copies of the guest's files, so that a guest built later changes no image that is there."""
        files = [await self._copied(path, held) for path in (guest.kernel_path, guest.initrd_path)]
        paths = [str(self._store.kept(one.sha256)) for one in (*files, disk)]
        digests = {"kernel": files[0].sha256, "initrd": files[1].sha256, "disk": disk.sha256}
        container = Container(reference.digest, config.entrypoint, config.arguments)
        image = container_image(what.name, paths, digests, guest.kernel_arguments, container)
        uploaded = tuple(dict.fromkeys((*(one.sha256 for one in files), disk.sha256)))
        return RegisteredImage("", image, "container", sum(one.size for one in (*files, disk)), uploaded=uploaded)

    async def _copied(self, source: str, held: AsyncExitStack) -> Examined:
        """A file of the guest's in the store, held. Raises Conflict, WrongState."""
        path = Path(source)
        digest, size = await self._uploads.file(_digest, path), (await self._uploads.file(path.stat)).st_size
        begin = partial(self._store.begin, digest, size, 0)
        arrival = await held.enter_async_context(self._uploads.opened(begin))
        await self._uploads.file(_copy, path, arrival)
        await self._uploads.file(arrival.sync)
        return Examined(self._store.part(digest), size, digest)


def configured(uploads: Uploads, sources: ImageSources, config: Config) -> ContainerImages:
    """As the configuration says."""
    limits = Limits(config.max_upload_size, config.max_unpacked_size, config.max_import_ms)
    guest = next((image for image in config.images if image.name == config.container_guest), None)
    return ContainerImages(uploads, sources, limits, guest)


async def _told(parts: AsyncGenerator[bytes, None], seen: Seen) -> AsyncGenerator[bytes, None]:
    async with aclosing(parts) as coming:
        async for part in coming:
            yield part
            seen.came(len(part))


async def _worked(order: str) -> dict[str, Any]:
    """What the process answers. It ends with this call, however that ends. Raises Unavailable."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "service.app.unpacking"),
        # Nothing else of this process's environment: it may hold secrets.
        env={"PATH": DEFAULT_PATH, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(f"{order}\n".encode())
        with suppress(ConnectionError):
            await process.stdin.drain()
        line = await process.stdout.readline()
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError as error:
            code = await process.wait()
            raise Unavailable(f"the process that unpacks an image ended with {code}; ask again to go on") from error
        return answer
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await asyncio.shield(process.wait())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _copy(path: Path, arrival: Arrival) -> None:
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            arrival.write(piece)


def _runs_containers(initrd: str) -> bool:
    """Whether the guest's first files have what runs container images."""
    before = b""
    try:
        with gzip.open(initrd, "rb") as file:
            while piece := file.read(_PIECE):
                if _MARK in before + piece:
                    return True
                before = piece[-len(_MARK) :]
    except (OSError, EOFError):
        return False
    return False
