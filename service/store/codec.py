"""Domain types to JSON text and back, by pydantic over the dataclasses themselves, so that no field is named twice."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import TypeAdapter

T = TypeVar("T")


_adapters: dict[Any, TypeAdapter[Any]] = {}  # building one costs milliseconds, using it microseconds


def _adapter(kind: Any) -> TypeAdapter[Any]:
    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]


def encode(value: object, kind: Any = None) -> str:
    """JSON text of a dataclass (or of `value` as `kind`)."""
    return _adapter(kind or type(value)).dump_json(value).decode()


def decode(kind: type[T], text: str) -> T:
    """The dataclass from its JSON text. Raises pydantic.ValidationError on text that was not written by `encode`."""
    result: T = _adapter(kind).validate_json(text)
    return result
