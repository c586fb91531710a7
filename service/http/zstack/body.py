"""A JSON object of a ZStack client into a `corral.v1` message, by the JSON names of its descriptor. Pure.

As lenient as ZStack's own reader: unknown fields are ignored, null is absent, whole floats and digits in a text are
integers. What a value may be is not decided here but by `service.contract.validation`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from service.errors import FieldViolation, InvalidArgument

# Fields are `Any` below: the two implementations of descriptors have no common type in the stubs.
_INTEGERS = frozenset({FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64})
MAX_VIOLATIONS = 16


class _Mismatch(Exception):
    """The JSON value cannot be what the field is; the text says what it must be."""


def fill(message: Message, values: Mapping[str, Any]) -> None:
    """Set the message's fields from the object. Raises InvalidArgument with paths in the proto's names."""
    found = []
    for violation in _fill(message, values, ""):
        found.append(violation)
        if len(found) == MAX_VIOLATIONS:
            break
    if found:
        raise InvalidArgument(found)


def _fill(message: Message, values: Mapping[str, Any], prefix: str) -> Iterator[FieldViolation]:
    for field in message.DESCRIPTOR.fields:
        value = values.get(field.json_name)
        if value is None:
            continue
        path = prefix + field.name
        try:
            if field.is_repeated:
                yield from _fill_repeated(message, field, value, path)
            elif field.message_type is not None:
                yield from _fill(getattr(message, field.name), _object(value), f"{path}.")
            else:
                setattr(message, field.name, _scalar(field, value))
        except _Mismatch as mismatch:
            yield FieldViolation(path, str(mismatch))
        except ValueError:
            # Protobuf's own refusal of an integer that needs more bits than the field has.
            yield FieldViolation(path, "is out of range")


def _fill_repeated(message: Message, field: Any, value: Any, path: str) -> Iterator[FieldViolation]:
    kind = field.message_type
    target: Any = getattr(message, field.name)
    if kind is not None and kind.GetOptions().map_entry:
        entry = kind.fields_by_name["value"]
        for key, item in _object(value).items():
            if item is not None:
                target[key] = _scalar(entry, item)
        return
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise _Mismatch("must be a list")
    for index, item in enumerate(value):
        where = f"{path}[{index}]"
        if item is None:
            yield FieldViolation(path, "cannot contain a NULL element")
        elif kind is not None:
            if isinstance(item, Mapping):
                yield from _fill(target.add(), item, f"{where}.")
            else:
                yield FieldViolation(where, "must be an object")
        else:
            target.append(_scalar(field, item))


def _object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _Mismatch("must be an object")
    return value


def _scalar(field: Any, value: Any) -> Any:
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return _text(value)
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return _truth(value)
    if field.cpp_type in _INTEGERS:
        return integer(value)
    if field.enum_type is not None:
        return _enum(field, value)
    raise _Mismatch("cannot be given here")


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    raise _Mismatch("must be a text")


def _truth(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    raise _Mismatch("must be true or false")


def integer(value: Any) -> int:
    """The integer that a JSON value stands for. Raises `_Mismatch`."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and len(value) <= 24:
        try:
            return int(value.strip())
        except ValueError:
            pass  # said below, in the words for all that is no integer
    raise _Mismatch("must be an integer")


def integer_of(value: Any, name: str) -> int:
    """The integer that a mandatory argument is. Raises InvalidArgument."""
    if value is None:
        raise InvalidArgument.of(name, "is required")
    try:
        return integer(value)
    except _Mismatch as mismatch:
        raise InvalidArgument.of(name, str(mismatch)) from mismatch


def _enum(field: Any, value: Any) -> int:
    known = field.enum_type.values_by_name
    if isinstance(value, str) and value in known:
        return int(known[value].number)
    raise _Mismatch("must be one of " + ", ".join(name for name, v in known.items() if v.number))
