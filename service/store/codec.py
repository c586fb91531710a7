"""Domain types to JSON text and back, by pydantic over the dataclasses themselves, so that no field is named twice."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter

T = TypeVar("T")
KNOWN = 512
KNOWN_CHARACTERS = 8192  # longer texts are rare, and keeping them would take much memory

_adapters: dict[Any, TypeAdapter[Any]] = {}  # building one costs milliseconds, using it microseconds


def _adapter(kind: Any) -> TypeAdapter[Any]:
    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]


def encode(value: object, kind: Any = None) -> str:
    """JSON text of a dataclass (or of `value` as `kind`)."""
    return _adapter(kind or type(value)).dump_json(value).decode()


def canonical(value: object) -> str:
    """JSON text of what a request says, without the fields that have their defaults.

    Requests are compared by it, also with what an earlier version was asked: a field that came since changes nothing.
    """
    adapter = _adapter(type(value))
    # Read back first: an empty map of protobuf's is not equal to an empty one of ours, and would be told.
    plain = adapter.validate_json(adapter.dump_json(value))
    return adapter.dump_json(plain, exclude_defaults=True).decode()


def decode(kind: type[T], text: str) -> T:
    """The dataclass from its JSON text. Raises pydantic.ValidationError on text that was not written by `encode`."""
    result: T = _adapter(kind).validate_json(text)
    return result


def decode_known(kind: type[T], text: str) -> T:
    """As `decode`, for frozen types whose texts are read again and again (specifications, placements): equal texts give
    the same object."""
    return decode(kind, text) if len(text) > KNOWN_CHARACTERS else cast(T, _decoded(cast(Any, kind), text))


@lru_cache(maxsize=KNOWN)
def _decoded(kind: Any, text: str) -> Any:
    return decode(kind, text)
