"""What belongs to one RPC: who calls, its request id, its messages as they came off the wire."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError, Message

from service.errors import FieldViolation, InvalidArgument
from service.model import Caller
from service.rpc.errors import MessageTooLarge

REQUEST_ID_KEY = "x-request-id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")

_caller: ContextVar[Caller] = ContextVar("corral_caller")

Deserializer = Callable[[bytes], Any]


def current_caller() -> Caller:
    """Who makes the present RPC. Raises LookupError outside of one."""
    return _caller.get()


def set_caller(caller: Caller) -> None:
    """Remember the caller for the rest of the present RPC; every RPC runs in a context of its own."""
    _caller.set(caller)


def seconds_left(context: Any) -> float | None:
    """What is left of the caller's deadline; None for calls that came as JSON, very much where it set none."""
    left: float | None = None if context is None else context.time_remaining()
    return left


def request_id_of(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """The caller's `x-request-id` where it is fit for logs, else a new one."""
    for key, value in metadata or ():
        if key == REQUEST_ID_KEY and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
            return value
    return uuid.uuid4().hex


@dataclass(frozen=True, slots=True)
class Refused:
    """Stands for a request that must not reach its handler."""

    error: Exception


def guarded(deserialize: Deserializer, limit: int) -> Deserializer:
    """A deserializer that never raises: gRPC would answer INTERNAL for bytes that are not a message.

    Above `limit` bytes and for malformed bytes it answers `Refused` with the error that the caller gets.
    """

    def run(data: bytes) -> Any:
        try:
            message = deserialize(data)
        except DecodeError:
            return Refused(InvalidArgument([FieldViolation("", "the request is not a valid protobuf message")]))
        return Refused(_too_large(message, len(data), limit)) if len(data) > limit else message

    return run


def _too_large(message: Message, size: int, limit: int) -> MessageTooLarge:
    """Names the field that holds most of the bytes."""
    sizes: dict[str, int] = {}
    for field, _ in message.ListFields():
        rest = type(message)()
        rest.CopyFrom(message)
        rest.ClearField(field.name)
        sizes[field.name] = message.ByteSize() - rest.ByteSize()
    return MessageTooLarge(max(sizes, key=lambda name: sizes[name], default=""), size, limit)
