"""Uploads of images: bytes come into the image store, are looked at as every image is, and enter the catalogue.

Hypervisors get the bytes from whichever replica works on a group, by libvirt's own streams. So replicas must share the
directory of the image store; `compare` notices where one does not.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from service.app import image_files
from service.app.catalog import Asked, Catalog
from service.app.image_store import KEEP_SECONDS, Arrival, ImageStore
from service.domain.catalog import Image, RegisteredImage, disk_image, kernel_image
from service.domain.tenants import Caller
from service.errors import Conflict, CorralError, InvalidArgument, Unavailable, WrongState
from service.store import catalog as rows
from service.store.engine import Store
from service.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

IDLE_SECONDS = 60.0
"""An upload of which nothing comes for so long is broken off; it can be gone on with at once."""
CLEAN_SECONDS = 3600.0
COMPARE_SECONDS = 15.0
THREADS = 4
"""The store may be a file system that hangs: then uploads hang, and nothing else."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NewUpload:
    """What is uploaded, and what is to be made of it. `format`: raw | qcow2 | kernel | initrd; `size` in bytes."""

    sha256: str
    size: int
    name: str
    format: str
    initrd_sha256: str = ""
    resource_uuid: str = ""
    request_id: str = ""
    kernel_arguments: str = ""
    delivery: str = ""


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What came of a call: how many bytes are here, and the image where it is whole and is one."""

    received: int
    image: RegisteredImage | None = None


class Uploads:
    """The use cases of uploads, and what keeps the store in order."""

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        images: ImageStore,
        metrics: Metrics,
        seconds: Callable[[], float] = time.time,
    ) -> None:
        """`seconds`: since the epoch, as file systems have it."""
        self._store = store
        self._catalog = catalog
        self.images = images
        self._metrics = metrics
        self._seconds = seconds
        self._threads = ThreadPoolExecutor(THREADS, "images")
        self._missing: tuple[str, ...] = ()

    async def received(self, sha256: str) -> int:
        """How many bytes of an upload are here."""
        return await self.file(self.images.received, sha256)

    async def kept(self, sha256: str) -> int | None:
        """The size in bytes of a file that an image has already; None where none has it."""
        return await self.file(self.images.kept_size, sha256)

    async def take(
        self,
        caller: Caller,
        request: NewUpload,
        offset: int,
        parts: AsyncIterator[bytes],
        asked: Asked | None = None,
    ) -> Uploaded:
        """Take bytes that begin at `offset`; make the image once all are here.

        A call that breaks off leaves what has come. What is found wrong when it is whole is deleted. `asked`: by which
        request it is remembered, where that is not the upload itself; an empty format is told by the bytes.
        Raises InvalidArgument, AlreadyExists, RequestIdReused, Conflict, WrongState, Unavailable.
        """
        asked = asked or Asked("UploadImage", request, request.resource_uuid, request.request_id)
        made = await self._catalog.made_before(caller, asked)
        if made is not None:
            return Uploaded(request.size, made)
        if request.initrd_sha256 and not await self.received(request.initrd_sha256):
            raise InvalidArgument.of("initrd_sha256", "is not in the store: upload it first, with format initrd")
        begin = partial(self.images.begin, request.sha256, request.size, offset)
        async with self.opened(begin) as arrival:
            with self._metrics.image_uploads.track_inprogress():
                await self.receive(arrival, parts)
                if not arrival.whole:
                    return Uploaded(arrival.received)
                await self.file(arrival.sync)
                return Uploaded(arrival.received, await self._made(caller, request, asked))

    async def receive(self, arrival: Arrival, parts: AsyncIterator[bytes]) -> None:
        """Write what comes, until its end. Raises InvalidArgument, Unavailable, WrongState."""
        while True:
            try:
                data = await asyncio.wait_for(anext(parts), IDLE_SECONDS)
            except StopAsyncIteration:
                return
            except TimeoutError as error:
                told = f"nothing came for {IDLE_SECONDS:.0f} s; go on at offset {arrival.received}"
                raise Unavailable(told) from error
            if data:
                await self.file(arrival.write, data)
                self._metrics.image_upload_bytes.inc(len(data))

    async def _made(self, caller: Caller, request: NewUpload, asked: Asked) -> RegisteredImage | None:
        """The image of a file that has arrived and is held; None for an initial RAM disk."""
        try:
            if not request.format:
                request = replace(request, format=await self.file(self.images.disk_format, request.sha256))
            main = await self.file(self.images.examine, request.sha256, request.format, "sha256")
            if request.delivery == "seed":
                await self.file(image_files.require_seed, main.path, "data")
        except InvalidArgument:
            await self.file(self.images.discard, request.sha256)
            raise
        if request.format == "initrd":
            return None  # its temporary name stays, by which its kernel finds it
        if not request.initrd_sha256:
            return await self._entered(caller, request, asked, main.size)
        async with self.opened(partial(self.images.hold, request.initrd_sha256)):
            initrd = await self.file(self.images.examine, request.initrd_sha256, "initrd", "initrd_sha256")
            return await self._entered(caller, request, asked, main.size + initrd.size)

    async def _entered(self, caller: Caller, request: NewUpload, asked: Asked, size: int) -> RegisteredImage:
        digests = tuple(digest for digest in (request.sha256, request.initrd_sha256) if digest)
        made = RegisteredImage("", self._image(request), request.format, size, uploaded=digests)
        return await self.enter(caller, asked, made)

    async def enter(self, caller: Caller, asked: Asked, made: RegisteredImage) -> RegisteredImage:
        """The image of files that have arrived, were looked at, and are held.

        Raises AlreadyExists, RequestIdReused, WrongState.
        """
        for digest in made.uploaded:
            await self.file(self.images.keep, digest)
        entered = await self._catalog.enter(caller, asked, made)
        for digest in made.uploaded:
            await self.file(partial(self.images.settle, digest, in_use=True))
        return entered

    def _image(self, request: NewUpload) -> Image:
        main = str(self.images.kept(request.sha256))
        if request.format != "kernel":
            return disk_image(request.name, main, request.format, request.sha256, request.delivery)
        initrd = request.initrd_sha256
        digests = {"kernel": request.sha256, **({"initrd": initrd} if initrd else {})}
        initrd_path = str(self.images.kept(initrd)) if initrd else ""
        return kernel_image(request.name, main, initrd_path, digests, request.kernel_arguments, request.delivery)

    async def delete_image(self, caller: Caller, uuid: str, etag: str = "", *, validate_only: bool = False) -> None:
        """Forget an image that nothing uses, and delete what was uploaded for it and is no other image's.

        Raises NotFound, Conflict, WrongState.
        """
        image = await self._catalog.get_image(uuid)
        if validate_only or not image.uploaded:
            await self._catalog.delete_image(caller, uuid, etag, validate_only=validate_only)
            return
        async with AsyncExitStack() as held:
            for digest in sorted(set(image.uploaded)):
                await held.enter_async_context(self.opened(partial(self.images.hold, digest)))
            try:
                await self._catalog.delete_image(caller, uuid, etag)
            finally:
                await self._settle(image.uploaded)

    async def _settle(self, digests: Sequence[str]) -> None:
        """Let what the catalogue says decide. The caller holds the files."""
        used = await self._store.read(rows.image_paths)
        for digest in digests:
            in_use = str(self.images.kept(digest)) in used
            await self.file(partial(self.images.settle, digest, in_use=in_use))

    # --- order -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the store in order until cancelled."""
        clean_at = 0.0
        while True:
            try:
                if self._seconds() >= clean_at:
                    await self.clean()
                    clean_at = self._seconds() + CLEAN_SECONDS
                await self.compare()
            except CorralError as error:
                logger.info("the image store was not looked after: %s", error)
            await asyncio.sleep(COMPARE_SECONDS)

    async def clean(self) -> int:
        """Delete uploads that nobody went on with, and files whose image was never or is no longer in the catalogue.

        Returns how many. Raises Unavailable.
        """
        gone = 0
        for digest in await self.file(self.images.abandoned, self._seconds() - KEEP_SECONDS):
            try:
                async with self.opened(partial(self.images.hold, digest)):
                    await self._settle([digest])
                gone += 1
            except (Conflict, WrongState) as error:
                logger.info("upload %s is left: %s", digest, error)
        return gone

    async def compare(self) -> None:
        """See whether all that was uploaded is in this process's store. Raises Unavailable."""
        wanted = await self._store.read(rows.uploaded_paths)
        missing = await self.file(self.images.missing, tuple(wanted))
        self._metrics.image_files_missing.set(len(missing))
        names = tuple(sorted({wanted[path] for path in missing}))
        if names and names != self._missing:
            logger.warning("%s", _told(names))
        self._missing = names

    def close(self) -> None:
        """Let the threads go."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    @property
    def notes(self) -> dict[str, str]:
        """What an operator should know, by part."""
        return {"images": _told(self._missing)} if self._missing else {}

    async def file(self, work: Callable[..., T], *arguments: object) -> T:
        """What a function says that works on the store, in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(work, *arguments))

    @asynccontextmanager
    async def opened(self, opens: Callable[[], Arrival]) -> AsyncIterator[Arrival]:
        """What `opens` opens, closed at the end: also where the call is given up while it is being opened."""
        opening = asyncio.ensure_future(self.file(opens))
        try:
            arrival = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_late)
            raise
        try:
            yield arrival
        finally:
            await asyncio.shield(asyncio.ensure_future(self.file(arrival.close)))


def _close_late(opening: asyncio.Future[Arrival]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def _told(names: tuple[str, ...]) -> str:
    listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return (
        f"files of uploaded images are not in this process's image store: {listed}; replicas must share one "
        "catalog.image_directory, under the same path"
    )
