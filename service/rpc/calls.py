"""Reading an RPC's request off the wire: bytes that are too many or no message get an error of ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError, Message

from service.contract.status import MessageTooLarge
from service.errors import FieldViolation, InvalidArgument

Deserializer = Callable[[bytes], Any]
Serializer = Callable[[Any], bytes]


@dataclass(frozen=True, slots=True)
class Refused:
    """Stands for a request that must not reach its handler."""

    error: Exception


@dataclass(frozen=True, slots=True)
class Ready:
    """An answer that is the bytes of its message already."""

    data: bytes


def serialized(serialize: Serializer) -> Serializer:
    """A serializer that sends what is ready as it is."""

    def run(answer: Any) -> bytes:
        return answer.data if isinstance(answer, Ready) else serialize(answer)

    return run


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
