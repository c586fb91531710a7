"""The connection to the service: plain or TLS, with or without a bearer token."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import grpc

_LARGEST_MESSAGE = 64 << 20
_OPTIONS = (
    ("grpc.max_receive_message_length", _LARGEST_MESSAGE),
    ("grpc.max_send_message_length", _LARGEST_MESSAGE),
    # Notices a dead connection under a long stream.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.primary_user_agent", "corral-cli"),
    # A unix socket's or a loopback address's connection never goes through a proxy.
    ("grpc.enable_http_proxy", 0),
)


class CannotConnect(Exception):
    """The options do not make a connection; the message says why."""


def open_channel(server: str, *, certificate_authority: str = "", token: str = "") -> grpc.Channel:
    """A channel to `server` (`host:port`, `unix:/path`): TLS with `certificate_authority` (a PEM file), else plain.

    `token` is sent as a bearer token, never over a plain connection that leaves this machine. Raises CannotConnect.
    """
    if certificate_authority:
        try:
            roots = Path(certificate_authority).read_bytes()
        except OSError as problem:
            raise CannotConnect(f"{certificate_authority}: {problem.strerror}") from problem
        channel = grpc.secure_channel(server, grpc.ssl_channel_credentials(roots), options=_OPTIONS)
    elif token and not is_local(server):
        raise CannotConnect(f"a token is not sent to {server} without TLS: name its certificate authority with --ca")
    else:
        channel = grpc.insecure_channel(server, options=_OPTIONS)
    return grpc.intercept_channel(channel, _BearerToken(token)) if token else channel


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


class _BearerToken(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """Puts the token into the metadata of every call."""

    def __init__(self, token: str) -> None:
        self._header = ("authorization", f"Bearer {token}")

    def intercept_unary_unary(self, continuation: Callable[..., Any], client_call_details: Any, request: Any) -> Any:
        """With the token."""
        return continuation(self._with_token(client_call_details), request)

    def intercept_unary_stream(self, continuation: Callable[..., Any], client_call_details: Any, request: Any) -> Any:
        """With the token."""
        return continuation(self._with_token(client_call_details), request)

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
