"""Registries of container images (OCI distribution specification 1.1): what an image is made of, and its bytes.

Asked as any web server that images come from (`image_sources`): the same addresses, redirects and certificates. A
registry says how one shows who one is; user and password are shown to it, or to the token server that it names, and to
nobody else.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager
from urllib.parse import quote, urlencode

import httpx

from service.app.image_sources import Download, ImageSources
from service.domain.containers import (
    INDEXES,
    MANIFESTS,
    MOST_DOCUMENT_BYTES,
    Blob,
    Manifest,
    Reference,
    RunConfig,
    Unusable,
    chosen,
    manifest,
    run_config,
)
from service.errors import InvalidArgument

_ACCEPT = ", ".join((*MANIFESTS, *INDEXES))
_PARAMETER = re.compile(r'([a-z_]+)="([^"]*)"')


class _Token(httpx.Auth):
    """Shows a token that a registry's token server gave."""

    def __init__(self, token: str) -> None:
        self._token = token

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """The request with it."""
        request.headers["Authorization"] = f"Bearer {self._token}"
        yield request


class Repository:
    """One image's repository."""

    def __init__(self, sources: ImageSources, reference: Reference) -> None:
        self._sources = sources
        self._reference = reference

    async def image(self) -> tuple[Manifest, RunConfig]:
        """What the image is made of, of an index the one for these hosts. Raises InvalidArgument (url), Unavailable."""
        try:
            document = await self._document("manifests", self._reference.digest)
            inner = chosen(document)
            if inner is not None:
                document = await self._document("manifests", inner)
                if chosen(document) is not None:
                    raise Unusable("is no container image: its index leads to another index")
            found = manifest(document)
            config = await self._document("blobs", found.config.digest)
            return found, run_config(config, len(found.layers))
        except Unusable as error:
            raise InvalidArgument.of("url", str(error)) from error

    @asynccontextmanager
    async def blob(self, blob: Blob, offset: int) -> AsyncIterator[Download]:
        """The bytes of a layer from `offset` on. Raises InvalidArgument (url), Unavailable."""
        secret = await self._secret()
        async with self._sources.opened(self._url("blobs", blob.digest), offset, secret) as download:
            if download.size != blob.size:
                told = f"has a layer of {download.size} bytes, and its manifest says {blob.size}"
                raise InvalidArgument.of("url", told)
            yield download

    def _url(self, kind: str, digest: str) -> str:
        return f"{self._reference.base}{self._reference.name}/{kind}/sha256:{digest}"

    async def _document(self, kind: str, digest: str) -> bytes:
        """A manifest or a configuration, which is what its digest says. Raises InvalidArgument (url), Unavailable."""
        accept = _ACCEPT if kind == "manifests" else ""
        data = await self._fetched(self._url(kind, digest), await self._secret(), accept)
        if hashlib.sha256(data).hexdigest() != digest:
            raise InvalidArgument.of("url", f"its registry answers with something else than sha256:{digest}")
        return data

    async def _fetched(self, url: str, secret: httpx.Auth | None, accept: str = "") -> bytes:
        answer = await self._sources.document(url, MOST_DOCUMENT_BYTES, secret, accept)
        if answer.status == 404:
            raise InvalidArgument.of("url", "is not known to its registry")
        if answer.status in (401, 403):
            raise InvalidArgument.of("url", "is not shown by its registry to who asks")
        if answer.status != 200:
            raise InvalidArgument.of("url", f"its registry answers {answer.status}")
        return answer.body

    async def _secret(self) -> httpx.Auth | None:
        """By what the registry is shown who asks, asked anew each time, since tokens last some minutes alone."""
        own = httpx.BasicAuth(*self._reference.secret) if self._reference.secret is not None else None
        asked = await self._sources.document(self._reference.base, MOST_DOCUMENT_BYTES)
        if asked.status != 401:
            return own
        scheme, _, rest = asked.wants.partition(" ")
        if scheme.lower() == "basic":
            if own is None:
                wants = (
                    "its registry wants a user and a password: say `credentials`, or "
                    "oci://USER:PASSWORD@REGISTRY/NAME@sha256:DIGEST"
                )
                raise InvalidArgument.of("url", wants)
            return own
        told = dict(_PARAMETER.findall(rest))
        if scheme.lower() != "bearer" or "realm" not in told:
            raise InvalidArgument.of("url", "its registry wants to be shown who asks in a way that is not known here")
        return _Token(await self._token(told, own))

    async def _token(self, told: dict[str, str], own: httpx.Auth | None) -> str:
        if self._reference.scheme == "https" and not told["realm"].startswith("https://"):
            raise InvalidArgument.of("url", "its registry has its tokens given without TLS")
        asked = {"scope": f"repository:{self._reference.name}:pull"}
        if "service" in told:
            asked["service"] = told["service"]
        joint = "&" if "?" in told["realm"] else "?"
        data = await self._fetched(f"{told['realm']}{joint}{urlencode(asked, quote_via=quote)}", own)
        try:
            answer = json.loads(data)
            token = answer.get("token") or answer.get("access_token")
        except (ValueError, RecursionError, AttributeError):
            token = None
        if not isinstance(token, str) or not re.fullmatch(r"[!-~]{1,65536}", token):
            raise InvalidArgument.of("url", "its registry's token server gives no token")
        return token
