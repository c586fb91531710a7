"""Web servers that images are fetched from: which may be asked, and how bytes come from them, gone on with by Range.

A name is resolved here and the connection goes to an address that was looked at, so that a name server cannot lead it
elsewhere afterwards; each redirect is looked at anew. A URL may hold a secret (a user's password, a signed query):
nothing here tells more of it than its host.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import httpx

from service.app.resolving import Resolve, resolve
from service.errors import InvalidArgument, Unavailable

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
IDLE_SECONDS = 60.0
MOST_REDIRECTS = 5
TRIES = 5
"""So often in a row a server may fail without a byte of an image."""
PAUSES_SECONDS = (0.0, 1.0, 2.0, 4.0)

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+)")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class _Passing(Exception):
    """The server does not give it now, and may later. The text says why, without its URL."""


class ImageSources:
    """What may be fetched from where."""

    def __init__(
        self,
        networks: Sequence[str] = (),
        *,
        resolve: Resolve = resolve,
        trust: ssl.SSLContext | None = None,
        pauses: Sequence[float] = PAUSES_SECONDS,
    ) -> None:
        """`networks`: where servers may be, in CIDR notation; none: anywhere but on this machine and its links."""
        self._networks = [ipaddress.ip_network(network) for network in networks]
        self._resolve = resolve
        self._trust = trust
        self.pauses = tuple(pauses)

    @asynccontextmanager
    async def opened(self, url: str, offset: int, secret: httpx.Auth | None = None) -> AsyncIterator[Download]:
        """What a URL leads to, from `offset` on. `secret`: shown to its own server alone.

        Raises InvalidArgument (url), Unavailable.
        """
        await self._prepare()
        download = Download(self, parsed(url), offset, secret)
        try:
            await download.begin()
            yield download
        finally:
            await download.end()

    async def document(self, url: str, most: int, secret: httpx.Auth | None = None, accept: str = "") -> Document:
        """A server's answer as a whole, of `most` bytes. Raises InvalidArgument (url), Unavailable."""
        await self._prepare()
        for pause in (*self.pauses, None):
            async with AsyncExitStack() as stack:
                try:
                    answer = await self.led(stack, parsed(url), 0, secret, accept)
                    if answer.passes:
                        raise _Passing(f"its server answers {answer.status}")
                    return Document(answer.status, answer.wants, await _whole(answer, most))
                except httpx.TransportError as error:
                    problem = f"its server broke off ({type(error).__name__})"
                except _Passing as passing:
                    problem = str(passing)
            if pause is not None:
                await asyncio.sleep(pause)
        raise Unavailable(f"url: {problem}; what has come is kept: ask again to go on")

    async def led(
        self, stack: AsyncExitStack, url: httpx.URL, offset: int, secret: httpx.Auth | None, accept: str = ""
    ) -> Answer:
        """The answer that redirects lead to, which is open until the stack ends.

        Raises InvalidArgument, _Passing.
        """
        for _ in range(MOST_REDIRECTS + 1):
            answer = await self.ask(stack, url, offset, secret, accept)
            following = answer.leads_to(url)
            if following is None:
                return answer
            await stack.aclose()
            # What opens one server's door is not shown to another.
            same = (following.scheme, following.host, following.port) == (url.scheme, url.host, url.port)
            url, secret = following, secret if same else None
        raise InvalidArgument.of("url", f"is redirected more than {MOST_REDIRECTS} times")

    async def _prepare(self) -> None:
        if self._trust is None:
            self._trust = await asyncio.to_thread(ssl.create_default_context)

    async def ask(
        self, stack: AsyncExitStack, url: httpx.URL, offset: int, secret: httpx.Auth | None, accept: str = ""
    ) -> Answer:
        """The answer of one server, which is open until the stack ends. Raises InvalidArgument, _Passing."""
        problem = ""
        for address in await self._addresses(url):
            try:
                return await self._ask(stack, url, address, offset, secret, accept)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                if _not_trusted(error):
                    told = f"leads to {url.host}, whose certificate is not one that this machine trusts for that name"
                    raise InvalidArgument.of("url", told) from None
                problem = type(error).__name__
            except httpx.TransportError as error:
                raise _Passing(f"{url.host} broke off ({type(error).__name__})") from None
        raise _Passing(f"{url.host} cannot be reached ({problem})")

    async def _ask(
        self,
        stack: AsyncExitStack,
        url: httpx.URL,
        address: str,
        offset: int,
        secret: httpx.Auth | None,
        accept: str,
    ) -> Answer:
        limits = httpx.Timeout(IDLE_SECONDS, connect=CONNECT_SECONDS)
        # Without the environment's proxies: what is not reached directly was not looked at.
        assert self._trust is not None
        client = httpx.AsyncClient(timeout=limits, follow_redirects=False, trust_env=False, verify=self._trust)
        await stack.enter_async_context(client)
        headers = {"Host": url.netloc.decode("ascii"), "Accept-Encoding": "identity", "User-Agent": "corral"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        if accept:
            headers["Accept"] = accept
        request = client.build_request(
            "GET",
            url.copy_with(host=address),
            headers=headers,
            extensions={"sni_hostname": url.host},
        )
        response = await client.send(request, auth=secret, stream=True)
        stack.push_async_callback(response.aclose)
        return Answer(response)

    async def _addresses(self, url: httpx.URL) -> list[str]:
        try:
            found = await self._resolve(url.host, url.port or (443 if url.scheme == "https" else 80))
        except socket.gaierror as error:
            if error.errno in (socket.EAI_AGAIN, socket.EAI_FAIL):
                raise _Passing(f"the address of {url.host} is not told") from None
            raise InvalidArgument.of("url", f"leads to {url.host}, which has no address") from None
        except (OSError, UnicodeError):
            raise InvalidArgument.of("url", f"leads to {url.host}, which has no address") from None
        allowed = [address for address in found if self._allowed(ipaddress.ip_address(address))]
        if not allowed:
            where = "catalog.import_networks" if self._networks else "this machine and its links are not"
            raise InvalidArgument.of("url", f"leads to {url.host}, where images may not be fetched from ({where})")
        return allowed

    def _allowed(self, address: Address) -> bool:
        plain = (address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None) or address
        if self._networks:
            return any(plain in network for network in self._networks)
        own = plain.is_loopback or plain.is_link_local or plain.is_unspecified
        return not (own or plain.is_multicast or plain == ipaddress.ip_address("255.255.255.255"))


@dataclass(frozen=True, slots=True)
class Document:
    """A short answer. `wants`: how one is to show who one is, of one that answers 401."""

    status: int
    wants: str
    body: bytes


async def _whole(answer: Answer, most: int) -> bytes:
    data = bytearray()
    async for part in answer.body():
        data += part
        if len(data) > most:
            raise InvalidArgument.of("url", f"leads to a document of more than {most} bytes")
    return bytes(data)


class Answer:
    """A server's answer, of which nothing but the head is read."""

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.body = response.aiter_raw
        self._headers = response.headers
        self.passes = self.status in _PASSING
        self.wants: str = self._headers.get("www-authenticate", "")

    def place(self, offset: int) -> tuple[int, int]:
        """(where its bytes begin, how many there are in all). Raises InvalidArgument, _Passing."""
        if self.passes:
            raise _Passing(f"its server answers {self.status}")
        if self._headers.get("content-encoding", "identity").lower() != "identity":
            raise InvalidArgument.of("url", "its server sends it packed, and cannot send it as it is")
        told = _RANGE.fullmatch(self._headers.get("content-range", ""))
        if self.status == 416 and told is not None and told[1] is None:
            return int(told[3]), int(told[3])
        if self.status == 206 and told is not None and told[1] is not None and int(told[1]) == offset:
            return offset, int(told[3])
        if self.status != 200:
            raise InvalidArgument.of("url", f"its server answers {self.status}")
        length = self._headers.get("content-length", "")
        if not length.isascii() or not length.isdigit():
            raise InvalidArgument.of("url", "its server does not tell how long it is")
        return 0, int(length)

    def leads_to(self, asked: httpx.URL) -> httpx.URL | None:
        """Where it redirects to, None: nowhere. Raises InvalidArgument."""
        if self.status not in _REDIRECTS:
            return None
        try:
            url = asked.join(self._headers.get("location", ""))
        except (httpx.InvalidURL, ValueError):
            raise InvalidArgument.of("url", "its server redirects to what is no URL") from None
        if url.scheme not in ("http", "https") or not url.host or url.userinfo:
            told = "must be led to http or https without user information, and is redirected to something else"
            raise InvalidArgument.of("url", told)
        if asked.scheme == "https" and url.scheme != "https":
            raise InvalidArgument.of("url", "its server redirects from https to http")
        return url


class Download:
    """One file that comes. `size`: bytes in all, -1 until it is begun; `at`: where the next bytes belong."""

    def __init__(self, sources: ImageSources, url: httpx.URL, offset: int, secret: httpx.Auth | None = None) -> None:
        self._sources = sources
        self._url = url.copy_with(userinfo=b"")
        self._secret = httpx.BasicAuth(url.username, url.password) if url.userinfo else secret
        self._failures = 0
        self._skip = 0
        self._stack = AsyncExitStack()
        self._answer: Answer | None = None
        self.size = -1
        self.at = offset

    async def begin(self) -> None:
        """Ask for it until a server answers. Raises InvalidArgument (url), Unavailable."""
        while self._answer is None:
            try:
                await self._open()
            except _Passing as problem:
                await self._failed(problem)

    async def parts(self) -> AsyncGenerator[bytes, None]:
        """Its bytes from where it was asked for; where the line breaks, it is asked for the rest.

        Raises InvalidArgument (url), Unavailable.
        """
        while self.at < self.size:
            try:
                if self._answer is None:
                    await self._open()
                assert self._answer is not None
                async for part in self._answer.body():
                    fresh = part[self._skip :]
                    self._skip -= len(part) - len(fresh)
                    if fresh:
                        self.at += len(fresh)
                        self._failures = 0
                        yield fresh
                if self.at < self.size:
                    raise _Passing(f"{self._url.host} ended before all had come")
            except httpx.TransportError as error:
                await self._failed(_Passing(f"{self._url.host} broke off ({type(error).__name__})"))
            except _Passing as problem:
                await self._failed(problem)

    async def end(self) -> None:
        """Let the line go."""
        self._answer = None
        stack, self._stack = self._stack, AsyncExitStack()
        await stack.aclose()

    async def _open(self) -> None:
        offset = self.at
        answer = await self._sources.led(self._stack, self._url, offset, self._secret)
        await self._begun(answer, offset)

    async def _begun(self, answer: Answer, offset: int) -> None:
        first, size = answer.place(offset)
        if self.size not in (-1, size):
            raise InvalidArgument.of("url", "its file became another one while it was fetched")
        if first > offset or size < offset:
            if self.size != -1:
                raise InvalidArgument.of("url", "its file became another one while it was fetched")
            # What is here is no part of it: it is fetched from its beginning.
            await self.end()
            self.at = 0
            raise _Passing(f"{self._url.host} has fewer bytes than are here")
        self.size, self._answer, self._skip = size, answer, offset - first

    async def _failed(self, problem: _Passing) -> None:
        await self.end()
        self._failures += 1
        if self._failures >= TRIES:
            raise Unavailable(f"url: {problem}; what has come is kept: ask again to go on at {self.at}")
        logger.info("fetching an image is tried again: %s", problem)
        await asyncio.sleep(self._sources.pauses[min(self._failures, len(self._sources.pauses)) - 1])


def _not_trusted(error: BaseException | None) -> bool:
    """Whether the certificate was refused: that does not pass by itself."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error is not None


def parsed(text: str) -> httpx.URL:
    """The URL that a caller wrote. Raises InvalidArgument."""
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError):
        raise InvalidArgument.of("url", "must be an http or https URL") from None
    if url.scheme not in ("http", "https") or not url.host or (url.port or 1) > 65535:
        raise InvalidArgument.of("url", "must be an http or https URL")
    return url
