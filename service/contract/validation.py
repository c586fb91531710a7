"""Checks a request against its own descriptor and brings its strings into their canonical form.

Field by field it follows `google.api.field_behavior` and `(corral.v1.limits)`; what ties several fields together stands
in `rules`. Needs no server, no clock and no database: whether a thing exists is checked by the use cases.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from corral.v1 import limits_pb2
from google.api import field_behavior_pb2
from google.protobuf import descriptor
from google.protobuf.message import Message

from service.contract import rules, text
from service.errors import FieldViolation, InvalidArgument

# More would not help a person, and the answer must fit into HTTP/2 headers.
MAX_VIOLATIONS = 16


class _Field:
    """What the descriptor says about one field, read once."""

    def __init__(self, field: descriptor.FieldDescriptor) -> None:
        options = field.GetOptions()
        behaviors = options.Extensions[field_behavior_pb2.field_behavior]
        self.name = field.name
        self.descriptor = field
        self.required = field_behavior_pb2.REQUIRED in behaviors
        self.ignored = field_behavior_pb2.OUTPUT_ONLY in behaviors
        self.limits: limits_pb2.FieldLimits = options.Extensions[limits_pb2.limits]
        self.is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
        value = field.message_type.fields_by_name["value"] if self.is_map and field.message_type else field
        self.kind = value.type
        self.is_message = value.message_type is not None and not self.is_map
        self.enum = value.enum_type


@lru_cache(maxsize=512)
def _fields(message: descriptor.Descriptor) -> tuple[_Field, ...]:
    return tuple(_Field(field) for field in message.fields)


def check(request: Message) -> None:
    """Canonicalise and check a request in place. Raises InvalidArgument with the path of every wrong field.

    Surrounding white space goes, uuids become 32 lower-case hex digits; at most MAX_VIOLATIONS are told.
    """
    violations: list[FieldViolation] = []
    for violation in _message_violations(request, ""):
        violations.append(violation)
        if len(violations) == MAX_VIOLATIONS:
            break
    # Rules across fields speak of fields that are right each on their own.
    violations = violations or rules.violations(request)[:MAX_VIOLATIONS]
    if violations:
        raise InvalidArgument(violations)


def _message_violations(message: Message, prefix: str) -> Iterator[FieldViolation]:
    present = {field.name for field, _ in message.ListFields()}
    for field in _fields(message.DESCRIPTOR):
        # What is absent can only be wrong by being required, and most fields of most messages are absent.
        if field.ignored or not (field.required or field.name in present):
            continue
        path = prefix + field.name
        if field.is_map:
            yield from _map_violations(message, field, path)
        elif field.descriptor.is_repeated:
            yield from _list_violations(message, field, path)
        elif field.is_message:
            yield from _single_message_violations(message, field, path)
        else:
            yield from _scalar_violations(message, field, path)


def _single_message_violations(message: Message, field: _Field, path: str) -> Iterator[FieldViolation]:
    if message.HasField(field.name):
        if _is_ours(field):
            yield from _message_violations(getattr(message, field.name), f"{path}.")
    elif field.required:
        yield FieldViolation(path, "is required")


def _is_ours(field: _Field) -> bool:
    kind = field.descriptor.message_type
    return kind is not None and kind.full_name.startswith("corral.v1.")


def _scalar_violations(message: Message, field: _Field, path: str) -> Iterator[FieldViolation]:
    value = getattr(message, field.name)
    if isinstance(value, str):
        value = _canonical(value, field.limits)
        # Assigning sets presence, so a field that was never set stays alone.
        if value != getattr(message, field.name):
            setattr(message, field.name, value)
    present = message.HasField(field.name) if field.descriptor.has_presence else bool(value)
    if not present and field.required:
        yield FieldViolation(path, "is required")
    elif present:
        wrong = _value_problem(value, field, field.limits)
        if wrong:
            yield FieldViolation(path, wrong)


def _list_violations(message: Message, field: _Field, path: str) -> Iterator[FieldViolation]:
    values = getattr(message, field.name)
    if not values and field.required:
        yield FieldViolation(path, "is required and may not be empty")
    wrong = _count_problem(len(values), field.limits)
    if wrong:
        yield FieldViolation(path, wrong)
        return
    seen: set[Any] = set()
    for index, value in enumerate(values):
        where = f"{path}[{index}]"
        if field.is_message:
            yield from _message_violations(value, f"{where}.")
            continue
        if isinstance(value, str):
            value = values[index] = _canonical(value, field.limits)
            if not value:
                yield FieldViolation(where, "may not be empty")
                continue
        wrong = _value_problem(value, field, field.limits)
        if wrong:
            yield FieldViolation(where, wrong)
        elif field.limits.unique and value in seen:
            yield FieldViolation(where, "is in the list already")
        seen.add(value)


def _map_violations(message: Message, field: _Field, path: str) -> Iterator[FieldViolation]:
    entries = getattr(message, field.name)
    wrong = _count_problem(len(entries), field.limits)
    if wrong:
        yield FieldViolation(path, wrong)
        return
    for key in sorted(entries):
        value = entries[key]
        wrong = "has an empty key" if not key else text.problem(key, field.limits.key)
        if wrong:
            # The key itself may be hostile text, so it is not repeated.
            yield FieldViolation(path, f"key: {wrong}")
            continue
        wrong = None if value == "" else _value_problem(value, field, field.limits)
        if wrong:
            yield FieldViolation(f"{path}[{key}]", wrong)


def _canonical(value: str, limits: limits_pb2.FieldLimits) -> str:
    """Without surrounding white space, but for a secret; a uuid or digest in its one form."""
    if not value or limits.format == limits_pb2.STRING_FORMAT_SECRET:
        return value
    # Line breaks inside stay, and those around it go with the other white space, as ZStack does.
    trimmed = value.strip(" \t\r\n")
    if limits.format == limits_pb2.STRING_FORMAT_UUID:
        return text.canonical_uuid(trimmed)
    return trimmed.lower() if limits.format == limits_pb2.STRING_FORMAT_SHA256 else trimmed


def _count_problem(count: int, limits: limits_pb2.FieldLimits) -> str | None:
    if limits.max_items and count > limits.max_items:
        return f"may have at most {limits.max_items} items, not {count}"
    return None


def _value_problem(value: Any, field: _Field, limits: limits_pb2.FieldLimits) -> str | None:
    """What is wrong with one present scalar, or None."""
    if isinstance(value, str):
        return text.problem(value, limits) if value else None
    if field.enum is not None:
        return _enum_problem(value, field.enum, field.required)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    low = limits.minimum if limits.HasField("minimum") else None
    high = limits.maximum if limits.HasField("maximum") else None
    if (low is not None and value < low) or (high is not None and value > high):
        return _range(value, low, high)
    return None


def _range(value: int, low: int | None, high: int | None) -> str:
    if low is not None and high is not None:
        return f"must be from {low} to {high}, not {value}"
    return f"must be at least {low}, not {value}" if low is not None else f"must be at most {high}, not {value}"


def _enum_problem(value: int, enum: descriptor.EnumDescriptor, required: bool) -> str | None:
    known = enum.values_by_number
    if value in known and not (required and value == 0):
        return None
    return "must be one of " + ", ".join(name.name for number, name in sorted(known.items()) if number)
