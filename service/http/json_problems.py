"""What is wrong with JSON that is no message of the contract: the field's path, and what the field may hold."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.descriptor import FieldDescriptor as F

from service.errors import FieldViolation

_BOUNDS = {
    **dict.fromkeys((F.TYPE_INT32, F.TYPE_SINT32, F.TYPE_SFIXED32), (-(1 << 31), (1 << 31) - 1)),
    **dict.fromkeys((F.TYPE_INT64, F.TYPE_SINT64, F.TYPE_SFIXED64), (-(1 << 63), (1 << 63) - 1)),
    **dict.fromkeys((F.TYPE_UINT32, F.TYPE_FIXED32), (0, (1 << 32) - 1)),
    **dict.fromkeys((F.TYPE_UINT64, F.TYPE_FIXED64), (0, (1 << 64) - 1)),
}
_WELL_KNOWN = {
    "google.protobuf.Timestamp": "must be a time, such as 2026-01-31T12:00:00Z",
    "google.protobuf.FieldMask": "must be the names of fields in one text, separated by commas",
}


def violations(values: Any, message: Descriptor, path: str = "") -> Iterator[FieldViolation]:
    """Everything in the JSON that the message cannot hold, by paths as the JSON has them."""
    if not isinstance(values, dict):
        yield FieldViolation(path, "must be an object")
        return
    known = {name: field for field in message.fields for name in (field.name, field.json_name)}
    for name, value in values.items():
        where = f"{path}.{name}" if path else name
        field = known.get(name)
        if field is None:
            allowed = ", ".join(sorted(one.json_name for one in message.fields)) or "none"
            yield FieldViolation(where, f"is no field; allowed are {allowed}")
        elif value is not None:
            yield from _of_field(value, field, where)


def _of_field(value: Any, field: FieldDescriptor, path: str) -> Iterator[FieldViolation]:
    inner = field.message_type
    if inner is not None and inner.GetOptions().map_entry:
        if not isinstance(value, Mapping):
            yield FieldViolation(path, "must be an object")
            return
        of = inner.fields_by_name["value"]
        for key, one in value.items():
            yield from _of_one(one, of, f"{path}[{key}]")
    elif field.is_repeated:
        if not isinstance(value, list):
            yield FieldViolation(path, "must be a list")
            return
        for number, one in enumerate(value):
            yield from _of_one(one, field, f"{path}[{number}]")
    else:
        yield from _of_one(value, field, path)


def _of_one(value: Any, field: FieldDescriptor, path: str) -> Iterator[FieldViolation]:
    if field.message_type is None:
        if wrong := _wrong(value, field):
            yield FieldViolation(path, wrong)
    elif words := _WELL_KNOWN.get(field.message_type.full_name):
        if not isinstance(value, str):
            yield FieldViolation(path, words)
    else:
        yield from violations(value, field.message_type, path)


def _wrong(value: Any, field: FieldDescriptor) -> str:
    """Why the value is none of the field's; empty where it may be one."""
    if field.type == F.TYPE_BOOL:
        return "" if isinstance(value, bool) else "must be true or false"
    if field.type == F.TYPE_STRING:
        return "" if isinstance(value, str) else "must be a text"
    if field.enum_type is not None:
        return _wrong_name(value, field.enum_type)
    if field.type == F.TYPE_BYTES:
        return "" if _is_base64(value) else "must be a text in base64"
    number = _number(value)
    if field.type not in _BOUNDS:
        return "" if number is not None else "must be a number"
    least, most = _BOUNDS[field.type]
    whole = number is not None and number == number // 1 and least <= number <= most
    return "" if whole else f"must be a whole number from {least} to {most}"


def _wrong_name(value: Any, enum: EnumDescriptor) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return ""
    names = [one.name for one in enum.values if one.number]
    known = isinstance(value, str) and (value in enum.values_by_name or value.lstrip("-").isdecimal())
    return "" if known else f"must be one of {', '.join(names)}"


def _number(value: Any) -> float | int | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    for read in (int, float):
        try:
            return read(value) if isinstance(value, str) else value
        except ValueError:
            continue
    return None


def _is_base64(value: Any) -> bool:
    try:
        base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_" if "-" in value or "_" in value else None)
    except (TypeError, binascii.Error, ValueError):
        return False
    return True
