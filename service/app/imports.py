"""Images by URL: fetched into the image store as an upload that the service sends itself, with the same checks. What
names a container image is pulled from its registry (`container_images`).

Nothing is remembered but what has come: a call that breaks off, or whose process was killed, is gone on with by the
same call at any replica.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace

import httpx

from service.app import container_images
from service.app.catalog import Asked, Catalog
from service.app.container_images import ContainerImages
from service.app.credentials import Credentials
from service.app.image_sources import ImageSources, parsed
from service.app.uploads import NewUpload, Uploaded, Uploads
from service.config.settings import Config
from service.domain import containers
from service.domain.catalog import RegisteredImage
from service.domain.pace import Pace
from service.domain.tenants import Caller
from service.errors import FieldViolation, InvalidArgument, Overloaded, Unavailable

STEP_SECONDS = 1.0
MOST_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class NewImport:
    """What is fetched, and what is to be made of it (as of an upload). `url` may hold a secret; `credentials`: empty
    or a reference to one."""

    what: NewUpload
    url: str = field(repr=False)
    credentials: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """How far an import is, in bytes, bytes a second and milliseconds. `size`: 0 until the server has told it;
    `remaining_ms`: None where nobody can say; `image`: once it is whole and is one."""

    received: int = 0
    size: int = 0
    rate: int = 0
    remaining_ms: int | None = None
    done: bool = False
    image: RegisteredImage | None = None


class Imports:
    """The use case of fetching images."""

    def __init__(
        self,
        uploads: Uploads,
        catalog: Catalog,
        sources: ImageSources,
        images: ContainerImages,
        credentials: Credentials,
        most_bytes: int,
        most_ms: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`most_ms`: how long one call may fetch. `clock`: seconds, only rising."""
        self._uploads = uploads
        self._catalog = catalog
        self._sources = sources
        self._images = images
        self._credentials = credentials
        self._most_bytes = most_bytes
        self._most_ms = most_ms
        self._clock = clock
        self._running = 0

    async def fetch(self, caller: Caller, request: NewImport) -> AsyncGenerator[Step, None]:
        """Fetch it, a step each second; the last one is `done`.

        The bytes that are here already are not fetched again. Raises InvalidArgument (naming the caller's field),
        NotFound (credentials), AlreadyExists, RequestIdReused, Conflict, WrongState, Overloaded, Unavailable.
        """
        request = _understood(request)  # before the first step, so that a call that is refused has a status of its own
        if self._running >= MOST_AT_ONCE:
            raise Overloaded(f"{MOST_AT_ONCE} images are being fetched already")
        self._running += 1
        seen = _Seen(self._clock)
        work = asyncio.ensure_future(self._fetched(caller, request, seen))
        try:
            while not (await asyncio.wait({work}, timeout=STEP_SECONDS))[0]:
                yield seen.step()
            uploaded = work.result()
            seen.begun(uploaded.received, uploaded.received)
            yield replace(seen.step(), done=True, image=uploaded.image)
        finally:
            self._running -= 1
            work.cancel()
            await asyncio.wait({work})

    async def _fetched(self, caller: Caller, request: NewImport, seen: _Seen) -> Uploaded:
        what = request.what
        # Without the URL: the digest says what it is, and one that is signed is another one each time.
        asked = Asked("ImportImage", what, what.resource_uuid, what.request_id)
        made = await self._catalog.made_before(caller, asked)
        if made is not None:
            return Uploaded(made.size, made)
        try:
            async with asyncio.timeout(self._most_ms / 1000):
                return await self._taken(caller, request, asked, seen)
        except TimeoutError as error:
            told = f"url: not all came within {self._most_ms} ms (catalog.max_import_ms); ask again to go on"
            raise Unavailable(told) from error
        except InvalidArgument as error:
            raise InvalidArgument([_as_asked(wrong) for wrong in error.violations]) from None

    async def _taken(self, caller: Caller, request: NewImport, asked: Asked, seen: _Seen) -> Uploaded:
        what = request.what
        own = await self._credentials.of(caller, request.credentials)
        if containers.is_reference(request.url):
            reference = containers.reference(request.url)
            reference = replace(reference, secret=own or reference.secret)
            image = await self._images.take(caller, what, reference, asked, seen)
            return Uploaded(seen.received, image)
        whole = await self._uploads.kept(what.sha256)
        if whole is not None:
            return await self._uploads.take(caller, replace(what, size=whole), whole, _nothing(), asked)
        secret = None if own is None else httpx.BasicAuth(*own)
        async with self._sources.opened(request.url, await self._uploads.received(what.sha256), secret) as download:
            if not 0 < download.size <= self._most_bytes:
                told = f"has {download.size} bytes: may have 1 to {self._most_bytes} here (catalog.max_upload_size)"
                raise InvalidArgument.of("url", told)
            seen.begun(download.size, download.at)
            async with aclosing(_told(download.parts(), seen)) as parts:
                return await self._uploads.take(caller, replace(what, size=download.size), download.at, parts, asked)


def configured(uploads: Uploads, catalog: Catalog, credentials: Credentials, config: Config) -> Imports:
    """As the configuration says."""
    sources = ImageSources(config.import_networks)
    images = container_images.configured(uploads, sources, config)
    return Imports(uploads, catalog, sources, images, credentials, config.max_upload_size, config.max_import_ms)


class _Seen:
    """How far one import is, for whoever looks."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._pace = Pace(0)

    def begun(self, size: int, at: int) -> None:
        """So much there is, and so much is here."""
        self._pace = replace(self._pace, total=size).at(self._clock(), at)

    def came(self, count: int) -> None:
        """So many bytes more."""
        self._pace = self._pace.at(self._clock(), self._pace.done + count)

    @property
    def received(self) -> int:
        """Bytes that are here."""
        return self._pace.done

    def step(self) -> Step:
        """For the caller."""
        now, pace = self._clock(), self._pace
        return Step(pace.done, pace.total, pace.rate(now), pace.remaining_ms(now) if pace.total else None)


async def _told(parts: AsyncGenerator[bytes, None], seen: _Seen) -> AsyncGenerator[bytes, None]:
    async with aclosing(parts) as coming:
        async for part in coming:
            yield part
            seen.came(len(part))


async def _nothing() -> AsyncIterator[bytes]:
    none: tuple[bytes, ...] = ()
    for part in none:
        yield part


def _understood(request: NewImport) -> NewImport:
    """The request with its URL looked at; of a container image the digest stands in it. Raises InvalidArgument."""
    if not containers.is_reference(request.url):
        _one_of_both(request, in_url=bool(parsed(request.url).userinfo))
        return request
    try:
        reference = containers.reference(request.url)
    except containers.Unusable as error:
        raise InvalidArgument.of("url", str(error)) from None
    _one_of_both(request, in_url=reference.secret is not None)
    if request.what.sha256 not in ("", reference.digest):
        raise InvalidArgument.of("sha256", "must be empty, or the digest that stands in url")
    return replace(request, what=replace(request.what, sha256=reference.digest))


def _one_of_both(request: NewImport, *, in_url: bool) -> None:
    """Raises InvalidArgument."""
    if request.credentials and in_url:
        raise InvalidArgument.of("credentials", "must be empty where url holds a user and a password")


def _as_asked(wrong: FieldViolation) -> FieldViolation:
    """What is said of an upload's bytes is said of the URL that they came from."""
    return replace(wrong, field="url") if wrong.field in ("data", "size", "offset") else wrong
