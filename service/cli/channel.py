"""The connection to the service: plain or TLS, with or without a bearer token."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import grpc

from service.client.follow import is_lost

_LARGEST_MESSAGE = 64 << 20
_OPTIONS = (
    ("grpc.max_receive_message_length", _LARGEST_MESSAGE),
    ("grpc.max_send_message_length", _LARGEST_MESSAGE),
    # Notices a dead connection under a long stream.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.primary_user_agent", "corral-cli"),
    # No proxy that the environment names: the way to a unix socket or to loopback must not lead through one.
    ("grpc.enable_http_proxy", 0),
)


class CannotConnect(Exception):
    """The options do not make a connection; the message says why."""


def open_channel(
    server: str, *, certificate_authority: str = "", token: str = "", certificate: str = "", key: str = ""
) -> grpc.Channel:
    """A channel to `server` (`host:port`, `unix:/path`): TLS with `certificate_authority` (a PEM file), else plain.

    `certificate` and its `key` (PEM files) are shown to a service that asks for one.
    `token` is sent as a bearer token, never over a plain connection that leaves this machine. Raises CannotConnect.
    """
    if certificate_authority:
        roots = _read(certificate_authority)
        own = (_read(key), _read(certificate)) if certificate else (None, None)
        channel = grpc.secure_channel(server, grpc.ssl_channel_credentials(roots, *own), options=_OPTIONS)
    elif token and not is_local(server):
        raise CannotConnect(f"a token is not sent to {server} without TLS: name its certificate authority with --ca")
    else:
        channel = grpc.insecure_channel(server, options=_OPTIONS)
    return grpc.intercept_channel(channel, _BearerToken(token)) if token else channel


def _read(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as problem:
        raise CannotConnect(f"{file}: {problem.strerror}") from problem


class Servers:
    """Several addresses of one service: the first that answers is asked, and the next one where it is lost."""

    def __init__(self, addresses: Sequence[str], **how: str) -> None:
        """With several addresses it waits until one of them answers, up to READY_SECONDS each.

        `how`: as `open_channel` takes it. Raises CannotConnect.
        """
        self.addresses = tuple(addresses)
        if not self.addresses:
            raise CannotConnect("no server is named: --server takes HOST:PORT or unix:/path")
        self._secure = bool(how.get("certificate_authority"))
        self._channels = [open_channel(each, **how) for each in self.addresses]
        self._current = 0
        if len(self._channels) > 1:
            self._current = next((i for i, channel in enumerate(self._channels) if _is_ready(channel)), 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for channel in self._channels:
            channel.close()

    def stub(self, kind: Callable[[grpc.Channel], Any]) -> Any:
        """A stub of a service whose calls go to the present address. A lookup whose server is lost is made at the next
        address; any other call ends with its error, and the next call goes to the next address."""
        return FailoverStub(self, kind) if len(self._channels) > 1 else kind(self._channels[0])

    def each(self) -> Iterator[tuple[str, grpc.Channel]]:
        """Each address with its connection."""
        return zip(self.addresses, self._channels, strict=True)

    @property
    def channel(self) -> grpc.Channel:
        """The present connection."""
        return self._channels[self._current]

    @property
    def mute(self) -> str:
        """An address that is called in plain and answers in TLS, which is why nobody understands; else empty."""
        return "" if self._secure else next((each for each in self.addresses if speaks_tls(each)), "")

    def lost(self, channel: grpc.Channel) -> None:
        """Go on with the next address, where this one is still the present one."""
        if channel is self.channel:
            self._current = (self._current + 1) % len(self._channels)


READY_SECONDS = 3.0
HANDSHAKE_SECONDS = 2.0
_LOOKUPS = ("Get", "List", "Plan")


class FailoverStub:
    """See Servers.stub."""

    def __init__(self, servers: Servers, kind: Callable[[grpc.Channel], Any]) -> None:
        self._servers = servers
        self._kind = kind

    def __getattr__(self, name: str) -> Callable[[Any], Any]:
        def call(request: Any) -> Any:
            tries = len(self._servers.addresses) if name.startswith(_LOOKUPS) else 1
            while True:
                channel = self._servers.channel
                tries -= 1
                try:
                    answer = getattr(self._kind(channel), name)(request)
                    return self._watched(answer, channel) if isinstance(answer, grpc.Call) else answer
                except grpc.RpcError as error:
                    if not is_lost(error):
                        raise
                    self._servers.lost(channel)
                    if tries == 0:
                        raise

        return call

    def _watched(self, answers: Any, channel: grpc.Channel) -> Iterator[Any]:
        try:
            yield from answers
        except grpc.RpcError as error:
            if is_lost(error):
                self._servers.lost(channel)
            raise


def _is_ready(channel: grpc.Channel) -> bool:
    try:
        grpc.channel_ready_future(channel).result(timeout=READY_SECONDS)
    except grpc.FutureTimeoutError:
        return False
    return True


def speaks_tls(server: str) -> bool:
    """Whether what listens at `server` (`host:port`) answers a TLS handshake, whoever it is."""
    host, _, port = server.rpartition(":")
    if server.startswith("unix:") or not host or not port.isdecimal():
        return False
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with socket.create_connection((host.strip("[]"), int(port)), HANDSHAKE_SECONDS) as plain:
            context.wrap_socket(plain).close()
    except ssl.SSLError as error:
        # One that does not speak TLS sends what is no record of it, or hangs up.
        return error.reason not in ("WRONG_VERSION_NUMBER", "UNEXPECTED_EOF_WHILE_READING", None)
    except OSError:
        return False
    return True


def is_local(server: str) -> bool:
    """Whether a connection to `server` stays on this machine."""
    if server.startswith("unix:"):
        return True
    host = server.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _CallDetails(NamedTuple):
    method: str
    timeout: float | None
    metadata: tuple[tuple[str, str], ...]
    credentials: Any
    wait_for_ready: bool | None
    compression: Any


class _BearerToken(
    grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor, grpc.StreamUnaryClientInterceptor
):
    """Puts the token into the metadata of every call."""

    def __init__(self, token: str) -> None:
        self._header = ("authorization", f"Bearer {token}")

    def intercept_unary_unary(self, continuation: Callable[..., Any], client_call_details: Any, request: Any) -> Any:
        """With the token."""
        return continuation(self._with_token(client_call_details), request)

    def intercept_unary_stream(self, continuation: Callable[..., Any], client_call_details: Any, request: Any) -> Any:
        """With the token."""
        return continuation(self._with_token(client_call_details), request)

    def intercept_stream_unary(
        self, continuation: Callable[..., Any], client_call_details: Any, request_iterator: Any
    ) -> Any:
        """With the token."""
        return continuation(self._with_token(client_call_details), request_iterator)

    def _with_token(self, details: Any) -> Any:
        metadata = (*(details.metadata or ()), self._header)
        return _CallDetails(
            details.method,
            details.timeout,
            metadata,
            details.credentials,
            details.wait_for_ready,
            details.compression,
        )
